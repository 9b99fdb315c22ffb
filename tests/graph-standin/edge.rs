//! `POST /v{N}.{M}/{pixel}/events`, with the checks and the error codes of Meta's own ("Using the API", "Handling
//! errors"): one bad event and nothing of a request is taken.

use std::borrow::Cow;
use std::convert::Infallible;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::{Body, Frame, Incoming};
use hyper::header::{CONTENT_TYPE, USER_AGENT};
use hyper::http::request::Parts;
use hyper::{Method, Request, Response};
use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::{Map, Value, json};

use crate::book::RequestRecord;
use crate::script::{Action, Fault};
use crate::{StandIn, now_ms};

/// The largest body that is read.
const BODY_BYTES_MAX: usize = 64 * 1024 * 1024;
/// Events in one request.
const EVENTS_MAX: usize = 1_000;
const WEEK_S: i64 = 7 * 86_400;
/// How long events of a physical store are taken.
const STORE_S: i64 = 62 * 86_400;
/// How far ahead a sender's clock may be.
const FUTURE_S: i64 = 600;
/// `user_data` keys that Meta wants hashed.
const HASHED: [&str; 10] = ["em", "ph", "fn", "ln", "db", "ge", "ct", "st", "zp", "country"];

pub(crate) type Answer = Response<BoxBody<Bytes, io::Error>>;

/// What is wrong with a request, as the error envelope says it.
struct Refused {
    status: u16,
    code: i64,
    subcode: Option<i64>,
    message: String,
}

/// The document, as far as it is looked at. `data` stays text: each event is parsed on its own.
#[derive(Deserialize)]
struct Document<'a> {
    #[serde(borrow)]
    access_token: Option<Cow<'a, str>>,
    test_event_code: Option<String>,
    #[serde(borrow)]
    data: Option<Vec<EventHead<'a>>>,
}

/// The part of an event that the checks and the book need.
#[derive(Deserialize)]
struct EventHead<'a> {
    #[serde(borrow, default)]
    event_name: Cow<'a, str>,
    #[serde(borrow, default)]
    event_id: Cow<'a, str>,
    event_time: Option<Value>,
    #[serde(borrow, default)]
    action_source: Cow<'a, str>,
    user_data: Option<Map<String, Value>>,
}

/// The same for `--fast`: only what is counted.
#[derive(Deserialize)]
struct FastDocument<'a> {
    #[serde(borrow)]
    data: Vec<FastEvent<'a>>,
    test_event_code: Option<IgnoredAny>,
}

#[derive(Deserialize)]
struct FastEvent<'a> {
    #[serde(borrow, default)]
    event_name: Cow<'a, str>,
    #[serde(borrow, default)]
    event_id: Cow<'a, str>,
}

/// Half an answer, and then a connection that breaks.
struct BrokenBody {
    half: Option<Bytes>,
    /// Whether the half had its chance to go out.
    flushed: bool,
}

/// Answers one request; an error closes the connection without an answer.
pub(crate) async fn answer(stand_in: &StandIn, request: Request<Incoming>) -> io::Result<Answer> {
    let (parts, body) = request.into_parts();
    let Some((version, pixel)) = events_edge(&parts) else {
        let message = format!("Unsupported {} request", parts.method);
        return Ok(refuse(stand_in, &Refused { status: 400, code: 100, subcode: Some(33), message }));
    };
    let fault = stand_in.script.next_fault(pixel);
    let delay_ms = stand_in.delay_ms + fault.as_ref().map_or(0, |fault| fault.delay_ms);
    if fault.as_ref().is_some_and(|fault| fault.action == Action::CloseBeforeReading) {
        stand_in.book.request(pixel, record(&parts, version));
        return Err(io::Error::other("scripted: closed before reading"));
    }
    let Ok(body) = Limited::new(body, BODY_BYTES_MAX).collect().await else {
        let message = "Body too large".into();
        return Ok(refuse(stand_in, &Refused { status: 413, code: 100, subcode: None, message }));
    };
    let body = body.to_bytes();
    if delay_ms > 0 {
        tokio::time::sleep(Duration::from_millis(delay_ms)).await;
    }
    let mut record = record(&parts, version);
    record.bytes = body.len();
    if fault.as_ref().is_some_and(|fault| fault.action == Action::Hang) {
        stand_in.book.request(pixel, record);
        return std::future::pending().await;
    }
    let outcome = suffer_or_take(stand_in, &parts, pixel, fault, &body, &mut record);
    record.status = outcome.as_ref().ok().map(|answer| answer.status().as_u16());
    stand_in.book.request(pixel, record);
    outcome
}

