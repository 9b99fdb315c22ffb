//! Every metric there is, declared in one list.

mod begin;
mod forget;

use std::collections::{HashMap, HashSet};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use prometheus::core::Collector;
use prometheus::{Gauge, Histogram, HistogramOpts, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry};

use crate::account::{AccountId, LaneKey};

/// Reasons that one account's filters may make up before the rest are counted as `other`.
const REASONS_PER_ACCOUNT_MAX: usize = 32;
/// What those are counted as.
const OTHER_REASON: &str = "other";
/// Bytes of a reason that become a label.
const REASON_BYTES_MAX: usize = 80;
/// Upper bounds in seconds, from what a memory-only step takes to what a slow Graph API takes.
const SECONDS: &[f64] = &[
    0.000_01, 0.000_05, 0.000_1, 0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5,
    5.0, 10.0, 30.0,
];

pub use begin::REJECTED;

/// All metrics. Names, labels and meaning are a contract (docs/metrics.md).
pub struct Metrics {
    pub(super) registry: Registry,
    accepted: IntCounterVec,
    dropped: IntCounterVec,
    held: IntCounterVec,
    rejected: IntCounterVec,
    duplicate: IntCounterVec,
    delivered: IntCounterVec,
    tested: IntCounterVec,
    uncounted: IntCounterVec,
    dead: IntCounterVec,
    ambiguous: IntCounterVec,
    retried: IntCounterVec,
    unusable_values: IntCounterVec,
    lane_pending: IntGaugeVec,
    lane_in_flight: IntGaugeVec,
    lane_paused: IntGaugeVec,
    lane_oldest: IntGaugeVec,
    accept_seconds: Histogram,
    delivery_seconds: Histogram,
    fsync_seconds: Histogram,
    filter_seconds: Histogram,
    delivery_requests: IntCounterVec,
    outbox_bytes: IntGauge,
    disk_free_bytes: IntGauge,
    handshakes: IntCounterVec,
    connections: IntGauge,
    filter_calls: IntCounterVec,
    filter_faults: IntCounterVec,
    reloads: IntCounterVec,
    config_problems: IntGaugeVec,
    certificates: IntGaugeVec,
    certificate_expiry: Gauge,
    certificate_orders: IntCounterVec,
    ca_account_paused: IntGaugeVec,
    ca_account_orders_left: IntGaugeVec,
    ca_account_waiting: IntGaugeVec,
    resolver_silent: IntGauge,
    reasons: Mutex<HashMap<String, HashSet<String>>>,
    /// The accounts with series of their own, in the order in which they got them.
    pub(super) own_series: Mutex<Vec<String>>,
    #[cfg(test)]
    declared: Vec<prometheus::core::Desc>,
}

/// How an account at a CA stands.
#[derive(Clone, Copy, Debug)]
pub struct CaAccount<'a> {
    /// Its name in the configuration.
    pub name: &'a str,
    /// Whether nothing is asked of it.
    pub paused: bool,
    /// First orders that it may be given now.
    pub orders_left: u32,
    /// Names that wait for their first order there.
    pub first_orders_waiting: usize,
    /// Names whose renewal there is due and waits.
    pub renewals_waiting: usize,
}

/// The list in the making.
struct List {
    registry: Registry,
    #[cfg(test)]
    declared: std::cell::RefCell<Vec<prometheus::core::Desc>>,
}

// === impl Metrics ===

