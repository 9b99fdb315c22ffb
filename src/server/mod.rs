//! The composition root: the one place that names every part, and the life of the process on one screen.

mod listen;
mod observers;
mod ready_file;
mod systemd;
mod watch;

use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch as phase;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::clock::now_ms;
use crate::config::{GatewayConfig, LastGood, LogFormat, Problem, Source};
use crate::console::{Console, Phase, Readiness};
use crate::delivery::{Delivery, DeliveryError};
use crate::filter::{self, FilterHost};
use crate::ingest::Ingest;
use crate::outbox::{self, Outbox};
use crate::proxy::{Edge, EdgeListeners};
use crate::reload::{Reloader, Report};
use crate::server::listen::{ListenError, Listeners};
use crate::server::ready_file::ReadyFile;
use crate::telemetry::{self, LogError, LogStyle, Metrics};

/// Time that requests in flight get when the gateway stops.
const DRAIN_MAX: Duration = Duration::from_secs(30);

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
    /// The outbox could not be opened.
    #[error(transparent)]
    Outbox(#[from] outbox::OpenError),
    /// Filters cannot run here.
    #[error(transparent)]
    Filter(#[from] filter::StartError),
    /// The Graph API's client could not be made.
    #[error(transparent)]
    Delivery(#[from] DeliveryError),
    /// A folder or file of the gateway's own.
    #[error("{path}: {error}")]
    File {
        /// Which.
        path: PathBuf,
        /// What the operating system says.
        error: std::io::Error,
    },
    /// Something that only a broken build or system brings about.
    #[error("the process could not be set up: {0}")]
    Process(Box<dyn std::error::Error + Send + Sync>),
}

/// Runs the gateway until it is told to stop.
///
/// # Errors
/// What kept it from starting. A gateway that runs does not end by an error.
pub fn run(options: &RunOptions) -> Result<(), RunError> {
    let mut source = Source::new(&options.config_dir);
    let reading = source.read();
    let Some(config) = reading.gateway.clone() else {
        return Err(RunError::Configuration(reading.problems));
    };
    start_log(&config)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let runtime = runtime.map_err(|error| RunError::Process(error.into()))?;
    runtime.block_on(async {
        let gateway = Gateway::build(&config, source, reading)?;
        gateway.serve(options, &config).await
    })
}

/// Judges a configuration without a running gateway, with the last good accounts as the present owners.
///
/// # Errors
/// When filters cannot be compiled on this machine at all.
pub fn check(config_dir: &Path) -> Result<Report, RunError> {
    let reading = Source::new(config_dir).read();
    let Some(config) = reading.gateway.clone() else {
        return Ok(Report { revision: 0, problems: reading.problems });
    };
    let filters = FilterHost::start(filter_options(&config, None), Arc::new(NoFilterObserver))?;
    let last_good = LastGood::open(&config.host.data_dir);
    let (previous, now_ms) = (None, now_ms());
    let inputs =
        Inputs { gateway: config, reading, previous, last_good: &last_good, filters: &filters, now_ms };
    Ok(Report { revision: 0, problems: snapshot::compile(inputs).problems })
}

/// Every part, built and connected, not yet serving.
struct Gateway {
    metrics: Arc<Metrics>,
    outbox: Outbox,
    reloader: Arc<Reloader>,
    ingest: Arc<Ingest>,
    delivery: Delivery,
    started: Instant,
}

// === impl Gateway ===

impl Gateway {
    fn build(config: &GatewayConfig, source: Source, reading: Reading) -> Result<Self, RunError> {
        let metrics = Metrics::new().map_err(|error| RunError::Process(error.into()))?;
        let metrics = Arc::new(metrics);
        private_folder(&config.host.data_dir)?;
        let (outbox, recovered) = Outbox::open(outbox_options(config, &metrics))?;
        tracing::info!(pending = recovered.pending, "outbox opened");
        let cache = config.host.data_dir.join("filters");
        let observer = Arc::new(FilterMetrics(metrics.clone()));
        let filters = Arc::new(FilterHost::start(filter_options(config, Some(cache)), observer)?);
        let last_good = LastGood::open(&config.host.data_dir);
        let reloader = Reloader::start(source, reading, last_good, filters, metrics.clone(), now_ms());
        let reloader = Arc::new(reloader.map_err(|Unusable(problems)| RunError::Configuration(problems))?);
        log_problems(&reloader.published().load().problems);
        let ingest = Arc::new(Ingest::new(outbox.clone(), metrics.clone()));
        let observer = Arc::new(DeliveryMetrics(metrics.clone()));
        let delivery = Delivery::new(outbox.clone(), reloader.published().clone(), observer)?;
        Ok(Self { metrics, outbox, reloader, ingest, delivery, started: Instant::now() })
    }

    /// Serves until a signal says stop, and then ends what was begun: first the edge, then delivery, then the outbox.
    async fn serve(self, options: &RunOptions, config: &GatewayConfig) -> Result<(), RunError> {
        let listeners = Listeners::open(&config.listen)?;
        let control = listen::control(&config.host.control)?;
        let ready_file = listeners.ready_file(self.reloader.published().load().revision)?;
        let (phase, phases) = watch::channel(Phase::Starting);
        let (stop_edge, stop_delivery, stop_console) =
            (CancellationToken::new(), CancellationToken::new(), CancellationToken::new());

        let published = self.reloader.published().clone();
        let edge = Edge::new(listeners.edge, published, self.ingest.clone(), self.metrics.clone());
        let edge = tokio::spawn(edge.run(stop_edge.clone()));
        let delivery = tokio::spawn(self.delivery.run(stop_delivery.clone()));
        let console = Console {
            reloader: self.reloader.clone(),
            ingest: self.ingest,
            outbox: self.outbox.clone(),
            metrics: self.metrics,
            readiness: Readiness::new(phases),
            started: self.started,
        };
        tokio::spawn(console.clone().serve_control(control, stop_console.clone()));
        tokio::spawn(console.serve_ops(listeners.ops, stop_console.clone()));
        tokio::spawn(systemd::watchdog(stop_console.clone()));

        phase.send_replace(Phase::Serving);
        if let Some(path) = &options.ready_file {
            ready_file.write(path).map_err(|error| RunError::File { path: path.clone(), error })?;
        }
        systemd::ready();
        tracing::info!(https = ?ready_file.https, http = ?ready_file.http, ops = %ready_file.ops, "serving");

        life::until_stopped(&options.config_dir, config.host.watch, &self.reloader).await?;

        phase.send_replace(Phase::Stopping);
        systemd::stopping();
        tracing::info!("stopping");
        stop_edge.cancel();
        let _ = edge.await;
        stop_delivery.cancel();
        let _ = delivery.await;
        stop_console.cancel();
        self.outbox.close().await;
        tracing::info!("stopped");
        Ok(())
    }
}
