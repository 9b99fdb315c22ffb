//! A storm of handshakes, through the real binary: what it does to connections that are established, and what it costs to
//! refuse one.
//!
//! `cargo bench --bench storm [-- --seconds N] [--rounds N]`; it ends with 1 if a promise is missed.
//!
//! * **latency**: events on kept-alive connections, sent by the clock, while nothing else happens and while a process of
//!   its own opens 5,000 connections a second from 250 addresses: with ClientHellos of a name that is served (the
//!   gateway cannot tell them from visitors' until it has signed), and of one that is not. The same storm against a process
//!   that only closes connections tells how much of it is the machine's: clients, packets and gateway share its cores;
//! * **cost**: CPU of the gateway's process for one whole handshake, and for one that is refused: for its name, for the
//!   limit of all, for the limit of its address.
//!
//! The storm, and what it meets elsewhere, run when nothing else wants a core (`SCHED_IDLE`): in the world they are other
//! machines.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic, dead_code, unused_imports)]

mod measure;
#[path = "../tests/it/util/mod.rs"]
mod util;

use std::io::{BufRead, BufReader};
use std::net::{Ipv4Addr, SocketAddr};
use std::process::{Child, Command, ExitCode, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval, timeout};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName};
use tokio_rustls::rustls::version::TLS13;
use tokio_rustls::rustls::{ClientConfig, RootCertStore};

use measure::{Promises, cpu_seconds};
use util::client::page_view;
use util::{Account, Gateway, Hello, Site, Standin};

const PIXEL: u64 = 9001;
const NAME: &str = "events.bench.example";
const UNKNOWN: &str = "unknown.bench.example";
/// Established connections, and how often each sends an event.
const KEPT: usize = 16;
const EVERY: Duration = Duration::from_millis(10);
/// Connections that the storm opens in a second: 2.5 times the handshakes that the gateway begins for all, and what two
/// cores can send beside it.
const PER_SECOND: u32 = 5_000;
/// Connections of the storm at one time, the addresses that they come from, and how long each waits for an answer.
const AT_ONCE: usize = 512;
const SOURCES: usize = 250;
const WAITS: Duration = Duration::from_millis(50);
/// Handshakes whose cost is measured.
const WHOLE: usize = 5_000;
const REFUSED: usize = 20_000;
/// What the latency under a storm may be, in those of quiet; and what a refusal may cost, in whole handshakes.
const LATENCY_MAX: f64 = 3.0;
const COST_MAX: f64 = 0.2;

fn main() -> ExitCode {
    let given: Vec<String> = std::env::args().collect();
    let value = |name: &str| given.iter().position(|argument| argument == name).and_then(|at| given.get(at + 1));
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime");
    if let (Some(gateway), Some(name)) = (value("--storm"), value("--name")) {
        let hello = Hello::to(name).bytes();
        runtime.block_on(storm(gateway.parse().expect("an address"), hello));
        return ExitCode::SUCCESS;
    }
    if given.iter().any(|argument| argument == "--elsewhere") {
        runtime.block_on(elsewhere());
        return ExitCode::SUCCESS;
    }
    let seconds = value("--seconds").map_or(5.0, |text| text.parse().expect("seconds"));
    let rounds = value("--rounds").map_or(3, |text| text.parse().expect("rounds"));
    runtime.block_on(async {
        let standin = Standin::start_with(&["--fast"]).await;
        let mut promises = Promises::default();
        latency(&standin, seconds, rounds, &mut promises).await;
        cost(&standin, &mut promises).await;
        promises.end()
    })
}

async fn gateway(standin: &Standin, limits: &str, listen: &str) -> (Site, Gateway) {
    let site = Site::new(&standin.url)
        .listen(listen)
        .with(&format!("[limits]\n{limits}account_backlog_bytes_max = 100_000_000_000\n"))
        .account(Account::new("bench", PIXEL).domain(NAME));
    let gateway = Gateway::start(&site).await;
    let paused = gateway.command(&["accounts", "pause", "bench", "--reason", "measuring"]);
    assert!(paused.status.success(), "{paused:?}");
    (site, gateway)
}

// Latency.

/// Sorted.
struct Latencies(Vec<Duration>);

async fn latency(standin: &Standin, seconds: f64, rounds: usize, promises: &mut Promises) {
    let (site, gateway) = gateway(standin, "", "").await;
    let connector = connector(&site);
    println!(
        "{:>24} {:>10} {:>9} {:>9} {:>9} {:>9}",
        "established connections", "storm/s", "p50 ms", "p99 ms", "p50 ×", "p99 ×"
    );
    let elsewhere = Elsewhere::start();
    let mut ratios = [Vec::new(), Vec::new(), Vec::new()];
    for _ in 0..rounds {
        let quiet = kept(&gateway, &connector, seconds).await;
        quiet.print("quiet", 0.0, None);
        for ((title, name, target), ratios) in storms(gateway.https(), elsewhere.address).into_iter().zip(&mut ratios) {
            let seen = handshakes(&gateway).await;
            let mut storm = Storm::start(target, name);
            let latencies = kept(&gateway, &connector, seconds).await;
            storm.stop();
            let rate = (handshakes(&gateway).await - seen) / seconds;
            latencies.print(title, rate, Some(&quiet));
            ratios.push(latencies.ratio(&quiet, 99));
        }
    }
    let [machine, gateway @ ..] = ratios.map(|mut ratios| {
        ratios.sort_by(f64::total_cmp);
        ratios[ratios.len() / 2]
    });
    for (title, times) in ["handshakes", "unknown names"].into_iter().zip(gateway) {
        let own = times / machine;
        promises.at_most(&format!("{title}: p99 × {own:.2} of the storm elsewhere, × of quiet"), times, LATENCY_MAX);
    }
}

