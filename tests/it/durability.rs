use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::util::client::page_view;
use crate::util::{Account, Gateway, Site, Standin, eventually};

const PIXEL: u64 = 1001;
const NAME: &str = "events.shoes.example";

/// Sends events one after the other until told to stop; returns the ids that were answered with success.
async fn send_until(browser: crate::util::Browser, prefix: String, stop: Arc<AtomicBool>) -> Vec<String> {
    let mut answered = Vec::new();
    for n in 0.. {
        if stop.load(Ordering::Relaxed) {
            break;
        }
        let id = format!("{prefix}-{n}");
        match browser.try_send(NAME, &page_view(PIXEL, &id)).await {
            Ok((200, _)) => answered.push(id),
            Ok(_) | Err(_) => break,
        }
    }
    answered
}

#[tokio::test(flavor = "multi_thread")]
async fn every_event_answered_with_success_arrives_though_the_gateway_is_killed_twenty_times() {
    let standin = Standin::start().await;
    let site = Site::new(&standin.url).account(Account::new("shoes", PIXEL).domain(NAME));
    let mut answered = Vec::new();
    for round in 0..20 {
        let mut gateway = Gateway::start(&site).await;
        let stop = Arc::new(AtomicBool::new(false));
        let senders: Vec<_> = (0..8)
            .map(|sender| tokio::spawn(send_until(gateway.browser(), format!("{round}-{sender}"), stop.clone())))
            .collect();
        // Killed in the middle of it: some events are in the log, some in a request, some on their way.
        let enough = 40 + round * 5;
        eventually("events are taken", async || {
            (gateway.metric("pixelgate_events_accepted_total", "shoes").await >= f64::from(enough)).then_some(())
        })
        .await;
        gateway.kill();
        stop.store(true, Ordering::Relaxed);
        for sender in senders {
            answered.extend(sender.await.unwrap());
        }
    }
    assert!(answered.len() >= 20 * 40, "only {} events were answered", answered.len());

    let _gateway = Gateway::start(&site).await;
    let missing = eventually("everything arrives", async || {
        let arrived = standin.events(PIXEL).await;
        answered.iter().all(|id| arrived.contains_key(id)).then_some(0)
    })
    .await;
    assert_eq!(missing, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_orderly_stop_leaves_nothing_behind_and_sends_nothing_twice() {
    let standin = Standin::start().await;
    let site = Site::new(&standin.url).account(Account::new("shoes", PIXEL).domain(NAME));
    let mut sent = Vec::new();
    for round in 0..3 {
        let mut gateway = Gateway::start(&site).await;
        let browser = gateway.browser();
        for n in 0..50 {
            let id = format!("{round}-{n}");
            assert_eq!(browser.send(NAME, &page_view(PIXEL, &id)).await.0, 200);
            sent.push(id);
        }
        assert!(gateway.stop().await.success());
    }
    let _gateway = Gateway::start(&site).await;
    let ids: Vec<&str> = sent.iter().map(String::as_str).collect();
    standin.took(PIXEL, &ids).await;
    let twice: Vec<_> = standin.events(PIXEL).await.into_iter().filter(|(_, count)| *count != 1).collect();
    assert!(twice.is_empty(), "{twice:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn events_wait_on_disk_while_the_graph_api_is_away() {
    let standin = Standin::start().await;
    standin.fault(serde_json::json!({ "pixel": PIXEL, "times": 3, "status": 503, "body": "<html>" })).await;
    let site = Site::new(&standin.url)
        .with("retry_min = \"50ms\"\nretry_max = \"200ms\"\n")
        .account(Account::new("shoes", PIXEL).domain(NAME));
    let mut gateway = Gateway::start(&site).await;
    for n in 0..20 {
        assert_eq!(gateway.browser().send(NAME, &page_view(PIXEL, &format!("e{n}"))).await.0, 200);
    }
    gateway.kill();
    let gateway = Gateway::start(&site).await;
    let ids: Vec<String> = (0..20).map(|n| format!("e{n}")).collect();
    standin.took(PIXEL, &ids.iter().map(String::as_str).collect::<Vec<_>>()).await;
    eventually("nothing waits any more", async || {
        (gateway.metric("pixelgate_lane_pending", "shoes").await == 0.0).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_gateway_on_the_same_folder_ends_with_a_clear_error() {
    let standin = Standin::start().await;
    let site = Site::new(&standin.url).account(Account::new("shoes", PIXEL).domain(NAME));
    let gateway = Gateway::start(&site).await;
    let second = gateway.command(&["run"]);
    let said = String::from_utf8_lossy(&second.stderr).into_owned();
    assert_eq!(second.status.code(), Some(1), "{said}");
    assert!(said.contains("another") && said.contains("outbox"), "{said}");
    assert_eq!(gateway.browser().send(NAME, &page_view(PIXEL, "still-here")).await.0, 200);
}
