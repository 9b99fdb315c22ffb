//! What is wrong with the ordering of certificates now, as warnings: with names, and, once and not for each name, with what all
//! of them need.

use std::collections::BTreeMap;

use crate::account::ServerName;
use crate::clock::{now_ms, rfc3339};
use crate::config::{AcmeConfig, GatewayConfig, Problem};
use crate::issuance::Issuance;
use crate::issuance::blame::Told;
use crate::issuance::budget::Budgets;
use crate::issuance::looks::meanwhile;
use crate::issuance::names::present;
use crate::issuance::resolver::{Silence, called};
use crate::issuance::schedule::{Load, Subject, choose};
use crate::issuance::state::NameState;
use crate::issuance::trouble::is_of_files;
use crate::issuance::waiting::Late;
use crate::snapshot::{Route, Snapshot};

// === impl Issuance ===

impl Issuance {
    /// What is wrong now, as warnings.
    pub fn problems(&self) -> Vec<Problem> {
        let (snapshot, now_ms) = (self.shared.reloader.published().load_full(), now_ms());
        let acme = &snapshot.gateway.acme;
        if !acme.enabled {
            return Vec::new();
        }
        // What they come to is seen while others get at the book.
        let (failing, silence, budgets): (Vec<_>, _, _) = self.shared.book.with(|memory| {
            let failing = memory.names.iter().filter(|(_, state)| state.error.is_some());
            let failing = failing.map(|(name, state)| (name.clone(), state.clone())).collect();
            (failing, memory.silence.clone(), memory.budgets.clone())
        });
        let problem = |(name, state): (ServerName, NameState)| {
            let present = present(&snapshot, &name, now_ms);
            let subject = Subject { name: &name, rank: 0, present, state: &state, busy: false };
            let at_ms = tried_again_at(&subject, acme, &budgets, now_ms);
            let error = state.error.as_deref().unwrap_or_default();
            let what = if is_of_files(error) { mend_files(&snapshot.gateway) + "; " } else { String::new() };
            of_name(&snapshot, &name, format!("no certificate was issued: {error}"), what + &remedy(&name, at_ms))
        };
        // Where files cannot be written, it is so for many names together.
        let mut unkept = BTreeMap::<_, Vec<_>>::new();
        for (name, state) in &failing {
            if let Some(error) = state.error.clone().filter(|error| is_of_files(error)) {
                unkept.entry(error).or_default().push(name.clone());
            }
        }
        let is_alone = |(_, state): &(ServerName, NameState)| {
            state.error.as_ref().and_then(|error| unkept.get(error)).is_none_or(|names| names.len() == 1)
        };
        let mut problems: Vec<_> = failing.into_iter().filter(is_alone).map(problem).collect();
        problems.extend(unkept.iter().filter_map(|(error, names)| of_files(&snapshot.gateway, error, names)));
        problems.extend(self.late(&snapshot).iter().map(|late| of_late(&snapshot, late)));
        problems.extend(of_accounts(&snapshot.gateway, &budgets, now_ms));
        problems.extend(of_resolver(&snapshot.gateway, &silence, now_ms));
        problems.sort();
        problems
    }

    /// Whether the DNS server that names are looked up with does not answer.
    pub fn resolver_is_silent(&self) -> bool {
        let is_enabled = self.shared.reloader.published().load().gateway.acme.enabled;
        is_enabled && self.shared.book.with(|memory| memory.silence.told(now_ms()).is_some())
    }
}

/// A warning at a name, in its account's file.
fn of_name(snapshot: &Snapshot, name: &ServerName, reason: String, remedy: String) -> Problem {
    match snapshot.route(name.as_str()) {
        Some(Route::Tenant(tenant)) => {
            let file = &tenant.config.file;
            Problem::warning(file, name.as_str(), reason, remedy).of_account(&tenant.config.id)
        }
        _ => Problem::warning(&snapshot.gateway.file, name.as_str(), reason, remedy),
    }
}

