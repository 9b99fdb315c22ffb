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
use crate::issuance::caa;

/// Time for one question to the resolver, which is asked [`ATTEMPTS`] times.
const TIMEOUT: Duration = Duration::from_secs(3);
const ATTEMPTS: usize = 2;
/// CNAMEs that are followed; CAs stop at about as many.
const CNAMES_MAX: usize = 8;
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
    /// The CAA records that count for it, as in `0 issue "letsencrypt.org"` (RFC 8659, 3); `None` = that cannot be said.
    pub caa: Option<Vec<String>>,
    /// The same, and where they stand.
    relevant_caa: Option<(String, Vec<CAA>)>,
    /// What is wrong and what to change.
    pub findings: Vec<DnsFinding>,
    /// Why a question was not answered at all, if one was not: by the name's DNS servers, or by our resolver.
    pub unanswered: Option<String>,
}

/// One thing wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DnsFinding {
    /// Whether an order would fail, or visitors would not arrive; otherwise it is only worth knowing.
    pub is_error: bool,
    /// Whether it is of CAA records, or else of where the name leads.
    pub is_of_caa: bool,
    /// What is wrong.
    pub reason: String,
    /// What to change.
    pub remedy: String,
}

/// Why a chain of CNAMEs has no end.
enum Broken {
    /// There is no answer about this name.
    Unanswered(String, String),
    /// It leads nowhere.
    Circle(DnsFinding),
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
        if let Err(broken) = self.follow(name.as_str(), &mut report.chain).await {
            let finding = match broken {
                Broken::Unanswered(at, why) => report.unanswered(&at, why),
                Broken::Circle(finding) => finding,
            };
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
                Err(why) => {
                    let finding = report.unanswered(&target, why);
                    report.findings.push(finding);
                }
            }
        }
        if report.findings.is_empty() {
            report.findings.extend(judge_addresses(name, &report.chain, &report.addresses, here));
        }
        match caa {
            Ok((at, records)) => {
                let judged = caa::judge(&at, &records, caa_identities);
                report.findings.extend(judged.into_iter().map(DnsFinding::of_caa));
                report.caa = Some(records.iter().map(caa::shown).collect());
                report.relevant_caa = Some((at, records));
            }
            Err((at, why)) => {
                let finding = DnsFinding::error(
                    format!("the CAA records of {at} cannot be had: {why}"),
                    format!(
                        "mend the DNS servers of {at}: a CA refuses to issue where it gets no answer (RFC 8659, 3)"
                    ),
                );
                report.findings.push(finding.of_caa());
                report.unanswered.get_or_insert(why);
            }
        }
        report
    }

    /// Whether the resolver answers anything: where a name leads that should be known, or where the root is. One that
    /// does not is not the fault of the names that it was asked for.
    pub async fn answers(&self, known: &ServerName) -> bool {
        let (own, root) = tokio::join!(self.ask(known.as_str(), RecordType::A), self.ask("", RecordType::NS));
        own.is_ok() || root.is_ok()
    }

    /// Follows CNAMEs from a name to the last one.
    async fn follow(&self, name: &str, chain: &mut Vec<String>) -> Result<(), Broken> {
        let mut at = name.to_owned();
        loop {
            let records = self.ask(&at, RecordType::CNAME).await;
            let records = records.map_err(|why| Broken::Unanswered(at.clone(), why))?;
            let target = records.iter().find_map(|record| match record {
                RData::CNAME(target) => Some(target.0.to_utf8().trim_end_matches('.').to_lowercase()),
                _ => None,
            });
            let Some(target) = target else { return Ok(()) };
            let circle = target == name || chain.contains(&target);
            chain.push(target.clone());
            if circle || chain.len() > CNAMES_MAX {
                return Err(Broken::Circle(DnsFinding::error(
                    format!("the CNAMEs of {name} lead nowhere: {}", chain.join(" → ")),
                    format!("make {name} a CNAME for one name that has addresses"),
                )));
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
    pub(super) fn error(reason: String, remedy: String) -> Self {
        Self { is_error: true, is_of_caa: false, reason, remedy }
    }

    pub(super) fn warning(reason: String, remedy: String) -> Self {
        Self { is_error: false, is_of_caa: false, reason, remedy }
    }

    fn of_caa(self) -> Self {
        Self { is_of_caa: true, ..self }
    }
}

// === impl DnsReport ===

impl DnsReport {
    /// Whether CAA records that are known let the CA with these identities issue to us; one that is unknown may, as far as
    /// anybody can say.
    pub(super) fn allows(&self, caa_identities: &[String]) -> bool {
        let Some((at, records)) = &self.relevant_caa else { return true };
        !caa::judge(at, records, caa_identities).iter().any(|finding| finding.is_error)
    }

    fn unanswered(&mut self, name: &str, why: String) -> DnsFinding {
        let finding = DnsFinding::error(
            format!("{name} cannot be resolved: {why}"),
            format!("see that the DNS servers of {name} answer, and that [acme] resolver is one that does"),
        );
        self.unanswered.get_or_insert(why);
        finding
    }
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
    fn records_that_forbid_one_ca_may_allow_another() {
        let mut record = CAA::new_issue(false, None, Vec::new());
        record.value = b"b.example".to_vec();
        let report = |relevant_caa| DnsReport { relevant_caa, ..DnsReport::default() };
        let allows = |report: &DnsReport, ca: &str| report.allows(&[ca.to_owned()]);
        let only_b = report(Some(("shoes.example".to_owned(), vec![record])));
        assert!(!allows(&only_b, "a.example") && allows(&only_b, "b.example") && only_b.allows(&[]));
        assert!(allows(&report(None), "a.example"), "nothing is known");
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
}
