//! What the world outside the machine sees of a name: DNS, port 80, a handshake.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Empty;
use hyper_util::rt::TokioIo;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

use super::check::{Findings, Leaves};
use super::count;
use crate::account::ServerName;
use crate::console::Door;
use crate::issuance::{Dns, DnsReport};
use crate::tls::chain::rfc3339;
use crate::tls::probe::{Clients, ProbeError, Served, served_leaf, served_to};

/// For one connection, handshake or answer.
const PATIENCE: Duration = Duration::from_secs(5);
/// A token that no CA gives (RFC 8555, 8.3).
const CHALLENGE: &str = "/.well-known/acme-challenge/pixelgate-cert-check";
const PROXY_UNKNOWN: &[u8] = b"PROXY UNKNOWN\r\n";

/// A server's answer on port 80, as far as it tells servers apart.
#[derive(Debug, PartialEq, Eq)]
struct Answer {
    status: u16,
    location: Option<String>,
}

// === impl Findings ===

impl Findings {
    /// Where the name leads, and who may issue for it. Where `known` leads should be known, if anything is.
    pub(super) async fn dns(
        &mut self,
        resolver: Option<SocketAddr>,
        known: &ServerName,
        here: &[IpAddr],
        identities: &[String],
    ) -> DnsReport {
        let remedy = "name a DNS server that answers with --resolver or [acme] resolver";
        let dns = match Dns::new(resolver) {
            Ok(dns) => dns,
            Err(error) => {
                self.prevented("dns", format!("where the name leads: {error}"), remedy);
                return DnsReport::default();
            }
        };
        let report = dns.inspect(&self.name, here, identities).await;
        // A server that answers nothing at all says nothing of this name.
        if let Some(why) = &report.unanswered
            && !dns.answers(known).await
        {
            self.prevented("dns", format!("where the name leads: no DNS server answers ({why})"), remedy);
            return DnsReport::default();
        }
        let mut path = vec![self.name.to_string()];
        path.extend(report.chain.iter().cloned());
        let addresses: Vec<_> = report.addresses.iter().map(ToString::to_string).collect();
        let shown = format!("{} at {}", path.join(" → "), addresses.join(", "));
        if !report.findings.iter().any(|finding| finding.is_error) {
            self.ok("dns", shown);
            let caa = if report.caa.is_empty() {
                "no CAA records: any CA may issue".to_owned()
            } else {
                report.caa.join(", ")
            };
            self.ok("caa", caa);
        }
        for finding in &report.findings {
            let tell = if finding.is_error { Self::error } else { Self::warning };
            tell(self, "dns", finding.reason.clone(), finding.remedy.clone());
        }
        if here.is_empty() {
            self.skipped(
                "dns",
                "whether this is the gateway's own address: [host] addresses or --address says what that is",
            );
        }
        report
    }

    /// What a CA would meet when it asks for an HTTP-01 answer.
    pub(super) async fn port_80(&mut self, doors: &[Door], addresses: &[IpAddr]) {
        let mut ours = None;
        for door in doors {
            match ask(door.address, &self.name, door.proxy_header).await {
                Ok(answer) => {
                    self.ok("port 80", format!("the gateway answers at {} ({})", door.address, answer.status));
                    ours = Some(answer);
                }
                Err(error) => {
                    let remedy = "see the gateway's log; HTTP-01 needs a listener in [listen] http";
                    self.error("port 80", format!("no answer at {}: {error}", door.address), remedy);
                }
            }
        }
        if doors.is_empty() {
            let remedy = "set [listen] http, or be sure that your CA uses TLS-ALPN-01 on port 443";
            self.warning("port 80", "the gateway listens to no plain HTTP: HTTP-01 cannot work", remedy);
        }
        for address in addresses {
            let url = format!("http://{}{CHALLENGE} at {address}", self.name);
            match ask(SocketAddr::new(*address, 80), &self.name, false).await {
                Ok(answer) if Some(&answer) == ours.as_ref() => {
                    self.ok("port 80", format!("{url} leads to this gateway"))
                }
                Ok(answer) => {
                    let text = format!("{url} is answered {} by something else than this gateway", answer.status);
                    self.warning(
                        "port 80",
                        text,
                        "let port 80 of that address lead here, without a redirect or cache in between",
                    );
                }
                Err(error) => {
                    let remedy = "open port 80 in the firewall; behind address translation try it from outside";
                    self.warning("port 80", format!("{url} cannot be reached from here: {error}"), remedy);
                }
            }
        }
    }

