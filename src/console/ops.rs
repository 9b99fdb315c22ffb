//! The ops listener: health, metrics and status for monitoring. GET only; nothing here changes anything.

use std::collections::{HashMap, HashSet};

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Json, Response};
use axum::routing::get;
use serde_json::json;

use crate::account::AccountId;
use crate::console::control::{Refused, blocking};
use crate::console::{Console, status};
use crate::outbox::Counts;
use crate::telemetry::{Activity, CaAccount, exposition};

pub(super) fn routes(console: Console) -> Router {
    Router::new()
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/readyz", get(readyz))
        .route("/metrics", get(metrics))
        .route("/status", get(status::show))
        .with_state(console)
}

async fn readyz(State(console): State<Console>) -> Response {
    let why = console.readiness.obstacles(&console.outbox);
    let code = if why.is_empty() { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (code, Json(json!({ "ready": why.is_empty(), "why": why }))).into_response()
}

async fn metrics(State(console): State<Console>) -> Result<Response, Refused> {
    blocking(move || exposed(&console)).await
}

fn exposed(console: &Console) -> Response {
    let stats = console.outbox.stats();
    console.metrics.outbox(stats.log_bytes + stats.dead_letter_bytes, stats.free_bytes);
    let (now_ms, snapshot) = (crate::clock::now_ms(), console.reloader.published().load_full());
    let accounts: HashSet<_> = snapshot.tenants().map(|tenant| tenant.config.id.as_str()).collect();
    // Lanes of accounts that are gone, of which something is left.
    let mut left = HashSet::new();
    let mut events = HashMap::<AccountId, u64>::new();
    for lane in console.outbox.lanes() {
        let Counts { delivered, tested, uncounted, dead, expired, .. } = lane.counts;
        let settled = delivered + tested + uncounted + dead + expired;
        let unsettled = lane.pending + lane.in_flight;
        if !accounts.contains(lane.lane.account.as_str()) {
            if unsettled == 0 {
                continue;
            }
            left.insert((lane.lane.account.to_string(), lane.lane.pixel.to_string()));
        }
        *events.entry(lane.lane.account.clone()).or_default() += settled + unsettled;
        let oldest = lane.oldest_accepted_ms.map_or(0, |at| u64::try_from((now_ms - at) / 1_000).unwrap_or_default());
        console.metrics.lane(&lane.lane, lane.pending, lane.in_flight, lane.paused.is_some(), oldest);
    }
    let is_left = |account: &str, pixel: &str| left.contains(&(account.to_owned(), pixel.to_owned()));
    console.metrics.forget_lanes(|account, pixel| !accounts.contains(account) && !is_left(account, pixel));
    let certificates = snapshot.certificates.summary().with_waiting(console.desk.waiting_for_visitors());
    console.metrics.certificates(&certificates.states(), certificates.first_expiry.map(|at| at - now_ms / 1_000));
    let ca_accounts = console.desk.ca_accounts();
    console.metrics.ca_accounts(ca_accounts.iter().map(|account| CaAccount {
        name: &account.name,
        paused: account.paused_until.is_some(),
        orders_left: account.orders_left,
        first_orders_waiting: account.first_orders_waiting,
        renewals_waiting: account.renewals_waiting,
    }));
    console.metrics.resolver(console.desk.resolver_is_silent());
    // What took time was asked before: an account that went meanwhile must not begin its series anew.
    let snapshot = console.reloader.published().load_full();
    let all = snapshot.tenants().count() <= snapshot.gateway.metrics_per_account_max;
    for config in snapshot.tenants().map(|tenant| &tenant.config) {
        if all || console.metrics.has_own_series(&config.id) {
            console.metrics.begin_account(&config.id, config.pixels.iter().map(|pixel| pixel.id));
        }
    }
    let activity = Activity { accounts: snapshot.tenants().count().max(events.len()), events };
    match exposition(&console.metrics, &activity, snapshot.gateway.metrics_per_account_max) {
        Ok(text) => ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], text).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}
