//! All of the outbox that is in memory: lanes, accounts' backlogs, and how much of each segment is still needed.
//!
//! One lock holds it; no file is touched and nothing is awaited under it.

use std::collections::{BTreeMap, HashMap, HashSet};

use super::due::DueLanes;
use super::lane::{Lane, LaneNo, Listed};
use super::log::Entry;
use super::recent::{Recent, RecentEvent};
use super::segments::Segments;
use super::{Due, LaneStatus, Pause};
use crate::account::{AccountId, LaneKey};

/// What is known of all events that are not settled.
pub(crate) struct Index {
    pub(super) lanes: BTreeMap<LaneNo, Lane>,
    pub(super) numbers: HashMap<LaneKey, LaneNo>,
    /// The number of the next new lane.
    next_number: LaneNo,
    /// Lanes that were forgotten, and of which a state is still kept.
    pub(super) forgotten: Vec<LaneKey>,
    /// Bytes of each account's events that are not settled, or are being appended.
    pub(super) backlog: HashMap<AccountId, u64>,
    pub(crate) segments: Segments,
    recent: Recent,
    due: DueLanes,
    leases_per_lane_max: usize,
    /// Accounts whose lanes a person paused: one that is new begins paused.
    pub(super) held: HashMap<AccountId, Pause>,
    /// Nothing is leased any more.
    closed: bool,
}

/// What ends an event's time in its lane.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum End {
    /// Delivered.
    Delivered,
    /// Delivered as a test.
    Tested,
    /// In a request that Meta took, and not counted by it.
    Uncounted,
    /// In the dead letters.
    Dead,
    /// Too old to be sent, and dropped.
    Expired,
    /// Not readable; what is left of it is in quarantine.
    Damaged,
}

/// Bytes of events that are kept whole in memory.
const RECENT_BYTES: usize = 32 << 20;

// === impl Index ===

impl Index {
    pub(crate) fn new(leases_per_lane_max: usize) -> Self {
        Self {
            lanes: BTreeMap::new(),
            numbers: HashMap::new(),
            next_number: LaneNo(0),
            forgotten: Vec::new(),
            backlog: HashMap::new(),
            segments: Segments::default(),
            recent: Recent::new(RECENT_BYTES),
            due: DueLanes::default(),
            leases_per_lane_max: leases_per_lane_max.max(1),
            held: HashMap::new(),
            closed: false,
        }
    }

    /// A lane's number; a new lane gets one.
    pub(crate) fn number(&mut self, key: &LaneKey) -> LaneNo {
        if let Some(&number) = self.numbers.get(key) {
            return number;
        }
        let number = self.next_number;
        self.next_number.0 += 1;
        let mut lane = Lane::new(key.clone());
        lane.state.paused = self.held.get(&key.account).cloned();
        lane.changed = lane.state.paused.is_some();
        self.lanes.insert(number, lane);
        self.numbers.insert(key.clone(), number);
        number
    }

    /// How all lanes stand.
    pub(crate) fn status(&self) -> Vec<LaneStatus> {
        self.lanes.values().map(Lane::status).collect()
    }

    /// Counts bytes that are about to be appended towards an account's backlog; `false` if they are too many.
    pub(crate) fn reserve(&mut self, account: &AccountId, bytes: u64, max: u64) -> bool {
        let backlog = match self.backlog.get_mut(account) {
            Some(backlog) => backlog,
            None => self.backlog.entry(account.clone()).or_default(),
        };
        let fits = backlog.saturating_add(bytes) <= max;
        if fits {
            *backlog += bytes;
        }
        fits
    }

    /// Gives back what was reserved and not appended.
    pub(crate) fn release(&mut self, account: &AccountId, bytes: u64) {
        if let Some(backlog) = self.backlog.get_mut(account) {
            *backlog = backlog.saturating_sub(bytes);
        }
    }

    /// Takes an event that is durable now; its bytes are reserved.
    pub(crate) fn stored(&mut self, number: LaneNo, entry: Entry, event: RecentEvent) {
        self.recent.push(entry.seq, event);
        self.segments.add_live(&entry);
        let Some(lane) = self.lane_mut(number) else { return };
        lane.bytes += u64::from(entry.len);
        lane.push(entry);
    }

    /// Takes an event that a start found.
    pub(crate) fn found(&mut self, number: LaneNo, entry: Entry) {
        self.segments.add_live(&entry);
        if let Some(lane) = self.lane_mut(number) {
            lane.push_found(entry);
        }
    }

