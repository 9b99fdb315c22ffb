//! The marks of a segment, its `.done` file: what became of its events.
//!
//! A mark is 16 bytes: seq u64 · kind u8 · attempts u16, the requests that it was in by then, 0 for one more or less, as the
//! kind says · a zero byte · CRC32C u32 of the segment's id (u32), then of those twelve.
//! Marks are appended at once, so that a killed process loses none, and synced once a second, so that a power cut takes
//! at most that second's. A torn or damaged one is as if it had not been written: the event is sent again.
//!
//! After a sync that failed nothing is believed of what was written since the one before, though it can still be read: it
//! is written again, in its place, before the next sync.

use std::collections::HashMap;
use std::io;
use std::mem;
use std::path::PathBuf;
use std::sync::Arc;

use super::file::{Disk, DiskFile};
use super::frame;

/// What a mark says of an event. A number is never used again for something else.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum MarkKind {
    /// It needs no delivery any more: delivered, or in the dead letters.
    Settled = 1,
    /// It is about to be in a request.
    Sent = 2,
    /// That request surely did not take it.
    Refused = 3,
    /// A copy of it is in a newer segment and counts instead.
    Moved = 4,
    /// That request never went out, or Meta takes nothing for now: it does not count.
    NotSent = 5,
}

/// A `.done` file that is open for more.
pub(crate) struct MarkFile {
    file: Place,
    segment: u32,
    /// Bytes of it that are durable.
    synced: u64,
    /// What was written behind them.
    unsynced: Vec<u8>,
    /// What was not written, or is to be written again; it goes with the next marks.
    unwritten: Vec<u8>,
}

/// Where the marks go.
enum Place {
    Open(Arc<dyn DiskFile>),
    /// A file that is not there: it is made when there is something to write.
    Missing(Arc<dyn Disk>, PathBuf),
}

/// What the marks of a segment say when all are read.
#[derive(Debug, Default)]
pub(crate) struct Marked {
    /// Events that are settled.
    settled: Vec<u64>,
    /// Events that live on as a copy elsewhere.
    moved: Vec<u64>,
    /// Others that were in requests: how often, and whether the last one may have taken them.
    sent: HashMap<u64, (u16, bool)>,
    /// The highest seq of any mark.
    pub(crate) last_seq: u64,
}

/// Bytes of a mark.
pub(crate) const MARK_BYTES: usize = 16;
/// Room that stays between two syncs.
const KEPT_BYTES: usize = 4096;

// === impl MarkFile ===

impl MarkFile {
    /// Goes on behind what is in a file, `bytes`; what is no whole mark at their end is overwritten. An earlier process may
    /// have written them, and a sync of its may have failed: they are written again.
    pub(crate) fn new(file: Box<dyn DiskFile>, segment: u32, mut bytes: Vec<u8>) -> Self {
        bytes.truncate(bytes.len() - bytes.len() % MARK_BYTES);
        Self { file: Place::Open(file.into()), segment, synced: 0, unsynced: Vec::new(), unwritten: bytes }
    }

    /// Without a file yet; the first marks make it.
    pub(crate) fn missing(disk: Arc<dyn Disk>, path: PathBuf, segment: u32) -> Self {
        Self { file: Place::Missing(disk, path), segment, synced: 0, unsynced: Vec::new(), unwritten: Vec::new() }
    }

    /// Appends a mark for each event: its seq, and the requests that it was in. After an error they are kept, and written with
    /// the next ones.
    pub(crate) fn add(&mut self, kind: MarkKind, events: impl Iterator<Item = (u64, u16)>) -> io::Result<()> {
        for (seq, attempts) in events {
            let begin = self.unwritten.len();
            self.unwritten.extend_from_slice(&seq.to_le_bytes());
            self.unwritten.push(kind as u8);
            self.unwritten.extend_from_slice(&attempts.to_le_bytes());
            self.unwritten.push(0);
            let crc = frame::checksum(self.segment, self.unwritten.get(begin..).unwrap_or_default());
            self.unwritten.extend_from_slice(&crc.to_le_bytes());
        }
        self.flush()
    }

    /// Bytes of it.
    pub(crate) fn bytes(&self) -> u64 {
        self.synced + (self.unsynced.len() + self.unwritten.len()) as u64
    }

    /// Writes what could not be written before, and gives the file if it must be synced, and for how many bytes: that takes
    /// time, and nobody who marks waits for it. [`MarkFile::synced`] or [`MarkFile::not_synced`] follows.
    pub(crate) fn take_unsynced(&mut self) -> io::Result<Option<(Arc<dyn DiskFile>, usize)>> {
        self.flush()?;
        match self.unsynced.len() {
            0 => Ok(None),
            bytes => Ok(Some((self.open()?, bytes))),
        }
    }

    /// The first `bytes` of what was not synced are.
    pub(crate) fn synced(&mut self, bytes: usize) {
        self.synced += self.unsynced.drain(..bytes.min(self.unsynced.len())).len() as u64;
        // After a start it held the whole file.
        self.unsynced.shrink_to(KEPT_BYTES);
    }