fn suffer_or_take(
    stand_in: &StandIn,
    parts: &Parts,
    pixel: u64,
    fault: Option<Fault>,
    body: &Bytes,
    record: &mut RequestRecord,
) -> io::Result<Answer> {
    let action = fault.as_ref().map_or(Action::Delay, |fault| fault.action);
    match (action, &fault) {
        (Action::CloseAfterReading, _) => return Err(io::Error::other("scripted: closed after reading")),
        (Action::Answer, Some(fault)) => return Ok(scripted(fault)),
        _ => {}
    }
    let taken = if stand_in.fast {
        take_fast(stand_in, pixel, body, record)
    } else {
        take(stand_in, parts, pixel, body, record)
    };
    let answer = match taken {
        Ok(events) => json!({ "events_received": events, "messages": [], "fbtrace_id": stand_in.trace_id() }),
        Err(refused) => return Ok(refuse(stand_in, &refused)),
    };
    match action {
        Action::CloseAfterTaking => Err(io::Error::other("scripted: closed after taking")),
        Action::CutAnswer => Ok(cut(&answer.to_string())),
        _ => Ok(whole(200, answer.to_string(), "application/json")),
    }
}

/// The API version and the pixel of a request to the events edge.
fn events_edge(parts: &Parts) -> Option<(&str, u64)> {
    let mut segments = parts.uri.path().strip_prefix("/v")?.split('/');
    let (version, pixel, edge) = (segments.next()?, segments.next()?, segments.next()?);
    let (major, minor) = version.split_once('.')?;
    let is_number = |text: &str| text.parse::<u16>().is_ok();
    let fits = is_number(major) && is_number(minor) && edge == "events" && segments.next().is_none();
    (fits && parts.method == Method::POST).then(|| Some((version, pixel.parse().ok()?)))?
}

fn record(parts: &Parts, version: &str) -> RequestRecord {
    let user_agent = parts.headers.get(USER_AGENT).and_then(|value| value.to_str().ok());
    RequestRecord {
        at_ms: now_ms(),
        http: format!("{:?}", parts.version),
        api_version: format!("v{version}"),
        token_in: "none",
        user_agent: user_agent.unwrap_or_default().to_owned(),
        events: 0,
        bytes: 0,
        test_event_code: None,
        status: None,
        first_event_id: None,
    }
}

/// Takes the events without looking at more than their ids.
fn take_fast(stand_in: &StandIn, pixel: u64, body: &[u8], record: &mut RequestRecord) -> Result<usize, Refused> {
    let document: FastDocument<'_> = serde_json::from_slice(body).map_err(|error| Refused::parameter(&error))?;
    record.events = document.data.len();
    record.test_event_code = document.test_event_code.map(|_| String::new());
    let events = document.data.iter().map(|event| (event.event_name.as_ref(), event.event_id.as_ref()));
    stand_in.book.take(pixel, events, record.at_ms);
    Ok(document.data.len())
}

