//! A lease: events that one request may take, until what became of them is said.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;

use super::dead::DeadLetter;
use super::index::End;
use super::keeper::Task;
use super::lane::LaneNo;
use super::log::{Entry, MarkKind};
use super::{Inner, Outbox, fetch, locked};
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
    /// Meta has it, as a test.
    Tested,
    /// Meta took the request, and did not count it.
    Uncounted,
    /// Meta does not have it, or maybe; it goes back to its lane.
    Retry(Sent),
    /// It is too old for Meta to take: it is dropped.
    Expire,
    /// Meta will not have it; it goes to the dead letters.
    Bury {
        /// Why, as a metric would say it.
        reason: String,
        /// Why, for a person.
        message: String,
    },
}

/// Whether a request that failed may have been taken all the same. What was in no request stays as it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sent {
    /// It surely was not, and is no attempt: nothing was written, or Meta wants less of everything for now.
    No,
    /// It surely was not: Meta refused it.
    Refused,
    /// Nobody knows: it was written, and no answer came.
    Maybe,
}

/// How long a lane waits of which the disk gave nothing.
const NOTHING_READ_MS: i64 = 10_000;
/// How long an event is set aside that the disk would not give.
const READ_AGAIN_MS: i64 = 600_000;
/// For so long after it was accepted it is tried again; Meta takes no older ones, those of physical stores included.
const READ_MAX_MS: i64 = 62 * 86_400_000;

// === impl Outbox ===

impl Outbox {
    /// Takes the oldest events of a lane that may go in one request: of one envelope, at most so many and so many bytes (of
    /// the log; bodies are a little less), at least one. `None` if the lane is paused, must wait, has nothing, or has as many
    /// leases out as it may. May read the disk when there is a backlog.
    pub fn lease(&self, lane: &LaneKey, max_events: usize, max_bytes: u64, now_ms: i64) -> Option<Lease> {
        self.lease_after_others(lane, &[], max_events, max_bytes, now_ms)
    }

    /// The same; of the events in `last`, which are few, one comes only when no others are there.
    pub fn lease_after_others(
        &self,
        lane: &LaneKey,
        last: &[u64],
        max_events: usize,
        max_bytes: u64,
        now_ms: i64,
    ) -> Option<Lease> {
        loop {
            let taken = locked(&self.inner.shared.index).take(lane, last, max_events, max_bytes, now_ms);
            let (number, taken, failures) = taken?;
            if let Some(lease) = self.read(lane, number, taken, failures, now_ms) {
                return Some(lease);
            }
        }
    }

    /// Takes events that were accepted before a time, Unix milliseconds, whether or not the lane may send: of one envelope,
    /// those after `after_seq`, at most so many. Reads the disk.
    pub fn lease_aged(
        &self,
        lane: &LaneKey,
        after_seq: u64,
        before_ms: i64,
        max_events: usize,
        now_ms: i64,
    ) -> Option<Lease> {
        let before_s = u32::try_from(before_ms.div_euclid(1_000)).ok()?;
        let mut after_seq = after_seq;
        loop {
            let taken = locked(&self.inner.shared.index).take_aged(lane, after_seq, before_s, max_events);
            let (number, taken) = taken?;
            after_seq = taken.last()?.seq;
            if let Some(lease) = self.read(lane, number, taken, 0, now_ms) {
                return Some(lease);
            }
        }
    }

