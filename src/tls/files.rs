//! The files of one folder as the operating system has them: looked at with as few calls as can be, and told from what
//! they were before by a stamp.

use std::fs::File;
use std::io::{self, ErrorKind, Read};
use std::os::fd::{BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, Statx, StatxFlags, openat, statx};
use rustix::io::Errno;

use crate::tls::credential::CredentialError;

/// Bytes of a file; a chain of ten RSA-4096 certificates is a tenth of it.
const FILE_BYTES_MAX: usize = 256 * 1024;
/// How old a change must be, in seconds, for its stamp to be believed: one within the same tick of the file system's clock
/// would leave the same stamp (git's "racy" files). A clock that is ahead of ours by more says nothing.
const SETTLED_AFTER: i64 = 1;

/// A file of a folder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Part {
    Chain,
    Key,
    RsaChain,
    RsaKey,
}

/// What is wrong with a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Cause {
    Absent,
    Io(ErrorKind),
    Content(CredentialError),
}

/// Device, inode, size and times of a folder and of the files in it that are there, as one number (FNV-1a, 64 bits: it is
/// kept on disk). Symbolic links are followed, so a link that was switched to another folder is a change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Stamp(u64);

/// A folder to look into.
pub(super) struct Place<'a> {
    above: BorrowedFd<'a>,
    /// The folder's path below `above`, and in calls a file's behind it.
    path: Vec<u8>,
    folder_bytes: usize,
}

/// What was in a folder.
pub(super) struct Contents {
    pub(super) stamp: Stamp,
    /// Unix seconds of the last change.
    changed: i64,
    parts: [Result<Vec<u8>, Cause>; 4],
}

/// A stamp in the making.
struct Stamping {
    hash: u64,
    changed: i64,
}

/// Opens a folder to look into folders below it.
pub(super) fn open_folder(path: &Path) -> Option<OwnedFd> {
    rustix::fs::open(path, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty()).ok()
}

// === impl Part ===

impl Part {
    pub(super) const ALL: [Part; 4] = [Part::Chain, Part::Key, Part::RsaChain, Part::RsaKey];

    /// Its file's name.
    pub(super) fn file(self) -> &'static str {
        match self {
            Part::Chain => "chain.pem",
            Part::Key => "key.pem",
            Part::RsaChain => "chain.rsa.pem",
            Part::RsaKey => "key.rsa.pem",
        }
    }
}

// === impl Cause ===

impl Cause {
    /// Whether it stays until somebody mends the file; of anything else the system may be short for a moment.
    pub(super) fn is_lasting(self) -> bool {
        use ErrorKind::{FileTooLarge, IsADirectory, NotFound, PermissionDenied, Unsupported};
        // What is not found is so with the whole directory that it was in: else it is absent.
        matches!(self, Cause::Io(FileTooLarge | IsADirectory | NotFound | PermissionDenied | Unsupported))
    }
}

impl From<Errno> for Cause {
    fn from(error: Errno) -> Self {
        if error == Errno::NOENT { Cause::Absent } else { Cause::Io(io::Error::from(error).kind()) }
    }
}

// === impl Stamp ===

impl Stamp {
    /// Of what cannot be looked at; no files have it.
    pub(super) const NONE: Stamp = Stamp(0);

    pub(super) fn to_bytes(self) -> [u8; 8] {
        self.0.to_le_bytes()
    }

    pub(super) fn from_bytes(bytes: [u8; 8]) -> Self {
        Self(u64::from_le_bytes(bytes))
    }
}

// === impl Place ===

impl Place<'_> {
    /// A folder by its whole path.
    pub(super) fn new(path: Vec<u8>) -> Self {
        Place::below(CWD, path)
    }
}

impl<'a> Place<'a> {
    /// A folder by its path below another.
    pub(super) fn below(above: BorrowedFd<'a>, path: Vec<u8>) -> Self {
        let folder_bytes = path.len();
        Self { above, path, folder_bytes }
    }

    /// The stamp of the folder and of these files now, as far as they can be looked at; `None` if the folder cannot.
    pub(super) fn stamp(&mut self, parts: &[Part]) -> Option<Stamp> {
        let mut stamping = Stamping::new();
        stamping.add(&self.stat(None).ok()?);
        for part in parts {
            self.stat(Some(*part)).iter().for_each(|stat| stamping.add(stat));
        }
        Some(Stamp(stamping.hash))
    }

