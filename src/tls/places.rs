//! Where certificates lie: the operator's folder, and that of what was issued here.

use std::collections::{BTreeSet, HashSet};
use std::fmt;
use std::io::{self, ErrorKind};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use crate::account::ServerName;

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

/// What becomes of names while the directory of their certificates is not to be had.
const SERVED_ON: &str = "names with a certificate in it are served on where somebody visited them since the start of the \
                         gateway, the others not until it is back, whatever is listed for them";

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
type Names = Result<Entries, DirectoryProblem>;

/// Which directory it is, whatever is in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Identity {
    device: u64,
    inode: u64,
}

/// What is in a directory.
#[derive(Default)]
struct Entries {
    /// `None` = it is not there.
    identity: Option<Identity>,
    names: HashSet<Box<str>>,
    /// Folders that are called like a server name, and as the gateway writes none.
    nameless: BTreeSet<Box<str>>,
}

/// What is wrong with a directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DirectoryProblem {
    /// The directory.
    pub directory: PathBuf,
    /// What it is.
    pub fault: DirectoryFault,
}

/// The ways in which a directory can be wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DirectoryFault {
    /// It cannot be read: the certificates below it stay what they were.
    Unlisted(ErrorKind),
    /// Names were served from it, and it is not there any more: the same.
    Absent,
    /// Names were served from the directory that was there before, and in this one there is nothing for any: the same.
    Replaced,
    /// Folders in it can never serve a name, for what they are called.
    Nameless {
        /// One of them.
        first: Box<str>,
        /// How many there are.
        folders: usize,
    },
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

    /// Whether ACME renews it, where it is enabled: it orders no wildcards.
    pub(super) fn is_renewed(self) -> bool {
        self == Origin::Issued
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

    /// What there is. `home` is the operator's directory that names are served from.
    pub(super) fn list(&self, home: Option<Identity>) -> Listing {
        Listing { operator: self.list_operators(home), issued: names_in(&self.issued_dir) }
    }

    /// Whether the operator's directory that names are served from is away. Cheap while it is there.
    pub(super) fn is_away(&self, home: Option<Identity>) -> bool {
        let is_other = home.is_some() && home != Identity::of(&self.certs_dir);
        is_other && self.list_operators(home).is_err_and(|problem| problem.is_away())
    }

    /// Where a volume is not mounted there is no directory, or an empty one in its place.
    fn list_operators(&self, home: Option<Identity>) -> Names {
        let entries = names_in(&self.certs_dir)?;
        let is_of_name = |entry: &str| entry.strip_prefix(WILDCARD).unwrap_or(entry).parse::<ServerName>().is_ok();
        if home.is_none() || home == entries.identity || entries.names.iter().any(|entry| is_of_name(entry)) {
            return Ok(entries);
        }
        let fault = entries.identity.map_or(DirectoryFault::Absent, |_| DirectoryFault::Replaced);
        Err(DirectoryProblem { directory: self.certs_dir.clone(), fault })
    }
}

// === impl Identity ===

impl Identity {
    /// That of a directory; `None` if it cannot be looked at.
    pub(super) fn of(directory: &Path) -> Option<Self> {
        let metadata = std::fs::metadata(directory).ok()?;
        Some(Self { device: metadata.dev(), inode: metadata.ino() })
    }
}

/// A directory that is not there is empty.
fn names_in(directory: &Path) -> Names {
    match read_names(directory) {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(Entries::default()),
        Err(error) => {
            Err(DirectoryProblem { directory: directory.to_owned(), fault: DirectoryFault::Unlisted(error.kind()) })
        }
        Ok(names) => Ok(names),
    }
}

fn read_names(directory: &Path) -> io::Result<Entries> {
    let listed = std::fs::read_dir(directory)?;
    let mut entries = Entries { identity: Identity::of(directory), ..Entries::default() };
    for entry in listed {
        let entry = entry?;
        let file_name = entry.file_name();
        // What is no UTF-8 is no server name.
        let Ok(name) = std::str::from_utf8(file_name.as_bytes()) else { continue };
        if is_misspelt(name) && entry.file_type().is_ok_and(|kind| !kind.is_file()) {
            entries.nameless.insert(name.into());
        }
        entries.names.insert(name.into());
    }
    Ok(entries)
}

/// Whether it looks like a server name, and is written as none is here: names are of small letters, digits and hyphens.
fn is_misspelt(name: &str) -> bool {
    let host = name.strip_prefix(WILDCARD).unwrap_or(name);
    let is_plain = |byte: u8| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.');
    let looks_like_one = host.contains('.') && !host.starts_with('.');
    looks_like_one && (host.ends_with('.') || !host.bytes().all(is_plain))
}

