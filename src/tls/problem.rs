//! What can be wrong with certificates, and how that is told and counted.

use std::fmt;
use std::io;
use std::path::PathBuf;

use crate::account::ServerName;
use crate::clock::rfc3339;
use crate::tls::credential::CredentialError;
use crate::tls::files::{Cause, Part};
use crate::tls::places::Origin;

/// The names of a store by the state of their certificate.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    /// Served.
    pub valid: usize,
    /// There is none, or not all of it.
    pub missing: usize,
    /// Of those the ones for which there is nothing at all.
    pub nothing: usize,
    /// There is none yet: a visitor is waited for, and then it is ordered. Only who orders it can tell these from those
    /// that are missing.
    pub waiting: usize,
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
    /// Names with a problem to tell, also those that are served all the same.
    pub problems: usize,
}

/// What is wrong with the certificate of a name. It is a warning: the name is not served until it is mended, or is
/// served with another certificate if there is a good one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CertificateProblem {
    /// The name.
    pub name: ServerName,
    /// The file to look at.
    pub file: PathBuf,
    /// Whose certificate it is.
    pub origin: Origin,
    /// What is wrong with it.
    pub fault: CertificateFault,
    /// Last second of its validity, Unix time, where it could be read.
    pub not_after: Option<i64>,
    /// What serves the name all the same.
    pub meanwhile: Meanwhile,
}

/// What serves a name while something is wrong with its certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Meanwhile {
    /// Nothing.
    Nothing,
    /// The files that cannot be read now, as they were when they were read before.
    Before,
    /// Another good pair, in this folder.
    Other(PathBuf),
}

/// The ways in which a certificate can be wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CertificateFault {
    /// There is none of the files for the name.
    Nothing,
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
    /// It is served without its issuers, and was issued by others.
    Alone,
    /// It is served, and a certificate of its chain is not followed by its issuer.
    Disordered,
    /// Beside the first one lies another that is not for clients which know RSA only.
    TwinNotRsa,
    /// Both of two are RSA: the second one is never served.
    BothRsa,
}

// === impl Summary ===

impl Summary {
    /// All names, served or not.
    pub fn names(&self) -> usize {
        self.states().iter().map(|(_, names)| names).sum()
    }

