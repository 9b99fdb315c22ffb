//! Accounts that are gone, and what is left of them.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};

use super::*;

/// Says that a test is over, also one that fails.
struct Done<'a>(&'a AtomicBool);

impl Drop for Done<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

fn forget_all(outbox: &Outbox) {
    outbox.forget_accounts(|_| true);
}

#[test]
fn an_account_that_is_gone_leaves_nothing_and_comes_back_as_new() {
    let dir = tempfile::tempdir().unwrap();
    let open =
        || Outbox::open(Options { dir: dir.path().to_owned(), reserve_bytes: 0, ..Rig::new().options() }).unwrap().0;
    let (stays, outbox) = (lane("hats", 2), open());
    for lane in [&stays, &shoes()] {
        outbox.append_now(events(lane, 0..2)).unwrap();
        outbox.lease_all(lane).unwrap().ack();
        wait(outbox.pause(lane, "no token", PausedBy::Delivery, NOW_MS)).unwrap();
    }
    outbox.close();
    let outbox = open();
    assert_eq!(
        (outbox.lanes().len(), outbox.status(&shoes()).counts.delivered),
        (2, 2),
        "a restart alone forgets nothing"
    );
    outbox.forget_accounts(|account| account.as_str() == "shoes");
    assert!(!outbox.has_lane(&shoes()) && outbox.has_lane(&stays));
    outbox.close();
    let outbox = open();
    assert!(!outbox.has_lane(&shoes()), "nor is anything kept");
    assert_eq!(outbox.status(&stays).counts.delivered, 2);
    outbox.append_now(events(&shoes(), 2..3)).unwrap();
    let status = outbox.status(&shoes());
    assert_eq!((status.counts.delivered, status.paused, status.pending), (0, None, 1));
}

#[test]
fn whatever_is_left_of_an_account_keeps_it() {
    let outbox = Rig::new().open();
    let is_kept = |why: &str| {
        forget_all(&outbox);
        assert!(outbox.has_lane(&shoes()), "{why}");
    };
    let another = lane("shoes", 2);
    outbox.append_now(events(&shoes(), 0..2)).unwrap();
    wait(outbox.pause(&another, "no token", PausedBy::Delivery, NOW_MS)).unwrap();
    is_kept("events that wait");
    assert!(outbox.has_lane(&another), "an account goes as a whole");
    let lease = outbox.lease(&shoes(), 1, u64::MAX, NOW_MS).unwrap();
    outbox.lease_aged(&shoes(), 0, i64::from(u32::MAX) * 1_000, 9, NOW_MS).unwrap().ack();
    is_kept("a lease");
    lease.bury("refused", "Invalid parameter", NOW_MS);
    outbox.tick();
    is_kept("a dead letter");
    wait(outbox.drop_dead_letters(&outbox.dead_letter_ids(None))).unwrap();
    wait(outbox.pause(&shoes(), "holiday", PausedBy::Operator, NOW_MS)).unwrap();
    is_kept("a person's pause");
    wait(outbox.resume_account(&shoes().account)).unwrap();
    forget_all(&outbox);
    assert!(outbox.lanes().is_empty());
}

#[test]
fn an_account_is_not_forgotten_while_its_last_event_becomes_a_dead_letter() {
    let outbox = Rig::new().open();
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let _done = Done(&done);
        for _ in 0..2 {
            scope.spawn(|| {
                while !done.load(Ordering::Relaxed) {
                    forget_all(&outbox);
                }
            });
        }
        for _ in 0..300 {
            outbox.append_now(events(&shoes(), 0..1)).unwrap();
            outbox.lease_all(&shoes()).unwrap().bury("refused", "Invalid parameter", NOW_MS);
            let mut letters = Vec::new();
            until("the letter is there", || {
                letters = outbox.dead_letter_ids(None);
                !letters.is_empty()
            });
            outbox.tick();
            assert!(outbox.has_lane(&shoes()), "forgotten with a letter left");
            wait(outbox.drop_dead_letters(&letters)).unwrap();
        }
    });
}

#[test]
fn what_is_accepted_while_its_account_goes_is_neither_lost_nor_another_ones() {
    const EVENTS: usize = 400;
    let rig = Rig { segment_bytes: 16 << 10, ..Rig::new() };
    let outbox = rig.open();
    let lanes = [lane("shoes", 1), lane("hats", 2)];
    std::thread::scope(|scope| {
        let outbox = &outbox;
        let appending = lanes.each_ref().map(|lane| {
            scope.spawn(move || {
                for id in 0..EVENTS {
                    outbox.append_now(vec![event(lane, &format!("{lane} {id}"))]).unwrap();
                }
            })
        });
        scope.spawn(move || {
            while !appending.iter().all(std::thread::ScopedJoinHandle::is_finished) {
                forget_all(outbox);
            }
        });
        for lane in &lanes {
            let mut left: BTreeSet<_> = (0..EVENTS).map(|id| format!("{lane} {id}")).collect();
            scope.spawn(move || {
                until("all of its own are there, each once", || {
                    let lease = outbox.lease(lane, 3, u64::MAX, NOW_MS);
                    for id in lease.iter().flat_map(event_ids) {
                        assert!(left.remove(&id), "{id}");
                    }
                    lease.into_iter().for_each(Lease::ack);
                    left.is_empty()
                });
            });
        }
    });
    forget_all(&outbox);
    assert!(outbox.lanes().is_empty());
    // What the segments say of whose their events are holds too.
    outbox.append_now(events(&lanes[0], 0..1)).unwrap();
    outbox.close();
    let outbox = rig.open();
    assert_eq!((outbox.pending(&lanes[0]), outbox.has_lane(&lanes[1])), (vec!["e0".to_owned()], false));
}
