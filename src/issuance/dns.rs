//! What DNS says of a name, and what must be changed so that a certificate can be had for it and visitors arrive here.
//!
//! It asks one resolver, as a certificate authority would ask its own. What a resolver has cached a CA may see otherwise
//! for as long as the record's TTL.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use hickory_resolver::TokioResolver;
use hickory_resolver::config::{ConnectionConfig, NameServerConfig, ResolveHosts, ResolverConfig};
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::net::{DnsError as Answer, NetError};
use hickory_resolver::proto::op::ResponseCode;
use hickory_resolver::proto::rr::rdata::CAA;
use hickory_resolver::proto::rr::{RData, RecordType};

use crate::account::ServerName;

/// Time for one question to the resolver, which is asked [`ATTEMPTS`] times.
const TIMEOUT: Duration = Duration::from_secs(3);
const ATTEMPTS: usize = 2;
/// CNAMEs that are followed; CAs stop at about as many.
const CNAMES_MAX: usize = 8;
/// The ways in which a name is proved here (RFC 8657, 4).
const VALIDATION_METHODS: [&str; 2] = ["http-01", "tls-alpn-01"];

/// Asks a DNS resolver.
#[derive(Clone)]
pub struct Dns {
    resolver: TokioResolver,
}

/// Why there is no resolver to ask.
#[derive(Debug, thiserror::Error)]
#[error("no DNS resolver: {0}")]
pub struct DnsError(#[from] NetError);

/// What DNS says of a name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DnsReport {
    /// The names that it is an alias of, one after the other (CNAME).
    pub chain: Vec<String>,
    /// Where it leads, A before AAAA.
    pub addresses: Vec<IpAddr>,
    /// The CAA records that count for it, as in `0 issue "letsencrypt.org"` (RFC 8659, 3).
    pub caa: Vec<String>,
    /// What is wrong and what to change.
    pub findings: Vec<DnsFinding>,
}

/// One thing wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DnsFinding {
    /// Whether an order would fail, or visitors would not arrive; otherwise it is only worth knowing.
    pub is_error: bool,
    /// What is wrong.
    pub reason: String,
    /// What to change.
    pub remedy: String,
}

/// What one question brought: records, possibly none, or why there is no answer.
type Records = Result<Vec<RData>, String>;

// === impl Dns ===

impl Dns {
    /// Asks `resolver`, or the one of `/etc/resolv.conf`. The machine's hosts file counts for nothing: no CA sees it.
    ///
    /// # Errors
    /// When there is no resolver in `/etc/resolv.conf`.
    pub fn new(resolver: Option<SocketAddr>) -> Result<Self, DnsError> {
        let mut builder = match resolver {
            None => TokioResolver::builder_tokio()?,
            Some(server) => {
                let at_port = |mut connection: ConnectionConfig| {
                    connection.port = server.port();
                    connection
                };
                let connections = vec![at_port(ConnectionConfig::udp()), at_port(ConnectionConfig::tcp())];
                let server = NameServerConfig::new(server.ip(), true, connections);
                let config = ResolverConfig::from_parts(None, Vec::new(), vec![server]);
                TokioResolver::builder_with_config(config, TokioRuntimeProvider::default())
            }
        };
        let options = builder.options_mut();
        options.timeout = TIMEOUT;
        options.attempts = ATTEMPTS;
        options.use_hosts_file = ResolveHosts::Never;
        // Somebody who has just changed a record must not be told of the old one.
        options.cache_size = 0;
        Ok(Self { resolver: builder.build()? })
    }

    /// Looks at a name's CNAME, A, AAAA and CAA records. `here` is where the gateway is reached from outside; empty =
    /// unknown, and where the name leads is not judged. `caa_identities` are the CA's, as its directory tells them
    /// (RFC 8555, 7.1.1); empty = unknown, and CAA is only shown.
    pub async fn inspect(&self, name: &ServerName, here: &[IpAddr], caa_identities: &[String]) -> DnsReport {
        let mut report = DnsReport::default();
        if let Err(finding) = self.follow(name.as_str(), &mut report.chain).await {
            report.findings.push(finding);
            return report;
        }
        let target = report.chain.last().map_or(name.as_str(), String::as_str).to_owned();
        let (a, aaaa, caa) = tokio::join!(
            self.ask(&target, RecordType::A),
            self.ask(&target, RecordType::AAAA),
            self.relevant_caa(name.as_str())
        );
        for records in [a, aaaa] {
            match records {
                Ok(records) => report.addresses.extend(records.iter().filter_map(RData::ip_addr)),
                Err(why) => report.findings.push(unanswered(&target, &why)),
            }
        }
        if report.findings.is_empty() {
            report.findings.extend(judge_addresses(name, &report.chain, &report.addresses, here));
        }
        match caa {
            Ok((at, records)) => {
                report.findings.extend(judge_caa(&at, &records, caa_identities));
                report.caa = records.iter().map(shown_caa).collect();
            }
            Err((at, why)) => report.findings.push(DnsFinding::error(
                format!("the CAA records of {at} cannot be had: {why}"),
                format!("mend the DNS servers of {at}: a CA refuses to issue where it gets no answer (RFC 8659, 3)"),
            )),
        }
        report
    }

