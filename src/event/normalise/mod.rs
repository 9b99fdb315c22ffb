//! How a value is written before it is hashed: Meta's "Customer Information Parameters", where its own clients agree,
//! and the form most likely to match where they do not.
//!
//! One function per key, each from a text that [`fold`] has prepared to the text that is hashed, or `None` if it says
//! nothing that could match: [`contact`] e-mail and telephone, [`person`] names, gender, birth, [`place`] the address.

mod contact;
mod countries;
mod person;
mod place;

use std::borrow::Cow;

use unicode_normalization::UnicodeNormalization;

use super::UserKey;

/// The text that is hashed for a key, or `None` if `raw` is no value of it.
pub(super) fn normalise(key: UserKey, raw: &str) -> Option<Cow<'_, str>> {
    let text = fold(raw);
    Some(Cow::Owned(match key {
        UserKey::Email => return contact::is_email(&text).then_some(text),
        UserKey::Phone => contact::phone(&text)?,
        UserKey::FirstName | UserKey::LastName => person::name(&text)?,
        UserKey::FirstNameStart | UserKey::LastNameStart => person::name_start(&text, 5)?,
        UserKey::Initial => person::name_start(&text, 1)?,
        UserKey::Gender => return person::gender(&text).map(Cow::Borrowed),
        UserKey::DateOfBirth => person::date_of_birth(&text)?,
        UserKey::BirthDay => person::birth_part(&text, 1..=31, 2)?,
        UserKey::BirthMonth => person::birth_part(&text, 1..=12, 2)?,
        UserKey::BirthYear => person::birth_part(&text, person::YEARS, 4)?,
        UserKey::City => place::city(&text)?,
        UserKey::State => place::state(&text)?,
        UserKey::Zip => place::zip(&text)?,
        UserKey::Country => return place::country(&text).map(Cow::Borrowed),
        // Ids of the sender's own: nothing but case and blanks around them could differ.
        UserKey::AppUserId | UserKey::ExternalId => return Some(text),
    }))
}

/// Without the blanks around it, in Unicode's composed form (NFC), in lower case: what every rule begins with. Composed
/// first, because the same name in the other form hashes differently.
pub(super) fn fold(raw: &str) -> Cow<'_, str> {
    let text = trim(raw);
    match text.is_ascii() {
        true if !text.bytes().any(|b| b.is_ascii_uppercase()) => Cow::Borrowed(text),
        true => Cow::Owned(text.to_ascii_lowercase()),
        false => Cow::Owned(text.nfc().collect::<String>().to_lowercase()),
    }
}

/// Without the blanks around it, and without the byte order mark that spreadsheets export.
pub(super) fn trim(raw: &str) -> &str {
    raw.trim_matches(|c: char| c.is_whitespace() || c == '\u{feff}')
}

/// A decimal digit of any script as one of 0 to 9.
fn digit(c: char) -> Option<char> {
    if c.is_ascii() {
        return c.is_ascii_digit().then_some(c);
    }
    // The zeros of the scripts whose digits people type (Unicode, general category Nd); nine more follow each.
    const ZEROS: [char; 19] = [
        '\u{660}', '\u{6f0}', '\u{7c0}', '\u{966}', '\u{9e6}', '\u{a66}', '\u{ae6}', '\u{b66}', '\u{be6}', '\u{c66}',
        '\u{ce6}', '\u{d66}', '\u{e50}', '\u{ed0}', '\u{f20}', '\u{1040}', '\u{17e0}', '\u{1810}', '\u{ff10}',
    ];
    let zero = ZEROS.iter().rev().find(|zero| **zero <= c)?;
    char::from_digit(u32::from(c) - u32::from(*zero), 10)
}

fn non_empty(text: String) -> Option<String> {
    (!text.is_empty()).then_some(text)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::event::hash::Digest;
    use crate::event::{UserData, UserKey};

    /// What is hashed for the key of this name, if anything is.
    fn normalised(name: &str, raw: &str) -> Option<String> {
        normalise(UserKey::from_name(name).unwrap(), raw).map(Cow::into_owned)
    }

    fn digests(name: &str, raw: &str) -> Vec<String> {
        let mut user = UserData::default();
        user.add_text(UserKey::from_name(name).unwrap(), raw);
        user.digests().flat_map(|(_, digests)| digests).map(|digest| digest.to_string()).collect()
    }

    /// A line each: key, as written, as hashed, SHA-256. Computed with Meta's Python SDK and parameter builder; here are
    /// those whose result is also ours.
    const VECTORS: &str = include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/decode/normalise.jsonl"));

    #[test]
    fn the_vectors_of_metas_own_code_hold() {
        for line in VECTORS.lines() {
            let [key, raw, text, hash]: [String; 4] = serde_json::from_str(line).unwrap();
            assert_eq!(normalised(&key, &raw).as_ref(), Some(&text), "{line}");
            assert_eq!(Digest::of(&text).to_string(), hash, "{line}");
            assert_eq!(digests(&key, &raw), [hash], "{line}");
        }
    }

    #[test]
    fn where_metas_own_code_disagrees_ours_is_the_likelier_match() {
        let ours = [
            ("ph", "٠٠٩٧١٥٠١٢٣٤٥٦٧", "971501234567"),
            ("ct", "L'Aquila", "laquila"),
            ("country", "uk", "gb"),
            ("country", "AUT", "at"),
        ];
        for (key, raw, text) in ours {
            assert_eq!(normalised(key, raw).as_deref(), Some(text), "{key} {raw}");
        }
    }

    #[test]
    fn what_says_nothing_is_dropped() {
        let bad = [
            ("em", "not-an-email"),
            ("em", "a@b"),
            ("em", "5D41402ABC4B2A76B9719D911017C592"),
            ("ph", "123456"),
            ("ph", "0650 123 45 67"),
            ("ph", "12345678901234567890"),
            ("ge", "x"),
            ("db", "2/3/97"),
            ("db", "99999999"),
            ("zp", "1"),
            ("country", "東京"),
            ("country", "us/ca"),
            ("dobm", "13"),
            ("doby", "97"),
            ("fn", "'-'"),
        ];
        for (key, raw) in bad {
            assert!(digests(key, raw).is_empty(), "{key} {raw}");
        }
    }

    #[test]
    fn digits_of_every_script_are_read() {
        assert_eq!("٣९９7".chars().map(digit).collect::<Option<String>>().unwrap(), "3997");
        assert!("a½²Ⅷ\u{66a}".chars().all(|c| digit(c).is_none()));
    }
}
