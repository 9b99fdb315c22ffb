//! Handshakes against real files, with BoringSSL's client.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use std::io::{Read, Write};
use std::net::SocketAddr;
use std::sync::{Condvar, Mutex};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use boring::pkey::Id;
use boring::ssl::{SslConnector, SslStream as ClientStream, SslVerifyMode};
use tempfile::TempDir;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpListener;
use tokio::task::spawn_blocking;

use super::*;
use crate::account::ServerName;
use crate::proxy::limits::ConnectionLimits;
use crate::proxy::pace::Pace;
use crate::proxy::testing::Uncounted;
use crate::tls::testing::Issued;
use crate::tls::{CertFolders, CertStore, Credential};

mod budget;
mod cold;
mod pairs;
mod refusals;
mod sessions;
mod turns;

type Accepted = Result<Arc<str>, HandshakeError>;

/// The first second of 2026.
const NOW: i64 = 1_767_225_600;

/// Certificates on disk and an acceptor that serves them.
struct Rig {
    dir: TempDir,
    store: Arc<ArcSwap<CertStore>>,
    challenges: Arc<Challenges>,
    acceptor: Arc<TlsAcceptor>,
    tickets: Arc<TicketKeys>,
    /// True holds up the judging of names, as a long reload does.
    held: Arc<(Mutex<bool>, Condvar)>,
    budget: Arc<HandshakeBudget>,
    /// Handshakes that visitors may begin in a second.
    per_second: usize,
    root: String,
}

/// How a client shakes hands.
#[derive(Clone)]
struct Client {
    name: Option<&'static str>,
    protocols: &'static [u8],
    max_version: SslVersion,
    signatures: Option<&'static str>,
    own: bool,
}

const CLIENT: Client = Client {
    name: Some("a.example"),
    protocols: PROTOCOLS,
    max_version: SslVersion::TLS1_3,
    signatures: None,
    own: false,
};

impl Client {
    const fn to(name: &'static str) -> Self {
        Self { name: Some(name), ..CLIENT }
    }
}

fn folders(dir: &TempDir) -> CertFolders {
    CertFolders {
        certs_dir: dir.path().join("certs"),
        issued_dir: dir.path().join("issued"),
        index: dir.path().join("index"),
    }
}

fn tickets(dir: &TempDir, now: i64) -> Arc<TicketKeys> {
    let tickets = TicketKeys::open(dir.path().join("ticket.keys"));
    tickets.rotate(Duration::from_secs(86_400), now).unwrap();
    Arc::new(tickets)
}

impl Rig {
    /// Serves these names, each with a certificate of its own.
    fn serving(names: &[&str]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let folders = folders(&dir);
        let issued = Issued::new(names);
        names.iter().for_each(|name| issued.write(&folders.certs_dir, name));
        let names: Vec<ServerName> = names.iter().map(|name| name.parse().unwrap()).collect();
        let store = Arc::new(ArcSwap::from_pointee(CertStore::load(&folders, &names, None, NOW)));
        assert_eq!(store.load().problems().count(), 0);
        let challenges = Arc::default();
        let held = Arc::default();
        let tickets = tickets(&dir, NOW);
        let acceptor = Self::acceptor(&store, &challenges, &held, &tickets);
        let budget = Arc::new(HandshakeBudget::new(2, Instant::now()));
        Self { dir, store, challenges, acceptor, tickets, held, budget, per_second: 1_000_000, root: issued.root }
    }

    fn acceptor(
        store: &Arc<ArcSwap<CertStore>>,
        challenges: &Arc<Challenges>,
        held: &Arc<(Mutex<bool>, Condvar)>,
        tickets: &Arc<TicketKeys>,
    ) -> Arc<TlsAcceptor> {
        let (reads, writes, held) = (store.clone(), store.clone(), held.clone());
        let names = Names {
            lookup: Arc::new(move |name| reads.load().lookup(name)),
            stale: Arc::new(move |names| {
                drop(held.1.wait_while(held.0.lock().unwrap(), |held| *held).unwrap());
                writes.store(Arc::new(writes.load().refreshed(names, NOW)));
            }),
        };
        Arc::new(TlsAcceptor::new(names, challenges.clone(), tickets.clone()).unwrap())
    }

