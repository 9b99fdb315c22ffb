//! E-mail addresses in what senders fill as they like: found in prose and in URLs, percent-encoded ones too, and cut.

use std::borrow::Cow;

use crate::event::{UserKey, normalise};

/// How often a text is percent-decoded to look into it: a URL within a parameter of a URL is encoded twice.
const DECODED_MAX: usize = 3;

/// Characters before an at-sign that are looked at (RFC 5321, 4.5.3.1.1).
const PERSON_MAX: usize = 64;

/// How at-signs end that are percent-encoded, once or oftener: `%40`, and the full-width and the small one.
const ENCODED_AT: &[&str] = &["40", "A0", "a0", "AB", "ab", "Ab", "aB"];

/// How images for fine displays are called: `logo@2x.png` is no address.
const IMAGES: &[&str] = &["avif", "gif", "jpeg", "jpg", "png", "svg", "webp"];

/// Whether an address is anywhere in a text.
pub(super) fn is_in(text: &str) -> bool {
    let mut text = Cow::Borrowed(text);
    for _ in 0..=DECODED_MAX {
        if !may_hold(&text) {
            return false;
        }
        if text.split(divides).any(is_address) {
            return true;
        }
        match decoded(&text) {
            Some(inner) => text = Cow::Owned(inner),
            None => return false,
        }
    }
    false
}

/// The text without the words that are addresses, or have one encoded in them, and how many those were; `None` if there
/// are none.
pub(super) fn cut(text: &str) -> Option<(String, usize)> {
    if !may_hold(text) {
        return None;
    }
    let (mut rest, mut gone) = (String::with_capacity(text.len()), 0);
    for piece in text.split_inclusive(divides) {
        let word = piece.trim_end_matches(divides);
        if is_in(word) {
            gone += 1;
            rest.extend(piece.strip_prefix(word));
        } else {
            rest.push_str(piece);
        }
    }
    (gone > 0).then_some((rest, gone))
}

