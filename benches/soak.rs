//! Half an hour of everything at once, and a process that is flat at its end.
//!
//! `make soak [MINUTES=30]`
//!
//! A gateway with 500 names, below one account each. First every name is visited, every certificate replaced, and every name
//! visited again, so that all is there that is kept for a name. Then all the time: events on new connections and on kept
//! ones, of every name in its turn; names asked for that nobody has; certificates renewed and accounts changed, each in its
//! turn; accounts added that were never there before, sent one event, and removed; a reload after each change. Every event
//! must be answered 200 and delivered once.
//!
//! It fails if the last quarter has more than the time from a third to a half of the run: of memory a twentieth and 4 MiB, of
//! threads or open files a twentieth and a few.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic, dead_code, unused_imports)]

mod measure;
#[path = "../tests/it/util/mod.rs"]
mod util;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use measure::resident;
use util::client::page_view;
use util::{Account, Browser, Gateway, Site, Standin, eventually};

const ACCOUNTS: u64 = 500;
const CLIENTS: u64 = 8;
/// Events that a client sends on one connection before it opens another.
const KEPT: u64 = 20;
const SAMPLE_EVERY: Duration = Duration::from_secs(5);
/// What a process may have more of at the end: this part of what it had, and so much of each.
const MORE_MAX: f64 = 0.05;
const MORE: [(&str, f64); 3] = [("MiB resident", 4.0), ("threads", 2.0), ("open files", 8.0)];

/// What the gateway's process has at one time: resident memory in MiB, threads, open files.
type Sample = [f64; MORE.len()];

/// The gateway under test, and what is around it.
struct Soak {
    standin: Standin,
    site: Site,
    gateway: Gateway,
    answered: Arc<AtomicU64>,
}

fn name_of(account: u64) -> String {
    format!("events.shop{account}.example")
}

fn pixel_of(account: u64) -> u64 {
    10_000 + account
}

fn account(number: u64) -> Account {
    Account::new(&format!("shop{number}"), pixel_of(number)).domain(&name_of(number))
}

fn main() {
    let given: Vec<String> = std::env::args().collect();
    let minutes = given.iter().position(|argument| argument == "--minutes").and_then(|at| given.get(at + 1));
    let minutes: f64 = minutes.map_or(30.0, |text| text.parse().expect("minutes"));
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime");
    runtime.block_on(soak(Duration::from_secs_f64(minutes * 60.0)));
}

async fn soak(time: Duration) {
    let soak = Soak::start().await;
    soak.visit_all("first").await;
    (0..ACCOUNTS).for_each(|number| soak.renew(number));
    soak.reload();
    soak.visit_all("renewed").await;

    let over = Arc::new(AtomicBool::new(false));
    let clients: Vec<_> = (0..CLIENTS)
        .map(|client| {
            let (gateway, ca) = (soak.gateway.https(), soak.site.authority.pem().to_owned());
            tokio::spawn(traffic(client, gateway, ca, over.clone(), soak.answered.clone()))
        })
        .collect();
    let begun = Instant::now();
    let (mut samples, mut next_sample, mut changes) = (Vec::new(), begun, 0);
    while begun.elapsed() < time {
        soak.change(changes).await;
        changes += 1;
        if next_sample <= Instant::now() {
            next_sample += SAMPLE_EVERY;
            let sample = soak.sample();
            let [mib, threads, files] = sample;
            let answered = soak.answered.load(Ordering::Relaxed);
            println!(
                "{:>6.0} s {answered:>9} events {changes:>7} changes {mib:>8.1} MiB {threads:>4} threads {files:>5} files",
                begun.elapsed().as_secs_f64()
            );
            samples.push(sample);
        }
    }
    over.store(true, Ordering::Relaxed);
    for client in clients {
        client.await.expect("a client");
    }
    soak.all_is_delivered().await;
    judge(&samples);
}

// === impl Soak ===

impl Soak {
    async fn start() -> Self {
        let standin = Standin::start_with(&["--fast", "--events-max", "100000000"]).await;
        let mut site = Site::new(&standin.url)
            .with("[limits]\nhandshakes_per_second = 1_000_000\nhandshakes_per_second_per_ip = 1_000_000\n");
        for number in 0..ACCOUNTS {
            site = site.account(account(number));
        }
        let gateway = Gateway::start(&site).await;
        Self { standin, site, gateway, answered: Arc::default() }
    }

    /// One event of an account on a connection of its own.
    async fn visit(&self, number: u64, id: &str) {
        let (status, body) = self.gateway.browser().send(&name_of(number), &page_view(pixel_of(number), id)).await;
        assert_eq!(status, 200, "{body}");
        self.answered.fetch_add(1, Ordering::Relaxed);
    }

