//! Getting space back: segments of which nothing is needed are given back, and one that a few old events keep is emptied
//! by writing those again.
//!
//! A copy keeps its event's seq. The order: the copy is durable; the old one is marked as moved, durable too; only then the
//! event may be leased again, from its new place. A crash between the first two leaves both, and a start takes the newer.

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

/// Gives back the segments of which nothing is needed any more.
pub(crate) fn give_back(shared: &Shared) {
    let settled = locked(&shared.index).segments.take_settled();
    for segment in settled {
        if let Err(error) = shared.log.retire(&segment) {
            tracing::warn!(segment = segment.id, %error, "a settled segment cannot be removed; the next start tries again");
        }
    }
}

/// Empties the oldest segment that is mostly settled, if there is one.
pub(crate) fn copy_forward(shared: &Shared, writer: &Sender<Job>) {
    let oldest = locked(&shared.index).segments.mostly_settled(shared.limits.segment_bytes);
    let Some(segment) = oldest else { return };
    let mut number = LaneNo(0);
    // The lock is taken lane by lane: nobody waits for a walk through a whole backlog.
    while let Some(taken) = { locked(&shared.index).take_to_move(number, segment.id) } {
        for part in parts(&taken) {
            move_part(shared, writer, &segment, number, part);
        }
        if !taken.is_empty() {
            shared.list(number);
        }
        number.0 += 1;
    }
    give_back(shared);
}

/// Moves some events of one lane. If that fails they stay, and it is not tried again.
fn move_part(shared: &Shared, writer: &Sender<Job>, old: &Segment, lane: LaneNo, entries: &[Entry]) {
    match copy(shared, writer, old, lane, entries) {
        Ok((moved, new)) => {
            let seqs = moved.iter().map(|entry| entry.seq);
            if let Err(error) = old.mark(MarkKind::Moved, seqs).and_then(|()| old.sync_marks()) {
                tracing::warn!(segment = old.id, %error, "moved events cannot be marked; after a power cut they may be sent again");
            }
            locked(&shared.index).moved(lane, &moved, &new);
        }
        Err(error) => {
            tracing::warn!(segment = old.id, %error, "a segment's last events cannot be moved on; they stay");
            let mut index = locked(&shared.index);
            index.put_back(lane, entries);
            index.segments.set_stuck(old.id);
        }
    }
}

/// Has the writer write events of a segment again; gives those that were readable, and their new entries.
fn copy(
    shared: &Shared,
    writer: &Sender<Job>,
    old: &Segment,
    lane: LaneNo,
    entries: &[Entry],
) -> io::Result<(Vec<Entry>, Vec<Entry>)> {
    let (mut moved, mut records, mut damaged) = (Vec::new(), Vec::new(), Vec::new());
    for entry in entries {
        let frame = old.read(u64::from(entry.at), entry.len as usize)?;
        match old.unseal(&frame) {
            Some(payload) => {
                moved.push(*entry);
                records.push((*entry, payload.to_vec()));
            }
            None => damaged.push((*entry, frame)),
        }
    }
    let bytes = moved.iter().map(|entry| u64::from(entry.len)).sum();
    let (reply, answer) = oneshot::channel();
    let ended = || io::Error::other("the writer has ended");
    writer.send(Job::Copy(Copy { records, bytes, reply })).map_err(|_| ended())?;
    let new = answer.blocking_recv().map_err(|_| ended())??;
    for (entry, frame) in damaged {
        if !shared.damaged(lane, &entry, &frame) {
            locked(&shared.index).put_back(lane, &[entry]);
        }
    }
    Ok((moved, new))
}

/// Divides entries so that each part is small.
fn parts(entries: &[Entry]) -> impl Iterator<Item = &[Entry]> {
    let mut bytes = 0;
    entries.chunk_by(move |before, _| {
        bytes += u64::from(before.len);
        let same = bytes < COPY_BYTES_MAX;
        if !same {
            bytes = 0;
        }
        same
    })
}
