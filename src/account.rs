//! The checked strings that everything else is built on: who an account is, which pixel, which name, which secret.
//!
//! Each type has only doors that check, so a value of it is right wherever it is met.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// An account's id, the stem of its file: `[a-z0-9][a-z0-9-]{0,62}`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AccountId(Arc<str>);

/// The id of a Meta pixel (data set): a positive decimal number of at most 64 bits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PixelId(u64);

/// A DNS name as TLS and HTTP compare it: lower case, A-labels, no trailing dot, at most 253 bytes.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ServerName(Arc<str>);

/// A value that is never shown: it prints as `***`, and comparing two takes the same time wherever they differ.
#[derive(Clone)]
pub struct Secret(Arc<str>);

/// The token that lets a lane send to its pixel's Conversions API.
pub type AccessToken = Secret;

/// A named secret with which an account's own server may send events.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IngestKey {
    /// What the account calls it; shown in logs.
    pub name: String,
    /// What the server sends as `access_token`.
    pub secret: Secret,
}

/// One pixel's queue: the account that sends and the pixel it sends to.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct LaneKey {
    /// Whose events these are.
    pub account: AccountId,
    /// Where they go.
    pub pixel: PixelId,
}

/// Why a text is no account id, pixel id or server name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// Not `[a-z0-9][a-z0-9-]{0,62}`.
    #[error("an account id is 1 to 63 of a-z, 0-9 and -, and does not begin with -")]
    AccountId,
    /// Not a positive decimal 64-bit number.
    #[error("a pixel id is a positive whole number of at most 20 digits, without leading zeros")]
    PixelId,
    /// Not a DNS name that a certificate could be issued for.
    #[error(
        "a domain is a DNS name such as events.shop.example: letters, digits and -, at most 253 bytes, at least two labels"
    )]
    ServerName,
}

// === impl AccountId ===

impl AccountId {
    /// The id as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for AccountId {
    type Err = Malformed;

    fn from_str(text: &str) -> Result<Self, Malformed> {
        let allowed = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
        if text.is_empty() || text.len() > 63 || text.starts_with('-') || !text.bytes().all(allowed) {
            return Err(Malformed::AccountId);
        }
        Ok(Self(text.into()))
    }
}

// === impl PixelId ===

impl PixelId {
    /// The id as a number.
    pub fn as_u64(self) -> u64 {
        self.0
    }
}

impl FromStr for PixelId {
    type Err = Malformed;

    fn from_str(text: &str) -> Result<Self, Malformed> {
        if text.starts_with('0') || !text.bytes().all(|b| b.is_ascii_digit()) {
            return Err(Malformed::PixelId);
        }
        text.parse().map(Self).map_err(|_| Malformed::PixelId)
    }
}

// === impl ServerName ===

impl ServerName {
    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for ServerName {
    type Err = Malformed;

    fn from_str(text: &str) -> Result<Self, Malformed> {
        let name =
            idna::domain_to_ascii_strict(text.strip_suffix('.').unwrap_or(text)).map_err(|_| Malformed::ServerName)?;
        let numeric_tld = name.rsplit('.').next().is_some_and(|tld| tld.bytes().all(|b| b.is_ascii_digit()));
        if name.len() > 253 || !name.contains('.') || numeric_tld || name.split('.').any(str::is_empty) {
            return Err(Malformed::ServerName);
        }
        Ok(Self(name.into()))
    }
}

impl std::borrow::Borrow<str> for ServerName {
    fn borrow(&self) -> &str {
        &self.0
    }
}

// === impl Secret ===

impl Secret {
    /// Takes a text as a secret.
    pub fn new(text: impl Into<Arc<str>>) -> Self {
        Self(text.into())
    }

    /// The text itself, for the one place that sends or compares it.
    pub fn reveal(&self) -> &str {
        &self.0
    }

    /// Whether `other` is the same text, in a time that depends on the lengths only.
    pub fn matches(&self, other: &str) -> bool {
        let (ours, theirs) = (self.0.as_bytes(), other.as_bytes());
        let differing = ours.iter().zip(theirs).fold(0u8, |acc, (a, b)| acc | (a ^ b));
        ours.len() == theirs.len() && std::hint::black_box(differing) == 0
    }
}

impl PartialEq for Secret {
    fn eq(&self, other: &Self) -> bool {
        self.matches(&other.0)
    }
}

impl Eq for Secret {}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

impl fmt::Display for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

// === impl LaneKey ===

impl fmt::Display for LaneKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.account, self.pixel)
    }
}

/// Text in, text out, for the ids: display, debug and serde all through the same two doors.
macro_rules! as_text {
    ($($type:ty),*) => {$(
        impl fmt::Display for $type {
            /// With the width that columns have.
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(&self.0, f)
            }
        }

        impl fmt::Debug for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}", self.0)
            }
        }

        impl Serialize for $type {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(&self.0)
            }
        }

        impl<'de> Deserialize<'de> for $type {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = std::borrow::Cow::<str>::deserialize(deserializer)?;
                text.parse().map_err(serde::de::Error::custom)
            }
        }
    )*};
}

as_text!(AccountId, PixelId, ServerName);

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn account_ids_are_file_stems() {
        assert!("shoes-2".parse::<AccountId>().is_ok());
        for bad in ["", "-a", "Shoes", "a_b", "a/b", "..", &"a".repeat(64)] {
            assert_eq!(bad.parse::<AccountId>(), Err(Malformed::AccountId), "{bad}");
        }
    }

    #[test]
    fn pixel_ids_are_64_bit_numbers() {
        assert_eq!("18446744073709551615".parse::<PixelId>().unwrap().as_u64(), u64::MAX);
        for bad in ["", "0", "007", "-1", "+1", "1.0", "18446744073709551616", "12a"] {
            assert_eq!(bad.parse::<PixelId>(), Err(Malformed::PixelId), "{bad}");
        }
    }

    #[test]
    fn server_names_are_compared_in_one_form() {
        assert_eq!("Events.Shop.Example.".parse::<ServerName>().unwrap().as_str(), "events.shop.example");
        assert_eq!("bücher.example".parse::<ServerName>().unwrap().as_str(), "xn--bcher-kva.example");
        let long = format!("{}.example", ["a"; 130].join("."));
        for bad in ["", ".", "localhost", "a..b", "127.0.0.1", "*.shop.example", "a b.example", &long] {
            assert_eq!(bad.parse::<ServerName>(), Err(Malformed::ServerName), "{bad}");
        }
    }

    #[test]
    fn secrets_do_not_print() {
        let key = IngestKey { name: "shop".into(), secret: Secret::new("s3cret") };
        assert!(!format!("{key:?} {}", key.secret).contains("s3cret"));
        assert!(key.secret.matches("s3cret") && !key.secret.matches("s3creT") && !key.secret.matches("s3"));
    }
}
