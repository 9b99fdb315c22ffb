//! One folder with a certificate: what is known of it without its credential, which is built when a visitor comes.

use std::fs::File;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use crate::account::ServerName;
use crate::tls::CertificateFault;
use crate::tls::credential::{Credential, CredentialError};
use crate::tls::native::Pool;

/// Bytes of a file; a chain of ten RSA-4096 certificates is a tenth of it.
const FILE_BYTES_MAX: u64 = 256 * 1024;

/// A folder with at least one of the two files in it, as it was when last read.
pub(super) struct Folder {
    /// Changes when a file is replaced or written to.
    pub(super) stamp: u64,
    pub(super) facts: Result<Facts, FolderError>,
    /// The same of the pair beside it, with another kind of key.
    pub(super) twin: Option<Box<Result<Facts, FolderError>>>,
    /// Built when it is needed.
    credential: OnceLock<Arc<Credential>>,
}

/// What a name needs to be judged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Facts {
    pub(super) not_before: i64,
    pub(super) not_after: i64,
    /// The names that it is for; `None` = it is for all that the folder stands for.
    pub(super) names: Option<Box<[Box<str>]>>,
}

/// Why a folder holds no credential, and in which file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct FolderError {
    pub(super) part: Part,
    pub(super) cause: Cause,
}

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
    Io(io::ErrorKind),
    Content(CredentialError),
}

/// A credential that was not built yet, and the way to build it.
#[derive(Clone)]
pub struct Cold {
    folder: Arc<Folder>,
    path: PathBuf,
    pool: Option<Arc<Pool>>,
}

/// The files are not those that were judged: they changed or broke since. The name is to be looked at again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the certificate's files are no longer those that were judged")]
pub struct Stale;

/// A chain and its key, and why not.
type Pair = Result<Credential, FolderError>;

// === impl Folder ===

impl Folder {
    /// A folder of which only this is known.
    pub(super) fn cold(stamp: u64, facts: Facts, twin: Option<Facts>) -> Self {
        let twin = twin.map(|facts| Box::new(Ok(facts)));
        Self { stamp, facts: Ok(facts), twin, credential: OnceLock::new() }
    }

    /// The folder as it is now; `None` if neither file is there. `previous` is kept if nothing changed since; if it did,
    /// what visitors used is built at once. `own` is the DNS name that the folder stands for.
    ///
    /// Symbolic links are followed, so a link that was switched to another folder is a change.
    pub(super) fn read(path: &Path, own: &str, previous: Option<&Arc<Self>>, pool: Option<&Pool>) -> Option<Arc<Self>> {
        if let Some(unchanged) = previous.filter(|previous| previous.is_as(path)) {
            return Some(unchanged.clone());
        }
        // Stamped before it is read: what is written meanwhile is seen at the next load.
        let stamp = stamp(path, &Part::ALL)?;
        let (pair, twin) = load(path, pool);
        let of = |pair: &Pair| pair.as_ref().map(|credential| Facts::of(credential, own)).map_err(|error| *error);
        let folder = Self {
            stamp,
            facts: of(&pair),
            twin: twin.as_ref().map(|twin| Box::new(of(twin))),
            credential: OnceLock::new(),
        };
        if let (true, Ok(credential)) = (previous.is_some_and(|previous| previous.credential().is_some()), pair) {
            let _ = folder.credential.set(joined(credential, twin));
        }
        Some(Arc::new(folder))
    }

    /// Whether the files are those that this was made from. The folder's own stamp says that no twin came.
    fn is_as(&self, path: &Path) -> bool {
        let parts = if self.twin.is_some() { &Part::ALL[..] } else { &[Part::Chain, Part::Key] };
        stamp(path, parts) == Some(self.stamp)
    }

    /// The credential, if it was needed yet.
    pub(super) fn credential(&self) -> Option<&Arc<Credential>> {
        self.credential.get()
    }

    /// Whether what it holds may be served under a name now.
    pub(super) fn judge(&self, name: &ServerName, now: i64) -> Result<(), (Part, CertificateFault)> {
        judge(&self.facts, Part::Chain, name, now)
    }

    /// What is wrong with the pair beside it.
    pub(super) fn judge_twin(&self, name: &ServerName, now: i64) -> Result<(), (Part, CertificateFault)> {
        self.twin.as_deref().map_or(Ok(()), |facts| judge(facts, Part::RsaChain, name, now))
    }
}

fn judge(
    facts: &Result<Facts, FolderError>,
    chain: Part,
    name: &ServerName,
    now: i64,
) -> Result<(), (Part, CertificateFault)> {
    let facts = facts.as_ref().map_err(|error| (error.part, error.cause.into()))?;
    if !facts.cover(name) {
        Err((chain, CertificateFault::NameMismatch))
    } else if now > facts.not_after {
        Err((chain, CertificateFault::Expired))
    } else if now < facts.not_before {
        Err((chain, CertificateFault::NotYetValid))
    } else {
        Ok(())
    }
}

