//! Where certificates lie: the operator's folder, and that of what was issued here.

use std::collections::HashSet;
use std::fmt;
use std::io::{self, ErrorKind};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// Where certificates lie.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct CertFolders {
    /// The operator's, only ever read: `<server name>/chain.pem` with `key.pem`.
    pub certs_dir: PathBuf,
    /// What was issued or imported here: the same in `<server name>/live/`.
    pub issued_dir: PathBuf,
    /// The file in which validities are kept for the next start.
    pub index: PathBuf,
}

/// What a wildcard's folder begins with, in the place of `*.`.
const WILDCARD: &str = "_.";

/// Whose certificate it is, in the order in which they are preferred.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Origin {
    /// The operator's for this very name.
    Operator,
    /// Issued here for this very name.
    Issued,
    /// The operator's, for all names below one.
    OperatorWildcard,
    /// Issued here, for all names below one.
    IssuedWildcard,
}

/// The folders that there are, found by reading each directory once.
pub(super) struct Listing {
    operator: Names,
    issued: Names,
}

/// The names in a directory, or why they cannot be had.
type Names = Result<HashSet<Box<str>>, DirectoryProblem>;

/// A directory that cannot be read: the certificates below it stay what they were.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DirectoryProblem {
    /// The directory.
    pub directory: PathBuf,
    /// What the operating system says.
    pub kind: ErrorKind,
}

// === impl Origin ===

impl Origin {
    /// All, the most preferred first.
    pub(super) const ALL: [Origin; 4] =
        [Origin::Operator, Origin::Issued, Origin::OperatorWildcard, Origin::IssuedWildcard];

    /// Whether it is for all names below one.
    pub fn is_wildcard(self) -> bool {
        matches!(self, Origin::OperatorWildcard | Origin::IssuedWildcard)
    }

    /// Whether it lies in the folder of what was issued here.
    pub fn is_issued(self) -> bool {
        matches!(self, Origin::Issued | Origin::IssuedWildcard)
    }

    /// What stands for a server name in the folder's name: the name, or for a wildcard the name above it.
    pub(super) fn key(self, name: &str) -> Option<&str> {
        if self.is_wildcard() { parent(name) } else { Some(name) }
    }

    /// The folder's path below the directory of its origin; a wildcard `*.shop.example` lives in `_.shop.example`.
    pub(super) fn folder(self, key: &str) -> String {
        let wildcard = if self.is_wildcard() { WILDCARD } else { "" };
        let live = if self.is_issued() { "/live" } else { "" };
        [wildcard, key, live].concat()
    }
}

/// The name without its first label.
pub(super) fn parent(name: &str) -> Option<&str> {
    name.split_once('.').map(|(_, parent)| parent)
}

// === impl CertFolders ===

impl CertFolders {
    /// The folder of an origin's key.
    pub(super) fn path(&self, origin: Origin, key: &str) -> PathBuf {
        self.directory(origin).join(origin.folder(key))
    }

    /// The directory of an origin's folders.
    pub(super) fn directory(&self, origin: Origin) -> &Path {
        if origin.is_issued() { &self.issued_dir } else { &self.certs_dir }
    }

    pub(super) fn list(&self) -> Listing {
        Listing { operator: names_in(&self.certs_dir), issued: names_in(&self.issued_dir) }
    }
}

/// A directory that is not there is empty.
fn names_in(directory: &Path) -> Names {
    match read_names(directory) {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(HashSet::new()),
        Err(error) => Err(DirectoryProblem { directory: directory.to_owned(), kind: error.kind() }),
        Ok(names) => Ok(names),
    }
}

fn read_names(directory: &Path) -> io::Result<HashSet<Box<str>>> {
    let mut names = HashSet::new();
    for entry in std::fs::read_dir(directory)? {
        // What is no UTF-8 is no server name.
        names.extend(std::str::from_utf8(entry?.file_name().as_bytes()).ok().map(Box::from));
    }
    Ok(names)
}

// === impl Listing ===

impl Listing {
    /// Whether there is a folder; `None` if that cannot be said.
    pub(super) fn has(&self, origin: Origin, key: &str) -> Option<bool> {
        let names = self.names(origin).as_ref().ok()?;
        if origin.is_wildcard() {
            // Few have any.
            return Some(names.contains(&*[WILDCARD, key].concat()));
        }
        Some(names.contains(key))
    }

    /// The keys of a wildcard origin's folders.
    pub(super) fn wildcards(&self, origin: Origin) -> impl Iterator<Item = &str> {
        let names = self.names(origin).iter().flatten();
        names.filter_map(|name| name.strip_prefix(WILDCARD))
    }

    pub(super) fn problems(&self) -> impl Iterator<Item = &DirectoryProblem> {
        [&self.operator, &self.issued].into_iter().filter_map(|names| names.as_ref().err())
    }

    fn names(&self, origin: Origin) -> &Names {
        if origin.is_issued() { &self.issued } else { &self.operator }
    }
}

// === impl DirectoryProblem ===

impl DirectoryProblem {
    /// What to do about it.
    pub fn remedy(&self) -> &'static str {
        match self.kind {
            ErrorKind::PermissionDenied => "let the gateway's user list the directory, then reload",
            _ => "see that the directory can be read, then reload",
        }
    }
}

impl fmt::Display for DirectoryProblem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the certificates in it cannot be listed: {}; those known before are served on", self.kind)
    }
}
