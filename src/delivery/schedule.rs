//! Whose turn it is: lanes that have something to send share the slots round robin; one that waits holds none.

use std::collections::{HashMap, HashSet, VecDeque};

use crate::account::LaneKey;

/// How many requests may be in flight.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Slots {
    /// In all.
    pub(crate) total: usize,
    /// Of one lane.
    pub(crate) per_lane: usize,
}

/// A slot that a lane has. It goes back with [`Schedule::end`].
#[derive(Debug)]
pub(crate) struct Slot {
    /// Whose it is.
    pub(crate) lane: LaneKey,
    /// Taken from the share of the lanes that fail.
    failing: bool,
}

/// The turns of all lanes that have something to send.
#[derive(Debug)]
pub(crate) struct Schedule {
    slots: Slots,
    sound: VecDeque<LaneKey>,
    failing: VecDeque<LaneKey>,
    /// The lanes that are in one of the two.
    queued: HashSet<LaneKey>,
    /// Lanes whose last request failed.
    fails: HashSet<LaneKey>,
    in_flight: HashMap<LaneKey, usize>,
    in_flight_total: usize,
    in_flight_failing: usize,
    /// Lanes that have all their slots and more to send.
    more: HashSet<LaneKey>,
    /// Which of the two queues is asked first; they take turns.
    failing_first: bool,
}

// === impl Schedule ===

impl Schedule {
    /// No lane has anything to send yet.
    pub(crate) fn new(slots: Slots) -> Self {
        Self {
            slots,
            sound: VecDeque::new(),
            failing: VecDeque::new(),
            queued: HashSet::new(),
            fails: HashSet::new(),
            in_flight: HashMap::new(),
            in_flight_total: 0,
            in_flight_failing: 0,
            more: HashSet::new(),
            failing_first: false,
        }
    }

    /// Forgets that lanes failed, but of those that stay.
    pub(crate) fn retain(&mut self, stays: impl Fn(&LaneKey) -> bool) {
        self.fails.retain(stays);
    }

    /// From now on as many requests may be in flight.
    pub(crate) fn resize(&mut self, slots: Slots) {
        self.slots = slots;
    }

    /// A lane has something to send. It keeps its turn if it has one.
    pub(crate) fn due(&mut self, lane: LaneKey) {
        if self.in_flight.get(&lane).is_some_and(|count| *count >= self.slots.per_lane.max(1)) {
            self.more.insert(lane);
        } else if self.queued.insert(lane.clone()) {
            let queue = if self.fails.contains(&lane) { &mut self.failing } else { &mut self.sound };
            queue.push_back(lane);
        }
    }

    /// Gives a free slot to the lane whose turn it is. Lanes that fail share half the slots, so that their timeouts
    /// never keep the others waiting.
    pub(crate) fn begin(&mut self) -> Option<Slot> {
        if self.in_flight_total >= self.slots.total.max(1) {
            return None;
        }
        let failing_allowed = self.in_flight_failing < (self.slots.total / 2).max(1);
        let ask_failing = failing_allowed && (self.failing_first || self.sound.is_empty());
        let from_failing = ask_failing && !self.failing.is_empty();
        let lane = if from_failing { self.failing.pop_front() } else { self.sound.pop_front() }?;
        self.failing_first = !from_failing;
        self.queued.remove(&lane);
        *self.in_flight.entry(lane.clone()).or_default() += 1;
        self.in_flight_total += 1;
        self.in_flight_failing += usize::from(from_failing);
        Some(Slot { lane, failing: from_failing })
    }