    /// The names by state, as the labels of a metric.
    pub fn states(&self) -> [(&'static str, usize); 7] {
        [
            ("valid", self.valid),
            ("missing", self.missing),
            ("waiting", self.waiting),
            ("expired", self.expired),
            ("not_yet_valid", self.not_yet_valid),
            ("mismatch", self.mismatch),
            ("unreadable", self.unreadable),
        ]
    }

    /// The same where so many of those for which there is nothing wait for a visitor.
    #[must_use]
    pub fn with_waiting(self, names: usize) -> Self {
        // They were counted at another moment.
        let waiting = names.min(self.nothing);
        Self { waiting, missing: self.missing - waiting, nothing: self.nothing - waiting, ..self }
    }

    /// Counts a name: until when it is served, and what is wrong with it.
    pub(super) fn count(&mut self, served_until: Option<i64>, fault: Option<CertificateFault>) {
        self.problems += usize::from(fault.is_some_and(CertificateFault::is_certain));
        if let Some(until) = served_until {
            self.valid += 1;
            self.first_expiry = Some(self.first_expiry.map_or(until, |first| first.min(until)));
            return;
        }
        match fault {
            Some(CertificateFault::Expired) => self.expired += 1,
            Some(CertificateFault::NotYetValid) => self.not_yet_valid += 1,
            Some(CertificateFault::NameMismatch | CertificateFault::Malformed(CredentialError::KeyMismatch)) => {
                self.mismatch += 1;
            }
            Some(CertificateFault::Unreadable(_) | CertificateFault::Malformed(_)) => self.unreadable += 1,
            Some(CertificateFault::Missing) => self.missing += 1,
            Some(_) | None => {
                self.missing += 1;
                self.nothing += 1;
            }
        }
    }

    /// Adds the names of another.
    pub(super) fn add(&mut self, other: &Self) {
        self.valid += other.valid;
        self.missing += other.missing;
        self.nothing += other.nothing;
        self.waiting += other.waiting;
        self.expired += other.expired;
        self.not_yet_valid += other.not_yet_valid;
        self.mismatch += other.mismatch;
        self.unreadable += other.unreadable;
        self.problems += other.problems;
        let expiries = self.first_expiry.into_iter().chain(other.first_expiry);
        self.first_expiry = expiries.min();
    }
}

// === impl CertificateProblem ===

impl CertificateProblem {
    /// What to do about it, and before that what is done by itself; `acme` = certificates are ordered here.
    pub fn remedy(&self, acme: bool) -> String {
        let what = match self.fault {
            CertificateFault::Nothing if acme => {
                return format!(
                    "ACME orders one by itself: `pixelgate cert list {0}` says when, or what keeps it; or put your own chain (leaf \
                     first) and its key there, both PEM, then `pixelgate cert reload {0}`",
                    self.name
                );
            }
            CertificateFault::Expired if acme && self.origin.is_renewed() => {
                return format!(
                    "ACME renews it by itself: `pixelgate cert list {}` says when, or what keeps it; or get a renewed one \
                     elsewhere and `pixelgate cert import` it",
                    self.name
                );
            }
            CertificateFault::Expired if self.origin.is_issued() => {
                return "get a renewed certificate and `pixelgate cert import` it with its key (nothing renews it by itself: \
                        [acme] is not enabled, or it is a wildcard)"
                    .to_owned();
            }
            CertificateFault::NotYetValid => {
                return "check the machine's clock; it is served once it is valid".to_owned();
            }
            CertificateFault::Missing if self.is_of_key() => {
                "put the key of exactly this certificate there, as PEM without a passphrase"
            }
            CertificateFault::Missing => "put the chain that belongs to the key there, leaf first, as PEM",
            CertificateFault::Nothing => {
                "put the chain (leaf first) and its key there, both PEM (or enable [acme], which orders it by itself)"
            }
            CertificateFault::Unreadable(io::ErrorKind::PermissionDenied) => {
                "let the gateway's user read the file, and enter the folders above it (chown or chmod)"
            }
            CertificateFault::Unreadable(_) => "see that a regular file of sensible size can be read there",
            CertificateFault::Malformed(CredentialError::Chain) => {
                "write the certificate and its intermediates as PEM, leaf first (certbot's fullchain.pem)"
            }
            CertificateFault::Malformed(CredentialError::Key) => "write the key as PEM without a passphrase",
            CertificateFault::Malformed(CredentialError::KeyMismatch) => {
                "it took the place of the pair that was there before: put the key of exactly this certificate beside it, the \
                 leaf first in the chain (certbot's fullchain.pem, not its chain.pem; `pixelgate cert import` judges both \
                 before anything is given up)"
            }
            CertificateFault::Malformed(CredentialError::Unsupported) => {
                "get a certificate with an ECDSA key (P-256 or P-384) or an RSA key of at least 2048 bits"
            }
            CertificateFault::NameMismatch => {
                "get a certificate that has this name as a DNS name, and put the leaf first (certbot's fullchain.pem, not its \
                 chain.pem)"
            }
            CertificateFault::Expired => "put a renewed certificate and its key there",
            CertificateFault::Alone => {
                "add the intermediate certificate that the CA publishes (certbot: fullchain.pem instead of cert.pem), or the \
                 root if that issued it (a private CA's)"
            }
            CertificateFault::Disordered => {
                "put the leaf first and each issuer after what it issued, nothing else (certbot's fullchain.pem is in order, and \
                 `pixelgate cert import` puts in order what it finds)"
            }
            CertificateFault::TwinNotRsa => {
                "put an RSA certificate and its key there, or remove both files (an ECDSA pair belongs into chain.pem and \
                 key.pem)"
            }
            CertificateFault::BothRsa => {
                "put an ECDSA certificate and its key into chain.pem and key.pem, or remove chain.rsa.pem and key.rsa.pem"
            }
        };
        format!("{what}, then `pixelgate cert reload {}`", self.name)
    }

