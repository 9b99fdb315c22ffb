//! `pixelgate cert check`: everything between a name and a visitor's padlock, one line each.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Empty;
use hyper_util::rt::TokioIo;
use serde::Serialize;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

use super::files::Configured;
use super::{CheckArgs, Ended, GatewayArgs, client, say, say_json};
use crate::account::ServerName;
use crate::cli::client::CallError;
use crate::clock::now_ms;
use crate::console::{CertificateDetail, Door};
use crate::issuance::{Dns, DnsReport};
use crate::tls::chain::{Chain, ChainFault, rfc3339};
use crate::tls::probe::{ProbeError, Served, served_leaf};

/// For one connection, handshake or answer.
const PATIENCE: Duration = Duration::from_secs(5);
/// A token that no CA gives (RFC 8555, 8.3).
const CHALLENGE: &str = "/.well-known/acme-challenge/pixelgate-cert-check";
const PROXY_UNKNOWN: &[u8] = b"PROXY UNKNOWN\r\n";

/// What was found, in the order in which it was looked at.
#[derive(Serialize)]
struct Findings {
    name: ServerName,
    lines: Vec<Line>,
}

#[derive(Serialize)]
struct Line {
    /// What was looked at.
    about: &'static str,
    level: Level,
    text: String,
    /// What to do, unless all is well.
    remedy: Option<String>,
}

#[derive(Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Level {
    Ok,
    Warning,
    Error,
    /// Could not be looked at.
    Skipped,
}

/// A server's answer on port 80, as far as it tells servers apart.
#[derive(Debug, PartialEq, Eq)]
struct Answer {
    status: u16,
    location: Option<String>,
}

pub(super) fn run(gateway: &GatewayArgs, args: &CheckArgs) -> anyhow::Result<Ended> {
    let mut findings = Findings { name: args.name.clone(), lines: Vec::new() };
    let leaf = findings.configuration(gateway);
    // What the command line does not say is as the gateway has it.
    let written = Configured::read(gateway).ok().map(|configured| configured.gateway);
    let written = written.as_deref();
    let resolver = args.resolver.or(written.and_then(|config| config.acme.resolver));
    let here = match (args.addresses.as_slice(), written) {
        ([], Some(config)) => config.host.addresses.clone(),
        (given, _) => given.to_vec(),
    };
    let running = findings.running(gateway)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let report = findings.dns(resolver, &here, &args.identities).await;
        match &running {
            Some(detail) => {
                findings.port_80(&detail.http, &report.addresses).await;
                findings.served(&detail.https, &report.addresses, leaf.as_deref()).await;
            }
            None => findings
                .skipped("served", "port 80 and what a client sees: that needs a running gateway that knows the name"),
        }
    });
    if args.json {
        say_json(&findings)?;
    } else {
        findings.print()?;
    }
    Ok(if findings.lines.iter().any(|line| line.level == Level::Error) { Ended::Bad } else { Ended::Fine })
}

// === impl Findings ===

impl Findings {
    fn ok(&mut self, about: &'static str, text: impl Into<String>) {
        self.lines.push(Line { about, level: Level::Ok, text: text.into(), remedy: None });
    }

    fn skipped(&mut self, about: &'static str, text: &str) {
        self.lines.push(Line { about, level: Level::Skipped, text: text.to_owned(), remedy: None });
    }

    fn warning(&mut self, about: &'static str, text: impl Into<String>, remedy: impl Into<String>) {
        self.lines.push(Line { about, level: Level::Warning, text: text.into(), remedy: Some(remedy.into()) });
    }

    fn error(&mut self, about: &'static str, text: impl Into<String>, remedy: impl Into<String>) {
        self.lines.push(Line { about, level: Level::Error, text: text.into(), remedy: Some(remedy.into()) });
    }

    fn print(&self) -> std::io::Result<()> {
        for line in &self.lines {
            let level = match line.level {
                Level::Ok => "ok",
                Level::Warning => "warning",
                Level::Error => "error",
                Level::Skipped => "not looked at",
            };
            say(format_args!("{level:<8} {:<13} {}", line.about, line.text))?;
            line.remedy.iter().try_for_each(|remedy| say(format_args!("{:22} → {remedy}", "")))?;
        }
        Ok(())
    }

    /// The name in the configuration, and its files; the leaf in them.
    fn configuration(&mut self, gateway: &GatewayArgs) -> Option<Vec<u8>> {
        let configured = match Configured::read(gateway) {
            Ok(configured) => configured,
            Err(errors) => {
                let text = format!("pixelgate.toml cannot be used: {}", errors.join("; "));
                self.error("configuration", text, "mend it; `pixelgate check` shows every problem");
                return None;
            }
        };
        match configured.names().into_iter().find(|(name, _)| *name == self.name) {
            Some((_, Some(account))) => self.ok("configuration", format!("a name of the account {account}")),
            Some((_, None)) => self.ok("configuration", "the host's own domain"),
            None => {
                let remedy = "add it to `domains` of an account without errors, then `pixelgate reload`";
                self.error("configuration", format!("{} is in no account's domains", self.name), remedy);
            }
        }
        self.files(&configured)
    }

