//! How many events an account may send: a rate, averaged over five seconds so that a burst of visitors passes.

use std::sync::atomic::{AtomicI64, Ordering};

/// The burst that is allowed, in milliseconds of the rate.
const BURST_MS: i64 = 5_000;

/// The debt that one large request may leave, in the same unit. What is further ahead than this is the work of a clock
/// that went back, which must not lock an account out.
const DEBT_MS: i64 = 30_000;

/// One account's budget: the generic cell rate algorithm (ITU-T I.371) on one atomic.
#[derive(Debug, Default)]
pub(super) struct Budget {
    /// When, in Unix microseconds, all that was taken so far is paid for.
    paid_until_us: AtomicI64,
}

impl Budget {
    /// Takes `events` at `now_ms` if the rate of `per_second` allows it.
    pub(super) fn take(&self, events: u64, per_second: u64, now_ms: i64) -> bool {
        let cost_us = i64::try_from(events.saturating_mul(1_000_000) / per_second.max(1)).unwrap_or(i64::MAX);
        let now_us = now_ms.saturating_mul(1_000);
        let limit_us = now_us.saturating_add(BURST_MS * 1_000);
        let debt_us = now_us.saturating_add(DEBT_MS * 1_000);
        let taken = self.paid_until_us.fetch_update(Ordering::AcqRel, Ordering::Acquire, |paid_until| {
            let begin = paid_until.max(now_us);
            let begin = if begin > debt_us { now_us } else { begin };
            let after = begin.saturating_add(cost_us);
            (after <= limit_us || begin == now_us).then_some(after.min(debt_us))
        });
        taken.is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_passes_and_then_the_rate_holds() {
        let budget = Budget::default();
        let taken = (0..100).filter(|_| budget.take(1, 10, 1_000)).count();
        assert_eq!(taken, 50);
        let taken = (0..100).filter(|_| budget.take(1, 10, 2_000)).count();
        assert_eq!(taken, 10);
    }

    #[test]
    fn one_large_request_passes_when_nothing_was_taken() {
        let budget = Budget::default();
        assert!(budget.take(200, 10, 1_000));
        assert!(!budget.take(1, 10, 1_000));
        assert!(!budget.take(1, 10, 16_000), "its 20 s are not paid for");
        assert!(budget.take(1, 10, 16_100));
        assert!(budget.take(1_000, 10, 100_000));
        assert!(!budget.take(1, 10, 125_000));
        assert!(budget.take(1, 10, 125_100), "30 s of debt are the most");
    }

    #[test]
    fn a_clock_that_goes_back_locks_nobody_out() {
        let budget = Budget::default();
        assert!(budget.take(40, 10, 1_000_000));
        assert!(budget.take(1, 10, 1_000));
    }
}