    /// Takes a slot back. `failed` is whether the lane's request failed; `None` if it sent none.
    pub(crate) fn end(&mut self, slot: Slot, failed: Option<bool>) {
        let Slot { lane, failing } = slot;
        self.in_flight_total = self.in_flight_total.saturating_sub(1);
        self.in_flight_failing = self.in_flight_failing.saturating_sub(usize::from(failing));
        if let Some(count) = self.in_flight.get_mut(&lane) {
            *count = count.saturating_sub(1);
            if *count == 0 {
                self.in_flight.remove(&lane);
            }
        }
        match failed {
            Some(true) => drop(self.fails.insert(lane.clone())),
            Some(false) => drop(self.fails.remove(&lane)),
            None => {}
        }
        if self.more.remove(&lane) {
            self.due(lane);
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn lane(pixel: usize) -> LaneKey {
        LaneKey { account: "shoes".parse().unwrap(), pixel: pixel.to_string().parse().unwrap() }
    }

    fn schedule(total: usize) -> Schedule {
        Schedule::new(Slots { total, per_lane: 1 })
    }

    fn pixel(slot: &Slot) -> u64 {
        slot.lane.pixel.as_u64()
    }

    fn begin_all(schedule: &mut Schedule) -> Vec<Slot> {
        std::iter::from_fn(|| schedule.begin()).collect()
    }

    #[test]
    fn lanes_take_turns() {
        let mut schedule = schedule(1);
        (1..=3).for_each(|n| schedule.due(lane(n)));
        let mut order = Vec::new();
        for _ in 0..7 {
            let slot = schedule.begin().unwrap();
            assert!(schedule.begin().is_none(), "one slot in all");
            order.push(pixel(&slot));
            schedule.due(slot.lane.clone());
            schedule.end(slot, Some(false));
        }
        assert_eq!(order, [1, 2, 3, 1, 2, 3, 1]);
    }

    #[test]
    fn a_lane_has_one_request_in_flight_and_its_turn_after_it() {
        let mut schedule = schedule(64);
        schedule.due(lane(1));
        let slot = schedule.begin().unwrap();
        schedule.due(lane(1));
        schedule.due(lane(1));
        assert!(schedule.begin().is_none());
        schedule.end(slot, Some(false));
        let slot = schedule.begin().unwrap();
        schedule.end(slot, None);
        assert!(schedule.begin().is_none(), "nothing came meanwhile");
    }

    #[test]
    fn more_than_one_request_of_a_lane_is_possible() {
        let mut schedule = Schedule::new(Slots { total: 64, per_lane: 2 });
        schedule.due(lane(1));
        let _first = schedule.begin().unwrap();
        schedule.due(lane(1));
        let second = schedule.begin().unwrap();
        schedule.due(lane(1));
        assert!(schedule.begin().is_none());
        schedule.end(second, Some(false));
        assert!(schedule.begin().is_some());
    }

    #[test]
    fn failing_lanes_share_half_the_slots() {
        let mut schedule = schedule(6);
        (1..=6).for_each(|n| schedule.due(lane(n)));
        for slot in begin_all(&mut schedule) {
            schedule.due(slot.lane.clone());
            schedule.end(slot, Some(true));
        }
        let stuck = begin_all(&mut schedule);
        assert_eq!(stuck.iter().map(pixel).collect::<Vec<_>>(), [1, 2, 3], "three of six slots");
        (11..=14).for_each(|n| schedule.due(lane(n)));
        assert_eq!(begin_all(&mut schedule).iter().map(pixel).collect::<Vec<_>>(), [11, 12, 13]);
    }

    #[test]
    fn sound_lanes_do_not_starve_failing_ones() {
        let mut schedule = schedule(1);
        schedule.due(lane(1));
        let slot = schedule.begin().unwrap();
        schedule.end(slot, Some(true));
        [1, 11, 12].into_iter().for_each(|n| schedule.due(lane(n)));
        let mut order = Vec::new();
        for _ in 0..6 {
            let slot = schedule.begin().unwrap();
            order.push(pixel(&slot));
            schedule.due(slot.lane.clone());
            let fails = pixel(&slot) == 1;
            schedule.end(slot, Some(fails));
        }
        assert_eq!(order, [1, 11, 1, 12, 1, 11]);
    }

    #[test]
    fn fewer_slots_hold_once_the_others_came_back() {
        let mut schedule = schedule(2);
        (1..=3).for_each(|n| schedule.due(lane(n)));
        let mut begun = begin_all(&mut schedule);
        schedule.resize(Slots { total: 1, per_lane: 1 });
        schedule.end(begun.pop().unwrap(), Some(false));
        assert!(schedule.begin().is_none());
        schedule.end(begun.pop().unwrap(), Some(false));
        assert_eq!(begin_all(&mut schedule).len(), 1);
    }
}
