//! Reading events for a lease: from memory if they were accepted lately, else from the log, neighbours with one call.

use std::sync::Arc;

use bytes::Bytes;

use super::lane::LaneNo;
use super::lease::Leased;
use super::locked;
use super::log::{Entry, Record, Segment};
use super::recent::RecentEvent;
use super::shared::Shared;

/// Events that were read, those of one envelope.
pub(crate) struct Fetched {
    pub(crate) entries: Vec<Entry>,
    pub(crate) events: Vec<Leased>,
    pub(crate) envelope: Arc<str>,
    /// Events that the disk would not give now.
    pub(crate) unreadable: Vec<Entry>,
}

/// Bytes between two events that are read along with them rather than skipped with a second call.
const GAP_MAX: u64 = 4_096;
/// Bytes of one read.
const RUN_MAX: u64 = 1 << 20;

/// Reads events that were taken from a lane. Damaged ones go to quarantine; one with another envelope, which can only be a
/// collision of checksums, goes back to the lane.
pub(crate) fn fetch(shared: &Shared, lane: LaneNo, taken: Vec<Entry>) -> Fetched {
    let recent = locked(&shared.index).take_recent(&taken);
    let mut fetched = Fetched { entries: Vec::new(), events: Vec::new(), envelope: "".into(), unreadable: Vec::new() };
    let mut others = Vec::new();
    let mut from_disk = Vec::new();
    let mut found = Vec::with_capacity(taken.len());
    for (entry, recent) in taken.into_iter().zip(recent) {
        match recent {
            Some(recent) => found.push(from_memory(entry, recent)),
            None => from_disk.push(entry),
        }
    }
    for run in from_disk.chunk_by(neighbours()) {
        read_run(shared, lane, run, &mut found, &mut fetched.unreadable);
    }
    found.sort_by_key(|(entry, ..)| entry.seq);
    for (entry, event, envelope) in found {
        if fetched.entries.is_empty() {
            fetched.envelope = envelope;
        } else if fetched.envelope != envelope {
            others.push(entry);
            continue;
        }
        fetched.entries.push(entry);
        fetched.events.push(event);
    }
    if !others.is_empty() {
        locked(&shared.index).put_back(lane, &others);
    }
    fetched
}

fn from_memory(entry: Entry, recent: RecentEvent) -> (Entry, Leased, Arc<str>) {
    let event = recent.event;
    let leased = Leased {
        seq: entry.seq,
        accepted_ms: recent.accepted_ms,
        event_time: event.event_time,
        event_name: event.event_name,
        event_id: event.event_id,
        body: event.body,
        attempts: u32::from(entry.attempts),
        maybe_sent: entry.maybe_sent,
    };
    (entry, leased, event.envelope)
}

/// Reads neighbours of one segment; if that fails, each by itself: one bad sector costs no more than its events.
fn read_run(
    shared: &Shared,
    lane: LaneNo,
    run: &[Entry],
    found: &mut Vec<(Entry, Leased, Arc<str>)>,
    unreadable: &mut Vec<Entry>,
) {
    let (Some(first), Some(last)) = (run.first(), run.last()) else { return };
    let Some(segment) = ({ locked(&shared.index).segments.get(first.segment) }) else { return };
    let begin = u64::from(first.at);
    let len = usize::try_from(end(last) - begin).unwrap_or(0);
    let bytes = match segment.read(begin, len) {
        Ok(bytes) => Bytes::from(bytes),
        Err(_) if run.len() > 1 => {
            return run.chunks(1).for_each(|one| read_run(shared, lane, one, found, unreadable));
        }
        Err(error) => {
            tracing::error!(segment = segment.id, at = begin, %error, "an event cannot be read; it is set aside and tried again");
            return unreadable.extend_from_slice(run);
        }
    };
    for entry in run {
        let from = usize::try_from(u64::from(entry.at) - begin).unwrap_or(0);
        let frame = bytes.slice(from..from + entry.len as usize);
        match decode(&segment, entry, &frame) {
            Some((leased, envelope)) => found.push((*entry, leased, envelope)),
            None if shared.damaged(lane, entry, &frame) => {}
            None => unreadable.push(*entry),
        }
    }
}

fn decode(segment: &Segment, entry: &Entry, frame: &Bytes) -> Option<(Leased, Arc<str>)> {
    let record = Record::decode(segment.unseal(frame)?)?;
    let leased = Leased {
        seq: entry.seq,
        accepted_ms: record.accepted_ms,
        event_time: record.event_time,
        event_name: record.event_name.to_owned(),
        event_id: record.event_id.to_owned(),
        body: frame.slice_ref(record.body),
        attempts: u32::from(entry.attempts),
        maybe_sent: entry.maybe_sent,
    };
    Some((leased, record.envelope.into()))
}

/// Whether two entries are read with one call; it counts a run's bytes as it goes.
fn neighbours() -> impl FnMut(&Entry, &Entry) -> bool {
    let mut run = 0;
    move |a, b| {
        let near = a.segment == b.segment && (end(a)..=end(a) + GAP_MAX).contains(&u64::from(b.at));
        run = if near { run + u64::from(b.at) + u64::from(b.len) - end(a) } else { 0 };
        let same = near && run < RUN_MAX;
        if !same {
            run = 0;
        }
        same
    }
}

fn end(entry: &Entry) -> u64 {
    u64::from(entry.at) + u64::from(entry.len)
}