    async fn visit_all(&self, id: &str) {
        for number in 0..ACCOUNTS {
            self.visit(number, id).await;
        }
    }

    fn renew(&self, number: u64) {
        self.site.authority.issue(&self.site.path("certs"), &name_of(number), 90);
    }

    fn reload(&self) {
        let reload = self.gateway.command(&["reload"]);
        assert!(reload.status.success(), "{reload:?}");
    }

    /// What an operator and a CA do to a running gateway. Of four changes one is of each kind: an account and a certificate
    /// in their turn, and a new account, which is gone before the next one comes.
    async fn change(&self, changes: u64) {
        let turn = changes / 4;
        let (number, new) = (turn % ACCOUNTS, ACCOUNTS + turn);
        match changes % 4 {
            0 => self.site.write_account(&account(new)),
            1 => self.renew(number),
            2 => self.site.write_account(&account(number).top(&format!("# {turn}"))),
            _ => {
                // What waits for an account that is gone would wait for ever.
                self.standin.took(pixel_of(new), &["only"]).await;
                let (file, certificate) = (format!("accounts/shop{new}.toml"), format!("certs/{}", name_of(new)));
                std::fs::remove_file(self.site.path(&file)).expect("it was added");
                std::fs::remove_dir_all(self.site.path(&certificate)).expect("it was added");
            }
        }
        self.reload();
        if changes.is_multiple_of(4) {
            self.visit(new, "only").await;
        }
    }

    fn sample(&self) -> Sample {
        let process = self.gateway.ready.pid;
        let entries = |of: &str| std::fs::read_dir(format!("/proc/{process}/{of}")).expect("the gateway runs").count();
        [resident(process) as f64 / f64::from(1 << 20), entries("task") as f64, entries("fd") as f64]
    }

    /// Waits until each event that was answered was delivered, and sees that it was so once, and that nothing else became of
    /// any.
    async fn all_is_delivered(&self) {
        let answered = self.answered.load(Ordering::Relaxed);
        let counted = async |metric: &str| self.gateway.metric(metric, "").await as u64;
        let delivered = async || counted("pixelgate_events_delivered_total").await;
        eventually("all is delivered", async || (delivered().await >= answered).then_some(())).await;
        assert_eq!(delivered().await, answered, "delivered, of those that were answered");
        let summary = self.standin.get("summary").await;
        assert_eq!((summary["events"].as_u64(), summary["repeated"].as_u64()), (Some(answered), Some(0)), "at Meta");
        for lost in ["dropped", "held", "dead", "uncounted", "ambiguous", "rejected"] {
            assert_eq!(counted(&format!("pixelgate_events_{lost}_total")).await, 0, "{lost}");
        }
        for left in ["pixelgate_lane_pending", "pixelgate_lane_in_flight", "pixelgate_lane_paused"] {
            assert_eq!(counted(left).await, 0, "{left}");
        }
    }
}

/// Events of one name after another, and a name that nobody has in between, until it is over.
async fn traffic(client: u64, gateway: SocketAddr, ca: String, over: Arc<AtomicBool>, answered: Arc<AtomicU64>) {
    let (mut visits, mut sent) = (client * ACCOUNTS / CLIENTS, 0);
    while !over.load(Ordering::Relaxed) {
        let browser = Browser::new(gateway, &ca);
        let number = visits % ACCOUNTS;
        visits += 1;
        for _ in 0..KEPT {
            let event = page_view(pixel_of(number), &format!("soak-{client}-{sent}"));
            let (status, body) = browser.send(&name_of(number), &event).await;
            assert_eq!(status, 200, "{body}");
            answered.fetch_add(1, Ordering::Relaxed);
            sent += 1;
        }
        assert!(browser.try_send("events.nobody.example", &page_view(1, "x")).await.is_err());
    }
}

/// Compares the last quarter with what follows a third of the time, up to its half.
fn judge(samples: &[Sample]) {
    let count = samples.len();
    assert!(count >= 12, "too short to judge");
    let (early, late) = (&samples[count / 3..count / 2], &samples[count - count / 4..]);
    let mut grown = Vec::new();
    for (at, (what, more)) in MORE.into_iter().enumerate() {
        let mean = |part: &[Sample]| part.iter().map(|sample| sample[at]).sum::<f64>() / part.len() as f64;
        let (early, late) = (mean(early), mean(late));
        println!("{what}: {early:.1} before the half, {late:.1} in the last quarter");
        if late > early * (1.0 + MORE_MAX) + more {
            grown.push(what);
        }
    }
    assert!(grown.is_empty(), "more at the end: {grown:?}");
}
