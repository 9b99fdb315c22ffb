//! Dead letters: events that Meta refused, and events that a faulting filter held back. A log of their own.
//!
//! ```text
//! dead/2026-07.001.log    the letters of a month, and which of them are gone    format.rs, file.rs
//! ```
//! Memory holds a slip for each letter (index.rs); the letter itself is read when somebody asks for it. What this module calls gone is
//! marked as such in the letter's own file, so that a file and all that is known of it go away together. Only the keeper's
//! thread writes here.

mod file;
mod format;
mod index;

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use bytes::Bytes;

use self::file::{DeadFile, Slip};
use self::index::{DeadIndex, Slot};
use super::locked;
use super::log::file::Disk;
use super::log::quarantine::Quarantine;
use super::log::recovery::LoadError;
use crate::account::{AccountId, LaneKey};

/// An event that waits for a person, not for delivery.
#[derive(Clone, Debug, PartialEq)]
pub struct DeadLetter {
    /// Its number, given when it is stored; what is here before is not looked at.
    pub id: u64,
    /// Whose it is, and where it was to go.
    pub lane: LaneKey,
    /// The event's name.
    pub event_name: String,
    /// The event's id.
    pub event_id: String,
    /// When it happened, Unix seconds.
    pub event_time: i64,
    /// Why it is here, as a metric would say it; begins with `filter:` for one that a filter's fault held back.
    pub reason: String,
    /// Why it is here, for a person.
    pub message: String,
    /// Requests that it was in.
    pub attempts: u32,
    /// When it was accepted, Unix milliseconds.
    pub accepted_ms: i64,
    /// When it came here, Unix milliseconds.
    pub dead_ms: i64,
    /// As in [`super::NewEvent`].
    pub envelope: Arc<str>,
    /// The event's JSON: as the Graph API gets it, or as whoever held it back wants it again.
    pub body: Bytes,
    /// What else whoever held it back wants to have again.
    pub context: String,
}

/// All dead letters.
pub(crate) struct DeadLetters {
    disk: Arc<dyn Disk>,
    dir: PathBuf,
    letters_max: u64,
    bytes_max: u64,
    index: Mutex<DeadIndex>,
}

// === impl DeadLetters ===

impl DeadLetters {
    /// Reads the letters in `root/dead`; gives where damaged ones were put, and their bytes.
    pub(crate) fn open(
        disk: Arc<dyn Disk>,
        root: &Path,
        (letters_max, bytes_max): (u64, u64),
    ) -> Result<(Self, Vec<(PathBuf, u64)>), LoadError> {
        let dir = root.join("dead");
        let failed = |source| LoadError::Io { path: dir.clone(), source };
        disk.create_dir(&dir).map_err(failed)?;
        disk.sync_dir(root).map_err(failed)?;
        // Names that a killed process made may not be durable, and letters are about to be trusted to them.
        disk.sync_dir(&dir).map_err(failed)?;
        let quarantine = Quarantine::new(Arc::clone(&disk), root).map_err(failed)?;
        let (mut index, mut damaged) = (DeadIndex { next_id: 1, ..DeadIndex::default() }, Vec::new());
        let mut names = disk.list(&dir).map_err(failed)?;
        names.sort_unstable();
        for name in names.iter().filter(|name| name.ends_with(".log")) {
            let (file, contents) = DeadFile::open(&*disk, &dir, name)?;
            // Of what is damaged and cannot be put aside the file is the only place: it stays like one with a letter.
            let mut only_here = 0;
            for (at, bytes) in &contents.damaged {
                match quarantine.keep(&format!("dead-{name}-{at}.bin"), bytes) {
                    Ok(kept) => damaged.push((kept, bytes.len() as u64)),
                    Err(error) => {
                        tracing::error!(file = name, at, %error, "a damaged dead letter cannot be put aside; it stays where it is");
                        only_here = 1;
                    }
                }
            }
            let file = Arc::new(file);
            index.files.insert(file.path.clone(), (Arc::clone(&file), only_here));
            index.next_id = index.next_id.max(contents.last_id + 1);
            contents.into_letters().for_each(|slip| index.add(&file, slip));
        }
        Ok((Self { disk, dir, letters_max, bytes_max, index: Mutex::new(index) }, damaged))
    }

    /// Whether an account has any.
    pub(crate) fn has_letters(&self, account: &AccountId) -> bool {
        locked(&self.index).accounts.contains_key(account)
    }

