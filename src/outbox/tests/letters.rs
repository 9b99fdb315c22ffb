//! Dead letters: held, buried, replayed, dropped.

use super::*;

pub(super) fn held(id: &str) -> DeadLetter {
    DeadLetter {
        id: 0,
        lane: shoes(),
        event_name: "Purchase".into(),
        event_id: id.into(),
        event_time: NOW_MS / 1000,
        reason: "filter:consent".into(),
        message: "it trapped".into(),
        attempts: 0,
        accepted_ms: NOW_MS,
        dead_ms: NOW_MS,
        envelope: "".into(),
        body: Bytes::from_static(b"{}"),
        context: "as it came".into(),
    }
}

impl Outbox {
    /// Puts letters back into their lanes, as a replay does.
    fn replay(&self, ids: &[u64]) -> Result<usize, String> {
        let claimed = self.claim_dead_letters(ids);
        let events = claimed.letters().iter().map(|letter| letter.event(letter.body.clone())).collect();
        wait(self.append_replayed(events, NOW_MS)).map_err(|error| error.to_string())?;
        wait(claimed.remove(ids)).map_err(|error| error.to_string())
    }
}

#[test]
fn a_full_volume_holds_no_more_events() {
    let rig = Rig::new();
    let outbox = rig.open();
    wait(outbox.hold(vec![held("a")])).unwrap();
    rig.disk.leave_free(1 << 19);
    let refused = wait(outbox.hold(vec![held("b")]));
    assert!(matches!(refused, Err(DeadLetterError::Unavailable(_))), "{refused:?}");
    rig.disk.leave_free(1 << 40);
    wait(outbox.hold(vec![held("c")])).unwrap();
    let ids = outbox.dead_letter_ids(Some(&shoes().account));
    assert_eq!(ids.len(), 2);
    assert!(outbox.dead_letter_ids(Some(&lane("hats", 2).account)).is_empty());
    assert_eq!(outbox.dead_letter_counts().into_iter().collect::<Vec<_>>(), [(shoes(), 2)]);
    assert_eq!(wait(outbox.drop_dead_letters(&ids)), Ok(2));
    assert!(outbox.dead_letter_counts().is_empty());
}

#[test]
fn a_buried_event_is_a_letter_before_it_is_settled() {
    // Crashes at every change between the two.
    for crash_at in 0..6 {
        let rig = Rig::new();
        let outbox = rig.open();
        outbox.append_now(events(&shoes(), 0..1)).unwrap();
        rig.disk.crash_after(crash_at);
        outbox.lease_all(&shoes()).unwrap().bury("refused", "Invalid parameter", NOW_MS);
        outbox.tick();
        rig.disk.power_cut(crash_at);
        outbox.close();
        let outbox = rig.open();
        let (pending, letters) = (outbox.pending(&shoes()), outbox.dead_letters(None, 9));
        assert!(pending == ["e0"] || letters.len() == 1, "crash after {crash_at} changes");
    }
}

#[test]
fn what_cannot_be_buried_goes_back() {
    let rig = Rig::new();
    let outbox = rig.open();
    outbox.append_now(events(&shoes(), 0..1)).unwrap();
    rig.disk.fail_syncs(true);
    outbox.lease_all(&shoes()).unwrap().bury("refused", "Invalid parameter", NOW_MS);
    until("it is back", || outbox.status(&shoes()).in_flight == 0);
    rig.disk.fail_syncs(false);
    let status = outbox.status(&shoes());
    assert_eq!((status.pending, status.counts.dead), (1, 0));
    assert!(status.not_before_ms > NOW_MS);
}

#[test]
fn held_events_are_kept_up_to_the_accounts_limit() {
    let rig = Rig { letters_max: 2, ..Rig::new() };
    let outbox = rig.open();
    wait(outbox.hold(vec![held("a"), held("b")])).unwrap();
    assert_eq!(wait(outbox.hold(vec![held("c")])), Err(DeadLetterError::Full));
    assert_eq!(outbox.append_now(events(&shoes(), 0..1)), Err(AppendError::DeadLetters));
    outbox.append_now(events(&lane("hats", 2), 0..1)).unwrap();
    rig.disk.power_cut(1);
    drop(outbox);
    let letters = rig.open().dead_letters(Some(&shoes().account), 9);
    assert_eq!(letters.iter().map(|letter| letter.event_id.as_str()).collect::<Vec<_>>(), ["b", "a"]);
    assert_eq!(letters[1], DeadLetter { id: letters[1].id, ..held("a") });
}

