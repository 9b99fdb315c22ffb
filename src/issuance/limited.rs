//! Of what a CA has had enough when it answers `rateLimited`: it says so in words only (RFC 8555, 6.6).

use crate::config::AcmeAccount;
use crate::issuance::budget::registered_domain;

/// Of what a CA has had enough.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Enough {
    /// Of the account, or of everybody.
    Account,
    /// Of certificates below the registered domain, from whichever account.
    Domain,
    /// Of certificates for the name, from whichever account.
    Certificates,
    /// Of the account's tries with the name.
    Tries,
}

// === impl Enough ===

impl Enough {
    /// Reads a CA's words about an order for `name`: Let's Encrypt's published ones, and where a name or its domain is
    /// called in any others.
    pub(super) fn read(text: &str, name: &str) -> Self {
        let text = text.to_ascii_lowercase();
        let says = |words: &str| text.contains(words);
        if says("from this ip address") || says("from this account") || says("subnet of ipv6") {
            return Self::Account;
        }
        if says("exact set of") {
            return Self::Certificates;
        }
        let called = words(&text).find(|word| is_above(name, word) || *word == name);
        match called {
            Some(_) if says("failed authorizations") || says("temporarily prevented") => Self::Tries,
            Some(word) if word == registered_domain(name) => Self::Domain,
            Some(word) if word == name && !says("already issued") => Self::Tries,
            // The CA's list of public suffixes is newer than ours: it is about this name that we know.
            Some(_) => Self::Certificates,
            None if says("failed authorizations") || says("temporarily prevented") => Self::Tries,
            None => Self::Account,
        }
    }

    /// What is to be left alone: who counts, and which name or domain.
    pub(super) fn pause<'a>(self, account: &'a AcmeAccount, name: &'a str) -> (&'a str, &'a str) {
        match self {
            Self::Account => (&account.name, ""),
            Self::Domain => (&account.directory, registered_domain(name)),
            Self::Certificates => (&account.directory, name),
            Self::Tries => (&account.name, name),
        }
    }
}

/// What could be names in a text.
fn words(text: &str) -> impl Iterator<Item = &str> {
    let is_part = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_');
    text.split(move |c: char| !is_part(c)).map(|word| word.trim_matches('.')).filter(|word| word.contains('.'))
}

fn is_above(name: &str, domain: &str) -> bool {
    name.strip_suffix(domain).is_some_and(|rest| rest.ends_with('.'))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// letsencrypt.org/docs/rate-limits and the texts of Boulder (ratelimits/limiter.go, wfe2/wfe.go).
    #[test]
    fn what_lets_encrypt_says_is_booked_where_it_belongs() {
        let name = "events.shoes.example";
        for (text, enough) in [
            (
                "too many certificates (5) already issued for this exact set of identifiers in the last 168h0m0s, retry \
                 after 2026-08-02 00:31:45 UTC: see https://letsencrypt.org/docs/rate-limits/#new-certificates-per-exact-set-of-identifiers",
                Enough::Certificates,
            ),
            (
                "too many certificates (5) already issued for this exact set of domains in the last 168h0m0s: \
                 events.shoes.example, retry after 2025-01-01 00:00:00 UTC",
                Enough::Certificates,
            ),
            (
                "too many certificates (50) already issued for \"shoes.example\" in the last 168h0m0s, retry after \
                 2026-08-02 00:31:45 UTC: see https://letsencrypt.org/docs/rate-limits/#new-certificates-per-registered-domain",
                Enough::Domain,
            ),
            (
                "too many failed authorizations (5) for \"events.shoes.example\" in the last 1h0m0s, retry after \
                 2026-08-02 00:31:45 UTC: see https://letsencrypt.org/docs/rate-limits/#authorization-failures-per-identifier-per-account",
                Enough::Tries,
            ),
            (
                "too many failed authorizations recently: see https://letsencrypt.org/docs/failed-validation-limit/",
                Enough::Tries,
            ),
            (
                "Your account is temporarily prevented from requesting certificates for events.shoes.example and possibly \
                 others. Please visit: https://portal.letsencrypt.org/sfe/v1/unpause?jwt=a.b.c",
                Enough::Tries,
            ),
            (
                "too many new orders (300) from this account in the last 3h0m0s, retry after 2026-08-02 00:31:45 UTC: see \
                 https://letsencrypt.org/docs/rate-limits/#new-orders-per-account",
                Enough::Account,
            ),
            (
                "too many new registrations (10) from this IP address in the last 3h0m0s, retry after 2026-08-02 00:31:45 \
                 UTC: see https://letsencrypt.org/docs/rate-limits/#new-registrations-per-ip-address",
                Enough::Account,
            ),
            (
                "too many new registrations (500) from this /48 subnet of IPv6 addresses in the last 3h0m0s, retry after \
                 2026-08-02 00:31:45 UTC",
                Enough::Account,
            ),
            ("Service busy; retry later.", Enough::Account),
            ("Your request was throttled by https://other.example/", Enough::Account),
            // Others' words, and a name or domain that is not quoted.
            ("limit reached for [events.shoes.example]", Enough::Tries),
            ("limit reached for shoes.example.", Enough::Domain),
        ] {
            assert_eq!(Enough::read(text, name), enough, "{text}");
        }
        // The domain itself is ordered for.
        let text = "too many certificates (50) already issued for \"shoes.example\" in the last 168h0m0s";
        assert_eq!(Enough::read(text, "shoes.example"), Enough::Domain);
        let text = "too many failed authorizations (5) for \"shoes.example\" in the last 1h0m0s";
        assert_eq!(Enough::read(text, "shoes.example"), Enough::Tries);
        // What the CA takes for a registered domain is none to us.
        let text = "too many certificates (50) already issued for \"b.shoes.example\" in the last 168h0m0s";
        assert_eq!(Enough::read(text, "a.b.shoes.example"), Enough::Certificates);
        // A name that only ends alike.
        assert_eq!(Enough::read("too many for \"oes.example\"", name), Enough::Account);
    }
}