    /// The same gateway after a restart at another time.
    fn restarted(self, now: i64) -> Self {
        let tickets = tickets(&self.dir, now);
        let acceptor = Self::acceptor(&self.store, &self.challenges, &self.held, &tickets);
        Self { acceptor, tickets, ..self }
    }

    /// Accepts one connection.
    async fn accept(&self, min_version: TlsVersion) -> (SocketAddr, tokio::task::JoinHandle<Accepted>) {
        self.accept_from(false, min_version).await
    }

    /// The same, from the gateway itself or from elsewhere.
    async fn accept_from(&self, own: bool, min_version: TlsVersion) -> (SocketAddr, tokio::task::JoinHandle<Accepted>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (acceptor, budget, per_second) = (self.acceptor.clone(), self.budget.clone(), self.per_second);
        let accepting = tokio::spawn(async move {
            let (tcp, _) = listener.accept().await.unwrap();
            let permit = ConnectionLimits::new(Arc::new(Uncounted)).admit(1).unwrap();
            let wire = Wire::new(tcp, Pace::new(), Duration::from_secs(5), 65_536, permit);
            let terms = Terms { budget: &budget, per_second, min_version, own };
            let (mut stream, name) = acceptor.accept(wire, terms).await?;
            // TLS 1.3's sessions go out with the first byte.
            let _ = stream.write_all(b"x").await;
            let _ = stream.flush().await;
            Ok(name)
        });
        (address, accepting)
    }

    /// Shakes hands; the client's side, and how the server saw it.
    async fn shake(
        &self,
        client: Client,
        min_version: TlsVersion,
    ) -> (Option<ClientStream<std::net::TcpStream>>, Accepted) {
        let (address, accepting) = self.accept_from(client.own, min_version).await;
        let root = self.root.clone();
        let connecting = spawn_blocking(move || {
            let mut builder = SslConnector::builder(SslMethod::tls()).unwrap();
            let root = boring::x509::X509::from_pem(root.as_bytes()).unwrap();
            builder.cert_store_mut().add_cert(&root).unwrap();
            builder.set_max_proto_version(Some(client.max_version)).unwrap();
            builder.set_alpn_protos(client.protocols).unwrap();
            let trusts = client.name.is_some() && client.signatures.is_none() && client.protocols == PROTOCOLS;
            builder.set_verify(if trusts { SslVerifyMode::PEER } else { SslVerifyMode::NONE });
            client.signatures.iter().for_each(|list| builder.set_sigalgs_list(list).unwrap());
            let tcp = std::net::TcpStream::connect(address).unwrap();
            let mut configured = builder.build().configure().unwrap();
            configured.set_use_server_name_indication(client.name.is_some());
            let verified = client.name.is_some_and(|name| name.is_ascii() && !name.ends_with('.'));
            configured.verify_hostname(verified).connect(client.name.unwrap_or("a.example"), tcp).ok()
        });
        (connecting.await.unwrap(), accepting.await.unwrap())
    }
}

fn until(stream: &ClientStream<std::net::TcpStream>) -> String {
    stream.ssl().peer_certificate().unwrap().not_after().to_string()
}

#[tokio::test]
async fn a_served_name_gets_its_whole_chain_and_http_2() {
    let (stream, accepted) = Rig::serving(&["a.example"]).shake(CLIENT, TlsVersion::Tls12).await;
    assert_eq!(accepted.as_deref(), Ok("a.example"));
    let stream = stream.unwrap();
    assert_eq!(stream.ssl().peer_cert_chain().unwrap().len(), 2);
    assert_eq!(stream.ssl().selected_alpn_protocol(), Some(&b"h2"[..]));
    assert_eq!(stream.ssl().version_str(), "TLSv1.3");
}

