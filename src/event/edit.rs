//! What a filter may change of an event: the only list of paths, and the only door (`plugins/wit/filter.wit`).

use serde_json::{Number, Value};

use super::decode::{self, json};
use super::hash::Digest;
use super::{DataProcessing, Event, UserKey, click_id, plain};

/// Edits of one verdict.
const EDITS_MAX: usize = 64;

/// Bytes of one value.
const VALUE_MAX: usize = 4 * 1024;

/// Bytes of a path, and of what it is renamed to.
const PATH_MAX: usize = 256;

/// A value that a filter sees or sets.
#[derive(Clone, Debug, PartialEq)]
pub enum Scalar {
    /// A text.
    Text(String),
    /// A number; whole ones up to 2^53 are written without a fraction.
    Number(f64),
    /// A boolean.
    Boolean(bool),
    /// JSON text of anything else.
    Json(String),
}

/// One change to an event. Paths are names on the wire: `event_name`, `event_source_url`, `referrer_url`, `opt_out`,
/// `data_processing_options`, `…_country`, `…_state`, `custom_data.<key>`, `user_data.<key>`.
#[derive(Clone, Debug, PartialEq)]
pub enum Edit {
    /// Sets what is at a path, whether or not there was something.
    Set {
        /// Where.
        path: String,
        /// To what.
        value: Scalar,
    },
    /// Removes what is at a path, if it is there.
    Remove(String),
    /// Gives a key of `custom_data` another name, if it is there; what had that name is replaced.
    Rename {
        /// The present `custom_data.<key>`.
        path: String,
        /// The new one: `custom_data.<key>` or just the key.
        to: String,
    },
}

/// Why a filter's edits were refused, all of them.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EditError {
    /// Too many in one verdict.
    #[error("more than {max} edits")]
    TooMany {
        /// How many there may be.
        max: usize,
    },
    /// A value is too long.
    #[error("the value for {path:?} is longer than {max} bytes")]
    TooLong {
        /// Where it was to go.
        path: String,
        /// Bytes it may have.
        max: usize,
    },
    /// Not a path, or not one that this kind of edit may touch.
    #[error("{path:?} is not a path that can be changed like this")]
    Path {
        /// What the filter gave, cut to its first 256 bytes.
        path: String,
    },
    /// A value that this path does not take.
    #[error("{path:?} takes {expected}")]
    Value {
        /// Where it was to go.
        path: String,
        /// What goes there.
        expected: &'static str,
    },
}

