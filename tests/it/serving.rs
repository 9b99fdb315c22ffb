use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::sync::{Arc, Mutex};

use boring::ssl::{SslConnector, SslMethod, SslSession, SslSessionCacheMode, SslVerifyMode, SslVersion};
use serde_json::Value;

use crate::util::client::page_view;
use crate::util::{Account, Gateway, PATIENCE, Site, Standin, eventually};

const PIXEL: u64 = 4001;
const NAME: &str = "events.shoes.example";
const OTHER: &str = "events.hats.example";

async fn shop(standin: &Standin, extra: &str) -> (Site, Gateway) {
    let site = Site::new(&standin.url)
        .with(extra)
        .account(Account::new("shoes", PIXEL).domain(NAME))
        .account(Account::new("hats", 4002).domain(OTHER));
    let gateway = Gateway::start(&site).await;
    (site, gateway)
}

/// A client that keeps the sessions of one version.
struct Visitor {
    connector: SslConnector,
    left: Arc<Mutex<Option<SslSession>>>,
}

impl Visitor {
    fn of(version: SslVersion) -> Self {
        let left = Arc::new(Mutex::new(None));
        let keeping = left.clone();
        let mut builder = SslConnector::builder(SslMethod::tls()).unwrap();
        builder.set_verify(SslVerifyMode::NONE);
        builder.set_min_proto_version(Some(version)).unwrap();
        builder.set_max_proto_version(Some(version)).unwrap();
        builder.set_session_cache_mode(SslSessionCacheMode::CLIENT);
        builder.set_new_session_callback(move |_, session| *keeping.lock().unwrap() = Some(session));
        Self { connector: builder.build(), left }
    }

    /// Makes a request; whether the session was resumed.
    fn visit(&self, gateway: SocketAddr, name: &str, session: Option<&SslSession>) -> Result<bool, String> {
        let mut config = self.connector.configure().unwrap().verify_hostname(false);
        if let Some(session) = session {
            // SAFETY: the session is of this connector's own context.
            #[allow(unsafe_code)]
            unsafe {
                config.set_session(session).unwrap();
            }
        }
        let tcp = TcpStream::connect(gateway).map_err(|error| error.to_string())?;
        tcp.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut stream = config.connect(name, tcp).map_err(|error| error.to_string())?;
        write!(stream, "GET /pixelgate.js HTTP/1.1\r\nHost: {name}\r\nConnection: close\r\n\r\n").unwrap();
        let mut answer = String::new();
        let _ = stream.read_to_string(&mut answer);
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        Ok(stream.ssl().session_reused())
    }