/// Storms: what they are called, the name that they ask for, and whom.
fn storms(gateway: SocketAddr, elsewhere: SocketAddr) -> [(&'static str, &'static str, SocketAddr); 3] {
    [("elsewhere", UNKNOWN, elsewhere), ("handshakes", NAME, gateway), ("unknown names", UNKNOWN, gateway)]
}

/// Handshakes that the gateway began and refused so far.
async fn handshakes(gateway: &Gateway) -> f64 {
    gateway.metric("pixelgate_handshakes_total", "").await
}

/// Events on established connections, by the clock.
async fn kept(gateway: &Gateway, connector: &TlsConnector, seconds: f64) -> Latencies {
    static SENT: AtomicU64 = AtomicU64::new(0);
    let mut clients = JoinSet::new();
    for client in 0..KEPT {
        let stream = connect(gateway.https(), connector).await;
        clients.spawn(async move {
            let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.expect("HTTP/1.1");
            tokio::spawn(connection);
            let mut latencies = Vec::new();
            tokio::time::sleep(EVERY * u32::try_from(client).unwrap() / u32::try_from(KEPT).unwrap()).await;
            let mut ticks = interval(EVERY);
            // An event that is late is not left out, and its wait counts.
            ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
            for _ in 0..(seconds / EVERY.as_secs_f64()) as usize {
                let due = ticks.tick().await;
                let id = format!("storm-{}", SENT.fetch_add(1, Ordering::Relaxed));
                let request = http::Request::post("/events").header("host", NAME);
                let request = request.body(Full::<Bytes>::from(page_view(PIXEL, &id).to_string())).expect("a request");
                let answer = sender.send_request(request).await.expect("an answer");
                assert_eq!(answer.status(), 200);
                answer.into_body().collect().await.expect("a body");
                latencies.push(due.elapsed());
            }
            latencies
        });
    }
    let mut latencies = clients.join_all().await.concat();
    latencies.sort();
    Latencies(latencies)
}

// === impl Latencies ===

impl Latencies {
    fn percentile(&self, percent: usize) -> f64 {
        self.0[self.0.len() * percent / 100].as_secs_f64() * 1e3
    }

    fn ratio(&self, quiet: &Self, percent: usize) -> f64 {
        self.percentile(percent) / quiet.percentile(percent)
    }

    fn print(&self, title: &str, storm: f64, quiet: Option<&Self>) {
        let (p50, p99) = (self.percentile(50), self.percentile(99));
        let quiet = quiet.unwrap_or(self);
        let (times50, times99) = (self.ratio(quiet, 50), self.ratio(quiet, 99));
        println!("{title:>24} {storm:>10.0} {p50:>9.2} {p99:>9.2} {times50:>9.2} {times99:>9.2}");
    }
}

// The storm, and what it meets elsewhere, in processes of their own.

struct Storm(Child);

struct Elsewhere {
    process: Child,
    address: SocketAddr,
}

/// This program again, when nothing else wants a core.
fn aside(arguments: &[&str]) -> Command {
    let mut command = Command::new("chrt");
    command.args(["--idle", "0"]).arg(std::env::current_exe().expect("this program")).args(arguments);
    command.stdin(Stdio::null());
    command
}

// === impl Storm ===

impl Storm {
    fn start(target: SocketAddr, name: &str) -> Self {
        Self(aside(&["--storm", &target.to_string(), "--name", name]).spawn().expect("a process"))
    }

