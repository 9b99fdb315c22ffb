//! An event as every part of the gateway knows it: decoded, normalised and hashed; no raw identifier is in it.
//!
//! The decoders make it, filters edit it, and [`Event::encode`] writes it once, exactly as the Graph API gets it.

pub mod decode;
mod encode;
mod user_data;

use std::net::IpAddr;

use serde_json::{Map, Value};

pub use user_data::{Digest, UserData, UserKey};

/// One event of Meta's Conversions API ("Server Event Parameters").
#[derive(Clone, Debug, PartialEq)]
pub struct Event {
    /// `event_name`: a standard or custom name, never empty.
    pub name: String,
    /// `event_id`: given by the sender or made on arrival; a resend carries the same one.
    pub id: String,
    /// `event_time`, Unix seconds.
    pub time: i64,
    /// `action_source`: where the event happened, `website` for all that browsers send.
    pub action_source: String,
    /// `event_source_url`: the page.
    pub source_url: Option<String>,
    /// `referrer_url`: the page before it.
    pub referrer_url: Option<String>,
    /// `user_data`: who it was, hashed where Meta wants it hashed.
    pub user_data: UserData,
    /// `custom_data`: what it was about.
    pub custom_data: Map<String, Value>,
    /// `data_processing_options` with country and state (Limited Data Use).
    pub data_processing: Option<DataProcessing>,
    /// `opt_out`: attribution only, no delivery optimisation.
    pub opt_out: Option<bool>,
    /// `app_data`, for app events that servers send.
    pub app_data: Map<String, Value>,
    /// Further keys of the event that a server sent and Meta defines; passed on as they came.
    pub extra: Map<String, Value>,
}

/// Limited Data Use: the three keys that Meta wants together.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DataProcessing {
    /// `data_processing_options`: `["LDU"]`, or empty for "explicitly none".
    pub options: Vec<String>,
    /// `data_processing_options_country`: 1 for the US, 0 lets Meta find it.
    pub country: Option<i64>,
    /// `data_processing_options_state`: 1000 and up, 0 lets Meta find it.
    pub state: Option<i64>,
}

/// What the HTTP request itself says about an event, beside its body.
#[derive(Clone, Debug, Default)]
pub struct Arrival {
    /// When it arrived, Unix milliseconds.
    pub now_ms: i64,
    /// The visitor's address: the peer's, or the one a trusted proxy gave.
    pub client_ip: Option<IpAddr>,
    /// The `User-Agent` header.
    pub user_agent: Option<String>,
    /// The `_fbp` cookie.
    pub fbp: Option<String>,
    /// The `_fbc` cookie.
    pub fbc: Option<String>,
    /// The `Referer` header, the last resort for the page of a `noscript` image.
    pub referer: Option<String>,
}

/// What happens to an event that a filter fails on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnFault {
    /// It is dropped.
    Drop,
    /// It goes to the account's dead letters as it was before the first filter.
    Hold,
    /// It goes on as if the filter were not there.
    Pass,
}
