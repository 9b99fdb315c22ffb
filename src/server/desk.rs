//! What the operator's commands hear of certificates: what the store knows, and what issuance will do.

use std::collections::HashMap;
use std::sync::Arc;

use tokio::runtime::Handle;

use crate::account::ServerName;
use crate::clock::{now_ms, rfc3339};
use crate::config::Problem;
use crate::console::{CaAccountStatus, CertificateDesk, CertificateView, DeskError, Ordered, view, views};
use crate::issuance::{AccountView, Issuance, IssuanceError, NameView, NextAction, Refusal};
use crate::reload::Reloader;

/// What to do where issuance could not be started.
const CLOSED_REMEDY: &str = "if it may not be opened or written, give it to the gateway's user (`chown -R`); if it is locked, end the \
                             program that has it open (`fuser -v`, with the file, says which); if it is damaged, restore it from a \
                             backup, or move it away to begin anew; then restart the gateway. Meanwhile events are taken, and the \
                             certificates that are there are served";

/// What the console learns of certificates.
pub(super) struct Desk {
    pub(super) certificates: Arc<dyn CertificateDesk>,
    /// What is wrong with names whose certificates are ordered, or with ordering itself, as warnings.
    pub(super) problems: Arc<dyn Fn() -> Vec<Problem> + Send + Sync>,
}

/// The desk of a gateway that may order.
struct OrderingDesk {
    reloader: Arc<Reloader>,
    issuance: Issuance,
}

/// The desk of a gateway whose issuance could not be started.
struct ClosedDesk {
    reloader: Arc<Reloader>,
    why: String,
}

// === impl Desk ===

impl Desk {
    /// The desk of what issuance there is. That there is none is a warning in the status, and an error in the log now.
    pub(super) fn new(reloader: &Arc<Reloader>, issuance: &Result<Issuance, IssuanceError>) -> Self {
        let reloader = reloader.clone();
        match issuance {
            Ok(issuance) => {
                let ordering = issuance.clone();
                let desk = OrderingDesk { reloader, issuance: issuance.clone() };
                Self { certificates: Arc::new(desk), problems: Arc::new(move || ordering.problems()) }
            }
            Err(error) => {
                let why = format!("no certificate is ordered or renewed: {error}");
                tracing::error!(remedy = CLOSED_REMEDY, "{why}");
                let folder = reloader.published().load().gateway.host.data_dir.join("acme");
                let problem = Problem::warning(&folder, "", why.clone(), CLOSED_REMEDY);
                let desk = ClosedDesk { reloader, why };
                Self { certificates: Arc::new(desk), problems: Arc::new(move || vec![problem.clone()]) }
            }
        }
    }
}

// === impl OrderingDesk ===

impl CertificateDesk for OrderingDesk {
    fn list(&self) -> Vec<CertificateView> {
        let mut names: HashMap<_, _> =
            self.issuance.names().into_iter().map(|known| (known.name.clone(), known)).collect();
        let mut list = views(&self.reloader.published().load(), now_ms());
        for view in &mut list {
            names.remove(&view.name).into_iter().for_each(|known| tell_next(view, known));
        }
        list
    }

    fn find(&self, name: &ServerName) -> Option<CertificateView> {
        let mut view = view(&self.reloader.published().load(), name, now_ms())?;
        self.issuance.name(name).into_iter().for_each(|known| tell_next(&mut view, known));
        Some(view)
    }

    fn caa_identities(&self) -> Vec<String> {
        Handle::current().block_on(self.issuance.caa_identities())
    }

    fn ca_accounts(&self) -> Vec<CaAccountStatus> {
        let status = |account: AccountView| CaAccountStatus {
            name: account.name,
            directory: account.directory,
            paused_until: account.paused_until_ms.map(rfc3339),
            reason: account.trouble,
            remedy: account.remedy,
            orders_left: account.new_orders_left,
            orders_max: account.new_orders.max,
            orders_window_seconds: account.new_orders.window.as_secs(),
            first_orders_waiting: account.waiting.first,
            last_first_order_at: account.waiting.last_first_ms.map(rfc3339),
            renewals_waiting: account.waiting.renewals,
        };
        self.issuance.accounts().into_iter().map(status).collect()
    }