    /// Whether an account may have no more.
    pub(crate) fn is_full(&self, account: &AccountId) -> bool {
        self.is_full_with(account, (0, 0))
    }

    /// Whether it may have no more once it has so many letters and bytes besides.
    pub(crate) fn is_full_with(&self, account: &AccountId, (letters, bytes): (u64, u64)) -> bool {
        let usage = locked(&self.index).accounts.get(account).copied().unwrap_or_default();
        usage.letters + letters >= self.letters_max || usage.bytes + bytes >= self.bytes_max
    }

    /// Stores letters and makes them durable, all of them or none.
    pub(crate) fn store(&self, letters: &[DeadLetter]) -> io::Result<()> {
        let Some(first) = letters.first() else { return Ok(()) };
        let file = self.file_for(first.dead_ms)?;
        let mut next_id =
            locked(&self.index).next_id.max(u64::try_from(first.dead_ms).unwrap_or(0).saturating_mul(1_000));
        let (mut frames, mut slips) = (Vec::new(), Vec::new());
        for letter in letters {
            let letter = DeadLetter { id: next_id, ..letter.clone() };
            let at = frames.len() as u64;
            let len = format::put_letter(&letter, &mut frames);
            slips.push(Slip { id: next_id, lane: letter.lane, dead_ms: letter.dead_ms, at, len });
            next_id += 1;
        }
        let appended = file.append(&frames);
        let mut index = locked(&self.index);
        // Also after a failure: what reached the disk all the same must not share an id with another letter.
        index.next_id = next_id;
        let begin = appended?;
        slips.into_iter().for_each(|slip| index.add(&file, Slip { at: begin + slip.at, ..slip }));
        Ok(())
    }

    /// Removes letters for good, names the lane of each to `gone`, and gives how many there were. Those of one file are gone
    /// together; a file that fails does not keep those of the others.
    pub(crate) fn remove(&self, ids: &[u64], mut gone: impl FnMut(LaneKey)) -> io::Result<usize> {
        let mut by_file = BTreeMap::<PathBuf, (Arc<DeadFile>, Vec<u64>)>::new();
        for id in ids {
            if let Some(slot) = locked(&self.index).slots.get(id) {
                let entry = by_file.entry(slot.file.path.clone());
                entry.or_insert_with(|| (Arc::clone(&slot.file), Vec::new())).1.push(*id);
            }
        }
        let (mut removed, mut failure) = (0, None);
        for (path, (file, ids)) in by_file {
            match self.remove_from(&path, &file, ids, &mut gone) {
                Ok(count) => removed += count,
                Err(error) => failure = Some(error),
            }
        }
        failure.map_or(Ok(removed), Err)
    }

    fn remove_from(
        &self,
        path: &Path,
        file: &DeadFile,
        mut ids: Vec<u64>,
        gone: &mut impl FnMut(LaneKey),
    ) -> io::Result<usize> {
        ids.sort_unstable();
        ids.dedup();
        let mut frame = Vec::new();
        format::put_gone(&ids, &mut frame);
        file.append(&frame)?;
        let mut index = locked(&self.index);
        let lanes: Vec<_> = ids.iter().filter_map(|id| index.remove(*id)).collect();
        let removed = lanes.len();
        lanes.into_iter().for_each(gone);
        let empty = index.files.get(path).is_some_and(|(_, letters)| *letters == 0);
        if empty {
            index.files.remove(path);
            drop(index);
            self.disk.remove(path)?;
            self.disk.sync_dir(&self.dir)?;
        }
        Ok(removed)
    }

    /// The newest letters, of one account or of all, the newest first.
    pub(crate) fn list(&self, account: Option<&AccountId>, limit: usize) -> Vec<DeadLetter> {
        let index = locked(&self.index);
        let wanted = |slot: &&Slot| account.is_none_or(|account| *account == slot.slip.lane.account);
        let slots = index.slots.values().rev().filter(wanted).take(limit);
        let places: Vec<_> = slots.map(Slot::place).collect();
        drop(index);
        places.into_iter().filter_map(read).collect()
    }

    /// How many letters there are of each lane that has any.
    pub(crate) fn counts(&self) -> HashMap<LaneKey, u64> {
        locked(&self.index).lanes.clone()
    }

    /// The numbers of all letters, of one account or of all, the oldest first.
    pub(crate) fn ids(&self, account: Option<&AccountId>) -> Vec<u64> {
        self.ids_where(|slot| account.is_none_or(|account| *account == slot.slip.lane.account))
    }

