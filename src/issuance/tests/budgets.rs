//! What holds of budgets however orders come.

use std::collections::HashMap;

use proptest::prelude::*;

use super::*;
use crate::issuance::budget::cost;

proptest! {
    /// However orders come, no budget is overrun: of a bucket with `max` that refills one each `cost`, any stretch of time
    /// gets at most `max` and what flows back meanwhile.
    #[test]
    fn no_budget_is_overrun(
        max in 1u32..40, window_s in 40u64..4_000, waits in proptest::collection::vec(0i64..400, 1..300),
    ) {
        let mut ca = (*account("a")).clone();
        let huge = AcmeBudget { max: 1_000_000, window: HOUR };
        let budget = AcmeBudget { max, window: Duration::from_secs(window_s) };
        ca.budgets = AcmeBudgets { new_orders: budget, domain_certificates: huge, duplicates: huge, failures: huge };
        let (mut budgets, mut now_ms, mut taken) = (Budgets::default(), NOW_MS, Vec::new());
        for wait in waits {
            now_ms += wait * SECOND_MS / 4;
            let ready = budgets.ready_at(&ca, "a.example.com", Kind::New, now_ms);
            prop_assert!(ready <= now_ms + cost(budget), "it never waits longer than for one");
            if ready <= now_ms {
                budgets.take(&ca, "a.example.com", Kind::New, now_ms);
                taken.push(now_ms);
            }
        }
        let cost = cost(budget);
        for (first, from) in taken.iter().enumerate() {
            for (last, until) in taken.iter().enumerate().skip(first) {
                let allowed = i64::from(max) + (until - from) / cost + 1;
                prop_assert!((last - first + 1) as i64 <= allowed, "{} in {} ms", last - first + 1, until - from);
            }
        }
    }

    /// A clock that jumps never locks a name out for longer than a window.
    #[test]
    fn a_clock_that_jumps_locks_nobody_out(jump_days in -400i64..400) {
        let ca = account("a");
        let mut budgets = Budgets::default();
        for _ in 0..400 {
            budgets.take(&ca, "a.example.com", Kind::New, NOW_MS);
        }
        budgets.pause("a", "", NOW_MS + DAY_MS, NOW_MS);
        let now_ms = NOW_MS + jump_days * DAY_MS;
        let ready = budgets.ready_at(&ca, "a.example.com", Kind::New, now_ms);
        prop_assert!(ready <= now_ms + 8 * DAY_MS);
    }

    /// The budgets come back from disk as they were.
    #[test]
    fn budgets_survive_a_restart(orders in proptest::collection::vec((0usize..5, 0i64..600), 1..60)) {
        let ca = account("a");
        let (mut budgets, mut disk, mut now_ms) = (Budgets::default(), HashMap::new(), NOW_MS);
        for (n, wait) in orders {
            now_ms += wait * SECOND_MS;
            budgets.take(&ca, &format!("n{n}.shop.example"), Kind::New, now_ms);
            for (key, paid) in budgets.take_changed(now_ms) {
                match paid {
                    Some(paid) => drop(disk.insert(key, paid)),
                    None => drop(disk.remove(&key)),
                }
            }
        }
        let restored = Budgets::restored(disk);
        for n in 0..5 {
            let name = format!("n{n}.shop.example");
            let at = |budgets: &Budgets| budgets.ready_at(&ca, &name, Kind::New, now_ms).max(now_ms);
            prop_assert_eq!(at(&restored), at(&budgets));
        }
    }
}

#[test]
fn what_was_taken_for_names_long_ago_is_forgotten_on_disk_too() {
    let ca = account("a");
    let (mut budgets, mut disk, mut now_ms) = (Budgets::default(), HashMap::new(), NOW_MS);
    for day in 0..100 {
        now_ms += DAY_MS;
        for n in 0..100 {
            budgets.take(&ca, &format!("n{n}.shop{day}.example"), Kind::New, now_ms);
        }
        for (key, paid) in budgets.take_changed(now_ms) {
            match paid {
                Some(paid) => drop(disk.insert(key, paid)),
                None => drop(disk.remove(&key)),
            }
        }
    }
    assert!(disk.len() < 5_000, "{} of 10,000 names", disk.len());
    let at = |budgets: &Budgets| budgets.ready_at(&ca, "new.shop99.example", Kind::New, now_ms);
    assert!(at(&budgets) > now_ms, "the last day's are not");
    assert_eq!(at(&Budgets::restored(disk)), at(&budgets));
}