    fn waiting_for_visitors(&self) -> usize {
        self.issuance.waiting_for_visitors()
    }

    fn resolver_is_silent(&self) -> bool {
        self.issuance.resolver_is_silent()
    }

    fn issue(&self, name: &ServerName) -> Result<Ordered, DeskError> {
        let inactive =
            || format!("no certificate is ordered for {name}: its account is not active; set active = true and reload");
        let ordered = self.issuance.order_now(name).map_err(|refusal| match refusal {
            Refusal::Disabled => DeskError::Disabled,
            // The console knows the name.
            Refusal::UnknownName => DeskError::Refused(inactive()),
            Refusal::Operators { .. } | Refusal::State { .. } => DeskError::Refused(refusal.to_string()),
        })?;
        Ok(Ordered {
            name: name.clone(),
            at: ordered.as_ref().and_then(|view| view.next_at_ms).map(rfc3339),
            reason: ordered.and_then(|view| match view.next {
                NextAction::Running => Some("an order is under way already".to_owned()),
                _ => view.next_why,
            }),
        })
    }
}

/// Writes down what comes next for a name.
fn tell_next(view: &mut CertificateView, known: NameView) {
    if known.next == NextAction::Visitor && view.state == "missing" && view.problem.is_none() {
        "waiting".clone_into(&mut view.state);
    }
    view.next_action = match known.next {
        NextAction::Off | NextAction::Operator => None,
        next => Some(next.as_str().to_owned()),
    };
    view.next_action_at = known.next_at_ms.map(rfc3339);
    view.next_action_reason = known.next_why;
    if view.state == "unreadable" && view.origin.as_deref() == Some("issued") && known.issued_by.is_none() {
        // The sign of an import cannot be read either, and no CA issued it.
        view.origin = Some("imported".to_owned());
    }
    view.last_error = known.last_error;
}

// === impl ClosedDesk ===

impl CertificateDesk for ClosedDesk {
    fn list(&self) -> Vec<CertificateView> {
        views(&self.reloader.published().load(), now_ms())
    }

    fn find(&self, name: &ServerName) -> Option<CertificateView> {
        view(&self.reloader.published().load(), name, now_ms())
    }

    fn caa_identities(&self) -> Vec<String> {
        Vec::new()
    }

    fn ca_accounts(&self) -> Vec<CaAccountStatus> {
        Vec::new()
    }

    fn waiting_for_visitors(&self) -> usize {
        0
    }

    fn resolver_is_silent(&self) -> bool {
        false
    }

    fn issue(&self, _: &ServerName) -> Result<Ordered, DeskError> {
        Err(DeskError::Refused(self.why.clone()))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    /// Where a certificate is said to come from, of which the folder says nothing more.
    fn origin(state: &str, issued_by: Option<&str>) -> Option<String> {
        let name: ServerName = "events.shoes.example".parse().unwrap();
        let mut view = CertificateView {
            name: name.clone(),
            account: None,
            state: state.to_owned(),
            issuer: None,
            not_after: None,
            origin: Some("issued".to_owned()),
            folder: None,
            expires_soon: false,
            keys: Vec::new(),
            problem: None,
            remedy: None,
            next_action: None,
            next_action_at: None,
            next_action_reason: None,
            last_error: None,
        };
        let known = NameView {
            name,
            account: None,
            next: NextAction::Order,
            next_at_ms: None,
            next_why: None,
            issued_by: issued_by.map(str::to_owned),
            failures: 0,
            last_error: None,
        };
        tell_next(&mut view, known);
        view.origin
    }

    #[test]
    fn an_import_that_cannot_be_read_is_not_said_to_be_issued() {
        assert_eq!(origin("unreadable", None).as_deref(), Some("imported"));
        assert_eq!(origin("unreadable", Some("default")).as_deref(), Some("issued"));
        assert_eq!(origin("valid", None).as_deref(), Some("issued"), "its folder says it");
    }
}