/// Cuts out of a URL what stands before its host, and the segments of its path and the parameters that have an address in
/// them; a fragment with one goes as a whole, and so does a URL without a host. Gives how many parts went.
pub(super) fn cut_from_url(slot: &mut Option<String>) -> usize {
    let Some(url) = slot.as_deref().filter(|url| may_hold(url)) else { return 0 };
    let (head, fragment) = url.split_at(url.find('#').unwrap_or(url.len()));
    let (page, query) = head.split_at(head.find('?').unwrap_or(head.len()));
    let authority = authority_at(page);
    let (scheme, rest) = page.split_at(authority);
    let (named, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    let host = if scheme.is_empty() { named } else { named.rsplit('@').next().unwrap_or_default() };
    let mut gone = usize::from(host != named);
    let without = |parts: &str, divider: char, gone: &mut usize| {
        let stay = parts.split(divider).filter(|part| !is_in(part)).collect::<Vec<_>>();
        *gone += parts.split(divider).count() - stay.len();
        stay.join(divider.encode_utf8(&mut [0; 4]))
    };
    let path = without(path, '/', &mut gone);
    let query = query.strip_prefix('?').map(|query| without(query, '&', &mut gone)).filter(|query| !query.is_empty());
    let fragment = if is_in(fragment) { None } else { Some(fragment) };
    gone += usize::from(fragment.is_none());
    let query = query.map(|query| format!("?{query}")).unwrap_or_default();
    let cleaned = format!("{scheme}{host}{path}{query}{}", fragment.unwrap_or_default());
    if is_in(host) || cleaned.is_empty() {
        *slot = None;
        return gone.max(1);
    }
    if gone > 0 {
        *slot = Some(cleaned);
    }
    gone
}

/// Where the authority of a URL begins (RFC 3986, 3); 0 for one without.
fn authority_at(page: &str) -> usize {
    let is_scheme = |scheme: &str| {
        scheme.starts_with(|c: char| c.is_ascii_alphabetic())
            && scheme.chars().all(|c| c.is_ascii_alphanumeric() || "+-.".contains(c))
    };
    match page.split_once("://") {
        Some((scheme, _)) if is_scheme(scheme) => scheme.len() + 3,
        _ if page.starts_with("//") => 2,
        _ => 0,
    }
}

/// Most texts are done with after this: there is an at-sign, or an encoded one.
fn may_hold(text: &str) -> bool {
    text.contains(is_at) || (text.contains('%') && ENCODED_AT.iter().any(|at| text.contains(at)))
}

/// What stands between words, in prose, lists and URLs.
fn divides(c: char) -> bool {
    c.is_whitespace() || c.is_control() || "<>()[]{}\",;:\\/?&#=|".contains(c)
}

/// The usual one, the full-width one and the small one.
fn is_at(c: char) -> bool {
    matches!(c, '@' | '\u{ff20}' | '\u{fe6b}')
}

/// Whether there is an address around an at-sign of a word, whatever else the word has before and after it.
fn is_address(word: &str) -> bool {
    word.match_indices(is_at).any(|(at, sign)| {
        let (before, after) = (word.get(..at).unwrap_or_default(), word.get(at + sign.len()..).unwrap_or_default());
        let end = after.find(|c: char| !c.is_alphanumeric() && !".-".contains(c)).unwrap_or(after.len());
        let domain = after.get(..end).unwrap_or_default().trim_end_matches(['.', '-']);
        let of_person = |c: char| c.is_alphanumeric() || ".-_+".contains(c);
        let begin = before.char_indices().rev().take(PERSON_MAX).take_while(|(_, c)| of_person(*c)).last();
        let person = begin.and_then(|(begin, _)| before.get(begin..)).unwrap_or_default();
        is_whole_address(person.trim_start_matches('.'), domain)
    })
}

/// Stricter than what is hashed under `em`: no `sku@2.0`.
fn is_whole_address(person: &str, domain: &str) -> bool {
    let (name, top) = domain.rsplit_once('.').unwrap_or_default();
    let is_image = IMAGES.contains(&top) && name.ends_with('x') && name.starts_with(|c: char| c.is_ascii_digit());
    !is_image
        && top.starts_with(char::is_alphabetic)
        && normalise::normalise(UserKey::Email, &format!("{person}@{domain}")).is_some()
}

/// Percent-decodes a text; `None` if nothing in it is encoded.
fn decoded(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut pieces = text.split('%');
    bytes.extend(pieces.next().unwrap_or_default().bytes());
    let mut changed = false;
    for piece in pieces {
        match piece.get(..2).and_then(|digits| hex::decode(digits).ok()) {
            Some(byte) => {
                changed = true;
                bytes.extend(byte);
                bytes.extend(piece.bytes().skip(2));
            }
            None => {
                bytes.push(b'%');
                bytes.extend(piece.bytes());
            }
        }
    }
    changed.then(|| String::from_utf8_lossy(&bytes).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn url(url: &str) -> (Option<String>, usize) {
        let mut slot = Some(url.to_owned());
        let gone = cut_from_url(&mut slot);
        (slot, gone)
    }

    #[test]
    fn addresses_leave_every_part_of_a_url() {
        for (given, expected) in [
            ("https://a.example/b?x=1&email=jane%40x.de&y=2#top", "https://a.example/b?x=1&y=2#top"),
            ("https://a.example/b?e=Jane.Doe@X.de", "https://a.example/b"),
            ("https://a.example/b?e=jane+shop%40x.de", "https://a.example/b"),
            ("https://a.example/b?jane@x.de=1&y", "https://a.example/b?y"),
            ("https://a.example/b?back=%2Fc%3Fe%3Djane%2540x.de&y", "https://a.example/b?y"),
            ("https://a.example/user/jane@x.de/orders?x=1", "https://a.example/user/orders?x=1"),
            ("https://a.example/user/jane%40x.de", "https://a.example/user"),
            ("https://a.example/user/id=7;mail=jane%40x.de/b", "https://a.example/user/b"),
            ("https://a.example/b?y=1#jane@x.de", "https://a.example/b?y=1"),
            ("https://a.example/#/user/jane%40x.de", "https://a.example/"),
            ("https://a.example/b?q=jane%40x.de+order&y", "https://a.example/b?y"),
            ("https://a.example/b?q=a,jane@x.de!x&y", "https://a.example/b?y"),
            ("https://a.example/b?q=jane%EF%BC%A0x.de&y", "https://a.example/b?y"),
            ("/u/jane@x.de/https://a.example/b", "/u/https://a.example/b"),
            ("https://jane:secret@a.example/b", "https://a.example/b"),
            ("//jane@a.example/b", "//a.example/b"),
        ] {
            assert_eq!(url(given), (Some(expected.to_owned()), 1), "{given}");
        }
        let all = "https://j@x.de@a.example/j@x.de?j@x.de&j@x.de#j@x.de";
        assert_eq!(url(all), (Some("https://a.example".to_owned()), 5));
    }

    #[test]
    fn a_url_that_is_an_address_is_none() {
        for given in ["jane@x.de", "jane%40x.de", "mailto:jane@x.de?subject=x", "?jane@x.de", "x jane@x.de"] {
            assert_eq!(url(given), (None, 1), "{given}");
        }
    }

    #[test]
    fn a_url_without_an_address_stays_as_it_is() {
        for same in [
            "https://a.example/@jane?x=1",
            "https://a.example/?handle=@jane&sku=a@2.0",
            "https://a.example/lodash@4.17.21/logo@2x.png",
            "https://a.example/maps/@52.5,13.4,15z?d=40%25&",
            "https://a.example/?x=1#",
            "",
        ] {
            assert_eq!(url(same), (Some(same.to_owned()), 0));
        }
    }

    #[test]
    fn addresses_are_cut_out_of_prose() {
        for (given, expected) in [
            ("sent to jane@x.de.", "sent to "),
            ("Jane <Jane.Doe@X.de>, 'joe@x.de'", "Jane <>, "),
            ("https://a.example/?e=jane%40x.de&x=1", "https://a.example/?e=&x=1"),
            ("jane\u{ff20}x.de", ""),
            ("Jane%20%3Cjane%40x.de%3E called", " called"),
        ] {
            assert_eq!(cut(given).map(|(rest, _)| rest).as_deref(), Some(expected), "{given}");
        }
        for same in ["by @x.de", "sku@2.0", "40 %", "100%40", "a@b", "x@2x.webp", "%zz%4", "50%\u{e9}40"] {
            assert_eq!(cut(same), None, "{same}");
        }
    }
}
