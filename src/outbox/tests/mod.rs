//! The outbox as a whole, on a disk that can be crashed.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic)]

mod disk;
mod failing;
mod forget;
mod letters;
mod model;
mod moving;
mod old_format;
mod queue;
mod requests;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::oneshot;

use super::keeper::Task;
use super::log::fault::FaultDisk;
use super::open::Base;
use super::*;

/// A moment in July 2026, Unix milliseconds.
const NOW_MS: i64 = 1_784_000_000_000;

/// A disk, and how an outbox on it is opened.
struct Rig {
    disk: FaultDisk,
    segment_bytes: u64,
    backlog_max: u64,
    letters_max: u64,
    leases_max: usize,
}

impl Rig {
    fn new() -> Self {
        Self { disk: FaultDisk::new(), segment_bytes: 2_048, backlog_max: 1 << 30, letters_max: 1 << 20, leases_max: 1 }
    }

    fn try_open(&self) -> Result<(Outbox, Recovered), OpenError> {
        self.open_with(self.options())
    }

    fn open_with(&self, options: Options) -> Result<(Outbox, Recovered), OpenError> {
        let base = Base {
            disk: Arc::new(self.disk.for_one_life()),
            state: ":memory:".into(),
            probe: Duration::from_millis(5),
            // Only when a test says so.
            tick: Duration::from_secs(3_600),
        };
        Outbox::open_on(base, options)
    }

    fn open(&self) -> Outbox {
        self.try_open().unwrap().0
    }

    fn options(&self) -> Options {
        Options {
            dir: PathBuf::from("/o"),
            segment_bytes: self.segment_bytes,
            reserve_bytes: 1 << 20,
            account_backlog_bytes_max: self.backlog_max,
            dead_letters_max: self.letters_max,
            dead_letter_bytes_max: 1 << 30,
            leases_per_lane_max: self.leases_max,
            on_sync: Box::new(|_| {}),
            on_lost: Box::new(|_, _, _| {}),
        }
    }

    /// Files of a kind in the log.
    fn files(&self, kind: &str) -> Vec<PathBuf> {
        let of_kind = |path: &PathBuf| path.starts_with("/o/log") && path.extension().is_some_and(|end| end == kind);
        self.disk.paths().into_iter().filter(of_kind).collect()
    }

    fn trouble(&self, trouble: model::Trouble, begin: bool) {
        match trouble {
            model::Trouble::Writes => self.disk.fail_writes(begin),
            model::Trouble::Syncs => self.disk.fail_syncs(begin),
            model::Trouble::DirSyncs => self.disk.fail_dir_syncs(begin),
            model::Trouble::Full => self.disk.fill(begin),
        }
    }

    fn quarantined(&self) -> usize {
        self.disk.paths().iter().filter(|path| path.starts_with("/o/quarantine")).count()
    }
}

impl Outbox {
    /// Does what the keeper does once a second.
    fn tick(&self) {
        let (reply, done) = oneshot::channel();
        self.inner.ask_keeper(Task::Tick { reply });
        done.blocking_recv().unwrap();
    }

    fn append_now(&self, events: Vec<NewEvent>) -> Result<(), AppendError> {
        wait(self.append(events, NOW_MS))
    }

    fn lease_all(&self, lane: &LaneKey) -> Option<Lease> {
        self.lease(lane, 1_000, u64::MAX, NOW_MS)
    }

    /// Events that wait in a lane, by id.
    fn pending(&self, lane: &LaneKey) -> Vec<String> {
        let mut ids = Vec::new();
        let mut leases = Vec::new();
        while let Some(lease) = self.lease_all(lane) {
            ids.extend(event_ids(&lease));
            leases.push(lease);
        }
        ids
    }

    fn status(&self, lane: &LaneKey) -> LaneStatus {
        self.lanes().into_iter().find(|status| status.lane == *lane).unwrap()
    }
}

impl Lease {
    /// All of them go back to the lane, and nothing of it is leased before a time.
    fn retry(self, not_before_ms: i64, sent: Sent) {
        let outbox = Outbox { inner: Arc::clone(&self.inner) };
        outbox.hold_off(&self.lane, not_before_ms, true);
        let settlements = vec![Settlement::Retry(sent); self.events.len()];
        self.settle(settlements, 0);
    }

    /// All of them go to the dead letters.
    fn bury(self, reason: &str, message: &str, now_ms: i64) {
        let settlement = Settlement::Bury { reason: reason.into(), message: message.into() };
        let settlements = vec![settlement; self.events.len()];
        self.settle(settlements, now_ms);
    }
}

/// What an outbox said that it lost.
type Losses = Arc<Mutex<Vec<(LaneKey, Lost, u64)>>>;

/// Notes what an outbox says that it lost.
fn losses() -> (Losses, OnLost) {
    let lost = Losses::default();
    let told = Arc::clone(&lost);
    (lost, Box::new(move |lane, why, events| told.lock().unwrap().push((lane.clone(), why, events))))
}

/// Runs a future to its end.
fn wait<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(future)
}

/// Asks again and again until it is so.
fn until(what: &str, mut so: impl FnMut() -> bool) {
    let begun = std::time::Instant::now();
    while !so() {
        assert!(begun.elapsed() < Duration::from_secs(20), "{what}");
        std::thread::yield_now();
    }
}

fn lane(account: &str, pixel: u64) -> LaneKey {
    LaneKey { account: account.parse().unwrap(), pixel: pixel.to_string().parse().unwrap() }
}

fn shoes() -> LaneKey {
    lane("shoes", 1)
}

fn event(lane: &LaneKey, id: &str) -> NewEvent {
    NewEvent {
        lane: lane.clone(),
        event_name: "Purchase".into(),
        event_id: id.into(),
        event_time: NOW_MS / 1000,
        envelope: "".into(),
        body: format!(r#"{{"event_name":"Purchase","event_id":"{id}"}}"#).into(),
    }
}

fn events(lane: &LaneKey, ids: impl IntoIterator<Item = usize>) -> Vec<NewEvent> {
    ids.into_iter().map(|id| event(lane, &format!("e{id}"))).collect()
}

fn event_ids(lease: &Lease) -> Vec<String> {
    lease.events().iter().map(|event| event.event_id.clone()).collect()
}
