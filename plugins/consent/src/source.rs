//! Where a visitor's answer is, and how it is written there.

use pixelgate_filter::Scalar;
use serde::Deserialize;

use crate::Answer;

/// Texts that mean yes in a plain flag, whatever their case.
const YES: [&str; 7] = ["1", "true", "yes", "granted", "grant", "accepted", "allow"];

/// What a visitor may agree to, in Cookiebot's words; OneTrust's groups beside them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Purpose {
    /// OneTrust `C0003`, "functional".
    Preferences,
    /// OneTrust `C0002`, "performance".
    Statistics,
    /// OneTrust `C0004`, "targeting".
    Marketing,
}

/// One place where the answer may be.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Source {
    /// The cookie or key, as in the account's `[privacy] consent_sources`.
    pub(crate) signal: String,
    /// How the answer is written there.
    pub(crate) format: Format,
    /// For `onetrust`: the group, where the account has others than OneTrust's own.
    group: Option<String>,
    /// For `flag`: the texts that mean yes, where the usual ones don't fit.
    granted: Option<Vec<String>>,
}

/// How an answer is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Format {
    /// A word that means yes, or any other that means no.
    Flag,
    /// OneTrust's `OptanonConsent`: `…&groups=C0001:1,C0004:0&…`, percent-encoded or not.
    Onetrust,
    /// Cookiebot's `CookieConsent`: `{stamp:'…',necessary:true,marketing:false,…}`, percent-encoded or not, or `-1` where
    /// the visitor is in a region that needs no consent.
    Cookiebot,
}

// === impl Source ===

impl Source {
    /// What is looked at where the settings name nothing: the cookies of the two consent tools met most.
    pub(crate) fn usual() -> Vec<Self> {
        let source = |signal: &str, format| Self { signal: signal.to_owned(), format, group: None, granted: None };
        vec![source("OptanonConsent", Format::Onetrust), source("CookieConsent", Format::Cookiebot)]
    }

    /// Refuses a key that has no meaning for the format.
    pub(crate) fn check(&self) -> Result<(), String> {
        let misplaced = match self.format {
            Format::Onetrust => self.granted.as_ref().map(|_| "granted"),
            Format::Flag => self.group.as_ref().map(|_| "group"),
            Format::Cookiebot => self.group.as_ref().map(|_| "group").or(self.granted.as_ref().map(|_| "granted")),
        };
        match misplaced {
            Some(key) => Err(format!("sources: {key} has no meaning for the format of \"{}\"", self.signal)),
            None => Ok(()),
        }
    }

    /// What the visitor said about a purpose. What cannot be read is no consent.
    pub(crate) fn read(&self, value: &Scalar, purpose: Purpose) -> Answer {
        let granted = match (self.format, value) {
            (Format::Flag, Scalar::Boolean(granted)) => *granted,
            (Format::Flag, Scalar::Number(number)) => self.means_yes(&number.to_string()),
            (Format::Flag, Scalar::Text(text)) => self.means_yes(text.trim()),
            (Format::Onetrust, Scalar::Text(text)) => {
                onetrust_grants(text, self.group.as_deref().unwrap_or(purpose.onetrust_group()))
            }
            (Format::Cookiebot, Scalar::Number(number)) => *number == -1.0,
            (Format::Cookiebot, Scalar::Text(text)) => cookiebot_grants(text, purpose.cookiebot_key()),
            _ => false,
        };
        if granted { Answer::Granted } else { Answer::Denied }
    }

    fn means_yes(&self, text: &str) -> bool {
        match &self.granted {
            Some(granted) => granted.iter().any(|word| word.eq_ignore_ascii_case(text)),
            None => YES.iter().any(|word| word.eq_ignore_ascii_case(text)),
        }
    }
}

// === impl Purpose ===

impl Purpose {
    fn onetrust_group(self) -> &'static str {
        match self {
            Self::Preferences => "C0003",
            Self::Statistics => "C0002",
            Self::Marketing => "C0004",
        }
    }

    fn cookiebot_key(self) -> &'static str {
        match self {
            Self::Preferences => "preferences",
            Self::Statistics => "statistics",
            Self::Marketing => "marketing",
        }
    }
}

fn onetrust_grants(cookie: &str, group: &str) -> bool {
    let Some(groups) = cookie.split('&').find_map(|pair| pair.strip_prefix("groups=")) else { return false };
    percent_decode(groups).split(',').any(|entry| entry.split_once(':') == Some((group, "1")))
}

