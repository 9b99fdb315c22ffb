//! One lane's sender: what a reply does to the rest of a batch, to the lane's pace and to the trust in its
//! configuration. Pure: it is told the time and the dice, and what it decides the service carries out.

use std::time::{Duration, Instant};

use super::outcome::{Fault, Outcome};
use super::retry::{Backoff, hold};

/// Over this time refusals are counted.
const REFUSALS_WINDOW: Duration = Duration::from_secs(600);
/// So many buried events, and more than a fifth of all, are no accident.
const REFUSALS_MAX: u64 = 20;
/// Events in a batch of a lane with that many.
const SMALL_BATCH: usize = 50;
/// A lane that fails for so long needs a person, and again after as long.
const ALERT_AFTER: Duration = Duration::from_secs(3_600);
/// One line of the log for a lane in this time.
const LINE_INTERVAL: Duration = Duration::from_secs(60);

/// What is to be done with the events of the part that was sent.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Settle {
    /// Meta has them.
    Delivered,
    /// They become dead letters.
    Bury {
        /// `reason` of the dead letter.
        reason: &'static str,
        /// What Meta said.
        message: String,
    },
    /// Nothing yet.
    Keep,
}

/// What the lane does next.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Then {
    /// It sends on.
    Continue,
    /// What is left goes back, and is sent again after this time.
    Wait(Duration),
    /// What is left goes back, and nothing is sent until a person acts.
    Pause {
        /// For that person.
        reason: String,
        /// Another token would help.
        token_refused: bool,
    },
}

/// What is left of a leased batch, in parts of indices into it. The part to send first is the last of `work`.
#[derive(Debug, Default)]
pub(crate) struct Parts {
    work: Vec<Part>,
    /// Refused without a clear reason while nothing of the lane was ever taken.
    aside: Vec<Part>,
    /// What Meta said about those.
    doubt: String,
}

/// Events that are sent together.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Part {
    /// Indices into the lease, ascending.
    pub(crate) events: Vec<usize>,
    /// The half of a batch that was refused without a clear reason.
    doubtful: bool,
}

/// The memory of a lane between requests.
#[derive(Debug, Default)]
pub(crate) struct Lane {
    failures: u32,
    holds: u32,
    failing_since: Option<Instant>,
    alerted: Option<Instant>,
    /// Meta took an event of this lane once, so an unclear refusal is the events' fault.
    proven: bool,
    refusals: Refusals,
    line_at: Option<Instant>,
    lines_left_out: u64,
}

/// What was taken and what was buried lately.
#[derive(Debug, Default)]
struct Refusals {
    since: Option<Instant>,
    taken: u64,
    buried: u64,
    /// Refusals were too many once in this time: batches are small, and the next time the lane stops.
    small: bool,
}

// === impl Parts ===

impl Parts {
    /// A batch that is sent whole first.
    pub(crate) fn new(events: Vec<usize>) -> Self {
        let work = if events.is_empty() { Vec::new() } else { vec![Part { events, doubtful: false }] };
        Self { work, aside: Vec::new(), doubt: String::new() }
    }

    /// The part to send next.
    pub(crate) fn take(&mut self) -> Option<Part> {
        self.work.pop()
    }

    /// Cuts a part: the event that Meta named, alone, and the rest; else in halves (at most 10 times for 1,000 events).
    fn split(&mut self, part: Part, index: Option<usize>, doubtful: bool) {
        let mut first = part.events;
        let second = match index.filter(|index| *index < first.len()) {
            Some(index) => {
                let named = first.remove(index);
                std::mem::replace(&mut first, vec![named])
            }
            None => first.split_off(first.len() / 2),
        };
        for events in [second, first] {
            if !events.is_empty() {
                self.work.push(Part { events, doubtful });
            }
        }
    }
}

// === impl Lane ===

impl Lane {
    /// A lane of which Meta took `delivered` events so far.
    pub(crate) fn new(delivered: u64) -> Self {
        Self { proven: delivered > 0, ..Self::default() }
    }

    /// How many events a batch of this lane may have.
    pub(crate) fn batch_events_max(&mut self, configured: usize, now: Instant) -> usize {
        self.refusals.turn_over(now);
        if self.refusals.small { configured.min(SMALL_BATCH) } else { configured }
    }

