use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr};
use std::time::Duration;

use boring::ssl::SslVersion;

use crate::util::hello::connect;
use crate::util::{Account, Gateway, Hello, PATIENCE, Site, Standin, eventually};

const NAME: &str = "events.shoes.example";
const UNKNOWN: &str = "unknown.example";
const BALANCER: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 2);
/// Kinds of records, and alerts (RFC 8446, 5.1 and 6).
const ALERT: u8 = 21;
const HANDSHAKE: u8 = 22;
const HANDSHAKE_FAILURE: u8 = 40;
const UNRECOGNIZED_NAME: u8 = 112;

async fn shop(standin: &Standin, extra: &str) -> (Site, Gateway) {
    let site = Site::new(&standin.url)
        .listen("proxy_protocol = [\"127.0.0.2/32\"]")
        .with(extra)
        .account(Account::new("shoes", 4101).domain(NAME));
    let gateway = Gateway::start(&site).await;
    (site, gateway)
}

/// Sends pieces, each after the one before was read without an answer, and no more; all that is answered.
fn answer(from: Ipv4Addr, gateway: SocketAddr, pieces: &[&[u8]]) -> Vec<u8> {
    let mut stream = connect(from, gateway).unwrap();
    for (at, piece) in pieces.iter().enumerate() {
        if at > 0 {
            stream.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
            let early = stream.read(&mut [0]).map_err(|error| error.kind());
            assert_eq!(early, Err(std::io::ErrorKind::WouldBlock), "before piece {at}");
        }
        // What is refused may be closed before it has sent all.
        let _ = stream.write_all(piece);
    }
    let _ = stream.shutdown(Shutdown::Write);
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut answer = Vec::new();
    // A reset ends it as well.
    let _ = stream.read_to_end(&mut answer);
    answer
}

