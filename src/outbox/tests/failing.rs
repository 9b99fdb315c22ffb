//! A disk that refuses: what was promised stays, what was not promised leaves nothing behind.

use std::path::Path;

use super::*;
use crate::outbox::log::file::Disk;

#[test]
fn a_failed_sync_ends_the_segment_and_not_the_service() {
    let rig = Rig { segment_bytes: 1 << 20, ..Rig::new() };
    let outbox = rig.open();
    outbox.append_now(events(&shoes(), 0..2)).unwrap();
    rig.disk.fail_syncs(true);
    assert!(matches!(outbox.append_now(events(&shoes(), 2..4)), Err(AppendError::Unavailable { .. })));
    until("it is known", || matches!(outbox.health(), Health::Broken { .. }));
    assert!(matches!(outbox.append_now(events(&shoes(), 4..5)), Err(AppendError::Unavailable { .. })));
    rig.disk.fail_syncs(false);
    until("it is tried again", || outbox.health() == Health::Accepting);
    outbox.append_now(events(&shoes(), 5..6)).unwrap();
    assert_eq!(outbox.pending(&shoes()), ["e0", "e1", "e5"]);
    rig.disk.power_cut(5);
    drop(outbox);
    assert_eq!(rig.open().pending(&shoes()), ["e0", "e1", "e5"]);
}

#[test]
fn what_a_start_finds_is_durable_though_a_sync_of_it_failed_before() {
    let rig = Rig { segment_bytes: 1 << 20, ..Rig::new() };
    let outbox = rig.open();
    outbox.append_now(events(&shoes(), 0..2)).unwrap();
    rig.disk.fail_syncs(true);
    rig.disk.crash_after(1);
    assert!(outbox.append_now(events(&shoes(), 2..4)).is_err());
    rig.disk.kill();
    drop(outbox);
    rig.disk.fail_syncs(false);
    let outbox = rig.open();
    assert_eq!(outbox.pending(&shoes()), ["e0", "e1", "e2", "e3"]);
    rig.disk.power_cut(1);
    drop(outbox);
    assert_eq!(rig.open().pending(&shoes()), ["e0", "e1", "e2", "e3"]);
}

#[test]
fn a_killed_outbox_starts_and_delivers_on_a_disk_that_fails() {
    for fail in [FaultDisk::fail_syncs, FaultDisk::fail_writes] {
        let rig = Rig { segment_bytes: 1 << 20, ..Rig::new() };
        let outbox = rig.open();
        outbox.append_now(events(&shoes(), 0..2)).unwrap();
        rig.disk.kill();
        drop(outbox);
        fail(&rig.disk, true);
        let outbox = rig.open();
        assert!(matches!(outbox.health(), Health::Broken { .. }));
        assert!(matches!(outbox.append_now(events(&shoes(), 2..3)), Err(AppendError::Unavailable { .. })));
        outbox.lease(&shoes(), 1, u64::MAX, NOW_MS).unwrap().ack();
        fail(&rig.disk, false);
        until("it accepts", || outbox.append_now(events(&shoes(), 3..4)).is_ok());
        outbox.tick();
        assert_eq!(outbox.pending(&shoes()), ["e1", "e3"]);
        rig.disk.power_cut(3);
        drop(outbox);
        assert_eq!(rig.open().pending(&shoes()), ["e1", "e3"]);
    }
}

#[test]
fn a_copy_that_a_failing_disk_does_not_take_again_counts_instead_of_nothing() {
    for crash_at in 0..40 {
        let rig = Rig { segment_bytes: 8 << 10, leases_max: 9, ..Rig::new() };
        let (slow, outbox) = (lane("slow", 9), rig.open());
        outbox.append_now(events(&slow, 0..3)).unwrap();
        outbox.append_now(events(&shoes(), 0..40)).unwrap();
        outbox.append_now(events(&shoes(), 40..80)).unwrap();
        // What is left keeps the second segment, which the copies go to, from being emptied as well.
        outbox.lease(&shoes(), 40, u64::MAX, NOW_MS).unwrap().ack();
        assert_eq!(rig.files("log").len(), 2);
        rig.disk.fail_syncs(true);
        rig.disk.crash_after(crash_at);
        outbox.tick();
        // What was written of the copies can be read, and will never be on the disk.
        rig.disk.kill();
        outbox.close();
        let outbox = rig.open();
        rig.disk.fail_syncs(false);
        until("it accepts", || outbox.append_now(events(&shoes(), 80..81)).is_ok());
        outbox.tick();
        rig.disk.power_cut(crash_at);
        outbox.close();
        assert_eq!(rig.open().pending(&slow), ["e0", "e1", "e2"], "crash after {crash_at} changes");
    }
}

