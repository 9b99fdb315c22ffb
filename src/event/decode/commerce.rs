//! The `custom_data` of pages, in the forms that Meta takes ("Standard Parameters"). What a page gives is often almost
//! right: a number as a text, one id where a list goes. It is mended here, and left out where it can't be.

use serde_json::{Map, Number, Value};

use super::json;

/// Keys whose values are numbers, beside `value`.
const NUMBERS: &[&str] = &["net_revenue", "num_items", "predicted_ltv"];

/// Currencies in use (ISO 4217), and those that were replaced since 2020; sorted.
const CURRENCIES: &[&str] = &[
    "AED", "AFN", "ALL", "AMD", "ANG", "AOA", "ARS", "AUD", "AWG", "AZN", "BAM", "BBD", "BDT", "BGN", "BHD", "BIF",
    "BMD", "BND", "BOB", "BRL", "BSD", "BTN", "BWP", "BYN", "BZD", "CAD", "CDF", "CHF", "CLF", "CLP", "CNY", "COP",
    "COU", "CRC", "CUC", "CUP", "CVE", "CZK", "DJF", "DKK", "DOP", "DZD", "EGP", "ERN", "ETB", "EUR", "FJD", "FKP",
    "GBP", "GEL", "GHS", "GIP", "GMD", "GNF", "GTQ", "GYD", "HKD", "HNL", "HRK", "HTG", "HUF", "IDR", "ILS", "INR",
    "IQD", "IRR", "ISK", "JMD", "JOD", "JPY", "KES", "KGS", "KHR", "KMF", "KPW", "KRW", "KWD", "KYD", "KZT", "LAK",
    "LBP", "LKR", "LRD", "LSL", "LYD", "MAD", "MDL", "MGA", "MKD", "MMK", "MNT", "MOP", "MRU", "MUR", "MVR", "MWK",
    "MXN", "MXV", "MYR", "MZN", "NAD", "NGN", "NIO", "NOK", "NPR", "NZD", "OMR", "PAB", "PEN", "PGK", "PHP", "PKR",
    "PLN", "PYG", "QAR", "RON", "RSD", "RUB", "RWF", "SAR", "SBD", "SCR", "SDG", "SEK", "SGD", "SHP", "SLE", "SLL",
    "SOS", "SRD", "SSP", "STN", "SVC", "SYP", "SZL", "THB", "TJS", "TMT", "TND", "TOP", "TRY", "TTD", "TWD", "TZS",
    "UAH", "UGX", "USD", "UYU", "UYW", "UZS", "VED", "VES", "VND", "VUV", "WST", "XAF", "XCD", "XCG", "XOF", "XPF",
    "YER", "ZAR", "ZMW", "ZWG", "ZWL",
];

/// Mends what a page gave.
pub(super) fn mend(custom_data: &mut Map<String, Value>) {
    custom_data.retain(|key, value| {
        match key.as_str() {
            "currency" => return mend_currency(value),
            "content_ids" => return mend_ids(value),
            "contents" => return mend_contents(value),
            "value" => return mend_number(value),
            key if NUMBERS.contains(&key) => drop(mend_number(value)),
            _ => {}
        }
        !value.is_null()
    });
}

/// Sees to it that a value has its currency: the Conversions API refuses an event that has only one of them, and a
/// purchase without both. There Meta's own client fills in what is missing, so this does; elsewhere the value goes.
pub(super) fn settle_value(event_name: &str, custom_data: &mut Map<String, Value>) {
    if event_name == "Purchase" {
        custom_data.entry("value").or_insert_with(|| 0.into());
        custom_data.entry("currency").or_insert_with(|| "USD".into());
    } else if !custom_data.contains_key("currency") {
        custom_data.remove("value");
    }
}

/// The text of a number as one; `false` if it is none.
pub(super) fn mend_number(value: &mut Value) -> bool {
    if let Value::String(text) = &*value {
        let text = text.trim();
        let whole = text.parse::<i64>().ok().map(Number::from);
        match whole.or_else(|| text.parse::<f64>().ok().and_then(Number::from_f64)) {
            Some(number) => *value = Value::Number(number),
            None => return false,
        }
    }
    value.is_number()
}

