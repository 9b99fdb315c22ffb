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

    fn on_fault(&self, account: &AccountId, _filter: &str, kind: filter::FaultKind) {
        self.0.filter_fault(account, kind.as_str());
    }
}

impl delivery::Observer for Counting {
    fn request(&self, outcome: &'static str) {
        self.0.delivery_request(outcome);
    }

    fn delivered(&self, lane: &LaneKey, events: u64, after: Duration) {
        self.0.delivered(lane, events, after);
    }

    fn tested(&self, lane: &LaneKey, events: u64, after: Duration) {
        self.0.tested(lane, events, after);
    }

    fn uncounted(&self, lane: &LaneKey, events: u64) {
        self.0.uncounted(lane, events);
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

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::telemetry::Activity;

    #[test]
    fn an_event_that_no_filter_was_called_for_counts_as_a_fault() {
        let metrics = Arc::new(Metrics::new().unwrap());
        let account = "shop".parse().unwrap();
        filter::Observer::on_fault(&Counting(metrics.clone()), &account, "first", filter::FaultKind::Overloaded);
        let text = crate::telemetry::exposition(&metrics, &Activity::default(), 1).unwrap();
        let expected = "pixelgate_filter_faults_total{account=\"shop\",kind=\"overloaded\"} 1";
        assert!(text.contains(expected), "{text}");
    }
}
