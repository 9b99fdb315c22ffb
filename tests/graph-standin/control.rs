//! `/_control/…`: where tests script the stand-in and read its book. All bodies are JSON.
//!
//! | request | does |
//! |---|---|
//! | `POST faults` | a [`Fault`](crate::script::Fault) for the next requests |
//! | `POST bad-events` | `{"event_ids":[…],"code":100,"subcode":2804050,"named":false}`: requests with one are refused |
//! | `POST tokens` | `{"pixel":"1","tokens":["…"]}`: what the pixel accepts from now on; at first, anything |
//! | `POST reset` | forgets the script and the book |
//! | `GET summary` | totals, per pixel and in all, and the breaches of rules seen |
//! | `GET events?pixel=1` | every event taken, with how often and when |
//! | `GET requests?pixel=1` | the newest requests as they arrived |
//! | `GET bodies?pixel=1` | the newest whole bodies, with `--keep-body-bytes` |

use http_body_util::{BodyExt, Limited};
use hyper::body::Incoming;
use hyper::{Method, Request};
use serde::de::DeserializeOwned;
use serde_json::value::RawValue;
use serde_json::{Value, json};

use crate::StandIn;
use crate::edge::{Answer, whole};

const BODY_BYTES_MAX: usize = 64 * 1024 * 1024;

/// Answers one request of a test.
pub(crate) async fn answer(stand_in: &StandIn, request: Request<Incoming>) -> Answer {
    let (parts, body) = request.into_parts();
    let path = parts.uri.path().trim_start_matches("/_control/");
    let pixel = parts.uri.query().and_then(|query| query.strip_prefix("pixel=")).and_then(|id| id.parse().ok());
    let outcome = match (&parts.method, path, pixel) {
        (&Method::POST, _, _) => match Limited::new(body, BODY_BYTES_MAX).collect().await {
            Ok(body) => change(stand_in, path, &body.to_bytes()),
            Err(error) => Err(error.to_string()),
        },
        (&Method::GET, "summary", _) => Ok(summary(stand_in)),
        (&Method::GET, "events", Some(pixel)) => Ok(json!({ "events": stand_in.book.events(pixel) })),
        (&Method::GET, "requests", Some(pixel)) => Ok(json!({ "requests": stand_in.book.requests(pixel) })),
        (&Method::GET, "bodies", Some(pixel)) => bodies(stand_in, pixel),
        _ => Err(format!("{} {} is nothing to ask for", parts.method, parts.uri)),
    };
    match outcome {
        Ok(value) => whole(200, value.to_string(), "application/json"),
        Err(error) => whole(400, json!({ "error": error }).to_string(), "application/json"),
    }
}

fn change(stand_in: &StandIn, path: &str, body: &[u8]) -> Result<Value, String> {
    match path {
        "faults" => stand_in.script.add_fault(read(body)?),
        "bad-events" => stand_in.script.add_bad_events(read(body)?),
        "tokens" => stand_in.script.set_tokens(read(body)?),
        "reset" => {
            stand_in.script.reset();
            stand_in.book.reset();
        }
        _ => return Err(format!("{path} is nothing to change")),
    }
    Ok(json!({}))
}

fn read<T: DeserializeOwned>(body: &[u8]) -> Result<T, String> {
    serde_json::from_slice(body).map_err(|error| error.to_string())
}

fn summary(stand_in: &StandIn) -> Value {
    let pixels = stand_in.book.totals();
    let sum = |of: fn(&crate::book::Totals) -> u64| pixels.values().map(of).sum::<u64>();
    json!({
        "requests": sum(|totals| totals.requests),
        "events": sum(|totals| totals.events),
        "distinct": sum(|totals| totals.distinct),
        "repeated": sum(|totals| totals.repeated),
        "violations": stand_in.book.violations(),
        "pixels": pixels,
    })
}

fn bodies(stand_in: &StandIn, pixel: u64) -> Result<Value, String> {
    let bodies = stand_in.book.bodies(pixel);
    let parsed = bodies.iter().map(|body| serde_json::from_slice::<Box<RawValue>>(body));
    let parsed = parsed.collect::<Result<Vec<_>, _>>().map_err(|error| error.to_string())?;
    serde_json::to_value(json!({ "bodies": parsed })).map_err(|error| error.to_string())
}
