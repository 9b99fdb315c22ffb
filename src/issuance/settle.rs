//! What is learnt from an order: whose trouble it is decides what waits, the name, the CA account, or what the CA counts.

use std::time::Duration;

use crate::account::ServerName;
use crate::clock::now_ms;
use crate::config::AcmeAccount;
use crate::issuance::Shared;
use crate::issuance::blame::{TROUBLE_MIN, Told};
use crate::issuance::book::Memory;
use crate::issuance::budget::millis;
use crate::issuance::cause::of_order;
use crate::issuance::fault::Fault;
use crate::issuance::limited::Enough;
use crate::issuance::names::{is_listed, present};
use crate::issuance::schedule::Goal;
use crate::issuance::trouble::Trouble;
use crate::issuance::work::Work;

/// How long a CA is left alone that asks for it and does not say how long.
pub(super) const PAUSE: Duration = Duration::from_secs(60 * 60);
/// The same for one name. Let's Encrypt lifts some only when a person says so at its portal.
const PAUSE_OF_NAME: Duration = Duration::from_secs(24 * 60 * 60);
/// Longest wait until it is looked again whether clients see a certificate, or whether a name leads here of which DNS says
/// where it leads.
pub(super) const LOOK_AGAIN_MAX: Duration = Duration::from_secs(15 * 60);

// === impl Work ===

impl Work {
    /// Notes what came of an order. `told` is until when the CA wants to be left alone (Unix milliseconds).
    pub(super) fn settle(&self, result: Result<(), Trouble>, told: Option<i64>, now_ms: i64) {
        let start = &self.start;
        let served = self.shared.served_until(&start.name);
        self.shared.book.with(|memory| {
            match result {
                Ok(()) => self.settle_issued(memory, now_ms),
                Err(trouble) => self.settle_trouble(memory, &trouble, told, served, now_ms),
            }
            self.shared.let_go(memory, &start.name);
        });
    }

    fn settle_issued(&self, memory: &mut Memory, now_ms: i64) {
        let start = &self.start;
        let state = memory.change(&start.name);
        if start.goal == Goal::Show {
            state.unseen = false;
            state.forgive();
            return;
        }
        state.issued(&start.account, None, now_ms);
        memory.budgets.blames.reached(&start.account.name);
    }

