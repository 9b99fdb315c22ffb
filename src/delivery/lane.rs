//! One lane's sender: what an outcome does to the events that were sent, to the lane's pace and to the trust in its
//! configuration. Pure: it is told the time and the dice; the rest of the service carries out what it decides.

use std::collections::VecDeque;
use std::fmt;
use std::time::{Duration, Instant};

use super::behind::{Behind, Choice};
use super::outcome::{Failure, Fault, Outcome, Said};
use super::pace::Pace;
use super::refusals::Refusals;
use super::retry::{Backoff, hold};

/// Buried events that are remembered: one whose letter could not be stored is back soon.
const BURIED_MAX: usize = 1_000;
/// Longest wait of an event that Meta fails on alone while it takes others: each try may double it.
const ALONE_MAX: Duration = Duration::from_secs(86_400);
/// Events in a batch of a lane with that many.
const SMALL_BATCH: usize = 50;
/// A lane that fails for so long needs a person, and again after as long.
const ALERT_AFTER: Duration = Duration::from_secs(3_600);
/// So long after Meta took an event, an unclear refusal is more likely the events' fault than the pixel's.
const TRUST: Duration = Duration::from_secs(300);
/// How often a batch is halved for an unclear refusal while nothing of it is taken: in that time, and else.
const HALVINGS_TRUSTED: u8 = 5;
const HALVINGS: u8 = 1;
/// One line of the log for a lane in this time.
const LINE_INTERVAL: Duration = Duration::from_secs(60);
/// How the reason of a pause begins that asks a person.
const QUESTION: &str = "the Graph API refuses all events of this pixel, and does not say clearly why";

/// What was sent, as far as it matters here.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Attempt {
    /// Events in the request.
    pub(crate) events: usize,
    /// The place of the first of them in the order of acceptance.
    pub(crate) seq: u64,
    /// How often their batch was halved because it was refused without a clear reason.
    pub(crate) halvings: u8,
    /// When that happened first.
    pub(crate) doubted_at: Option<Instant>,
    /// How often the lane was sent back since its last success.
    pub(crate) failures: u32,
    /// When the answer came.
    pub(crate) now: Instant,
    /// In `0.0..1.0`.
    pub(crate) random: f64,
}

/// What becomes of the events that were sent.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Settle {
    /// Meta has them.
    Delivered {
        /// So many of them by its own count.
        taken: u64,
    },
    /// They are too old, and dropped.
    Expire,
    /// They become dead letters.
    Bury {
        /// `reason` of the dead letter.
        reason: &'static str,
        /// What Meta said.
        message: String,
        /// It was buried and counted before, and its letter could not be stored.
        again: bool,
    },
    /// They are sent in parts.
    Split {
        /// The one at fault, if Meta named it.
        index: Option<usize>,
        /// The parts are doubtful.
        doubtful: bool,
    },
    /// They wait until it is known whether the fault is theirs; this is what Meta said.
    SetAside(Said),
    /// They go back.
    Back,
}

/// What the lane does next.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Then {
    /// It sends on.
    Continue,
    /// What is left goes back, and is sent again at once, as a new batch.
    Anew,
    /// What is left goes back, and is sent again after this time.
    Wait {
        /// How long.
        wait: Duration,
        /// It counts towards the lane's backoff.
        failed: bool,
    },
    /// What is left goes back, and nothing is sent until a person acts.
    Pause {
        /// For that person.
        reason: String,
        /// The same without Meta's words, for the log.
        logged: String,
        /// Another token would help.
        token_refused: bool,
    },
}

/// The memory of a lane between requests.
#[derive(Debug, Default)]
pub(crate) struct Lane {
    /// Meta took an event of this lane once.
    proven: bool,
    /// When it did so last, in this process.
    taken_at: Option<Instant>,
    /// An event that came alone and was refused without a clear reason; nothing was taken since.
    doubted: Option<u64>,
    /// The last such event after which something was taken: the fault is its own.
    blamed: Option<u64>,
    /// Whether a person was asked since then why all is refused without a clear reason.
    asked: Asked,
    /// How large batches are.
    pace: Pace,
    /// Events that came to nothing alone.
    behind: Behind,
    /// Its last request was taken.
    sound: bool,
    holds: u32,
    failing_since: Option<Instant>,
    alerted: Option<Instant>,
    refusals: Refusals,
    /// The last events that were buried.
    buried: VecDeque<u64>,
    line_at: Option<Instant>,
    lines_left_out: u64,
}

