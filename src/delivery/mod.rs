//! Delivery: every lane's events to Meta's Conversions API, in batches, until Meta has them.
//!
//! ```text
//! outbox ── due ──▶ schedule ── slot ──▶ turn: lease ▶ batch ▶ request ▶ outcome ▶ lane's decision ▶ settle
//!                      ▲                                                                     │
//!                      └──────────── parts of a refused batch, the next turn ◀───────────────┘
//! ```
//! - A free slot sends at once what is due; nothing waits for a batch to fill. Lanes take turns, one that waits holds no
//!   slot, and those that fail share half of them: schedule.rs.
//! - A turn sends one request and does what comes of it: turn.rs, with batch.rs (what may be sent) and job.rs (the parts of
//!   a batch that was refused).
//! - What a reply means is a table: outcome.rs. What it means for the lane and its trust is lane.rs; how large its batches
//!   are, pace.rs; what goes last, behind.rs; how long it waits, retry.rs. All are pure.
//! - What becomes of lanes that do not send, and of accounts that are gone: silent.rs.
//! - graph/ alone knows the Graph API's words. view.rs sees the configuration, token.rs remembers which token was refused,
//!   report.rs writes the log.
//!
//! An event goes out again only if Meta refused it or failed on it, or if no answer came after it went out; what never went
//! out goes when it can. It keeps its `event_id`.

mod batch;
mod behind;
mod graph;
mod job;
mod lane;
mod outcome;
mod pace;
mod refusals;
mod report;
mod retry;
mod schedule;
mod silent;
#[cfg(test)]
mod tests;
mod token;
mod turn;
mod view;

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::watch;
use tokio::task::{Id, JoinError, JoinSet};
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

use self::graph::GraphClient;
use self::job::Job;
use self::lane::Lane;
use self::retry::WISH_MAX;
use self::schedule::{Schedule, Slot, Slots};
use self::token::Fingerprint;
use self::turn::{Ended, Turn};
use self::view::{Permit, View};
use crate::account::LaneKey;
use crate::clock::{Steady, now_ms, set_back};
use crate::config::DeliveryConfig;
use crate::outbox::{Due, LaneStatus, Outbox, PausedBy};
use crate::snapshot::Published;
use crate::threads::Threads;

pub use self::graph::DeliveryError;

/// How often the clock is looked at, which may have been set.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);
/// How often lanes that do not send are looked through for events that grew too old.
const AGE_INTERVAL: Duration = Duration::from_secs(600);
/// Threads for what turns read and write: more are no quicker at one disk.
const DISK_THREADS: usize = 8;
/// Time that requests in flight get when the gateway stops.
const DRAIN_MAX: Duration = Duration::from_secs(30);

