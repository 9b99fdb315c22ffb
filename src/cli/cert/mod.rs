//! `pixelgate cert`

mod check;
mod files;
mod found;
mod import;
mod judged;
mod outside;
mod reload;
mod whole;

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use clap::Subcommand;
use serde_json::json;

use super::client;
use super::{Ended, GatewayArgs, count, say, say_json, tell};
use crate::account::{AccountId, ServerName};
use crate::console::{CertificateView, Ordered};

#[derive(Subcommand)]
pub(super) enum Command {
    /// Every name's certificate, what needs a person first
    List(ListArgs),
    /// Find out why a name is not served, or no certificate is issued for it
    Check(CheckArgs),
    /// Put certificates in place that come from elsewhere: certbot, acme.sh, a reseller
    Import(ImportArgs),
    /// Serve names with the certificates that lie there now, and leave all else as it is
    Reload {
        /// The names, as in `domains` of an account; none = all
        #[arg(value_parser = one_name)]
        names: Vec<ServerName>,
        /// Print JSON, for programs
        #[arg(long)]
        json: bool,
    },
    /// Order a certificate for a name, as soon as the CAs' limits let it
    Issue {
        /// The name, as in `domains` of an account
        #[arg(value_parser = one_name)]
        name: ServerName,
        /// Print JSON, for programs
        #[arg(long)]
        json: bool,
    },
}

#[derive(clap::Args)]
pub(super) struct ListArgs {
    /// The names, as in `domains` of an account; none = all
    #[arg(value_parser = one_name)]
    names: Vec<ServerName>,
    /// Only this account's
    #[arg(long)]
    account: Option<AccountId>,
    /// Only those that are not served, expire soon, or had an error
    #[arg(long)]
    problems: bool,
    /// Only those in this state
    #[arg(long, value_parser = ["valid", "missing", "waiting", "expired", "not_yet_valid", "mismatch", "unreadable"])]
    state: Option<String>,
    /// At most so many
    #[arg(long, default_value_t = 1_000)]
    limit: usize,
    /// Print JSON, for programs
    #[arg(long)]
    json: bool,
}

#[derive(clap::Args)]
pub(super) struct CheckArgs {
    /// The name, as in `domains` of an account
    #[arg(value_parser = one_name)]
    name: ServerName,
    /// Where this gateway is reached from outside, if not as [host] addresses says; may be given more than once
    #[arg(long = "address", value_name = "IP")]
    addresses: Vec<IpAddr>,
    /// The DNS server to ask instead of [acme] resolver or the system's
    #[arg(long, value_name = "IP:PORT")]
    resolver: Option<SocketAddr>,
    /// The CA's identity in CAA records instead of what [acme] directory says; may be given more than once
    #[arg(long = "ca", value_name = "DOMAIN")]
    identities: Vec<String>,
    /// Print JSON, for programs
    #[arg(long)]
    json: bool,
}

#[derive(clap::Args)]
pub(super) struct ImportArgs {
    /// A PEM file with chain and key, a folder with them, or a folder of such folders
    path: PathBuf,
    /// Also if what is in place is valid longer
    #[arg(long)]
    force: bool,
    /// Judge and say what would be done, but do nothing
    #[arg(long)]
    dry_run: bool,
    /// Print JSON, for programs
    #[arg(long)]
    json: bool,
}

pub(super) fn run(gateway: &GatewayArgs, command: Command) -> anyhow::Result<Ended> {
    match command {
        Command::List(args) => list(gateway, &args),
        Command::Check(args) => check::run(gateway, &args),
        Command::Import(args) => import::run(gateway, &args),
        Command::Reload { names, json } => reload::run(gateway, &names, json),
        Command::Issue { name, json } => issue(gateway, &name, json),
    }
}

fn list(gateway: &GatewayArgs, args: &ListArgs) -> anyhow::Result<Ended> {
    let mut query = form_urlencoded::Serializer::new(String::new());
    query.append_pair("limit", &args.limit.to_string());
    query.extend_pairs(args.account.iter().map(|account| ("account", account.as_str())));
    query.extend_pairs(args.state.iter().map(|state| ("state", state)));
    query.extend_pairs(args.problems.then_some(("problems", "1")));
    let path = format!("/certificates?{}", query.finish());
    let answer = match args.names.as_slice() {
        [] => client::call(gateway, "GET", &path, None)?,
        names => client::call(gateway, "POST", &path, Some(&json!({ "names": names })))?,
    };
    let answer = match answer {
        Ok(answer) => answer,
        Err(ended) => return Ok(ended),
    };
    if args.json {
        say_json(&answer)?;
        return Ok(Ended::Fine);
    }
    let certificates: Vec<CertificateView> = serde_json::from_value(answer)?;
    for view in &certificates {
        let text = |text: &Option<String>| text.clone().unwrap_or_else(|| "–".to_owned());
        say(format_args!(
            "{:<40} {:<13} until {:<20} {} · {} · {}",
            view.name.as_str(),
            view.state,
            text(&view.not_after),
            text(&view.issuer),
            text(&view.origin).replace('_', " "),
            if view.keys.is_empty() { "–".to_owned() } else { view.keys.join(" and ") }
        ))?;
        if let Some(next) = view.next() {
            say(format_args!("    next: {next}"))?;
        }
        if let Some(error) = &view.last_error {
            say(format_args!("    last error: {error}"))?;
        }
        // That there is none is all that can be said of one that is ordered.
        if view.state != "missing" || view.next_action.is_none() {
            say_problem(view)?;
        }
    }
    if certificates.len() == args.limit {
        tell(format_args!("the first {} names, those first that need somebody; --limit shows more", args.limit));
    }
    Ok(Ended::Fine)
}

fn issue(gateway: &GatewayArgs, name: &ServerName, json: bool) -> anyhow::Result<Ended> {
    let answer = match client::call(gateway, "POST", &format!("/certificates/{name}/issue"), None)? {
        Ok(answer) => answer,
        Err(ended) => return Ok(ended),
    };
    if json {
        say_json(&answer)?;
        return Ok(Ended::Fine);
    }
    let Ordered { at, reason, .. } = serde_json::from_value(answer)?;
    match (at, reason) {
        (Some(at), Some(reason)) => say(format_args!("{name}: a certificate is ordered at {at}: {reason}"))?,
        (None, Some(reason)) => say(format_args!("{name}: {reason}"))?,
        (_, None) => say(format_args!("{name}: a certificate is being ordered"))?,
    }
    say(format_args!("  `pixelgate cert list --problems` shows what comes of it"))?;
    Ok(Ended::Fine)
}

/// A name as it is typed. A wildcard is in certificates only, and stands for many names.
fn one_name(text: &str) -> Result<ServerName, String> {
    if let Some(above) = text.strip_prefix("*.") {
        return Err(format!("this is a wildcard: write one name that it serves, without `*.`, such as events.{above}"));
    }
    text.parse::<ServerName>().map_err(|error| error.to_string())
}

/// What is wrong with a name's files, and what to do.
fn say_problem(view: &CertificateView) -> std::io::Result<()> {
    view.problem.iter().try_for_each(|problem| say(format_args!("    {problem}")))?;
    view.remedy.iter().try_for_each(|remedy| say(format_args!("    → {remedy}")))
}

/// Seconds as whole days.
fn days(seconds: i64) -> String {
    count(usize::try_from(seconds / 86_400).unwrap_or_default(), "day")
}
