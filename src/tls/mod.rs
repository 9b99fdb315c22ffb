//! Certificates: server name → [`Credential`], as a handshake looks it up.
//!
//! * `sni` — the form in which names are compared;
//! * `credential` — a chain and its key, parsed and checked;
//! * `folder` — one folder of `certs_dir`, read again only when its files changed;
//! * `chain` — certificates looked at for a person; `keep` — putting one in place; `probe` — what a client is served;
//! * here — [`CertStore`], which holds the credential of every name that is served.
//!
//! A name's certificate is `<certs_dir>/<name>/chain.pem` with `key.pem`, else that of the name with its first label
//! replaced by `_` (the wildcard `*.shop.example` lives in `_.shop.example/`). A store is immutable; a new one is loaded
//! from the one before it and shares with it whatever did not change.

pub mod chain;
mod credential;
mod folder;
pub mod keep;
pub mod probe;
mod sni;
#[cfg(test)]
pub(crate) mod testing;

use std::collections::HashMap;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use crate::account::ServerName;
use crate::tls::folder::{Cause, Folder};

pub use credential::{Credential, CredentialError};
pub use sni::normalise;

/// The last second that X.509 and RFC 3339 can write.
const YEAR_9999_ENDS: u64 = 253_402_300_799;

/// The credential of every name that is served.
#[derive(Default)]
pub struct CertStore {
    served: HashMap<ServerName, Arc<Credential>>,
    summary: Summary,
    certs_dir: PathBuf,
    folders: HashMap<PathBuf, Arc<Folder>>,
}

/// The names of a store by the state of their certificate.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    /// Served.
    pub valid: usize,
    /// There is none.
    pub missing: usize,
    /// No longer valid.
    pub expired: usize,
    /// Not valid yet.
    pub not_yet_valid: usize,
    /// The key or the name is another one's.
    pub mismatch: usize,
    /// Cannot be read or parsed.
    pub unreadable: usize,
    /// When the first of those served expires, Unix seconds.
    pub first_expiry: Option<i64>,
}

/// What is wrong with the certificate of a name. It is a warning: the name is not served until it is mended, or is
/// served with the wildcard's certificate if there is a good one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CertificateProblem {
    /// The name.
    pub name: ServerName,
    /// The file to look at.
    pub file: PathBuf,
    /// What is wrong with it.
    pub fault: CertificateFault,
    /// Last second of its validity, Unix time, where it could be read.
    pub not_after: Option<i64>,
}

/// The ways in which a certificate can be wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CertificateFault {
    /// The file is not there.
    Missing,
    /// The file cannot be read.
    Unreadable(io::ErrorKind),
    /// The file is not what it should be.
    Malformed(CredentialError),
    /// The certificate is not for this name.
    NameMismatch,
    /// Its validity has ended.
    Expired,
    /// Its validity begins later.
    NotYetValid,
}

// === impl CertStore ===

