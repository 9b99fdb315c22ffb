//! Accepting events: what is checked and counted before the writer gets them.

use std::io;
use std::sync::atomic::Ordering;

use sha2::{Digest, Sha256};
use tokio::sync::oneshot;

use super::lane::LaneNo;
use super::log::Record;
use super::writer::{Append, Job};
use super::{AppendError, NewEvent, Outbox, locked};

/// Bytes of one group: what one request may bring.
const GROUP_BYTES_MAX: u64 = 64 << 20;
/// Bytes of events that may wait for the disk.
const WAITING_BYTES_MAX: u64 = 256 << 20;

/// Where events that are appended come from.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Origin {
    /// From outside.
    New,
    /// From the account's dead letters.
    Letters,
}

impl Outbox {
    /// Accepts events: `Ok` once all of them are durable. Whoever stops waiting may find them stored all the same.
    pub async fn append(&self, events: Vec<NewEvent>, now_ms: i64) -> Result<(), AppendError> {
        self.append_from(Origin::New, events, now_ms).await
    }

    /// Accepts what was dead letters, as [`Outbox::append`] does; but an account that has as many letters as it may is not
    /// refused, or nothing could ever make them fewer.
    pub async fn append_replayed(&self, events: Vec<NewEvent>, now_ms: i64) -> Result<(), AppendError> {
        self.append_from(Origin::Letters, events, now_ms).await
    }

    async fn append_from(&self, origin: Origin, events: Vec<NewEvent>, now_ms: i64) -> Result<(), AppendError> {
        if events.is_empty() {
            return Ok(());
        }
        let closed = AppendError::Unavailable { reason: "it is closed".into() };
        self.submit(origin, events, now_ms)?.await.unwrap_or(Err(closed))
    }

    fn submit(
        &self,
        origin: Origin,
        events: Vec<NewEvent>,
        now_ms: i64,
    ) -> Result<oneshot::Receiver<Result<(), AppendError>>, AppendError> {
        let shared = &self.inner.shared;
        if let Some(refusal) = locked(&shared.refusing).clone() {
            return Err(refusal);
        }
        let bytes = events.iter().map(NewEvent::stored_bytes).sum();
        if bytes > GROUP_BYTES_MAX || !events.iter().all(|event| event.record([0; 8]).fits()) {
            return Err(AppendError::TooLarge);
        }
        let waiting = shared.waiting_bytes.fetch_add(bytes, Ordering::Relaxed);
        if waiting + bytes > WAITING_BYTES_MAX.max(bytes) {
            shared.answered(bytes);
            return Err(AppendError::Busy);
        }
        let events = self.reserve(origin, events).inspect_err(|_| shared.answered(bytes))?;
        let (reply, answer) = oneshot::channel();
        // If the writer has ended, the reply is dropped with the job and the caller hears of it.
        let _ = self.inner.writer.send(Job::Append(Append { events, now_ms, bytes, reply }));
        Ok(answer)
    }

    /// Counts events towards their accounts' backlogs, all or none.
    fn reserve(&self, origin: Origin, events: Vec<NewEvent>) -> Result<Vec<(LaneNo, [u8; 8], NewEvent)>, AppendError> {
        let shared = &self.inner.shared;
        if origin == Origin::New && events.iter().any(|event| shared.dead.is_full(&event.lane.account)) {
            return Err(AppendError::DeadLetters);
        }
        let max = shared.limits.account_backlog_bytes_max;
        let mut index = locked(&shared.index);
        for (place, event) in events.iter().enumerate() {
            if !index.reserve(&event.lane.account, event.stored_bytes(), max) {
                for event in events.iter().take(place) {
                    index.release(&event.lane.account, event.stored_bytes());
                }
                return Err(AppendError::Backlog);
            }
        }
        let numbers: Vec<_> = events.iter().map(|event| index.number(&event.lane)).collect();
        drop(index);
        let numbered = numbers.into_iter().zip(events);
        Ok(numbered.map(|(number, event)| (number, event.fingerprint(), event)).collect())
    }
}

// === impl NewEvent ===

impl NewEvent {
    /// The event as a record of the log that has no place yet.
    pub(super) fn record(&self, fingerprint: [u8; 8]) -> Record<'_> {
        Record {
            more: false,
            seq: 0,
            accepted_ms: 0,
            account: self.lane.account.as_str(),
            pixel: self.lane.pixel.as_u64(),
            event_name: &self.event_name,
            event_id: &self.event_id,
            event_time: self.event_time,
            fingerprint,
            envelope: &self.envelope,
            body: &self.body,
        }
    }

    /// Bytes that it takes in the log.
    pub(super) fn stored_bytes(&self) -> u64 {
        self.record([0; 8]).encoded_len() as u64
    }

    /// What two copies of one event share.
    fn fingerprint(&self) -> [u8; 8] {
        let mut hash = Sha256::new();
        hash.update(self.lane.pixel.to_string());
        hash.update("|");
        hash.update(&self.event_name);
        hash.update("|");
        hash.update(&self.event_id);
        hash.finalize().first_chunk().copied().unwrap_or_default()
    }
}

// === impl AppendError ===

impl AppendError {
    pub(super) fn new(error: &io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Self::Full,
            _ => Self::Unavailable { reason: error.to_string() },
        }
    }
}