    fn settle_trouble(&self, memory: &mut Memory, trouble: &Trouble, told: Option<i64>, served: i64, now_ms: i64) {
        let (start, acme) = (&self.start, &self.gateway.acme);
        let (account, name) = (&start.account, start.name.as_str());
        let reason = match (&self.finding, trouble) {
            // It was ordered in spite of that, and may have failed for it.
            (Some(finding), Trouble::Validation(_) | Trouble::Caa(_) | Trouble::Refused(_)) => {
                format!("{}; before, in its DNS: {finding}", trouble.reason())
            }
            _ => trouble.reason(),
        };
        let waits = (acme.retry_min, acme.retry_max);
        // Only of what is the name's: an account's trouble is kept with the account.
        let failed = |memory: &mut Memory, waits| {
            let state = memory.change(&start.name);
            state.failed(&reason, waits, rand::random(), now_ms);
            (state.failed_of, state.failed_with) = (served, Some(of_order(account).into()));
        };
        match trouble {
            Trouble::NotServed(_) => {
                let state = memory.change(&start.name);
                (state.order, state.unseen, state.forced) = (None, true, false);
                failed(memory, (acme.retry_min, acme.retry_max.min(LOOK_AGAIN_MAX)));
            }
            // It is not the name's fault, and the order may go on.
            Trouble::Unreachable(_) => self.blame(memory, trouble, now_ms),
            Trouble::Broken(_) => {
                self.blame(memory, trouble, now_ms);
                failed(memory, waits);
            }
            Trouble::AccountGone | Trouble::Account(Fault::Refused, _) => {
                memory.change(&start.name).drop_order();
                self.blame(memory, trouble, now_ms);
            }
            // An order that was begun may go on once that is mended.
            Trouble::Account(..) => self.blame(memory, trouble, now_ms),
            Trouble::RateLimited(text) => {
                let enough = Enough::read(text, name);
                let (scope, subject) = enough.pause(account, name);
                let usual = if enough == Enough::Account { PAUSE } else { PAUSE_OF_NAME };
                let until = told.unwrap_or(now_ms.saturating_add(millis(usual)));
                // A CA that says "now", or whose clock is behind, is not asked without rest.
                let until = until.max(now_ms.saturating_add(millis(TROUBLE_MIN)));
                memory.budgets.blames.reached(&account.name);
                memory.budgets.pause(scope, subject, until, now_ms);
                if enough == Enough::Account {
                    memory.budgets.blames.tell(&account.name, told_of(trouble, account), now_ms);
                } else {
                    failed(memory, waits);
                }
            }
            Trouble::Slow(_) => failed(memory, waits),
            // Nobody's fault, once: the next one is new, and waits if it is lost as well.
            Trouble::Lost if self.goes_on() => memory.change(&start.name).drop_order(),
            // The CA counts both as failed validations.
            Trouble::Validation(_) | Trouble::Caa(_) => {
                memory.budgets.validation_failed(account, name, now_ms);
                memory.change(&start.name).drop_order();
                failed(memory, waits);
            }
            Trouble::Refused(_)
            | Trouble::Dns(_)
            | Trouble::Forbidden(_)
            | Trouble::Silent(_)
            | Trouble::Resolver(_)
            | Trouble::Local(_)
            | Trouble::Lost => {
                memory.change(&start.name).drop_order();
                failed(memory, waits);
            }
        }
        if matches!(trouble, Trouble::Caa(_) | Trouble::Refused(_)) && acme.accounts.len() > 1 {
            // Another CA may have nothing against the name: it is its turn then.
            let waits_until = memory.change(&start.name).not_before_ms;
            let until = waits_until.saturating_add(waits_until.saturating_sub(now_ms));
            memory.budgets.pause(&account.name, name, until, now_ms);
        }
        if matches!(trouble, Trouble::Validation(_) | Trouble::Caa(_) | Trouble::Refused(_) | Trouble::Slow(_)) {
            memory.budgets.blames.reached(&account.name);
        }
        if let (Some(told), Trouble::Unreachable(_) | Trouble::Broken(_)) = (told, trouble) {
            memory.budgets.pause(&account.name, "", told, now_ms);
        }
        let order = memory.names.get(&start.name).and_then(|state| state.order.as_ref());
        if order.is_none_or(|order| order.url.is_empty()) {
            memory.give_back(&start.name);
        }
    }

    /// No other name of this account fares better: it is left alone, unless it was mended meanwhile, or is made anew.
    fn blame(&self, memory: &mut Memory, trouble: &Trouble, now_ms: i64) {
        let account = &self.start.account;
        if self.shared.reloader.published().load().gateway.acme.accounts.contains(account) {
            if *trouble != Trouble::AccountGone || !memory.budgets.blames.begins_anew(&account.name) {
                memory.budgets.unreachable(&account.name, now_ms);
            }
            memory.budgets.blames.tell(&account.name, told_of(trouble, account), now_ms);
        }
    }
}

fn told_of(trouble: &Trouble, account: &AcmeAccount) -> Told {
    Told { reason: trouble.reason(), remedy: trouble.remedy(account) }
}

// === impl Shared ===

impl Shared {
    /// The last second of validity of what serves a name now, Unix seconds; 0 = nothing of ours.
    pub(super) fn served_until(&self, name: &ServerName) -> i64 {
        let present = present(&self.reloader.published().load(), name, now_ms());
        present.validity().map_or(0, |(_, not_after)| not_after)
    }

    /// A name that left the configuration while something was under way for it leaves nothing behind; and what failed as the
    /// configuration was when it began says nothing of it as it is now.
    pub(super) fn let_go(&self, memory: &mut Memory, name: &ServerName) {
        let snapshot = self.reloader.published().load();
        if is_listed(&snapshot, name) {
            memory.outlive(name, &snapshot.gateway, now_ms());
        } else {
            memory.forget(name);
        }
    }
}