    /// These letters, by account, in groups of at most so many letters and bytes, and at least one.
    pub(crate) fn grouped(&self, ids: &[u64], letters_max: usize, bytes_max: u64) -> Vec<Vec<u64>> {
        let index = locked(&self.index);
        let mut by_account = BTreeMap::<&AccountId, Vec<(u64, u64)>>::new();
        for id in ids {
            if let Some(Slot { slip, .. }) = index.slots.get(id) {
                by_account.entry(&slip.lane.account).or_default().push((*id, slip.len as u64));
            }
        }
        let mut groups = Vec::new();
        for letters in by_account.into_values() {
            let (mut group, mut bytes) = (Vec::new(), 0);
            for (id, len) in letters {
                if !group.is_empty() && (group.len() >= letters_max || bytes + len > bytes_max) {
                    groups.push(std::mem::take(&mut group));
                    bytes = 0;
                }
                group.push(id);
                bytes += len;
            }
            groups.push(group);
        }
        groups
    }

    /// One letter.
    pub(crate) fn get(&self, id: u64) -> Option<DeadLetter> {
        let place = locked(&self.index).slots.get(&id).map(Slot::place)?;
        read(place)
    }

    /// Takes letters for the caller alone, until [`DeadLetters::release`]; those that somebody else has are left out.
    pub(crate) fn claim(&self, ids: &[u64]) -> Vec<DeadLetter> {
        let mut index = locked(&self.index);
        let mut places = Vec::new();
        for id in ids {
            if let Some(slot) = index.slots.get_mut(id).filter(|slot| !slot.claimed) {
                slot.claimed = true;
                places.push((*id, slot.place()));
            }
        }
        drop(index);
        let (mut letters, mut unreadable) = (Vec::new(), Vec::new());
        for (id, place) in places {
            match read(place) {
                Some(letter) => letters.push(letter),
                None => unreadable.push(id),
            }
        }
        self.release(unreadable.into_iter());
        letters
    }

    /// Gives letters back that were claimed and not removed.
    pub(crate) fn release(&self, ids: impl Iterator<Item = u64>) {
        let mut index = locked(&self.index);
        for id in ids {
            if let Some(slot) = index.slots.get_mut(&id) {
                slot.claimed = false;
            }
        }
    }

    /// Letters that came here before a time, Unix milliseconds, and that nobody has claimed.
    pub(crate) fn older_than(&self, time_ms: i64) -> Vec<u64> {
        self.ids_where(|slot| slot.slip.dead_ms < time_ms && !slot.claimed)
    }

    /// Those of these letters that nobody has claimed.
    pub(crate) fn unclaimed(&self, ids: &[u64]) -> Vec<u64> {
        let index = locked(&self.index);
        ids.iter().copied().filter(|id| index.slots.get(id).is_some_and(|slot| !slot.claimed)).collect()
    }

    fn ids_where(&self, wanted: impl Fn(&Slot) -> bool) -> Vec<u64> {
        let index = locked(&self.index);
        index.slots.iter().filter(|(_, slot)| wanted(slot)).map(|(id, _)| *id).collect()
    }

    /// Bytes of all files.
    pub(crate) fn file_bytes(&self) -> u64 {
        locked(&self.index).files.values().map(|(file, _)| file.bytes()).sum()
    }

    /// The file that takes letters of a month; a new one if there is none, or it is full or failed.
    fn file_for(&self, now_ms: i64) -> io::Result<Arc<DeadFile>> {
        let month = month(now_ms);
        let mut number = 1;
        for (path, (file, _)) in &locked(&self.index).files {
            let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
            let Some(rest) = name.strip_prefix(&month) else { continue };
            if file.is_writable() {
                return Ok(Arc::clone(file));
            }
            let taken = rest.trim_start_matches('.').trim_end_matches(".log").parse::<u32>().unwrap_or(0);
            number = number.max(taken + 1);
        }
        number += locked(&self.index).failed_files;
        let made = DeadFile::create(&*self.disk, &self.dir, &format!("{month}.{number:03}.log"));
        let mut index = locked(&self.index);
        let file = Arc::new(made.inspect_err(|_| index.failed_files += 1)?);
        index.files.insert(file.path.clone(), (Arc::clone(&file), 0));
        Ok(file)
    }
}

