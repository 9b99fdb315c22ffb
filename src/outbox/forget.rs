//! Accounts that are gone: what memory and the state file know of their lanes goes once nothing is left in them.

use std::collections::HashSet;

use super::index::Index;
use super::{Outbox, locked};
use crate::account::{AccountId, LaneKey};

// === impl Outbox ===

impl Outbox {
    /// Forgets accounts that are gone, with all that was counted of them, if nothing is left of them: no event that waits, is
    /// leased or is being accepted, no dead letter, and no pause of a person, which holds until a person ends it. One that comes
    /// back is as new. Call it again for those of which something was left.
    pub fn forget_accounts(&self, is_gone: impl Fn(&AccountId) -> bool) {
        let shared = &self.inner.shared;
        let mut gone = locked(&shared.index).accounts();
        // Who knows that is asked while nobody waits for the lock.
        gone.retain(is_gone);
        if !gone.is_empty() {
            let mut index = locked(&shared.index);
            // Under the lock: a letter is stored before the event that it was is settled.
            gone.retain(|account| !shared.dead.has_letters(account));
            index.forget_accounts(gone);
        }
    }

    /// Whether there is such a lane, be it empty.
    pub fn has_lane(&self, lane: &LaneKey) -> bool {
        locked(&self.inner.shared.index).numbers.contains_key(lane)
    }
}

// === impl Index ===

impl Index {
    /// Those of which anything is known.
    fn accounts(&self) -> HashSet<AccountId> {
        self.numbers.keys().map(|lane| &lane.account).chain(self.backlog.keys()).cloned().collect()
    }

    /// Forgets those of them that are empty. An account's backlog holds its events from before they have a lane until they
    /// are settled, so it tells whether somebody may still come with a lane's number. Leases end a moment later, and each lane
    /// has its own.
    fn forget_accounts(&mut self, mut gone: HashSet<AccountId>) {
        gone.retain(|account| {
            self.backlog.get(account).is_none_or(|bytes| *bytes == 0) && !self.held.contains_key(account)
        });
        for lane in self.lanes.values().filter(|lane| !lane.out.is_empty()) {
            gone.remove(&lane.key.account);
        }
        self.backlog.retain(|account, _| !gone.contains(account));
        for (_, lane) in self.lanes.extract_if(.., |_, lane| gone.contains(&lane.key.account)) {
            self.numbers.remove(&lane.key);
            self.forgotten.push(lane.key);
        }
    }
}