impl Metrics {
    /// Declares them all.
    ///
    /// # Errors
    /// Only if two were declared under one name, which the tests would find.
    pub fn new() -> Result<Self, prometheus::Error> {
        let registry = Registry::new_custom(Some("pixelgate".to_owned()), None)?;
        let list = List {
            registry,
            #[cfg(test)]
            declared: std::cell::RefCell::default(),
        };
        let r = &list;
        Ok(Self {
            accepted: counters(r, "events_accepted_total", "Events answered with success", &["account", "format"])?,
            dropped: counters(r, "events_dropped_total", "Events that a filter dropped", &["account", "reason"])?,
            held: counters(r, "events_held_total", "Events held because a filter failed", &["account"])?,
            duplicate: counters(r, "events_duplicate_total", "Events that were accepted before", &["account"])?,
            rejected: counters(r, "events_rejected_total", "Requests answered with an error", &["reason"])?,
            delivered: counters(r, "events_delivered_total", "Events Meta took", &["account", "pixel"])?,
            tested: counters(r, "events_tested_total", "Events Meta took as tests", &["account", "pixel"])?,
            uncounted: counters(
                r,
                "events_uncounted_total",
                "Events of requests Meta took, not counted by it",
                &["account", "pixel"],
            )?,
            dead: counters(r, "events_dead_total", "Events that will not be sent", &["account", "pixel", "reason"])?,
            ambiguous: counters(
                r,
                "events_ambiguous_total",
                "Events sent again after a send without answer",
                &["account", "pixel"],
            )?,
            retried: counters(r, "events_retried_total", "Events put back for another try", &["account", "pixel"])?,
            unusable_values: counters(
                r,
                "user_data_dropped_total",
                "Values of user_data that could not be normalised",
                &["account"],
            )?,
            lane_pending: gauges(r, "lane_pending", "Events that wait for delivery", &["account", "pixel"])?,
            lane_in_flight: gauges(r, "lane_in_flight", "Events in a request", &["account", "pixel"])?,
            lane_paused: gauges(r, "lane_paused", "1 = paused until a person acts", &["account", "pixel"])?,
            lane_oldest: gauges(r, "lane_oldest_seconds", "Age of the oldest event that waits", &["account", "pixel"])?,
            accept_seconds: histogram(r, "accept_seconds", "From decoded to durable")?,
            delivery_seconds: histogram(r, "delivery_seconds", "From accepted to taken by Meta")?,
            fsync_seconds: histogram(r, "outbox_fsync_seconds", "One fdatasync of the outbox")?,
            filter_seconds: histogram(r, "filter_seconds", "One call of a filter")?,
            delivery_requests: counters(r, "delivery_requests_total", "Requests to the Graph API", &["outcome"])?,
            outbox_bytes: gauge(r, "outbox_bytes", "Bytes of the outbox on disk")?,
            disk_free_bytes: gauge(r, "disk_free_bytes", "Free bytes where the outbox is")?,
            handshakes: counters(r, "handshakes_total", "TLS handshakes", &["result"])?,
            connections: gauge(r, "connections", "Open connections")?,
            filter_calls: counters(r, "filter_calls_total", "Calls of filters", &["account", "verdict"])?,
            filter_faults: counters(r, "filter_faults_total", "Events that a filter failed on", &["account", "kind"])?,
            reloads: counters(r, "reloads_total", "Reloads", &["result"])?,
            config_problems: gauges(r, "config_problems", "Problems of the configuration", &["severity"])?,
            certificates: gauges(r, "certificates", "Server names by the state of their certificate", &["state"])?,
            certificate_expiry: registered(
                r,
                Gauge::new("certificate_expiry_seconds_min", "Until the first certificate expires")?,
            )?,
            certificate_orders: counters(r, "certificate_orders_total", "Certificates ordered", &["result"])?,
            ca_account_paused: gauges(r, "ca_account_paused", "1 = nothing is asked of a CA account", &["ca_account"])?,
            ca_account_orders_left: gauges(
                r,
                "ca_account_orders_left",
                "First orders that a CA account may be given now",
                &["ca_account"],
            )?,
            ca_account_waiting: gauges(
                r,
                "ca_account_waiting",
                "Names that wait for an order at a CA account",
                &["ca_account", "order"],
            )?,
            resolver_silent: gauge(
                r,
                "acme_resolver_silent",
                "1 = the DNS server that names are looked up with is silent",
            )?,
            reasons: Mutex::default(),
            own_series: Mutex::default(),
            #[cfg(test)]
            declared: list.declared.into_inner(),
            registry: list.registry,
        })
    }

