//! Why an order came to nothing, and so whose trouble it is: the name's, the CA's, or ours.

use instant_acme::{Error, Problem};

use crate::config::AcmeAccount;
use crate::issuance::fault::{Fault, written};
use crate::issuance::transport::chain;

/// Characters of a CA's answer that are kept.
const TEXT_MAX: usize = 1_000;

/// How it begins what a person reads of files that cannot be written.
const UNKEPT: &str = "the certificate cannot be kept: ";

/// Why an order came to nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Trouble {
    /// The name leads elsewhere, or its DNS forbids this CA; the CA was not asked.
    Dns(String),
    /// The name's CAA records forbid this CA and allow another one of the configuration; the CA was not asked.
    Forbidden(String),
    /// The DNS servers of the name do not answer; the CA was not asked.
    Silent(String),
    /// The DNS server that we ask does not answer: whatever the name.
    Resolver(String),
    /// The CA looked, and did not find what it should.
    Validation(String),
    /// The CA looked, and the name's CAA records forbid it.
    Caa(String),
    /// The CA refuses the name for good reasons, or the order went wrong.
    Refused(String),
    /// The CA wants to be asked later (RFC 8555, 6.6).
    RateLimited(String),
    /// The CA does not answer. The order may go on later.
    Unreachable(String),
    /// The CA answers that it is in trouble itself: perhaps with this order only. It may go on later.
    Broken(String),
    /// The order did not end in time. It may go on later.
    Slow(String),
    /// The order that was to go on is not there any more.
    Lost,
    /// The account cannot be used: what is wrong, and in which words it showed.
    Account(Fault, String),
    /// The CA does not know the account any more.
    AccountGone,
    /// Files cannot be written.
    Local(String),
    /// The certificate came, but is not what clients are served.
    NotServed(String),
}

// === impl Trouble ===