    /// Whether the file to look at is one with a key.
    fn is_of_key(&self) -> bool {
        [Part::Key, Part::RsaKey].iter().any(|part| self.file.ends_with(part.file()))
    }

    /// Which of the two certificates beside one another it is.
    fn which(&self) -> &'static str {
        let is_twin = [Part::RsaChain, Part::RsaKey].iter().any(|part| self.file.ends_with(part.file()));
        if is_twin { "RSA certificate" } else { "certificate" }
    }

    fn until(&self) -> String {
        rfc3339(self.not_after.unwrap_or_default().saturating_mul(1_000))
    }
}

impl fmt::Display for CertificateProblem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (which, name) = (self.which(), &self.name);
        match &self.fault {
            CertificateFault::Missing if self.is_of_key() => {
                write!(f, "the key of the {which} for {name} is missing")?;
            }
            CertificateFault::Missing => write!(f, "the chain of the {which} for {name} is missing")?,
            CertificateFault::Nothing => write!(f, "there is no {which} for {name}")?,
            CertificateFault::Unreadable(kind) if self.is_of_key() => {
                write!(f, "the key of the {which} for {name} cannot be read: {kind}")?;
            }
            CertificateFault::Unreadable(kind) => write!(f, "the {which} for {name} cannot be read: {kind}")?,
            CertificateFault::Malformed(error) => write!(f, "the {which} for {name} cannot be used: {error}")?,
            CertificateFault::NameMismatch => write!(f, "the {which} is not for {name}")?,
            CertificateFault::Expired => write!(f, "the {which} for {name} was valid until {}", self.until())?,
            CertificateFault::NotYetValid => write!(f, "the {which} for {name} is not valid yet")?,
            CertificateFault::Alone => {
                return write!(
                    f,
                    "the {which} for {name} is served without the one that issued it: clients that do not know that refuse it"
                );
            }
            CertificateFault::Disordered => {
                return write!(
                    f,
                    "the chain of the {which} for {name} is served as it is, and is not in order: some clients refuse it"
                );
            }
            CertificateFault::TwinNotRsa => {
                return write!(
                    f,
                    "the certificate for {name} in this file is ECDSA, and the file is for clients that know RSA only: it is \
                     served to nobody while the one in chain.pem is good"
                );
            }
            CertificateFault::BothRsa => {
                return write!(
                    f,
                    "the certificates for {name} in chain.pem and in this file are both RSA: this one is served to nobody while \
                     the other is good"
                );
            }
        }
        match &self.meanwhile {
            Meanwhile::Nothing => f.write_str("; the name is not served"),
            Meanwhile::Before => f.write_str("; what was read before is served on"),
            Meanwhile::Other(folder) if self.file.parent() == Some(folder) => {
                f.write_str("; the other pair of files there is served")
            }
            Meanwhile::Other(folder) => write!(f, "; the certificate in {} is served", folder.display()),
        }
    }
}

// === impl CertificateFault ===

impl CertificateFault {
    /// Whether it is only worth knowing: what is so is served.
    pub fn is_served(self) -> bool {
        use CertificateFault::{Alone, BothRsa, Disordered, TwinNotRsa};
        matches!(self, Alone | Disordered | TwinNotRsa | BothRsa)
    }

    /// Whether it is wrong whoever the clients are. A leaf alone is right where a private CA's root issued it, which only they
    /// know: it is told of the name, and is no problem of the configuration.
    pub fn is_certain(self) -> bool {
        self != CertificateFault::Alone
    }

