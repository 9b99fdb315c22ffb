//! The composition root: the one place that names every part, and the life of the process on one screen.

mod data_dir;
mod desk;
mod housekeeping;
mod life;
mod listen;
mod observers;
mod options;
mod ready_file;
mod systemd;
mod watch;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use tokio::sync::watch as phases;
use tokio_util::sync::CancellationToken;

use crate::clock::now_ms;
use crate::config::{GatewayConfig, LastGood, Problem, Reading, Source};
use crate::console::{Console, Phase, Readiness};
use crate::delivery::{Delivery, DeliveryError};
use crate::filter::{self, FilterHost};
use crate::ingest::Ingest;
use crate::issuance::{self, Issuance, IssuanceError};
use crate::outbox::{self, Outbox};
use crate::proxy::{Edge, EdgeError, EdgeListeners};
use crate::reload::{Reloader, Report, Unusable};
use crate::server::desk::Desk;
use crate::server::life::Signals;
use crate::server::listen::Listeners;
use crate::server::observers::Counting;
use crate::server::ready_file::Claim;
use crate::snapshot::{self, Before, Inputs};
use crate::telemetry::{LogError, Metrics, start_log};
use crate::tls::{Challenges, OwnConnections, Wanted};

pub use data_dir::DataDirError;
pub use listen::ListenError;
pub(crate) use options::filter_options;

/// How to run.
#[derive(Clone, Debug)]
pub struct RunOptions {
    /// The folder of `pixelgate.toml`.
    pub config_dir: PathBuf,
    /// Where to write what is listened on.
    pub ready_file: Option<PathBuf>,
}

