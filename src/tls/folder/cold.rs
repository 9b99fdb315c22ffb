//! The way from what is known of a folder to its credential, taken when a visitor comes.

use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::{Folder, Means, PAIRS, judge_pair};
use crate::tls::credential::Credential;
use crate::tls::files::{Contents, Part, Place};
use crate::tls::glance::Intermediates;
use crate::tls::native::Pool;

/// A credential that was not built yet, and the way to build it.
#[derive(Clone)]
pub struct Cold {
    folder: Arc<Folder>,
    path: PathBuf,
    own: Box<str>,
    pool: Option<Arc<Pool>>,
    served: [bool; 2],
}

/// The files are not those that were judged: they changed or broke since. The name is to be looked at again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the certificate's files are no longer those that were judged")]
pub struct Stale;

// === impl Cold ===

impl Cold {
    /// Of the two pairs those in `served` may be served.
    pub(in crate::tls) fn new(
        folder: Arc<Folder>,
        path: PathBuf,
        own: &str,
        pool: Option<Arc<Pool>>,
        served: [bool; 2],
    ) -> Self {
        Self { folder, path, own: own.into(), pool, served }
    }

    /// The credential, once it is loaded: good for who waited for it, also if there is another store by now.
    pub fn loaded(&self) -> Option<Arc<Credential>> {
        self.folder.credential().map(|credential| credential.only(self.served))
    }

    /// Reads and builds the credential, for every handshake from now on. Blocks while files are read.
    ///
    /// # Errors
    /// When the files are not those that were judged.
    pub fn load(&self) -> Result<(), Stale> {
        if self.folder.credential().is_some() {
            return Ok(());
        }
        let mut place = Place::new(self.path.as_os_str().as_bytes().to_vec());
        let Ok(contents) = place.read() else {
            self.distrust();
            return Err(Stale);
        };
        let contents = contents.ok_or(Stale)?;
        let built = self.build(&contents);
        // What has the stamp now that it had when it was judged did not change in between.
        if !self.folder.is_as(&mut place) {
            return Err(Stale);
        }
        let Some(credential) = built.filter(|_| contents.stamp == self.folder.stamp) else {
            // The same files, and yet no credential: they are judged again, by more than a glance.
            self.distrust();
            return Err(Stale);
        };
        let _ = self.folder.credential.set(Arc::new(credential));
        Ok(())
    }

    /// Has the folder judged again though its files are those that were judged. What could not be read is anyway.
    fn distrust(&self) {
        if self.folder.trouble.is_none() {
            self.folder.distrusted.store(true, Ordering::Relaxed);
        }
    }

    /// Builds the pairs that were found good; `None` if one of them is not as it was found.
    fn build(&self, contents: &Contents) -> Option<Credential> {
        let with = Means { pool: self.pool.as_deref(), intermediates: Intermediates::default(), now: 0 };
        let build = |parts: [Part; 2]| match self.folder.facts_of(parts[0]) {
            None => Some(None),
            Some(facts) => match judge_pair(contents, parts, &self.own, true, &with)? {
                (Ok(found), credential) if found == *facts => Some(credential),
                _ => None,
            },
        };
        let [first, twin] = PAIRS;
        Credential::of_pairs(build(first)?, build(twin)?)
    }
}
