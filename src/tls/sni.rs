//! The one form in which the names of handshakes and requests are compared.

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

#[cfg(test)]
mod tests {
    use super::*;

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
}
