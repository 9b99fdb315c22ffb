//! What an operator is told of the plan is what the plan does.

use super::*;
use crate::issuance::budget::Limit;
use crate::issuance::outlook::{Outlook, Play, foresee};

/// Names without a certificate, and what is ahead of them.
fn ahead(names: &[ServerName], config: &AcmeConfig, budgets: &Budgets) -> Vec<Outlook<'static>> {
    let nothing: &'static NameState = Box::leak(Box::default());
    let names: &'static [ServerName] = names.to_vec().leak();
    let subjects: Vec<_> = names
        .iter()
        .enumerate()
        .map(|(rank, name)| Subject { rank, ..subject(name, Present::Nothing, nothing) })
        .collect();
    foresee(&subjects, config, budgets, NOW_MS).into_iter().map(Option::unwrap).collect()
}

/// When each name's order begins if all are asked after whenever something may have changed, in their order.
fn begun(names: &[ServerName], config: &AcmeConfig, mut budgets: Budgets) -> Vec<i64> {
    let (nothing, mut now_ms) = (NameState::default(), NOW_MS);
    let mut begun: Vec<Option<i64>> = vec![None; names.len()];
    while begun.contains(&None) {
        let mut next_ms = i64::MAX;
        for (name, begun) in names.iter().zip(&mut begun).filter(|(_, begun)| begun.is_none()) {
            match choose(&subject(name, Present::Nothing, &nothing), config, &budgets, &Load::default(), now_ms) {
                Ok(start) => {
                    budgets.take(&start.account, start.name.as_str(), start.kind, now_ms);
                    *begun = Some(now_ms);
                }
                Err(at) => next_ms = next_ms.min(at),
            }
        }
        now_ms = next_ms;
    }
    begun.into_iter().flatten().collect()
}

/// CA accounts with little to give, so that every limit is met.
fn poor(accounts: &[&str]) -> AcmeConfig {
    let budgets = AcmeBudgets {
        new_orders: AcmeBudget { max: 20, window: HOUR },
        domain_certificates: AcmeBudget { max: 4, window: 24 * HOUR },
        ..account("a").budgets
    };
    let poor = |name: &&str| Arc::new(AcmeAccount { budgets, ..(*account(name)).clone() });
    AcmeConfig { accounts: accounts.iter().map(poor).collect(), ..config(&[]) }
}

#[test]
fn what_is_foreseen_is_what_the_plan_does() {
    for accounts in [&["a"][..], &["a", "b"]] {
        let config = poor(accounts);
        let names: Vec<_> = (0..90)
            .map(|n| {
                if n % 2 == 0 { name(&format!("n{n}.agency.example")) } else { name(&format!("n{n}.shop{n}.example")) }
            })
            .collect();
        let mut budgets = Budgets::default();
        budgets.pause(&config.accounts[0].directory, "shop7.example", NOW_MS + 5 * HOUR_MS, NOW_MS);
        let begun = begun(&names, &config, budgets.clone());
        let ahead = ahead(&names, &config, &budgets);
        for ((name, begun), ahead) in names.iter().zip(&begun).zip(&ahead) {
            let at = ahead.at_ms.unwrap();
            // A millisecond later is asked again, where the answer was for the millisecond itself.
            assert!(
                (at - begun).abs() <= 1_000,
                "{name}: {} s, not {} s",
                (at - NOW_MS) / 1_000,
                (begun - NOW_MS) / 1_000
            );
        }
        let last = begun.iter().max().unwrap() - NOW_MS;
        assert!(last > 2 * DAY_MS, "the domain's limit was met: {} h", last / HOUR_MS);
    }
}

#[test]
fn each_of_thousands_has_a_time_a_place_and_a_reason() {
    let config = config(&["a"]);
    let names: Vec<_> = (0..5_000).map(|n| name(&format!("events.shop{n}.example"))).collect();
    let ahead = ahead(&names, &config, &Budgets::default());
    let mut by_place: Vec<_> = ahead.iter().map(|outlook| (outlook.before, outlook.at_ms.unwrap() - NOW_MS)).collect();
    by_place.sort_unstable();
    assert!(by_place.iter().enumerate().all(|(place, (before, _))| place == *before));
    assert_eq!((by_place[299].1, by_place[300].1, by_place[4_999].1), (0, 36_000, 4_700 * 36_000));
    let waiting = ahead.iter().filter(|outlook| outlook.at_ms.unwrap() > NOW_MS);
    assert!(waiting.clone().all(|outlook| outlook.wait.as_ref().is_some_and(|wait| wait.limit == Limit::NewOrders)));
    assert_eq!(waiting.count(), 4_700);
}

