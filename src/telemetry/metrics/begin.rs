//! Series that are there before their first event: `rate()` sees an increment only of what it saw before, so a counter that
//! begins at 1 hides its first event, and an alert on it waits for the second.

use crate::account::{AccountId, PixelId};
use crate::telemetry::Metrics;

const FORMATS: &[&str] = &["gateway", "graph", "pixel"];
const VERDICTS: &[&str] = &["drop", "fault", "modify", "pass"];
const RELOADS: &[&str] = &["ok", "partial", "refused"];
const OUTCOMES: &[&str] = &["accept", "accept_short", "bury", "doubt", "hold", "pause", "retry", "split"];
const DEATHS: &[&str] = &["damaged", "expired", "purged", "refused", "too_large"];
const HANDSHAKES: &[&str] =
    &["challenge", "failed", "limited", "limited_per_ip", "no_name", "not_loadable", "ok", "timeout", "unknown_name"];
const ORDERS: &[&str] = &[
    "account",
    "dns",
    "issued",
    "local",
    "lost",
    "not_served",
    "rate_limited",
    "refused",
    "unreachable",
    "validation",
];

/// Why a request is answered with an error, or a connection refused.
pub const REJECTED: &[&str] = &[
    "accept",
    "account_inactive",
    "backlog_full",
    "bad_request",
    "body_broken",
    "body_encoding",
    "connections",
    "connections_per_ip",
    "dead_letters_full",
    "header_too_large",
    "internal",
    "key",
    "loop",
    "malformed",
    "misdirected",
    "no_memory",
    "not_found",
    "not_onboarded",
    "pixel_inactive",
    "pixel_missing",
    "proxy_header",
    "store_unavailable",
    "too_fast",
    "too_large",
    "too_slow",
    "upstream_down",
    "upstream_slow",
    "website",
];

// === impl Metrics ===

impl Metrics {
    /// Begins the series that have no account.
    pub fn begin(&self) {
        let families = [
            (&self.rejected, REJECTED),
            (&self.handshakes, HANDSHAKES),
            (&self.delivery_requests, OUTCOMES),
            (&self.reloads, RELOADS),
            (&self.certificate_orders, ORDERS),
        ];
        for (counter, labels) in families {
            labels.iter().for_each(|label| drop(counter.with_label_values(&[label])));
        }
    }

    /// Begins the main series of an account and its pixels.
    pub fn begin_account(&self, account: &AccountId, pixels: impl Iterator<Item = PixelId>) {
        let account = account.as_str();
        FORMATS.iter().for_each(|format| drop(self.accepted.with_label_values(&[account, format])));
        drop(self.held.with_label_values(&[account]));
        drop(self.duplicate.with_label_values(&[account]));
        drop(self.unusable_values.with_label_values(&[account]));
        VERDICTS.iter().for_each(|verdict| drop(self.filter_calls.with_label_values(&[account, verdict])));
        drop(self.dropped.with_label_values(&[account, super::OTHER_REASON]));
        for pixel in pixels {
            let pixel = pixel.to_string();
            for counter in [&self.delivered, &self.tested, &self.uncounted, &self.ambiguous, &self.retried] {
                drop(counter.with_label_values(&[account, &pixel]));
            }
            DEATHS.iter().for_each(|reason| drop(self.dead.with_label_values(&[account, &pixel, reason])));
            for gauge in [&self.lane_pending, &self.lane_in_flight, &self.lane_paused, &self.lane_oldest] {
                drop(gauge.with_label_values(&[account, &pixel]));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::collections::BTreeSet;

    use super::*;

    /// The labels that docs/metrics.md lists for a metric.
    fn documented(metric: &str) -> BTreeSet<&str> {
        let row = include_str!("../../../docs/metrics.md").lines().find(|row| row.contains(&format!("`{metric}`")));
        let cell = row.and_then(|row| row.split('|').nth(3)).unwrap();
        let (_, listed) = cell.split_once('(').unwrap();
        listed.split(')').next().unwrap().split('`').skip(1).step_by(2).collect()
    }

    #[test]
    fn the_manual_lists_what_is_there_from_the_start() {
        for (metric, labels) in [
            ("pixelgate_events_accepted_total", FORMATS),
            ("pixelgate_events_rejected_total", REJECTED),
            ("pixelgate_events_dead_total", DEATHS),
            ("pixelgate_handshakes_total", HANDSHAKES),
            ("pixelgate_delivery_requests_total", OUTCOMES),
            ("pixelgate_filter_calls_total", VERDICTS),
            ("pixelgate_reloads_total", RELOADS),
            ("pixelgate_certificate_orders_total", ORDERS),
        ] {
            assert_eq!(documented(metric), labels.iter().copied().collect(), "{metric}");
        }
    }

    #[test]
    fn counters_are_there_before_they_count() {
        let metrics = Metrics::new().unwrap();
        metrics.begin();
        metrics.begin_account(&"shoes".parse().unwrap(), std::iter::once("7".parse().unwrap()));
        let text = crate::telemetry::exposition(&metrics, &crate::telemetry::Activity::default(), 1).unwrap();
        for series in [
            r#"reloads_total{result="ok"} 0"#,
            r#"events_rejected_total{reason="bad_request"} 0"#,
            r#"events_accepted_total{account="shoes",format="pixel"} 0"#,
            r#"events_dropped_total{account="shoes",reason="other"} 0"#,
            r#"events_dead_total{account="shoes",pixel="7",reason="refused"} 0"#,
            r#"lane_paused{account="shoes",pixel="7"} 0"#,
        ] {
            assert!(text.contains(&format!("pixelgate_{series}\n")), "{series}: {text}");
        }
    }
}