    /// What a client gets who asks for the name.
    pub(super) async fn served(&mut self, doors: &[Door], addresses: &[IpAddr], leaves: &Leaves) {
        let mut ours = None;
        for door in doors {
            let at = format!("a client at {} gets", door.address);
            match served_leaf(door.address, &self.name, door.proxy_header, PATIENCE).await {
                Ok(served) => {
                    self.compare(&at, &served, leaves.first.as_deref());
                    ours = Some(served);
                }
                Err(error @ ProbeError::Handshake(_)) => {
                    self.error(
                        "served",
                        format!("{at} no certificate: {error}"),
                        "see the lines above; the name has none that can be served",
                    );
                }
                Err(error) => self.error("served", format!("{at} no answer: {error}"), "see the gateway's log"),
            }
            if let Some(rsa) = &leaves.rsa {
                let at = format!("a client at {} that knows RSA only gets", door.address);
                match served_to(Clients::RsaOnly, door.address, &self.name, door.proxy_header, PATIENCE).await {
                    Ok(served) => self.compare(&at, &served, Some(rsa)),
                    Err(error) => self.error(
                        "served",
                        format!("{at} nothing: {error}"),
                        "see the lines above; `pixelgate reload` makes the gateway take up the RSA twin",
                    ),
                }
            }
        }
        for address in addresses {
            let at = SocketAddr::new(*address, 443);
            match (served_leaf(at, &self.name, false, PATIENCE).await, &ours) {
                (Ok(served), Some(ours)) if served.chain_der == ours.chain_der => {
                    self.ok("served", format!("a client at {at} gets the same"));
                }
                (Ok(served), _) => {
                    let text = format!(
                        "a client at {at} gets another certificate, by {} until {}",
                        served.issuer,
                        rfc3339(served.not_after)
                    );
                    self.warning(
                        "served",
                        text,
                        "let port 443 of that address lead to this gateway, with TLS passed through",
                    );
                }
                (Err(error), _) => {
                    let remedy = "open port 443 in the firewall; behind address translation try it from outside";
                    self.warning("served", format!("a client at {at} gets nothing: {error}"), remedy);
                }
            }
        }
    }

    fn compare(&mut self, at: &str, served: &Served, leaf: Option<&[u8]>) {
        let text = format!(
            "{at} {}, the first by {} until {}",
            count(served.chain_der.len(), "certificate"),
            served.issuer,
            rfc3339(served.not_after)
        );
        if leaf.is_none_or(|leaf| served.chain_der.first().is_some_and(|first| first == leaf)) {
            self.ok("served", text);
        } else {
            self.warning(
                "served",
                format!("{text}: not the one in the files"),
                "`pixelgate reload` makes the gateway take it up",
            );
        }
        if !served
            .names
            .iter()
            .any(|name| *name == self.name.as_str() || Some(name) == ServerName::wildcard(self.name.as_str()).as_ref())
        {
            self.error("served", format!("it is for {}", served.names.join(", ")), "get a certificate for this name");
        }
    }
}

/// Asks for a challenge's answer that nobody offered.
async fn ask(address: SocketAddr, name: &ServerName, proxy_header: bool) -> anyhow::Result<Answer> {
    let exchange = async {
        let mut socket = TcpStream::connect(address).await?;
        if proxy_header {
            socket.write_all(PROXY_UNKNOWN).await?;
        }
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(socket)).await?;
        let driver = tokio::spawn(connection);
        let request = http::Request::get(CHALLENGE).header(http::header::HOST, name.as_str());
        let response = sender.send_request(request.body(Empty::<Bytes>::new())?).await?;
        driver.abort();
        let location = response.headers().get(http::header::LOCATION).and_then(|value| value.to_str().ok());
        anyhow::Ok(Answer { status: response.status().as_u16(), location: location.map(str::to_owned) })
    };
    tokio::time::timeout(PATIENCE, exchange).await.map_err(|_| anyhow::anyhow!("no answer within {PATIENCE:?}"))?
}