impl CertStore {
    /// Loads the certificates of `names` from `certs_dir` as of `now` (Unix seconds). Files that did not change since
    /// `previous` was loaded are not read again, but judged again.
    pub fn load<'a>(
        certs_dir: &Path,
        names: impl IntoIterator<Item = &'a ServerName>,
        previous: Option<&CertStore>,
        now: i64,
    ) -> (Self, Vec<CertificateProblem>) {
        let previous = previous.filter(|store| store.certs_dir == certs_dir).map(|store| &store.folders);
        let mut store = Self { certs_dir: certs_dir.to_owned(), ..Self::default() };
        let mut problems = Vec::new();
        for name in names {
            let (credential, problem) = store.find(name, previous, now);
            store.summary.count(credential.as_deref(), problem.as_ref());
            problems.extend(problem);
            if let Some(credential) = credential {
                store.served.insert(name.clone(), credential);
            }
        }
        (store, problems)
    }

    /// The credential for the name of a handshake, in the form of [`normalise`]; `None` = the name is not served.
    pub fn lookup(&self, name: &str) -> Option<Arc<Credential>> {
        self.served.get(name).cloned()
    }

    /// The names by the state of their certificate.
    pub fn summary(&self) -> Summary {
        self.summary
    }

    /// The credential that serves a name, and what is wrong with the one that should.
    fn find(
        &mut self,
        name: &ServerName,
        previous: Option<&HashMap<PathBuf, Arc<Folder>>>,
        now: i64,
    ) -> (Option<Arc<Credential>>, Option<CertificateProblem>) {
        let exact = self.certs_dir.join(name.as_str());
        let wildcard = name.as_str().split_once('.').map(|(_, rest)| self.certs_dir.join(format!("_.{rest}")));
        let mut problem = None;
        for path in [Some(&exact), wildcard.as_ref()].into_iter().flatten() {
            let Some(folder) = self.folder(path, previous) else {
                continue;
            };
            match judge(&folder, path, name, now) {
                Ok(credential) => return (Some(credential), problem),
                // The exact folder is what its owner meant: its problem is the one to tell.
                Err(found) => problem = problem.or(Some(found)),
            }
        }
        let absent = || CertificateProblem {
            name: name.clone(),
            file: Folder::chain_in(&exact),
            fault: CertificateFault::Missing,
            not_after: None,
        };
        (None, Some(problem.unwrap_or_else(absent)))
    }

    /// A folder, read once per load however many names use it.
    fn folder(&mut self, path: &Path, previous: Option<&HashMap<PathBuf, Arc<Folder>>>) -> Option<Arc<Folder>> {
        if let Some(folder) = self.folders.get(path) {
            return Some(folder.clone());
        }
        let folder = Folder::read(path, previous.and_then(|folders| folders.get(path)))?;
        self.folders.insert(path.to_owned(), folder.clone());
        Some(folder)
    }
}

/// Whether what a folder holds may be served under a name now.
fn judge(folder: &Folder, path: &Path, name: &ServerName, now: i64) -> Result<Arc<Credential>, CertificateProblem> {
    let problem = |file: PathBuf, fault, not_after| CertificateProblem { name: name.clone(), file, fault, not_after };
    let credential = folder.content.as_ref().map_err(|error| problem(error.file.clone(), error.cause.into(), None))?;
    let fault = if !credential.covers(name) {
        CertificateFault::NameMismatch
    } else if now > credential.not_after() {
        CertificateFault::Expired
    } else if now < credential.not_before() {
        CertificateFault::NotYetValid
    } else {
        return Ok(credential.clone());
    };
    Err(problem(Folder::chain_in(path), fault, Some(credential.not_after())))
}

// === impl Summary ===

impl Summary {
    /// All names, served or not.
    pub fn names(&self) -> usize {
        self.states().iter().map(|(_, names)| names).sum()
    }

    /// The names by state, as the labels of a metric.
    pub fn states(&self) -> [(&'static str, usize); 6] {
        [
            ("valid", self.valid),
            ("missing", self.missing),
            ("expired", self.expired),
            ("not_yet_valid", self.not_yet_valid),
            ("mismatch", self.mismatch),
            ("unreadable", self.unreadable),
        ]
    }

    fn count(&mut self, served: Option<&Credential>, problem: Option<&CertificateProblem>) {
        if let Some(credential) = served {
            self.valid += 1;
            let earlier = self.first_expiry.map_or(credential.not_after(), |first| first.min(credential.not_after()));
            self.first_expiry = Some(earlier);
            return;
        }
        match problem.map(|problem| problem.fault) {
            Some(CertificateFault::Expired) => self.expired += 1,
            Some(CertificateFault::NotYetValid) => self.not_yet_valid += 1,
            Some(CertificateFault::NameMismatch | CertificateFault::Malformed(CredentialError::KeyMismatch)) => {
                self.mismatch += 1;
            }
            Some(CertificateFault::Unreadable(_) | CertificateFault::Malformed(_)) => self.unreadable += 1,
            Some(CertificateFault::Missing) | None => self.missing += 1,
        }
    }
}

// === impl CertificateProblem ===

impl CertificateProblem {
    /// What to do about it.
    pub fn remedy(&self) -> &'static str {
        match self.fault {
            CertificateFault::Missing => "put the chain (leaf first) in chain.pem and its key in key.pem, then reload",
            CertificateFault::Unreadable(_) => "let the gateway's user read the file, then reload",
            CertificateFault::Malformed(CredentialError::Chain) => {
                "write the certificate and its intermediates as PEM, leaf first, then reload"
            }
            CertificateFault::Malformed(CredentialError::Key) => {
                "write the key as PEM without a passphrase, then reload"
            }
            CertificateFault::Malformed(CredentialError::KeyMismatch) => {
                "put the key of exactly this certificate beside it, then reload"
            }
            CertificateFault::NameMismatch => "get a certificate that has this name as a DNS name, then reload",
            CertificateFault::Expired => "renew the certificate, then reload",
            CertificateFault::NotYetValid => "check the machine's clock, or reload once the certificate is valid",
        }
    }

