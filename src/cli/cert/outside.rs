//! What the world outside the machine sees of a name: DNS, port 80, a handshake.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use bytes::Bytes;
use http::StatusCode;
use http_body_util::{BodyExt, Collected, Empty, Limited};
use hyper_util::rt::TokioIo;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

use super::check::{Findings, Leaves};
use super::count;
use crate::account::ServerName;
use crate::console::Door;
use crate::issuance::{Dns, DnsReport};
use crate::tls::SIGN;
use crate::tls::chain::rfc3339;
use crate::tls::probe::{Clients, ProbeError, Served, served_leaf, served_to};

/// For one connection, handshake or answer.
const PATIENCE: Duration = Duration::from_secs(5);
/// Where a CA asks (RFC 8555, 8.3).
const CHALLENGE: &str = "/.well-known/acme-challenge/";
/// Bytes of an answer; a sign is shorter.
const ANSWER_BYTES_MAX: usize = 4_096;
const PROXY_UNKNOWN: &[u8] = b"PROXY UNKNOWN\r\n";

/// A server's answer on port 80.
struct Answer {
    status: StatusCode,
    body: Bytes,
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
        // Together, for a person waits for it.
        let (report, answers) = tokio::join!(dns.inspect(&self.name, here, identities), dns.answers(known));
        // A server that answers nothing at all says nothing of this name.
        if let Some(why) = report.unanswered.as_ref().filter(|_| !answers) {
            self.prevented("dns", format!("where the name leads: no DNS server answers ({why})"), remedy);
            return DnsReport::default();
        }
        // Right or wrong, what DNS says is shown.
        let is_wrong =
            |of_caa: bool| report.findings.iter().any(|finding| finding.is_error && finding.is_of_caa == of_caa);
        let show = |of_caa: bool| if is_wrong(of_caa) { Self::info } else { Self::ok };
        let mut path = vec![self.name.to_string()];
        path.extend(report.chain.iter().cloned());
        let addresses: Vec<_> = report.addresses.iter().map(ToString::to_string).collect();
        let addresses = match (addresses.as_slice(), &report.unanswered) {
            ([], Some(_)) => "at an address that is not known",
            ([], None) => "at no address",
            (addresses, _) => &format!("at {}", addresses.join(", ")),
        };
        show(false)(self, "dns", format!("{} {addresses}", path.join(" → ")));
        match report.caa.as_deref() {
            Some([]) => show(true)(self, "caa", "no CAA records: any CA may issue".to_owned()),
            Some(records) => show(true)(self, "caa", records.join(", ")),
            None => {}
        }
        for finding in &report.findings {
            let tell = if finding.is_error { Self::error } else { Self::warning };
            let about = if finding.is_of_caa { "caa" } else { "dns" };
            tell(self, about, finding.reason.clone(), finding.remedy.clone());
        }
        if here.is_empty() {
            self.skipped(
                "dns",
                "whether this is the gateway's own address: [host] addresses or --address says what that is",
            );
        }
        report
    }

    /// What a CA would meet when it asks for an HTTP-01 answer: at the gateway's own doors, and at the name's addresses.
    /// The gateway's own are those `here`, if that is known.
    pub(super) async fn port_80(&mut self, doors: &[Door], addresses: &[SocketAddr], here: &[IpAddr]) {
        // Nobody else can give the same answer, or have it from before.
        let path = format!("{CHALLENGE}{SIGN}{:032x}", rand::random::<u128>());
        let mut ours = None;
        for door in doors {
            match ask(door.address, &self.name, &path, door.proxy_header).await {
                Ok(answer) if answer.status == StatusCode::OK && !answer.body.is_empty() => {
                    self.ok("port 80", format!("the gateway answers at {}", door.address));
                    ours = Some(answer.body);
                }
                Ok(answer) => {
                    let text =
                        format!("{} is answered {} by something else than the gateway", door.address, answer.status);
                    let remedy = "see which process listens there (`ss -ltnp`), and stop it; if it is a gateway that was started \
                                  before an update, restart it";
                    self.error("port 80", text, remedy);
                }
                Err(error) => {
                    let remedy =
                        "the gateway listens there, as [listen] http says: see its log, and the machine's own firewall";
                    self.error("port 80", format!("no answer at {}: {error}", door.address), remedy);
                }
            }
        }
        if doors.is_empty() {
            let remedy = "set [listen] http, or be sure that your CA uses TLS-ALPN-01 on port 443";
            self.warning("port 80", "the gateway listens to no plain HTTP: HTTP-01 cannot work", remedy);
            // Whoever answers at the name's addresses, it is not the gateway.
            return;
        }
        for address in addresses {
            let url = format!("http://{}{CHALLENGE}… at {}", self.name, address.ip());
            match ask(*address, &self.name, &path, false).await {
                Ok(answer) if ours.as_ref().is_some_and(|ours| *ours == answer.body) => {
                    self.ok("port 80", format!("{url} leads to this gateway"));
                }
                Ok(answer) => {
                    let status = answer.status.as_u16();
                    let text = format!("{url} is answered {status} by something else than this gateway");
                    let remedy = "let port 80 of that address lead here, without a redirect or cache in between";
                    self.warning("port 80", text, self.or_change(address.ip(), here, remedy));
                }
                Err(error) => {
                    let remedy = "open port 80 in the firewall; behind address translation try it from outside";
                    let text = format!("{url} cannot be reached from here: {error}");
                    self.warning("port 80", text, self.or_change(address.ip(), here, remedy));
                }
            }
        }
    }

    /// What is to be done at an address of the gateway, or that the name is not to lead to it.
    fn or_change(&self, address: IpAddr, here: &[IpAddr], remedy: &str) -> String {
        if here.is_empty() || here.contains(&address) {
            return remedy.to_owned();
        }
        format!("{address} is not this gateway: change the records of {} as the line `dns` above says", self.name)
    }

    /// What a client gets who asks for the name. The gateway's own addresses are those `here`, if that is known.
    pub(super) async fn served(&mut self, doors: &[Door], addresses: &[SocketAddr], here: &[IpAddr], leaves: &Leaves) {
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
                        "the gateway serves none for the name: the line `gateway` above says why",
                    );
                }
                Err(error) => {
                    let remedy =
                        "the gateway listens there, as [listen] https says: see its log, and `pixelgate status`";
                    self.error("served", format!("{at} no answer: {error}"), remedy);
                }
            }
            if let Some(rsa) = &leaves.rsa {
                let at = format!("a client at {} that knows RSA only gets", door.address);
                match served_to(Clients::RsaOnly, door.address, &self.name, door.proxy_header, PATIENCE).await {
                    Ok(served) => self.compare(&at, &served, Some(rsa)),
                    Err(error) => self.error(
                        "served",
                        format!("{at} nothing: {error}"),
                        format!(
                            "mend what the lines above say of the RSA twin; `pixelgate cert reload {}` makes the gateway take \
                             it up",
                            self.name
                        ),
                    ),
                }
            }
        }
        for at in addresses {
            match (served_leaf(*at, &self.name, false, PATIENCE).await, &ours) {
                (Ok(served), Some(ours)) if served.chain_der == ours.chain_der => {
                    self.ok("served", format!("a client at {at} gets the same"));
                }
                (Ok(served), _) => {
                    let text = format!(
                        "a client at {at} gets another certificate, by {} until {}",
                        served.issuer,
                        rfc3339(served.not_after)
                    );
                    let remedy = "let port 443 of that address lead to this gateway, with TLS passed through";
                    self.warning("served", text, self.or_change(at.ip(), here, remedy));
                }
                (Err(error), _) => {
                    let remedy = "open port 443 in the firewall; behind address translation try it from outside";
                    let text = format!("a client at {at} gets nothing: {error}");
                    self.warning("served", text, self.or_change(at.ip(), here, remedy));
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
            let remedy = format!(
                "`pixelgate cert reload {}` makes the gateway take it up; if it does not, the line `gateway` above says why",
                self.name
            );
            self.warning("served", format!("{text}: not the one in the files"), remedy);
        }
        if !served.covers(&self.name) {
            let text = format!("it is for {}", served.names.join(", "));
            self.error("served", text, format!("put a certificate for {} in its place", self.name));
        }
    }
}