/// Whether a person was asked what all refusals without a clear reason come from, the pixel or its events.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Asked {
    #[default]
    No,
    /// The lane is paused until they resume it.
    Waiting,
    /// They resumed it, which says that its configuration is right: it is the events.
    Answered,
}

// === impl Settle ===

impl Settle {
    /// What a request with `events` events came to, as a metric's label.
    pub(crate) fn label(&self, outcome: &Outcome, events: usize) -> &'static str {
        match (self, outcome) {
            (Self::Back | Self::SetAside(_), Outcome::Bury { .. } | Outcome::Split { .. }) => "doubt",
            _ => outcome.label(events),
        }
    }
}

// === impl Lane ===

impl Lane {
    /// A lane of which Meta took `delivered` events so far.
    pub(crate) fn new(delivered: u64) -> Self {
        Self { proven: delivered > 0, ..Self::default() }
    }

    /// Whether an unclear refusal is the events' fault: something of the lane was taken after the first one, or a person says
    /// so.
    pub(crate) fn blames_events(&self, doubted_at: Option<Instant>) -> bool {
        self.asked == Asked::Answered
            || doubted_at.is_some_and(|doubted| self.taken_at.is_some_and(|taken| taken >= doubted))
    }

    /// Events that others go before: to see whether one alone is refused, or because they come to nothing alone.
    pub(crate) fn last(&self, now: Instant) -> Vec<u64> {
        let mut last = self.behind.last(self.sound, now);
        last.extend(self.doubted);
        last
    }

    /// How many events a batch of this lane may have.
    pub(crate) fn batch_events_max(&mut self, configured: usize, now: Instant) -> usize {
        self.refusals.turn_over(now);
        self.pace.events_max(if self.refusals.small { configured.min(SMALL_BATCH) } else { configured })
    }

    /// How many events may be in a lease beside those that go out.
    pub(crate) fn behind(&self) -> usize {
        self.behind.len()
    }

    /// What goes out of a lease with these events, at most `max`.
    pub(crate) fn choose(&mut self, seqs: &[u64], max: usize, now: Instant) -> Choice {
        self.behind.choose(seqs, max, self.sound, now)
    }

    /// Takes the outcome of a request in.
    pub(crate) fn judge(&mut self, attempt: Attempt, outcome: Outcome, backoff: Backoff) -> (Settle, Then) {
        let Attempt { events, seq, failures, now, random, .. } = attempt;
        if events == 1 && matches!(outcome, Outcome::Accept { .. } | Outcome::Bury { .. }) {
            self.behind.decided(seq);
        }
        match outcome {
            Outcome::Retry { .. } | Outcome::Hold { .. } => drop(self.failing_since.get_or_insert(now)),
            // What it was is known later.
            Outcome::Split { fault: Fault::Unclear, .. } | Outcome::Bury { fault: Fault::Unclear, .. } => {}
            _ => (self.holds, self.failing_since, self.alerted) = (0, None, None),
        }
        match outcome {
            Outcome::Accept { received } => {
                let taken = received.min(events as u64);
                if taken > 0 {
                    (self.proven, self.taken_at, self.asked, self.sound) = (true, Some(now), Asked::No, true);
                    self.blamed = self.doubted.take().or(self.blamed);
                    self.pace.taken(events);
                }
                self.refusals.count(taken, 0, now);
                (Settle::Delivered { taken }, Then::Continue)
            }
            Outcome::Retry { after, failure } => {
                let one_alone = failure != Failure::Unread && self.failed_on(attempt, failure, backoff);
                let failures = if one_alone { 0 } else { failures };
                let wait = backoff.wait_at_least(after, failures.saturating_add(1), random);
                (Settle::Back, Then::Wait { wait, failed: !one_alone })
            }
            Outcome::Hold { wait, .. } => {
                self.holds = self.holds.saturating_add(1);
                (Settle::Back, Then::Wait { wait: hold(wait, self.holds), failed: false })
            }
            Outcome::Pause { reason } => {
                (Settle::Back, Then::Pause { logged: reason.clone(), reason, token_refused: true })
            }
            Outcome::Split { fault: Fault::Unclear, said, .. } | Outcome::Bury { fault: Fault::Unclear, said }
                if !self.blames(attempt) =>
            {
                self.doubt(attempt, said, backoff)
            }
            Outcome::Split { index, .. } => (Settle::Split { index, doubtful: false }, Then::Continue),
            Outcome::Bury { fault: Fault::Expired, .. } => (Settle::Expire, Then::Continue),
            Outcome::Bury { fault, said } => {
                let again = self.was_buried(seq);
                let then = if again { Then::Continue } else { self.after_burial(fault, now) };
                (Settle::Bury { reason: fault.reason(), message: said.to_string(), again }, then)
            }
        }
    }