#[test]
fn a_segment_without_marks_starts_on_a_disk_that_takes_nothing() {
    let rig = Rig { segment_bytes: 1 << 20, ..Rig::new() };
    let outbox = rig.open();
    outbox.append_now(events(&shoes(), 0..2)).unwrap();
    rig.disk.remove(&rig.files("done")[0]).unwrap();
    rig.disk.kill();
    drop(outbox);
    rig.disk.fill(true);
    let outbox = rig.open();
    outbox.lease(&shoes(), 1, u64::MAX, NOW_MS).unwrap().ack();
    rig.disk.fill(false);
    outbox.tick();
    rig.disk.power_cut(3);
    drop(outbox);
    assert_eq!(rig.open().pending(&shoes()), ["e1"], "the mark was kept until there was room for it");
}

#[test]
fn a_disk_that_fails_for_long_is_not_filled_by_the_tries() {
    for fail in [FaultDisk::fail_syncs, FaultDisk::fail_dir_syncs, FaultDisk::fail_writes] {
        let rig = Rig { segment_bytes: 1 << 20, ..Rig::new() };
        let outbox = rig.open();
        outbox.append_now(events(&shoes(), 0..2)).unwrap();
        fail(&rig.disk, true);
        let _ = wait(outbox.hold(vec![letters::held("a")]));
        let _ = wait(outbox.hold(vec![letters::held("b")]));
        // The first file that cannot be written ends the segment, if the disk fails so.
        let _ = outbox.append_now(events(&shoes(), 2..3));
        let before = rig.disk.changes();
        until("it was tried some times", || outbox.health() == Health::Accepting || rig.disk.changes() > before + 100);
        let left = rig.disk.paths();
        assert!(left.len() <= 8, "{left:?}");
        fail(&rig.disk, false);
        until("it accepts", || outbox.append_now(events(&shoes(), 3..4)).is_ok());
        assert!(outbox.pending(&shoes()).starts_with(&["e0".into(), "e1".into()]));
    }
}

#[test]
fn an_event_that_could_not_be_marked_as_moved_does_not_come_back_once_its_copy_is_settled() {
    for gives_back in [false, true] {
        let rig = Rig { segment_bytes: 8 << 10, ..Rig::new() };
        let (slow, outbox) = (lane("slow", 9), rig.open());
        outbox.append_now(events(&slow, 0..3)).unwrap();
        outbox.append_now(events(&shoes(), 0..40)).unwrap();
        outbox.append_now(events(&shoes(), 40..80)).unwrap();
        outbox.lease_all(&shoes()).unwrap().ack();
        rig.disk.break_file(&rig.files("done")[0]);
        outbox.tick();
        assert_eq!(outbox.status(&slow).pending, 3);
        outbox.lease_all(&slow).unwrap().ack();
        if gives_back {
            // The copies' segment is closed, and nothing else in it is needed.
            outbox.append_now(events(&shoes(), 80..120)).unwrap();
            outbox.append_now(events(&shoes(), 120..160)).unwrap();
            outbox.lease_all(&shoes()).unwrap().ack();
            outbox.tick();
        }
        rig.disk.kill();
        drop(outbox);
        rig.disk.break_file(Path::new("/nothing"));
        assert!(rig.open().pending(&slow).is_empty(), "given back: {gives_back}");
    }
}

#[test]
fn a_settled_segment_stays_until_its_marks_are_synced() {
    for seed in 0..16 {
        let rig = Rig { segment_bytes: 8 << 10, ..Rig::new() };
        let outbox = rig.open();
        outbox.append_now(events(&shoes(), 0..40)).unwrap();
        outbox.append_now(events(&shoes(), 40..80)).unwrap();
        let first = rig.files("log").remove(0);
        outbox.lease_all(&shoes()).unwrap().ack();
        rig.disk.fail_syncs(true);
        outbox.tick();
        assert!(rig.files("log").contains(&first));
        rig.disk.fail_syncs(false);
        rig.disk.fail_dir_syncs(true);
        outbox.tick();
        assert!(!rig.files("log").contains(&first));
        rig.disk.fail_dir_syncs(false);
        rig.disk.power_cut(seed);
        outbox.close();
        assert!(rig.open().pending(&shoes()).is_empty(), "seed {seed}");
    }
}

/// Makes the bytes of some events unreadable, in the log's first segment, and empties what is kept of it in memory.
fn damage(rig: &Rig, outbox: Outbox, first: &str, last: &str) -> Outbox {
    outbox.close();
    let outbox = rig.open();
    let ((path, begin), (_, end)) = (disk::find(rig, first), disk::find(rig, last));
    rig.disk.damage_sectors(&path, begin..end + 1);
    outbox
}

