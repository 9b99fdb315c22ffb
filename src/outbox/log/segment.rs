//! The folder of the log, and one segment in it: made, written, read, marked, given up.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use super::file::{Disk, DiskFile, Space};
use super::marks::{MarkFile, MarkKind};
use super::quarantine::Quarantine;
use super::record::{HEADER_BYTES, Header, VERSION};
use super::summary::Summary;
use super::{Entry, frame};
use crate::outbox::locked;

/// The folder that the segments are in, and the one beside it for what cannot be read.
pub(crate) struct LogDir {
    pub(super) disk: Arc<dyn Disk>,
    pub(super) dir: PathBuf,
    quarantine: Quarantine,
    segment_bytes: u64,
    /// Names of files that wait to be overwritten.
    spares: Mutex<Vec<String>>,
}

/// A segment whose files are open.
pub(crate) struct Segment {
    /// Its number; a later one is higher.
    pub(crate) id: u32,
    log: Box<dyn DiskFile>,
    marks: Mutex<MarkFile>,
}

/// Files kept to be overwritten: a write in place needs no work of the file system's journal, half a sync's time.
const SPARES_MAX: usize = 2;

/// Where a segment's first frame begins.
pub(crate) fn first_free_offset() -> u64 {
    HEADER_BYTES as u64
}

/// What a file of a segment is called.
pub(super) fn file_name(id: u32, kind: &str) -> String {
    format!("{id:08}.{kind}")
}

/// The number and the kind in a file's name.
pub(super) fn parse_name(name: &str) -> Option<(u32, &str)> {
    let (id, kind) = name.split_once('.')?;
    Some((id.parse().ok()?, kind))
}

// === impl LogDir ===

impl LogDir {
    /// Makes `root/log` where it is not there.
    pub(crate) fn new(disk: Arc<dyn Disk>, root: &Path, segment_bytes: u64) -> io::Result<Self> {
        let dir = root.join("log");
        disk.create_dir(&dir)?;
        disk.sync_dir(root)?;
        let quarantine = Quarantine::new(Arc::clone(&disk), root)?;
        Ok(Self { disk, dir, quarantine, segment_bytes, spares: Mutex::default() })
    }

    /// Makes a new segment, durable and empty, out of a spare file if there is one.
    pub(crate) fn create(&self, id: u32, first_seq: u64) -> io::Result<Segment> {
        let header = Header { version: VERSION, id, first_seq }.encode();
        let mut names = Vec::new();
        let made = self.create_in(id, &header, &mut names);
        if made.is_err() {
            // Nobody else would remove them, and a disk that fails is tried again and again. A spare may be what is at fault.
            for name in &names {
                let _ = self.remove_if_there(name);
            }
        }
        made
    }

    /// Says in `names` which files there are of what may not become a segment.
    fn create_in(&self, id: u32, header: &[u8], names: &mut Vec<String>) -> io::Result<Segment> {
        let (name, marks_name) = (file_name(id, "log"), file_name(id, "done"));
        let path = self.dir.join(&name);
        let spare = locked(&self.spares).pop();
        names.extend(spare.clone());
        let log = match &spare {
            Some(spare) => self.disk.open(&self.dir.join(spare))?,
            None => self.disk.create(&path).inspect(|_| names.push(name.clone()))?,
        };
        log.write_at(header, 0)?;
        log.sync()?;
        if let Some(spare) = &spare {
            self.disk.rename(&self.dir.join(spare), &path)?;
            names.push(name);
        }
        let marks = self.disk.create(&self.dir.join(&marks_name)).inspect(|_| names.push(marks_name))?;
        self.disk.sync_dir(&self.dir)?;
        Ok(Segment::new(id, log, MarkFile::new(marks, id, Vec::new())))
    }

    /// Removes a segment that nothing needs any more, or keeps its file to be overwritten. The marks go last: were the
    /// removal itself undone by a power cut, they would still be there.
    pub(crate) fn retire(&self, segment: &Segment) -> io::Result<()> {
        let path = self.dir.join(file_name(segment.id, "log"));
        let spare = file_name(segment.id, "free");
        let keep = locked(&self.spares).len() < SPARES_MAX && segment.log.len()? >= self.segment_bytes / 2;
        if keep {
            self.disk.rename(&path, &self.dir.join(&spare))?;
        } else {
            self.disk.remove(&path)?;
        }
        self.disk.sync_dir(&self.dir)?;
        if keep {
            locked(&self.spares).push(spare);
        }
        self.remove_if_there(&file_name(segment.id, "done"))?;
        self.remove_if_there(&file_name(segment.id, "index"))
    }

