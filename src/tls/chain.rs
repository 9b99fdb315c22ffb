//! Certificates looked at for a person: what is in them, whether a chain is whole, and which key belongs to which.
//!
//! Nothing here is on the way of a handshake.

use std::collections::{HashMap, HashSet};

use boring::error::ErrorStack;
use boring::hash::MessageDigest;
use boring::nid::Nid;
use boring::pkey::{Id, PKey, PKeyRef, Private, Public};
use boring::stack::Stack;
use boring::x509::store::{X509Store, X509StoreBuilder};
use boring::x509::{X509, X509NameRef, X509Ref, X509StoreContext};

use crate::clock;
use crate::tls::credential::unix_seconds;
use crate::tls::sni;

/// Certificates in a chain; real ones have two to four.
const CHAIN_MAX: usize = 10;
/// Bits of an RSA key that clients take (CA/Browser Forum's Baseline Requirements, 6.1.5).
const RSA_BITS_MIN: u32 = 2_048;
const BEGIN: &str = "-----BEGIN ";

/// A chain as it was read or sent, leaf first if it is right.
pub struct Chain(Vec<X509>);

/// What a leaf says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeafFacts {
    /// The serial number, hexadecimal, as the name of a folder too.
    pub serial: String,
    /// Who issued it.
    pub issuer: String,
    /// Its DNS names, lower case.
    pub names: Vec<String>,
    /// First second of its validity, Unix time.
    pub not_before: i64,
    /// Last second of its validity, Unix time.
    pub not_after: i64,
    /// Its key, as in `ECDSA P-256` or `RSA 2048`.
    pub key: String,
    /// Bits of the key.
    bits: u32,
}

/// What is wrong with a chain.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ChainFault {
    /// A certificate is not followed by the one that issued it.
    #[error("certificate {0} of the chain is not followed by its issuer, {1}")]
    Order(usize, String),
    /// There is no issuer, and the leaf's is none that a client of public roots only knows.
    #[error("the chain is the certificate alone, and {0}, which issued it, is no root that this machine trusts")]
    LeafOnly(String),
    /// The chain ends too early for a client that knows public roots only.
    #[error("the chain ends with a certificate of {0}, which is no root that this machine trusts")]
    Unanchored(String),
    /// The last certificate is a root nobody here trusts.
    #[error("the chain ends at the root {0}, which this machine does not trust")]
    UnknownRoot(String),
    /// BoringSSL's own words.
    #[error("a client would refuse the chain: {0}")]
    Refused(String),
}

/// The roots that this machine trusts: read once, for many chains.
pub struct Roots(X509Store);

/// A chain with its key, put together from what a folder or file holds.
pub struct Bundle {
    /// Leaf first, issuers after it, without the root.
    pub chain: Chain,
    /// The leaf's key.
    key: PKey<Private>,
    /// What the leaf says.
    pub facts: LeafFacts,
}

/// Certificates and keys, each once; the certificates in the order in which they were met. A folder may hold those of
/// 100,000 names.
#[derive(Default)]
pub struct Pile {
    certificates: Vec<X509>,
    /// The digests of these.
    met: HashSet<Vec<u8>>,
    /// Which of these have a subject (DER), to find issuers by.
    by_subject: HashMap<Vec<u8>, Vec<usize>>,
    /// By their public half (DER).
    keys: HashMap<Vec<u8>, PKey<Private>>,
    /// A key with a passphrase was met.
    pub encrypted: bool,
    /// A certificate or key was met that cannot be parsed.
    pub damaged: bool,
}

// === impl Chain ===

impl Chain {
    /// Reads PEM; `None` = there is no certificate in it, or one that cannot be parsed.
    pub fn from_pem(pem: &[u8]) -> Option<Self> {
        let chain = X509::stack_from_pem(pem).ok()?;
        (!chain.is_empty()).then_some(Self(chain))
    }

    /// Reads certificates one by one.
    pub fn from_der(ders: &[Vec<u8>]) -> Option<Self> {
        ders.iter().map(|der| X509::from_der(der).ok()).collect::<Option<Vec<_>>>().map(Self)
    }

    /// What the first certificate says; `None` = it is no certificate for TLS.
    pub fn leaf(&self) -> Option<LeafFacts> {
        facts(self.0.first()?)
    }

