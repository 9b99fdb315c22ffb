//! What to do next, for all names together. Pure: states, budgets and the time are arguments.
//!
//! Here is what one name waits for, and at which account it is ordered; `survey` puts the names into their order.

use std::sync::Arc;
use std::time::Duration;

use crate::account::ServerName;
use crate::config::{AcmeAccount, AcmeConfig, KeyType};
use crate::issuance::blame::TROUBLE_MIN;
use crate::issuance::budget::{Budgets, Kind, millis};
use crate::issuance::state::NameState;
use crate::tls::Which;

/// Of a lifetime, the part after which a certificate is renewed if nobody says otherwise.
const RENEW_AFTER: (i64, i64) = (2, 3);
/// Of a lifetime, the part over which renewals are spread before that.
const SPREAD: i64 = 20;
/// With less of the lifetime left than one such part, a renewal waits neither for the CA that issued it nor for the
/// moment that the CA wishes.
const HASTE: i64 = 6;
/// With less than that left, or than a third of a shorter lifetime, it does not wait for DNS to be right either, as it does
/// not in that last part. Seconds.
const URGENT: i64 = 10 * 86_400;
/// How long an order that was begun waits for its CA while another one is free.
const ORDER_WAIT: Duration = Duration::from_secs(4 * 60 * 60);

/// A name and all that a decision on it needs.
#[derive(Clone, Copy)]
pub(super) struct Subject<'a> {
    pub(super) name: &'a ServerName,
    /// Its place among the names of its account.
    pub(super) rank: usize,
    /// The certificate it is served with.
    pub(super) present: Present,
    pub(super) state: &'a NameState,
    /// Something is under way.
    pub(super) busy: bool,
}

/// The certificate that a name is served with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Present {
    /// None.
    Nothing,
    /// None: what is there for this very name was issued or imported here, and cannot be served any more.
    Ended,
    /// One that the operator put there: his to renew, and served before any that is ordered.
    Operators,
    /// One of his for all names below one: his to renew too, but where a person asks the name gets one of its own.
    OperatorsWildcard,
    /// One of ours; of two pairs that which ends first. Unix seconds.
    Issued { not_before: i64, not_after: i64, which: Which },
    /// One for all names below one, that was imported: nobody renews it, but the name gets one of its own in its place.
    Wildcard { not_before: i64, not_after: i64 },
}

/// What a name waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// The operator, who has put a certificate there.
    Operator,
    /// Its first visitor.
    Visitor,
    /// An order, not before this time (Unix milliseconds).
    Order { at_ms: i64, kind: Kind },
}

/// An order to begin.
#[derive(Clone, Debug)]
pub(super) struct Start {
    pub(super) name: ServerName,
    pub(super) account: Arc<AcmeAccount>,
    /// What it costs, if it is told what it replaces; of `Goal::Fresh` only.
    pub(super) kind: Kind,
    pub(super) goal: Goal,
}

/// What is to come of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Goal {
    /// A certificate.
    Fresh,
    /// The one that is in the making.
    Resume,
    /// Only that clients see the one that is there.
    Show,
}

/// What is under way.
#[derive(Debug, Default)]
pub(super) struct Load {
    /// Orders, by the name of their account.
    pub(super) orders: Vec<Box<str>>,
    /// Questions after renewal windows.
    pub(super) windows: usize,
    /// Questions after names' DNS.
    pub(super) look_ups: usize,
    /// The same for names that failed the last time.
    pub(super) look_ups_again: usize,
}

/// What a name waits for, whatever the budgets allow.
pub(super) fn next(subject: &Subject<'_>, config: &AcmeConfig, now_ms: i64) -> Next {
    let state = subject.state;
    let waits = state.waits_until(config.retry_max, now_ms);
    let rests = state.rests_until(config.reissue_min, now_ms).max(waits);
    let kind = kind(subject);
    match subject.present {
        Present::Operators => Next::Operator,
        _ if state.forced => Next::Order { at_ms: waits, kind },
        Present::OperatorsWildcard => Next::Operator,
        _ if state.order.is_some() || state.unseen => Next::Order { at_ms: waits, kind },
        Present::Nothing if config.on_demand && !state.asked && state.issued_by.is_none() => Next::Visitor,
        Present::Nothing | Present::Ended => Next::Order { at_ms: rests, kind },
        Present::Issued { .. } | Present::Wildcard { .. } => {
            let at = renewal_at(subject, config).unwrap_or(i64::MAX);
            Next::Order { at_ms: clamp(at, now_ms).max(rests), kind }
        }
    }
}