#[tokio::test]
async fn names_are_served_in_any_case_with_a_dot_in_a_labels_and_at_full_length() {
    let longest: &'static str = Box::leak(format!("{0}.{0}.{0}.{1}.example", "a".repeat(63), "b".repeat(53)).into());
    assert_eq!(longest.len(), 253);
    let rig = Rig::serving(&["a.example", "xn--bcher-kva.example", longest]);
    for (asked, name) in [
        ("A.Example", "a.example"),
        ("a.example.", "a.example"),
        ("xn--bcher-kva.example", "xn--bcher-kva.example"),
        ("XN--BCHER-KVA.example", "xn--bcher-kva.example"),
        (longest, longest),
    ] {
        let (stream, accepted) = rig.shake(Client::to(asked), TlsVersion::Tls12).await;
        assert_eq!((stream.is_some(), accepted.as_deref()), (true, Ok(name)), "{asked}");
    }
}

#[tokio::test]
async fn an_unknown_name_and_none_are_told_apart_and_refused() {
    let rig = Rig::serving(&["a.example"]);
    for (name, error) in [
        (Some("b.example"), HandshakeError::UnknownName),
        (Some("x.a.example"), HandshakeError::UnknownName),
        (Some("bücher.example"), HandshakeError::NoName),
        (Some("a..example.."), HandshakeError::NoName),
        (None, HandshakeError::NoName),
    ] {
        let (stream, accepted) = rig.shake(Client { name, ..CLIENT }, TlsVersion::Tls12).await;
        assert_eq!((stream.is_none(), accepted), (true, Err(error)), "{name:?}");
    }
}

/// A ClientHello as no library writes it: TLS 1.2, one cipher, and this as server_name (RFC 6066, 3).
fn hello(host_name: &[u8]) -> Vec<u8> {
    let prefixed = |content: &[u8]| [&u16::try_from(content.len()).unwrap().to_be_bytes(), content].concat();
    let name = prefixed(&[&[0], &prefixed(host_name)[..]].concat());
    let extensions = [&[0, 0], &prefixed(&name)[..], &[0, 10, 0, 4, 0, 2, 0, 23], &[0, 13, 0, 4, 0, 2, 4, 3]].concat();
    let body = [&[3, 3], &[7; 32][..], &[0], &[0, 2, 0xc0, 0x2b], &[1, 0], &prefixed(&extensions)].concat();
    let message = [&[1, 0], &prefixed(&body)[..]].concat();
    [&[22, 3, 1], &prefixed(&message)[..]].concat()
}

#[tokio::test]
async fn an_empty_name_and_addresses_are_refused_with_an_alert() {
    let rig = Rig::serving(&["a.example"]);
    for (name, expected) in [
        (&b"a.example"[..], None),
        (b"", Some(HandshakeError::Failed)),
        (b"127.0.0.1", Some(HandshakeError::NoName)),
        (b"::1", Some(HandshakeError::NoName)),
        (b"a.example\0.b.example", Some(HandshakeError::Failed)),
    ] {
        let (address, accepting) = rig.accept(TlsVersion::Tls12).await;
        let hello = hello(name);
        let answer = spawn_blocking(move || {
            let mut tcp = std::net::TcpStream::connect(address).unwrap();
            tcp.write_all(&hello).unwrap();
            let mut kind = [0];
            tcp.read_exact(&mut kind).map(|()| kind[0])
        });
        let answer = answer.await.unwrap().unwrap();
        // 22 = a handshake message, 21 = an alert (RFC 8446, 5.1).
        assert_eq!(answer, if expected.is_some() { 21 } else { 22 }, "{name:?}");
        let accepted = accepting.await.unwrap();
        assert_eq!(accepted, Err(expected.unwrap_or(HandshakeError::Failed)), "{name:?}");
    }
}

#[tokio::test]
async fn versions_below_the_lowest_are_refused() {
    let rig = Rig::serving(&["a.example"]);
    for (max_version, min_version, served) in [
        (SslVersion::TLS1_1, TlsVersion::Tls12, false),
        (SslVersion::TLS1_2, TlsVersion::Tls12, true),
        (SslVersion::TLS1_2, TlsVersion::Tls13, false),
        (SslVersion::TLS1_3, TlsVersion::Tls13, true),
    ] {
        let (stream, accepted) = rig.shake(Client { max_version, ..CLIENT }, min_version).await;
        assert_eq!((stream.is_some(), accepted.is_ok()), (served, served), "{max_version:?} {min_version:?}");
    }
}

