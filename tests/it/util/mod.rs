//! The small language that the tests are written in: a site (configuration, certificates, accounts), a gateway (the real
//! program on it), the Graph stand-in, a real ACME server, clients, and handshakes by hand.

pub(crate) mod certificates;
pub(crate) mod client;
pub(crate) mod gate;
pub(crate) mod gateway;
pub(crate) mod hello;
pub(crate) mod pebble;
pub(crate) mod process;
pub(crate) mod resolver;
pub(crate) mod site;
pub(crate) mod standin;

use std::time::{Duration, Instant};

pub(crate) use certificates::Authority;
pub(crate) use client::Browser;
pub(crate) use gate::Gate;
pub(crate) use gateway::Gateway;
pub(crate) use hello::Hello;
pub(crate) use pebble::Pebble;
pub(crate) use resolver::troubled_resolver;
pub(crate) use site::{Account, Site};
pub(crate) use standin::Standin;

/// How long anything that must happen may take on a busy machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// Waits until `look` finds what it looks for, and returns it; fails with `what` after [`PATIENCE`].
pub(crate) async fn eventually<T>(what: &str, mut look: impl AsyncFnMut() -> Option<T>) -> T {
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