fn cookiebot_grants(cookie: &str, key: &str) -> bool {
    let decoded = percent_decode(cookie);
    let text = decoded.trim();
    let Some(object) = text.strip_prefix('{').and_then(|text| text.strip_suffix('}')) else { return text == "-1" };
    object.split(',').any(|entry| entry.trim().split_once(':') == Some((key, "true")))
}

/// `%2C` becomes `,`; whatever is no escape stays as it is.
fn percent_decode(text: &str) -> String {
    let mut decoded = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&byte, tail)) = rest.split_first() {
        let digits = tail.get(..2).and_then(|digits| std::str::from_utf8(digits).ok());
        let escaped = digits.filter(|_| byte == b'%').and_then(|digits| u8::from_str_radix(digits, 16).ok());
        decoded.push(escaped.unwrap_or(byte));
        rest = if escaped.is_some() { tail.get(2..).unwrap_or_default() } else { tail };
    }
    String::from_utf8_lossy(&decoded).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(format: Format) -> Source {
        Source { signal: "s".to_owned(), format, group: None, granted: None }
    }

    fn says(format: Format, value: impl Into<Scalar>) -> Answer {
        source(format).read(&value.into(), Purpose::Marketing)
    }

    #[test]
    fn onetrust_groups_are_read_encoded_or_not() {
        let encoded = "isGpcEnabled=0&datestamp=Mon+Nov+02&version=202409.1.0&groups=C0001%3A1%2CC0002%3A0%2CC0004%3A1&geolocation=DE%3BBE";
        assert_eq!(says(Format::Onetrust, encoded), Answer::Granted);
        assert_eq!(source(Format::Onetrust).read(&encoded.into(), Purpose::Statistics), Answer::Denied);
        assert_eq!(says(Format::Onetrust, "groups=C0001:1,C0004:0"), Answer::Denied);
        assert_eq!(says(Format::Onetrust, "groups=C0001:1,C00041:1"), Answer::Denied, "another group");
        assert_eq!(says(Format::Onetrust, "hosts=C0004:1"), Answer::Denied, "no groups");
    }

    #[test]
    fn an_account_may_have_groups_of_its_own() {
        let own = Source { group: Some("ADS".to_owned()), ..source(Format::Onetrust) };
        assert_eq!(own.read(&"groups=ADS%3A1".into(), Purpose::Marketing), Answer::Granted);
    }

    #[test]
    fn cookiebot_objects_are_read_encoded_or_not() {
        let yes = "{stamp:'x1==',necessary:true,preferences:false,statistics:false,marketing:true,method:'explicit',ver:1,utc:1700000000000,region:'de'}";
        let encoded =
            "{stamp:%27x1==%27%2Cnecessary:true%2Cpreferences:false%2Cstatistics:true%2Cmarketing:false%2Cver:1}";
        assert_eq!(says(Format::Cookiebot, yes), Answer::Granted);
        assert_eq!(says(Format::Cookiebot, encoded), Answer::Denied);
        assert_eq!(source(Format::Cookiebot).read(&encoded.into(), Purpose::Statistics), Answer::Granted);
        assert_eq!(says(Format::Cookiebot, "-1"), Answer::Granted, "no consent needed there");
        assert_eq!(says(Format::Cookiebot, -1.0), Answer::Granted);
        assert_eq!(says(Format::Cookiebot, "0"), Answer::Denied);
    }

    #[test]
    fn flags_are_words_numbers_or_truth_values() {
        assert_eq!(says(Format::Flag, "Granted"), Answer::Granted);
        assert_eq!(says(Format::Flag, true), Answer::Granted);
        assert_eq!(says(Format::Flag, 1.0), Answer::Granted);
        assert_eq!(says(Format::Flag, ""), Answer::Denied);
        assert_eq!(says(Format::Flag, "necessary"), Answer::Denied);
        let own = Source { granted: Some(vec!["all".to_owned()]), ..source(Format::Flag) };
        assert_eq!(own.read(&"ALL".into(), Purpose::Marketing), Answer::Granted);
        assert_eq!(own.read(&"yes".into(), Purpose::Marketing), Answer::Denied);
    }

    #[test]
    fn what_cannot_be_read_is_no_consent() {
        for garbage in ["", "%", "%2", "%zz", "groups=%ff%fe", "{", "{marketing:true", "true", "marketing:true"] {
            assert_eq!(says(Format::Onetrust, garbage), Answer::Denied, "{garbage}");
            assert_eq!(says(Format::Cookiebot, garbage), Answer::Denied, "{garbage}");
        }
        assert_eq!(says(Format::Cookiebot, Scalar::Json("{\"marketing\":true}".to_owned())), Answer::Denied);
    }
}
