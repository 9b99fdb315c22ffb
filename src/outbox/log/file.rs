//! The file layer: all that the outbox asks of a file system, and the real one.

use std::fs::{File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

/// A file system.
pub(crate) trait Disk: Send + Sync {
    /// Makes a folder and those above it; one that is there is fine.
    fn create_dir(&self, dir: &Path) -> io::Result<()>;
    /// Names of the files in a folder.
    fn list(&self, dir: &Path) -> io::Result<Vec<String>>;
    /// Makes a new, empty file; an error if there is one of that name.
    fn create(&self, path: &Path) -> io::Result<Box<dyn DiskFile>>;
    /// Opens a file that is there, for reading and writing.
    fn open(&self, path: &Path) -> io::Result<Box<dyn DiskFile>>;
    /// Opens a file, a new one if there is none.
    fn create_or_open(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        match self.create(path) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => self.open(path),
            made => made,
        }
    }
    /// Gives a file another name, in place of what had it.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// Removes a file's name.
    fn remove(&self, path: &Path) -> io::Result<()>;
    /// Makes the names in a folder durable.
    fn sync_dir(&self, dir: &Path) -> io::Result<()>;
    /// Room on the volume that a folder is on.
    fn space(&self, dir: &Path) -> io::Result<Space>;
    /// Takes a lock file for this process; `WouldBlock` if another one has it.
    fn lock(&self, path: &Path) -> io::Result<Lock>;
}

/// An open file.
pub(crate) trait DiskFile: Send + Sync {
    /// Its size.
    fn len(&self) -> io::Result<u64>;
    /// Reads exactly what fills `buffer`.
    fn read_at(&self, buffer: &mut [u8], at: u64) -> io::Result<()>;
    /// Writes all of `bytes`.
    fn write_at(&self, bytes: &[u8], at: u64) -> io::Result<()>;
    /// Makes what was written durable (`fdatasync`). After an error nothing may be believed of what was not synced.
    fn sync(&self) -> io::Result<()>;
    /// Cuts or extends it.
    fn set_len(&self, len: u64) -> io::Result<()>;
}

/// Held as long as the lock is.
pub(crate) type Lock = Box<dyn Send + Sync>;

/// Room on a volume, bytes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Space {
    /// What a process without privileges may still write.
    pub(crate) free: u64,
}

/// The file system of the machine.
pub(crate) struct RealDisk;

/// Reads a whole file.
pub(crate) fn read_all(file: &dyn DiskFile) -> io::Result<Vec<u8>> {
    let len = usize::try_from(file.len()?).map_err(io::Error::other)?;
    let mut bytes = vec![0; len];
    file.read_at(&mut bytes, 0)?;
    Ok(bytes)
}

// === impl RealDisk ===

impl Disk for RealDisk {
    fn create_dir(&self, dir: &Path) -> io::Result<()> {
        std::fs::create_dir_all(dir)
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        std::fs::read_dir(dir)?.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned())).collect()
    }

    fn create(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        let file = OpenOptions::new().read(true).write(true).create_new(true).open(path)?;
        Ok(Box::new(file))
    }

    fn open(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        let file = OpenOptions::new().read(true).write(true).open(path)?;
        Ok(Box::new(file))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        std::fs::rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        std::fs::remove_file(path)
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        File::open(dir)?.sync_all()
    }

    fn space(&self, dir: &Path) -> io::Result<Space> {
        let volume = rustix::fs::statvfs(dir)?;
        Ok(Space { free: volume.f_bavail.saturating_mul(volume.f_frsize) })
    }

    fn lock(&self, path: &Path) -> io::Result<Lock> {
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path)?;
        match file.try_lock() {
            Ok(()) => Ok(Box::new(file)),
            Err(TryLockError::WouldBlock) => Err(io::ErrorKind::WouldBlock.into()),
            Err(TryLockError::Error(error)) => Err(error),
        }
    }
}

impl DiskFile for File {
    fn len(&self) -> io::Result<u64> {
        Ok(self.metadata()?.len())
    }

    fn read_at(&self, buffer: &mut [u8], at: u64) -> io::Result<()> {
        FileExt::read_exact_at(self, buffer, at)
    }

    fn write_at(&self, bytes: &[u8], at: u64) -> io::Result<()> {
        FileExt::write_all_at(self, bytes, at)
    }

    fn sync(&self) -> io::Result<()> {
        self.sync_data()
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        File::set_len(self, len)
    }
}
