//! What the whole service promises.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use serde_json::json;

use super::graph::{Behaviour, Graph, Seen};
use super::rig::{Rig, event, events, ids, lane, pixel, settings};
use crate::clock::now_ms;
use crate::config::{DeliveryConfig, PixelConfig};
use crate::outbox::{NewEvent, PausedBy};

pub(super) const REFUSED: Option<i64> = Some(2_804_050);

pub(super) fn all_ids(seen: &[Seen]) -> Vec<String> {
    seen.iter().flat_map(Seen::ids).collect()
}

/// Behaves as told the first times, and then takes everything.
fn first(behaviours: Vec<Behaviour>) -> impl Fn(&Seen) -> Behaviour {
    let requests = AtomicUsize::new(0);
    move |_| behaviours.get(requests.fetch_add(1, Ordering::Relaxed)).cloned().unwrap_or(Behaviour::Take)
}

/// Refuses every request that has one of these events.
pub(super) fn refuse_with(bad: Vec<String>, subcode: Option<i64>) -> impl Fn(&Seen) -> Behaviour {
    move |seen| match bad.iter().any(|id| seen.has(id)) {
        true => Behaviour::error(400, 100, subcode),
        false => Behaviour::Take,
    }
}

#[tokio::test]
async fn a_backlog_goes_out_in_order_and_in_full_batches() {
    let graph = Graph::start(|_| Behaviour::Take).await;
    let backlog = events(0..2_500);
    let rig = Rig::start_with(settings(&graph.url), vec![pixel("1", Some("EAA1"))], backlog).await;
    rig.until_empty().await;
    let seen = graph.seen();
    assert_eq!(seen.iter().map(|seen| seen.ids().len()).collect::<Vec<_>>(), [1_000, 1_000, 500]);
    assert_eq!(all_ids(&seen), ids(0..2_500));
    assert_eq!((rig.counts().delivered, rig.status("1").counts.delivered), (2_500, 2_500));
}

#[tokio::test]
async fn a_lone_event_goes_out_at_once() {
    let graph = Graph::start(|_| Behaviour::Take).await;
    let rig = Rig::start(&graph).await;
    for id in ids(0..3) {
        let begun = Instant::now();
        rig.append(std::slice::from_ref(&id)).await;
        let seen = graph.until("the event", |seen| seen.last().is_some_and(|seen| seen.has(&id))).await;
        assert!(begun.elapsed() < Duration::from_millis(500), "no timer fills batches");
        assert_eq!(seen.last().unwrap().ids().len(), 1);
    }
}

#[tokio::test]
async fn a_batch_is_bounded_in_bytes() {
    let graph = Graph::start(|_| Behaviour::Take).await;
    let settings = DeliveryConfig { batch_bytes_max: 1_500, ..settings(&graph.url) };
    let backlog = events(0..50);
    let rig = Rig::start_with(settings, vec![pixel("1", Some("EAA1"))], backlog).await;
    rig.until_empty().await;
    let seen = graph.seen();
    assert!(seen.len() > 3 && seen.iter().all(|seen| seen.body.to_string().len() < 1_600), "{}", seen.len());
    assert_eq!(all_ids(&seen), ids(0..50));
}

#[tokio::test]
async fn the_bad_event_of_a_batch_is_buried_and_the_others_are_delivered_once() {
    let bad = "e0137".to_owned();
    let graph = Graph::start(refuse_with(vec![bad.clone()], REFUSED)).await;
    let backlog = events(0..1_000);
    let rig = Rig::start_with(settings(&graph.url), vec![pixel("1", Some("EAA1"))], backlog).await;
    rig.until("it is buried", |rig| rig.dead().len() == 1 && rig.counts().delivered == 999).await;
    rig.until_empty().await;
    let seen = graph.seen();
    assert!(seen.len() <= 21, "the whole and two at each of ten levels: {}", seen.len());
    let taken: Vec<_> = seen.iter().filter(|seen| !seen.has(&bad)).flat_map(Seen::ids).collect();
    let expected: Vec<_> = ids(0..1_000).into_iter().filter(|id| *id != bad).collect();
    assert_eq!(taken, expected, "in order, each once");
    let [dead] = rig.dead().try_into().unwrap();
    assert_eq!((dead.event_id, dead.reason.as_str()), (bad, "refused"));
    assert_eq!(dead.message, "refused: code 100, subcode 2804050, fbtrace_id Atrace1");
    assert_eq!((rig.counts().dead["refused"], rig.counts().ambiguous), (1, 0));
}

