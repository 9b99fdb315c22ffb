//! `POST /v{N}.{M}/{pixel}/events` and `POST /capi/{pixel}/events`: events as servers and Meta's SDKs send them to the
//! Graph API ("Conversions API: Using the API").
//!
//! The body is one JSON document, or a form whose `data` is JSON text: of an array of events, or, as the Python SDK does
//! it, of an array of texts that are the JSON of one event each. What is valid passes unchanged.

use std::fmt;

use serde::de::{IgnoredAny, MapAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::{Map, Value};

use super::{DecodeError, Form, clean, is_event_id, is_event_name, json, made_id};
use crate::account::Secret;
use crate::event::user_data::Unknown;
use crate::event::{Arrival, DataProcessing, Event, UserData, click_id, plain};

/// Fields beside `data` that go on to Meta; all others end here.
const ENVELOPE: &[&str] = &[
    "namespace_id",
    "partner_agent",
    "platforms",
    "progress",
    "test_event_code",
    "trace",
    "upload_id",
    "upload_source",
    "upload_tag",
];

/// Where an event can have happened ("Server Event Parameters").
const ACTION_SOURCES: &[&str] = &[
    "app",
    "business_messaging",
    "chat",
    "email",
    "other",
    "phone_call",
    "physical_store",
    "system_generated",
    "website",
];

/// Further keys of an event that Meta defines.
const EXTRA: &[&str] = &[
    "advanced_measurement_table",
    "attribution_data",
    "customer_segmentation",
    "messaging_channel",
    "original_event_data",
];

/// The parts of a request to a Graph-compatible route.
///
/// It holds secrets and raw identifiers, so it doesn't print.
#[derive(Clone, Copy, Default)]
pub struct GraphRequest<'a> {
    /// The `Content-Type` header.
    pub content_type: Option<&'a str>,
    /// The query, without `?`.
    pub query: &'a str,
    /// The token of an `Authorization: Bearer` header.
    pub bearer: Option<&'a str>,
    /// The body, inflated.
    pub body: &'a [u8],
}

/// The events of a request, in their order.
#[derive(Clone, Debug, PartialEq)]
pub struct GraphDecoded {
    /// At least one.
    pub events: Vec<Event>,
    /// The fields beside `data` that go on to Meta, as the text of a JSON object; empty if there are none.
    pub envelope: String,
}

/// The token that came with a request: the header's, else the query's, else the body's. Events are not looked at, so
/// that who may not send costs little.
pub fn access_token(request: &GraphRequest<'_>) -> Result<Option<Secret>, DecodeError> {
    if let Some(token) = token_outside(request.bearer, request.query) {
        return Ok(Some(token));
    }
    if request.is_json() {
        json::check_depth(request.body)?;
        let Token(token) = serde_json::from_slice(request.body).map_err(|error| json::not_json(&error))?;
        return Ok(token);
    }
    let fields = request.form().fields()?;
    let token = fields.iter().find(|(name, value)| name == "access_token" && !value.is_empty());
    Ok(token.map(|(_, token)| Secret::new(token.as_ref())))
}

/// The token of the header, else of the query: what is known before the body is read.
pub fn token_outside(bearer: Option<&str>, query: &str) -> Option<Secret> {
    let in_query = || {
        let mut fields = form_urlencoded::parse(query.as_bytes());
        fields.find(|(name, value)| name == "access_token" && !value.is_empty())
    };
    bearer.map(Secret::new).or_else(|| in_query().map(|(_, token)| Secret::new(token.as_ref())))
}

/// The `access_token` of a JSON object, of which nothing else is kept.
struct Token(Option<Secret>);

impl<'de> Deserialize<'de> for Token {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(field_identifier, rename_all = "snake_case")]
        enum Key {
            AccessToken,
            #[serde(other)]
            Other,
        }
        struct Object;
        impl<'de> Visitor<'de> for Object {
            type Value = Token;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            // A derived struct refuses a key that comes twice; of two equal keys the last counts.
            fn visit_map<A: MapAccess<'de>>(self, mut fields: A) -> Result<Token, A::Error> {
                let mut token: Option<String> = None;
                while let Some(key) = fields.next_key()? {
                    match key {
                        Key::AccessToken => token = fields.next_value()?,
                        Key::Other => {
                            fields.next_value::<IgnoredAny>()?;
                        }
                    }
                }
                Ok(Token(token.filter(|token| !token.is_empty()).map(Secret::new)))
            }
        }
        deserializer.deserialize_map(Object)
    }
}