    /// Whether there is one certificate only.
    pub fn is_single(&self) -> bool {
        self.0.len() == 1
    }

    /// The certificates one by one, DER.
    pub fn to_der(&self) -> Option<Vec<Vec<u8>>> {
        self.0.iter().map(|certificate| certificate.to_der().ok()).collect()
    }

    /// The certificates in the order in which they are, PEM.
    pub fn to_pem(&self) -> Option<Vec<u8>> {
        let blocks = self.0.iter().map(|certificate| certificate.to_pem().ok()).collect::<Option<Vec<_>>>()?;
        Some(blocks.concat())
    }

    /// Judges order and completeness as a client does that trusts these roots, as of `now` (Unix seconds).
    ///
    /// # Errors
    /// What a client would stumble over.
    pub fn judge(&self, roots: &Roots, now: i64) -> Result<(), ChainFault> {
        for (at, pair) in self.0.windows(2).enumerate() {
            let [certificate, next] = pair else { continue };
            if !is_issuer(next, certificate) {
                return Err(ChainFault::Order(at + 1, common_name(certificate.issuer_name())));
            }
        }
        let Some(last) = self.0.last() else { return Ok(()) };
        let issuer = common_name(last.issuer_name());
        match self.is_trusted(roots, now) {
            Ok(true) => Ok(()),
            Ok(false) if is_issuer(last, last) => Err(ChainFault::UnknownRoot(issuer)),
            Ok(false) if self.0.len() == 1 => Err(ChainFault::LeafOnly(issuer)),
            Ok(false) => Err(ChainFault::Unanchored(issuer)),
            Err(words) => Err(ChainFault::Refused(words)),
        }
    }

    /// Whether the chain leads to one of the roots; an error is any other reason against it.
    fn is_trusted(&self, roots: &Roots, now: i64) -> Result<bool, String> {
        let words = |error: ErrorStack| error.to_string();
        let (leaf, rest) = self.0.split_first().ok_or_else(String::new)?;
        let leaf_facts = facts(leaf).ok_or("the leaf cannot be read")?;
        let mut others = Stack::new().map_err(words)?;
        rest.iter().try_for_each(|certificate| others.push(certificate.clone())).map_err(words)?;
        let mut context = X509StoreContext::new().map_err(words)?;
        let verdict = context.init(&roots.0, leaf, &others, |context| {
            // Validity is told by itself: here it is judged inside of the leaf's, which may end before it begins.
            context.verify_param_mut().set_time(now.min(leaf_facts.not_after).max(leaf_facts.not_before));
            context.verify_cert()?;
            Ok(context.verify_result())
        });
        match verdict.map_err(words)? {
            Ok(()) => Ok(true),
            Err(error) if ANCHOR_ERRORS.contains(&error.as_raw()) => Ok(false),
            Err(error) => Err(error.error_string().to_owned()),
        }
    }
}

/// X509_V_ERR_…: no issuer at hand (2, 20), self-signed leaf (18) or root (19), unable to verify the first (21).
const ANCHOR_ERRORS: [i32; 5] = [2, 18, 19, 20, 21];

// === impl Roots ===

impl Roots {
    /// Opens the system's list, and adds those of private CAs (PEM). A list that is not there is empty; what is no
    /// certificate is passed over.
    ///
    /// # Errors
    /// When BoringSSL has no memory left.
    pub fn of_this_machine_and(cas: &[Vec<u8>]) -> Result<Self, ErrorStack> {
        let mut store = X509StoreBuilder::new()?;
        store.set_default_paths()?;
        for certificate in cas.iter().flat_map(|pem| X509::stack_from_pem(pem).unwrap_or_default()) {
            store.add_cert(certificate)?;
        }
        Ok(Self(store.build()))
    }
}

// === impl LeafFacts ===

impl LeafFacts {
    /// Whether it is for this DNS name: one of its own is that, or is it with the first label replaced by `*`.
    pub fn covers(&self, name: &str) -> bool {
        self.names.iter().any(|own| sni::covers(own, name))
    }

    /// Whether the key is RSA.
    pub fn is_rsa(&self) -> bool {
        self.key.starts_with("RSA")
    }