impl Trouble {
    /// As the label of a metric.
    pub(super) fn label(&self) -> &'static str {
        match self {
            Self::Dns(_) | Self::Forbidden(_) | Self::Silent(_) | Self::Resolver(_) => "dns",
            Self::Validation(_) | Self::Caa(_) => "validation",
            Self::Refused(_) => "refused",
            Self::RateLimited(_) => "rate_limited",
            Self::Unreachable(_) | Self::Broken(_) | Self::Slow(_) => "unreachable",
            Self::Lost => "lost",
            Self::Account(..) | Self::AccountGone => "account",
            Self::Local(_) => "local",
            Self::NotServed(_) => "not_served",
        }
    }

    /// What a person reads.
    pub(super) fn reason(&self) -> String {
        match self {
            Self::Dns(text) | Self::Forbidden(text) | Self::Silent(text) => text.clone(),
            Self::Resolver(text) => format!("[acme] resolver does not answer: {text}"),
            Self::Validation(text) | Self::Caa(text) => format!("the CA could not validate the name: {text}"),
            Self::Refused(text) => format!("the CA refuses the order: {text}"),
            Self::RateLimited(text) => format!("the CA asks to wait: {text}"),
            Self::Unreachable(text) => format!("the CA cannot be reached: {text}"),
            Self::Broken(text) => format!("the CA is in trouble: {text}"),
            Self::Slow(text) => format!("the CA did not finish in time: {text}"),
            Self::Lost => "the order that was begun is not at the CA any more".to_owned(),
            Self::Account(_, text) => format!("the account at the CA cannot be used: {text}"),
            Self::AccountGone => "the CA does not know the account any more; the next order makes a new one".to_owned(),
            Self::Local(text) => format!("{UNKEPT}{text}"),
            Self::NotServed(text) => format!("the certificate was issued, but is not served: {text}"),
        }
    }

    /// What a person does about it where the account, or its CA, is the trouble.
    pub(super) fn remedy(&self, account: &AcmeAccount) -> String {
        match self {
            Self::Account(fault, _) => fault.remedy(account),
            Self::RateLimited(_) => {
                "wait, or ask the CA for a higher limit; another [[acme.accounts]] takes over meanwhile".to_owned()
            }
            Self::AccountGone => format!(
                "nothing if the CA was set up anew, else see that {} is right; the key of the account before is \
                 account.json.gone in <data_dir>/acme/{}-…",
                written(account, "directory", &account.directory),
                account.name
            ),
            _ => format!(
                "see that this machine reaches the CA, and that {} is right; it is tried again by itself, at once by `pixelgate cert \
                 issue NAME` for one of the names",
                written(account, "directory", &account.directory)
            ),
        }
    }

    /// There is no way to an account's CA, for what is wrong with its `ca_file` or on this machine.
    pub(super) fn of_way(account: &AcmeAccount, why: String) -> Self {
        if account.ca_file.is_some() { Self::Account(Fault::CaFile, why) } else { Self::Unreachable(why) }
    }

    /// The same, met while an account was opened and no order was at hand: no name is at fault, whatever it is.
    pub(super) fn of_account(self) -> Self {
        match self {
            Self::Refused(text) => Self::Account(Fault::Refused, text),
            Self::Local(text) => Self::Account(Fault::Kept, text),
            Self::Broken(text) | Self::Slow(text) => Self::Unreachable(text),
            other => other,
        }
    }

    /// The same, met with an order for this name: a CA that calls it has nothing against the account, but against the name.
    pub(super) fn of_order(self, name: &str) -> Self {
        match self {
            Self::Account(Fault::Refused, text) if text.to_ascii_lowercase().contains(name) => Self::Refused(text),
            other => other,
        }
    }

    /// What the library says, while an order, an account or a challenge was at hand.
    pub(super) fn of(error: &Error) -> Self {
        match error {
            Error::Api(problem) => Self::of_problem(problem),
            Error::Timeout(_) => Self::Slow(error.to_string()),
            Error::Unsupported(_) | Error::Crypto | Error::KeyRejected | Error::InvalidUri(_) => {
                Self::Account(Fault::Refused, error.to_string())
            }
            Error::Str(text) => Self::Refused((*text).to_owned()),
            other => Self::Unreachable(chain(other)),
        }
    }

    /// What the CA says (RFC 8555, 6.7).
    pub(super) fn of_problem(problem: &Problem) -> Self {
        let text = told(problem);
        let status = problem.status.unwrap_or_default();
        if let Some(fault) = Fault::of(kind(problem)) {
            return Self::Account(fault, text);
        }
        match kind(problem) {
            "rateLimited" => Self::RateLimited(text),
            "accountDoesNotExist" => Self::AccountGone,
            "badNonce" => Self::Unreachable(text),
            "serverInternal" => Self::Broken(text),
            _ if status == 429 => Self::RateLimited(text),
            _ if status >= 500 => Self::Broken(text),
            _ => Self::Refused(text),
        }
    }

    /// What the CA says with a status that is no success, to a question that needs no signature.
    pub(super) fn of_status(status: u16, body: &[u8]) -> Self {
        let detail = Some(format!("it answers {status}"));
        let nothing = Problem { r#type: None, detail, status: None, subproblems: Vec::new() };
        let problem = serde_json::from_slice(body).unwrap_or(nothing);
        Self::of_problem(&Problem { status: Some(status), ..problem })
    }

    /// What the CA says of a challenge.
    pub(super) fn of_challenge(problem: &Problem) -> Self {
        match kind(problem) {
            "rateLimited" => Self::RateLimited(told(problem)),
            "serverInternal" => Self::Broken(told(problem)),
            "caa" => Self::Caa(told(problem)),
            _ => Self::Validation(told(problem)),
        }
    }
}

/// Whether a failure, as a person reads it, is of files that cannot be written.
pub(super) fn is_of_files(reason: &str) -> bool {
    reason.starts_with(UNKEPT)
}

/// The kind of problem, without the namespace of RFC 8555.
pub(super) fn kind(problem: &Problem) -> &str {
    let kind = problem.r#type.as_deref().unwrap_or_default();
    kind.rsplit(':').next().unwrap_or(kind)
}

