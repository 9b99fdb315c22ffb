//! The whole service on a real outbox, with a configuration that a test can change.

use std::collections::HashMap;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bytes::Bytes;
use serde_json::json;
use tempfile::TempDir;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::graph::Graph;
use crate::account::{AccessToken, AccountId, LaneKey};
use crate::clock::now_ms;
use crate::config::{DeliveryConfig, PixelConfig};
use crate::delivery::view::{Pixels, View};
use crate::delivery::{Delivery, Observer};
use crate::outbox::{DeadLetter, LaneStatus, NewEvent, Options, Outbox};

/// What the service told, added up.
#[derive(Debug, Default, Clone)]
pub(super) struct Counts {
    pub(super) requests: HashMap<&'static str, u64>,
    pub(super) delivered: u64,
    pub(super) tested: u64,
    pub(super) uncounted: u64,
    pub(super) dead: HashMap<&'static str, u64>,
    pub(super) ambiguous: u64,
    pub(super) retried: u64,
}

#[derive(Default)]
pub(super) struct Counting(Mutex<Counts>);

/// The configuration as a test changes it.
#[derive(Clone)]
pub(super) struct Config {
    revision: u64,
    pub(super) settings: Arc<DeliveryConfig>,
    pub(super) pixels: HashMap<LaneKey, PixelConfig>,
}

/// A running service.
pub(super) struct Rig {
    pub(super) outbox: Outbox,
    config: Arc<Mutex<Config>>,
    in_force: watch::Sender<u64>,
    counting: Arc<Counting>,
    pub(super) shutdown: CancellationToken,
    pub(super) running: JoinHandle<()>,
    folder: TempDir,
}

pub(super) fn lane(pixel: &str) -> LaneKey {
    LaneKey { account: "shoes".parse().unwrap(), pixel: pixel.parse().unwrap() }
}

pub(super) fn settings(url: &str) -> DeliveryConfig {
    DeliveryConfig {
        graph_url: url.to_owned(),
        ca_file: None,
        api_version: "v26.0".to_owned(),
        batch_events_max: 1_000,
        batch_bytes_max: 1_000_000,
        age_max: Duration::from_secs(7 * 86_400),
        retry_min: Duration::from_millis(5),
        retry_max: Duration::from_millis(20),
        requests_in_flight_max: 64,
        requests_in_flight_per_lane_max: 1,
        timeout: Duration::from_secs(20),
    }
}

/// A pixel with a token, or without one.
pub(super) fn pixel(id: &str, token: Option<&str>) -> PixelConfig {
    PixelConfig {
        id: id.parse().unwrap(),
        access_token: token.map(AccessToken::new),
        access_token_source: "file /etc/pixelgate/secrets/shoes".to_owned(),
        active: true,
        test_event_code: None,
    }
}

pub(super) fn event(pixel: &str, id: &str) -> NewEvent {
    let time = now_ms() / 1_000;
    let body = json!({ "event_name": "PageView", "event_id": id, "event_time": time, "action_source": "website" });
    NewEvent {
        lane: lane(pixel),
        event_name: "PageView".to_owned(),
        event_id: id.to_owned(),
        event_time: time,
        envelope: "".into(),
        body: Bytes::from(body.to_string()),
    }
}

pub(super) fn ids(range: std::ops::Range<usize>) -> Vec<String> {
    range.map(|n| format!("e{n:04}")).collect()
}

/// Events of pixel 1.
pub(super) fn events(range: std::ops::Range<usize>) -> Vec<NewEvent> {
    ids(range).iter().map(|id| event("1", id)).collect()
}

pub(super) fn open(folder: &Path) -> Outbox {
    let options = Options {
        dir: folder.to_owned(),
        segment_bytes: 4 << 20,
        reserve_bytes: 0,
        account_backlog_bytes_max: u64::MAX,
        dead_letters_max: 100_000,
        dead_letter_bytes_max: u64::MAX,
        leases_per_lane_max: 1,
        on_sync: Box::new(|_| {}),
        on_lost: Box::new(|_, _, _| {}),
    };
    Outbox::open(options).unwrap().0
}

// === impl Rig ===

impl Rig {
    /// A service for one pixel, 1, with a token.
    pub(super) async fn start(graph: &Graph) -> Self {
        Self::start_with(settings(&graph.url), vec![pixel("1", Some("EAA1"))], Vec::new()).await
    }

