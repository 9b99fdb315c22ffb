//! One turn of a lane: lease, send one request, do what its outcome says.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::batch::Batch;
use super::graph::{GraphClient, Reply};
use super::job::{Job, Part};
use super::lane::{Attempt, Lane, Settle, Then};
use super::outcome::{Fault, Outcome, decide, is_ambiguous};
use super::retry::Backoff;
use super::token::{self, Fingerprint};
use super::{Observer, report};
use crate::account::{AccessToken, LaneKey};
use crate::clock::{Steady, now_ms};
use crate::config::{DeliveryConfig, PixelConfig};
use crate::outbox::{Outbox, Sent};

/// All that a turn needs; it shares nothing with other turns but its lane's memory.
pub(crate) struct Turn {
    pub(crate) key: LaneKey,
    pub(crate) lane: Arc<Mutex<Lane>>,
    pub(crate) pixel: PixelConfig,
    pub(crate) token: AccessToken,
    pub(crate) settings: Arc<DeliveryConfig>,
    pub(crate) outbox: Outbox,
    pub(crate) client: Arc<GraphClient>,
    pub(crate) observer: Arc<dyn Observer>,
    /// By which events grow too old.
    pub(crate) clock: Steady,
}

/// What a turn came to.
#[derive(Default)]
pub(crate) struct Ended {
    /// Parts of a batch that wait for the lane's next turn.
    pub(crate) job: Option<Job>,
    /// Whether the request failed; `None` if none was sent.
    pub(crate) failed: Option<bool>,
    /// The token that the lane was paused for.
    pub(crate) refused: Option<Fingerprint>,
}

// === impl Turn ===

impl Turn {
    /// Sends the next part of a job that was begun, or else of what is leased now.
    pub(crate) async fn take(self, begun: Option<Job>) -> Ended {
        let job = match begun {
            // It was held or paused since the last part, by another turn or by a person.
            Some(job) if !self.outbox.may_send(&self.key, now_ms()) => {
                job.give_back(now_ms());
                None
            }
            Some(job) => Some(job),
            None => self.lease().await,
        };
        let Some(mut job) = job else { return Ended::default() };
        while let Some(part) = job.next() {
            if part.batch.len() > 0 {
                return self.send(job, part).await;
            }
            part.batch.drop_expired(now_ms());
        }
        Ended::default()
    }

    /// Leases on a thread that may block: a backlog is read from the disk.
    async fn lease(&self) -> Option<Job> {
        let settings = &self.settings;
        let events_max = self.lane().batch_events_max(settings.batch_events_max, Instant::now());
        let bytes_max = u64::try_from(settings.batch_bytes_max).unwrap_or(u64::MAX);
        let now_ms = now_ms();
        let (outbox, key) = (self.outbox.clone(), self.key.clone());
        let leasing = tokio::task::spawn_blocking(move || outbox.lease(&key, events_max, bytes_max, now_ms));
        let lease = leasing.await.unwrap_or_else(|error| {
            tracing::error!(lane = %self.key, %error, "a batch could not be read");
            None
        })?;
        let batch = Batch::new(lease, self.clock.now_ms(), settings.age_max);
        let (expired, repeated) = (batch.expired() as u64, batch.maybe_sent() as u64);
        if expired > 0 {
            self.observer.dead(&self.key, Fault::Expired.reason(), expired);
            report::expired(&self.key, &mut self.lane(), expired, Instant::now());
        }
        if repeated > 0 {
            self.observer.ambiguous(&self.key, repeated);
        }
        Some(Job::new(batch))
    }

    async fn send(self, job: Job, mut part: Part) -> Ended {
        let events = part.batch.len();
        let document = part.batch.departing(self.pixel.test_event_code.as_deref());
        let reply = self.client.send(self.key.pixel, &self.token, document).await;
        let outcome = decide(&reply, events);
        self.observer.request(outcome.label(events));
        let attempt = Attempt {
            events,
            doubtful: part.doubtful,
            failures: part.batch.failures(),
            now: Instant::now(),
            random: rand::random(),
        };
        let failed = matches!(outcome, Outcome::Retry { .. } | Outcome::Hold { .. } | Outcome::Pause { .. });
        let (sent, retry) = (sent(&reply, &outcome), matches!(outcome, Outcome::Retry { .. }));
        let (settle, then) = self.judge(attempt, &reply, outcome);
        let refused = matches!(then, Then::Pause { token_refused: true, .. });
        let job = self.carry_out(job, part, settle, then, (sent, retry)).await;
        Ended { job, failed: Some(failed), refused: refused.then(|| Fingerprint::of(Some(&self.token))) }
    }