/// Checks all and takes all, or nothing.
fn take(
    stand_in: &StandIn,
    parts: &Parts,
    pixel: u64,
    body: &Bytes,
    record: &mut RequestRecord,
) -> Result<usize, Refused> {
    let document: Document<'_> = serde_json::from_slice(body).map_err(|error| Refused::parameter(&error))?;
    record.test_event_code = document.test_event_code.clone();
    record.token_in = check_token(stand_in, parts, pixel, document.access_token.as_deref())?;
    let Some(events) = document.data else {
        return Err(Refused::parameter(&"The parameter data is required"));
    };
    record.events = events.len();
    record.first_event_id = events.first().map(|event| event.event_id.clone().into_owned());
    if events.is_empty() || events.len() > EVENTS_MAX {
        return Err(Refused::parameter(&format!("data has {} events, not 1 to {EVENTS_MAX}", events.len())));
    }
    let now_s = i64::try_from(record.at_ms / 1_000).unwrap_or(i64::MAX);
    for (index, event) in events.iter().enumerate() {
        check_event(event, index, now_s)?;
        note_raw_identifiers(stand_in, pixel, event);
    }
    if stand_in.script.has_bad_events() {
        refuse_bad_events(stand_in, &events)?;
    }
    let taken = events.iter().map(|event| (event.event_name.as_ref(), event.event_id.as_ref()));
    stand_in.book.take(pixel, taken, record.at_ms);
    stand_in.book.keep_body(pixel, body);
    Ok(events.len())
}

/// Where the token was found; one in the URL is taken, and written down as a breach.
fn check_token(stand_in: &StandIn, parts: &Parts, pixel: u64, in_body: Option<&str>) -> Result<&'static str, Refused> {
    let query = parts.uri.query().unwrap_or_default();
    let in_url = form_urlencoded::parse(query.as_bytes()).find(|(name, _)| name == "access_token");
    let header = parts.headers.get("authorization").and_then(|value| value.to_str().ok());
    let bearer = header.and_then(|value| value.strip_prefix("Bearer "));
    let (token, place) = match (bearer, in_body, &in_url) {
        (Some(token), _, _) => (token, "bearer"),
        (None, Some(token), _) => (token, "body"),
        (None, None, Some((_, token))) => (token.as_ref(), "url"),
        (None, None, None) => {
            let message = "An access token is required to request this resource.".into();
            return Err(Refused { status: 400, code: 104, subcode: None, message });
        }
    };
    if in_url.is_some() {
        stand_in.book.violation(format!("pixel {pixel}: access_token in the URL"));
    }
    if token.is_empty() || !stand_in.script.knows_token(pixel, token) {
        let message = "Invalid OAuth access token - Cannot parse access token".into();
        return Err(Refused { status: 401, code: 190, subcode: None, message });
    }
    Ok(place)
}

fn check_event(event: &EventHead<'_>, index: usize, now_s: i64) -> Result<(), Refused> {
    if event.event_name.is_empty() || event.action_source.is_empty() {
        let message = format!("Server Side Api Parameter Error: $['data'][{index}] lacks event_name or action_source");
        return Err(Refused::event(2_804_019, message));
    }
    let Some(time) = event.event_time.as_ref().and_then(Value::as_i64) else {
        return Err(Refused::event(2_804_004, "event_time is not Unix seconds".into()));
    };
    let oldest = now_s - if event.action_source == "physical_store" { STORE_S } else { WEEK_S };
    if time < oldest {
        return Err(Refused::event(2_804_003, "Event Timestamp Too Old".into()));
    }
    if time > now_s + FUTURE_S {
        return Err(Refused::event(2_804_004, "event_time is in the future".into()));
    }
    if event.user_data.as_ref().is_none_or(Map::is_empty) {
        return Err(Refused::event(2_804_050, "Insufficient customer information parameters".into()));
    }
    Ok(())
}

/// Meta takes raw identifiers; a gateway must never send one.
fn note_raw_identifiers(stand_in: &StandIn, pixel: u64, event: &EventHead<'_>) {
    let Some(user_data) = &event.user_data else { return };
    for key in HASHED {
        let raw = match user_data.get(key) {
            None => false,
            Some(Value::Array(values)) => !values.iter().all(is_digest),
            Some(value) => !is_digest(value),
        };
        if raw {
            stand_in
                .book
                .violation(format!("pixel {pixel}: user_data.{key} is not a SHA-256 (event {})", event.event_id));
        }
    }
}