    /// Ends what a start found: lanes in order, backlogs counted. Gives the copies that do not count, see
    /// [`Lane::put_in_order`].
    pub(crate) fn all_found(&mut self, settled_copies: &HashSet<u64>, unconfirmed: &HashSet<u32>) -> Vec<Entry> {
        let mut others = Vec::new();
        for lane in self.lanes.values_mut() {
            others.extend(lane.put_in_order(settled_copies, unconfirmed));
            *self.backlog.entry(lane.key.account.clone()).or_default() += lane.bytes;
        }
        for entry in &others {
            self.segments.remove_live(entry);
        }
        others
    }

    /// Puts a lane among those that are to be served, if it has work; `true` if that is news.
    pub(crate) fn list(&mut self, number: LaneNo) -> bool {
        let leases_max = self.leases_per_lane_max;
        match self.lanes.get_mut(&number) {
            Some(lane) if lane.has_work(leases_max) => {
                let due_ms = lane.due_ms();
                self.due.list(number, &mut lane.listed, due_ms)
            }
            _ => false,
        }
    }

    /// [`Index::list`] for every lane.
    pub(crate) fn list_all(&mut self) {
        let numbers: Vec<_> = self.lanes.keys().copied().collect();
        for number in numbers {
            self.list(number);
        }
    }

    /// Whose turn it is.
    pub(crate) fn next_due(&mut self, now_ms: i64) -> Due {
        while let Some(number) = self.due.pop_waited(now_ms) {
            if let Some(lane) = self.lane_mut(number) {
                lane.listed = Listed::Ready;
            }
        }
        let leases_max = self.leases_per_lane_max;
        while let Some(number) = self.due.pop_ready() {
            let Some(lane) = self.lane_mut(number) else { continue };
            lane.listed = Listed::No;
            if lane.has_work(leases_max) && lane.due_ms() <= now_ms {
                return Due::Lane(lane.key.clone());
            }
            self.list(number);
        }
        self.due.next_time().map_or(Due::Nothing, Due::At)
    }

    /// Takes the oldest events of a lane, if it may be leased from now, and says how often the lane failed. The event `last`
    /// is taken only if there is no other.
    pub(crate) fn take(
        &mut self,
        key: &LaneKey,
        last: &[u64],
        events: usize,
        bytes: u64,
        now_ms: i64,
    ) -> Option<(LaneNo, Vec<Entry>, u32)> {
        let number = *self.numbers.get(key)?;
        let (leases_max, closed) = (self.leases_per_lane_max, self.closed);
        self.take_up(
            number,
            |lane| if lane.aside_until_ms <= now_ms { std::mem::take(&mut lane.aside) } else { Vec::new() },
        );
        let lane = self.lane_mut(number)?;
        if closed || !lane.has_work(leases_max) || lane.state.not_before_ms > now_ms {
            return None;
        }
        // The wait is over. What another lease says from now on holds, whatever becomes of this one.
        lane.changed |= lane.state.not_before_ms != 0;
        lane.state.not_before_ms = 0;
        let taken = lane.take(last, events, bytes);
        lane.in_flight += taken.len() as u64;
        lane.out.push(taken.first()?.accepted_s);
        let failures = lane.state.failures;
        for entry in &taken {
            self.segments.hold(entry);
        }
        self.list(number);
        Some((number, taken, failures))
    }

    /// Takes events of a lane that were accepted before a time, whether or not it may be leased from.
    pub(crate) fn take_aged(
        &mut self,
        key: &LaneKey,
        after_seq: u64,
        before_s: u32,
        max: usize,
    ) -> Option<(LaneNo, Vec<Entry>)> {
        let number = *self.numbers.get(key)?;
        let closed = self.closed;
        self.take_up(number, |lane| {
            let is_aged = |entry: &mut Entry| entry.seq > after_seq && entry.accepted_s < before_s;
            lane.aside.extract_if(.., is_aged).collect()
        });
        let lane = self.lane_mut(number).filter(|_| !closed)?;
        let taken = lane.take_aged(after_seq, before_s, max);
        lane.in_flight += taken.len() as u64;
        lane.out.push(taken.first()?.accepted_s);
        for entry in &taken {
            self.segments.hold(entry);
        }
        Some((number, taken))
    }

    /// Takes events out of what is kept whole in memory.
    pub(crate) fn take_recent(&mut self, entries: &[Entry]) -> Vec<Option<RecentEvent>> {
        entries.iter().map(|entry| self.recent.take(entry.seq)).collect()
    }

    /// Puts leased events back in their place, the oldest first.
    pub(crate) fn put_back(&mut self, number: LaneNo, entries: &[Entry]) {
        for entry in entries {
            self.segments.release_hold(entry);
        }
        if let Some(lane) = self.lane_mut(number) {
            lane.in_flight -= entries.len() as u64;
            lane.put_back(entries);
        }
    }

