//! Where certificates lie: the operator's folder, and that of what was issued here.

use std::borrow::Cow;
use std::collections::HashSet;
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
    operator: HashSet<Box<str>>,
    issued: HashSet<Box<str>>,
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

    /// The folder's name for a server name; a wildcard `*.shop.example` lives in `_.shop.example`.
    pub(super) fn key(self, name: &str) -> Option<Cow<'_, str>> {
        if !self.is_wildcard() {
            return Some(Cow::Borrowed(name));
        }
        name.split_once('.').map(|(_, rest)| Cow::Owned(format!("_.{rest}")))
    }
}

// === impl CertFolders ===

impl CertFolders {
    /// The folder of an origin's key.
    pub(super) fn path(&self, origin: Origin, key: &str) -> PathBuf {
        if origin.is_issued() { self.issued_dir.join(key).join("live") } else { self.certs_dir.join(key) }
    }

    pub(super) fn list(&self) -> Listing {
        Listing { operator: names_in(&self.certs_dir), issued: names_in(&self.issued_dir) }
    }
}

/// What cannot be read is like what is not there: every name below it is told as missing.
fn names_in(folder: &Path) -> HashSet<Box<str>> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_str().map(Into::into)).collect()
}

// === impl Listing ===

impl Listing {
    pub(super) fn has(&self, origin: Origin, key: &str) -> bool {
        if origin.is_issued() { self.issued.contains(key) } else { self.operator.contains(key) }
    }
}
