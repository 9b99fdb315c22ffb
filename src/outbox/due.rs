//! Which lane is next, without looking at all of them: those that are due in turn, and those that wait for a time.

use std::collections::{BTreeSet, VecDeque};

use super::lane::{LaneNo, Listed};

/// The lanes with something to do.
#[derive(Default)]
pub(crate) struct DueLanes {
    ready: VecDeque<LaneNo>,
    waiting: BTreeSet<(i64, LaneNo)>,
}

// === impl DueLanes ===

impl DueLanes {
    /// Lists a lane that has work, at the end of the due ones or by its time; `true` if that is news. A lane that is due
    /// keeps its turn.
    pub(crate) fn list(&mut self, lane: LaneNo, listed: &mut Listed, not_before_ms: i64) -> bool {
        let wanted = if not_before_ms > 0 { Listed::Waiting(not_before_ms) } else { Listed::Ready };
        match *listed {
            Listed::Ready => return false,
            same if same == wanted => return false,
            Listed::Waiting(time) => {
                self.waiting.remove(&(time, lane));
            }
            Listed::No => {}
        }
        match wanted {
            Listed::Waiting(time) => {
                self.waiting.insert((time, lane));
            }
            _ => self.ready.push_back(lane),
        }
        *listed = wanted;
        true
    }

    /// Takes a lane whose time has come, for the due ones.
    pub(crate) fn pop_waited(&mut self, now_ms: i64) -> Option<LaneNo> {
        let &(time, lane) = self.waiting.first()?;
        if time > now_ms {
            return None;
        }
        self.waiting.pop_first();
        self.ready.push_back(lane);
        Some(lane)
    }

    /// Takes the lane whose turn it is.
    pub(crate) fn pop_ready(&mut self) -> Option<LaneNo> {
        self.ready.pop_front()
    }

    /// When the next lane's time comes.
    pub(crate) fn next_time(&self) -> Option<i64> {
        self.waiting.first().map(|&(time, _)| time)
    }
}
