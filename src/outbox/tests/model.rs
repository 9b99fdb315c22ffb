//! Random operations and crashes, compared with a model that knows what must be there.

use std::collections::{HashMap, HashSet};

use proptest::prelude::*;

use super::*;

/// What is done to an outbox.
#[derive(Clone, Debug)]
enum Op {
    /// What a disk may refuse.
    Do(Act),
    /// The same while the disk refuses it.
    Failing(Trouble, Act),
    /// Leases from a lane.
    Lease { lane: usize, max: usize },
    /// Holds a lane, or ends that.
    Pause { lane: usize, hold: bool },
    /// An account is gone from the configuration for a moment, or both are.
    Forget { both: bool },
    /// The process dies.
    Kill,
    /// The power goes.
    PowerCut { seed: u64 },
    /// The power goes after some more changes to the disk.
    PowerCutAfter { changes: u64 },
    /// An orderly restart.
    Restart,
}

/// What is done to an outbox that writes.
#[derive(Clone, Debug)]
enum Act {
    /// Appends a group to a lane.
    Append { lane: usize, count: usize, size: usize },
    /// Ends one of the leases that are out.
    Settle { which: usize, how: How },
    /// Holds an event of a lane as a dead letter.
    Hold { lane: usize },
    /// Puts a dead letter into its lane.
    Replay { which: usize },
    /// Drops a dead letter.
    DropLetter { which: usize },
    /// Lets the keeper do its work.
    Tick,
}

/// What a disk does wrong.
#[derive(Clone, Copy, Debug)]
pub(super) enum Trouble {
    Writes,
    Syncs,
    DirSyncs,
    Full,
}

#[derive(Clone, Copy, Debug)]
enum How {
    Ack,
    Retry,
    Bury,
    Drop,
    AckHalf,
}

/// What is known of an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Known {
    /// It was not confirmed: it may be there.
    Maybe,
    /// It was confirmed: it is there.
    There,
    /// It was acknowledged: a kill does not bring it back, a power cut may.
    Acked,
    /// It was acknowledged while the disk refused: its mark may be in memory only.
    AckedLoosely,
    /// It was acknowledged, and the mark was synced: it never comes back.
    Gone,
    /// It is in the lane or in the dead letters, or for a moment in both.
    Buried,
    /// It is in the dead letters.
    Held,
    /// It was a dead letter and was dropped. It may be in its lane, if its burial was not marked durably.
    Dropped,
    /// It is in the lane, and in the dead letters too, maybe.
    Replayed,
}

struct Model {
    rig: Rig,
    outbox: Option<Outbox>,
    leases: Vec<Lease>,
    known: HashMap<String, (LaneKey, Known)>,
    /// Events that were in their lane and in the dead letters at one time: a replay doubles them.
    doubled: HashSet<String>,
    next: usize,
    seed: u64,
}

const LANES: usize = 3;

fn op() -> impl Strategy<Value = Op> {
    let how = prop_oneof![
        4 => Just(How::Ack), 2 => Just(How::Retry), 2 => Just(How::Bury), 1 => Just(How::Drop), 2 => Just(How::AckHalf)
    ];
    let act = prop_oneof![
        8 => (0..LANES, 1..6usize, 0..600usize).prop_map(|(lane, count, size)| Act::Append { lane, count, size }),
        6 => (0..4usize, how).prop_map(|(which, how)| Act::Settle { which, how }),
        2 => (0..LANES).prop_map(|lane| Act::Hold { lane }),
        2 => (0..4usize).prop_map(|which| Act::Replay { which }),
        1 => (0..4usize).prop_map(|which| Act::DropLetter { which }),
        3 => Just(Act::Tick),
    ];
    let trouble =
        prop_oneof![Just(Trouble::Writes), Just(Trouble::Syncs), Just(Trouble::DirSyncs), Just(Trouble::Full)];
    prop_oneof![
        16 => act.clone().prop_map(Op::Do),
        4 => (trouble, act).prop_map(|(trouble, act)| Op::Failing(trouble, act)),
        6 => (0..LANES, 1..8usize).prop_map(|(lane, max)| Op::Lease { lane, max }),
        1 => (0..LANES, any::<bool>()).prop_map(|(lane, hold)| Op::Pause { lane, hold }),
        3 => any::<bool>().prop_map(|both| Op::Forget { both }),
        1 => Just(Op::Kill),
        1 => any::<u64>().prop_map(|seed| Op::PowerCut { seed }),
        1 => (0..30u64).prop_map(|changes| Op::PowerCutAfter { changes }),
        1 => Just(Op::Restart),
    ]
}

fn lane_of(number: usize) -> LaneKey {
    lane(if number == 0 { "hats" } else { "shoes" }, number as u64 + 1)
}

impl Model {
    fn new() -> Self {
        let rig = Rig { leases_max: 1_000, ..Rig::new() };
        let outbox = Some(rig.open());
        let (known, doubled) = (HashMap::new(), HashSet::new());
        Self { rig, outbox, leases: Vec::new(), known, doubled, next: 0, seed: 1 }
    }

