//! The JSON document of a request: the events as they were encoded at acceptance, joined, never parsed again.

use std::borrow::Cow;

use bytes::Bytes;
use serde::Deserialize;
use serde_json::{Map, Value};

/// Bytes around and between events: braces, `"data":[`, commas.
const FRAME_BYTES: usize = 64;

/// Joins events into one document. `envelope` is a JSON object of request-level fields or empty; its own
/// `test_event_code` goes before the pixel's, since who sent it wanted to see just these events. Gives whether there is one.
pub(crate) fn document<'a>(
    envelope: &str,
    test_event_code: Option<&str>,
    bodies: impl Iterator<Item = &'a [u8]> + Clone,
) -> (Bytes, bool) {
    let mut fields: Map<String, Value> = serde_json::from_str(envelope).unwrap_or_default();
    fields.remove("data");
    fields.remove("access_token");
    if let Some(code) = test_event_code {
        fields.entry("test_event_code").or_insert_with(|| code.into());
    }
    let test = fields.get("test_event_code").is_some_and(|code| code.as_str() != Some(""));
    let events_bytes: usize = bodies.clone().map(|body| body.len() + 1).sum();
    let mut document = Vec::with_capacity(events_bytes + envelope.len() + FRAME_BYTES);
    document.extend_from_slice(b"{\"data\":[");
    for (n, body) in bodies.enumerate() {
        if n > 0 {
            document.push(b',');
        }
        document.extend_from_slice(body);
    }
    document.push(b']');
    for (name, value) in fields {
        document.push(b',');
        document.extend_from_slice(Value::String(name).to_string().as_bytes());
        document.push(b':');
        document.extend_from_slice(value.to_string().as_bytes());
    }
    document.push(b'}');
    (document.into(), test)
}

/// Whether an event is a shop's upload of what happened at its till: Meta takes these for 62 days.
pub(crate) fn is_physical_store(body: &[u8]) -> bool {
    #[derive(Deserialize)]
    struct Source<'a> {
        #[serde(borrow)]
        action_source: Option<Cow<'a, str>>,
    }
    let source = serde_json::from_slice::<Source<'_>>(body).ok().and_then(|event| event.action_source);
    source.is_some_and(|source| source == "physical_store")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use serde_json::json;

    use super::*;

    fn joined(envelope: &str, code: Option<&str>, bodies: &[&str]) -> Value {
        let (document, test) = document(envelope, code, bodies.iter().map(|body| body.as_bytes()));
        let made: Value = serde_json::from_slice(&document).unwrap();
        assert_eq!(test, made.get("test_event_code").is_some());
        made
    }

    #[test]
    fn events_are_joined_under_data() {
        let events = [r#"{"event_name":"A"}"#, r#"{"event_name":"B\"]"}"#];
        assert_eq!(joined("", None, &events), json!({"data": [{"event_name": "A"}, {"event_name": "B\"]"}]}));
        assert_eq!(joined("", None, &events[..1]), json!({"data": [{"event_name": "A"}]}));
    }

    #[test]
    fn request_fields_stand_beside_data() {
        let made = joined(r#"{"partner_agent":"x\"y","data":1,"access_token":"k"}"#, Some("TEST1"), &["{}"]);
        assert_eq!(made, json!({"data": [{}], "partner_agent": "x\"y", "test_event_code": "TEST1"}));
        let made = joined(r#"{"test_event_code":"MINE"}"#, Some("TEST1"), &["{}"]);
        assert_eq!(made, json!({"data": [{}], "test_event_code": "MINE"}));
    }

    #[test]
    fn a_physical_store_event_is_known_by_its_source() {
        assert!(is_physical_store(br#"{"event_name":"P","action_source":"physical_store"}"#));
        assert!(!is_physical_store(br#"{"action_source":"website","custom_data":{"action_source":"physical_store"}}"#));
        assert!(!is_physical_store(b"{"));
    }
}
