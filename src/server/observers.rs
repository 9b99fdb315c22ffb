//! What the parts tell while they work, counted by the metrics. The parts do not know the metrics; this is the plug.

use std::sync::Arc;
use std::time::Duration;

use crate::account::{AccountId, LaneKey};
use crate::telemetry::Metrics;
use crate::{delivery, filter, issuance, proxy};

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

impl filter::Observer for Counting {
    fn on_call(&self, account: &AccountId, _filter: &str, end: filter::CallEnd, took: Duration) {
        self.0.filter_call(account, end.as_str(), took);
    }
}

impl delivery::Observer for Counting {
    fn request(&self, outcome: &'static str, _took: Duration) {
        self.0.delivery_request(outcome);
    }

    fn delivered(&self, lane: &LaneKey, events: u64, after: Duration) {
        self.0.delivered(lane, events, after);
    }

    fn dead(&self, lane: &LaneKey, reason: &'static str, events: u64) {
        self.0.dead(lane, reason, events);
    }

    fn ambiguous(&self, lane: &LaneKey, events: u64) {
        self.0.ambiguous(lane, events);
    }

    fn retried(&self, lane: &LaneKey, events: u64) {
        self.0.retried(lane, events);
    }
}

impl issuance::Observer for Counting {
    fn ordered(&self, result: &'static str) {
        self.0.certificate_order(result);
    }
}
