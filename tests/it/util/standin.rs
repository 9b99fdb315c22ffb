//! The Graph stand-in as the tests use it.

use std::collections::BTreeMap;
use std::process::Command;

use serde_json::{Value, json};
use tempfile::TempDir;

use super::eventually;
use super::process::{Process, built};

/// A Graph API that a test can look into.
pub(crate) struct Standin {
    _process: Process,
    _dir: TempDir,
    pub(crate) url: String,
    client: reqwest::Client,
}

impl Standin {
    pub(crate) async fn start() -> Self {
        Self::start_with(&["--keep-body-bytes", "10000000"]).await
    }

    pub(crate) async fn start_with(arguments: &[&str]) -> Self {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let ready_file = dir.path().join("ready.json");
        let mut command = Command::new(built("graph-standin"));
        command.arg("--ready-file").arg(&ready_file).args(arguments);
        let process = Process::start(&mut command, &dir.path().join("log"));
        let ready: Value = eventually("the stand-in is ready", async || {
            serde_json::from_slice(&std::fs::read(&ready_file).ok()?).ok()
        })
        .await;
        let url = ready["url"].as_str().expect("a url").to_owned();
        Self {
            _process: process,
            _dir: dir,
            url,
            client: reqwest::Client::builder().no_proxy().build().expect("a client"),
        }
    }

    /// The URL of its control API.
    pub(crate) fn control(&self) -> String {
        format!("{}/_control", self.url)
    }

    pub(crate) async fn get(&self, what: &str) -> Value {
        let answer = self.client.get(format!("{}/{what}", self.control())).send().await.expect("the stand-in answers");
        serde_json::from_slice(&answer.bytes().await.expect("a body")).expect("JSON")
    }

    async fn post(&self, what: &str, body: Value) {
        let request = self.client.post(format!("{}/{what}", self.control())).body(body.to_string());
        let answer = request.send().await.expect("the stand-in answers");
        assert!(answer.status().is_success(), "{what}: {}", answer.text().await.unwrap_or_default());
    }

    /// Lets a fault happen: see `Fault` in tests/graph-standin/script.rs.
    pub(crate) async fn fault(&self, fault: Value) {
        self.post("faults", fault).await;
    }

    /// Requests with one of these events are refused with code 100 and subcode 2804050.
    pub(crate) async fn bad_events(&self, ids: &[&str]) {
        self.post("bad-events", json!({ "event_ids": ids, "code": 100, "subcode": 2_804_050, "named": false })).await;
    }

    /// The tokens that a pixel takes from now on.
    pub(crate) async fn tokens(&self, pixel: u64, tokens: &[&str]) {
        self.post("tokens", json!({ "pixel": pixel, "tokens": tokens })).await;
    }

    /// How often each event of a pixel was taken, by event id.
    pub(crate) async fn events(&self, pixel: u64) -> BTreeMap<String, u64> {
        let events = self.get(&format!("events?pixel={pixel}")).await;
        let count = |event: &Value| Some((event["event_id"].as_str()?.to_owned(), event["count"].as_u64()?));
        events["events"].as_array().into_iter().flatten().filter_map(count).collect()
    }

    /// Waits until all these events of a pixel were taken.
    pub(crate) async fn took(&self, pixel: u64, ids: &[&str]) {
        eventually(&format!("{ids:?} arrive at pixel {pixel}"), async || {
            let events = self.events(pixel).await;
            ids.iter().all(|id| events.contains_key(*id)).then_some(())
        })
        .await;
    }

    /// The events of all whole requests to a pixel, as they arrived.
    pub(crate) async fn bodies(&self, pixel: u64) -> Vec<Value> {
        let bodies = self.get(&format!("bodies?pixel={pixel}")).await;
        let requests = bodies["bodies"].as_array().cloned().unwrap_or_default();
        requests.iter().flat_map(|request| request["data"].as_array().cloned().unwrap_or_default()).collect()
    }

    /// Waits for one event and returns it as it arrived.
    pub(crate) async fn event(&self, pixel: u64, id: &str) -> Value {
        eventually(&format!("{id} arrives at pixel {pixel}"), async || {
            self.bodies(pixel).await.into_iter().find(|event| event["event_id"] == id)
        })
        .await
    }

    /// Requests to a pixel, as they arrived.
    pub(crate) async fn requests(&self, pixel: u64) -> Vec<Value> {
        let requests = self.get(&format!("requests?pixel={pixel}")).await;
        requests["requests"].as_array().cloned().unwrap_or_default()
    }

    /// Breaches of rules that Meta would not answer with an error, such as a token in a URL.
    pub(crate) async fn violations(&self) -> Value {
        self.get("summary").await["violations"].clone()
    }
}
