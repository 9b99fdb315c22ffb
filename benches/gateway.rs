//! The whole way in, through the real binary: TLS, routing, decoding, the disk, and where said the filter and delivery.
//!
//! `cargo bench --bench gateway [-- --seconds N] [--rounds N]`
//!
//! * `h1`, `h2`: events on kept-alive connections, each answered when it is durable, none delivered (the account is
//!   paused);
//! * `h1 filtered, delivered`: the same through the sample filter `fields` (`make plugins` builds it), and delivered to
//!   a fast stand-in; the CPU is counted until the last one is there;
//! * `new connection`: TLS 1.3 handshake, one event, close.
//!
//! CPU is that of the gateway's process alone, as the kernel counts it; the client and the stand-in share the machine's
//! cores, so rates are lower than the CPU column allows: `100,000 / CPU s per 100k` is what one core takes.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic, dead_code, unused_imports)]

#[path = "../tests/it/util/mod.rs"]
mod util;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::Version;
use http_body_util::{BodyExt, Full};
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName};
use tokio_rustls::rustls::version::TLS13;
use tokio_rustls::rustls::{ClientConfig, RootCertStore};

use util::client::page_view;
use util::{Account, Gateway, Site, Standin, eventually};

const PIXEL: u64 = 9001;
const NAME: &str = "events.bench.example";
/// Kept-alive HTTP/1.1 connections, and HTTP/2 connections with requests at one time on each.
const H1: usize = 128;
const H2: (usize, usize) = (4, 32);
/// Clients that open a connection for each event.
const NEW: usize = 32;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    H1,
    H2,
    New,
}

/// A gateway and how it is spoken to.
struct Row {
    title: &'static str,
    way: Way,
    gateway: Gateway,
    client: Client,
    delivered: bool,
    _site: Site,
}

#[derive(Clone)]
struct Client {
    address: SocketAddr,
    connector: TlsConnector,
    sent: Arc<AtomicU64>,
    over: Arc<AtomicBool>,
}

/// What one turn measured.
#[derive(Clone, Copy)]
struct Turn {
    per_second: f64,
    cpu_per_100k: f64,
    p50: Duration,
    p99: Duration,
}

fn main() {
    let (seconds, rounds) = arguments();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let standin = Standin::start_with(&["--fast"]).await;
        let rows = [
            row(&standin, "h1", Way::H1, false).await,
            row(&standin, "h2", Way::H2, false).await,
            row(&standin, "h1 filtered, delivered", Way::H1, true).await,
            row(&standin, "new connection", Way::New, false).await,
        ];
        println!("{:>24} {:>10} {:>14} {:>9} {:>9}", "", "events/s", "CPU s per 100k", "p50 ms", "p99 ms");
        let mut turns = vec![Vec::new(); rows.len()];
        for _ in 0..rounds {
            for (row, turns) in rows.iter().zip(&mut turns) {
                let turn = row.turn(seconds).await;
                print_turn(row.title, &turn);
                turns.push(turn);
            }
        }
        println!("medians");
        for (row, turns) in rows.iter().zip(&mut turns) {
            turns.sort_by(|a, b| a.cpu_per_100k.total_cmp(&b.cpu_per_100k));
            print_turn(row.title, &turns[turns.len() / 2]);
        }
    });
}

fn arguments() -> (f64, usize) {
    let given: Vec<String> = std::env::args().collect();
    let value = |name: &str| given.iter().position(|argument| argument == name).and_then(|at| given.get(at + 1));
    (
        value("--seconds").map_or(3.0, |text| text.parse().expect("seconds")),
        value("--rounds").map_or(3, |text| text.parse().expect("rounds")),
    )
}

fn print_turn(title: &str, turn: &Turn) {
    let ms = |time: Duration| time.as_secs_f64() * 1e3;
    println!(
        "{title:>24} {:>10.0} {:>14.2} {:>9.2} {:>9.2}",
        turn.per_second,
        turn.cpu_per_100k,
        ms(turn.p50),
        ms(turn.p99)
    );
}

async fn row(standin: &Standin, title: &'static str, way: Way, delivered: bool) -> Row {
    let limits = "[limits]\nhandshakes_per_second = 1_000_000\nhandshakes_per_second_per_ip = 1_000_000\naccount_events_per_second = 10_000_000\n\
                  account_backlog_bytes_max = 100_000_000_000\n";
    let mut account = Account::new("bench", PIXEL).domain(NAME);
    if delivered {
        account = account.filter("fields", "fields.wasm", "hold", "remove_custom_data = [\"secret\"]");
    }
    let site = Site::new(&standin.url).with(limits).account(account);
    let gateway = Gateway::start(&site).await;
    if !delivered {
        let paused = gateway.command(&["accounts", "pause", "bench", "--reason", "measuring"]);
        assert!(paused.status.success(), "{paused:?}");
    }
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(site.authority.pem().as_bytes()).expect("a CA")).expect("a CA");
    let mut tls =
        ClientConfig::builder_with_protocol_versions(&[&TLS13]).with_root_certificates(roots).with_no_client_auth();
    tls.alpn_protocols = vec![if way == Way::H2 { b"h2".to_vec() } else { b"http/1.1".to_vec() }];
    tls.resumption = tokio_rustls::rustls::client::Resumption::disabled();
    let client = Client {
        address: gateway.https(),
        connector: TlsConnector::from(Arc::new(tls)),
        sent: Arc::default(),
        over: Arc::default(),
    };
    Row { title, way, gateway, client, delivered, _site: site }
}

