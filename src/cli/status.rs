//! `pixelgate status`

use super::client;
use super::{Ended, GatewayArgs, say, say_json, size};
use crate::console::Status;

pub(super) fn run(gateway: &GatewayArgs, json: bool) -> anyhow::Result<Ended> {
    let answer = match client::call(gateway, "GET", "/status", None)? {
        Ok(answer) => answer,
        Err(ended) => return Ok(ended),
    };
    if json {
        say_json(&answer)?;
    } else {
        print(&serde_json::from_value(answer)?)?;
    }
    Ok(Ended::Fine)
}

fn print(status: &Status) -> anyhow::Result<()> {
    say(format_args!(
        "pixelgate {} · revision {} · up {} · {}",
        status.version,
        status.revision,
        humantime::format_duration(std::time::Duration::from_secs(status.uptime_seconds)),
        if status.ready { "ready".to_owned() } else { format!("NOT READY: {}", status.why.join(", ")) },
    ))?;
    say(format_args!(
        "names: {} served, {} without a certificate · outbox: {}, {} free",
        status.certificates.served,
        status.certificates.not_served,
        size(status.outbox.bytes),
        size(status.outbox.free_bytes)
    ))?;
    let names = &status.certificates;
    let unserved = names.states.iter().filter(|(state, count)| *state != "valid" && **count > 0);
    let unserved: Vec<_> = unserved.map(|(state, count)| format!("{count} {}", state.replace('_', " "))).collect();
    if !unserved.is_empty() {
        say(format_args!(
            "warning: certificates: {}; `pixelgate cert list --problems` shows them",
            unserved.join(", ")
        ))?;
    }
    if names.expiring > 0 {
        let first = names.expiring_first.iter().map(|one| format!("{} {}", one.name, one.not_after));
        say(format_args!(
            "warning: {} certificates expire soon: {}",
            names.expiring,
            first.collect::<Vec<_>>().join(", ")
        ))?;
    }
    for account in &names.ca_accounts {
        let warning = if account.paused_until.is_some() { "warning: " } else { "" };
        say(format_args!("{warning}CA account {}", account.summary()))?;
    }
    for account in &status.accounts {
        say(format_args!("\n{} ({}){}", account.id, account.name, if account.active { "" } else { " inactive" }))?;
        for pixel in &account.pixels {
            say(format_args!("  {}", pixel.summary()))?;
        }
    }
    if !status.problems.is_empty() {
        say(format_args!("\n{} problems:", status.problems.len()))?;
        for problem in &status.problems {
            say(problem)?;
        }
    }
    Ok(())
}