    /// The state of a name that is not served for it, as the label of a metric.
    pub fn state(self) -> &'static str {
        match self {
            CertificateFault::Nothing | CertificateFault::Missing => "missing",
            CertificateFault::Expired => "expired",
            CertificateFault::NotYetValid => "not_yet_valid",
            CertificateFault::NameMismatch | CertificateFault::Malformed(CredentialError::KeyMismatch) => "mismatch",
            CertificateFault::Unreadable(_) | CertificateFault::Malformed(_) => "unreadable",
            CertificateFault::Alone
            | CertificateFault::Disordered
            | CertificateFault::TwinNotRsa
            | CertificateFault::BothRsa => "valid",
        }
    }
}

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
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn those_that_wait_for_a_visitor_are_not_missing() {
        let mut all = Summary::default();
        [CertificateFault::Nothing, CertificateFault::Nothing, CertificateFault::Missing, CertificateFault::Expired]
            .into_iter()
            .for_each(|fault| all.count(None, Some(fault)));
        let waiting = all.with_waiting(1);
        assert_eq!((waiting.missing, waiting.waiting, waiting.nothing, waiting.names()), (2, 1, 1, all.names()));
        let more = all.with_waiting(9);
        assert_eq!((more.missing, more.waiting), (1, 2), "a name of which a file is missing waits for nobody");
    }

    #[test]
    fn it_is_said_which_file_is_missing() {
        let told = |file: &str, fault: CertificateFault| {
            let problem = CertificateProblem {
                name: "events.shoes.example".parse().unwrap(),
                file: PathBuf::from("certs/events.shoes.example").join(file),
                origin: Origin::Operator,
                fault,
                not_after: None,
                meanwhile: Meanwhile::Nothing,
            };
            (problem.to_string(), problem.remedy(false))
        };
        for (key, which) in [("key.pem", "certificate"), ("key.rsa.pem", "RSA certificate")] {
            let (reason, remedy) = told(key, CertificateFault::Missing);
            let expected =
                format!("the key of the {which} for events.shoes.example is missing; the name is not served");
            assert_eq!(reason, expected);
            assert!(remedy.starts_with("put the key"), "{remedy}");
            assert!(remedy.ends_with("then `pixelgate cert reload events.shoes.example`"), "{remedy}");
        }
        let unread = told("key.pem", CertificateFault::Unreadable(io::ErrorKind::PermissionDenied));
        assert!(
            unread.0.starts_with("the key of the certificate for events.shoes.example cannot be read"),
            "{}",
            unread.0
        );
        assert!(unread.1.contains("the gateway's user"), "{}", unread.1);
        let (none, chain) =
            (told("chain.pem", CertificateFault::Nothing).0, told("chain.pem", CertificateFault::Missing).0);
        assert!(none.starts_with("there is no certificate for events.shoes.example"), "{none}");
        assert!(chain.starts_with("the chain of the certificate for events.shoes.example is missing"), "{chain}");
    }
    #[test]
    fn what_acme_does_by_itself_comes_before_what_a_person_can() {
        let remedy = |origin: Origin, fault: CertificateFault, acme: bool| {
            let problem = CertificateProblem {
                name: "events.shoes.example".parse().unwrap(),
                file: PathBuf::from("certs/events.shoes.example/chain.pem"),
                origin,
                fault,
                not_after: None,
                meanwhile: Meanwhile::Nothing,
            };
            problem.remedy(acme)
        };
        let (nothing, expired) = (CertificateFault::Nothing, CertificateFault::Expired);
        let cases = [
            (Origin::Operator, nothing, true, "ACME orders one by itself: `pixelgate cert list events.shoes.example`"),
            (Origin::Operator, nothing, false, "put the chain (leaf first) and its key there"),
            (Origin::Issued, expired, true, "ACME renews it by itself: `pixelgate cert list events.shoes.example`"),
            (Origin::Issued, expired, false, "get a renewed certificate and `pixelgate cert import` it"),
            (Origin::IssuedWildcard, expired, true, "get a renewed certificate and `pixelgate cert import` it"),
            (Origin::Operator, expired, true, "put a renewed certificate and its key there"),
        ];
        for (origin, fault, acme, begin) in cases {
            let remedy = remedy(origin, fault, acme);
            assert!(remedy.starts_with(begin), "{origin:?} {acme}: {remedy}");
        }
    }
}
