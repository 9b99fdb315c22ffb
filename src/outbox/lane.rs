//! One lane in memory: what waits in it, in order, and whether it may be leased from.

use std::collections::{HashSet, VecDeque};

use super::index::End;
use super::log::Entry;
use super::{LaneStatus, Pause};
use crate::account::LaneKey;

/// A lane's number in this process. That of a lane that was forgotten is never given again: who still has it means nobody.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct LaneNo(pub(crate) u64);

/// One pixel's queue.
pub(crate) struct Lane {
    pub(crate) key: LaneKey,
    /// What waits, by seq.
    queue: VecDeque<Entry>,
    /// What the disk would not give, by seq, and when that is tried again, Unix milliseconds.
    pub(super) aside: Vec<Entry>,
    pub(super) aside_until_ms: i64,
    /// For each lease that is out: when its oldest event was accepted, Unix seconds.
    pub(crate) out: Vec<u32>,
    /// Events that are leased, or on their way to the dead letters.
    pub(crate) in_flight: u64,
    /// Bytes of all events that are not settled.
    pub(crate) bytes: u64,
    /// What is kept of it over a restart.
    pub(crate) state: LaneState,
    /// Whether `state` is newer than what is kept.
    pub(crate) changed: bool,
    /// Where it stands among those that are to be served.
    pub(crate) listed: Listed,
}

/// What is kept of a lane over a restart, beside its events.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct LaneState {
    pub(crate) paused: Option<Pause>,
    /// Nothing is leased before this, Unix milliseconds; 0 for at once.
    pub(crate) not_before_ms: i64,
    /// Retries since the last success.
    pub(crate) failures: u32,
    pub(crate) counts: Counts,
}

/// What became of a lane's events since the first start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Meta has them.
    pub delivered: u64,
    /// Meta has them as tests (`test_event_code`).
    pub tested: u64,
    /// Meta took the request and did not count them.
    pub uncounted: u64,
    /// They became dead letters.
    pub dead: u64,
    /// They grew too old to be sent, and were dropped.
    pub expired: u64,
    /// They were dead letters that nobody took up in time, and were dropped.
    pub purged: u64,
    /// They could not be read any more.
    pub damaged: u64,
}

/// Where a lane stands among those that are to be served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Listed {
    /// Nowhere.
    No,
    /// With those that are due.
    Ready,
    /// With those that wait for a time, this one.
    Waiting(i64),
}

/// How many entries from the front are looked at for more of one envelope.
const LOOK_AHEAD: usize = 4_096;

// === impl Lane ===

impl Lane {
    pub(crate) fn new(key: LaneKey) -> Self {
        Self {
            key,
            queue: VecDeque::new(),
            aside: Vec::new(),
            aside_until_ms: 0,
            out: Vec::new(),
            in_flight: 0,
            bytes: 0,
            state: LaneState::default(),
            changed: false,
            listed: Listed::No,
        }
    }

    /// Adds what was accepted last.
    pub(crate) fn push(&mut self, entry: Entry) {
        self.grow(1);
        self.queue.push_back(entry);
    }

    /// Adds what a start found; [`Lane::put_in_order`] follows.
    pub(crate) fn push_found(&mut self, entry: Entry) {
        self.grow(1);
        self.queue.push_back(entry);
        self.bytes += u64::from(entry.len);
    }

    /// Sorts what a start found by age. Of an event that is there twice the newest copy stays, the oldest if all are in
    /// segments that may be in memory only, and none if a copy is settled; the others are given back.
    pub(crate) fn put_in_order(&mut self, settled_copies: &HashSet<u64>, unconfirmed: &HashSet<u32>) -> Vec<Entry> {
        let queue = self.queue.make_contiguous();
        if settled_copies.is_empty() && queue.is_sorted_by(|a, b| a.seq < b.seq) {
            return Vec::new();
        }
        queue.sort_unstable_by_key(|entry| {
            let (segment, is_unconfirmed) = (i64::from(entry.segment), unconfirmed.contains(&entry.segment));
            (entry.seq, is_unconfirmed, if is_unconfirmed { segment } else { -segment })
        });
        let mut others = Vec::new();
        let mut last = None;
        self.queue.retain(|entry| {
            let first = last.replace(entry.seq) != Some(entry.seq);
            let stays = first && !settled_copies.contains(&entry.seq);
            if !stays {
                others.push(*entry);
            }
            stays
        });
        self.bytes -= others.iter().map(|entry| u64::from(entry.len)).sum::<u64>();
        others
    }

