//! The keeper: the thread that does what must not hold up the writer. It stores dead letters, keeps lanes' state, syncs
//! the marks once a second, and gives settled segments back.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender};
use std::time::{Duration, Instant};

use tokio::sync::oneshot;

use super::dead::DeadLetter;
use super::index::End;
use super::lane::LaneNo;
use super::log::{Entry, MarkKind};
use super::shared::Shared;
use super::state::StateFile;
use super::writer::Job;
use super::{AppendError, DeadLetterError, Health, Unavailable, locked, reclaim};
use crate::account::AccountId;

/// What the keeper is asked for.
pub(crate) enum Task {
    /// Store dead letters, within the account's limits.
    Hold { letters: Vec<DeadLetter>, reply: oneshot::Sender<Result<(), DeadLetterError>> },
    /// Store dead letters, then settle the events that they were.
    Bury { lane: LaneNo, entries: Vec<Entry>, letters: Vec<DeadLetter>, now_ms: i64 },
    /// Remove dead letters; answers how many there were. Those that are purged are counted.
    Remove { ids: Vec<u64>, purge: bool, reply: oneshot::Sender<Result<usize, DeadLetterError>> },
    /// Make the lanes' state durable now.
    Save { reply: oneshot::Sender<Result<(), Unavailable>> },
    /// Do now what is done once a second.
    #[cfg(test)]
    Tick { reply: oneshot::Sender<()> },
    /// To end, once all before it is done.
    Stop,
}

/// The state of the thread.
pub(crate) struct Keeper {
    pub(crate) shared: Arc<Shared>,
    pub(crate) tasks: Receiver<Task>,
    pub(crate) writer: Sender<Job>,
    pub(crate) state: StateFile,
    /// How often marks are synced and segments given back.
    pub(crate) tick: Duration,
}

/// Tasks that are done together: the dead letters of all of them share a sync.
const BATCH_MAX: usize = 1_024;

/// How long a lane waits whose dead letters could not be stored.
const BURY_AGAIN_MS: i64 = 10_000;

// === impl Keeper ===