    fn until(&self) -> humantime::Rfc3339Timestamp {
        let not_after = self.not_after.and_then(|seconds| u64::try_from(seconds).ok()).unwrap_or_default();
        humantime::format_rfc3339_seconds(UNIX_EPOCH + Duration::from_secs(not_after.min(YEAR_9999_ENDS)))
    }
}

impl fmt::Display for CertificateProblem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = &self.name;
        match &self.fault {
            CertificateFault::Missing => write!(f, "there is no certificate for {name}")?,
            CertificateFault::Unreadable(kind) => write!(f, "the certificate for {name} cannot be read: {kind}")?,
            CertificateFault::Malformed(error) => write!(f, "the certificate for {name} cannot be used: {error}")?,
            CertificateFault::NameMismatch => write!(f, "the certificate is not for {name}")?,
            CertificateFault::Expired => write!(f, "the certificate for {name} was valid until {}", self.until())?,
            CertificateFault::NotYetValid => write!(f, "the certificate for {name} is not valid yet")?,
        }
        f.write_str("; the name is not served with it")
    }
}

// === impl CertificateFault ===

impl From<Cause> for CertificateFault {
    fn from(cause: Cause) -> Self {
        match cause {
            Cause::Absent => CertificateFault::Missing,
            Cause::Io(kind) => CertificateFault::Unreadable(kind),
            Cause::Content(error) => CertificateFault::Malformed(error),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing)]
    use super::testing::Issued;
    use super::*;

    /// The first second of 2026.
    const NOW: i64 = 1_767_225_600;

    fn load(certs: &Path, names: &[&str], previous: Option<&CertStore>) -> (CertStore, Vec<CertificateProblem>) {
        let names: Vec<ServerName> = names.iter().map(|name| name.parse().unwrap()).collect();
        CertStore::load(certs, &names, previous, NOW)
    }

    fn fault_of(certs: &Path, name: &str) -> CertificateFault {
        let (store, problems) = load(certs, &[name], None);
        assert!(store.lookup(name).is_none());
        assert_eq!(store.summary().names(), 1);
        assert_eq!(problems.len(), 1);
        assert!(problems[0].to_string().contains(name) && !problems[0].remedy().is_empty());
        problems[0].fault
    }

    #[test]
    fn the_exact_folder_comes_before_the_wildcards() {
        let certs = tempfile::tempdir().unwrap();
        Issued::valid(&["a.shop.example"], 2020, 2030).write(certs.path(), "a.shop.example");
        Issued::valid(&["*.shop.example"], 2020, 2040).write(certs.path(), "_.shop.example");
        let (store, problems) = load(certs.path(), &["a.shop.example", "b.shop.example", "c.d.shop.example"], None);
        let until = |name: &str| store.lookup(name).map(|credential| credential.not_after());
        assert_eq!((until("a.shop.example"), until("b.shop.example")), (Some(1_893_456_000), Some(2_208_988_800)));
        assert_eq!((until("c.d.shop.example"), until("e.shop.example")), (None, None));
        assert_eq!(problems.len(), 1);
        assert_eq!(problems[0].file, certs.path().join("c.d.shop.example/chain.pem"));
        let summary = store.summary();
        assert_eq!((summary.valid, summary.missing, summary.names()), (2, 1, 3));
        assert_eq!(summary.first_expiry, store.lookup("a.shop.example").map(|credential| credential.not_after()));
    }

