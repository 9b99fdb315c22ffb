//! The DNS resolver that names are looked at with: made now and then, not for each name. And what is known of a server
//! that does not answer: it is no fault of the names that wait for it.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use tokio::sync::Mutex;

use crate::issuance::budget::millis;
use crate::issuance::dns::Dns;
use crate::issuance::state::believed;
use crate::issuance::trouble::Trouble;

/// How long one is used: the system's settings (`/etc/resolv.conf`) may change.
const GOOD_FOR: Duration = Duration::from_secs(60);
/// First wait for a DNS server that does not answer.
const WAIT_MIN: Duration = Duration::from_secs(5);
/// Longest wait for it. If nobody needed it for as long again, it is not known any more whether it answers.
const WAIT_MAX: Duration = Duration::from_secs(15 * 60);

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

/// How a DNS server that does not answer is left alone; the default is of one that does, or was not asked.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Silence {
    /// How often in a row it did not answer.
    times: u32,
    /// Until then it is left alone. Unix milliseconds.
    until_ms: i64,
    /// What came instead of an answer.
    reason: Box<str>,
}

/// What the server is called to a person, who finds it by that.
pub(super) fn called(server: Option<SocketAddr>) -> String {
    match server {
        Some(server) => format!("the DNS server of [acme] resolver = \"{server}\""),
        None => "the DNS server of this machine (/etc/resolv.conf, as [acme] resolver names none)".to_owned(),
    }
}

// === impl Silence ===

impl Silence {
    /// The server answered, or did not, and this came instead: then it is left alone, longer each time. Says whether that is
    /// news.
    pub(super) fn heard(&mut self, silent: Option<&str>, now_ms: i64) -> bool {
        let was_silent = self.times > 0;
        match silent {
            None => *self = Self::default(),
            // Those that were asked together fail together.
            Some(reason) if self.free_at(now_ms) <= now_ms => {
                let wait = WAIT_MIN.saturating_mul(2u32.saturating_pow(self.times)).min(WAIT_MAX);
                self.times = self.times.saturating_add(1);
                self.until_ms = now_ms.saturating_add(millis(wait));
                self.reason = reason.into();
            }
            Some(_) => {}
        }
        was_silent != silent.is_some()
    }

    /// From when on the server may be asked. Unix milliseconds.
    pub(super) fn free_at(&self, now_ms: i64) -> i64 {
        believed(self.until_ms, millis(WAIT_MAX), now_ms)
    }

    /// What came instead of an answer the last time; `None` = it answers, or nobody knows.
    pub(super) fn told(&self, now_ms: i64) -> Option<&str> {
        let is_known = self.times > 0 && now_ms < self.free_at(now_ms).saturating_add(millis(WAIT_MAX));
        is_known.then_some(&*self.reason)
    }
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
    use crate::issuance::tests::NOW_MS;

    #[test]
    fn a_silent_server_is_left_alone_longer_each_time_and_is_not_told_of_for_ever() {
        let (mut silence, mut now_ms) = (Silence::default(), NOW_MS);
        assert!(!silence.heard(None, now_ms) && silence.told(now_ms).is_none());
        let mut waits = Vec::new();
        for n in 0..10 {
            assert_eq!(silence.heard(Some("timed out"), now_ms), n == 0);
            assert!(!silence.heard(Some("together"), now_ms));
            assert_eq!(silence.told(now_ms), Some("timed out"));
            waits.push((silence.free_at(now_ms) - now_ms) / 1_000);
            now_ms = silence.free_at(now_ms);
        }
        assert_eq!(waits, [5, 10, 20, 40, 80, 160, 320, 640, 900, 900]);
        assert!(silence.told(now_ms + 800_000).is_some() && silence.told(now_ms + 900_000).is_none());
        assert_eq!(silence.free_at(NOW_MS - 86_400_000), 0, "a clock that went back");
        assert!(silence.heard(None, now_ms) && silence.told(now_ms).is_none());
    }

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
