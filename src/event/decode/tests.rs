//! The decoders as a whole: recorded requests, what senders hear, and the fuzzers' corpus.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic)]

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::*;
use crate::event::Arrival;

pub(super) const MULTIPART: &str = "multipart/form-data; boundary=b";

pub(super) fn arrival() -> Arrival {
    Arrival {
        now_ms: 1_790_000_000_123,
        client_ip: Some("203.0.113.7".parse().unwrap()),
        user_agent: Some("Mozilla/5.0 (X11; Linux x86_64)".into()),
        fbp: None,
        fbc: None,
        referer: Some("https://shop.example/from-the-header".into()),
    }
}

pub(super) fn encoded(event: &Event) -> Vec<u8> {
    let mut out = Vec::new();
    event.encode(&mut out);
    out
}

pub(super) fn graph(body: &[u8]) -> Result<GraphDecoded, DecodeError> {
    graph::decode(GraphRequest { body, ..GraphRequest::default() }, &arrival(), 1_000)
}

/// Decodes what was encoded, as a dead letter is, and encodes it again.
pub(super) fn there_and_back(encoded: &[u8]) -> Vec<u8> {
    let event = graph::decode_stored(encoded);
    self::encoded(&event.unwrap_or_else(|error| panic!("{error}: {}", String::from_utf8_lossy(encoded))))
}

/// Every event that any decoder makes of these bytes. The fuzz targets do the same.
pub(super) fn all_events(body: &[u8]) -> Vec<Event> {
    let mut events: Vec<_> = gateway::decode(body, &arrival()).into_iter().map(|decoded| decoded.event).collect();
    for content_type in [None, Some(MULTIPART)] {
        let decoded = pixel::decode(Form { query: "", content_type, body }, &arrival(), 1_000).unwrap_or_default();
        events.extend(decoded.into_iter().map(|decoded| decoded.event));
        let request = GraphRequest { content_type, body, ..GraphRequest::default() };
        let _ = graph::access_token(&request);
        events.extend(graph::decode(request, &arrival(), 1_000).into_iter().flat_map(|decoded| decoded.events));
    }
    if let Ok(query) = std::str::from_utf8(body) {
        let decoded = pixel::decode(Form { query, ..Form::default() }, &arrival(), 1_000).unwrap_or_default();
        events.extend(decoded.into_iter().map(|decoded| decoded.event));
    }
    events
}

fn files(folder: &str) -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join(folder);
    let mut files: Vec<_> = fs::read_dir(&folder)
        .unwrap_or_else(|error| panic!("{}: {error}", folder.display()))
        .map(|entry| entry.unwrap().path())
        .collect();
    files.sort();
    assert!(!files.is_empty(), "nothing in {}", folder.display());
    files
}

/// Compares what becomes of each `<name>.in` with `<name>.json` beside it.
fn check_fixtures(folder: &str, decode: impl Fn(&[u8]) -> Value) {
    let inputs = files(&format!("tests/fixtures/decode/{folder}"));
    for input in inputs.into_iter().filter(|file| file.extension().is_some_and(|extension| extension == "in")) {
        let actual = decode(&fs::read(&input).unwrap());
        let expected = fs::read_to_string(input.with_extension("json")).unwrap_or_default();
        let expected: Value = serde_json::from_str(&expected).unwrap_or_default();
        assert_eq!(actual, expected, "{}:\n{actual:#}", input.display());
    }
}

fn shown(decoded: &Decoded) -> Value {
    json!({
        "pixel": decoded.pixel.to_string(),
        "event": serde_json::to_value(&decoded.event).unwrap(),
        "dropped": decoded.event.user_data.dropped(),
    })
}

#[test]
fn the_gateways_format_is_decoded_as_recorded() {
    check_fixtures("gateway", |body| shown(&gateway::decode(body, &arrival()).unwrap()));
}

