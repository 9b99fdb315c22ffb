//! The wall clock, for the services; everything below them is given the time as an argument.

use std::time::{Instant, SystemTime, UNIX_EPOCH};

/// Unix milliseconds now.
pub fn now_ms() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}

/// The wall clock for what is thrown away by its age: it follows the wall clock back, and forward no faster than time passes. A
/// clock that is set forward by mistake makes nothing old.
#[derive(Clone, Copy, Debug)]
pub struct Steady {
    begun: Instant,
    begun_ms: i64,
}

// === impl Steady ===

impl Steady {
    /// Begins with the wall clock as it is.
    pub fn start() -> Self {
        Self { begun: Instant::now(), begun_ms: now_ms() }
    }

    /// Unix milliseconds now.
    pub fn now_ms(&self) -> i64 {
        self.at(Instant::now(), now_ms())
    }

    fn at(&self, now: Instant, wall_ms: i64) -> i64 {
        let passed = now.saturating_duration_since(self.begun).as_millis();
        wall_ms.min(self.begun_ms.saturating_add(i64::try_from(passed).unwrap_or(i64::MAX)))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_steady_clock_is_never_ahead_of_the_time_that_passed() {
        let clock = Steady { begun: Instant::now(), begun_ms: 1_000 };
        let later = clock.begun + Duration::from_millis(500);
        assert_eq!(clock.at(later, 1_500), 1_500);
        assert_eq!(clock.at(later, 9_000_000), 1_500, "set forward");
        assert_eq!(clock.at(later, 200), 200, "set back");
    }
}
