//! What a restart knows of the requests that events were in.

use super::*;

#[test]
fn what_never_went_out_is_no_attempt() {
    let rig = Rig::new();
    let outbox = rig.open();
    outbox.append_now(events(&shoes(), 0..1)).unwrap();
    for _ in 0..3 {
        let mut lease = outbox.lease_all(&shoes()).unwrap();
        assert_eq!(lease.events()[0].attempts, 0);
        lease.mark_sent();
        lease.settle(vec![Settlement::Retry(Sent::No)], 0);
    }
    rig.disk.kill();
    let lease = rig.open().lease_all(&shoes()).unwrap();
    assert_eq!((lease.events()[0].attempts, lease.events()[0].maybe_sent), (0, false));
}

#[test]
fn a_restart_knows_what_may_have_been_sent() {
    let rig = Rig::new();
    let outbox = rig.open();
    outbox.append_now(events(&shoes(), 0..3)).unwrap();
    let mut refused = outbox.lease(&shoes(), 1, u64::MAX, NOW_MS).unwrap();
    refused.mark_sent();
    refused.retry(0, Sent::Refused);
    let mut all = outbox.lease(&shoes(), 2, u64::MAX, NOW_MS).unwrap();
    all.mark_sent();
    let (_open, unknown) = all.split_at(1);
    unknown.unwrap().ack();
    rig.disk.kill();

    let lease = rig.open().lease_all(&shoes()).unwrap();
    let known: Vec<_> =
        lease.events().iter().map(|event| (event.event_id.as_str(), event.attempts, event.maybe_sent)).collect();
    assert_eq!(known, [("e0", 2, true), ("e2", 0, false)]);
}

#[test]
fn a_lane_that_fails_for_days_does_not_fill_the_volume_with_marks() {
    for sent in [Sent::Refused, Sent::No] {
        let attempts = if sent == Sent::No { 0 } else { 1_000 };
        for (orderly, known) in [(true, (attempts, false)), (false, (if sent == Sent::No { 1 } else { 5 }, true))] {
            let rig = Rig::new();
            let outbox = rig.open();
            outbox.append_now(events(&shoes(), 0..1)).unwrap();
            let before = outbox.stats().log_bytes;
            for _ in 0..1_000 {
                let mut lease = outbox.lease_all(&shoes()).unwrap();
                assert!(!lease.events()[0].maybe_sent);
                lease.mark_sent();
                lease.settle(vec![Settlement::Retry(sent)], 0);
            }
            assert_eq!(outbox.stats().log_bytes - before, 9 * 16);
            if orderly {
                outbox.close();
            } else {
                rig.disk.kill();
                drop(outbox);
            }
            let lease = rig.open().lease_all(&shoes()).unwrap();
            assert_eq!((lease.events()[0].attempts, lease.events()[0].maybe_sent), known, "{sent:?}");
        }
    }
}

#[test]
fn a_restart_knows_of_moved_events_what_may_have_been_sent() {
    let rig = Rig { segment_bytes: 16 << 10, ..Rig::new() };
    let (slow, outbox) = (lane("slow", 9), rig.open());
    outbox.append_now(events(&slow, 0..3)).unwrap();
    for sent in [Sent::Refused, Sent::Maybe] {
        let mut lease = outbox.lease(&slow, 2, u64::MAX, NOW_MS).unwrap();
        lease.mark_sent();
        lease.settle(vec![Settlement::Retry(Sent::Refused), Settlement::Retry(sent)], 0);
    }
    let first = rig.files("log").remove(0);
    for round in 0..4 {
        outbox.append_now(events(&shoes(), 50 * round..50 * round + 50)).unwrap();
        outbox.lease_all(&shoes()).unwrap().ack();
        outbox.tick();
    }
    assert!(!rig.files("log").contains(&first), "it was emptied");
    rig.disk.power_cut(1);
    drop(outbox);
    let lease = rig.open().lease_all(&slow).unwrap();
    let known: Vec<_> = lease.events().iter().map(|event| (event.attempts, event.maybe_sent)).collect();
    assert_eq!(known, [(2, false), (2, true), (0, false)]);
}