/// Whether all that an order waits for is the shortest time between two certificates of its name.
pub(super) fn is_at_rest(subject: &Subject<'_>, config: &AcmeConfig, now_ms: i64) -> bool {
    let Next::Order { at_ms, .. } = next(subject, config, now_ms) else { return false };
    let rests = subject.state.rests_until(config.reissue_min, now_ms);
    at_ms > now_ms && at_ms == rests && renewal_at(subject, config).is_none_or(|at| at < rests)
}

/// The account at which a name that is due is ordered, or when there will be one.
pub(super) fn choose(
    subject: &Subject<'_>,
    config: &AcmeConfig,
    budgets: &Budgets,
    load: &Load,
    now_ms: i64,
) -> Result<Start, i64> {
    let (state, name) = (subject.state, subject.name);
    let start =
        |account: &Arc<AcmeAccount>, kind, goal| Start { name: name.clone(), account: account.clone(), kind, goal };
    let issuer = issuer(state, config);
    if shows(subject, config, now_ms)
        && let Some(account) = issuer.or(config.accounts.first())
    {
        return Ok(start(account, Kind::Renewal, Goal::Show));
    }
    let mut soonest = i64::MAX;
    if let Some((account, ready)) = resumes(subject, config, budgets, now_ms) {
        let ready = ready.max(load.free_at(account, budgets, now_ms));
        if ready <= now_ms {
            return Ok(start(account, Kind::Renewal, Goal::Resume));
        }
        let (begun_ms, part) = state.order.as_ref().map_or((now_ms, false), |order| (order.begun_ms, order.part));
        // The first of two keys is served already: the other one has time.
        if part && !matches!(subject.present, Present::Nothing | Present::Ended) {
            return Err(ready);
        }
        let gives_up = begun_ms.min(now_ms).saturating_add(millis(ORDER_WAIT));
        if !presses(subject.present, ready) && gives_up > now_ms {
            return Err(if config.accounts.len() > 1 { ready.min(gives_up) } else { ready });
        }
        soonest = ready;
    }
    let ready_at = |account: &AcmeAccount, kind| {
        let ready = budgets.ready_at(account, name.as_str(), kind, now_ms);
        ready.max(load.free_at(account, budgets, now_ms))
    };
    if let Some(account) = issuer {
        let kind = kind_at(subject, account);
        let ready = ready_at(account, kind);
        if ready <= now_ms {
            return Ok(start(account, kind, Goal::Fresh));
        }
        soonest = soonest.min(ready);
        // A person does not wait for a CA that does not take this name.
        let is_elsewhere = state.forced && budgets.paused_until(&account.name, name.as_str(), now_ms) > now_ms;
        if !presses(subject.present, ready) && !is_elsewhere {
            return Err(soonest);
        }
    }
    for account in config.accounts.iter().filter(|account| issuer.is_none_or(|issuer| issuer.name != account.name)) {
        let kind = kind_at(subject, account);
        let ready = ready_at(account, kind);
        if ready <= now_ms {
            return Ok(start(account, kind, Goal::Fresh));
        }
        soonest = soonest.min(ready);
    }
    Err(soonest)
}

/// Until when no account takes first orders; `None` = one does.
pub(super) fn all_full_until(config: &AcmeConfig, budgets: &Budgets, now_ms: i64) -> Option<i64> {
    let ready = config.accounts.iter().map(|account| budgets.account_ready_at(account, Kind::New, now_ms)).min()?;
    (ready > now_ms).then_some(ready)
}

/// The account that issued a name's certificate, as far as it is still in the configuration, at the same CA.
pub(super) fn issuer<'a>(state: &NameState, config: &'a AcmeConfig) -> Option<&'a Arc<AcmeAccount>> {
    let (by, at) = (state.issued_by.as_deref()?, state.issued_in.as_deref()?);
    config.accounts.iter().find(|account| account.name == by && account.directory == at)
}

