//! Random operations and crashes, compared with a model that knows what must be there.

use std::collections::HashMap;

use proptest::prelude::*;

use super::*;

/// What is done to an outbox.
#[derive(Clone, Debug)]
enum Op {
    /// Appends a group to a lane.
    Append { lane: usize, count: usize, size: usize },
    /// The same while syncs fail.
    AppendFailing { lane: usize },
    /// Leases from a lane.
    Lease { lane: usize, max: usize },
    /// Ends one of the leases that are out.
    Settle { which: usize, how: How },
    /// Lets the keeper do its work.
    Tick,
    /// The process dies.
    Kill,
    /// The power goes.
    PowerCut { seed: u64 },
    /// The power goes after some more changes to the disk.
    PowerCutAfter { changes: u64 },
    /// An orderly restart.
    Restart,
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
    /// It was acknowledged, and the mark was synced: it never comes back.
    Gone,
    /// It is in the lane or in the dead letters, or for a moment in both.
    Buried,
}

struct Model {
    rig: Rig,
    outbox: Option<Outbox>,
    leases: Vec<Lease>,
    known: HashMap<String, (LaneKey, Known)>,
    next: usize,
    seed: u64,
}

const LANES: usize = 3;

fn op() -> impl Strategy<Value = Op> {
    let how = prop_oneof![
        4 => Just(How::Ack), 2 => Just(How::Retry), 2 => Just(How::Bury), 1 => Just(How::Drop), 2 => Just(How::AckHalf)
    ];
    prop_oneof![
        8 => (0..LANES, 1..6usize, 0..600usize).prop_map(|(lane, count, size)| Op::Append { lane, count, size }),
        1 => (0..LANES).prop_map(|lane| Op::AppendFailing { lane }),
        6 => (0..LANES, 1..8usize).prop_map(|(lane, max)| Op::Lease { lane, max }),
        6 => (0..4usize, how).prop_map(|(which, how)| Op::Settle { which, how }),
        3 => Just(Op::Tick),
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
        Self { rig, outbox, leases: Vec::new(), known: HashMap::new(), next: 0, seed: 1 }
    }

    fn outbox(&self) -> &Outbox {
        self.outbox.as_ref().unwrap()
    }

    fn run(&mut self, op: Op) {
        match op {
            Op::Append { lane, count, size } => self.append(lane, count, size),
            Op::AppendFailing { lane } => {
                self.rig.disk.fail_syncs(true);
                self.append(lane, 2, 50);
                self.rig.disk.fail_syncs(false);
                let outbox = self.outbox().clone();
                let disk = self.rig.disk.clone();
                until("it recovers", || outbox.health() == Health::Accepting || disk.has_crashed());
            }
            Op::Lease { lane, max } => {
                let lease = self.outbox().lease(&lane_of(lane), max, u64::MAX, NOW_MS);
                self.leases.extend(lease);
            }
            Op::Settle { which, how } => self.settle(which, how),
            Op::Tick => self.tick(),
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

    fn settle(&mut self, which: usize, how: How) {
        if which >= self.leases.len() {
            return;
        }
        let lease = self.leases.swap_remove(which);
        let ids = event_ids(&lease);
        match how {
            How::Ack => {
                lease.ack();
                self.learn(&ids, Known::Acked);
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
                self.learn(&ids[..half], Known::Acked);
            }
        }
    }

    fn learn(&mut self, ids: &[String], known: Known) {
        for id in ids {
            self.known.get_mut(id).unwrap().1 = known;
        }
    }

    fn tick(&mut self) {
        self.outbox().tick();
        if self.rig.disk.has_crashed() {
            return;
        }
        for (_, known) in self.known.values_mut() {
            if *known == Known::Acked {
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
                assert!(waiting.insert(id.clone(), ()).is_none(), "{id} is there twice");
            }
        }
        for (id, (_, known)) in &mut self.known {
            let (waits, letter) = (waiting.contains_key(id), letters.contains(id));
            match known {
                Known::There => assert!(waits, "{id} was confirmed and is lost"),
                Known::Gone => assert!(!waits, "{id} came back"),
                Known::Acked if !power_cut => assert!(!waits, "{id} came back after a kill"),
                Known::Buried => assert!(waits || letter, "{id} was buried and is lost"),
                Known::Acked | Known::Maybe => {}
            }
            *known = match (waits, letter) {
                (_, true) => Known::Buried,
                (true, false) => Known::There,
                // What a disk refused to sync may come to light at any later start.
                (false, false) if *known == Known::Maybe => Known::Maybe,
                // After a kill its mark is written and not yet synced.
                (false, false) if *known == Known::Acked && !power_cut => Known::Acked,
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
    #![proptest_config(ProptestConfig { max_shrink_iters: 2_000, failure_persistence: None, ..ProptestConfig::default() })]

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
