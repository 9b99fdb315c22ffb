//! Metrics as Prometheus reads them (text format 0.0.4), with a bound on the accounts that have series of their own.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::PoisonError;

use prometheus::proto::{LabelPair, Metric, MetricFamily, MetricType};
use prometheus::{Encoder, TextEncoder};

use crate::account::AccountId;
use crate::telemetry::Metrics;

/// What the accounts past the bound are counted under, and those that are gone.
pub(super) const OTHER: &str = "_other";
/// Events that an account must have had before it gets series of its own, where there are more accounts than series.
const OWN_SERIES_EVENTS_MIN: u64 = 1_000;
/// Gauges that are no amounts: of several lanes, the worst one's counts.
const OF_THE_WORST: [&str; 1] = ["pixelgate_lane_oldest_seconds"];

/// How busy accounts are.
#[derive(Clone, Debug, Default)]
pub struct Activity {
    /// Accounts that there are, busy or not.
    pub accounts: usize,
    /// Events of each since the first start.
    pub events: HashMap<AccountId, u64>,
}

/// All metrics as text. The `per_account_max` busiest accounts have series of their own, and keep them: a counter never
/// goes back, and the sum of the others would if one of them left it. The others' are added up.
///
/// # Errors
/// What the encoder says, were a metric malformed.
pub fn exposition(metrics: &Metrics, activity: &Activity, per_account_max: usize) -> Result<String, prometheus::Error> {
    let mut own = metrics.own_series.lock().unwrap_or_else(PoisonError::into_inner);
    let mut families = metrics.registry.gather();
    own.truncate(per_account_max);
    // Who comes first must not keep out who turns out to be busy, unless there is room for all.
    let events_min = if activity.accounts > per_account_max { OWN_SERIES_EVENTS_MIN } else { 0 };
    for (account, events) in busiest_accounts(&families, activity) {
        if own.len() < per_account_max && events >= events_min && !own.contains(&account) {
            own.push(account);
        }
    }
    let kept: HashSet<_> = own.iter().cloned().collect();
    drop(own);
    for family in &mut families {
        fold_others(family, &kept);
    }
    let mut text = Vec::new();
    TextEncoder::new().encode(&families, &mut text)?;
    String::from_utf8(text).map_err(|error| prometheus::Error::Msg(error.to_string()))
}

/// The accounts with series, those that had the most events first, and how many they had.
fn busiest_accounts(families: &[MetricFamily], activity: &Activity) -> Vec<(String, u64)> {
    let events: HashMap<_, _> = activity.events.iter().map(|(account, events)| (account.as_str(), *events)).collect();
    let mut with_series: HashSet<_> =
        families.iter().flat_map(MetricFamily::get_metric).filter_map(account_of).collect();
    with_series.remove(OTHER);
    let weigh = |account: &str| (account.to_owned(), events.get(account).copied().unwrap_or_default());
    let mut ranked: Vec<_> = with_series.into_iter().map(weigh).collect();
    ranked.sort_by(|(name_a, a), (name_b, b)| b.cmp(a).then(name_a.cmp(name_b)));
    ranked
}

/// Adds up the series of accounts that have none of their own; their pixels go under the same word.
fn fold_others(family: &mut MetricFamily, own: &HashSet<String>) {
    let is_other = |metric: &Metric| account_of(metric).is_some_and(|account| !own.contains(account));
    if !family.get_metric().iter().any(is_other) {
        return;
    }
    let kind = family.get_field_type();
    let of_the_worst = OF_THE_WORST.contains(&family.name());
    let mut folded: BTreeMap<Vec<(String, String)>, Metric> = BTreeMap::new();
    let mut kept = Vec::new();
    for metric in std::mem::take(family.mut_metric()) {
        if !is_other(&metric) {
            kept.push(metric);
            continue;
        }
        let labels: Vec<_> = metric.get_label().iter().map(other_label).collect();
        let sum = folded.entry(labels.clone()).or_insert_with(|| empty(&labels));
        add(sum, &metric, kind, of_the_worst);
    }
    kept.extend(folded.into_values());
    *family.mut_metric() = kept;
}

fn account_of(metric: &Metric) -> Option<&str> {
    metric.get_label().iter().find(|label| label.name() == "account").map(LabelPair::value)
}

fn other_label(label: &LabelPair) -> (String, String) {
    let folded = matches!(label.name(), "account" | "pixel");
    (label.name().to_owned(), if folded { OTHER.to_owned() } else { label.value().to_owned() })
}

fn empty(labels: &[(String, String)]) -> Metric {
    let pairs = labels.iter().map(|(name, value)| {
        let mut pair = LabelPair::default();
        pair.set_name(name.clone());
        pair.set_value(value.clone());
        pair
    });
    Metric::from_label(pairs.collect())
}

