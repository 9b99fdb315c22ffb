//! `pixelgate reload`: waits until the configuration is taken up, or refused.

use super::client;
use super::{Ended, GatewayArgs, say, say_json};
use crate::reload::Report;

pub(super) fn run(gateway: &GatewayArgs, json: bool) -> anyhow::Result<Ended> {
    let report: Report = match client::call(gateway, "POST", "/reload", None)? {
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

/// Prints problems one by one, and then one line that sums up.
pub(super) fn print_report(report: &Report, done: &str) -> anyhow::Result<()> {
    for problem in &report.problems {
        say(problem)?;
    }
    let errors = report.problems.iter().filter(|problem| problem.is_error()).count();
    let warnings = report.problems.len() - errors;
    say(format_args!("{done}: revision {}, {errors} errors, {warnings} warnings", report.revision))?;
    Ok(())
}
