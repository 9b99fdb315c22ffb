//! Requests that Meta fails on, or does not answer in time, because of how many events they have or because of one of them.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::graph::{Behaviour, Graph, Seen};
use super::rig::{Rig, events, ids, pixel, settings};
use super::service::all_ids;

#[tokio::test]
async fn events_that_make_meta_fail_keep_no_other_and_are_not_buried() {
    let mended = Arc::new(AtomicBool::new(false));
    let is_mended = mended.clone();
    let is_bad = |seen: &Seen| ["e0003", "e0004", "e0050"].iter().any(|id| seen.has(id));
    let graph = Graph::start(move |seen| match is_bad(seen) && !is_mended.load(Ordering::Relaxed) {
        true => Behaviour::error(500, 1, None),
        false => Behaviour::Take,
    })
    .await;
    let rig = Rig::start_with(settings(&graph.url), vec![pixel("1", Some("EAA1"))], events(0..100)).await;
    rig.until("the others are delivered", |rig| rig.counts().delivered == 97).await;
    rig.append(&ids(100..101)).await;
    rig.until("what comes later too", |rig| rig.counts().delivered == 98).await;
    assert_eq!((rig.dead().len(), rig.status("1").pending + rig.status("1").in_flight), (0, 3));
    mended.store(true, Ordering::Relaxed);
    rig.until_empty().await;
    assert_eq!((rig.counts().delivered, rig.counts().ambiguous), (101, 0));
    let mut good = all_ids(&graph.seen().into_iter().filter(|seen| !is_bad(seen)).collect::<Vec<_>>());
    good.sort();
    assert_eq!(good.len(), 98, "each of the others was taken once: {good:?}");
}

#[tokio::test]
async fn a_meta_that_is_too_slow_for_a_whole_batch_gets_what_it_can_take() {
    let graph = Graph::start(|seen| match seen.ids().len() > 100 {
        // Meta takes them, but the answer comes too late.
        true => Behaviour::Close,
        false => Behaviour::Take,
    })
    .await;
    let rig = Rig::start_with(settings(&graph.url), vec![pixel("1", Some("EAA1"))], events(0..2_000)).await;
    rig.until_empty().await;
    let lost = graph.seen().iter().filter(|seen| seen.ids().len() > 100).count();
    assert!(lost <= 4 + 5, "four halvings, then tries of a larger size after 1, 2, 4, 8 and 16 batches: {lost}");
    assert_eq!((rig.counts().delivered, rig.dead().len()), (2_000, 0));
}