#[tokio::test]
async fn another_services_protocol_is_refused() {
    let rig = Rig::serving(&["a.example"]);
    let (stream, accepted) = rig.shake(Client { protocols: b"\x04imap", ..CLIENT }, TlsVersion::Tls12).await;
    assert_eq!((stream.is_none(), accepted), (true, Err(HandshakeError::Failed)));
    let (stream, _) = rig.shake(Client { protocols: b"\x08http/1.1", ..CLIENT }, TlsVersion::Tls12).await;
    assert_eq!(stream.unwrap().ssl().selected_alpn_protocol(), Some(&b"http/1.1"[..]));
}

#[tokio::test]
async fn what_is_no_tls_fails() {
    let (address, accepting) = Rig::serving(&["a.example"]).accept(TlsVersion::Tls12).await;
    spawn_blocking(move || {
        std::net::TcpStream::connect(address).unwrap().write_all(b"GET / HTTP/1.1\r\n\r\n").unwrap();
    })
    .await
    .unwrap();
    assert_eq!(accepting.await.unwrap(), Err(HandshakeError::Failed));
}

#[tokio::test]
async fn a_client_that_knows_only_rsa_gets_the_twin() {
    let rig = Rig::serving(&["a.example"]);
    let name: ServerName = "a.example".parse().unwrap();
    let rsa = Client { signatures: Some("rsa_pss_rsae_sha256:rsa_pkcs1_sha256"), ..CLIENT };
    assert!(rig.shake(rsa.clone(), TlsVersion::Tls12).await.0.is_none());
    let (folder, twin) = (rig.dir.path().join("certs/a.example"), Issued::rsa(&["a.example"]));
    std::fs::write(folder.join("chain.rsa.pem"), twin.chain).unwrap();
    std::fs::write(folder.join("key.rsa.pem"), twin.key).unwrap();
    rig.store.store(Arc::new(rig.store.load().refreshed(&[name], NOW)));
    let kind =
        |stream: Option<ClientStream<_>>| stream.unwrap().ssl().peer_certificate().unwrap().public_key().unwrap().id();
    for max_version in [SslVersion::TLS1_2, SslVersion::TLS1_3] {
        let (stream, _) = rig.shake(Client { max_version, ..rsa.clone() }, TlsVersion::Tls12).await;
        assert_eq!(kind(stream), Id::RSA);
        let (stream, _) = rig.shake(Client { max_version, ..CLIENT }, TlsVersion::Tls12).await;
        assert_eq!(kind(stream), Id::EC, "who knows both gets the cheaper one");
    }
}

#[tokio::test]
async fn an_acme_server_sees_the_certificate_of_its_challenge() {
    let rig = Rig::serving(&["a.example"]);
    let issued = Issued::valid(&["b.example"], 2020, 2066);
    let credential = Credential::parse(issued.chain.as_bytes(), issued.key.as_bytes()).unwrap();
    let challenge = Client { protocols: b"\x0aacme-tls/1", ..Client::to("b.example") };
    assert_eq!(rig.shake(challenge.clone(), TlsVersion::Tls12).await.1, Err(HandshakeError::UnknownName));
    let offered = rig.challenges.offer("b.example".parse().unwrap(), "t".into(), "k".into(), Some(credential));
    for max_version in [SslVersion::TLS1_2, SslVersion::TLS1_3] {
        let (stream, accepted) = rig.shake(Client { max_version, ..challenge.clone() }, TlsVersion::Tls12).await;
        assert_eq!(accepted, Err(HandshakeError::Challenge));
        let stream = stream.unwrap();
        assert!(until(&stream).contains("2066"));
        assert_eq!(stream.ssl().selected_alpn_protocol(), Some(CHALLENGE));
    }
    let both = Client { protocols: b"\x0aacme-tls/1\x02h2", ..Client::to("b.example") };
    assert_eq!(rig.shake(both, TlsVersion::Tls12).await.1, Err(HandshakeError::UnknownName), "it must be the only one");
    assert_eq!(rig.shake(CLIENT, TlsVersion::Tls12).await.1.as_deref(), Ok("a.example"));
    drop(offered);
    assert_eq!(rig.shake(challenge, TlsVersion::Tls12).await.1, Err(HandshakeError::UnknownName));
}