    /// Why clients refuse its key although it can be served, if they do.
    pub fn weakness(&self) -> Option<String> {
        let is_weak = self.is_rsa() && self.bits < RSA_BITS_MIN;
        is_weak
            .then(|| format!("its key is {}, and clients refuse RSA keys of fewer than {RSA_BITS_MIN} bits", self.key))
    }
}

// === impl Pile ===

impl Pile {
    /// Adds all certificates and keys of a PEM text; what is something else is passed over. Says whether there was any.
    pub fn add(&mut self, pem: &[u8]) -> bool {
        let text = String::from_utf8_lossy(pem);
        let mut found = false;
        for block in text.split(BEGIN).skip(1) {
            let pem = format!("{BEGIN}{block}");
            let label = block.split("-----").next().unwrap_or_default();
            let added = if label == "ENCRYPTED PRIVATE KEY" || block.contains("Proc-Type: 4,ENCRYPTED") {
                self.encrypted = true;
                continue;
            } else if label.ends_with("PRIVATE KEY") {
                self.add_key(pem.as_bytes())
            } else if label.ends_with("CERTIFICATE") {
                self.add_certificate(pem.as_bytes())
            } else {
                continue;
            };
            self.damaged |= added.is_none();
            found |= added.is_some();
        }
        found
    }

    fn add_key(&mut self, pem: &[u8]) -> Option<()> {
        let key = PKey::private_key_from_pem(pem).ok()?;
        self.keys.insert(key.public_key_to_der().ok()?, key);
        Some(())
    }

    fn add_certificate(&mut self, pem: &[u8]) -> Option<()> {
        let certificate = X509::from_pem(pem).ok()?;
        // certbot keeps the leaf in two files, and every chain has the same intermediate.
        if self.met.insert(certificate.digest(MessageDigest::sha256()).ok()?.to_vec()) {
            let subject = certificate.subject_name().to_der().ok()?;
            self.by_subject.entry(subject).or_default().push(self.certificates.len());
            self.certificates.push(certificate);
        }
        Some(())
    }

    /// Whether there is nothing in it.
    pub fn is_empty(&self) -> bool {
        self.certificates.is_empty() && self.keys.is_empty()
    }

    /// Each certificate that has its key here, with its issuers put in order after it.
    pub fn bundles(&self) -> Vec<Bundle> {
        let bundle = |certificate: &X509| {
            let (key, facts) = (self.key_of(certificate)?, facts(certificate)?);
            Some(Bundle { chain: self.extended(vec![certificate.clone()]), key: key.clone(), facts })
        };
        self.certificates.iter().filter_map(bundle).collect()
    }

    /// The DNS names of certificates whose key is not here. An intermediate has none.
    pub fn keyless(&self) -> Vec<String> {
        let keyless = self.certificates.iter().filter(|certificate| self.key_of(certificate).is_none());
        let mut names: Vec<String> =
            keyless.filter_map(|certificate| facts(certificate)).flat_map(|facts| facts.names).collect();
        names.sort();
        names.dedup();
        names
    }

    /// How many keys belong to none of the certificates here.
    pub fn lone_keys(&self) -> usize {
        let used: HashSet<_> = self.certificates.iter().filter_map(|certificate| public_half(certificate)).collect();
        self.keys.keys().filter(|key| !used.contains(*key)).count()
    }

    fn key_of(&self, certificate: &X509Ref) -> Option<&PKey<Private>> {
        self.keys.get(&public_half(certificate)?)
    }

    /// A chain that ends too early, with those of its issuers after it that are here; `None` = none is.
    pub fn completed(&self, chain: &Chain) -> Option<Chain> {
        let completed = self.extended(chain.0.clone());
        (completed.0.len() > chain.0.len()).then_some(completed)
    }

    fn extended(&self, mut chain: Vec<X509>) -> Chain {
        while chain.len() < CHAIN_MAX {
            let Some(last) = chain.last() else { break };
            match self.issuer_of(last) {
                Some(issuer) => chain.push(issuer.clone()),
                None => break,
            }
        }
        Chain(chain)
    }

    /// Who issued a certificate, unless that is a root, which no server sends.
    fn issuer_of(&self, certificate: &X509Ref) -> Option<&X509> {
        let named = self.by_subject.get(&certificate.issuer_name().to_der().ok()?)?;
        let issuers = named.iter().filter_map(|index| self.certificates.get(*index));
        issuers.filter(|issuer| is_issuer(issuer, certificate)).find(|issuer| !is_issuer(issuer, issuer))
    }
}

