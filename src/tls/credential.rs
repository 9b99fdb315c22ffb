//! A certificate chain with its key, parsed and checked.

use std::sync::Arc;

use boring::asn1::{Asn1Time, Asn1TimeRef};
use pingora::tls::error::ErrorStack;
use pingora::tls::pkey::PKey;
use pingora::tls::ssl::SslRef;
use pingora::tls::x509::X509;

use crate::account::ServerName;
use crate::tls::native::{NativeCredential, Pool};

/// What proves a server name in a handshake: the chain, leaf first, and the leaf's key; and beside it, where there is
/// one, the same with another kind of key.
pub struct Credential {
    native: NativeCredential,
    twin: Option<NativeCredential>,
    names: Box<[Box<str>]>,
    not_before: i64,
    not_after: i64,
}

/// Why two PEM texts are no credential.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CredentialError {
    /// There is no certificate in the chain, or one that cannot be parsed.
    #[error("the chain is not one or more PEM certificates")]
    Chain,
    /// There is no private key that can be parsed.
    #[error("the key is not a PEM private key without a passphrase")]
    Key,
    /// The key belongs to another certificate.
    #[error("the key does not belong to the first certificate of the chain")]
    KeyMismatch,
    /// The key is good, but TLS has no signatures of its kind.
    #[error("the certificate's key is of a kind that TLS cannot use")]
    Unsupported,
}

// === impl Credential ===

impl Credential {
    /// Parses a chain (PEM, leaf first) and its key (PEM: PKCS #8, SEC 1 or PKCS #1).
    ///
    /// # Errors
    /// When one of them is not that, or they do not belong together. Validity and names are for the caller to judge.
    pub fn parse(chain_pem: &[u8], key_pem: &[u8]) -> Result<Arc<Self>, CredentialError> {
        Self::parse_in(None, chain_pem, key_pem).map(Arc::new)
    }

    /// The same, with its intermediates in a pool.
    pub(super) fn parse_in(pool: Option<&Pool>, chain_pem: &[u8], key_pem: &[u8]) -> Result<Self, CredentialError> {
        let chain = X509::stack_from_pem(chain_pem).map_err(|_| CredentialError::Chain)?;
        let leaf = chain.first().ok_or(CredentialError::Chain)?;
        let key = PKey::private_key_from_pem(key_pem).map_err(|_| CredentialError::Key)?;
        let public = leaf.public_key().map_err(|_| CredentialError::Chain)?;
        if !public.public_eq(&key) {
            return Err(CredentialError::KeyMismatch);
        }
        let not_before = unix_seconds(leaf.not_before()).map_err(|_| CredentialError::Chain)?;
        let not_after = unix_seconds(leaf.not_after()).map_err(|_| CredentialError::Chain)?;
        let names = leaf.subject_alt_names().into_iter().flatten();
        let names = names.filter_map(|name| name.dnsname().map(|name| name.to_ascii_lowercase().into())).collect();
        let ders = chain.iter().map(|certificate| certificate.to_der()).collect::<Result<Vec<_>, _>>();
        let ders = ders.map_err(|_| CredentialError::Chain)?;
        let native = NativeCredential::new(&ders, &key, pool).map_err(|_| CredentialError::Unsupported)?;
        Ok(Self { native, twin: None, names, not_before, not_after })
    }

    /// The same with a second one for clients that cannot use the first, as many cannot use an ECDSA key.
    pub(super) fn with_twin(self, twin: Credential) -> Self {
        Self { twin: Some(twin.native), ..self }
    }

    /// First second in which it is valid, Unix time.
    pub fn not_before(&self) -> i64 {
        self.not_before
    }

    /// Last second in which it is valid, Unix time.
    pub fn not_after(&self) -> i64 {
        self.not_after
    }

    /// Whether a client that asked for `name` would take it: a DNS name of the certificate is `name`, or is it with the
    /// first label replaced by `*` (RFC 9525, 6.3). The subject's common name counts for nothing.
    pub fn covers(&self, name: &ServerName) -> bool {
        let wildcard = ServerName::wildcard(name.as_str());
        self.names.iter().any(|own| **own == *name.as_str() || Some(&**own) == wildcard.as_deref())
    }

