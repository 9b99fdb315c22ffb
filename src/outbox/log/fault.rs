//! A disk for tests that can be crashed at every write. It keeps what a power cut may take apart from what is durable:
//! after one, each unsynced sector is there or not, and unsynced names are there up to a point in time.

mod handle;

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use super::file::{Disk, DiskFile, Lock, Space};
use crate::outbox::locked;

/// A file system in memory; clones are the same one.
#[derive(Clone, Default)]
pub(crate) struct FaultDisk {
    world: Arc<Mutex<World>>,
    /// The life that it is for; `None` for all.
    life: Option<u64>,
}

#[derive(Default)]
struct World {
    names: BTreeMap<PathBuf, u64>,
    durable_names: BTreeMap<PathBuf, u64>,
    unsynced_names: Vec<NameChange>,
    files: HashMap<u64, FileState>,
    /// Handles of an earlier life are dead.
    life: u64,
    /// Changes that still succeed.
    fuel: Option<u64>,
    changes: u64,
    crashed: bool,
    fail_writes: bool,
    fail_syncs: bool,
    fail_dir_syncs: bool,
    /// A file that takes no writes.
    broken: Option<u64>,
    /// Bytes of a file that cannot be read.
    bad: Option<(u64, Range<usize>)>,
    full: bool,
    /// What is said to be free, if that is less than plenty.
    free: Option<u64>,
    locked: bool,
}

/// What one call changed in a folder; a rename changes two names at once.
struct NameChange(Vec<(PathBuf, Option<u64>)>);

#[derive(Clone, Default)]
struct FileState {
    content: Vec<u8>,
    durable: Vec<u8>,
    unsynced: Vec<Change>,
}

#[derive(Clone)]
enum Change {
    Write(Vec<u8>, usize),
    Len(usize),
}

struct Handle {
    disk: FaultDisk,
    file: u64,
    life: u64,
}

struct Guard(FaultDisk, u64);

const SECTOR: usize = 512;

// === impl FaultDisk ===

impl FaultDisk {
    pub(crate) fn new() -> Self {
        Self::default()
    }

    /// The disk for one process: after a crash it is dead, so that what is left of the process changes nothing more.
    pub(crate) fn for_one_life(&self) -> Self {
        let life = Some(locked(&self.world).life);
        Self { life, ..self.clone() }
    }

    /// Lets `changes` more changes happen; the one after them is the crash.
    pub(crate) fn crash_after(&self, changes: u64) {
        locked(&self.world).fuel = Some(changes);
    }

    /// Whether the crash came.
    pub(crate) fn has_crashed(&self) -> bool {
        locked(&self.world).crashed
    }

    /// How often it was changed, or somebody tried to.
    pub(crate) fn changes(&self) -> u64 {
        locked(&self.world).changes
    }

    /// Makes all writes fail with EIO.
    pub(crate) fn fail_writes(&self, fail: bool) {
        locked(&self.world).fail_writes = fail;
    }

    /// Makes all writes to one file fail with EIO.
    pub(crate) fn break_file(&self, path: &Path) {
        let mut world = locked(&self.world);
        world.broken = world.names.get(path).copied();
    }

    /// Makes all reads of some bytes of a file fail with EIO; of none, when there are none.
    pub(crate) fn damage_sectors(&self, path: &Path, bytes: Range<usize>) {
        let mut world = locked(&self.world);
        world.bad = world.names.get(path).map(|file| (*file, bytes));
    }

    /// Makes all syncs of files fail with EIO.
    pub(crate) fn fail_syncs(&self, fail: bool) {
        locked(&self.world).fail_syncs = fail;
    }

    /// Makes all syncs of folders fail with EIO.
    pub(crate) fn fail_dir_syncs(&self, fail: bool) {
        locked(&self.world).fail_dir_syncs = fail;
    }

    /// Leaves no room.
    pub(crate) fn fill(&self, full: bool) {
        locked(&self.world).full = full;
    }