    /// Follows CNAMEs from a name to the last one.
    async fn follow(&self, name: &str, chain: &mut Vec<String>) -> Result<(), DnsFinding> {
        let mut at = name.to_owned();
        loop {
            let records = self.ask(&at, RecordType::CNAME).await.map_err(|why| unanswered(&at, &why))?;
            let target = records.iter().find_map(|record| match record {
                RData::CNAME(target) => Some(target.0.to_utf8().trim_end_matches('.').to_lowercase()),
                _ => None,
            });
            let Some(target) = target else { return Ok(()) };
            let circle = target == name || chain.contains(&target);
            chain.push(target.clone());
            if circle || chain.len() > CNAMES_MAX {
                return Err(DnsFinding::error(
                    format!("the CNAMEs of {name} lead nowhere: {}", chain.join(" → ")),
                    format!("make {name} a CNAME for one name that has addresses"),
                ));
            }
            at = target;
        }
    }

    /// The CAA records that count for a name and where they stand: its own, else those of the nearest name above that
    /// has any (RFC 8659, 3). A CNAME is followed for its records, but not upwards from its target.
    async fn relevant_caa(&self, name: &str) -> Result<(String, Vec<CAA>), (String, String)> {
        let mut at = name;
        loop {
            let records = self.ask(at, RecordType::CAA).await.map_err(|why| (at.to_owned(), why))?;
            let caa = records.into_iter().filter_map(|record| match record {
                RData::CAA(caa) => Some(caa),
                _ => None,
            });
            let caa: Vec<CAA> = caa.collect();
            match at.split_once('.') {
                Some((_, above)) if caa.is_empty() => at = above,
                _ => return Ok((at.to_owned(), caa)),
            }
        }
    }

    /// One question. That there is no such name or record is an answer.
    async fn ask(&self, name: &str, kind: RecordType) -> Records {
        match self.resolver.lookup(format!("{name}."), kind).await {
            Ok(found) => Ok(found.answers().iter().map(|record| record.data.clone()).collect()),
            Err(NetError::Dns(Answer::NoRecordsFound(none))) => match none.response_code {
                ResponseCode::NoError | ResponseCode::NXDomain => Ok(Vec::new()),
                code => Err(code.to_string()),
            },
            Err(error) => Err(error.to_string()),
        }
    }
}

// === impl DnsFinding ===

impl DnsFinding {
    fn error(reason: String, remedy: String) -> Self {
        Self { is_error: true, reason, remedy }
    }

    fn warning(reason: String, remedy: String) -> Self {
        Self { is_error: false, reason, remedy }
    }
}

fn unanswered(name: &str, why: &str) -> DnsFinding {
    DnsFinding::error(
        format!("{name} cannot be resolved: {why}"),
        format!("see that the DNS servers of {name} answer, and that [acme] resolver is one that does"),
    )
}