    /// What was to be synced was not, and may be lost: it is written again with the next marks.
    pub(crate) fn not_synced(&mut self) {
        let later = mem::replace(&mut self.unwritten, mem::take(&mut self.unsynced));
        self.unwritten.extend_from_slice(&later);
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.unwritten.is_empty() {
            return Ok(());
        }
        let end = self.synced + self.unsynced.len() as u64;
        self.open()?.write_at(&self.unwritten, end)?;
        if self.unsynced.is_empty() {
            mem::swap(&mut self.unsynced, &mut self.unwritten);
        } else {
            self.unsynced.append(&mut self.unwritten);
        }
        Ok(())
    }

    /// The file; a new one has a durable name.
    fn open(&mut self) -> io::Result<Arc<dyn DiskFile>> {
        let file = match &self.file {
            Place::Open(file) => return Ok(Arc::clone(file)),
            Place::Missing(disk, path) => {
                let file: Arc<dyn DiskFile> = disk.create_or_open(path)?.into();
                path.parent().map_or(Ok(()), |dir| disk.sync_dir(dir))?;
                file
            }
        };
        self.file = Place::Open(Arc::clone(&file));
        Ok(file)
    }
}

// === impl Marked ===

impl Marked {
    /// Reads all marks of a segment's `.done` file.
    pub(crate) fn read(bytes: &[u8], segment: u32) -> Self {
        let mut marked = Self::default();
        for mark in bytes.chunks_exact(MARK_BYTES) {
            let (covered, _) = mark.split_at(MARK_BYTES - 4);
            if frame::u32_at(mark, MARK_BYTES - 4) == Some(frame::checksum(segment, covered)) {
                let attempts =
                    mark.get(9..).and_then(|rest| rest.first_chunk()).map_or(0, |two| u16::from_le_bytes(*two));
                marked.take(frame::u64_at(mark, 0).unwrap_or(0), mark.get(8).copied().unwrap_or(0), attempts);
            }
        }
        marked.settled.sort_unstable();
        marked.moved.sort_unstable();
        marked
    }

    /// Whether an event needs nothing more from this segment.
    pub(crate) fn is_done(&self, seq: u64) -> bool {
        self.is_settled(seq) || self.moved.binary_search(&seq).is_ok()
    }

    /// Whether an event, or the copy of it that is here, needs no delivery any more.
    pub(crate) fn is_settled(&self, seq: u64) -> bool {
        self.settled.binary_search(&seq).is_ok()
    }

    /// How many requests an event was in, and whether the last one may have taken it.
    pub(crate) fn sent(&self, seq: u64) -> (u16, bool) {
        self.sent.get(&seq).copied().unwrap_or_default()
    }

    fn take(&mut self, seq: u64, kind: u8, attempts: u16) {
        let said = |or: u16| if attempts == 0 { or } else { attempts };
        self.last_seq = self.last_seq.max(seq);
        if kind == MarkKind::Settled as u8 {
            self.settled.push(seq);
            self.sent.remove(&seq);
        } else if kind == MarkKind::Moved as u8 {
            self.moved.push(seq);
            self.sent.remove(&seq);
        } else if kind == MarkKind::Sent as u8 {
            let sent = self.sent.entry(seq).or_default();
            *sent = (said(sent.0.saturating_add(1)), true);
        } else if kind == MarkKind::Refused as u8 {
            let sent = self.sent.entry(seq).or_default();
            *sent = (said(sent.0), false);
        } else if kind == MarkKind::NotSent as u8 {
            let sent = self.sent.entry(seq).or_default();
            *sent = (said(sent.0.saturating_sub(1)), false);
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing)]
    use std::path::Path;

    use super::super::fault::FaultDisk;
    use super::super::file::{Disk, read_all};
    use super::*;

    /// Marks of events as they were written before they said how many requests it were.
    fn of<const N: usize>(seqs: [u64; N]) -> impl Iterator<Item = (u64, u16)> {
        seqs.into_iter().map(|seq| (seq, 0))
    }

    #[test]
    fn marks_say_what_became_of_events() {
        let disk = FaultDisk::new();
        let path = Path::new("/1.done");
        let mut marks = MarkFile::new(disk.create(path).unwrap(), 1, Vec::new());
        marks.add(MarkKind::Sent, of([4, 5, 6])).unwrap();
        marks.add(MarkKind::Refused, of([5])).unwrap();
        marks.add(MarkKind::Sent, of([5])).unwrap();
        marks.add(MarkKind::Settled, of([4])).unwrap();
        marks.add(MarkKind::Moved, of([3])).unwrap();
        marks.add(MarkKind::Sent, of([7])).unwrap();
        marks.add(MarkKind::NotSent, of([7])).unwrap();
        let bytes = read_all(&*disk.open(path).unwrap()).unwrap();

        let marked = Marked::read(&bytes, 1);
        assert!(marked.is_done(3) && marked.is_done(4) && !marked.is_done(5));
        assert!(!marked.is_settled(3) && marked.is_settled(4));
        assert_eq!((marked.sent(4), marked.sent(5), marked.sent(6)), ((0, false), (2, true), (1, true)));
        assert_eq!((marked.sent(7), marked.last_seq), ((0, false), 7));
        assert!(!Marked::read(&bytes, 2).is_done(4), "marks of another segment are none");
    }