    /// Sets leased events aside until a time, Unix milliseconds: the disk would not give them, and others are not to wait for
    /// them. They count as waiting, and keep their segment from being emptied.
    pub(crate) fn set_aside(&mut self, number: LaneNo, entries: &[Entry], until_ms: i64) {
        let Some(lane) = self.lane_mut(number).filter(|_| !entries.is_empty()) else { return };
        lane.in_flight -= entries.len() as u64;
        lane.aside.extend_from_slice(entries);
        lane.aside.sort_unstable_by_key(|entry| entry.seq);
        lane.aside_until_ms = until_ms;
    }

    /// Puts those that were set aside and are taken from there back in their place.
    fn take_up(&mut self, number: LaneNo, take: impl FnOnce(&mut Lane) -> Vec<Entry>) {
        let Some(lane) = self.lane_mut(number) else { return };
        let back = take(lane);
        lane.in_flight += back.len() as u64;
        self.put_back(number, &back);
    }

    /// Forgets leased events whose end is marked.
    pub(crate) fn settle(&mut self, number: LaneNo, entries: &[Entry], end: End) {
        for entry in entries {
            self.segments.release_hold(entry);
            self.segments.remove_live(entry);
        }
        let bytes = entries.iter().map(|entry| u64::from(entry.len)).sum();
        let Some(lane) = self.lane_mut(number) else { return };
        let count = entries.len() as u64;
        lane.in_flight -= count;
        lane.bytes -= bytes;
        *lane.state.counts.of(end) += count;
        if matches!(end, End::Delivered | End::Tested | End::Uncounted) {
            lane.state.failures = 0;
        }
        lane.changed = true;
        let account = lane.key.account.clone();
        self.release(&account, bytes);
    }

    /// Dead letters of a lane were dropped for their age.
    pub(crate) fn purged(&mut self, key: &LaneKey, letters: u64) {
        let number = self.number(key);
        self.change_state(number, |state| state.counts.purged += letters);
    }

    /// Which lane has this number.
    pub(crate) fn key(&self, number: LaneNo) -> Option<LaneKey> {
        Some(self.lanes.get(&number)?.key.clone())
    }

    /// A lease whose oldest event was accepted then is out.
    pub(crate) fn lease_began(&mut self, number: LaneNo, accepted_s: u32) {
        if let Some(lane) = self.lane_mut(number) {
            lane.out.push(accepted_s);
        }
    }

    /// A lease whose oldest event was accepted then is over.
    pub(crate) fn lease_over(&mut self, number: LaneNo, accepted_s: u32) {
        if let Some(lane) = self.lane_mut(number)
            && let Some(place) = lane.out.iter().position(|&out| out == accepted_s)
        {
            lane.out.swap_remove(place);
        }
    }

    /// Takes waiting events of the first lane from a number on that are in a segment, about so many bytes, so that they can
    /// be copied; says which lane that is. [`Index::moved`] ends it. `None` when there is no such lane.
    pub(crate) fn take_to_move(&mut self, from: LaneNo, segment: u32, bytes: u64) -> Option<(LaneNo, Vec<Entry>)> {
        let (&number, lane) = self.lanes.range_mut(from..).next()?;
        let taken = lane.take_segment(segment, bytes);
        lane.in_flight += taken.len() as u64;
        for entry in &taken {
            self.segments.hold(entry);
        }
        Some((number, taken))
    }

    /// Puts events of a lane back that are in another place now, no longer or shorter there, each with its old entry, which is
    /// no longer needed.
    pub(crate) fn moved(&mut self, number: LaneNo, moved: &[(Entry, Entry)]) {
        for (old, new) in moved {
            self.segments.release_hold(old);
            self.segments.remove_live(old);
            self.segments.add_live(new);
            self.segments.hold(new);
            self.segments.set_has_copies(new.segment);
        }
        let new: Vec<_> = moved.iter().map(|(_, new)| *new).collect();
        self.put_back(number, &new);
    }

    /// Events of which the marks may say that they may have been sent, though they were not.
    pub(crate) fn doubted(&self) -> Vec<Entry> {
        self.lanes.values().flat_map(Lane::waiting).filter(|entry| entry.is_doubted()).copied().collect()
    }

    /// Nothing is leased from now on.
    pub(crate) fn close(&mut self) {
        self.closed = true;
    }

    pub(super) fn lane_mut(&mut self, number: LaneNo) -> Option<&mut Lane> {
        self.lanes.get_mut(&number)
    }
}
