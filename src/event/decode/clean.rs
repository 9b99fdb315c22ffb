//! What senders fill as they like, `custom_data` and its like and URLs: kept within limits, and without e-mail addresses.

use serde_json::{Map, Value};

use crate::event::{Event, UserKey, normalise};

/// Keys of one object. Filters are given all of them in one call, which may not take long.
const KEYS_MAX: usize = 256;

/// Bytes of one key with its value, as JSON, give or take its escapes.
const MEMBER_BYTES_MAX: usize = 64 * 1024;

/// What an object must be to be [within limits](is_within_limits), in the words of an error.
pub(super) const LIMITS: &str = "a JSON object of at most 256 keys, each of at most 64 KiB with its value";

/// Whether an object has not too many keys, and none that is too large.
pub(super) fn is_within_limits(object: &Map<String, Value>) -> bool {
    object.len() <= KEYS_MAX && object.iter().all(is_small)
}

/// Makes an object one that is within limits; the number of keys that were dropped for it.
pub(super) fn drop_surplus(object: &mut Map<String, Value>) -> usize {
    let before = object.len();
    let mut kept = 0;
    object.retain(|key, value| {
        let stays = kept < KEYS_MAX && is_small((key, value));
        kept += usize::from(stays);
        stays
    });
    before - object.len()
}

/// Drops what is an e-mail address as a whole: texts of `custom_data` and `app_data`, at any depth, and parameters in the
/// query of both URLs. Each is counted.
pub(super) fn drop_addresses(event: &mut Event) {
    let mut dropped = 0;
    for url in [&mut event.source_url, &mut event.referrer_url].into_iter().flatten() {
        if let Some(cleaned) = without_addresses(url, &mut dropped) {
            *url = cleaned;
        }
    }
    for object in [&mut event.custom_data, &mut event.app_data] {
        object.retain(|_, value| stays(value, &mut dropped));
    }
    (0..dropped).for_each(|_| event.user_data.count_dropped());
}

fn is_small((key, value): (&String, &Value)) -> bool {
    key.len() + bytes(value) <= MEMBER_BYTES_MAX
}

fn bytes(value: &Value) -> usize {
    match value {
        Value::Null | Value::Bool(_) | Value::Number(_) => 8,
        Value::String(text) => text.len() + 2,
        Value::Array(items) => items.iter().map(|item| bytes(item) + 1).sum::<usize>() + 2,
        Value::Object(fields) => fields.iter().map(|(key, value)| key.len() + bytes(value) + 4).sum::<usize>() + 2,
    }
}

/// Whether a value is no address. Those within it are dropped.
fn stays(value: &mut Value, dropped: &mut usize) -> bool {
    match value {
        Value::String(text) if is_address(text) => {
            *dropped += 1;
            return false;
        }
        Value::Array(items) => items.retain_mut(|item| stays(item, dropped)),
        Value::Object(fields) => fields.retain(|_, field| stays(field, dropped)),
        _ => {}
    }
    true
}

/// The URL without the parameters that are addresses, if it has any.
fn without_addresses(url: &str, dropped: &mut usize) -> Option<String> {
    let (head, fragment) = url.split_at(url.find('#').unwrap_or(url.len()));
    let (page, query) = head.split_once('?')?;
    if !query.contains('@') && !query.contains("%40") {
        return None;
    }
    let pairs = query.split('&');
    let kept: Vec<&str> = pairs.clone().filter(|pair| !holds_address(pair)).collect();
    let gone = pairs.count() - kept.len();
    *dropped += gone;
    let mark = if kept.is_empty() { "" } else { "?" };
    (gone > 0).then(|| format!("{page}{mark}{}{fragment}", kept.join("&")))
}

fn holds_address(pair: &str) -> bool {
    // A plus that nobody escaped reads as a blank, and is part of many addresses.
    let is_address = |text: &str| is_address(&text.trim().replace(' ', "+"));
    form_urlencoded::parse(pair.as_bytes()).any(|(name, value)| is_address(&name) || is_address(&value))
}

/// Stricter than what is hashed under `em`: no text with blanks in it, and no `sku@2.0`.
fn is_address(text: &str) -> bool {
    let text = normalise::trim(text);
    text.contains('@')
        && !text.contains(char::is_whitespace)
        && text.rsplit('.').next().is_some_and(|top| top.starts_with(char::is_alphabetic))
        && normalise::normalise(UserKey::Email, text).is_some()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use serde_json::json;

    use super::*;

    fn url(url: &str) -> (String, usize) {
        let mut dropped = 0;
        (without_addresses(url, &mut dropped).unwrap_or_else(|| url.to_owned()), dropped)
    }

    #[test]
    fn parameters_that_are_addresses_leave_the_url() {
        for (given, expected) in [
            ("https://a.example/b?x=1&email=jane%40x.de&y=2#top", "https://a.example/b?x=1&y=2#top"),
            ("https://a.example/b?e=Jane.Doe@X.de", "https://a.example/b"),
            ("https://a.example/b?e=jane+shop%40x.de", "https://a.example/b"),
            ("?jane@x.de", ""),
        ] {
            assert_eq!(url(given), (expected.to_owned(), 1), "{given}");
        }
        for same in [
            "https://a.example/@jane?x=1",
            "https://a.example/?handle=@jane&sku=a@2.0",
            "https://a.example/?x=1",
            "https://a.example/#jane@x.de",
            "",
        ] {
            assert_eq!(url(same), (same.to_owned(), 0));
        }
    }

    #[test]
    fn texts_that_are_addresses_leave_an_object_at_any_depth() {
        let mut dropped = 0;
        let mut value = json!({"a": "jane@x.de", "b": ["x", " Jane@X.de ", {"c": "j@x.de", "d": 1}], "e": "by @x.de"});
        assert!(stays(&mut value, &mut dropped));
        assert_eq!((value, dropped), (json!({"b": ["x", {"d": 1}], "e": "by @x.de"}), 3));
    }

    #[test]
    fn an_object_keeps_to_its_limits() {
        let mut object: Map<String, Value> = (0..KEYS_MAX).map(|n| (format!("{n}"), json!(n))).collect();
        assert!(is_within_limits(&object) && drop_surplus(&mut object) == 0);
        object.insert("one more".into(), json!(1));
        assert!(!is_within_limits(&object));
        assert_eq!((drop_surplus(&mut object), object.len()), (1, KEYS_MAX));
        for large in [json!("x".repeat(MEMBER_BYTES_MAX)), json!([[{"a": "x".repeat(MEMBER_BYTES_MAX)}]])] {
            let mut object = Map::from_iter([("large".to_owned(), large), ("small".to_owned(), json!(1))]);
            assert!(!is_within_limits(&object));
            assert_eq!((drop_surplus(&mut object), object.len()), (1, 1));
        }
    }
}
