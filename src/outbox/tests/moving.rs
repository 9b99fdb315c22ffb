//! Segments that a few old events keep: those are moved, and are there once.

use super::disk::flip;
use super::*;

#[test]
fn a_segment_that_old_events_keep_is_emptied() {
    let rig = Rig { segment_bytes: 16 << 10, ..Rig::new() };
    let (slow, outbox) = (lane("slow", 9), rig.open());
    outbox.append_now(events(&slow, 0..3)).unwrap();
    wait(outbox.pause(&slow, "holiday", PausedBy::Operator, NOW_MS)).unwrap();
    for round in 0..10 {
        outbox.append_now(events(&shoes(), 50 * round..50 * round + 50)).unwrap();
        outbox.lease_all(&shoes()).unwrap().ack();
        outbox.tick();
    }
    assert!(rig.files("log").len() <= 2, "{:?}", rig.files("log"));
    assert_eq!(outbox.status(&slow).pending, 3);
    rig.disk.power_cut(1);
    drop(outbox);
    assert_eq!(rig.open().pending(&slow), ["e0", "e1", "e2"]);
}

#[test]
fn events_of_many_lanes_are_moved_with_one_sync() {
    let rig = Rig { segment_bytes: 64 << 10, ..Rig::new() };
    let syncs = Arc::new(std::sync::atomic::AtomicU64::new(0));
    let counter = Arc::clone(&syncs);
    let on_sync = Box::new(move |_| {
        counter.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    });
    let outbox = rig.open_with(Options { on_sync, ..rig.options() }).unwrap().0;
    for pixel in 100..150 {
        outbox.append_now(events(&lane("slow", pixel), 0..1)).unwrap();
    }
    for round in 0..4 {
        outbox.append_now(events(&shoes(), 150 * round..150 * round + 150)).unwrap();
    }
    while let Some(lease) = outbox.lease_all(&shoes()) {
        lease.ack();
    }
    let first = rig.files("log").remove(0);
    let before = syncs.load(std::sync::atomic::Ordering::Relaxed);
    outbox.tick();
    assert!(!rig.files("log").contains(&first), "it was emptied");
    assert_eq!(syncs.load(std::sync::atomic::Ordering::Relaxed) - before, 1);
    assert!((100..150).all(|pixel| outbox.pending(&lane("slow", pixel)) == ["e0"]));
}

#[test]
fn a_segment_that_could_not_be_emptied_is_emptied_once_the_disk_recovers() {
    let rig = Rig { segment_bytes: 8 << 10, ..Rig::new() };
    let (slow, outbox) = (lane("slow", 9), rig.open());
    outbox.append_now(events(&slow, 0..3)).unwrap();
    outbox.append_now(events(&shoes(), 0..40)).unwrap();
    outbox.append_now(events(&shoes(), 40..80)).unwrap();
    outbox.lease_all(&shoes()).unwrap().ack();
    let first = rig.files("log").remove(0);
    rig.disk.fail_syncs(true);
    outbox.tick();
    assert!(rig.files("log").contains(&first));
    rig.disk.fail_syncs(false);
    until("it is tried again", || outbox.append_now(events(&shoes(), 80..81)).is_ok());
    outbox.tick();
    assert!(!rig.files("log").contains(&first));
    assert_eq!(outbox.pending(&slow), ["e0", "e1", "e2"]);
}

#[test]
fn a_segment_with_nothing_readable_left_keeps_no_other_from_being_emptied() {
    for put_aside in [true, false] {
        let rig = Rig { segment_bytes: 8 << 10, ..Rig::new() };
        let (slow, outbox) = (lane("slow", 9), rig.open());
        for (id, shoes_ids) in [("damaged", 0..40), ("good", 40..80), ("last", 80..120)] {
            outbox.append_now(events(&shoes(), shoes_ids)).unwrap();
            outbox.append_now(vec![event(&slow, id)]).unwrap();
        }
        while let Some(lease) = outbox.lease_all(&shoes()) {
            lease.ack();
        }
        let segments = rig.files("log");
        assert_eq!(segments.len(), 3);
        flip(&rig, r#""event_id":"damaged""#);
        rig.disk.fail_dir_syncs(!put_aside);
        outbox.tick();
        let left = rig.files("log");
        assert_eq!((left.contains(&segments[0]), left.contains(&segments[1])), (!put_aside, false), "{left:?}");
        assert_eq!(outbox.status(&slow).counts.damaged, u64::from(put_aside));
        rig.disk.fail_dir_syncs(false);
    }
}

#[test]
fn a_crash_at_any_moment_of_moving_leaves_one_of_each() {
    for crash_at in 0..40 {
        let rig = Rig { segment_bytes: 8 << 10, leases_max: 9, ..Rig::new() };
        let (slow, outbox) = (lane("slow", 9), rig.open());
        outbox.append_now(events(&slow, 0..3)).unwrap();
        outbox.append_now(events(&shoes(), 0..40)).unwrap();
        outbox.append_now(events(&shoes(), 40..80)).unwrap();
        outbox.lease_all(&shoes()).unwrap().ack();
        assert_eq!(rig.files("log").len(), 2);
        rig.disk.crash_after(crash_at);
        outbox.tick();
        rig.disk.power_cut(crash_at + 77);
        outbox.close();
        assert_eq!(rig.open().pending(&slow), ["e0", "e1", "e2"], "crash after {crash_at} changes");
    }
}

#[test]
fn a_moved_event_does_not_come_back_with_a_segment_whose_removal_was_undone() {
    for seed in 0..32 {
        let rig = Rig { segment_bytes: 8 << 10, ..Rig::new() };
        let (slow, outbox) = (lane("slow", 9), rig.open());
        outbox.append_now(events(&slow, 0..3)).unwrap();
        outbox.append_now(events(&shoes(), 0..40)).unwrap();
        outbox.append_now(events(&shoes(), 40..80)).unwrap();
        outbox.lease_all(&shoes()).unwrap().ack();
        rig.disk.fail_dir_syncs(true);
        assert_eq!(rig.files("log").len(), 2);
        outbox.tick();
        assert_eq!(rig.files("log").len(), 1, "the first was emptied");
        outbox.lease_all(&slow).unwrap().ack();
        outbox.tick();
        rig.disk.fail_dir_syncs(false);
        rig.disk.power_cut(seed);
        outbox.close();
        assert!(rig.open().pending(&slow).is_empty(), "seed {seed}");
    }
}