    /// Meta failed on a request, which may be so because of how many events it had, or because of one of them. Gives whether
    /// it is known to be that one, and nothing of the lane's.
    fn failed_on(&mut self, attempt: Attempt, failure: Failure, backoff: Backoff) -> bool {
        let Attempt { events, seq, now, random, .. } = attempt;
        let sound = std::mem::take(&mut self.sound);
        let wait = |tries| Backoff { max: ALONE_MAX, ..backoff }.wait(tries, random);
        let one_alone = events == 1 && self.behind.failed(seq, sound, now, wait);
        if !one_alone {
            self.pace.failed(events, failure == Failure::Unanswered);
        }
        one_alone
    }

    fn blames(&self, attempt: Attempt) -> bool {
        self.blames_events(attempt.doubted_at) || attempt.events == 1 && self.blamed == Some(attempt.seq)
    }

    /// What is refused without a clear reason may be so because of the pixel and not of an event: nothing is buried before
    /// another event was taken. Both halves of a batch are tried, and what is refused again waits for that; of a lane that
    /// worked lately smaller parts too, since it is hardly the pixel. One event that came alone has no other half: the next
    /// one must do.
    fn doubt(&mut self, attempt: Attempt, said: Said, backoff: Backoff) -> (Settle, Then) {
        let Attempt { events, seq, halvings, failures, now, random, .. } = attempt;
        let lately = self.taken_at.is_some_and(|taken| now.saturating_duration_since(taken) < TRUST);
        if events > 1 && halvings < if lately { HALVINGS_TRUSTED } else { HALVINGS } {
            return (Settle::Split { index: None, doubtful: true }, Then::Continue);
        }
        let is_second = self.doubted.is_some_and(|first| first != seq);
        if halvings > 0 || !self.proven || is_second {
            return (Settle::SetAside(said), Then::Continue);
        }
        self.doubted = Some(seq);
        self.failing_since.get_or_insert(now);
        (Settle::Back, Then::Wait { wait: backoff.wait(failures.saturating_add(1), random), failed: true })
    }

    /// All that was sent was refused without a clear reason: a person is asked.
    pub(crate) fn doubt_confirmed(&mut self, doubt: &Said) -> Then {
        self.doubted = None;
        let asking = |said: &dyn fmt::Display| {
            format!(
                "{QUESTION} ({said}); look at the pixel in Events Manager, then resume the account: events that are \
                 refused again become dead letters"
            )
        };
        Then::Pause { reason: asking(doubt), logged: asking(&doubt.numbers), token_refused: false }
    }

    /// The lane is paused, for that reason: from now on resuming it is an answer, or no longer one.
    pub(crate) fn paused(&mut self, reason: &str) {
        if reason.starts_with(QUESTION) {
            self.asked = Asked::Waiting;
        } else if self.asked == Asked::Waiting {
            self.asked = Asked::No;
        }
    }

    /// Whether a person was asked and did not resume the lane yet, as far as it knows.
    pub(crate) fn is_asking(&self) -> bool {
        self.asked == Asked::Waiting
    }

