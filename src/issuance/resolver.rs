//! The DNS resolver that names are looked at with: made now and then, not for each name.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use tokio::sync::Mutex;

use crate::issuance::dns::Dns;
use crate::issuance::trouble::Trouble;

/// How long one is used: the system's settings (`/etc/resolv.conf`) may change.
const GOOD_FOR: Duration = Duration::from_secs(60);

/// Makes resolvers.
#[derive(Default)]
pub(super) struct Resolver {
    made: Mutex<Option<Made>>,
}

struct Made {
    /// Whom it asks; `None` = those of the system.
    server: Option<SocketAddr>,
    at: Instant,
    dns: Dns,
}

// === impl Resolver ===

impl Resolver {
    /// One that asks this server, or those of the system. Files are read where nobody waits for them.
    pub(super) async fn get(&self, server: Option<SocketAddr>) -> Result<Dns, Trouble> {
        let mut made = self.made.lock().await;
        let is_good = |made: &&Made| made.server == server && made.at.elapsed() < GOOD_FOR;
        if let Some(made) = made.as_ref().filter(is_good) {
            return Ok(made.dns.clone());
        }
        let new = tokio::task::spawn_blocking(move || Dns::new(server)).await;
        let new = new.map_err(|error| Trouble::Local(error.to_string()))?;
        let dns = new.map_err(|error| Trouble::Resolver(error.to_string()))?;
        *made = Some(Made { server, at: Instant::now(), dns: dns.clone() });
        Ok(dns)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[tokio::test]
    async fn one_is_made_for_many_names_and_another_for_another_server() {
        let resolver = Resolver::default();
        let mut made = Vec::new();
        for port in [53, 53, 54] {
            resolver.get(Some(SocketAddr::from(([127, 0, 0, 1], port)))).await.unwrap();
            made.push(resolver.made.lock().await.as_ref().unwrap().at);
        }
        assert!(made.first() == made.get(1) && made.get(1) != made.get(2));
    }
}