/// The code of a currency in capitals; `false` if it is none.
pub(super) fn mend_currency(value: &mut Value) -> bool {
    let Value::String(text) = value else { return false };
    let code = text.trim().to_ascii_uppercase();
    let is_known = CURRENCIES.binary_search(&code.as_str()).is_ok();
    *text = code;
    is_known
}

/// A list of texts, made of one, of numbers, or of its JSON text; `false` if nothing is left.
pub(super) fn mend_ids(value: &mut Value) -> bool {
    unfold(value);
    let ids = match value.take() {
        Value::Array(ids) => ids,
        one => vec![one],
    };
    let ids: Vec<_> = ids.into_iter().filter_map(json::into_text).map(Value::String).collect();
    *value = Value::Array(ids);
    !is_empty(value)
}

/// A list of objects that all have an `id`, made of that or of its JSON text; `false` if nothing is left.
pub(super) fn mend_contents(value: &mut Value) -> bool {
    unfold(value);
    let contents = match value.take() {
        Value::Array(contents) => contents,
        one => vec![one],
    };
    let with_id = contents.into_iter().filter_map(|content| {
        let Value::Object(mut content) = content else { return None };
        let id = content.remove("id").and_then(json::into_text)?;
        content.insert("id".to_owned(), Value::String(id));
        Some(Value::Object(content))
    });
    *value = Value::Array(with_id.collect());
    !is_empty(value)
}

/// Reads a text that is the JSON of an array or an object; any other text stays.
pub(super) fn unfold(value: &mut Value) {
    if let Value::String(text) = &*value
        && text.trim_start().starts_with(['[', '{'])
        && let Ok(inner) = json::parse_value(text)
    {
        *value = inner;
    }
}

fn is_empty(value: &Value) -> bool {
    value.as_array().is_some_and(Vec::is_empty)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic)]
    use serde_json::json;

    use super::*;

    fn mended(custom_data: Value) -> Value {
        let Value::Object(mut map) = custom_data else { panic!("an object") };
        mend(&mut map);
        Value::Object(map)
    }

    #[test]
    fn almost_right_is_made_right() {
        let given = json!({
            "value": "10.50", "num_items": "2", "currency": " usd ", "content_ids": 7, "nothing": null,
            "contents": "[{\"id\":1,\"quantity\":2},{\"quantity\":1}]", "own": "[1]",
        });
        let expected = json!({
            "value": 10.5, "num_items": 2, "currency": "USD", "content_ids": ["7"],
            "contents": [{"id": "1", "quantity": 2}], "own": "[1]",
        });
        assert_eq!(mended(given), expected);
    }

    #[test]
    fn what_cannot_be_is_left_out() {
        let given = json!({
            "value": "a lot", "currency": "€", "content_ids": [], "contents": [{"quantity": 1}, "x"], "own": "kept",
        });
        assert_eq!(mended(given), json!({"own": "kept"}));
        assert_eq!(mended(json!({"value": "inf", "currency": "XXX", "content_ids": {}, "contents": 1})), json!({}));
    }

    #[test]
    fn a_value_has_a_currency_or_is_none() {
        let settled = |name: &str, custom_data: Value| {
            let Value::Object(mut map) = custom_data else { panic!("an object") };
            settle_value(name, &mut map);
            Value::Object(map)
        };
        assert_eq!(settled("Lead", json!({"value": 1, "a": 2})), json!({"a": 2}));
        assert_eq!(settled("Lead", json!({"value": 1, "currency": "EUR"})), json!({"value": 1, "currency": "EUR"}));
        assert_eq!(settled("Purchase", json!({"value": 1})), json!({"value": 1, "currency": "USD"}));
        assert_eq!(settled("Purchase", json!({"currency": "EUR"})), json!({"value": 0, "currency": "EUR"}));
    }

    #[test]
    fn ids_come_as_a_list_in_every_dress() {
        for ids in [json!(["a", 1]), json!("[\"a\",1]")] {
            assert_eq!(mended(json!({"content_ids": ids})), json!({"content_ids": ["a", "1"]}));
        }
        assert_eq!(mended(json!({"content_ids": "a"})), json!({"content_ids": ["a"]}));
    }

    #[test]
    fn the_codes_of_currencies_are_sorted_and_three_letters_long() {
        assert!(CURRENCIES.is_sorted_by(|a, b| a < b));
        assert!(CURRENCIES.iter().all(|code| code.len() == 3 && code.bytes().all(|b| b.is_ascii_uppercase())));
    }
}
