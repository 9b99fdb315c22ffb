//! Reading the files that a configuration names, and telling whether they changed since.

use std::collections::HashMap;
use std::ffi::OsString;
use std::fs::{File, Metadata};
use std::io::{self, ErrorKind, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Component, Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use sha2::{Digest, Sha256};

use crate::config::model::FilterProgram;
use crate::config::resolve::PROGRAM_BYTES_MAX;

/// Bytes of a file with a secret.
const SECRET_BYTES_MAX: u64 = 64 * 1024;

/// How old a file must be for its stamp to be believed: a change within the clock tick of an earlier one leaves the same
/// times (git's "racy" files).
const SETTLED_AFTER_MS: i64 = 1_000;

/// What a filter runs on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum ProgramKind {
    /// A Wasm component.
    Component,
    /// JavaScript.
    Script,
}

/// Why a file could not be had.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum FileError {
    /// It is not there.
    #[error("does not exist")]
    Missing,
    /// The operating system refuses it.
    #[error("cannot be read: {0}")]
    Refused(ErrorKind),
    /// A folder, a pipe, a device.
    #[error("is no file")]
    NoFile,
    /// More than this many bytes.
    #[error("is larger than {0} bytes")]
    TooLarge(u64),
    /// A script that is no text.
    #[error("is not UTF-8")]
    NotUtf8,
}

/// What tells two states of a file apart; `None` = it cannot be looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Stamp(Option<Identity>);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Identity {
    device: u64,
    inode: u64,
    size: u64,
    modified: (i64, i64),
    /// Moves with each change of content, owner or mode, and cannot be set back.
    changed: (i64, i64),
}

/// A file that something was made from, and its state then.
#[derive(Clone, Debug)]
pub(super) enum Need {
    /// A secret or an account's file.
    File { path: PathBuf, stamp: Stamp, settled: bool },
    /// A filter's program, by its content.
    Program { path: PathBuf, kind: ProgramKind, digest: Result<[u8; 32], FileError> },
}

/// A program's content.
#[derive(Clone, Debug)]
pub(super) struct Program {
    content: Content,
    /// SHA-256 of the bytes.
    pub(super) digest: [u8; 32],
}

#[derive(Clone, Debug)]
enum Content {
    Component(Arc<[u8]>),
    Script(Arc<str>),
}

/// The files as one reading of the configuration sees them: each program is read once, however many accounts name it, and
/// whichever thread reads them.
#[derive(Debug)]
pub(super) struct Disk {
    now_ms: i64,
    program_bytes_max: u64,
    programs: Mutex<HashMap<ProgramKind, HashMap<OsString, Slot>>>,
}

/// The files that one account is made from.
#[derive(Debug)]
pub(super) struct Files<'d> {
    disk: &'d Disk,
    /// Where programs lie that are not read from where they are named.
    moved: HashMap<PathBuf, PathBuf>,
    needs: Vec<Need>,
}

/// One program's place; its lock is held while it is read, so that others wait for that and do not read it too.
type Slot = Arc<Mutex<Option<CachedProgram>>>;

#[derive(Debug)]
struct CachedProgram {
    stamp: Stamp,
    settled: bool,
    program: Result<Program, FileError>,
    /// Looked at in this reading.
    fresh: bool,
}

/// A path as messages show it: without `..` where that is sure to lead to the same place, for what it steps out of is a
/// folder and no symbolic link.
pub fn tidy(path: &Path) -> PathBuf {
    let mut tidied = PathBuf::new();
    for part in path.components() {
        let steps_out = part == Component::ParentDir && tidied.file_name().is_some();
        if steps_out && std::fs::symlink_metadata(&tidied).is_ok_and(|metadata| metadata.is_dir()) {
            tidied.pop();
        } else {
            tidied.push(part);
        }
    }
    tidied
}

/// Reads a file of at most `bytes_max`. Only a regular file is opened: a pipe could block for ever.
pub(super) fn read_file(path: &Path, bytes_max: u64) -> Result<Vec<u8>, FileError> {
    read_stamped(path, bytes_max).1
}

/// Reads a file, and tells its state, which is never newer than what was read.
fn read_stamped(path: &Path, bytes_max: u64) -> (Stamp, Result<Vec<u8>, FileError>) {
    match std::fs::metadata(path) {
        Ok(metadata) => (Stamp(Some(Identity::from(&metadata))), read_bytes(path, &metadata, bytes_max)),
        Err(error) => (Stamp(None), Err(error.into())),
    }
}

fn read_bytes(path: &Path, metadata: &Metadata, bytes_max: u64) -> Result<Vec<u8>, FileError> {
    if !metadata.is_file() {
        return Err(FileError::NoFile);
    }
    if metadata.len() > bytes_max {
        return Err(FileError::TooLarge(bytes_max));
    }
    // One byte more shows the end of the file without growing, and that the file has grown.
    let capacity = metadata.len().saturating_add(1);
    let mut bytes = Vec::with_capacity(usize::try_from(capacity).unwrap_or_default());
    File::open(path)?.take(bytes_max.saturating_add(1)).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > bytes_max { Err(FileError::TooLarge(bytes_max)) } else { Ok(bytes) }
}

// === impl FileError ===

impl From<io::Error> for FileError {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            ErrorKind::NotFound => Self::Missing,
            kind => Self::Refused(kind),
        }
    }
}

// === impl Stamp ===

impl Stamp {
    /// The state of a file now.
    fn of(path: &Path) -> Self {
        Self(std::fs::metadata(path).ok().as_ref().map(Identity::from))
    }

    /// Whether a later change is sure to show in the stamp.
    fn is_settled(self, now_ms: i64) -> bool {
        self.0.is_none_or(|identity| {
            let (seconds, nanoseconds) = identity.changed;
            seconds.saturating_mul(1_000).saturating_add(nanoseconds / 1_000_000) < now_ms - SETTLED_AFTER_MS
        })
    }
}

