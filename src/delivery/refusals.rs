//! How many of a lane's events were refused for good lately: too many are no accident.

use std::time::{Duration, Instant};

/// Over this time refusals are counted.
pub(crate) const REFUSALS_WINDOW: Duration = Duration::from_secs(600);
/// So many buried events, and more than a fifth of all, are no accident.
const REFUSALS_MAX: u64 = 20;

/// What was taken and what was buried lately.
#[derive(Debug, Default)]
pub(crate) struct Refusals {
    pub(crate) since: Option<Instant>,
    pub(crate) taken: u64,
    pub(crate) buried: u64,
    /// Refusals were too many once in this time: batches are small, and the next time the lane stops.
    pub(crate) small: bool,
}

// === impl Refusals ===

impl Refusals {
    /// Counts what was taken and what was buried now.
    pub(crate) fn count(&mut self, taken: u64, buried: u64, now: Instant) {
        self.turn_over(now);
        self.taken += taken;
        self.buried += buried;
    }

    /// Whether these are no accident any more.
    pub(crate) fn too_many(&self) -> bool {
        self.buried >= REFUSALS_MAX && self.buried.saturating_mul(5) > self.taken + self.buried
    }

    /// Begins anew when the time is over.
    pub(crate) fn turn_over(&mut self, now: Instant) {
        let since = *self.since.get_or_insert(now);
        if now.saturating_duration_since(since) >= REFUSALS_WINDOW {
            *self = Self { since: Some(now), ..Self::default() };
        }
    }
}