#[test]
fn the_limit_that_binds_is_named() {
    let config = config(&["a"]);
    let names: Vec<_> = (0..60).map(|n| name(&format!("n{n}.agency.example"))).collect();
    let outlooks = ahead(&names, &config, &Budgets::default());
    let last = outlooks.iter().max_by_key(|outlook| outlook.at_ms).unwrap();
    let wait = last.wait.as_ref().unwrap();
    assert_eq!((wait.limit, wait.subject, last.before), (Limit::Domain, "agency.example", 59));
    assert_eq!((last.at_ms.unwrap() - NOW_MS) / HOUR_MS, 10 * 7 * 24 / 50);

    let mut paused = Budgets::default();
    let until = paused.unreachable("a", NOW_MS);
    for outlook in ahead(&names[..3], &config, &paused) {
        let wait = outlook.wait.unwrap();
        assert_eq!((outlook.at_ms, wait.limit, wait.subject), (Some(until), Limit::Pause, ""));
    }
}

#[test]
fn a_renewal_is_told_for_when_its_ca_takes_it() {
    let config = config(&["a"]);
    let (a, issued) = (name("a.example.com"), issued_by(&config.accounts[0]));
    let mut budgets = Budgets::default();
    let until = NOW_MS + DAY_MS;
    budgets.pause("a", "", until, NOW_MS);
    let subjects = [subject(&a, days_old(65), &issued), subject(&a, days_old(1), &issued)];
    let outlooks = foresee(&subjects, &config, &budgets, NOW_MS);
    assert_eq!(outlooks[0].as_ref().unwrap().at_ms, Some(until));
    let later = outlooks[1].as_ref().unwrap();
    assert!(later.at_ms.unwrap() > NOW_MS + 50 * DAY_MS && later.wait.is_none(), "the pause is over by then");
}

#[test]
fn names_with_a_certificate_of_another_ca_stand_behind_first_orders() {
    let config = config(&["a"]);
    let (nothing, elsewhere) = (NameState::default(), issued_by(&account("staging")));
    let names: Vec<_> = (0..330).map(|n| name(&format!("events.shop{n}.example"))).collect();
    let subjects: Vec<_> = names
        .iter()
        .enumerate()
        .map(|(at, name)| match at {
            0..20 => subject(name, days_old(5), &elsewhere),
            // One that was imported, and ends soon.
            20 => subject(name, days_old(80), &nothing),
            _ => subject(name, Present::Nothing, &nothing),
        })
        .collect();
    let outlooks: Vec<_> = foresee(&subjects, &config, &Budgets::default(), NOW_MS).into_iter().flatten().collect();
    assert_eq!((outlooks[20].at_ms, outlooks[20].before), (Some(NOW_MS), 0));
    for (place, moved) in outlooks[..20].iter().enumerate() {
        assert_eq!((moved.at_ms, moved.before), (Some(NOW_MS + (11 + place as i64) * 36_000), 310 + place));
        assert_eq!(moved.wait.as_ref().unwrap().limit, Limit::NewOrders);
    }
    assert_eq!(outlooks[21].before, 1);
}

#[test]
fn what_is_kept_for_orders_under_way_comes_back_in_time() {
    let config = config(&["a"]);
    let mut budgets = Budgets::default();
    (0..300).for_each(|n| budgets.reserve(&config.accounts[0], &format!("events.busy{n}.example"), Kind::New));
    let names = ["a.one.example", "a.two.example"].map(name);
    let at: Vec<_> = ahead(&names, &config, &budgets).into_iter().map(|outlook| outlook.at_ms).collect();
    assert_eq!(at, [Some(NOW_MS + 36_000), Some(NOW_MS + 72_000)]);
}

#[test]
fn thousands_of_names_are_foreseen_with_a_few_questions_each() {
    let config = config(&["a", "b"]);
    // A fifth of them below one domain.
    let names: Vec<_> = (0..10_000)
        .map(|n| if n % 5 == 0 { name(&format!("n{n}.agency.example")) } else { name(&format!("e.shop{n}.example")) })
        .collect();
    let nothing = NameState::default();
    let subjects: Vec<_> = names.iter().map(|name| subject(name, Present::Nothing, &nothing)).collect();
    let mut play = Play::of(&subjects, &config, &Budgets::default(), NOW_MS);
    let questions = play.run();
    assert!(play.outlooks.iter().flatten().all(|outlook| outlook.at_ms.is_some()));
    assert!(questions < 4 * names.len(), "{questions}");
}
