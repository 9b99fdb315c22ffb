//! How much of each segment is still needed.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::log::{Entry, Segment};

/// All segments, by their number.
#[derive(Default)]
pub(crate) struct Segments {
    by_id: BTreeMap<u32, SegmentUse>,
}

/// How much of a segment is still needed.
struct SegmentUse {
    segment: Arc<Segment>,
    /// Bytes that were written to it.
    bytes: u64,
    /// Events in it that are not settled.
    live: u64,
    live_bytes: u64,
    /// Those of them that a lease holds, or a copy that is under way.
    out: u64,
    /// Nothing more is written to it.
    closed: bool,
    /// Copies of older segments' events are in it.
    has_copies: bool,
    /// Its last events could not be copied elsewhere; that is tried again once there is a new segment.
    stuck: bool,
    /// What is damaged in it is nowhere else: the next start puts that aside.
    stays: bool,
}

// === impl Segments ===

impl Segments {
    /// Takes a segment into account.
    pub(crate) fn add(&mut self, segment: Arc<Segment>, bytes: u64, closed: bool) {
        let (has_copies, stuck, stays) = (false, false, false);
        let usage = SegmentUse { bytes, live: 0, live_bytes: 0, out: 0, closed, has_copies, stuck, stays, segment };
        self.by_id.insert(usage.segment.id, usage);
    }

    /// Nothing more is written to a segment.
    pub(crate) fn close(&mut self, id: u32, bytes: u64) {
        if let Some(usage) = self.by_id.get_mut(&id) {
            usage.closed = true;
            usage.bytes = bytes;
        }
    }

    /// A segment, to read or mark.
    pub(crate) fn get(&self, id: u32) -> Option<Arc<Segment>> {
        Some(Arc::clone(&self.by_id.get(&id)?.segment))
    }

    /// All segments.
    pub(crate) fn all(&self) -> Vec<Arc<Segment>> {
        self.by_id.values().map(|usage| Arc::clone(&usage.segment)).collect()
    }

    /// All segments, the oldest first, and of each whether nothing in it is needed any more and whether there are copies in it.
    pub(crate) fn uses(&self) -> Vec<(Arc<Segment>, bool, bool)> {
        let is_settled = |usage: &SegmentUse| usage.closed && usage.live == 0 && !usage.stays;
        let one = |usage: &SegmentUse| (Arc::clone(&usage.segment), is_settled(usage), usage.has_copies);
        self.by_id.values().map(one).collect()
    }

    /// There are copies of older segments' events in a segment.
    pub(crate) fn set_has_copies(&mut self, id: u32) {
        if let Some(usage) = self.by_id.get_mut(&id) {
            usage.has_copies = true;
        }
    }

    /// A segment is not given back before the next start.
    pub(crate) fn set_stays(&mut self, id: u32) {
        if let Some(usage) = self.by_id.get_mut(&id) {
            usage.stays = true;
        }
    }

    /// A segment is given back.
    pub(crate) fn forget(&mut self, id: u32) {
        self.by_id.remove(&id);
    }

    /// The oldest closed segment of which little is needed and nothing is leased. One that never grew to its size counts
    /// as if it had: restarts leave small ones.
    pub(crate) fn mostly_settled(&self, segment_bytes: u64) -> Option<Arc<Segment>> {
        let mostly = |usage: &&SegmentUse| {
            let little = usage.live_bytes <= usage.bytes.max(segment_bytes) / 4;
            usage.closed && !usage.stuck && usage.out == 0 && usage.live > 0 && little
        };
        self.by_id.values().find(mostly).map(|usage| Arc::clone(&usage.segment))
    }

    /// A segment's events cannot be copied elsewhere.
    pub(crate) fn set_stuck(&mut self, id: u32) {
        if let Some(usage) = self.by_id.get_mut(&id) {
            usage.stuck = true;
        }
    }

    /// There is a new segment that events can be copied to.
    pub(crate) fn unstick(&mut self) {
        self.by_id.values_mut().for_each(|usage| usage.stuck = false);
    }

    /// An event in it is not settled.
    pub(crate) fn add_live(&mut self, entry: &Entry) {
        if let Some(usage) = self.by_id.get_mut(&entry.segment) {
            usage.live += 1;
            usage.live_bytes += u64::from(entry.len);
        }
    }

    /// An event in it is settled.
    pub(crate) fn remove_live(&mut self, entry: &Entry) {
        if let Some(usage) = self.by_id.get_mut(&entry.segment) {
            usage.live -= 1;
            usage.live_bytes -= u64::from(entry.len);
        }
    }

    /// A lease or a copy holds an event in it.
    pub(crate) fn hold(&mut self, entry: &Entry) {
        if let Some(usage) = self.by_id.get_mut(&entry.segment) {
            usage.out += 1;
        }
    }

    /// Nobody holds the event any more.
    pub(crate) fn release_hold(&mut self, entry: &Entry) {
        if let Some(usage) = self.by_id.get_mut(&entry.segment) {
            usage.out -= 1;
        }
    }
}
