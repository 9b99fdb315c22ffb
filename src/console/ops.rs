//! The ops listener: health, metrics and status for monitoring. GET only; nothing here changes anything.

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Json, Response};
use axum::routing::get;
use serde_json::json;

use crate::console::{CaAccountStatus, Console, status};
use crate::telemetry::exposition;

pub(super) fn routes(console: Console) -> Router {
    Router::new()
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/readyz", get(readyz))
        .route("/metrics", get(metrics))
        .route("/status", get(|State(console): State<Console>| async move { Json(status::status(&console)) }))
        .with_state(console)
}

async fn readyz(State(console): State<Console>) -> Response {
    let why = console.readiness.obstacles(&console.outbox);
    let code = if why.is_empty() { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (code, Json(json!({ "ready": why.is_empty(), "why": why }))).into_response()
}

async fn metrics(State(console): State<Console>) -> Response {
    let stats = console.outbox.stats();
    console.metrics.outbox(stats.log_bytes + stats.dead_letter_bytes, stats.free_bytes);
    let now_ms = crate::clock::now_ms();
    for lane in console.outbox.lanes() {
        let oldest = lane.oldest_accepted_ms.map_or(0, |at| u64::try_from((now_ms - at) / 1_000).unwrap_or_default());
        console.metrics.lane(&lane.lane, lane.pending, lane.in_flight, lane.paused.is_some(), oldest);
    }
    let snapshot = console.reloader.published().load();
    let certificates = snapshot.certificates.summary();
    console.metrics.certificates(&certificates.states(), certificates.first_expiry.map(|at| at - now_ms / 1_000));
    let ca_accounts = console.desk.ca_accounts();
    let ca_account =
        |account: &CaAccountStatus| (account.name.clone(), account.paused_until.is_some(), account.orders_left);
    console.metrics.ca_accounts(ca_accounts.iter().map(ca_account));
    match exposition(&console.metrics, snapshot.gateway.metrics_per_account_max) {
        Ok(text) => ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], text).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}