/// Decodes all events of a request; one that is wrong refuses the request, as Meta does.
pub fn decode(request: GraphRequest<'_>, arrival: &Arrival, events_max: usize) -> Result<GraphDecoded, DecodeError> {
    let mut fields = request.fields()?;
    let data = match fields.remove("data").map(unfold).transpose()? {
        Some(Value::Array(data)) if !data.is_empty() => data,
        _ => return Err(DecodeError::NoEvents),
    };
    if data.len() > events_max {
        return Err(DecodeError::TooMany { what: "events", max: events_max });
    }
    let events = data.into_iter().enumerate().map(|(index, item)| match unfold(item)? {
        Value::Object(keys) => Keys { index, keys }.received(arrival.now_ms),
        _ => Err(DecodeError::BadEvent { index }),
    });
    Ok(GraphDecoded { events: events.collect::<Result<_, _>>()?, envelope: envelope(fields) })
}

/// Reads one event that [`Event::encode`] wrote, as dead letters hold it: it encodes to the same bytes again.
pub fn decode_stored(event: &[u8]) -> Result<Event, DecodeError> {
    // The time is that of a bare click id, and none is bare once it was decoded.
    Keys { index: 0, keys: json::encoded(event)? }.event(0)
}

/// Reads a text as the JSON it holds; what is JSON already stays.
fn unfold(value: Value) -> Result<Value, DecodeError> {
    match value {
        Value::String(text) => json::parse(text.as_bytes()),
        value => Ok(value),
    }
}

fn envelope(mut fields: Map<String, Value>) -> String {
    let given = ENVELOPE.iter().filter_map(|name| Some(((*name).to_owned(), fields.remove(*name)?)));
    let kept: Map<_, _> = given.filter(|(name, value)| plain::may_pass(name, value, false)).collect();
    if kept.is_empty() { String::new() } else { Value::Object(kept).to_string() }
}

// === impl GraphRequest ===

impl<'a> GraphRequest<'a> {
    /// By content: SDKs and proxies mislabel it. A form begins with a name or a boundary.
    fn is_json(&self) -> bool {
        let first = self.body.iter().find(|byte| !byte.is_ascii_whitespace());
        let labelled =
            self.content_type.is_some_and(|label| label.to_ascii_lowercase().starts_with("application/json"));
        first == Some(&b'{') || (labelled && first.is_some())
    }

    fn form(&self) -> Form<'a> {
        Form { query: self.query, content_type: self.content_type, body: self.body }
    }

    /// The request's fields; those of the body before those of the query.
    fn fields(&self) -> Result<Map<String, Value>, DecodeError> {
        let (mut fields, further) = if self.is_json() {
            (json::object(self.body)?, Form { query: self.query, ..Form::default() })
        } else {
            (Map::new(), self.form())
        };
        // Forms list the query's first, and a later one wins.
        for (name, value) in further.fields()? {
            if self.is_json() && fields.contains_key(&*name) {
                continue;
            }
            fields.insert(name.into_owned(), Value::String(value.into_owned()));
        }
        Ok(fields)
    }
}

/// The keys of one event that are not read yet.
struct Keys {
    index: usize,
    keys: Map<String, Value>,
}

// === impl Keys ===

impl Keys {
    /// An event of a request, in which further things must hold than in one that was decoded before.
    fn received(self, now_ms: i64) -> Result<Event, DecodeError> {
        let index = self.index;
        let mut event = self.event(now_ms)?;
        for (key, object) in [("custom_data", &event.custom_data), ("app_data", &event.app_data)] {
            if !clean::is_within_limits(object) {
                return Err(DecodeError::BadField { index, key, expected: clean::LIMITS });
            }
        }
        // Meta refuses what is in the future; milliseconds that were taken for seconds are far in it.
        event.time = event.time.min(now_ms.div_euclid(1_000));
        (0..clean::drop_surplus(&mut event.extra)).for_each(|_| event.user_data.count_dropped());
        clean::drop_identifiers(&mut event);
        Ok(event)
    }

    fn event(mut self, now_ms: i64) -> Result<Event, DecodeError> {
        let name = self.text("event_name")?.filter(|name| is_event_name(name));
        let name = name.ok_or_else(|| self.bad("event_name", "a text of 1 to 512 bytes"))?;
        let time = self.whole("event_time")?.filter(|time| *time >= 0);
        let time = time.ok_or_else(|| self.bad("event_time", "a whole number of Unix seconds"))?;
        let action_source = self.text("action_source")?.unwrap_or_default();
        if !action_source.is_empty() && !ACTION_SOURCES.contains(&action_source.as_str()) {
            return Err(self.bad("action_source", "one of the values that Meta defines, such as website"));
        }
        let id = self.id()?;
        let source_url = self.text("event_source_url")?;
        let referrer_url = self.text("referrer_url")?;
        let Some(user_data) = self.object("user_data")? else {
            return Err(self.bad("user_data", OBJECT));
        };
        let custom_data = self.object("custom_data")?.unwrap_or_default();
        let data_processing = self.data_processing()?;
        let opt_out = self.flag("opt_out")?;
        let app_data = self.object("app_data")?.unwrap_or_default();
        let mut user_data = user_data_of(user_data, now_ms);
        let extra = self.extra(&mut user_data);
        Ok(Event {
            name,
            id,
            time,
            action_source,
            source_url,
            referrer_url,
            user_data,
            custom_data,
            data_processing,
            opt_out,
            app_data,
            extra,
            beside: Vec::new(),
        })
    }