/// Of several names of whose files the same is said: once for all of them.
fn of_files(gateway: &GatewayConfig, error: &str, names: &[ServerName]) -> Option<Problem> {
    let (first, others) = names.split_first().filter(|(_, others)| !others.is_empty())?;
    let reason = format!("no certificates were issued for {first} and {} more: {error}", others.len());
    let remedy = mend_files(gateway) + "; then it goes on by itself, at once for a name by `pixelgate cert issue NAME`";
    Some(Problem::warning(&gateway.file, "host.data_dir", reason, remedy))
}

fn mend_files(gateway: &GatewayConfig) -> String {
    let dir = gateway.host.data_dir.display();
    format!("see that all in {dir} belongs to the gateway's user (`chown -R`) and that the disk has room")
}

/// Of a certificate that ends before its renewal begins.
fn of_late(snapshot: &Snapshot, late: &Late) -> Problem {
    let Late { name, not_after, at_ms, why } = late;
    let (until, at) = (rfc3339(not_after.saturating_mul(1_000)), rfc3339(*at_ms));
    let why = why.as_ref().map_or_else(String::new, |why| format!(": {why}"));
    let reason = format!("its certificate is valid until {until}, and its renewal begins after that, {at}{why}");
    let remedy = format!(
        "`pixelgate cert issue {name}` does not wait for [acme] reissue_min; where a limit of the CA holds it back, name another CA in \
         [[acme.accounts]], or import a certificate"
    );
    of_name(snapshot, name, reason, remedy)
}

/// Of a DNS server that does not answer: it is the host's, and no name's fault.
fn of_resolver(gateway: &GatewayConfig, silence: &Silence, now_ms: i64) -> Option<Problem> {
    let (why, server) = (silence.told(now_ms)?, gateway.acme.resolver);
    let (at_ms, meanwhile) = (silence.free_at(now_ms), meanwhile(&gateway.host.addresses));
    let again = if at_ms > now_ms { format!("after {}", rfc3339(at_ms)) } else { "for the next name".to_owned() };
    let reason =
        format!("{} does not answer: {why}; it is asked again {again}; until then {meanwhile}", called(server));
    let remedy = "see that it runs and that this machine reaches it (UDP and TCP), or write another one into [acme] resolver; then \
                  `pixelgate reload`";
    Some(Problem::warning(&gateway.file, "acme.resolver", reason, remedy))
}

/// Of accounts at CAs that are of no use now: no name is at fault.
fn of_accounts(gateway: &GatewayConfig, budgets: &Budgets, now_ms: i64) -> impl Iterator<Item = Problem> {
    gateway.acme.accounts.iter().enumerate().filter_map(move |(index, account)| {
        let Told { reason, remedy } = budgets.told(account, now_ms)?;
        let key = index.checked_sub(1).map_or_else(|| "acme".to_owned(), |index| format!("acme.accounts[{index}]"));
        let until = match budgets.paused(account, now_ms) {
            Some(until_ms) => format!("is left alone until {}", rfc3339(until_ms)),
            None => "is tried again".to_owned(),
        };
        let reason = format!("the CA account {} {until}: {reason}", account.name);
        Some(Problem::warning(&gateway.file, &key, reason, remedy.clone()))
    })
}

/// Until when a name that failed waits, itself or for every account at which it may be ordered. Unix milliseconds; `None` =
/// it is its turn as soon as there is room, or nobody can say.
fn tried_again_at(subject: &Subject<'_>, config: &AcmeConfig, budgets: &Budgets, now_ms: i64) -> Option<i64> {
    let waits_until = subject.state.waits_until(config.retry_max, now_ms);
    if waits_until > now_ms {
        return Some(waits_until);
    }
    choose(subject, config, budgets, &Load::default(), now_ms).err().filter(|until_ms| *until_ms < i64::MAX)
}

fn remedy(name: &ServerName, at_ms: Option<i64>) -> String {
    let again = match at_ms {
        Some(at_ms) => format!("it is tried again after {}", rfc3339(at_ms)),
        None => "it is tried again when its turn comes".to_owned(),
    };
    let now = format!("by `pixelgate cert issue {name}` as soon as the limits of the CA let it");
    format!("`pixelgate cert check {name}` shows what is wrong; {again}, or {now}")
}
