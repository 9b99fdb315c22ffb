//! What must be done now and then.

use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::clock::Steady;
use crate::outbox::Outbox;
use crate::reload::Reloader;

/// How often.
const EVERY: Duration = Duration::from_secs(600);

/// Drops dead letters that nobody took up for `[delivery] age_max`, after which Meta would refuse their events, and writes
/// down what is known of certificates, until told to stop.
pub(super) async fn run(outbox: Outbox, reloader: Arc<Reloader>, stop: CancellationToken) {
    let mut ticks = tokio::time::interval(EVERY);
    let clock = Steady::start();
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            _ = ticks.tick() => {}
        }
        let age_max = reloader.published().load().gateway.delivery.age_max;
        let age_ms = i64::try_from(age_max.as_millis()).unwrap_or(i64::MAX);
        let reloader = reloader.clone();
        let _ = tokio::task::spawn_blocking(move || reloader.keep_certificate_index()).await;
        match outbox.purge_dead_letters(clock.now_ms().saturating_sub(age_ms)).await {
            Ok(0) => {}
            Ok(letters) => tracing::warn!(letters, "dead letters past [delivery] age_max were dropped"),
            Err(error) => tracing::warn!(%error, "old dead letters could not be dropped"),
        }
    }
}
