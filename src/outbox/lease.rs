//! A lease: events that one request may take, until what became of them is said.

use std::sync::Arc;

use bytes::Bytes;

use super::Inner;
use super::dead::DeadLetter;
use super::index::End;
use super::keeper::Task;
use super::lane::LaneNo;
use super::locked;
use super::log::{Entry, MarkKind};
use crate::account::LaneKey;

/// Events of one lane with one envelope, the oldest first. Nobody else gets them while it lives; dropped without a word
/// it gives them back as they were.
#[must_use = "a lease that is dropped gives its events back"]
pub struct Lease {
    pub(super) inner: Arc<Inner>,
    pub(super) lane: LaneKey,
    pub(super) number: LaneNo,
    pub(super) envelope: Arc<str>,
    pub(super) failures: u32,
    pub(super) entries: Vec<Entry>,
    pub(super) events: Vec<Leased>,
    /// A request with them may be out.
    pub(super) sent: bool,
}

/// One event of a lease.
#[derive(Clone, Debug, PartialEq)]
pub struct Leased {
    /// Its place in the order of acceptance, over all lanes.
    pub seq: u64,
    /// When it was accepted, Unix milliseconds.
    pub accepted_ms: i64,
    /// When it happened, Unix seconds.
    pub event_time: i64,
    /// Its name.
    pub event_name: String,
    /// Its id.
    pub event_id: String,
    /// Its JSON as the Graph API gets it.
    pub body: Bytes,
    /// Requests that it was in before.
    pub attempts: u32,
    /// Whether one of them may have reached Meta: sending it again may double it.
    pub maybe_sent: bool,
}

/// What became of one event of a lease.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Settlement {
    /// Meta has it.
    Ack,
    /// Meta does not have it, or maybe; it goes back to its lane.
    Retry(Sent),
    /// Meta will not have it; it goes to the dead letters.
    Bury {
        /// Why, as a metric would say it.
        reason: String,
        /// Why, for a person.
        message: String,
    },
}

/// Whether a request that failed may have been taken all the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sent {
    /// It surely was not: nothing was written, or it was refused.
    No,
    /// Nobody knows: it was written, and no answer came.
    Maybe,
}

// === impl Lease ===

impl Lease {
    /// Whose events they are.
    pub fn lane(&self) -> &LaneKey {
        &self.lane
    }

    /// The events, the oldest first; at least one.
    pub fn events(&self) -> &[Leased] {
        &self.events
    }

    /// What the request must carry beside them, as JSON text, or nothing.
    pub fn envelope(&self) -> &str {
        &self.envelope
    }

    /// How often the lane was sent back since its last success; kept over a restart.
    pub fn failures(&self) -> u32 {
        self.failures
    }

    /// Notes that a request with these events is about to go out, so that a restart knows that they may have arrived. Not
    /// synced: a killed process loses nothing of it, a power cut may.
    pub fn mark_sent(&mut self) {
        self.sent = true;
        self.inner.shared.mark(MarkKind::Sent, &self.entries);
    }

    /// Makes two of it: the first `count` events, and the others. Each is then settled by itself.
    pub fn split_at(mut self, count: usize) -> (Self, Option<Self>) {
        if count >= self.events.len() || count == 0 {
            return (self, None);
        }
        let (entries, events) = (self.entries.split_off(count), self.events.split_off(count));
        let rest = Self {
            inner: Arc::clone(&self.inner),
            lane: self.lane.clone(),
            number: self.number,
            envelope: Arc::clone(&self.envelope),
            failures: self.failures,
            entries,
            events,
            sent: self.sent,
        };
        locked(&rest.inner.shared.index).lease_began(rest.number, rest.oldest());
        (self, Some(rest))
    }

    /// Meta has them all.
    pub fn ack(mut self) {
        let entries = std::mem::take(&mut self.entries);
        let oldest = entries.first().map_or(0, |entry| entry.accepted_s);
        self.inner.shared.settle(self.number, &entries, End::Delivered);
        self.over(oldest);
    }

