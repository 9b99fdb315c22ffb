//! The writer: the one thread that appends to the log.
//!
//! Group commit without a timer: it takes the first job that waits, then all that are there up to a bound, writes them
//! with one call, syncs once, and answers all. While it syncs, the next group gathers.
//!
//! An error of a write or a sync is final for the segment: the kernel may have dropped the pages and call the next sync a
//! success. So the batch is refused, the segment is cut at its last good record and closed, and a new one is begun. If
//! that fails too, nothing is accepted, and a new one is tried every few seconds.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use tokio::sync::oneshot;

use super::lane::LaneNo;
use super::log::{Entry, Record, Segment, Summary, first_free_offset, reseal};
use super::recent::RecentEvent;
use super::shared::Shared;
use super::{AppendError, NewEvent, locked};

/// What the writer is asked for.
pub(crate) enum Job {
    /// A group of new events.
    Append(Append),
    /// Events of an old segment, to be written again.
    Copy(Copy),
    /// To end, once all before it is done.
    Stop,
}

/// A group of new events: all of them become durable, or none.
pub(crate) struct Append {
    pub(crate) events: Vec<(LaneNo, [u8; 8], NewEvent)>,
    pub(crate) now_ms: i64,
    /// Bytes that their frames take.
    pub(crate) bytes: u64,
    pub(crate) reply: oneshot::Sender<Result<(), AppendError>>,
}

/// Payloads of records of an old segment, with their entries there.
pub(crate) struct Copy {
    pub(crate) records: Vec<(Entry, Vec<u8>)>,
    pub(crate) bytes: u64,
    /// Gets the entries of the copies, in the same order.
    pub(crate) reply: oneshot::Sender<io::Result<Vec<Entry>>>,
}

/// The state of the thread.
pub(crate) struct Writer {
    shared: Arc<Shared>,
    jobs: Receiver<Job>,
    /// The segment that is written to; none while the disk refuses.
    active: Option<Active>,
    next_seq: u64,
    next_segment: u32,
    /// How often a new segment is tried while the disk refuses.
    probe: Duration,
    /// When that is next.
    next_probe: Instant,
    /// Frames that are staged.
    buffer: Vec<u8>,
    staged: Vec<Staged>,
    room: Room,
}

struct Active {
    segment: Arc<Segment>,
    summary: Summary,
}

/// A job whose frames are in the buffer.
enum Staged {
    Append { events: Vec<(LaneNo, Entry, RecentEvent)>, bytes: u64, reply: oneshot::Sender<Result<(), AppendError>> },
    Copy { records: Vec<(Entry, Vec<u8>)>, reply: oneshot::Sender<io::Result<Vec<Entry>>> },
}

/// What is known of the room on the volume.
struct Room {
    asked: Instant,
    /// Bytes that may be written before it is asked again.
    left: u64,
}

const BATCH_JOBS_MAX: usize = 4_096;
const BATCH_BYTES_MAX: u64 = 8 << 20;
/// How long, and for how many bytes, an answer about the room on the volume is believed.
const ROOM_AGE_MAX: Duration = Duration::from_millis(100);
const ROOM_BYTES_MAX: u64 = 4 << 20;

// === impl Writer ===

impl Writer {
    /// Opens the first segment; an error is as one later: nothing is accepted until the disk takes one.
    pub(crate) fn new(shared: Arc<Shared>, jobs: Receiver<Job>, next: (u32, u64), probe: Duration) -> Self {
        let (next_segment, next_seq) = next;
        let room = Room { asked: Instant::now(), left: 0 };
        let (buffer, staged) = (Vec::new(), Vec::new());
        let next_probe = Instant::now();
        let mut writer =
            Self { shared, jobs, active: None, next_seq, next_segment, probe, next_probe, buffer, staged, room };
        writer.begin_segment();
        writer
    }

    /// Runs until it is told to stop, or nobody is left who could ask.
    pub(crate) fn run(mut self) {
        while let Some(batch) = self.gather() {
            if self.commit(batch) {
                break;
            }
        }
        self.end_segment();
    }

    /// Waits for a job and takes those that are behind it.
    fn gather(&mut self) -> Option<Vec<Job>> {
        let first = loop {
            let received = match self.active {
                Some(_) => self.jobs.recv().map_err(|_| RecvTimeoutError::Disconnected),
                // Jobs that it only refuses do not put the next try off.
                None => match self.next_probe.checked_duration_since(Instant::now()) {
                    Some(wait) => self.jobs.recv_timeout(wait),
                    None => Err(RecvTimeoutError::Timeout),
                },
            };
            match received {
                Ok(Job::Stop) | Err(RecvTimeoutError::Disconnected) => return None,
                Ok(job) => break job,
                Err(RecvTimeoutError::Timeout) => self.begin_segment(),
            }
        };
        let mut bytes = first.bytes();
        let mut batch = vec![first];
        while batch.len() < BATCH_JOBS_MAX && bytes < BATCH_BYTES_MAX {
            match self.jobs.try_recv() {
                Ok(job) => {
                    bytes += job.bytes();
                    batch.push(job);
                }
                Err(_) => break,
            }
        }
        Some(batch)
    }

