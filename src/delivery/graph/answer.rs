//! What the Graph API answers, reduced to what a decision needs ("Using the API", "Handling errors").
//!
//! Texts of an answer may echo what was sent, in the worst case the token: they are cut short and redacted before they
//! leave this file, and the log gets none of them.

use std::time::{Duration, SystemTime};

use http::HeaderMap;
use serde_json::Value;

use crate::account::AccessToken;

/// Longest text of an error that is kept, in bytes.
const TEXT_BYTES_MAX: usize = 300;
/// Longest trace id that is kept, in bytes.
const TRACE_BYTES_MAX: usize = 64;

/// An answer: its status line was read.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Answer {
    /// The HTTP status.
    pub(crate) status: u16,
    /// What the body says.
    pub(crate) body: AnswerBody,
    /// `Retry-After`, from now.
    pub(crate) retry_after: Option<Duration>,
    /// How long Meta's usage headers say a throttled caller has to wait.
    pub(crate) regain_access: Option<Duration>,
    /// Meta's name for this exchange, for its support.
    pub(crate) fbtrace_id: Option<String>,
}

/// What the body of an answer says.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) enum AnswerBody {
    /// `events_received`.
    Received(u64),
    /// `error`.
    Error(GraphError),
    /// HTML: not the Graph API answered but something before it.
    Page,
    /// The connection broke, or the cap was reached, before the body's end.
    Cut,
    /// Empty, or nothing of the above.
    #[default]
    Other,
}

/// The error envelope. `type` is `OAuthException` for nearly everything and the texts may be localised: only the
/// numbers decide.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct GraphError {
    /// `code`
    pub(crate) code: Option<i64>,
    /// `error_subcode`
    pub(crate) subcode: Option<i64>,
    /// `is_transient`
    pub(crate) transient: bool,
    /// `error_user_title`, else `message`; redacted, at most 300 bytes.
    pub(crate) text: String,
    /// The position of the event that the message names, as in `$['data'][3]['user_data']`.
    pub(crate) event_index: Option<usize>,
}

// === impl Answer ===

impl Answer {
    /// Reads an answer; `body` is `None` if it did not arrive whole. `now` is what a date in `Retry-After` is held
    /// against, `token` what must not be repeated.
    pub(super) fn read(
        status: u16,
        headers: &HeaderMap,
        body: Option<&[u8]>,
        token: &AccessToken,
        now: SystemTime,
    ) -> Self {
        let mut answer = Self {
            status,
            retry_after: retry_after(headers, now),
            regain_access: regain_access(headers),
            fbtrace_id: text_header(headers, "x-fb-trace-id").and_then(trace_id),
            ..Self::default()
        };
        let Some(body) = body else {
            answer.body = AnswerBody::Cut;
            return answer;
        };
        // As loose a reading as can be: what is odd beside `events_received` must not have a success sent again.
        let said: Value = serde_json::from_slice(body).unwrap_or_default();
        let error = said.get("error").filter(|error| !error.is_null());
        let trace = error.unwrap_or(&said).get("fbtrace_id").and_then(Value::as_str).and_then(trace_id);
        answer.fbtrace_id = trace.or(answer.fbtrace_id);
        answer.body = match (error, said.get("events_received").and_then(Value::as_u64)) {
            (Some(error), _) => AnswerBody::Error(GraphError::read(error, token)),
            (None, Some(count)) => AnswerBody::Received(count),
            _ if body.trim_ascii_start().starts_with(b"<") => AnswerBody::Page,
            _ => AnswerBody::Other,
        };
        answer
    }
}

// === impl GraphError ===

impl GraphError {
    fn read(error: &Value, token: &AccessToken) -> Self {
        let text = |key: &str| error.get(key).and_then(Value::as_str).filter(|text| !text.is_empty());
        let (title, message) = (text("error_user_title"), text("message").or(error.as_str()));
        Self {
            code: error.get("code").and_then(Value::as_i64),
            subcode: error.get("error_subcode").and_then(Value::as_i64),
            transient: error.get("is_transient").and_then(Value::as_bool).unwrap_or(false),
            text: printable(title.or(message).unwrap_or_default(), token),
            event_index: [message, text("error_user_msg")].into_iter().flatten().find_map(event_index),
        }
    }
}

/// The index in the first `['data'][<index>]` of a message.
fn event_index(message: &str) -> Option<usize> {
    let (_, rest) = message.split_once("['data'][")?;
    let (index, _) = rest.split_once(']')?;
    index.parse().ok()
}

/// A text of the answer without the token, control characters and all that is past the limit.
fn printable(text: &str, token: &AccessToken) -> String {
    let secret = token.reveal();
    let text = if secret.is_empty() { text.to_owned() } else { text.replace(secret, "***") };
    let text = text.get(..text.floor_char_boundary(TEXT_BYTES_MAX)).unwrap_or_default();
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

fn trace_id(text: &str) -> Option<String> {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"-_+/=".contains(&b);
    (!text.is_empty() && text.len() <= TRACE_BYTES_MAX && text.bytes().all(plain)).then(|| text.to_owned())
}

fn text_header<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name)?.to_str().ok()
}