    /// All of them go back to the lane, and nothing of it is leased before a time (Unix milliseconds; 0 for at once).
    pub fn retry(self, not_before_ms: i64, sent: Sent) {
        let settlements = vec![Settlement::Retry(sent); self.events.len()];
        self.settle(settlements, not_before_ms, 0);
    }

    /// All of them go to the dead letters; `now_ms` is Unix milliseconds.
    pub fn bury(self, reason: &str, message: &str, now_ms: i64) {
        let settlement = Settlement::Bury { reason: reason.into(), message: message.into() };
        let settlements = vec![settlement; self.events.len()];
        self.settle(settlements, 0, now_ms);
    }

    /// Says of each event in turn what became of it; those that nothing is said of go back as they were. `not_before_ms` is
    /// for the retried ones, as in [`Lease::retry`], `now_ms` for the buried ones.
    pub fn settle(mut self, settlements: Vec<Settlement>, not_before_ms: i64, now_ms: i64) {
        let entries = std::mem::take(&mut self.entries);
        let events = std::mem::take(&mut self.events);
        let oldest = entries.first().map_or(0, |entry| entry.accepted_s);
        let (mut acked, mut back, mut refused) = (Vec::new(), Vec::new(), Vec::new());
        let (mut buried, mut letters) = (Vec::new(), Vec::new());
        let mut retried = false;
        let mut settlements = settlements.into_iter();
        for (mut entry, event) in entries.into_iter().zip(events) {
            match settlements.next() {
                Some(Settlement::Ack) => acked.push(entry),
                Some(Settlement::Bury { reason, message }) => {
                    buried.push(entry);
                    letters.push(self.letter(event, reason, message, now_ms));
                }
                Some(Settlement::Retry(sent)) => {
                    retried = true;
                    entry.attempts = entry.attempts.saturating_add(1);
                    entry.maybe_sent |= sent == Sent::Maybe;
                    if self.sent && !entry.maybe_sent {
                        refused.push(entry);
                    }
                    back.push(entry);
                }
                None => back.push(self.unsettled(entry)),
            }
        }
        let shared = &self.inner.shared;
        shared.settle(self.number, &acked, End::Delivered);
        shared.mark(MarkKind::Refused, &refused);
        let mut index = locked(&shared.index);
        index.put_back(self.number, &back);
        if retried {
            index.change_state(self.number, |state| {
                state.failures = state.failures.saturating_add(1);
                state.not_before_ms = not_before_ms;
            });
        }
        drop(index);
        if !buried.is_empty() {
            self.inner.ask_keeper(Task::Bury { lane: self.number, entries: buried, letters, now_ms });
        }
        self.over(oldest);
    }

    fn letter(&self, event: Leased, reason: String, message: String, now_ms: i64) -> DeadLetter {
        DeadLetter {
            id: 0,
            lane: self.lane.clone(),
            event_name: event.event_name,
            event_id: event.event_id,
            event_time: event.event_time,
            reason,
            message,
            attempts: event.attempts.saturating_add(u32::from(self.sent)),
            accepted_ms: event.accepted_ms,
            dead_ms: now_ms,
            envelope: Arc::clone(&self.envelope),
            body: event.body,
            context: String::new(),
        }
    }

    /// An entry that goes back without a word on it.
    fn unsettled(&self, entry: Entry) -> Entry {
        Entry {
            attempts: entry.attempts.saturating_add(u16::from(self.sent)),
            maybe_sent: entry.maybe_sent || self.sent,
            ..entry
        }
    }

    fn oldest(&self) -> u32 {
        self.entries.first().map_or(0, |entry| entry.accepted_s)
    }

    /// Frees the lane for another lease.
    fn over(&self, oldest: u32) {
        locked(&self.inner.shared.index).lease_over(self.number, oldest);
        self.inner.shared.list(self.number);
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        let entries = std::mem::take(&mut self.entries);
        if entries.is_empty() {
            return;
        }
        let oldest = entries.first().map_or(0, |entry| entry.accepted_s);
        let back: Vec<Entry> = entries.into_iter().map(|entry| self.unsettled(entry)).collect();
        locked(&self.inner.shared.index).put_back(self.number, &back);
        self.over(oldest);
    }
}
