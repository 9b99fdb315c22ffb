//! The operator's side: the control socket that the command line talks to, and the ops listener that monitoring reads.

mod certificates;
mod control;
mod dead_letters;
mod ops;
mod status;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use tokio::net::{TcpListener, UnixListener};
use tokio_util::sync::CancellationToken;

use crate::ingest::Ingest;
use crate::outbox::{Health, Outbox};
use crate::reload::Reloader;
use crate::telemetry::Metrics;

pub use certificates::{CertificateDesk, CertificateDetail, CertificateView, DeskError, Door, StoreDesk, views};
pub use dead_letters::DeadLetterView;
pub use status::{AccountStatus, CertificatesStatus, ExpiringName, OutboxStatus, PixelStatus, Status};

/// What the operator's requests are answered from.
#[derive(Clone)]
pub struct Console {
    /// Reloads and checks.
    pub reloader: Arc<Reloader>,
    /// Replays.
    pub ingest: Arc<Ingest>,
    /// Lanes and dead letters.
    pub outbox: Outbox,
    /// `/metrics`
    pub metrics: Arc<Metrics>,
    /// Whether the gateway takes requests, and why not.
    pub readiness: Readiness,
    /// When the process started.
    pub started: Instant,
    /// What comes next for certificates.
    pub desk: Arc<dyn CertificateDesk>,
    /// Where TLS is spoken, with the ports that the system chose.
    pub https: Vec<SocketAddr>,
    /// Where plain HTTP is spoken.
    pub http: Vec<SocketAddr>,
}

/// Whether the gateway as a whole is up; what its parts say is asked when `/readyz` is.
#[derive(Clone, Debug)]
pub struct Readiness(tokio::sync::watch::Receiver<Phase>);

/// Where in its life the gateway is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Not all listeners accept yet.
    Starting,
    /// It takes requests.
    Serving,
    /// It was told to stop.
    Stopping,
}

// === impl Console ===

impl Console {
    /// Answers on the control socket until told to stop.
    ///
    /// # Errors
    /// What the operating system says of the socket.
    pub async fn serve_control(self, listener: UnixListener, stop: CancellationToken) -> std::io::Result<()> {
        axum::serve(listener, control::routes(self)).with_graceful_shutdown(stop.cancelled_owned()).await
    }

    /// Answers on the ops listener until told to stop.
    ///
    /// # Errors
    /// What the operating system says of the listener.
    pub async fn serve_ops(self, listener: TcpListener, stop: CancellationToken) -> std::io::Result<()> {
        axum::serve(listener, ops::routes(self)).with_graceful_shutdown(stop.cancelled_owned()).await
    }
}

// === impl Readiness ===

impl Readiness {
    /// Follows the phase that the composition root sets.
    pub fn new(phase: tokio::sync::watch::Receiver<Phase>) -> Self {
        Self(phase)
    }

    /// Why the gateway is not ready; empty = it is.
    pub fn obstacles(&self, outbox: &Outbox) -> Vec<String> {
        let phase = match *self.0.borrow() {
            Phase::Starting => Some("starting".to_owned()),
            Phase::Serving => None,
            Phase::Stopping => Some("stopping".to_owned()),
        };
        let store = match outbox.health() {
            Health::Accepting => None,
            Health::Full { free, reserve } => {
                Some(format!("the store refuses: {free} bytes are free, {reserve} are kept in reserve"))
            }
            Health::Broken { reason } => Some(format!("the store refuses: {reason}")),
        };
        phase.into_iter().chain(store).collect()
    }
}
