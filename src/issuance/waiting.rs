//! How many names wait for an order at each CA account, and when the last of them has its turn: the outlook, counted. And
//! many wait for a visitor, and whose certificate ends before its turn.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError};
use std::time::Instant;

use crate::account::ServerName;
use crate::clock::now_ms;
use crate::config::AcmeConfig;
use crate::issuance::Issuance;
use crate::issuance::budget::Budgets;
use crate::issuance::names::listed;
use crate::issuance::outlook::{Outlook, competes, foresee};
use crate::issuance::schedule::{Next, Present, Subject, next};
use crate::issuance::view::{subjects, why};
use crate::snapshot::Snapshot;

/// What was counted is good for so many times as long as counting takes: monitoring asks often, and 100,000 names are work.
const REST: u32 = 50;

/// Names that wait for an order at one account; those under way do not wait.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Waiting {
    /// For an order that counts as a name's first at that CA.
    pub first: usize,
    /// For a renewal that is due.
    pub renewals: usize,
    /// When the last of the first orders begins if all goes well; `None` = none waits, or nobody can say. Unix milliseconds.
    pub last_first_ms: Option<i64>,
}

/// What waits at each account, by its name.
pub(super) type ByAccount = HashMap<String, Waiting>;

/// A name whose next order begins only when its certificate has ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Late {
    pub(super) name: ServerName,
    /// The last second of the certificate, Unix seconds.
    pub(super) not_after: i64,
    /// When the order begins, Unix milliseconds.
    pub(super) at_ms: i64,
    /// Why not before.
    pub(super) why: Option<String>,
}

/// What was counted last.
pub(super) struct Counted {
    /// Of which revision of the configuration.
    revision: u64,
    good_until: Instant,
    by_account: Arc<ByAccount>,
    /// Names without any certificate that wait for their first visitor.
    for_visitors: usize,
    late: Arc<[Late]>,
}

/// Counts. A name of which nobody can say where it goes is counted at the account that it waits for, or the first.
pub(super) fn count(
    subjects: &[Subject<'_>],
    outlooks: &[Option<Outlook<'_>>],
    config: &AcmeConfig,
    now_ms: i64,
) -> ByAccount {
    let mut by_account = ByAccount::new();
    for (subject, outlook) in subjects.iter().zip(outlooks) {
        let Some(outlook) = outlook.as_ref().filter(|_| is_waiting(subject, config, now_ms)) else { continue };
        let waited_for = outlook.wait.as_ref().map(|wait| &wait.account);
        let Some(account) = outlook.account.as_ref().or(waited_for).or(config.accounts.first()) else { continue };
        let waiting = by_account.entry(account.name.clone()).or_default();
        if competes(subject, config) {
            waiting.first += 1;
            waiting.last_first_ms = waiting.last_first_ms.max(outlook.at_ms);
        } else {
            waiting.renewals += 1;
        }
    }
    by_account
}

/// Names whose certificate ends before its renewal begins, but for those of which it is told why their last order failed.
fn late(
    subjects: &[Subject<'_>],
    outlooks: &[Option<Outlook<'_>>],
    config: &AcmeConfig,
    budgets: &Budgets,
    now_ms: i64,
) -> Arc<[Late]> {
    let late = |(subject, outlook): (&Subject<'_>, &Option<Outlook<'_>>)| {
        let Present::Issued { not_after, .. } = subject.present else { return None };
        let outlook = outlook.as_ref().filter(|_| subject.state.error.is_none())?;
        let at_ms = outlook.at_ms.filter(|at_ms| *at_ms / 1_000 > not_after)?;
        Some(Late { name: subject.name.clone(), not_after, at_ms, why: why(subject, outlook, config, budgets, now_ms) })
    };
    subjects.iter().zip(outlooks).filter_map(late).collect()
}

/// Whether an order of the name is due, or would be had the last one not failed.
fn is_waiting(subject: &Subject<'_>, config: &AcmeConfig, now_ms: i64) -> bool {
    let is_due = matches!(next(subject, config, now_ms), Next::Order { at_ms, .. } if at_ms <= now_ms);
    is_due || matches!(subject.present, Present::Nothing | Present::Ended) || subject.state.failures > 0
}

// === impl Issuance ===

impl Issuance {
    /// What waits at each account. Blocks while all names are looked at, which is done now and then only.
    pub(super) fn waiting(&self, snapshot: &Snapshot) -> Arc<ByAccount> {
        self.counted(snapshot, |counted| counted.by_account.clone())
    }

    /// Names whose certificate ends before its renewal begins. Blocks now and then, while all names are looked at.
    pub(super) fn late(&self, snapshot: &Snapshot) -> Arc<[Late]> {
        self.counted(snapshot, |counted| counted.late.clone())
    }

    /// How many names without any certificate are ordered only when a visitor comes. Blocks now and then, while all names are
    /// looked at.
    pub fn waiting_for_visitors(&self) -> usize {
        let snapshot = self.shared.reloader.published().load_full();
        if !snapshot.gateway.acme.waits_for_visitors() {
            return 0;
        }
        self.counted(&snapshot, |counted| counted.for_visitors)
    }

    /// What was counted, anew if that is too long ago.
    fn counted<T>(&self, snapshot: &Snapshot, what: impl Fn(&Counted) -> T) -> T {
        let mut counted = self.shared.counted.lock().unwrap_or_else(PoisonError::into_inner);
        let began = Instant::now();
        let is_good = |counted: &&Counted| counted.revision == snapshot.revision && began < counted.good_until;
        if let Some(counted) = counted.as_ref().filter(is_good) {
            return what(counted);
        }
        let (config, listed, now_ms) = (&snapshot.gateway.acme, listed(snapshot), now_ms());
        let (states, budgets) = self.known(&listed);
        let subjects = subjects(snapshot, &listed, &states, now_ms);
        let outlooks = foresee(&subjects, config, &budgets, now_ms);
        let by_account = Arc::new(count(&subjects, &outlooks, config, now_ms));
        let waits = |subject: &&Subject<'_>| {
            let is_asked = subject.busy || next(subject, config, now_ms) != Next::Visitor;
            !is_asked && snapshot.certificates.state(subject.name).is_none()
        };
        let for_visitors = subjects.iter().filter(waits).count();
        let late = late(&subjects, &outlooks, config, &budgets, now_ms);
        let good_until = Instant::now() + began.elapsed() * REST;
        what(counted.insert(Counted { revision: snapshot.revision, good_until, by_account, for_visitors, late }))
    }
}
