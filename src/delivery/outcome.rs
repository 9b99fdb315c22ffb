//! What a reply means: the decision table of one request, as a pure function.
//!
//! The rows follow Meta's "Handling errors" and what is known of this edge; they are asked in the order of the tests.
//! What depends on more than one request (backoff, halving, doubts about the configuration) is `lane.rs`'s.

use std::fmt;
use std::time::Duration;

use super::graph::{Answer, AnswerBody, GraphError, Reply};

/// Shortest hold after Meta blocked the sender for its policies.
const POLICY_HOLD: Duration = Duration::from_secs(3_600);

/// What is to be done with the events of a request.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Outcome {
    /// Meta took them; `received` is its own count.
    Accept {
        /// `events_received`.
        received: u64,
    },
    /// Send them again after the lane's backoff, and not before `after`.
    Retry {
        /// What the server asked for.
        after: Option<Duration>,
        /// How it failed.
        failure: Failure,
    },
    /// Send them again later; Meta wants less, or nothing, from this lane for a while. Not the events' fault.
    Hold {
        /// What Meta asked for; without it the lane's own hold, which doubles.
        wait: Option<Duration>,
        /// Nothing will change until a person looks.
        alert: bool,
    },
    /// One of them is at fault: send them in parts.
    Split {
        /// What is known of the fault.
        fault: Fault,
        /// The one that the answer names.
        index: Option<usize>,
        /// What Meta said.
        said: Said,
    },
    /// The only event is at fault: it becomes a dead letter.
    Bury {
        /// What is known of the fault.
        fault: Fault,
        /// What Meta said, for the dead letter.
        said: Said,
    },
    /// The lane stops until a person acts; its events stay.
    Pause {
        /// What to tell the person.
        reason: String,
    },
}

/// How a request failed that is tried again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Failure {
    /// Meta did not look at its events: it was not sent, something before Meta answered, or Meta wants it later.
    Unread,
    /// Meta failed on it: one of its events may be why, or how many they are.
    Refused,
    /// It went out, and there is no answer that can be read. The same may be why, and Meta may have its events.
    Unanswered,
}

/// What Meta said about a fault.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Said {
    /// In its words, which may repeat what an event held: for dead letters and the status, never for the log.
    pub(crate) words: String,
    /// Its code, subcode and trace id.
    pub(crate) numbers: String,
}

/// Why Meta did not take a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// An event is not as Meta wants it.
    Event,
    /// An event is older than Meta takes.
    Expired,
    /// The document is too large.
    Size,
    /// An event, or what all of them have in common: the answer does not say.
    Unclear,
}

/// The outcome of a request with `events` events.
pub(crate) fn decide(reply: &Reply, events: usize) -> Outcome {
    match reply {
        Reply::Lost(_) => Outcome::Retry { after: None, failure: Failure::Unanswered },
        Reply::NotSent(_) => Outcome::Retry { after: None, failure: Failure::Unread },
        Reply::UnusableToken => {
            Outcome::Pause { reason: "the access token has characters that no token has".to_owned() }
        }
        Reply::Answered(answer) => judge(answer, events),
    }
}

/// Whether events were possibly processed although they will be sent again: no answer came after they went out, or a
/// success that cannot be read.
pub(crate) fn is_ambiguous(reply: &Reply) -> bool {
    match reply {
        Reply::Lost(_) => true,
        Reply::NotSent(_) | Reply::UnusableToken => false,
        Reply::Answered(answer) => {
            is_success(answer.status) && matches!(answer.body, AnswerBody::Cut | AnswerBody::Page | AnswerBody::Other)
        }
    }
}

fn judge(answer: &Answer, events: usize) -> Outcome {
    match (&answer.body, answer.status) {
        (AnswerBody::Received(received), status) if is_success(status) => Outcome::Accept { received: *received },
        (AnswerBody::Error(GraphError { code: Some(code), .. }), _) if is_throttle(*code) => {
            Outcome::Hold { wait: answer.regain_access.max(answer.retry_after), alert: false }
        }
        (_, 408 | 425 | 500..) => retry(answer, Failure::Refused),
        (_, 413) => at_fault(Fault::Size, answer, None, events),
        (AnswerBody::Error(error @ GraphError { code: Some(code), .. }), _) => judge_code(*code, error, answer, events),
        // Without a code it may be a firewall or a proxy that says so, with a page of its own: that passes.
        (AnswerBody::Error(_) | AnswerBody::Other, 401 | 403) => Outcome::Pause {
            reason: format!("the Graph API refuses this token: HTTP {} without a code", answer.status),
        },
        (_, status) if is_success(status) => retry(answer, Failure::Unanswered),
        _ => retry(answer, Failure::Unread),
    }
}