#[tokio::test]
async fn an_event_that_meta_names_is_found_at_once() {
    let graph = Graph::start(|seen| match seen.ids().iter().position(|id| id == "e0007") {
        Some(index) => {
            let message = format!("Param $['data'][{index}]['user_data'] is bad");
            let error = json!({ "error": { "code": 100, "error_subcode": 2_804_019, "message": message } });
            Behaviour::Answer(400, vec![], error.to_string())
        }
        None => Behaviour::Take,
    })
    .await;
    let backlog = events(0..100);
    let rig = Rig::start_with(settings(&graph.url), vec![pixel("1", Some("EAA1"))], backlog).await;
    rig.until_empty().await;
    assert_eq!(graph.seen().iter().map(|seen| seen.ids().len()).collect::<Vec<_>>(), [100, 7, 1, 92]);
    assert_eq!(rig.counts().delivered, 99);
}

#[tokio::test]
async fn a_pause_holds_a_batch_that_is_sent_in_parts_too() {
    let answer = Arc::new(tokio::sync::Semaphore::new(0));
    let graph = Graph::start_slow(answer.clone(), |_| Behaviour::error(400, 100, REFUSED)).await;
    let rig = Rig::start_with(settings(&graph.url), vec![pixel("1", Some("EAA1"))], events(0..8)).await;
    graph.until("it is in flight", |seen| seen.len() == 1).await;
    rig.outbox.pause(&lane("1"), "by hand", PausedBy::Operator, now_ms()).await.unwrap();
    answer.add_permits(10);
    rig.until("its parts are back", |rig| rig.status("1").pending == 8).await;
    assert_eq!((graph.seen().len(), rig.dead().len(), rig.status("1").failures), (1, 0, 0));
}

#[tokio::test]
async fn a_refused_token_pauses_the_lane_until_there_is_another() {
    let graph = Graph::start(|seen| match seen.headers["authorization"].to_str().unwrap() {
        "Bearer good" => Behaviour::Take,
        _ => Behaviour::error(401, 190, Some(463)),
    })
    .await;
    let rig = Rig::start_with(settings(&graph.url), vec![pixel("1", Some("EAAold"))], vec![event("1", "a")]).await;
    let reason = rig.until_paused().await;
    assert!(reason.contains("code 190, subcode 463") && !reason.contains("EAAold"), "{reason}");
    rig.outbox.append(vec![event("1", "b"), event("2", "x")], now_ms()).await.unwrap();
    rig.publish(|view| drop(view.pixels.insert(lane("2"), pixel("2", Some("good")))));
    graph.until("the reload was seen", |seen| seen.iter().any(|seen| seen.pixel() == "2")).await;
    assert_eq!(graph.seen().len(), 2, "a reload with the same token changes nothing for pixel 1");
    rig.publish(|view| drop(view.pixels.insert(lane("1"), pixel("1", Some("good")))));
    rig.until_empty().await;
    assert_eq!(graph.seen().last().unwrap().ids(), ["a", "b"]);
    assert_eq!(rig.counts().ambiguous, 0);
}

#[tokio::test]
async fn a_lane_that_is_resumed_with_the_same_token_tries_once_more_and_pauses_again() {
    let graph = Graph::start(|_| Behaviour::error(400, 190, None)).await;
    let rig = Rig::start_with(settings(&graph.url), vec![pixel("1", Some("EAA1"))], events(0..2)).await;
    for requests in 1..=2 {
        let reason = rig.until_paused().await;
        assert!(reason.contains("code 190"), "{reason}");
        assert_eq!((graph.seen().len(), rig.dead().len(), rig.status("1").pending), (requests, 0, 2));
        rig.outbox.resume(&lane("1"), PausedBy::Operator).await.unwrap();
    }
}

