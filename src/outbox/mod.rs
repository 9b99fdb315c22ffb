//! The outbox: every accepted event is here, on disk, until Meta has it.
//!
//! ```text
//! append ──▶ writer: group commit ──▶ log/ (segments) ──▶ lease ──▶ ack | retry | bury ──▶ keeper: dead/, state, reclaim
//! ```
//! - [`Outbox::append`] answers once the events are durable (`fdatasync`), all of a call or none: append.rs, writer.rs.
//! - What waits is in memory as 32 bytes an event, by lane: index.rs, lane.rs, segments.rs; whose turn it is: due.rs. What was accepted
//!   last is there whole: recent.rs. The rest is read for a lease: fetch.rs, lease.rs.
//! - What became of an event is marked at once beside its segment; the marks are synced once a second. After `kill -9` only
//!   what was in a request is sent again; after a power cut, also what was answered in the last second.
//! - A segment goes when all in it is settled; one that a few old events keep is emptied: reclaim.rs. Dead letters have a
//!   log of their own: dead/. Pauses (pauses.rs) and counters are in SQLite: state.rs. These are the keeper's thread: keeper.rs.
//! - An account that is gone and of which nothing is left is forgotten: forget.rs.
//! - The formats and the disk are log/; what a start does is open.rs.
//!
//! Two threads write: the writer to the log, the keeper to all else. One lock holds what is in memory, and nothing is read,
//! written or awaited under it. Time is an argument, in Unix milliseconds.

mod append;
mod dead;
mod due;
mod fetch;
mod forget;
mod index;
mod keeper;
mod lane;
mod lease;
mod letters;
mod log;
mod open;
mod pauses;
mod recent;
mod reclaim;
mod segments;
mod shared;
mod state;
#[cfg(test)]
mod tests;
mod writer;

use std::path::PathBuf;
use std::sync::mpsc::Sender;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use bytes::Bytes;

pub use self::dead::DeadLetter;
pub use self::lane::Counts;
pub use self::lease::{Lease, Leased, Sent, Settlement};
pub use self::letters::{ClaimedLetters, DeadLetterError};
pub use self::log::recovery::Cut;
pub use self::open::{OpenError, Recovered};

use self::keeper::Task;
use self::shared::Shared;
use self::writer::Job;
use crate::account::LaneKey;

/// Where an outbox is and what it may hold.
pub struct Options {
    /// Its folder; made if it is not there. One process at a time.
    pub dir: PathBuf,
    /// Size at which a segment of the log is closed, at most 1 GiB.
    pub segment_bytes: u64,
    /// Free space below which new events are refused, bytes.
    pub reserve_bytes: u64,
    /// Bytes of one account that wait for delivery, beyond which its new events are refused.
    pub account_backlog_bytes_max: u64,
    /// Dead letters of one account, beyond which its new events are refused.
    pub dead_letters_max: u64,
    /// Bytes of one account's dead letters, beyond which its new events are refused.
    pub dead_letter_bytes_max: u64,
    /// Leases of one lane that may be out at a time.
    pub leases_per_lane_max: usize,
    /// Is told how long each sync of the log took.
    pub on_sync: Box<dyn Fn(Duration) + Send + Sync>,
    /// Is told of events that will never be sent, when nobody is there who asked for that.
    pub on_lost: OnLost,
}

/// Hears of lost events: whose, why, how many.
pub type OnLost = Box<dyn Fn(&LaneKey, Lost, u64) + Send + Sync>;

/// An event that is to be accepted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewEvent {
    /// Whose it is, and where it goes.
    pub lane: LaneKey,
    /// Its name, at most 65,535 bytes.
    pub event_name: String,
    /// Its id, at most 65,535 bytes.
    pub event_id: String,
    /// When it happened, Unix seconds.
    pub event_time: i64,
    /// Fields of the request that it must be sent with, as the text of a JSON object, or nothing; at most 65,535 bytes. Only
    /// events with the same envelope are leased together.
    pub envelope: Arc<str>,
    /// Its JSON, exactly as the Graph API gets it.
    pub body: Bytes,
}

/// The outbox; clones are the same one. Dropping all of them ends it like [`Outbox::close`], without waiting.
#[derive(Clone)]
pub struct Outbox {
    inner: Arc<Inner>,
}

pub(crate) struct Inner {
    shared: Arc<Shared>,
    writer: Sender<Job>,
    keeper: Sender<Task>,
    threads: Mutex<Option<Threads>>,
}

struct Threads {
    writer: JoinHandle<()>,
    keeper: JoinHandle<()>,
}

/// Why events were not accepted. None of the call's events are stored, unless a power cut follows an `Unavailable`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AppendError {
    /// The volume has no more than the reserve left.
    #[error("the volume of the outbox is full up to its reserve; free some space")]
    Full,
    /// The account has too much waiting for delivery.
    #[error("too many bytes of this account wait for delivery; see why its lanes do not send")]
    Backlog,
    /// The account has too many dead letters.
    #[error("this account has too many dead letters; replay or drop some")]
    DeadLetters,
    /// More bytes wait for the disk than memory is given for.
    #[error("more events arrive than the disk takes")]
    Busy,
    /// An event, or all of them together, are longer than the log's format takes.
    #[error(
        "the events are too large: a name, an id and an envelope may have 65,535 bytes, all events of a request 64 MiB"
    )]
    TooLarge,
    /// The disk refused, or the outbox is closed.
    #[error("the outbox cannot be written: {reason}")]
    Unavailable {
        /// What the disk said.
        reason: String,
    },
}