/// 64 hex digits; Meta's own parameter builder appends a dot and a few letters.
fn is_digest(value: &Value) -> bool {
    let hex = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
    let digest = value.as_str().and_then(|text| text.split('.').next());
    digest.is_some_and(|digest| digest.len() == 64 && digest.bytes().all(hex))
}

fn refuse_bad_events(stand_in: &StandIn, events: &[EventHead<'_>]) -> Result<(), Refused> {
    for (index, event) in events.iter().enumerate() {
        let Some(bad) = stand_in.script.bad_event(&event.event_id) else { continue };
        let place = if bad.named { format!(" at $['data'][{index}]") } else { String::new() };
        let message = format!("(#{}) Invalid parameter{place}", bad.code);
        return Err(Refused { status: 400, code: bad.code, subcode: bad.subcode, message });
    }
    Ok(())
}

fn refuse(stand_in: &StandIn, refused: &Refused) -> Answer {
    let Refused { message, code, .. } = refused;
    let fbtrace_id = stand_in.trace_id();
    let mut error = json!({ "message": message, "type": "OAuthException", "code": code, "fbtrace_id": fbtrace_id });
    if let (Some(subcode), Some(fields)) = (refused.subcode, error.as_object_mut()) {
        fields.insert("error_subcode".into(), subcode.into());
        fields.insert("is_transient".into(), false.into());
        fields.insert("error_user_title".into(), message.clone().into());
    }
    whole(refused.status, json!({ "error": error }).to_string(), "application/json")
}

fn scripted(fault: &Fault) -> Answer {
    let (text, content_type) = match &fault.body {
        Value::Null => (String::new(), "text/plain"),
        Value::String(text) => (text.clone(), "text/html"),
        body => (body.to_string(), "application/json"),
    };
    let mut answer = whole(fault.status, text, content_type);
    for (name, value) in &fault.headers {
        if let (Ok(name), Ok(value)) = (name.parse::<hyper::header::HeaderName>(), value.parse()) {
            answer.headers_mut().insert(name, value);
        }
    }
    answer
}

/// An answer with its whole body.
pub(crate) fn whole(status: u16, text: String, content_type: &'static str) -> Answer {
    let body = Full::new(Bytes::from(text)).map_err(|never: Infallible| match never {}).boxed();
    respond(status, body, content_type)
}

fn cut(text: &str) -> Answer {
    let half = text.get(..text.len() / 2).unwrap_or_default();
    respond(
        200,
        BrokenBody { half: Some(Bytes::copy_from_slice(half.as_bytes())), flushed: false }.boxed(),
        "application/json",
    )
}

fn respond(status: u16, body: BoxBody<Bytes, io::Error>, content_type: &'static str) -> Answer {
    let mut answer = Response::new(body);
    *answer.status_mut() = hyper::StatusCode::from_u16(status).unwrap_or_default();
    answer.headers_mut().insert(CONTENT_TYPE, hyper::header::HeaderValue::from_static(content_type));
    answer
}

// === impl Refused ===

impl Refused {
    fn parameter(what: &dyn std::fmt::Display) -> Self {
        Self { status: 400, code: 100, subcode: None, message: format!("(#100) {what}") }
    }

    fn event(subcode: i64, message: String) -> Self {
        Self { status: 400, code: 100, subcode: Some(subcode), message }
    }
}

// === impl BrokenBody ===

impl Body for BrokenBody {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        if let Some(half) = self.half.take() {
            return Poll::Ready(Some(Ok(Frame::data(half))));
        }
        if !std::mem::replace(&mut self.flushed, true) {
            context.waker().wake_by_ref();
            return Poll::Pending;
        }
        Poll::Ready(Some(Err(io::Error::other("scripted: broken off"))))
    }
}
