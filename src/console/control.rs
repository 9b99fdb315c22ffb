//! The control socket: what the command line asks of the running gateway. Only its user can reach it (mode 0600).

use std::path::{Path as FilePath, PathBuf};

use axum::Router;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Json, Response};
use axum::routing::{get, post};
use serde::Deserialize;
use serde_json::json;

use crate::account::AccountId;
use crate::console::{Console, certificates, dead_letters, status};
use crate::outbox::PausedBy;
use crate::reload::{Reloader, Report};

/// Why something was not done; the command line prints it.
pub(super) struct Refused(pub(super) StatusCode, pub(super) String);

pub(super) fn routes(console: Console) -> Router {
    Router::new()
        .route("/status", get(|State(console): State<Console>| async move { Json(status::status(&console)) }))
        .route("/check", post(check))
        .route("/reload", post(|State(console): State<Console>| judge(console, Reloader::reload)))
        .route("/accounts", get(|State(console): State<Console>| async move { Json(status::accounts(&console)) }))
        .route("/accounts/{id}", get(show))
        .route("/accounts/{id}/pause", post(pause))
        .route("/accounts/{id}/resume", post(resume))
        .route("/certificates", get(certificates::list))
        .route("/certificates/refresh", post(certificates::refresh))
        .route("/certificates/{name}", get(certificates::show))
        .route("/certificates/{name}/issue", post(certificates::issue))
        .route("/dead-letters", get(dead_letters::list))
        .route("/dead-letters/{id}", get(dead_letters::show))
        .route("/dead-letters/replay", post(dead_letters::replay))
        .route("/dead-letters/drop", post(dead_letters::drop_selected))
        .with_state(console)
}

#[derive(Deserialize)]
struct CheckOrder {
    folder: PathBuf,
}

/// Judges this gateway's own folder; another one has other accounts, and is not this gateway's to judge.
async fn check(State(console): State<Console>, Json(order): Json<CheckOrder>) -> Result<Json<Report>, Refused> {
    let own = &console.config_dir;
    if !same_folder(own, &order.folder) {
        let error = format!("this gateway runs on {}, not on {}", own.display(), order.folder.display());
        return Err(Refused(StatusCode::CONFLICT, error));
    }
    judge(console, Reloader::check).await
}

/// Whether two paths lead to the same folder.
fn same_folder(one: &FilePath, other: &FilePath) -> bool {
    one == other || matches!((one.canonicalize(), other.canonicalize()), (Ok(one), Ok(other)) if one == other)
}

/// Compiles the configuration away from the threads that serve.
async fn judge(console: Console, act: fn(&Reloader, i64) -> Report) -> Result<Json<Report>, Refused> {
    let report = tokio::task::spawn_blocking(move || act(&console.reloader, crate::clock::now_ms())).await;
    report
        .map(Json)
        .map_err(|error| Refused(StatusCode::INTERNAL_SERVER_ERROR, format!("the reload broke off: {error}")))
}

async fn show(State(console): State<Console>, Path(id): Path<String>) -> Result<Response, Refused> {
    let found = status::accounts(&console).into_iter().find(|account| account.id.as_str() == id);
    found.map(|account| Json(account).into_response()).ok_or_else(|| unknown(&id))
}

#[derive(Deserialize)]
struct PauseOrder {
    reason: String,
}

async fn pause(
    State(console): State<Console>,
    Path(id): Path<String>,
    Json(order): Json<PauseOrder>,
) -> Result<Json<serde_json::Value>, Refused> {
    for lane in lanes_of(&console, &id)? {
        let pause = console.outbox.pause(&lane, &order.reason, PausedBy::Operator, crate::clock::now_ms());
        pause.await.map_err(|error| Refused(StatusCode::SERVICE_UNAVAILABLE, error.to_string()))?;
    }
    Ok(Json(json!({ "account": id, "paused": true })))
}

async fn resume(State(console): State<Console>, Path(id): Path<String>) -> Result<Json<serde_json::Value>, Refused> {
    for lane in lanes_of(&console, &id)? {
        let resume = console.outbox.resume(&lane, PausedBy::Operator);
        resume.await.map_err(|error| Refused(StatusCode::SERVICE_UNAVAILABLE, error.to_string()))?;
    }
    Ok(Json(json!({ "account": id, "paused": false })))
}

/// The lanes of an account: those of its pixels, and those that still hold events.
fn lanes_of(console: &Console, id: &str) -> Result<Vec<crate::account::LaneKey>, Refused> {
    let account: AccountId = id.parse().map_err(|_| unknown(id))?;
    let snapshot = console.reloader.published().load_full();
    let mut lanes: Vec<_> =
        console.outbox.lanes().into_iter().map(|lane| lane.lane).filter(|lane| lane.account == account).collect();
    if let Some(tenant) = snapshot.tenant(&account) {
        lanes.extend(tenant.config.pixels.iter().map(|pixel| tenant.lane(pixel.id)));
    }
    lanes.sort();
    lanes.dedup();
    if lanes.is_empty() { Err(unknown(id)) } else { Ok(lanes) }
}

fn unknown(id: &str) -> Refused {
    Refused(StatusCode::NOT_FOUND, format!("no account {id}; `pixelgate accounts list` shows those there are"))
}

// === impl Refused ===

impl IntoResponse for Refused {
    fn into_response(self) -> Response {
        (self.0, Json(json!({ "error": self.1 }))).into_response()
    }
}