#[tokio::test]
async fn a_pause_for_a_token_outlives_a_restart_but_not_the_token() {
    let graph = Graph::start(|seen| match seen.headers["authorization"].to_str().unwrap() {
        "Bearer good" => Behaviour::Take,
        _ => Behaviour::error(400, 190, None),
    })
    .await;
    let rig = Rig::start_with(settings(&graph.url), vec![pixel("1", Some("old"))], vec![event("1", "a")]).await;
    rig.until_paused().await;
    let rig = rig.restart(settings(&graph.url), vec![pixel("1", Some("old"))]).await;
    rig.until_paused().await;
    assert_eq!(graph.seen().len(), 1);
    let rig = rig.restart(settings(&graph.url), vec![pixel("1", Some("good"))]).await;
    rig.until_empty().await;
    assert_eq!(graph.seen().len(), 2);
}

#[tokio::test]
async fn a_pixel_without_a_token_waits_for_one_and_says_where_it_should_be() {
    let graph = Graph::start(|_| Behaviour::Take).await;
    let rig = Rig::start_with(settings(&graph.url), vec![pixel("1", None)], vec![event("1", "a")]).await;
    let reason = rig.until_paused().await;
    assert!(reason.contains("file /etc/pixelgate/secrets/shoes") && reason.contains("reload"), "{reason}");
    rig.publish(|view| drop(view.pixels.insert(lane("1"), pixel("1", Some("good")))));
    rig.until_empty().await;
    assert_eq!(graph.seen().len(), 1);
}

#[tokio::test]
async fn a_persons_pause_is_not_ended_by_a_reload() {
    let graph = Graph::start(|_| Behaviour::Take).await;
    let rig = Rig::start(&graph).await;
    // Before the pause: a lane that is new to the account begins with it.
    rig.outbox.append(vec![event("2", "x")], now_ms()).await.unwrap();
    rig.outbox.pause(&lane("1"), "by hand", PausedBy::Operator, now_ms()).await.unwrap();
    rig.append(&ids(0..2)).await;
    rig.publish(|view| {
        view.pixels.insert(lane("1"), pixel("1", Some("other")));
        view.pixels.insert(lane("2"), pixel("2", Some("other")));
    });
    graph.until("the reload was seen", |seen| seen.iter().any(|seen| seen.pixel() == "2")).await;
    assert_eq!((graph.seen().len(), rig.status("1").pending), (1, 2));
    rig.outbox.resume(&lane("1"), PausedBy::Operator).await.unwrap();
    rig.until_empty().await;
}

#[tokio::test]
async fn events_of_a_pixel_that_left_the_configuration_are_kept_until_it_is_back() {
    let graph = Graph::start(|_| Behaviour::Take).await;
    let rig = Rig::start(&graph).await;
    rig.outbox.append(vec![event("9", "a")], now_ms()).await.unwrap();
    rig.append(&["b".to_owned()]).await;
    graph.until("pixel 1", |seen| seen.len() == 1).await;
    rig.outbox.append(vec![event("9", "c")], now_ms()).await.unwrap();
    assert_eq!(rig.status("9").paused, None);
    rig.publish(|view| drop(view.pixels.insert(lane("9"), pixel("9", Some("EAA9")))));
    rig.until_empty().await;
    assert_eq!(graph.seen()[1].ids(), ["a", "c"]);
}

#[tokio::test]
async fn retry_after_is_honoured() {
    let wait = vec![("retry-after", "1".to_owned())];
    let graph = Graph::start(first(vec![Behaviour::Answer(503, wait, "<html>".to_owned())])).await;
    let rig = Rig::start(&graph).await;
    rig.append(&ids(0..3)).await;
    rig.until_empty().await;
    let [refused, taken] = graph.seen().try_into().unwrap();
    assert!(taken.at - refused.at >= Duration::from_millis(990), "{:?}", taken.at - refused.at);
    assert_eq!(refused.ids(), taken.ids());
    assert_eq!((rig.counts().ambiguous, rig.counts().retried), (0, 3), "a refusal is not ambiguous");
}

