//! The use case of a reload: read, compile, publish, report.
//!
//! After a reload without problems the whole configuration is in force. After one with problems every account without
//! an error is in force as it is written, and every account with one stays as it was; a bad `pixelgate.toml` leaves
//! everything as it was. Nothing is half done: what is published is one snapshot, swapped in one step. Requests in
//! flight end on the one they began with.

use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::ArcSwap;
use serde::{Deserialize, Serialize};

use crate::account::ServerName;
use crate::config::{GatewayConfig, LastGood, Problem, Reading, Source};
use crate::filter::FilterHost;
use crate::snapshot::{self, Inputs, Published, Snapshot};
use crate::telemetry::Metrics;

/// Publishes configurations, one at a time.
pub struct Reloader {
    published: Arc<Published>,
    filters: Arc<FilterHost>,
    metrics: Arc<Metrics>,
    /// What the process was started with: some of it cannot change while it runs.
    started: Arc<GatewayConfig>,
    state: Mutex<State>,
}

/// What one reload leaves for the next.
struct State {
    source: Source,
    last_good: LastGood,
}

/// What a reload or a check came to.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Report {
    /// Whether what was read is in force now; otherwise all stays as it was.
    pub applied: bool,
    /// The revision in force afterwards.
    pub revision: u64,
    /// What is wrong with the configuration.
    pub problems: Vec<Problem>,
}

/// A configuration that nothing can start from.
#[derive(Debug)]
pub struct Unusable(pub Vec<Problem>);

// === impl Reloader ===

impl Reloader {
    /// Compiles what was read as the first snapshot.
    ///
    /// # Errors
    /// When `pixelgate.toml` itself is bad.
    pub fn start(
        source: Source,
        reading: Reading,
        last_good: LastGood,
        filters: Arc<FilterHost>,
        metrics: Arc<Metrics>,
        now_ms: i64,
    ) -> Result<Self, Unusable> {
        let Some(gateway) = reading.gateway.clone() else {
            return Err(Unusable(reading.problems));
        };
        let inputs = Inputs { gateway, reading, previous: None, last_good: &last_good, filters: &filters, now_ms };
        let snapshot = snapshot::compile(inputs);
        if is_refused(&snapshot) {
            return Err(Unusable(snapshot.problems()));
        }
        tell(&metrics, &snapshot);
        keep(&last_good, &snapshot, &source);
        keep_index(&snapshot);
        let published = Arc::new(ArcSwap::from_pointee(snapshot));
        let started = published.load().gateway.clone();
        Ok(Self { published, filters, metrics, started, state: Mutex::new(State { source, last_good }) })
    }

    /// Where requests take their snapshot.
    pub fn published(&self) -> &Arc<Published> {
        &self.published
    }

    /// Takes up what is on disk now. Blocks while files are read and filters compiled.
    pub fn reload(&self, now_ms: i64) -> Report {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let snapshot = match self.compile(&mut state, now_ms) {
            Ok(snapshot) => snapshot,
            Err(report) => {
                let errors = report.problems.iter().filter(|problem| problem.is_error()).count();
                self.metrics.config_problems(errors, report.problems.len() - errors);
                self.metrics.reload("refused");
                return report;
            }
        };
        let report = Report { applied: true, revision: snapshot.revision, problems: snapshot.problems() };
        tell(&self.metrics, &snapshot);
        keep(&state.last_good, &snapshot, &state.source);
        keep_index(&snapshot);
        self.published.store(Arc::new(snapshot));
        self.metrics.reload(if report.has_errors() { "partial" } else { "ok" });
        report
    }

    /// What [`Reloader::reload`] would say, publishing nothing.
    pub fn check(&self, now_ms: i64) -> Report {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        match self.compile(&mut state, now_ms) {
            Ok(snapshot) => Report::unapplied(self.published.load().revision, snapshot.problems()),
            Err(report) => report,
        }
    }

    /// Looks at these names' certificates again, and publishes what it finds with all else as it is. Names that are not
    /// in the configuration are left out. Blocks while their files are read.
    pub fn refresh_certificates(&self, names: &[ServerName], now_ms: i64) {
        // A reload that is compiling has judged certificates already: what it publishes must not undo this.
        let _state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let before = self.published.load();
        let refreshed = before.with_certificates(before.certificates.refreshed(names, now_ms / 1_000));
        tell(&self.metrics, &refreshed);
        self.published.store(Arc::new(refreshed));
    }

    /// Writes down what is known of certificates, for the next start, if it changed.
    pub fn keep_certificate_index(&self) {
        keep_index(&self.published.load());
    }

