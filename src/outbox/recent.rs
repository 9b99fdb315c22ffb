//! What was accepted last, whole: a lane that keeps up is served from here and never reads the disk.

use std::collections::VecDeque;

use super::NewEvent;

/// The latest events, bounded by bytes and by number.
pub(crate) struct Recent {
    /// The seq of the first slot.
    first_seq: u64,
    slots: VecDeque<Option<RecentEvent>>,
    bytes: usize,
    bytes_max: usize,
}

/// An event as it was accepted.
#[derive(Debug)]
pub(crate) struct RecentEvent {
    pub(crate) event: NewEvent,
    pub(crate) accepted_ms: i64,
}

/// Slots, also those of events that are gone: an old one that stays must not make the rest grow. One more, which is there for
/// a moment, needs no larger buffer.
const SLOTS_MAX: usize = 65_535;
/// Slots whose memory is kept, though they are not in use.
const SLOTS_KEPT: usize = 1_024;

/// What an event costs beside its body.
const OVERHEAD: usize = 256;

// === impl Recent ===

impl Recent {
    pub(crate) fn new(bytes_max: usize) -> Self {
        Self { first_seq: 0, slots: VecDeque::new(), bytes: 0, bytes_max }
    }

    /// Keeps an event; the oldest ones make room.
    pub(crate) fn push(&mut self, seq: u64, event: RecentEvent) {
        let next = self.first_seq + self.slots.len() as u64;
        if seq < next || seq - next > SLOTS_MAX as u64 || self.slots.is_empty() {
            self.slots.clear();
            self.bytes = 0;
            self.first_seq = seq;
        }
        for _ in self.first_seq + self.slots.len() as u64..seq {
            self.slots.push_back(None);
        }
        self.bytes += event.cost();
        self.slots.push_back(Some(event));
        while self.bytes > self.bytes_max || self.slots.len() > SLOTS_MAX || matches!(self.slots.front(), Some(None)) {
            let Some(slot) = self.slots.pop_front() else { break };
            self.first_seq += 1;
            self.bytes -= slot.map_or(0, |event| event.cost());
        }
        if self.slots.capacity() > SLOTS_KEPT && self.slots.len() < self.slots.capacity() / 4 {
            self.slots.shrink_to(SLOTS_KEPT.max(2 * self.slots.len()));
        }
    }

    /// Takes an event out.
    pub(crate) fn take(&mut self, seq: u64) -> Option<RecentEvent> {
        let slot = usize::try_from(seq.checked_sub(self.first_seq)?).ok()?;
        let event = self.slots.get_mut(slot)?.take()?;
        self.bytes -= event.cost();
        Some(event)
    }
}

// === impl RecentEvent ===

impl RecentEvent {
    fn cost(&self) -> usize {
        let event = &self.event;
        OVERHEAD + event.body.len() + event.event_id.len() + event.event_name.len() + event.envelope.len()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::account::LaneKey;

    fn event(size: usize) -> RecentEvent {
        let event = NewEvent {
            lane: LaneKey { account: "shoes".parse().unwrap(), pixel: "1".parse().unwrap() },
            event_name: String::new(),
            event_id: String::new(),
            event_time: 0,
            envelope: "".into(),
            body: vec![b'x'; size].into(),
        };
        RecentEvent { event, accepted_ms: 0 }
    }

    #[test]
    fn the_oldest_make_room() {
        let mut recent = Recent::new(3 * (OVERHEAD + 10));
        (5..9).for_each(|seq| recent.push(seq, event(10)));
        assert!(recent.take(5).is_none() && recent.take(6).is_some() && recent.take(6).is_none());
        recent.push(12, event(10));
        assert!(recent.take(7).is_some() && recent.take(8).is_some() && recent.take(12).is_some());
        assert_eq!(recent.bytes, 0);
    }

    #[test]
    fn an_envelope_counts() {
        let mut recent = Recent::new(2 * OVERHEAD + 100);
        let large = || {
            let mut large = event(0);
            large.event.envelope = "x".repeat(100).into();
            large
        };
        recent.push(1, large());
        recent.push(2, large());
        assert!(recent.take(1).is_none() && recent.take(2).is_some());
    }

    #[test]
    fn one_that_stays_does_not_make_the_rest_grow() {
        let mut recent = Recent::new(usize::MAX);
        recent.push(0, event(0));
        for seq in 1..200_000 {
            recent.push(seq, event(0));
            recent.take(seq);
        }
        assert!(recent.slots.len() <= SLOTS_MAX && recent.slots.capacity() <= SLOTS_MAX + 1);
    }

    #[test]
    fn what_a_backlog_took_is_given_back() {
        let mut recent = Recent::new(usize::MAX);
        (0..50_000).for_each(|seq| recent.push(seq, event(0)));
        (0..50_000).for_each(|seq| drop(recent.take(seq)));
        recent.push(50_000, event(0));
        assert!(recent.slots.capacity() <= SLOTS_KEPT && recent.take(50_000).is_some());
    }
}
