use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;

use boring::ssl::SslStream;
use boring::x509::X509;

use crate::util::client::page_view;
use crate::util::{Account, Gateway, Hello, Site, Standin, eventually};

const ACCOUNTS: u64 = 60;
const NAMES_EACH: u64 = 5;
const NAMES: u64 = ACCOUNTS * NAMES_EACH;
/// Clients that keep a connection, and clients that open one for each event.
const KEPT: u64 = 6;
const NEW: u64 = 2;
/// Events on a connection that is kept: after 10,000 the gateway asks for another.
const KEPT_FOR: u64 = 2_000;

fn name(number: u64) -> String {
    format!("events{}.shop{}.example", number % NAMES_EACH, number / NAMES_EACH)
}

fn pixel(number: u64) -> u64 {
    12_000 + number / NAMES_EACH
}

/// Sends an event; the connection must answer it with 200 and stay open if it is to be kept.
fn post(stream: &mut SslStream<TcpStream>, number: u64, id: &str, connection: &str) {
    let (name, body) = (name(number), page_view(pixel(number), id).to_string());
    let head = format!("POST /events HTTP/1.1\r\nHost: {name}\r\nContent-Length: {}\r\n", body.len());
    write!(stream, "{head}Connection: {connection}\r\n\r\n{body}").expect("the connection is open");
    let mut answer = Vec::new();
    while !answer.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte).expect("the connection is open");
        answer.extend(byte);
    }
    assert!(answer.starts_with(b"HTTP/1.1 200"), "{name}: {}", String::from_utf8_lossy(&answer));
}

/// Clients that send events until it is over.
fn traffic(gateway: &Gateway, over: &Arc<AtomicBool>, sent: &Arc<AtomicU64>) -> Vec<JoinHandle<()>> {
    let client = |client: u64| {
        let (gateway, over, sent) = (gateway.https(), over.clone(), sent.clone());
        std::thread::spawn(move || {
            let connect = |number: u64| Hello::to(&name(number)).shake(gateway).expect("a handshake");
            let mut kept = None;
            for n in 0.. {
                if over.load(Ordering::Relaxed) {
                    break;
                }
                let id = format!("{client}-{n}");
                if client < KEPT {
                    let number = client * NAMES / KEPT;
                    kept = kept.filter(|_| n % KEPT_FOR > 0);
                    post(kept.get_or_insert_with(|| connect(number)), number, &id, "keep-alive");
                } else {
                    let number = (client * NAMES / NEW + n) % NAMES;
                    post(&mut connect(number), number, &id, "close");
                }
                sent.fetch_add(1, Ordering::Relaxed);
            }
        })
    };
    (0..KEPT + NEW).map(client).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn all_certificates_are_replaced_at_once_and_no_event_and_no_connection_is_lost() {
    let standin = Standin::start_with(&["--fast"]).await;
    let mut site = Site::new(&standin.url)
        .with("[limits]\nhandshakes_per_second = 1_000_000\nhandshakes_per_second_per_ip = 1_000_000\n");
    for shop in 0..ACCOUNTS {
        let numbers = shop * NAMES_EACH..(shop + 1) * NAMES_EACH;
        let account = Account::new(&format!("shop{shop}"), pixel(shop * NAMES_EACH));
        site = site.account(numbers.fold(account, |account, number| account.domain(&name(number))));
    }
    let gateway = Gateway::start(&site).await;
    let certs = site.path("certs");
    let served = |number: u64| {
        let stream = Hello::to(&name(number)).shake(gateway.https()).expect("a handshake");
        stream.ssl().peer_certificate().expect("a certificate").to_der().expect("DER")
    };
    let on_disk = |number: u64| {
        let chain = std::fs::read(certs.join(name(number)).join("chain.pem")).expect("a file");
        X509::from_pem(&chain).expect("a certificate").to_der().expect("DER")
    };
    // The files are not looked at again before the reload, once their name was visited: what lies half written is not served.
    let mut before: Vec<_> = (0..NAMES).map(served).collect();
    let (over, sent) = (Arc::<AtomicBool>::default(), Arc::<AtomicU64>::default());
    let clients = traffic(&gateway, &over, &sent);
    let go_on = async || {
        let before = sent.load(Ordering::Relaxed);
        eventually("events go on", async || (sent.load(Ordering::Relaxed) > before + 100).then_some(())).await;
    };
    go_on().await;
    for round in 0..2 {
        (0..NAMES).for_each(|number| site.authority.issue(&certs, &name(number), 80));
        assert!(gateway.command(&["reload"]).status.success());
        for number in 0..NAMES {
            let now = served(number);
            assert_eq!(now, on_disk(number), "{} after burst {round}", name(number));
            assert_ne!(now, std::mem::replace(&mut before[number as usize], now.clone()));
        }
        go_on().await;
    }
    over.store(true, Ordering::Relaxed);
    clients.into_iter().for_each(|client| client.join().expect("a client that lost nothing"));
    let sent = sent.load(Ordering::Relaxed) as f64;
    let counted = async |metric: &str, labels: &str| gateway.metric(metric, labels).await;
    assert_eq!(counted("pixelgate_events_accepted_total", "").await, sent);
    let delivered = async || counted("pixelgate_events_delivered_total", "").await;
    eventually("all are delivered", async || (delivered().await == sent).then_some(())).await;
    for refused in ["failed", "unknown_name", "not_loadable", "timeout", "limited"] {
        assert_eq!(counted("pixelgate_handshakes_total", &format!("\"{refused}\"")).await, 0.0, "{refused}");
    }
}