    /// Does a batch; `true` if it was told to stop.
    fn commit(&mut self, batch: Vec<Job>) -> bool {
        // Copies may use the reserve: they give back more than they take.
        let refusal = self.ask_room(batch.iter().map(Job::bytes).sum()).err();
        let mut stop = false;
        for job in batch {
            match (job, &refusal) {
                (Job::Stop, _) => stop = true,
                (Job::Append(append), Some(refusal)) => self.refuse(Job::Append(append), refusal),
                (job, _) => self.stage(job),
            }
        }
        self.flush();
        stop
    }

    /// Puts a job's frames into the buffer, in a new segment if this one has no room for them.
    fn stage(&mut self, job: Job) {
        if self.active.as_ref().is_some_and(|active| !active.fits(self.buffer.len(), job.bytes(), &self.shared)) {
            self.flush();
            self.end_segment();
            self.begin_segment();
        }
        let Some(active) = &mut self.active else {
            let closed = AppendError::Unavailable { reason: "the log has no segment".into() };
            let refusal = locked(&self.shared.refusing).clone().unwrap_or(closed);
            return self.refuse(job, &refusal);
        };
        match job {
            Job::Append(append) => {
                let staged = active.stage_append(append, &mut self.next_seq, &mut self.buffer);
                self.staged.push(staged);
            }
            Job::Copy(copy) => self.staged.push(active.stage_copy(copy, &mut self.buffer)),
            Job::Stop => {}
        }
    }

    /// Writes and syncs what is staged, and answers.
    fn flush(&mut self) {
        let Some(active) = &mut self.active else { return };
        if self.staged.is_empty() {
            return;
        }
        let at = active.summary.end;
        let written = active.segment.write(&self.buffer, at).and_then(|()| self.shared.timed_sync(&active.segment));
        let staged = std::mem::take(&mut self.staged);
        match written {
            Ok(()) => {
                active.summary.end += self.buffer.len() as u64;
                self.publish(staged);
            }
            Err(error) => self.poisoned(&error, staged),
        }
        self.buffer.clear();
        self.buffer.shrink_to(2 * BATCH_BYTES_MAX as usize);
    }

    /// Makes durable events leasable, then answers.
    fn publish(&mut self, staged: Vec<Staged>) {
        let Some(Active { summary, .. }) = &mut self.active else { return };
        let mut replies = Vec::with_capacity(staged.len());
        let mut answered = 0;
        let mut news = false;
        let mut index = locked(&self.shared.index);
        for job in staged {
            match job {
                Staged::Append { events, bytes, reply } => {
                    for (lane, entry, event) in events {
                        summary.add_numbered(lane.0, &event.event.lane, entry);
                        index.stored(lane, entry, event);
                        news |= index.list(lane);
                    }
                    answered += bytes;
                    replies.push(reply);
                }
                Staged::Copy { records, reply } => {
                    for (entry, payload) in &records {
                        if let Some(record) = Record::decode(payload) {
                            summary.add(record.account, record.pixel, *entry);
                        }
                    }
                    // Who asked for it takes it into account; if nobody waits any more, the older copy is as good.
                    let _ = reply.send(Ok(records.into_iter().map(|(entry, _)| entry).collect()));
                }
            }
        }
        drop(index);
        self.shared.answered(answered);
        if news {
            self.shared.changed.notify_one();
        }
        for reply in replies {
            // A caller that is gone has its event stored all the same.
            let _ = reply.send(Ok(()));
        }
    }

    /// Ends a segment that a write or a sync failed on, refuses what was to be in it, and begins another.
    fn poisoned(&mut self, error: &io::Error, staged: Vec<Staged>) {
        let refusal = AppendError::new(error);
        if let Some(active) = &self.active {
            tracing::error!(segment = active.segment.id, %error, "the log's segment cannot be written; it is closed");
            if let Err(error) = active.segment.cut(active.summary.end) {
                tracing::error!(segment = active.segment.id, %error, "the segment cannot be cut at its last good record");
            }
        }
        self.end_segment();
        self.begin_segment();
        for job in staged {
            match job {
                Staged::Append { events, bytes, reply } => {
                    let mut index = locked(&self.shared.index);
                    for (_, entry, event) in &events {
                        index.release(&event.event.lane.account, u64::from(entry.len));
                    }
                    drop(index);
                    self.shared.answered(bytes);
                    let _ = reply.send(Err(refusal.clone()));
                }
                Staged::Copy { reply, .. } => {
                    let _ = reply.send(Err(io::Error::from(error.kind())));
                }
            }
        }
    }

