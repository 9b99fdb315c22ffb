//! JSON within limits.
//!
//! Of two equal keys the last one counts, as for a browser's `JSON.parse`. A NUL byte is no JSON; one that is escaped in a
//! text is kept there, and refused where a name or an id stands.

use std::borrow::Cow;

use serde_json::{Map, Value};

use super::DecodeError;

/// Levels of nesting of a request.
const DEPTH_MAX: usize = 32;

/// Levels of an event that was encoded: mending puts what should be a list and is none into one.
const ENCODED_DEPTH_MAX: usize = DEPTH_MAX + 1;

/// Levels of what goes into an event's `custom_data` by itself: there it stands two levels down.
const VALUE_DEPTH_MAX: usize = DEPTH_MAX - 2;

/// Reads a whole request.
pub(super) fn parse(text: &[u8]) -> Result<Value, DecodeError> {
    parse_within(text, DEPTH_MAX)
}

/// Reads what becomes a value of `custom_data`.
pub(in crate::event) fn parse_value(text: &str) -> Result<Value, DecodeError> {
    parse_within(text.as_bytes(), VALUE_DEPTH_MAX)
}

fn parse_within(text: &[u8], levels: usize) -> Result<Value, DecodeError> {
    check_depth_within(text, levels)?;
    let error = match serde_json::from_slice(text) {
        Ok(value) => return Ok(value),
        Err(error) => error,
    };
    // A page that cuts a text in the middle of an emoji sends half a surrogate pair: not an event to lose.
    if let Some(mended) = mend_surrogates(text)
        && let Ok(value) = serde_json::from_slice(&mended)
    {
        return Ok(value);
    }
    Err(not_json(&error))
}

/// Reads a request that is one JSON object.
pub(super) fn object(text: &[u8]) -> Result<Map<String, Value>, DecodeError> {
    into_object(parse(text)?)
}

/// Reads an event as it was encoded.
pub(super) fn encoded(text: &[u8]) -> Result<Map<String, Value>, DecodeError> {
    into_object(parse_within(text, ENCODED_DEPTH_MAX)?)
}

fn into_object(value: Value) -> Result<Map<String, Value>, DecodeError> {
    match value {
        Value::Object(object) => Ok(object),
        _ => Err(DecodeError::NotAnObject),
    }
}

/// Refuses what is nested too deep before anything recursive sees it.
pub(super) fn check_depth(text: &[u8]) -> Result<(), DecodeError> {
    check_depth_within(text, DEPTH_MAX)
}

fn check_depth_within(text: &[u8], levels: usize) -> Result<(), DecodeError> {
    // Nearly all events have fewer brackets than levels would take, and counting costs next to nothing.
    if text.iter().filter(|byte| matches!(byte, b'{' | b'[')).count() <= levels {
        return Ok(());
    }
    let (mut depth, mut in_text, mut escaped) = (0usize, false, false);
    for byte in text {
        if in_text {
            match byte {
                _ if escaped => escaped = false,
                b'\\' => escaped = true,
                b'"' => in_text = false,
                _ => {}
            }
            continue;
        }
        match byte {
            b'"' => in_text = true,
            b'{' | b'[' => depth += 1,
            b'}' | b']' => depth = depth.saturating_sub(1),
            _ => {}
        }
        if depth > levels {
            return Err(DecodeError::TooDeep { max: levels });
        }
    }
    Ok(())
}

/// Where it stopped being JSON.
pub(super) fn not_json(error: &serde_json::Error) -> DecodeError {
    DecodeError::NotJson { line: error.line(), column: error.column() }
}

/// A text that is not empty, or a number's digits.
pub(super) fn into_text(value: Value) -> Option<String> {
    match value {
        Value::String(text) => (!text.is_empty()).then_some(text),
        Value::Number(number) => Some(number.to_string()),
        _ => None,
    }
}

/// A whole number, also one written as a text or with an empty fraction.
pub(in crate::event) fn as_whole(value: &Value) -> Option<i64> {
    match value {
        Value::Number(number) => number.as_i64().or_else(|| {
            let float = number.as_f64()?;
            // Within this range every whole f64 is exact.
            (float.fract() == 0.0 && float.abs() <= 9_007_199_254_740_992.0).then_some(float as i64)
        }),
        Value::String(text) => text.trim().parse().ok(),
        _ => None,
    }
}