/// Who says when to come again has not failed on what was sent.
fn retry(answer: &Answer, failure: Failure) -> Outcome {
    let after = answer.retry_after;
    Outcome::Retry { after, failure: if after.is_some() { Failure::Unread } else { failure } }
}

fn judge_code(code: i64, error: &GraphError, answer: &Answer, events: usize) -> Outcome {
    let pause = |what: &str| Outcome::Pause { reason: format!("{what}: {}", numbers(answer)) };
    match (code, error.subcode) {
        (368, _) => {
            let wait = answer.regain_access.max(answer.retry_after).unwrap_or_default().max(POLICY_HOLD);
            Outcome::Hold { wait: Some(wait), alert: true }
        }
        (190 | 102 | 104, _) => pause("the Graph API refuses the access token"),
        (3 | 10 | 200..=299, _) => pause("the access token may not send to this pixel"),
        (803, _) | (100, Some(33)) => pause("the pixel does not exist, or the access token may not see it"),
        (1 | 2 | 5_000 | 21_009 | ..=-1, _) => retry(answer, Failure::Refused),
        _ if error.transient => retry(answer, Failure::Refused),
        (100, Some(2_804_003)) => at_fault(Fault::Expired, answer, error.event_index, events),
        (100, Some(2_804_000..=2_804_999)) => at_fault(Fault::Event, answer, error.event_index, events),
        _ => at_fault(Fault::Unclear, answer, error.event_index, events),
    }
}

/// In parts, or, of a single event, to the dead letters.
fn at_fault(fault: Fault, answer: &Answer, index: Option<usize>, events: usize) -> Outcome {
    let words = match &answer.body {
        AnswerBody::Error(error) => error.text.clone(),
        _ => String::new(),
    };
    let said = Said { words, numbers: numbers(answer) };
    if events == 1 {
        return Outcome::Bury { fault, said };
    }
    Outcome::Split { fault, index: index.filter(|index| *index < events), said }
}

/// The codes with which Meta says "too much" ("Rate Limiting"), usually with HTTP 400.
fn is_throttle(code: i64) -> bool {
    matches!(code, 4 | 17 | 32 | 341 | 613 | 80_000..=80_014)
}

fn is_success(status: u16) -> bool {
    (200..300).contains(&status)
}

/// What Meta's support asks for, and nothing that the request held.
fn numbers(answer: &Answer) -> String {
    let mut text = match &answer.body {
        AnswerBody::Error(GraphError { code: Some(code), subcode: Some(subcode), .. }) => {
            format!("code {code}, subcode {subcode}")
        }
        AnswerBody::Error(GraphError { code: Some(code), .. }) => format!("code {code}"),
        _ => format!("HTTP {}", answer.status),
    };
    if let Some(trace) = &answer.fbtrace_id {
        text.push_str(", fbtrace_id ");
        text.push_str(trace);
    }
    text
}

// === impl Outcome ===

impl Outcome {
    /// The outcome's name for a request with `events` events, as a metric's label.
    pub(crate) fn label(&self, events: usize) -> &'static str {
        match self {
            Outcome::Accept { received } if *received < events as u64 => "accept_short",
            Outcome::Accept { .. } => "accept",
            Outcome::Retry { .. } => "retry",
            Outcome::Hold { .. } => "hold",
            Outcome::Split { .. } => "split",
            Outcome::Bury { .. } => "bury",
            Outcome::Pause { .. } => "pause",
        }
    }
}

// === impl Said ===

impl fmt::Display for Said {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.words.is_empty() {
            write!(f, "{}: ", self.words)?;
        }
        f.write_str(&self.numbers)
    }
}

// === impl Fault ===

