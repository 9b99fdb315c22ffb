//! What one configuration changes of the one before it.

use std::collections::BTreeSet;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::account::AccountId;
use crate::config::{AccountConfig, Accounts, Candidate, Reading};
use crate::snapshot::Snapshot;

/// Accounts by what became of them, each list in order. The names of the fields are what `--json` prints.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Changes {
    /// Not in force before.
    pub added: Vec<AccountId>,
    /// In force with another file, secret or filter than before.
    pub changed: Vec<AccountId>,
    /// In force before, and not any more.
    pub removed: Vec<AccountId>,
    /// With an error, and therefore in force as it was before.
    pub kept: Vec<AccountId>,
    /// With an error, and not in force: there is nothing that it was before.
    pub left_out: Vec<AccountId>,
}

// === impl Changes ===

impl Changes {
    /// What `accounts`, made of `reading`, are against those of `previous`; those that are not `touched` are as they were.
    pub(super) fn between(
        previous: &Snapshot,
        reading: &Reading,
        accounts: &Accounts,
        touched: &BTreeSet<AccountId>,
    ) -> Self {
        let mut changes = Self::default();
        // Both are in the order of ids, and each account has a file.
        let mut in_force = accounts.iter().peekable();
        for (id, candidate) in &reading.accounts {
            let now = in_force.next_if(|(next, _)| *next == id).map(|(_, now)| now);
            let list = match (candidate, now) {
                (Candidate::Good(config), Some(now)) if is_same(config, now) => {
                    if !touched.contains(id) {
                        continue;
                    }
                    match previous.tenant(id) {
                        None => &mut changes.added,
                        Some(before) if !is_same(&before.config, now) => &mut changes.changed,
                        Some(_) => continue,
                    }
                }
                (_, Some(_)) => &mut changes.kept,
                (_, None) => &mut changes.left_out,
            };
            list.push(id.clone());
        }
        let removed = touched.iter().filter(|id| previous.tenant(id).is_some() && !accounts.contains_key(*id));
        changes.removed.extend(removed.cloned());
        changes
    }
}

/// Whether two are made from the same.
fn is_same(one: &Arc<AccountConfig>, other: &Arc<AccountConfig>) -> bool {
    Arc::ptr_eq(one, other) || one.digest == other.digest
}