/// An edit that was checked against the list: carrying it out cannot fail.
enum Change<'a> {
    Name(&'a str),
    SourceUrl(Option<&'a str>),
    ReferrerUrl(Option<&'a str>),
    OptOut(Option<bool>),
    ProcessingOptions(Option<Vec<String>>),
    ProcessingCountry(Option<i64>),
    ProcessingState(Option<i64>),
    Custom(&'a str, Option<Value>),
    CustomName(&'a str, &'a str),
    UserDigest(UserKey, Digest),
    UserText(UserText, &'a str),
    UserRemoved(&'a str),
}

/// The keys of `user_data` that a filter may set to a text.
#[derive(Clone, Copy)]
enum UserText {
    Fbc,
    Fbp,
    Address,
    UserAgent,
}

// === impl Event ===

impl Event {
    /// Carries out a filter's edits in their order: all of them, or, if one is refused, none.
    pub fn apply(&mut self, edits: &[Edit]) -> Result<(), EditError> {
        if edits.len() > EDITS_MAX {
            return Err(EditError::TooMany { max: EDITS_MAX });
        }
        let changes: Vec<_> = edits.iter().map(Edit::check).collect::<Result<_, _>>()?;
        changes.into_iter().for_each(|change| self.carry_out(change));
        Ok(())
    }

    fn carry_out(&mut self, change: Change<'_>) {
        match change {
            Change::Name(name) => self.name = name.to_owned(),
            Change::SourceUrl(url) => self.source_url = url.map(str::to_owned),
            Change::ReferrerUrl(url) => self.referrer_url = url.map(str::to_owned),
            Change::OptOut(opt_out) => self.opt_out = opt_out,
            Change::ProcessingOptions(Some(options)) => self.processing().options = options,
            Change::ProcessingOptions(None) => self.data_processing = None,
            Change::ProcessingCountry(None) | Change::ProcessingState(None) if self.data_processing.is_none() => {}
            Change::ProcessingCountry(country) => self.processing().country = country,
            Change::ProcessingState(state) => self.processing().state = state,
            Change::Custom(key, Some(value)) => drop(self.custom_data.insert(key.to_owned(), value)),
            Change::Custom(key, None) => drop(self.custom_data.remove(key)),
            Change::CustomName(key, to) => {
                if let Some(value) = self.custom_data.remove(key) {
                    self.custom_data.insert(to.to_owned(), value);
                }
            }
            Change::UserDigest(key, digest) => self.user_data.set_digest(key, digest),
            Change::UserText(field, text) => {
                let text = Some(text.to_owned());
                match field {
                    UserText::Fbc => self.user_data.fbc = text,
                    UserText::Fbp => self.user_data.fbp = text,
                    UserText::Address => self.user_data.client_ip_address = text,
                    UserText::UserAgent => self.user_data.client_user_agent = text,
                }
            }
            Change::UserRemoved(name) => self.user_data.remove(name),
        }
    }

    fn processing(&mut self) -> &mut DataProcessing {
        self.data_processing.get_or_insert_default()
    }
}

// === impl Edit ===

impl Edit {
    fn check(&self) -> Result<Change<'_>, EditError> {
        let path = match self {
            Edit::Set { path, .. } | Edit::Remove(path) | Edit::Rename { path, .. } => path,
        };
        let longest = if let Edit::Rename { to, .. } = self { to.len().max(path.len()) } else { path.len() };
        if longest > PATH_MAX {
            return Err(refused(path));
        }
        match self {
            Edit::Set { path, value } => check_set(path, value),
            Edit::Remove(path) => check_remove(path),
            Edit::Rename { path, to } => {
                let key = custom_key(path).ok_or_else(|| refused(path))?;
                let to = custom_key(to).or_else(|| bare_key(to)).ok_or_else(|| refused(to))?;
                Ok(Change::CustomName(key, to))
            }
        }
    }
}

fn check_set<'a>(path: &'a str, value: &'a Scalar) -> Result<Change<'a>, EditError> {
    if let Scalar::Text(text) | Scalar::Json(text) = value
        && text.len() > VALUE_MAX
    {
        return Err(EditError::TooLong { path: path.to_owned(), max: VALUE_MAX });
    }
    let wrong = |expected| EditError::Value { path: path.to_owned(), expected };
    if let Some(key) = custom_key(path) {
        let value = value.to_json().ok_or_else(|| wrong("a finite number or JSON text"))?;
        return Ok(Change::Custom(key, Some(value)));
    }
    if let Some(name) = path.strip_prefix("user_data.") {
        return check_user_data(path, name, value);
    }
    let text = || value.text().filter(|text| !text.is_empty()).ok_or_else(|| wrong("a text"));
    let whole = || value.whole().ok_or_else(|| wrong("a whole number"));
    match path {
        "event_name" => {
            let name = value.text().filter(|name| decode::is_event_name(name));
            name.map(Change::Name).ok_or_else(|| wrong("a text that is not empty"))
        }
        "event_source_url" => Ok(Change::SourceUrl(Some(text()?))),
        "referrer_url" => Ok(Change::ReferrerUrl(Some(text()?))),
        "opt_out" => match value {
            Scalar::Boolean(opt_out) => Ok(Change::OptOut(Some(*opt_out))),
            _ => Err(wrong("true or false")),
        },
        "data_processing_options" => {
            let options = value.texts().ok_or_else(|| wrong("a text or a JSON array of texts"))?;
            Ok(Change::ProcessingOptions(Some(options)))
        }
        "data_processing_options_country" => Ok(Change::ProcessingCountry(Some(whole()?))),
        "data_processing_options_state" => Ok(Change::ProcessingState(Some(whole()?))),
        _ => Err(refused(path)),
    }
}

fn check_user_data<'a>(path: &'a str, name: &str, value: &'a Scalar) -> Result<Change<'a>, EditError> {
    let wrong = |expected| EditError::Value { path: path.to_owned(), expected };
    let text = value.text();
    let set = |field, is_good: &dyn Fn(&str) -> bool, expected| {
        let text = text.filter(|text| is_good(text)).ok_or_else(|| wrong(expected))?;
        Ok(Change::UserText(field, text))
    };
    let is_click_id = |text: &str| click_id::parse(text).is_some();
    match name {
        "fbc" => set(UserText::Fbc, &is_click_id, "fb.<index>.<ms>.<click id>"),
        "fbp" => set(UserText::Fbp, &is_click_id, "fb.<index>.<ms>.<number>"),
        "client_ip_address" => {
            set(UserText::Address, &|text| plain::public_address(text) == Some(text), "a public IP address")
        }
        "client_user_agent" => set(UserText::UserAgent, &plain::is_sendable, "a text without an e-mail address"),
        _ => {
            let key = UserKey::from_name(name).filter(|key| key.name() == name).ok_or_else(|| refused(path))?;
            let digest = text.and_then(Digest::from_hex).ok_or_else(|| wrong("a SHA-256 in hex"))?;
            Ok(Change::UserDigest(key, digest))
        }
    }
}

fn check_remove(path: &str) -> Result<Change<'_>, EditError> {
    if let Some(key) = custom_key(path) {
        return Ok(Change::Custom(key, None));
    }
    if let Some(name) = path.strip_prefix("user_data.").filter(|name| !name.is_empty()) {
        return Ok(Change::UserRemoved(name));
    }
    match path {
        "event_source_url" => Ok(Change::SourceUrl(None)),
        "referrer_url" => Ok(Change::ReferrerUrl(None)),
        "opt_out" => Ok(Change::OptOut(None)),
        "data_processing_options" => Ok(Change::ProcessingOptions(None)),
        "data_processing_options_country" => Ok(Change::ProcessingCountry(None)),
        "data_processing_options_state" => Ok(Change::ProcessingState(None)),
        _ => Err(refused(path)),
    }
}

fn custom_key(path: &str) -> Option<&str> {
    path.strip_prefix("custom_data.").filter(|key| !key.is_empty() && !key.contains(char::is_control))
}

/// What a key is renamed to, given without its prefix: no path of anything else.
fn bare_key(key: &str) -> Option<&str> {
    (!key.is_empty() && !key.contains(|c: char| c.is_control() || c == '.')).then_some(key)
}

fn refused(path: &str) -> EditError {
    EditError::Path { path: path.chars().take(PATH_MAX).collect() }
}

// === impl Scalar ===

impl Scalar {
    fn text(&self) -> Option<&str> {
        match self {
            Scalar::Text(text) => Some(text),
            Scalar::Number(_) | Scalar::Boolean(_) | Scalar::Json(_) => None,
        }
    }

    fn texts(&self) -> Option<Vec<String>> {
        let text = |item| if let Value::String(text) = item { Some(text) } else { None };
        match self.to_json()? {
            Value::String(text) if text.is_empty() => Some(Vec::new()),
            Value::Array(items) => items.into_iter().map(text).collect(),
            item => Some(vec![text(item)?]),
        }
    }

    fn whole(&self) -> Option<i64> {
        self.to_json()?.as_i64()
    }

    /// The value as JSON; `None` for a number that is not finite and a text that is not JSON.
    fn to_json(&self) -> Option<Value> {
        /// Up to here every whole number is an `f64` of its own.
        const WHOLE_MAX: f64 = 9_007_199_254_740_992.0;
        match self {
            Scalar::Text(text) => Some(Value::String(text.clone())),
            Scalar::Boolean(boolean) => Some(Value::Bool(*boolean)),
            Scalar::Number(number) if number.fract() == 0.0 && number.abs() <= WHOLE_MAX => {
                Some(Value::Number((*number as i64).into()))
            }
            Scalar::Number(number) => Number::from_f64(*number).map(Value::Number),
            Scalar::Json(text) => json::parse_value(text).ok(),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing)]
    use super::*;

    /// An event as a server sends it.
    fn event(json: &str) -> Event {
        let body = format!(r#"{{"data":[{json}]}}"#);
        let request = decode::GraphRequest { content_type: None, query: "", bearer: None, body: body.as_bytes() };
        let arrival = crate::event::Arrival { now_ms: 1_000, ..Default::default() };
        decode::graph::decode(request, &arrival, 1).unwrap().events.remove(0)
    }

    fn bare() -> Event {
        event(r#"{"event_name":"A","event_time":1,"user_data":{}}"#)
    }

    fn set(path: &str, value: Scalar) -> Edit {
        Edit::Set { path: path.into(), value }
    }

    fn text(text: &str) -> Scalar {
        Scalar::Text(text.into())
    }

    const HASH: &str = "62a14e44f765419d10fea99367361a727c12365e2520f32218d505ed9aa0f62f";

    fn one_of_each() -> Vec<Edit> {
        vec![
            set("event_name", text("B")),
            set("event_source_url", text("https://shop.example/")),
            set("referrer_url", text("https://search.example/")),
            set("opt_out", Scalar::Boolean(true)),
            set("data_processing_options", text("LDU")),
            set("data_processing_options_country", Scalar::Number(1.0)),
            set("data_processing_options_state", Scalar::Number(1000.0)),
            set("custom_data.value", Scalar::Number(10.5)),
            set("custom_data.a.b", Scalar::Json("[1,{}]".into())),
            set("user_data.em", text(HASH)),
            set("user_data.fbp", text("fb.1.1.2")),
            set("user_data.fbc", text("fb.1.1.c")),
            set("user_data.client_ip_address", text("203.0.113.9")),
            set("user_data.client_user_agent", text("Browser/1")),
        ]
    }

    #[test]
    fn every_path_of_the_list_can_be_set() {
        let mut event = event(r#"{"event_name":"A","event_time":1,"user_data":{"em":["a@b.c","d@e.f"]}}"#);
        event.apply(&one_of_each()).unwrap();
        let expected = serde_json::json!({
            "event_name": "B", "event_id": event.id, "event_time": 1, "event_source_url": "https://shop.example/",
            "referrer_url": "https://search.example/", "opt_out": true, "data_processing_options": ["LDU"],
            "data_processing_options_country": 1, "data_processing_options_state": 1000,
            "custom_data": {"value": 10.5, "a.b": [1, {}]},
            "user_data": {
                "em": [HASH], "fbp": "fb.1.1.2", "fbc": "fb.1.1.c",
                "client_ip_address": "203.0.113.9", "client_user_agent": "Browser/1",
            },
        });
        assert_eq!(serde_json::to_value(&event).unwrap(), expected);
    }

    #[test]
    fn what_was_set_can_be_removed() {
        let mut event = bare();
        let before = event.clone();
        let sets = one_of_each().split_off(1);
        event.apply(&sets).unwrap();
        let removals: Vec<_> = sets
            .into_iter()
            .map(|edit| match edit {
                Edit::Set { path, .. } => Edit::Remove(path),
                other => other,
            })
            .collect();
        event.apply(&removals).unwrap();
        assert_eq!(event, before);
    }

    #[test]
    fn keys_of_custom_data_get_other_names() {
        let mut event = event(r#"{"event_name":"A","event_time":1,"user_data":{},"custom_data":{"a":1,"b":2,"c":3}}"#);
        let rename = |path: &str, to: &str| Edit::Rename { path: path.into(), to: to.into() };
        event.apply(&[rename("custom_data.a", "x"), rename("custom_data.b", "custom_data.c")]).unwrap();
        event.apply(&[rename("custom_data.absent", "c")]).unwrap();
        assert_eq!(Value::Object(event.custom_data), serde_json::json!({"x": 1, "c": 2}));
    }

    #[test]
    fn one_refused_edit_leaves_the_event_as_it_was() {
        let mut event = bare();
        let before = event.clone();
        let forbidden = [
            "event_id",
            "event_time",
            "pixel",
            "custom_data",
            "custom_data.",
            "user_data.",
            "user_data.email",
            "",
            "app_data.x",
            "action_source",
        ];
        for path in forbidden {
            let edits = [set("event_name", text("B")), set(path, text("x"))];
            assert_eq!(event.apply(&edits), Err(EditError::Path { path: path.into() }));
            assert_eq!(event, before, "{path}");
        }
        for path in ["event_name", "event_id", "custom_data", "action_source", "user_data."] {
            assert!(event.apply(&[Edit::Remove(path.into())]).is_err(), "{path}");
        }
        for (path, to) in [("event_name", "x"), ("custom_data.a", "user_data.em"), ("custom_data.a", "")] {
            assert!(event.apply(&[Edit::Rename { path: path.into(), to: to.into() }]).is_err(), "{path} {to}");
        }
        assert_eq!(event, before);
    }

    #[test]
    fn a_path_takes_its_own_kind_of_value() {
        let mut event = bare();
        let wrong = [
            ("user_data.em", text("jane@shop.example")),
            ("user_data.external_id", text("U1")),
            ("user_data.fbc", text("jane@shop.example")),
            ("user_data.client_ip_address", text("10.0.0.1")),
            ("user_data.client_user_agent", text("jane@shop.example")),
            ("event_name", text("")),
            ("event_name", text("a\u{0}b")),
            ("opt_out", text("true")),
            ("data_processing_options_state", Scalar::Number(0.5)),
            ("data_processing_options", Scalar::Json("[1]".into())),
            ("custom_data.x", Scalar::Number(f64::NAN)),
            ("custom_data.x", Scalar::Json("{".into())),
            ("custom_data.x", Scalar::Json("[".repeat(31) + &"]".repeat(31))),
        ];
        for (path, value) in wrong {
            let result = event.apply(&[set(path, value.clone())]);
            assert!(matches!(result, Err(EditError::Value { .. })), "{path} {value:?}: {result:?}");
        }
    }

    #[test]
    fn edits_have_their_limits() {
        let mut event = bare();
        let edits = vec![set("custom_data.x", Scalar::Boolean(true)); EDITS_MAX + 1];
        assert_eq!(event.apply(&edits), Err(EditError::TooMany { max: EDITS_MAX }));
        event.apply(&edits[1..]).unwrap();
        let long = set("custom_data.x", text(&"x".repeat(VALUE_MAX + 1)));
        assert_eq!(event.apply(&[long]), Err(EditError::TooLong { path: "custom_data.x".into(), max: VALUE_MAX }));
        event.apply(&[set("custom_data.x", text(&"x".repeat(VALUE_MAX)))]).unwrap();
        assert!(event.apply(&[set(&format!("custom_data.{}", "k".repeat(PATH_MAX)), text("x"))]).is_err());
    }

    #[test]
    fn removing_what_is_not_there_makes_nothing() {
        let mut event = bare();
        let before = event.clone();
        let absent = ["data_processing_options_country", "data_processing_options", "custom_data.x", "user_data.em"];
        event.apply(&absent.map(|path| Edit::Remove(path.into()))).unwrap();
        assert_eq!(event, before);
    }
}