impl Fault {
    /// The `reason` of the dead letter.
    pub(crate) fn reason(self) -> &'static str {
        match self {
            Fault::Event | Fault::Unclear => "refused",
            Fault::Expired => "expired",
            Fault::Size => "too_large",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(status: u16, code: i64, subcode: Option<i64>) -> Answer {
        let error = GraphError { code: Some(code), subcode, text: "Title".to_owned(), ..GraphError::default() };
        Answer { status, body: AnswerBody::Error(error), fbtrace_id: Some("Ax1".to_owned()), ..Answer::default() }
    }

    fn outcome(answer: Answer, events: usize) -> Outcome {
        decide(&Reply::Answered(answer), events)
    }

    fn plain(status: u16, body: AnswerBody) -> Answer {
        Answer { status, body, ..Answer::default() }
    }

    const fn again(failure: Failure) -> Outcome {
        Outcome::Retry { after: None, failure }
    }

    const UNREAD: Outcome = again(Failure::Unread);
    const REFUSED: Outcome = again(Failure::Refused);
    const UNANSWERED: Outcome = again(Failure::Unanswered);

    #[test]
    fn row_1_no_answer_or_none_of_the_graph_apis_is_tried_again() {
        assert_eq!(decide(&Reply::Lost("reset".into()), 5), UNANSWERED);
        assert_eq!(decide(&Reply::NotSent("dns".into()), 5), UNREAD);
        for (statuses, retry) in [
            (&[408, 425, 500, 502, 503, 504, 599][..], REFUSED),
            (&[200][..], UNANSWERED),
            (&[301, 302, 400, 404, 429][..], UNREAD),
        ] {
            for status in statuses {
                for body in [AnswerBody::Other, AnswerBody::Page, AnswerBody::Cut] {
                    assert_eq!(outcome(plain(*status, body), 5), retry, "{status}");
                }
            }
        }
        assert_eq!(outcome(error(503, 190, None), 5), REFUSED);
    }

    #[test]
    fn who_says_when_to_come_again_has_not_failed_on_the_events() {
        let after = Some(Duration::from_secs(7));
        for status in [429, 503] {
            let asked = Answer { retry_after: after, ..plain(status, AnswerBody::Other) };
            assert_eq!(outcome(asked, 5), Outcome::Retry { after, failure: Failure::Unread });
        }
    }

    #[test]
    fn row_2_a_throttled_lane_is_held_at_any_status() {
        let held = |wait| Outcome::Hold { wait, alert: false };
        for code in [4, 17, 32, 341, 613, 80_000, 80_003, 80_006, 80_008, 80_009, 80_014] {
            for status in [200, 400, 403, 429, 500] {
                assert_eq!(outcome(error(status, code, None), 5), held(None), "{code}");
            }
        }
        let asked = Answer { regain_access: Some(Duration::from_secs(300)), ..error(400, 4, Some(1_504_022)) };
        assert_eq!(outcome(asked, 1), held(Some(Duration::from_secs(300))));
    }

    #[test]
    fn row_3_a_policy_block_holds_for_an_hour_and_alerts() {
        assert_eq!(outcome(error(400, 368, None), 5), Outcome::Hold { wait: Some(POLICY_HOLD), alert: true });
    }

    #[test]
    fn row_4_a_refused_token_pauses() {
        for (status, code) in [(400, 190), (401, 190), (400, 102), (400, 104)] {
            for subcode in [None, Some(458), Some(463), Some(467)] {
                let Outcome::Pause { reason } = outcome(error(status, code, subcode), 5) else {
                    unreachable!("{code}")
                };
                assert!(reason.contains(&format!("code {code}")) && reason.contains("Ax1"), "{reason}");
            }
        }
        assert!(matches!(decide(&Reply::UnusableToken, 1), Outcome::Pause { .. }));
    }

    #[test]
    fn row_5_a_missing_permission_pauses() {
        for (code, subcode) in
            [(3, None), (10, None), (200, None), (294, None), (299, None), (803, None), (100, Some(33))]
        {
            for events in [1, 5] {
                assert!(matches!(outcome(error(400, code, subcode), events), Outcome::Pause { .. }), "{code}");
            }
        }
        for status in [401, 403] {
            assert!(matches!(outcome(plain(status, AnswerBody::Other), 5), Outcome::Pause { .. }), "{status}");
            let nameless = AnswerBody::Error(GraphError::default());
            assert!(matches!(outcome(plain(status, nameless), 5), Outcome::Pause { .. }), "{status}");
            assert_eq!(outcome(plain(status, AnswerBody::Page), 5), UNREAD, "a firewall's page");
        }
    }

    #[test]
    fn row_6_what_passes_by_itself_is_tried_again() {
        for code in [1, 2, -1, -3, 5_000, 21_009] {
            assert_eq!(outcome(error(400, code, None), 5), REFUSED, "{code}");
        }
        let transient = GraphError { code: Some(100), transient: true, ..GraphError::default() };
        assert_eq!(outcome(plain(400, AnswerBody::Error(transient)), 1), REFUSED);
    }

    #[test]
    fn row_7_a_stale_event_is_found_and_dropped_as_expired() {
        let stale = || error(400, 100, Some(2_804_003));
        assert!(matches!(outcome(stale(), 5), Outcome::Split { fault: Fault::Expired, index: None, .. }));
        let Outcome::Bury { fault, .. } = outcome(stale(), 1) else { unreachable!() };
        assert_eq!(fault.reason(), "expired");
    }

    #[test]
    fn row_8_a_refused_event_is_buried_with_what_meta_said() {
        let Outcome::Bury { fault: Fault::Event, said } = outcome(error(400, 100, Some(2_804_050)), 1) else {
            unreachable!()
        };
        assert_eq!(said.to_string(), "Title: code 100, subcode 2804050, fbtrace_id Ax1");
        assert_eq!(said.numbers, "code 100, subcode 2804050, fbtrace_id Ax1");
    }

    #[test]
    fn row_9_a_refused_batch_is_sent_in_parts() {
        let split_at = |answer| match outcome(answer, 5) {
            Outcome::Split { fault: Fault::Event, index, .. } => index,
            other => unreachable!("{other:?}"),
        };
        assert_eq!(split_at(error(400, 100, Some(2_804_050))), None);
        for (index, believed) in [(3, Some(3)), (5, None)] {
            let named = GraphError {
                code: Some(100),
                subcode: Some(2_804_019),
                event_index: Some(index),
                ..GraphError::default()
            };
            assert_eq!(split_at(plain(400, AnswerBody::Error(named))), believed);
        }
    }

    #[test]
    fn row_10_an_unclear_refusal_is_marked_as_such() {
        for (code, subcode) in [(100, None), (100, Some(1)), (100, Some(1_815_356)), (2_500, None)] {
            let Outcome::Split { fault, .. } = outcome(error(400, code, subcode), 5) else { unreachable!() };
            assert_eq!(fault, Fault::Unclear);
            assert!(matches!(outcome(error(400, code, subcode), 1), Outcome::Bury { fault: Fault::Unclear, .. }));
        }
    }

    #[test]
    fn row_11_what_is_too_large_is_halved() {
        let split = outcome(plain(413, AnswerBody::Page), 5);
        assert!(matches!(split, Outcome::Split { fault: Fault::Size, index: None, .. }));
        assert!(matches!(outcome(plain(413, AnswerBody::Other), 1), Outcome::Bury { fault: Fault::Size, .. }));
    }

    #[test]
    fn row_13_a_success_is_one_whatever_meta_counted() {
        assert_eq!(outcome(plain(200, AnswerBody::Received(3)), 5), Outcome::Accept { received: 3 });
    }

    #[test]
    fn only_what_may_have_been_processed_is_ambiguous() {
        assert!(is_ambiguous(&Reply::Lost("reset".into())));
        assert!(!is_ambiguous(&Reply::NotSent("refused".into())));
        for status in [400, 408, 500, 503] {
            assert!(!is_ambiguous(&Reply::Answered(plain(status, AnswerBody::Cut))), "{status} is a refusal");
        }
        assert!(is_ambiguous(&Reply::Answered(plain(200, AnswerBody::Cut))));
        assert!(!is_ambiguous(&Reply::Answered(plain(200, AnswerBody::Received(1)))));
    }
}
