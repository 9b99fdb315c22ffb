//! What the callers, the writer and the keeper have in common.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tokio::sync::Notify;

use super::dead::DeadLetters;
use super::index::{End, Index};
use super::lane::LaneNo;
use super::log::file::{Lock, Space};
use super::log::{Entry, LogDir, MarkKind, Segment};
use super::{AppendError, Health, Lost, OnLost, locked};
use crate::account::LaneKey;

/// The one state of an outbox.
pub(crate) struct Shared {
    pub(crate) log: LogDir,
    pub(crate) index: Mutex<Index>,
    pub(crate) dead: DeadLetters,
    pub(crate) limits: Limits,
    /// Rings when a lane is due that was not.
    pub(crate) changed: Notify,
    /// Bytes of events that wait for the writer.
    pub(crate) waiting_bytes: AtomicU64,
    /// Why the log takes nothing.
    pub(crate) refusing: Mutex<Option<AppendError>>,
    /// What the last batch wanted if there was no room for it, else 0: with no more than that free, it is full.
    pub(crate) refused_bytes: AtomicU64,
    pub(crate) on_sync: Box<dyn Fn(Duration) + Send + Sync>,
    pub(crate) on_lost: OnLost,
    /// Held by whoever may still write.
    pub(crate) _lock: Lock,
}

/// The limits of [`super::Options`].
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    pub(crate) segment_bytes: u64,
    pub(crate) reserve_bytes: u64,
    pub(crate) account_backlog_bytes_max: u64,
}

// === impl Shared ===

impl Shared {
    /// Whether new events are taken.
    pub(crate) fn health(&self) -> Health {
        let refusing = locked(&self.refusing).clone();
        let refused = self.refused_bytes.load(Ordering::Relaxed);
        match (refusing, self.log.space()) {
            (Some(AppendError::Full), Ok(space)) => self.full(space),
            (None, Ok(space)) if space.free < self.limits.reserve_bytes.saturating_add(refused) => self.full(space),
            (None, Ok(_)) => Health::Accepting,
            (Some(error), _) => Health::Broken { reason: error.to_string() },
            (None, Err(error)) => Health::Broken { reason: error.to_string() },
        }
    }

    fn full(&self, space: Space) -> Health {
        Health::Full { free: space.free, reserve: self.limits.reserve_bytes }
    }

    /// Syncs a segment and tells how long that took.
    pub(crate) fn timed_sync(&self, segment: &Segment) -> std::io::Result<()> {
        let begun = Instant::now();
        let synced = segment.sync();
        (self.on_sync)(begun.elapsed());
        synced
    }

    /// Marks what became of events. A mark that cannot be written is kept for later: without it an event is sent again
    /// after a restart, which is better than not to go on.
    pub(crate) fn mark(&self, kind: MarkKind, entries: &[Entry]) {
        for (segment, entries) in self.by_segment(entries) {
            if let Err(error) = segment.mark(kind, &entries) {
                tracing::warn!(segment = segment.id, %error, "what became of events cannot be written; it is tried again");
            }
        }
    }

    /// Marks events as settled and forgets them.
    pub(crate) fn settle(&self, lane: LaneNo, entries: &[Entry], end: End) {
        if entries.is_empty() {
            return;
        }
        self.mark(MarkKind::Settled, entries);
        locked(&self.index).settle(lane, entries, end);
    }

    /// Puts an event whose bytes are damaged into quarantine and forgets it; `false` if it cannot be put there now.
    pub(crate) fn damaged(&self, lane: LaneNo, entry: &Entry, bytes: &[u8]) -> bool {
        let kept = self.log.quarantine(entry.segment, u64::from(entry.at), bytes);
        match &kept {
            Ok(path) => {
                tracing::error!(segment = entry.segment, at = entry.at, kept = %path.display(), "an event in the log is damaged");
                self.lost(lane, &[*entry]);
            }
            Err(error) => {
                tracing::error!(segment = entry.segment, at = entry.at, %error, "an event in the log is damaged and stays");
            }
        }
        kept.is_ok()
    }

    /// Forgets events that will never be readable, and tells of them.
    pub(crate) fn lost(&self, lane: LaneNo, entries: &[Entry]) {
        if entries.is_empty() {
            return;
        }
        // Once they are settled, the lane may be forgotten.
        let key = locked(&self.index).key(lane);
        self.settle(lane, entries, End::Damaged);
        if let Some(key) = key {
            (self.on_lost)(&key, Lost::Damaged, entries.len() as u64);
        }
    }

    /// Counts dead letters that were dropped for their age.
    pub(crate) fn purged(&self, letters: &BTreeMap<LaneKey, u64>) {
        for (lane, count) in letters {
            locked(&self.index).purged(lane, *count);
            (self.on_lost)(lane, Lost::Purged, *count);
        }
    }

    /// Lists a lane that may have work again.
    pub(crate) fn list(&self, lane: LaneNo) {
        let news = locked(&self.index).list(lane);
        if news {
            self.changed.notify_one();
        }
    }

    /// Counts bytes of an append that the writer has answered.
    pub(crate) fn answered(&self, bytes: u64) {
        self.waiting_bytes.fetch_sub(bytes, Ordering::Relaxed);
    }

    fn by_segment(&self, entries: &[Entry]) -> Vec<(Arc<Segment>, Vec<Entry>)> {
        let mut of_each = BTreeMap::<u32, Vec<Entry>>::new();
        for entry in entries {
            of_each.entry(entry.segment).or_default().push(*entry);
        }
        let index = locked(&self.index);
        of_each.into_iter().filter_map(|(id, entries)| Some((index.segments.get(id)?, entries))).collect()
    }
}
