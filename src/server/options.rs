//! The configuration in the terms of each part.

use std::path::PathBuf;
use std::sync::Arc;

use crate::config::{FilterLimits, GatewayConfig, LogFormat};
use crate::telemetry::{LogStyle, Metrics};
use crate::{filter, outbox};

/// How filters run. `cache_dir` is where compiled code is kept.
pub(crate) fn filter_options(limits: &FilterLimits, cache_dir: Option<PathBuf>) -> filter::Options {
    // A file that breaks the compiler must not break the gateway: it is compiled by a process of its own. This very
    // program, even if an upgrade has put another one in its place.
    let compiler = filter::Compiler::Child(PathBuf::from("/proc/self/exe"));
    filter::Options {
        deadline: limits.deadline,
        memory_bytes_max: limits.memory_bytes_max,
        file_bytes_max: limits.file_bytes_max,
        threads: limits.threads,
        wait_max: limits.wait_max,
        compile_timeout: limits.compile_timeout,
        cache_dir,
        script_runner: limits.script_runner.clone(),
        compiler,
    }
}

/// Where events are kept, and how many.
pub(super) fn outbox_options(config: &GatewayConfig, metrics: &Arc<Metrics>) -> outbox::Options {
    let (metrics, lost) = (metrics.clone(), metrics.clone());
    outbox::Options {
        dir: config.host.data_dir.join("outbox"),
        segment_bytes: config.outbox.segment_bytes,
        reserve_bytes: config.outbox.reserve_bytes,
        account_backlog_bytes_max: config.limits.account_backlog_bytes_max,
        dead_letters_max: config.outbox.dead_letters_max,
        dead_letter_bytes_max: config.outbox.dead_letter_bytes_max,
        leases_per_lane_max: config.delivery.requests_in_flight_per_lane_max,
        on_sync: Box::new(move |took| metrics.fsync(took)),
        on_lost: Box::new(move |lane, why, events| lost.dead(lane, why.as_str(), events)),
    }
}

/// How a line of the log is written.
pub(super) fn log_style(format: LogFormat) -> LogStyle {
    match format {
        LogFormat::Text => LogStyle::Text,
        LogFormat::Json => LogStyle::Json,
    }
}