fn told(problem: &Problem) -> String {
    let parts = std::iter::once(problem.detail.clone());
    let parts = parts.chain(problem.subproblems.iter().map(|sub| sub.detail.clone()));
    let mut text = parts.flatten().collect::<Vec<_>>().join("; ");
    if text.is_empty() {
        text = kind(problem).to_owned();
    }
    // A CA's answer is shown on pages and in logs: it must not fill them. Let's Encrypt's link to its portal is long.
    text.chars().filter(|c| !c.is_control()).take(TEXT_MAX).collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic)]
    use super::*;

    fn problem(kind: &str, status: u16) -> Problem {
        let json = serde_json::json!({
            "type": format!("urn:ietf:params:acme:error:{kind}"), "detail": "why", "status": status,
        });
        serde_json::from_value(json).unwrap()
    }

    #[test]
    fn each_answer_of_a_ca_is_somebodys_trouble() {
        for (kind, status, label) in [
            ("rateLimited", 429, "rate_limited"),
            ("rateLimited", 503, "rate_limited"),
            ("serverInternal", 500, "unreachable"),
            ("", 503, "unreachable"),
            ("", 429, "rate_limited"),
            ("badNonce", 400, "unreachable"),
            ("accountDoesNotExist", 400, "account"),
            ("externalAccountRequired", 401, "account"),
            ("userActionRequired", 403, "account"),
            ("unauthorized", 403, "account"),
            ("badSignatureAlgorithm", 400, "account"),
            ("invalidProfile", 400, "account"),
            ("rejectedIdentifier", 400, "refused"),
            ("caa", 403, "refused"),
        ] {
            assert_eq!(Trouble::of_problem(&problem(kind, status)).label(), label, "{kind} {status}");
        }
        for (kind, label) in [("dns", "validation"), ("unauthorized", "validation"), ("serverInternal", "unreachable")]
        {
            assert_eq!(Trouble::of_challenge(&problem(kind, 0)).label(), label, "{kind}");
        }
        assert_eq!(Trouble::of_challenge(&problem("caa", 403)), Trouble::Caa("why".to_owned()));
    }

    #[test]
    fn a_refusal_that_calls_the_name_is_the_names_and_one_without_an_order_is_the_accounts() {
        let refused = |text: &str| Trouble::Account(Fault::Refused, text.to_owned());
        assert_eq!(refused("the account is deactivated").of_order("a.example"), refused("the account is deactivated"));
        let of_name = refused("\"A.example\" is not in your contract").of_order("a.example");
        assert_eq!(of_name.label(), "refused", "{of_name:?}");
        for trouble in [Trouble::Refused(String::new()), Trouble::Local(String::new())] {
            assert_eq!(trouble.of_account().label(), "account");
        }
        assert_eq!(Trouble::Broken("busy".to_owned()).of_account(), Trouble::Unreachable("busy".to_owned()));
    }

    #[test]
    fn what_is_wrong_with_a_way_to_a_ca_is_its_files_only_if_there_is_one() {
        let mut account = (*crate::issuance::tests::account("a")).clone();
        assert_eq!(Trouble::of_way(&account, "why".to_owned()), Trouble::Unreachable("why".to_owned()));
        account.ca_file = Some("/etc/ca.pem".into());
        assert_eq!(Trouble::of_way(&account, "why".to_owned()), Trouble::Account(Fault::CaFile, "why".to_owned()));
    }

    #[test]
    fn an_answer_without_a_problem_is_judged_by_its_status() {
        assert_eq!(Trouble::of_status(503, b"<html>"), Trouble::Broken("it answers 503".to_owned()));
        let told = br#"{ "type": "urn:ietf:params:acme:error:rateLimited", "detail": "busy" }"#;
        assert_eq!(Trouble::of_status(503, told), Trouble::RateLimited("busy".to_owned()));
    }

    #[test]
    fn what_a_ca_says_is_shown_in_bounds() {
        let json = serde_json::json!({ "detail": "x\n".repeat(10_000) });
        let Trouble::Refused(text) = Trouble::of_problem(&serde_json::from_value(json).unwrap()) else { panic!() };
        assert_eq!(text, "x".repeat(TEXT_MAX));
    }
}
