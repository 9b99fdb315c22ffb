//! From bytes to events, one file per wire format.
//!
//! | file | request | who sends it |
//! |---|---|---|
//! | [`gateway`] | `POST /events` | `pixelgate.js`, and Meta's own gateway plugin |
//! | [`pixel`] | `GET` and `POST /tr` | Meta's pixel, image tags |
//! | [`graph`] | `POST /v{N}.{M}/{pixel}/events`, `/capi/{pixel}/events` | servers, Meta's SDKs |
//!
//! Browsers are read leniently: what can't be used is left out, because nobody would read an error. Servers get one that
//! names the event and the key. No input makes a decoder panic, and no raw identifier of `user_data` gets through.
//!
//! [`json`] and [`form`] read the two syntaxes within limits; [`browser`] is what both browser formats have in common,
//! [`commerce`] mends the `custom_data` that pages give, [`clean`] bounds what is free in form and takes identifiers of
//! persons out of it, e-mail addresses in any dress ([`address`]).

mod address;
mod browser;
mod clean;
mod commerce;
mod form;
pub mod gateway;
pub mod graph;
pub(super) mod json;
pub mod pixel;

use serde_json::{Map, Value};

pub use form::Form;
pub use graph::{GraphDecoded, GraphRequest};

use super::Event;
use crate::account::PixelId;

/// Bytes of an event's name.
const NAME_MAX: usize = 512;

/// Bytes of an event's id. A page's own may be long, and a copy with another id would count twice.
const ID_MAX: usize = 4 * 1024;

/// An event from a browser, and where it goes.
#[derive(Clone, Debug, PartialEq)]
pub struct Decoded {
    /// The pixel it names.
    pub pixel: PixelId,
    /// The event itself.
    pub event: Event,
    /// What a first-party answer may renew.
    pub cookies: RenewedCookies,
}

/// Values for the browser's first-party cookies; all of them are fit to be one (RFC 6265, 4.1.1).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RenewedCookies {
    /// `_fbp`
    pub fbp: Option<String>,
    /// `_fbc`
    pub fbc: Option<String>,
}

/// Why a request is not taken. The messages may be shown to the sender: they hold nothing of what was sent.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// No pixel id, or what stands there is none.
    #[error("the pixel id is missing")]
    PixelMissing,
    /// No event name.
    #[error("the event name is missing")]
    EventNameMissing,
    /// Not JSON, or cut off.
    #[error("not JSON at line {line}, column {column}")]
    NotJson {
        /// Counted from 1.
        line: usize,
        /// Counted from 1; 0 at the very beginning of a line.
        column: usize,
    },
    /// JSON of something else than an object.
    #[error("not a JSON object")]
    NotAnObject,
    /// The body is no multipart form, whatever its type says.
    #[error("the multipart form is broken or not complete")]
    NotMultipart,
    /// JSON within JSON within JSON.
    #[error("JSON is nested deeper than {max} levels")]
    TooDeep {
        /// Levels there may be.
        max: usize,
    },
    /// More of something than one request may have.
    #[error("more than {max} {what} in one request")]
    TooMany {
        /// Events or fields.
        what: &'static str,
        /// How many there may be.
        max: usize,
    },
    /// An event or a body that is too large to be kept.
    #[error("the event is too large")]
    TooLarge,
    /// `data` is missing or has no event.
    #[error("param data must be a JSON array of at least one event")]
    NoEvents,
    /// Something in `data` that is no event.
    #[error("param data[{index}] must be a JSON object")]
    BadEvent {
        /// Its position.
        index: usize,
    },
    /// A key of an event that is missing or of the wrong form.
    #[error("param data[{index}]['{key}'] must be {expected}")]
    BadField {
        /// The event's position.
        index: usize,
        /// The key in it.
        key: &'static str,
        /// What Meta takes there.
        expected: &'static str,
    },
}

/// Whether a text can be an event's name: not blank, of bounded length, without control characters.
pub(super) fn is_event_name(text: &str) -> bool {
    text.len() <= NAME_MAX && !text.trim().is_empty() && !text.contains(char::is_control)
}

/// Whether a text can be an event's id.
fn is_event_id(text: &str) -> bool {
    text.len() <= ID_MAX && !text.trim().is_empty() && !text.contains(char::is_control)
}

/// An id for an event that has none: 128 random bits in hex.
fn made_id() -> String {
    format!("{:032x}", rand::random::<u128>())
}

/// The id that a browser gave, or one made for the event.
fn event_id(given: Option<Value>) -> String {
    given.and_then(json::into_text).filter(|id| is_event_id(id)).unwrap_or_else(made_id)
}

/// Takes a text that is not empty out of an object; numbers count as their digits.
fn take_text(object: &mut Map<String, Value>, key: &str) -> Option<String> {
    object.remove(key).and_then(json::into_text)
}

fn take_object(object: &mut Map<String, Value>, key: &str) -> Map<String, Value> {
    match object.remove(key) {
        Some(Value::Object(inner)) => inner,
        _ => Map::new(),
    }
}

#[cfg(test)]
mod properties;
#[cfg(test)]
mod tests;
