//! Clients that look at every leaf they get.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use boring::ssl::{SslConnector, SslMethod, SslStream, SslVerifyMode, SslVersion};
use rand::RngExt;

use crate::names::{Names, pixel_of};

const THREADS: usize = 4;
const KEPT_ALIVE: usize = 8;
const UNKNOWN: &str = "events.unknown.example.net";
/// What errors of handshakes begin with.
const REFUSAL: &str = "no handshake for";
const PACE: Duration = Duration::from_millis(20);

/// Where load goes.
pub(crate) struct Load<'a> {
    pub(crate) address: SocketAddr,
    pub(crate) names: &'a Names,
}

/// Connections that go on while something is changed.
pub(crate) struct Neighbours {
    over: Arc<AtomicBool>,
    closed: Arc<AtomicUsize>,
    refused: Arc<AtomicUsize>,
    threads: Vec<JoinHandle<()>>,
}

pub(crate) fn connector() -> SslConnector {
    let mut builder = SslConnector::builder(SslMethod::tls()).expect("TLS");
    // The leaf's name is what is looked at; building chains would only cost time on the same cores.
    builder.set_verify(SslVerifyMode::NONE);
    builder.set_min_proto_version(Some(SslVersion::TLS1_3)).expect("a version");
    builder.set_curves_list("X25519").expect("a curve");
    builder.build()
}

/// Shakes hands for a name, and sees that the certificate is for it.
pub(crate) fn shake(connector: &SslConnector, address: SocketAddr, name: &str) -> Result<SslStream<TcpStream>, String> {
    let tcp = TcpStream::connect(address).map_err(|error| format!("no connection: {error}"))?;
    tcp.set_nodelay(true).expect("a socket");
    tcp.set_read_timeout(Some(Duration::from_secs(30))).expect("a socket");
    let config = connector.configure().expect("TLS").verify_hostname(false);
    let stream = config.connect(name, tcp).map_err(|error| format!("{REFUSAL} {name}: {error}"))?;
    let leaf = stream.ssl().peer_certificate().ok_or("no certificate")?;
    let names = leaf.subject_alt_names().ok_or("a certificate without names")?;
    if !names.iter().any(|own| own.dnsname() == Some(name)) {
        return Err(format!("another name's certificate for {name}"));
    }
    Ok(stream)
}

/// Whether [`shake`] failed because the server, which was reached, did not shake hands.
pub(crate) fn is_refusal(error: &str) -> bool {
    error.starts_with(REFUSAL)
}

fn post(stream: &mut SslStream<TcpStream>, name: &str, pixel: usize, keep: bool) -> Result<(), String> {
    let id: u64 = rand::rng().random();
    let body = format!(
        "{{\"event_name\":\"PageView\",\"event_id\":\"{id}\",\"fb.pixel_id\":\"{pixel}\",\
         \"website_context\":{{\"location\":\"https://{name}/\"}}}}"
    );
    let connection = if keep { "keep-alive" } else { "close" };
    let request = format!(
        "POST /events HTTP/1.1\r\nHost: {name}\r\nContent-Type: text/plain\r\nContent-Length: {}\r\nConnection: {connection}\r\n\r\n{body}",
        body.len()
    );
    stream.write_all(request.as_bytes()).map_err(|error| format!("not sent: {error}"))?;
    let mut answer = [0; 2048];
    let read = stream.read(&mut answer).map_err(|error| format!("no answer: {error}"))?;
    let head = String::from_utf8_lossy(&answer[..read]).into_owned();
    if head.starts_with("HTTP/1.1 20") { Ok(()) } else { Err(format!("answered {head:?}")) }
}

impl Load<'_> {
    /// A handshake for each name.
    pub(crate) fn all(&self) -> Result<(), String> {
        in_threads(self.names.count, |connector, at| shake(connector, self.address, &self.names.name(at)).map(drop))
    }

    /// So many handshakes, each on a new connection for a name at random, and with an event if `posting`.
    pub(crate) fn random(&self, handshakes: usize, posting: bool) -> Result<(), String> {
        in_threads(handshakes, |connector, _| {
            let at = rand::rng().random_range(0..self.names.count);
            let name = self.names.name(at);
            let mut stream = shake(connector, self.address, &name)?;
            if posting { post(&mut stream, &name, pixel_of(at), false) } else { Ok(()) }
        })
    }

    /// So many handshakes for a name that nobody has, which must not succeed.
    pub(crate) fn unknown(&self, handshakes: usize) -> Result<(), String> {
        in_threads(handshakes, |connector, _| match shake(connector, self.address, UNKNOWN) {
            Err(error) if is_refusal(&error) => Ok(()),
            Err(error) => Err(error),
            Ok(_) => Err(format!("there is a certificate for {UNKNOWN}")),
        })
    }
}

/// Does something so often, in threads, each with a connector of its own.
fn in_threads(times: usize, client: impl Fn(&SslConnector, usize) -> Result<(), String> + Sync) -> Result<(), String> {
    let next = AtomicUsize::new(0);
    let one = || {
        let connector = connector();
        loop {
            match next.fetch_add(1, Ordering::Relaxed) {
                at if at < times => client(&connector, at)?,
                _ => return Ok(()),
            }
        }
    };
    std::thread::scope(|scope| {
        let clients: Vec<_> = (0..THREADS).map(|_| scope.spawn(one)).collect();
        clients.into_iter().try_for_each(|client| client.join().expect("a client's thread"))
    })
}

impl Neighbours {
    pub(crate) fn start(address: SocketAddr, names: &Names) -> Self {
        let (over, closed, refused) = (Arc::<AtomicBool>::default(), Arc::default(), Arc::default());
        let name = |at: usize| (names.name(at % names.count), pixel_of(at % names.count));
        let mut threads = Vec::new();
        for at in 0..KEPT_ALIVE {
            let ((name, pixel), over, closed) = (name(at), Arc::clone(&over), Arc::<AtomicUsize>::clone(&closed));
            threads.push(std::thread::spawn(move || {
                let connector = connector();
                let mut stream = shake(&connector, address, &name).expect("a kept-alive connection");
                while !over.load(Ordering::Relaxed) {
                    let next = Instant::now() + PACE;
                    if post(&mut stream, &name, pixel, true).is_err() {
                        closed.fetch_add(1, Ordering::Relaxed);
                        return;
                    }
                    std::thread::sleep(next.saturating_duration_since(Instant::now()));
                }
            }));
        }
        let ((name, pixel), done, failed) = (name(KEPT_ALIVE), Arc::clone(&over), Arc::<AtomicUsize>::clone(&refused));
        threads.push(std::thread::spawn(move || {
            let connector = connector();
            while !done.load(Ordering::Relaxed) {
                let next = Instant::now() + PACE;
                let served =
                    shake(&connector, address, &name).and_then(|mut stream| post(&mut stream, &name, pixel, false));
                failed.fetch_add(usize::from(served.is_err()), Ordering::Relaxed);
                std::thread::sleep(next.saturating_duration_since(Instant::now()));
            }
        }));
        Self { over, closed, refused, threads }
    }

    /// How many kept-alive connections were closed, and how many new ones failed.
    pub(crate) fn stop(self) -> (usize, usize) {
        self.over.store(true, Ordering::Relaxed);
        self.threads.into_iter().for_each(|thread| thread.join().expect("a neighbour"));
        (self.closed.load(Ordering::Relaxed), self.refused.load(Ordering::Relaxed))
    }
}
