//! How long a lane waits after a failure: exponential backoff with full jitter, within bounds.

use std::time::Duration;

/// Longest wait that a server's own wish (`Retry-After`, usage headers) is followed for: Meta's windows are an hour or a day
/// long, and who asks before they end is blocked for longer. A wish of a year is a mistake.
pub(crate) const WISH_MAX: Duration = Duration::from_secs(86_400);
/// First hold of a throttled lane that was not told how long; it doubles with each further one.
const HOLD_MIN: Duration = Duration::from_secs(60);
/// Longest such hold.
const HOLD_MAX: Duration = Duration::from_secs(300);

/// `[delivery] retry_min` and `retry_max`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Backoff {
    /// Shortest wait.
    pub(crate) min: Duration,
    /// Longest wait.
    pub(crate) max: Duration,
}

// === impl Backoff ===

impl Backoff {
    /// The wait after the `failures`-th failure in a row (from 1): evenly spread over `min ..= min · 2^failures`, at
    /// most `max`, so that lanes which failed together do not come back together. `random` is in `0.0..1.0`.
    pub(crate) fn wait(&self, failures: u32, random: f64) -> Duration {
        let longest = self.min.saturating_mul(2_u32.saturating_pow(failures)).min(self.max).max(self.min);
        self.min + (longest - self.min).mul_f64(random.clamp(0.0, 1.0))
    }

    /// The same, but not before the server wants it.
    pub(crate) fn wait_at_least(&self, wish: Option<Duration>, failures: u32, random: f64) -> Duration {
        self.wait(failures, random).max(wish.unwrap_or_default().min(WISH_MAX))
    }
}

/// The wait of a lane that Meta throttles, the `holds`-th time in a row (from 1).
pub(crate) fn hold(wish: Option<Duration>, holds: u32) -> Duration {
    match wish {
        Some(wish) => wish.clamp(Duration::from_secs(1), WISH_MAX),
        None => HOLD_MIN.saturating_mul(2_u32.saturating_pow(holds.saturating_sub(1))).min(HOLD_MAX),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BACKOFF: Backoff = Backoff { min: Duration::from_secs(1), max: Duration::from_secs(600) };

    #[test]
    fn waits_grow_and_stay_within_their_bounds() {
        let seconds = |failures, random| BACKOFF.wait(failures, random).as_secs_f64();
        assert_eq!(seconds(1, 0.0), 1.0);
        assert_eq!(seconds(1, 1.0), 2.0);
        assert_eq!(seconds(4, 0.5), 8.5);
        assert_eq!(seconds(4, 1.0), 16.0);
        for failures in [10, 31, 32, 1_000, u32::MAX] {
            assert_eq!(seconds(failures, 0.0), 1.0);
            assert_eq!(seconds(failures, 1.0), 600.0);
        }
    }

    #[test]
    fn bounds_that_are_the_wrong_way_round_do_no_harm() {
        let backoff = Backoff { min: Duration::from_secs(5), max: Duration::from_secs(1) };
        assert_eq!(backoff.wait(3, 0.7), Duration::from_secs(5));
    }

    #[test]
    fn a_servers_wish_is_followed_within_reason() {
        let wait = |wish| BACKOFF.wait_at_least(Some(Duration::from_secs(wish)), 1, 0.5);
        assert_eq!(wait(30), Duration::from_secs(30));
        assert_eq!(wait(7_200), Duration::from_secs(7_200));
        assert_eq!(wait(0), Duration::from_millis(1_500));
        assert_eq!(wait(u64::MAX), WISH_MAX);
    }

    #[test]
    fn a_throttled_lane_waits_as_told_or_a_minute_and_more() {
        assert_eq!(hold(Some(Duration::from_secs(300)), 7), Duration::from_secs(300));
        assert_eq!(hold(Some(Duration::from_secs(36_000)), 7), Duration::from_secs(36_000));
        assert_eq!(hold(None, 1), Duration::from_secs(60));
        assert_eq!(hold(None, 2), Duration::from_secs(120));
        assert_eq!(hold(None, 9), Duration::from_secs(300));
    }
}
