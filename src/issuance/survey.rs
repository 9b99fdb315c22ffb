//! All names in one look: which are due, in which order, and when the next will be. Pure.
//!
//! What was begun goes on first. Renewals go before first orders, the nearest end first; those that failed the last time
//! after all others, or domains that nobody uses any more would. Among these and among first orders each account of ours has
//! its turn, so that one with 5,000 names does not keep another's single name waiting.

use crate::config::AcmeConfig;
use crate::issuance::budget::{Budgets, Kind, millis};
use crate::issuance::schedule::{Next, Present, Subject, asked, is_moved, next, presses, usual_at};
use crate::issuance::state::believed;
use crate::issuance::windows::WINDOWS;

/// Of the longest time between two questions after a renewal window, the part by which one may come late: so that
/// 100,000 names do not make a plan each.
const LOOK_SLACK: i64 = 50;

/// What is due among all names, and when something will be.
#[derive(Debug, Default)]
pub(super) struct Survey {
    due: Vec<(Class, i64, usize)>,
    /// Names whose renewal window is to be asked for.
    pub(super) looks: Vec<usize>,
    /// Names whose last failure says nothing any more.
    pub(super) forgiven: Vec<usize>,
    /// Names for which a person asked in vain: the operator's own certificate is there since.
    pub(super) in_vain: Vec<usize>,
    /// When something is due next, if nothing changes before. Unix milliseconds.
    pub(super) next_ms: Option<i64>,
}

/// How urgent an order is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Class {
    /// A person said so.
    Asked,
    /// It is in the making.
    Begun,
    /// By the end of the certificate.
    Renewal,
    /// A renewal that failed the last time; by the rank among the account's names.
    Again,
    /// By the rank among the account's names.
    New,
    /// There is a certificate, of a CA that is not in the configuration any more.
    Moved,
}

// === impl Survey ===

impl Survey {
    /// Takes a name into account, unless something is under way for it.
    pub(super) fn see(
        &mut self,
        index: usize,
        subject: &Subject<'_>,
        config: &AcmeConfig,
        budgets: &Budgets,
        now_ms: i64,
    ) {
        if subject.busy {
            return;
        }
        if is_forgiven(subject) {
            self.forgiven.push(index);
        }
        if subject.state.forced && subject.present == Present::Operators {
            self.in_vain.push(index);
        }
        match look_at(subject, config, budgets, now_ms) {
            Some(at) if at > now_ms => self.wake(in_company(at, config)),
            Some(_) => self.looks.push(index),
            None => {}
        }
        match next(subject, config, now_ms) {
            Next::Order { at_ms, kind } if at_ms <= now_ms => {
                let (class, by) = urgency(subject, config, kind, now_ms);
                self.due.push((class, by, index));
            }
            Next::Order { at_ms, .. } => self.wake(at_ms),
            Next::Operator | Next::Visitor => {}
        }
    }

    /// What is due, the most urgent first.
    pub(super) fn ranked(&mut self) -> Vec<(Class, usize)> {
        let mut due = std::mem::take(&mut self.due);
        due.sort_unstable();
        due.into_iter().map(|(class, _, index)| (class, index)).collect()
    }

    /// Something is due then.
    pub(super) fn wake(&mut self, at_ms: i64) {
        self.next_ms = Some(self.next_ms.map_or(at_ms, |next| next.min(at_ms)));
    }
}

// === impl Class ===

impl Class {
    /// Whether it needs room in an account's budget of new orders.
    pub(super) fn is_first(self) -> bool {
        matches!(self, Self::New | Self::Moved)
    }
}

/// When a renewal window is asked for together with others, that is due then.
pub(super) fn in_company(at_ms: i64, config: &AcmeConfig) -> i64 {
    at_ms.saturating_add(millis(config.renewal_info_interval_max) / LOOK_SLACK)
}

/// When the renewal window of a name's certificate is to be asked for: not while its CA account, or this question, is left
/// alone; `None` = never, as where no CA of the configuration issued it.
pub(super) fn look_at(subject: &Subject<'_>, config: &AcmeConfig, budgets: &Budgets, now_ms: i64) -> Option<i64> {
    let Present::Issued { not_after, .. } = subject.present else { return None };
    let account = asked(subject.state, config)?;
    let renewal = subject.state.renewal.as_ref().filter(|renewal| renewal.of == not_after);
    let farthest = millis(config.renewal_info_interval_max);
    let at = renewal.map_or(now_ms, |renewal| believed(renewal.look_ms, farthest, now_ms));
    let rests = budgets.paused_until(&account.name, WINDOWS, now_ms);
    Some(budgets.paused(account, now_ms).map_or(at, |until| at.max(until)).max(rests))
}

/// Whether a name is served with another certificate than when its last order failed.
pub(super) fn is_forgiven(subject: &Subject<'_>) -> bool {
    let state = subject.state;
    state.error.is_some()
        && match subject.present {
            // Whatever was issued is not meant to be seen.
            Present::Operators => true,
            // Unless a person asked for another: then it says what the next try waits for.
            Present::OperatorsWildcard => !state.forced,
            Present::Issued { not_after, .. } | Present::Wildcard { not_after, .. } => {
                !state.unseen && not_after != state.failed_of
            }
            Present::Nothing | Present::Ended => false,
        }
}

/// How urgent an order is that is due, and among equals; the least goes first.
pub(super) fn urgency(subject: &Subject<'_>, config: &AcmeConfig, kind: Kind, now_ms: i64) -> (Class, i64) {
    let rank = i64::try_from(subject.rank).unwrap_or(i64::MAX);
    let state = subject.state;
    match subject.present {
        _ if state.forced && !state.is_tried_again() => (Class::Asked, rank),
        _ if state.order.is_some() || state.unseen => (Class::Begun, rank),
        Present::Issued { not_before, not_after, .. }
            if is_moved(state, config) && usual_at(subject.name, not_before, not_after, config) > now_ms =>
        {
            (Class::Moved, rank)
        }
        // Names without any need it more, until the end is near.
        Present::Wildcard { .. } if kind == Kind::New && !presses(subject.present, now_ms) => (Class::New, rank),
        Present::Issued { .. } | Present::Wildcard { .. } if state.is_tried_again() => (Class::Again, rank),
        Present::Issued { not_after, .. } | Present::Wildcard { not_after, .. } => (Class::Renewal, not_after),
        _ if kind == Kind::Renewal && state.is_tried_again() => (Class::Again, rank),
        // It has expired: nothing is nearer to its end.
        _ if kind == Kind::Renewal => (Class::Renewal, i64::MIN.saturating_add(rank)),
        // A visitor waits.
        _ if state.asked => (Class::New, -1),
        _ => (Class::New, rank),
    }
}