#[test]
fn replayed_letters_are_in_their_lane_again_with_their_ids() {
    let rig = Rig::new();
    let outbox = rig.open();
    outbox.append_now(events(&shoes(), 0..2)).unwrap();
    outbox.lease_all(&shoes()).unwrap().bury("refused", "Invalid parameter", NOW_MS);
    outbox.tick();
    let ids = outbox.dead_letter_ids(None);
    assert_eq!(outbox.replay(&ids), Ok(2));
    assert_eq!(outbox.pending(&shoes()), ["e0", "e1"]);
    assert!(outbox.dead_letters(None, 9).is_empty());
    assert_eq!(outbox.replay(&ids), Ok(0), "a second time there is nothing");
}

#[test]
fn an_account_with_all_its_letters_can_replay_them() {
    let rig = Rig { letters_max: 1, ..Rig::new() };
    let outbox = rig.open();
    wait(outbox.hold(vec![held("a")])).unwrap();
    assert_eq!(outbox.append_now(events(&shoes(), 0..1)), Err(AppendError::DeadLetters));
    assert_eq!(outbox.replay(&outbox.dead_letter_ids(None)), Ok(1));
    assert_eq!(outbox.pending(&shoes()), ["a"]);
    outbox.append_now(events(&shoes(), 0..1)).unwrap();
}

#[test]
fn a_claimed_letter_is_given_back_unless_removed() {
    let rig = Rig::new();
    let outbox = rig.open();
    wait(outbox.hold(vec![held("a"), held("b")])).unwrap();
    let ids: Vec<_> = outbox.dead_letters(None, 9).iter().map(|letter| letter.id).collect();
    let claimed = outbox.claim_dead_letters(&ids);
    assert_eq!(claimed.letters().len(), 2);
    assert_eq!(wait(outbox.drop_dead_letters(&ids)), Ok(0), "somebody else has them");
    assert_eq!(wait(claimed.remove(&ids[..1])), Ok(1));
    assert_eq!(wait(outbox.drop_dead_letters(&ids)), Ok(1));
}

#[test]
fn a_crash_while_replaying_never_loses_a_letter() {
    for crash_at in 0..6 {
        let rig = Rig::new();
        let outbox = rig.open();
        wait(outbox.hold(vec![held("e0")])).unwrap();
        let ids: Vec<_> = outbox.dead_letters(None, 9).iter().map(|letter| letter.id).collect();
        rig.disk.crash_after(crash_at);
        let replayed = outbox.replay(&ids);
        rig.disk.power_cut(crash_at + 5);
        outbox.close();
        let outbox = rig.open();
        let (pending, letters) = (outbox.pending(&shoes()).len(), outbox.dead_letters(None, 9).len());
        assert!(pending + letters >= 1, "crash after {crash_at} changes");
        assert!(replayed.is_err() || (pending, letters) == (1, 0), "crash after {crash_at} changes");
    }
}

#[test]
fn old_letters_are_purged_and_counted() {
    let rig = Rig::new();
    let (lost, on_lost) = losses();
    let outbox = rig.open_with(Options { on_lost, ..rig.options() }).unwrap().0;
    wait(outbox.hold(vec![held("a"), held("c"), DeadLetter { dead_ms: NOW_MS + 10, ..held("b") }])).unwrap();
    assert_eq!(wait(outbox.drop_dead_letters(&outbox.dead_letter_ids(None)[1..2])), Ok(1));
    assert_eq!(wait(outbox.purge_dead_letters(NOW_MS + 5)), Ok(1));
    assert_eq!(outbox.dead_letters(None, 9)[0].event_id, "b");
    assert_eq!(outbox.status(&shoes()).counts.purged, 1, "what a person drops is no loss");
    assert_eq!(*lost.lock().unwrap(), [(shoes(), Lost::Purged, 1)]);
}
