//! The filter host driven as the gateway drives it, with a guest written by hand (`guest.wat`).

#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic)]

mod faults;
mod load;
mod sharing;

use std::sync::Mutex;
use std::time::Instant;

use super::testing::{GUEST, PATIENCE, component, guest_with};
use super::*;
use crate::account::AccountId;

/// A deadline for tests with many endless loops, or that wait for their end.
const SHORT: Duration = Duration::from_millis(20);

struct Fixture {
    dir: tempfile::TempDir,
    host: FilterHost,
    seen: Arc<Seen>,
}

/// What the observer heard.
#[derive(Default)]
struct Seen {
    calls: Mutex<Vec<CallEnd>>,
    faults: Mutex<Vec<FaultKind>>,
}

impl Observer for Seen {
    fn on_call(&self, _: &AccountId, _: &str, end: CallEnd, _: Duration) {
        self.calls.lock().unwrap().push(end);
    }

    fn on_fault(&self, _: &AccountId, _: &str, kind: FaultKind) {
        self.faults.lock().unwrap().push(kind);
    }
}

impl Fixture {
    fn new() -> Self {
        Self::with(|_| {})
    }

    fn with(change: impl FnOnce(&mut Options)) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mut options = testing::options(dir.path());
        change(&mut options);
        let seen = Arc::new(Seen::default());
        Self { host: FilterHost::start(options, seen.clone()).unwrap(), dir, seen }
    }

    /// A chain of one filter.
    fn chain(&self, account: &str, on_fault: OnFault) -> Chain {
        self.compile(account, vec![stage("first", "\"\"", on_fault)]).unwrap()
    }

    fn compile(&self, account: &str, stages: Vec<Stage>) -> Result<Chain, Vec<StageError>> {
        self.host.compile(&account.parse().unwrap(), stages)
    }
}

fn guest() -> Arc<[u8]> {
    component(GUEST).into()
}

fn stage(name: &str, settings: &str, on_fault: OnFault) -> Stage {
    Stage { name: name.to_owned(), program: Program::Component(guest()), settings: settings.to_owned(), on_fault }
}

/// An event whose name tells the guest what to do.
fn event(name: &str) -> Event {
    Event {
        name: name.to_owned(),
        id: "e-1".to_owned(),
        time: 1_700_000_000,
        action_source: "website".to_owned(),
        source_url: Some("https://shop.example/".to_owned()),
        referrer_url: None,
        user_data: crate::event::UserData::default(),
        custom_data: serde_json::from_str(r#"{"value": 12.5, "contents": [{"id": "a"}], "order": 9007199254740993}"#)
            .unwrap(),
        data_processing: None,
        opt_out: None,
        app_data: serde_json::Map::new(),
        extra: serde_json::Map::new(),
        beside: Vec::new(),
    }
}

fn context() -> Arc<Context> {
    Arc::new(Context {
        account: "shop".parse().unwrap(),
        pixel: "1234567890".parse().unwrap(),
        host: "events.shop.example".to_owned(),
        signals: vec![("consent".to_owned(), crate::event::Scalar::Text("all".to_owned()))],
        sources: Vec::new(),
    })
}

/// Sends events of these names through a chain, one request for all.
fn run(chain: &Chain, names: &[&str]) -> Vec<Filtered> {
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(chain.run(context(), names.iter().map(|name| event(name)).collect()))
}

fn run_one(chain: &Chain, name: &str) -> Filtered {
    run(chain, &[name]).remove(0)
}

/// The kind in the reason of a held event, and its message.
fn held(filtered: Filtered) -> (String, String) {
    match filtered {
        Filtered::Hold { reason, message, .. } => {
            (reason.strip_prefix("filter:first: ").unwrap_or_else(|| panic!("{reason}")).to_owned(), message)
        }
        other => panic!("{other:?}"),
    }
}

fn dropped(filtered: Filtered) -> String {
    match filtered {
        Filtered::Drop { reason, .. } => reason,
        other => panic!("{other:?}"),
    }
}