#[tokio::test(flavor = "multi_thread")]
async fn what_scanners_send_is_counted_and_not_told() {
    const EACH: usize = 200;
    const SILENT: usize = 50;
    let standin = Standin::start().await;
    let limits = "[limits]\nhandshake_timeout = \"3s\"\nhandshakes_per_second_per_ip = 1_000_000\n";
    let (_site, gateway) = shop(&standin, limits).await;
    let before = gateway.log().lines().count();
    let silent: Vec<_> = (0..SILENT).map(|_| connect(Ipv4Addr::LOCALHOST, gateway.https()).unwrap()).collect();
    let unknown = Hello::to(UNKNOWN).bytes();
    let (in_pieces, rest) = unknown.split_at(100);
    let nameless = Hello { sni: None, ..Hello::to("") }.bytes();
    let old = Hello { min: SslVersion::TLS1, max: SslVersion::TLS1, ..Hello::to(NAME) }.bytes();
    for _ in 0..EACH {
        let noise: [u8; 64] = rand::random();
        for first in [b"GET / HTTP/1.1\r\nHost: x\r\n\r\n".as_slice(), &noise, &unknown, &nameless, &old, b""] {
            answer(Ipv4Addr::LOCALHOST, gateway.https(), &[first]);
        }
    }
    for _ in 0..10 {
        answer(Ipv4Addr::LOCALHOST, gateway.https(), &[in_pieces, rest]);
    }
    let counted = async |result: &str| gateway.metric("pixelgate_handshakes_total", &format!("\"{result}\"")).await;
    for (result, count) in
        [("failed", 4 * EACH), ("unknown_name", EACH + 10), ("no_name", EACH), ("timeout", SILENT), ("ok", 0)]
    {
        eventually(result, async || (counted(result).await as usize == count).then_some(())).await;
    }
    let told = gateway.log().lines().count() - before;
    assert!(told <= 3, "{told} lines:\n{}", gateway.log());
    drop(silent);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_that_nobody_has_is_refused_before_anything_is_signed_however_it_comes() {
    let standin = Standin::start().await;
    let (_site, gateway) = shop(&standin, "").await;
    let protocols = b"\x08unspoken".repeat(250);
    let hello = |name| Hello::to(name).bytes();
    let long = |name| Hello { alpn: Some(&protocols), ..Hello::to(name) }.bytes();
    assert!(long(NAME).len() > 2_048);
    let header = b"PROXY TCP4 203.0.113.7 127.0.0.1 5000 443\r\n".as_slice();
    let behind = |hello: Vec<u8>| [header, &hello].concat();
    let visitor = Ipv4Addr::LOCALHOST;
    // Without its last bytes a ClientHello says nothing.
    let halves = |bytes: Vec<u8>| {
        let at = bytes.len() - 10;
        vec![bytes[..at].to_vec(), bytes[at..].to_vec()]
    };
    let after_header = |hello: Vec<u8>| vec![header.to_vec(), hello];
    let unknown = [
        ("plain", visitor, vec![hello(UNKNOWN)], UNRECOGNIZED_NAME),
        ("in pieces", visitor, halves(hello(UNKNOWN)), HANDSHAKE_FAILURE),
        ("long", visitor, vec![long(UNKNOWN)], HANDSHAKE_FAILURE),
        ("behind a PROXY header", BALANCER, vec![behind(hello(UNKNOWN))], UNRECOGNIZED_NAME),
        ("after a PROXY header", BALANCER, after_header(hello(UNKNOWN)), UNRECOGNIZED_NAME),
        ("behind a PROXY header, in pieces", BALANCER, halves(behind(hello(UNKNOWN))), HANDSHAKE_FAILURE),
        ("behind a PROXY header, long", BALANCER, vec![behind(long(UNKNOWN))], UNRECOGNIZED_NAME),
    ];
    let count = unknown.len();
    for (how, from, pieces, alert) in unknown {
        let pieces: Vec<&[u8]> = pieces.iter().map(Vec::as_slice).collect();
        let answer = answer(from, gateway.https(), &pieces);
        assert_eq!((answer.len(), answer[0], answer[6]), (7, ALERT, alert), "{how}: {answer:?}");
    }
    assert_eq!(gateway.metric("pixelgate_handshakes_total", "unknown_name").await, count as f64);
    // A name that is served is answered with a ServerHello, in each of these ways.
    for (from, pieces) in [(visitor, halves(hello(NAME))), (BALANCER, vec![behind(hello(NAME))])] {
        let pieces: Vec<&[u8]> = pieces.iter().map(Vec::as_slice).collect();
        assert_eq!(answer(from, gateway.https(), &pieces).first(), Some(&HANDSHAKE));
    }
    let nameless = behind(Hello { sni: None, ..Hello::to("") }.bytes());
    assert_eq!(answer(BALANCER, gateway.https(), &[&nameless]).first(), Some(&ALERT));
    assert_eq!(gateway.metric("pixelgate_handshakes_total", "no_name").await, 1.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_shed_hears_nothing_that_had_to_be_computed() {
    const AT_ONCE: usize = 40;
    let standin = Standin::start().await;
    let (_site, gateway) = shop(&standin, "[limits]\nhandshakes_per_second = 5\n").await;
    let (https, hello) = (gateway.https(), Hello::to(NAME).bytes());
    let answers: Vec<Vec<u8>> = std::thread::scope(|scope| {
        let client = || answer(Ipv4Addr::LOCALHOST, https, &[&hello]);
        let clients: Vec<_> = (0..AT_ONCE).map(|_| scope.spawn(client)).collect();
        clients.into_iter().map(|client| client.join().unwrap()).collect()
    });
    let (shed, begun): (Vec<_>, Vec<_>) = answers.iter().partition(|answer| answer.is_empty());
    assert!(begun.iter().all(|answer| answer[0] == HANDSHAKE));
    assert!(shed.len() >= AT_ONCE / 2, "{}", shed.len());
    assert_eq!(gateway.metric("pixelgate_handshakes_total", "\"limited\"").await as usize, shed.len());
}