    fn compile(&self, state: &mut State, now_ms: i64) -> Result<Snapshot, Report> {
        let previous = self.published.load_full();
        let reading = state.source.read();
        let Some(gateway) = reading.gateway.clone() else {
            return Err(Report::unapplied(previous.revision, reading.problems));
        };
        let restart = restart_needed(&self.started, &gateway);
        let (last_good, filters) = (&state.last_good, &*self.filters);
        let inputs = Inputs { gateway, reading, previous: Some(&previous), last_good, filters, now_ms };
        let mut snapshot = snapshot::compile(inputs);
        if is_refused(&snapshot) {
            return Err(Report::unapplied(previous.revision, snapshot.problems()));
        }
        Arc::make_mut(&mut snapshot.file_problems).extend(restart);
        Ok(snapshot)
    }
}

/// Whether compiling found an error in `pixelgate.toml`, such as a `host.domain` that an account has: a bad one changes
/// nothing, and starts nothing.
fn is_refused(snapshot: &Snapshot) -> bool {
    snapshot.file_problems.iter().any(|problem| problem.is_error() && problem.file == snapshot.gateway.file)
}

/// What a reload cannot change in a running process, and would change now.
fn restart_needed(running: &GatewayConfig, written: &GatewayConfig) -> Vec<Problem> {
    let per_lane = |config: &GatewayConfig| config.delivery.requests_in_flight_per_lane_max;
    let backlog = |config: &GatewayConfig| config.limits.account_backlog_bytes_max;
    let parts = [
        ("host.data_dir", running.host.data_dir != written.host.data_dir),
        ("host.control", running.host.control != written.host.control),
        ("host.watch", running.host.watch != written.host.watch),
        ("listen.https", running.listen.https != written.listen.https),
        ("listen.http", running.listen.http != written.listen.http),
        ("listen.ops", running.listen.ops != written.listen.ops),
        ("outbox", running.outbox != written.outbox),
        ("delivery.requests_in_flight_per_lane_max", per_lane(running) != per_lane(written)),
        ("limits.account_backlog_bytes_max", backlog(running) != backlog(written)),
        ("filters", running.filters != written.filters),
        ("log", running.log != written.log),
    ];
    let changed = parts.into_iter().filter(|(_, changed)| *changed);
    let problem = |(key, _)| {
        Problem::warning(
            &written.file,
            key,
            "changed, but is read at the start only",
            "restart the gateway to take it up",
        )
    };
    changed.map(problem).collect()
}

/// Tells metrics what is wrong.
fn tell(metrics: &Metrics, snapshot: &Snapshot) {
    let (errors, warnings) = snapshot.problem_counts();
    metrics.config_problems(errors, warnings);
}

/// Failing to is not failing the reload: the next start parses more.
fn keep_index(snapshot: &Snapshot) {
    if let Err(error) = snapshot.certificates.keep_index() {
        tracing::warn!(%error, "the index of certificates could not be written; the next start will take longer");
    }
}

/// Keeps the accounts in force for a restart. Failing to is not failing the reload: it is said in the log.
fn keep(last_good: &LastGood, snapshot: &Snapshot, source: &Source) {
    let accounts: Vec<_> = snapshot.tenants().map(|tenant| tenant.config.clone()).collect();
    if let Err(error) = last_good.keep(&accounts, &source.accounts()) {
        tracing::error!(%error, "the accounts in force could not be kept for a restart with bad files");
    }
}

// === impl Report ===

impl Report {
    /// Of a check, or of a reload that was refused: `revision` stays in force.
    pub fn unapplied(revision: u64, problems: Vec<Problem>) -> Self {
        Self { applied: false, revision, problems }
    }

    /// Whether something is wrong enough to be refused.
    pub fn has_errors(&self) -> bool {
        self.problems.iter().any(Problem::is_error)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_restart_is_asked_for_where_it_is_needed_and_nowhere_else() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("accounts")).unwrap();
        let config = |tables: &str| {
            let text = format!("[host]\ndomain = \"gw.agency.example\"\n{tables}");
            std::fs::write(dir.path().join("pixelgate.toml"), text).unwrap();
            Source::new(dir.path()).read().gateway.unwrap()
        };
        let running = config("");
        let keys = |tables: &str| {
            restart_needed(&running, &config(tables)).into_iter().map(|problem| problem.key).collect::<Vec<_>>()
        };
        for live in [
            "[listen]\ntrusted_proxies = [\"10.0.0.0/8\"]\nproxy_protocol = [\"10.0.0.0/8\"]\n",
            "[delivery]\nage_max = \"1d\"\nrequests_in_flight_max = 3\n",
            "[limits]\nconnections_max = 7\n",
        ] {
            assert_eq!(keys(live), [""; 0], "{live}");
        }
        assert_eq!(keys("[listen]\nhttp = []\n"), ["listen.http"]);
        let late = "[delivery]\nrequests_in_flight_per_lane_max = 2\n[limits]\naccount_backlog_bytes_max = 2_000_000\n";
        assert_eq!(keys(late), ["delivery.requests_in_flight_per_lane_max", "limits.account_backlog_bytes_max"]);
    }
}
