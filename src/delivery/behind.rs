//! Events that came to nothing although they were alone: all others go before them, so that one that Meta always fails on
//! keeps none waiting. Each has a backoff of its own and goes alone, and none is buried: it may be Meta.

use std::ops::Range;
use std::time::{Duration, Instant};

/// So many of one lane; with more it is hardly they, and all begin anew.
const EVENTS_MAX: usize = 100;
/// How long a lane waits for them at most that has nothing else: what is accepted meanwhile waits too.
const WAIT_MAX: Duration = Duration::from_secs(15);

/// Those of one lane.
#[derive(Debug, Default)]
pub(crate) struct Behind {
    events: Vec<Waiting>,
    /// There were no others when the lane was last looked at.
    alone: bool,
}

#[derive(Debug)]
struct Waiting {
    /// Its place in the order of acceptance.
    seq: u64,
    /// Tries that came to nothing, from the last one on before another event was taken: until then it may be Meta.
    tries: u32,
    /// When it is tried again.
    due: Instant,
}

/// What of a lease goes out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Choice {
    /// These of its events, by their places.
    Send(Range<usize>),
    /// None, for that long.
    Wait(Duration),
}

impl Behind {
    /// An event came to nothing, alone. Gives whether it is to blame: it did so before, and another one was taken in between,
    /// for which the lane was `sound`. `wait` is the backoff after so many tries.
    pub(crate) fn failed(&mut self, seq: u64, sound: bool, now: Instant, wait: impl Fn(u32) -> Duration) -> bool {
        if let Some(event) = self.events.iter_mut().find(|event| event.seq == seq) {
            if sound || event.tries > 1 {
                event.tries = event.tries.saturating_add(1);
            }
            event.due = now + wait(event.tries);
            return event.tries > 1;
        }
        if self.events.len() >= EVENTS_MAX {
            self.events.clear();
        }
        self.events.push(Waiting { seq, tries: 1, due: now + wait(1) });
        false
    }

    /// Meta decided about an event.
    pub(crate) fn decided(&mut self, seq: u64) {
        self.events.retain(|event| event.seq != seq);
    }

    /// How many they are.
    pub(crate) fn len(&self) -> usize {
        self.events.len()
    }

    /// Those that all others go before now: not the ones that are due, if the lane is sound or has nothing else.
    pub(crate) fn last(&self, sound: bool, now: Instant) -> Vec<u64> {
        let have_turns = sound || self.alone;
        self.events.iter().filter(|event| !have_turns || event.due > now).map(|event| event.seq).collect()
    }

    /// What goes out of a lease with these events, at most so many: the others before these. Only between two requests that
    /// Meta took (the lane is `sound`) one of these has its turn, or if there are no others.
    pub(crate) fn choose(&mut self, seqs: &[u64], max: usize, sound: bool, now: Instant) -> Choice {
        let due = |seq: &u64| self.events.iter().find(|event| event.seq == *seq).map(|event| event.due);
        let first = seqs.iter().position(|seq| due(seq).is_none());
        let others = first.map(|first| {
            let count = seqs.iter().skip(first).take(max).take_while(|seq| due(seq).is_none()).count();
            first..first + count
        });
        self.alone = others.is_none();
        let due = |seq: &u64| self.events.iter().find(|event| event.seq == *seq).map(|event| event.due);
        let soonest = seqs.iter().enumerate().filter_map(|(place, seq)| Some((due(seq)?, place))).min();
        match (others, soonest) {
            (others, Some((due, place))) if due <= now && (sound || others.is_none()) => Choice::Send(place..place + 1),
            (Some(others), _) => Choice::Send(others),
            (None, Some((due, _))) => Choice::Wait(due.saturating_duration_since(now).min(WAIT_MAX)),
            (None, None) => Choice::Send(0..0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    /// Has these events behind, all tried at the same time.
    fn behind(seqs: &[u64], now: Instant) -> Behind {
        let mut behind = Behind::default();
        for seq in seqs {
            assert!(!behind.failed(*seq, true, now, |_| SECOND));
        }
        behind
    }

    #[test]
    fn others_go_first_and_one_of_these_between_two_that_were_taken() {
        let now = Instant::now();
        let (mut behind, seqs) = (behind(&[1, 2, 5], now), [1, 2, 3, 4, 5, 6]);
        let mut choose = |sound, now| behind.choose(&seqs, 1_000, sound, now);
        assert_eq!(choose(true, now), Choice::Send(2..4), "none is due");
        assert_eq!(choose(true, now + SECOND), Choice::Send(0..1));
        assert_eq!(choose(false, now + SECOND), Choice::Send(2..4), "first one of the others must be taken");
        assert_eq!(behind.choose(&seqs, 1, false, now), Choice::Send(2..3), "as many as may be");
        assert_eq!((behind.last(true, now), behind.last(true, now + SECOND)), (vec![1, 2, 5], vec![]));
        assert_eq!(behind.last(false, now + SECOND), [1, 2, 5]);
    }

    #[test]
    fn what_is_alone_in_its_lane_goes_when_it_is_due_and_what_comes_meanwhile_waits_seconds() {
        let now = Instant::now();
        let mut behind = behind(&[1, 2], now);
        assert_eq!(behind.choose(&[1, 2], 1_000, false, now), Choice::Wait(SECOND));
        assert_eq!(behind.last(false, now + SECOND), [] as [u64; 0], "there is nothing else");
        assert!(!behind.failed(1, false, now, |tries| SECOND * tries), "no other was taken: it may be Meta");
        assert_eq!(behind.choose(&[1], 1_000, false, now), Choice::Wait(SECOND));
        assert!(behind.failed(1, true, now, |tries| SECOND * tries) && behind.failed(1, false, now, |_| SECOND * 200));
        assert_eq!(behind.choose(&[1, 2], 1_000, false, now + SECOND), Choice::Send(1..2));
        assert_eq!(behind.choose(&[1], 1_000, true, now), Choice::Wait(WAIT_MAX));
        assert_eq!(behind.choose(&[1], 1_000, false, now + SECOND * 200), Choice::Send(0..1), "after its own backoff");
    }

    #[test]
    fn what_meta_decided_about_is_one_of_the_others_and_too_many_are_all_of_them() {
        let now = Instant::now();
        let mut few = behind(&[1, 2], now);
        few.decided(1);
        assert_eq!(few.choose(&[1, 2], 1_000, false, now), Choice::Send(0..1));
        let seqs: Vec<u64> = (0..=EVENTS_MAX as u64).collect();
        assert_eq!(behind(&seqs, now).len(), 1);
        assert_eq!(Behind::default().choose(&seqs, 1_000, false, now), Choice::Send(0..101));
        assert_eq!(Behind::default().choose(&[], 1_000, false, now), Choice::Send(0..0));
    }
}
