//! An event as every part of the gateway knows it: decoded, normalised and hashed; no raw identifier is in it.
//!
//! ```text
//! bytes ─▶ decode/{gateway,pixel,graph} ─▶ Event ─▶ edit (what filters change) ─▶ encode ─▶ JSON for the Graph API
//!              │ normalise/, hash          │
//!              └ click_id, plain           └ user_data
//! ```
//!
//! [`decode`] makes it, one file per wire format; filters change it through [`Event::apply`], whose list of paths is the
//! only door they have; [`Event::encode`] writes it once, exactly as the Graph API gets it. What was encoded can be read
//! again with [`decode::graph::decode_stored`] and encodes to the same bytes: that is how dead letters come back.

pub mod click_id;
pub mod decode;
mod edit;
mod encode;
mod hash;
mod normalise;
mod plain;
mod user_data;

use std::net::IpAddr;

use serde::Serialize;
use serde_json::{Map, Value};

pub use edit::{Edit, EditError, Scalar};
pub use hash::Digest;
pub use user_data::{UserData, UserKey};

/// One event of Meta's Conversions API ("Server Event Parameters"). The order of the fields is the order on the wire.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Event {
    /// `event_name`: a standard or custom name, never empty.
    #[serde(rename = "event_name")]
    pub name: String,
    /// `event_id`: given by the sender or made on arrival; a resend carries the same one.
    #[serde(rename = "event_id")]
    pub id: String,
    /// `event_time`, Unix seconds.
    #[serde(rename = "event_time")]
    pub time: i64,
    /// `action_source`: where the event happened, `website` for all that browsers send; empty if a server did not say.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub action_source: String,
    /// `event_source_url`: the page.
    #[serde(rename = "event_source_url", skip_serializing_if = "Option::is_none")]
    pub source_url: Option<String>,
    /// `referrer_url`: the page before it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub referrer_url: Option<String>,
    /// `user_data`: who it was, hashed where Meta wants it hashed.
    pub user_data: UserData,
    /// `custom_data`: what it was about.
    #[serde(skip_serializing_if = "Map::is_empty")]
    pub custom_data: Map<String, Value>,
    /// `data_processing_options` with country and state (Limited Data Use).
    #[serde(flatten)]
    pub data_processing: Option<DataProcessing>,
    /// `opt_out`: attribution only, no delivery optimisation.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub opt_out: Option<bool>,
    /// `app_data`, for app events that servers send.
    #[serde(skip_serializing_if = "Map::is_empty")]
    pub app_data: Map<String, Value>,
    /// Further keys of the event that a server sent, passed on as they came unless they carry an e-mail address, or,
    /// where Meta does not define the key, a telephone number.
    #[serde(flatten)]
    pub extra: Map<String, Value>,
    /// What a browser's request said beside all this under names that are not Meta's. An account's filters see of it what
    /// the account names as consent sources; it is not kept with the event.
    #[serde(skip)]
    pub beside: Vec<(String, Scalar)>,
}

/// Limited Data Use: the three keys that Meta wants together.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct DataProcessing {
    /// `data_processing_options`: `["LDU"]`, or empty for "explicitly none".
    #[serde(rename = "data_processing_options")]
    pub options: Vec<String>,
    /// `data_processing_options_country`: 1 for the US, 0 lets Meta find it.
    #[serde(rename = "data_processing_options_country", skip_serializing_if = "Option::is_none")]
    pub country: Option<i64>,
    /// `data_processing_options_state`: 1000 and up, 0 lets Meta find it.
    #[serde(rename = "data_processing_options_state", skip_serializing_if = "Option::is_none")]
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
