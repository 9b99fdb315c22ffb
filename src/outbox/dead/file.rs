//! One file of dead letters: read at a start, appended to, removed when all its letters are gone.

use std::collections::HashSet;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use super::DeadLetter;
use super::format::{self, HEADER, Item};
use crate::account::LaneKey;
use crate::outbox::locked;
use crate::outbox::log::file::{Disk, DiskFile, read_all};
use crate::outbox::log::frame::{self, Frames, Piece};
use crate::outbox::log::recovery::LoadError;

/// A file that is open.
pub(super) struct DeadFile {
    pub(super) path: PathBuf,
    file: Box<dyn DiskFile>,
    tail: Mutex<Tail>,
}

/// The end of a file.
struct Tail {
    /// Where the next frame goes.
    end: u64,
    /// What is behind the end, or the header, is not as it must be: nothing is appended before that is mended.
    torn: bool,
}

/// What is known of a letter without reading it.
pub(super) struct Slip {
    pub(super) id: u64,
    pub(super) lane: LaneKey,
    pub(super) dead_ms: i64,
    /// Place and length of its frame.
    pub(super) at: u64,
    pub(super) len: usize,
}

/// What a file holds.
#[derive(Default)]
pub(super) struct Contents {
    /// Letters, those that are gone too.
    letters: Vec<Slip>,
    gone: HashSet<u64>,
    /// The highest id of any letter, those that are gone too: given again, the new letter would be gone with the next start.
    pub(super) last_id: u64,
    /// Bytes that should have been letters, and where they were.
    pub(super) damaged: Vec<(usize, Vec<u8>)>,
}

/// Size from which a file takes no more letters: a start reads files whole.
const FILE_BYTES_MAX: u64 = 64 << 20;

// === impl DeadFile ===

impl DeadFile {
    /// Makes a new file, durable and empty.
    pub(super) fn create(disk: &dyn Disk, dir: &Path, name: &str) -> io::Result<Self> {
        let path = dir.join(name);
        let file = disk.create(&path)?;
        let durable = file.write_at(HEADER, 0).and_then(|()| file.sync()).and_then(|()| disk.sync_dir(dir));
        if let Err(error) = durable {
            // Nobody else would remove it, and a disk that fails is tried again and again.
            let _ = disk.remove(&path);
            return Err(error);
        }
        Ok(Self { path, file, tail: Mutex::new(Tail { end: HEADER.len() as u64, torn: false }) })
    }

    /// Opens a file and reads it. A torn end is cut.
    pub(super) fn open(disk: &dyn Disk, dir: &Path, name: &str) -> Result<(Self, Contents), LoadError> {
        let path = dir.join(name);
        let failed = |source| LoadError::Io { path: path.clone(), source };
        let file = disk.open(&path).map_err(failed)?;
        let bytes = read_all(&*file).map_err(failed)?;
        if let Some(version) = format::newer_version(&bytes) {
            return Err(LoadError::Newer { path, version });
        }
        let mut contents = Contents::default();
        let mut frames = Frames::new(&bytes, HEADER.len().min(bytes.len()), format::SEED, format::likely);
        for piece in &mut frames {
            contents.piece(piece, &bytes);
        }
        let end = frames.end();
        // A killed process's last write may be in the page cache only.
        let cut = if end < bytes.len() { file.set_len(end as u64) } else { Ok(()) };
        let synced = cut.and_then(|()| file.sync());
        if let Err(error) = &synced {
            tracing::warn!(file = %path.display(), %error, "dead letters cannot be made durable; they are taken as they are");
        }
        // A header that is damaged, or was never written, keeps nothing from being read.
        let torn = synced.is_err() || !bytes.starts_with(HEADER);
        let tail = Tail { end: end.max(HEADER.len()) as u64, torn };
        Ok((Self { path, file, tail: Mutex::new(tail) }, contents))
    }

    /// Whether it takes more letters.
    pub(super) fn is_writable(&self) -> bool {
        let tail = locked(&self.tail);
        !tail.torn && tail.end < FILE_BYTES_MAX
    }

    /// Bytes of it.
    pub(super) fn bytes(&self) -> u64 {
        self.file.len().unwrap_or(0)
    }

    /// Appends frames and makes them durable; gives where they begin.
    pub(super) fn append(&self, frames: &[u8]) -> io::Result<u64> {
        let mut tail = locked(&self.tail);
        if tail.torn {
            self.mend(&mut tail)?;
        }
        let at = tail.end;
        if let Err(error) = self.file.write_at(frames, at).and_then(|()| self.file.sync()) {
            tail.torn = true;
            // If that fails too it is tried again before the next frame.
            let _ = self.mend(&mut tail);
            return Err(error);
        }
        tail.end += frames.len() as u64;
        Ok(at)
    }

    /// Cuts off what was never confirmed to anybody, and writes the header, which is always the same, anew.
    fn mend(&self, tail: &mut Tail) -> io::Result<()> {
        self.file.set_len(tail.end)?;
        self.file.write_at(HEADER, 0)?;
        self.file.sync()?;
        tail.torn = false;
        Ok(())
    }

    /// Reads a letter.
    pub(super) fn read(&self, at: u64, len: usize) -> io::Result<DeadLetter> {
        let mut bytes = vec![0; len];
        self.file.read_at(&mut bytes, at)?;
        match frame::unseal(&bytes, format::SEED).and_then(format::read) {
            Some(Item::Letter(letter)) => Ok(*letter),
            _ => Err(io::ErrorKind::InvalidData.into()),
        }
    }
}

// === impl Contents ===

impl Contents {
    /// Letters that are not gone.
    pub(super) fn into_letters(self) -> impl Iterator<Item = Slip> {
        let Self { letters, gone, .. } = self;
        letters.into_iter().filter(move |slip| !gone.contains(&slip.id))
    }

    fn piece(&mut self, piece: Piece<'_>, bytes: &[u8]) {
        match piece {
            Piece::Frame { at, payload } => match format::read(payload) {
                Some(Item::Letter(letter)) => {
                    self.last_id = self.last_id.max(letter.id);
                    let (at, len) = (at as u64, frame::HEAD + payload.len());
                    self.letters.push(Slip { id: letter.id, lane: letter.lane, dead_ms: letter.dead_ms, at, len });
                }
                Some(Item::Gone(ids)) => {
                    self.last_id = ids.iter().copied().fold(self.last_id, u64::max);
                    self.gone.extend(ids);
                }
                None => self.damaged.push((at, payload.to_vec())),
            },
            Piece::Gap { from, to } => self.damaged.push((from, bytes.get(from..to).unwrap_or_default().to_vec())),
        }
    }
}
