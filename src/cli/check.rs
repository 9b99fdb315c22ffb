//! `pixelgate check`: what a reload would say.

use anyhow::anyhow;
use http::StatusCode;
use serde_json::json;

use super::client::{self, CallError};
use super::{Ended, GatewayArgs, say_json};
use crate::cli::reload::print_report;

pub(super) fn run(gateway: &GatewayArgs, json: bool) -> anyhow::Result<Ended> {
    let folder = std::path::absolute(&gateway.config)?;
    let report = match client::try_call(gateway, "POST", "/check", Some(&json!({ "folder": folder }))) {
        Ok(answer) if answer.status.is_success() => serde_json::from_value(answer.body)?,
        Ok(answer) if answer.status == StatusCode::CONFLICT => {
            eprintln!("{}: judged by the files and the last good ones alone", answer.reason());
            crate::server::check(&gateway.config)?
        }
        Ok(answer) => return Err(anyhow!("{}", answer.reason())),
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
