//! What to do next, for all names together. Pure: states, budgets and the time are arguments.
//!
//! Renewals go before first orders, the nearest end first; among first orders each account of ours has its turn, so that
//! one with 5,000 names does not keep another's single name waiting.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::sync::Arc;

use crate::account::ServerName;
use crate::config::{AcmeAccount, AcmeConfig};
use crate::issuance::budget::{Budgets, Kind};
use crate::issuance::state::NameState;

/// Of a lifetime, the part after which a certificate is renewed if nobody says otherwise.
const RENEW_AFTER: (i64, i64) = (2, 3);
/// Of a lifetime, the part over which renewals are spread before that.
const SPREAD: i64 = 20;
/// With less of the lifetime left than one such part, a renewal does not wait for the CA that issued it.
const HASTE: i64 = 6;

/// A name and all that a decision on it needs.
#[derive(Clone, Copy)]
pub(super) struct Subject<'a> {
    pub(super) name: &'a ServerName,
    /// Its place among the names of its account.
    pub(super) rank: usize,
    /// The certificate it is served with.
    pub(super) present: Present,
    pub(super) state: &'a NameState,
    /// An order or a look is under way.
    pub(super) busy: bool,
}

/// The certificate that a name is served with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Present {
    /// None.
    Nothing,
    /// One that the operator put there: his to renew.
    Operators,
    /// One of ours. Unix seconds.
    Issued { not_before: i64, not_after: i64 },
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

/// What is to be begun now, and when to ask again.
#[derive(Debug, Default)]
pub(super) struct Plan {
    pub(super) orders: Vec<Start>,
    /// Names whose renewal window is to be asked for.
    pub(super) looks: Vec<ServerName>,
    /// When something is due next, if nothing changes before. Unix milliseconds.
    pub(super) next_ms: Option<i64>,
}

/// An order to begin.
#[derive(Clone, Debug)]
pub(super) struct Start {
    pub(super) name: ServerName,
    pub(super) account: Arc<AcmeAccount>,
    pub(super) kind: Kind,
    /// It goes on with an order that was begun before, which costs nothing more.
    pub(super) resumes: bool,
}

/// How many may be begun.
#[derive(Clone, Copy, Debug)]
pub(super) struct Slots {
    pub(super) orders: usize,
    pub(super) looks: usize,
}

/// A due order in its place; the greatest goes first.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Urgency<'a>(Reverse<(Class, i64, &'a ServerName)>, usize);

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Class {
    /// A person said so.
    Asked,
    /// By the end of the certificate.
    Renewal,
    /// By the rank among the account's names.
    New,
}

/// What a name waits for, whatever the budgets allow.
pub(super) fn next(subject: &Subject<'_>, config: &AcmeConfig, now_ms: i64) -> Next {
    let state = subject.state;
    if state.forced {
        let kind = if subject.present == Present::Nothing { Kind::New } else { kind(subject) };
        return Next::Order { at_ms: state.not_before_ms, kind };
    }
    match subject.present {
        Present::Operators => Next::Operator,
        Present::Nothing if config.on_demand && !state.asked && state.issued_by.is_none() => Next::Visitor,
        Present::Nothing if state.issued_by.is_some() => {
            Next::Order { at_ms: state.not_before_ms, kind: Kind::Renewal }
        }
        Present::Nothing => Next::Order { at_ms: state.not_before_ms, kind: Kind::New },
        Present::Issued { not_before, not_after } => {
            let at = renew_at(subject.name, not_before, not_after, config);
            let told = state.renewal.as_ref().filter(|renewal| renewal.of == not_after && renewal.offered);
            let told = told.map(|renewal| renewal.at_ms);
            let at_ms = match (told, config.renew_before) {
                (Some(told), None) => told,
                (Some(told), Some(_)) => told.min(at),
                (None, _) => at,
            };
            Next::Order { at_ms: clamp(at_ms, now_ms).max(state.not_before_ms), kind: kind(subject) }
        }
    }
}

/// Decides what is begun now. What is begun is taken out of the budgets.
pub(super) fn plan<'a>(
    subjects: impl Iterator<Item = Subject<'a>>,
    config: &AcmeConfig,
    budgets: &mut Budgets,
    slots: Slots,
    now_ms: i64,
) -> Plan {
    let mut plan = Plan::default();
    let mut due = Vec::new();
    let mut subjects_due = Vec::new();
    for subject in subjects.filter(|subject| !subject.busy) {
        let wait = look_at(&subject, now_ms);
        match wait {
            Some(at) if at > now_ms => plan.wake(at),
            Some(_) if plan.looks.len() < slots.looks => plan.looks.push(subject.name.clone()),
            _ => {}
        }
        match next(&subject, config, now_ms) {
            Next::Order { at_ms, kind } if at_ms <= now_ms => {
                due.push(Urgency(Reverse(urgency(&subject, kind)), subjects_due.len()));
                subjects_due.push((subject, kind));
            }
            Next::Order { at_ms, .. } => plan.wake(at_ms),
            Next::Operator | Next::Visitor => {}
        }
    }
    let mut due = BinaryHeap::from(due);
    while let Some(Urgency(Reverse((class, ..)), index)) = due.pop() {
        if plan.orders.len() >= slots.orders {
            break;
        }
        if class == Class::New
            && let Some(at) = all_full_until(config, budgets, now_ms)
        {
            plan.wake(at);
            break;
        }
        let Some((subject, kind)) = subjects_due.get(index) else { continue };
        match choose(subject, *kind, config, budgets, now_ms) {
            Ok(start) => {
                if !start.resumes {
                    budgets.take(&start.account, start.name.as_str(), start.kind, now_ms);
                }
                // A look at the old certificate's window is of no use now.
                plan.looks.retain(|name| *name != start.name);
                plan.orders.push(start);
            }
            Err(at) => plan.wake(at),
        }
    }
    plan
}