/// Asks as a CA does.
async fn ask(address: SocketAddr, name: &ServerName, path: &str, proxy_header: bool) -> anyhow::Result<Answer> {
    let exchange = async {
        let mut socket = TcpStream::connect(address).await?;
        if proxy_header {
            socket.write_all(PROXY_UNKNOWN).await?;
        }
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(socket)).await?;
        let driver = tokio::spawn(connection);
        let request = http::Request::get(path).header(http::header::HOST, name.as_str());
        let response = sender.send_request(request.body(Empty::<Bytes>::new())?).await?;
        let status = response.status();
        // What is longer, or breaks off, is no answer of ours.
        let body = Limited::new(response.into_body(), ANSWER_BYTES_MAX).collect().await;
        driver.abort();
        anyhow::Ok(Answer { status, body: body.map(Collected::to_bytes).unwrap_or_default() })
    };
    tokio::time::timeout(PATIENCE, exchange).await.map_err(|_| anyhow::anyhow!("no answer within {PATIENCE:?}"))?
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing)]
    use serde_json::Value;
    use tokio::io::AsyncReadExt;
    use tokio::net::TcpListener;

    use super::*;
    use crate::tls::Challenges;
    use crate::tls::chain::Chain;
    use crate::tls::testing::{Issued, serve};

    const NAME: &str = "a.example";

    fn findings() -> Findings {
        Findings::new(NAME.parse().unwrap())
    }

    /// Level and text of each line.
    fn told(findings: &Findings) -> Vec<(String, String)> {
        let lines = serde_json::to_value(findings).unwrap()["lines"].as_array().unwrap().clone();
        let text = |line: &Value, key: &str| line[key].as_str().unwrap().to_owned();
        lines.iter().map(|line| (text(line, "level"), text(line, "text"))).collect()
    }

    fn assert_told(findings: &Findings, expected: &[(&str, &str)]) {
        let told = told(findings);
        assert_eq!(told.len(), expected.len(), "{told:?}");
        for ((level, text), (expected_level, expected_text)) in told.iter().zip(expected) {
            assert!(level == expected_level && text.contains(expected_text), "{expected_text}: {told:?}");
        }
    }

    fn door(address: SocketAddr) -> Door {
        Door { address, proxy_header: false }
    }

    async fn nobody() -> SocketAddr {
        TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap()
    }

    /// Answers each request, by its path, on a connection of its own.
    async fn answering(answer: impl Fn(&str) -> String + Send + 'static) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move {
            loop {
                let (mut socket, _) = listener.accept().await.unwrap();
                let mut request = Vec::new();
                while !request.ends_with(b"\r\n\r\n") {
                    request.push(socket.read_u8().await.unwrap());
                }
                let path = String::from_utf8(request).unwrap().split(' ').nth(1).unwrap().to_owned();
                socket.write_all(answer(&path).as_bytes()).await.unwrap();
            }
        });
        address
    }

    /// A gateway's port 80.
    async fn gateway() -> SocketAddr {
        let challenges = Challenges::default();
        answering(move |path| {
            let sign = challenges.http_answer(NAME, path.strip_prefix(CHALLENGE).unwrap()).unwrap();
            format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{sign}", sign.len())
        })
        .await
    }

    #[tokio::test]
    async fn port_80_is_this_gateways_or_somebody_elses_or_nobodys() {
        let (ours, other_gateway, nobody) = (gateway().await, gateway().await, nobody().await);
        // As Caddy does, and the gateway itself for all that is no challenge.
        let redirecting = answering(|path| {
            format!("HTTP/1.1 308 Permanent Redirect\r\nLocation: https://{NAME}{path}\r\nContent-Length: 0\r\n\r\n")
        })
        .await;
        let mut findings = findings();
        findings.port_80(&[door(ours)], &[ours, redirecting, other_gateway, nobody], &[]).await;
        assert_told(
            &findings,
            &[
                ("ok", "the gateway answers at"),
                ("ok", "leads to this gateway"),
                ("warning", "is answered 308 by something else than this gateway"),
                ("warning", "is answered 200 by something else than this gateway"),
                ("warning", "cannot be reached from here"),
            ],
        );
        let mut findings = self::findings();
        findings.port_80(&[door(redirecting), door(nobody)], &[redirecting], &[]).await;
        assert_told(
            &findings,
            &[("error", "something else than the gateway"), ("error", "no answer at"), ("warning", "something else")],
        );
        let lines = serde_json::to_value(&findings).unwrap()["lines"].clone();
        let mut findings = self::findings();
        findings.port_80(&[], &[nobody], &[]).await;
        assert_told(&findings, &[("warning", "listens to no plain HTTP")]);
        assert!(lines[0]["remedy"].as_str().unwrap().contains("before an update, restart it"), "{lines}");
    }

    #[tokio::test]
    async fn an_address_that_is_not_the_gateways_is_for_dns_to_mend() {
        let (ours, nobody) = (gateway().await, nobody().await);
        let leaves = Leaves::default();
        let remedies = async |here: &str| {
            let here = [here.parse().unwrap()];
            let mut findings = findings();
            findings.port_80(&[door(ours)], &[nobody], &here).await;
            findings.served(&[], &[nobody], &here, &leaves).await;
            let lines = serde_json::to_value(&findings).unwrap()["lines"].as_array().unwrap().clone();
            lines[1..].iter().map(|line| line["remedy"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
        };
        for remedy in remedies("203.0.113.5").await {
            assert!(remedy.contains("127.0.0.1 is not this gateway: change the records of a.example"), "{remedy}");
        }
        let own = remedies("127.0.0.1").await;
        assert!(own.len() == 2 && own.iter().all(|remedy| remedy.contains("firewall")), "{own:?}");
    }

    #[tokio::test]
    async fn what_a_client_gets_is_compared_with_the_files_and_with_the_gateways_own() {
        let (issued, other) = (Issued::new(&[NAME]), Issued::new(&["*.example"]));
        let leaf = |issued: &Issued| Chain::from_pem(issued.chain.as_bytes()).unwrap().to_der().unwrap().remove(0);
        let (ours, theirs, nobody) = (serve(&issued).await, serve(&other).await, nobody().await);
        let mut findings = findings();
        let leaves = Leaves { first: Some(leaf(&issued)), rsa: None };
        findings.served(&[door(ours)], &[ours, theirs, nobody], &[], &leaves).await;
        assert_told(
            &findings,
            &[
                ("ok", "2 certificates"),
                ("ok", "gets the same"),
                ("warning", "gets another certificate, by Test Intermediate of *.example"),
                ("warning", "gets nothing"),
            ],
        );
        let strange = serve(&Issued::new(&["b.example"])).await;
        let mut findings = self::findings();
        findings.served(&[door(strange), door(nobody)], &[], &[], &leaves).await;
        assert_told(
            &findings,
            &[("warning", "not the one in the files"), ("error", "it is for b.example"), ("error", "no answer")],
        );
    }
}