    fn files(&mut self, configured: &Configured) -> Option<Vec<u8>> {
        let store = configured.store(std::slice::from_ref(&self.name));
        for problem in store.problems() {
            self.error("certificate", format!("{}: {problem}", problem.file.display()), problem.remedy());
        }
        let state = store.state(&self.name)?;
        let pem = match std::fs::read(state.folder.join("chain.pem")) {
            Ok(pem) => pem,
            Err(error) => {
                let text = format!("{}: {error}", state.folder.join("chain.pem").display());
                self.error("certificate", text, "run this command as root or as the gateway's user");
                return None;
            }
        };
        let chain = Chain::from_pem(&pem)?;
        let leaf = chain.leaf()?;
        let place = state.folder.display();
        self.ok("certificate", format!("{place}: for {}, {} by {}", leaf.names.join(", "), leaf.key, leaf.issuer));
        self.chain("chain", &chain);
        let (now, until) = (now_ms() / 1_000, rfc3339(leaf.not_after));
        let left = leaf.not_after - now;
        if left < 0 {
            self.error(
                "expiry",
                format!("ended at {until}"),
                "renew it; `pixelgate cert issue`, or `pixelgate cert import`",
            );
        } else if left < (leaf.not_after - leaf.not_before) / 4 {
            let text = format!("ends at {until}, in {} days", left / 86_400);
            self.warning("expiry", text, "see that it is renewed: `pixelgate cert list` shows what comes next");
        } else {
            self.ok("expiry", format!("valid until {until}, {} days", left / 86_400));
        }
        chain.to_der()?.into_iter().next()
    }

    fn chain(&mut self, about: &'static str, chain: &Chain) {
        match chain.judge(now_ms() / 1_000) {
            Ok(()) => self.ok(about, "in order, and complete to a root that this machine trusts"),
            Err(fault @ ChainFault::Order(..)) => {
                self.error(about, fault.to_string(), "put leaf, intermediates and nothing else in this order");
            }
            Err(fault @ ChainFault::Unanchored(_)) => {
                let remedy = "add the intermediate certificate that your CA publishes, unless this is a private CA";
                self.warning(about, fault.to_string(), remedy);
            }
            Err(fault @ ChainFault::UnknownRoot(_)) => {
                self.warning(
                    about,
                    fault.to_string(),
                    "fine for a private CA that all clients trust, else get another certificate",
                );
            }
            Err(fault) => self.error(about, fault.to_string(), "get another certificate"),
        }
    }

    /// What the running gateway says of the name, if there is one.
    fn running(&mut self, gateway: &GatewayArgs) -> anyhow::Result<Option<CertificateDetail>> {
        match client::try_call(gateway, "GET", &format!("/certificates/{}", self.name), None) {
            Ok(answer) if answer.status.is_success() => {
                let detail: CertificateDetail = serde_json::from_value(answer.body)?;
                let view = &detail.certificate;
                let next = view
                    .next_action
                    .as_ref()
                    .map(|action| format!("; next: {action} {}", view.next_action_at.as_deref().unwrap_or_default()));
                let text = format!("it knows the name: {}{}", view.state, next.unwrap_or_default());
                match &view.last_error {
                    Some(error) => {
                        self.warning("gateway", format!("{text}; last error: {error}"), "see the lines below")
                    }
                    None => self.ok("gateway", text),
                }
                Ok(Some(detail))
            }
            Ok(answer) => {
                let error = answer.body.get("error").and_then(|text| text.as_str()).unwrap_or("it refuses to answer");
                self.error("gateway", error, "`pixelgate reload` makes it take up the configuration");
                Ok(None)
            }
            Err(CallError::Unreachable(socket, error)) => {
                self.skipped("gateway", &format!("no gateway answers at {}: {error}", socket.display()));
                Ok(None)
            }
            Err(CallError::Other(error)) => Err(error),
        }
    }

    async fn dns(&mut self, resolver: Option<SocketAddr>, here: &[IpAddr], identities: &[String]) -> DnsReport {
        let dns = match Dns::new(resolver) {
            Ok(dns) => dns,
            Err(error) => {
                self.error("dns", error.to_string(), "name a DNS server with --resolver or [acme] resolver");
                return DnsReport::default();
            }
        };
        let report = dns.inspect(&self.name, here, identities).await;
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
    async fn port_80(&mut self, doors: &[Door], addresses: &[IpAddr]) {
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
    async fn served(&mut self, doors: &[Door], addresses: &[IpAddr], leaf: Option<&[u8]>) {
        let mut ours = None;
        for door in doors {
            let at = format!("a client at {} gets", door.address);
            match served_leaf(door.address, &self.name, door.proxy_header, PATIENCE).await {
                Ok(served) => {
                    self.compare(&at, &served, leaf);
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
            "{at} {} certificates, the first by {} until {}",
            served.chain_der.len(),
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
