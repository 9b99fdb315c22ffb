//! What happens to a gateway that runs: signals, changed files, until it is told to stop.

use std::path::Path;
use std::sync::Arc;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::task::JoinSet;

use crate::clock::now_ms;
use crate::config::Problem;
use crate::reload::{Reloader, Report};
use crate::server::systemd;
use crate::server::watch::Changes;

/// Lines that problems of one reading may take in the log: a hundred thousand names may all wait for a certificate.
const PROBLEM_LINES_MAX: usize = 100;

/// What reaches the process from outside.
pub(super) struct Signals {
    /// Files that changed, with `[host] watch`.
    changes: Option<Changes>,
    terminate: Signal,
    interrupt: Signal,
    hangup: Signal,
}

/// Watches the configuration's folder from now on.
pub(super) fn watched(config_dir: &Path) -> Option<Changes> {
    let watched = Changes::watch(config_dir);
    watched
        .inspect_err(|error| tracing::warn!(%error, "[host] watch: the folder cannot be watched; reload by hand"))
        .ok()
}

/// Reloads on SIGHUP and on changed files, and returns on SIGTERM or SIGINT.
pub(super) async fn until_stopped(signals: Signals, reloader: &Arc<Reloader>) {
    let Signals { mut changes, mut terminate, mut interrupt, mut hangup } = signals;
    // One at a time, beside the waiting: filters may compile for minutes.
    let mut reloading = JoinSet::new();
    loop {
        tokio::select! {
            _ = terminate.recv() => return,
            _ = interrupt.recv() => return,
            () = reload_wanted(&mut hangup, changes.as_mut()), if reloading.is_empty() => {
                reloading.spawn(reload(reloader.clone()));
            }
            Some(_) = reloading.join_next() => {}
        }
    }
}

async fn reload_wanted(hangup: &mut Signal, changes: Option<&mut Changes>) {
    match changes {
        Some(changes) => tokio::select! {
            _ = hangup.recv() => {}
            () = changes.next() => {}
        },
        None => drop(hangup.recv().await),
    }
}

/// Takes up what is on disk, whoever asked for it; systemd is told. Blocks while filters compile.
pub(super) fn take_up(reloader: &Reloader) -> Report {
    systemd::reloading();
    let report = reloader.reload(now_ms);
    systemd::ready();
    report
}

/// Compiles away from the threads that serve, and says in the log what `pixelgate reload` would print.
async fn reload(reloader: Arc<Reloader>) {
    match tokio::task::spawn_blocking(move || take_up(&reloader)).await {
        Ok(report) => {
            log_problems(&report.problems);
            report.log(None);
        }
        Err(error) => {
            systemd::ready();
            tracing::error!(%error, "the reload broke off; all stays as it was");
        }
    }
}

// === impl Signals ===

impl Signals {
    /// Catches them from now on; those that come before anybody looks are kept.
    pub(super) fn catch(changes: Option<Changes>) -> std::io::Result<Self> {
        Ok(Self {
            changes,
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hangup: signal(SignalKind::hangup())?,
        })
    }

    /// Waits to be told to stop.
    pub(super) async fn stop(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}

/// Each problem as one line, errors first; of very many the rest is only counted.
pub(super) fn log_problems(problems: &[Problem]) {
    let errors = problems.iter().filter(|problem| problem.is_error());
    let warnings = problems.iter().filter(|problem| !problem.is_error());
    for problem in errors.chain(warnings).take(PROBLEM_LINES_MAX) {
        let Problem { file, line, key, reason, remedy, .. } = problem;
        if problem.is_error() {
            tracing::error!(file = %file.display(), line, key, reason, remedy, "configuration");
        } else {
            tracing::warn!(file = %file.display(), line, key, reason, remedy, "configuration");
        }
    }
    let left = problems.len().saturating_sub(PROBLEM_LINES_MAX);
    if left > 0 {
        tracing::warn!(left, "configuration: there are more problems; `pixelgate check` shows all");
    }
}