    /// Whether an account has series of its own, however many accounts there are.
    pub fn has_own_series(&self, account: &AccountId) -> bool {
        let own = self.own_series.lock().unwrap_or_else(PoisonError::into_inner);
        own.iter().any(|name| name == account.as_str())
    }

    /// Events answered with success, and how long one request took from decoded to durable.
    pub fn accepted(&self, account: &AccountId, format: &str, events: u64, took: Duration) {
        self.accepted.with_label_values(&[account.as_str(), format]).inc_by(events);
        self.accept_seconds.observe(took.as_secs_f64());
    }

    /// An event that a filter dropped, with the filter's own words (bounded).
    pub fn dropped(&self, account: &AccountId, reason: &str) {
        let reason = self.bounded_reason(account.as_str(), reason);
        self.dropped.with_label_values(&[account.as_str(), &reason]).inc();
    }

    /// Events held because a filter failed on them.
    pub fn held(&self, account: &AccountId, events: u64) {
        self.held.with_label_values(&[account.as_str()]).inc_by(events);
    }

    /// A request answered with an error.
    pub fn rejected(&self, reason: &str) {
        self.rejected.with_label_values(&[reason]).inc();
    }

    /// Values of `user_data` that were left out because they could not be normalised.
    pub fn unusable_values(&self, account: &AccountId, values: u64) {
        self.unusable_values.with_label_values(&[account.as_str()]).inc_by(values);
    }

    /// Events that Meta took, `seconds` after they were accepted (the oldest of them).
    pub fn delivered(&self, lane: &LaneKey, events: u64, after: Duration) {
        self.delivered.with_label_values(&[lane.account.as_str(), &lane.pixel.to_string()]).inc_by(events);
        self.delivery_seconds.observe(after.as_secs_f64());
    }

    /// The same of events that went as tests.
    pub fn tested(&self, lane: &LaneKey, events: u64, after: Duration) {
        self.tested.with_label_values(&[lane.account.as_str(), &lane.pixel.to_string()]).inc_by(events);
        self.delivery_seconds.observe(after.as_secs_f64());
    }

    /// Events of requests that Meta took, and that it did not count.
    pub fn uncounted(&self, lane: &LaneKey, events: u64) {
        self.uncounted.with_label_values(&[lane.account.as_str(), &lane.pixel.to_string()]).inc_by(events);
    }

    /// Events that will not be sent: buried, or dropped.
    pub fn dead(&self, lane: &LaneKey, reason: &str, events: u64) {
        let labels = [lane.account.as_str(), &lane.pixel.to_string(), reason];
        self.dead.with_label_values(&labels).inc_by(events);
    }

    /// Events sent again although an earlier send may have arrived.
    pub fn ambiguous(&self, lane: &LaneKey, events: u64) {
        self.ambiguous.with_label_values(&[lane.account.as_str(), &lane.pixel.to_string()]).inc_by(events);
    }

    /// Events put back for another try.
    pub fn retried(&self, lane: &LaneKey, events: u64) {
        self.retried.with_label_values(&[lane.account.as_str(), &lane.pixel.to_string()]).inc_by(events);
    }

    /// A request to the Graph API and what it came to.
    pub fn delivery_request(&self, outcome: &str) {
        self.delivery_requests.with_label_values(&[outcome]).inc();
    }

    /// One fdatasync of the outbox.
    pub fn fsync(&self, took: Duration) {
        self.fsync_seconds.observe(took.as_secs_f64());
    }

    /// A handshake by its result.
    pub fn handshake(&self, result: &str) {
        self.handshakes.with_label_values(&[result]).inc();
    }

    /// Connections opened (1) and closed (-1).
    pub fn connections(&self, change: i64) {
        self.connections.add(change);
    }

    /// A call of a filter and its verdict.
    pub fn filter_call(&self, account: &AccountId, verdict: &str, took: Duration) {
        self.filter_calls.with_label_values(&[account.as_str(), verdict]).inc();
        self.filter_seconds.observe(took.as_secs_f64());
    }

    /// An event that had a fault at a filter, called or not.
    pub fn filter_fault(&self, account: &AccountId, kind: &str) {
        self.filter_faults.with_label_values(&[account.as_str(), kind]).inc();
    }

