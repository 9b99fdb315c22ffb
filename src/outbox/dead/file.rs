//! One file of dead letters: read at a start, appended to, removed when all its letters are gone.

use std::collections::HashSet;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use super::DeadLetter;
use super::format::{self, HEADER, Item};
use crate::account::AccountId;
use crate::outbox::locked;
use crate::outbox::log::file::{Disk, DiskFile, read_all};
use crate::outbox::log::frame::{self, Frames, Piece};

/// A file that is open.
pub(super) struct DeadFile {
    pub(super) path: PathBuf,
    file: Box<dyn DiskFile>,
    /// Where the next frame goes; none after a failure, which is final for the file.
    end: Mutex<Option<u64>>,
}

/// What is known of a letter without reading it.
pub(super) struct Slip {
    pub(super) id: u64,
    pub(super) account: AccountId,
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
        file.write_at(HEADER, 0)?;
        file.sync()?;
        disk.sync_dir(dir)?;
        Ok(Self { path, file, end: Mutex::new(Some(HEADER.len() as u64)) })
    }

    /// Opens a file and reads it. A torn end is cut.
    pub(super) fn open(disk: &dyn Disk, dir: &Path, name: &str) -> io::Result<(Self, Contents)> {
        let path = dir.join(name);
        let file = disk.open(&path)?;
        let bytes = read_all(&*file)?;
        let mut contents = Contents::default();
        let mut frames = Frames::new(&bytes, HEADER.len().min(bytes.len()), format::SEED, format::likely);
        for piece in &mut frames {
            contents.piece(piece, &bytes);
        }
        let end = frames.end();
        if end < bytes.len() {
            file.set_len(end as u64)?;
        }
        // A killed process's last write may be in the page cache only.
        file.sync()?;
        // One whose header was never written takes no more; whatever is in it is kept all the same.
        let end = bytes.starts_with(HEADER).then_some(end as u64);
        Ok((Self { path, file, end: Mutex::new(end) }, contents))
    }

    /// Whether it takes more letters.
    pub(super) fn is_writable(&self) -> bool {
        locked(&self.end).is_some_and(|end| end < FILE_BYTES_MAX)
    }

    /// Bytes of it.
    pub(super) fn bytes(&self) -> u64 {
        self.file.len().unwrap_or(0)
    }

    /// Appends frames and makes them durable; gives where they begin.
    pub(super) fn append(&self, frames: &[u8]) -> io::Result<u64> {
        let mut end = locked(&self.end);
        let at = end.ok_or_else(|| io::Error::other("an earlier write to this file failed"))?;
        match self.file.write_at(frames, at).and_then(|()| self.file.sync()) {
            Ok(()) => {
                *end = Some(at + frames.len() as u64);
                Ok(at)
            }
            Err(error) => {
                *end = None;
                // Best effort: what is left behind the last good frame was never confirmed to anybody.
                let _ = self.file.set_len(at);
                Err(error)
            }
        }
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
                Some(Item::Letter(letter)) => self.letters.push(Slip {
                    id: letter.id,
                    account: letter.lane.account,
                    dead_ms: letter.dead_ms,
                    at: at as u64,
                    len: frame::HEAD + payload.len(),
                }),
                Some(Item::Gone(ids)) => self.gone.extend(ids),
                None => self.damaged.push((at, payload.to_vec())),
            },
            Piece::Gap { from, to } => self.damaged.push((from, bytes.get(from..to).unwrap_or_default().to_vec())),
        }
    }
}
