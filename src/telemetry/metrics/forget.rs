//! What is left of accounts that are not in the configuration any more: of those with series of their own nothing, of all
//! others their counts, in the sum of the others. That sum must not go back: monitoring would take it for a new beginning.

use std::collections::{HashMap, HashSet};
use std::sync::PoisonError;

use prometheus::IntCounterVec;
use prometheus::core::{Collector, MetricVec, MetricVecBuilder};
use prometheus::proto::{LabelPair, Metric, MetricFamily};

use crate::telemetry::exposition::OTHER;
use crate::telemetry::metrics::{Metrics, OTHER_REASON};

// === impl Metrics ===

impl Metrics {
    /// Forgets all accounts but those that stay. What is still delivered for one that is gone begins its series anew.
    pub fn retain_accounts(&self, stays: impl Fn(&str) -> bool) {
        // Held to the end: what is moved to the others is not shown when it is in neither place.
        let mut own = self.own_series.lock().unwrap_or_else(PoisonError::into_inner);
        let had_own: HashSet<_> = own.iter().cloned().collect();
        own.retain(|account| stays(account));
        let is_gone = |account: &str| account != OTHER && !stays(account);
        self.reasons.lock().unwrap_or_else(PoisonError::into_inner).retain(|account, _| !is_gone(account));
        for counter in self.counters_of_accounts() {
            for (metric, labels) in remove(counter, is_gone) {
                let account = labels.get("account").cloned().unwrap_or_default();
                if !had_own.contains(&account) {
                    self.add_to_others(counter, labels, metric.get_counter().get_value() as u64);
                }
            }
        }
        for gauge in [&self.lane_pending, &self.lane_in_flight, &self.lane_paused, &self.lane_oldest] {
            remove(gauge, is_gone);
        }
    }

    /// Forgets how lanes stood that are gone, as `is_gone` says of an account and a pixel.
    pub fn forget_lanes(&self, is_gone: impl Fn(&str, &str) -> bool) {
        // All four have the same lanes.
        for metric in self.lane_pending.collect().iter().flat_map(MetricFamily::get_metric) {
            let of = |label| metric.get_label().iter().find(|pair| pair.name() == label).map_or("", LabelPair::value);
            let (account, pixel) = (of("account"), of("pixel"));
            if is_gone(account, pixel) {
                for gauge in [&self.lane_pending, &self.lane_in_flight, &self.lane_paused, &self.lane_oldest] {
                    // Another one may have removed it meanwhile.
                    let _ = gauge.remove_label_values(&[account, pixel]);
                }
            }
        }
    }

    fn counters_of_accounts(&self) -> [&IntCounterVec; 13] {
        [
            &self.accepted,
            &self.dropped,
            &self.held,
            &self.duplicate,
            &self.delivered,
            &self.tested,
            &self.uncounted,
            &self.dead,
            &self.ambiguous,
            &self.retried,
            &self.unusable_values,
            &self.filter_calls,
            &self.filter_faults,
        ]
    }

    fn add_to_others(&self, counter: &IntCounterVec, mut labels: HashMap<String, String>, count: u64) {
        if count == 0 {
            return;
        }
        let is_dropped = std::ptr::eq(counter, &self.dropped);
        for (label, value) in &mut labels {
            match label.as_str() {
                "account" | "pixel" => OTHER.clone_into(value),
                // Filters make them up; what they are bounded to is none of theirs.
                "reason" if is_dropped && value != OTHER_REASON => *value = self.bounded_reason(OTHER, value),
                _ => {}
            }
        }
        if let Ok(sum) = counter.get_metric_with(&borrowed(&labels)) {
            sum.inc_by(count);
        }
    }
}

/// Removes the series of accounts that are gone; says which they were.
fn remove<B: MetricVecBuilder>(
    metrics: &MetricVec<B>,
    is_gone: impl Fn(&str) -> bool,
) -> Vec<(Metric, HashMap<String, String>)> {
    let all = metrics.collect().into_iter().flat_map(|mut family: MetricFamily| family.take_metric());
    let of_account = |pair: &LabelPair| pair.name() == "account" && is_gone(pair.value());
    let gone = all.filter(|metric| metric.get_label().iter().any(of_account));
    let removed = gone.map(|metric| {
        let labels: HashMap<_, _> =
            metric.get_label().iter().map(|pair| (pair.name().to_owned(), pair.value().to_owned())).collect();
        // Another one may have removed it meanwhile.
        let _ = metrics.remove(&borrowed(&labels));
        (metric, labels)
    });
    removed.collect()
}

