//! What an operator sees of issuance: for each name what comes next, when and why not before, and what went wrong; and
//! how the accounts at CAs stand.

use std::sync::Arc;

use crate::account::{AccountId, ServerName};
use crate::clock::{now_ms, span};
use crate::config::{AcmeAccount, AcmeBudget, AcmeConfig};
use crate::issuance::Issuance;
use crate::issuance::agenda::NAMES_AT_ONCE;
use crate::issuance::blame::Told;
use crate::issuance::budget::{Budgets, Kind, Limit};
use crate::issuance::looks::waits_for_answer;
use crate::issuance::names::{Listed, find, listed, present};
use crate::issuance::outlook::{Outlook, Wait, competes, foresee};
use crate::issuance::resolver::called;
use crate::issuance::schedule::{Next, Present, Subject, is_at_rest, next};
use crate::issuance::state::NameState;
use crate::issuance::waiting::Waiting;
use crate::snapshot::Snapshot;

/// One name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NameView {
    /// The name.
    pub name: ServerName,
    /// Whose; `None` = the host's own domain.
    pub account: Option<AccountId>,
    /// What comes next.
    pub next: NextAction,
    /// When, as far as it can be foreseen. Unix milliseconds.
    pub next_at_ms: Option<i64>,
    /// Why not before.
    pub next_why: Option<String>,
    /// The CA account that issued its certificate.
    pub issued_by: Option<String>,
    /// Failed orders since the last certificate.
    pub failures: u32,
    /// Why the last order failed.
    pub last_error: Option<String>,
}

/// One account at a CA.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AccountView {
    /// Its name in the configuration.
    pub name: String,
    /// The CA's directory.
    pub directory: String,
    /// Until when nothing is asked of it. Unix milliseconds.
    pub paused_until_ms: Option<i64>,
    /// What went wrong there last, if nothing went well since and it was not long ago.
    pub trouble: Option<String>,
    /// What to do about it.
    pub remedy: Option<String>,
    /// First orders that it may be given now.
    pub new_orders_left: u32,
    /// Of how many in what time.
    pub new_orders: AcmeBudget,
    /// What waits for an order there.
    pub waiting: Waiting,
}

/// What a name waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NextAction {
    /// Nothing is ordered: ACME is not enabled.
    Off,
    /// Its certificate is the operator's to renew.
    Operator,
    /// Its first visitor.
    Visitor,
    /// An order is under way.
    Running,
    /// Its first order.
    Order,
    /// The renewal of its certificate.
    Renew,
    /// Another try after a failed order.
    Retry,
}

// === impl NextAction ===

impl NextAction {
    /// As `cert list` says it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Off => "off",
            Self::Operator => "operator",
            Self::Visitor => "wait for a visitor",
            Self::Running => "ordering",
            Self::Order => "order",
            Self::Renew => "renew",
            Self::Retry => "retry",
        }
    }
}

// === impl Issuance ===

impl Issuance {
    /// Every name, in the order of the configuration.
    pub fn names(&self) -> Vec<NameView> {
        let snapshot = self.shared.reloader.published().load_full();
        self.views(&snapshot, &listed(&snapshot))
    }

    /// One name as it stands among all; `None` = it is not to have a certificate. Only one that stands in a queue makes it
    /// look at the others.
    pub fn name(&self, name: &ServerName) -> Option<NameView> {
        let snapshot = self.shared.reloader.published().load_full();
        let found = find(&snapshot, name)?;
        let (config, present) = (&snapshot.gateway.acme, present(&snapshot, name, now_ms()));
        let queues = self.shared.book.with(|memory| {
            let (nothing, busy) = (NameState::default(), memory.is_ordered(name));
            let state = memory.names.get(name).unwrap_or(&nothing);
            let subject = Subject { name, rank: found.rank, present, state, busy };
            config.enabled && !busy && competes(&subject, config)
        });
        if queues {
            return self.names().into_iter().find(|view| view.name == *name);
        }
        self.views(&snapshot, &[found]).pop()
    }