    /// A reload by its result.
    pub fn reload(&self, result: &str) {
        self.reloads.with_label_values(&[result]).inc();
    }

    /// What is wrong with the configuration now.
    pub fn config_problems(&self, errors: usize, warnings: usize) {
        self.config_problems.with_label_values(&["error"]).set(to_i64(errors as u64));
        self.config_problems.with_label_values(&["warning"]).set(to_i64(warnings as u64));
    }

    /// Server names by the state of their certificate, and the seconds until the first one expires, set when metrics are
    /// read.
    pub fn certificates(&self, states: &[(&str, usize)], expires_in: Option<i64>) {
        for (state, names) in states {
            self.certificates.with_label_values(&[state]).set(to_i64(*names as u64));
        }
        self.certificate_expiry.set(expires_in.map_or(f64::NAN, |seconds| seconds as f64));
    }

    /// A certificate that was ordered, and what came of it.
    pub fn certificate_order(&self, result: &str) {
        self.certificate_orders.with_label_values(&[result]).inc();
    }

    /// The accounts at CAs, set when metrics are read.
    pub fn ca_accounts<'a>(&self, accounts: impl Iterator<Item = CaAccount<'a>>) {
        // One that left the configuration has no series any more.
        for gauge in [&self.ca_account_paused, &self.ca_account_orders_left, &self.ca_account_waiting] {
            gauge.reset();
        }
        for CaAccount { name, paused, orders_left, first_orders_waiting, renewals_waiting } in accounts {
            self.ca_account_paused.with_label_values(&[name]).set(i64::from(paused));
            self.ca_account_orders_left.with_label_values(&[name]).set(i64::from(orders_left));
            for (order, names) in [("first", first_orders_waiting), ("renewal", renewals_waiting)] {
                self.ca_account_waiting.with_label_values(&[name, order]).set(to_i64(names as u64));
            }
        }
    }

    /// Whether the DNS server that names are looked up with does not answer, set when metrics are read.
    pub fn resolver(&self, is_silent: bool) {
        self.resolver_silent.set(i64::from(is_silent));
    }

    /// The outbox as a whole, set when metrics are read.
    pub fn outbox(&self, bytes: u64, free_bytes: u64) {
        self.outbox_bytes.set(to_i64(bytes));
        self.disk_free_bytes.set(to_i64(free_bytes));
    }

    /// One lane, set when metrics are read.
    pub fn lane(&self, lane: &LaneKey, pending: u64, in_flight: u64, paused: bool, oldest_seconds: u64) {
        let labels = [lane.account.as_str(), &lane.pixel.to_string()];
        self.lane_pending.with_label_values(&labels).set(to_i64(pending));
        self.lane_in_flight.with_label_values(&labels).set(to_i64(in_flight));
        self.lane_paused.with_label_values(&labels).set(i64::from(paused));
        self.lane_oldest.with_label_values(&labels).set(to_i64(oldest_seconds));
        // Nothing is found to be one before there is a memory of what was accepted; the series is there all the same.
        self.duplicate.with_label_values(&[lane.account.as_str()]);
    }

    /// A filter makes its reasons up: past a bound they are all `other`, or one account could fill the memory.
    fn bounded_reason(&self, account: &str, reason: &str) -> String {
        let reason = reason.get(..reason.floor_char_boundary(REASON_BYTES_MAX)).unwrap_or_default();
        let mut reasons = self.reasons.lock().unwrap_or_else(PoisonError::into_inner);
        let known = reasons.entry(account.to_owned()).or_default();
        if !known.contains(reason) {
            if known.len() >= REASONS_PER_ACCOUNT_MAX {
                return OTHER_REASON.to_owned();
            }
            known.insert(reason.to_owned());
        }
        reason.to_owned()
    }
}

fn to_i64(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

fn registered<C: Collector + Clone + 'static>(list: &List, metric: C) -> Result<C, prometheus::Error> {
    list.registry.register(Box::new(metric.clone()))?;
    #[cfg(test)]
    list.declared.borrow_mut().extend(metric.desc().into_iter().cloned());
    Ok(metric)
}