    #[test]
    fn what_a_start_read_is_not_kept_in_memory_when_it_is_synced() {
        let disk = FaultDisk::new();
        let file = disk.create(Path::new("/1.done")).unwrap();
        let mut marks = MarkFile::new(file, 1, vec![0; 4096 * MARK_BYTES]);
        let (_, bytes) = marks.take_unsynced().unwrap().unwrap();
        marks.synced(bytes);
        assert!(marks.unsynced.capacity() <= KEPT_BYTES && marks.unwritten.capacity() <= KEPT_BYTES);
    }

    #[test]
    fn marks_say_how_many_requests_it_were() {
        let disk = FaultDisk::new();
        let path = Path::new("/1.done");
        let mut marks = MarkFile::new(disk.create(path).unwrap(), 1, Vec::new());
        marks.add(MarkKind::Sent, [(4, 9), (5, 300), (6, 2), (7, 1)].into_iter()).unwrap();
        marks.add(MarkKind::Refused, [(5, 301)].into_iter()).unwrap();
        marks.add(MarkKind::NotSent, [(6, 1), (7, 0)].into_iter()).unwrap();
        let bytes = read_all(&*disk.open(path).unwrap()).unwrap();
        assert_eq!((bytes.len(), marks.bytes()), (7 * MARK_BYTES, 7 * MARK_BYTES as u64));
        let marked = Marked::read(&bytes, 1);
        let known = [4, 5, 6, 7].map(|seq| marked.sent(seq));
        assert_eq!(known, [(9, true), (301, false), (1, false), (0, false)]);
    }

    #[test]
    fn a_torn_mark_is_overwritten() {
        let disk = FaultDisk::new();
        let path = Path::new("/1.done");
        let mut marks = MarkFile::new(disk.create(path).unwrap(), 1, Vec::new());
        marks.add(MarkKind::Settled, of([1, 2])).unwrap();
        disk.open(path).unwrap().set_len(27).unwrap();

        let bytes = read_all(&*disk.open(path).unwrap()).unwrap();
        let mut marks = MarkFile::new(disk.open(path).unwrap(), 1, bytes);
        marks.add(MarkKind::Settled, of([3])).unwrap();
        let marked = Marked::read(&read_all(&*disk.open(path).unwrap()).unwrap(), 1);
        assert!(marked.is_done(1) && !marked.is_done(2) && marked.is_done(3));
    }

    #[test]
    fn marks_that_could_not_be_written_go_with_the_next() {
        let disk = FaultDisk::new();
        let path = Path::new("/1.done");
        let mut marks = MarkFile::new(disk.create(path).unwrap(), 1, Vec::new());
        disk.fail_writes(true);
        assert!(marks.add(MarkKind::Settled, of([1])).is_err());
        disk.fail_writes(false);
        sync(&mut marks).unwrap();
        assert!(marks.take_unsynced().unwrap().is_none());
        assert!(Marked::read(&read_all(&*disk.open(path).unwrap()).unwrap(), 1).is_done(1));
    }

    fn sync(marks: &mut MarkFile) -> io::Result<()> {
        let (file, bytes) = marks.take_unsynced()?.unwrap();
        file.sync().inspect(|()| marks.synced(bytes)).inspect_err(|_| marks.not_synced())
    }

    #[test]
    fn marks_that_a_sync_lost_are_written_again() {
        let disk = FaultDisk::new();
        let path = Path::new("/1.done");
        let mut marks = MarkFile::new(disk.create(path).unwrap(), 1, Vec::new());
        disk.sync_dir(Path::new("/")).unwrap();
        marks.add(MarkKind::Settled, of([1])).unwrap();
        sync(&mut marks).unwrap();
        marks.add(MarkKind::Settled, of([2])).unwrap();
        disk.fail_syncs(true);
        assert!(sync(&mut marks).is_err());
        marks.add(MarkKind::Settled, of([3])).unwrap();
        disk.fail_syncs(false);
        sync(&mut marks).unwrap();
        disk.power_cut(3);
        let bytes = read_all(&*disk.open(path).unwrap()).unwrap();
        let marked = Marked::read(&bytes, 1);
        assert!((1..=3).all(|seq| marked.is_done(seq)) && bytes.len() == 3 * MARK_BYTES);
    }

    #[test]
    fn a_missing_file_is_made_for_the_first_mark() {
        let disk = FaultDisk::new();
        let path = Path::new("/1.done");
        let mut marks = MarkFile::missing(Arc::new(disk.clone()), path.to_owned(), 1);
        assert!(marks.take_unsynced().unwrap().is_none() && disk.paths().is_empty());
        disk.fill(true);
        assert!(marks.add(MarkKind::Settled, of([1])).is_err());
        disk.fill(false);
        sync(&mut marks).unwrap();
        disk.power_cut(1);
        assert!(Marked::read(&read_all(&*disk.open(path).unwrap()).unwrap(), 1).is_done(1));
    }
}