/// The account whose CA knows a name's certificate; an imported one may be of any, and the first is asked.
pub(super) fn asked<'a>(state: &NameState, config: &'a AcmeConfig) -> Option<&'a Arc<AcmeAccount>> {
    let Some(directory) = state.issued_in.as_deref() else { return config.accounts.first() };
    let mut there = config.accounts.iter().filter(|account| account.directory == directory);
    let first = there.next()?;
    let issuer =
        std::iter::once(first).chain(there).find(|account| Some(account.name.as_str()) == state.issued_by.as_deref());
    Some(issuer.unwrap_or(first))
}

/// The account with which an order that was begun goes on, and when it can; `None` = there is none to go on with.
fn resumes<'a>(
    subject: &Subject<'_>,
    config: &'a AcmeConfig,
    budgets: &Budgets,
    now_ms: i64,
) -> Option<(&'a Arc<AcmeAccount>, i64)> {
    let order = subject.state.order.as_ref()?;
    let at = |account: &&Arc<AcmeAccount>| *account.name == *order.account && *account.directory == *order.directory;
    let account = config.accounts.iter().find(at)?;
    let name = subject.name.as_str();
    if !order.url.is_empty() {
        return Some((account, budgets.free_at(account, name, now_ms)));
    }
    let which = match subject.present {
        Present::Issued { which, .. } => which,
        Present::Nothing
        | Present::Ended
        | Present::Operators
        | Present::OperatorsWildcard
        | Present::Wildcard { .. } => Which::Only,
    };
    // What came and is not served yet goes on, whatever it takes the place of. After that the first of two keys is as old as
    // the certificate that it is served with: both are due again. Where it is the twin that is due, that is what this order
    // goes on to.
    let is_published = subject.state.issued_ms >= order.begun_ms;
    if is_published && which != Which::Twin && renewal_at(subject, config).is_some_and(|at| at <= now_ms) {
        return None;
    }
    // Of one key, all that is left to do is to publish: without the CA.
    let is_one = config.key_type != KeyType::Both && which == Which::Only;
    Some((account, if is_one { now_ms } else { budgets.ready_at(account, name, Kind::Renewal, now_ms) }))
}

/// Whether there is a certificate that only has to be seen by clients.
fn shows(subject: &Subject<'_>, config: &AcmeConfig, now_ms: i64) -> bool {
    let state = subject.state;
    state.unseen
        && !state.forced
        && state.order.is_none()
        && match subject.present {
            Present::Nothing | Present::Ended => state.rests_until(config.reissue_min, now_ms) > now_ms,
            Present::Issued { .. } | Present::Wildcard { .. } => {
                renewal_at(subject, config).is_none_or(|at| at > now_ms)
            }
            Present::Operators | Present::OperatorsWildcard => true,
        }
}

/// What kind of order a name waits for, as its owner sees it.
pub(super) fn kind(subject: &Subject<'_>) -> Kind {
    match subject.present {
        Present::Issued { not_after, .. } if is_wanted_back(subject.state, not_after) => Kind::Replacement,
        Present::Issued { .. } => Kind::Renewal,
        _ if subject.state.issued_by.is_none() => Kind::New,
        _ => Kind::Renewal,
    }
}

/// What kind of order it is at this account: only the CA that issued the certificate knows it.
pub(super) fn kind_at(subject: &Subject<'_>, account: &AcmeAccount) -> Kind {
    let state = subject.state;
    if state.issued_in.as_deref() != Some(account.directory.as_str()) {
        return Kind::New;
    }
    match subject.present {
        Present::Issued { not_after, .. }
            if is_wanted_back(state, not_after) && state.issued_by.as_deref() == Some(account.name.as_str()) =>
        {
            Kind::Replacement
        }
        _ => Kind::Renewal,
    }
}

/// Whether the CA said when it wants this certificate replaced.
fn is_wanted_back(state: &NameState, not_after: i64) -> bool {
    state.renewal.as_ref().is_some_and(|renewal| renewal.of == not_after && renewal.offered)
}

/// Whether a certificate is of a CA that is not in the configuration any more, as one of the CA's staging is later.
pub(super) fn is_moved(state: &NameState, config: &AcmeConfig) -> bool {
    let directory = state.issued_in.as_deref();
    directory.is_some_and(|directory| config.accounts.iter().all(|account| account.directory != directory))
}