#[test]
fn the_pixels_format_is_decoded_as_recorded() {
    check_fixtures("pixel", |query| {
        let query = std::str::from_utf8(query).unwrap();
        let from_query = pixel::decode(Form { query, ..Form::default() }, &arrival(), 1_000).unwrap();
        let from_body = pixel::decode(Form { body: query.as_bytes(), ..Form::default() }, &arrival(), 1_000).unwrap();
        assert_eq!(from_query, from_body);
        from_query.iter().map(shown).collect()
    });
}

#[test]
fn the_graph_format_is_decoded_as_recorded() {
    check_fixtures("graph", |body| {
        let decoded = graph(body).unwrap();
        let events: Vec<_> = decoded.events.iter().map(|event| serde_json::to_value(event).unwrap()).collect();
        let dropped: u32 = decoded.events.iter().map(|event| event.user_data.dropped()).sum();
        json!({"envelope": decoded.envelope, "events": events, "dropped": dropped})
    });
}

#[test]
fn an_event_without_an_id_gets_one_of_its_own() {
    let body = br#"{"event_name":"A","fb.pixel_id":"1"}"#;
    let ids = [(); 2].map(|()| gateway::decode(body, &arrival()).unwrap().event.id);
    assert!(ids.iter().all(|id| id.len() == 32 && id.bytes().all(|b| b.is_ascii_hexdigit())), "{ids:?}");
    assert_ne!(ids[0], ids[1]);
}