    /// The accounts at CAs, in the order of the configuration; none where nothing is ordered. Blocks now and then, while all
    /// names are looked at.
    pub fn accounts(&self) -> Vec<AccountView> {
        let snapshot = self.shared.reloader.published().load_full();
        let (acme, now_ms) = (&snapshot.gateway.acme, now_ms());
        if !acme.enabled {
            return Vec::new();
        }
        let waiting = self.waiting(&snapshot);
        self.shared.book.with(|memory| {
            let budgets = &memory.budgets;
            let view = |account: &Arc<AcmeAccount>| AccountView {
                name: account.name.clone(),
                directory: account.directory.clone(),
                paused_until_ms: budgets.paused(account, now_ms),
                trouble: budgets.told(account, now_ms).map(|told| told.reason.clone()),
                remedy: budgets.told(account, now_ms).map(|told| told.remedy.clone()),
                new_orders_left: budgets.new_orders_left(account, now_ms),
                new_orders: account.budgets.new_orders,
                waiting: waiting.get(&account.name).copied().unwrap_or_default(),
            };
            acme.accounts.iter().map(view).collect()
        })
    }

    /// Some names, each as it stands among these.
    pub(super) fn views(&self, snapshot: &Snapshot, listed: &[Listed]) -> Vec<NameView> {
        let (config, now_ms) = (&snapshot.gateway.acme, now_ms());
        let (states, budgets) = self.known(listed);
        let (silence, looks) = self.shared.book.with(|memory| (memory.silence.clone(), memory.looks()));
        let subjects = subjects(snapshot, listed, &states, now_ms);
        let outlooks = if config.enabled { foresee(&subjects, config, &budgets, now_ms) } else { Vec::new() };
        let mut outlooks = outlooks.into_iter();
        let view = |(subject, listed): (&Subject<'_>, &Listed)| {
            let (outlook, state) = (outlooks.next().flatten(), subject.state);
            let at_ms = outlook.as_ref().and_then(|outlook| outlook.at_ms);
            let answer_ms = silence.free_at(now_ms).max(now_ms);
            let unanswered = silence.told(now_ms).filter(|_| {
                at_ms.is_some_and(|at_ms| at_ms <= answer_ms)
                    && waits_for_answer(subject, &snapshot.gateway.host.addresses, now_ms)
            });
            NameView {
                name: listed.name.clone(),
                account: listed.account.clone(),
                next: action(subject, config, now_ms),
                next_at_ms: if unanswered.is_some() { Some(answer_ms) } else { at_ms },
                next_why: match unanswered {
                    Some(why) => Some(format!("{} does not answer: {why}", called(config.resolver))),
                    None if looks.contains(&listed.name) => Some("its DNS is looked at".to_owned()),
                    None => outlook.and_then(|outlook| why(subject, &outlook, config, &budgets, now_ms)),
                },
                issued_by: state.issued_by.as_deref().map(str::to_owned),
                failures: state.failures,
                last_error: state.error.as_deref().map(str::to_owned),
            }
        };
        subjects.iter().zip(listed).map(view).collect()
    }

    /// What is known of names, and whether an order is under way for them. Others get at the book meanwhile.
    pub(super) fn known(&self, listed: &[Listed]) -> (Vec<(NameState, bool)>, Budgets) {
        let mut known = Vec::with_capacity(listed.len());
        for some in listed.chunks(NAMES_AT_ONCE) {
            self.shared.book.with(|memory| {
                let names = some.iter().map(|listed| &listed.name);
                let of = |name| (memory.names.get(name).cloned().unwrap_or_default(), memory.is_ordered(name));
                known.extend(names.map(of));
            });
        }
        (known, self.shared.book.with(|memory| memory.budgets.clone()))
    }
}

