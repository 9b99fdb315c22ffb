//! A certificate authority of the test's own.

use std::path::Path;

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose};

/// Issues certificates that the test's clients trust.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pem: String,
}

impl Authority {
    pub fn new() -> Self {
        let mut params = CertificateParams::new(Vec::new()).expect("no names");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params.distinguished_name.push(DnType::CommonName, "Pixelgate test CA");
        let key = KeyPair::generate().expect("a key");
        let certificate = params.self_signed(&key).expect("a CA");
        Self { pem: certificate.pem(), issuer: Issuer::new(params, key) }
    }

    /// The CA's certificate.
    pub fn pem(&self) -> &str {
        &self.pem
    }

    /// Writes `chain.pem` and `key.pem` for a name into `certs_dir`, valid from a day ago for `days`.
    pub fn issue(&self, certs_dir: &Path, name: &str, days: i64) {
        let (chain, key) = self.credential(name, days);
        let folder = certs_dir.join(name.replacen('*', "_", 1));
        std::fs::create_dir_all(&folder).expect("a folder");
        std::fs::write(folder.join("chain.pem"), chain).expect("a file");
        std::fs::write(folder.join("key.pem"), key).expect("a file");
    }

    /// A chain and its key, as PEM.
    pub fn credential(&self, name: &str, days: i64) -> (String, String) {
        let mut params = CertificateParams::new(vec![name.to_owned()]).expect("a DNS name");
        let now = rcgen::date_time_ymd(2026, 1, 1).replace_date(time_now().date());
        params.not_before = now - std::time::Duration::from_secs(2 * 86_400);
        params.not_after = match u64::try_from(days) {
            Ok(days) => now + std::time::Duration::from_secs(days * 86_400),
            Err(_) => now - std::time::Duration::from_secs(86_400),
        };
        params.distinguished_name.push(DnType::CommonName, "leaf");
        let key = KeyPair::generate().expect("a key");
        let certificate = params.signed_by(&key, &self.issuer).expect("a certificate");
        (certificate.pem() + &self.pem, key.serialize_pem())
    }
}
