//! What an operator sees of issuance: for each name what comes next and when, and what went wrong.

use crate::account::{AccountId, ServerName};
use crate::clock::now_ms;
use crate::config::Problem;
use crate::issuance::Issuance;
use crate::issuance::budget::Kind;
use crate::issuance::names::{Listed, listed, present};
use crate::issuance::schedule::{Next, Present, Subject, forecast, next};
use crate::issuance::state::NameState;

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
    /// The CA account that issued its certificate.
    pub issued_by: Option<String>,
    /// Failed orders since the last certificate.
    pub failures: u32,
    /// Why the last order failed.
    pub last_error: Option<String>,
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
        let (config, now_ms) = (&snapshot.gateway.acme, now_ms());
        let listed = listed(&snapshot);
        let nothing = NameState::default();
        self.shared.book.with(|memory| {
            let mut views = Vec::with_capacity(listed.len());
            let mut queue = Vec::new();
            for Listed { name, account, rank } in &listed {
                let state = memory.names.get(name).unwrap_or(&nothing);
                let busy = memory.is_busy(name);
                let subject = Subject { name, rank: *rank, present: present(&snapshot, name), state, busy };
                let (action, at_ms) = action(&subject, next(&subject, config, now_ms), config.enabled);
                if action == NextAction::Order {
                    queue.push((*rank, views.len()));
                }
                views.push(NameView {
                    name: name.clone(),
                    account: account.clone(),
                    next: action,
                    next_at_ms: at_ms,
                    issued_by: state.issued_by.as_deref().map(str::to_owned),
                    failures: state.failures,
                    last_error: state.error.as_deref().map(str::to_owned),
                });
            }
            // First orders are worked off in this order, and wait for the budgets.
            queue.sort_unstable();
            for (before, (_, index)) in queue.into_iter().enumerate() {
                if let Some(view) = views.get_mut(index) {
                    let at = view.next_at_ms.unwrap_or(now_ms);
                    view.next_at_ms = Some(forecast(at, before, config, &memory.budgets, now_ms));
                }
            }
            views
        })
    }

    /// What is wrong with names now, as warnings.
    pub fn problems(&self) -> Vec<Problem> {
        let snapshot = self.shared.reloader.published().load_full();
        if !snapshot.gateway.acme.enabled {
            return Vec::new();
        }
        let owner = |name: &ServerName| match snapshot.route(name.as_str()) {
            Some(crate::snapshot::Route::Tenant(tenant)) => Some(tenant),
            _ => None,
        };
        let mut problems: Vec<_> = self.shared.book.with(|memory| {
            let failing = memory.names.iter().filter_map(|(name, state)| Some((name, state, state.error.as_deref()?)));
            let problem = |(name, state, error): (&ServerName, &NameState, &str)| {
                let tenant = owner(name);
                let file = tenant.as_ref().map_or(&snapshot.gateway.file, |tenant| &tenant.config.file);
                let reason = format!("no certificate was issued: {error}");
                let problem = Problem::warning(file, name.as_str(), reason, remedy(name, state));
                match tenant {
                    Some(tenant) => problem.of_account(&tenant.config.id),
                    None => problem,
                }
            };
            failing.map(problem).collect()
        });
        problems.sort();
        problems
    }
}

fn remedy(name: &ServerName, state: &NameState) -> String {
    let at = rfc3339(state.not_before_ms);
    format!(
        "`pixelgate cert check {name}` shows what is wrong; it is tried again after {at}, at once by `pixelgate cert issue {name}`"
    )
}

/// Unix milliseconds as RFC 3339, UTC.
fn rfc3339(at_ms: i64) -> humantime::Rfc3339Timestamp {
    let since = std::time::Duration::from_millis(u64::try_from(at_ms).unwrap_or_default());
    humantime::format_rfc3339_seconds(std::time::UNIX_EPOCH + since)
}

fn action(subject: &Subject<'_>, next: Next, enabled: bool) -> (NextAction, Option<i64>) {
    match next {
        _ if subject.busy => (NextAction::Running, None),
        Next::Operator => (NextAction::Operator, None),
        _ if !enabled => (NextAction::Off, None),
        Next::Visitor => (NextAction::Visitor, None),
        Next::Order { at_ms, .. } if subject.state.failures > 0 => (NextAction::Retry, Some(at_ms)),
        Next::Order { at_ms, kind: Kind::New } => (NextAction::Order, Some(at_ms)),
        Next::Order { at_ms, .. } if subject.present == Present::Nothing => (NextAction::Order, Some(at_ms)),
        Next::Order { at_ms, .. } => (NextAction::Renew, Some(at_ms)),
    }
}