    /// They did.
    pub(crate) fn answered(&mut self) {
        self.asked = Asked::Answered;
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

    /// Whether an event was buried before; from now on it was.
    fn was_buried(&mut self, seq: u64) -> bool {
        if self.buried.contains(&seq) {
            return true;
        }
        if self.buried.len() >= BURIED_MAX {
            self.buried.pop_front();
        }
        self.buried.push_back(seq);
        false
    }

    /// Many burials say that what sends the events is wrong: first batches are made small, then the lane stops.
    fn after_burial(&mut self, fault: Fault, now: Instant) -> Then {
        if fault == Fault::Size {
            return Then::Continue;
        }
        self.refusals.count(0, 1, now);
        if !self.refusals.too_many() {
            return Then::Continue;
        }
        let Refusals { taken, buried, small, .. } = std::mem::take(&mut self.refusals);
        if !small {
            self.refusals = Refusals { since: Some(now), small: true, ..Refusals::default() };
            return Then::Anew;
        }
        let reason = format!(
            "the Graph API refused {buried} of the last {} events one by one: what sends them is wrong, not single \
             events; look at `pixelgate dead-letters list`, mend it, then resume the account",
            taken + buried
        );
        Then::Pause { logged: reason.clone(), reason, token_refused: false }
    }
}

#[cfg(test)]
mod tests {
    use super::super::refusals::REFUSALS_WINDOW;
    use super::*;

    const BACKOFF: Backoff = Backoff { min: Duration::from_secs(1), max: Duration::from_secs(600) };
    const ACCEPT: Outcome = Outcome::Accept { received: u64::MAX };

    fn said() -> Said {
        Said { words: "Invalid value 'Anna'".to_owned(), numbers: "code 100".to_owned() }
    }

    fn bury(fault: Fault) -> Outcome {
        Outcome::Bury { fault, said: said() }
    }

    fn split(fault: Fault) -> Outcome {
        Outcome::Split { fault, index: None, said: said() }
    }

    fn failed(failure: Failure) -> Outcome {
        Outcome::Retry { after: None, failure }
    }

    fn attempt(now: Instant, events: usize) -> Attempt {
        Attempt { events, seq: 1, halvings: 0, doubted_at: None, failures: 0, now, random: 1.0 }
    }

    fn judge_at(lane: &mut Lane, now: Instant, events: usize, outcome: Outcome) -> (Settle, Then) {
        lane.judge(attempt(now, events), outcome, BACKOFF)
    }

    fn judge(lane: &mut Lane, events: usize, outcome: Outcome) -> (Settle, Then) {
        judge_at(lane, Instant::now(), events, outcome)
    }

    /// Buries one event.
    fn bury_one(lane: &mut Lane, now: Instant, seq: u64, fault: Fault) -> (Settle, Then) {
        lane.judge(Attempt { seq, ..attempt(now, 1) }, bury(fault), BACKOFF)
    }

    /// Buries until the lane does something else than going on.
    fn bury_until(lane: &mut Lane, now: Instant) -> (u32, Then) {
        let first = lane.buried.back().map_or(0, |last| last + 1);
        for buried in 1..=1_000 {
            let (_, then) = bury_one(lane, now, first + u64::from(buried), Fault::Event);
            if then != Then::Continue {
                return (buried, then);
            }
        }
        (1_000, Then::Continue)
    }

    #[test]
    fn what_meta_took_is_delivered_and_what_it_blamed_is_split_or_buried() {
        let mut lane = Lane::default();
        assert_eq!(judge(&mut lane, 5, ACCEPT), (Settle::Delivered { taken: 5 }, Then::Continue));
        let named = Outcome::Split { fault: Fault::Event, index: Some(3), said: Said::default() };
        assert_eq!(judge(&mut lane, 5, named).0, Settle::Split { index: Some(3), doubtful: false });
        let buried =
            Settle::Bury { reason: "refused", message: "Invalid value 'Anna': code 100".to_owned(), again: false };
        assert_eq!(judge(&mut lane, 1, bury(Fault::Event)).0, buried);
        assert_eq!(judge(&mut lane, 1, bury(Fault::Expired)), (Settle::Expire, Then::Continue));
    }

    #[test]
    fn what_meta_did_not_count_was_not_taken() {
        let (mut lane, now) = (Lane::default(), Instant::now());
        let none = judge_at(&mut lane, now, 5, Outcome::Accept { received: 0 });
        assert_eq!(none, (Settle::Delivered { taken: 0 }, Then::Continue));
        assert!(!lane.blames_events(Some(now)));
        assert_eq!(judge_at(&mut lane, now, 5, Outcome::Accept { received: 3 }).0, Settle::Delivered { taken: 3 });
        assert!(lane.blames_events(Some(now)) && !lane.blames_events(None));
    }

    const DOUBTED: Settle = Settle::Split { index: None, doubtful: true };