fn counters(list: &List, name: &str, help: &str, labels: &[&str]) -> Result<IntCounterVec, prometheus::Error> {
    registered(list, IntCounterVec::new(Opts::new(name, help), labels)?)
}

fn gauges(list: &List, name: &str, help: &str, labels: &[&str]) -> Result<IntGaugeVec, prometheus::Error> {
    registered(list, IntGaugeVec::new(Opts::new(name, help), labels)?)
}

fn gauge(list: &List, name: &str, help: &str) -> Result<IntGauge, prometheus::Error> {
    registered(list, IntGauge::new(name, help)?)
}

fn histogram(list: &List, name: &str, help: &str) -> Result<Histogram, prometheus::Error> {
    let options = HistogramOpts::new(name, help).buckets(SECONDS.to_vec());
    registered(list, Histogram::with_opts(options)?)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::collections::BTreeMap;

    use super::*;

    /// Names and labels of BLUEPRINT's contract.
    const CONTRACT: &[(&str, &[&str])] = &[
        ("events_accepted_total", &["account", "format"]),
        ("events_dropped_total", &["account", "reason"]),
        ("events_held_total", &["account"]),
        ("events_duplicate_total", &["account"]),
        ("events_rejected_total", &["reason"]),
        ("events_delivered_total", &["account", "pixel"]),
        ("events_dead_total", &["account", "pixel", "reason"]),
        ("lane_pending", &["account", "pixel"]),
        ("lane_in_flight", &["account", "pixel"]),
        ("lane_paused", &["account", "pixel"]),
        ("lane_oldest_seconds", &["account", "pixel"]),
        ("accept_seconds", &[]),
        ("delivery_seconds", &[]),
        ("outbox_fsync_seconds", &[]),
        ("filter_seconds", &[]),
        ("delivery_requests_total", &["outcome"]),
        ("outbox_bytes", &[]),
        ("disk_free_bytes", &[]),
        ("handshakes_total", &["result"]),
        ("connections", &[]),
        ("filter_calls_total", &["account", "verdict"]),
        ("reloads_total", &["result"]),
        ("config_problems", &["severity"]),
        ("certificates", &["state"]),
        ("certificate_expiry_seconds_min", &[]),
    ];

    fn declared() -> BTreeMap<String, Vec<String>> {
        let metrics = Metrics::new().unwrap();
        metrics.declared.into_iter().map(|desc| (format!("pixelgate_{}", desc.fq_name), desc.variable_labels)).collect()
    }

    /// Names and labels in the table of docs/metrics.md.
    fn documented() -> BTreeMap<String, Vec<String>> {
        let mut documented = BTreeMap::new();
        for row in include_str!("../../docs/metrics.md").lines().filter(|row| row.starts_with("| `pixelgate_")) {
            let mut cells = row.split('|').map(str::trim).skip(1);
            let (names, _kind, labels) = (cells.next().unwrap(), cells.next().unwrap(), cells.next().unwrap());
            // What a label may be stands behind it in parentheses.
            let mut depth = 0;
            let labels = labels.chars().filter(|c| {
                depth += i32::from(*c == '(');
                let outside = depth == 0;
                depth -= i32::from(*c == ')');
                outside
            });
            let labels: String = labels.collect();
            let labels = labels.split(',').map(str::trim).filter(|label| !label.is_empty()).map(str::to_owned);
            let labels: Vec<_> = labels.collect();
            for name in names.split(',') {
                documented.insert(name.trim().trim_matches('`').to_owned(), labels.clone());
            }
        }
        documented
    }

    #[test]
    fn the_contract_is_kept() {
        let declared = declared();
        for (name, labels) in CONTRACT {
            let found = declared.get(&format!("pixelgate_{name}")).map(|labels| labels.join(","));
            assert_eq!(found, Some(labels.join(",")), "{name}");
        }
    }

    #[test]
    fn every_metric_is_in_the_manual_and_no_other() {
        assert_eq!(documented(), declared());
    }
}