/// Names with what is known of them.
pub(super) fn subjects<'a>(
    snapshot: &Snapshot,
    listed: &'a [Listed],
    known: &'a [(NameState, bool)],
    now_ms: i64,
) -> Vec<Subject<'a>> {
    let subject = |(Listed { name, rank, .. }, (state, busy)): (&'a Listed, &'a (NameState, bool))| {
        let present = present(snapshot, name, now_ms);
        Subject { name, rank: *rank, present, state, busy: *busy }
    };
    listed.iter().zip(known).map(subject).collect()
}

fn action(subject: &Subject<'_>, config: &AcmeConfig, now_ms: i64) -> NextAction {
    match next(subject, config, now_ms) {
        _ if subject.busy => NextAction::Running,
        Next::Operator => NextAction::Operator,
        _ if !config.enabled => NextAction::Off,
        Next::Visitor => NextAction::Visitor,
        Next::Order { .. } if subject.state.failures > 0 => NextAction::Retry,
        Next::Order { kind: Kind::New, .. } => NextAction::Order,
        Next::Order { .. }
            if matches!(subject.present, Present::Nothing | Present::Ended | Present::Wildcard { .. }) =>
        {
            NextAction::Order
        }
        Next::Order { .. } => NextAction::Renew,
    }
}

/// Why an order waits until then.
pub(super) fn why(
    subject: &Subject<'_>,
    outlook: &Outlook<'_>,
    config: &AcmeConfig,
    budgets: &Budgets,
    now_ms: i64,
) -> Option<String> {
    let Some(Wait { until_ms, account, limit, subject: of }) = &outlook.wait else {
        let renewal = subject.state.renewal.as_ref().is_some_and(|renewal| renewal.offered);
        return match subject.present {
            // A person did not ask why it was not there before.
            _ if subject.state.forced && !subject.state.is_tried_again() => None,
            _ if subject.state.failures == 1 => Some("it failed once".to_owned()),
            _ if subject.state.failures > 1 => Some(format!("it failed {} times in a row", subject.state.failures)),
            _ if is_at_rest(subject, config, now_ms) => Some(format!(
                "between two certificates of a name lies {} at least ([acme] reissue_min)",
                span(config.reissue_min)
            )),
            Present::Issued { .. } if renewal => Some("the CA wants it then".to_owned()),
            Present::Wildcard { .. } => {
                Some("an imported wildcard serves it until it has a certificate of its own".to_owned())
            }
            _ => None,
        };
    };
    let (of, ca, limits) = (*of, &account.name, &account.budgets);
    let budget = |AcmeBudget { max, window }: AcmeBudget, what: &str| {
        format!("the CA account {ca} may have {max} {what} in {}", span(window))
    };
    let queue = || match outlook.before {
        0 => String::new(),
        before => format!("; {before} go before it"),
    };
    Some(match limit {
        Limit::NewOrders => budget(limits.new_orders, "first orders") + &queue(),
        Limit::Domain => {
            budget(limits.domain_certificates, &format!("first certificates for names of {of}")) + &queue()
        }
        Limit::Duplicates => budget(limits.duplicates, "certificates for one name"),
        Limit::Replacements => budget(limits.duplicates, "certificates of one name replaced at the CA's wish"),
        Limit::Failures => budget(limits.failures, "failed validations of one name"),
        // Of all its accounts together only the CA itself says so.
        Limit::Pause if !of.is_empty() && budgets.paused_until(&account.directory, of, now_ms) >= *until_ms => {
            format!("the CA wants no order for {of} before, at the account {ca}")
        }
        Limit::Pause if !of.is_empty() => {
            format!("the CA account {ca} is left alone for {of} until then, after what failed there")
        }
        Limit::Pause => match budgets.told(account, now_ms) {
            Some(Told { reason, .. }) => format!("the CA account {ca} is left alone until then: {reason}"),
            None => format!("the CA account {ca} is left alone until then"),
        },
    })
}
