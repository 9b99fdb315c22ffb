//! What systemd wants to know (sd_notify(3)). Without `NOTIFY_SOCKET` nothing is said.

use sd_notify::NotifyState;
use tokio_util::sync::CancellationToken;

/// All listeners accept.
pub(super) fn ready() {
    notify(&[NotifyState::Ready]);
}

/// The configuration is being taken up; [`ready`] ends it.
pub(super) fn reloading() {
    let now = NotifyState::monotonic_usec_now();
    match now {
        Ok(now) => notify(&[NotifyState::Reloading, now]),
        Err(_) => notify(&[NotifyState::Reloading]),
    }
}

/// The gateway was told to stop.
pub(super) fn stopping() {
    notify(&[NotifyState::Stopping]);
}

/// Tells the watchdog that we live, twice in the time it allows, until told to stop.
pub(super) async fn watchdog(stop: CancellationToken) {
    let Some(allowed) = sd_notify::watchdog_enabled() else {
        return;
    };
    let mut ticks = tokio::time::interval(allowed / 2);
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            _ = ticks.tick() => notify(&[NotifyState::Watchdog]),
        }
    }
}

fn notify(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        tracing::warn!(%error, "systemd could not be told");
    }
}
