//! `POST /events`: one event in the format that Meta's pixel speaks to a Conversions API Gateway.
//!
//! The body is one JSON object, usually labelled `text/plain`. Keys that are not read here are experiments of Meta, or say
//! what the visitor consents to, and never an error; a known key of the wrong form counts as absent.

use serde_json::{Map, Value};

use super::browser::{Beside, BrowserEvent};
use super::{DecodeError, Decoded, commerce, event_id, is_event_name, json, take_object, take_text};
use crate::event::user_data::Unknown;
use crate::event::{Arrival, DataProcessing, UserData};

/// Carries matching data only; made of clicks on buttons.
const INPUT_DATA: &str = "InputData";

/// Keys of `fb.dynamic_product_ads` that are texts.
const PRODUCT_TEXTS: &[&str] = &["content_type", "content_category", "content_name", "delivery_category"];

/// Keys beside it, and what Meta calls them in `custom_data`.
const EXPLICIT: &[(&str, &str)] = &[
    ("fb.num_items", "num_items"),
    ("fb.predicted_ltv", "predicted_ltv"),
    ("fb.registration_status", "status"),
    ("fb.search_string", "search_string"),
    ("fb.order_id", "order_id"),
];

/// Decodes one event. Who sent nothing at all named no pixel either.
pub fn decode(body: &[u8], arrival: &Arrival) -> Result<Decoded, DecodeError> {
    if body.trim_ascii().is_empty() {
        return Err(DecodeError::PixelMissing);
    }
    let mut body = json::object(body)?;
    let pixel = take_text(&mut body, "fb.pixel_id").and_then(|id| id.parse().ok()).ok_or(DecodeError::PixelMissing)?;
    let name = match body.remove("event_name") {
        Some(Value::String(name)) if is_event_name(&name) => name,
        _ => return Err(DecodeError::EventNameMissing),
    };
    let mut context = take_object(&mut body, "website_context");
    let custom_data = if name == INPUT_DATA { Map::new() } else { custom_data(&mut body) };
    let event = BrowserEvent {
        pixel,
        name,
        id: event_id(body.remove("event_id")),
        time: arrival.now_ms.div_euclid(1_000),
        page: take_text(&mut context, "location").or_else(|| arrival.referer.clone()),
        referrer: take_text(&mut context, "referrer"),
        user_data: user_data(&mut body),
        custom_data,
        data_processing: data_processing(&mut body),
        fbp: take_text(&mut body, "fb.fbp"),
        click: take_text(&mut body, "fb.clickID"),
        beside: beside(body),
    };
    Ok(event.arrived(arrival))
}

/// What is left of the body.
fn beside(body: Map<String, Value>) -> Beside {
    let mut beside = Beside::default();
    body.into_iter().for_each(|(name, value)| beside.add(&name, value));
    beside
}

fn user_data(body: &mut Map<String, Value>) -> UserData {
    let mut given = take_object(body, "fb.advanced_matching");
    if given.is_empty() {
        given = take_object(body, "user_data");
    }
    let mut user_data = UserData::default();
    for (key, value) in given {
        user_data.add(&key, value, Unknown::LeaveOut);
    }
    user_data
}

/// From the least to the most trusted: what the page gave, its products, Meta's own keys, the value of the conversion;
/// what the pixel found on the page by itself fills what is still missing.
fn custom_data(body: &mut Map<String, Value>) -> Map<String, Value> {
    let mut custom_data = take_object(body, "custom_data");
    commerce::mend(&mut custom_data);
    let mut products = take_object(body, "fb.dynamic_product_ads");
    for key in PRODUCT_TEXTS {
        set_text(&mut custom_data, key, products.remove(*key));
    }
    set_if(&mut custom_data, "content_ids", products.remove("content_ids"), commerce::mend_ids);
    set_if(&mut custom_data, "contents", products.remove("contents"), commerce::mend_contents);
    for (key, name) in EXPLICIT {
        match *name {
            "num_items" | "predicted_ltv" => set_if(&mut custom_data, name, body.remove(*key), commerce::mend_number),
            _ => set_text(&mut custom_data, name, body.remove(*key)),
        }
    }
    let mut conversion = take_object(body, "conversion_value");
    set_if(&mut custom_data, "value", conversion.remove("value"), commerce::mend_number);
    set_if(&mut custom_data, "currency", conversion.remove("currency"), commerce::mend_currency);

    let mut found = take_object(body, "automatic_parameters");
    if !custom_data.contains_key("currency") {
        set_if(&mut custom_data, "currency", found.remove("currency"), commerce::mend_currency);
    }
    if !custom_data.contains_key("contents") {
        set_if(&mut custom_data, "contents", found.remove("contents"), commerce::mend_contents);
    }
    custom_data
}

fn set_text(custom_data: &mut Map<String, Value>, key: &str, value: Option<Value>) {
    if let Some(text) = value.and_then(json::into_text) {
        custom_data.insert(key.to_owned(), Value::String(text));
    }
}

fn set_if(custom_data: &mut Map<String, Value>, key: &str, value: Option<Value>, mend: fn(&mut Value) -> bool) {
    if let Some(mut value) = value
        && mend(&mut value)
    {
        custom_data.insert(key.to_owned(), value);
    }
}

fn data_processing(body: &mut Map<String, Value>) -> Option<DataProcessing> {
    let given = take_object(body, "fb.data_processing_options");
    let options = match given.get("dataProcessingOptions")? {
        Value::Array(options) => options.iter().filter_map(Value::as_str).map(str::to_owned).collect(),
        Value::String(option) if !option.is_empty() => vec![option.clone()],
        _ => Vec::new(),
    };
    let number = |key| given.get(key).and_then(json::as_whole);
    let (country, state) = (number("dataProcessingOptionsCountry"), number("dataProcessingOptionsState"));
    Some(DataProcessing { options, country, state })
}