#[tokio::test]
async fn what_gets_no_answer_is_sent_again_with_the_same_ids_and_counted() {
    let graph = Graph::start(first(vec![Behaviour::Close, Behaviour::error(500, 2, None), Behaviour::Close])).await;
    let rig = Rig::start(&graph).await;
    rig.append(&ids(0..4)).await;
    rig.until_empty().await;
    let seen = graph.seen();
    let (failed, taken) = seen.split_at(3);
    assert!(failed.iter().map(Seen::ids).eq([ids(0..4), ids(0..2), ids(0..1)]), "ever smaller batches");
    let mut taken = all_ids(taken);
    taken.sort();
    assert_eq!(taken, ids(0..4), "each once");
    assert_eq!(
        rig.counts().ambiguous,
        7,
        "all four may have arrived the first time: three, two, one and one repetitions"
    );
    assert_eq!(rig.counts().requests["retry"], 3);
}

#[tokio::test]
async fn a_throttled_lane_is_held_as_long_as_meta_says() {
    let usage = r#"{"1":[{"type":"ads","call_count":100,"estimated_time_to_regain_access":3}]}"#.to_owned();
    let graph = Graph::start(move |_| {
        let Behaviour::Answer(status, _, body) = Behaviour::error(400, 4, None) else { unreachable!() };
        Behaviour::Answer(status, vec![("x-business-use-case-usage", usage.clone())], body)
    })
    .await;
    let rig = Rig::start(&graph).await;
    let before_ms = now_ms();
    rig.append(&ids(0..1)).await;
    rig.until("it is held", |rig| rig.status("1").not_before_ms > 0).await;
    let wait_ms = rig.status("1").not_before_ms - before_ms;
    assert!((180_000..200_000).contains(&wait_ms), "{wait_ms}");
    assert_eq!(rig.counts().requests["hold"], 1);
}

#[tokio::test]
async fn a_pixel_that_hangs_delays_no_other() {
    let graph = Graph::start(|seen| if seen.pixel() == "1" { Behaviour::Hang } else { Behaviour::Take }).await;
    let pixels = (1..=3).map(|n| pixel(&n.to_string(), Some("EAA")));
    let settings = DeliveryConfig { requests_in_flight_max: 2, ..settings(&graph.url) };
    let rig = Rig::start_with(settings, pixels.collect(), vec![event("1", "stuck")]).await;
    graph.until("the stuck one", |seen| seen.len() == 1).await;
    for n in 0..50 {
        let events: Vec<NewEvent> = ["1", "2", "3"].iter().map(|pixel| event(pixel, &n.to_string())).collect();
        rig.outbox.append(events, now_ms()).await.unwrap();
    }
    rig.until("the others", |rig| rig.counts().delivered == 100).await;
    assert_eq!(graph.seen().iter().filter(|seen| seen.pixel() == "1").count(), 1);
}

#[tokio::test]
async fn a_lane_in_backoff_holds_no_slot() {
    let graph = Graph::start(|seen| match seen.pixel() {
        "1" => Behaviour::Answer(503, vec![("retry-after", "600".to_owned())], String::new()),
        _ => Behaviour::Take,
    })
    .await;
    let pixels = vec![pixel("1", Some("EAA")), pixel("2", Some("EAA"))];
    let settings = DeliveryConfig { requests_in_flight_max: 1, ..settings(&graph.url) };
    let rig = Rig::start_with(settings, pixels, vec![event("1", "a"), event("2", "b")]).await;
    rig.until("the other", |rig| rig.counts().delivered == 1).await;
    assert_eq!(rig.status("1").pending, 1);
}

#[tokio::test]
async fn what_meta_does_not_count_is_not_delivered() {
    let short = r#"{"events_received":3,"messages":[]}"#.to_owned();
    let graph = Graph::start(first(vec![Behaviour::Answer(200, Vec::new(), short)])).await;
    let rig = Rig::start_with(settings(&graph.url), vec![pixel("1", Some("EAA1"))], events(0..5)).await;
    rig.until_empty().await;
    assert_eq!(graph.seen().len(), 1, "nor sent again");
    let (told, kept) = (rig.counts(), rig.status("1").counts);
    assert_eq!((told.delivered, told.uncounted, told.requests["accept_short"]), (3, 2, 1));
    assert_eq!((kept.delivered, kept.uncounted), (3, 2));
}