    /// A service that finds `events` in its outbox when it starts.
    pub(super) async fn start_with(settings: DeliveryConfig, pixels: Vec<PixelConfig>, events: Vec<NewEvent>) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let outbox = open(folder.path());
        outbox.append(events, now_ms()).await.unwrap();
        Self::run(folder, outbox, settings, pixels)
    }

    fn run(folder: TempDir, outbox: Outbox, settings: DeliveryConfig, pixels: Vec<PixelConfig>) -> Self {
        let by_lane = pixels.into_iter().map(|pixel| (lane(&pixel.id.to_string()), pixel)).collect();
        let config = Config { revision: 1, settings: Arc::new(settings), pixels: by_lane };
        let view = config.view();
        let config = Arc::new(Mutex::new(config));
        let counting = Arc::new(Counting::default());
        let (in_force, followed) = watch::channel(1);
        let published = config.clone();
        let newer = move |known| Some(published.lock().unwrap().view()).filter(|view| view.revision != known);
        let following = (Box::new(newer) as _, followed);
        let delivery = Delivery::following(outbox.clone(), view, following, counting.clone()).unwrap();
        let shutdown = CancellationToken::new();
        let running = tokio::spawn(delivery.run(shutdown.clone()));
        Self { outbox, config, in_force, counting, shutdown, running, folder }
    }

    /// Stops the gateway and starts it again on the same folder.
    pub(super) async fn restart(self, settings: DeliveryConfig, pixels: Vec<PixelConfig>) -> Self {
        self.shutdown.cancel();
        self.running.await.unwrap();
        let (folder, outbox) = (self.folder, self.outbox);
        outbox.close();
        let outbox = open(folder.path());
        Self::run(folder, outbox, settings, pixels)
    }

    /// Publishes a changed configuration.
    pub(super) fn publish(&self, change: impl FnOnce(&mut Config)) {
        let mut config = self.config.lock().unwrap();
        change(&mut config);
        config.revision += 1;
        self.in_force.send_replace(config.revision);
    }

    /// Appends events to pixel 1, all of them in one group.
    pub(super) async fn append(&self, ids: &[String]) {
        let events = ids.iter().map(|id| event("1", id)).collect();
        self.outbox.append(events, now_ms()).await.unwrap();
    }

    pub(super) fn status(&self, pixel: &str) -> LaneStatus {
        self.outbox.lanes().into_iter().find(|status| status.lane == lane(pixel)).unwrap()
    }

    pub(super) fn counts(&self) -> Counts {
        self.counting.0.lock().unwrap().clone()
    }

    pub(super) fn dead(&self) -> Vec<DeadLetter> {
        self.outbox.dead_letters(None, 1_000)
    }

    /// Waits until it is so.
    pub(super) async fn until(&self, what: &str, wanted: impl Fn(&Self) -> bool) {
        let deadline = Instant::now() + Duration::from_secs(20);
        while !wanted(self) {
            assert!(Instant::now() < deadline, "{what}: {:?} {:?}", self.counts(), self.outbox.lanes());
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }

    /// Waits until nothing waits in any lane.
    pub(super) async fn until_empty(&self) {
        let is_empty = |rig: &Self| rig.outbox.lanes().iter().all(|lane| lane.pending + lane.in_flight == 0);
        self.until("all is settled", is_empty).await;
    }

    /// Waits until pixel 1 is paused, and gives the reason.
    pub(super) async fn until_paused(&self) -> String {
        self.until("it is paused", |rig| rig.status("1").paused.is_some() && rig.status("1").in_flight == 0).await;
        self.status("1").paused.unwrap().reason
    }
}

// === impl Config ===

impl Config {
    fn view(&self) -> View {
        View { revision: self.revision, settings: self.settings.clone(), pixels: Arc::new(self.pixels.clone()) }
    }
}

impl Pixels for HashMap<LaneKey, PixelConfig> {
    fn active(&self, lane: &LaneKey) -> Option<&PixelConfig> {
        self.get(lane)
    }

    fn has_account(&self, account: &AccountId) -> bool {
        self.keys().any(|lane| lane.account == *account)
    }
}

// === impl Counting ===

impl Observer for Counting {
    fn request(&self, outcome: &'static str) {
        *self.0.lock().unwrap().requests.entry(outcome).or_default() += 1;
    }

    fn delivered(&self, _: &LaneKey, events: u64, _: Duration) {
        self.0.lock().unwrap().delivered += events;
    }

    fn tested(&self, _: &LaneKey, events: u64, _: Duration) {
        self.0.lock().unwrap().tested += events;
    }

    fn uncounted(&self, _: &LaneKey, events: u64) {
        self.0.lock().unwrap().uncounted += events;
    }

    fn dead(&self, _: &LaneKey, reason: &'static str, events: u64) {
        *self.0.lock().unwrap().dead.entry(reason).or_default() += events;
    }

    fn ambiguous(&self, _: &LaneKey, events: u64) {
        self.0.lock().unwrap().ambiguous += events;
    }

    fn retried(&self, _: &LaneKey, events: u64) {
        self.0.lock().unwrap().retried += events;
    }
}