    /// The DNS names that it is for, in lower case.
    pub(super) fn names(&self) -> &[Box<str>] {
        &self.names
    }

    /// Whether there is a second one for clients that cannot use the first.
    #[cfg(test)]
    pub(super) fn has_twin(&self) -> bool {
        self.twin.is_some()
    }

    /// Makes a handshake use it. Of two, BoringSSL takes the first whose signatures the client knows.
    ///
    /// # Errors
    /// When BoringSSL has no memory left.
    pub fn install(&self, ssl: &mut SslRef) -> Result<(), ErrorStack> {
        self.native.install(ssl)?;
        self.twin.iter().try_for_each(|twin| twin.install(ssl))
    }
}

fn unix_seconds(time: &Asn1TimeRef) -> Result<i64, ErrorStack> {
    let since = Asn1Time::from_unix(0)?.diff(time)?;
    Ok(i64::from(since.days) * 86_400 + i64::from(since.secs))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::tls::testing::Issued;

    #[test]
    fn a_chain_and_its_key_are_parsed() {
        let issued = Issued::new(&["a.example", "*.b.example"]);
        let credential = Credential::parse(issued.chain.as_bytes(), issued.key.as_bytes()).unwrap();
        assert!(credential.not_before() < credential.not_after());
        for (name, covered) in [
            ("a.example", true),
            ("b.example", false),
            ("x.b.example", true),
            ("y.x.b.example", false),
            ("c.example", false),
        ] {
            assert_eq!(credential.covers(&name.parse().unwrap()), covered, "{name}");
        }
    }

    #[test]
    fn what_is_no_credential_is_told_apart() {
        let issued = Issued::new(&["a.example"]);
        let other = Issued::new(&["a.example"]);
        let parse = |chain: &str, key: &str| Credential::parse(chain.as_bytes(), key.as_bytes()).map(drop);
        assert_eq!(parse(&issued.chain, &other.key), Err(CredentialError::KeyMismatch));
        assert_eq!(parse("", &issued.key), Err(CredentialError::Chain));
        assert_eq!(parse(&issued.key, &issued.key), Err(CredentialError::Chain));
        assert_eq!(parse(&issued.chain, "no key"), Err(CredentialError::Key));
        assert_eq!(parse(&issued.chain.replace('M', "!"), &issued.key), Err(CredentialError::Chain));
        let encrypted = issued.key.replace("PRIVATE KEY", "ENCRYPTED PRIVATE KEY");
        assert_eq!(parse(&issued.chain, &encrypted), Err(CredentialError::Key));
    }
}

#[cfg(test)]
mod corpus {
    #![allow(clippy::unwrap_used)]
    use super::*;

    /// What `fuzz/fuzz_targets/credential.rs` holds of any bytes.
    fn check(bytes: &[u8]) -> bool {
        let mut parts = bytes.splitn(2, |byte| *byte == 0);
        let (chain, key) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
        Credential::parse(chain, key).is_ok()
    }

    #[test]
    fn the_corpus_of_the_fuzzer_holds() {
        let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus/credential");
        let mut seeds = 0;
        for seed in std::fs::read_dir(folder).unwrap().map(Result::unwrap) {
            let good = seed.file_name().to_string_lossy().starts_with("good-");
            assert_eq!(check(&std::fs::read(seed.path()).unwrap()), good, "{:?}", seed.path());
            seeds += 1;
        }
        assert!(seeds >= 8, "{seeds}");
    }

    proptest::proptest! {
        #![proptest_config(proptest::prelude::ProptestConfig { cases: 400, failure_persistence: None, ..Default::default() })]

        #[test]
        fn damage_breaks_nothing(at in 0..4_000_usize, length in 0..60_usize, with in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..20)) {
            let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus/credential");
            let mut bytes = std::fs::read(folder.join("good-ecdsa")).unwrap();
            let at = at.min(bytes.len());
            bytes.splice(at..(at + length).min(bytes.len()), with);
            check(&bytes);
        }
    }
}