/// When the renewal window of a name's certificate is to be asked for; `None` = never.
fn look_at(subject: &Subject<'_>, now_ms: i64) -> Option<i64> {
    let Present::Issued { not_after, .. } = subject.present else { return None };
    let renewal = subject.state.renewal.as_ref().filter(|renewal| renewal.of == not_after);
    Some(renewal.map_or(now_ms, |renewal| renewal.look_ms))
}

/// What kind of order replaces the certificate that is there.
fn kind(subject: &Subject<'_>) -> Kind {
    let Present::Issued { not_after, .. } = subject.present else { return Kind::New };
    match &subject.state.renewal {
        Some(renewal) if renewal.of == not_after && renewal.offered => Kind::Replacement,
        _ => Kind::Renewal,
    }
}

fn urgency<'a>(subject: &Subject<'a>, kind: Kind) -> (Class, i64, &'a ServerName) {
    let rank = i64::try_from(subject.rank).unwrap_or(i64::MAX);
    let (class, by) = match subject.present {
        _ if subject.state.forced => (Class::Asked, rank),
        Present::Issued { not_after, .. } => (Class::Renewal, not_after),
        // It has expired: nothing is nearer to its end.
        _ if kind == Kind::Renewal => (Class::Renewal, i64::MIN.saturating_add(rank)),
        // A visitor waits.
        _ if subject.state.asked => (Class::New, -1),
        _ => (Class::New, rank),
    };
    (class, by, subject.name)
}

/// Until when no account takes first orders; `None` = one does.
pub(super) fn all_full_until(config: &AcmeConfig, budgets: &Budgets, now_ms: i64) -> Option<i64> {
    let ready = config.accounts.iter().map(|account| budgets.account_ready_at(account, Kind::New, now_ms)).min()?;
    (ready > now_ms).then_some(ready)
}

/// The account at which a name is ordered, or when there will be one.
pub(super) fn choose(
    subject: &Subject<'_>,
    kind: Kind,
    config: &AcmeConfig,
    budgets: &Budgets,
    now_ms: i64,
) -> Result<Start, i64> {
    let (state, name) = (subject.state, subject.name);
    let named = |wanted: &str| config.accounts.iter().find(|account| account.name == wanted);
    let start = |account: &Arc<AcmeAccount>, kind, resumes| Start {
        name: name.clone(),
        account: account.clone(),
        kind,
        resumes,
    };
    if let Some(account) = state.order.as_ref().and_then(|order| named(&order.account)) {
        let ready = budgets.account_ready_at(account, Kind::Replacement, now_ms);
        return if ready <= now_ms { Ok(start(account, kind, true)) } else { Err(ready) };
    }
    let issuer = state.issued_by.as_deref().and_then(named);
    let mut soonest = i64::MAX;
    if let Some(account) = issuer {
        soonest = budgets.ready_at(account, name.as_str(), kind, now_ms);
        if soonest <= now_ms {
            return Ok(start(account, kind, false));
        }
        if !presses(subject.present, soonest) {
            return Err(soonest);
        }
    }
    // To another account it is the first order of this name.
    for account in config.accounts.iter().filter(|account| issuer.is_none_or(|issuer| issuer.name != account.name)) {
        let kind = if kind == Kind::New { kind } else { Kind::Renewal };
        let ready = budgets.ready_at(account, name.as_str(), kind, now_ms);
        if ready <= now_ms {
            return Ok(start(account, kind, false));
        }
        soonest = soonest.min(ready);
    }
    Err(soonest)
}

/// Whether a certificate would be near its end by then, or is not there.
fn presses(present: Present, at_ms: i64) -> bool {
    match present {
        Present::Issued { not_before, not_after } => {
            at_ms / 1_000 > not_after.saturating_sub(not_after.saturating_sub(not_before) / HASTE)
        }
        Present::Nothing | Present::Operators => true,
    }
}

/// When a certificate is renewed unless the CA says otherwise. Unix milliseconds.
fn renew_at(name: &ServerName, not_before: i64, not_after: i64, config: &AcmeConfig) -> i64 {
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

// === impl Plan ===

impl Plan {
    fn wake(&mut self, at_ms: i64) {
        self.next_ms = Some(self.next_ms.map_or(at_ms, |next| next.min(at_ms)));
    }
}
