//! What an operator is told of the plan is what the plan does.

use super::*;
use crate::issuance::budget::Limit;
use crate::issuance::outlook::{Outlook, foresee};

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
fn a_hundred_thousand_names_are_foreseen_in_a_moment() {
    let config = config(&["a", "b"]);
    // A fifth of them below one domain.
    let names: Vec<_> = (0..100_000)
        .map(|n| if n % 5 == 0 { name(&format!("n{n}.agency.example")) } else { name(&format!("e.shop{n}.example")) })
        .collect();
    let began = std::time::Instant::now();
    let ahead = ahead(&names, &config, &Budgets::default());
    eprintln!("the outlook of 100,000 names: {:?}", began.elapsed());
    assert!(ahead.iter().all(|outlook| outlook.at_ms.is_some()));
    assert!(began.elapsed() < Duration::from_secs(20));
}
