//! Certificates for tests, made on the spot.
#![allow(clippy::unwrap_used)]

use std::net::SocketAddr;
use std::path::Path;
use std::pin::Pin;

use pingora::tls::pkey::PKey;
use pingora::tls::ssl::{Ssl, SslAcceptor, SslMethod};
use pingora::tls::tokio_ssl::SslStream;
use pingora::tls::x509::X509;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, Issuer, KeyPair, date_time_ymd};

/// A leaf below an intermediate below a root, all P-256.
#[derive(Clone)]
pub(crate) struct Issued {
    /// The root, for a client's trust.
    pub(crate) root: String,
    /// Leaf and intermediate.
    pub(crate) chain: String,
    /// The leaf's key.
    pub(crate) key: String,
}

/// Who issues many: one intermediate for all.
pub(crate) struct Authority {
    issuer: Issuer<'static, KeyPair>,
    root: String,
    pem: String,
}

// === impl Authority ===

impl Authority {
    pub(crate) fn new() -> Self {
        let root = CertifiedIssuer::self_signed(authority("Test Root"), KeyPair::generate().unwrap()).unwrap();
        let (params, key) = (authority("Test Intermediate"), KeyPair::generate().unwrap());
        let pem = params.signed_by(&key, &root).unwrap().pem();
        Self { issuer: Issuer::new(params, key), root: root.pem(), pem }
    }

    /// A certificate with a key of its own, valid from 2020 to the end of 2099.
    pub(crate) fn issue(&self, names: &[&str]) -> Issued {
        let key = KeyPair::generate().unwrap();
        let leaf = leaf(names, 2020, 2100).signed_by(&key, &self.issuer).unwrap();
        Issued { root: self.root.clone(), chain: leaf.pem() + &self.pem, key: key.serialize_pem() }
    }
}

// === impl Issued ===

impl Issued {
    /// For these DNS names, valid from 2020 to the end of 2099.
    pub(crate) fn new(names: &[&str]) -> Self {
        Self::valid(names, 2020, 2100)
    }

    /// The same with an RSA key.
    pub(crate) fn rsa(names: &[&str]) -> Self {
        Self::with_key(names, 2020, 2100, KeyPair::generate_for(&rcgen::PKCS_RSA_SHA256).unwrap())
    }

    /// For these DNS names, valid from the first day of one year to the first day of another.
    pub(crate) fn valid(names: &[&str], from: i32, until: i32) -> Self {
        Self::with_key(names, from, until, KeyPair::generate().unwrap())
    }

    /// The same with this key.
    pub(crate) fn with_key(names: &[&str], from: i32, until: i32, leaf_key: KeyPair) -> Self {
        // Each of its own name: a client that trusts several tells them apart by it.
        let authority = |kind: &str| authority(&format!("Test {kind} of {}", names.join(" ")));
        let root = CertifiedIssuer::self_signed(authority("Root"), KeyPair::generate().unwrap()).unwrap();
        let key = KeyPair::generate().unwrap();
        let intermediate = CertifiedIssuer::signed_by(authority("Intermediate"), key, &root).unwrap();
        let leaf = leaf(names, from, until).signed_by(&leaf_key, &intermediate).unwrap();
        Self { root: root.pem(), chain: leaf.pem() + &intermediate.pem(), key: leaf_key.serialize_pem() }
    }

    /// Writes the two files into `<certs_dir>/<folder>/`.
    pub(crate) fn write(&self, certs_dir: &Path, folder: &str) {
        let path = certs_dir.join(folder);
        std::fs::create_dir_all(&path).unwrap();
        std::fs::write(path.join("chain.pem"), &self.chain).unwrap();
        std::fs::write(path.join("key.pem"), &self.key).unwrap();
    }
}

/// A server that answers every handshake with it, as long as the test runs.
pub(crate) async fn serve(issued: &Issued) -> SocketAddr {
    let mut chain = X509::stack_from_pem(issued.chain.as_bytes()).unwrap().into_iter();
    let mut acceptor = SslAcceptor::mozilla_intermediate_v5(SslMethod::tls()).unwrap();
    acceptor.set_certificate(&chain.next().unwrap()).unwrap();
    chain.for_each(|certificate| acceptor.add_extra_chain_cert(certificate).unwrap());
    acceptor.set_private_key(&PKey::private_key_from_pem(issued.key.as_bytes()).unwrap()).unwrap();
    let acceptor = acceptor.build();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (socket, _) = listener.accept().await.unwrap();
            let mut stream = SslStream::new(Ssl::new(acceptor.context()).unwrap(), socket).unwrap();
            // Some only look.
            let _ = Pin::new(&mut stream).accept().await;
        }
    });
    address
}

fn leaf(names: &[&str], from: i32, until: i32) -> CertificateParams {
    let mut leaf = CertificateParams::new(names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>()).unwrap();
    leaf.not_before = date_time_ymd(from, 1, 1);
    leaf.not_after = date_time_ymd(until, 1, 1);
    leaf
}

fn authority(name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.distinguished_name.push(DnType::CommonName, name);
    params.not_before = date_time_ymd(2020, 1, 1);
    params.not_after = date_time_ymd(2100, 1, 1);
    params
}