    #[test]
    fn a_pause_in_place_of_the_question_takes_it_back() {
        let mut lane = Lane::default();
        lane.paused(&format!("{QUESTION} (code 100)"));
        assert!(lane.is_asking());
        lane.paused("the token is refused");
        assert!(!lane.is_asking(), "another token answers nothing");
    }

    #[test]
    fn a_batch_that_is_refused_without_a_reason_is_halved_once_and_not_buried() {
        let (mut lane, begin) = (Lane::new(70), Instant::now());
        assert_eq!(judge_at(&mut lane, begin, 5, split(Fault::Unclear)).0, DOUBTED, "taken before the start");
        let half = |events| Attempt { halvings: 1, doubted_at: Some(begin), ..attempt(begin, events) };
        let aside = Settle::SetAside(said());
        assert_eq!(lane.judge(half(2), split(Fault::Unclear), BACKOFF).0, aside);
        assert_eq!(lane.judge(half(1), bury(Fault::Unclear), BACKOFF).0, aside);
        lane.judge(half(2), ACCEPT, BACKOFF);
        let blamed = lane.judge(half(2), split(Fault::Unclear), BACKOFF).0;
        assert_eq!(blamed, Settle::Split { index: None, doubtful: false });
        assert!(matches!(lane.judge(half(1), bury(Fault::Unclear), BACKOFF).0, Settle::Bury { .. }));
    }

    #[test]
    fn of_a_lane_that_worked_lately_smaller_parts_are_tried_too() {
        let (mut lane, begin) = (Lane::default(), Instant::now());
        judge_at(&mut lane, begin, 5, ACCEPT);
        let part = |now, halvings| Attempt { halvings, doubted_at: Some(now), ..attempt(now, 5) };
        let soon = begin + Duration::from_secs(1);
        for halvings in 0..HALVINGS_TRUSTED {
            assert_eq!(lane.judge(part(soon, halvings), split(Fault::Unclear), BACKOFF).0, DOUBTED);
        }
        let last = lane.judge(part(soon, HALVINGS_TRUSTED), split(Fault::Unclear), BACKOFF).0;
        assert!(matches!(last, Settle::SetAside(_)), "and none is buried");
        let late = lane.judge(part(begin + TRUST, 1), split(Fault::Unclear), BACKOFF).0;
        assert!(matches!(late, Settle::SetAside(_)));
    }

    #[test]
    fn a_lone_event_is_blamed_only_once_another_was_taken() {
        let (mut lane, now) = (Lane::new(70), Instant::now());
        let lone = |seq| Attempt { seq, ..attempt(now, 1) };
        let (settle, then) = lane.judge(lone(7), bury(Fault::Unclear), BACKOFF);
        assert_eq!((settle, lane.last(now)), (Settle::Back, vec![7]));
        assert_eq!(then, Then::Wait { wait: Duration::from_secs(2), failed: true });
        assert_eq!(lane.judge(lone(7), bury(Fault::Unclear), BACKOFF).0, Settle::Back, "the same event again");
        lane.judge(lone(8), ACCEPT, BACKOFF);
        assert!(lane.last(now).is_empty());
        assert!(matches!(lane.judge(lone(7), bury(Fault::Unclear), BACKOFF).0, Settle::Bury { .. }));
        assert_eq!(lane.judge(lone(9), bury(Fault::Unclear), BACKOFF).0, Settle::Back, "however lately one was taken");
    }

    #[test]
    fn the_second_lone_event_in_a_row_says_that_it_is_the_pixel() {
        let (mut lane, now) = (Lane::new(70), Instant::now());
        judge_at(&mut lane, now, 1, ACCEPT);
        let lone = |seq| Attempt { seq, ..attempt(now, 1) };
        lane.judge(lone(7), bury(Fault::Unclear), BACKOFF);
        assert!(matches!(lane.judge(lone(8), bury(Fault::Unclear), BACKOFF).0, Settle::SetAside(_)));
        assert!(matches!(lane.doubt_confirmed(&said()), Then::Pause { token_refused: false, .. }));
        let first = judge(&mut Lane::default(), 1, bury(Fault::Unclear)).0;
        assert!(matches!(first, Settle::SetAside(_)), "of a lane that never worked the first one says so");
    }

