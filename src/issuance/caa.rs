//! What a name's CAA records allow (RFC 8659).

use hickory_resolver::proto::rr::rdata::CAA;

use crate::issuance::dns::DnsFinding;

/// The ways in which a name is proved here (RFC 8657, 4).
const VALIDATION_METHODS: [&str; 2] = ["http-01", "tls-alpn-01"];

/// Whether the CAA records allow this CA to issue to us (RFC 8659, 4.2). `issuewild` is for wildcard certificates, which
/// are never ordered here.
pub(super) fn judge(at: &str, records: &[CAA], identities: &[String]) -> Vec<DnsFinding> {
    let known = ["issue", "issuewild", "iodef", "issuemail", "contactemail", "contactphone", "issuevmc"];
    let is = |record: &CAA, tag: &str| record.tag.eq_ignore_ascii_case(tag);
    let strange = records.iter().find(|record| record.issuer_critical && !known.iter().any(|tag| is(record, tag)));
    if let Some(record) = strange {
        let reason = format!("{at} has a critical CAA record that CAs do not know: {}", shown(record));
        return vec![DnsFinding::error(reason, "remove it, or clear its critical flag (128)".to_owned())];
    }
    let issue: Vec<Issue> = records.iter().filter(|record| is(record, "issue")).map(Issue::of).collect();
    if issue.is_empty() || identities.is_empty() {
        return Vec::new();
    }
    let ours = |issue: &&Issue| identities.iter().any(|identity| identity.eq_ignore_ascii_case(&issue.domain));
    let identity = identities.first().map_or("", String::as_str);
    let allowing: Vec<&Issue> = issue.iter().filter(ours).collect();
    if allowing.is_empty() {
        let shown: Vec<_> = records.iter().map(shown).collect();
        return vec![DnsFinding::error(
            format!("the CAA records of {at} do not allow {identity} to issue: {}", shown.join(", ")),
            format!("add to {at}: CAA 0 issue \"{identity}\""),
        )];
    }
    if allowing
        .iter()
        .all(|issue| issue.methods.as_ref().is_some_and(|methods| !methods.iter().any(|method| is_ours(method))))
    {
        return vec![DnsFinding::error(
            format!("the CAA record of {at} allows {identity} only by other validation methods (RFC 8657)"),
            format!("add http-01 to it, as in CAA 0 issue \"{identity}; validationmethods=http-01\""),
        )];
    }
    if allowing.iter().all(|issue| issue.account.is_some()) {
        let accounts: Vec<_> = allowing.iter().filter_map(|issue| issue.account.as_deref()).collect();
        return vec![DnsFinding::warning(
            format!("the CAA record of {at} allows only the CA account {}", accounts.join(", ")),
            "see that it is this gateway's account at the CA (RFC 8657, 3)".to_owned(),
        )];
    }
    Vec::new()
}

fn is_ours(method: &str) -> bool {
    VALIDATION_METHODS.iter().any(|ours| ours.eq_ignore_ascii_case(method))
}

/// An `issue` property (RFC 8659, 4.2): a CA's domain, or nothing for none, and parameters.
struct Issue {
    domain: String,
    /// `validationmethods`
    methods: Option<Vec<String>>,
    /// `accounturi`
    account: Option<String>,
}

// === impl Issue ===

impl Issue {
    fn of(record: &CAA) -> Self {
        let text = String::from_utf8_lossy(&record.value).into_owned();
        let mut parts = text.split(';').map(str::trim);
        let domain = parts.next().unwrap_or_default().to_owned();
        let parameters: Vec<(&str, &str)> = parts.filter_map(|part| part.split_once('=')).collect();
        let value = |tag: &str| {
            parameters.iter().find(|(own, _)| own.trim().eq_ignore_ascii_case(tag)).map(|(_, value)| value.trim())
        };
        Self {
            domain,
            methods: value("validationmethods")
                .map(|list| list.split(',').map(|method| method.trim().to_owned()).collect()),
            account: value("accounturi").map(str::to_owned),
        }
    }
}

pub(super) fn shown(record: &CAA) -> String {
    format!("{} {} \"{}\"", record.flags(), record.tag, String::from_utf8_lossy(&record.value).escape_debug())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing)]
    use super::*;

    fn caa(flags: u8, tag: &str, value: &str) -> CAA {
        let mut record = CAA::new_issue(flags & 128 != 0, None, Vec::new());
        record.tag = tag.to_owned();
        record.value = value.as_bytes().to_vec();
        record
    }

    #[test]
    fn caa_allows_or_forbids() {
        let judged = |records: &[CAA]| judge("shoes.example", records, &["letsencrypt.org".to_owned()]);
        for allowed in [
            &[][..],
            &[caa(0, "issue", "letsencrypt.org")],
            &[caa(0, "issue", "other.example"), caa(128, "ISSUE", " LetsEncrypt.org ; x=y")],
            &[caa(0, "issuewild", ";")],
            &[caa(0, "iodef", "mailto:a@shoes.example")],
            &[caa(0, "unknown", "x")],
            &[caa(0, "issue", "letsencrypt.org; validationmethods=dns-01,http-01")],
        ] {
            assert_eq!(judged(allowed), [], "{allowed:?}");
        }
        for (forbidden, hint) in [
            (caa(0, "issue", ";"), "add to shoes.example: CAA 0 issue \"letsencrypt.org\""),
            (caa(0, "issue", ""), "letsencrypt.org"),
            (caa(0, "issue", "digicert.com"), "letsencrypt.org"),
            (caa(128, "unknown", "x"), "critical"),
            (caa(0, "issue", "letsencrypt.org; validationmethods=dns-01"), "http-01"),
        ] {
            let found = judged(std::slice::from_ref(&forbidden));
            assert!(
                found.len() == 1 && found[0].is_error && found[0].remedy.contains(hint),
                "{forbidden:?}: {found:?}"
            );
        }
        let bound = judged(&[caa(0, "issue", "letsencrypt.org;accounturi=https://a/1")]);
        assert!(!bound[0].is_error && bound[0].reason.contains("https://a/1"));
        assert_eq!(judge("shoes.example", &[caa(0, "issue", ";")], &[]), [], "the CA is not known");
    }
}
