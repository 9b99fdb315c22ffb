//! `pixelgate check`: what a reload would say.

use std::io::ErrorKind;

use anyhow::anyhow;
use http::StatusCode;
use serde_json::json;

use super::client::{self, CallError};
use super::{Ended, GatewayArgs, say_json, tell};
use crate::cli::reload::print_report;
use crate::reload::Report;

pub(super) fn run(gateway: &GatewayArgs, json: bool) -> anyhow::Result<Ended> {
    let report = match ask(gateway)? {
        Ok(report) => report,
        Err(why) => {
            tell(format_args!("{why}: judged by the files and the last good ones alone"));
            crate::server::check(&gateway.config)?
        }
    };
    if json {
        say_json(&report)?;
    } else {
        print_report(&report, "checked: ")?;
    }
    Ok(if report.has_errors() { Ended::Bad } else { Ended::Fine })
}

/// What the running gateway says, or why there is none that can judge this folder.
fn ask(gateway: &GatewayArgs) -> anyhow::Result<Result<Report, String>> {
    let folder = std::path::absolute(&gateway.config)?;
    // The folder is named to the gateway in JSON, which is UTF-8.
    let Some(folder) = folder.to_str() else {
        return Ok(Err("no gateway can be told this folder, whose name is not UTF-8".to_owned()));
    };
    match client::try_call(gateway, "POST", "/check", Some(&json!({ "folder": folder }))) {
        Ok(answer) if answer.status.is_success() => Ok(Ok(serde_json::from_value(answer.body)?)),
        Ok(answer) if answer.status == StatusCode::CONFLICT => Ok(Err(answer.reason().to_owned())),
        Ok(answer) => Err(anyhow!("{}", answer.reason())),
        Err(CallError::Unreachable(socket, error)) if error.kind() == ErrorKind::PermissionDenied => {
            Ok(Err(format!("the gateway at {} cannot be asked ({error})", socket.display())))
        }
        Err(CallError::Unreachable(..)) => Ok(Err("no gateway is running".to_owned())),
        Err(CallError::Other(error)) => Err(error),
    }
}
