//! What happens to a gateway that runs: signals, changed files, until it is told to stop.

use std::path::Path;
use std::sync::Arc;

use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::clock::now_ms;
use crate::config::Problem;
use crate::reload::Reloader;
use crate::server::systemd;
use crate::server::watch::Changes;

/// Reloads on SIGHUP and on changed files, and returns on SIGTERM or SIGINT.
pub(super) async fn until_stopped(config_dir: &Path, watch: bool, reloader: &Arc<Reloader>) -> std::io::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut hangup = signal(SignalKind::hangup())?;
    let mut changes = watch.then(|| Changes::watch(config_dir)).transpose().unwrap_or_else(|error| {
        tracing::warn!(%error, "[host] watch: the folder cannot be watched; reload by hand");
        None
    });
    loop {
        tokio::select! {
            _ = terminate.recv() => return Ok(()),
            _ = interrupt.recv() => return Ok(()),
            () = reload_wanted(&mut hangup, changes.as_mut()) => reload(reloader).await,
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

/// Compiles away from the threads that serve, and says in the log what `pixelgate reload` would print.
async fn reload(reloader: &Arc<Reloader>) {
    systemd::reloading();
    let reloader = reloader.clone();
    match tokio::task::spawn_blocking(move || reloader.reload(now_ms())).await {
        Ok(report) => {
            log_problems(&report.problems);
            tracing::info!(revision = report.revision, problems = report.problems.len(), "reloaded");
        }
        Err(error) => tracing::error!(%error, "the reload broke off; all stays as it was"),
    }
    systemd::ready();
}

/// Each problem as one line.
pub(super) fn log_problems(problems: &[Problem]) {
    for problem in problems {
        let Problem { file, key, reason, remedy, .. } = problem;
        if problem.is_error() {
            tracing::error!(file = %file.display(), key, reason, remedy, "configuration");
        } else {
            tracing::warn!(file = %file.display(), key, reason, remedy, "configuration");
        }
    }
}
