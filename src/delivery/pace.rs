//! How large a lane's batches are: half as large after each that came to nothing, twice as large after one that was taken.
//!
//! So a Meta that is too slow for a whole batch gets what it can take in time, and an event that makes it fail is alone in
//! the end. A size that got no answer right after it was grown to is tried again after twice as many good batches as before:
//! each such try may double its events.

/// Good batches of one size before a larger one is tried, at most.
const PATIENCE_MAX: u32 = 64;

/// The size of one lane's batches.
#[derive(Debug)]
pub(crate) struct Pace {
    /// Events of a batch, at most.
    limit: usize,
    /// Batches of that size that were taken.
    taken: u32,
    /// So many have to be before it grows.
    patience: u32,
    /// It grew, and no batch of that size was taken since.
    grown: bool,
}

impl Default for Pace {
    fn default() -> Self {
        Self { limit: usize::MAX, taken: 0, patience: 1, grown: false }
    }
}

impl Pace {
    /// Events that the next batch may have, of as many as are configured.
    pub(crate) fn events_max(&self, configured: usize) -> usize {
        self.limit.min(configured)
    }

    /// A request with so many events came to nothing, without an answer or with one.
    pub(crate) fn failed(&mut self, events: usize, unanswered: bool) {
        if events <= 1 {
            // Its size was not the reason.
            self.patience = 1;
        } else if unanswered && self.grown {
            self.patience = (self.patience * 2).min(PATIENCE_MAX);
        }
        *self = Self { limit: (events / 2).max(1), taken: 0, patience: self.patience, grown: false };
    }

    /// Meta took a request with so many events.
    pub(crate) fn taken(&mut self, events: usize) {
        if events < self.limit {
            return;
        }
        (self.taken, self.grown) = (self.taken + 1, false);
        if self.taken >= self.patience {
            (self.limit, self.taken, self.grown) = (self.limit.saturating_mul(2), 0, true);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Sends batches as large as may be until there were so many, of which Meta answers those up to a size; gives the sizes
    /// of the others.
    fn too_large(pace: &mut Pace, batches: usize, answered: usize) -> Vec<usize> {
        let mut lost = Vec::new();
        for _ in 0..batches {
            match pace.events_max(1_000) {
                events if events <= answered => pace.taken(events),
                events => {
                    pace.failed(events, true);
                    lost.push(events);
                }
            }
        }
        lost
    }

    #[test]
    fn a_batch_is_halved_down_to_one_event_and_doubles_again() {
        let mut pace = Pace::default();
        let shrinking: Vec<_> = (0..11)
            .map(|_| {
                let events = pace.events_max(1_000);
                pace.failed(events, false);
                events
            })
            .collect();
        assert_eq!(shrinking, [1_000, 500, 250, 125, 62, 31, 15, 7, 3, 1, 1]);
        let growing: Vec<_> = (0..12)
            .map(|_| {
                let events = pace.events_max(1_000);
                pace.taken(events);
                events
            })
            .collect();
        assert_eq!(growing, [1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1_000, 1_000]);
    }

    #[test]
    fn what_is_too_large_for_a_slow_meta_is_tried_less_and_less() {
        let mut pace = Pace::default();
        assert_eq!(too_large(&mut pace, 1_000, 600).len(), 21, "after 1, 2, 4, … and then each 64 batches");
        assert!(too_large(&mut pace, 100, 1_000).is_empty());
        assert_eq!(pace.events_max(1_000), 1_000, "it is quick again");
    }

    #[test]
    fn a_batch_that_is_not_full_says_nothing_about_larger_ones() {
        let mut pace = Pace::default();
        pace.failed(1_000, true);
        (0..100).for_each(|_| pace.taken(499));
        assert_eq!(pace.events_max(1_000), 500);
    }
}
