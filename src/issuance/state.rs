//! What is known of a name and kept over a restart, beside its certificates.

use std::time::Duration;

use crate::config::AcmeAccount;
use crate::issuance::budget::millis;
use crate::issuance::cause::is_of_look;

/// What is known of a name. One of which nothing is known is as the default says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct NameState {
    /// The CA account that issued its certificate last.
    pub(super) issued_by: Option<Box<str>>,
    /// The directory of the CA that did.
    pub(super) issued_in: Option<Box<str>>,
    /// When it did; 0 = never. Unix milliseconds.
    pub(super) issued_ms: i64,
    /// It did, but clients are not seen to be served with it.
    pub(super) unseen: bool,
    /// An order that was begun and has not ended.
    pub(super) order: Option<OpenOrder>,
    /// Failed orders since the last certificate.
    pub(super) failures: u32,
    /// No order before this time. Unix milliseconds.
    pub(super) not_before_ms: i64,
    /// Why the last order failed, or what was found in DNS before the one that is sent all the same.
    pub(super) error: Option<Box<str>>,
    /// What served the name then: the last second of its validity, Unix seconds; 0 = nothing. The error says nothing of a
    /// name that is served with something else since.
    pub(super) failed_of: i64,
    /// On what of the configuration the failure depended (`cause`).
    pub(super) failed_with: Option<Box<str>>,
    /// How the name was proved last.
    pub(super) proof: Option<Proof>,
    /// What the CA said of the renewal of the certificate.
    pub(super) renewal: Option<Renewal>,
    /// A person asked for a new certificate.
    pub(super) forced: bool,
    /// A visitor asked for the name.
    pub(super) asked: bool,
}

/// A certificate in the making.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct OpenOrder {
    /// The CA account, by its name.
    pub(super) account: Box<str>,
    /// The directory of its CA.
    pub(super) directory: Box<str>,
    /// The order there (RFC 8555, 7.1.3); empty = there is none open, and `part` is true.
    pub(super) url: Box<str>,
    /// A chain came and lies in the stage: all that was ordered, or that of the first of two keys.
    pub(super) part: bool,
    /// When the order was begun, or a chain came of it: a name issued since then is served with that. Unix milliseconds.
    pub(super) begun_ms: i64,
}

/// A way to prove that a name is ours (RFC 8555, 8.3, and RFC 8737).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Proof {
    Http01,
    TlsAlpn01,
}

/// What a CA said of the renewal of a certificate (RFC 9773).
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Renewal {
    /// Of which certificate: its last second of validity, Unix seconds.
    pub(super) of: i64,
    /// Whether it said anything; a CA may not offer it.
    pub(super) offered: bool,
    /// The moment in the CA's window that was drawn. Unix milliseconds.
    pub(super) at_ms: i64,
    /// The CA's window. Unix milliseconds.
    pub(super) window: (i64, i64),
    /// When to ask again. Unix milliseconds.
    pub(super) look_ms: i64,
}

// === impl NameState ===

impl NameState {
    /// A certificate was issued by this account. What else was known of the name is of the one before; `order` goes on,
    /// if there is one.
    pub(super) fn issued(&mut self, account: &AcmeAccount, order: Option<OpenOrder>, now_ms: i64) {
        *self = Self {
            issued_by: Some(account.name.as_str().into()),
            issued_in: Some(account.directory.as_str().into()),
            issued_ms: now_ms,
            proof: self.proof,
            order,
            ..Self::default()
        };
    }

    /// The order that was begun came to nothing. What came of another key is kept.
    pub(super) fn drop_order(&mut self) {
        self.order = self.order.take().filter(|order| order.part).map(|order| OpenOrder { url: "".into(), ..order });
    }

    /// The name is served with something else since the last order failed: it says nothing any more.
    pub(super) fn forgive(&mut self) {
        (self.error, self.failures, self.not_before_ms, self.failed_of) = (None, 0, 0, 0);
        self.failed_with = None;
    }

