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

/// A length of time as the configuration has it: in the largest unit of which it is a whole number, as in `7d`.
pub fn short(length: Duration) -> String {
    let millis = length.as_millis();
    let units = [(86_400_000, "d"), (3_600_000, "h"), (60_000, "m"), (1_000, "s")];
    let unit = units.into_iter().find(|(unit, _)| millis >= *unit && millis.is_multiple_of(*unit));
    let (unit, letter) = unit.unwrap_or((1, "ms"));
    format!("{}{letter}", millis / unit)
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
    fn a_length_of_time_has_one_form() {
        let told = |seconds| short(Duration::from_secs(seconds));
        let seconds = [7 * 86_400, 90 * 86_400, 3 * 3_600, 5_400, 61, 0];
        assert_eq!(seconds.map(told), ["7d", "90d", "3h", "90m", "61s", "0ms"]);
        assert_eq!(short(Duration::from_millis(1_500)), "1500ms");
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
