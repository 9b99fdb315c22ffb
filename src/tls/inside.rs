//! A folder that is open: what is done in it is done there, wherever its path leads by then.
//!
//! Root, who imports certificates, writes into folders of the gateway's user, who could put links in their places.

use std::ffi::{CStr, CString};
use std::fs::{DirBuilder, File};
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use rustix::fs::{
    AtFlags, CWD, Dir, FileType, FlockOperation, Gid, Mode, OFlags, Uid, chownat, fchown, flock, fstat, fsync, mkdirat,
    openat, readlinkat, renameat, statat, symlinkat, unlinkat,
};
use rustix::io::Errno;
use rustix::process::geteuid;

use crate::tls::way::walk;

/// The folder, and whom belongs what is made in it, if not to us.
pub(super) struct Inside {
    folder: OwnedFd,
    /// By which it was entered, for messages.
    path: PathBuf,
    owner: Option<(Uid, Gid)>,
}

/// Bytes of a file that are read; a longer one is neither certificate nor key.
const FILE_BYTES_MAX: u64 = 256 * 1024;

// === impl Inside ===

impl Inside {
    /// Opens a folder. As root: by a way on which nobody else leads it elsewhere, and all that is made in the folder, and in
    /// folders in it, belongs to its owner.
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        Self::at(path, false)
    }

    /// The same of a folder that is made if it is not there, with those above it.
    pub(super) fn make(path: &Path) -> io::Result<Self> {
        if !geteuid().is_root() {
            DirBuilder::new().recursive(true).mode(0o700).create(path)?;
        }
        Self::at(path, true)
    }

    fn at(path: &Path, make: bool) -> io::Result<Self> {
        let is_root = geteuid().is_root();
        let folder = match is_root {
            // The way there needs no right to list folders; what is done in this one does.
            true => openat(walk(path, make)?, ".", folder_flags(), Mode::empty())?,
            false => openat(CWD, path, folder_flags(), Mode::empty())?,
        };
        let owner = fstat(&folder)?;
        let is_others = is_root && owner.st_uid != 0;
        let owner = is_others.then(|| (Uid::from_raw(owner.st_uid), Gid::from_raw(owner.st_gid)));
        Ok(Self { folder, path: path.to_owned(), owner })
    }

    /// Whether what is in it is another user's, and so not to be trusted.
    pub(super) fn is_others(&self) -> bool {
        self.owner.is_some()
    }

    /// Opens a folder in it, which is made if it is not there; `None` = somebody removed it meanwhile.
    ///
    /// # Errors
    /// What the operating system says; or root has something in it. The owner of the folder around it can rename any folder
    /// of root's to this name, also in place of one that was just made: only an empty one is given to him.
    pub(super) fn enter(&self, name: &Path) -> io::Result<Option<Self>> {
        match mkdirat(&self.folder, name, Mode::RWXU) {
            Err(Errno::EXIST) => {}
            made => made?,
        }
        let Some(entered) = self.find(name)? else { return Ok(None) };
        if let Some((user, group)) = self.owner
            && fstat(&entered.folder)?.st_uid == 0
        {
            if !entered.names()?.is_empty() {
                let (path, user, group) = (entered.path.display(), user.as_raw(), group.as_raw());
                return Err(io::Error::other(format!(
                    "{path} is root's, and there is something in it: if that may be the gateway's, `chown -R {user}:{group} {path}`"
                )));
            }
            self.give(entered.folder.as_fd())?;
        }
        Ok(Some(entered))
    }

    /// Opens a folder in it, if it is there.
    pub(super) fn find(&self, name: &Path) -> io::Result<Option<Self>> {
        match openat(&self.folder, name, folder_flags() | OFlags::NOFOLLOW, Mode::empty()) {
            Err(Errno::NOENT) => Ok(None),
            folder => Ok(Some(Self { folder: folder?, path: self.path.join(name), owner: self.owner })),
        }
    }

    /// Waits until nobody else has its lock, which ends with this.
    pub(super) fn lock(&self) -> io::Result<()> {
        Ok(rustix::io::retry_on_intr(|| flock(&self.folder, FlockOperation::LockExclusive))?)
    }

    /// The same without waiting; says whether it has it.
    pub(super) fn try_lock(&self) -> io::Result<bool> {
        match flock(&self.folder, FlockOperation::NonBlockingLockExclusive) {
            Err(Errno::WOULDBLOCK) => Ok(false),
            locked => Ok(locked.map(|()| true)?),
        }
    }

    /// Whether a name in it leads to this folder still.
    pub(super) fn leads_to(&self, name: &Path, folder: &Self) -> io::Result<bool> {
        let there = fstat(&folder.folder)?;
        match statat(&self.folder, name, AtFlags::SYMLINK_NOFOLLOW) {
            Err(Errno::NOENT) => Ok(false),
            found => Ok(found.map(|found| (found.st_dev, found.st_ino) == (there.st_dev, there.st_ino))?),
        }
    }

    /// Writes a new file that only its owner may read, durable when it returns.
    pub(super) fn write(&self, name: &str, content: &[u8]) -> io::Result<()> {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let mut file = File::from(openat(&self.folder, name, flags, Mode::RUSR | Mode::WUSR)?);
        self.give(file.as_fd())?;
        file.write_all(content)?;
        file.sync_all()
    }

    /// Reads a file, if it is there.
    pub(super) fn read(&self, name: &str) -> io::Result<Option<Vec<u8>>> {
        // It could be a pipe, on which nobody ever writes.
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let file = match openat(&self.folder, name, flags, Mode::empty()) {
            Err(Errno::NOENT) => return Ok(None),
            file => File::from(file?),
        };
        let mut content = Vec::new();
        file.take(FILE_BYTES_MAX).read_to_end(&mut content)?;
        Ok(Some(content))
    }

    pub(super) fn sync(&self) -> io::Result<()> {
        Ok(fsync(&self.folder)?)
    }

    pub(super) fn has(&self, name: &str) -> bool {
        statat(&self.folder, name, AtFlags::SYMLINK_NOFOLLOW).is_ok()
    }

    pub(super) fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        Ok(renameat(&self.folder, from, &self.folder, to)?)
    }

    pub(super) fn link(&self, to: &str, name: &str) -> io::Result<()> {
        symlinkat(to, &self.folder, name)?;
        if let Some((user, group)) = self.owner {
            // The folder's owner may have put a file of root's in its place: only a link is given to him.
            let made = openat(&self.folder, name, OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())?;
            if FileType::from_raw_mode(fstat(&made)?.st_mode).is_symlink() {
                chownat(&made, "", Some(user), Some(group), AtFlags::EMPTY_PATH)?;
            }
        }
        Ok(())
    }

    /// Where a link leads; `None` = there is none.
    pub(super) fn link_of(&self, name: &str) -> Option<CString> {
        readlinkat(&self.folder, name, Vec::new()).ok()
    }

    pub(super) fn names(&self) -> io::Result<Vec<CString>> {
        let entries = Dir::read_from(&self.folder)?.map(|entry| entry.map(|entry| entry.file_name().to_owned()));
        let names = entries.collect::<Result<Vec<_>, _>>()?;
        Ok(names.into_iter().filter(|name| !matches!(name.to_bytes(), b"." | b"..")).collect())
    }

    /// Removes a file, a link, or a folder of these.
    pub(super) fn remove(&self, name: &CStr) -> io::Result<()> {
        match unlinkat(&self.folder, name, AtFlags::empty()) {
            Err(Errno::ISDIR) => self.remove_folder(name),
            removed => Ok(removed?),
        }
    }

    /// Removes a folder of files and links.
    pub(super) fn remove_folder(&self, name: &CStr) -> io::Result<()> {
        let folder = openat(&self.folder, name, folder_flags() | OFlags::NOFOLLOW, Mode::empty())?;
        let folder = Self { folder, path: PathBuf::new(), owner: None };
        for file in folder.names()? {
            unlinkat(&folder.folder, &file, AtFlags::empty())?;
        }
        Ok(unlinkat(&self.folder, name, AtFlags::REMOVEDIR)?)
    }

    fn give(&self, made: BorrowedFd<'_>) -> io::Result<()> {
        let Some((user, group)) = self.owner else { return Ok(()) };
        Ok(fchown(made, Some(user), Some(group))?)
    }
}

fn folder_flags() -> OFlags {
    OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC
}
