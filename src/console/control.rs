//! The control socket: what the command line asks of the running gateway. Only its user can reach it (mode 0600).

use std::path::{Path as FilePath, PathBuf};

use axum::Router;
use axum::body::Bytes;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Json, Response};
use axum::routing::{get, post};
use serde::Deserialize;
use serde_json::json;

use crate::account::{AccountId, PixelId};
use crate::console::peer::Peer;
use crate::console::{Console, certificates, dead_letters, status};
use crate::outbox::LaneStatus;
use crate::reload::Report;

/// Why something was not done; the command line prints it.
pub(super) struct Refused(pub(super) StatusCode, pub(super) String);

pub(super) fn routes(console: Console) -> Router {
    Router::new()
        .route("/status", get(status::show))
        .route("/check", post(check))
        .route("/reload", post(reload))
        .route("/accounts", get(list))
        .route("/accounts/{id}", get(show))
        .route("/accounts/{id}/pause", post(pause))
        .route("/accounts/{id}/resume", post(resume))
        .route("/certificates", get(certificates::list).post(certificates::list_some))
        .route("/certificates/refresh", post(certificates::refresh))
        .route("/certificates/refresh/all", post(certificates::refresh_all))
        .route("/certificates/{name}", get(certificates::show))
        .route("/certificates/{name}/issue", post(certificates::issue))
        .route("/dead-letters", get(dead_letters::list))
        .route("/dead-letters/{id}", get(dead_letters::show))
        .route("/dead-letters/replay", post(dead_letters::replay))
        .route("/dead-letters/drop", post(dead_letters::drop_selected))
        .with_state(console)
}

/// Of which folder a check or a reload is wanted.
#[derive(Deserialize)]
struct FolderOrder {
    folder: PathBuf,
}

/// Judges this gateway's own folder; another one has other accounts, and is not this gateway's to judge.
async fn check(State(console): State<Console>, Json(order): Json<FolderOrder>) -> Result<Json<Report>, Refused> {
    is_own(&console, &order)?;
    judge(move || console.reloader.check(crate::clock::now_ms())).await
}

/// Reloads this gateway's own folder; who means another one must not take the answer for that one's. Without a body it is
/// whatever this gateway runs on.
async fn reload(State(console): State<Console>, peer: Peer, body: Bytes) -> Result<Json<Report>, Refused> {
    let wanted = || -> Result<(), Refused> {
        if body.is_empty() {
            return Ok(());
        }
        let malformed = |error: serde_json::Error| Refused(StatusCode::BAD_REQUEST, error.to_string());
        is_own(&console, &serde_json::from_slice(&body).map_err(malformed)?)
    };
    let done = match wanted() {
        Ok(()) => judge(move || (console.reload)()).await,
        Err(refused) => Err(refused),
    };
    match &done {
        Ok(Json(report)) => report.log(peer.uid),
        Err(_) => peer.log("reload", "", &done, |_| String::new()),
    }
    done
}

fn is_own(console: &Console, order: &FolderOrder) -> Result<(), Refused> {
    let own = &console.config_dir;
    if same_folder(own, &order.folder) {
        return Ok(());
    }
    let error = format!("this gateway runs on {}, not on {}", own.display(), order.folder.display());
    Err(Refused(StatusCode::CONFLICT, error))
}

/// Whether two paths lead to the same folder.
fn same_folder(one: &FilePath, other: &FilePath) -> bool {
    one == other || matches!((one.canonicalize(), other.canonicalize()), (Ok(one), Ok(other)) if one == other)
}

/// Compiles the configuration away from the threads that serve.
async fn judge(act: impl FnOnce() -> Report + Send + 'static) -> Result<Json<Report>, Refused> {
    let report = tokio::task::spawn_blocking(act).await;
    report
        .map(Json)
        .map_err(|error| Refused(StatusCode::INTERNAL_SERVER_ERROR, format!("the reload broke off: {error}")))
}

async fn list(State(console): State<Console>) -> Result<Response, Refused> {
    blocking(move || Json(status::accounts(&console)).into_response()).await
}

async fn show(State(console): State<Console>, Path(id): Path<String>) -> Result<Response, Refused> {
    blocking(move || {
        let found = status::accounts(&console).into_iter().find(|account| account.id.as_str() == id);
        found.map(|account| Json(account).into_response()).ok_or_else(|| unknown(&id))
    })
    .await?
}

#[derive(Deserialize)]
struct PauseOrder {
    reason: String,
}

async fn pause(
    State(console): State<Console>,
    Path(id): Path<String>,
    peer: Peer,
    Json(order): Json<PauseOrder>,
) -> Result<Json<serde_json::Value>, Refused> {
    let done = pause_account(&console, &id, &order).await;
    peer.log("accounts pause", &id, &done, |()| order.reason.clone());
    done.map(|()| Json(json!({ "account": id, "paused": true })))
}

async fn pause_account(console: &Console, id: &str, order: &PauseOrder) -> Result<(), Refused> {
    let (account, pixels) = account_of(console, id)?;
    let pause = console.outbox.pause_account(&account, &pixels, &order.reason, crate::clock::now_ms());
    pause.await.map_err(|error| Refused(StatusCode::SERVICE_UNAVAILABLE, error.to_string()))
}

async fn resume(
    State(console): State<Console>,
    Path(id): Path<String>,
    peer: Peer,
) -> Result<Json<serde_json::Value>, Refused> {
    let done = resume_account(&console, &id).await;
    peer.log("accounts resume", &id, &done, |was| if *was { "resumed" } else { "nothing was paused" }.to_owned());
    done.map(|was_paused| Json(json!({ "account": id, "paused": false, "was_paused": was_paused })))
}

/// Says whether the account or a lane of it was paused.
async fn resume_account(console: &Console, id: &str) -> Result<bool, Refused> {
    let (account, _) = account_of(console, id)?;
    let is_paused = |lane: &LaneStatus| lane.lane.account == account && lane.paused.is_some();
    let was_paused =
        console.outbox.held_accounts().contains_key(&account) || console.outbox.lanes().iter().any(is_paused);
    let resume = console.outbox.resume_account(&account);
    resume.await.map_err(|error| Refused(StatusCode::SERVICE_UNAVAILABLE, error.to_string()))?;
    Ok(was_paused)
}

/// An account and its pixels; one that left the configuration is known as long as there are lanes of it.
fn account_of(console: &Console, id: &str) -> Result<(AccountId, Vec<PixelId>), Refused> {
    let account: AccountId = id.parse().map_err(|_| unknown(id))?;
    match console.reloader.published().load().tenant(&account) {
        Some(tenant) => Ok((account, tenant.config.pixels.iter().map(|pixel| pixel.id).collect())),
        None if console.outbox.lanes().iter().any(|lane| lane.lane.account == account) => Ok((account, Vec::new())),
        None => Err(unknown(id)),
    }
}

/// Reads files, or looks at all names and accounts, away from the threads that serve.
pub(super) async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, Refused> {
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(|error| Refused(StatusCode::INTERNAL_SERVER_ERROR, format!("it broke off: {error}")))
}

pub(super) fn unknown(id: &str) -> Refused {
    Refused(StatusCode::NOT_FOUND, format!("no account {id}; `pixelgate accounts list` shows those there are"))
}

// === impl Refused ===

impl IntoResponse for Refused {
    fn into_response(self) -> Response {
        (self.0, Json(json!({ "error": self.1 }))).into_response()
    }
}