    /// Takes the outcome of sending `part` in. `random` is in `0.0..1.0`.
    pub(crate) fn judge(
        &mut self,
        parts: &mut Parts,
        part: Part,
        outcome: Outcome,
        backoff: Backoff,
        now: Instant,
        random: f64,
    ) -> (Settle, Then) {
        if !matches!(outcome, Outcome::Retry { .. } | Outcome::Hold { .. }) {
            (self.failures, self.holds, self.failing_since, self.alerted) = (0, 0, None, None);
        }
        match outcome {
            Outcome::Accept { .. } => {
                self.proven = true;
                self.refusals.count(part.events.len(), 0, now);
                (Settle::Delivered, self.go_on(parts))
            }
            Outcome::Retry { after } => {
                self.failures = self.failures.saturating_add(1);
                self.failing_since.get_or_insert(now);
                (Settle::Keep, Then::Wait(backoff.wait_at_least(after, self.failures, random)))
            }
            Outcome::Hold { wait, .. } => {
                self.holds = self.holds.saturating_add(1);
                self.failing_since.get_or_insert(now);
                (Settle::Keep, Then::Wait(hold(wait, self.holds)))
            }
            Outcome::Pause { reason } => (Settle::Keep, Then::Pause { reason, token_refused: true }),
            Outcome::Split { fault: Fault::Unclear, message, .. }
            | Outcome::Bury { fault: Fault::Unclear, message }
                if !self.proven =>
            {
                self.doubt(parts, part, message);
                (Settle::Keep, self.go_on(parts))
            }
            Outcome::Split { index, .. } => {
                parts.split(part, index, false);
                (Settle::Keep, Then::Continue)
            }
            Outcome::Bury { fault, message } => {
                let then = self.buried(fault, parts, now);
                (Settle::Bury { reason: fault.reason(), message }, then)
            }
        }
    }

    /// Whether it is time to tell a person that this lane fails and fails.
    pub(crate) fn alert_due(&mut self, now: Instant) -> bool {
        let since = self.alerted.or(self.failing_since);
        let due = since.is_some_and(|since| now.saturating_duration_since(since) >= ALERT_AFTER);
        if due {
            self.alerted = Some(now);
        }
        due
    }

    /// Whether the log may have a line of this lane now, and how many it was spared since the last one.
    pub(crate) fn line_due(&mut self, now: Instant) -> Option<u64> {
        if self.line_at.is_some_and(|last| now.saturating_duration_since(last) < LINE_INTERVAL) {
            self.lines_left_out += 1;
            return None;
        }
        self.line_at = Some(now);
        Some(std::mem::take(&mut self.lines_left_out))
    }

    /// Before anything was ever taken, an unclear refusal may be of the pixel and not of an event: both halves are
    /// tried, and what is refused again waits for the first success.
    fn doubt(&mut self, parts: &mut Parts, part: Part, message: String) {
        parts.doubt = message;
        if part.doubtful || part.events.len() == 1 {
            parts.aside.push(part);
        } else {
            parts.split(part, None, true);
        }
    }

    fn go_on(&mut self, parts: &mut Parts) -> Then {
        if self.proven {
            parts.work.append(&mut parts.aside);
        }
        if !parts.work.is_empty() || parts.aside.is_empty() {
            return Then::Continue;
        }
        // A person who resumes the lane says that the configuration is right; then it is the events.
        self.proven = true;
        let reason = format!(
            "the Graph API refuses all events of this pixel, and it is not clear why ({}); look at the pixel in \
             Events Manager, then resume the account: events that are refused again become dead letters",
            parts.doubt
        );
        Then::Pause { reason, token_refused: false }
    }

    fn buried(&mut self, fault: Fault, parts: &mut Parts, now: Instant) -> Then {
        if matches!(fault, Fault::Expired | Fault::Size) {
            return self.go_on(parts);
        }
        self.refusals.count(0, 1, now);
        if !self.refusals.too_many() {
            return self.go_on(parts);
        }
        let Refusals { taken, buried, small, .. } = std::mem::take(&mut self.refusals);
        if !small {
            self.refusals = Refusals { since: Some(now), small: true, ..Refusals::default() };
            return Then::Wait(Duration::ZERO);
        }
        let reason = format!(
            "the Graph API refused {buried} of the last {} events one by one: what sends them is wrong, not single \
             events; look at `pixelgate dead-letters list`, mend it, then resume the account",
            taken + buried
        );
        Then::Pause { reason, token_refused: false }
    }
}