    fn stop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Drop for Storm {
    fn drop(&mut self) {
        self.stop();
    }
}

// === impl Elsewhere ===

impl Elsewhere {
    fn start() -> Self {
        let mut process = aside(&["--elsewhere"]).stdout(Stdio::piped()).spawn().expect("a process");
        let mut line = String::new();
        BufReader::new(process.stdout.take().expect("its output")).read_line(&mut line).expect("a line");
        Self { address: line.trim().parse().expect("an address"), process }
    }
}

impl Drop for Elsewhere {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Closes what connects, once it has said something.
async fn elsewhere() {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a socket");
    println!("{}", listener.local_addr().expect("its address"));
    loop {
        let Ok((mut stream, _)) = listener.accept().await else { continue };
        tokio::spawn(async move { stream.read(&mut [0; 4_096]).await });
    }
}

async fn storm(gateway: SocketAddr, hello: Vec<u8>) {
    let hello: Arc<[u8]> = hello.into();
    let mut clients = JoinSet::new();
    let every = Duration::from_secs(1) * u32::try_from(AT_ONCE).unwrap() / PER_SECOND;
    for client in 0..AT_ONCE {
        let hello = hello.clone();
        clients.spawn(async move {
            tokio::time::sleep(every * u32::try_from(client).unwrap() / u32::try_from(AT_ONCE).unwrap()).await;
            let mut ticks = interval(every);
            ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
            let mut source = client;
            loop {
                ticks.tick().await;
                source += 1;
                let from = Ipv4Addr::new(127, 0, 1, 1 + u8::try_from(source % SOURCES).unwrap());
                let _ = timeout(WAITS, refused(from, gateway, &hello)).await;
            }
        });
    }
    clients.join_all().await;
}

/// Sends a ClientHello and waits for what comes, an answer or an end; then resets the connection.
async fn refused(from: Ipv4Addr, gateway: SocketAddr, hello: &[u8]) -> std::io::Result<()> {
    let socket = TcpSocket::new_v4()?;
    socket.bind((from, 0).into())?;
    socket.set_zero_linger()?;
    let mut stream = socket.connect(gateway).await?;
    stream.write_all(hello).await?;
    // A whole answer, or its end.
    stream.read(&mut [0; 4_096]).await.map(drop)
}

// Cost.

async fn cost(standin: &Standin, promises: &mut Promises) {
    let unlimited = "handshakes_per_second = 1_000_000\nhandshakes_per_second_per_ip = 1_000_000\n";
    let (site, open) = gateway(standin, unlimited, "").await;
    let connector = connector(&site);
    let whole = cost_of(&open, WHOLE, async |_| drop(connect(open.https(), &connector).await)).await;
    println!("a whole handshake: {:.1} µs of CPU", whole * 1e6);
    let mut refuse = async |gateway: &Gateway, title: &str, first: &[u8]| {
        let (from, https) = (Ipv4Addr::new(127, 0, 0, 2), gateway.https());
        let one = async |_| drop(timeout(Duration::from_secs(5), refused(from, https, first)).await);
        let cost = cost_of(gateway, REFUSED, one).await;
        promises.at_most(
            &format!("{title}: {:.1} µs of CPU, of a whole handshake's", cost * 1e6),
            cost / whole,
            COST_MAX,
        );
    };
    let (known, unknown) = (Hello::to(NAME).bytes(), Hello::to(UNKNOWN).bytes());
    refuse(&open, "unknown name", &unknown).await;
    let (_site, balanced) = gateway(standin, unlimited, "proxy_protocol = [\"127.0.0.2/32\"]").await;
    let header = b"PROXY TCP4 203.0.113.7 127.0.0.1 5000 443\r\n".as_slice();
    refuse(&balanced, "unknown name behind a PROXY header", &[header, &unknown].concat()).await;
    let (_site, full) =
        gateway(standin, "handshakes_per_second = 1\nhandshakes_per_second_per_ip = 1_000_000\n", "").await;
    refuse(&full, "over the limit of all", &known).await;
    let (_site, narrow) = gateway(standin, "handshakes_per_second_per_ip = 1\n", "").await;
    refuse(&narrow, "over that of an address", &known).await;
}

/// CPU seconds of the gateway for each of so many, 32 at one time.
async fn cost_of(gateway: &Gateway, count: usize, one: impl AsyncFn(usize)) -> f64 {
    let before = cpu_seconds(gateway.ready.pid);
    let next = AtomicU64::new(0);
    let worker = async || {
        while (next.fetch_add(1, Ordering::Relaxed) as usize) < count {
            one(0).await;
        }
    };
    let workers: Vec<_> = (0..32).map(|_| worker()).collect();
    join_all(workers).await;
    (cpu_seconds(gateway.ready.pid) - before) / count as f64
}

async fn join_all(futures: Vec<impl Future<Output = ()>>) {
    let mut futures: Vec<_> = futures.into_iter().map(|future| Some(Box::pin(future))).collect();
    std::future::poll_fn(|cx| {
        for slot in &mut futures {
            if slot.as_mut().is_some_and(|future| future.as_mut().poll(cx).is_ready()) {
                *slot = None;
            }
        }
        if futures.iter().all(Option::is_none) { std::task::Poll::Ready(()) } else { std::task::Poll::Pending }
    })
    .await;
}

fn connector(site: &Site) -> TlsConnector {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(site.authority.pem().as_bytes()).expect("a CA")).expect("a CA");
    let mut tls =
        ClientConfig::builder_with_protocol_versions(&[&TLS13]).with_root_certificates(roots).with_no_client_auth();
    tls.alpn_protocols = vec![b"http/1.1".to_vec()];
    tls.resumption = tokio_rustls::rustls::client::Resumption::disabled();
    TlsConnector::from(Arc::new(tls))
}

async fn connect(gateway: SocketAddr, connector: &TlsConnector) -> TlsStream<TcpStream> {
    let tcp = TcpStream::connect(gateway).await.expect("a connection");
    tcp.set_nodelay(true).expect("a socket");
    connector.connect(ServerName::try_from(NAME).expect("a name"), tcp).await.expect("a handshake")
}