/// The outbox could not do it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the outbox cannot be written: {reason}")]
pub struct Unavailable {
    /// What the disk said.
    pub reason: String,
}

/// Whose turn it is to be sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Due {
    /// This lane's; lease from it. It is named once, and again when it has more.
    Lane(LaneKey),
    /// Nobody's before this time, Unix milliseconds, unless something changes.
    At(i64),
    /// Nobody's until something changes.
    Nothing,
}

/// How a lane stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LaneStatus {
    /// Which one.
    pub lane: LaneKey,
    /// Events that wait.
    pub pending: u64,
    /// Events that are leased, or on their way to the dead letters.
    pub in_flight: u64,
    /// Bytes of both.
    pub bytes: u64,
    /// When the oldest of both was accepted, Unix milliseconds, to the second.
    pub oldest_accepted_ms: Option<i64>,
    /// Why nothing is leased.
    pub paused: Option<Pause>,
    /// Nothing is leased before this, Unix milliseconds; 0 for no wait.
    pub not_before_ms: i64,
    /// Failed requests since the last success.
    pub failures: u32,
    /// What became of its events since the first start.
    pub counts: Counts,
}

/// Why events will never be sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lost {
    /// They were dead letters that nobody took up in time.
    Purged,
    /// The disk gave other bytes than were written; what is left of them is in quarantine.
    Damaged,
}

/// Why a lane does not send.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pause {
    /// For a person.
    pub reason: String,
    /// Who wants it.
    pub by: PausedBy,
    /// Since when, Unix milliseconds.
    pub since_ms: i64,
}

/// Who paused a lane.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PausedBy {
    /// A person.
    Operator,
    /// The gateway, because sending is pointless until something is mended.
    Delivery,
}

/// Whether new events are accepted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Health {
    /// They are.
    Accepting,
    /// The volume is full up to its reserve (bytes).
    Full {
        /// What is free.
        free: u64,
        /// What must stay free.
        reserve: u64,
    },
    /// The disk refuses; it is tried again every 10 seconds.
    Broken {
        /// What it said.
        reason: String,
    },
}

/// What an outbox takes of its volume, bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stats {
    /// Segments, and what became of their events.
    pub log_bytes: u64,
    /// Dead letters.
    pub dead_letter_bytes: u64,
    /// Free space.
    pub free_bytes: u64,
}

/// Takes a lock; what another thread left when it panicked is as good as what it would have left.
fn locked<T: ?Sized>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

// === impl Outbox ===

impl Outbox {
    /// Whose turn it is now. Lanes take turns; a lane that is due is found without looking at the others.
    pub fn next_due(&self, now_ms: i64) -> Due {
        locked(&self.inner.shared.index).next_due(now_ms)
    }

    /// Waits until [`Outbox::next_due`] may say something new. For one caller; what changes between two calls is not missed.
    pub async fn changed(&self) {
        self.inner.shared.changed.notified().await;
    }

    /// How all lanes stand.
    pub fn lanes(&self) -> Vec<LaneStatus> {
        locked(&self.inner.shared.index).status()
    }

    /// Whether new events are accepted.
    pub fn health(&self) -> Health {
        let dead = locked(&self.inner.threads).as_ref().is_none_or(|threads| threads.writer.is_finished());
        if dead {
            return Health::Broken { reason: "the writer has ended".into() };
        }
        self.inner.shared.health()
    }

    /// What it takes of its volume.
    pub fn stats(&self) -> Stats {
        let segments = locked(&self.inner.shared.index).segments.all();
        Stats {
            log_bytes: segments.iter().map(|segment| segment.file_bytes() + segment.mark_bytes()).sum(),
            dead_letter_bytes: self.inner.shared.dead.file_bytes(),
            free_bytes: self.inner.shared.log.space().map_or(0, |space| space.free),
        }
    }

    /// Ends it: what was handed in is stored, marks and counters are synced, and nothing is leased or accepted any more.
    /// Waits for that; not for leases, whose events are sent again after the next start unless they are settled before.
    pub fn close(self) {
        locked(&self.inner.shared.index).close();
        let Some(threads) = locked(&self.inner.threads).take() else { return };
        // The keeper first: it may still need the writer. One that has ended needs no word.
        let _ = self.inner.keeper.send(Task::Stop);
        let _ = threads.keeper.join();
        let _ = self.inner.writer.send(Job::Stop);
        let _ = threads.writer.join();
    }
}

// === impl Inner ===

impl Inner {
    /// Hands a task to the keeper. If it has ended, the task's reply is dropped with it and the caller hears of that.
    fn ask_keeper(&self, task: Task) {
        let _ = self.keeper.send(task);
    }
}

// === impl Unavailable ===

impl Unavailable {
    fn new(error: &std::io::Error) -> Self {
        Self { reason: error.to_string() }
    }
}

// === impl Lost ===

impl Lost {
    /// As a metric's label.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Purged => "purged",
            Self::Damaged => "damaged",
        }
    }
}

// === impl PausedBy ===

impl PausedBy {
    /// As it is stored and shown.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Operator => "operator",
            Self::Delivery => "delivery",
        }
    }
}
