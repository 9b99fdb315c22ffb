//! What must be done now and then.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

use crate::clock::{Steady, now_ms};
use crate::outbox::Outbox;
use crate::reload::Reloader;

/// How often.
const EVERY: Duration = Duration::from_secs(600);
/// How often certificates are looked after: an expired one is served no longer than this.
const CERTIFICATES_EVERY: Duration = Duration::from_secs(1);

/// Drops dead letters that nobody took up for `[delivery] age_max`, after which Meta would refuse their events, writes
/// down what is known of certificates, and has them served as time has it, until told to stop.
pub(super) async fn run(outbox: Outbox, reloader: Arc<Reloader>, stop: CancellationToken) {
    // Neither waits for the other's disk.
    tokio::join!(tend(reloader.clone(), stop.clone()), tidy(outbox, reloader, stop));
}

/// By the clock as it is: validities are of the world's time.
async fn tend(reloader: Arc<Reloader>, stop: CancellationToken) {
    let mut ticks = tokio::time::interval(CERTIFICATES_EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    while stop.run_until_cancelled(ticks.tick()).await.is_some() {
        let reloader = reloader.clone();
        let tended = tokio::task::spawn_blocking(move || reloader.tend_certificates(now_ms()));
        let _ = stop.run_until_cancelled(tended).await;
    }
}

async fn tidy(outbox: Outbox, reloader: Arc<Reloader>, stop: CancellationToken) {
    let mut ticks = tokio::time::interval(EVERY);
    let clock = Steady::start();
    while stop.run_until_cancelled(ticks.tick()).await.is_some() {
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