    #[test]
    fn a_lone_event_that_is_refused_for_an_hour_alerts() {
        let (mut lane, begin) = (Lane::new(70), Instant::now());
        judge_at(&mut lane, begin, 1, bury(Fault::Unclear));
        judge_at(&mut lane, begin + ALERT_AFTER / 2, 1, bury(Fault::Unclear));
        assert!(!lane.alert_due(begin + ALERT_AFTER / 2) && lane.alert_due(begin + ALERT_AFTER));
    }

    #[test]
    fn a_doubt_pauses_and_once_a_person_resumed_it_the_events_are_blamed() {
        let mut lane = Lane::default();
        let then = lane.doubt_confirmed(&said());
        let Then::Pause { reason, logged, token_refused: false } = &then else { unreachable!("{then:?}") };
        assert!(reason.contains("(Invalid value 'Anna': code 100)"));
        assert!(logged.contains("(code 100)") && !logged.contains("Anna"), "what Meta wrote may be a visitor's");
        let unclear = |lane: &mut Lane| judge(lane, 1, bury(Fault::Unclear)).0;
        assert!(matches!(unclear(&mut lane), Settle::SetAside(_)), "of a request that was out meanwhile");
        lane.paused("code 190");
        assert!(!lane.is_asking());
        lane.paused(reason);
        assert!(lane.is_asking());
        assert!(matches!(unclear(&mut lane), Settle::SetAside(_)), "nobody has answered yet");
        lane.answered();
        assert!(matches!(unclear(&mut lane), Settle::Bury { .. }));
        judge(&mut lane, 1, ACCEPT);
        assert!(!lane.blames_events(None), "what Meta took says more");
    }

    #[test]
    fn a_refused_token_pauses() {
        let reason = "code 190".to_owned();
        let then = judge(&mut Lane::new(9), 5, Outcome::Pause { reason: reason.clone() });
        assert_eq!(then, (Settle::Back, Then::Pause { logged: reason.clone(), reason, token_refused: true }));
    }

    #[test]
    fn many_refusals_make_batches_small_and_then_pause() {
        let (mut lane, now) = (Lane::default(), Instant::now());
        judge_at(&mut lane, now, 50, ACCEPT);
        assert_eq!(bury_until(&mut lane, now), (20, Then::Anew));
        assert_eq!(lane.batch_events_max(1_000, now), 50);
        let (buried, then) = bury_until(&mut lane, now);
        assert!(buried == 20 && matches!(then, Then::Pause { token_refused: false, .. }));
        assert_eq!(lane.batch_events_max(1_000, now), 1_000, "resumed: as at first");
    }

    #[test]
    fn batches_grow_again_when_refusals_stop() {
        let (mut lane, now) = (Lane::default(), Instant::now());
        bury_until(&mut lane, now);
        assert_eq!(lane.batch_events_max(1_000, now + REFUSALS_WINDOW), 1_000);
    }

    #[test]
    fn a_few_refusals_among_many_events_are_buried_and_no_more() {
        let (mut lane, now) = (Lane::default(), Instant::now());
        for seq in 0..100 {
            assert_eq!(judge_at(&mut lane, now, 4, ACCEPT).1, Then::Continue);
            assert_eq!(bury_one(&mut lane, now, seq, Fault::Event).1, Then::Continue, "one in five");
        }
        for _ in 0..1_000 {
            assert_eq!(judge_at(&mut lane, now, 1, bury(Fault::Expired)).1, Then::Continue, "age is no mapping");
        }
    }

    #[test]
    fn an_event_whose_letter_cannot_be_stored_counts_once() {
        let (mut lane, now) = (Lane::default(), Instant::now());
        for round in 0..100 {
            for seq in [7, 8] {
                let (settle, then) = bury_one(&mut lane, now, seq, Fault::Event);
                assert!(matches!(settle, Settle::Bury { again, .. } if again == (round > 0)), "{settle:?}");
                assert_eq!(then, Then::Continue);
            }
        }
    }