    /// Puts events back, in the order of their seqs, to where their age places them: one merge with what lies on the shorter
    /// side of the queue, however many they are.
    pub(crate) fn put_back(&mut self, entries: &[Entry]) {
        let (Some(first), Some(last)) = (entries.first(), entries.last()) else { return };
        let begin = self.queue.partition_point(|other| other.seq < first.seq);
        let end = self.queue.partition_point(|other| other.seq < last.seq);
        let is_front = end <= self.queue.len() - begin;
        let side = if is_front { 0..end } else { begin..self.queue.len() };
        let mut merged: Vec<Entry> = self.queue.drain(side).collect();
        merged.extend_from_slice(entries);
        // Two runs: it takes one pass.
        merged.sort_by_key(|entry| entry.seq);
        self.grow(merged.len());
        if is_front {
            merged.into_iter().rev().for_each(|entry| self.queue.push_front(entry));
        } else {
            self.queue.extend(merged);
        }
    }

    /// Takes the oldest events that share an envelope, up to a number and a size, and at least one; of those in `last`, which
    /// are few, the oldest, and only if there are no others.
    pub(crate) fn take(&mut self, last: &[u64], max_events: usize, max_bytes: u64) -> Vec<Entry> {
        let is_last = |entry: &Entry| last.contains(&entry.seq);
        let first = self.queue.iter().find(|entry| !is_last(entry)).or(self.queue.front());
        let Some(&Entry { seq: first, envelope, .. }) = first else { return Vec::new() };
        let (mut taken, mut skipped, mut bytes) = (Vec::new(), Vec::new(), 0);
        while taken.len() < max_events.max(1) && taken.len() + skipped.len() < LOOK_AHEAD.max(max_events) {
            let Some(entry) = self.queue.pop_front() else { break };
            if entry.envelope != envelope || is_last(&entry) && entry.seq != first {
                skipped.push(entry);
                continue;
            }
            bytes += u64::from(entry.len);
            if bytes > max_bytes && !taken.is_empty() {
                skipped.push(entry);
                break;
            }
            taken.push(entry);
        }
        for entry in skipped.into_iter().rev() {
            self.queue.push_front(entry);
        }
        self.shrink();
        taken
    }

    /// Takes the oldest events after a seq that share an envelope and were accepted before a time, Unix seconds.
    pub(crate) fn take_aged(&mut self, after_seq: u64, before_s: u32, max: usize) -> Vec<Entry> {
        let begin = self.queue.partition_point(|entry| entry.seq <= after_seq);
        let rest = self.queue.range(begin..);
        let envelope = rest.clone().next().map_or(0, |first| first.envelope);
        let aged = rest.take(max).take_while(|entry| entry.envelope == envelope && entry.accepted_s < before_s);
        let end = begin + aged.count();
        let taken = self.queue.drain(begin..end).collect();
        self.shrink();
        taken
    }

    /// Takes waiting events that are in one segment, the oldest first, until they are so many bytes.
    pub(crate) fn take_segment(&mut self, segment: u32, bytes: u64) -> Vec<Entry> {
        let (mut taken, mut left) = (Vec::new(), bytes);
        self.queue.retain(|entry| {
            let stays = entry.segment != segment || left == 0;
            if !stays {
                taken.push(*entry);
                left = left.saturating_sub(u64::from(entry.len));
            }
            stays
        });
        self.shrink();
        taken
    }

    /// Whether it has something to lease once its time has come.
    pub(crate) fn has_work(&self, leases_max: usize) -> bool {
        let waits = !self.queue.is_empty() || !self.aside.is_empty();
        waits && self.state.paused.is_none() && self.out.len() < leases_max
    }

    /// When that time is, Unix milliseconds; 0 for now.
    pub(crate) fn due_ms(&self) -> i64 {
        let only_aside = self.queue.is_empty() && !self.aside.is_empty();
        self.state.not_before_ms.max(if only_aside { self.aside_until_ms } else { 0 })
    }

