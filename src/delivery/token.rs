//! Tokens that Meta refuses: what a person is to do, and how a lane knows that it was done, by what its pause remembers of
//! the old token.

use std::fmt;

use sha2::{Digest, Sha256};

use crate::account::AccessToken;

/// What is remembered of a token: the first 8 bytes of its SHA-256, or that there was none. Nothing can be learned from
/// it about a token, which has far more than 64 bits of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Fingerprint(Option<u64>);

/// What helps a lane without a good token. `source` is [`access_token_source`](crate::config::PixelConfig).
pub(crate) fn remedy(source: &str) -> String {
    let act = if source.starts_with("file ") { "reload" } else { "restart the gateway" };
    format!("put a good one into {source} and {act}")
}

// === impl Fingerprint ===

impl Fingerprint {
    /// Of a token, or of its absence.
    pub(crate) fn of(token: Option<&AccessToken>) -> Self {
        let first_bytes = |token: &AccessToken| {
            let digest = Sha256::digest(token.reveal().as_bytes());
            digest.iter().take(8).fold(0, |number, byte| number << 8 | u64::from(*byte))
        };
        Self(token.map(first_bytes))
    }

    /// A pause's reason that remembers the token.
    pub(crate) fn sign(self, reason: &str) -> String {
        format!("{reason} [{self}]")
    }

    /// What [`Fingerprint::sign`] put at the end of a reason.
    pub(crate) fn signed(reason: &str) -> Option<Self> {
        let (_, signature) = reason.strip_suffix(']')?.rsplit_once('[')?;
        match signature.strip_prefix("token ")? {
            "none" => Some(Self(None)),
            hex if hex.len() == 16 => u64::from_str_radix(hex, 16).ok().map(|number| Self(Some(number))),
            _ => None,
        }
    }
}

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(number) => write!(f, "token {number:016x}"),
            None => f.write_str("token none"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_process_was_started_with_needs_a_restart() {
        assert_eq!(remedy("file /etc/token"), "put a good one into file /etc/token and reload");
        for source in ["environment variable TOKEN", "credential token"] {
            assert!(remedy(source).ends_with("and restart the gateway"), "{source}");
        }
    }

    #[test]
    fn a_fingerprint_tells_tokens_apart_and_survives_being_written() {
        let (one, other) = (AccessToken::new("EAA1"), AccessToken::new("EAA2"));
        let (one, other, none) = (Fingerprint::of(Some(&one)), Fingerprint::of(Some(&other)), Fingerprint::of(None));
        assert!(one != other && one != none);
        for fingerprint in [one, other, none] {
            assert_eq!(Fingerprint::signed(&fingerprint.sign("code 190 [x]")), Some(fingerprint));
        }
        assert_eq!(Fingerprint::of(Some(&AccessToken::new("abc"))).sign("why"), "why [token ba7816bf8f01cfea]");
        for unsigned in ["", "by hand", "[ba7816bf8f01cfea]", "[token +a7816bf8f01cfea]x"] {
            assert_eq!(Fingerprint::signed(unsigned), None, "{unsigned}");
        }
    }
}