    fn outbox(&self) -> &Outbox {
        self.outbox.as_ref().unwrap()
    }

    fn run(&mut self, op: Op) {
        match op {
            Op::Do(act) => self.act(act, true),
            Op::Failing(trouble, act) => {
                self.rig.trouble(trouble, true);
                self.act(act, false);
                // Then the keeper has done what it was handed.
                self.outbox().tick();
                self.rig.trouble(trouble, false);
                let outbox = self.outbox().clone();
                let disk = self.rig.disk.clone();
                until("it recovers", || outbox.health() == Health::Accepting || disk.has_crashed());
            }
            Op::Lease { lane, max } => {
                let lane = lane_of(lane);
                let lease = self.outbox().lease(&lane, max, u64::MAX, NOW_MS);
                let paused = self.outbox().lanes().iter().any(|status| status.lane == lane && status.paused.is_some());
                assert!(lease.is_none() || !paused, "{lane} is paused");
                self.leases.extend(lease);
            }
            Op::Pause { lane, hold } => {
                let (lane, by) = (lane_of(lane), PausedBy::Delivery);
                let _ = match hold {
                    true => wait(self.outbox().pause(&lane, "holiday", by, NOW_MS)),
                    false => wait(self.outbox().resume(&lane, by)),
                };
            }
            Op::Forget { both } => self.outbox().forget_accounts(|account| both || account.as_str() == "shoes"),
            Op::Kill => self.restart(|rig, _| rig.disk.kill(), false),
            Op::PowerCut { seed } => {
                self.seed = seed;
                self.restart(|rig, seed| rig.disk.power_cut(seed), true);
            }
            Op::PowerCutAfter { changes } => self.rig.disk.crash_after(changes),
            Op::Restart => {
                self.leases.clear();
                self.outbox.take().unwrap().close();
                let crashed = self.rig.disk.has_crashed();
                self.restart(|_, _| {}, crashed);
            }
        }
        if self.rig.disk.has_crashed() {
            self.restart(|rig, seed| rig.disk.power_cut(seed), true);
        }
    }

    fn act(&mut self, act: Act, sound: bool) {
        match act {
            Act::Append { lane, count, size } => self.append(lane, count, size),
            Act::Settle { which, how } => {
                self.settle(which, how, if sound { Known::Acked } else { Known::AckedLoosely })
            }
            Act::Hold { lane } => self.hold(lane),
            Act::Replay { which } => self.replay(which),
            Act::DropLetter { which } => self.drop_letter(which),
            Act::Tick => self.tick(sound),
        }
    }

    fn hold(&mut self, lane: usize) {
        let (lane, id) = (lane_of(lane), format!("e{}", self.next));
        self.next += 1;
        let letter = DeadLetter { lane: lane.clone(), body: body(&id, 9), ..letters::held(&id) };
        let held = wait(self.outbox().hold(vec![letter]));
        self.known.insert(id, (lane, if held.is_ok() { Known::Held } else { Known::Maybe }));
    }

    /// A letter that nobody is burying now.
    fn a_letter(&self, which: usize) -> Option<(u64, String)> {
        let letters = self.outbox().dead_letters(None, usize::MAX);
        let letter = letters.get(which)?;
        Some((letter.id, letter.event_id.clone()))
    }

    fn replay(&mut self, which: usize) {
        let Some((id, event)) = self.a_letter(which) else { return };
        // Of one that was in the lane before, a mark that a power cut takes brings the old one back beside the new one.
        if self.known[&event].1 != Known::Held {
            self.doubled.insert(event.clone());
        }
        let claimed = self.outbox().claim_dead_letters(&[id]);
        let events: Vec<_> = claimed.letters().iter().map(|letter| letter.event(letter.body.clone())).collect();
        if events.is_empty() {
            return;
        }
        if wait(self.outbox().append_replayed(events, NOW_MS)).is_err() {
            // It may be in the lane too.
            self.doubled.insert(event);
            return;
        }
        // From here on it is in the lane; a letter that cannot be removed is there too.
        self.known.get_mut(&event).unwrap().1 = Known::Replayed;
        if wait(claimed.remove(&[id])).is_err() {
            self.doubled.insert(event);
        }
    }

    fn drop_letter(&mut self, which: usize) {
        let Some((id, event)) = self.a_letter(which) else { return };
        let dropped = wait(self.outbox().drop_dead_letters(&[id])) == Ok(1);
        // One whose burial was not marked durably may have been buried again.
        let another = self.outbox().dead_letters(None, usize::MAX).iter().any(|letter| letter.event_id == event);
        let known = &mut self.known.get_mut(&event).unwrap().1;
        if dropped {
            match known {
                _ if another => {}
                Known::Held | Known::Buried => *known = Known::Dropped,
                _ => {}
            }
        } else if matches!(known, Known::Held | Known::Buried) {
            // It may be gone at the next start.
            *known = Known::Maybe;
        }
    }