#[tokio::test]
async fn request_fields_go_with_their_events() {
    let graph = Graph::start(|_| Behaviour::Take).await;
    let mut events = events(0..3);
    events[1].envelope = r#"{"partner_agent":"shop","test_event_code":"THEIRS"}"#.into();
    let pixel = PixelConfig { test_event_code: Some("OURS".to_owned()), ..pixel("1", Some("EAA1")) };
    let rig = Rig::start_with(settings(&graph.url), vec![pixel], events).await;
    rig.until_empty().await;
    let [first, second] = graph.seen().try_into().unwrap();
    assert_eq!(
        (first.ids(), first.body["test_event_code"].as_str()),
        (vec!["e0000".into(), "e0002".into()], Some("OURS"))
    );
    assert_eq!((second.ids(), second.body["test_event_code"].as_str()), (vec!["e0001".into()], Some("THEIRS")));
    assert_eq!(second.body["partner_agent"], "shop");
    let (told, kept) = (rig.counts(), rig.status("1").counts);
    assert_eq!((told.delivered, told.tested, kept.delivered, kept.tested), (0, 3, 0, 3), "tests are not delivered");
}

#[tokio::test]
async fn a_reload_moves_delivery_to_another_graph_api() {
    let (one, two) = (Graph::start(|_| Behaviour::Take).await, Graph::start(|_| Behaviour::Take).await);
    let rig = Rig::start(&one).await;
    rig.append(&ids(0..1)).await;
    rig.until_empty().await;
    rig.publish(|view| view.settings = Arc::new(settings(&two.url)));
    let mut sent = 1;
    let deadline = Instant::now() + Duration::from_secs(10);
    while two.seen().is_empty() {
        assert!(Instant::now() < deadline);
        rig.append(&ids(sent..sent + 1)).await;
        rig.until_empty().await;
        sent += 1;
    }
    assert_eq!(one.seen().len() + two.seen().len(), sent);
}

#[tokio::test]
async fn stopping_waits_for_requests_in_flight_and_takes_nothing_new() {
    let answer = Arc::new(tokio::sync::Semaphore::new(0));
    let graph = Graph::start_slow(answer.clone(), |_| Behaviour::Take).await;
    let rig = Rig::start(&graph).await;
    rig.append(&ids(0..1)).await;
    graph.until("it is in flight", |seen| seen.len() == 1).await;
    rig.append(&ids(1..2)).await;
    rig.shutdown.cancel();
    tokio::time::timeout(Duration::from_millis(100), async {
        while !rig.running.is_finished() {
            tokio::task::yield_now().await
        }
    })
    .await
    .unwrap_err();
    answer.add_permits(10);
    rig.running.await.unwrap();
    assert_eq!(graph.seen().len(), 1);
    let lanes = rig.outbox.lanes();
    assert_eq!((lanes[0].pending, lanes[0].in_flight, lanes[0].counts.delivered), (1, 0, 1));
}

#[tokio::test]
async fn a_turn_that_still_reads_its_batch_when_the_gateway_stops_sends_nothing() {
    let graph = Graph::start(|_| Behaviour::Take).await;
    let rig = Rig::start_with(settings(&graph.url), vec![pixel("1", Some("EAA1"))], events(0..3)).await;
    // The service has not run yet: it begins its turn and is told to stop in the same moment.
    rig.shutdown.cancel();
    rig.running.await.unwrap();
    assert!(graph.seen().is_empty());
    let lanes = rig.outbox.lanes();
    assert_eq!((lanes[0].pending, lanes[0].in_flight), (3, 0));
}

#[tokio::test]
async fn stopping_without_requests_in_flight_is_immediate() {
    let graph = Graph::start(|_| Behaviour::Answer(503, vec![("retry-after", "600".to_owned())], String::new())).await;
    let rig = Rig::start(&graph).await;
    rig.append(&ids(0..1)).await;
    rig.until("it waits", |rig| rig.status("1").not_before_ms > 0).await;
    let begun = Instant::now();
    rig.shutdown.cancel();
    rig.running.await.unwrap();
    assert!(begun.elapsed() < Duration::from_secs(1));
}