    #[test]
    fn what_is_wrong_is_told_and_not_served() {
        let certs = tempfile::tempdir().unwrap();
        let name = "a.example";
        assert_eq!(fault_of(certs.path(), name), CertificateFault::Missing);
        Issued::valid(&[name], 2020, 2025).write(certs.path(), name);
        assert_eq!(fault_of(certs.path(), name), CertificateFault::Expired);
        Issued::valid(&[name], 2030, 2040).write(certs.path(), name);
        assert_eq!(fault_of(certs.path(), name), CertificateFault::NotYetValid);
        Issued::new(&["b.example"]).write(certs.path(), name);
        assert_eq!(fault_of(certs.path(), name), CertificateFault::NameMismatch);
        let key = certs.path().join(name).join("key.pem");
        std::fs::write(&key, Issued::new(&[name]).key).unwrap();
        assert_eq!(fault_of(certs.path(), name), CertificateFault::Malformed(CredentialError::KeyMismatch));
        std::fs::remove_file(&key).unwrap();
        assert_eq!(fault_of(certs.path(), name), CertificateFault::Missing);
        std::fs::create_dir(&key).unwrap();
        assert!(matches!(fault_of(certs.path(), name), CertificateFault::Unreadable(_)));
        std::fs::write(certs.path().join(name).join("chain.pem"), vec![b'A'; 300_000]).unwrap();
        assert_eq!(fault_of(certs.path(), name), CertificateFault::Unreadable(io::ErrorKind::FileTooLarge));
    }

    #[test]
    fn a_good_wildcard_stands_in_and_the_problem_is_told_all_the_same() {
        let certs = tempfile::tempdir().unwrap();
        Issued::valid(&["a.example.org"], 2020, 2025).write(certs.path(), "a.example.org");
        Issued::new(&["*.example.org"]).write(certs.path(), "_.example.org");
        let (store, problems) = load(certs.path(), &["a.example.org"], None);
        assert!(store.lookup("a.example.org").is_some());
        assert_eq!(problems[0].fault, CertificateFault::Expired);
        assert_eq!(store.summary().valid, 1);
    }

    #[test]
    fn only_what_changed_is_read_again() {
        let certs = tempfile::tempdir().unwrap();
        for name in ["a.example", "b.example"] {
            Issued::new(&[name]).write(certs.path(), name);
        }
        let names = ["a.example", "b.example"];
        let (first, _) = load(certs.path(), &names, None);
        Issued::new(&["b.example"]).write(certs.path(), "b.example");
        let (second, problems) = load(certs.path(), &names, Some(&first));
        assert_eq!(problems, []);
        let same = |name: &str| Arc::ptr_eq(&first.lookup(name).unwrap(), &second.lookup(name).unwrap());
        assert!(same("a.example") && !same("b.example"));
    }

    #[test]
    fn an_unchanged_file_is_judged_by_the_new_time() {
        let certs = tempfile::tempdir().unwrap();
        Issued::valid(&["a.example"], 2020, 2027).write(certs.path(), "a.example");
        let names: Vec<ServerName> = vec!["a.example".parse().unwrap()];
        let (first, _) = CertStore::load(certs.path(), &names, None, NOW);
        assert!(first.lookup("a.example").is_some());
        let (second, problems) = CertStore::load(certs.path(), &names, Some(&first), NOW + 2 * 31_557_600);
        assert!(second.lookup("a.example").is_none());
        assert_eq!(problems[0].fault, CertificateFault::Expired);
        assert!(problems[0].to_string().contains("2027-01-01T00:00:00Z"));
    }

    #[test]
    fn a_switched_link_is_a_change() {
        let certs = tempfile::tempdir().unwrap();
        let kept = tempfile::tempdir().unwrap();
        for serial in ["1", "2"] {
            Issued::new(&["a.example"]).write(kept.path(), serial);
        }
        let link = certs.path().join("a.example");
        std::os::unix::fs::symlink(kept.path().join("1"), &link).unwrap();
        let (first, _) = load(certs.path(), &["a.example"], None);
        std::fs::remove_file(&link).unwrap();
        std::os::unix::fs::symlink(kept.path().join("2"), &link).unwrap();
        let (second, _) = load(certs.path(), &["a.example"], Some(&first));
        assert!(!Arc::ptr_eq(&first.lookup("a.example").unwrap(), &second.lookup("a.example").unwrap()));
    }
}