// === impl Refusals ===

impl Refusals {
    fn count(&mut self, taken: usize, buried: u64, now: Instant) {
        self.turn_over(now);
        self.taken += taken as u64;
        self.buried += buried;
    }

    fn too_many(&self) -> bool {
        self.buried >= REFUSALS_MAX && self.buried.saturating_mul(5) > self.taken + self.buried
    }

    fn turn_over(&mut self, now: Instant) {
        let since = *self.since.get_or_insert(now);
        if now.saturating_duration_since(since) >= REFUSALS_WINDOW {
            *self = Self { since: Some(now), ..Self::default() };
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const BACKOFF: Backoff = Backoff { min: Duration::from_secs(1), max: Duration::from_secs(600) };

    /// Plays Meta: what becomes of each event of a batch, and how many requests it took.
    struct Played {
        delivered: Vec<usize>,
        buried: Vec<usize>,
        requests: usize,
        end: Then,
    }

    fn outcome_for(part: &Part, bad: &dyn Fn(usize) -> bool, fault: Fault, named: bool) -> Outcome {
        let Some(index) = part.events.iter().position(|event| bad(*event)) else {
            return Outcome::Accept { received: part.events.len() as u64 };
        };
        let message = "code 100".to_owned();
        match part.events.len() {
            1 => Outcome::Bury { fault, message },
            _ => Outcome::Split { fault, index: named.then_some(index), message },
        }
    }

    fn play(lane: &mut Lane, events: usize, bad: impl Fn(usize) -> bool, fault: Fault, named: bool) -> Played {
        let mut parts = Parts::new((0..events).collect());
        let mut played = Played { delivered: vec![], buried: vec![], requests: 0, end: Then::Continue };
        while let Some(part) = parts.take() {
            played.requests += 1;
            let outcome = outcome_for(&part, &bad, fault, named);
            let events = part.events.clone();
            let (settle, then) = lane.judge(&mut parts, part, outcome, BACKOFF, Instant::now(), 0.5);
            match settle {
                Settle::Delivered => played.delivered.extend(events),
                Settle::Bury { .. } => played.buried.extend(events),
                Settle::Keep => {}
            }
            played.end = then;
            if played.end != Then::Continue {
                return played;
            }
        }
        played
    }

    #[test]
    fn a_bad_event_is_found_in_at_most_ten_halvings() {
        for at in [0, 1, 499, 500, 999] {
            let played = play(&mut Lane::default(), 1_000, |event| event == at, Fault::Event, false);
            assert_eq!(played.buried, [at]);
            assert_eq!(played.delivered.len(), 999);
            assert!(played.requests <= 21, "{}: the whole and two at each of ten levels", played.requests);
        }
    }

    #[test]
    fn an_event_that_meta_names_is_tried_alone() {
        let played = play(&mut Lane::default(), 1_000, |event| event == 700, Fault::Event, true);
        assert_eq!((played.buried.as_slice(), played.delivered.len(), played.requests), ([700].as_slice(), 999, 3));
    }

    #[test]
    fn siblings_are_delivered_in_order() {
        let played = play(&mut Lane::default(), 64, |event| event == 3 || event == 60, Fault::Event, false);
        let mut sorted = played.delivered.clone();
        sorted.sort_unstable();
        assert_eq!(played.delivered, sorted);
        assert_eq!(played.buried, [3, 60]);
    }

    #[test]
    fn an_unclear_refusal_of_everything_pauses_and_buries_nothing() {
        for events in [1, 2, 1_000] {
            let mut lane = Lane::default();
            let played = play(&mut lane, events, |_| true, Fault::Unclear, false);
            assert!(matches!(&played.end, Then::Pause { token_refused: false, reason } if reason.contains("code 100")));
            assert!(played.buried.is_empty());
            assert!(played.requests <= 3, "bisected once");
            let again = play(&mut lane, 4, |_| true, Fault::Unclear, false);
            assert_eq!((again.buried.len(), again.end), (4, Then::Continue), "resumed: it is the events");
        }
    }

    #[test]
    fn an_unclear_refusal_of_one_half_is_the_events_fault() {
        let played = play(&mut Lane::default(), 8, |event| event == 1 || event == 2, Fault::Unclear, false);
        assert_eq!((played.buried, played.delivered.len()), (vec![1, 2], 6));
        let played = play(&mut Lane::new(1), 2, |_| true, Fault::Unclear, false);
        assert_eq!((played.buried.len(), played.end), (2, Then::Continue), "the lane worked before");
    }

    #[test]
    fn many_refusals_make_batches_small_and_then_pause() {
        let mut lane = Lane::new(1_000);
        assert_eq!(lane.batch_events_max(1_000, Instant::now()), 1_000);
        let played = play(&mut lane, 1_000, |_| true, Fault::Event, false);
        assert_eq!((played.buried.len(), played.end), (20, Then::Wait(Duration::ZERO)));
        assert_eq!(lane.batch_events_max(1_000, Instant::now()), 50);
        let played = play(&mut lane, 50, |_| true, Fault::Event, false);
        assert_eq!(played.buried.len(), 20);
        assert!(matches!(played.end, Then::Pause { token_refused: false, .. }));
        assert_eq!(lane.batch_events_max(1_000, Instant::now()), 1_000, "resumed: as at first");
    }

    #[test]
    fn batches_grow_again_when_refusals_stop() {
        let mut lane = Lane::new(1_000);
        play(&mut lane, 1_000, |_| true, Fault::Event, false);
        assert_eq!(lane.batch_events_max(1_000, Instant::now() + REFUSALS_WINDOW), 1_000);
    }

    #[test]
    fn some_refusals_among_many_events_are_buried_and_no_more() {
        let mut lane = Lane::default();
        for _ in 0..5 {
            let played = play(&mut lane, 1_000, |event| event % 20 == 19, Fault::Event, false);
            assert_eq!((played.buried.len(), played.end), (50, Then::Continue));
        }
        let played = play(&mut lane, 100, |_| true, Fault::Expired, false);
        assert_eq!((played.buried.len(), played.end), (100, Then::Continue), "old events say nothing of the mapping");
    }

    #[test]
    fn failures_wait_longer_and_a_success_forgets_them() {
        let mut lane = Lane::default();
        let mut wait = |outcome: Outcome| {
            let mut parts = Parts::new(vec![0]);
            let part = parts.take().unwrap();
            lane.judge(&mut parts, part, outcome, BACKOFF, Instant::now(), 1.0).1
        };
        let retry = || Outcome::Retry { after: None };
        assert_eq!(wait(retry()), Then::Wait(Duration::from_secs(2)));
        assert_eq!(wait(retry()), Then::Wait(Duration::from_secs(4)));
        let held = Outcome::Hold { wait: None, alert: false };
        assert_eq!(wait(held.clone()), Then::Wait(Duration::from_secs(60)));
        assert_eq!(wait(held), Then::Wait(Duration::from_secs(120)));
        assert_eq!(wait(retry()), Then::Wait(Duration::from_secs(8)), "a hold is no failure");
        assert_eq!(wait(Outcome::Accept { received: 1 }), Then::Continue);
        assert_eq!(wait(retry()), Then::Wait(Duration::from_secs(2)));
    }

    #[test]
    fn the_log_has_one_line_a_minute_and_an_alert_an_hour() {
        let (mut lane, begin) = (Lane::default(), Instant::now());
        let at = |seconds| begin + Duration::from_secs(seconds);
        assert_eq!((lane.line_due(at(0)), lane.line_due(at(1)), lane.line_due(at(59))), (Some(0), None, None));
        assert_eq!(lane.line_due(at(60)), Some(2));
        assert!(!lane.alert_due(at(9_000)), "nothing fails");
        lane.failing_since = Some(begin);
        assert!(!lane.alert_due(at(3_599)));
        assert!(lane.alert_due(at(3_600)) && !lane.alert_due(at(3_601)) && lane.alert_due(at(7_200)));
    }
}