fn read((file, at, len): (Arc<DeadFile>, u64, usize)) -> Option<DeadLetter> {
    let letter = file.read(at, len);
    letter
        .inspect_err(|error| tracing::error!(file = %file.path.display(), at, %error, "a dead letter is not readable"))
        .ok()
}

/// The month of a time, as in `2026-07`.
fn month(time_ms: i64) -> String {
    // Days since 1 March of year 0: the leap day is then a year's last (Howard Hinnant, "chrono-Compatible Low-Level Date
    // Algorithms", civil_from_days).
    let days = time_ms.div_euclid(86_400_000) + 719_468;
    let (era, day_of_era) = (days.div_euclid(146_097), days.rem_euclid(146_097));
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let from_march = (5 * day_of_year + 2) / 153;
    let (month, next_year) = if from_march < 10 { (from_march + 3, 0) } else { (from_march - 9, 1) };
    format!("{:04}-{month:02}", year_of_era + era * 400 + next_year)
}

#[cfg(test)]
pub(crate) mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing)]
    use super::*;
    use crate::outbox::log::fault::FaultDisk;

    const JULY_MS: i64 = 1_784_000_000_000;

    pub(crate) fn letter(account: &str, event_id: &str) -> DeadLetter {
        DeadLetter {
            id: 0,
            lane: LaneKey { account: account.parse().unwrap(), pixel: "1".parse().unwrap() },
            event_name: "Purchase".into(),
            event_id: event_id.into(),
            event_time: 1_784_000_000,
            reason: "refused".into(),
            message: "Invalid parameter".into(),
            attempts: 3,
            accepted_ms: JULY_MS,
            dead_ms: JULY_MS,
            envelope: "".into(),
            body: Bytes::from_static(b"{}"),
            context: String::new(),
        }
    }

    fn open(disk: &FaultDisk) -> (DeadLetters, Vec<(PathBuf, u64)>) {
        DeadLetters::open(Arc::new(disk.clone()), Path::new("/o"), (3, 1 << 20)).unwrap()
    }

    fn event_ids(letters: &[DeadLetter]) -> Vec<&str> {
        letters.iter().map(|letter| letter.event_id.as_str()).collect()
    }

    #[test]
    fn letters_are_there_after_a_power_cut() {
        let disk = FaultDisk::new();
        let (dead, _) = open(&disk);
        dead.store(&[letter("shoes", "a"), letter("hats", "b")]).unwrap();
        dead.store(&[letter("shoes", "c")]).unwrap();
        dead.remove(&[dead.list(None, 9)[2].id], |_| ()).unwrap();
        disk.power_cut(7);

        let (dead, damaged) = open(&disk);
        assert!(damaged.is_empty());
        assert_eq!(event_ids(&dead.list(None, 9)), ["c", "b"]);
        assert_eq!(event_ids(&dead.list(Some(&"hats".parse().unwrap()), 9)), ["b"]);
        let id = dead.list(None, 1)[0].id;
        assert_eq!(dead.get(id).unwrap(), DeadLetter { id, ..letter("shoes", "c") });
        dead.store(&[letter("shoes", "d")]).unwrap();
        assert!(dead.list(None, 1)[0].id > id, "ids are never given twice");
        assert_eq!(disk.paths().iter().filter(|path| path.starts_with("/o/dead")).count(), 1);
    }

    #[test]
    fn the_id_of_a_letter_that_is_gone_is_not_given_again() {
        let disk = FaultDisk::new();
        let (dead, _) = open(&disk);
        dead.store(&[letter("shoes", "a"), letter("shoes", "b")]).unwrap();
        dead.remove(&dead.ids(None)[1..], |_| ()).unwrap();
        disk.kill();
        // In the same millisecond, or after the clock was set back.
        open(&disk).0.store(&[letter("shoes", "c")]).unwrap();
        disk.kill();
        assert_eq!(event_ids(&open(&disk).0.list(None, 9)), ["c", "a"]);
    }

    #[test]
    fn a_file_whose_letters_are_gone_goes_too() {
        let disk = FaultDisk::new();
        let (dead, _) = open(&disk);
        dead.store(&[letter("shoes", "a"), letter("shoes", "b")]).unwrap();
        assert_eq!(dead.remove(&dead.older_than(JULY_MS + 1), |_| ()).unwrap(), 2);
        assert!(disk.paths().is_empty());
        dead.store(&[letter("shoes", "c")]).unwrap();
        assert_eq!(event_ids(&dead.list(None, 9)), ["c"]);
    }

    #[test]
    fn a_claimed_letter_is_nobody_elses() {
        let disk = FaultDisk::new();
        let (dead, _) = open(&disk);
        dead.store(&[letter("shoes", "a")]).unwrap();
        let id = dead.list(None, 1)[0].id;
        assert_eq!(dead.claim(&[id]).len(), 1);
        assert!(dead.claim(&[id]).is_empty() && dead.older_than(i64::MAX).is_empty());
        dead.release([id].into_iter());
        assert_eq!(dead.claim(&[id]).len(), 1);
    }

    #[test]
    fn a_failed_file_is_followed_by_another() {
        let disk = FaultDisk::new();
        let (dead, _) = open(&disk);
        dead.store(&[letter("shoes", "a")]).unwrap();
        disk.fail_syncs(true);
        assert!(dead.store(&[letter("shoes", "lost")]).is_err());
        disk.fail_syncs(false);
        dead.store(&[letter("shoes", "b")]).unwrap();
        disk.power_cut(3);
        assert_eq!(event_ids(&open(&disk).0.list(None, 9)), ["b", "a"]);
    }

    #[test]
    fn letters_can_be_removed_after_a_write_failed() {
        let disk = FaultDisk::new();
        let (dead, _) = open(&disk);
        dead.store(&[letter("shoes", "a"), letter("shoes", "b")]).unwrap();
        let [b, a] = dead.ids(None).try_into().map(|[a, b]: [u64; 2]| [b, a]).unwrap();
        disk.fail_syncs(true);
        assert!(dead.store(&[letter("shoes", "lost")]).is_err() && dead.remove(&[a], |_| ()).is_err());
        disk.fail_syncs(false);
        assert_eq!(dead.remove(&[a], |_| ()).unwrap(), 1);
        disk.power_cut(5);
        assert_eq!(open(&disk).0.ids(None), [b], "what is gone stays gone");
    }

    #[test]
    fn letters_of_one_file_can_be_removed_though_another_fails() {
        let disk = FaultDisk::new();
        let (dead, _) = open(&disk);
        dead.store(&[letter("shoes", "july")]).unwrap();
        dead.store(&[DeadLetter { dead_ms: JULY_MS + 40 * 86_400_000, ..letter("shoes", "august") }]).unwrap();
        disk.break_file(&disk.paths()[0]);
        assert!(dead.remove(&dead.ids(None), |_| ()).is_err());
        assert_eq!(event_ids(&dead.list(None, 9)), ["july"]);
    }

    #[test]
    fn letters_behind_a_damaged_header_can_be_removed() {
        let disk = FaultDisk::new();
        let (dead, _) = open(&disk);
        dead.store(&[letter("shoes", "a"), letter("shoes", "b")]).unwrap();
        let path = disk.paths()[0].clone();
        disk.tamper(&path, |bytes| bytes[3] ^= 1);
        disk.kill();
        let (dead, _) = open(&disk);
        assert_eq!(event_ids(&dead.list(None, 9)), ["b", "a"]);
        dead.remove(&dead.ids(None)[..1], |_| ()).unwrap();
        disk.power_cut(1);
        assert_eq!(event_ids(&open(&disk).0.list(None, 9)), ["b"]);
    }

    #[test]
    fn a_newer_format_is_refused_and_left_as_it_is() {
        let disk = FaultDisk::new();
        open(&disk).0.store(&[letter("shoes", "a")]).unwrap();
        let path = disk.paths()[0].clone();
        let mut before = Vec::new();
        disk.tamper(&path, |bytes| {
            bytes[8] = 2;
            bytes.extend_from_slice(b"frames that only a newer version knows");
            before.clone_from(bytes);
        });
        disk.kill();
        let opened = DeadLetters::open(Arc::new(disk.clone()), Path::new("/o"), (3, 1 << 20)).map(|_| ());
        assert!(matches!(opened, Err(LoadError::Newer { version: 2, .. })));
        disk.tamper(&path, |bytes| assert_eq!(*bytes, before));
    }

    #[test]
    fn letters_are_not_trusted_to_a_name_that_is_not_durable() {
        for seed in 0..32 {
            let disk = FaultDisk::new();
            disk.fail_syncs(true);
            assert!(open(&disk).0.store(&[letter("shoes", "lost")]).is_err());
            disk.fail_syncs(false);
            disk.kill();
            open(&disk).0.store(&[letter("shoes", "a")]).unwrap();
            disk.power_cut(seed);
            assert_eq!(event_ids(&open(&disk).0.list(None, 9)), ["a"], "seed {seed}");
        }
    }

    #[test]
    fn damage_costs_only_the_damaged_letter() {
        let disk = FaultDisk::new();
        let (dead, _) = open(&disk);
        dead.store(&[letter("shoes", "a"), letter("shoes", "b"), letter("shoes", "c")]).unwrap();
        let path = disk.paths()[0].clone();
        disk.tamper(&path, |bytes| {
            let middle = bytes.len() / 2;
            bytes[middle] ^= 0x40;
        });
        disk.kill();
        let (dead, damaged) = open(&disk);
        assert_eq!(event_ids(&dead.list(None, 9)), ["c", "a"]);
        assert_eq!(damaged.len(), 1);
        assert!(disk.paths().contains(&damaged[0].0));
    }

    #[test]
    fn damage_that_cannot_be_put_aside_stays_where_it_is() {
        let disk = FaultDisk::new();
        let (dead, _) = open(&disk);
        dead.store(&[letter("shoes", "a"), letter("shoes", "b"), letter("shoes", "c")]).unwrap();
        let path = disk.paths()[0].clone();
        disk.tamper(&path, |bytes| {
            let middle = bytes.len() / 2;
            bytes[middle] ^= 0x40;
        });
        disk.kill();
        disk.fill(true);
        let (dead, damaged) = open(&disk);
        assert_eq!((event_ids(&dead.list(None, 9)), damaged.len()), (vec!["c", "a"], 0));
        disk.fill(false);
        assert_eq!(dead.remove(&dead.ids(None), |_| ()).unwrap(), 2);
        disk.kill();
        assert_eq!(open(&disk).1.len(), 1);
    }

    #[test]
    fn letters_are_there_on_a_disk_that_fails() {
        let disk = FaultDisk::new();
        let (dead, _) = open(&disk);
        dead.store(&[letter("shoes", "a")]).unwrap();
        disk.crash_after(0);
        assert!(dead.store(&[letter("shoes", "not confirmed")]).is_err());
        disk.kill();
        disk.fail_syncs(true);
        let (dead, _) = open(&disk);
        assert!(event_ids(&dead.list(None, 9)).contains(&"a"));
        assert!(dead.store(&[letter("shoes", "lost")]).is_err());
        disk.fail_syncs(false);
        dead.store(&[letter("shoes", "b")]).unwrap();
        disk.power_cut(3);
        assert_eq!(event_ids(&open(&disk).0.list(None, 9)), ["b", "a"]);
    }

    #[test]
    fn an_account_may_have_so_many() {
        let disk = FaultDisk::new();
        let (dead, _) = open(&disk);
        let shoes = "shoes".parse().unwrap();
        dead.store(&[letter("shoes", "a"), letter("shoes", "b")]).unwrap();
        assert!(!dead.is_full(&shoes));
        dead.store(&[letter("shoes", "c")]).unwrap();
        assert!(dead.is_full(&shoes) && !dead.is_full(&"hats".parse().unwrap()));
    }

    #[test]
    fn groups_are_of_one_account_and_bounded() {
        let disk = FaultDisk::new();
        let (dead, _) = open(&disk);
        let letters: Vec<_> = ["shoes", "hats", "shoes", "shoes", "hats"].map(|account| letter(account, "e")).into();
        dead.store(&letters).unwrap();
        let ids = dead.ids(None);
        let [a, b, c, d, e] = ids.clone().try_into().unwrap();
        assert_eq!(dead.grouped(&ids, 9, u64::MAX), [vec![b, e], vec![a, c, d]]);
        assert_eq!(dead.grouped(&ids, 2, u64::MAX), [vec![b, e], vec![a, c], vec![d]]);
        assert_eq!(dead.grouped(&ids[..3], 9, 1), [vec![b], vec![a], vec![c]], "at least one");
        assert!(dead.grouped(&[7], 9, u64::MAX).is_empty());
    }

    #[test]
    fn months_are_those_of_the_calendar() {
        let day = 86_400_000;
        assert_eq!(
            [month(0), month(-1), month(11_016 * day), month(11_016 * day - 1)],
            ["1970-01", "1969-12", "2000-02", "2000-02"]
        );
        assert_eq!([month(11_017 * day), month(JULY_MS)], ["2000-03", "2026-07"]);
    }
}
