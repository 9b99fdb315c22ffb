//! One value of a key that identifies a person, as it may be kept.

use std::fmt;

use serde::{Serialize, Serializer};

use super::UserKey;
use crate::event::hash::Digest;
use crate::event::{normalise, plain};

/// A value, hashed but for one case.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Identifier {
    /// The SHA-256 of the normalised value.
    Digest(Digest),
    /// A digest with the mark of Meta's parameter builder behind it, which is passed on untouched.
    Marked(Digest, Box<str>),
    /// Only an [`UserKey::ExternalId`] that is neither e-mail address nor telephone number.
    Plain(String),
}

// === impl Identifier ===

impl Identifier {
    /// What becomes of a value; `raw` is trimmed and not empty.
    pub(super) fn of(key: UserKey, raw: &str) -> Option<Self> {
        if let Some(digest) = Digest::from_hex(raw) {
            return Some(Self::Digest(digest));
        }
        if let Some((hash, appendix)) = raw.split_once('.')
            && plain::is_appendix(appendix)
            && let Some(digest) = Digest::from_hex(hash)
        {
            return Some(Self::Marked(digest, appendix.into()));
        }
        if key == UserKey::ExternalId {
            return Self::of_external_id(raw);
        }
        // An MD5 is no SHA-256, and hashing it again would match nobody.
        let is_md5 = raw.len() == 32 && raw.bytes().all(|b| b.is_ascii_hexdigit());
        if is_md5 {
            return None;
        }
        normalise::normalise(key, raw).map(|text| Self::Digest(Digest::of(&text)))
    }

    /// The sender's own id must equal what the page's pixel sends, so it stays as it is; but what identifies a person
    /// to everybody is hashed, in the form of Meta's parameter builder.
    fn of_external_id(raw: &str) -> Option<Self> {
        if raw.contains('@') || plain::looks_like_phone(raw) {
            let text: String = normalise::fold(raw).chars().filter(|c| !c.is_whitespace()).collect();
            return Some(Self::Digest(Digest::of(&text)));
        }
        plain::is_sendable(raw).then(|| Self::Plain(raw.to_owned()))
    }

    /// Its digest, if it is not plain.
    pub(super) fn digest(&self) -> Option<Digest> {
        match self {
            Self::Digest(digest) | Self::Marked(digest, _) => Some(*digest),
            Self::Plain(_) => None,
        }
    }
}

impl fmt::Display for Identifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Digest(digest) => write!(f, "{digest}"),
            Self::Marked(digest, appendix) => write!(f, "{digest}.{appendix}"),
            Self::Plain(text) => f.write_str(text),
        }
    }
}

impl Serialize for Identifier {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Digest(digest) => digest.serialize(serializer),
            Self::Plain(text) => serializer.serialize_str(text),
            Self::Marked(..) => serializer.collect_str(self),
        }
    }
}
