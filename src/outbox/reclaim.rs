//! Getting space back: segments of which nothing is needed are given back, and one that a few old events keep is emptied
//! by writing those again.
//!
//! A copy keeps its event's seq. The order: the copy is durable, with what marks say of its event's requests; the old one is
//! marked as moved, durable too; only then the event may be leased again, from its new place. A crash between the first two
//! leaves both, and a start takes the newer, if the disk takes that again.

use std::io;
use std::sync::mpsc::Sender;

use tokio::sync::oneshot;

use super::lane::LaneNo;
use super::locked;
use super::log::{Entry, MarkKind, Segment};
use super::shared::Shared;
use super::writer::{Copy, Job};

/// Bytes of one job for the writer: new events wait behind it.
const COPY_BYTES_MAX: u64 = 4 << 20;

/// Syncs the marks, and gives back the segments of which nothing is needed any more. Were the removal undone by a power cut,
/// the marks must say that nothing in it is to be sent; and as long as an older segment does not know that its events were
/// moved, their copies must say what became of them.
pub(crate) fn give_back(shared: &Shared) {
    let uses = locked(&shared.index).segments.uses();
    let mut all_synced = true;
    for (segment, is_settled, has_copies) in uses {
        if let Err(error) = segment.sync_marks() {
            tracing::warn!(segment = segment.id, %error, "marks cannot be synced; after a power cut their events are sent again");
            all_synced = false;
            continue;
        }
        if !is_settled || has_copies && !all_synced {
            continue;
        }
        locked(&shared.index).segments.forget(segment.id);
        if let Err(error) = shared.log.retire(&segment) {
            tracing::warn!(segment = segment.id, %error, "a settled segment cannot be removed; the next start tries again");
        }
    }
}

/// Moves a part of the oldest segment that is mostly settled, if there is one, and says whether there may be more to move:
/// who waits for the keeper waits for one part at most.
pub(crate) fn copy_forward(shared: &Shared, writer: &Sender<Job>) -> bool {
    let oldest = locked(&shared.index).segments.mostly_settled(shared.limits.segment_bytes);
    let Some(segment) = oldest else { return false };
    let (mut number, mut part, mut left) = (LaneNo(0), Vec::new(), COPY_BYTES_MAX);
    // The lock is taken lane by lane: nobody waits for a walk through a whole backlog.
    while left > 0
        && let Some((lane, taken)) = { locked(&shared.index).take_to_move(number, segment.id, left) }
    {
        left = left.saturating_sub(taken.iter().map(|entry| u64::from(entry.len)).sum());
        part.extend(taken.into_iter().map(|entry| (lane, entry)));
        number = LaneNo(lane.0 + 1);
    }
    let moved = move_part(shared, writer, &segment, part);
    give_back(shared);
    moved
}

/// Moves events, those of a lane side by side, with one sync for all; `false` if that fails: then they stay.
fn move_part(shared: &Shared, writer: &Sender<Job>, old: &Segment, entries: Vec<(LaneNo, Entry)>) -> bool {
    if entries.is_empty() {
        return false;
    }
    let mut lanes: Vec<_> = entries.iter().map(|(lane, _)| *lane).collect();
    lanes.dedup();
    let copied = copy(shared, writer, old, &entries);
    let is_moved = copied.is_ok();
    match copied {
        Ok(Copied { moved, forgotten }) => {
            mark_copies(shared, &moved);
            let places: Vec<_> = moved.iter().map(|&(_, old, _)| old).collect();
            if let Err(error) = old.mark(MarkKind::Moved, &places).and_then(|()| old.sync_marks()) {
                tracing::warn!(segment = old.id, %error, "moved events cannot be marked; after a power cut they may be sent again");
            }
            if moved.is_empty() && forgotten == 0 {
                // It would be the oldest again, and no other's turn ever come.
                locked(&shared.index).segments.set_stuck(old.id);
            }
            // Lane by lane: requests wait for the lock, and a long queue takes its time.
            for of_lane in moved.chunk_by(|(one, ..), (other, ..)| one == other) {
                let Some(&(lane, ..)) = of_lane.first() else { continue };
                let places: Vec<_> = of_lane.iter().map(|&(_, old, new)| (old, new)).collect();
                locked(&shared.index).moved(lane, &places);
            }
        }
        Err(error) => {
            tracing::warn!(segment = old.id, %error, "a segment's last events cannot be moved on; they stay");
            for of_lane in entries.chunk_by(|(one, _), (other, _)| one == other) {
                let Some(&(lane, _)) = of_lane.first() else { continue };
                let back: Vec<_> = of_lane.iter().map(|&(_, entry)| entry).collect();
                locked(&shared.index).put_back(lane, &back);
            }
            locked(&shared.index).segments.set_stuck(old.id);
        }
    }
    lanes.into_iter().for_each(|lane| shared.list(lane));
    is_moved
}

