//! A certificate chain with its key, parsed and checked.

use std::sync::Arc;

use boring::asn1::{Asn1Time, Asn1TimeRef};
use boring::nid::Nid;
use boring::pkey::{Id, PKeyRef, Public};
use pingora::tls::error::ErrorStack;
use pingora::tls::pkey::PKey;
use pingora::tls::ssl::SslRef;
use pingora::tls::x509::X509;

use crate::account::ServerName;
use crate::tls::make::{Make, Order};
use crate::tls::native::{NativeCredential, Pool};
use crate::tls::sni;

/// What proves a server name in a handshake: the chain, leaf first, and the leaf's key; and beside it, where there is
/// one, the same with another kind of key.
pub struct Credential {
    first: Option<Pair>,
    /// At least one of the two is there; few have a twin.
    twin: Option<Box<Pair>>,
}

#[derive(Clone)]
struct Pair {
    native: NativeCredential,
    names: Arc<[Box<str>]>,
    not_before: i64,
    not_after: i64,
    make: Make,
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
    /// The key is good, but no handshake is signed with one of its kind, such as Ed25519.
    #[error("the certificate's key is of a kind that is not served: only ECDSA and RSA are")]
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
        if !can_sign(&public) {
            return Err(CredentialError::Unsupported);
        }
        let not_before = unix_seconds(leaf.not_before()).map_err(|_| CredentialError::Chain)?;
        let not_after = unix_seconds(leaf.not_after()).map_err(|_| CredentialError::Chain)?;
        let names = leaf.subject_alt_names().into_iter().flatten();
        let names = names.filter_map(|name| name.dnsname().map(|name| name.to_ascii_lowercase().into())).collect();
        let ders = chain.iter().map(|certificate| certificate.to_der()).collect::<Result<Vec<_>, _>>();
        let ders = ders.map_err(|_| CredentialError::Chain)?;
        let native = NativeCredential::new(&ders, key, pool).map_err(|_| CredentialError::Unsupported)?;
        let make = Make { is_rsa: public.id() == Id::RSA, order: Order::of(&chain) };
        Ok(Self { first: Some(Pair { native, names, not_before, not_after, make }), twin: None })
    }

    /// Of a first pair and its twin the one that is there, or both: many clients cannot use an ECDSA key. What handshakes do
    /// not ask for, the names, is left out: a folder knows them.
    pub(super) fn of_pairs(first: Option<Self>, twin: Option<Self>) -> Option<Self> {
        let pair = |credential: Option<Self>| Some(Pair { names: Arc::default(), ..credential?.first? });
        let (first, twin) = (pair(first), pair(twin).map(Box::new));
        (first.is_some() || twin.is_some()).then_some(Self { first, twin })
    }

    /// The first pair alone, or the twin, if it is there.
    pub(super) fn alone(&self, twin: bool) -> Option<Self> {
        let pair = if twin { self.twin.as_deref() } else { self.first.as_ref() };
        Some(Self { first: Some(pair?.clone()), twin: None })
    }

    /// The same with only those of its two pairs that may be served.
    pub(super) fn only(self: &Arc<Self>, served: [bool; 2]) -> Arc<Self> {
        let [first, twin] = served;
        if (first || self.first.is_none()) && (twin || self.twin.is_none()) {
            return self.clone();
        }
        Arc::new(Self {
            first: first.then(|| self.first.clone()).flatten(),
            twin: twin.then(|| self.twin.clone()).flatten(),
        })
    }

    /// First second in which it is valid, Unix time.
    pub fn not_before(&self) -> i64 {
        self.pairs().next().map_or(0, |pair| pair.not_before)
    }

    /// Last second in which it is valid, Unix time.
    pub fn not_after(&self) -> i64 {
        self.pairs().next().map_or(0, |pair| pair.not_after)
    }

    /// Whether a client that asked for `name` would take it: a DNS name of the certificate is `name`, or is it with the
    /// first label replaced by `*` (RFC 9525, 6.3). The subject's common name counts for nothing.
    pub fn covers(&self, name: &ServerName) -> bool {
        self.names().iter().any(|own| sni::covers(own, name.as_str()))
    }

    /// The DNS names that it is for, in lower case.
    pub fn names(&self) -> &[Box<str>] {
        self.pairs().next().map_or(&[], |pair| &pair.names)
    }

    /// How it is made.
    pub(super) fn make(&self) -> Make {
        self.pairs().next().map_or(Make { is_rsa: false, order: Order::Right }, |pair| pair.make)
    }

    /// Whether there is a second one for clients that cannot use the first.
    #[cfg(test)]
    pub(super) fn has_twin(&self) -> bool {
        self.pairs().count() == 2
    }

    /// Makes a handshake use it. Of two, BoringSSL takes the first whose signatures the client knows.
    ///
    /// # Errors
    /// When BoringSSL has no memory left.
    pub fn install(&self, ssl: &mut SslRef) -> Result<(), ErrorStack> {
        self.pairs().try_for_each(|pair| pair.native.install(ssl))
    }

    fn pairs(&self) -> impl Iterator<Item = &Pair> {
        self.first.iter().chain(self.twin.as_deref())
    }
}