    /// What waits, and what was set aside.
    pub(crate) fn waiting(&self) -> impl Iterator<Item = &Entry> {
        self.queue.iter().chain(&self.aside)
    }

    /// Events that wait.
    pub(crate) fn pending(&self) -> u64 {
        (self.queue.len() + self.aside.len()) as u64
    }

    /// How it stands.
    pub(crate) fn status(&self) -> LaneStatus {
        let waiting = self.queue.front().into_iter().chain(self.aside.first()).map(|entry| entry.accepted_s);
        let oldest = self.out.iter().copied().chain(waiting).min();
        LaneStatus {
            lane: self.key.clone(),
            pending: self.pending(),
            in_flight: self.in_flight,
            bytes: self.bytes,
            oldest_accepted_ms: oldest.map(|seconds| i64::from(seconds) * 1000),
            paused: self.state.paused.clone(),
            not_before_ms: self.state.not_before_ms,
            failures: self.state.failures,
            counts: self.state.counts,
        }
    }

    /// Makes room for so many more, by a quarter and not by doubling: a backlog's memory is what its events need.
    fn grow(&mut self, more: usize) {
        if self.queue.capacity() - self.queue.len() < more {
            self.queue.reserve_exact((self.queue.len() / 4).max(8).max(more));
        }
    }

    fn shrink(&mut self) {
        if self.queue.capacity() > 64 && self.queue.len() < self.queue.capacity() / 4 {
            self.queue.shrink_to(self.queue.len() * 2);
        }
    }
}

// === impl Counts ===

