//! One turn of a lane: lease, send one request, do what its outcome says.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::batch::Batch;
use super::behind::Choice;
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
use crate::threads::Threads;

/// All that a turn needs; it shares nothing with other turns but its lane's memory.
pub(crate) struct Turn {
    pub(crate) key: LaneKey,
    pub(crate) lane: Arc<Mutex<Lane>>,
    pub(crate) pixel: PixelConfig,
    pub(crate) token: AccessToken,
    /// Of which configuration these two and the settings are.
    pub(crate) revision: u64,
    /// Which one is in force.
    pub(crate) in_force: watch::Receiver<u64>,
    pub(crate) settings: Arc<DeliveryConfig>,
    pub(crate) outbox: Outbox,
    pub(crate) disk: Threads,
    pub(crate) client: Arc<GraphClient>,
    pub(crate) observer: Arc<dyn Observer>,
    /// By which events grow too old.
    pub(crate) clock: Steady,
    /// No request is begun any more.
    pub(crate) stop: CancellationToken,
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
            Some(job) if self.is_outdated() => return Ended { job: Some(job), ..Ended::default() },
            // It was held or paused since the last part, by another turn or by a person.
            Some(job) if !self.outbox.may_send(&self.key, now_ms()) => {
                job.give_back(now_ms());
                None
            }
            Some(job) => Some(job),
            None => self.lease().await,
        };
        let Some(mut job) = job else { return Ended::default() };
        if self.stop.is_cancelled() {
            job.give_back(now_ms());
            return Ended::default();
        }
        while let Some(part) = job.next() {
            if part.batch.len() > 0 {
                return self.send(job, part).await;
            }
            part.batch.drop_expired(now_ms());
        }
        Ended::default()
    }

    /// Takes a batch; a backlog is read from the disk.
    async fn lease(&self) -> Option<Job> {
        let settings = &self.settings;
        let (events_max, behind, after_others) = {
            let (mut lane, now) = (self.lane(), Instant::now());
            (lane.batch_events_max(settings.batch_events_max, now), lane.behind(), lane.last(now))
        };
        let bytes_max = u64::try_from(settings.batch_bytes_max).unwrap_or(u64::MAX);
        let now_ms = now_ms();
        let (outbox, key) = (self.outbox.clone(), self.key.clone());
        let lease = move || outbox.lease_after_others(&key, &after_others, events_max + behind, bytes_max, now_ms);
        let lease = blocking(&self.disk, &self.key, lease).await??;
        self.note_answer(now_ms);
        // Whoever was told that another configuration is in force may count on it from then on. The lane is due again once
        // the events are back.
        if self.is_outdated() {
            return None;
        }
        let batch = Batch::new(lease, self.clock.now_ms(), settings.age_max);
        let expired = batch.expired() as u64;
        if expired > 0 {
            self.observer.dead(&self.key, Fault::Expired.reason(), expired);
            report::expired(&self.key, &mut self.lane(), expired, Instant::now());
        }
        let batch = self.choose(batch, events_max)?;
        let repeated = batch.maybe_sent() as u64;
        if repeated > 0 {
            self.observer.ambiguous(&self.key, repeated);
        }
        Some(Job::new(batch))
    }

    /// What of a batch goes out now; the rest goes back as it was.
    fn choose(&self, batch: Batch, events_max: usize) -> Option<Batch> {
        let choice = self.lane().choose(&batch.seqs(), events_max, Instant::now());
        let (chosen, rest) = match choice {
            Choice::Send(range) => batch.cut(range),
            Choice::Wait(wait) => {
                self.hold_off(wait, false);
                (None, vec![batch])
            }
        };
        for batch in rest {
            batch.give_back(Sent::No, now_ms());
        }
        chosen
    }

    async fn send(self, job: Job, mut part: Part) -> Ended {
        let events = part.batch.len();
        let code = self.pixel.test_event_code.clone();
        let departing = move || (part.batch.departing(code.as_deref()), part);
        let Some(((document, test), part)) = blocking(&self.disk, &self.key, departing).await else {
            job.give_back(now_ms());
            return Ended { failed: Some(true), ..Ended::default() };
        };
        let reply = self.client.send(self.key.pixel, &self.token, document).await;
        let outcome = decide(&reply, events);
        let attempt = Attempt {
            events,
            seq: part.batch.first_seq(),
            halvings: part.halvings,
            doubted_at: job.doubted_at(),
            failures: part.batch.failures(),
            now: Instant::now(),
            random: rand::random(),
        };
        let failed = matches!(outcome, Outcome::Retry { .. } | Outcome::Hold { .. } | Outcome::Pause { .. });
        let sent = sent(&reply, &outcome);
        let (settle, then) = self.judge(attempt, &reply, outcome);
        let refused = matches!(then, Then::Pause { token_refused: true, .. });
        let refused = refused.then(|| Fingerprint::of(Some(&self.token)));
        let (disk, key) = (self.disk.clone(), self.key.clone());
        let carry_out = move || self.carry_out(job, part, settle, then, (sent, test));
        match blocking(&disk, &key, carry_out).await {
            Some(job) => Ended { job, failed: Some(failed), refused },
            None => Ended { failed: Some(true), refused, ..Ended::default() },
        }
    }

    /// The lane's decision, and a line for the log.
    fn judge(&self, attempt: Attempt, reply: &Reply, outcome: Outcome) -> (Settle, Then) {
        let settings = &self.settings;
        let backoff = Backoff { min: settings.retry_min, max: settings.retry_max };
        let mut lane = self.lane();
        let decided = lane.judge(attempt, outcome.clone(), backoff);
        self.observer.request(decided.0.label(&outcome, attempt.events));
        report::request(&self.key, &mut lane, attempt, reply, &outcome, &decided.0);
        decided
    }

    /// Settles what was sent, a test or not, and gives back what is left, unless the lane goes on with it. Blocks.
    fn carry_out(
        &self,
        mut job: Job,
        part: Part,
        settle: Settle,
        mut then: Then,
        (sent, test): (Sent, bool),
    ) -> Option<Job> {
        let mut back = None;
        match settle {
            Settle::Delivered { taken } => self.delivered(part.batch, taken, test),
            Settle::Expire => {
                self.observer.dead(&self.key, Fault::Expired.reason(), part.batch.len() as u64);
                part.batch.expire(now_ms());
            }
            Settle::Bury { reason, message, again } => {
                if !again {
                    self.observer.dead(&self.key, reason, part.batch.len() as u64);
                }
                part.batch.bury(reason, &message, now_ms());
            }
            Settle::Split { doubtful: true, .. } => job.doubt_half(part, Instant::now()),
            Settle::Split { index, doubtful: false } => job.split(part, index),
            Settle::SetAside(message) => job.set_aside(part, message),
            Settle::Back => back = Some(part.batch),
        }
        if then == Then::Continue {
            let mut lane = self.lane();
            if lane.blames_events(job.doubted_at()) {
                job.trust();
            }
            if let Some(doubt) = job.only_doubts() {
                then = lane.doubt_confirmed(doubt);
            }
        }
        // The lane is held before its events go back, so that nobody leases them in between.
        match then {
            Then::Continue => return (!job.is_done()).then_some(job),
            Then::Anew => {}
            Then::Wait { wait, failed } => self.hold_off(wait, failed),
            Then::Pause { reason, logged, token_refused } => self.pause(&reason, &logged, token_refused),
        }
        let mut events = back.as_ref().map_or(0, Batch::len);
        if let Some(batch) = back {
            batch.give_back(sent, now_ms());
        }
        events += job.give_back(now_ms());
        self.observer.retried(&self.key, events as u64);
        None
    }

    fn hold_off(&self, wait: Duration, failed: bool) {
        let wait_ms = i64::try_from(wait.as_millis()).unwrap_or(i64::MAX);
        self.outbox.hold_off(&self.key, now_ms().saturating_add(wait_ms), failed);
    }

    fn delivered(&self, batch: Batch, taken: u64, test: bool) {
        let waited_ms = now_ms().saturating_sub(batch.oldest_accepted_ms().unwrap_or(i64::MAX));
        let waited = Duration::from_millis(u64::try_from(waited_ms).unwrap_or_default());
        let uncounted = (batch.len() as u64).saturating_sub(taken);
        batch.delivered(taken, test, now_ms());
        if test {
            self.observer.tested(&self.key, taken, waited);
        } else {
            self.observer.delivered(&self.key, taken, waited);
        }
        if uncounted > 0 {
            self.observer.uncounted(&self.key, uncounted);
        }
    }

    /// A lane that asked a person has its answer when it sends again. What was leased before its pause says nothing.
    fn note_answer(&self, now_ms: i64) {
        let mut lane = self.lane();
        if lane.is_asking() && self.outbox.may_send(&self.key, now_ms) {
            lane.answered();
        }
    }

    fn pause(&self, reason: &str, logged: &str, token_refused: bool) {
        let with_remedy = |reason: &str| match token_refused {
            true => {
                let remedy = token::remedy(&self.pixel.access_token_source);
                Fingerprint::of(Some(&self.token))
                    .sign(&format!("{reason}; {remedy}, or mend its rights at Meta and resume the account"))
            }
            false => reason.to_owned(),
        };
        let (reason, logged) = (with_remedy(reason), with_remedy(logged));
        Handle::current().block_on(super::pause(&self.outbox, &self.key, &reason, &logged));
        // A person's own pause is not replaced, and its end answers nothing.
        if !self.outbox.held_accounts().contains_key(&self.key.account) {
            self.lane().paused(&reason);
        }
    }

    /// Whether another configuration has been published since this turn began.
    fn is_outdated(&self) -> bool {
        *self.in_force.borrow() != self.revision
    }

    fn lane(&self) -> MutexGuard<'_, Lane> {
        self.lane.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Does away from the threads that serve what reads files or writes them: a disk that is behind makes whoever writes wait,
/// and be it 16 bytes. `None` if it broke off.
async fn blocking<T: Send + 'static>(
    disk: &Threads,
    key: &LaneKey,
    work: impl FnOnce() -> T + Send + 'static,
) -> Option<T> {
    let done = disk.run(work).await;
    if done.is_none() {
        tracing::error!(lane = %key, "a turn of a lane broke off; its events are sent again");
    }
    done
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