// === impl Row ===

impl Row {
    async fn turn(&self, seconds: f64) -> Turn {
        self.client.over.store(false, Ordering::Relaxed);
        let before = (Instant::now(), cpu_of(self.gateway.ready.pid));
        let mut clients = JoinSet::new();
        match self.way {
            Way::H1 => (0..H1).for_each(|_| drop(clients.spawn(self.client.clone().h1()))),
            Way::H2 => (0..H2.0).for_each(|_| drop(clients.spawn(self.client.clone().h2()))),
            Way::New => (0..NEW).for_each(|_| drop(clients.spawn(self.client.clone().anew()))),
        }
        tokio::time::sleep(Duration::from_secs_f64(seconds)).await;
        self.client.over.store(true, Ordering::Relaxed);
        let mut latencies = clients.join_all().await.concat();
        let elapsed = before.0.elapsed();
        if self.delivered {
            eventually("all is delivered", async || {
                (self.gateway.metric("pixelgate_lane_pending", "bench").await == 0.0).then_some(())
            })
            .await;
        }
        let cpu = cpu_of(self.gateway.ready.pid) - before.1;
        latencies.sort();
        let events = latencies.len() as f64;
        Turn {
            per_second: events / elapsed.as_secs_f64(),
            cpu_per_100k: cpu * 1e5 / events,
            p50: latencies[latencies.len() / 2],
            p99: latencies[latencies.len() * 99 / 100],
        }
    }
}

// === impl Client ===

impl Client {
    async fn connect(&self) -> TlsStream<TcpStream> {
        let tcp = TcpStream::connect(self.address).await.expect("a connection");
        tcp.set_nodelay(true).expect("a socket");
        self.connector.connect(ServerName::try_from(NAME).expect("a name"), tcp).await.expect("a handshake")
    }

    /// One event as Meta's script sends it; each has an id of its own.
    fn request(&self, version: Version) -> http::Request<Full<Bytes>> {
        let id = format!("bench-{}", self.sent.fetch_add(1, Ordering::Relaxed));
        let body = page_view(PIXEL, &id).to_string();
        let request = match version {
            Version::HTTP_2 => http::Request::post(format!("https://{NAME}/events")),
            _ => http::Request::post("/events").header("host", NAME),
        };
        request
            .header("content-type", "text/plain;charset=UTF-8")
            .header("user-agent", "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/156.0")
            .body(Full::from(body))
            .expect("a request")
    }

    fn is_over(&self) -> bool {
        self.over.load(Ordering::Relaxed)
    }

    async fn h1(self) -> Vec<Duration> {
        let mut latencies = Vec::new();
        while !self.is_over() {
            // The gateway ends a connection after so many requests.
            let (mut sender, connection) =
                http1::handshake(TokioIo::new(self.connect().await)).await.expect("HTTP/1.1");
            tokio::spawn(connection);
            while !self.is_over() && sender.ready().await.is_ok() {
                let begun = Instant::now();
                taken(sender.send_request(self.request(Version::HTTP_11)).await.expect("an answer")).await;
                latencies.push(begun.elapsed());
            }
        }
        latencies
    }

    async fn h2(self) -> Vec<Duration> {
        let mut all = Vec::new();
        while !self.is_over() {
            let (sender, connection) =
                http2::handshake(TokioExecutor::new(), TokioIo::new(self.connect().await)).await.expect("HTTP/2");
            tokio::spawn(connection);
            let mut streams = JoinSet::new();
            for _ in 0..H2.1 {
                let (client, mut sender) = (self.clone(), sender.clone());
                streams.spawn(async move {
                    let mut latencies = Vec::new();
                    while !client.is_over() && sender.ready().await.is_ok() {
                        let begun = Instant::now();
                        let request = client.request(Version::HTTP_2);
                        // A connection that is asked to end refuses new streams.
                        let Ok(answer) = sender.send_request(request).await else { break };
                        taken(answer).await;
                        latencies.push(begun.elapsed());
                    }
                    latencies
                });
            }
            all.extend(streams.join_all().await.concat());
        }
        all
    }

    async fn anew(self) -> Vec<Duration> {
        let mut latencies = Vec::new();
        while !self.is_over() {
            let begun = Instant::now();
            let (mut sender, connection) =
                http1::handshake(TokioIo::new(self.connect().await)).await.expect("HTTP/1.1");
            let connection = tokio::spawn(connection);
            taken(sender.send_request(self.request(Version::HTTP_11)).await.expect("an answer")).await;
            drop(sender);
            let _ = connection.await;
            latencies.push(begun.elapsed());
        }
        latencies
    }
}

async fn taken(answer: http::Response<hyper::body::Incoming>) {
    let status = answer.status();
    let body = answer.into_body().collect().await.expect("a body").to_bytes();
    assert_eq!(status, 200, "{}", String::from_utf8_lossy(&body));
}

/// CPU seconds that a process has used (proc(5): utime and stime, in ticks of 10 ms).
fn cpu_of(pid: u32) -> f64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).expect("the gateway runs");
    let fields: Vec<&str> = stat.rsplit(')').next().expect("fields").split_whitespace().collect();
    let ticks: u64 = [11, 12].into_iter().map(|at: usize| fields[at].parse::<u64>().expect("ticks")).sum();
    ticks as f64 / 100.0
}
