//! What a reload cannot change in a running process: it stays as it was at the start, and a change of it is told.

use crate::config::{GatewayConfig, Problem};

/// What is written, but for what only a restart can change: that is as the process was started with. What runs and what is
/// compiled agree, so that certificates are looked for where issuance puts them.
pub(super) fn held(started: &GatewayConfig, written: &GatewayConfig) -> GatewayConfig {
    let mut held = written.clone();
    held.host.data_dir.clone_from(&started.host.data_dir);
    held.host.control.clone_from(&started.host.control);
    held.host.watch = started.host.watch;
    held.listen.https.clone_from(&started.listen.https);
    held.listen.http.clone_from(&started.listen.http);
    held.listen.ops = started.listen.ops;
    held.outbox.clone_from(&started.outbox);
    held.delivery.requests_in_flight_per_lane_max = started.delivery.requests_in_flight_per_lane_max;
    held.limits.account_backlog_bytes_max = started.limits.account_backlog_bytes_max;
    held.filters.clone_from(&started.filters);
    held.log.clone_from(&started.log);
    held
}

/// What a restart would change, as warnings.
pub(super) fn restart_needed(running: &GatewayConfig, written: &GatewayConfig) -> Vec<Problem> {
    let per_lane = |config: &GatewayConfig| config.delivery.requests_in_flight_per_lane_max;
    let backlog = |config: &GatewayConfig| config.limits.account_backlog_bytes_max;
    let parts = [
        ("host.data_dir", running.host.data_dir != written.host.data_dir),
        ("host.control", running.host.control != written.host.control),
        ("host.watch", running.host.watch != written.host.watch),
        ("listen.https", running.listen.https != written.listen.https),
        ("listen.http", running.listen.http != written.listen.http),
        ("listen.ops", running.listen.ops != written.listen.ops),
        ("outbox", running.outbox != written.outbox),
        ("delivery.requests_in_flight_per_lane_max", per_lane(running) != per_lane(written)),
        ("limits.account_backlog_bytes_max", backlog(running) != backlog(written)),
        ("filters", running.filters != written.filters),
        ("log", running.log != written.log),
    ];
    let changed = parts.into_iter().filter(|(_, changed)| *changed);
    let problem = |(key, _)| {
        Problem::warning(
            &written.file,
            key,
            "changed, but is read at the start only",
            "restart the gateway to take it up",
        )
    };
    changed.map(problem).collect()
}
