//! What the parts tell while they work, counted by the metrics. The parts do not know the metrics; this is the plug.

use std::sync::Arc;
use std::time::Duration;

use crate::account::{AccountId, LaneKey};
use crate::telemetry::Metrics;
use crate::{delivery, filter, proxy};

/// Counts for every part.
#[derive(Clone)]
pub(super) struct Counting(pub(super) Arc<Metrics>);

impl proxy::Observer for Counting {
    fn connections(&self, change: i64) {
        self.0.connections(change);
    }

    fn handshake(&self, result: &'static str) {
        self.0.handshake(result);
    }

    fn rejected(&self, reason: &'static str) {
        self.0.rejected(reason);
    }
}