    fn bad(&self, key: &'static str, expected: &'static str) -> DecodeError {
        DecodeError::BadField { index: self.index, key, expected }
    }

    /// Takes a key that is set; `null` is unset.
    fn take(&mut self, key: &str) -> Option<Value> {
        self.keys.remove(key).filter(|value| !value.is_null())
    }

    /// The id: one that is replaced without a word would count the event twice.
    fn id(&mut self) -> Result<String, DecodeError> {
        match self.take("event_id") {
            None => Ok(made_id()),
            Some(Value::String(id)) if id.is_empty() => Ok(made_id()),
            Some(id) => json::into_text(id).filter(|id| is_event_id(id)).ok_or_else(|| self.bad("event_id", EVENT_ID)),
        }
    }

    fn text(&mut self, key: &'static str) -> Result<Option<String>, DecodeError> {
        match self.take(key) {
            None => Ok(None),
            Some(Value::String(text)) => Ok((!text.is_empty()).then_some(text)),
            Some(_) => Err(self.bad(key, "a text")),
        }
    }

    fn whole(&mut self, key: &'static str) -> Result<Option<i64>, DecodeError> {
        let Some(value) = self.take(key) else { return Ok(None) };
        json::as_whole(&value).map(Some).ok_or_else(|| self.bad(key, "a whole number"))
    }

    fn flag(&mut self, key: &'static str) -> Result<Option<bool>, DecodeError> {
        match self.take(key) {
            None => Ok(None),
            Some(Value::Bool(flag)) => Ok(Some(flag)),
            Some(Value::String(text)) if text == "true" => Ok(Some(true)),
            Some(Value::String(text)) if text == "false" => Ok(Some(false)),
            Some(_) => Err(self.bad(key, "true or false")),
        }
    }

    fn object(&mut self, key: &'static str) -> Result<Option<Map<String, Value>>, DecodeError> {
        match self.take(key) {
            None => Ok(None),
            Some(Value::Object(object)) => Ok(Some(object)),
            Some(_) => Err(self.bad(key, OBJECT)),
        }
    }

    fn data_processing(&mut self) -> Result<Option<DataProcessing>, DecodeError> {
        const OPTIONS: &str = "data_processing_options";
        const EXPECTED: &str = "a list of texts";
        let options = match self.take(OPTIONS) {
            None => None,
            Some(Value::String(option)) => Some(vec![option]),
            Some(Value::Array(options)) => {
                let text = |option| if let Value::String(text) = option { Some(text) } else { None };
                let options = options.into_iter().map(text).collect::<Option<Vec<_>>>();
                Some(options.ok_or_else(|| self.bad(OPTIONS, EXPECTED))?)
            }
            Some(_) => return Err(self.bad(OPTIONS, EXPECTED)),
        };
        let country = self.whole("data_processing_options_country")?;
        let state = self.whole("data_processing_options_state")?;
        let is_set = options.is_some() || country.is_some() || state.is_some();
        Ok(is_set.then(|| DataProcessing { options: options.unwrap_or_default(), country, state }))
    }

    /// What is left: passed on unless it carries an identifier.
    fn extra(self, user_data: &mut UserData) -> Map<String, Value> {
        let mut extra = Map::new();
        for (key, value) in self.keys {
            if plain::may_pass(&key, &value, !EXTRA.contains(&key.as_str())) {
                extra.insert(key, value);
            } else if !value.is_null() {
                user_data.count_dropped();
            }
        }
        extra
    }
}

const OBJECT: &str = "a JSON object";
const EVENT_ID: &str = "a text of at most 4 KiB without control characters";

fn user_data_of(given: Map<String, Value>, now_ms: i64) -> UserData {
    let mut user_data = UserData::default();
    for (key, value) in given {
        match (key.as_str(), value) {
            ("fbc", Value::String(fbc)) => match click_id::renew(&fbc, None, now_ms) {
                Some(fbc) => user_data.fbc = Some(fbc),
                None => user_data.count_dropped(),
            },
            ("fbp", Value::String(fbp)) => user_data.set_fbp(fbp),
            ("client_ip_address", Value::String(address)) => user_data.set_address(address),
            ("client_user_agent", Value::String(user_agent)) => user_data.set_user_agent(user_agent),
            ("fbc" | "fbp" | "client_ip_address" | "client_user_agent", Value::Null) => {}
            ("fbc" | "fbp" | "client_ip_address" | "client_user_agent", _) => user_data.count_dropped(),
            (_, value) => user_data.add(&key, value, Unknown::Keep),
        }
    }
    user_data
}