    /// The lane's decision, and a line for the log.
    fn judge(&self, attempt: Attempt, reply: &Reply, outcome: Outcome) -> (Settle, Then) {
        let settings = &self.settings;
        let backoff = Backoff { min: settings.retry_min, max: settings.retry_max };
        let mut lane = self.lane();
        let decided = lane.judge(attempt, outcome.clone(), backoff);
        report::request(&self.key, &mut lane, attempt, reply, &outcome);
        decided
    }

    /// Settles what was sent and gives back what is left, unless the lane goes on with it.
    /// `retry` is whether this was a failure that the lane's backoff counts.
    async fn carry_out(
        &self,
        mut job: Job,
        part: Part,
        settle: Settle,
        mut then: Then,
        (sent, retry): (Sent, bool),
    ) -> Option<Job> {
        let mut back = None;
        match settle {
            Settle::Delivered { taken } => self.delivered(part.batch, taken),
            Settle::Expire => {
                self.observer.dead(&self.key, Fault::Expired.reason(), part.batch.len() as u64);
                part.batch.expire(now_ms());
            }
            Settle::Bury { reason, message } => {
                self.observer.dead(&self.key, reason, part.batch.len() as u64);
                part.batch.bury(reason, &message, now_ms());
            }
            Settle::Split { index, doubtful } => job.split(part, index, doubtful),
            Settle::SetAside(message) => job.set_aside(part, message),
            Settle::Back => back = Some(part.batch),
        }
        if then == Then::Continue {
            let mut lane = self.lane();
            if lane.blames_events(Instant::now()) {
                job.trust();
            }
            if let Some(doubt) = job.doubt() {
                then = lane.doubt_confirmed(doubt);
            }
        }
        // The lane is held before its events go back, so that nobody leases them in between.
        match then {
            Then::Continue => return (!job.is_done()).then_some(job),
            Then::Wait(Duration::ZERO) => {}
            Then::Wait(wait) => {
                let wait_ms = i64::try_from(wait.as_millis()).unwrap_or(i64::MAX);
                self.outbox.hold_off(&self.key, now_ms().saturating_add(wait_ms), retry);
            }
            Then::Pause { reason, token_refused } => self.pause(&reason, token_refused).await,
        }
        let mut events = back.as_ref().map_or(0, Batch::len);
        if let Some(batch) = back {
            batch.give_back(sent, now_ms());
        }
        events += job.give_back(now_ms());
        self.observer.retried(&self.key, events as u64);
        None
    }

    fn delivered(&self, batch: Batch, taken: u64) {
        let waited_ms = now_ms().saturating_sub(batch.oldest_accepted_ms().unwrap_or(i64::MAX));
        let waited = Duration::from_millis(u64::try_from(waited_ms).unwrap_or_default());
        batch.delivered(now_ms());
        self.observer.delivered(&self.key, taken, waited);
    }

    async fn pause(&self, reason: &str, token_refused: bool) {
        let reason = match token_refused {
            true => {
                let remedy = token::remedy(&self.pixel.access_token_source);
                Fingerprint::of(Some(&self.token))
                    .sign(&format!("{reason}; {remedy}, or mend its rights at Meta and resume the account"))
            }
            false => reason.to_owned(),
        };
        super::pause(&self.outbox, &self.key, &reason).await;
    }

    fn lane(&self) -> MutexGuard<'_, Lane> {
        self.lane.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether Meta may have what a request brought that is sent again.
fn sent(reply: &Reply, outcome: &Outcome) -> Sent {
    match reply {
        _ if is_ambiguous(reply) => Sent::Maybe,
        Reply::NotSent(_) | Reply::UnusableToken => Sent::No,
        _ if matches!(outcome, Outcome::Hold { .. }) => Sent::No,
        _ => Sent::Refused,
    }
}