fn borrowed(labels: &HashMap<String, String>) -> HashMap<&str, &str> {
    labels.iter().map(|(label, value)| (label.as_str(), value.as_str())).collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::time::Duration;

    use super::*;
    use crate::account::LaneKey;
    use crate::telemetry::{Activity, exposition};

    fn lane(account: &str) -> LaneKey {
        LaneKey { account: account.parse().unwrap(), pixel: "7".parse().unwrap() }
    }

    #[test]
    fn an_account_that_is_gone_has_no_series_and_gives_its_place_to_another() {
        let (metrics, activity) = (Metrics::new().unwrap(), |accounts| Activity { accounts, ..Activity::default() });
        for account in ["gone", "here"] {
            metrics.begin_account(&account.parse().unwrap(), std::iter::once("7".parse().unwrap()));
            metrics.delivered(&lane(account), 3, Duration::ZERO);
            metrics.dropped(&account.parse().unwrap(), "a bot");
            metrics.lane(&lane(account), 1, 0, false, 9);
            exposition(&metrics, &activity(1), 1).unwrap();
        }
        assert!(metrics.has_own_series(&"gone".parse().unwrap()));
        metrics.retain_accounts(|account| account == "here");
        let text = exposition(&metrics, &activity(1), 1).unwrap();
        assert!(!text.contains("gone") && !text.contains("_other"), "{text}");
        assert!(text.contains(r#"events_delivered_total{account="here",pixel="7"} 3"#), "{text}");
        assert!(!metrics.reasons.lock().unwrap().contains_key("gone"));
    }

    #[test]
    fn the_sum_of_the_others_does_not_go_back() {
        let metrics = Metrics::new().unwrap();
        for account in ["busy", "gone", "here"] {
            metrics.delivered(&lane(account), 3, Duration::ZERO);
            metrics.dead(&lane(account), "expired", 2);
            (0..40).for_each(|n| metrics.dropped(&account.parse().unwrap(), &format!("{account} {n}")));
        }
        let events = std::iter::once(("busy".parse().unwrap(), 2_000)).collect();
        let activity = Activity { accounts: 3, events };
        let sums = [
            r#"events_delivered_total{account="_other",pixel="_other"} 6"#,
            r#"events_dead_total{account="_other",pixel="_other",reason="expired"} 4"#,
            r#"events_dropped_total{account="_other",reason="other"} 16"#,
            r#"events_dropped_total{account="_other",reason="gone 3"} 1"#,
        ];
        for _ in 0..2 {
            let text = exposition(&metrics, &activity, 1).unwrap();
            assert!(sums.iter().all(|sum| text.contains(&format!("pixelgate_{sum}\n"))), "{text}");
            metrics.retain_accounts(|account| account != "gone");
        }
        // What they are made of does not grow with each that goes.
        let reasons =
            |metrics: &Metrics| metrics.dropped.collect().iter().map(|family| family.get_metric().len()).sum();
        let before: usize = reasons(&metrics);
        for n in 0..40 {
            metrics.dropped(&"brief".parse().unwrap(), &format!("brief {n}"));
        }
        metrics.retain_accounts(|account| account != "brief");
        assert_eq!(before, reasons(&metrics));
    }

    #[test]
    fn a_lane_is_forgotten_alone() {
        let metrics = Metrics::new().unwrap();
        ["gone", "here"].iter().for_each(|account| metrics.lane(&lane(account), 1, 0, false, 9));
        (0..2).for_each(|_| metrics.forget_lanes(|account, pixel| account == "gone" && pixel == "7"));
        let text = exposition(&metrics, &Activity::default(), 2).unwrap();
        assert!(text.contains(r#"lane_pending{account="here""#) && !text.contains(r#"lane_pending{account="gone""#));
    }
}
