//! The edge: from a listening socket to an answer. The way of a request:
//!
//! * `accept` — connection caps (`limits`), PROXY header (`proxy_protocol`), then
//! * `hello` — whom the first bytes ask for, which may be refused before there is TLS;
//! * `handshake` — TLS; the server name chooses the certificate, and `rates` say when it may begin; its tickets are made
//!   with keys in `rotation`;
//! * `wire` — the socket under it, with the deadlines that Pingora does not have, as `pace` says them;
//! * `context` — what is known of the connection and the request;
//! * `hooks` — Pingora's hooks, which call
//! * `service` — what the request is (`routes`), from whom (`incoming`, `forwarded`), its `body` within the
//!   memory for all `bodies`, and what comes of it: an event for ingest, `script`, or `upstream`;
//! * `respond` — the answer, with `cors` and `cookies`.
//!
//! Pingora's own server and listeners are not used: sockets come bound from outside, and handshakes have a time limit
//! and end without a line in the log each.

mod accept;
mod bodies;
mod body;
mod context;
mod cookies;
mod cors;
mod forwarded;
mod handshake;
mod hello;
mod hooks;
mod incoming;
mod limits;
mod pace;
mod proxy_protocol;
mod rates;
mod respond;
mod rotation;
mod routes;
mod script;
mod service;
#[cfg(test)]
mod testing;
mod upstream;
mod wire;

use std::io;
use std::net::TcpListener;
use std::sync::Arc;
use std::time::{Duration, Instant};

use pingora::apps::ServerApp;
use pingora::protocols::http::v2::server::default_h2_options;
use pingora::proxy::http_proxy;
use pingora::server::configuration::ServerConf;
use socket2::SockRef;
use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::clock::now_ms;
use crate::ingest::Ingest;
use crate::proxy::accept::{Acceptor, Scheme};
use crate::proxy::handshake::{Names, TlsAcceptor};
use crate::proxy::hooks::TRIES_MAX;
use crate::proxy::incoming::Ports;
use crate::proxy::limits::ConnectionLimits;
use crate::proxy::rates::{HandshakeBudget, SourceRates};
use crate::proxy::rotation::Rotation;
use crate::proxy::script::Script;
use crate::proxy::service::Service;
use crate::proxy::upstream::Upstreams;
use crate::reload::Reloader;
use crate::snapshot::{Published, Snapshot};
use crate::tls::{Challenges, Lookup, OwnConnections, TicketKeys, Wanted};

/// Time that requests in flight get when the gateway stops.
const DRAIN_MAX: Duration = Duration::from_secs(8);
/// The file of the session tickets' keys, in `data_dir`.
const TICKET_KEYS: &str = "ticket.keys";
/// How long connections without a request are kept then, for what they were last told to arrive.
const IDLE_GRACE: Duration = Duration::from_millis(500);
/// Requests at one time on one HTTP/2 connection.
const H2_STREAMS_MAX: u32 = 64;
/// Bytes that a client may send before they are taken, for one request and for one HTTP/2 connection.
const H2_STREAM_WINDOW: u32 = 256 * 1024;
const H2_CONNECTION_WINDOW: u32 = 512 * 1024;

/// The sockets of the edge, bound and not blocking.
pub struct EdgeListeners {
    /// Those that speak TLS.
    pub https: Vec<TcpListener>,
    /// Those that redirect to it.
    pub http: Vec<TcpListener>,
}

