//! The wall clock, for the services; everything below them is given the time as an argument. And a time as persons read it.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// The wall clock was set back if it is so much behind the time that passed.
const SET_BACK_MIN_MS: i64 = 1_000;
/// The last millisecond that RFC 3339 has a word for.
const YEAR_9999_ENDS_MS: u64 = 253_402_300_799_999;

/// Unix milliseconds now.
pub fn now_ms() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}

/// By how many milliseconds the wall clock was set back, if it was: `elapsed` passed, and it says `passed_ms`.
pub fn set_back(elapsed: Duration, passed_ms: i64) -> Option<i64> {
    let by_ms = i64::try_from(elapsed.as_millis()).ok()?.saturating_sub(passed_ms);
    (by_ms >= SET_BACK_MIN_MS).then_some(by_ms)
}

/// Unix milliseconds as RFC 3339, UTC, to the second; what lies outside of 1970 to 9999 is cut to that.
pub fn rfc3339(at_ms: i64) -> String {
    humantime::format_rfc3339_seconds(system_time(at_ms)).to_string()
}

/// The same to the millisecond.
pub fn rfc3339_millis(at_ms: i64) -> String {
    humantime::format_rfc3339_millis(system_time(at_ms)).to_string()
}

/// How long something takes as a person writes it in the configuration, in days and what is shorter: `365d`, `1d 12h`. What
/// is below a millisecond is cut off.
pub fn span(time: Duration) -> String {
    const UNITS: [(&str, u128); 5] = [("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1_000), ("ms", 1)];
    let mut left_ms = time.as_millis();
    let mut parts = Vec::new();
    for (unit, unit_ms) in UNITS {
        if left_ms >= unit_ms {
            parts.push(format!("{}{unit}", left_ms / unit_ms));
        }
        left_ms %= unit_ms;
    }
    if parts.is_empty() { "0s".to_owned() } else { parts.join(" ") }
}

fn system_time(at_ms: i64) -> SystemTime {
    UNIX_EPOCH + Duration::from_millis(u64::try_from(at_ms).unwrap_or_default().min(YEAR_9999_ENDS_MS))
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
    use super::*;

    #[test]
    fn spans_are_in_units_that_a_person_writes() {
        let of = |ms: u64| span(Duration::from_millis(ms));
        assert_eq!([0, 10, 1_500, 90_000].map(of), ["0s", "10ms", "1s 500ms", "1m 30s"]);
        let days = |days: u64| of(days * 86_400_000);
        assert_eq!([1, 7, 30, 90, 365].map(days), ["1d", "7d", "30d", "90d", "365d"]);
        assert_eq!(humantime::parse_duration(&of(100_000_007)), Ok(Duration::from_millis(100_000_007)));
    }

    #[test]
    fn times_that_rfc_3339_has_no_word_for_are_cut() {
        for (at_ms, told) in [
            (1_794_000_000_789, "2026-11-06T21:20:00"),
            (-1, "1970-01-01T00:00:00"),
            (253_402_300_800_000, "9999-12-31T23:59:59"),
            (i64::MAX, "9999-12-31T23:59:59"),
        ] {
            assert_eq!(rfc3339(at_ms), format!("{told}Z"));
            assert!(rfc3339_millis(at_ms).starts_with(&format!("{told}.")), "{}", rfc3339_millis(at_ms));
        }
    }

    #[test]
    fn a_steady_clock_is_never_ahead_of_the_time_that_passed() {
        let clock = Steady { begun: Instant::now(), begun_ms: 1_000 };
        let later = clock.begun + Duration::from_millis(500);
        assert_eq!(clock.at(later, 1_500), 1_500);
        assert_eq!(clock.at(later, 9_000_000), 1_500, "set forward");
        assert_eq!(clock.at(later, 200), 200, "set back");
    }

    #[test]
    fn a_clock_that_was_set_back_is_noticed() {
        let second = Duration::from_secs(1);
        assert_eq!((set_back(second, 1_000), set_back(second, 400), set_back(second, 99_000)), (None, None, None));
        assert_eq!(set_back(second, -9_000), Some(10_000));
    }
}
