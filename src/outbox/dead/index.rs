//! What memory holds of dead letters: where each is, and how many there are of whom.

use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;
use std::sync::Arc;

use super::file::{DeadFile, Slip};
use crate::account::{AccountId, LaneKey};

/// A slip for each letter, and what they add up to.
#[derive(Default)]
pub(super) struct DeadIndex {
    pub(super) slots: BTreeMap<u64, Slot>,
    /// Those of accounts that have any.
    pub(super) accounts: HashMap<AccountId, Usage>,
    /// How many letters each lane has; those that have none are not here.
    pub(super) lanes: HashMap<LaneKey, u64>,
    /// How many letters are in each file, and damage that is nowhere else.
    pub(super) files: BTreeMap<PathBuf, (Arc<DeadFile>, u64)>,
    /// Files that could not be made; their names may be taken all the same.
    pub(super) failed_files: u32,
    pub(super) next_id: u64,
}

/// What is known of a letter without reading it.
pub(super) struct Slot {
    pub(super) file: Arc<DeadFile>,
    pub(super) slip: Slip,
    /// Somebody is about to replay or remove it.
    pub(super) claimed: bool,
}

/// What an account's letters come to.
#[derive(Clone, Copy, Default)]
pub(super) struct Usage {
    pub(super) letters: u64,
    pub(super) bytes: u64,
}

// === impl DeadIndex ===

impl DeadIndex {
    /// Adds a letter of a file that is known.
    pub(super) fn add(&mut self, file: &Arc<DeadFile>, slip: Slip) {
        self.next_id = self.next_id.max(slip.id + 1);
        let usage = self.accounts.entry(slip.lane.account.clone()).or_default();
        usage.letters += 1;
        usage.bytes += slip.len as u64;
        *self.lanes.entry(slip.lane.clone()).or_default() += 1;
        if let Some((_, letters)) = self.files.get_mut(&file.path) {
            *letters += 1;
        }
        self.slots.insert(slip.id, Slot { file: Arc::clone(file), slip, claimed: false });
    }

    /// Forgets a letter; gives whose it was.
    pub(super) fn remove(&mut self, id: u64) -> Option<LaneKey> {
        let Slot { file, slip, .. } = self.slots.remove(&id)?;
        if let Entry::Occupied(mut usage) = self.accounts.entry(slip.lane.account.clone()) {
            usage.get_mut().letters -= 1;
            usage.get_mut().bytes -= slip.len as u64;
            if usage.get().letters == 0 {
                usage.remove();
            }
        }
        if let Entry::Occupied(mut letters) = self.lanes.entry(slip.lane.clone()) {
            *letters.get_mut() -= 1;
            if *letters.get() == 0 {
                letters.remove();
            }
        }
        if let Some((_, letters)) = self.files.get_mut(&file.path) {
            *letters -= 1;
        }
        Some(slip.lane)
    }
}

// === impl Slot ===

impl Slot {
    /// Where it is read.
    pub(super) fn place(&self) -> (Arc<DeadFile>, u64, usize) {
        (Arc::clone(&self.file), self.slip.at, self.slip.len)
    }
}