/// Says beside the copies which requests their events were in, durable before the old marks count no more.
fn mark_copies(shared: &Shared, moved: &[(LaneNo, Entry, Entry)]) {
    let tried = moved.iter().map(|&(.., new)| new).filter(|new| new.attempts > 0 || new.maybe_sent);
    let (maybe, refused): (Vec<_>, Vec<_>) = tried.partition(|new| new.maybe_sent);
    shared.mark(MarkKind::Sent, &maybe);
    shared.mark(MarkKind::Refused, &refused);
    // The copies of one job are in one segment.
    let Some(first) = maybe.first().or(refused.first()) else { return };
    let segment = locked(&shared.index).segments.get(first.segment);
    if let Some(Err(error)) = segment.map(|segment| segment.sync_marks()) {
        tracing::warn!(segment = first.segment, %error, "marks of moved events cannot be synced; after a power cut they count as never sent");
    }
}

/// What became of events that were to be written again.
struct Copied {
    /// Those that were readable, with their old and their new entries.
    moved: Vec<(LaneNo, Entry, Entry)>,
    /// How many were damaged, and are in quarantine; others that were, or that the disk would not give, stay where they are.
    forgotten: usize,
}

/// Has the writer write events of a segment again.
fn copy(shared: &Shared, writer: &Sender<Job>, old: &Segment, entries: &[(LaneNo, Entry)]) -> io::Result<Copied> {
    let (mut moved, mut records) = (Vec::new(), Vec::new());
    let (mut damaged, mut unreadable) = (Vec::new(), Vec::new());
    for (lane, entry) in entries {
        let frame = match old.read(u64::from(entry.at), entry.len as usize) {
            Ok(frame) => frame,
            Err(error) => {
                tracing::error!(segment = old.id, at = entry.at, %error, "an event cannot be read, and stays");
                unreadable.push((*lane, *entry));
                continue;
            }
        };
        match old.unseal(&frame) {
            Some(payload) => {
                moved.push((*lane, *entry));
                records.push((*entry, payload.to_vec()));
            }
            None => damaged.push((*lane, *entry, frame)),
        }
    }
    let bytes = moved.iter().map(|(_, entry)| u64::from(entry.len)).sum();
    let (reply, answer) = oneshot::channel();
    let ended = || io::Error::other("the writer has ended");
    writer.send(Job::Copy(Copy { records, bytes, reply })).map_err(|_| ended())?;
    let new = answer.blocking_recv().map_err(|_| ended())??;
    for (lane, entry) in unreadable {
        locked(&shared.index).put_back(lane, &[entry]);
    }
    let mut forgotten = 0;
    for (lane, entry, frame) in damaged {
        if shared.damaged(lane, &entry, &frame) {
            forgotten += 1;
        } else {
            locked(&shared.index).put_back(lane, &[entry]);
        }
    }
    let moved = moved.into_iter().zip(new).map(|((lane, old), new)| (lane, old, new)).collect();
    Ok(Copied { moved, forgotten })
}