/// Is told what happens, to count it.
pub trait Observer: Send + Sync {
    /// A request and what it came to: `accept`, `accept_short` (Meta counted fewer events), `retry`, `hold`, `split`,
    /// `bury`, `doubt` (refused without a clear reason, and kept), `pause`.
    fn request(&self, outcome: &'static str);
    /// Events that Meta took, and how long after its acceptance the oldest of them.
    fn delivered(&self, lane: &LaneKey, events: u64, after: Duration);
    /// The same of events that went as tests (`test_event_code`).
    fn tested(&self, lane: &LaneKey, events: u64, after: Duration);
    /// Events of requests that Meta took, and that it did not count.
    fn uncounted(&self, lane: &LaneKey, events: u64);
    /// Events that became dead letters, `refused` or `too_large`, or were dropped, `expired`.
    fn dead(&self, lane: &LaneKey, reason: &'static str, events: u64);
    /// Events that are sent again although an earlier request may have brought them.
    fn ambiguous(&self, lane: &LaneKey, events: u64);
    /// Events that went back for another try.
    fn retried(&self, lane: &LaneKey, events: u64);
}

/// The service.
pub struct Delivery {
    outbox: Outbox,
    observer: Arc<dyn Observer>,
    newer: Newer,
    /// The revision that is in force.
    in_force: watch::Receiver<u64>,
    view: View,
    client: Arc<GraphClient>,
    schedule: Schedule,
    senders: HashMap<LaneKey, Sender>,
    /// Due, but the configuration does not let them send.
    parked: HashSet<LaneKey>,
    /// Slots of the turns that are being taken.
    taken: HashMap<Id, Slot>,
    turns: JoinSet<Ended>,
    /// For what turns read and write.
    disk: Threads,
    /// What goes on beside the turns: resumptions on their way to the disk, looking for old events.
    chores: JoinSet<()>,
    /// By which events grow too old.
    clock: Steady,
    /// No request is begun any more.
    stop: CancellationToken,
    /// When the wall clock was looked at last, and what it said, Unix milliseconds.
    looked: (Instant, i64),
}

/// What is kept of a lane between its turns.
#[derive(Default)]
struct Sender {
    lane: Arc<Mutex<Lane>>,
    /// Batches that were refused and are sent in parts.
    begun: Vec<Job>,
}

/// Gives the configuration in force if it is another than that of this revision.
type Newer = Box<dyn Fn(u64) -> Option<View> + Send>;

// === impl Delivery ===

impl Delivery {
    /// Delivers what is in `outbox` as `published` says, always as its newest snapshot says.
    ///
    /// # Errors
    /// When no client can be made of `[delivery]`, or there are no threads.
    pub fn new(outbox: Outbox, published: Arc<Published>, observer: Arc<dyn Observer>) -> Result<Self, DeliveryError> {
        // Before the view: what is published meanwhile is followed then.
        let in_force = published.revision();
        let view = View::of(published.load_full());
        let newer = move |known| {
            let snapshot = published.load();
            (snapshot.revision != known).then(|| View::of(snapshot.clone()))
        };
        Self::following(outbox, view, (Box::new(newer), in_force), observer)
    }

    fn following(
        outbox: Outbox,
        view: View,
        (newer, in_force): (Newer, watch::Receiver<u64>),
        observer: Arc<dyn Observer>,
    ) -> Result<Self, DeliveryError> {
        let client = Arc::new(GraphClient::new(&view.settings)?);
        let schedule = Schedule::new(slots(&view.settings));
        // No wait is longer; the clock may have been set while nothing ran.
        let wait_max = i64::try_from(view.settings.retry_max.max(WISH_MAX).as_millis()).unwrap_or(i64::MAX);
        let latest_ms = now_ms().saturating_add(wait_max);
        outbox.move_waits(|time_ms| time_ms.min(latest_ms));
        let sender = |status: LaneStatus| {
            let mut lane = Lane::new(status.counts.delivered + status.counts.tested);
            if let Some(pause) = &status.paused {
                lane.paused(&pause.reason);
            }
            (status.lane, Sender { lane: Arc::new(Mutex::new(lane)), begun: Vec::new() })
        };
        let senders = outbox.lanes().into_iter().map(sender).collect();
        Ok(Self {
            outbox,
            observer,
            newer,
            in_force,
            view,
            client,
            schedule,
            senders,
            parked: HashSet::new(),
            taken: HashMap::new(),
            turns: JoinSet::new(),
            disk: Threads::begin("delivery", DISK_THREADS).map_err(DeliveryError::Threads)?,
            chores: JoinSet::new(),
            clock: Steady::start(),
            stop: CancellationToken::new(),
            looked: (Instant::now(), now_ms()),
        })
    }

    /// Delivers until `shutdown`; then takes nothing new, and gives requests in flight up to 30 s.
    pub async fn run(mut self, shutdown: CancellationToken) {
        self.stop = shutdown;
        self.forget_gone();
        self.resume_mended();
        let mut look = tokio::time::interval(LOOK_INTERVAL);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut age = tokio::time::interval(AGE_INTERVAL);
        loop {
            self.follow();
            let due_in = self.collect_due();
            while let Some(slot) = self.schedule.begin() {
                self.begin(slot);
            }
            tokio::select! {
                () = self.stop.cancelled() => break,
                Some(ended) = self.turns.join_next_with_id() => self.end(ended),
                () = self.outbox.changed() => {}
                () = tokio::time::sleep(due_in) => {}
                Ok(()) = self.in_force.changed() => {}
                _ = look.tick() => self.follow_clock(),
                _ = age.tick() => {
                    self.drop_expired();
                    self.forget_gone();
                }
            }
        }
        // Over the limit they are dropped: their events were marked as sent, and are sent again after the next start.
        let _over = tokio::time::timeout(DRAIN_MAX, self.drain()).await;
    }

    /// Takes the lanes that are due into the schedule, and says when to ask again.
    fn collect_due(&mut self) -> Duration {
        loop {
            match self.outbox.next_due(now_ms()) {
                Due::Lane(lane) => self.schedule.due(lane),
                Due::At(time_ms) => {
                    let wait = u64::try_from(time_ms.saturating_sub(now_ms())).unwrap_or_default();
                    return Duration::from_millis(wait).min(LOOK_INTERVAL);
                }
                Due::Nothing => return LOOK_INTERVAL,
            }
        }
    }

    /// Lets a lane take its turn.
    fn begin(&mut self, slot: Slot) {
        let sender = self.senders.entry(slot.lane.clone()).or_default();
        let turn = match self.view.permit(&slot.lane) {
            Permit::Send(pixel, token) => {
                let turn = Turn {
                    key: slot.lane.clone(),
                    lane: sender.lane.clone(),
                    pixel: pixel.clone(),
                    token: token.clone(),
                    revision: self.view.revision,
                    in_force: self.in_force.clone(),
                    settings: self.view.settings.clone(),
                    outbox: self.outbox.clone(),
                    disk: self.disk.clone(),
                    client: self.client.clone(),
                    observer: self.observer.clone(),
                    clock: self.clock,
                    stop: self.stop.clone(),
                };
                self.turns.spawn(turn.take(sender.begun.pop()))
            }
            Permit::NoToken(pixel) => {
                let reason = format!("there is no access token; {}", token::remedy(&pixel.access_token_source));
                give_back(sender.begun.drain(..));
                let (outbox, key, lane) = (self.outbox.clone(), slot.lane.clone(), sender.lane.clone());
                self.turns.spawn(async move {
                    let none = Fingerprint::of(None);
                    let signed = none.sign(&reason);
                    pause(&outbox, &key, &signed, &signed).await;
                    lane.lock().unwrap_or_else(PoisonError::into_inner).paused(&reason);
                    Ended { refused: Some(none), ..Ended::default() }
                })
            }
            Permit::Inactive => {
                give_back(sender.begun.drain(..));
                self.parked.insert(slot.lane.clone());
                return self.schedule.end(slot, None);
            }
        };
        self.taken.insert(turn.id(), slot);
    }

    /// Takes a turn's end in.
    fn end(&mut self, ended: Result<(Id, Ended), JoinError>) {
        let (id, ended) = ended.unwrap_or_else(|error| {
            tracing::error!(%error, "a turn of a lane broke off; its events are sent again");
            (error.id(), Ended { failed: Some(true), ..Ended::default() })
        });
        let Some(slot) = self.taken.remove(&id) else { return };
        if let Some(job) = ended.job {
            self.senders.entry(slot.lane.clone()).or_default().begun.push(job);
            self.schedule.due(slot.lane.clone());
        }
        // The configuration may have brought another token while the request was out.
        if ended.refused.is_some_and(|refused| self.is_mended(&slot.lane, refused)) {
            self.resume(slot.lane.clone());
        }
        self.schedule.end(slot, ended.failed);
    }

    /// Moves the lanes' waits along if the wall clock was set back: they would be silent for as long.
    fn follow_clock(&mut self) {
        let (now, wall_ms) = (Instant::now(), now_ms());
        let (before, before_ms) = std::mem::replace(&mut self.looked, (now, wall_ms));
        if let Some(by_ms) = set_back(now.saturating_duration_since(before), wall_ms.saturating_sub(before_ms)) {
            tracing::warn!(by_ms, "the clock was set back; the waits of lanes follow it");
            self.outbox.move_waits(|time_ms| time_ms.saturating_sub(by_ms));
        }
    }

    /// Takes up a configuration that was published meanwhile; costs nothing if none was.
    fn follow(&mut self) {
        while self.chores.try_join_next().is_some() {}
        let Some(view) = (self.newer)(self.view.revision) else { return };
        let before = std::mem::replace(&mut self.view, view);
        let settings = &self.view.settings;
        if *settings != before.settings {
            self.schedule.resize(slots(settings));
            match GraphClient::new(settings) {
                Ok(client) => self.client = Arc::new(client),
                Err(error) => {
                    tracing::error!(%error, "the changed [delivery] cannot be used; delivery goes on as before")
                }
            }
        }
        for lane in self.parked.drain() {
            self.schedule.due(lane);
        }
        self.forget_gone();
        self.resume_mended();
    }

    /// Resumes the lanes that delivery paused for a token that is another one now.
    fn resume_mended(&mut self) {
        for status in self.outbox.lanes() {
            let pause = status.paused.filter(|pause| pause.by == PausedBy::Delivery);
            let refused = pause.and_then(|pause| Fingerprint::signed(&pause.reason));
            if refused.is_some_and(|refused| self.is_mended(&status.lane, refused)) {
                self.resume(status.lane);
            }
        }
    }

    fn is_mended(&self, lane: &LaneKey, refused: Fingerprint) -> bool {
        matches!(self.view.permit(lane), Permit::Send(_, token) if Fingerprint::of(Some(token)) != refused)
    }

    fn resume(&mut self, lane: LaneKey) {
        report::resumed(&lane);
        let outbox = self.outbox.clone();
        self.chores.spawn(async move {
            if let Err(error) = outbox.resume(&lane, PausedBy::Delivery).await {
                tracing::warn!(%lane, %error, "the lane sends again, but a restart would not know it");
            }
        });
    }

    /// Waits for the requests in flight; what else was begun goes back.
    async fn drain(&mut self) {
        for sender in self.senders.values_mut() {
            give_back(sender.begun.drain(..));
        }
        while let Some(ended) = self.turns.join_next().await {
            give_back(ended.ok().and_then(|ended| ended.job).into_iter());
        }
        while self.chores.join_next().await.is_some() {}
    }
}

/// Holds a lane, and tells it; `logged` is the reason as the log may have it.
async fn pause(outbox: &Outbox, lane: &LaneKey, reason: &str, logged: &str) {
    report::paused(lane, logged);
    if let Err(error) = outbox.pause(lane, reason, PausedBy::Delivery, now_ms()).await {
        tracing::warn!(%lane, %error, "the lane is paused, but a restart would not know it");
    }
}

fn give_back(jobs: impl Iterator<Item = Job>) {
    for job in jobs {
        job.give_back(now_ms());
    }
}

fn slots(settings: &DeliveryConfig) -> Slots {
    Slots { total: settings.requests_in_flight_max, per_lane: settings.requests_in_flight_per_lane_max }
}