    /// Gives up the spare files; `true` if there were any.
    pub(crate) fn free_spares(&self) -> io::Result<bool> {
        let spares = std::mem::take(&mut *locked(&self.spares));
        for spare in &spares {
            self.remove_if_there(spare)?;
        }
        Ok(!spares.is_empty())
    }

    /// Takes a `.free` file that an earlier process left, as a spare or away.
    pub(super) fn adopt_spare(&self, name: String) -> io::Result<()> {
        let mut spares = locked(&self.spares);
        if spares.len() < SPARES_MAX {
            spares.push(name);
            return Ok(());
        }
        drop(spares);
        self.remove_if_there(&name)
    }

    /// Keeps bytes of a segment that should have been events, and says where.
    pub(crate) fn quarantine(&self, segment: u32, at: u64, bytes: &[u8]) -> io::Result<PathBuf> {
        self.quarantine.keep(&format!("{segment:08}-{at}.bin"), bytes)
    }

    /// Writes a closed segment's summary beside it. It is not synced: without it the segment is read.
    pub(crate) fn write_summary(&self, summary: &Summary) -> io::Result<()> {
        let name = file_name(summary.segment, "index");
        self.remove_if_there(&name)?;
        self.disk.create(&self.dir.join(name))?.write_at(&summary.encode(), 0)
    }

    /// Room on the volume.
    pub(crate) fn space(&self) -> io::Result<Space> {
        self.disk.space(&self.dir)
    }

    pub(super) fn remove_if_there(&self, name: &str) -> io::Result<()> {
        match self.disk.remove(&self.dir.join(name)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }
}

// === impl Segment ===

impl Segment {
    pub(super) fn new(id: u32, log: Box<dyn DiskFile>, marks: MarkFile) -> Self {
        Self { id, log, marks: Mutex::new(marks) }
    }

    /// Writes frames at an offset.
    pub(crate) fn write(&self, frames: &[u8], at: u64) -> io::Result<()> {
        self.log.write_at(frames, at)
    }

    /// Makes what was written durable. An error is final: the segment takes nothing more.
    pub(crate) fn sync(&self) -> io::Result<()> {
        self.log.sync()
    }

    /// Cuts off what comes after the last good frame.
    pub(crate) fn cut(&self, end: u64) -> io::Result<()> {
        self.log.set_len(end)?;
        self.log.sync()
    }

    /// Reads `len` bytes.
    pub(crate) fn read(&self, at: u64, len: usize) -> io::Result<Vec<u8>> {
        let mut bytes = vec![0; len];
        self.log.read_at(&mut bytes, at)?;
        Ok(bytes)
    }

    /// The payload of the frame that `bytes`, read from this segment, begin with.
    pub(crate) fn unseal<'a>(&self, bytes: &'a [u8]) -> Option<&'a [u8]> {
        frame::unseal(bytes, self.id)
    }

    /// Says what became of some of its events; kept and tried again if it cannot be written.
    pub(crate) fn mark(&self, kind: MarkKind, entries: &[Entry]) -> io::Result<()> {
        locked(&self.marks).add(kind, entries.iter().map(|entry| (entry.seq, entry.attempts)))
    }

    /// Makes the marks durable. For one thread.
    pub(crate) fn sync_marks(&self) -> io::Result<()> {
        let Some((file, bytes)) = ({ locked(&self.marks).take_unsynced()? }) else { return Ok(()) };
        let synced = file.sync();
        let mut marks = locked(&self.marks);
        match synced {
            Ok(()) => marks.synced(bytes),
            Err(_) => marks.not_synced(),
        }
        synced
    }

    /// Bytes of its file.
    pub(crate) fn file_bytes(&self) -> u64 {
        self.log.len().unwrap_or(0)
    }

    /// Bytes of the file of its marks.
    pub(crate) fn mark_bytes(&self) -> u64 {
        locked(&self.marks).bytes()
    }
}