impl From<&Metadata> for Identity {
    fn from(metadata: &Metadata) -> Self {
        Self {
            device: metadata.dev(),
            inode: metadata.ino(),
            size: metadata.size(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        }
    }
}

// === impl Program ===

impl Program {
    fn new(bytes: Vec<u8>, kind: ProgramKind) -> Result<Self, FileError> {
        let digest = Sha256::digest(&bytes).into();
        let content = match kind {
            ProgramKind::Component => Content::Component(bytes.into()),
            ProgramKind::Script => Content::Script(String::from_utf8(bytes).map_err(|_| FileError::NotUtf8)?.into()),
        };
        Ok(Self { content, digest })
    }

    /// The program as a filter has it, under the path by which it is named.
    pub(super) fn named(&self, path: &Path) -> FilterProgram {
        match &self.content {
            Content::Component(bytes) => FilterProgram::Component(path.to_owned(), bytes.clone()),
            Content::Script(text) => FilterProgram::Script(path.to_owned(), text.clone()),
        }
    }
}

// === impl Disk ===

impl Disk {
    /// Nothing was read yet.
    pub(super) fn new() -> Self {
        Self { now_ms: 0, program_bytes_max: PROGRAM_BYTES_MAX, programs: Mutex::default() }
    }

    /// Begins a reading: every file is looked at anew.
    pub(super) fn begin(&mut self, now_ms: i64, program_bytes_max: u64) {
        let mut programs = lock(&self.programs);
        if self.program_bytes_max != program_bytes_max {
            programs.clear();
        }
        // What the last reading did not look at is not used any more.
        let was_fresh = |slot: &Slot| lock(slot).as_mut().is_some_and(|cached| std::mem::take(&mut cached.fresh));
        for programs in programs.values_mut() {
            programs.retain(|_, slot| was_fresh(slot));
        }
        drop(programs);
        self.now_ms = now_ms;
        self.program_bytes_max = program_bytes_max;
    }

    /// Whether all of these files are as they were.
    pub(super) fn unchanged(&self, needs: &[Need]) -> bool {
        needs.iter().all(|need| match need {
            Need::File { path, stamp, settled } => *settled && Stamp::of(path) == *stamp,
            Need::Program { path, kind, digest } => self.program(path, *kind).map(|program| program.digest) == *digest,
        })
    }

    fn program(&self, path: &Path, kind: ProgramKind) -> Result<Program, FileError> {
        let slot = self.slot(path, kind);
        let mut slot = lock(&slot);
        if let Some(cached) = &mut *slot {
            if !cached.fresh {
                cached.fresh = cached.settled && Stamp::of(path) == cached.stamp;
            }
            if cached.fresh {
                return cached.program.clone();
            }
        }
        let (stamp, bytes) = read_stamped(path, self.program_bytes_max);
        let program = bytes.and_then(|bytes| Program::new(bytes, kind));
        let settled = stamp.is_settled(self.now_ms);
        *slot = Some(CachedProgram { stamp, settled, program: program.clone(), fresh: true });
        program
    }

    fn slot(&self, path: &Path, kind: ProgramKind) -> Slot {
        let mut programs = lock(&self.programs);
        let programs = programs.entry(kind).or_default();
        match programs.get(path.as_os_str()) {
            Some(slot) => slot.clone(),
            None => programs.entry(path.into()).or_default().clone(),
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

// === impl Files ===

impl<'d> Files<'d> {
    /// Those of an account of which nothing was read yet.
    pub(super) fn new(disk: &'d Disk) -> Self {
        Self::moved(disk, HashMap::new())
    }

    /// The same, with programs that lie elsewhere than where they are named.
    pub(super) fn moved(disk: &'d Disk, moved: HashMap<PathBuf, PathBuf>) -> Self {
        Self { disk, moved, needs: Vec::new() }
    }

    /// Reads a TOML file of a configuration.
    pub(super) fn file(&mut self, path: &Path, bytes_max: u64) -> Result<Vec<u8>, FileError> {
        let (stamp, bytes) = read_stamped(path, bytes_max);
        let settled = stamp.is_settled(self.disk.now_ms);
        self.needs.push(Need::File { path: path.to_owned(), stamp, settled });
        bytes
    }

    /// Reads a secret.
    pub(super) fn secret(&mut self, path: &Path) -> Result<Vec<u8>, FileError> {
        self.file(path, SECRET_BYTES_MAX)
    }

    /// Reads a program, or takes it as it was read before.
    pub(super) fn program(&mut self, path: &Path, kind: ProgramKind) -> Result<Program, FileError> {
        let program = self.disk.program(self.moved.get(path).map_or(path, PathBuf::as_path), kind);
        let digest = program.as_ref().map(|program| program.digest).map_err(|error| *error);
        self.needs.push(Need::Program { path: path.to_owned(), kind, digest });
        program
    }

    /// What was read.
    pub(super) fn into_needs(self) -> Vec<Need> {
        self.needs
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_path_is_shown_without_steps_back_unless_a_link_is_in_the_way() {
        let dir = tempfile::tempdir().unwrap();
        let at = |path: &str| dir.path().join(path);
        std::fs::create_dir(at("accounts")).unwrap();
        std::os::unix::fs::symlink("accounts", at("link")).unwrap();
        assert_eq!(tidy(&at("accounts/../filters/./f.wasm")), at("filters/f.wasm"));
        for odd in ["link/../f.wasm", "nowhere/../f.wasm"] {
            assert_eq!(tidy(&at(odd)), at(odd));
        }
        assert_eq!(tidy(Path::new("../f.wasm")), Path::new("../f.wasm"));
    }
}
