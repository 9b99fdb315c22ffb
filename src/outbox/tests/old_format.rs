//! The files that version 1 of the formats wrote, `tests/fixtures/outbox/v1/`, must open for ever.
//!
//! They were written once, by [`write_the_fixture`], and are never written again: a change of the format gets a fixture of
//! its own beside them. In them: 3 events of `shoes/1` and 2 of `hats/18446744073709551615` in a segment without a summary
//! and with a torn tail, 2 more of `shoes/1` in a segment with one; `e1` is settled, `e2` may have been sent once; `e9` is a
//! dead letter, another one is gone; `hats` is paused.

use std::fs;
use std::path::Path;

use super::*;

fn fixture() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/outbox/v1")
}

fn hats() -> LaneKey {
    lane("hats", u64::MAX)
}

fn open(dir: &Path) -> (Outbox, Recovered) {
    Outbox::open(Options { dir: dir.to_owned(), segment_bytes: 4_096, ..Rig::new().options() }).unwrap()
}

#[test]
fn version_1_opens() {
    let dir = tempfile::tempdir().unwrap();
    for folder in ["", "log", "dead"] {
        fs::create_dir_all(dir.path().join(folder)).unwrap();
        for entry in fs::read_dir(fixture().join(folder)).unwrap() {
            let entry = entry.unwrap();
            if entry.file_type().unwrap().is_file() {
                fs::copy(entry.path(), dir.path().join(folder).join(entry.file_name())).unwrap();
            }
        }
    }
    let (outbox, recovered) = open(dir.path());
    assert_eq!((recovered.pending, recovered.cut.len(), recovered.quarantined.len()), (6, 1, 0));
    let lease = outbox.lease_all(&shoes()).unwrap();
    let known: Vec<_> =
        lease.events().iter().map(|event| (event.event_id.as_str(), event.attempts, event.maybe_sent)).collect();
    assert_eq!(known, [("e0", 0, false), ("e2", 1, true), ("e5", 0, false), ("e6", 0, false)]);
    assert_eq!(lease.events()[0].body, event(&shoes(), "e0").body);
    assert_eq!((lease.events()[0].accepted_ms, lease.events()[0].event_time), (NOW_MS, NOW_MS / 1000));

    assert_eq!(outbox.status(&hats()).paused.unwrap().reason, "holiday");
    wait(outbox.resume(&hats(), PausedBy::Operator)).unwrap();
    let lease = outbox.lease_all(&hats()).unwrap();
    assert_eq!((event_ids(&lease), lease.envelope()), (vec!["e3".into(), "e4".into()], r#"{"test_event_code":"T"}"#));

    let letters = outbox.dead_letters(None, 9);
    let [letter] = letters.as_slice() else { panic!("{letters:?}") };
    assert_eq!((letter.event_id.as_str(), letter.reason.as_str(), letter.attempts), ("e9", "refused", 1));
    outbox.close();
}

/// Writes the fixture. Run by hand, and only into an empty folder: `cargo test write_the_fixture -- --ignored`.
#[test]
#[ignore = "the fixture is written once and then only read"]
fn write_the_fixture() {
    let dir = fixture();
    assert!(!dir.exists(), "the fixture is there and stays as it is");
    let (outbox, _) = open(&dir);
    outbox.append_now(events(&shoes(), 0..3)).unwrap();
    let of_hats = |id| NewEvent { envelope: r#"{"test_event_code":"T"}"#.into(), ..event(&hats(), id) };
    outbox.append_now(vec![of_hats("e3"), of_hats("e4")]).unwrap();
    let mut lease = outbox.lease(&shoes(), 3, u64::MAX, NOW_MS).unwrap();
    lease.mark_sent();
    lease.settle(vec![Settlement::Retry(Sent::Refused), Settlement::Ack, Settlement::Retry(Sent::Maybe)], NOW_MS);
    wait(outbox.pause(&hats(), "holiday", PausedBy::Operator, NOW_MS)).unwrap();
    // As if the process had been killed while it wrote.
    let first = dir.join("log/00000001.log");
    let mut bytes = fs::read(&first).unwrap();
    outbox.close();
    fs::remove_file(dir.join("log/00000001.index")).unwrap();
    let torn = bytes[28..90].to_vec();
    let at = torn.len();
    bytes.extend_from_slice(&torn[..at - 20]);
    fs::write(&first, bytes).unwrap();
    let done = fs::read(dir.join("log/00000001.done")).unwrap();
    let marks_of_e0 = |mark: &&[u8]| mark[0] == 1;
    let kept: Vec<u8> = done.chunks_exact(16).filter(|mark| !marks_of_e0(mark)).flatten().copied().collect();
    fs::write(dir.join("log/00000001.done"), kept).unwrap();

    let keep_first = fs::read(&first).unwrap();
    let (outbox, _) = open(&dir);
    outbox.append_now(events(&shoes(), 5..7)).unwrap();
    outbox.append_now(events(&lane("shoes", 7), 8..10)).unwrap();
    let mut lease = outbox.lease_all(&lane("shoes", 7)).unwrap();
    lease.mark_sent();
    lease.bury("refused", "Invalid parameter", NOW_MS);
    until("they are buried", || outbox.dead_letters(None, 9).len() == 2);
    let gone = outbox.dead_letters(None, 9).into_iter().find(|letter| letter.event_id == "e8").unwrap();
    wait(outbox.drop_dead_letters(&[gone.id])).unwrap();
    outbox.close();
    fs::write(&first, keep_first).unwrap();
    fs::remove_file(dir.join("log/00000001.index")).unwrap();
    fs::remove_file(dir.join("lock")).unwrap();
    fs::remove_dir_all(dir.join("quarantine")).unwrap();
}
