//! `pixelgate reload`: waits until the configuration is taken up, or refused.

use serde_json::json;

use super::client;
use super::{Ended, GatewayArgs, say, say_json};
use crate::account::AccountId;
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
        print_report(&report, if report.applied { "reloaded" } else { "refused, all stays as it was" })?;
    }
    Ok(if report.has_errors() { Ended::Bad } else { Ended::Fine })
}

/// Prints problems one by one, what became of which account, and then one line that sums up.
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
    let errors = report.problems.iter().filter(|problem| problem.is_error()).count();
    let warnings = report.problems.len() - errors;
    say(format_args!("{done}: revision {}, {errors} errors, {warnings} warnings", report.revision))?;
    Ok(())
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