/// Whether a certificate would be near its end by then, or is not there.
pub(super) fn presses(present: Present, at_ms: i64) -> bool {
    present.validity().is_none_or(|(not_before, not_after)| at_ms / 1_000 > last_part(not_before, not_after))
}

/// Whether an order is tried whatever was found in DNS: a person has just asked for it, or the certificate is so near its
/// end that a mistake in the look, or in what is written of this gateway's addresses, must not be why it ends.
pub(super) fn defies_dns(subject: &Subject<'_>, now_ms: i64) -> bool {
    let urgent = |(not_before, not_after): (i64, i64)| {
        let lifetime = not_after.saturating_sub(not_before);
        let before = (lifetime / HASTE).max(URGENT.min(lifetime / 3));
        now_ms / 1_000 > not_after.saturating_sub(before)
    };
    (subject.state.forced && !subject.state.is_tried_again()) || subject.present.validity().is_some_and(urgent)
}

fn last_part(not_before: i64, not_after: i64) -> i64 {
    not_after.saturating_sub(not_after.saturating_sub(not_before) / HASTE)
}

/// When the certificate that a name is served with is renewed, or another one takes its place. Unix milliseconds.
fn renewal_at(subject: &Subject<'_>, config: &AcmeConfig) -> Option<i64> {
    let (not_before, not_after) = subject.present.validity()?;
    let at = usual_at(subject.name, not_before, not_after, config);
    if matches!(subject.present, Present::Wildcard { .. }) {
        return Some(at);
    }
    if is_moved(subject.state, config) {
        return Some(0);
    }
    let told = subject.state.renewal.as_ref().filter(|renewal| renewal.of == not_after && renewal.offered);
    // A CA that wishes it later than that, or after the end, gets no such wish.
    let told = told.map(|renewal| renewal.at_ms.min(last_part(not_before, not_after).saturating_mul(1_000)));
    Some(match (told, config.renew_before) {
        (Some(told), None) => told,
        (Some(told), Some(_)) => told.min(at),
        (None, _) => at,
    })
}

/// When a certificate is renewed unless the CA says otherwise. Unix milliseconds.
pub(super) fn usual_at(name: &ServerName, not_before: i64, not_after: i64, config: &AcmeConfig) -> i64 {
    let lifetime = not_after.saturating_sub(not_before).max(0);
    let (part, of) = RENEW_AFTER;
    let usual = not_before.saturating_add(lifetime / of * part);
    let at = match config.renew_before.and_then(|before| i64::try_from(before.as_secs()).ok()) {
        // A certificate that lives shorter than that must not be renewed for ever.
        Some(before) => not_after.saturating_sub(before).max(not_before.saturating_add(lifetime / of)),
        None => usual,
    };
    let spread = (lifetime / SPREAD).max(1);
    at.saturating_sub(scatter(name, not_after).rem_euclid(spread)).saturating_mul(1_000)
}

/// A number that is a certificate's own, and spread over all of them: FNV-1a.
fn scatter(name: &ServerName, not_after: i64) -> i64 {
    let bytes = name.as_str().bytes().chain(not_after.to_le_bytes());
    let hash =
        bytes.fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3));
    (hash >> 16).cast_signed()
}

/// What lies far back is now: so that sums with it stay in range.
fn clamp(at_ms: i64, now_ms: i64) -> i64 {
    if at_ms < now_ms { now_ms } else { at_ms }
}

// === impl Present ===

impl Present {
    /// First and last second of what is ours to renew, Unix seconds.
    pub(super) fn validity(self) -> Option<(i64, i64)> {
        match self {
            Self::Issued { not_before, not_after, .. } | Self::Wildcard { not_before, not_after } => {
                Some((not_before, not_after))
            }
            Self::Nothing | Self::Ended | Self::Operators | Self::OperatorsWildcard => None,
        }
    }
}

// === impl Load ===

impl Load {
    /// From when on an account may be given another order: one at a CA that did not answer tells whether it does again,
    /// and the others are not kept waiting for it.
    fn free_at(&self, account: &AcmeAccount, budgets: &Budgets, now_ms: i64) -> i64 {
        let tries =
            budgets.blames.is_in_trouble(&account.name) && self.orders.iter().any(|order| **order == *account.name);
        if tries { now_ms.saturating_add(millis(TROUBLE_MIN)) } else { now_ms }
    }
}