/// No histogram has an account label, so counters and gauges are all there is to add.
fn add(sum: &mut Metric, metric: &Metric, kind: MetricType, of_the_worst: bool) {
    match kind {
        MetricType::COUNTER => {
            let value = sum.get_counter().get_value() + metric.get_counter().get_value();
            let mut counter = prometheus::proto::Counter::default();
            counter.set_value(value);
            sum.set_counter(counter);
        }
        MetricType::GAUGE => {
            let (so_far, value) = (sum.get_gauge().get_value(), metric.get_gauge().get_value());
            let value = if of_the_worst { so_far.max(value) } else { so_far + value };
            let mut gauge = prometheus::proto::Gauge::default();
            gauge.set_value(value);
            sum.set_gauge(gauge);
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::time::Duration;

    use super::*;
    use crate::account::LaneKey;

    /// Accounts with so many events each.
    fn activity(events: &[(&str, u64)]) -> Activity {
        let by_account = events.iter().map(|(account, events)| (account.parse().unwrap(), *events));
        Activity { accounts: events.len(), events: by_account.collect() }
    }

    fn accepted(metrics: &Metrics, events: &[(&str, u64)]) {
        for (account, events) in events {
            metrics.accepted(&account.parse().unwrap(), "gateway", *events, Duration::ZERO);
        }
    }

    fn line(account: &str, events: u64) -> String {
        format!(r#"pixelgate_events_accepted_total{{account="{account}",format="gateway"}} {events}"#)
    }

    #[test]
    fn accounts_past_the_bound_are_added_up() {
        let metrics = Metrics::new().unwrap();
        accepted(&metrics, &[("busy", 10), ("calm", 2), ("quiet", 3)]);
        // What was before this start counts too: just after it nobody is busy.
        let text = exposition(&metrics, &activity(&[("busy", 9_000), ("calm", 2_000), ("quiet", 3_000)]), 1).unwrap();
        assert!(text.contains(&line("busy", 10)) && text.contains(&line("_other", 5)), "{text}");
        assert!(!text.contains("calm"), "{text}");
    }

    #[test]
    fn an_account_keeps_its_series_when_another_becomes_busier() {
        let metrics = Metrics::new().unwrap();
        accepted(&metrics, &[("first", 2), ("second", 1)]);
        exposition(&metrics, &activity(&[("first", 2_000), ("second", 1_000)]), 1).unwrap();
        accepted(&metrics, &[("second", 9)]);
        let text = exposition(&metrics, &activity(&[("first", 2_000), ("second", 9_000)]), 1).unwrap();
        assert!(text.contains(&line("first", 2)) && text.contains(&line("_other", 10)), "{text}");
    }

    #[test]
    fn who_comes_first_does_not_keep_out_who_is_busy() {
        let metrics = Metrics::new().unwrap();
        accepted(&metrics, &[("early", 1)]);
        let three = |early, late| Activity { accounts: 3, ..activity(&[("early", early), ("late", late)]) };
        let text = exposition(&metrics, &three(1, 0), 1).unwrap();
        assert!(text.contains(&line("_other", 1)), "{text}");
        accepted(&metrics, &[("late", 1_000)]);
        let text = exposition(&metrics, &three(1, 1_000), 1).unwrap();
        assert!(text.contains(&line("late", 1_000)) && text.contains(&line("_other", 1)), "{text}");
        let metrics = Metrics::new().unwrap();
        accepted(&metrics, &[("early", 1)]);
        let text = exposition(&metrics, &three(1, 0), 3).unwrap();
        assert!(text.contains(&line("early", 1)), "there is room for all: {text}");
    }

    #[test]
    fn of_lanes_without_series_the_oldest_event_counts() {
        let metrics = Metrics::new().unwrap();
        for (pixel, oldest) in [("1", 40), ("2", 70)] {
            let lane = LaneKey { account: "shoes".parse().unwrap(), pixel: pixel.parse().unwrap() };
            metrics.lane(&lane, 5, 0, true, oldest);
        }
        let text = exposition(&metrics, &Activity::default(), 0).unwrap();
        for (metric, value) in [("oldest_seconds", 70), ("pending", 10), ("paused", 2)] {
            let line = format!(r#"pixelgate_lane_{metric}{{account="_other",pixel="_other"}} {value}"#);
            assert!(text.contains(&line), "{line}: {text}");
        }
    }

    #[test]
    fn reasons_that_a_filter_makes_up_are_bounded() {
        let metrics = Metrics::new().unwrap();
        for n in 0..1_000 {
            metrics.dropped(&"loud".parse().unwrap(), &format!("reason {n}"));
        }
        let text = exposition(&metrics, &Activity::default(), 500).unwrap();
        assert!(text.contains(r#"account="loud",reason="other"} 968"#), "{text}");
    }
}
