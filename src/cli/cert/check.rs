//! `pixelgate cert check`: everything between a name and a visitor's padlock, one line each.

use std::collections::BTreeSet;
use std::net::SocketAddr;

use http::StatusCode;
use serde::Serialize;

use super::files::Configured;
use super::{CheckArgs, Ended, GatewayArgs, client, count, say, say_json};
use crate::account::ServerName;
use crate::cli::client::CallError;
use crate::console::{CertificateDetail, CertificateView};
use crate::issuance::DnsReport;

/// The state of a name whose certificate is ordered when a visitor comes.
const WAITING: &str = "waiting";
const NO_VISITOR: &str = "what a client sees: whoever connects is its first visitor, for whom a certificate is ordered";

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
    /// What to do, where there is something to do.
    remedy: Option<String>,
}

/// The leaves in the files of a name, DER.
#[derive(Default)]
pub(super) struct Leaves {
    pub(super) first: Option<Vec<u8>>,
    /// Of the twin for clients that cannot use the first one.
    pub(super) rsa: Option<Vec<u8>>,
}

#[derive(Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Level {
    Ok,
    /// What a warning or an error is about.
    Info,
    Warning,
    Error,
    /// Could not be looked at: says nothing of the name.
    Skipped,
}

pub(super) fn run(gateway: &GatewayArgs, args: &CheckArgs) -> anyhow::Result<Ended> {
    let mut findings = Findings::new(args.name.clone());
    let configured = Configured::read(gateway);
    let leaves = findings.configuration(&configured)?;
    // What the command line does not say is as the gateway has it.
    let written = configured.as_ref().ok().map(|configured| &*configured.gateway);
    let resolver = args.resolver.or(written.and_then(|config| config.acme.resolver));
    let here = match (args.addresses.as_slice(), written) {
        ([], Some(config)) => config.host.addresses.clone(),
        (given, _) => given.to_vec(),
    };
    let running = findings.running(gateway)?;
    let directories = written.map(|config| &config.acme).filter(|acme| acme.enabled);
    let directories: Vec<&str> =
        directories.iter().flat_map(|acme| &acme.accounts).map(|account| account.directory.as_str()).collect();
    let told = running.as_ref().map_or(&[][..], |detail| detail.caa_identities.as_slice());
    let identities = findings.identities(&args.identities, told, &directories);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let known = written.map_or(&args.name, |config| &config.host.domain);
        // Whom the gateway asks is in the file; somebody else may know another world.
        let report = if written.is_none() && resolver.is_none() {
            findings.prevented(
                "dns",
                "where the name leads: pixelgate.toml says which DNS server to ask",
                "mend it, or name the DNS server with --resolver",
            );
            DnsReport::default()
        } else {
            findings.dns(resolver, known, &here, &identities).await
        };
        match &running {
            Some(detail) => {
                let at =
                    |port| report.addresses.iter().map(|address| SocketAddr::new(*address, port)).collect::<Vec<_>>();
                findings.port_80(&detail.http, &at(80), &here).await;
                if detail.certificate.state == WAITING {
                    findings.prevented(
                        "served",
                        NO_VISITOR,
                        format!("`pixelgate cert issue {}` orders one now", args.name),
                    );
                } else {
                    findings.served(&detail.https, &at(443), &here, &leaves).await;
                }
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
    Ok(if findings.has(Level::Error) > 0 { Ended::Bad } else { Ended::Fine })
}

// === impl Findings ===

impl Findings {
    pub(super) fn new(name: ServerName) -> Self {
        Self { name, lines: Vec::new() }
    }

    pub(super) fn ok(&mut self, about: &'static str, text: impl Into<String>) {
        self.lines.push(Line { about, level: Level::Ok, text: text.into(), remedy: None });
    }

    pub(super) fn info(&mut self, about: &'static str, text: impl Into<String>) {
        self.lines.push(Line { about, level: Level::Info, text: text.into(), remedy: None });
    }

    pub(super) fn skipped(&mut self, about: &'static str, text: &str) {
        self.lines.push(Line { about, level: Level::Skipped, text: text.to_owned(), remedy: None });
    }

    /// Could not be looked at, and what to do so that it can.
    pub(super) fn prevented(&mut self, about: &'static str, text: impl Into<String>, remedy: impl Into<String>) {
        self.lines.push(Line { about, level: Level::Skipped, text: text.into(), remedy: Some(remedy.into()) });
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
                Level::Info => "info",
                Level::Warning => "warning",
                Level::Error => "error",
                Level::Skipped => "not looked at",
            };
            say(format_args!("{level:<13} {:<13} {}", line.about, line.text))?;
            line.remedy.iter().try_for_each(|remedy| say(format_args!("{:27} → {remedy}", "")))?;
        }
        let (errors, warnings) = (count(self.has(Level::Error), "error"), count(self.has(Level::Warning), "warning"));
        say(format_args!("{}: {errors}, {warnings}, {} not looked at", self.name, self.has(Level::Skipped)))
    }

    /// How many lines there are of a level.
    fn has(&self, level: Level) -> usize {
        self.lines.iter().filter(|line| line.level == level).count()
    }

    /// The name in the configuration, and its files; the leaves in them.
    fn configuration(&mut self, configured: &Result<Configured, Vec<String>>) -> anyhow::Result<Leaves> {
        let configured = match configured {
            Ok(configured) => configured,
            Err(errors) => {
                let text = format!("pixelgate.toml cannot be used: {}", errors.join("; "));
                self.error("configuration", text, "mend it; `pixelgate check` shows every problem");
                return Ok(Leaves::default());
            }
        };
        match configured.names().into_iter().find(|(name, _)| *name == self.name) {
            Some((_, Some(account))) => self.ok("configuration", format!("a name of the account {account}")),
            Some((_, None)) => self.ok("configuration", "the host's own domain"),
            None => {
                let remedy = "add it to `domains` of an account without errors, then `pixelgate reload`";
                self.error("configuration", format!("{} is in no account's domains", self.name), remedy);
                self.skipped("certificate", "its files: only names of the configuration have any");
                return Ok(Leaves::default());
            }
        }
        self.files(configured)
    }

    /// What the running gateway knows of the name, and of the accounts at which it orders.
    fn known(&mut self, detail: &CertificateDetail) {
        self.state(&detail.certificate);
        for account in &detail.ca_accounts {
            match account.paused_until {
                Some(_) => self.warning(
                    "ca account",
                    account.summary(),
                    account.remedy.as_deref().unwrap_or("nothing about the name can mend that: wait"),
                ),
                None => self.ok("ca account", account.summary()),
            }
        }
    }

    /// How the running gateway has the name. Its files were looked at here before.
    fn state(&mut self, view: &CertificateView) {
        let mut text = format!("it knows the name: {}", view.state);
        view.problem.iter().for_each(|problem| text.push_str(&format!("; {problem}")));
        let files_are_good = self.lines.iter().any(|line| line.about == "key" && line.level == Level::Ok);
        let is_unread = view.state == "unreadable" && files_are_good;
        if is_unread {
            text.push_str("; this command, which may run as another user, can read it");
        }
        view.next().iter().for_each(|next| text.push_str(&format!("; next: {next}")));
        view.last_error.iter().for_each(|error| text.push_str(&format!("; last error: {error}")));
        let remedy = match &view.remedy {
            Some(_) if files_are_good && !is_unread && view.state != "valid" => {
                format!("the files are good now: `pixelgate cert reload {}` makes it look at them again", view.name)
            }
            Some(remedy) if view.state != "missing" || view.next_action.is_none() => remedy.clone(),
            _ if view.next_action.is_some() && view.last_error.is_some() => {
                "it is ordered by itself; its last error, or a line after this one, says what keeps it".to_owned()
            }
            _ if view.next_action.is_some() => {
                "it is ordered by itself; where something keeps it, a line after this one says so".to_owned()
            }
            _ => "nothing is ordered for it: [acme] is not enabled, its account is not active, or `pixelgate status` says why"
                .to_owned(),
        };
        match view.state.as_str() {
            "valid" if view.problem.is_none() && view.last_error.is_none() => self.ok("gateway", text),
            "valid" => self.warning("gateway", text, remedy),
            WAITING if view.last_error.is_none() => self.info("gateway", text),
            _ => self.error("gateway", text, remedy),
        }
    }

    /// What CAs call themselves in CAA records: what the command line says, else what the CAs told the gateway, and what is
    /// known of these directories.
    fn identities(&mut self, given: &[String], told: &[String], directories: &[&str]) -> Vec<String> {
        if !given.is_empty() || directories.is_empty() {
            return given.to_vec();
        }
        let known: BTreeSet<&str> = directories.iter().copied().filter_map(known_identity).collect();
        let whence = whence(told, &known);
        // One of several CAs may not have answered.
        let identities: BTreeSet<&str> = told.iter().map(String::as_str).chain(known).collect();
        let identities: Vec<String> = identities.into_iter().map(str::to_owned).collect();
        if identities.is_empty() {
            let text = format!(
                "whether CAA records allow the CA at {}: --ca says what it calls itself there",
                directories.join(", ")
            );
            self.skipped("caa", &text);
        } else {
            self.ok("caa", format!("judged for {}, {whence}", identities.join(", ")));
        }
        identities
    }

    /// What the running gateway says of the name, if there is one.
    fn running(&mut self, gateway: &GatewayArgs) -> anyhow::Result<Option<CertificateDetail>> {
        match client::try_call(gateway, "GET", &format!("/certificates/{}", self.name), None) {
            Ok(answer) if answer.status.is_success() => {
                let detail: CertificateDetail = serde_json::from_value(answer.body)?;
                self.known(&detail);
                Ok(Some(detail))
            }
            Ok(answer) => {
                let in_files = self.lines.iter().any(|line| line.about == "configuration" && line.level == Level::Ok);
                if answer.status == StatusCode::NOT_FOUND && !in_files {
                    self.skipped("gateway", "what it does with the name: it does not know it");
                } else {
                    self.error("gateway", answer.reason(), "`pixelgate reload` makes it take up the configuration");
                }
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

/// Who says what CAs call themselves: they did, and what is known of their directories may add to it.
fn whence(told: &[String], known: &BTreeSet<&str>) -> &'static str {
    let is_told = known.iter().all(|identity| told.iter().any(|told| told == identity));
    match (told.is_empty(), is_told) {
        (true, _) => "as [acme] directory says",
        (false, true) => "as CAs say themselves",
        (false, false) => "as CAs say themselves and [acme] directory says",
    }
}

/// What the CA of a directory calls itself in CAA records, where that is known for good.
fn known_identity(directory: &str) -> Option<&'static str> {
    let host = directory.strip_prefix("https://")?.split(['/', ':']).next()?;
    host.ends_with(".api.letsencrypt.org").then_some("letsencrypt.org")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use serde_json::json;

    use super::*;

    /// Level, text and remedy of what is told of a name that the gateway has so.
    fn told(files_are_good: bool, state: &str, more: serde_json::Value) -> (Level, String, String) {
        let mut view = json!({ "name": "a.example", "state": state, "expires_soon": false });
        view.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let mut findings = Findings::new("a.example".parse().unwrap());
        if files_are_good {
            findings.ok("key", "belongs to the certificate");
        }
        findings.state(&serde_json::from_value(view).unwrap());
        let line = findings.lines.pop().unwrap();
        (line.level, line.text, line.remedy.unwrap_or_default())
    }

    #[test]
    fn the_gateways_own_trouble_with_a_name_is_never_fine() {
        let (level, text, _) = told(true, "valid", json!({}));
        assert!(level == Level::Ok && text == "it knows the name: valid", "{text}");
        let problem = json!({ "problem": "/c/a.example/key.pem: cannot be read", "remedy": "chown" });
        let (level, text, remedy) = told(true, "unreadable", problem.clone());
        assert!(level == Level::Error && remedy == "chown", "{remedy}");
        assert!(text.contains("unreadable; /c/a.example/key.pem: cannot be read; this command"), "{text}");
        for state in ["missing", "expired", "mismatch"] {
            let (level, _, remedy) = told(true, state, problem.clone());
            assert!(level == Level::Error && remedy.contains("`pixelgate cert reload a.example`"), "{remedy}");
            let (level, text, remedy) = told(false, state, problem.clone());
            assert!(level == Level::Error && remedy == "chown" && !text.contains("this command"), "{text} {remedy}");
        }
        let (level, _, remedy) = told(false, "valid", problem);
        assert!(level == Level::Warning && remedy == "chown", "{remedy}");
        let (level, text, _) = told(false, "waiting", json!({ "next_action": "wait for a visitor" }));
        assert!(level == Level::Info && text.ends_with("waiting; next: wait for a visitor"), "{text}");
        let ordered =
            json!({ "problem": "none", "remedy": "put one there", "next_action": "retry", "last_error": "no DNS" });
        let (level, text, remedy) = told(false, "missing", ordered);
        assert!(level == Level::Error && text.ends_with("next: retry; last error: no DNS"), "{text}");
        assert!(remedy.contains("its last error, or a line after this one"), "{remedy}");
        // On demand that there is none is no problem, but of an account that is not active nothing is ordered either.
        let (level, _, remedy) = told(false, "missing", json!({}));
        assert!(level == Level::Error && remedy.contains("nothing is ordered for it"), "{remedy}");
        let (level, _, remedy) = told(false, "missing", json!({ "next_action": "ordering" }));
        assert!(level == Level::Error && remedy.contains("it is ordered by itself"), "{remedy}");
    }

    #[test]
    fn it_is_told_whether_a_ca_said_itself_what_it_is_called() {
        let (told, known) = (["ca.example".to_owned()], BTreeSet::from(["letsencrypt.org"]));
        assert_eq!(whence(&[], &known), "as [acme] directory says");
        assert_eq!(whence(&told, &BTreeSet::new()), "as CAs say themselves");
        assert_eq!(whence(&told, &BTreeSet::from(["ca.example"])), "as CAs say themselves");
        assert_eq!(whence(&told, &known), "as CAs say themselves and [acme] directory says");
    }
}
