//! A question that costs nothing: whether a name's DNS leads here.

use crate::clock::now_ms;
use crate::config::GatewayConfig;
use crate::issuance::Shared;
use crate::issuance::dns::Dns;
use crate::issuance::schedule::Start;
use crate::issuance::settle::LOOK_AGAIN_MAX;
use crate::issuance::trouble::Trouble;

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
}
