//! Dead letters over the control socket.

use std::collections::{HashMap, HashSet};
use std::fmt;

use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use axum::response::Json;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use crate::account::{AccountId, PixelId};
use crate::clock::{now_ms, rfc3339_millis};
use crate::console::Console;
use crate::console::control::{self, Refused};
use crate::console::peer::Peer;
use crate::outbox::DeadLetter;

/// Ids of letters that one line of the log names.
const LOGGED: usize = 10;

/// One dead letter as it is listed. The keys are stable.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct DeadLetterView {
    /// What `show`, `replay` and `drop` call it.
    pub id: String,
    /// Whose it is.
    pub account: AccountId,
    /// Where it was to go.
    pub pixel: PixelId,
    /// Its name.
    pub event_name: String,
    /// Its id.
    pub event_id: String,
    /// Why it is here; begins with `filter:` for one that a filter failed on.
    pub reason: String,
    /// The same for a person.
    pub message: String,
    /// Requests that it was in.
    pub attempts: u32,
    /// When it was accepted, RFC 3339.
    pub accepted_at: String,
}

/// Which dead letters are meant.
#[derive(Debug, Deserialize)]
pub(super) struct Selection {
    #[serde(default)]
    ids: Vec<String>,
    account: Option<AccountId>,
    #[serde(default)]
    all: bool,
}

pub(super) async fn list(
    State(console): State<Console>,
    Query(query): Query<HashMap<String, String>>,
) -> Result<Json<Vec<DeadLetterView>>, Refused> {
    let account = match query.get("account").map(|id| id.parse::<AccountId>()).transpose() {
        Ok(account) => account,
        Err(error) => return Err(Refused(StatusCode::BAD_REQUEST, error.to_string())),
    };
    is_known(&console, account.as_ref())?;
    let limit = query.get("limit").and_then(|limit| limit.parse().ok()).unwrap_or(1_000);
    let letters = reading(move || console.outbox.dead_letters(account.as_ref(), limit)).await?;
    Ok(Json(letters.iter().map(DeadLetterView::of).collect()))
}

pub(super) async fn show(State(console): State<Console>, Path(id): Path<String>) -> Result<Json<Value>, Refused> {
    let number = id.parse().map_err(|_| unknown(&id))?;
    let letter = reading(move || console.outbox.dead_letter(number)).await?.ok_or_else(|| unknown(&id))?;
    let event = serde_json::from_slice::<Box<RawValue>>(&letter.body).ok();
    let mut shown = json!(DeadLetterView::of(&letter));
    if let Some(shown) = shown.as_object_mut() {
        shown.insert("event".to_owned(), json!(event));
        shown.insert("dead_at".to_owned(), rfc3339_millis(letter.dead_ms).into());
    }
    Ok(Json(shown))
}

pub(super) async fn replay(
    State(console): State<Console>,
    peer: Peer,
    Json(selection): Json<Selection>,
) -> Result<Json<Value>, Refused> {
    // This ends where it stands when the client leaves: the task comes to an end, and says to which.
    let left = CancellationToken::new();
    let _client = left.clone().drop_guard();
    let replaying = tokio::spawn(async move {
        let done = replay_selected(&console, &selection, &left).await;
        peer.log("dead-letters replay", &selection, &done, in_words);
        done.map(Json)
    });
    replaying.await.unwrap_or_else(|error| Err(unavailable(&error)))
}

async fn replay_selected(console: &Console, selection: &Selection, left: &CancellationToken) -> Result<Value, Refused> {
    let ids = selection.ids(console)?;
    let snapshot = console.reloader.published().load_full();
    let replayed = console.ingest.replay(&snapshot, &ids, now_ms(), left).await;
    replayed.map(|replayed| json!(replayed)).map_err(|error| unavailable(&error))
}

pub(super) async fn drop_selected(
    State(console): State<Console>,
    peer: Peer,
    Json(selection): Json<Selection>,
) -> Result<Json<Value>, Refused> {
    let done = drop_letters(&console, &selection).await;
    peer.log("dead-letters drop", &selection, &done, in_words);
    done.map(Json)
}

async fn drop_letters(console: &Console, selection: &Selection) -> Result<Value, Refused> {
    let ids = selection.ids(console)?;
    let dropped = console.outbox.drop_dead_letters(&ids).await.map_err(|error| unavailable(&error))?;
    Ok(json!({ "dropped": dropped, "held": ids.len() - dropped }))
}

// === impl Selection ===

impl Selection {
    /// The numbers of those that are meant; an id that is not there is an error.
    fn ids(&self, console: &Console) -> Result<Vec<u64>, Refused> {
        is_known(console, self.account.as_ref())?;
        let there = console.outbox.dead_letter_ids(self.account.as_ref());
        if self.all || self.account.is_some() {
            return Ok(there);
        }
        let there: HashSet<_> = there.into_iter().collect();
        let known = |id: &String| id.parse().ok().filter(|number| there.contains(number)).ok_or_else(|| unknown(id));
        self.ids.iter().map(known).collect()
    }
}

impl fmt::Display for Selection {
    /// As the log says it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.account, self.ids.split_at_checked(LOGGED)) {
            _ if self.all => f.write_str("all"),
            (Some(account), _) => write!(f, "account {account}"),
            (None, Some((first, more))) if !more.is_empty() => write!(f, "{} and {} more", first.join(" "), more.len()),
            (None, _) => f.write_str(&self.ids.join(" ")),
        }
    }
}

// === impl DeadLetterView ===

impl DeadLetterView {
    fn of(letter: &DeadLetter) -> Self {
        Self {
            id: letter.id.to_string(),
            account: letter.lane.account.clone(),
            pixel: letter.lane.pixel,
            event_name: letter.event_name.clone(),
            event_id: letter.event_id.clone(),
            reason: letter.reason.clone(),
            message: letter.message.clone(),
            attempts: letter.attempts,
            accepted_at: rfc3339_millis(letter.accepted_ms),
        }
    }
}

/// An account that is named must be one, of the configuration or of letters that are still there.
fn is_known(console: &Console, account: Option<&AccountId>) -> Result<(), Refused> {
    let known = |account: &AccountId| {
        let configured = console.reloader.published().load().tenant(account).is_some();
        configured || !console.outbox.dead_letter_ids(Some(account)).is_empty()
    };
    match account.filter(|account| !known(account)) {
        None => Ok(()),
        Some(account) => Err(control::unknown(account.as_str())),
    }
}

/// Reads letters away from the threads that serve.
async fn reading<T: Send + 'static>(read: impl FnOnce() -> T + Send + 'static) -> Result<T, Refused> {
    tokio::task::spawn_blocking(read).await.map_err(|error| unavailable(&error))
}

/// What became of how many, as the log says it.
fn in_words(counts: &Value) -> String {
    let counts = counts.as_object().into_iter().flatten();
    counts.map(|(what, count)| format!("{count} {what}")).collect::<Vec<_>>().join(", ")
}

fn unknown(id: &str) -> Refused {
    Refused(StatusCode::NOT_FOUND, format!("no dead letter {id}; `pixelgate dead-letters list` shows those there are"))
}

fn unavailable(error: &dyn std::fmt::Display) -> Refused {
    Refused(StatusCode::SERVICE_UNAVAILABLE, error.to_string())
}
