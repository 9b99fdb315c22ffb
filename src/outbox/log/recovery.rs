//! What a start finds: each segment, read by its summary or frame by frame, with torn ends cut and damage put aside.

use std::collections::BTreeSet;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use super::file::read_all;
use super::frame::{Frames, Piece};
use super::marks::{MarkFile, Marked};
use super::record::{HEADER_BYTES, Header, Record, VERSION};
use super::segment::{LogDir, Segment, file_name, parse_name};
use super::summary::Summary;
use super::{Entry, file};

/// A segment as it was found.
pub(crate) struct Found {
    pub(crate) segment: Segment,
    /// All events in it.
    pub(crate) summary: Summary,
    /// What became of them.
    pub(crate) marked: Marked,
    /// All of it is on the disk for certain.
    pub(crate) durable: bool,
    /// There is damage in it that could not be put aside.
    pub(crate) stays: bool,
}

/// What a start did to the log, beside reading it.
#[derive(Debug, Default)]
pub(crate) struct Report {
    /// The next segment's number.
    pub(crate) next_segment: u32,
    /// No seq as high as this was ever given out.
    pub(crate) next_seq: u64,
    /// Segments with a write at their end that never came to be.
    pub(crate) cut: Vec<Cut>,
    /// Where damaged bytes were put, and how many.
    pub(crate) quarantined: Vec<(PathBuf, u64)>,
}

/// The end of a segment that was cut off.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cut {
    /// The segment.
    pub segment: u32,
    /// Where it ends now.
    pub at: u64,
    /// Where events of it were put that were whole, though not all of their group: a disk that lost what it had said to be
    /// written leaves the same.
    pub kept: Option<PathBuf>,
}

/// Why the log cannot be opened.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LoadError {
    /// The disk refused.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What it said.
        source: io::Error,
    },
    /// A newer Pixelgate wrote it.
    #[error("{} has format {version}", path.display())]
    Newer {
        /// The segment.
        path: PathBuf,
        /// Its format.
        version: u32,
    },
}

impl LogDir {
    /// Reads all segments, the oldest first, and hands each to `each`.
    pub(crate) fn load(&self, mut each: impl FnMut(Found)) -> Result<Report, LoadError> {
        let mut report = Report { next_segment: 1, next_seq: 1, ..Report::default() };
        // Names that a killed process made or removed may not be durable.
        self.disk.sync_dir(&self.dir).map_err(|source| LoadError::Io { path: self.dir.clone(), source })?;
        let names = self.disk.list(&self.dir).map_err(|source| LoadError::Io { path: self.dir.clone(), source })?;
        let (mut ids, mut beside) = (BTreeSet::new(), Vec::new());
        for name in names {
            let Some((id, kind)) = parse_name(&name) else { continue };
            report.next_segment = report.next_segment.max(id.saturating_add(1));
            match kind {
                "log" => drop(ids.insert(id)),
                "free" => tidied(&name, self.adopt_spare(name.clone())),
                "done" | "index" => beside.push((id, name)),
                _ => {}
            }
        }
        // A crash while a segment was made, or given back, leaves these.
        for (_, name) in beside.iter().filter(|(id, _)| !ids.contains(id)) {
            tidied(name, self.remove_if_there(name));
        }
        for id in ids {
            let found = self.load_segment(id, &mut report)?;
            report.next_seq = report.next_seq.max(found.summary.last_seq() + 1).max(found.marked.last_seq + 1);
            if found.summary.entries.is_empty() && !found.stays {
                tidied(&file_name(id, "log"), self.retire(&found.segment));
            } else {
                each(found);
            }
        }
        Ok(report)
    }

    fn load_segment(&self, id: u32, report: &mut Report) -> Result<Found, LoadError> {
        let name = file_name(id, "log");
        let failed = |source| self.failed(&name, source);
        let log = self.disk.open(&self.dir.join(&name)).map_err(failed)?;
        let (marks, marked) = self.open_marks(id).map_err(failed)?;
        let segment = Segment::new(id, log, marks);
        match self.read_summary(id) {
            Some(summary) if summary.end <= segment.file_bytes() => {
                Ok(Found { segment, summary, marked, durable: true, stays: false })
            }
            _ => self.scan(segment, marked, report),
        }
    }

