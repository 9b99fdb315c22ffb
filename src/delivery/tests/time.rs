//! What time does to events and to lanes that wait.

use serde_json::json;

use super::graph::{Behaviour, Graph, Seen};
use super::rig::{Rig, event, events, ids, lane, pixel, settings};
use crate::clock::now_ms;
use crate::outbox::{NewEvent, PausedBy};

#[tokio::test]
async fn events_that_grew_too_old_do_not_sink_the_others() {
    let graph = Graph::start(|_| Behaviour::Take).await;
    let week = 7 * 86_400;
    let mut backlog = events(0..6);
    for old in [0, 2, 5] {
        backlog[old].event_time -= week + 60;
    }
    backlog[4].event_time -= week + 60;
    backlog[4].body = json!({ "event_id": "e0004", "action_source": "physical_store" }).to_string().into();
    let rig = Rig::start_with(settings(&graph.url), vec![pixel("1", Some("EAA1"))], backlog).await;
    rig.until_empty().await;
    assert_eq!(graph.seen().iter().flat_map(Seen::ids).collect::<Vec<_>>(), ["e0001", "e0003", "e0004"]);
    assert_eq!((rig.counts().dead["expired"], rig.counts().delivered), (3, 3));
    assert_eq!((rig.dead().len(), rig.status("1").counts.dead), (0, 0), "nobody can mend what is too old");
}

#[tokio::test]
async fn events_grow_old_in_lanes_that_do_not_send_too() {
    let graph = Graph::start(|_| Behaviour::Take).await;
    let rig = Rig::start(&graph).await;
    let day_ms = 86_400_000;
    let old_ms = now_ms() - 8 * day_ms;
    let of = |pixel, id, source: &str| NewEvent {
        event_time: old_ms / 1_000,
        body: json!({ "event_id": id, "action_source": source }).to_string().into(),
        ..event(pixel, id)
    };
    rig.shutdown.cancel();
    rig.until("it has ended", |rig| rig.running.is_finished()).await;
    let shop = of("9", "shop", "physical_store");
    let old = vec![shop, of("9", "a", "website"), of("9", "b", "website"), of("1", "c", "website")];
    rig.outbox.append(old, old_ms).await.unwrap();
    rig.outbox.append(vec![event("9", "young"), event("1", "younger")], now_ms()).await.unwrap();
    rig.outbox.pause(&lane("1"), "by hand", PausedBy::Operator, now_ms()).await.unwrap();
    let rig = rig.restart(settings(&graph.url), vec![pixel("1", Some("EAA1"))]).await;
    rig.until("they are dropped", |rig| rig.counts().dead.get("expired") == Some(&3)).await;
    rig.until("the others are back", |rig| rig.status("9").pending == 2 && rig.status("1").pending == 1).await;
    assert_eq!((rig.dead().len(), graph.seen().len()), (0, 0));
}

#[tokio::test]
async fn a_wait_from_a_clock_that_was_ahead_is_cut_at_a_start() {
    let graph = Graph::start(|_| Behaviour::Take).await;
    let rig = Rig::start(&graph).await;
    rig.outbox.pause(&lane("1"), "by hand", PausedBy::Operator, now_ms()).await.unwrap();
    rig.append(&ids(0..1)).await;
    rig.outbox.hold_off(&lane("1"), now_ms() + 90 * 86_400_000, true);
    let rig = rig.restart(settings(&graph.url), vec![pixel("1", Some("EAA1"))]).await;
    let wait_ms = rig.status("1").not_before_ms - now_ms();
    assert!((86_300_000..=86_400_000).contains(&wait_ms), "{wait_ms}");
}
