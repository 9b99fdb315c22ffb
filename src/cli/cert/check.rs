//! `pixelgate cert check`: everything between a name and a visitor's padlock, one line each.

use serde::Serialize;

use super::files::Configured;
use super::{CheckArgs, Ended, GatewayArgs, client, say, say_json};
use crate::account::ServerName;
use crate::cli::client::CallError;
use crate::clock::now_ms;
use crate::console::CertificateDetail;
use crate::tls::chain::{Chain, ChainFault, rfc3339};

/// What was found, in the order in which it was looked at.
#[derive(Serialize)]
pub(super) struct Findings {
    pub(super) name: ServerName,
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
    pub(super) fn ok(&mut self, about: &'static str, text: impl Into<String>) {
        self.lines.push(Line { about, level: Level::Ok, text: text.into(), remedy: None });
    }

    pub(super) fn skipped(&mut self, about: &'static str, text: &str) {
        self.lines.push(Line { about, level: Level::Skipped, text: text.to_owned(), remedy: None });
    }

    pub(super) fn warning(&mut self, about: &'static str, text: impl Into<String>, remedy: impl Into<String>) {
        self.lines.push(Line { about, level: Level::Warning, text: text.into(), remedy: Some(remedy.into()) });
    }

    pub(super) fn error(&mut self, about: &'static str, text: impl Into<String>, remedy: impl Into<String>) {
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

    pub(super) fn chain(&mut self, about: &'static str, chain: &Chain) {
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
}
