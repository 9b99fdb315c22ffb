//! What must hold for any input: no panic, no raw identifier in what is encoded, and the same bytes after a round trip.

#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use proptest::prelude::*;
use serde_json::{Value, json};

use super::tests::{all_events, arrival, encoded, graph, there_and_back};
use super::*;

/// Any JSON, a few levels deep.
fn any_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        any::<String>().prop_map(Value::from),
    ];
    leaf.prop_recursive(3, 16, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::btree_map("[a-z_]{0,6}", inner, 0..4)
                .prop_map(|map| Value::Object(map.into_iter().collect())),
        ]
    })
}

/// An object with some of these keys, each with any value.
fn any_object(keys: &'static [&'static str]) -> impl Strategy<Value = Value> {
    let entries = prop::collection::vec((prop::sample::select(keys), any_json()), 0..keys.len());
    entries.prop_map(|entries| Value::Object(entries.into_iter().map(|(key, value)| (key.to_owned(), value)).collect()))
}

const GATEWAY_KEYS: &[&str] = &[
    "event_id",
    "conversion_value",
    "custom_data",
    "fb.dynamic_product_ads",
    "fb.num_items",
    "fb.search_string",
    "fb.advanced_matching",
    "user_data",
    "fb.fbp",
    "fb.clickID",
    "website_context",
    "fb.data_processing_options",
    "automatic_parameters",
];

const EVENT_KEYS: &[&str] = &[
    "event_id",
    "action_source",
    "event_source_url",
    "referrer_url",
    "custom_data",
    "app_data",
    "opt_out",
    "data_processing_options",
    "data_processing_options_country",
    "messaging_channel",
    "new_key",
];

const USER_KEYS: &[&str] = &[
    "em",
    "ph",
    "fn",
    "ln",
    "db",
    "ge",
    "ct",
    "st",
    "zp",
    "country",
    "external_id",
    "fi",
    "f5first",
    "dobd",
    "dobm",
    "doby",
    "app_user_id",
    "email",
    "uid",
    "fbc",
    "fbp",
    "client_ip_address",
    "client_user_agent",
    "lead_id",
    "madid",
    "new_key",
    "fb_login_id",
    "subscription_id",
];

/// The address in some dress, under some key of `user_data`, alone, in a list or deeper.
fn user_data_with(email: &str, key: &str, dress: usize) -> Value {
    let shouted = email.to_uppercase();
    let value = match dress % 7 {
        0 => json!(email),
        1 => json!(format!("  {shouted}\n")),
        2 => json!(["x", email]),
        3 => json!([[email]]),
        4 => json!({"value": {"inner": email}}),
        5 => json!(format!("Jane <{email}>")),
        _ => json!({ email: 1 }),
    };
    json!({ key: value })
}