#[test]
fn a_bad_sector_holds_up_its_own_events_only_and_they_are_tried_again() {
    let rig = Rig { segment_bytes: 1 << 20, ..Rig::new() };
    let outbox = rig.open();
    outbox.append_now(events(&shoes(), 0..9)).unwrap();
    let outbox = damage(&rig, outbox, r#""event_id":"e1""#, r#""event_id":"e3""#);
    let lease = outbox.lease_all(&shoes()).unwrap();
    assert_eq!(event_ids(&lease), ["e0", "e4", "e5", "e6", "e7", "e8"]);
    lease.ack();
    let status = outbox.status(&shoes());
    assert_eq!((status.pending, status.in_flight, status.oldest_accepted_ms), (3, 0, Some(NOW_MS)));
    // They are not in the way of what comes later.
    wait(outbox.append(events(&shoes(), 9..11), NOW_MS)).unwrap();
    assert_eq!(outbox.next_due(NOW_MS), Due::Lane(shoes()));
    outbox.lease(&shoes(), 2, u64::MAX, NOW_MS).unwrap().ack();
    let Due::At(again_ms) = outbox.next_due(NOW_MS) else { panic!("they are tried again") };
    rig.disk.damage_sectors(Path::new("/nothing"), 0..0);
    assert_eq!(outbox.next_due(again_ms), Due::Lane(shoes()));
    let lease = outbox.lease(&shoes(), 9, u64::MAX, again_ms).unwrap();
    assert_eq!(event_ids(&lease), ["e1", "e2", "e3"]);
    lease.ack();
    outbox.tick();
    assert_eq!((outbox.status(&shoes()).pending, outbox.next_due(again_ms)), (0, Due::Nothing));
}

#[test]
fn a_lane_passes_more_bad_events_than_it_leases_at_one_time() {
    let rig = Rig { segment_bytes: 1 << 20, ..Rig::new() };
    let outbox = rig.open();
    outbox.append_now(events(&shoes(), 0..6)).unwrap();
    let outbox = damage(&rig, outbox, r#""event_id":"e0""#, r#""event_id":"e4""#);
    let (mut now_ms, mut tries) = (NOW_MS, 0);
    let lease = loop {
        match outbox.lease(&shoes(), 2, u64::MAX, now_ms) {
            Some(lease) => break lease,
            None => tries += 1,
        }
        let Due::At(next_ms) = outbox.next_due(now_ms) else { panic!("it is tried again") };
        now_ms = next_ms;
    };
    assert_eq!((event_ids(&lease), tries), (vec!["e5".into()], 2));
}

#[test]
fn what_cannot_be_read_until_it_is_too_old_is_lost_and_told() {
    const LATER_MS: i64 = NOW_MS + 63 * 86_400_000;
    for pauses in [false, true] {
        let rig = Rig { segment_bytes: 1 << 20, ..Rig::new() };
        let outbox = rig.open();
        outbox.append_now(events(&shoes(), 0..4)).unwrap();
        outbox.close();
        let (lost, on_lost) = losses();
        let outbox = rig.open_with(Options { on_lost, ..rig.options() }).unwrap().0;
        let (path, begin) = disk::find(&rig, r#""event_id":"e0""#);
        let (_, end) = disk::find(&rig, r#""event_id":"e2""#);
        rig.disk.damage_sectors(&path, begin..end + 1);
        assert_eq!(event_ids(&outbox.lease_all(&shoes()).unwrap()), ["e3"]);
        let lease = if pauses {
            wait(outbox.pause(&shoes(), "holiday", PausedBy::Operator, NOW_MS)).unwrap();
            outbox.lease_aged(&shoes(), 0, LATER_MS - 7 * 86_400_000, 2, LATER_MS)
        } else {
            outbox.lease(&shoes(), 9, u64::MAX, LATER_MS)
        };
        lease.unwrap().settle(vec![Settlement::Expire], LATER_MS);
        let status = outbox.status(&shoes());
        assert_eq!((status.pending, status.counts.damaged, status.counts.expired), (0, 3, 1), "paused: {pauses}");
        assert_eq!(lost.lock().unwrap().iter().map(|(.., events)| events).sum::<u64>(), 3);
        outbox.tick();
        assert!(!rig.files("log").contains(&path), "nothing keeps its segment");
    }
}

#[test]
fn a_segment_with_a_bad_sector_is_emptied_of_the_rest() {
    let rig = Rig { segment_bytes: 8 << 10, ..Rig::new() };
    let (slow, outbox) = (lane("slow", 9), rig.open());
    outbox.append_now(vec![event(&slow, "bad"), event(&slow, "good")]).unwrap();
    outbox.append_now(events(&shoes(), 0..40)).unwrap();
    outbox.append_now(events(&shoes(), 40..80)).unwrap();
    outbox.lease_all(&shoes()).unwrap().ack();
    let (path, at) = disk::find(&rig, r#""event_id":"bad""#);
    rig.disk.damage_sectors(&path, at..at + 1);
    outbox.tick();
    rig.disk.tamper(&path, |bytes| bytes.fill(0));
    rig.disk.damage_sectors(Path::new("/nothing"), 0..0);
    outbox.close();
    assert_eq!(rig.open().pending(&slow), ["good"], "it is in another segment");
}
