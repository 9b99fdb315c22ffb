//! Half an hour of everything at once, and memory that is flat at its end.
//!
//! `make soak [MINUTES=30]`
//!
//! A gateway with 500 names, below one account each. All the time: events on new connections and on kept ones, names
//! asked for that nobody has, certificates renewed, accounts added, changed and removed, a reload after each change. Every
//! event must be answered 200 and delivered. It fails if the memory of the last quarter is more than that of the second
//! one by a tenth and 8 MiB.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic, dead_code, unused_imports)]

#[path = "../tests/it/util/mod.rs"]
mod util;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use util::client::page_view;
use util::{Account, Browser, Gateway, Site, Standin, eventually};

const ACCOUNTS: u64 = 500;
const CLIENTS: u64 = 8;
/// Events that a client sends on one connection before it opens another.
const KEPT: u64 = 20;
const SAMPLE_EVERY: Duration = Duration::from_secs(5);

fn name_of(account: u64) -> String {
    format!("events.shop{account}.example")
}

fn account(number: u64) -> Account {
    Account::new(&format!("shop{number}"), 10_000 + number).domain(&name_of(number))
}

fn main() {
    let given: Vec<String> = std::env::args().collect();
    let minutes = given.iter().position(|argument| argument == "--minutes").and_then(|at| given.get(at + 1));
    let minutes: f64 = minutes.map_or(30.0, |text| text.parse().expect("minutes"));
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime");
    runtime.block_on(soak(Duration::from_secs_f64(minutes * 60.0)));
}

async fn soak(time: Duration) {
    let standin = Standin::start_with(&["--fast"]).await;
    let mut site = Site::new(&standin.url)
        .with("[limits]\nhandshakes_per_second = 1_000_000\nhandshakes_per_second_per_ip = 1_000_000\n");
    for number in 0..ACCOUNTS {
        site = site.account(account(number));
    }
    let gateway = Gateway::start(&site).await;
    let over = Arc::new(AtomicBool::new(false));
    let answered = Arc::new(AtomicU64::new(0));
    let clients: Vec<_> = (0..CLIENTS)
        .map(|client| {
            tokio::spawn(traffic(
                client,
                gateway.https(),
                site.authority.pem().to_owned(),
                over.clone(),
                answered.clone(),
            ))
        })
        .collect();

    let begun = Instant::now();
    let (mut samples, mut next_sample, mut changes) = (Vec::new(), begun, 0);
    while begun.elapsed() < time {
        change(&site, changes);
        let reload = gateway.command(&["reload"]);
        assert!(reload.status.success(), "{reload:?}");
        changes += 1;
        if next_sample <= Instant::now() {
            next_sample += SAMPLE_EVERY;
            samples.push(resident_mib(gateway.ready.pid));
            println!(
                "{:>6.0} s {:>9} events {changes:>7} changes {:>8.1} MiB",
                begun.elapsed().as_secs_f64(),
                answered.load(Ordering::Relaxed),
                samples[samples.len() - 1]
            );
        }
    }
    over.store(true, Ordering::Relaxed);
    for client in clients {
        client.await.expect("a client");
    }
    eventually("all is delivered", async || (gateway.metric("pixelgate_lane_pending", "").await == 0.0).then_some(()))
        .await;
    judge(&samples);
}

/// What an operator and a CA do to a running gateway; each account and certificate in its turn.
fn change(site: &Site, turn: u64) {
    match turn % 4 {
        0 => site.write_account(&account(ACCOUNTS + turn % 50)),
        1 => site.authority.issue(&site.path("certs"), &name_of(turn % ACCOUNTS), 90),
        2 => site.write_account(&account(turn % ACCOUNTS).top(&format!("# {turn}"))),
        _ => {
            let number = ACCOUNTS + (turn - 3) % 50;
            std::fs::remove_file(site.path(&format!("accounts/shop{number}.toml"))).expect("it was added");
            std::fs::remove_dir_all(site.path(&format!("certs/{}", name_of(number)))).expect("it was added");
        }
    }
}

async fn traffic(
    client: u64,
    gateway: std::net::SocketAddr,
    ca: String,
    over: Arc<AtomicBool>,
    answered: Arc<AtomicU64>,
) {
    let mut sent = 0;
    while !over.load(Ordering::Relaxed) {
        let browser = Browser::new(gateway, &ca);
        let number = (client + sent * CLIENTS) % ACCOUNTS;
        for _ in 0..KEPT {
            let event = page_view(10_000 + number, &format!("soak-{client}-{sent}"));
            let (status, body) = browser.send(&name_of(number), &event).await;
            assert_eq!(status, 200, "{body}");
            answered.fetch_add(1, Ordering::Relaxed);
            sent += 1;
        }
        assert!(browser.try_send("events.nobody.example", &page_view(1, "x")).await.is_err());
    }
}

fn judge(samples: &[f64]) {
    let quarter = samples.len() / 4;
    assert!(quarter > 0, "too short to judge");
    let mean = |part: &[f64]| part.iter().sum::<f64>() / part.len() as f64;
    let (early, late) = (mean(&samples[quarter..2 * quarter]), mean(&samples[samples.len() - quarter..]));
    println!("resident: second quarter {early:.1} MiB, last quarter {late:.1} MiB");
    assert!(late <= early * 1.1 + 8.0, "memory grows");
}

fn resident_mib(pid: u32) -> f64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("the gateway runs");
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).expect("VmRSS");
    line.split_whitespace().nth(1).and_then(|kib| kib.parse::<f64>().ok()).expect("KiB") / 1024.0
}
