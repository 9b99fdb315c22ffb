//! What becomes of events when the disk tears, flips, fails or fills, and of space that is no longer needed.

use std::io::ErrorKind;

use super::*;
use crate::outbox::log::file::Disk;

/// Where the body of an event is in the files of the log.
pub(super) fn find(rig: &Rig, needle: &str) -> (PathBuf, usize) {
    let mut found = None;
    for path in rig.files("log") {
        rig.disk.tamper(&path, |bytes| {
            if let Some(at) = bytes.windows(needle.len()).position(|window| window == needle.as_bytes()) {
                found = Some((path.clone(), at));
            }
        });
    }
    found.unwrap()
}

pub(super) fn flip(rig: &Rig, needle: &str) {
    let (path, at) = find(rig, needle);
    rig.disk.tamper(&path, |bytes| bytes[at] ^= 1);
}

#[test]
fn only_one_process_has_it() {
    let dir = tempfile::tempdir().unwrap();
    let options = || Options { dir: dir.path().to_owned(), ..Rig::new().options() };
    let (outbox, _) = Outbox::open(options()).unwrap();
    let second = Outbox::open(options()).map(|_| ()).unwrap_err();
    assert!(matches!(second, OpenError::InUse { .. }));
    assert!(second.to_string().contains("in use by another process"), "{second}");
    outbox.close();
    Outbox::open(options()).unwrap().0.close();
}