    fn session(&self) -> SslSession {
        self.left.lock().unwrap().take().expect("a session")
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_survives_a_restart_and_never_crosses_names() {
    let standin = Standin::start().await;
    let (site, mut gateway) = shop(&standin, "").await;
    let visitors = [SslVersion::TLS1_2, SslVersion::TLS1_3].map(Visitor::of);
    let sessions = visitors.each_ref().map(|visitor| {
        assert_eq!(visitor.visit(gateway.https(), NAME, None), Ok(false));
        visitor.session()
    });
    let keys = site.path("data/ticket.keys");
    assert_eq!(std::fs::metadata(&keys).unwrap().permissions().mode() & 0o777, 0o600);
    for round in ["before", "after"] {
        for (visitor, session) in visitors.iter().zip(&sessions) {
            assert_eq!(visitor.visit(gateway.https(), NAME, Some(session)), Ok(true), "{round} the restart");
            assert_eq!(visitor.visit(gateway.https(), OTHER, Some(session)), Ok(false), "{round}: another tenant");
        }
        if round == "before" {
            gateway.stop().await;
            gateway = Gateway::start(&site).await;
        }
    }
    gateway.stop().await;
    std::fs::remove_file(keys).unwrap();
    let gateway = Gateway::start(&site).await;
    for (visitor, session) in visitors.iter().zip(&sessions) {
        assert_eq!(visitor.visit(gateway.https(), NAME, Some(session)), Ok(false), "with other keys");
    }
}

/// Makes all keys of session tickets older by so many seconds, in the file: its first line, 88 bytes for each key with the
/// second in which it was made first, a sum. Returns how many there are.
fn age(keys: &Path, seconds: i64) -> usize {
    let mut bytes = std::fs::read(keys).unwrap();
    bytes.truncate(bytes.len() - 4);
    let begin = 1 + bytes.iter().position(|byte| *byte == b'\n').unwrap();
    let mut count = 0;
    for key in bytes[begin..].chunks_exact_mut(88) {
        let made_at = i64::from_le_bytes(key[..8].try_into().unwrap()) - seconds;
        key[..8].copy_from_slice(&made_at.to_le_bytes());
        count += 1;
    }
    let sum = crc32c::crc32c(&bytes);
    std::fs::write(keys, [bytes, sum.to_le_bytes().to_vec()].concat()).unwrap();
    count
}

#[tokio::test(flavor = "multi_thread")]
async fn the_keys_of_sessions_are_changed_as_configured_and_taken_for_as_long_again() {
    let standin = Standin::start().await;
    let (site, mut gateway) = shop(&standin, "[tls]\nticket_rotation = \"1h\"\n").await;
    let visitor = Visitor::of(SslVersion::TLS1_3);
    assert_eq!(visitor.visit(gateway.https(), NAME, None), Ok(false));
    let session = visitor.session();
    let file = site.path("data/ticket.keys");
    // Minutes that pass, the keys that there are then, and whether the first one is taken.
    for (minutes, keys, is_taken) in [(50, 1, true), (20, 2, true), (60, 2, false)] {
        gateway.stop().await;
        age(&file, minutes * 60);
        gateway = Gateway::start(&site).await;
        assert_eq!(age(&file, 0), keys, "after {minutes} minutes more");
        assert_eq!(visitor.visit(gateway.https(), NAME, Some(&session)), Ok(is_taken), "after {minutes} minutes more");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_that_broke_since_the_start_is_refused_and_told() {
    let standin = Standin::start().await;
    let (site, gateway) = shop(&standin, "").await;
    let certificates = |state: &'static str| async { gateway.metric("pixelgate_certificates", state).await };
    assert_eq!((certificates("valid").await, gateway.metric("pixelgate_config_problems", "warning").await), (3.0, 0.0));
    site.write(&format!("certs/{OTHER}/chain.pem"), "no certificate");
    let visitor = Visitor::of(SslVersion::TLS1_3);
    assert!(visitor.visit(gateway.https(), OTHER, None).is_err());
    assert_eq!(visitor.visit(gateway.https(), NAME, None), Ok(false));
    assert_eq!((certificates("valid").await, certificates("unreadable").await), (2.0, 1.0));
    assert_eq!(gateway.metric("pixelgate_config_problems", "warning").await, 1.0);
    for command in [&["status", "--json"][..], &["check", "--json"], &["reload", "--json"]] {
        let problems = gateway.json(command)["problems"].clone();
        let problem = &problems.as_array().unwrap()[0];
        assert_eq!(
            (&problem["severity"], &problem["key"], &problem["account"]),
            (&"warning".into(), &OTHER.into(), &"hats".into()),
            "{problems}"
        );
        assert!(problem["file"].as_str().unwrap().ends_with("chain.pem"));
    }
    site.authority.issue(&site.path("certs"), OTHER, 90);
    assert_eq!(gateway.json(&["reload", "--json"])["problems"], Value::Array(Vec::new()));
    assert_eq!(visitor.visit(gateway.https(), OTHER, None), Ok(false));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_that_expires_is_not_served_on_and_a_wildcard_takes_its_place() {
    let standin = Standin::start().await;
    let site = Site::new(&standin.url)
        .account(Account::new("shoes", PIXEL).domain(NAME))
        .account(Account::new("hats", 4002).domain(OTHER));
    // Long enough for a start, and for a visit before the end.
    [NAME, OTHER].iter().for_each(|name| site.authority.issue_for(&site.path("certs"), name, 10));
    site.authority.issue(&site.path("certs"), "*.hats.example", 90);
    let gateway = Gateway::start(&site).await;
    let visitor = Visitor::of(SslVersion::TLS1_3);
    assert_eq!(visitor.visit(gateway.https(), NAME, None), Ok(false));
    let expired = async || gateway.metric("pixelgate_certificates", "expired").await == 1.0;
    eventually("the end of one", async || expired().await.then_some(())).await;
    assert!(visitor.visit(gateway.https(), NAME, None).is_err());
    let told = || gateway.json(&["status", "--json"])["problems"].as_array().map(Vec::len);
    eventually("the end of both", async || told().filter(|told| *told == 2)).await;
    assert_eq!(visitor.visit(gateway.https(), OTHER, None), Ok(false));
    assert_eq!(gateway.json(&["status", "--json"])["revision"], 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_issued_here_is_served_where_the_operator_has_none() {
    let standin = Standin::start().await;
    let site = Site::new(&standin.url).account(Account::new("shoes", PIXEL).domain(NAME));
    std::fs::remove_dir_all(site.path("certs").join(NAME)).unwrap();
    let issued = site.path("data/certs").join(NAME);
    std::fs::create_dir_all(issued.join("1")).unwrap();
    let (chain, key) = site.authority.credential(NAME, 90);
    std::fs::write(issued.join("1/chain.pem"), chain).unwrap();
    std::fs::write(issued.join("1/key.pem"), key).unwrap();
    symlink("1", issued.join("live")).unwrap();
    let mut gateway = Gateway::start(&site).await;
    assert_eq!(gateway.browser().send(NAME, &page_view(PIXEL, "issued")).await.0, 200);
    assert_eq!(gateway.json(&["status", "--json"])["certificates"]["served"], 2);
    // A start from the index serves the same.
    assert!(site.path("data/certificates.index").is_file());
    gateway.stop().await;
    let gateway = Gateway::start(&site).await;
    assert_eq!(gateway.browser().send(NAME, &page_view(PIXEL, "indexed")).await.0, 200);
}
