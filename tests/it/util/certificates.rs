//! A certificate authority of the test's own.

use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use boring::rsa::Rsa;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose, PKCS_RSA_SHA256,
    PublicKeyData, SignatureAlgorithm,
};

/// Issues certificates that the test's clients trust.
pub(crate) struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pem: String,
}

/// An RSA key of 1024 bits, which no library of today makes certificates with.
pub(crate) struct ShortKey {
    /// The public half (PKCS #1, DER).
    public: Vec<u8>,
    /// The key, PEM.
    pub(crate) pem: String,
}

// === impl ShortKey ===

impl ShortKey {
    pub(crate) fn new() -> Self {
        let key = Rsa::generate(1_024).expect("a key");
        let pem = key.private_key_to_pem().expect("PEM");
        Self { public: key.public_key_to_der_pkcs1().expect("DER"), pem: String::from_utf8(pem).expect("PEM is text") }
    }
}

impl PublicKeyData for ShortKey {
    fn der_bytes(&self) -> &[u8] {
        &self.public
    }

    fn algorithm(&self) -> &'static SignatureAlgorithm {
        &PKCS_RSA_SHA256
    }
}

// === impl Authority ===

impl Authority {
    pub(crate) fn new() -> Self {
        let mut params = CertificateParams::new(Vec::new()).expect("no names");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params.distinguished_name.push(DnType::CommonName, "Pixelgate test CA");
        let key = KeyPair::generate().expect("a key");
        let certificate = params.self_signed(&key).expect("a CA");
        Self { pem: certificate.pem(), issuer: Issuer::new(params, key) }
    }

    /// The CA's certificate.
    pub(crate) fn pem(&self) -> &str {
        &self.pem
    }

    /// Writes `chain.pem` and `key.pem` for a name into `certs_dir`, valid from a day ago for `days`.
    pub(crate) fn issue(&self, certs_dir: &Path, name: &str, days: i64) {
        let (chain, key) = self.credential(name, days);
        let folder = certs_dir.join(name.replacen('*', "_", 1));
        std::fs::create_dir_all(&folder).expect("a folder");
        std::fs::write(folder.join("chain.pem"), chain).expect("a file");
        std::fs::write(folder.join("key.pem"), key).expect("a file");
    }

    /// A chain and its key, as PEM.
    pub(crate) fn credential(&self, name: &str, days: i64) -> (String, String) {
        let key = KeyPair::generate().expect("a key");
        (self.sign(&[name], &key, 2, days), key.serialize_pem())
    }

    /// The same as [`Authority::issue`], valid for so many seconds.
    pub(crate) fn issue_for(&self, certs_dir: &Path, name: &str, seconds: i64) {
        let key = KeyPair::generate().expect("a key");
        let folder = certs_dir.join(name);
        std::fs::create_dir_all(&folder).expect("a folder");
        std::fs::write(folder.join("chain.pem"), self.sign_for(&[name], &key, 2, seconds)).expect("a file");
        std::fs::write(folder.join("key.pem"), key.serialize_pem()).expect("a file");
    }

    /// A chain for a key, valid since so many days and for so many more.
    pub(crate) fn sign(&self, names: &[&str], key: &impl PublicKeyData, age: u32, days: i64) -> String {
        self.sign_for(names, key, age, if days < 0 { -86_400 } else { days * 86_400 })
    }

    fn sign_for(&self, names: &[&str], key: &impl PublicKeyData, age: u32, seconds: i64) -> String {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let mut params = CertificateParams::new(names).expect("DNS names");
        let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("a clock");
        let now = rcgen::date_time_ymd(1970, 1, 1) + now;
        params.not_before = now - Duration::from_secs(86_400) * age;
        let lifetime = Duration::from_secs(seconds.unsigned_abs());
        params.not_after = if seconds < 0 { now - lifetime } else { now + lifetime };
        params.distinguished_name.push(DnType::CommonName, "leaf");
        let certificate = params.signed_by(key, &self.issuer).expect("a certificate");
        certificate.pem() + &self.pem
    }
}
