//! The one form in which the names of handshakes and requests are compared, with one another and with certificates'.

use std::borrow::Cow;

/// Bytes of a DNS name in text form (RFC 1035, 2.3.4).
const NAME_BYTES_MAX: usize = 253;

/// A name as [`ServerName`](crate::account::ServerName) writes it: lower case, no trailing dot.
///
/// `None` is what no certificate here is for: an empty name, an IP literal (RFC 6066, 3: not permitted), a name that is
/// not in A-labels, or one that is too long.
pub fn normalise(name: &str) -> Option<Cow<'_, str>> {
    let name = name.strip_suffix('.').unwrap_or(name);
    let plain = |b: u8| b.is_ascii_alphanumeric() || b == b'-' || b == b'.';
    if name.is_empty() || name.len() > NAME_BYTES_MAX || !name.bytes().all(plain) {
        return None;
    }
    // A name whose last label is a number is read as an IPv4 address (WHATWG URL, "ends in a number").
    let last = name.rsplit('.').next().unwrap_or_default();
    if last.is_empty() || last.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    Some(if name.bytes().any(|b| b.is_ascii_uppercase()) {
        Cow::Owned(name.to_ascii_lowercase())
    } else {
        Cow::Borrowed(name)
    })
}

/// Whether a certificate with this DNS name, in lower case, is one for `name` (RFC 9525, 6.3): it is the name, or the name
/// with its first label replaced by `*`.
pub(super) fn covers(dns_name: &str, name: &str) -> bool {
    let is_wildcard = || matches!((dns_name.strip_prefix("*."), name.split_once('.')), (Some(below), Some((_, above))) if below == above);
    dns_name == name || is_wildcard()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wildcard_is_for_one_label() {
        assert!(covers("a.example", "a.example") && covers("*.b.example", "x.b.example"));
        for name in ["b.example", "y.x.b.example", "xb.example", "b"] {
            assert!(!covers("*.b.example", name), "{name}");
        }
    }

    #[test]
    fn case_and_a_trailing_dot_do_not_matter() {
        assert_eq!(normalise("Events.Shop.EXAMPLE.").as_deref(), Some("events.shop.example"));
        assert!(matches!(normalise("events.shop.example"), Some(Cow::Borrowed(_))));
        assert_eq!(normalise("xn--bcher-kva.example").as_deref(), Some("xn--bcher-kva.example"));
    }

    #[test]
    fn what_no_certificate_is_for_is_refused() {
        let long = format!("{}.example", "a".repeat(250));
        for bad in
            ["", ".", "..", "127.0.0.1", "1", "[::1]", "::1", "bücher.example", "a b", "a\0b", "*.a.b", "a..", &long]
        {
            assert_eq!(normalise(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn the_longest_name_passes() {
        let longest = format!("{}.example", "a".repeat(245));
        assert_eq!(longest.len(), 253);
        assert!(normalise(&longest).is_some());
        assert!(normalise(&format!("{longest}.")).is_some());
    }

    proptest::proptest! {
        #![proptest_config(proptest::prelude::ProptestConfig { failure_persistence: None, ..Default::default() })]

        #[test]
        fn a_configured_name_is_found_however_a_client_writes_it(
            name in "[a-z0-9]([a-z0-9-]{0,10}[a-z0-9])?(\\.[a-z0-9]([a-z0-9-]{0,10}[a-z0-9])?){0,4}\\.[a-z]{2,8}",
            upper in proptest::prelude::any::<u64>(),
            dot in proptest::prelude::any::<bool>(),
        ) {
            // Labels such as `ab--c` and `xn--a` are no names to configure.
            let Ok(configured) = name.parse::<crate::account::ServerName>() else { return Ok(()) };
            let mut asked: String = name.char_indices().map(|(at, c)| if upper >> (at % 64) & 1 == 1 { c.to_ascii_uppercase() } else { c }).collect();
            if dot {
                asked.push('.');
            }
            let found = normalise(&asked);
            proptest::prop_assert_eq!(found.as_deref(), Some(configured.as_str()));
        }

        #[test]
        fn what_is_accepted_is_in_one_form_and_in_bounds(text in "\\PC{0,300}|[a-zA-Z0-9.-]{0,300}") {
            if let Some(name) = normalise(&text) {
                proptest::prop_assert_eq!(normalise(&name), Some(name.clone()));
                proptest::prop_assert!(!name.is_empty() && name.len() <= 253 && !name.ends_with('.'));
                proptest::prop_assert!(name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-' || b == b'.'));
                proptest::prop_assert!(name.parse::<std::net::IpAddr>().is_err());
            }
        }
    }
}