/// Whether handshakes are signed with keys of this kind: BoringSSL takes others, and finds no signature for them later.
fn can_sign(key: &PKeyRef<Public>) -> bool {
    let curve = || key.ec_key().ok().and_then(|key| key.group().curve_name());
    match key.id() {
        Id::RSA => true,
        Id::EC => matches!(curve(), Some(Nid::X9_62_PRIME256V1 | Nid::SECP384R1 | Nid::SECP521R1)),
        _ => false,
    }
}

/// Unix time.
pub(super) fn unix_seconds(time: &Asn1TimeRef) -> Result<i64, ErrorStack> {
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
    #![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic)]
    use std::path::PathBuf;

    use base64::Engine as _;
    use base64::engine::general_purpose::STANDARD;
    use proptest::prelude::*;
    use rcgen::KeyPair;

    use super::*;
    use crate::tls::glance::Glance;
    use crate::tls::testing::Issued;

    fn folder() -> PathBuf {
        std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus/credential")
    }

    /// What `fuzz/fuzz_targets/credential.rs` holds of any bytes: a glance finds what parsing finds, or does not know. Only
    /// the private half of a key is not looked at.
    fn check(bytes: &[u8]) -> (Option<Glance>, Result<Arc<Credential>, CredentialError>) {
        let mut parts = bytes.splitn(2, |byte| *byte == 0);
        let (chain, key) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
        let (glance, parsed) = (Credential::glance(chain, key), Credential::parse(chain, key));
        match (&glance, &parsed) {
            (None, _) | (Some(_), Err(CredentialError::Key)) => {}
            (Some(glance), Ok(parsed)) => assert_eq!(*glance, of(parsed)),
            (Some(glance), Err(error)) => panic!("{glance:?}, but {error}"),
        }
        (glance, parsed)
    }

    fn of(parsed: &Credential) -> Glance {
        let (not_before, not_after) = (parsed.not_before(), parsed.not_after());
        Glance { not_before, not_after, names: parsed.names().to_vec() }
    }

    fn joined(issued: &Issued) -> Vec<u8> {
        [issued.chain.as_bytes(), &[0], issued.key.as_bytes()].concat()
    }

    #[test]
    fn the_corpus_of_the_fuzzer_holds() {
        let mut seeds = 0;
        for seed in std::fs::read_dir(folder()).unwrap().map(Result::unwrap) {
            let good = seed.file_name().to_string_lossy().starts_with("good-");
            let (glance, parsed) = check(&std::fs::read(seed.path()).unwrap());
            assert_eq!(parsed.is_ok(), good, "{:?}", seed.path());
            assert_eq!(glance.is_some(), good, "{:?}", seed.path());
            if seed.file_name() == "no-signatures-ed25519" {
                assert_eq!(parsed.err(), Some(CredentialError::Unsupported));
            }
            seeds += 1;
        }
        assert!(seeds >= 8, "{seeds}");
    }

    #[test]
    fn a_glance_is_enough_for_what_is_issued_today() {
        let names = ["a.example", "*.B.example"];
        let signatures = [&rcgen::PKCS_ECDSA_P256_SHA256, &rcgen::PKCS_ECDSA_P384_SHA384, &rcgen::PKCS_RSA_SHA256];
        for signature in signatures {
            let issued = Issued::with_key(&names, 1960, 2060, KeyPair::generate_for(signature).unwrap());
            let (glance, parsed) = check(&joined(&issued));
            assert_eq!(glance, parsed.ok().map(|parsed| of(&parsed)));
            assert_eq!(glance.unwrap().names.len(), 2);
        }
        // One that is rare, and one that no handshake is signed with.
        for (signature, can_sign) in [(&rcgen::PKCS_ECDSA_P521_SHA512, true), (&rcgen::PKCS_ED25519, false)] {
            let issued = Issued::with_key(&names, 2020, 2060, KeyPair::generate_for(signature).unwrap());
            let (glance, parsed) = check(&joined(&issued));
            assert_eq!((glance, parsed.is_ok()), (None, can_sign));
        }
    }

    #[test]
    fn a_key_of_another_certificate_is_no_glance() {
        for (one, other) in [
            (Issued::new(&["a.example"]), Issued::new(&["a.example"])),
            (Issued::rsa(&["a.example"]), Issued::rsa(&["a.example"])),
        ] {
            assert!(Credential::glance(one.chain.as_bytes(), one.key.as_bytes()).is_some());
            assert!(Credential::glance(one.chain.as_bytes(), other.key.as_bytes()).is_none());
        }
    }

    /// Public keys that are no keys, written so in the certificate and in the key's file.
    #[test]
    fn a_public_key_that_is_none_is_no_glance() {
        let after =
            |der: &[u8], mark: &[u8]| der.windows(mark.len()).position(|part| part == mark).unwrap() + mark.len();
        let with_exponent = |exponent: [u8; 3]| {
            move |der: &mut Vec<u8>| {
                let at = after(der, &[2, 3, 1, 0, 1]);
                der[at - 3..at].copy_from_slice(&exponent);
            }
        };
        // The modulus ends where the exponent begins.
        let even_modulus = |der: &mut Vec<u8>| {
            let at = after(der, &[2, 3, 1, 0, 1]) - 6;
            der[at] &= !1;
        };
        // The point is the last bit string of 66 bytes with an uncompressed point in it.
        let off_the_curve = |der: &mut Vec<u8>| {
            let at = after(der, &[3, 66, 0, 4]);
            der[at] ^= 1;
        };
        let is_none = |seed: &str, edit: &dyn Fn(&mut Vec<u8>)| {
            let bytes = std::fs::read(folder().join(seed)).unwrap();
            let split = bytes.iter().position(|byte| *byte == 0).unwrap();
            let [chain, key] = [&bytes[..split], &bytes[split + 1..]].map(|pem| edited(pem, edit));
            let (glance, parsed) = check(&[&chain, &[0][..], &key].concat());
            glance.is_none() && parsed.is_err()
        };
        assert!(is_none("good-rsa", &with_exponent([1, 0, 2])));
        assert!(is_none("good-rsa", &with_exponent([0x7f, 0xff, 0xff])));
        assert!(is_none("good-rsa", &even_modulus));
        assert!(is_none("good-ecdsa", &off_the_curve));
        assert!(is_none("good-sec1", &off_the_curve));
    }

    /// A PEM text with one byte of its first block's content changed, so that the damage is not in the writing.
    fn with_damage(pem: &[u8], at: prop::sample::Index, with: u8) -> Vec<u8> {
        edited(pem, |der| {
            let at = at.index(der.len());
            der[at] = with;
        })
    }

    /// A PEM text with other content in its first block.
    fn edited(pem: &[u8], edit: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
        let text = std::str::from_utf8(pem).unwrap();
        let (begin, rest) = text.split_once('\n').unwrap();
        let (body, end) = rest.split_once("-----").unwrap();
        let mut der = STANDARD.decode(body.replace('\n', "")).unwrap();
        edit(&mut der);
        let lines = STANDARD.encode(&der).into_bytes();
        let body: Vec<u8> = lines.chunks(64).flat_map(|line| [line, b"\n"].concat()).collect();
        [begin.as_bytes(), b"\n", &body, b"-----", end.as_bytes()].concat()
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..Default::default() })]

        #[test]
        fn damage_breaks_nothing(at in 0..4_000_usize, length in 0..60_usize, with in prop::collection::vec(any::<u8>(), 0..20)) {
            let mut bytes = std::fs::read(folder().join("good-ecdsa")).unwrap();
            let at = at.min(bytes.len());
            bytes.splice(at..(at + length).min(bytes.len()), with);
            let _ = check(&bytes);
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 4_000, failure_persistence: None, ..Default::default() })]

        #[test]
        fn a_glance_is_never_more_lenient_than_parsing(
            seed in prop::sample::select(vec!["good-ecdsa", "good-rsa", "good-sec1"]),
            in_key in prop::bool::weighted(0.2),
            at in any::<prop::sample::Index>(),
            with in any::<u8>(),
        ) {
            let bytes = std::fs::read(folder().join(seed)).unwrap();
            let split = bytes.iter().position(|byte| *byte == 0).unwrap();
            let (chain, key) = (&bytes[..split], &bytes[split + 1..]);
            let damaged = if in_key {
                [chain, &[0], &with_damage(key, at, with)].concat()
            } else {
                [&with_damage(chain, at, with), &[0][..], key].concat()
            };
            let _ = check(&damaged);
        }
    }
}
