//! What the log says of delivery. A warning: nothing is lost, it goes on by itself; an error: a person must act. One line
//! a minute for a lane, and never a token, a text of an event, or what Meta wrote about one.

use std::time::Instant;

use super::graph::{Answer, AnswerBody, Reply};
use super::lane::{Attempt, Lane, Settle};
use super::outcome::{Fault, Outcome};
use crate::account::LaneKey;

/// The numbers of a reply, for the fields of a line.
#[derive(Debug, Default)]
struct Numbers<'a> {
    status: Option<u16>,
    code: Option<i64>,
    subcode: Option<i64>,
    fbtrace_id: Option<&'a str>,
    /// What broke, when no answer came.
    broken: Option<&'a str>,
}

/// Writes a line about a request, if what came of it and the lane's last line allow one.
pub(crate) fn request(
    key: &LaneKey,
    lane: &mut Lane,
    attempt: Attempt,
    reply: &Reply,
    outcome: &Outcome,
    settle: &Settle,
) {
    let LaneKey { account, pixel } = key;
    let Attempt { events, now, .. } = attempt;
    let Numbers { status, code, subcode, fbtrace_id, broken } = Numbers::of(reply);
    macro_rules! line {
        ($level:ident, $text:literal) => {
            if let Some(left_out) = lane.line_due(now) {
                tracing::$level!(%account, %pixel, events, status, code, subcode, fbtrace_id, broken, left_out, $text)
            }
        };
    }
    if lane.alert_due(now) {
        tracing::error!(%account, %pixel, status, code, subcode, fbtrace_id, broken,
            "delivery of this pixel has been failing for over an hour; its events wait");
    }
    match outcome {
        Outcome::Accept { received } if *received < events as u64 => {
            line!(error, "the Graph API took fewer events than it was sent; look at the pixel in Events Manager");
        }
        Outcome::Accept { .. } => tracing::debug!(%account, %pixel, events, fbtrace_id, "delivered"),
        Outcome::Retry { .. } => line!(warn, "not delivered; it is tried again"),
        Outcome::Hold { alert: false, .. } => line!(warn, "the Graph API wants fewer requests; the lane waits"),
        Outcome::Hold { alert: true, .. } => {
            line!(error, "Meta blocks this account for its policies; the lane waits, see Account Quality");
        }
        Outcome::Split { .. } | Outcome::Bury { .. } if matches!(settle, Settle::Back | Settle::SetAside(_)) => {
            line!(
                warn,
                "refused without a clear reason; whether it is the events or the pixel, the next ones will show"
            );
        }
        Outcome::Split { .. } => {
            tracing::debug!(%account, %pixel, events, code, subcode, fbtrace_id, "refused, sent in parts")
        }
        Outcome::Bury { fault: Fault::Expired, .. } => line!(warn, "an event was too old for Meta and is dropped"),
        Outcome::Bury { .. } => line!(warn, "an event was refused and is in the dead letters"),
        // The pause itself is told, once.
        Outcome::Pause { .. } => {}
    }
}

/// Writes a line about events that were not sent in time.
pub(crate) fn expired(key: &LaneKey, lane: &mut Lane, events: u64, now: Instant) {
    let LaneKey { account, pixel } = key;
    if let Some(left_out) = lane.line_due(now) {
        tracing::warn!(%account, %pixel, events, left_out, "events grew older than Meta takes them and are dropped");
    }
}

/// Writes a line about events of a lane that does not send.
pub(crate) fn expired_unsent(key: &LaneKey, events: u64) {
    let LaneKey { account, pixel } = key;
    tracing::warn!(%account, %pixel, events, "events grew older than Meta takes them while their pixel did not send; they are dropped");
}

/// Writes a line about a lane that stops; `reason` has none of Meta's words.
pub(crate) fn paused(key: &LaneKey, reason: &str) {
    let LaneKey { account, pixel } = key;
    tracing::error!(%account, %pixel, reason, "delivery of this pixel is paused; its events are kept");
}

/// Writes a line about a lane that goes on because its token was replaced.
pub(crate) fn resumed(key: &LaneKey) {
    let LaneKey { account, pixel } = key;
    tracing::info!(%account, %pixel, "another access token: delivery of this pixel goes on");
}

// === impl Numbers ===

impl<'a> Numbers<'a> {
    fn of(reply: &'a Reply) -> Self {
        match reply {
            Reply::Lost(broken) | Reply::NotSent(broken) => Self { broken: Some(broken), ..Self::default() },
            Reply::UnusableToken => Self::default(),
            Reply::Answered(Answer { status, body, fbtrace_id, .. }) => {
                let (code, subcode) = match body {
                    AnswerBody::Error(error) => (error.code, error.subcode),
                    _ => (None, None),
                };
                let fbtrace_id = fbtrace_id.as_deref();
                Self { status: Some(*status), code, subcode, fbtrace_id, broken: None }
            }
        }
    }
}
