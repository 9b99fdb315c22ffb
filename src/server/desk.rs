//! What the operator's commands hear of certificates: what the store knows, and what issuance will do.

use std::collections::HashMap;
use std::sync::Arc;

use crate::account::ServerName;
use crate::clock::now_ms;
use crate::console::{CertificateDesk, CertificateView, DeskError, views};
use crate::issuance::{Issuance, NextAction, Refusal};
use crate::reload::Reloader;

/// The desk of a gateway that may order.
pub(super) struct OrderingDesk {
    pub(super) reloader: Arc<Reloader>,
    pub(super) issuance: Issuance,
}

impl CertificateDesk for OrderingDesk {
    fn list(&self) -> Vec<CertificateView> {
        let mut names: HashMap<_, _> =
            self.issuance.names().into_iter().map(|known| (known.name.clone(), known)).collect();
        let mut list = views(&self.reloader.published().load(), now_ms());
        for view in &mut list {
            let Some(known) = names.remove(&view.name) else { continue };
            view.next_action = match known.next {
                NextAction::Off | NextAction::Operator => None,
                next => Some(next.as_str().to_owned()),
            };
            view.next_action_at = known.next_at_ms.map(rfc3339);
            view.last_error = known.last_error.or(view.last_error.take());
        }
        list
    }

    fn issue(&self, name: &ServerName) -> Result<(), DeskError> {
        self.issuance.order_now(name).map_err(|refusal| match refusal {
            Refusal::Disabled => DeskError::Disabled,
            Refusal::UnknownName => DeskError::UnknownName(name.clone()),
            Refusal::State(_) => DeskError::Refused(refusal.to_string()),
        })
    }
}

/// Unix milliseconds as RFC 3339, UTC.
fn rfc3339(at_ms: i64) -> String {
    let since = std::time::Duration::from_millis(u64::try_from(at_ms).unwrap_or_default());
    humantime::format_rfc3339_seconds(std::time::UNIX_EPOCH + since).to_string()
}