    /// Says that so much is free.
    pub(crate) fn leave_free(&self, bytes: u64) {
        locked(&self.world).free = Some(bytes);
    }

    /// The process is gone, the machine is not: all that was written is there.
    pub(crate) fn kill(&self) {
        locked(&self.world).restart();
    }

    /// The machine lost its power: of what was not synced, chance decides.
    pub(crate) fn power_cut(&self, seed: u64) {
        let mut world = locked(&self.world);
        let mut chance = Chance(seed.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
        let kept = chance.below(world.unsynced_names.len() + 1);
        let changes = std::mem::take(&mut world.unsynced_names);
        let mut names = std::mem::take(&mut world.durable_names);
        for change in changes.into_iter().take(kept) {
            change.apply(&mut names);
        }
        world.durable_names = names.clone();
        world.names = names;
        for file in world.files.values_mut() {
            file.lose(&mut chance);
        }
        world.restart();
    }

    /// The bytes of a file, and a way to change them behind the outbox's back.
    pub(crate) fn tamper(&self, path: &Path, change: impl FnOnce(&mut Vec<u8>)) {
        let mut world = locked(&self.world);
        let file = world.names.get(path).copied().unwrap_or(0);
        if let Some(file) = world.files.get_mut(&file) {
            change(&mut file.content);
            file.durable = file.content.clone();
            file.unsynced.clear();
        }
    }

    /// All files, in order.
    pub(crate) fn paths(&self) -> Vec<PathBuf> {
        locked(&self.world).names.keys().cloned().collect()
    }

    fn change<T>(&self, life: Option<u64>, act: impl FnOnce(&mut World) -> io::Result<T>) -> io::Result<T> {
        let mut world = locked(&self.world);
        world.check(life)?;
        world.changes += 1;
        match &mut world.fuel {
            Some(0) => {
                world.crashed = true;
                // The last change was under way: it may have reached the disk in parts.
                let _ = act(&mut world);
                Err(io::Error::other("crashed"))
            }
            Some(fuel) => {
                *fuel -= 1;
                act(&mut world)
            }
            None => act(&mut world),
        }
    }

    fn handle(&self, file: u64, life: u64) -> Box<dyn DiskFile> {
        Box::new(Handle { disk: self.clone(), file, life })
    }
}

impl Disk for FaultDisk {
    fn create_dir(&self, _dir: &Path) -> io::Result<()> {
        locked(&self.world).check(self.life)
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        let world = locked(&self.world);
        world.check(self.life)?;
        let inside = world.names.keys().filter(|path| path.parent() == Some(dir));
        Ok(inside.filter_map(|path| Some(path.file_name()?.to_string_lossy().into_owned())).collect())
    }

    fn create(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        self.change(self.life, |world| {
            if world.names.contains_key(path) {
                return Err(io::ErrorKind::AlreadyExists.into());
            }
            if world.full {
                return Err(io::ErrorKind::StorageFull.into());
            }
            let file = world.changes;
            world.files.insert(file, FileState::default());
            world.name(vec![(path.to_owned(), Some(file))]);
            Ok(self.handle(file, world.life))
        })
    }

    fn open(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        let world = locked(&self.world);
        world.check(self.life)?;
        let file = world.names.get(path).ok_or(io::ErrorKind::NotFound)?;
        Ok(self.handle(*file, world.life))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.change(self.life, |world| {
            let file = *world.names.get(from).ok_or(io::ErrorKind::NotFound)?;
            world.name(vec![(to.to_owned(), Some(file)), (from.to_owned(), None)]);
            Ok(())
        })
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        self.change(self.life, |world| {
            world.names.get(path).ok_or(io::ErrorKind::NotFound)?;
            world.name(vec![(path.to_owned(), None)]);
            Ok(())
        })
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        self.change(self.life, |world| {
            if world.fail_dir_syncs {
                return Err(io::Error::from_raw_os_error(5));
            }
            if world.crashed {
                return Ok(());
            }
            let changes = std::mem::take(&mut world.unsynced_names);
            let (synced, rest): (Vec<_>, Vec<_>) = changes.into_iter().partition(|change| change.is_in(dir));
            world.unsynced_names = rest;
            for change in synced {
                change.apply(&mut world.durable_names);
            }
            Ok(())
        })
    }