/// The text with each escape of half a surrogate pair replaced by that of U+FFFD, if there is one.
fn mend_surrogates(text: &[u8]) -> Option<Vec<u8>> {
    let mut mended = Cow::Borrowed(text);
    let mut at = 0;
    while let Some(byte) = text.get(at) {
        let Some(unit) = (*byte == b'\\').then(|| escaped_unit(text, at)).flatten() else {
            // Past a backslash and what it escapes, in one step.
            at += if *byte == b'\\' { 2 } else { 1 };
            continue;
        };
        let is_pair = matches!(unit, 0xd800..=0xdbff) && matches!(escaped_unit(text, at + 6), Some(0xdc00..=0xdfff));
        if matches!(unit, 0xd800..=0xdfff) && !is_pair {
            mended.to_mut().get_mut(at..at + 6)?.copy_from_slice(b"\\ufffd");
        }
        at += if is_pair { 12 } else { 6 };
    }
    matches!(mended, Cow::Owned(_)).then(|| mended.into_owned())
}

/// The UTF-16 unit of an escape `\uXXXX` that begins at `at`.
fn escaped_unit(text: &[u8], at: usize) -> Option<u16> {
    let digits = text.get(at..at + 6)?.strip_prefix(b"\\u")?;
    let digits = std::str::from_utf8(digits).ok().filter(|digits| digits.bytes().all(|b| b.is_ascii_hexdigit()))?;
    u16::from_str_radix(digits, 16).ok()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic)]
    use serde_json::json;

    use super::*;

    fn nested(levels: usize) -> Vec<u8> {
        format!("{}{}", "[".repeat(levels), "]".repeat(levels)).into_bytes()
    }

    #[test]
    fn thirty_two_levels_and_no_more() {
        assert!(parse(&nested(DEPTH_MAX)).is_ok());
        assert_eq!(parse(&nested(DEPTH_MAX + 1)), Err(DecodeError::TooDeep { max: DEPTH_MAX }));
        assert_eq!(parse(&vec![b'['; 2 << 20]), Err(DecodeError::TooDeep { max: DEPTH_MAX }));
        assert!(parse(format!("{:?}", "\\\"[".repeat(100)).as_bytes()).is_ok(), "brackets in a text are text");
    }

    #[test]
    fn what_is_not_json_is_named_by_its_place() {
        let at = |text: &[u8]| match parse(text) {
            Err(DecodeError::NotJson { line, column }) => (line, column),
            other => panic!("{other:?}"),
        };
        assert_eq!(at(b"{\"a\":\n!}"), (2, 1));
        for bad in [&b""[..], b"{", b"{}x", b"\0", b"{\"a\":\"\0\"}", b"\"\xff\"", b"NaN", b"\"\\ud800"] {
            at(bad);
        }
        assert_eq!(object(b"[]"), Err(DecodeError::NotAnObject));
    }

    #[test]
    fn of_two_equal_keys_the_last_counts() {
        assert_eq!(parse(br#"{"a":1,"a":2}"#).unwrap(), json!({"a": 2}));
    }

    #[test]
    fn half_an_emoji_does_not_cost_the_event() {
        assert_eq!(parse(br#"["a\ud83d","\udc00b","\ud83d\ude00"]"#).unwrap(), json!(["a\u{fffd}", "\u{fffd}b", "😀"]));
        assert_eq!(parse(br#"["\\ud83d\ud83d"]"#).unwrap(), json!(["\\ud83d\u{fffd}"]));
    }

    #[test]
    fn whole_numbers_are_read_in_every_dress() {
        for value in [json!(7), json!(7.0), json!("7"), json!(" 7 ")] {
            assert_eq!(as_whole(&value), Some(7));
        }
        for value in [json!(7.5), json!("7.0"), json!(1e300), json!(true), json!(null), json!("")] {
            assert_eq!(as_whole(&value), None, "{value}");
        }
    }
}
