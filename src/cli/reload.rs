//! `pixelgate reload`: waits until the configuration is taken up, or refused.

use serde_json::json;

use super::client;
use super::{Ended, GatewayArgs, count, say, say_json};
use crate::account::AccountId;
use crate::config::Problem;
use crate::reload::Report;

/// Accounts that one line names.
const ACCOUNTS_SHOWN: usize = 20;

pub(super) fn run(gateway: &GatewayArgs, json: bool) -> anyhow::Result<Ended> {
    // Who names the socket means whatever gateway is there.
    let folder = gateway.socket.is_none().then(|| std::path::absolute(&gateway.config)).transpose()?;
    let order = folder.map(|folder| json!({ "folder": folder }));
    let report: Report = match client::call(gateway, "POST", "/reload", order.as_ref())? {
        Ok(answer) => serde_json::from_value(answer)?,
        Err(ended) => return Ok(ended),
    };
    if json {
        say_json(&report)?;
    } else {
        let done = if report.applied { "reloaded" } else { "refused, all stays as it was" };
        print_report(&report, &format!("{done}: revision {}, ", report.revision))?;
    }
    Ok(if report.has_errors() { Ended::Bad } else { Ended::Fine })
}

/// Prints problems one by one, what became of which account, and then one line that sums up and begins with what was done.
pub(super) fn print_report(report: &Report, done: &str) -> anyhow::Result<()> {
    for problem in &report.problems {
        say(problem)?;
    }
    if let Some(accounts) = &report.accounts {
        print_accounts("added", &accounts.added)?;
        print_accounts("changed", &accounts.changed)?;
        print_accounts("removed", &accounts.removed)?;
        print_accounts("kept as before, for there is an error", &accounts.kept)?;
        print_accounts("not in force, for there is an error", &accounts.left_out)?;
    }
    say(format_args!("{done}{}", counted(&report.problems)))?;
    Ok(())
}

/// How many errors and warnings there are.
pub(super) fn counted(problems: &[Problem]) -> String {
    let errors = problems.iter().filter(|problem| problem.is_error()).count();
    format!("{}, {}", count(errors, "error"), count(problems.len() - errors, "warning"))
}

fn print_accounts(what: &str, accounts: &[AccountId]) -> std::io::Result<()> {
    if accounts.is_empty() {
        return Ok(());
    }
    let shown: Vec<_> = accounts.iter().take(ACCOUNTS_SHOWN).map(AccountId::as_str).collect();
    let more = match accounts.len() - shown.len() {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    say(format_args!("{what}: {}{more}", shown.join(", ")))
}
