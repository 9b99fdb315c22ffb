//! The two first-party ids of Meta's pixel: `fbp`, the browser, and `fbc`, the click on an ad that led here.
//!
//! Both read `fb.<subdomain index>.<creation time in ms>.<payload>[.<appendix>]` (Meta's "fbp and fbc Parameters" and its
//! parameter builder). The payload of an `fbc` is the `fbclid` of the landing page's URL, unmodified: its case counts.

use std::borrow::Cow;

use super::plain;

/// The longest `fbclid`, in bytes; the pixel ignores longer ones.
const FBCLID_MAX: usize = 500;

/// The longest value of all, in bytes.
const VALUE_MAX: usize = 600;

/// The click id, or the browser's number, of a well-formed `fbc` or `fbp`; `None` if it is not, which counts as absent.
///
/// Nothing but the characters of a cookie's value gets through (RFC 6265, 4.1.1), so the text can be sent as one.
pub fn parse(value: &str) -> Option<&str> {
    let mut parts = value.split('.');
    let (version, subdomain_index, created_ms, payload) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
    // The mark of Meta's parameter builder: passed on untouched, never made here.
    let appendix = parts.next();
    let digits = |text: &str, max| (1..=max).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_digit());
    let well_formed = version == "fb"
        && digits(subdomain_index, 3)
        && digits(created_ms, 16)
        && is_payload(payload)
        && appendix.is_none_or(plain::is_appendix)
        && parts.next().is_none()
        && value.len() <= VALUE_MAX;
    well_formed.then_some(payload)
}

/// Makes an `fbc` of a bare `fbclid`. `None` if it is empty, too long, not of a cookie's characters, or a broken `fbc`.
pub fn wrap(fbclid: &str, now_ms: i64) -> Option<String> {
    if fbclid.len() > FBCLID_MAX || fbclid.starts_with("fb.") {
        return None;
    }
    // A dot would end the payload; the pixel writes it like this too.
    let fbc = format!("fb.1.{}.{}", now_ms.max(0), fbclid.replace('.', "__DOT__"));
    parse(&fbc).is_some().then_some(fbc)
}

/// Makes an `fbp` for a browser that has none, of a random number.
pub fn mint_fbp(now_ms: i64, number: u32) -> String {
    format!("fb.1.{}.{}", now_ms.max(0), number & 0x7fff_ffff)
}

/// The `fbc` to use when a click id came, given what the browser has in its cookie: the cookie stays while the click is
/// the same one, so its creation time does. `click` is an `fbc` or a bare `fbclid`.
pub fn renew(click: &str, cookie: Option<&str>, now_ms: i64) -> Option<String> {
    if parse(click).is_some() {
        return Some(click.to_owned());
    }
    let fresh = wrap(click, now_ms)?;
    let same_click = |kept: &&str| parse(kept).is_some() && parse(kept) == parse(&fresh);
    match cookie.filter(same_click) {
        Some(kept) => Some(kept.to_owned()),
        None => Some(fresh),
    }
}

/// The `fbclid` in the query of a URL, if there is one that is not empty.
pub fn of_url(url: &str) -> Option<Cow<'_, str>> {
    let (_, query) = url.split('#').next()?.split_once('?')?;
    if !query.contains("fbclid") {
        return None;
    }
    form_urlencoded::parse(query.as_bytes()).find(|(key, value)| key == "fbclid" && !value.is_empty()).map(|(_, id)| id)
}

fn is_payload(text: &str) -> bool {
    let octet = |b: u8| b.is_ascii_graphic() && !matches!(b, b'"' | b',' | b';' | b'\\' | b'@' | b'.');
    !text.is_empty() && text.bytes().all(octet)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const NOW: i64 = 1_700_000_000_000;

    #[test]
    fn well_formed_values_give_their_payload() {
        assert_eq!(parse("fb.2.1677024568192.AbC_aem_x-y.AQQCAQIB"), Some("AbC_aem_x-y"));
        assert_eq!(parse("fb.1.1677024568192.220088425"), Some("220088425"));
        assert_eq!(parse("fb.1.1677024568192.220088425.Bg"), Some("220088425"));
    }

    #[test]
    fn everything_else_counts_as_absent() {
        let bad = [
            "",
            "fb",
            "fb.1.2",
            "fb.1.2.",
            "fc.1.2.3",
            "fb.x.2.3",
            "fb.1.-2.3",
            "fb.1.2.3.short",
            "fb.1.2.3.AQQCAQIB.4",
            "fb.1.2.a;b",
            "fb.1.2.a b",
            "fb.1.2.jane@shop",
            "fb.1.2.ü",
            "fb..2.3",
            "fb.1.2.3\r\nSet-Cookie: x",
        ];
        for bad in bad {
            assert_eq!(parse(bad), None, "{bad}");
        }
        assert_eq!(parse(&format!("fb.1.2.{}", "a".repeat(VALUE_MAX))), None);
    }

    #[test]
    fn a_bare_click_id_is_wrapped_unmodified() {
        assert_eq!(wrap("IwAR0_AbC", NOW).unwrap(), "fb.1.1700000000000.IwAR0_AbC");
        assert_eq!(wrap("a.b", NOW).unwrap(), "fb.1.1700000000000.a__DOT__b");
        let dots = ".".repeat(100);
        for bad in ["", "a b", "a;b", "jane@shop", &"a".repeat(501), "fb.1.1700000000000", "fb.1.x.AbC", &dots] {
            assert_eq!(wrap(bad, NOW), None, "{bad}");
        }
    }

    #[test]
    fn the_cookie_stays_while_the_click_is_the_same() {
        let kept = "fb.1.1600000000000.click1.AQQCAQIB";
        assert_eq!(renew("click1", Some(kept), NOW).unwrap(), kept);
        assert_eq!(renew("click2", Some(kept), NOW).unwrap(), "fb.1.1700000000000.click2");
        assert_eq!(renew("fb.1.5.other", Some(kept), NOW).unwrap(), "fb.1.5.other");
        assert_eq!(renew("click1", Some("garbage"), NOW).unwrap(), "fb.1.1700000000000.click1");
        assert_eq!(renew("", Some(kept), NOW), None);
    }

    #[test]
    fn a_url_gives_its_click_id() {
        assert_eq!(of_url("https://shop.example/?a=1&fbclid=AbC#x").unwrap(), "AbC");
        for none in
            ["https://shop.example/", "https://shop.example/?fbclid=", "?xfbclid=1", "https://shop.example/#?fbclid=a"]
        {
            assert_eq!(of_url(none), None, "{none}");
        }
    }

    #[test]
    fn a_minted_fbp_is_well_formed() {
        assert!(parse(&mint_fbp(NOW, u32::MAX)).is_some());
    }
}