fn hides(event: &Event, email: &str) -> bool {
    !String::from_utf8(encoded(event)).unwrap().to_lowercase().contains(email)
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_bytes_make_a_decoder_panic(body in prop::collection::vec(any::<u8>(), 0..512)) {
        all_events(&body);
    }

    #[test]
    fn no_text_makes_a_decoder_panic(body in "[a-z{}\\[\\]\":,=&%0-9\\\\]{0,256}") {
        all_events(body.as_bytes());
    }

    #[test]
    fn no_values_make_the_gateways_decoder_fail(mut body in any_object(GATEWAY_KEYS)) {
        body["fb.pixel_id"] = json!("1234567890");
        body["event_name"] = json!("PageView");
        let event = gateway::decode(body.to_string().as_bytes(), &arrival()).unwrap().event;
        prop_assert_eq!(there_and_back(&encoded(&event)), encoded(&event));
    }

    #[test]
    fn what_was_encoded_decodes_to_the_same(mut event in any_object(EVENT_KEYS), user_data in any_object(USER_KEYS), time in 0..i64::MAX) {
        event["event_name"] = json!("PageView");
        event["event_time"] = json!(time);
        event["user_data"] = user_data;
        if let Ok(decoded) = graph(json!({"data": [event]}).to_string().as_bytes()) {
            let encoded = encoded(&decoded.events[0]);
            prop_assert_eq!(there_and_back(&encoded), encoded);
        }
    }

    #[test]
    fn no_address_leaves_the_decoder(
        email in "[a-z]{3,9}[.+_]?[a-z0-9]{1,9}@[a-z]{3,9}\\.(com|de)",
        key in prop::sample::select(USER_KEYS),
        dress in any::<usize>(),
    ) {
        let user_data = user_data_with(&email, key, dress);
        let event = json!({"event_name": "A", "event_time": 1, "user_data": user_data, "extra": email});
        let body = json!({"data": [event]}).to_string();
        prop_assert!(hides(&graph(body.as_bytes()).unwrap().events[0], &email));
        for place in ["fb.advanced_matching", "user_data"] {
            let body = json!({"event_name": "A", "fb.pixel_id": "1", place: user_data}).to_string();
            prop_assert!(hides(&gateway::decode(body.as_bytes(), &arrival()).unwrap().event, &email));
        }
        for group in ["ud", "udff", "aud", "audff"] {
            let query = format!("id=1&ev=A&{group}[{key}]={}", email.replace('@', "%40"));
            let decoded = pixel::decode(Form { query: &query, ..Form::default() }, &arrival(), 1_000).unwrap();
            prop_assert!(hides(&decoded[0].event, &email));
        }
    }

    #[test]
    fn no_address_hides_in_what_is_free_in_form(
        email in "[a-z]{3,9}[.+_]?[a-z0-9]{1,9}@[a-z]{3,9}\\.(com|de)",
        dress in prop::sample::select(&["{}", "https://s.example/u/{}/x?a=1", "https://s.example/?a={}&b=1", "https://s.example/#{}", "mail {}, now"][..]),
        escapes in 0..3_usize,
    ) {
        let escaped = (0..escapes).fold(email, |text, n| text.replace(if n == 0 { "@" } else { "%" }, ["%40", "%25"][n]));
        let text = dress.replace("{}", &escaped);
        let custom_data = json!({"note": text, "list": [{"x": text}], text.clone(): 1});
        let event = json!({
            "event_name": "A", "event_time": 1, "user_data": {}, "custom_data": custom_data, "app_data": {"x": text},
            "event_source_url": text, "referrer_url": text, "attribution_data": {"x": text},
        });
        let body = json!({"data": [event]}).to_string();
        let decoded = graph(body.as_bytes()).unwrap();
        prop_assert!(!address::is_in(&String::from_utf8(encoded(&decoded.events[0])).unwrap()));
        let context = json!({"location": text, "referrer": text});
        let event = json!({"event_name": "A", "fb.pixel_id": "1", "custom_data": custom_data, "website_context": context});
        let decoded = gateway::decode(event.to_string().as_bytes(), &arrival()).unwrap();
        prop_assert!(!address::is_in(&String::from_utf8(encoded(&decoded.event)).unwrap()));
    }

    #[test]
    fn no_telephone_number_leaves_the_decoder(digits in "[1-9][0-9]{7,13}", key in prop::sample::select(USER_KEYS)) {
        // Numbers by Meta's rule, and texts that it wants as they are.
        prop_assume!(!["lead_id", "fb_login_id", "madid", "subscription_id", "fbc", "client_user_agent"].contains(&key));
        for value in [json!(digits), json!(format!("+{digits}")), json!(digits.parse::<u64>().unwrap())] {
            let event = json!({"event_name": "A", "event_time": 1, "user_data": {key: value}});
            let body = json!({"data": [event]}).to_string();
            let decoded = graph(body.as_bytes()).unwrap();
            prop_assert!(!String::from_utf8(encoded(&decoded.events[0])).unwrap().contains(&digits));
        }
    }
}