// === impl Bundle ===

impl Bundle {
    /// The key, PEM (PKCS #8).
    pub fn key_pem(&self) -> Option<Vec<u8>> {
        self.key.private_key_to_pem_pkcs8().ok()
    }
}

/// The key that a certificate is for, DER.
fn public_half(certificate: &X509Ref) -> Option<Vec<u8>> {
    certificate.public_key().ok()?.public_key_to_der().ok()
}

/// What a certificate says; `None` = it has no key or validity that can be read.
fn facts(certificate: &X509Ref) -> Option<LeafFacts> {
    let key = certificate.public_key().ok()?;
    let names = certificate.subject_alt_names().into_iter().flatten();
    Some(LeafFacts {
        serial: certificate.serial_number().to_bn().ok()?.to_hex_str().ok()?.to_lowercase(),
        issuer: common_name(certificate.issuer_name()),
        names: names.filter_map(|name| name.dnsname().map(str::to_ascii_lowercase)).collect(),
        not_before: unix_seconds(certificate.not_before()).ok()?,
        not_after: unix_seconds(certificate.not_after()).ok()?,
        key: key_kind(&key),
        bits: key.bits(),
    })
}

/// Whether one issued the other: its subject is the other's issuer, and its key made the signature.
fn is_issuer(issuer: &X509Ref, certificate: &X509Ref) -> bool {
    let signed = issuer.public_key().ok().and_then(|key| certificate.verify(&key).ok());
    issuer.issued(certificate).is_ok() && signed == Some(true)
}

fn common_name(name: &X509NameRef) -> String {
    let text = |nid| {
        name.entries_by_nid(nid).next().and_then(|entry| entry.data().as_utf8().ok()).map(|text| text.to_string())
    };
    match (text(Nid::ORGANIZATIONNAME), text(Nid::COMMONNAME)) {
        (Some(organisation), Some(name)) => format!("{organisation} {name}"),
        (Some(one), None) | (None, Some(one)) => one,
        (None, None) => "an issuer without a name".to_owned(),
    }
}

fn key_kind(key: &PKeyRef<Public>) -> String {
    match key.id() {
        Id::EC => format!("ECDSA P-{}", key.bits()),
        Id::RSA => format!("RSA {}", key.bits()),
        Id::ED25519 => "Ed25519".to_owned(),
        _ => "of a kind that TLS does not use".to_owned(),
    }
}