    fn append(&mut self, lane: usize, count: usize, size: usize) {
        let lane = lane_of(lane);
        let ids: Vec<_> = (self.next..self.next + count).map(|id| format!("e{id}")).collect();
        self.next += count;
        let group = ids.iter().map(|id| NewEvent { body: body(id, size), ..event(&lane, id) }).collect();
        let known = if self.outbox().append_now(group).is_ok() { Known::There } else { Known::Maybe };
        for id in ids {
            self.known.insert(id, (lane.clone(), known));
        }
    }

    fn settle(&mut self, which: usize, how: How, acked: Known) {
        if which >= self.leases.len() {
            return;
        }
        let lease = self.leases.swap_remove(which);
        let ids = event_ids(&lease);
        match how {
            How::Ack => {
                lease.ack();
                self.learn(&ids, acked);
            }
            How::Retry => lease.retry(0, Sent::Maybe),
            How::Bury => {
                self.learn(&ids, Known::Buried);
                lease.bury("refused", "Invalid parameter", NOW_MS);
            }
            How::Drop => drop(lease),
            How::AckHalf => {
                let half = ids.len().div_ceil(2);
                let settlements = vec![Settlement::Ack; half];
                lease.settle(settlements, NOW_MS);
                self.learn(&ids[..half], acked);
            }
        }
    }

    fn learn(&mut self, ids: &[String], known: Known) {
        for id in ids {
            self.known.get_mut(id).unwrap().1 = known;
        }
    }

    fn tick(&mut self, sound: bool) {
        self.outbox().tick();
        if self.rig.disk.has_crashed() || !sound {
            return;
        }
        for (_, known) in self.known.values_mut() {
            if matches!(known, Known::Acked | Known::AckedLoosely) {
                *known = Known::Gone;
            }
        }
    }

    /// Opens the outbox; a crash while it opens is followed by another try.
    fn reopen(&mut self) -> Outbox {
        loop {
            let opened = self.rig.try_open();
            if !self.rig.disk.has_crashed() {
                return opened.unwrap().0;
            }
            drop(opened);
            self.rig.disk.power_cut(self.seed);
        }
    }

    /// Ends this life, begins another, and looks whether all is as it must be.
    fn restart(&mut self, crash: impl FnOnce(&Rig, u64), power_cut: bool) {
        self.seed = self.seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        crash(&self.rig, self.seed);
        self.leases.clear();
        if let Some(outbox) = self.outbox.take() {
            outbox.close();
        }
        let outbox = self.reopen();
        let letters: Vec<_> = outbox.dead_letters(None, usize::MAX).into_iter().map(|letter| letter.event_id).collect();
        let mut waiting = HashMap::new();
        for number in 0..LANES {
            let lane = lane_of(number);
            for id in outbox.pending(&lane) {
                let owner = &self.known.get(&id).unwrap_or_else(|| panic!("{id} was never appended")).0;
                assert_eq!(*owner, lane);
                let twice = waiting.insert(id.clone(), ()).is_some();
                assert!(!twice || self.doubled.contains(&id), "{id} is there twice");
            }
        }
        for (id, (_, known)) in &mut self.known {
            let (waits, letter) = (waiting.contains_key(id), letters.contains(id));
            match known {
                Known::There | Known::Replayed => assert!(waits, "{id} was confirmed and is lost"),
                Known::Held => assert!(letter, "{id} was held and is lost"),
                _ if self.doubled.contains(id) => {}
                Known::Dropped => assert!(!letter, "{id} came back to the dead letters"),
                Known::Gone => assert!(!waits, "{id} came back"),
                Known::Acked if !power_cut => assert!(!waits, "{id} came back after a kill"),
                Known::Buried => assert!(waits || letter, "{id} was buried and is lost"),
                Known::Acked | Known::AckedLoosely | Known::Maybe => {}
            }
            *known = match (waits, letter) {
                (true, true) => Known::Replayed,
                (false, true) => Known::Buried,
                (true, false) => Known::There,
                // What a disk refused to sync may come to light at any later start.
                (false, false) if *known == Known::Maybe => Known::Maybe,
                // After a kill its mark is written and not yet synced.
                (false, false) if matches!(known, Known::Acked | Known::AckedLoosely) && !power_cut => Known::Acked,
                (false, false) if *known == Known::Dropped => Known::Dropped,
                (false, false) => Known::Gone,
            };
        }
        self.outbox = Some(outbox);
    }
}

fn body(id: &str, size: usize) -> Bytes {
    format!(r#"{{"event_id":"{id}","pad":"{}"}}"#, "x".repeat(size)).into()
}

proptest! {
    #![proptest_config(ProptestConfig {
        max_shrink_iters: 2_000, failure_persistence: None, ..ProptestConfig::default()
    })]

    #[test]
    fn what_was_confirmed_is_there_until_it_is_acknowledged(ops in proptest::collection::vec(op(), 1..80)) {
        let mut model = Model::new();
        for op in ops {
            model.run(op);
        }
        model.run(Op::PowerCut { seed: 99 });
        model.outbox.take().unwrap().close();
    }
}
