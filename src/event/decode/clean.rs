//! What senders fill as they like, `custom_data` and its like and URLs: kept within limits, and without identifiers of persons.

use serde_json::{Map, Value};

use super::address;
use crate::event::{Event, UserKey, plain};

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

/// Takes e-mail addresses, telephone numbers and identifiers of persons out of what senders fill as they like: both URLs,
/// `custom_data`, `app_data` and the keys that are passed on, at any depth. Each is counted.
pub(super) fn drop_identifiers(event: &mut Event) {
    let mut dropped = 0;
    for url in [&mut event.source_url, &mut event.referrer_url] {
        dropped += address::cut_from_url(url);
    }
    for object in [&mut event.custom_data, &mut event.app_data, &mut event.extra] {
        object.retain(|key, value| member_stays(key, value, &mut dropped));
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

/// Whether a member of an object stays: neither its key nor its value is an identifier. Those within it are dropped.
fn member_stays(key: &str, value: &mut Value, dropped: &mut usize) -> bool {
    let identifies = is_persons(key) || address::is_in(key);
    *dropped += usize::from(identifies && !value.is_null());
    if identifies {
        return false;
    }
    if is_of_telephones(key) && !without_numbers(value, dropped) {
        return false;
    }
    stays(value, is_of_products(key), dropped)
}

/// Whether what stands under a key that promises telephone numbers stays, without those.
fn without_numbers(value: &mut Value, dropped: &mut usize) -> bool {
    match value {
        Value::Array(items) => items.retain_mut(|item| without_numbers(item, dropped)),
        Value::Object(fields) => fields.retain(|_, field| without_numbers(field, dropped)),
        _ if is_number(value) => {
            *dropped += 1;
            return false;
        }
        _ => {}
    }
    true
}

/// Whether a value stays. Identifiers within it are dropped, addresses within a text are cut out of it. What names products
/// may be any number.
fn stays(value: &mut Value, of_products: bool, dropped: &mut usize) -> bool {
    match value {
        Value::String(text) if !of_products && is_dialled(text) => {
            *dropped += 1;
            return false;
        }
        Value::String(text) => {
            if let Some((rest, cut)) = address::cut(text) {
                *dropped += cut;
                *text = rest.trim().to_owned();
                return text.contains(char::is_alphanumeric);
            }
        }
        Value::Array(items) => items.retain_mut(|item| {
            let had_id = item.get("id").is_some();
            // Meta refuses events with a product that has none (`contents`, subcode 2804008).
            stays(item, of_products, dropped) && (!had_id || item.get("id").is_some())
        }),
        Value::Object(fields) => fields.retain(|key, field| member_stays(key, field, dropped)),
        _ => {}
    }
    true
}

/// Whether Meta wants what has this key in `user_data`, hashed. A product has a gender and a journey a city: those words
/// stay, and only Meta's short names for them are a person's.
fn is_persons(key: &str) -> bool {
    match UserKey::from_name(key) {
        None => false,
        Some(UserKey::Gender | UserKey::City | UserKey::State | UserKey::Zip | UserKey::Country) => {
            let letters: String = key.chars().filter(char::is_ascii_alphanumeric).collect();
            ["ge", "ct", "st", "zp"].iter().any(|short| letters.eq_ignore_ascii_case(short))
        }
        Some(_) => true,
    }
}

/// Whether a key names products or an order, with whatever identifiers the shop gives them (Meta's standard parameters).
fn is_of_products(key: &str) -> bool {
    matches!(key, "content_ids" | "order_id")
}

/// Whether a key promises a telephone number.
fn is_of_telephones(key: &str) -> bool {
    let key = key.to_ascii_lowercase();
    ["phone", "mobile"].iter().any(|word| key.contains(word))
}

fn is_number(value: &Value) -> bool {
    match value {
        Value::String(text) => plain::looks_like_phone(text),
        Value::Number(number) => plain::looks_like_phone(&number.to_string()),
        _ => false,
    }
}

/// Whether a text is a telephone number as it is dialled from abroad: without the plus it could be any number.
fn is_dialled(text: &str) -> bool {
    text.trim_start().starts_with('+') && plain::looks_like_phone(text)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use serde_json::json;

    use super::*;

    fn cleaned(mut value: Value) -> (Value, usize) {
        let mut dropped = 0;
        assert!(stays(&mut value, false, &mut dropped));
        (value, dropped)
    }

    #[test]
    fn texts_that_are_addresses_leave_an_object_at_any_depth() {
        let given = json!({"a": "jane@x.de", "b": ["x", " Jane@X.de ", {"c": "j@x.de", "d": 1}], "e": "by @x.de"});
        assert_eq!(cleaned(given), (json!({"b": ["x", {"d": 1}], "e": "by @x.de"}), 3));
        let given =
            json!({"a": "sent to jane@x.de, joe@x.de", "b": "jane%40x.de", "jane@x.de": 1, "j%40x.de": {"c": 1}});
        assert_eq!(cleaned(given), (json!({"a": "sent to ,"}), 5));
    }

    #[test]
    fn what_belongs_into_user_data_leaves_an_object() {
        let given = json!({
            "em": "x", "phone": "+1 650 555 1212", "first_name": "Jane", "customer": {"ln": "Doe", "st": "ca", "n": 1},
            "external_id": 7, "dob": null, "contact": "+44 844 412 4653", "mobile_number": 16_505_551_212_i64,
            "customer_phone": "0650 123 45 67",
        });
        assert_eq!(cleaned(given), (json!({"customer": {"n": 1}}), 9));
        let given = json!({
            "customer_phones": ["0650 123 45 67", "none"], "customer_phone": {"value": "0650 123 45 67"}, "ZP": "75001", "c_t": "x",
        });
        assert_eq!(cleaned(given), (json!({"customer_phones": ["none"], "customer_phone": {}}), 4));
        let given = json!({"content_ids": ["+4912345678", "jane@x.de"], "order_id": "+4912345678"});
        assert_eq!(cleaned(given), (json!({"content_ids": ["+4912345678"], "order_id": "+4912345678"}), 1));
        let given = json!({"contents": [{"id": "+4912345678", "quantity": 1}, {"id": "a"}, {"quantity": 2}], "id": "+4912345678"});
        assert_eq!(cleaned(given), (json!({"contents": [{"id": "a"}, {"quantity": 2}]}), 2));
        let given = json!({
            "city": "Paris", "country": "FR", "state": "IDF", "gender": "female", "phone_model": "X 3000",
            "order_id": "16505551212", "value": 16_505_551_212_i64, "delta": "+5 %",
        });
        assert_eq!(cleaned(given.clone()), (given, 0));
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
