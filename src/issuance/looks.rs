//! Questions that cost nothing: whether a name's DNS leads here, and when its CA wants its certificate renewed.

use std::sync::Arc;
use std::time::Duration;

use instant_acme::Error;

use crate::account::ServerName;
use crate::clock::now_ms;
use crate::config::{AcmeAccount, AcmeConfig, GatewayConfig};
use crate::issuance::Shared;
use crate::issuance::budget::millis;
use crate::issuance::dns::Dns;
use crate::issuance::schedule::Start;
use crate::issuance::settle::LOOK_AGAIN_MAX;
use crate::issuance::state::{NameState, Renewal};
use crate::issuance::store::KeyKind;
use crate::issuance::trouble::Trouble;

/// The shortest time between two questions after a renewal window, whatever the CA says (RFC 9773, 4.3.2).
const WINDOW_EVERY_MIN: Duration = Duration::from_secs(60);
/// After a question that was not answered (RFC 9773, 4.3.3).
const WINDOW_AGAIN: Duration = Duration::from_secs(6 * 60 * 60);

/// The account whose CA knows a name's certificate; an imported one may be of any, and the first is asked.
pub(super) fn asked<'a>(state: &NameState, config: &'a AcmeConfig) -> Option<&'a Arc<AcmeAccount>> {
    let Some(directory) = state.issued_in.as_deref() else { return config.accounts.first() };
    let mut there = config.accounts.iter().filter(|account| account.directory == directory);
    let first = there.next()?;
    let issuer =
        std::iter::once(first).chain(there).find(|account| Some(account.name.as_str()) == state.issued_by.as_deref());
    Some(issuer.unwrap_or(first))
}

// === impl Shared ===

impl Shared {
    /// Sees whether a name's DNS leads here, before an order is spent on it.
    pub(super) async fn look_up(&self, start: Start, gateway: &GatewayConfig) {
        let (name, acme) = (&start.name, &gateway.acme);
        let result = self.leads_here(&start, gateway).await;
        let now_ms = now_ms();
        let served = self.served_until(name);
        let news = self.book.with(|memory| {
            let news = memory.resolver_answers(!matches!(result, Err(Trouble::Resolver(_))), now_ms);
            match &result {
                Ok(()) => drop(memory.looked_up.insert(name.clone(), now_ms)),
                Err(Trouble::Resolver(_)) => {}
                Err(trouble) => {
                    // Whoever mends a record waits for it: a look costs nothing.
                    let waits = (acme.retry_min, acme.retry_max.min(LOOK_AGAIN_MAX));
                    let state = memory.change(name);
                    state.failed(&trouble.reason(), waits, rand::random(), now_ms);
                    state.failed_of = served;
                }
            }
            self.let_go(memory, name);
            news
        });
        match result {
            Ok(()) if news => tracing::info!("the DNS server answers again"),
            Ok(()) => {}
            Err(Trouble::Resolver(reason)) => {
                if news {
                    tracing::warn!(reason, "the DNS server does not answer; no certificate is ordered until it does");
                }
            }
            Err(trouble) => {
                self.observer.ordered(trouble.label());
                tracing::warn!(%name, reason = trouble.reason(), "no certificate is ordered");
            }
        }
    }

    async fn leads_here(&self, start: &Start, gateway: &GatewayConfig) -> Result<(), Trouble> {
        let dns = Dns::new(gateway.acme.resolver).map_err(|error| Trouble::Resolver(error.to_string()))?;
        let identities = self.directories.caa_identities(&start.account, now_ms()).await;
        let report = dns.inspect(&start.name, &gateway.host.addresses, &identities).await;
        let wrong = report.findings.iter().filter(|finding| finding.is_error);
        let told: Vec<_> = wrong.map(|finding| format!("{}; {}", finding.reason, finding.remedy)).collect();
        match report.unanswered {
            Some(why) if !dns.answers(&gateway.host.domain).await => Err(Trouble::Resolver(why)),
            _ if told.is_empty() => Ok(()),
            _ => Err(Trouble::Dns(told.join(". "))),
        }
    }

    /// Asks the CA when a certificate is to be renewed; `of` is its last second of validity.
    pub(super) async fn ask_window(
        &self,
        name: ServerName,
        of: i64,
        account: Arc<AcmeAccount>,
        interval_max: Duration,
    ) {
        let asked = async {
            let id = self.identifier(&name, KeyKind::Ecdsa).await?;
            let account = self.accounts.get(&account).await.ok()?;
            Some(account.renewal_info(&id).await)
        };
        let answer = asked.await;
        let now_ms = now_ms();
        self.book.with(|memory| {
            let known = memory.names.get(&name).and_then(|state| state.renewal.clone());
            let known = known.filter(|known| known.of == of);
            let nothing = Renewal { of, offered: false, at_ms: i64::MAX, window: (0, 0), look_ms: 0 };
            let (mut renewal, wait) = match answer {
                Some(Ok((info, wait))) => {
                    let window = (info.suggested_window.start, info.suggested_window.end);
                    let window = (window.0.unix_timestamp() * 1_000, window.1.unix_timestamp() * 1_000);
                    let same = known.filter(|known| known.offered && known.window == window);
                    let at_ms = same.map_or_else(|| draw(window, rand::random()), |known| known.at_ms);
                    (Renewal { offered: true, at_ms, window, ..nothing }, wait.max(WINDOW_EVERY_MIN))
                }
                Some(Err(Error::Unsupported(_))) => (nothing, interval_max),
                // Another CA's certificate.
                Some(Err(Error::Api(problem))) if problem.status == Some(404) && known.is_none() => {
                    (nothing, interval_max)
                }
                _ => (known.unwrap_or(nothing), WINDOW_AGAIN),
            };
            renewal.look_ms = now_ms.saturating_add(millis(wait.min(interval_max)));
            memory.change(&name).renewal = Some(renewal);
            self.let_go(memory, &name);
        });
    }
}

/// A moment in a window (RFC 9773, 4.2); `share` from 0 to 1.
fn draw((start, end): (i64, i64), share: f64) -> i64 {
    let width = end.saturating_sub(start).max(0);
    start.saturating_add((width as f64 * share) as i64)
}