/// Whether the addresses lead here.
fn judge_addresses(name: &ServerName, chain: &[String], addresses: &[IpAddr], here: &[IpAddr]) -> Vec<DnsFinding> {
    let subject = match chain.last() {
        Some(target) => format!("{name} is a CNAME for {target}, which"),
        None => name.to_string(),
    };
    let records =
        here.iter().map(|address| format!("{} {address}", kind_of(*address))).collect::<Vec<_>>().join(" and ");
    let change = if here.is_empty() { "an A record with this gateway's address".to_owned() } else { records };
    if addresses.is_empty() {
        let reason = format!("{subject} has no address");
        return vec![DnsFinding::error(
            reason,
            format!("add to {}: {change}", chain.last().map_or(name.as_str(), String::as_str)),
        )];
    }
    if here.is_empty() {
        let odd = addresses.iter().filter(|address| special(**address).is_some());
        return odd.map(|address| not_public(&subject, *address, false)).collect();
    }
    let mut findings = Vec::new();
    let elsewhere: Vec<IpAddr> = addresses.iter().copied().filter(|address| !here.contains(address)).collect();
    if !elsewhere.is_empty() {
        let shown = list(&elsewhere);
        let nature = elsewhere.iter().find_map(|address| special(*address)).map(|what| format!(" ({what})"));
        let reason =
            format!("{subject} is at {shown}{}; this gateway is at {}", nature.unwrap_or_default(), list(here));
        let remedy = match (chain.last(), elsewhere.len() == addresses.len()) {
            (Some(target), true) => format!("change {name} to lead here: {change}; or change {target}, if it is yours"),
            (None, true) => format!("change {name} to: {change}"),
            (_, false) => format!("remove {shown}: visitors and CAs take any address of a name, IPv6 first"),
        };
        findings.push(DnsFinding::error(reason, remedy));
    }
    let ours = addresses.iter().filter(|address| here.contains(address) && special(**address).is_some());
    findings.extend(ours.map(|address| not_public(&subject, *address, true)));
    findings
}

fn not_public(subject: &str, address: IpAddr, here: bool) -> DnsFinding {
    let what = special(address).unwrap_or_default();
    let whose = if here { ", as [host] addresses says" } else { "" };
    DnsFinding::warning(
        format!("{subject} is at {address}, {what}{whose}"),
        "a public CA and visitors cannot reach it: use the public address, unless all of them are in your own network"
            .to_owned(),
    )
}

fn kind_of(address: IpAddr) -> &'static str {
    if address.is_ipv4() { "A" } else { "AAAA" }
}

fn list(addresses: &[IpAddr]) -> String {
    addresses.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

/// What an address is that nobody on the internet can reach.
fn special(address: IpAddr) -> Option<&'static str> {
    match address.to_canonical() {
        IpAddr::V4(v4) => special_v4(v4),
        IpAddr::V6(v6) => special_v6(v6),
    }
}

fn special_v4(v4: Ipv4Addr) -> Option<&'static str> {
    let [a, b, ..] = v4.octets();
    match v4 {
        _ if v4.is_loopback() => Some("a loopback address"),
        _ if v4.is_private() => Some("a private address (RFC 1918)"),
        _ if v4.is_link_local() => Some("a link-local address"),
        _ if a == 100 && (64..128).contains(&b) => Some("a carrier's private address (RFC 6598)"),
        _ if a == 0 || v4.is_multicast() || v4.is_broadcast() => Some("no host's address"),
        _ => None,
    }
}

fn special_v6(v6: Ipv6Addr) -> Option<&'static str> {
    match v6 {
        _ if v6.is_loopback() => Some("a loopback address"),
        _ if v6.is_unique_local() => Some("a private address (RFC 4193)"),
        _ if v6.is_unicast_link_local() => Some("a link-local address"),
        _ if v6.is_unspecified() || v6.is_multicast() => Some("no host's address"),
        _ => None,
    }
}