    #[test]
    fn a_failing_lane_waits_longer_each_time_and_a_throttled_one_as_told() {
        let mut lane = Lane::default();
        let mut wait = |failures, outcome| match lane
            .judge(Attempt { failures, ..attempt(Instant::now(), 1) }, outcome, BACKOFF)
            .1
        {
            Then::Wait { wait, failed } => Some((wait.as_secs(), failed)),
            _ => None,
        };
        let retry = |after| Outcome::Retry { after, failure: Failure::Unread };
        let held = || Outcome::Hold { wait: None, alert: false };
        assert_eq!(wait(0, retry(None)), Some((2, true)));
        assert_eq!(wait(3, retry(None)), Some((16, true)));
        assert_eq!(wait(u32::MAX, retry(None)), Some((600, true)));
        assert_eq!(wait(0, retry(Some(Duration::from_secs(30)))), Some((30, true)));
        assert_eq!((wait(1, held()), wait(2, held())), (Some((60, false)), Some((120, false))));
        assert_eq!(wait(3, ACCEPT), None);
        assert_eq!(wait(0, held()), Some((60, false)), "a success forgets the holds");
    }

    #[test]
    fn what_meta_fails_on_is_sent_in_smaller_batches_and_what_it_did_not_look_at_is_not() {
        let (mut lane, now) = (Lane::default(), Instant::now());
        for (outcome, next) in [
            (failed(Failure::Unread), 1_000),
            (Outcome::Hold { wait: None, alert: false }, 1_000),
            (failed(Failure::Refused), 500),
            (failed(Failure::Unanswered), 250),
            (ACCEPT, 500),
        ] {
            let events = lane.batch_events_max(1_000, now);
            judge_at(&mut lane, now, events, outcome.clone());
            assert_eq!(lane.batch_events_max(1_000, now), next, "{outcome:?}");
        }
    }

    #[test]
    fn an_event_that_meta_fails_on_alone_lets_the_others_pass_and_is_not_buried() {
        let (mut lane, now) = (Lane::new(70), Instant::now());
        let send = |lane: &mut Lane, now, seq, events, outcome| {
            lane.judge(Attempt { seq, failures: 9, ..attempt(now, events) }, outcome, BACKOFF)
        };
        let mut at = now;
        for tries in 1..100 {
            let wait = match tries {
                1 => Then::Wait { wait: BACKOFF.max, failed: true },
                _ => Then::Wait { wait: BACKOFF.min * 2, failed: false },
            };
            assert_eq!(send(&mut lane, at, 7, 1, failed(Failure::Refused)), (Settle::Back, wait), "{tries}");
            assert_eq!(lane.choose(&[7, 8, 9], 1_000, at), Choice::Send(1..3));
            send(&mut lane, at, 8, 2, ACCEPT);
            assert_eq!(lane.choose(&[7, 10], 1_000, at), Choice::Send(1..2), "its backoff is not over");
            at += ALONE_MAX;
            assert_eq!((lane.choose(&[7, 10], 1_000, at), lane.last(at)), (Choice::Send(0..1), vec![]));
        }
        assert!(lane.batch_events_max(1_000, at) > 1, "it does not keep batches small");
        send(&mut lane, at, 7, 1, ACCEPT);
        assert_eq!(lane.behind(), 0);
    }

    #[test]
    fn of_a_lane_that_fails_as_a_whole_the_backoff_is_the_lanes() {
        let (mut lane, now) = (Lane::new(70), Instant::now());
        for failures in 0..20 {
            let (_, then) = lane.judge(Attempt { failures, ..attempt(now, 1) }, failed(Failure::Unanswered), BACKOFF);
            assert_eq!(then, Then::Wait { wait: BACKOFF.wait(failures + 1, 1.0), failed: true });
            assert_eq!(lane.choose(&[1], 1_000, now + BACKOFF.min * 2), Choice::Send(0..1), "whatever its own was");
        }
    }

    #[test]
    fn the_log_has_one_line_a_minute_and_an_alert_an_hour() {
        let (mut lane, begin) = (Lane::default(), Instant::now());
        let at = |seconds| begin + Duration::from_secs(seconds);
        assert_eq!((lane.line_due(at(0)), lane.line_due(at(1)), lane.line_due(at(59))), (Some(0), None, None));
        assert_eq!(lane.line_due(at(60)), Some(2));
        assert!(!lane.alert_due(at(9_000)), "nothing fails");
        judge_at(&mut lane, begin, 1, failed(Failure::Refused));
        assert!(!lane.alert_due(at(3_599)));
        assert!(lane.alert_due(at(3_600)) && !lane.alert_due(at(3_601)) && lane.alert_due(at(7_200)));
        judge_at(&mut lane, at(7_200), 1, ACCEPT);
        assert!(!lane.alert_due(at(20_000)));
    }
}