/// Unix seconds as RFC 3339, UTC; what lies outside of its years is cut to them.
pub fn rfc3339(seconds: i64) -> String {
    clock::rfc3339(seconds.saturating_mul(1_000))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing)]
    use super::*;
    use crate::tls::testing::Issued;
    use crate::tls::{Credential, CredentialError};

    /// The first second of 2026.
    const NOW: i64 = 1_767_225_600;

    #[test]
    fn a_pile_is_put_in_order_whatever_the_order_of_its_parts() {
        let (issued, other) = (Issued::new(&["a.example", "*.b.example"]), Issued::new(&["c.example"]));
        let mut pile = Pile::default();
        assert!(pile.is_empty() && !pile.add(b"# a README\n"));
        let blocks: Vec<_> = issued.chain.split_inclusive("-----END CERTIFICATE-----\n").collect();
        for part in [&issued.root, &other.chain, blocks[1], &issued.key, blocks[0], blocks[0]] {
            assert!(pile.add(part.as_bytes()));
        }
        let bundles = pile.bundles();
        assert_eq!(bundles.len(), 1, "the leaf was there twice");
        let bundle = &bundles[0];
        assert_eq!(bundle.chain.to_pem().unwrap(), issued.chain.as_bytes(), "without the root");
        assert_eq!((bundle.facts.key.as_str(), bundle.facts.not_after), ("ECDSA P-256", 4_102_444_800));
        assert!(bundle.facts.issuer.contains("Intermediate of a.example"));
        assert_eq!(bundle.facts.names, ["a.example", "*.b.example"]);
        assert!(bundle.key_pem().unwrap().starts_with(b"-----BEGIN PRIVATE KEY-----"));
        assert_eq!((pile.keyless(), pile.lone_keys(), pile.damaged), (vec!["c.example".to_owned()], 0, false));
        assert!(pile.add(Issued::new(&["d.example"]).key.as_bytes()));
        assert!(!pile.add(issued.key.replace("MIG", "MIH").as_bytes()));
        assert_eq!((pile.lone_keys(), pile.damaged), (1, true));
    }

    #[test]
    fn a_chain_is_judged_by_order_and_end() {
        let issued = Issued::new(&["a.example"]);
        let judge =
            |pem: &str| Chain::from_pem(pem.as_bytes()).unwrap().judge(&Roots::of_this_machine_and(&[]).unwrap(), NOW);
        let blocks: Vec<_> = issued.chain.split_inclusive("-----END CERTIFICATE-----\n").collect();
        assert!(matches!(judge(&format!("{}{}", blocks[1], blocks[0])), Err(ChainFault::Order(1, _))));
        assert!(matches!(judge(&issued.chain), Err(ChainFault::Unanchored(root)) if root.contains("Root")));
        assert!(matches!(judge(blocks[0]), Err(ChainFault::LeafOnly(name)) if name.contains("Intermediate")));
        assert!(matches!(judge(&(issued.chain.clone() + &issued.root)), Err(ChainFault::UnknownRoot(_))));
        let private = Roots::of_this_machine_and(&[issued.root.clone().into_bytes(), b"none".to_vec()]).unwrap();
        assert_eq!(Chain::from_pem(issued.chain.as_bytes()).unwrap().judge(&private, NOW), Ok(()));
        assert!(judge(&Issued::valid(&["a.example"], 2030, 2020).chain).is_err(), "it ends before it begins");
        assert!(Chain::from_pem(b"").is_none() && Chain::from_pem(issued.key.as_bytes()).is_none());
    }

    /// What `fuzz/fuzz_targets/pile.rs` holds of any bytes: what is put together is a credential, or only its key's kind is
    /// none of TLS; a chain that is written is read again.
    fn check(bytes: &[u8]) -> usize {
        let again =
            |chain: &Chain| assert_eq!(Chain::from_pem(&chain.to_pem().unwrap()).unwrap().to_der(), chain.to_der());
        let mut pile = Pile::default();
        assert!(pile.add(bytes) || pile.is_empty());
        let bundles = pile.bundles();
        for bundle in &bundles {
            again(&bundle.chain);
            // Of some kinds of key nothing is written.
            let (Some(chain), Some(key)) = (bundle.chain.to_pem(), bundle.key_pem()) else { continue };
            assert!(matches!(Credential::parse(&chain, &key), Ok(_) | Err(CredentialError::Unsupported)));
        }
        assert!(pile.keyless().is_sorted());
        Chain::from_pem(bytes).iter().for_each(again);
        bundles.len()
    }

    fn corpus() -> std::path::PathBuf {
        std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus/pile")
    }

    #[test]
    fn the_corpus_of_the_fuzzer_holds() {
        let seeds: Vec<_> = std::fs::read_dir(corpus()).unwrap().map(|seed| seed.unwrap().path()).collect();
        for seed in &seeds {
            let found = check(&std::fs::read(seed).unwrap());
            assert_eq!(found > 0, seed.file_name().unwrap().to_str().unwrap().starts_with("good-"), "{seed:?}");
        }
        assert!(seeds.len() >= 5);
    }

    proptest::proptest! {
        #![proptest_config(proptest::prelude::ProptestConfig { cases: 400, failure_persistence: None, ..Default::default() })]

        #[test]
        fn damage_breaks_nothing(at in 0..4_000_usize, length in 0..60_usize, with in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..20)) {
            let mut bytes = std::fs::read(corpus().join("good-ecdsa")).unwrap();
            let at = at.min(bytes.len());
            bytes.splice(at..(at + length).min(bytes.len()), with);
            check(&bytes);
        }
    }

    #[test]
    fn a_key_with_a_passphrase_is_noticed() {
        let issued = Issued::new(&["a.example"]);
        let mut pile = Pile::default();
        pile.add(issued.key.replace("PRIVATE KEY", "ENCRYPTED PRIVATE KEY").as_bytes());
        assert!(pile.encrypted && pile.is_empty());
    }
}
