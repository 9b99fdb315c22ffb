//! Reads folders with certificates, their directories opened once.

use std::io::ErrorKind;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use crate::account::ServerName;
use crate::tls::entry::ByOwner;
use crate::tls::files::{Cause, Part, Place, open_folder};
use crate::tls::folder::{Folder, FolderError, Means};
use crate::tls::glance::Intermediates;
use crate::tls::native::Pool;
use crate::tls::places::{CertFolders, Identity, Origin};

/// Reads folders. Their directories are opened once.
pub(super) struct Reader<'a> {
    folders: &'a CertFolders,
    operator: Option<OwnedFd>,
    issued: Option<OwnedFd>,
    means: Means<'a>,
    /// Which directory the operator's is.
    home: Option<Identity>,
    /// Whether that which names are served from is away.
    is_away: bool,
    /// Whether there was an operator's folder.
    found: AtomicBool,
    /// Folders that were parsed.
    pub(super) parsed: AtomicUsize,
}

/// The DNS name that a folder stands for.
pub(super) fn own_name(origin: Origin, key: &str) -> String {
    [if origin.is_wildcard() { "*." } else { "" }, key].concat()
}

// === impl Reader ===

impl<'a> Reader<'a> {
    /// `served_from` is the operator's directory that names are served from.
    pub(super) fn new(
        folders: &'a CertFolders,
        served_from: Option<Identity>,
        pool: Option<&'a Pool>,
        now: i64,
    ) -> Self {
        let (operator, issued) = (open_folder(&folders.certs_dir), open_folder(&folders.issued_dir));
        let means = Means { pool, intermediates: Intermediates::default(), now };
        let (home, is_away) = (Identity::of(&folders.certs_dir), folders.is_away(served_from));
        let (found, parsed) = (AtomicBool::new(false), AtomicUsize::new(0));
        Self { folders, operator, issued, means, home, is_away, found, parsed }
    }

    /// The operator's directory, if a folder was found in it.
    pub(super) fn home(&self) -> Option<Identity> {
        self.home.filter(|_| self.found.load(Ordering::Relaxed))
    }

    /// What may serve a name, of what there is. While the operator's directory is away, what was in it does only where nothing
    /// that lies here can: whoever took it away may have imported it before, and nothing would renew it.
    pub(super) fn candidates(&self, name: &ServerName, [operator, issued]: ByOwner) -> ByOwner {
        let is_good = |folder: &Arc<Folder>| folder.judge(name, self.means.now).0 != [false; 2];
        let gives_way = self.is_away && issued.as_ref().is_some_and(is_good);
        [operator.filter(|_| !gives_way), issued]
    }

    pub(super) fn read(&self, origin: Origin, key: &str, known: Option<&Arc<Folder>>) -> Option<Arc<Folder>> {
        if self.is_away && !origin.is_issued() {
            let away = FolderError { part: Part::Chain, cause: Cause::Io(ErrorKind::NotFound) };
            return known.map(|known| Folder::unreadable(away, Some(known)));
        }
        let above = if origin.is_issued() { &self.issued } else { &self.operator };
        let mut place = match above {
            Some(above) => Place::below(above.as_fd(), origin.folder(key).into_bytes()),
            None => Place::new(self.folders.path(origin, key).as_os_str().as_bytes().to_vec()),
        };
        // What is issued here is put in place whole, and never written to again.
        let folder = Folder::read(&mut place, &own_name(origin, key), origin.is_issued(), known, &self.means)?;
        if !origin.is_issued() {
            self.found.store(true, Ordering::Relaxed);
        }
        if !known.is_some_and(|known| Arc::ptr_eq(known, &folder)) {
            self.parsed.fetch_add(1, Ordering::Relaxed);
        }
        Some(folder)
    }

    /// The same, for a folder that may be being replaced: if it is gone, it is looked at once more.
    pub(super) fn read_again(&self, origin: Origin, key: &str, known: Option<&Arc<Folder>>) -> Option<Arc<Folder>> {
        let was_there = !origin.is_issued() && known.is_some_and(|known| known.settled);
        self.read(origin, key, known).or_else(|| was_there.then(|| Arc::new(Folder::gone())))
    }
}
