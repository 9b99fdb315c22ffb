//! The marks of a segment, its `.done` file: what became of its events.
//!
//! A mark is 16 bytes: seq u64 · kind u8 · three zero bytes · CRC32C u32 of the segment's id (u32), then of those twelve.
//! Marks are appended at once, so that a killed process loses none, and synced once a second, so that a power cut takes
//! at most that second's. A torn or damaged one is as if it had not been written: the event is sent again.

use std::collections::HashMap;
use std::io;
use std::sync::Arc;

use super::file::DiskFile;
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
    file: Arc<dyn DiskFile>,
    segment: u32,
    end: u64,
    /// Marks that could not be written; they go with the next ones.
    unwritten: Vec<u8>,
    unsynced: bool,
}

/// What the marks of a segment say when all are read.
#[derive(Debug, Default)]
pub(crate) struct Marked {
    /// Events that are settled, or live on as a copy elsewhere.
    done: Vec<u64>,
    /// Others that were in requests: how often, and whether the last one may have taken them.
    sent: HashMap<u64, (u16, bool)>,
    /// The highest seq of any mark.
    pub(crate) last_seq: u64,
}

/// Bytes of a mark.
pub(crate) const MARK_BYTES: usize = 16;

// === impl MarkFile ===

impl MarkFile {
    /// Goes on after `end` bytes of a file; what is no whole mark before it is overwritten. What is there may be an earlier
    /// process's, and not synced.
    pub(crate) fn new(file: Box<dyn DiskFile>, segment: u32, end: u64) -> Self {
        let end = end - end % MARK_BYTES as u64;
        Self { file: file.into(), segment, end, unwritten: Vec::new(), unsynced: end > 0 }
    }

    /// Appends one mark for each event. After an error they are kept, and written with the next ones.
    pub(crate) fn add(&mut self, kind: MarkKind, seqs: impl Iterator<Item = u64>) -> io::Result<()> {
        for seq in seqs {
            let mut mark = [0; MARK_BYTES - 4];
            let (number, rest) = mark.split_at_mut(8);
            number.copy_from_slice(&seq.to_le_bytes());
            if let Some(first) = rest.first_mut() {
                *first = kind as u8;
            }
            self.unwritten.extend_from_slice(&mark);
            self.unwritten.extend_from_slice(&frame::checksum(self.segment, &mark).to_le_bytes());
        }
        self.flush()
    }

    /// Writes what could not be written before, and gives the file if it must be synced: that takes time, and nobody who
    /// marks waits for it. [`MarkFile::not_synced`] follows if it fails.
    pub(crate) fn take_unsynced(&mut self) -> io::Result<Option<Arc<dyn DiskFile>>> {
        self.flush()?;
        Ok(std::mem::take(&mut self.unsynced).then(|| Arc::clone(&self.file)))
    }

    /// What was to be synced was not.
    pub(crate) fn not_synced(&mut self) {
        self.unsynced = true;
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.unwritten.is_empty() {
            return Ok(());
        }
        self.file.write_at(&self.unwritten, self.end)?;
        self.end += self.unwritten.len() as u64;
        self.unwritten.clear();
        self.unsynced = true;
        Ok(())
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
                marked.take(frame::u64_at(mark, 0).unwrap_or(0), mark.get(8).copied().unwrap_or(0));
            }
        }
        marked.done.sort_unstable();
        marked
    }

    /// Whether an event needs nothing more from this segment.
    pub(crate) fn is_done(&self, seq: u64) -> bool {
        self.done.binary_search(&seq).is_ok()
    }

    /// How many requests an event was in, and whether the last one may have taken it.
    pub(crate) fn sent(&self, seq: u64) -> (u16, bool) {
        self.sent.get(&seq).copied().unwrap_or_default()
    }

    fn take(&mut self, seq: u64, kind: u8) {
        self.last_seq = self.last_seq.max(seq);
        if kind == MarkKind::Settled as u8 || kind == MarkKind::Moved as u8 {
            self.done.push(seq);
            self.sent.remove(&seq);
        } else if kind == MarkKind::Sent as u8 {
            let sent = self.sent.entry(seq).or_default();
            *sent = (sent.0.saturating_add(1), true);
        } else if kind == MarkKind::Refused as u8 {
            self.sent.entry(seq).or_default().1 = false;
        } else if kind == MarkKind::NotSent as u8 {
            let sent = self.sent.entry(seq).or_default();
            *sent = (sent.0.saturating_sub(1), false);
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

    #[test]
    fn marks_say_what_became_of_events() {
        let disk = FaultDisk::new();
        let path = Path::new("/1.done");
        let mut marks = MarkFile::new(disk.create(path).unwrap(), 1, 0);
        marks.add(MarkKind::Sent, [4, 5, 6].into_iter()).unwrap();
        marks.add(MarkKind::Refused, [5].into_iter()).unwrap();
        marks.add(MarkKind::Sent, [5].into_iter()).unwrap();
        marks.add(MarkKind::Settled, [4].into_iter()).unwrap();
        marks.add(MarkKind::Moved, [3].into_iter()).unwrap();
        marks.add(MarkKind::Sent, [7].into_iter()).unwrap();
        marks.add(MarkKind::NotSent, [7].into_iter()).unwrap();
        let bytes = read_all(&*disk.open(path).unwrap()).unwrap();

        let marked = Marked::read(&bytes, 1);
        assert!(marked.is_done(3) && marked.is_done(4) && !marked.is_done(5));
        assert_eq!((marked.sent(4), marked.sent(5), marked.sent(6)), ((0, false), (2, true), (1, true)));
        assert_eq!((marked.sent(7), marked.last_seq), ((0, false), 7));
        assert!(!Marked::read(&bytes, 2).is_done(4), "marks of another segment are none");
    }

    #[test]
    fn a_torn_mark_is_overwritten() {
        let disk = FaultDisk::new();
        let path = Path::new("/1.done");
        let mut marks = MarkFile::new(disk.create(path).unwrap(), 1, 0);
        marks.add(MarkKind::Settled, [1, 2].into_iter()).unwrap();
        disk.open(path).unwrap().set_len(27).unwrap();

        let mut marks = MarkFile::new(disk.open(path).unwrap(), 1, 27);
        marks.add(MarkKind::Settled, [3].into_iter()).unwrap();
        let marked = Marked::read(&read_all(&*disk.open(path).unwrap()).unwrap(), 1);
        assert!(marked.is_done(1) && !marked.is_done(2) && marked.is_done(3));
    }

    #[test]
    fn marks_that_could_not_be_written_go_with_the_next() {
        let disk = FaultDisk::new();
        let path = Path::new("/1.done");
        let mut marks = MarkFile::new(disk.create(path).unwrap(), 1, 0);
        disk.fail_writes(true);
        assert!(marks.add(MarkKind::Settled, [1].into_iter()).is_err());
        disk.fail_writes(false);
        marks.take_unsynced().unwrap().unwrap().sync().unwrap();
        assert!(marks.take_unsynced().unwrap().is_none());
        assert!(Marked::read(&read_all(&*disk.open(path).unwrap()).unwrap(), 1).is_done(1));
    }
}
