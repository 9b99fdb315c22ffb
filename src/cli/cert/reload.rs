//! `pixelgate cert reload`: takes up the certificates that lie there now, and nothing else.

use serde_json::json;

use super::{Ended, GatewayArgs, client, count, say, say_json, say_problem};
use crate::account::ServerName;
use crate::console::{CertificateView, CertificatesRefreshed};

pub(super) fn run(gateway: &GatewayArgs, names: &[ServerName], json: bool) -> anyhow::Result<Ended> {
    if names.is_empty() {
        return all(gateway, json);
    }
    let answer = match client::call(gateway, "POST", "/certificates/refresh", Some(&json!({ "names": names })))? {
        Ok(answer) => answer,
        Err(ended) => return Ok(ended),
    };
    let views: Vec<CertificateView> = serde_json::from_value(answer)?;
    let unknown: Vec<_> = names.iter().filter(|name| !views.iter().any(|view| view.name == **name)).collect();
    if json {
        say_json(&json!({ "certificates": views, "unknown": unknown }))?;
    } else {
        for view in &views {
            let until = view.not_after.as_ref().map(|until| format!(", until {until}")).unwrap_or_default();
            say(format_args!("{}: {}{until}", view.name, view.state))?;
            view.next()
                .iter()
                .filter(|_| view.state != "valid")
                .try_for_each(|next| say(format_args!("    next: {next}")))?;
            say_problem(view)?;
        }
        unknown.iter().try_for_each(|name| say(format_args!("{name}: no account has it in its domains")))?;
    }
    let good = unknown.is_empty() && views.iter().all(CertificateView::is_as_meant);
    Ok(if good { Ended::Fine } else { Ended::Bad })
}

fn all(gateway: &GatewayArgs, json: bool) -> anyhow::Result<Ended> {
    let answer = match client::call(gateway, "POST", "/certificates/refresh/all", None)? {
        Ok(answer) => answer,
        Err(ended) => return Ok(ended),
    };
    if json {
        say_json(&answer)?;
    } else {
        let CertificatesRefreshed { served, waiting, not_served } = serde_json::from_value(answer)?;
        let names = count(served + waiting + not_served, "name");
        let waiting = if waiting > 0 { format!(", {waiting} waiting for a visitor") } else { String::new() };
        say(format_args!("looked at {names}: {served} served{waiting}, {not_served} without a certificate"))?;
        if not_served > 0 {
            say(format_args!("  `pixelgate cert list --problems` shows them"))?;
        }
    }
    Ok(Ended::Fine)
}
