//! The operator's side: the control socket that the command line talks to, and the ops listener that monitoring reads.

mod certificates;
mod control;
mod dead_letters;
mod desk;
mod ops;
mod peer;
mod status;
#[cfg(test)]
mod tests;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use crate::config::Problem;
use crate::console::peer::Peer;
use crate::ingest::Ingest;
use crate::outbox::{Health, Outbox};
use crate::reload::{Reloader, Report};
use crate::telemetry::Metrics;

pub use certificates::{CertificateDetail, CertificateView, CertificatesRefreshed, Door, view, views};
pub use dead_letters::DeadLetterView;
pub use desk::{CaAccountStatus, CertificateDesk, DeskError, Ordered};
pub use status::{AccountStatus, CertificatesStatus, ExpiringName, OutboxStatus, PixelStatus, Status};

/// Connections of the ops listener at one time: monitoring, and a person.
const OPS_CONNECTIONS_MAX: usize = 64;
/// Time for the header of a request there, the wait for its first byte included.
const OPS_HEADER_MAX: Duration = Duration::from_secs(30);
/// Wait after the system had no socket or memory for a connection.
const EXHAUSTED_WAIT: Duration = Duration::from_millis(100);

/// What the operator's requests are answered from.
#[derive(Clone)]
pub struct Console {
    /// The folder of `pixelgate.toml`, absolute.
    pub config_dir: PathBuf,
    /// Checks, and what is in force.
    pub reloader: Arc<Reloader>,
    /// Reloads, as the process does it.
    pub reload: Arc<dyn Fn() -> Report + Send + Sync>,
    /// Replays.
    pub ingest: Arc<Ingest>,
    /// Lanes and dead letters.
    pub outbox: Outbox,
    /// `/metrics`
    pub metrics: Arc<Metrics>,
    /// Whether the gateway takes requests, and why not.
    pub readiness: Readiness,
    /// What is wrong with names whose certificates are ordered, as warnings.
    pub further_problems: Arc<dyn Fn() -> Vec<Problem> + Send + Sync>,
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
        let routes = control::routes(self).into_make_service_with_connect_info::<Peer>();
        axum::serve(listener, routes).with_graceful_shutdown(stop.cancelled_owned()).await
    }

    /// Answers on the ops listener until told to stop. It may be reachable by others: connections are few and short.
    pub async fn serve_ops(self, listener: TcpListener, stop: CancellationToken) {
        let service = TowerToHyperService::new(ops::routes(self));
        let mut http = http1::Builder::new();
        http.timer(TokioTimer::new()).header_read_timeout(OPS_HEADER_MAX);
        let room = Arc::new(Semaphore::new(OPS_CONNECTIONS_MAX));
        loop {
            let accepted = tokio::select! {
                () = stop.cancelled() => return,
                accepted = listener.accept() => accepted,
            };
            let Ok((tcp, _)) = accepted else {
                tokio::time::sleep(EXHAUSTED_WAIT).await;
                continue;
            };
            let Ok(place) = room.clone().try_acquire_owned() else {
                continue;
            };
            let connection = http.serve_connection(TokioIo::new(tcp), service.clone());
            let stop = stop.clone();
            tokio::spawn(async move {
                tokio::select! {
                    () = stop.cancelled() => {}
                    // How a connection ended is of interest to its client only.
                    _ = connection => {}
                }
                drop(place);
            });
        }
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
