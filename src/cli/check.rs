//! `pixelgate check`: what a reload would say.

use super::client::{self, CallError};
use super::{Ended, GatewayArgs, say_json};
use crate::cli::reload::print_report;

pub(super) fn run(gateway: &GatewayArgs, json: bool) -> anyhow::Result<Ended> {
    let report = match client::try_call(gateway, "POST", "/check", None) {
        Ok(answer) => serde_json::from_value(answer.body)?,
        Err(CallError::Other(error)) => return Err(error),
        Err(CallError::Unreachable(..)) => {
            eprintln!("no gateway is running: judged by the files and the last good ones alone");
            crate::server::check(&gateway.config)?
        }
    };
    if json {
        say_json(&report)?;
    } else {
        print_report(&report, "checked")?;
    }
    Ok(if report.has_errors() { Ended::Bad } else { Ended::Fine })
}
