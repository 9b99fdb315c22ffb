//! The outbox's dead letters as seen from outside: hold, look, replay, drop.

use std::collections::{HashMap, HashSet};

use bytes::Bytes;
use tokio::sync::oneshot;

use super::dead::DeadLetter;
use super::keeper::Task;
use super::{NewEvent, Outbox, Unavailable};
use crate::account::{AccountId, LaneKey};

/// Why dead letters could not be stored or removed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DeadLetterError {
    /// The account has as many as it may.
    #[error("this account has too many dead letters; replay or drop some")]
    Full,
    /// The disk refused, or the outbox is closed.
    #[error(transparent)]
    Unavailable(#[from] Unavailable),
}

/// Dead letters that nobody else may replay or remove while this lives. Those that were not removed are given back.
#[must_use = "letters that are dropped are given back"]
pub struct ClaimedLetters {
    outbox: Outbox,
    letters: Vec<DeadLetter>,
}

impl Outbox {
    /// Stores events as dead letters, for a person to mend what holds them; `Ok` once they are durable, all or none. Refused
    /// like new events while the volume is full up to its reserve.
    pub async fn hold(&self, letters: Vec<DeadLetter>) -> Result<(), DeadLetterError> {
        if letters.is_empty() {
            return Ok(());
        }
        let (reply, answer) = oneshot::channel();
        self.inner.ask_keeper(Task::Hold { letters, reply });
        answer.await.unwrap_or_else(|_| Err(closed()))
    }

    /// The newest dead letters, of one account or of all, the newest first. Reads the disk.
    pub fn dead_letters(&self, account: Option<&AccountId>, limit: usize) -> Vec<DeadLetter> {
        self.inner.shared.dead.list(account, limit)
    }

    /// How many dead letters there are of each lane that has any.
    pub fn dead_letter_counts(&self) -> HashMap<LaneKey, u64> {
        self.inner.shared.dead.counts()
    }

    /// The numbers of all dead letters, of one account or of all, the oldest first.
    pub fn dead_letter_ids(&self, account: Option<&AccountId>) -> Vec<u64> {
        self.inner.shared.dead.ids(account)
    }

    /// These letters in groups that can be replayed together, each of one account: at most so many letters and bytes of them,
    /// at least one. Those that are not there are left out.
    pub fn dead_letter_groups(&self, ids: &[u64], letters_max: usize, bytes_max: u64) -> Vec<Vec<u64>> {
        self.inner.shared.dead.grouped(ids, letters_max, bytes_max)
    }

    /// One dead letter. Reads the disk.
    pub fn dead_letter(&self, id: u64) -> Option<DeadLetter> {
        self.inner.shared.dead.get(id)
    }

    /// Takes dead letters in order to replay or remove them; those that are not there, or that somebody else has taken, are
    /// left out. To replay them: [`Outbox::append_replayed`] what they become, and then remove them; an event is then never lost, and one that a
    /// crash in between doubles keeps its id. Reads the disk.
    pub fn claim_dead_letters(&self, ids: &[u64]) -> ClaimedLetters {
        ClaimedLetters { outbox: self.clone(), letters: self.inner.shared.dead.claim(ids) }
    }

    /// Removes dead letters for good, unread; gives how many there were. Those that somebody has claimed stay.
    pub async fn drop_dead_letters(&self, ids: &[u64]) -> Result<usize, DeadLetterError> {
        self.remove(self.inner.shared.dead.unclaimed(ids), false).await
    }

    /// Removes all dead letters that came there before a time, Unix milliseconds; gives how many there were.
    pub async fn purge_dead_letters(&self, before_ms: i64) -> Result<usize, DeadLetterError> {
        self.remove(self.inner.shared.dead.older_than(before_ms), true).await
    }

    async fn remove(&self, ids: Vec<u64>, purge: bool) -> Result<usize, DeadLetterError> {
        if ids.is_empty() {
            return Ok(0);
        }
        let (reply, answer) = oneshot::channel();
        self.inner.ask_keeper(Task::Remove { ids, purge, reply });
        answer.await.unwrap_or_else(|_| Err(closed()))
    }
}

fn closed() -> DeadLetterError {
    Unavailable { reason: "it is closed".into() }.into()
}

// === impl ClaimedLetters ===

impl ClaimedLetters {
    /// The letters.
    pub fn letters(&self) -> &[DeadLetter] {
        &self.letters
    }

    /// Removes those of them that are named, for good; gives how many. The others are given back.
    pub async fn remove(self, ids: &[u64]) -> Result<usize, DeadLetterError> {
        let ids: HashSet<_> = ids.iter().collect();
        let named = self.letters.iter().map(|letter| letter.id).filter(|id| ids.contains(id));
        self.outbox.remove(named.collect(), false).await
    }
}

impl Drop for ClaimedLetters {
    fn drop(&mut self) {
        self.outbox.inner.shared.dead.release(self.letters.iter().map(|letter| letter.id));
    }
}

// === impl DeadLetter ===

impl DeadLetter {
    /// The letter as a new event of its lane with this body.
    pub fn event(&self, body: Bytes) -> NewEvent {
        NewEvent {
            lane: self.lane.clone(),
            event_name: self.event_name.clone(),
            event_id: self.event_id.clone(),
            event_time: self.event_time,
            envelope: self.envelope.clone(),
            body,
        }
    }
}