    /// Reads a segment frame by frame, and leaves it so that the next start need not. A disk that does not take what that
    /// writes keeps nobody from what can be read.
    fn scan(&self, segment: Segment, marked: Marked, report: &mut Report) -> Result<Found, LoadError> {
        let name = file_name(segment.id, "log");
        let failed = |source| self.failed(&name, source);
        let len = usize::try_from(segment.file_bytes()).unwrap_or(0);
        let bytes = segment.read(0, len).map_err(failed)?;
        let header = Header::decode(&bytes);
        if let Some(header) = header.filter(|header| header.version > VERSION) {
            return Err(LoadError::Newer { path: self.dir.join(&name), version: header.version });
        }
        let first_seq = header.map_or(0, |header| header.first_seq);
        let mut walk = Walk::new(segment.id, first_seq);
        let mut frames = Frames::new(&bytes, HEADER_BYTES.min(len), segment.id, Record::likely);
        for piece in &mut frames {
            walk.piece(piece);
        }
        let torn = frames.is_torn(|payload| Record::seq_of(payload) >= first_seq.max(1));
        let (summary, mut gaps, dropped) = walk.finish(frames.end());
        if header.is_none() && !summary.entries.is_empty() {
            gaps.push((0, HEADER_BYTES));
        } else if header.is_none() && len > HEADER_BYTES {
            // A new segment has its header before it has anything else.
            gaps.push((0, len));
        }
        let mut stays = false;
        let mut put_aside = |(from, to): Span| {
            let lost = bytes.get(from..to).unwrap_or_default();
            let kept = self.quarantine(segment.id, from as u64, lost);
            let kept = kept.inspect_err(|error| {
                tracing::error!(segment = segment.id, at = from, %error, "damage cannot be put aside; it stays where it is");
                stays = true;
            });
            Some((kept.ok()?, lost.len() as u64))
        };
        report.quarantined.extend(gaps.into_iter().filter_map(&mut put_aside));
        let kept = dropped.and_then(&mut put_aside).map(|(path, _)| path);
        if (torn || dropped.is_some()) && !stays {
            report.cut.push(Cut { segment: segment.id, at: summary.end, kept });
        }
        // A killed process's last write may be in the page cache only, and a sync of its that failed has the kernel take it for
        // written: what is leased from now on, and counts instead of an older copy, is written again.
        let kept = bytes.get(..usize::try_from(summary.end).unwrap_or(len)).unwrap_or_default();
        let written = segment.write(kept, 0);
        let synced = match summary.end < len as u64 && !stays {
            true => segment.cut(summary.end),
            false => segment.sync(),
        };
        let durable = written.and(synced);
        if let Err(error) = &durable {
            tracing::warn!(segment = segment.id, %error, "what was read cannot be made durable; it is taken as it is");
        } else if !stays && let Err(error) = self.write_summary(&summary) {
            tracing::warn!(segment = segment.id, %error, "no summary was written; the next start reads the segment again");
        }
        Ok(Found { segment, summary, marked, durable: durable.is_ok(), stays })
    }

    fn read_summary(&self, id: u32) -> Option<Summary> {
        let file = self.disk.open(&self.dir.join(file_name(id, "index"))).ok()?;
        Summary::decode(&file::read_all(&*file).ok()?, id)
    }

    /// The marks of a segment. A crash while it was made leaves it without a file; one is made when there is something to
    /// mark: there may be no room for it now.
    fn open_marks(&self, id: u32) -> io::Result<(MarkFile, Marked)> {
        let path = self.dir.join(file_name(id, "done"));
        match self.disk.open(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                Ok((MarkFile::missing(Arc::clone(&self.disk), path, id), Marked::default()))
            }
            Err(error) => Err(error),
            Ok(file) => {
                let bytes = read_all(&*file)?;
                let marked = Marked::read(&bytes, id);
                Ok((MarkFile::new(file, id, bytes), marked))
            }
        }
    }

    fn failed(&self, name: &str, source: io::Error) -> LoadError {
        LoadError::Io { path: self.dir.join(name), source }
    }
}

/// Tells of a file that nobody needs and that could not be removed: the next start tries again.
fn tidied(name: &str, removed: io::Result<()>) {
    if let Err(error) = removed {
        tracing::warn!(file = name, %error, "a file of the log that is not needed any more cannot be removed");
    }
}

/// What a walk over a segment has come upon.
struct Walk {
    summary: Summary,
    /// Where the group that is not over yet begins: its place in the summary and in the file.
    open_group: Option<(usize, usize)>,
    /// Where the first group begins that a gap ended, if nothing after it has been found to be whole.
    broken_group: Option<(usize, usize)>,
    gaps: Vec<Span>,
}

/// Bytes of a segment: where they begin, and where they end.
type Span = (usize, usize);

// === impl Walk ===

impl Walk {
    fn new(segment: u32, first_seq: u64) -> Self {
        Self { summary: Summary::new(segment, first_seq, 0), open_group: None, broken_group: None, gaps: Vec::new() }
    }

    fn piece(&mut self, piece: Piece<'_>) {
        match piece {
            Piece::Frame { at, payload } => self.frame(at, payload),
            // What was written after it was answered after it, so this too may have been answered: what is whole of its
            // group is kept, if a whole group follows. Or the next start, which no longer sees the rest, would cut it.
            Piece::Gap { from, to } => {
                self.gaps.push((from, to));
                self.broken_group = self.broken_group.or(self.open_group.take());
            }
        }
    }

    fn frame(&mut self, at: usize, payload: &[u8]) {
        let len = super::frame::HEAD + payload.len();
        let place = u32::try_from(at).ok().zip(u32::try_from(len).ok());
        let taken = Record::decode(payload).zip(place).is_some_and(|(record, (at32, len32))| {
            let before = self.summary.entries.len();
            let entry = Entry::new(&record, self.summary.segment, at32, len32);
            let added = self.summary.add(record.account, record.pixel, entry);
            self.open_group = record.more.then(|| self.open_group.unwrap_or((before, at)));
            self.broken_group = self.broken_group.filter(|_| record.more);
            added
        });
        if !taken {
            self.gaps.push((at, at + len));
        }
    }

    /// The summary, the gaps, and what is whole of a group that had to be dropped because its end was never written. What is
    /// cut for a gap is one with it: whether it was damaged or never whole cannot be told.
    fn finish(mut self, end: usize) -> (Summary, Vec<Span>, Option<Span>) {
        self.summary.end = end as u64;
        if let Some((entries, at)) = self.broken_group.or(self.open_group) {
            self.summary.entries.truncate(entries);
            self.summary.end = at as u64;
            self.gaps.retain(|(from, _)| *from < at);
        }
        if let Some((_, at)) = self.broken_group {
            self.gaps.push((at, end));
        }
        let dropped = self.open_group.filter(|_| self.broken_group.is_none());
        (self.summary, self.gaps, dropped.map(|(_, at)| (at, end)))
    }
}