/// `Retry-After` in seconds or as a date (RFC 9110, 10.2.3); a date that has passed is "now".
fn retry_after(headers: &HeaderMap, now: SystemTime) -> Option<Duration> {
    let text = text_header(headers, "retry-after")?.trim();
    if let Ok(seconds) = text.parse() {
        return Some(Duration::from_secs(seconds));
    }
    let date = httpdate::parse_http_date(text).ok()?;
    Some(date.duration_since(now).unwrap_or_default())
}

/// The longest wait that a usage header asks for: minutes in `X-Business-Use-Case-Usage`, seconds in
/// `X-Ad-Account-Usage` ("Marketing API Rate Limiting"); zero means "not throttled".
fn regain_access(headers: &HeaderMap) -> Option<Duration> {
    let json = |name| serde_json::from_str::<Value>(text_header(headers, name)?).ok();
    let cases = json("x-business-use-case-usage").unwrap_or_default();
    let cases = cases.as_object().into_iter().flat_map(|accounts| accounts.values());
    let minutes = cases
        .flat_map(|uses| uses.as_array().into_iter().flatten())
        .filter_map(|usage| usage.get("estimated_time_to_regain_access")?.as_u64())
        .map(|minutes| minutes.saturating_mul(60));
    let account = json("x-ad-account-usage").and_then(|usage| usage.get("reset_time_duration")?.as_u64());
    minutes.chain(account).max().filter(|seconds| *seconds > 0).map(Duration::from_secs)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use http::HeaderValue;

    use super::*;

    const NOW_S: u64 = 1_800_000_000;

    fn read(status: u16, headers: &[(&'static str, &str)], body: &str) -> Answer {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.insert(*name, HeaderValue::from_str(value).unwrap());
        }
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(NOW_S);
        Answer::read(status, &map, Some(body.as_bytes()), &AccessToken::new("EAAtoken"), now)
    }

    #[test]
    fn an_error_is_read_by_its_numbers() {
        let answer = read(
            400,
            &[],
            r#"{"error":{"message":"(#100) $['data'][7]['user_data'] is bad","type":"OAuthException","code":100,
                "error_subcode":2804019,"is_transient":false,"error_user_title":"Fehler","fbtrace_id":"Axy_1-"}}"#,
        );
        let AnswerBody::Error(error) = &answer.body else { unreachable!("{answer:?}") };
        assert_eq!((error.code, error.subcode, error.event_index), (Some(100), Some(2_804_019), Some(7)));
        assert_eq!(error.text, "Fehler");
        assert_eq!(answer.fbtrace_id.as_deref(), Some("Axy_1-"));
    }

    #[test]
    fn a_token_that_meta_echoes_is_redacted() {
        let answer = read(401, &[], r#"{"error":{"message":"Malformed access token EAAtoken\n","code":190}}"#);
        assert!(matches!(answer.body, AnswerBody::Error(error) if error.text == "Malformed access token *** "));
    }

    #[test]
    fn what_is_no_answer_of_the_graph_api_is_told_apart() {
        assert_eq!(read(200, &[], r#"{"events_received":3,"messages":[]}"#).body, AnswerBody::Received(3));
        assert_eq!(read(502, &[], " <html>").body, AnswerBody::Page);
        for body in ["", "{", "[]", "null", "{}", r#"{"events_received":"many"}"#, "\u{0}"] {
            assert_eq!(read(200, &[], body).body, AnswerBody::Other, "{body}");
        }
        assert!(matches!(read(400, &[], r#"{"error":"no"}"#).body, AnswerBody::Error(e) if e.text == "no"));
    }

    #[test]
    fn a_success_is_one_whatever_stands_beside_its_count() {
        for beside in [
            r#""fbtrace_id":7"#,
            r#""fbtrace_id":null"#,
            r#""fbtrace_id":{"id":"A1"}"#,
            r#""fbtrace_id":"A1","fbtrace_id":"A2""#,
            r#""error":null,"messages":"none","messages":[]"#,
        ] {
            let answer = read(200, &[], &format!(r#"{{"events_received":3,{beside}}}"#));
            assert_eq!(answer.body, AnswerBody::Received(3), "{beside}");
        }
        assert_eq!(read(200, &[], r#"{"events_received":3,"fbtrace_id":"A1"}"#).fbtrace_id.as_deref(), Some("A1"));
    }

    #[test]
    fn waits_are_read_from_headers() {
        let after = |text: &str| read(429, &[("retry-after", text)], "").retry_after;
        assert_eq!(after("17"), Some(Duration::from_secs(17)));
        assert_eq!(after("Fri, 15 Jan 2027 08:01:40 GMT"), Some(Duration::from_secs(100)));
        assert_eq!(after("Fri, 15 Jan 2021 08:01:40 GMT"), Some(Duration::ZERO));
        for bad in ["soon", "-1", "1.5", ""] {
            assert_eq!(after(bad), None, "{bad}");
        }
        let usage = r#"{"1":[{"type":"a","estimated_time_to_regain_access":2},{"estimated_time_to_regain_access":5}]}"#;
        let wait = |name, text: &str| read(400, &[(name, text)], "").regain_access;
        assert_eq!(wait("x-business-use-case-usage", usage), Some(Duration::from_secs(300)));
        assert_eq!(wait("x-ad-account-usage", r#"{"reset_time_duration":90}"#), Some(Duration::from_secs(90)));
        assert_eq!(wait("x-ad-account-usage", r#"{"reset_time_duration":0}"#), None);
        assert_eq!(wait("x-business-use-case-usage", "[]"), None);
    }
}