    fn space(&self, _dir: &Path) -> io::Result<Space> {
        let world = locked(&self.world);
        world.check(self.life)?;
        Ok(Space { free: if world.full { 0 } else { world.free.unwrap_or(1 << 40) } })
    }

    fn lock(&self, _path: &Path) -> io::Result<Lock> {
        let mut world = locked(&self.world);
        world.check(self.life)?;
        if std::mem::replace(&mut world.locked, true) {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        Ok(Box::new(Guard(self.clone(), world.life)))
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        let mut world = locked(&self.0.world);
        if world.life == self.1 {
            world.locked = false;
        }
    }
}

// === impl World ===

impl World {
    fn check(&self, life: Option<u64>) -> io::Result<()> {
        if self.crashed || life.is_some_and(|life| life != self.life) {
            return Err(io::Error::other("crashed"));
        }
        Ok(())
    }

    fn name(&mut self, changes: Vec<(PathBuf, Option<u64>)>) {
        NameChange(changes.clone()).apply(&mut self.names);
        self.unsynced_names.push(NameChange(changes));
    }

    fn restart(&mut self) {
        self.life += 1;
        self.fuel = None;
        self.crashed = false;
        self.locked = false;
    }
}

// === impl NameChange ===

impl NameChange {
    fn apply(self, names: &mut BTreeMap<PathBuf, u64>) {
        for (path, to) in self.0 {
            match to {
                Some(file) => names.insert(path, file),
                None => names.remove(&path),
            };
        }
    }

    fn is_in(&self, dir: &Path) -> bool {
        self.0.iter().any(|(path, _)| path.parent() == Some(dir))
    }
}

// === impl FileState ===

impl FileState {
    fn write(&mut self, bytes: &[u8], at: usize) {
        write_into(&mut self.content, bytes, at);
        self.unsynced.push(Change::Write(bytes.to_vec(), at));
    }

    /// Makes durable what was changed since the last sync, whether that one failed or not.
    fn sync(&mut self) {
        for change in std::mem::take(&mut self.unsynced) {
            match change {
                Change::Len(len) => self.durable.resize(len, 0),
                Change::Write(bytes, at) => write_into(&mut self.durable, &bytes, at),
            }
        }
    }

    /// Keeps a random part of what was not synced, sector by sector.
    fn lose(&mut self, chance: &mut Chance) {
        for change in std::mem::take(&mut self.unsynced) {
            match change {
                Change::Len(len) if chance.below(2) == 0 => self.durable.resize(len, 0),
                Change::Len(_) => {}
                Change::Write(bytes, at) => {
                    let mut from = 0;
                    while from < bytes.len() {
                        let to = (from + SECTOR - (at + from) % SECTOR).min(bytes.len());
                        if chance.below(2) == 0 {
                            write_into(&mut self.durable, bytes.get(from..to).unwrap_or_default(), at + from);
                        }
                        from = to;
                    }
                }
            }
        }
        self.content = self.durable.clone();
    }
}

fn write_into(content: &mut Vec<u8>, bytes: &[u8], at: usize) {
    if content.len() < at + bytes.len() {
        content.resize(at + bytes.len(), 0);
    }
    if let Some(place) = content.get_mut(at..at + bytes.len()) {
        place.copy_from_slice(bytes);
    }
}

/// A small generator: the same seed, the same crash.
struct Chance(u64);

// === impl Chance ===

impl Chance {
    fn below(&mut self, end: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from((self.0 >> 11) % end.max(1) as u64).unwrap_or(0)
    }
}