// === impl Listing ===

impl Listing {
    /// Whether there is a folder; `None` if that cannot be said.
    pub(super) fn has(&self, origin: Origin, key: &str) -> Option<bool> {
        let names = &self.entries(origin).as_ref().ok()?.names;
        if origin.is_wildcard() {
            // Few have any.
            return Some(names.contains(&*[WILDCARD, key].concat()));
        }
        Some(names.contains(key))
    }

    /// Whether it is known what is in the operator's directory.
    pub(super) fn has_operators(&self) -> bool {
        self.operator.is_ok()
    }

    /// The keys of a wildcard origin's folders.
    pub(super) fn wildcards(&self, origin: Origin) -> impl Iterator<Item = &str> {
        let names = self.entries(origin).iter().flat_map(|entries| &entries.names);
        names.filter_map(|name| name.strip_prefix(WILDCARD))
    }

    /// What is wrong with the directories of these folders. The gateway itself writes what was issued here.
    pub(super) fn problems(&self, folders: &CertFolders) -> Vec<DirectoryProblem> {
        let unlisted = [&self.operator, &self.issued].into_iter().filter_map(|entries| entries.as_ref().err().cloned());
        let nameless = self.operator.as_ref().ok().map(|entries| &entries.nameless);
        let nameless = nameless.and_then(|nameless| {
            let fault = DirectoryFault::Nameless { first: nameless.first()?.clone(), folders: nameless.len() };
            Some(DirectoryProblem { directory: folders.certs_dir.clone(), fault })
        });
        unlisted.chain(nameless).collect()
    }

    fn entries(&self, origin: Origin) -> &Names {
        if origin.is_issued() { &self.issued } else { &self.operator }
    }
}

// === impl DirectoryProblem ===

impl DirectoryProblem {
    /// Whether it is not known what is in it: it is looked at again.
    pub(super) fn is_unlisted(&self) -> bool {
        matches!(self.fault, DirectoryFault::Unlisted(_)) || self.is_away()
    }

    fn is_away(&self) -> bool {
        matches!(self.fault, DirectoryFault::Absent | DirectoryFault::Replaced)
    }

    /// What to do about it.
    pub fn remedy(&self) -> &'static str {
        match self.fault {
            DirectoryFault::Unlisted(ErrorKind::PermissionDenied) => {
                "let the gateway's user list the directory, then `pixelgate cert reload`"
            }
            DirectoryFault::Unlisted(_) => "see that the directory can be read, then `pixelgate cert reload`",
            DirectoryFault::Absent | DirectoryFault::Replaced => {
                "mount it or put it back, or mend the path in certs_dir, then `pixelgate cert reload` (it is also looked at each \
                 minute); if none of the certificates in it is to be served any more, restart the gateway"
            }
            DirectoryFault::Nameless { .. } => {
                "call it as `pixelgate cert list` shows the name: small letters, no dot at the end, other letters than a to z as \
                 A-labels (xn--…), _.shop.example for the wildcard *.shop.example; or keep it elsewhere; then `pixelgate cert reload`"
            }
        }
    }
}

impl fmt::Display for DirectoryProblem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.fault {
            DirectoryFault::Unlisted(kind) => {
                write!(f, "the certificates in it cannot be listed: {kind}; {SERVED_ON}")
            }
            DirectoryFault::Absent => write!(f, "names were served from it, and it is not there now; {SERVED_ON}"),
            DirectoryFault::Replaced => {
                write!(
                    f,
                    "names were served from the directory that was here, and this is another one, with no name's folder in it; {SERVED_ON}"
                )
            }
            DirectoryFault::Nameless { first, folders: 1 } => {
                write!(f, "the folder {first} in it serves nothing: no name is written so")
            }
            DirectoryFault::Nameless { first, folders } => {
                write!(f, "{folders} folders in it serve nothing, {first} among them: no name is written so")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_as_no_name_is_told_from_what_is_none() {
        for misspelt in
            ["*.shop.example", "_wildcard.shop.example", "Shop.example", "shop.example.", "b\u{fc}cher.example"]
        {
            assert!(is_misspelt(misspelt), "{misspelt}");
        }
        for other in
            ["shop.example", "_.shop.example", "xn--bcher-kva.example", "shop.example.bak", "README", ".git", "Old"]
        {
            assert!(!is_misspelt(other), "{other}");
        }
    }
}