    /// What the last failure depended on is not so any more: the name is tried now. One that failed for its DNS stays among
    /// those whose DNS is asked for again, so that many that nobody uses any more keep no other waiting.
    pub(super) fn outlive(&mut self, now_ms: i64) {
        let again = self.failed_with.as_deref().is_some_and(is_of_look);
        self.forgive();
        if again {
            (self.failures, self.not_before_ms) = (1, now_ms);
        }
    }

    /// Whether the last try failed, and nobody asked for another since.
    pub(super) fn is_tried_again(&self) -> bool {
        self.failures > 0 && self.not_before_ms > 0
    }

    /// Until when nothing is ordered after a failure. A clock that went back must not lock a name out.
    pub(super) fn waits_until(&self, retry_max: Duration, now_ms: i64) -> i64 {
        believed(self.not_before_ms, millis(retry_max), now_ms)
    }

    /// Until when nothing is ordered after a certificate came, whatever asks for another.
    pub(super) fn rests_until(&self, reissue_min: Duration, now_ms: i64) -> i64 {
        if self.issued_ms == 0 {
            return 0;
        }
        believed(self.issued_ms.saturating_add(millis(reissue_min)), millis(reissue_min), now_ms)
    }

    /// An order failed; the next one waits, longer each time. `share`, from 0 to 1, spreads those that failed together.
    pub(super) fn failed(&mut self, error: &str, (min, max): (Duration, Duration), share: f64, now_ms: i64) {
        let wait = min.saturating_mul(2u32.saturating_pow(self.failures)).min(max);
        // Between four fifths and the whole of it.
        let wait = wait.mul_f64(1.0 - 0.2 * share.clamp(0.0, 1.0));
        self.failures = self.failures.saturating_add(1);
        self.not_before_ms = now_ms.saturating_add(millis(wait));
        self.error = Some(error.into());
    }
}

/// A time that can be at most so far away; one that is farther was written by another clock, and is past.
pub(super) fn believed(at_ms: i64, farthest_ms: i64, now_ms: i64) -> i64 {
    if at_ms > now_ms.saturating_add(farthest_ms) { 0 } else { at_ms }
}

// === impl Proof ===

impl Proof {
    /// The other one.
    pub(super) fn other(self) -> Self {
        match self {
            Self::Http01 => Self::TlsAlpn01,
            Self::TlsAlpn01 => Self::Http01,
        }
    }

    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Http01 => "http-01",
            Self::TlsAlpn01 => "tls-alpn-01",
        }
    }

    pub(super) fn parse(text: &str) -> Option<Self> {
        [Self::Http01, Self::TlsAlpn01].into_iter().find(|proof| proof.as_str() == text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_that_went_back_locks_no_name_out() {
        let (hour, day) = (Duration::from_secs(3_600), 86_400_000);
        let state = NameState { not_before_ms: 400 * day, issued_ms: 399 * day, ..NameState::default() };
        assert_eq!(state.waits_until(hour, 0), 0);
        assert_eq!(state.rests_until(hour, 0), 0);
        assert_eq!(state.waits_until(hour, 400 * day - 60_000), 400 * day);
        assert_eq!(state.rests_until(hour, 399 * day), 399 * day + millis(hour));
    }

    #[test]
    fn each_failure_waits_longer_up_to_the_longest_wait() {
        let waits = (Duration::from_secs(60), Duration::from_secs(600));
        let (account, directory, url) =
            ("a".into(), "https://ca.example/dir".into(), "https://ca.example/order/1".into());
        let order = OpenOrder { account, directory, url, part: true, begun_ms: 11 };
        let mut state = NameState { order: Some(order), ..NameState::default() };
        let mut seen = Vec::new();
        for _ in 0..5 {
            state.failed("x", waits, 0.0, 0);
            seen.push(state.not_before_ms / 1_000);
        }
        assert_eq!(seen, [60, 120, 240, 480, 600]);
        state.drop_order();
        assert_eq!(state.order.as_ref().map(|order| &*order.url), Some(""), "the first of two keys is there");
        state.order.iter_mut().for_each(|order| order.part = false);
        state.drop_order();
        assert_eq!(state.order, None);
        state.failed("x", waits, 1.0, 0);
        assert_eq!(state.not_before_ms, 480_000);
    }
}
