//! The breaker of one filter: after five faults in a row it is not called for ten seconds, then tried once. A verdict counts
//! as a fault too if it took a start that it is not worth.

use std::time::{Duration, Instant};

/// Faults in a row that open it.
const FAULTS_MAX: u32 = 5;
/// How long it stays open before one try.
const OPEN: Duration = Duration::from_secs(10);

/// Counts the faults of one filter.
#[derive(Debug)]
pub(super) enum Breaker {
    /// The filter is called.
    Closed {
        /// Since its last good call.
        faults_in_a_row: u32,
    },
    /// The filter is not called.
    Open {
        /// When one call is let through.
        until: Instant,
    },
    /// That one call is under way.
    Trying,
}

/// A change that is worth a line in the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Change {
    /// The filter is not called from now on.
    Opened,
    /// The filter is called again.
    Closed,
}

// === impl Breaker ===

impl Breaker {
    /// Whether a call may be made now. Whoever is let through says how it ended, see [`Breaker::ended`].
    pub(super) fn admits(&mut self, now: Instant) -> bool {
        match self {
            Self::Closed { .. } => true,
            Self::Open { until } if *until <= now => {
                *self = Self::Trying;
                true
            }
            Self::Open { .. } | Self::Trying => false,
        }
    }

    /// A call ended, well or by a fault of the filter; `None` if it says nothing about the filter.
    pub(super) fn ended(&mut self, well: Option<bool>, now: Instant) -> Option<Change> {
        match (&mut *self, well) {
            (Self::Closed { .. }, None) => None,
            (Self::Trying, None) => {
                *self = Self::Open { until: now };
                None
            }
            (Self::Closed { faults_in_a_row }, Some(true)) => {
                *faults_in_a_row = 0;
                None
            }
            (Self::Closed { faults_in_a_row }, Some(false)) => {
                *faults_in_a_row += 1;
                if *faults_in_a_row < FAULTS_MAX {
                    return None;
                }
                *self = Self::Open { until: now + OPEN };
                Some(Change::Opened)
            }
            (Self::Trying, Some(true)) => {
                *self = Self::default();
                Some(Change::Closed)
            }
            (Self::Trying, Some(false)) => {
                *self = Self::Open { until: now + OPEN };
                None
            }
            // A call that had begun before others opened it.
            (Self::Open { .. }, _) => None,
        }
    }
}

impl Default for Breaker {
    fn default() -> Self {
        Self::Closed { faults_in_a_row: 0 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn five_faults_in_a_row_open_it_and_one_good_call_between_does_not() {
        let (mut breaker, now) = (Breaker::default(), Instant::now());
        for well in [false, false, false, false, true, false, false, false, false] {
            assert!(breaker.admits(now));
            assert_eq!(breaker.ended(Some(well), now), None);
        }
        assert_eq!(breaker.ended(Some(false), now), Some(Change::Opened));
        assert!(!breaker.admits(now + Duration::from_millis(9_999)));
    }

    #[test]
    fn after_ten_seconds_one_call_decides() {
        let (mut breaker, now) = (Breaker::Open { until: Instant::now() }, Instant::now() + OPEN);
        assert!(breaker.admits(now));
        assert!(!breaker.admits(now), "only one");
        assert_eq!(breaker.ended(Some(false), now), None);
        assert!(!breaker.admits(now));
        assert!(breaker.admits(now + OPEN));
        assert_eq!(breaker.ended(Some(true), now + OPEN), Some(Change::Closed));
        assert!(breaker.admits(now + OPEN));
    }

    #[test]
    fn a_call_that_says_nothing_about_the_filter_changes_nothing() {
        let (mut breaker, now) = (Breaker::Closed { faults_in_a_row: FAULTS_MAX - 1 }, Instant::now());
        assert_eq!(breaker.ended(None, now), None);
        assert_eq!(breaker.ended(Some(false), now), Some(Change::Opened));
        let now = now + OPEN;
        assert!(breaker.admits(now));
        assert_eq!(breaker.ended(None, now), None);
        assert!(breaker.admits(now), "it is tried again");
        assert!(!breaker.admits(now), "once");
    }

    #[test]
    fn a_late_answer_does_not_close_it() {
        let now = Instant::now();
        let mut breaker = Breaker::Open { until: now + OPEN };
        assert_eq!(breaker.ended(Some(true), now), None);
        assert!(!breaker.admits(now));
    }
}
