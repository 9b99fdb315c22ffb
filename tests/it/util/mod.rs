//! The small language that the tests are written in: a site (configuration, certificates, accounts), a gateway (the real
//! program on it), the Graph stand-in, and clients.

pub mod certificates;
pub mod client;
pub mod gateway;
pub mod process;
pub mod site;
pub mod standin;

use std::time::{Duration, Instant};

pub use certificates::Authority;
pub use client::Browser;
pub use gateway::Gateway;
pub use site::{Account, Site};
pub use standin::Standin;

/// How long anything that must happen may take on a busy machine.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// Waits until `look` finds what it looks for, and returns it; fails with `what` after [`PATIENCE`].
pub async fn eventually<T>(what: &str, mut look: impl AsyncFnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    let mut ticks = tokio::time::interval(Duration::from_millis(10));
    loop {
        ticks.tick().await;
        if let Some(found) = look().await {
            return found;
        }
        assert!(Instant::now() < deadline, "did not happen within {PATIENCE:?}: {what}");
    }
}