/// Why the gateway did not start, or broke off.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// `pixelgate.toml` is bad.
    #[error("the configuration cannot be used")]
    Configuration(Vec<Problem>),
    /// A socket could not be had.
    #[error(transparent)]
    Listen(#[from] ListenError),
    /// The log could not be started.
    #[error(transparent)]
    Log(#[from] LogError),
    /// Nothing can be kept in the data directory.
    #[error(transparent)]
    DataDir(#[from] DataDirError),
    /// Filters cannot run here.
    #[error(transparent)]
    Filter(#[from] filter::StartError),
    /// The edge could not be set up.
    #[error(transparent)]
    Edge(#[from] EdgeError),
    /// The Graph API's client could not be made.
    #[error(transparent)]
    Delivery(#[from] DeliveryError),
    /// The ready file could not be claimed or written.
    #[error("--ready-file {}: {error}\n  → name a file of this gateway alone, in a folder that its user may write to", path.display())]
    ReadyFile {
        /// Which.
        path: PathBuf,
        /// What the operating system says.
        error: std::io::Error,
    },
    /// Something that only a broken build or system brings about.
    #[error("the process cannot go on: {0}")]
    Process(Box<dyn std::error::Error + Send + Sync>),
}

/// Runs the gateway until it is told to stop.
///
/// # Errors
/// What kept it from starting, or which part of it broke off.
pub fn run(options: &RunOptions) -> Result<(), RunError> {
    let claim =
        options.ready_file.as_ref().map(|path| Claim::take(path).map_err(ready_file_error(path))).transpose()?;
    let mut source = Source::new(&options.config_dir);
    let mut reading = source.read();
    let Some(config) = reading.gateway.clone() else {
        return Err(RunError::Configuration(reading.problems));
    };
    start_log(options::log_style(config.log.format), &config.log.level)?;
    let changes = config.host.watch.then(|| life::watched(&options.config_dir)).flatten();
    if changes.is_some() {
        // What changed before it was watched.
        reading = source.read();
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let runtime = runtime.map_err(|error| RunError::Process(error.into()))?;
    let ended = runtime.block_on(async {
        let mut signals = Signals::catch(changes).map_err(|error| RunError::Process(error.into()))?;
        let built_from = config.clone();
        let building = tokio::task::spawn_blocking(move || Gateway::build(&built_from, source, reading));
        let gateway = tokio::select! {
            () = signals.stop() => return Ok(()),
            built = building => built.map_err(|error| RunError::Process(error.into()))??,
        };
        gateway.serve(options, &config, signals, claim).await
    });
    // Filters that are still being compiled hold nobody up.
    runtime.shutdown_background();
    ended
}

/// Judges a configuration without a running gateway, with the last good accounts as the present owners.
///
/// # Errors
/// When filters cannot be compiled on this machine at all.
pub fn check(config_dir: &Path) -> Result<Report, RunError> {
    let reading = Source::new(config_dir).read();
    let Some(config) = reading.gateway.clone() else {
        return Ok(Report::alone(reading.problems));
    };
    let filters = FilterHost::start(filter_options(&config.filters, None), Arc::new(Silent))?;
    let last_good = LastGood::open(&config.host.data_dir);
    let (before, now_ms) = (Before::Kept(&last_good), now_ms());
    let inputs = Inputs { gateway: config, reading, before, filters: &filters, now_ms };
    Ok(Report::alone(snapshot::compile(inputs).snapshot.problems()))
}

/// Every part, built and connected, not yet serving.
struct Gateway {
    metrics: Arc<Metrics>,
    counting: Arc<Counting>,
    outbox: Outbox,
    reloader: Arc<Reloader>,
    ingest: Arc<Ingest>,
    delivery: Delivery,
    started: Instant,
}

// === impl Gateway ===

impl Gateway {
    fn build(config: &GatewayConfig, source: Source, reading: Reading) -> Result<Self, RunError> {
        let metrics = Arc::new(Metrics::new().map_err(|error| RunError::Process(error.into()))?);
        metrics.begin();
        let counting = Arc::new(Counting(metrics.clone()));
        let data_dir = &config.host.data_dir;
        data_dir::take(data_dir)?;
        let opened = Outbox::open(options::outbox_options(config, &metrics));
        let (outbox, recovered) = opened.map_err(|error| DataDirError::Outbox { path: data_dir.clone(), error })?;
        log_recovery(&recovered);
        let cache = data_dir.join("filters");
        let filters = FilterHost::start(filter_options(&config.filters, Some(cache)), counting.clone())?;
        let filters = Arc::new(filters);
        let last_good = LastGood::open(data_dir);
        let reloader = Reloader::start(source, reading, last_good, filters, metrics.clone(), now_ms());
        let reloader = Arc::new(reloader.map_err(|Unusable(problems)| RunError::Configuration(problems))?);
        let ingest = Arc::new(Ingest::new(outbox.clone(), metrics.clone()));
        let delivery = Delivery::new(outbox.clone(), reloader.published().clone(), counting.clone())?;
        Ok(Self { metrics, counting, outbox, reloader, ingest, delivery, started: Instant::now() })
    }

    /// The edge, and issuance, which answer a CA together. Without issuance events are taken all the same.
    fn edge(
        &self,
        listeners: EdgeListeners,
        config: &GatewayConfig,
        https: &[SocketAddr],
    ) -> Result<(Edge, Result<Issuance, IssuanceError>), RunError> {
        let (challenges, wanted, own) = <(Arc<Challenges>, Arc<Wanted>, Arc<OwnConnections>)>::default();
        let issuance = Issuance::open(issuance::Parts {
            data_dir: config.host.data_dir.clone(),
            reloader: self.reloader.clone(),
            challenges: challenges.clone(),
            wanted: wanted.clone(),
            edge: https.to_owned(),
            own: own.clone(),
            observer: self.counting.clone(),
        });
        let (reloader, ingest) = (self.reloader.clone(), self.ingest.clone());
        let edge = Edge::new(listeners, reloader, ingest, challenges, wanted, own, self.counting.clone())?;
        Ok((edge, issuance))
    }

    /// Serves until a signal says stop, and then ends what was begun: first issuance, while the edge still answers CAs, then
    /// the edge, then delivery, then the outbox.
    async fn serve(
        self,
        options: &RunOptions,
        config: &GatewayConfig,
        signals: Signals,
        mut claim: Option<Claim>,
    ) -> Result<(), RunError> {
        let listeners = Listeners::open(&config.listen)?;
        let ready_file = listeners.ready_file(self.reloader.published().load().revision);
        let ready_file = ready_file.map_err(|error| RunError::Process(error.into()))?;
        let control = listen::control(&config.host.control)?;
        let ops = tokio::net::TcpListener::from_std(listeners.ops).map_err(|error| RunError::Process(error.into()))?;
        let (phase, followed) = phases::channel(Phase::Starting);
        let [stop_issuance, stop_edge, stop_delivery, stop_console] = std::array::from_fn(|_| CancellationToken::new());

        let (edge, issuance) = self.edge(listeners.edge, config, &ready_file.https)?;
        let desk = Desk::new(&self.reloader, &issuance);
        let issuing = issuance.map(|issuance| tokio::spawn(issuance.run(stop_issuance.clone())));
        let mut edge = tokio::spawn(edge.run(stop_edge.clone()));
        let mut delivery = tokio::spawn(self.delivery.run(stop_delivery.clone()));
        let config_dir = std::path::absolute(&options.config_dir).unwrap_or_else(|_| options.config_dir.clone());
        let reloading = self.reloader.clone();
        let console = Console {
            config_dir,
            reloader: self.reloader.clone(),
            reload: Arc::new(move || life::take_up(&reloading)),
            ingest: self.ingest.clone(),
            outbox: self.outbox.clone(),
            metrics: self.metrics,
            readiness: Readiness::new(followed),
            further_problems: desk.problems,
            started: self.started,
            desk: desk.certificates,
            https: ready_file.https.clone(),
            http: ready_file.http.clone(),
        };
        tokio::spawn(console.clone().serve_control(control, stop_console.clone()));
        tokio::spawn(console.serve_ops(ops, stop_console.clone()));
        tokio::spawn(systemd::watchdog(stop_console.clone()));
        tokio::spawn(housekeeping::run(self.outbox.clone(), self.reloader.clone(), stop_console.clone()));

        phase.send_replace(Phase::Serving);
        if let Some((path, claim)) = options.ready_file.as_ref().zip(claim.as_mut()) {
            claim.write(&ready_file).map_err(ready_file_error(path))?;
        }
        systemd::ready();
        tracing::info!(https = ?ready_file.https, http = ?ready_file.http, ops = %ready_file.ops, "serving");
        let started = self.reloader.clone();
        tokio::task::spawn_blocking(move || {
            life::log_problems(&started.published().load().problems());
            started.keep();
        });

        // Neither part ends by itself; one that did must not leave a process behind that looks as if it worked.
        let broken = tokio::select! {
            () = life::until_stopped(signals, &self.reloader) => None,
            _ = &mut edge => Some("the edge broke off"),
            _ = &mut delivery => Some("delivery broke off"),
        };

        phase.send_replace(Phase::Stopping);
        systemd::stopping();
        tracing::info!("stopping");
        // What is put into its lane must not stay a dead letter too.
        let ingest = self.ingest;
        let replaying = tokio::spawn(async move { ingest.stop_replays().await });
        stop_issuance.cancel();
        if let Ok(issuing) = issuing {
            let _ = issuing.await;
        }
        stop_edge.cancel();
        if !edge.is_finished() {
            let _ = edge.await;
        }
        stop_delivery.cancel();
        if !delivery.is_finished() {
            let _ = delivery.await;
        }
        stop_console.cancel();
        let _ = replaying.await;
        let reloader = self.reloader;
        let closed = tokio::task::spawn_blocking(move || {
            // Waits for what is being kept.
            reloader.keep();
            self.outbox.close();
        })
        .await;
        closed.map_err(|error| RunError::Process(error.into()))?;
        tracing::info!("stopped");
        broken.map_or(Ok(()), |part| Err(RunError::Process(part.into())))
    }
}

/// What a start found in the outbox.
fn log_recovery(recovered: &outbox::Recovered) {
    tracing::info!(pending = recovered.pending, "outbox opened");
    for outbox::Cut { segment, at, kept } in &recovered.cut {
        let kept = kept.as_ref().map(|path| tracing::field::display(path.display()));
        tracing::warn!(segment, at, kept, "the end of a segment was not whole and was cut: it was never answered");
    }
    for (path, bytes) in &recovered.quarantined {
        tracing::error!(path = %path.display(), bytes, "damage in the outbox was put aside; events in it are lost");
    }
}

/// Nobody counts while a configuration is judged.
struct Silent;

impl filter::Observer for Silent {}

fn ready_file_error(path: &Path) -> impl FnOnce(std::io::Error) -> RunError {
    let path = path.to_owned();
    move |error| RunError::ReadyFile { path, error }
}
