//! What a test wants the stand-in to do wrong, and whom it lets in.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};

use serde::de::Error as _;
use serde::{Deserialize, Deserializer};
use serde_json::Value;

/// Scripted behaviour; empty = as Meta does when all is well.
#[derive(Default)]
pub(crate) struct Script {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    faults: VecDeque<Fault>,
    bad: HashMap<String, BadEvent>,
    tokens: HashMap<u64, HashSet<String>>,
}

/// `POST /_control/faults`: what happens to the next requests instead of an answer.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Fault {
    /// Only requests to this pixel, `"123"` or 123; without it, to any.
    #[serde(default, deserialize_with = "some_pixel")]
    pixel: Option<u64>,
    /// How many requests.
    #[serde(default = "once")]
    times: u64,
    /// Wait before it.
    #[serde(default)]
    pub(crate) delay_ms: u64,
    /// What then.
    #[serde(default)]
    pub(crate) action: Action,
    /// For `answer`.
    #[serde(default = "ok")]
    pub(crate) status: u16,
    /// For `answer`: text as it is, anything else as JSON.
    #[serde(default)]
    pub(crate) body: Value,
    /// For `answer`.
    #[serde(default)]
    pub(crate) headers: HashMap<String, String>,
}

/// What a fault does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Action {
    /// After the delay all goes its usual way.
    Delay,
    /// Answers `status`, `headers` and `body`; the events are not taken.
    #[default]
    Answer,
    /// Never answers; the events are not taken.
    Hang,
    /// Closes before the body is read.
    CloseBeforeReading,
    /// Closes after the body was read; the events are not taken.
    CloseAfterReading,
    /// Takes the events and closes without an answer.
    CloseAfterTaking,
    /// Takes the events and breaks off in the middle of the answer.
    CutAnswer,
}

/// `POST /_control/bad-events`: ids that make Meta refuse a whole request.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct BadEvents {
    /// The ids; only `event_id` is compared.
    event_ids: Vec<String>,
    /// `code` of the refusal.
    code: i64,
    /// `error_subcode` of the refusal; null = none.
    subcode: Option<i64>,
    /// Whether the message names the event's position.
    named: bool,
}

/// The refusal of a bad event.
#[derive(Clone, Copy, Debug)]
pub(crate) struct BadEvent {
    pub(crate) code: i64,
    pub(crate) subcode: Option<i64>,
    pub(crate) named: bool,
}

/// `POST /_control/tokens`: the tokens that a pixel knows; a pixel without a list knows every token.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Tokens {
    #[serde(deserialize_with = "pixel")]
    pixel: u64,
    tokens: HashSet<String>,
}

/// A pixel id as a text or a number.
fn pixel<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u64, D::Error> {
    let id = Value::deserialize(deserializer)?;
    let number = id.as_u64().or_else(|| id.as_str()?.parse().ok());
    number.ok_or_else(|| D::Error::custom(format!("{id} is no pixel id")))
}

fn some_pixel<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<u64>, D::Error> {
    pixel(deserializer).map(Some)
}

fn once() -> u64 {
    1
}

fn ok() -> u16 {
    200
}

// === impl BadEvents ===

impl Default for BadEvents {
    /// "Insufficient customer information parameters".
    fn default() -> Self {
        Self { event_ids: Vec::new(), code: 100, subcode: Some(2_804_050), named: false }
    }
}

// === impl Script ===

impl Script {
    pub(crate) fn add_fault(&self, fault: Fault) {
        self.lock().faults.push_back(fault);
    }

    pub(crate) fn add_bad_events(&self, bad: BadEvents) {
        let BadEvents { event_ids, code, subcode, named } = bad;
        self.lock().bad.extend(event_ids.into_iter().map(|id| (id, BadEvent { code, subcode, named })));
    }

    pub(crate) fn set_tokens(&self, tokens: Tokens) {
        self.lock().tokens.insert(tokens.pixel, tokens.tokens);
    }

    /// Forgets all of it.
    pub(crate) fn reset(&self) {
        *self.lock() = State::default();
    }

    /// The fault that this request has to suffer.
    pub(crate) fn next_fault(&self, pixel: u64) -> Option<Fault> {
        let mut state = self.lock();
        let at = state.faults.iter().position(|fault| fault.pixel.is_none_or(|wanted| wanted == pixel))?;
        let fault = state.faults.get_mut(at)?;
        fault.times = fault.times.saturating_sub(1);
        if fault.times == 0 { state.faults.remove(at) } else { Some(fault.clone()) }
    }

    /// The refusal of an event of this id.
    pub(crate) fn bad_event(&self, id: &str) -> Option<BadEvent> {
        self.lock().bad.get(id).copied()
    }

    /// Whether any event is bad at all.
    pub(crate) fn has_bad_events(&self) -> bool {
        !self.lock().bad.is_empty()
    }

    pub(crate) fn knows_token(&self, pixel: u64, token: &str) -> bool {
        self.lock().tokens.get(&pixel).is_none_or(|known| known.contains(token))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
