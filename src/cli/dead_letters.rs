//! `pixelgate dead-letters`

use clap::Subcommand;
use serde_json::{Value, json};

use super::client;
use super::{Ended, GatewayArgs, say, say_json};
use crate::account::AccountId;
use crate::console::DeadLetterView;

#[derive(Subcommand)]
pub(super) enum Command {
    /// The newest first
    List {
        /// Only this account's
        #[arg(long)]
        account: Option<AccountId>,
        /// At most so many
        #[arg(long, default_value_t = 1_000)]
        limit: usize,
        /// Print JSON, for programs
        #[arg(long)]
        json: bool,
    },
    /// One, with the event as it would be sent
    Show {
        /// Its id, as `list` shows it
        id: String,
        /// Print JSON, for programs; it is JSON anyway
        #[arg(long)]
        json: bool,
    },
    /// Send again; what a filter held goes through the account's whole chain as it is now
    Replay(Selection),
    /// Delete for good
    Drop(Selection),
}

/// Which dead letters are meant.
#[derive(clap::Args)]
#[group(skip)]
#[command(group = clap::ArgGroup::new("which").required(true))]
pub(super) struct Selection {
    /// Their ids, as `list` shows them
    #[arg(group = "which")]
    ids: Vec<String>,
    /// All of one account
    #[arg(long, group = "which")]
    account: Option<AccountId>,
    /// All there are
    #[arg(long, group = "which")]
    all: bool,
    /// Print JSON, for programs
    #[arg(long)]
    json: bool,
}

pub(super) fn run(gateway: &GatewayArgs, command: Command) -> anyhow::Result<Ended> {
    let (method, path, body) = match &command {
        Command::List { account, limit, .. } => {
            let filter = account.as_ref().map(|account| format!("&account={account}")).unwrap_or_default();
            ("GET", format!("/dead-letters?limit={limit}{filter}"), None)
        }
        Command::Show { id, .. } => ("GET", format!("/dead-letters/{}", path_segment(id)), None),
        Command::Replay(selection) => ("POST", "/dead-letters/replay".to_owned(), Some(selection.to_json())),
        Command::Drop(selection) => ("POST", "/dead-letters/drop".to_owned(), Some(selection.to_json())),
    };
    let answer = match client::call(gateway, method, &path, body.as_ref())? {
        Ok(answer) => answer,
        Err(ended) => return Ok(ended),
    };
    print(&command, answer)
}

fn print(command: &Command, answer: Value) -> anyhow::Result<Ended> {
    match command {
        Command::List { json: true, .. } | Command::Show { .. } => say_json(&answer)?,
        Command::List { .. } => {
            let letters: Vec<DeadLetterView> = serde_json::from_value(answer)?;
            for letter in letters {
                say(format_args!(
                    "{} {} {}/{} {} {} · {}: {}",
                    letter.id,
                    letter.accepted_at,
                    letter.account,
                    letter.pixel,
                    letter.event_name,
                    letter.event_id,
                    letter.reason,
                    letter.message
                ))?;
            }
        }
        Command::Replay(selection) | Command::Drop(selection) => {
            let count = |key: &str| answer.get(key).and_then(Value::as_u64).unwrap_or_default();
            let done = if matches!(command, Command::Drop(_)) { "dropped" } else { "replayed" };
            if selection.json {
                say_json(&answer)?;
            } else {
                say(format_args!("{done}: {}, still held: {}", count(done), count("held")))?;
            }
            return Ok(if count("held") == 0 { Ended::Fine } else { Ended::Bad });
        }
    }
    Ok(Ended::Fine)
}

/// Ids go into a path: what could end the segment is written as `%XX`.
fn path_segment(id: &str) -> String {
    form_urlencoded::byte_serialize(id.as_bytes()).collect()
}

// === impl Selection ===

impl Selection {
    fn to_json(&self) -> Value {
        json!({ "ids": self.ids, "account": self.account, "all": self.all })
    }
}
