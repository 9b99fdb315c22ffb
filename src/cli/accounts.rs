//! `pixelgate accounts`

use clap::Subcommand;

use super::client;
use super::{Ended, GatewayArgs, count, say, say_json};
use crate::account::AccountId;
use crate::console::{AccountStatus, PixelStatus};

#[derive(Subcommand)]
pub(super) enum Command {
    /// One line an account
    List {
        /// Print JSON, for programs
        #[arg(long)]
        json: bool,
    },
    /// All that the gateway knows of one account
    Show {
        /// The account's id, the stem of its file
        account: AccountId,
        /// Print JSON, for programs
        #[arg(long)]
        json: bool,
    },
    /// Deliver none of an account's events until it is resumed; they are taken and kept all the same
    Pause {
        /// The account's id, the stem of its file
        account: AccountId,
        /// Shown in the status
        #[arg(long, default_value = "by the operator")]
        reason: String,
        /// Print JSON, for programs
        #[arg(long)]
        json: bool,
    },
    /// Deliver an account's events again
    Resume {
        /// The account's id, the stem of its file
        account: AccountId,
        /// Print JSON, for programs
        #[arg(long)]
        json: bool,
    },
}

pub(super) fn run(gateway: &GatewayArgs, command: Command) -> anyhow::Result<Ended> {
    let (method, path, body) = match &command {
        Command::List { .. } => ("GET", "/accounts".to_owned(), None),
        Command::Show { account, .. } => ("GET", format!("/accounts/{account}"), None),
        Command::Pause { account, reason, .. } => {
            ("POST", format!("/accounts/{account}/pause"), Some(serde_json::json!({ "reason": reason })))
        }
        Command::Resume { account, .. } => ("POST", format!("/accounts/{account}/resume"), None),
    };
    let answer = match client::call(gateway, method, &path, body.as_ref())? {
        Ok(answer) => answer,
        Err(ended) => return Ok(ended),
    };
    match command {
        Command::List { json: true }
        | Command::Show { json: true, .. }
        | Command::Pause { json: true, .. }
        | Command::Resume { json: true, .. } => say_json(&answer)?,
        Command::List { .. } => {
            let accounts: Vec<AccountStatus> = serde_json::from_value(answer)?;
            accounts.iter().try_for_each(print_line)?;
        }
        Command::Show { .. } => print_account(&serde_json::from_value(answer)?)?,
        Command::Pause { account, .. } => say(format_args!("{account}: paused; its events are kept"))?,
        Command::Resume { account, .. } if answer.get("was_paused") == Some(&false.into()) => {
            say(format_args!(
                "{account}: nothing was paused that can be resumed; `pixelgate accounts show {account}` says more"
            ))?;
        }
        Command::Resume { account, .. } => say(format_args!("{account}: resumed"))?,
    }
    Ok(Ended::Fine)
}

/// All of an account in a line: its pixels added up, in the words that `pixelgate status` has for each of them.
fn print_line(account: &AccountStatus) -> std::io::Result<()> {
    let sum = |count: fn(&PixelStatus) -> u64| account.pixels.iter().map(count).sum::<u64>();
    let names = match account.domains.as_slice() {
        [] if account.gone => "not in the configuration".to_owned(),
        [] => "on the host's domain".to_owned(),
        names => names.join(", "),
    };
    say(format_args!(
        "{:<24} {:<9} {} · events: {} pending, {} in flight · since the first start: {} delivered, {} dead · dead letters \
         now: {} · {names}",
        account.id,
        state(account),
        pixels(account),
        sum(|pixel| pixel.pending),
        sum(|pixel| pixel.in_flight),
        sum(|pixel| pixel.delivered),
        sum(|pixel| pixel.dead),
        sum(|pixel| pixel.dead_letters),
    ))
}

/// How many pixels there are, and how many of them are paused where others are not.
fn pixels(account: &AccountStatus) -> String {
    let (all, paused) = (account.pixels.len(), paused(account));
    let some = if paused > 0 && paused < all { format!(", {paused} paused") } else { String::new() };
    count(all, "pixel") + &some
}

fn state(account: &AccountStatus) -> &'static str {
    let paused = !account.pixels.is_empty() && paused(account) == account.pixels.len();
    match (account.active, paused) {
        (false, _) => "inactive",
        (true, true) => "paused",
        (true, false) => "active",
    }
}

fn paused(account: &AccountStatus) -> usize {
    account.pixels.iter().filter(|pixel| pixel.state == "paused").count()
}

/// One account with all that is known of it, a line for each thing.
fn print_account(account: &AccountStatus) -> std::io::Result<()> {
    let list = |what: &[String], none: &str| if what.is_empty() { none.to_owned() } else { what.join(", ") };
    say(format_args!("{}: {}", account.title(), state(account)))?;
    let nameless = if account.gone { "none" } else { "none; reached on the host's domain" };
    say(format_args!("  names    {}", list(&account.domains, nameless)))?;
    say(format_args!("  filters  {}", list(&account.filters, "none")))?;
    for pixel in &account.pixels {
        say(format_args!("  pixel    {}", pixel.summary()))?;
        if let Some(oldest) = &pixel.oldest_at {
            say(format_args!("           the oldest event that waits was accepted at {oldest}"))?;
        }
    }
    Ok(())
}
