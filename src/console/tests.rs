//! What the operator's requests cost those who serve visitors.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::path::Path;
use std::sync::Mutex;
use std::thread::ThreadId;

use axum::body::Body;
use axum::http::Request;
use hyper::service::Service;

use super::*;
use crate::account::ServerName;
use crate::config::{LastGood, Source};
use crate::filter::{self, FilterHost};
use crate::outbox;

/// Notes on which threads it is asked.
#[derive(Default)]
struct Desk(Mutex<Vec<ThreadId>>);

impl CertificateDesk for Desk {
    fn list(&self) -> Vec<CertificateView> {
        Vec::new()
    }

    fn find(&self, _: &ServerName) -> Option<CertificateView> {
        None
    }

    fn caa_identities(&self) -> Vec<String> {
        Vec::new()
    }

    fn ca_accounts(&self) -> Vec<CaAccountStatus> {
        self.0.lock().unwrap().push(std::thread::current().id());
        Vec::new()
    }

    fn waiting_for_visitors(&self) -> usize {
        0
    }

    fn resolver_is_silent(&self) -> bool {
        false
    }

    fn issue(&self, _: &ServerName) -> Result<Ordered, DeskError> {
        Err(DeskError::Disabled)
    }
}

struct Nobody;

impl filter::Observer for Nobody {}

fn console(dir: &Path, desk: Arc<Desk>) -> Console {
    std::fs::create_dir(dir.join("accounts")).unwrap();
    std::fs::write(dir.join("pixelgate.toml"), "[host]\ndomain = \"gw.agency.example\"\ndata_dir = \"data\"\n")
        .unwrap();
    let filters = Arc::new(FilterHost::start(filter::testing::options(dir), Arc::new(Nobody)).unwrap());
    let (metrics, last_good) = (Arc::new(Metrics::new().unwrap()), LastGood::open(&dir.join("data")));
    let mut source = Source::new(dir);
    let reading = source.read();
    let reloader = Reloader::start(source, reading, last_good, filters, metrics.clone(), 0);
    let (outbox, _) = Outbox::open(outbox::Options {
        dir: dir.join("outbox"),
        segment_bytes: 1 << 20,
        reserve_bytes: 0,
        account_backlog_bytes_max: 1 << 30,
        dead_letters_max: 9,
        dead_letter_bytes_max: 1 << 20,
        leases_per_lane_max: 1,
        on_sync: Box::new(|_| {}),
        on_lost: Box::new(|_, _, _| {}),
    })
    .unwrap();
    Console {
        config_dir: dir.to_owned(),
        reloader: Arc::new(reloader.unwrap_or_else(|unusable| panic!("{unusable:?}"))),
        reload: Arc::new(|| Report::alone(Vec::new())),
        ingest: Arc::new(Ingest::new(outbox.clone(), metrics.clone())),
        outbox,
        metrics,
        readiness: Readiness::new(tokio::sync::watch::channel(Phase::Serving).1),
        further_problems: Arc::new(Vec::new),
        started: Instant::now(),
        desk,
        https: Vec::new(),
        http: Vec::new(),
    }
}

#[tokio::test]
async fn what_looks_at_all_names_runs_where_nobody_is_served() {
    let dir = tempfile::tempdir().unwrap();
    let desk = Arc::new(Desk::default());
    let console = console(dir.path(), desk.clone());
    let ops = TowerToHyperService::new(ops::routes(console.clone()));
    let control = TowerToHyperService::new(control::routes(console));
    for (routes, path) in [(&ops, "/status"), (&ops, "/metrics"), (&control, "/status")] {
        let answer = routes.call(Request::get(path).body(Body::empty()).unwrap()).await.unwrap();
        assert!(answer.status().is_success(), "{path}: {}", answer.status());
        let asked = std::mem::take(&mut *desk.0.lock().unwrap());
        // All that serves is on this thread.
        assert!(!asked.is_empty() && !asked.contains(&std::thread::current().id()), "{path}");
    }
}