    fn refuse(&self, job: Job, refusal: &AppendError) {
        match job {
            Job::Append(append) => {
                let mut index = locked(&self.shared.index);
                for (_, _, event) in &append.events {
                    index.release(&event.lane.account, event.stored_bytes());
                }
                drop(index);
                self.shared.answered(append.bytes);
                let _ = append.reply.send(Err(refusal.clone()));
            }
            Job::Copy(copy) => {
                let _ = copy.reply.send(Err(io::ErrorKind::StorageFull.into()));
            }
            Job::Stop => {}
        }
    }

    /// Whether so many bytes more leave the reserve untouched. Spare files are given up before anything is refused.
    fn ask_room(&mut self, bytes: u64) -> Result<(), AppendError> {
        if self.room.asked.elapsed() < ROOM_AGE_MAX && bytes <= self.room.left {
            self.room.left -= bytes;
            return Ok(());
        }
        let wanted = self.shared.limits.reserve_bytes.saturating_add(bytes);
        let refused = |error| AppendError::new(&error);
        let mut free = self.shared.log.space().map_err(refused)?.free;
        if free < wanted && self.shared.log.free_spares().map_err(refused)? {
            free = self.shared.log.space().map_err(refused)?.free;
        }
        self.shared.refused_bytes.store(if free < wanted { bytes } else { 0 }, Ordering::Relaxed);
        let left = free.checked_sub(wanted).ok_or(AppendError::Full)?;
        self.room = Room { asked: Instant::now(), left: left.min(ROOM_BYTES_MAX) };
        Ok(())
    }

    fn begin_segment(&mut self) {
        let id = self.next_segment;
        self.next_segment += 1;
        self.next_probe = Instant::now() + self.probe;
        match self.shared.log.create(id, self.next_seq) {
            Ok(segment) => {
                let segment = Arc::new(segment);
                let mut index = locked(&self.shared.index);
                index.segments.add(Arc::clone(&segment), first_free_offset(), false);
                index.segments.unstick();
                drop(index);
                let summary = Summary::new(id, self.next_seq, first_free_offset());
                self.active = Some(Active { segment, summary });
                *locked(&self.shared.refusing) = None;
            }
            Err(error) => {
                tracing::error!(segment = id, %error, "the log takes no new segment; new events are refused");
                *locked(&self.shared.refusing) = Some(AppendError::new(&error));
            }
        }
    }

    fn end_segment(&mut self) {
        let Some(Active { segment, summary }) = self.active.take() else { return };
        if let Err(error) = self.shared.log.write_summary(&summary) {
            tracing::warn!(segment = segment.id, %error, "no summary was written; the next start reads the segment");
        }
        locked(&self.shared.index).segments.close(segment.id, summary.end);
    }
}

// === impl Active ===

impl Active {
    /// Whether a job fits behind what is staged. An empty segment takes any: a group is never divided.
    fn fits(&self, staged: usize, bytes: u64, shared: &Shared) -> bool {
        let used = self.summary.end + staged as u64;
        used == first_free_offset() || used + bytes <= shared.limits.segment_bytes
    }

    fn stage_append(&self, append: Append, next_seq: &mut u64, buffer: &mut Vec<u8>) -> Staged {
        let Append { events, now_ms, bytes, reply } = append;
        let last = events.len().saturating_sub(1);
        let stage = |(place, (lane, fingerprint, event)): (usize, (LaneNo, [u8; 8], NewEvent))| {
            let mut record = event.record(fingerprint);
            record.more = place < last;
            record.seq = *next_seq;
            record.accepted_ms = now_ms;
            *next_seq += 1;
            let at = self.place(buffer);
            let len = record.encode(self.segment.id, buffer);
            let entry = Entry::new(&record, self.segment.id, at, u32::try_from(len).unwrap_or(u32::MAX));
            (lane, entry, RecentEvent { event, accepted_ms: now_ms })
        };
        let events = events.into_iter().enumerate().map(stage).collect();
        Staged::Append { events, bytes, reply }
    }

    fn stage_copy(&self, copy: Copy, buffer: &mut Vec<u8>) -> Staged {
        let Copy { mut records, reply, .. } = copy;
        for (entry, payload) in &mut records {
            entry.segment = self.segment.id;
            entry.at = self.place(buffer);
            entry.marks = 0;
            reseal(payload, self.segment.id, buffer);
        }
        Staged::Copy { records, reply }
    }

    fn place(&self, buffer: &[u8]) -> u32 {
        u32::try_from(self.summary.end + buffer.len() as u64).unwrap_or(u32::MAX)
    }
}

// === impl Job ===

impl Job {
    fn bytes(&self) -> u64 {
        match self {
            Self::Append(append) => append.bytes,
            Self::Copy(copy) => copy.bytes,
            Self::Stop => 0,
        }
    }
}
