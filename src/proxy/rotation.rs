//! Changes the keys of session tickets when they are due.

use std::sync::Arc;
use std::time::Duration;

use tokio::task::spawn_blocking;
use tokio_util::sync::CancellationToken;

use crate::tls::TicketKeys;

/// How often it is seen whether they are due.
const LOOKED_AT_EVERY: Duration = Duration::from_secs(30);

/// Keys, and when they are changed.
pub(super) struct Rotation {
    pub(super) tickets: Arc<TicketKeys>,
    /// How long a key makes tickets, as it is configured now.
    pub(super) every: Box<dyn Fn() -> Duration + Send + Sync>,
    /// The wall clock, Unix seconds.
    pub(super) now_s: Box<dyn Fn() -> i64 + Send + Sync>,
}

// === impl Rotation ===

impl Rotation {
    /// Changes the keys if they are due. Blocks while the file is written.
    pub(super) fn rotate(&self) {
        if let Err(error) = self.tickets.rotate((self.every)(), (self.now_s)()) {
            tracing::warn!(%error, "ticket.keys in [host] data_dir cannot be written: visitors shake hands in full after a restart");
        }
    }

    /// Changes them whenever they are due, until `stop`.
    pub(super) async fn run(self: Arc<Self>, stop: CancellationToken) {
        let mut ticks = tokio::time::interval(LOOKED_AT_EVERY);
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                _ = ticks.tick() => {}
            }
            let rotation = self.clone();
            let _ = spawn_blocking(move || rotation.rotate()).await;
        }
    }
}
