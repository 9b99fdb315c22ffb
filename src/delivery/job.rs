//! A batch in work: parts of it that are still to be sent, because Meta refused the whole.

use std::time::Instant;

use super::batch::Batch;
use super::outcome::Said;
use crate::outbox::Sent;

/// What is left of a batch. The oldest events are sent first.
pub(crate) struct Job {
    /// To be sent, the next one last.
    work: Vec<Part>,
    /// Refused without a clear reason, and nothing of the lane was taken since.
    aside: Vec<Part>,
    /// What Meta said about those.
    doubt: Said,
    /// When a part was refused without a clear reason first.
    doubted_at: Option<Instant>,
}

/// Events that are sent together.
pub(crate) struct Part {
    /// The events.
    pub(crate) batch: Batch,
    /// How often the batch was halved because it was refused without a clear reason.
    pub(crate) halvings: u8,
}

// === impl Job ===

impl Job {
    /// A batch that is sent whole first.
    pub(crate) fn new(batch: Batch) -> Self {
        Self { work: vec![Part { batch, halvings: 0 }], aside: Vec::new(), doubt: Said::default(), doubted_at: None }
    }

    /// The part to send next.
    pub(crate) fn next(&mut self) -> Option<Part> {
        self.work.pop()
    }

    /// When a part was refused without a clear reason first.
    pub(crate) fn doubted_at(&self) -> Option<Instant> {
        self.doubted_at
    }

    /// Cuts a part that was refused without a clear reason.
    pub(crate) fn doubt_half(&mut self, part: Part, now: Instant) {
        self.doubted_at.get_or_insert(now);
        let halvings = part.halvings.saturating_add(1);
        self.split(Part { halvings, ..part }, None);
    }

    /// Whether nothing is left to be sent.
    pub(crate) fn is_done(&self) -> bool {
        self.work.is_empty() && self.aside.is_empty()
    }

    /// Cuts a part: before and after the event that Meta named, else in halves. One of 1,000 is alone after ten halvings.
    pub(crate) fn split(&mut self, part: Part, index: Option<usize>) {
        let halvings = part.halvings;
        let cuts = index.map_or_else(|| vec![part.batch.len() / 2], |index| vec![index, index + 1]);
        let (mut pieces, mut rest, mut cut_off) = (Vec::new(), Some(part.batch), 0);
        for cut in cuts.into_iter().filter(|cut| *cut > 0) {
            let Some(batch) = rest.take() else { break };
            let (before, after) = batch.split_at(cut - cut_off);
            pieces.push(before);
            (rest, cut_off) = (after, cut);
        }
        pieces.extend(rest);
        self.work.extend(pieces.into_iter().rev().map(|batch| Part { batch, halvings }));
    }

    /// Keeps a part until it is known whether the fault is its own.
    pub(crate) fn set_aside(&mut self, part: Part, doubt: Said) {
        self.aside.push(part);
        self.doubt = doubt;
    }

    /// The fault is the events': what was set aside is looked at closely.
    pub(crate) fn trust(&mut self) {
        self.work.extend(self.aside.drain(..).rev());
    }

    /// What Meta said, if all that is left was refused without a clear reason.
    pub(crate) fn only_doubts(&self) -> Option<&Said> {
        (self.work.is_empty() && !self.aside.is_empty()).then_some(&self.doubt)
    }

    /// What is left goes back to its lane; gives how many events that were.
    pub(crate) fn give_back(self, now_ms: i64) -> usize {
        let mut events = 0;
        for Part { batch, .. } in self.work.into_iter().chain(self.aside) {
            events += batch.len();
            batch.give_back(Sent::Refused, now_ms);
        }
        events
    }
}
