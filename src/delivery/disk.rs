//! Where turns read files and write them.

use std::sync::Arc;

use tokio::sync::Semaphore;
use tokio::task::spawn_blocking;

use crate::account::LaneKey;

/// Turns that do so at one time. More are no quicker, and each new thread keeps memory of its own for good: tokio wakes its
/// idle ones in turn, so that none of them ever ends.
const AT_ONCE: usize = 8;

/// Threads for the turns of all lanes.
#[derive(Clone)]
pub(crate) struct Disk(Arc<Semaphore>);

// === impl Disk ===

impl Disk {
    pub(crate) fn new() -> Self {
        Self(Arc::new(Semaphore::new(AT_ONCE)))
    }

    /// Does away from the threads that serve what reads files or writes them: a disk that is behind makes whoever writes
    /// wait, and be it 16 bytes. `None` if it broke off.
    pub(crate) async fn work<T: Send + 'static>(
        &self,
        lane: &LaneKey,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Option<T> {
        let permit = self.0.clone().acquire_owned().await.ok()?;
        let done = spawn_blocking(move || {
            // Work goes on when nobody waits for it any more.
            let _permit = permit;
            work()
        });
        let done = done.await;
        done.inspect_err(
            |error| tracing::error!(%lane, %error, "a turn of a lane broke off; its events are sent again"),
        )
        .ok()
    }
}
