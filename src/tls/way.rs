//! The way to a folder that root is about to work in, on which nobody else leads it elsewhere.
//!
//! Who may write to a folder may put a link in the place of what is in it. So root goes from folder to folder, each opened in
//! the one before, and follows only links that nobody else can have put there, or on the way to there.

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStringExt;
use std::path::{Component, Path, PathBuf};

use rustix::fs::{AtFlags, CWD, Gid, Mode, OFlags, Stat, Uid, chownat, fstat, mkdirat, openat, readlinkat};
use rustix::io::Errno;

/// How far it has come.
struct Way {
    folder: OwnedFd,
    /// Its path, for a person.
    path: PathBuf,
    /// Root alone can have put there what is on the way so far.
    is_roots: bool,
}

/// Links on one way; Linux follows as many.
const LINKS_MAX: usize = 40;

/// Goes to a folder; those that are not there are made if `make` says so, each for the owner of the one above.
pub(super) fn walk(path: &Path, make: bool) -> io::Result<OwnedFd> {
    let (mut way, mut left, mut links) = (Way::begin()?, steps(&std::path::absolute(path)?), 0);
    while let Some(name) = left.pop() {
        let Some(link) = way.step(&name, make)? else { continue };
        links += 1;
        if links > LINKS_MAX {
            return Err(Errno::LOOP.into());
        }
        if link.is_absolute() {
            way = Way::begin()?;
        }
        left.extend(steps(&link));
    }
    Ok(way.folder)
}

/// The names in a path, the last first.
fn steps(path: &Path) -> Vec<OsString> {
    let names = path.components().rev().filter(|part| matches!(part, Component::Normal(_) | Component::ParentDir));
    names.map(|part| part.as_os_str().to_owned()).collect()
}

// === impl Way ===

impl Way {
    fn begin() -> io::Result<Self> {
        let path = PathBuf::from("/");
        Ok(Self { folder: openat(CWD, &path, flags(), Mode::empty())?, path, is_roots: true })
    }

    /// Goes into a folder, or says where a link of this name leads that may be followed.
    fn step(&mut self, name: &OsStr, make: bool) -> io::Result<Option<PathBuf>> {
        let above = fstat(&self.folder)?;
        let path = self.path.join(name);
        let folder = match openat(&self.folder, name, flags(), Mode::empty()) {
            Err(Errno::NOENT) if make => self.make(name, &above)?,
            Err(error @ (Errno::NOTDIR | Errno::LOOP)) => {
                let link = readlinkat(&self.folder, name, Vec::new()).map_err(|_| error)?;
                if !self.is_roots || is_open_to_others(&above) {
                    return Err(io::Error::other(format!(
                        "{} is a link that another user than root can have put there; name the folder that is meant",
                        path.display()
                    )));
                }
                return Ok(Some(OsString::from_vec(link.into_bytes()).into()));
            }
            folder => folder?,
        };
        // In a folder such as /tmp nobody takes away what is root's.
        let is_sticky = above.st_uid == 0 && Mode::from_raw_mode(above.st_mode).contains(Mode::SVTX);
        self.is_roots &= !is_open_to_others(&above) || is_sticky && fstat(&folder)?.st_uid == 0;
        (self.folder, self.path) = (folder, path);
        Ok(None)
    }

    fn make(&self, name: &OsStr, above: &Stat) -> io::Result<OwnedFd> {
        let made = match mkdirat(&self.folder, name, Mode::RWXU) {
            Err(Errno::EXIST) => false,
            made => made.map(|()| true)?,
        };
        let folder = openat(&self.folder, name, flags(), Mode::empty())?;
        if made && above.st_uid != 0 {
            let (user, group) = (Uid::from_raw(above.st_uid), Gid::from_raw(above.st_gid));
            chownat(&folder, "", Some(user), Some(group), AtFlags::EMPTY_PATH)?;
        }
        Ok(folder)
    }
}

/// Whether somebody else than root may put things into a folder.
fn is_open_to_others(folder: &Stat) -> bool {
    folder.st_uid != 0 || Mode::from_raw_mode(folder.st_mode).intersects(Mode::WGRP | Mode::WOTH)
}

/// To go on from, which needs no more rights than a path does.
fn flags() -> OFlags {
    OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::fs;
    use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink};

    use super::*;

    /// As root only: nobody else can give folders away.
    #[test]
    fn links_are_followed_where_root_alone_can_have_put_them() {
        if !rustix::process::geteuid().is_root() {
            return;
        }
        let dir = tempfile::tempdir().unwrap();
        let at = |path: &str| dir.path().join(path);
        fs::create_dir_all(at("roots/folder")).unwrap();
        fs::create_dir(at("theirs")).unwrap();
        fs::create_dir(at("open")).unwrap();
        chown(at("theirs"), Some(65_534), Some(65_533)).unwrap();
        fs::set_permissions(at("open"), fs::Permissions::from_mode(0o777)).unwrap();
        symlink(at("roots/folder"), at("absolute")).unwrap();
        symlink("../roots/folder", at("roots/relative")).unwrap();
        symlink("folder", at("roots/beside")).unwrap();
        symlink(at("theirs"), at("to-theirs")).unwrap();
        for link in ["theirs/link", "open/link"] {
            symlink(at("roots"), at(link)).unwrap();
        }
        symlink("round", at("round")).unwrap();
        let leads_to = |way: &str, folder: &str| {
            let there = fs::metadata(at(folder)).unwrap();
            let found = walk(&at(way), false).map(|found| fstat(&found).unwrap());
            found.is_ok_and(|found| (found.st_dev, found.st_ino) == (there.dev(), there.ino()))
        };
        for way in ["absolute", "roots/relative", "roots/beside", "to-theirs/../roots/folder"] {
            assert!(leads_to(way, "roots/folder"), "{way}");
        }
        assert!(leads_to("to-theirs", "theirs"));
        for way in ["theirs/link", "theirs/link/folder", "to-theirs/link", "open/link", "theirs/../absolute"] {
            let error = walk(&at(way), true).unwrap_err().to_string();
            assert!(error.contains("is a link"), "{way}: {error}");
        }
        assert_eq!(walk(&at("round"), false).unwrap_err().raw_os_error(), Some(Errno::LOOP.raw_os_error()));
        assert!(walk(&at("theirs/new/folder"), false).is_err());
        walk(&at("theirs/new/folder"), true).unwrap();
        walk(&at("roots/new"), true).unwrap();
        let owner = |path: &str| fs::metadata(at(path)).map(|made| (made.uid(), made.gid())).unwrap();
        assert_eq!((owner("theirs/new"), owner("theirs/new/folder")), ((65_534, 65_533), (65_534, 65_533)));
        assert_eq!(owner("roots/new"), (0, 0));
    }
}
