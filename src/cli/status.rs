//! `pixelgate status`

use std::time::Duration;

use super::client;
use super::{Ended, GatewayArgs, count, say, say_json, size};
use crate::clock::span;
use crate::console::{CertificatesStatus, Status};

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
        span(Duration::from_secs(status.uptime_seconds)),
        if status.ready { "ready".to_owned() } else { format!("NOT READY: {}", status.why.join(", ")) },
    ))?;
    let names = &status.certificates;
    say(format_args!(
        "names: {} served, {} without a certificate{} · outbox: {}, {} free",
        names.served,
        names.not_served,
        unserved(names),
        size(status.outbox.bytes),
        size(status.outbox.free_bytes)
    ))?;
    if status.outbox.dead_letters > 0 {
        let letters = status.outbox.dead_letters;
        say(format_args!(
            "dead letters now: {letters}; `pixelgate dead-letters list` shows them, and why they are there"
        ))?;
    }
    if names.expiring > 0 {
        let first = names.expiring_first.iter().map(|one| format!("{} {}", one.name, one.not_after));
        let verb = if names.expiring == 1 { "expires" } else { "expire" };
        say(format_args!(
            "warning: {} {verb} soon: {}",
            count(names.expiring, "certificate"),
            first.collect::<Vec<_>>().join(", ")
        ))?;
    }
    for account in &names.ca_accounts {
        let warning = if account.paused_until.is_some() { "warning: " } else { "" };
        say(format_args!("{warning}CA account {}", account.summary()))?;
    }
    for account in &status.accounts {
        say(format_args!("\n{}{}", account.title(), if account.active { "" } else { " inactive" }))?;
        for pixel in &account.pixels {
            say(format_args!("  {}", pixel.summary()))?;
        }
    }
    if !status.problems.is_empty() {
        say(format_args!("\n{}:", count(status.problems.len(), "problem")))?;
        for problem in &status.problems {
            say(problem)?;
        }
    }
    Ok(())
}

/// Why names have no certificate; the problem of each comes below.
fn unserved(names: &CertificatesStatus) -> String {
    let unserved = names.states.iter().filter(|(state, names)| *state != "valid" && **names > 0);
    let unserved: Vec<_> = unserved.map(|(state, names)| format!("{names} {}", state.replace('_', " "))).collect();
    if unserved.is_empty() { String::new() } else { format!(" ({})", unserved.join(", ")) }
}
