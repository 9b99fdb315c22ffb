//! Refusals that do not say whether the events or the pixel is at fault, and too many that do.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::sync::Semaphore;

use super::graph::{Behaviour, Graph, Seen};
use super::rig::{Rig, events, ids, lane, pixel, settings};
use super::service::{REFUSED, refuse_with};
use crate::clock::now_ms;
use crate::config::DeliveryConfig;
use crate::outbox::PausedBy;

#[tokio::test]
async fn an_unclear_refusal_of_everything_pauses_and_buries_nothing() {
    let graph = Graph::start(|_| Behaviour::error(400, 100, None)).await;
    let backlog = events(0..40);
    let rig = Rig::start_with(settings(&graph.url), vec![pixel("1", Some("EAA1"))], backlog).await;
    let reason = rig.until_paused().await;
    assert!(reason.contains("code 100"), "{reason}");
    assert_eq!((graph.seen().len(), rig.dead().len(), rig.status("1").pending), (3, 0, 40));
}

#[tokio::test]
async fn an_unclear_refusal_of_some_buries_them() {
    let bad = vec!["e0003".to_owned(), "e0030".to_owned()];
    let graph = Graph::start(refuse_with(bad.clone(), None)).await;
    let backlog = events(0..40);
    let settings = DeliveryConfig { batch_events_max: 1, ..settings(&graph.url) };
    let rig = Rig::start_with(settings, vec![pixel("1", Some("EAA1"))], backlog).await;
    rig.until("they are buried", |rig| rig.dead().len() == 2).await;
    rig.until_empty().await;
    assert_eq!(rig.counts().delivered, 38);
}

#[tokio::test]
async fn a_person_who_resumes_after_a_restart_is_believed_too() {
    let graph = Graph::start(|_| Behaviour::error(400, 100, None)).await;
    let pixels = || vec![pixel("1", Some("EAA1"))];
    let rig = Rig::start_with(settings(&graph.url), pixels(), events(0..3)).await;
    rig.until_paused().await;
    let rig = rig.restart(settings(&graph.url), pixels()).await;
    rig.outbox.resume(&lane("1"), PausedBy::Operator).await.unwrap();
    rig.until("they are buried", |rig| rig.dead().len() == 3).await;
    assert_eq!(rig.status("1").paused, None);
}

#[tokio::test]
async fn a_person_who_paused_before_they_were_asked_is_asked_once_they_resume() {
    let answer = Arc::new(Semaphore::new(0));
    let graph = Graph::start_slow(answer.clone(), |_| Behaviour::error(400, 100, None)).await;
    let rig = Rig::start_with(settings(&graph.url), vec![pixel("1", Some("EAA1"))], events(0..1)).await;
    graph.until("it is in flight", |seen| seen.len() == 1).await;
    rig.outbox.pause(&lane("1"), "by hand", PausedBy::Operator, now_ms()).await.unwrap();
    answer.add_permits(10);
    assert_eq!(rig.until_paused().await, "by hand");
    rig.outbox.resume(&lane("1"), PausedBy::Operator).await.unwrap();
    let reason = rig.until_paused().await;
    assert!(reason.contains("code 100"), "{reason}");
    assert_eq!((graph.seen().len(), rig.dead().len(), rig.status("1").pending), (2, 0, 1));
}

/// Takes events until one of these is there, and refuses every request from then on, without a clear reason.
fn breaks_at(first_bad: &'static str) -> impl Fn(&Seen) -> Behaviour {
    let broken = AtomicBool::new(false);
    move |seen| match broken.fetch_or(seen.has(first_bad), Ordering::Relaxed) || seen.has(first_bad) {
        true => Behaviour::error(400, 100, None),
        false => Behaviour::Take,
    }
}

#[tokio::test]
async fn a_pixel_that_breaks_while_it_is_quiet_pauses_at_the_second_event_and_buries_none() {
    let graph = Graph::start(breaks_at("e0001")).await;
    let rig = Rig::start(&graph).await;
    rig.append(&ids(0..1)).await;
    rig.until_empty().await;
    rig.append(&ids(1..2)).await;
    graph.until("it is tried again", |seen| seen.len() >= 4).await;
    assert_eq!((rig.status("1").paused, rig.dead().len()), (None, 0), "one event alone proves nothing");
    rig.append(&ids(2..3)).await;
    let reason = rig.until_paused().await;
    assert!(reason.contains("code 100"), "{reason}");
    assert_eq!((rig.dead().len(), rig.status("1").pending, rig.counts().delivered), (0, 2, 1));
}

#[tokio::test]
async fn a_pixel_that_breaks_while_it_is_busy_pauses_and_buries_none() {
    let graph = Graph::start(breaks_at("e0001")).await;
    let rig = Rig::start(&graph).await;
    rig.append(&ids(0..1)).await;
    rig.until_empty().await;
    rig.append(&ids(1..301)).await;
    rig.until_paused().await;
    assert_eq!((rig.dead().len(), rig.status("1").pending), (0, 300));
    assert_eq!(graph.seen().len(), 1 + 63, "the whole, and its parts down to 32nds");
}

#[tokio::test]
async fn bad_events_in_both_halves_pause_no_pixel_that_worked_lately() {
    let bad: Vec<_> = [1, 60, 120, 290].map(|n| format!("e{n:04}")).into();
    let graph = Graph::start(refuse_with(bad, None)).await;
    let rig = Rig::start(&graph).await;
    rig.append(&ids(0..1)).await;
    rig.until_empty().await;
    rig.append(&ids(1..301)).await;
    rig.until("they are buried", |rig| rig.dead().len() == 4).await;
    rig.until_empty().await;
    assert_eq!((rig.counts().delivered, rig.status("1").paused), (297, None));
}

#[tokio::test]
async fn a_broken_mapping_pauses_before_everything_is_buried() {
    let graph = Graph::start(|_| Behaviour::error(400, 100, REFUSED)).await;
    let backlog = events(0..300);
    let rig = Rig::start_with(settings(&graph.url), vec![pixel("1", Some("EAA1"))], backlog).await;
    let reason = rig.until_paused().await;
    assert!(reason.contains("dead-letters"), "{reason}");
    rig.until("they are on disk", |rig| rig.dead().len() == 40).await;
    assert_eq!(rig.status("1").pending, 260);
    assert!(graph.seen().iter().skip(100).all(|seen| seen.ids().len() <= 50));
}
