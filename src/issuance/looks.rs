//! A question that costs nothing: whether a name's DNS leads here and allows the CA.

use std::net::IpAddr;
use std::time::Duration;

use crate::account::ServerName;
use crate::clock::now_ms;
use crate::config::GatewayConfig;
use crate::issuance::Shared;
use crate::issuance::book::{Look, Memory};
use crate::issuance::budget::millis;
use crate::issuance::cause::{is_of_look, of_look};
use crate::issuance::dns::DnsReport;
use crate::issuance::names::present;
use crate::issuance::resolver::called;
use crate::issuance::schedule::{Start, Subject, defies_dns};
use crate::issuance::settle::LOOK_AGAIN_MAX;
use crate::issuance::state::NameState;
use crate::issuance::trouble::Trouble;
use crate::snapshot::Snapshot;

// === impl Shared ===

impl Shared {
    /// Sees whether a name's DNS leads here and allows the CA, before an order is spent on it.
    pub(super) async fn look_up(&self, start: Start, gateway: &GatewayConfig) {
        let result = self.leads_here(&start, gateway).await;
        self.found(&start, gateway, result, now_ms());
    }

    /// Notes what was found in a name's DNS, and whether it is ordered then.
    pub(super) fn found(&self, start: &Start, gateway: &GatewayConfig, result: Result<(), Trouble>, now_ms: i64) {
        let (name, acme) = (&start.name, &gateway.acme);
        let served = self.served_until(name);
        let snapshot = self.reloader.published().load_full();
        let of: Box<str> = of_look(&start.account, gateway).into();
        let (news, goes_on) = self.book.with(|memory| {
            let silent = match &result {
                Err(Trouble::Resolver(why)) => Some(why.as_str()),
                _ => None,
            };
            // What one says nothing of that is not asked any more.
            let is_asked = snapshot.gateway.acme.resolver == acme.resolver;
            let news = is_asked && memory.silence.heard(silent, now_ms);
            let is_known = !matches!(result, Err(Trouble::Resolver(_) | Trouble::Silent(_)));
            let is_anyway = is_ordered_anyway(memory, &snapshot, name, is_known, now_ms);
            // A CA that is forbidden would only refuse it, each time anew, and another one never have its turn.
            let is_forbidden = matches!(result, Err(Trouble::Forbidden(_)));
            let goes_on = result.is_ok() || (is_anyway && !is_forbidden);
            match &result {
                Ok(()) => {
                    memory.dns_answers(name, true);
                    // What was found there before is mended.
                    let cause = memory.names.get(name).and_then(|state| state.failed_with.as_deref());
                    if cause.is_some_and(is_of_look) {
                        memory.change(name).forgive();
                    }
                }
                Err(Trouble::Resolver(_)) => {}
                Err(trouble) => {
                    let silences = memory.dns_answers(name, is_known);
                    let waits = (acme.retry_min, longest_wait(silences, acme.retry_max));
                    let state = memory.change(name);
                    if is_anyway {
                        (state.error, state.not_before_ms) = (Some(trouble.reason().into()), now_ms);
                    } else {
                        state.failed(&trouble.reason(), waits, rand::random(), now_ms);
                    }
                    (state.failed_of, state.failed_with) = (served, Some(of.clone()));
                    if is_forbidden {
                        // It is the other CA's turn then, and long enough for a look and a place in the queue.
                        let until = state.not_before_ms.saturating_add(millis(LOOK_AGAIN_MAX));
                        memory.budgets.pause(&start.account.name, name.as_str(), until, now_ms);
                    }
                }
            }
            if goes_on {
                memory.looked_up.insert(name.clone(), Look { at_ms: now_ms, of });
            }
            self.let_go(memory, name);
            (news, goes_on)
        });
        match result {
            Ok(()) if news => tracing::info!("the DNS server answers again"),
            Ok(()) => {}
            Err(Trouble::Resolver(reason)) => {
                if news {
                    let (server, meanwhile) = (called(acme.resolver), meanwhile(&gateway.host.addresses));
                    tracing::warn!(server, reason, meanwhile, "the DNS server does not answer");
                }
            }
            Err(trouble) if goes_on => {
                tracing::warn!(%name, reason = trouble.reason(), "a certificate is ordered in spite of the name's DNS");
            }
            Err(trouble) => {
                self.observer.ordered(trouble.label());
                tracing::warn!(%name, reason = trouble.reason(), "no certificate is ordered");
            }
        }
    }

