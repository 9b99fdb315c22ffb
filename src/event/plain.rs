//! What may pass in plain: the keys of `user_data` that Meta never wants hashed, and the guard that keeps e-mail
//! addresses and telephone numbers out of everything that is not hashed.

use std::net::IpAddr;

use serde_json::Value;

/// The longest plain value, in bytes.
pub(super) const TEXT_MAX: usize = 4 * 1024;

/// Keys of `user_data` that Meta wants as they are, beside `fbc`, `fbp`, address and user agent
/// ("Customer Information Parameters").
const NEVER_HASHED: &[&str] = &[
    "anon_id",
    "ctwa_clid",
    "fb_login_id",
    "ig_account_id",
    "ig_sid",
    "lead_id",
    "madid",
    "page_id",
    "page_scoped_user_id",
    "subscription_id",
    "whatsapp_business_account_id",
];

/// Whether Meta defines this key of `user_data` as one that is never hashed.
pub(super) fn is_never_hashed(key: &str) -> bool {
    NEVER_HASHED.contains(&key)
}

/// Whether a text may be sent as it is: of bounded length, without control characters, without an e-mail address.
pub(super) fn is_sendable(text: &str) -> bool {
    !text.is_empty() && text.len() <= TEXT_MAX && !text.contains(is_forbidden)
}

/// Whether a text could be a telephone number: 7 to 15 digits with nothing but the usual separators between them.
pub(super) fn looks_like_phone(text: &str) -> bool {
    let mut digits = 0;
    for c in text.chars() {
        if c.is_numeric() {
            digits += 1;
        } else if !c.is_whitespace() && !"+-–()./\u{200e}\u{202a}\u{202c}".contains(c) {
            return false;
        }
    }
    (7..=15).contains(&digits)
}

/// Whether a value may be passed on under a key that is not hashed. Under a key that Meta defines a number is an id,
/// so only `unknown` keys are searched for telephone numbers.
pub(super) fn may_pass(key: &str, value: &Value, unknown: bool) -> bool {
    let clean =
        |text: &str| text.len() <= TEXT_MAX && !text.contains(is_forbidden) && !(unknown && looks_like_phone(text));
    let name = |text: &str| clean(text) && !text.is_empty();
    name(key)
        && match value {
            Value::Null => false,
            Value::Bool(_) => true,
            Value::Number(number) => clean(&number.to_string()),
            Value::String(text) => clean(text),
            Value::Array(items) => items.iter().all(|item| item.is_null() || may_pass(key, item, unknown)),
            Value::Object(fields) => fields.iter().all(|(key, value)| value.is_null() || may_pass(key, value, unknown)),
        }
}

/// An address as Meta wants it, with the appendix of Meta's parameter builder (`1.2.3.4.AQQCAQIB`) if it has one.
/// `None` for what is no address, or one that says nothing about a visitor: private, loopback, link-local, ULA.
pub(super) fn public_address(text: &str) -> Option<&str> {
    let text = text.trim();
    let bare = || text.rsplit_once('.').filter(|(_, tail)| is_appendix(tail)).and_then(|(head, _)| head.parse().ok());
    let address: IpAddr = text.parse().ok().or_else(bare)?;
    is_public(address).then_some(text)
}

/// Whether an address can be a visitor's on the Internet.
pub(super) fn is_public(address: IpAddr) -> bool {
    match address.to_canonical() {
        IpAddr::V4(v4) => !(v4.is_private() || v4.is_loopback() || v4.is_link_local()),
        IpAddr::V6(v6) => !(v6.is_loopback() || v6.is_unicast_link_local() || v6.is_unique_local()),
    }
}

/// The mark that Meta's parameter builder puts behind its values: 8 characters of URL-safe base64, formerly 2.
pub(super) fn is_appendix(text: &str) -> bool {
    let base64 = |b: u8| b.is_ascii_alphanumeric() || b == b'-' || b == b'_';
    matches!(text, "AQ" | "Ag" | "Aw" | "BA" | "BQ" | "Bg") || (text.len() == 8 && text.bytes().all(base64))
}

fn is_forbidden(c: char) -> bool {
    // U+FF20 and U+FE6B are the full-width and the small commercial at.
    c.is_control() || matches!(c, '@' | '\u{ff20}' | '\u{fe6b}')
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use serde_json::json;

    use super::*;

    #[test]
    fn telephone_numbers_are_seen_in_any_dress() {
        for phone in ["+1 (650) 555-1212", "16505551212", "1.650.555.1212", "0650 123 45 67", "٠٠٩٧١٥٠١٢٣٤٥٦٧"]
        {
            assert!(looks_like_phone(phone), "{phone}");
        }
        for other in ["", "123456", "1234567890123456", "U-1234567", "fb.1.1677024568192.220088425", "+"] {
            assert!(!looks_like_phone(other), "{other}");
        }
    }

    #[test]
    fn a_plain_value_carries_no_identifier_at_any_depth() {
        assert!(may_pass("lead_id", &json!(1_234_567_890), false));
        assert!(!may_pass("new_key", &json!(1_234_567_890), true));
        assert!(may_pass("new_key", &json!({"a": ["b", null, 7]}), true));
        assert!(!may_pass("new_key", &json!({"a": ["b", {"c": "jane@shop.example"}]}), true));
        assert!(!may_pass("jane@shop.example", &json!(true), true));
        assert!(!may_pass("lead_id", &json!("a\u{0}b"), false));
        assert!(!may_pass("lead_id", &json!(null), false));
    }

    #[test]
    fn only_public_addresses_pass() {
        for good in
            ["203.0.113.9", "2001:db8::1", "100.64.0.1", "1.2.3.4.AQQCAQIB", "2001:db8::1.AQQCAQIB", "1.2.3.4.AQ"]
        {
            assert_eq!(public_address(good), Some(good));
        }
        let bad = [
            "",
            "10.0.0.1",
            "192.168.1.1",
            "172.16.0.1",
            "127.0.0.1",
            "169.254.1.1",
            "::1",
            "fe80::1",
            "fd00::1",
            "::ffff:10.0.0.1",
            "10.0.0.1.AQQCAQIB",
            "1.2.3",
            "shop.example",
            "1.2.3.4.5",
        ];
        for bad in bad {
            assert_eq!(public_address(bad), None, "{bad}");
        }
    }
}
