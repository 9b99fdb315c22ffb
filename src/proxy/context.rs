//! What is known of a connection and of a request while it is handled.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use async_trait::async_trait;
use pingora::apps::{HttpServerApp, HttpServerOptions, ReusedHttpStream};
use pingora::protocols::http::ServerSession;
use pingora::protocols::http::v2::server::H2Options;
use pingora::proxy::HttpProxy;
use pingora::server::ShutdownWatch;
use tokio_util::task::task_tracker::TaskTrackerToken;

use crate::account::{AccountId, PixelId};
use crate::ingest::{Refusal, Request};
use crate::proxy::Observer;
use crate::proxy::pace::Pace;
use crate::proxy::respond::Style;
use crate::proxy::service::Service;
use crate::proxy::upstream::Pool;
use crate::snapshot::Snapshot;

tokio::task_local! {
    /// The connection of the request that this task handles. Pingora hands nothing of ours down to a request.
    static CONNECTION: Arc<Connection>;
}

/// An established connection.
pub(super) struct Connection {
    /// The other end: the socket's peer, or whom a PROXY header names.
    pub(super) peer: SocketAddr,
    /// The server name of the handshake; `None` on plain HTTP.
    pub(super) server_name: Option<Arc<str>>,
    /// How long reads may wait.
    pub(super) pace: Arc<Pace>,
}

/// The application of one connection: Pingora's proxy, with the connection known to its requests.
pub(super) struct ConnectionApp {
    pub(super) proxy: Arc<HttpProxy<Service>>,
    pub(super) connection: Arc<Connection>,
    pub(super) options: HttpServerOptions,
    pub(super) observer: Arc<dyn Observer>,
}

/// A request while it is handled.
pub(super) struct Context {
    /// What it is found by in the log.
    pub(super) id: String,
    pub(super) begun: Instant,
    /// The snapshot that it began with, and ends with.
    pub(super) snapshot: Arc<Snapshot>,
    /// `None` only outside of a connection, where nothing is served.
    pub(super) connection: Option<Arc<Connection>>,
    /// What it is for, for the log.
    pub(super) target: &'static str,
    /// Whose it is, as far as name and pixel say.
    pub(super) account: Option<AccountId>,
    /// The pixel that it is for, for the log.
    pub(super) pixel: Option<PixelId>,
    /// Why it was answered with an error, as a metric's label.
    pub(super) rejected: Option<&'static str>,
    /// How its errors look.
    pub(super) style: Style,
    /// Where it goes, if it goes to an upstream server.
    pub(super) forward: Option<Forward>,
    /// Counts it among the requests in flight.
    _in_flight: TaskTrackerToken,
}

/// A request on its way to an upstream server.
pub(super) struct Forward {
    pub(super) pool: Arc<Pool>,
    /// Servers that were tried, the last one being the one it goes to.
    pub(super) tried: Vec<SocketAddr>,
    /// Bytes of its body so far.
    pub(super) body_bytes: u64,
}

// === impl Context ===

impl Context {
    /// A request whose header has arrived now, on the connection of this task.
    pub(super) fn new(snapshot: Arc<Snapshot>, in_flight: TaskTrackerToken) -> Self {
        let connection = CONNECTION.try_with(Arc::clone).ok();
        if let Some(connection) = &connection {
            connection.pace.busy();
        }
        Self {
            id: format!("{:016x}", rand::random::<u64>()),
            begun: Instant::now(),
            snapshot,
            connection,
            target: "other",
            account: None,
            pixel: None,
            rejected: None,
            style: Style::Plain,
            forward: None,
            _in_flight: in_flight,
        }
    }

    /// Notes whose pixel a request was for, as ingest found while it came to this.
    pub(super) fn learn<T>(&mut self, request: &Request, outcome: Result<T, Refusal>) -> Result<T, Refusal> {
        if let Some(addressed) = request.addressed.get() {
            self.pixel = Some(addressed.pixel);
            self.account = addressed.account.clone().or(self.account.take());
        }
        outcome
    }
}

// === impl ConnectionApp ===

#[async_trait]
impl HttpServerApp for ConnectionApp {
    async fn process_new_http(
        self: &Arc<Self>,
        session: ServerSession,
        shutdown: &ShutdownWatch,
    ) -> Option<ReusedHttpStream> {
        let (http1, pace) = (!session.is_http2(), &self.connection.pace);
        let before = pace.requests();
        let reused = CONNECTION.scope(self.connection.clone(), self.proxy.process_new_http(session, shutdown)).await;
        // No hook is called for what Pingora itself takes for no request.
        if http1
            && pace.requests() == before
            && let Some(label) = pace.broken_header()
        {
            self.observer.rejected(label);
        }
        reused
    }

    fn h2_options(&self) -> Option<H2Options> {
        self.proxy.h2_options.clone()
    }

    fn server_options(&self) -> Option<&HttpServerOptions> {
        Some(&self.options)
    }
}