/// Who counts what happens at the edge.
pub trait Observer: Send + Sync {
    /// Connections opened (1) and closed (-1).
    fn connections(&self, change: i64);
    /// A TLS handshake by its result: `ok`, `no_name`, `unknown_name`, `not_loadable`, `challenge`, `failed`, `timeout`,
    /// `limited`, `limited_per_ip`.
    fn handshake(&self, result: &'static str);
    /// A request answered with an error, or a connection refused, by reason.
    fn rejected(&self, reason: &'static str);
}

/// Why the edge cannot serve.
#[derive(Debug, thiserror::Error)]
pub enum EdgeError {
    /// A socket cannot be used.
    #[error("a listening socket cannot be used: {0}")]
    Listener(#[from] io::Error),
    /// TLS could not be set up.
    #[error("TLS cannot be set up: {0}")]
    Tls(#[from] pingora::tls::error::ErrorStack),
    /// The system gives no more threads.
    #[error("no threads can be begun: {0}; look at TasksMax of the unit, and at the machine's memory")]
    Threads(#[source] io::Error),
}

/// The edge, ready to serve.
pub struct Edge {
    listeners: Vec<(tokio::net::TcpListener, Scheme)>,
    acceptor: Arc<Acceptor>,
    published: Arc<Published>,
    upstreams: Arc<Upstreams>,
    rotation: Arc<Rotation>,
    requests: TaskTracker,
    stopping: watch::Sender<bool>,
}

// === impl Edge ===

impl Edge {
    /// Prepares to serve what is published, now and later. Must be called within a runtime.
    ///
    /// # Errors
    /// When a socket is of another kind, BoringSSL fails, or there are no threads.
    pub fn new(
        listeners: EdgeListeners,
        reloader: Arc<Reloader>,
        ingest: Arc<Ingest>,
        challenges: Arc<Challenges>,
        wanted: Arc<Wanted>,
        own: Arc<OwnConnections>,
        observer: Arc<dyn Observer>,
    ) -> Result<Self, EdgeError> {
        let published = reloader.published().clone();
        let ports = |listeners: &[TcpListener]| -> io::Result<Vec<u16>> {
            listeners.iter().map(|listener| Ok(listener.local_addr()?.port())).collect()
        };
        let ports = Ports { http: ports(&listeners.http)?, https: ports(&listeners.https)? };
        let https = listeners.https.into_iter().map(|listener| (listener, Scheme::Https));
        let http = listeners.http.into_iter().map(|listener| (listener, Scheme::Http));
        let listeners = https
            .chain(http)
            .map(|(listener, scheme)| {
                // Connections inherit it. An answer is written in one piece: nothing is gained by waiting for more of it.
                SockRef::from(&listener).set_tcp_nodelay(true)?;
                Ok((tokio::net::TcpListener::from_std(listener)?, scheme))
            })
            .collect::<io::Result<_>>()?;
        let upstreams = Arc::new(Upstreams::default());
        let requests = TaskTracker::new();
        let service = Service {
            published: published.clone(),
            ingest,
            observer: observer.clone(),
            upstreams: upstreams.clone(),
            bodies: Arc::default(),
            requests: requests.clone(),
            script: Script::new(),
            challenges: challenges.clone(),
            ports,
        };
        let conf = ServerConf { max_retries: TRIES_MAX, ..ServerConf::default() };
        let mut proxy = http_proxy(&Arc::new(conf), service);
        // The defaults bound header lists and resets; options made anew would not.
        let mut h2 = default_h2_options();
        h2.max_concurrent_streams(H2_STREAMS_MAX);
        h2.initial_window_size(H2_STREAM_WINDOW).initial_connection_window_size(H2_CONNECTION_WINDOW);
        proxy.h2_options = Some(h2);
        let (stopping, watched) = watch::channel(false);
        let tickets = Arc::new(TicketKeys::open(published.load().gateway.host.data_dir.join(TICKET_KEYS)));
        let configured = published.clone();
        let rotation = Rotation {
            tickets: tickets.clone(),
            every: Box::new(move || configured.load().gateway.tls.ticket_rotation),
            now_s: Box::new(|| now_ms() / 1_000),
        };
        rotation.rotate();
        let certificates = published.clone();
        let names = Names {
            lookup: Arc::new(move |name| look_up(&certificates.load(), &wanted, name)),
            stale: Arc::new(move |names| reloader.refresh_certificates(names, now_ms())),
        };
        let acceptor = Arc::new(Acceptor {
            published: published.clone(),
            tls: TlsAcceptor::new(names, challenges, tickets)?,
            limits: ConnectionLimits::new(observer.clone()),
            own,
            handshakes: HandshakeBudget::new(Handle::current().metrics().num_workers(), Instant::now()),
            handshakes_by_source: SourceRates::new(Instant::now()),
            proxy: Arc::new(proxy),
            observer,
            stopping: watched,
        });
        Ok(Self { listeners, acceptor, published, upstreams, rotation: Arc::new(rotation), requests, stopping })
    }

    /// Serves until `stop`, then lets requests in flight end for a few seconds, and closes what is left.
    pub async fn run(self, stop: CancellationToken) {
        let Self { listeners, acceptor, published, upstreams, rotation, requests, stopping } = self;
        let rotating = tokio::spawn(rotation.run(stop.clone()));
        let mut accepting = JoinSet::new();
        for (listener, scheme) in listeners {
            accepting.spawn(acceptor.clone().run(listener, scheme, stop.clone()));
        }
        upstreams.watch(&published, stop).await;
        let _ = rotating.await;
        let mut left = Vec::new();
        while let Some(connections) = accepting.join_next().await {
            left.extend(connections.ok());
        }
        let _ = stopping.send(true);
        // Ends the waiting of connections that are kept alive and have no request.
        acceptor.proxy.cleanup().await;
        requests.close();
        tokio::select! {
            () = ended(&mut left) => {}
            () = at_rest(&requests) => {}
            () = sleep(DRAIN_MAX) => {}
        }
        for connections in &mut left {
            connections.shutdown().await;
        }
    }
}

async fn ended(left: &mut [JoinSet<()>]) {
    for connections in left {
        while connections.join_next().await.is_some() {}
    }
}

/// Waits until there was no request for a moment: a client that keeps its connection open holds nobody up.
async fn at_rest(requests: &TaskTracker) {
    loop {
        requests.wait().await;
        sleep(IDLE_GRACE).await;
        if requests.is_empty() {
            return;
        }
    }
}

/// What serves a name. A name of the configuration without a certificate is noted, where one may be ordered for it then.
fn look_up(snapshot: &Snapshot, wanted: &Wanted, name: &str) -> Lookup {
    let found = snapshot.certificates.lookup(name);
    if matches!(found, Lookup::Unknown)
        && snapshot.gateway.acme.on_demand
        && snapshot.route(name).is_some()
        && let Ok(name) = name.parse()
    {
        wanted.ask(&name);
    }
    found
}