    /// Reads what is there; `None` if none of the files is.
    ///
    /// # Errors
    /// When the folder cannot be looked at.
    pub(super) fn read(&mut self) -> Result<Option<Contents>, Cause> {
        let mut stamping = Stamping::new();
        match self.stat(None).map_err(Cause::from) {
            Ok(stat) => stamping.add(&stat),
            Err(Cause::Absent) => return Ok(None),
            Err(cause) => return Err(cause),
        }
        let parts = Part::ALL.map(|part| self.read_part(part, &mut stamping));
        if parts.iter().all(|part| matches!(part, Err(Cause::Absent))) {
            return Ok(None);
        }
        Ok(Some(Contents { stamp: Stamp(stamping.hash), changed: stamping.changed, parts }))
    }

    /// A file is stamped before it is read: what is written meanwhile is seen at the next look. One that is there and cannot
    /// be opened is stamped all the same, so that the stamp is what [`Place::stamp`] finds.
    fn read_part(&mut self, part: Part, stamping: &mut Stamping) -> Result<Vec<u8>, Cause> {
        // A pipe without a writer would be waited for.
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
        let (above, path) = (self.above, self.path_of(Some(part)));
        let file = match openat(above, path, flags, Mode::empty()) {
            Ok(file) => file,
            Err(error) => {
                self.stat(Some(part)).iter().filter(|_| error != Errno::NOENT).for_each(|stat| stamping.add(stat));
                return Err(error.into());
            }
        };
        let stat = statx(&file, c"", AtFlags::EMPTY_PATH, StatxFlags::BASIC_STATS)?;
        stamping.add(&stat);
        match FileType::from_raw_mode(stat.stx_mode.into()) {
            FileType::RegularFile => {}
            FileType::Directory => return Err(Cause::Io(ErrorKind::IsADirectory)),
            _ => return Err(Cause::Io(ErrorKind::Unsupported)),
        }
        match usize::try_from(stat.stx_size) {
            Ok(size) if size <= FILE_BYTES_MAX => {
                read_all(File::from(file), size).map_err(|error| Cause::Io(error.kind()))
            }
            _ => Err(Cause::Io(ErrorKind::FileTooLarge)),
        }
    }

    fn stat(&mut self, part: Option<Part>) -> Result<Statx, Errno> {
        let (above, path) = (self.above, self.path_of(part));
        statx(above, path, AtFlags::empty(), StatxFlags::BASIC_STATS)
    }

    fn path_of(&mut self, part: Option<Part>) -> &[u8] {
        self.path.truncate(self.folder_bytes);
        if let Some(part) = part {
            self.path.push(b'/');
            self.path.extend_from_slice(part.file().as_bytes());
        }
        &self.path
    }
}

/// Reads a file of this size. One that grows meanwhile is read as it was, or is torn: its stamp will not be the same.
fn read_all(mut file: File, size: usize) -> io::Result<Vec<u8>> {
    let mut content = vec![0; size];
    let mut filled = 0;
    while let Some(rest) = content.get_mut(filled..).filter(|rest| !rest.is_empty()) {
        match file.read(rest) {
            Ok(0) => break,
            Ok(bytes) => filled += bytes,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    content.truncate(filled);
    Ok(content)
}

// === impl Contents ===

impl Contents {
    pub(super) fn part(&self, part: Part) -> Result<&[u8], Cause> {
        match self.parts.get(part as usize) {
            Some(Ok(content)) => Ok(content),
            Some(Err(cause)) => Err(*cause),
            None => Err(Cause::Absent),
        }
    }

    /// Whether a later change is sure to show in the stamp.
    pub(super) fn is_settled(&self, now: i64) -> bool {
        now.abs_diff(self.changed) > SETTLED_AFTER.unsigned_abs()
    }
}

// === impl Stamping ===

impl Stamping {
    fn new() -> Self {
        Self { hash: 0xcbf2_9ce4_8422_2325, changed: i64::MIN }
    }

    fn add(&mut self, stat: &Statx) {
        let (modified, changed) = (stat.stx_mtime, stat.stx_ctime);
        let device = u64::from(stat.stx_dev_major) << 32 | u64::from(stat.stx_dev_minor);
        let times = [modified.tv_sec.cast_unsigned(), changed.tv_sec.cast_unsigned()];
        let parts = u64::from(modified.tv_nsec) << 32 | u64::from(changed.tv_nsec);
        for number in [device, stat.stx_ino, stat.stx_size, times[0], times[1], parts] {
            for byte in number.to_le_bytes() {
                self.hash = (self.hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
            }
        }
        self.changed = self.changed.max(changed.tv_sec);
    }
}