#[test]
fn a_browser_hears_what_is_missing() {
    let gateway = |body: &str| gateway::decode(body.as_bytes(), &arrival()).unwrap_err();
    for body in [r#"{"event_name":"A"}"#, r#"{"event_name":"A","fb.pixel_id":"x"}"#, r#"{"fb.pixel_id":{}}"#, "{}"] {
        assert_eq!(gateway(body), DecodeError::PixelMissing, "{body}");
    }
    for name in ["", r#""event_name":"","#, r#""event_name":7,"#, r#""event_name":"a\u0000","#] {
        assert_eq!(gateway(&format!(r#"{{{name}"fb.pixel_id":"1"}}"#)), DecodeError::EventNameMissing, "{name}");
    }
    let pixel = |query| pixel::decode(Form { query, ..Form::default() }, &arrival(), 1_000).unwrap_err();
    assert_eq!(pixel("ev=A"), DecodeError::PixelMissing);
    assert_eq!(pixel("id=1"), DecodeError::EventNameMissing);
    assert_eq!(pixel("events[0]=id%3D1&events[1]=ev%3DA"), DecodeError::EventNameMissing);
    let batch = "events[]=a&".repeat(101);
    assert_eq!(pixel(&batch), DecodeError::TooMany { what: "events", max: 100 });
    let allowed = pixel::decode(Form { query: &batch, ..Form::default() }, &arrival(), 2).unwrap_err();
    assert_eq!(allowed, DecodeError::TooMany { what: "events", max: 2 });
}

#[test]
fn a_server_hears_which_key_of_which_event_is_wrong() {
    let good = r#"{"event_name":"A","event_time":1,"user_data":{}}"#;
    let error = |event: &str| graph(format!(r#"{{"data":[{good},{event}]}}"#).as_bytes()).unwrap_err();
    let key = |event: &str| match error(event) {
        DecodeError::BadField { index: 1, key, .. } => key,
        other => panic!("{event}: {other:?}"),
    };
    assert_eq!(error("7"), DecodeError::BadEvent { index: 1 });
    assert_eq!(error("\"{}\"").to_string(), "param data[1]['event_name'] must be a text of 1 to 512 bytes");
    let rest = r#""event_name":"A","user_data":{}"#;
    for time in ["", r#","event_time":1.5"#, r#","event_time":"soon""#, r#","event_time":-1"#, r#","event_time":null"#]
    {
        assert_eq!(key(&format!("{{{rest}{time}}}")), "event_time", "{time}");
    }
    assert_eq!(key(r#"{"event_name":"A","event_time":1}"#), "user_data");
    let wrong = [
        ("event_name", "7"),
        ("user_data", "[]"),
        ("custom_data", "7"),
        ("app_data", "\"\""),
        ("action_source", "\"web\""),
        ("event_source_url", "{}"),
        ("referrer_url", "1"),
        ("opt_out", "1"),
        ("data_processing_options", "[1]"),
        ("data_processing_options_country", "\"US\""),
    ];
    for (name, value) in wrong {
        assert_eq!(key(&format!(r#"{{"event_time":1,{rest},"{name}":{value}}}"#)), name);
    }
}

#[test]
fn an_id_that_cannot_be_kept_is_refused_and_a_long_one_stays() {
    let sent = |id: Value| {
        graph(
            json!({"data": [{"event_name": "A", "event_time": 1, "user_data": {}, "event_id": id}]})
                .to_string()
                .as_bytes(),
        )
        .map(|decoded| decoded.events[0].id.clone())
    };
    for bad in [json!("a\u{0}b"), json!("x".repeat(5_000)), json!({}), json!(true), json!(" ")] {
        assert!(matches!(sent(bad), Err(DecodeError::BadField { key: "event_id", .. })));
    }
    let long = "x".repeat(2_000);
    assert_eq!(sent(json!(long)).unwrap(), long);
    assert_eq!(sent(json!(null)).unwrap().len(), 32);
    let body = json!({"event_name": "A", "fb.pixel_id": "1", "event_id": long}).to_string();
    assert_eq!(gateway::decode(body.as_bytes(), &arrival()).unwrap().event.id, long);
}

#[test]
fn no_event_is_in_the_future() {
    let time = |time: i64| {
        let body = json!({"data": [{"event_name": "A", "event_time": time, "user_data": {}}]}).to_string();
        graph(body.as_bytes()).unwrap().events[0].time
    };
    assert_eq!(time(1_789_999_999), 1_789_999_999);
    assert_eq!(time(1_789_999_999_000), 1_790_000_000, "milliseconds");
    assert_eq!(time(1_790_000_007), 1_790_000_000);
    let stored = br#"{"event_name":"A","event_time":1790000007,"user_data":{}}"#;
    assert_eq!(graph::decode_stored(stored).unwrap().time, 1_790_000_007);
}

#[test]
fn a_junk_of_keys_is_cut_for_browsers_and_refused_for_servers() {
    let junk: Value = (0..30_000).map(|n| (format!("k{n}"), json!(n))).collect::<serde_json::Map<_, _>>().into();
    let body = json!({"event_name": "A", "fb.pixel_id": "1", "custom_data": junk}).to_string();
    let event = gateway::decode(body.as_bytes(), &arrival()).unwrap().event;
    assert_eq!((event.custom_data.len(), event.user_data.dropped()), (256, 29_744));
    let query = format!("id=1&ev=A&dpo={}", "LDU,".repeat(30_000));
    let event = pixel::decode(Form { query: &query, ..Form::default() }, &arrival(), 1_000).unwrap().remove(0).event;
    assert_eq!(event.data_processing.unwrap().options.len(), 16);
    for key in ["custom_data", "app_data"] {
        let event = json!({"event_name": "A", "event_time": 1, "user_data": {}, key: junk});
        let error = graph(json!({"data": [event]}).to_string().as_bytes()).unwrap_err();
        assert!(matches!(error, DecodeError::BadField { key: named, .. } if named == key), "{error}");
    }
    let mut event = junk;
    event["event_name"] = json!("A");
    event["event_time"] = json!(1);
    event["user_data"] = json!({});
    let event = graph(json!({"data": [event]}).to_string().as_bytes()).unwrap().events.remove(0);
    assert_eq!((event.extra.len(), event.user_data.dropped()), (256, 29_744));
}

#[test]
fn addresses_leave_urls_and_custom_data_in_every_format() {
    let url = "https://shop.example/?email=jane%40shop.example&utm_source=a";
    let custom_data = json!({"user": "jane@shop.example", "content_name": "b"});
    let body = json!({"event_name": "A", "fb.pixel_id": "1", "custom_data": custom_data,
        "website_context": {"location": url, "referrer": url}});
    let mut events = vec![gateway::decode(body.to_string().as_bytes(), &arrival()).unwrap().event];
    let escaped = url.replace('%', "%25").replace('&', "%26");
    let query = format!("id=1&ev=A&dl={escaped}&rl={escaped}&cd[user]=jane%40shop.example&cd[content_name]=b");
    events.push(pixel::decode(Form { query: &query, ..Form::default() }, &arrival(), 1_000).unwrap().remove(0).event);
    let event = json!({"event_name": "A", "event_time": 1, "user_data": {}, "event_source_url": url,
        "referrer_url": url, "custom_data": custom_data});
    events.extend(graph(json!({"data": [event]}).to_string().as_bytes()).unwrap().events);
    for event in events {
        assert_eq!(event.source_url.as_deref(), Some("https://shop.example/?utm_source=a"));
        assert_eq!(event.referrer_url.as_deref(), Some("https://shop.example/?utm_source=a"));
        assert_eq!(Value::from(event.custom_data), json!({"content_name": "b"}));
        assert_eq!(event.user_data.dropped(), 3);
    }
}

#[test]
fn a_clock_that_is_far_off_does_not_bury_the_event() {
    let time = |ts: i64| {
        let query = format!("id=1&ev=A&ts={ts}");
        pixel::decode(Form { query: &query, ..Form::default() }, &arrival(), 1_000).unwrap()[0].event.time
    };
    assert_eq!(time(1_789_999_990_000), 1_789_999_990);
    for off in [1, 0, -5, 1_700_000_000_000, 1_900_000_000_000, i64::MIN] {
        assert_eq!(time(off), 1_790_000_000, "{off}");
    }
}

#[test]
fn keys_that_are_never_hashed_come_with_the_pixel_too() {
    let query = "id=1&ev=A&ud[lead_id]=77&aud[lead_id]=78&udff[madid]=x";
    let decoded = pixel::decode(Form { query, ..Form::default() }, &arrival(), 1_000).unwrap().remove(0);
    let user_data = serde_json::to_value(&decoded.event.user_data).unwrap();
    assert_eq!((&user_data["lead_id"], &user_data["madid"]), (&json!("77"), &json!("x")));
}

#[test]
fn what_is_put_into_a_list_can_be_read_again() {
    // As deep as a request may be: the body, `custom_data`, the product and its lists.
    let product = format!(r#"{{"id":1,"x":{}{}}}"#, "[".repeat(29), "]".repeat(29));
    let body = format!(r#"{{"event_name":"A","fb.pixel_id":"1","custom_data":{{"contents":{product}}}}}"#);
    let event = gateway::decode(body.as_bytes(), &arrival()).unwrap().event;
    assert_eq!(there_and_back(&encoded(&event)), encoded(&event));
}

#[test]
fn a_request_without_events_is_refused() {
    let refused = ["", "{}", r#"{"data":[]}"#, r#"{"data":{}}"#, r#"{"data":"7"}"#, "data=%5B%5D", "access_token=x"];
    for body in refused {
        assert_eq!(graph(body.as_bytes()).unwrap_err(), DecodeError::NoEvents, "{body}");
    }
    assert!(matches!(graph(b"data={").unwrap_err(), DecodeError::NotJson { .. }));
    let body = format!(r#"{{"data":[{}]}}"#, ["{}"; 3].join(","));
    let request = GraphRequest { body: body.as_bytes(), ..GraphRequest::default() };
    let error = graph::decode(request, &arrival(), 2).unwrap_err();
    assert_eq!(error, DecodeError::TooMany { what: "events", max: 2 });
}

#[test]
fn the_key_is_found_wherever_a_server_may_put_it() {
    let token =
        |request: GraphRequest<'_>| graph::access_token(&request).unwrap().map(|token| token.reveal().to_owned());
    let with = |body| GraphRequest { body, ..GraphRequest::default() };
    assert_eq!(token(with(br#"{"data":[{"access_token":"no"}],"access_token":"k\u0065y"}"#)).unwrap(), "key");
    assert_eq!(token(with(b"data=%5B%5D&access_token=key")).unwrap(), "key");
    let part = b"--b\r\nContent-Disposition: form-data; name=\"access_token\"\r\n\r\nkey\r\n--b--\r\n";
    assert_eq!(token(GraphRequest { content_type: Some(MULTIPART), ..with(part) }).unwrap(), "key");
    assert_eq!(token(GraphRequest { query: "access_token=key", ..with(b"{\"access_token\":7") }).unwrap(), "key");
    assert_eq!(token(GraphRequest { bearer: Some("key"), query: "access_token=other", ..with(b"") }).unwrap(), "key");
    assert_eq!(token(with(br#"{"access_token":""}"#)), None);
    assert_eq!(token(with(br#"{"access_token":"no","data":[],"access_token":"key"}"#)).unwrap(), "key", "the last one");
    assert_eq!(token(with(b"")), None);
    assert!(graph::access_token(&with(br#"{"access_token":7}"#)).is_err());
}

#[test]
fn fields_of_a_query_reach_the_envelope() {
    let body = br#"{"data":[{"event_name":"A","event_time":1,"user_data":{}}],"test_event_code":"T1"}"#;
    let query = "test_event_code=T2&partner_agent=p&access_token=secret";
    let decoded = graph::decode(GraphRequest { query, body, ..GraphRequest::default() }, &arrival(), 1).unwrap();
    assert_eq!(decoded.envelope, r#"{"partner_agent":"p","test_event_code":"T1"}"#);
}

#[test]
fn forty_levels_are_an_error_in_every_format() {
    let deep = format!("{}{}", "[".repeat(40), "]".repeat(40));
    let too_deep = DecodeError::TooDeep { max: 32 };
    let body = format!(r#"{{"fb.pixel_id":"1","event_name":"A","custom_data":{{"a":{deep}}}}}"#);
    assert_eq!(gateway::decode(body.as_bytes(), &arrival()).unwrap_err(), too_deep);
    let event = format!(r#"{{"event_name":"A","event_time":1,"user_data":{{}},"custom_data":{{"a":{deep}}}}}"#);
    assert_eq!(graph(format!(r#"{{"data":[{event}]}}"#).as_bytes()).unwrap_err(), too_deep);
    assert_eq!(graph(format!("data=[{event}]").as_bytes()).unwrap_err(), too_deep);
    let token = graph::access_token(&GraphRequest { body: body.as_bytes(), ..GraphRequest::default() });
    assert_eq!(token.unwrap_err(), too_deep);
    let query = format!("id=1&ev=A&cd[a]={deep}");
    let decoded = pixel::decode(Form { query: &query, ..Form::default() }, &arrival(), 1_000).unwrap();
    assert_eq!(decoded[0].event.custom_data["a"], Value::String(deep), "the pixel's is a text, and stays one");
}

/// A seed's name says what must become of it: `ok-…` decodes, `bad-…` does not.
fn check_corpus(target: &str, decodes: impl Fn(&[u8]) -> bool) {
    for file in files(&format!("fuzz/corpus/{target}")) {
        let seed = fs::read(&file).unwrap();
        let name = file.file_name().unwrap().to_string_lossy().into_owned();
        let decoded = decodes(&seed);
        assert!(!name.starts_with("ok-") || decoded, "{name} does not decode");
        assert!(!name.starts_with("bad-") || !decoded, "{name} decodes");
        for event in all_events(&seed) {
            assert_eq!(there_and_back(&encoded(&event)), encoded(&event), "{name}");
        }
    }
}

#[test]
fn the_corpus_of_the_gateways_fuzzer_holds() {
    check_corpus("decode_gateway", |body| gateway::decode(body, &arrival()).is_ok());
}

#[test]
fn the_corpus_of_the_pixels_fuzzer_holds() {
    check_corpus("decode_pixel", |body| {
        let content_type = body.starts_with(b"--b").then_some(MULTIPART);
        pixel::decode(Form { query: "", content_type, body }, &arrival(), 1_000).is_ok()
    });
}

#[test]
fn the_corpus_of_the_graph_fuzzer_holds() {
    check_corpus("decode_graph", |body| {
        let content_type = body.starts_with(b"--b").then_some(MULTIPART);
        graph::decode(GraphRequest { content_type, body, ..GraphRequest::default() }, &arrival(), 1_000).is_ok()
    });
}