impl Counts {
    /// The count of what ended so.
    pub(crate) fn of(&mut self, end: End) -> &mut u64 {
        match end {
            End::Delivered => &mut self.delivered,
            End::Tested => &mut self.tested,
            End::Uncounted => &mut self.uncounted,
            End::Dead => &mut self.dead,
            End::Expired => &mut self.expired,
            End::Damaged => &mut self.damaged,
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn lane() -> Lane {
        Lane::new(LaneKey { account: "shoes".parse().unwrap(), pixel: "1".parse().unwrap() })
    }

    fn entry(seq: u64, segment: u32, envelope: u32) -> Entry {
        Entry { seq, segment, at: 0, len: 100, envelope, accepted_s: 0, attempts: 0, maybe_sent: false, marks: 0 }
    }

    fn seqs(entries: &[Entry]) -> Vec<u64> {
        entries.iter().map(|entry| entry.seq).collect()
    }

    #[test]
    fn the_oldest_of_one_envelope_go_together() {
        let mut lane = lane();
        for (seq, envelope) in [(1, 0), (2, 7), (3, 0), (4, 0), (5, 7)] {
            lane.push(entry(seq, 1, envelope));
        }
        assert_eq!(seqs(&lane.take(&[], 2, 1_000)), [1, 3]);
        assert_eq!(seqs(&lane.take(&[], 9, 100)), [2], "at most 100 bytes");
        assert_eq!(seqs(&lane.take(&[], 9, 0)), [4], "at least one");
        assert_eq!(seqs(&lane.take(&[], 9, 1_000)), [5]);
    }

    #[test]
    fn one_may_have_to_let_all_others_go_first() {
        let mut lane = lane();
        for (seq, envelope) in [(1, 0), (2, 7), (3, 0), (4, 7)] {
            lane.push(entry(seq, 1, envelope));
        }
        assert_eq!(seqs(&lane.take(&[1], 9, 1_000)), [2, 4]);
        assert_eq!(seqs(&lane.take(&[1], 9, 1_000)), [3]);
        assert_eq!(seqs(&lane.take(&[1], 9, 1_000)), [1], "it is the only one");
        assert!(lane.take(&[1], 9, 1_000).is_empty());
        for (seq, envelope) in [(5, 0), (6, 7), (7, 7), (8, 0), (9, 7)] {
            lane.push(entry(seq, 1, envelope));
        }
        assert_eq!(seqs(&lane.take(&[5, 6, 7], 9, 1)), [8], "whatever their envelopes and sizes are");
        assert_eq!(seqs(&lane.take(&[5, 6, 7], 9, 1_000)), [9]);
        assert_eq!(seqs(&lane.take(&[5, 6, 7], 9, 1_000)), [5], "the oldest of them, alone");
    }

    #[test]
    fn what_comes_back_is_in_order_again() {
        let mut lane = lane();
        (1..=6).for_each(|seq| lane.push(entry(seq, 1, 0)));
        let (first, second) = (lane.take(&[], 2, 1_000), lane.take(&[], 2, 1_000));
        lane.put_back(&second);
        lane.put_back(&first);
        assert_eq!(seqs(&lane.take(&[], 9, 1_000)), [1, 2, 3, 4, 5, 6]);
    }

    #[test]
    fn what_comes_back_is_in_order_wherever_it_belongs() {
        let seqs_back: [&[u64]; 6] = [&[2], &[4, 8], &[14], &[12, 14, 30], &[1, 30], &[6, 10]];
        for back in seqs_back {
            let mut lane = lane();
            let wait: Vec<_> = (1..=30).filter(|seq| !back.contains(seq)).collect();
            wait.iter().for_each(|&seq| lane.push(entry(seq, 1, 0)));
            lane.put_back(&back.iter().map(|&seq| entry(seq, 2, 0)).collect::<Vec<_>>());
            let all = lane.take(&[], 99, u64::MAX);
            assert_eq!(seqs(&all), (1..=30).collect::<Vec<_>>());
            assert!(all.iter().all(|entry| (entry.segment == 2) == back.contains(&entry.seq)));
        }
    }

    /// One by one, each of these would move half a million others.
    #[test]
    fn many_come_back_into_a_long_queue_at_once() {
        const LEN: u64 = 1_000_000;
        let mut lane = lane();
        (0..LEN).for_each(|seq| lane.push(entry(seq, (seq % 100 == 0).into(), 0)));
        let taken = lane.take_segment(1, u64::MAX);
        assert_eq!(taken.len(), 10_000);
        let begun = std::time::Instant::now();
        lane.put_back(&taken);
        assert!(begun.elapsed().as_secs() < 3, "{:?}", begun.elapsed());
        assert!(lane.queue.iter().map(|entry| entry.seq).eq(0..LEN));
    }

    #[test]
    fn of_two_copies_the_newer_stays() {
        let mut lane = lane();
        for (seq, segment) in [(3, 1), (4, 1), (5, 1), (3, 2), (9, 2)] {
            lane.push_found(entry(seq, segment, 0));
        }
        assert_eq!(lane.put_in_order(&HashSet::from([5]), &HashSet::new()), [entry(3, 1, 0), entry(5, 1, 0)]);
        assert_eq!(lane.bytes, 300);
        assert_eq!(lane.take(&[], 9, 1_000), [entry(3, 2, 0), entry(4, 1, 0), entry(9, 2, 0)]);
    }

    #[test]
    fn a_copy_that_may_be_in_memory_only_counts_instead_of_no_other() {
        let mut lane = lane();
        for (seq, segment) in [(3, 1), (4, 1), (3, 2), (5, 3), (3, 3), (4, 4), (5, 4), (6, 4)] {
            lane.push_found(entry(seq, segment, 0));
        }
        let others = lane.put_in_order(&HashSet::new(), &HashSet::from([3, 4]));
        assert_eq!(others, [entry(3, 1, 0), entry(3, 3, 0), entry(4, 4, 0), entry(5, 4, 0)]);
        assert_eq!(lane.take(&[], 9, 1_000), [entry(3, 2, 0), entry(4, 1, 0), entry(5, 3, 0), entry(6, 4, 0)]);
    }

    #[test]
    fn events_of_a_segment_are_taken_in_parts() {
        let mut lane = lane();
        for (seq, segment) in [(1, 1), (2, 2), (3, 1), (4, 1), (5, 1)] {
            lane.push(entry(seq, segment, 0));
        }
        assert_eq!(seqs(&lane.take_segment(1, 150)), [1, 3], "100 bytes each");
        assert_eq!(seqs(&lane.take_segment(1, 1_000)), [4, 5]);
        assert_eq!(seqs(&lane.take_segment(2, 1)), [2]);
    }

    #[test]
    fn memory_follows_the_backlog() {
        let mut lane = lane();
        (0..100_000).for_each(|seq| lane.push(entry(seq, 1, 0)));
        assert!(lane.queue.capacity() <= 125_008);
        lane.take(&[], 99_000, u64::MAX);
        assert!(lane.queue.capacity() <= 25_000);
    }
}