    /// Reads what was taken from a lane; `None` if none of it could be read.
    fn read(&self, lane: &LaneKey, number: LaneNo, taken: Vec<Entry>, failures: u32, now_ms: i64) -> Option<Lease> {
        let oldest = taken.first()?.accepted_s;
        let fetched = fetch::fetch(&self.inner.shared, number, taken);
        let nothing = fetched.entries.is_empty();
        let is_old = |entry: &Entry| now_ms - i64::from(entry.accepted_s) * 1_000 > READ_MAX_MS;
        let (old, unreadable): (Vec<_>, Vec<_>) = fetched.unreadable.into_iter().partition(is_old);
        self.inner.shared.lost(number, &old);
        let mut index = locked(&self.inner.shared.index);
        index.set_aside(number, &unreadable, now_ms + READ_AGAIN_MS);
        index.lease_over(number, oldest);
        if let Some(first) = fetched.entries.first() {
            index.lease_began(number, first.accepted_s);
        }
        if nothing && !unreadable.is_empty() {
            index.change_state(number, |state| {
                state.not_before_ms = state.not_before_ms.max(now_ms + NOTHING_READ_MS);
            });
        }
        drop(index);
        if nothing {
            self.inner.shared.list(number);
            return None;
        }
        Some(Lease {
            inner: Arc::clone(&self.inner),
            lane: lane.clone(),
            number,
            envelope: fetched.envelope,
            failures,
            entries: fetched.entries,
            events: fetched.events,
            sent: false,
        })
    }
}

// === impl Lease ===

impl Lease {
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
        let marked = self.entries.iter_mut().filter_map(|entry| entry.sends().then_some(*entry));
        let marked: Vec<Entry> = marked.collect();
        self.inner.shared.mark(MarkKind::Sent, &marked);
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

    /// Says of each event in turn what became of it; those that nothing is said of go back as they were. `now_ms` is when
    /// the buried ones became dead letters. See also [`Outbox::hold_off`].
    pub fn settle(mut self, settlements: Vec<Settlement>, now_ms: i64) {
        let entries = std::mem::take(&mut self.entries);
        let events = std::mem::take(&mut self.events);
        let oldest = entries.first().map_or(0, |entry| entry.accepted_s);
        let (mut ended, mut back) = (BTreeMap::<End, Vec<Entry>>::new(), Vec::new());
        let (mut refused, mut not_sent) = (Vec::new(), Vec::new());
        let (mut buried, mut letters) = (Vec::new(), Vec::new());
        let mut settlements = settlements.into_iter();
        for (mut entry, event) in entries.into_iter().zip(events) {
            match settlements.next() {
                Some(Settlement::Ack) => ended.entry(End::Delivered).or_default().push(entry),
                Some(Settlement::Tested) => ended.entry(End::Tested).or_default().push(entry),
                Some(Settlement::Uncounted) => ended.entry(End::Uncounted).or_default().push(entry),
                Some(Settlement::Expire) => ended.entry(End::Expired).or_default().push(entry),
                Some(Settlement::Bury { reason, message }) => {
                    buried.push(entry);
                    letters.push(self.letter(event, entry.attempts, reason, message, now_ms));
                }
                Some(Settlement::Retry(sent)) => {
                    entry.maybe_sent |= sent == Sent::Maybe;
                    entry.attempts -= u16::from(self.sent && sent == Sent::No).min(entry.attempts);
                    if self.sent && entry.comes_back() {
                        let marked = if sent == Sent::No { &mut not_sent } else { &mut refused };
                        marked.push(entry);
                    }
                    back.push(entry);
                }
                None => back.push(self.unsettled(entry)),
            }
        }
        let shared = &self.inner.shared;
        for (end, entries) in ended {
            shared.settle(self.number, &entries, end);
        }
        shared.mark(MarkKind::Refused, &refused);
        shared.mark(MarkKind::NotSent, &not_sent);
        locked(&shared.index).put_back(self.number, &back);
        if !buried.is_empty() {
            self.inner.ask_keeper(Task::Bury { lane: self.number, entries: buried, letters, now_ms });
        }
        self.over(oldest);
    }

    fn letter(&self, event: Leased, attempts: u16, reason: String, message: String, now_ms: i64) -> DeadLetter {
        DeadLetter {
            id: 0,
            lane: self.lane.clone(),
            event_name: event.event_name,
            event_id: event.event_id,
            event_time: event.event_time,
            reason,
            message,
            attempts: u32::from(attempts),
            accepted_ms: event.accepted_ms,
            dead_ms: now_ms,
            envelope: Arc::clone(&self.envelope),
            body: event.body,
            context: String::new(),
        }
    }

    /// An entry that goes back without a word on it.
    fn unsettled(&self, entry: Entry) -> Entry {
        Entry { maybe_sent: entry.maybe_sent || self.sent, ..entry }
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