/// Whether the CAA records allow this CA to issue to us (RFC 8659, 4.2). `issuewild` is for wildcard certificates, which
/// are never ordered here.
fn judge_caa(at: &str, records: &[CAA], identities: &[String]) -> Vec<DnsFinding> {
    let known = ["issue", "issuewild", "iodef", "issuemail", "contactemail", "contactphone", "issuevmc"];
    let is = |record: &CAA, tag: &str| record.tag.eq_ignore_ascii_case(tag);
    let strange = records.iter().find(|record| record.issuer_critical && !known.iter().any(|tag| is(record, tag)));
    if let Some(record) = strange {
        let reason = format!("{at} has a critical CAA record that CAs do not know: {}", shown_caa(record));
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
        let shown: Vec<_> = records.iter().map(shown_caa).collect();
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

fn shown_caa(record: &CAA) -> String {
    format!("{} {} \"{}\"", record.flags(), record.tag, String::from_utf8_lossy(&record.value).escape_debug())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing)]
    use super::*;

    fn addresses(texts: &[&str]) -> Vec<IpAddr> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    fn judged(chain: &[&str], at: &[&str], here: &[&str]) -> Vec<DnsFinding> {
        let chain: Vec<String> = chain.iter().map(|name| (*name).to_owned()).collect();
        judge_addresses(&"events.shoes.example".parse().unwrap(), &chain, &addresses(at), &addresses(here))
    }

    #[test]
    fn what_leads_elsewhere_is_told_with_what_to_change() {
        let found = judged(&["x.example"], &["192.0.2.1"], &["203.0.113.5"]);
        assert_eq!(found.len(), 1);
        assert!(found[0].is_error);
        assert_eq!(
            found[0].reason,
            "events.shoes.example is a CNAME for x.example, which is at 192.0.2.1; this gateway is at 203.0.113.5"
        );
        assert!(found[0].remedy.contains("A 203.0.113.5"), "{}", found[0].remedy);
        assert_eq!(judged(&["x.example"], &["203.0.113.5"], &["203.0.113.5"]), []);
        let one_of_two = judged(&[], &["203.0.113.5", "2001:db8::9"], &["203.0.113.5"]);
        assert!(one_of_two[0].is_error && one_of_two[0].remedy.contains("remove 2001:db8::9"), "{one_of_two:?}");
        let none = judged(&[], &[], &["203.0.113.5", "2001:db8::5"]);
        assert!(none[0].is_error && none[0].remedy.contains("A 203.0.113.5 and AAAA 2001:db8::5"), "{none:?}");
    }

    #[test]
    fn addresses_that_nobody_reaches_are_pointed_out() {
        for odd in [
            "127.0.0.1",
            "10.1.2.3",
            "192.168.0.1",
            "169.254.1.1",
            "100.64.0.1",
            "0.0.0.0",
            "::1",
            "fd00::1",
            "fe80::1",
            "::ffff:10.0.0.1",
        ] {
            assert!(special(odd.parse().unwrap()).is_some(), "{odd}");
            let unknown = judged(&[], &[odd], &[]);
            assert!(unknown.len() == 1 && !unknown[0].is_error, "{unknown:?}");
            let ours = judged(&[], &[odd], &[odd]);
            assert!(ours.len() == 1 && !ours[0].is_error, "{ours:?}");
            let other = judged(&[], &[odd], &["203.0.113.5"]);
            assert!(other[0].is_error && other[0].reason.contains(special(odd.parse().unwrap()).unwrap()), "{other:?}");
        }
        for good in ["192.0.2.1", "100.128.0.1", "2001:db8::1"] {
            assert_eq!(judged(&[], &[good], &[]), []);
        }
    }

    fn caa(flags: u8, tag: &str, value: &str) -> CAA {
        let mut record = CAA::new_issue(flags & 128 != 0, None, Vec::new());
        record.tag = tag.to_owned();
        record.value = value.as_bytes().to_vec();
        record
    }

    #[test]
    fn caa_allows_or_forbids() {
        let judge = |records: &[CAA]| judge_caa("shoes.example", records, &["letsencrypt.org".to_owned()]);
        for allowed in [
            &[][..],
            &[caa(0, "issue", "letsencrypt.org")],
            &[caa(0, "issue", "other.example"), caa(128, "ISSUE", " LetsEncrypt.org ; x=y")],
            &[caa(0, "issuewild", ";")],
            &[caa(0, "iodef", "mailto:a@shoes.example")],
            &[caa(0, "unknown", "x")],
            &[caa(0, "issue", "letsencrypt.org; validationmethods=dns-01,http-01")],
        ] {
            assert_eq!(judge(allowed), [], "{allowed:?}");
        }
        for (forbidden, hint) in [
            (caa(0, "issue", ";"), "add to shoes.example: CAA 0 issue \"letsencrypt.org\""),
            (caa(0, "issue", ""), "letsencrypt.org"),
            (caa(0, "issue", "digicert.com"), "letsencrypt.org"),
            (caa(128, "unknown", "x"), "critical"),
            (caa(0, "issue", "letsencrypt.org; validationmethods=dns-01"), "http-01"),
        ] {
            let found = judge(std::slice::from_ref(&forbidden));
            assert!(
                found.len() == 1 && found[0].is_error && found[0].remedy.contains(hint),
                "{forbidden:?}: {found:?}"
            );
        }
        let bound = judge(&[caa(0, "issue", "letsencrypt.org;accounturi=https://a/1")]);
        assert!(!bound[0].is_error && bound[0].reason.contains("https://a/1"));
        assert_eq!(judge_caa("shoes.example", &[caa(0, "issue", ";")], &[]), [], "the CA is not known");
    }
}
