//! Cookies: the two of Meta's that are read and renewed, and nothing else of them.

use http::HeaderValue;

/// 90 days, as Meta's own script keeps them.
const MAX_AGE_SECONDS: u32 = 90 * 86_400;
/// Bytes of a value that is set; the longest click ids are a tenth of it.
const VALUE_BYTES_MAX: usize = 2_048;

/// The value of a cookie in a `Cookie` header (RFC 6265, 4.2.1); the first one, if there are several.
pub(super) fn read<'a>(header: &'a str, name: &str) -> Option<&'a str> {
    let pairs = header.split(';').filter_map(|pair| pair.trim().split_once('='));
    pairs.filter(|(own, _)| *own == name).map(|(_, value)| value).find(|value| !value.is_empty())
}

/// A `Set-Cookie` that the whole site of `host` gets back; the page's script reads it too, so it is not `HttpOnly`.
///
/// `None` if `host` has no registrable domain, or the value has bytes that no cookie may have.
pub(super) fn set(name: &str, value: &str, host: &str) -> Option<HeaderValue> {
    // cookie-octet of RFC 6265, 4.1.1
    let allowed = |b: u8| matches!(b, 0x21 | 0x23..=0x2b | 0x2d..=0x3a | 0x3c..=0x5b | 0x5d..=0x7e);
    if value.is_empty() || value.len() > VALUE_BYTES_MAX || !value.bytes().all(allowed) {
        return None;
    }
    let domain = psl::domain_str(host)?;
    let text = format!("{name}={value}; Domain={domain}; Path=/; Max-Age={MAX_AGE_SECONDS}; SameSite=Lax; Secure");
    HeaderValue::try_from(text).ok()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_cookie_is_read_by_its_exact_name() {
        let header = "a=1; _fbp=fb.1.2.3;_fbc=; _fbc=fb.1.2.x=y; x_fbp=no";
        assert_eq!(read(header, "_fbp"), Some("fb.1.2.3"));
        assert_eq!(read(header, "_fbc"), Some("fb.1.2.x=y"));
        assert_eq!(read(header, "_fb"), None);
        assert_eq!(read("", "_fbp"), None);
        assert_eq!(read("_fbp", "_fbp"), None);
    }

    #[test]
    fn a_cookie_is_set_for_the_registrable_domain() {
        let set = |host| set("_fbp", "fb.1.2.3", host).map(|value| value.to_str().unwrap().to_owned());
        assert_eq!(
            set("events.shop.example.co.uk").unwrap(),
            "_fbp=fb.1.2.3; Domain=example.co.uk; Path=/; Max-Age=7776000; SameSite=Lax; Secure"
        );
        assert!(set("shop.example").unwrap().contains("Domain=shop.example;"));
        assert_eq!(set("co.uk"), None);
    }

    #[test]
    fn no_value_escapes_its_cookie() {
        for bad in ["", "a;b", "a b", "a\r\nSet-Cookie: x=y", "a,b", "a\"b", "é", &"a".repeat(3_000)] {
            assert_eq!(set("_fbc", bad, "events.shop.example"), None, "{bad:?}");
        }
    }
}