fn load(path: &Path, pool: Option<&Pool>) -> (Pair, Option<Pair>) {
    let pair = load_pair(path, Part::Chain, Part::Key, pool);
    let twin = load_pair(path, Part::RsaChain, Part::RsaKey, pool);
    let absent = |part| FolderError { part, cause: Cause::Absent };
    // One of the two without the other is a mistake to tell; none is the usual.
    let none = twin.as_ref().err() == Some(&absent(Part::RsaChain)) && !path.join(Part::RsaKey.file()).exists();
    (pair, if none { None } else { Some(twin) })
}

fn load_pair(path: &Path, chain: Part, key: Part, pool: Option<&Pool>) -> Pair {
    let read = |part: Part| read_bounded(&path.join(part.file())).map_err(|cause| FolderError { part, cause });
    let (chain_pem, key_pem) = (read(chain)?, read(key)?);
    Credential::parse_in(pool, &chain_pem, &key_pem).map_err(|error| {
        let part = if matches!(error, CredentialError::Chain) { chain } else { key };
        FolderError { part, cause: Cause::Content(error) }
    })
}

fn joined(credential: Credential, twin: Option<Pair>) -> Arc<Credential> {
    Arc::new(match twin {
        Some(Ok(twin)) => credential.with_twin(twin),
        _ => credential,
    })
}

fn read_bounded(path: &Path) -> Result<Vec<u8>, Cause> {
    let mut content = Vec::new();
    let read = File::open(path).and_then(|file| file.take(FILE_BYTES_MAX + 1).read_to_end(&mut content));
    match read {
        Ok(bytes) if bytes as u64 > FILE_BYTES_MAX => Err(Cause::Io(io::ErrorKind::FileTooLarge)),
        Ok(_) => Ok(content),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Err(Cause::Absent),
        Err(error) => Err(Cause::Io(error.kind())),
    }
}

/// Device, inode, size and times of the folder and of these files, as one number; `None` if neither chain nor key is
/// there. Files that are not there count for nothing.
fn stamp(path: &Path, parts: &[Part]) -> Option<u64> {
    let mut hasher = DefaultHasher::new();
    let mut add = |path: &Path| {
        let metadata = std::fs::metadata(path).ok()?;
        let times = [metadata.mtime(), metadata.mtime_nsec(), metadata.ctime(), metadata.ctime_nsec()];
        (metadata.dev(), metadata.ino(), metadata.size(), times).hash(&mut hasher);
        Some(())
    };
    add(path)?;
    let mut file = path.join(Part::Chain.file());
    let mut there = false;
    for part in parts {
        file.set_file_name(part.file());
        there |= add(&file).is_some() && matches!(part, Part::Chain | Part::Key);
    }
    there.then(|| hasher.finish())
}

// === impl Facts ===

impl Facts {
    fn of(credential: &Credential, own: &str) -> Self {
        let (not_before, not_after) = (credential.not_before(), credential.not_after());
        let wildcard = ServerName::wildcard(own);
        let names = credential.names();
        let covers_own = names.iter().any(|name| **name == *own || Some(&**name) == wildcard.as_deref());
        Self { not_before, not_after, names: (!covers_own).then(|| names.into()) }
    }

    fn cover(&self, name: &ServerName) -> bool {
        let Some(names) = &self.names else {
            return true;
        };
        let wildcard = ServerName::wildcard(name.as_str());
        names.iter().any(|own| **own == *name.as_str() || Some(&**own) == wildcard.as_deref())
    }
}

// === impl Part ===

impl Part {
    const ALL: [Part; 4] = [Part::Chain, Part::Key, Part::RsaChain, Part::RsaKey];

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

// === impl Cold ===

impl Cold {
    pub(super) fn new(folder: Arc<Folder>, path: PathBuf, pool: Option<Arc<Pool>>) -> Self {
        Self { folder, path, pool }
    }

    /// Reads and builds the credential, for every handshake from now on. Blocks while files are read.
    ///
    /// # Errors
    /// When the files are not those that were judged.
    pub fn load(&self) -> Result<(), Stale> {
        if self.folder.credential().is_some() {
            return Ok(());
        }
        let (pair, twin) = load(&self.path, self.pool.as_deref());
        let credential = pair.map_err(|_| Stale)?;
        // What has the stamp now that it had when it was judged did not change in between.
        if !self.folder.is_as(&self.path) {
            return Err(Stale);
        }
        let _ = self.folder.credential.set(joined(credential, twin));
        Ok(())
    }
}