    async fn leads_here(&self, start: &Start, gateway: &GatewayConfig) -> Result<(), Trouble> {
        let dns = self.resolver.get(gateway.acme.resolver).await?;
        let identities = self.directories.caa_identities(&start.account, now_ms()).await;
        let report = dns.inspect(&start.name, &gateway.host.addresses, &identities).await;
        let wrong = report.findings.iter().filter(|finding| finding.is_error);
        let told: Vec<_> = wrong.map(|finding| format!("{}; {}", finding.reason, finding.remedy)).collect();
        let is_for_another = !report.allows(&identities) && self.allows_another(&report, start, gateway).await;
        match report.unanswered {
            Some(why) if !dns.answers(&gateway.host.domain).await => Err(Trouble::Resolver(why)),
            _ if told.is_empty() => Ok(()),
            Some(_) => Err(Trouble::Silent(told.join(". "))),
            None if is_for_another => Err(Trouble::Forbidden(told.join(". "))),
            None => Err(Trouble::Dns(told.join(". "))),
        }
    }

    /// Whether a name's CAA records allow another CA of the configuration.
    async fn allows_another(&self, report: &DnsReport, start: &Start, gateway: &GatewayConfig) -> bool {
        let others = gateway.acme.accounts.iter().filter(|other| other.directory != start.account.directory);
        for other in others {
            if report.allows(&self.directories.caa_identities(other, now_ms()).await) {
                return true;
            }
        }
        false
    }
}

/// Whether a name is ordered whatever is found in its DNS; `is_known` = something is. Else the CA alone can judge, and
/// does so where nobody said what *here* is.
pub(super) fn is_ordered_anyway(
    memory: &Memory,
    snapshot: &Snapshot,
    name: &ServerName,
    is_known: bool,
    now_ms: i64,
) -> bool {
    let nothing = NameState::default();
    let state = memory.names.get(name).unwrap_or(&nothing);
    let subject = Subject { name, rank: 0, present: present(snapshot, name, now_ms), state, busy: false };
    (!is_known && judges_alone(&snapshot.gateway.host.addresses)) || defies_dns(&subject, now_ms)
}

/// Whether the CA alone can judge where names lead, as nobody said what *here* is.
fn judges_alone(here: &[IpAddr]) -> bool {
    here.is_empty()
}

/// Whether a name's order waits until the DNS server answers again, had it nothing else to wait for.
pub(super) fn waits_for_answer(subject: &Subject<'_>, here: &[IpAddr], now_ms: i64) -> bool {
    let NameState { order, unseen, .. } = subject.state;
    order.is_none() && !unseen && !judges_alone(here) && !defies_dns(subject, now_ms)
}

/// What is ordered while the DNS server does not answer.
pub(super) fn meanwhile(here: &[IpAddr]) -> &'static str {
    if judges_alone(here) {
        "names are ordered without a look at their DNS"
    } else {
        "only what ends soon or was asked for is ordered"
    }
}

/// The longest wait until a name's DNS is asked for again. Whoever mends a record waits for it, and a look costs nothing;
/// but servers that are silent keep others waiting, so each time in a row that they are makes it longer.
fn longest_wait(silences: u32, retry_max: Duration) -> Duration {
    LOOK_AGAIN_MAX.saturating_mul(2u32.saturating_pow(silences.saturating_sub(1))).min(retry_max)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::issuance::tests::NOW_MS;

    /// Looks of a week at a name that leads elsewhere, or whose DNS servers answer nothing.
    fn looks_in_a_week(answers: bool) -> usize {
        let (name, mut memory, mut now_ms): (ServerName, _, _) =
            ("a.example".parse().unwrap(), Memory::default(), NOW_MS);
        let mut looks = 0;
        while now_ms < NOW_MS + 7 * 86_400_000 {
            looks += 1;
            let silences = memory.dns_answers(&name, answers);
            let waits = (Duration::from_secs(60), longest_wait(silences, Duration::from_secs(12 * 60 * 60)));
            memory.change(&name).failed("why", waits, 0.0, now_ms);
            now_ms = memory.change(&name).not_before_ms;
        }
        looks
    }

    #[test]
    fn dns_that_is_silent_is_asked_less_and_less_and_a_record_that_can_be_mended_is_not() {
        assert!((600..700).contains(&looks_in_a_week(true)), "{}", looks_in_a_week(true));
        assert!((15..30).contains(&looks_in_a_week(false)), "{}", looks_in_a_week(false));
        // Once is no habit, however long the name has led elsewhere.
        assert_eq!(longest_wait(1, Duration::from_secs(12 * 60 * 60)), LOOK_AGAIN_MAX);
    }
}
