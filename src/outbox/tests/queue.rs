//! Lanes: what is leased, in which order, and what comes of it.

use super::*;

#[test]
fn an_event_is_leased_as_it_was_accepted() {
    let rig = Rig::new();
    let outbox = rig.open();
    let one = NewEvent { envelope: r#"{"test_event_code":"T"}"#.into(), ..event(&shoes(), "a") };
    outbox.append_now(vec![one.clone()]).unwrap();
    for from_disk in [false, true] {
        let lease = outbox.lease_all(&shoes()).unwrap();
        let leased = &lease.events()[0];
        assert_eq!((leased.event_name.as_str(), leased.event_id.as_str(), &leased.body), ("Purchase", "a", &one.body));
        assert_eq!((leased.accepted_ms, leased.event_time), (NOW_MS, NOW_MS / 1000), "from disk: {from_disk}");
        assert_eq!(lease.envelope(), &*one.envelope);
    }
}

#[test]
fn a_lane_is_served_oldest_first_one_lease_at_a_time() {
    let rig = Rig::new();
    let outbox = rig.open();
    outbox.append_now(events(&shoes(), 0..5)).unwrap();
    let first = outbox.lease(&shoes(), 2, u64::MAX, NOW_MS).unwrap();
    assert_eq!(event_ids(&first), ["e0", "e1"]);
    assert!(outbox.lease_all(&shoes()).is_none(), "one is out");
    drop(first);
    assert_eq!(outbox.pending(&shoes()), ["e0", "e1", "e2", "e3", "e4"]);
    outbox.lease(&shoes(), 3, u64::MAX, NOW_MS).unwrap().ack();
    assert_eq!(outbox.pending(&shoes()), ["e3", "e4"]);
    let status = outbox.status(&shoes());
    assert_eq!((status.pending, status.in_flight, status.counts.delivered), (2, 0, 3));
}

#[test]
fn events_of_different_envelopes_go_separately() {
    let rig = Rig::new();
    let outbox = rig.open();
    let test = |id| NewEvent { envelope: "{}".into(), ..event(&shoes(), id) };
    outbox.append_now(vec![event(&shoes(), "a"), test("b"), event(&shoes(), "c"), test("d")]).unwrap();
    let lease = outbox.lease_all(&shoes()).unwrap();
    assert_eq!((event_ids(&lease), lease.envelope()), (vec!["a".into(), "c".into()], ""));
    lease.ack();
    assert_eq!(outbox.pending(&shoes()), ["b", "d"]);
}

#[test]
fn a_retry_waits_and_counts() {
    let rig = Rig::new();
    let outbox = rig.open();
    outbox.append_now(events(&shoes(), 0..2)).unwrap();
    assert_eq!(outbox.next_due(NOW_MS), Due::Lane(shoes()));
    let mut lease = outbox.lease_all(&shoes()).unwrap();
    lease.mark_sent();
    lease.retry(NOW_MS + 500, Sent::Maybe);
    assert!(outbox.lease_all(&shoes()).is_none());
    assert_eq!(outbox.next_due(NOW_MS), Due::At(NOW_MS + 500));
    assert_eq!(outbox.next_due(NOW_MS + 500), Due::Lane(shoes()));
    let lease = outbox.lease(&shoes(), 1_000, u64::MAX, NOW_MS + 500).unwrap();
    assert_eq!(lease.failures(), 1);
    assert!(lease.events().iter().all(|event| event.attempts == 1 && event.maybe_sent));
    lease.ack();
    assert_eq!(outbox.status(&shoes()).failures, 0);
}

#[test]
fn events_are_counted_by_what_became_of_them() {
    let rig = Rig::new();
    let outbox = rig.open();
    outbox.append_now(events(&shoes(), 0..5)).unwrap();
    let ends = [Settlement::Ack, Settlement::Tested, Settlement::Uncounted, Settlement::Expire, Settlement::Tested];
    outbox.lease_all(&shoes()).unwrap().settle(ends.into(), NOW_MS);
    let counts = Counts { delivered: 1, tested: 2, uncounted: 1, expired: 1, ..Counts::default() };
    assert_eq!(outbox.status(&shoes()).counts, counts);
    rig.disk.kill();
    drop(outbox);
    assert!(rig.open().pending(&shoes()).is_empty());
}

#[test]
fn a_batch_may_end_in_parts() {
    let rig = Rig::new();
    let outbox = rig.open();
    outbox.append_now(events(&shoes(), 0..6)).unwrap();
    let (first, rest) = outbox.lease_all(&shoes()).unwrap().split_at(2);
    let rest = rest.unwrap();
    first.ack();
    assert!(outbox.lease_all(&shoes()).is_none(), "the other half is still out");
    let bury = Settlement::Bury { reason: "invalid".into(), message: "Invalid parameter".into() };
    rest.settle(vec![Settlement::Ack, bury, Settlement::Retry(Sent::No)], NOW_MS);
    outbox.tick();
    assert_eq!(outbox.pending(&shoes()), ["e4", "e5"]);
    let status = outbox.status(&shoes());
    assert_eq!((status.counts.delivered, status.counts.dead, status.in_flight), (3, 1, 0));
    let letter = &outbox.dead_letters(None, 9)[0];
    assert_eq!((letter.event_id.as_str(), letter.reason.as_str(), letter.dead_ms), ("e3", "invalid", NOW_MS));
}

#[test]
fn a_success_does_not_end_what_another_lease_said() {
    let rig = Rig { leases_max: 2, ..Rig::new() };
    let outbox = rig.open();
    outbox.append_now(events(&shoes(), 0..2)).unwrap();
    let first = outbox.lease(&shoes(), 1, u64::MAX, NOW_MS).unwrap();
    let second = outbox.lease(&shoes(), 1, u64::MAX, NOW_MS).unwrap();
    first.retry(NOW_MS + 500, Sent::Refused);
    outbox.hold_off(&shoes(), NOW_MS + 100, false);
    second.ack();
    let status = outbox.status(&shoes());
    assert_eq!((status.not_before_ms, status.failures), (NOW_MS + 500, 0));
    assert!(!outbox.may_send(&shoes(), NOW_MS + 499) && outbox.may_send(&shoes(), NOW_MS + 500));
    assert!(outbox.lease(&shoes(), 1, u64::MAX, NOW_MS + 500).is_some());
    assert_eq!(outbox.status(&shoes()).not_before_ms, 0, "it was waited for");
}

#[test]
fn parts_of_a_batch_are_one_failure() {
    let rig = Rig::new();
    let outbox = rig.open();
    outbox.append_now(events(&shoes(), 0..4)).unwrap();
    let mut whole = outbox.lease_all(&shoes()).unwrap();
    whole.mark_sent();
    let (first, rest) = whole.split_at(1);
    outbox.hold_off(&shoes(), NOW_MS + 9, true);
    for part in [first, rest.unwrap()] {
        let settlements = vec![Settlement::Retry(Sent::Refused); part.events().len()];
        part.settle(settlements, 0);
    }
    let status = outbox.status(&shoes());
    assert_eq!((status.failures, status.pending, status.not_before_ms), (1, 4, NOW_MS + 9));
}

#[test]
fn waits_move_with_the_clock() {
    let rig = Rig::new();
    let outbox = rig.open();
    outbox.append_now(events(&shoes(), 0..1)).unwrap();
    outbox.hold_off(&shoes(), NOW_MS + 500, false);
    assert_eq!(outbox.next_due(NOW_MS), Due::At(NOW_MS + 500));
    outbox.move_waits(|time_ms| time_ms - 86_400_000);
    assert_eq!(outbox.next_due(NOW_MS - 86_400_000), Due::At(NOW_MS + 500 - 86_400_000));
    assert_eq!(outbox.next_due(NOW_MS + 500 - 86_400_000), Due::Lane(shoes()));
}

#[test]
fn what_is_old_can_be_taken_from_a_lane_that_does_not_send() {
    let rig = Rig::new();
    let outbox = rig.open();
    outbox.append_now(events(&shoes(), 0..3)).unwrap();
    wait(outbox.append(events(&shoes(), 3..4), NOW_MS + 10_000)).unwrap();
    wait(outbox.pause(&shoes(), "holiday", PausedBy::Operator, NOW_MS)).unwrap();
    let aged = |after| outbox.lease_aged(&shoes(), after, NOW_MS + 5_000, 2, NOW_MS);
    let first = aged(0).unwrap();
    assert_eq!(event_ids(&first), ["e0", "e1"]);
    let last = first.events()[1].seq;
    first.settle(vec![Settlement::Expire, Settlement::Retry(Sent::No)], 0);
    let second = aged(last).unwrap();
    assert_eq!(event_ids(&second), ["e2"]);
    let last = second.events()[0].seq;
    drop(second);
    assert!(aged(last).is_none());
    let status = outbox.status(&shoes());
    assert_eq!((status.pending, status.in_flight, status.counts.dead), (3, 0, 0));
    assert!(outbox.dead_letter_ids(None).is_empty());
    rig.disk.kill();
    let lease = rig.open().lease_all(&shoes()).unwrap();
    assert_eq!(event_ids(&lease), ["e1", "e2", "e3"]);
}

#[test]
fn a_paused_lane_keeps_its_events() {
    let rig = Rig::new();
    let outbox = rig.open();
    outbox.append_now(events(&shoes(), 0..1)).unwrap();
    wait(outbox.pause(&shoes(), "token refused", PausedBy::Delivery, NOW_MS)).unwrap();
    assert!(outbox.lease_all(&shoes()).is_none());
    assert_eq!(outbox.next_due(NOW_MS), Due::Nothing);
    outbox.append_now(events(&shoes(), 1..2)).unwrap();
    wait(outbox.pause(&shoes(), "holiday", PausedBy::Operator, NOW_MS)).unwrap();
    wait(outbox.pause(&shoes(), "token refused", PausedBy::Delivery, NOW_MS)).unwrap();
    wait(outbox.resume(&shoes(), PausedBy::Delivery)).unwrap();
    assert_eq!(outbox.status(&shoes()).paused.unwrap().reason, "holiday", "a person's pause is ended by a person");
    wait(outbox.resume(&shoes(), PausedBy::Operator)).unwrap();
    assert_eq!(outbox.next_due(NOW_MS), Due::Lane(shoes()));
    assert_eq!(outbox.pending(&shoes()), ["e0", "e1"]);
}

#[test]
fn pauses_waits_and_counters_outlive_the_process() {
    let dir = tempfile::tempdir().unwrap();
    let open = || {
        let options = Options { dir: dir.path().to_owned(), ..Rig::new().options() };
        Outbox::open(options).unwrap().0
    };
    let outbox = open();
    outbox.append_now(events(&shoes(), 0..3)).unwrap();
    outbox.lease(&shoes(), 1, u64::MAX, NOW_MS).unwrap().ack();
    outbox.lease_all(&shoes()).unwrap().retry(NOW_MS + 9, Sent::No);
    wait(outbox.pause(&shoes(), "holiday", PausedBy::Operator, NOW_MS)).unwrap();
    let before = outbox.status(&shoes());
    outbox.close();
    let outbox = open();
    assert_eq!(outbox.status(&shoes()), before);
    outbox.close();
}

#[test]
fn a_new_lane_of_a_held_account_is_held_too() {
    let dir = tempfile::tempdir().unwrap();
    let open = || Outbox::open(Options { dir: dir.path().to_owned(), ..Rig::new().options() }).unwrap().0;
    let (outbox, new, later) = (open(), lane("shoes", 2), lane("shoes", 3));
    wait(outbox.pause(&shoes(), "invoice", PausedBy::Operator, NOW_MS)).unwrap();
    outbox.append_now(events(&new, 0..1)).unwrap();
    outbox.append_now(events(&lane("hats", 2), 0..1)).unwrap();
    assert!(outbox.lease_all(&new).is_none() && outbox.lease_all(&lane("hats", 2)).is_some());
    outbox.close();
    let outbox = open();
    outbox.append_now(events(&later, 0..1)).unwrap();
    assert_eq!(outbox.status(&new).paused, outbox.status(&shoes()).paused);
    assert_eq!(outbox.status(&later).paused.unwrap().reason, "invoice");
    for lane in [shoes(), new, later.clone()] {
        wait(outbox.resume(&lane, PausedBy::Operator)).unwrap();
    }
    outbox.append_now(events(&lane("shoes", 4), 0..1)).unwrap();
    assert!(outbox.lease_all(&later).is_some() && outbox.lease_all(&lane("shoes", 4)).is_some());
    outbox.close();
}

#[test]
fn an_account_is_held_as_a_whole() {
    let rig = Rig::new();
    let outbox = rig.open();
    let (two, three) = (lane("shoes", 2), lane("shoes", 3));
    outbox.append_now(events(&shoes(), 0..1)).unwrap();
    outbox.append_now(events(&lane("hats", 1), 0..1)).unwrap();
    wait(outbox.pause(&shoes(), "token refused", PausedBy::Delivery, NOW_MS)).unwrap();
    wait(outbox.pause_account(&shoes().account, &[two.pixel], "invoice", NOW_MS)).unwrap();
    outbox.append_now(events(&three, 0..1)).unwrap();
    let reason = |lane: &LaneKey| outbox.status(lane).paused.map(|pause| pause.reason);
    for lane in [&shoes(), &two, &three] {
        assert_eq!(reason(lane).as_deref(), Some("invoice"), "{lane}");
    }
    assert_eq!(outbox.held_accounts().into_keys().collect::<Vec<_>>(), [shoes().account]);
    assert!(outbox.lease_all(&lane("hats", 1)).is_some());
    wait(outbox.resume_account(&shoes().account)).unwrap();
    outbox.append_now(events(&lane("shoes", 4), 0..1)).unwrap();
    assert!(outbox.lanes().iter().all(|lane| lane.paused.is_none()) && outbox.held_accounts().is_empty());
    assert!(outbox.lease_all(&three).is_some());
}

#[test]
fn what_delivery_says_of_a_lane_does_not_end_the_hold_of_its_account() {
    let rig = Rig::new();
    let outbox = rig.open();
    outbox.append_now(events(&lane("shoes", 2), 0..1)).unwrap();
    wait(outbox.pause(&shoes(), "invoice", PausedBy::Operator, NOW_MS)).unwrap();
    outbox.hold_off(&lane("shoes", 2), NOW_MS + 500, true);
    outbox.append_now(events(&lane("shoes", 3), 0..1)).unwrap();
    assert!(outbox.status(&lane("shoes", 3)).paused.is_some());
}

#[test]
fn lanes_take_turns() {
    let rig = Rig::new();
    let outbox = rig.open();
    let keys: Vec<_> = (1..=3).map(|pixel| lane("shoes", pixel)).collect();
    for _ in 0..2 {
        for key in &keys {
            outbox.append_now(events(key, 0..2)).unwrap();
        }
    }
    for _ in 0..4 {
        for key in &keys {
            assert_eq!(outbox.next_due(NOW_MS), Due::Lane(key.clone()));
            outbox.lease(key, 1, u64::MAX, NOW_MS).unwrap().ack();
        }
    }
    assert_eq!(outbox.next_due(NOW_MS), Due::Nothing);
}

#[test]
fn whoever_waits_hears_of_new_events() {
    let rig = Rig::new();
    let outbox = rig.open();
    wait(async {
        let (appended, ()) = tokio::join!(outbox.append(events(&shoes(), 0..1), NOW_MS), outbox.changed());
        appended.unwrap();
    });
    assert_eq!(outbox.next_due(NOW_MS), Due::Lane(shoes()));
}

#[test]
fn an_account_has_its_own_limits() {
    let rig = Rig { backlog_max: 1_000, ..Rig::new() };
    let outbox = rig.open();
    while outbox.append_now(events(&shoes(), 0..1)).is_ok() {}
    assert_eq!(
        outbox.append_now(events(&lane("shoes", 2), 0..1)),
        Err(AppendError::Backlog),
        "all its pixels together"
    );
    outbox.append_now(events(&lane("hats", 3), 0..1)).unwrap();
    outbox.lease_all(&shoes()).unwrap().ack();
    outbox.append_now(events(&shoes(), 0..1)).unwrap();
    assert_eq!(outbox.append_now(events(&shoes(), 0..9)), Err(AppendError::Backlog));
    assert_eq!(outbox.pending(&shoes()), ["e0"], "a group is taken whole or not at all");
}

#[test]
fn events_that_are_held_at_one_time_keep_to_the_limit_together() {
    let rig = Rig { letters_max: 2, ..Rig::new() };
    let outbox = rig.open();
    let held: Vec<_> = (0..500)
        .map(|n| {
            let (reply, answer) = oneshot::channel();
            outbox.inner.ask_keeper(Task::Hold { letters: vec![letters::held(&n.to_string())], reply });
            answer
        })
        .collect();
    let stored = held.into_iter().map(|answer| answer.blocking_recv().unwrap()).filter(Result::is_ok);
    assert_eq!(stored.count(), 2);
}

#[test]
fn what_is_longer_than_the_format_is_refused() {
    let rig = Rig::new();
    let outbox = rig.open();
    let long = "x".repeat(65_536);
    let refused = [
        NewEvent { event_id: long.clone(), ..event(&shoes(), "a") },
        NewEvent { event_name: long.clone(), ..event(&shoes(), "a") },
        NewEvent { envelope: long.into(), ..event(&shoes(), "a") },
        NewEvent { body: vec![b' '; 64 << 20].into(), ..event(&shoes(), "a") },
    ];
    for event in refused {
        assert_eq!(outbox.append_now(vec![event]), Err(AppendError::TooLarge));
    }
    outbox.append_now(vec![NewEvent { body: vec![b' '; 1 << 20].into(), ..event(&shoes(), "a") }]).unwrap();
    assert_eq!(outbox.pending(&shoes()), ["a"], "larger than a segment, and yet taken");
}

#[test]
fn a_closed_outbox_takes_and_gives_nothing() {
    let rig = Rig::new();
    let outbox = rig.open();
    outbox.append_now(events(&shoes(), 0..2)).unwrap();
    let lease = outbox.lease(&shoes(), 1, u64::MAX, NOW_MS).unwrap();
    outbox.clone().close();
    assert!(matches!(outbox.append_now(events(&shoes(), 2..3)), Err(AppendError::Unavailable { .. })));
    lease.ack();
    assert!(outbox.lease_all(&shoes()).is_none());
    assert!(matches!(outbox.health(), Health::Broken { .. }));
    drop(outbox);
    assert_eq!(rig.open().pending(&shoes()), ["e1"]);
}
