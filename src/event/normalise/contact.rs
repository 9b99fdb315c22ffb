//! E-mail addresses and telephone numbers.

use super::digit;

/// The longest address that mail can be sent to (RFC 5321, 4.5.3.1).
const EMAIL_MAX: usize = 320;

/// Digits of a telephone number (ITU-T E.164 has no more than 15).
const PHONE_DIGITS: std::ops::RangeInclusive<usize> = 7..=15;

/// Whether a folded text is an e-mail address. It is hashed as it is: no mailbox rule of any provider (dots, `+`) is
/// applied, because Meta applies none.
pub(super) fn is_email(text: &str) -> bool {
    let Some((local, domain)) = text.rsplit_once('@') else { return false };
    let in_local = |c: char| !c.is_control() && !"@<>()[]\",;:\\".contains(c);
    let in_label = |c: char| c.is_alphanumeric() || c == '-' || is_mark(c);
    let is_label = |label: &str| !label.is_empty() && label.chars().all(in_label);
    text.len() <= EMAIL_MAX
        && !local.is_empty()
        && local.chars().all(in_local)
        && domain.contains('.')
        && domain.split('.').all(is_label)
}

/// The digits of a telephone number with its country code. A national number (one leading zero) is dropped: without
/// the country it would match somebody else.
pub(super) fn phone(text: &str) -> Option<String> {
    let mut digits = String::with_capacity(16);
    let mut rest = text;
    while let Some(c) = rest.chars().next() {
        // "+33 (0)6": the zero is only dialled inside the country.
        if let Some(after) = rest.strip_prefix("(0)").filter(|_| !digits.is_empty()) {
            rest = after;
            continue;
        }
        match digit(c) {
            Some(digit) => digits.push(digit),
            None if c == '@' => return None,
            // An extension, or a remark.
            None if digits.len() >= *PHONE_DIGITS.start() && (c.is_alphabetic() || "#;,".contains(c)) => break,
            None => {}
        }
        rest = rest.get(c.len_utf8()..).unwrap_or_default();
    }
    let number = digits.trim_start_matches('0');
    let is_national = digits.len() - number.len() == 1;
    (!is_national && PHONE_DIGITS.contains(&number.len())).then(|| number.to_owned())
}

/// Vowel signs and accents that stand as characters of their own, as in Hindi and Thai names.
fn is_mark(c: char) -> bool {
    unicode_normalization::char::is_combining_mark(c)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_told_from_other_text() {
        for good in ["a@b.c", "o'neil@shop.example", "a+b.c@sub.shop.example", "अ@उदाहरण.भारत"] {
            assert!(is_email(good), "{good}");
        }
        let long = format!("{}@b.c", "a".repeat(EMAIL_MAX));
        for bad in
            ["", "@", "@b.c", "a@", "a@.c", "a@b.", "a@b..c", "a@b c.d", "a@b@c.d", "<a@b.c>", "a@b.c, d@e.f", &long]
        {
            assert!(!is_email(bad), "{bad}");
        }
    }

    #[test]
    fn extensions_and_remarks_are_cut() {
        for text in
            ["+1 650 555 1212 x9", "+1 650 555 1212#9", "+1 650 555 1212;ext=9", "tel: +1-650-555-1212 (mobile)"]
        {
            assert_eq!(phone(text).as_deref(), Some("16505551212"), "{text}");
        }
    }

    #[test]
    fn numbers_that_reach_nobody_are_dropped() {
        let bad =
            ["", "+", "1-800-flowers", "+0650 123 45 67", "(0)650 123 45 67", "011 44 844 412 4653", "12345678@qq.com"];
        for bad in bad {
            assert_eq!(phone(bad), None, "{bad}");
        }
    }
}
