//! What a configuration that was published holds for: the next event.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::graph::{Behaviour, Graph};
use super::rig::{Counting, Rig, event, events, ids, lane, open, pixel, settings};
use crate::account::AccessToken;
use crate::clock::{Steady, now_ms};
use crate::config::PixelConfig;
use crate::delivery::graph::GraphClient;
use crate::delivery::turn::Turn;
use crate::outbox::PausedBy;
use crate::threads::Threads;

#[tokio::test]
async fn what_was_published_holds_for_the_next_event() {
    let graph = Graph::start(|_| Behaviour::Take).await;
    let rig = Rig::start(&graph).await;
    let token = |n: usize| format!("EAA{n}");
    for n in 0..20 {
        let code = PixelConfig { test_event_code: Some(token(n)), ..pixel("1", Some(&token(n))) };
        rig.publish(|view| drop(view.pixels.insert(lane("1"), code)));
        rig.append(&[token(n)]).await;
        let seen = graph.until("the event", |seen| seen.len() == n + 1).await;
        let last = seen.last().unwrap();
        assert_eq!(last.headers["authorization"].to_str().unwrap(), format!("Bearer {}", token(n)));
        assert_eq!(last.body["test_event_code"], token(n));
    }
    rig.until_empty().await;
    rig.publish(|view| drop(view.pixels.insert(lane("7"), pixel("7", Some("EAA7")))));
    let begun = Instant::now();
    rig.outbox.append(vec![event("7", "a")], now_ms()).await.unwrap();
    graph.until("the new pixel's", |seen| seen.last().is_some_and(|seen| seen.pixel() == "7")).await;
    assert!(begun.elapsed() < Duration::from_millis(500), "no timer finds new pixels");
}

#[tokio::test]
async fn a_pixel_that_was_switched_off_sends_nothing_when_it_is_resumed() {
    let graph = Graph::start(|_| Behaviour::Take).await;
    let pixels = vec![pixel("1", Some("EAA1")), pixel("2", Some("EAA2"))];
    let rig = Rig::start_with(settings(&graph.url), pixels, Vec::new()).await;
    rig.outbox.pause(&lane("1"), "by hand", PausedBy::Operator, now_ms()).await.unwrap();
    rig.append(&ids(0..2)).await;
    rig.publish(|view| drop(view.pixels.remove(&lane("1"))));
    rig.outbox.resume(&lane("1"), PausedBy::Operator).await.unwrap();
    rig.outbox.append(vec![event("2", "x")], now_ms()).await.unwrap();
    graph.until("the other's", |seen| !seen.is_empty()).await;
    assert_eq!((graph.seen().len(), graph.seen()[0].pixel(), rig.status("1").pending), (1, "2", 2));
}

#[tokio::test]
async fn a_turn_sends_nothing_once_another_configuration_is_in_force() {
    let graph = Graph::start(|_| Behaviour::Take).await;
    let folder = tempfile::tempdir().unwrap();
    let outbox = open(folder.path());
    outbox.append(events(0..3), now_ms()).await.unwrap();
    let settings = settings(&graph.url);
    let (_published, in_force) = watch::channel(2);
    let turn = |revision| Turn {
        key: lane("1"),
        lane: Arc::default(),
        pixel: pixel("1", Some("EAA1")),
        token: AccessToken::new("EAA1"),
        revision,
        in_force: in_force.clone(),
        stop: CancellationToken::new(),
        settings: Arc::new(settings.clone()),
        outbox: outbox.clone(),
        disk: Threads::begin("delivery", 1).unwrap(),
        client: Arc::new(GraphClient::new(&settings).unwrap()),
        observer: Arc::new(Counting::default()),
        clock: Steady::start(),
    };
    turn(1).take(None).await;
    assert_eq!((graph.seen().len(), outbox.lanes()[0].pending), (0, 3));
    turn(2).take(None).await;
    assert_eq!((graph.seen().len(), outbox.lanes()[0].pending), (1, 0));
}

#[tokio::test]
async fn an_account_that_is_gone_is_forgotten_once_nothing_of_it_is_left() {
    let graph = Graph::start(|_| Behaviour::Take).await;
    let rig = Rig::start(&graph).await;
    rig.append(&ids(0..2)).await;
    rig.until_empty().await;
    rig.publish(|view| view.pixels.clear());
    // A lease ends a moment after its events are settled, and who is not forgotten now is with the next configuration.
    rig.until("nothing is known of it", |rig| {
        rig.publish(|_| {});
        rig.outbox.lanes().is_empty()
    })
    .await;
    // A request that came before the account went, and was answered after.
    rig.append(&ids(2..4)).await;
    rig.publish(|_| {});
    rig.publish(|view| drop(view.pixels.insert(lane("1"), pixel("1", Some("EAA1")))));
    graph.until("what came meanwhile is sent", |seen| seen.len() == 2).await;
    rig.until_empty().await;
    assert_eq!(rig.status("1").counts.delivered, 2, "it came back as new");
    assert_eq!(rig.counts().delivered, 4);
}