#[test]
fn a_torn_tail_is_cut() {
    let rig = Rig { segment_bytes: 1 << 20, ..Rig::new() };
    let outbox = rig.open();
    outbox.append_now(events(&shoes(), 0..3)).unwrap();
    rig.disk.crash_after(0);
    assert!(outbox.append_now(events(&shoes(), 3..6)).is_err());
    // The write that was under way reached the disk but for its last bytes.
    rig.disk.kill();
    let path = rig.files("log").remove(0);
    rig.disk.tamper(&path, |bytes| bytes.truncate(bytes.len() - 3));

    let (outbox, recovered) = rig.try_open().unwrap();
    assert_eq!((recovered.pending, recovered.cut.len(), recovered.quarantined.len()), (3, 1, 0));
    rig.disk.tamper(&path, |bytes| assert_eq!(bytes.len() as u64, recovered.cut[0].at));
    let kept = recovered.cut[0].kept.as_ref().unwrap();
    rig.disk.tamper(kept, |bytes| {
        let text = String::from_utf8_lossy(bytes);
        let whole = ["e3", "e4", "e5"].map(|id| text.contains(&format!(r#""event_id":"{id}""#)));
        assert_eq!(whole, [true, true, false], "what was whole of it, should the disk have lost what it said it had");
    });
    assert_eq!(outbox.pending(&shoes()), ["e0", "e1", "e2"], "of a group that was not confirmed, nothing is there");
    drop(outbox);
    rig.disk.kill();
    let (_outbox, recovered) = rig.try_open().unwrap();
    assert_eq!((recovered.pending, recovered.cut.len()), (3, 0), "a second start finds nothing to cut");
}

#[test]
fn of_a_torn_group_with_a_hole_a_second_start_finds_what_the_first_did() {
    let rig = Rig { segment_bytes: 1 << 20, ..Rig::new() };
    let outbox = rig.open();
    outbox.append_now(events(&shoes(), 0..3)).unwrap();
    rig.disk.crash_after(0);
    assert!(outbox.append_now(events(&shoes(), 3..8)).is_err());
    rig.disk.kill();
    drop(outbox);
    flip(&rig, r#""event_id":"e5""#);
    let path = rig.files("log").remove(0);
    rig.disk.tamper(&path, |bytes| bytes.truncate(bytes.len() - 3));
    for _ in 0..2 {
        let outbox = rig.open();
        assert_eq!(outbox.pending(&shoes()), ["e0", "e1", "e2"]);
        assert_eq!(rig.quarantined(), 1, "it may have been confirmed, and damaged since");
        rig.disk.kill();
        drop(outbox);
        rig.files("index").iter().for_each(|index| rig.disk.remove(index).unwrap());
    }
}

#[test]
fn a_flipped_bit_costs_one_event_and_is_kept() {
    let rig = Rig { segment_bytes: 1 << 20, ..Rig::new() };
    let outbox = rig.open();
    outbox.append_now(events(&shoes(), 0..3)).unwrap();
    outbox.append_now(events(&shoes(), 3..6)).unwrap();
    flip(&rig, r#""event_id":"e1""#);
    rig.disk.kill();
    drop(outbox);
    let (outbox, recovered) = rig.try_open().unwrap();
    assert_eq!((recovered.pending, recovered.quarantined.len(), rig.quarantined()), (5, 1, 1));
    assert_eq!(outbox.pending(&shoes()), ["e0", "e2", "e3", "e4", "e5"]);
}

#[test]
fn damage_behind_a_summary_is_found_when_it_is_read() {
    let rig = Rig { segment_bytes: 1 << 20, ..Rig::new() };
    let outbox = rig.open();
    outbox.append_now(events(&shoes(), 0..6)).unwrap();
    outbox.close();
    flip(&rig, r#""event_id":"e1""#);
    let (lost, on_lost) = losses();
    let (outbox, recovered) = rig.open_with(Options { on_lost, ..rig.options() }).unwrap();
    assert_eq!((recovered.pending, recovered.quarantined.len()), (6, 0));
    assert_eq!(outbox.pending(&shoes()), ["e0", "e2", "e3", "e4", "e5"]);
    let status = outbox.status(&shoes());
    assert_eq!((rig.quarantined(), status.pending, status.counts.damaged), (1, 5, 1));
    assert_eq!(*lost.lock().unwrap(), [(shoes(), Lost::Damaged, 1)]);
}

#[test]
fn a_damaged_header_costs_nothing() {
    let rig = Rig { segment_bytes: 1 << 20, ..Rig::new() };
    let outbox = rig.open();
    outbox.append_now(events(&shoes(), 0..3)).unwrap();
    let path = rig.files("log").remove(0);
    rig.disk.tamper(&path, |bytes| bytes[9] ^= 1);
    rig.disk.kill();
    drop(outbox);
    let (outbox, recovered) = rig.try_open().unwrap();
    assert_eq!((recovered.pending, recovered.quarantined.len()), (3, 1));
    assert_eq!(outbox.pending(&shoes()), ["e0", "e1", "e2"]);
}

#[test]
fn a_segment_of_which_nothing_is_readable_is_put_aside() {
    let rig = Rig { segment_bytes: 1 << 20, ..Rig::new() };
    let outbox = rig.open();
    outbox.append_now(events(&shoes(), 0..2)).unwrap();
    let path = rig.files("log").remove(0);
    rig.disk.tamper(&path, |bytes| bytes.iter_mut().for_each(|byte| *byte ^= 0x55));
    rig.disk.kill();
    drop(outbox);
    for _ in 0..2 {
        rig.disk.fill(true);
        let (outbox, recovered) = rig.try_open().unwrap();
        assert_eq!((recovered.pending, recovered.quarantined.len(), rig.files("log").contains(&path)), (0, 0, true));
        rig.disk.kill();
        drop(outbox);
    }
    rig.disk.fill(false);
    let (_outbox, recovered) = rig.try_open().unwrap();
    assert_eq!((recovered.quarantined.len(), rig.files("log").contains(&path)), (1, false));
}

#[test]
fn a_newer_format_is_not_opened() {
    let rig = Rig::new();
    let outbox = rig.open();
    outbox.append_now(events(&shoes(), 0..1)).unwrap();
    let path = rig.files("log").remove(0);
    rig.disk.tamper(&path, |bytes| {
        bytes[8] = 2;
        let crc = crc32c::crc32c(&bytes[..24]);
        bytes[24..28].copy_from_slice(&crc.to_le_bytes());
    });
    rig.disk.kill();
    drop(outbox);
    assert!(matches!(rig.try_open(), Err(OpenError::NewerFormat { version: 2, .. })));
}

#[test]
fn an_old_outbox_starts_and_delivers_on_a_disk_that_takes_nothing() {
    let rig = Rig::new();
    let outbox = rig.open();
    outbox.append_now(events(&shoes(), 0..2)).unwrap();
    outbox.close();
    rig.disk.fill(true);
    let outbox = rig.open();
    assert!(matches!(outbox.health(), Health::Full { .. }));
    outbox.lease_all(&shoes()).unwrap().ack();
    rig.disk.fill(false);
    until("it accepts", || outbox.append_now(events(&shoes(), 2..3)).is_ok());
    assert_eq!(outbox.pending(&shoes()), ["e2"]);
}

#[test]
fn a_killed_outbox_starts_on_a_disk_that_takes_nothing() {
    let rig = Rig { segment_bytes: 1 << 20, ..Rig::new() };
    let outbox = rig.open();
    outbox.append_now(events(&shoes(), 0..2)).unwrap();
    rig.disk.kill();
    drop(outbox);
    rig.disk.fill(true);
    assert_eq!(rig.open().pending(&shoes()), ["e0", "e1"], "no summary is there, and none can be written");
}

#[test]
fn damage_that_a_full_disk_has_no_room_for_stays_where_it_is_and_nothing_waits_for_it() {
    // In the middle of a group, and of one whose end is not whole, so that nothing of it counts.
    for (ids, torn_bytes, pending) in [(0..3, 0, 2), (0..4, 3, 0)] {
        let rig = Rig { segment_bytes: 1 << 20, ..Rig::new() };
        let outbox = rig.open();
        outbox.append_now(events(&shoes(), ids)).unwrap();
        rig.disk.kill();
        drop(outbox);
        flip(&rig, r#""event_id":"e1""#);
        let path = rig.files("log").remove(0);
        rig.disk.tamper(&path, |bytes| bytes.truncate(bytes.len() - torn_bytes));
        rig.disk.fill(true);
        let (outbox, recovered) = rig.try_open().unwrap();
        assert_eq!((recovered.pending, recovered.quarantined.len(), recovered.cut), (pending, 0, vec![]));
        rig.disk.fill(false);
        if let Some(lease) = outbox.lease_all(&shoes()) {
            lease.ack();
        }
        outbox.tick();
        assert!(rig.files("log").contains(&path));
        outbox.close();
        let (outbox, recovered) = rig.try_open().unwrap();
        assert_eq!((recovered.pending, recovered.quarantined.len(), rig.quarantined()), (0, 1, 1));
        outbox.tick();
        assert!(!rig.files("log").contains(&path));
        outbox.close();
    }
}

#[test]
fn a_start_removes_what_is_left_of_segments_that_are_gone() {
    let rig = Rig::new();
    let outbox = rig.open();
    outbox.append_now(events(&shoes(), 0..2)).unwrap();
    outbox.close();
    let orphans = ["/o/log/00000090.done", "/o/log/00000091.index"].map(PathBuf::from);
    for orphan in &orphans {
        rig.disk.create(orphan).unwrap();
    }
    let outbox = rig.open();
    let left = rig.disk.paths();
    assert!(orphans.iter().all(|orphan| !left.contains(orphan)), "{left:?}");
    assert_eq!(outbox.pending(&shoes()), ["e0", "e1"]);
}

#[test]
fn the_reserve_is_kept_free() {
    let rig = Rig { segment_bytes: 1 << 20, ..Rig::new() };
    let outbox = rig.open();
    outbox.append_now(events(&shoes(), 0..2)).unwrap();
    rig.disk.fill(true);
    until("it is known", || outbox.append_now(events(&shoes(), 2..3)) == Err(AppendError::Full));
    assert!(matches!(outbox.health(), Health::Full { free: 0, .. }));
    rig.disk.fill(false);
    until("there is room again", || outbox.append_now(events(&shoes(), 9..10)).is_ok());
    assert_eq!(outbox.health(), Health::Accepting);
    assert_eq!(outbox.pending(&shoes()).last().unwrap(), "e9");
}

#[test]
fn settled_segments_go_and_are_used_again() {
    let rig = Rig::new();
    let outbox = rig.open();
    for round in 0..20 {
        outbox.append_now(events(&shoes(), 10 * round..10 * round + 10)).unwrap();
        outbox.lease_all(&shoes()).unwrap().ack();
        outbox.tick();
        assert!(rig.files("log").len() <= 2);
        assert!(round == 0 || (1..=2).contains(&rig.files("free").len()));
        assert_eq!(rig.files("done").len(), rig.files("log").len());
    }
    outbox.append_now(events(&shoes(), [777])).unwrap();
    rig.disk.power_cut(11);
    drop(outbox);
    let (outbox, recovered) = rig.try_open().unwrap();
    assert!(recovered.quarantined.is_empty() && recovered.cut.is_empty(), "an old life's records are no damage");
    assert_eq!(outbox.pending(&shoes()), ["e777"]);
}

#[test]
fn a_kill_while_a_segment_is_given_back_brings_nothing_back() {
    for crash_at in 0..16 {
        let rig = Rig { leases_max: 9, ..Rig::new() };
        let outbox = rig.open();
        outbox.append_now(events(&shoes(), 0..60)).unwrap();
        outbox.lease_all(&shoes()).unwrap().ack();
        outbox.append_now(events(&shoes(), 60..61)).unwrap();
        rig.disk.crash_after(crash_at);
        outbox.tick();
        rig.disk.kill();
        outbox.close();
        assert_eq!(rig.open().pending(&shoes()), ["e60"], "crash after {crash_at} changes");
    }
}

#[test]
fn a_state_that_the_disk_refuses_is_not_told_as_damaged() {
    let told = |code: i32| {
        let error =
            rusqlite::Error::SqliteFailure(rusqlite::ffi::Error::new(code), Some("refused: /state.sqlite".into()));
        OpenError::of_state("/state.sqlite".into(), error)
    };
    let refused = |code, kind| {
        let error = told(code);
        assert!(matches!(&error, OpenError::Io { source, .. } if source.kind() == kind), "{error:?}");
        assert_eq!(error.to_string(), "/state.sqlite: refused", "the path once");
    };
    refused(rusqlite::ffi::SQLITE_CANTOPEN, ErrorKind::PermissionDenied);
    refused(rusqlite::ffi::SQLITE_READONLY, ErrorKind::PermissionDenied);
    refused(rusqlite::ffi::SQLITE_FULL, ErrorKind::StorageFull);
    refused(rusqlite::ffi::SQLITE_IOERR, ErrorKind::Other);
    refused(rusqlite::ffi::SQLITE_BUSY, ErrorKind::ResourceBusy);
    refused(rusqlite::ffi::SQLITE_LOCKED, ErrorKind::ResourceBusy);
    refused(rusqlite::ffi::SQLITE_PROTOCOL, ErrorKind::ResourceBusy);
    refused(rusqlite::ffi::SQLITE_NOMEM, ErrorKind::OutOfMemory);
    assert!(matches!(told(rusqlite::ffi::SQLITE_NOTADB), OpenError::State { .. }));
    let newer = rusqlite::Error::IntegralValueOutOfRange(0, 9);
    assert!(matches!(OpenError::of_state("/s".into(), newer), OpenError::NewerFormat { version: 9, .. }));
}
