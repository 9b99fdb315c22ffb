//! What the gateway says of itself: metrics (every one is declared in [`Metrics`]) and the log.

mod exposition;
mod log;
mod metrics;

pub use exposition::{Activity, exposition};
pub use log::{LogError, LogStyle, start_log};
pub use metrics::{CaAccount, Metrics, REJECTED};