impl Keeper {
    /// Runs until it is told to stop, or nobody is left who could ask.
    pub(crate) fn run(mut self) {
        let mut next_tick = Instant::now() + self.tick;
        let mut moving = false;
        loop {
            let wait = if moving { Duration::ZERO } else { next_tick.saturating_duration_since(Instant::now()) };
            match self.tasks.recv_timeout(wait) {
                Ok(first) => {
                    let batch = std::iter::once(first).chain(self.tasks.try_iter().take(BATCH_MAX)).collect();
                    if self.run_batch(batch) {
                        break;
                    }
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => break,
            }
            if Instant::now() >= next_tick {
                self.tick();
                next_tick = Instant::now() + self.tick;
                moving = true;
            }
            // A part, then whoever came meanwhile, then the next part.
            moving = moving && reclaim::copy_forward(&self.shared, &self.writer);
        }
        self.mark_doubted();
        self.sync_marks();
        if let Err(error) = self.save_lanes() {
            tracing::warn!(%error, "the lanes' last counters and waits are not saved");
        }
    }

    /// Does a batch; `true` if it was told to stop.
    fn run_batch(&mut self, batch: Vec<Task>) -> bool {
        let (mut letters, mut held, mut buried) = (Vec::new(), Vec::new(), Vec::new());
        let (mut rest, mut stop) = (Vec::new(), false);
        // Letters and bytes of this batch, by account: what is not stored yet counts too.
        let mut coming = HashMap::<AccountId, (u64, u64)>::new();
        let holds = batch.iter().any(|task| matches!(task, Task::Hold { .. }));
        let is_full = holds && matches!(self.shared.health(), Health::Full { .. });
        for task in batch {
            match task {
                Task::Hold { letters: new, .. } if new.is_empty() => {}
                Task::Hold { reply, .. } if is_full => {
                    let full = Unavailable { reason: AppendError::Full.to_string() };
                    let _ = reply.send(Err(full.into()));
                }
                Task::Hold { letters: new, reply } => {
                    let is_full = |account| {
                        self.shared.dead.is_full_with(account, coming.get(account).copied().unwrap_or_default())
                    };
                    if new.iter().any(|letter| is_full(&letter.lane.account)) {
                        let _ = reply.send(Err(DeadLetterError::Full));
                    } else {
                        for letter in &new {
                            let (letters, bytes) = coming.entry(letter.lane.account.clone()).or_default();
                            *letters += 1;
                            *bytes += (letter.body.len() + letter.context.len()) as u64;
                        }
                        letters.extend(new);
                        held.push(reply);
                    }
                }
                Task::Bury { lane, entries, letters: new, now_ms } => {
                    letters.extend(new);
                    buried.push((lane, entries, now_ms));
                }
                Task::Stop => stop = true,
                other => rest.push(other),
            }
        }
        self.store(&letters, held, buried);
        rest.into_iter().for_each(|task| self.run_one(task));
        stop
    }

    fn run_one(&mut self, task: Task) {
        // A caller that is gone has its task done all the same.
        match task {
            Task::Remove { ids, purge, reply } => {
                let mut lanes = BTreeMap::new();
                let removed = self.shared.dead.remove(&ids, |lane| *lanes.entry(lane).or_default() += 1);
                if purge {
                    self.shared.purged(&lanes);
                }
                let _ = reply.send(removed.map_err(|error| Unavailable::new(&error).into()));
            }
            Task::Save { reply } => {
                let _ = reply.send(self.save_lanes());
            }
            #[cfg(test)]
            Task::Tick { reply } => {
                self.tick();
                while reclaim::copy_forward(&self.shared, &self.writer) {}
                let _ = reply.send(());
            }
            Task::Hold { .. } | Task::Bury { .. } | Task::Stop => {}
        }
    }

    /// Stores dead letters with one sync, then answers, and settles what was buried: never the other way round.
    fn store(
        &self,
        letters: &[DeadLetter],
        held: Vec<oneshot::Sender<Result<(), DeadLetterError>>>,
        buried: Vec<(LaneNo, Vec<Entry>, i64)>,
    ) {
        let stored = self.shared.dead.store(letters);
        if let Err(error) = &stored {
            tracing::error!(%error, "dead letters cannot be stored; buried events go back to their lanes");
        }
        for reply in held {
            let _ = reply.send(stored.as_ref().copied().map_err(|error| Unavailable::new(error).into()));
        }
        for (lane, entries, now_ms) in buried {
            if stored.is_ok() {
                self.shared.settle(lane, &entries, End::Dead);
            } else {
                let mut index = locked(&self.shared.index);
                index.put_back(lane, &entries);
                let again_ms = now_ms + BURY_AGAIN_MS;
                index.change_state(lane, |state| state.not_before_ms = state.not_before_ms.max(again_ms));
            }
            self.shared.list(lane);
        }
    }

    fn tick(&mut self) {
        if let Err(error) = self.save_lanes() {
            tracing::warn!(%error, "the lanes' state cannot be saved; it is tried again");
        }
        reclaim::give_back(&self.shared);
    }

    /// Says of events that they were surely not sent where that was not worth a mark each time.
    fn mark_doubted(&self) {
        let doubted = locked(&self.shared.index).doubted();
        let (never, refused): (Vec<_>, Vec<_>) = doubted.into_iter().partition(|entry| entry.attempts == 0);
        self.shared.mark(MarkKind::NotSent, &never);
        self.shared.mark(MarkKind::Refused, &refused);
    }

    fn sync_marks(&self) {
        let segments = locked(&self.shared.index).segments.all();
        for segment in segments {
            if let Err(error) = segment.sync_marks() {
                tracing::warn!(segment = segment.id, %error, "marks cannot be synced; after a power cut their events are sent again");
            }
        }
    }

    fn save_lanes(&mut self) -> Result<(), Unavailable> {
        let (forgotten, changed) = locked(&self.shared.index).take_changes();
        self.state.save(&forgotten, &changed).map_err(|error| {
            let mut index = locked(&self.shared.index);
            index.changed_again(&changed);
            index.forgotten.extend(forgotten);
            Unavailable { reason: error.to_string() }
        })
    }
}
