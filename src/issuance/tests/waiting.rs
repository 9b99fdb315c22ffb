//! What an operator is told of how many wait, and how long.

use super::service::{HATS, SHOES, open, open_with};
use super::*;
use crate::clock::now_ms;
use crate::issuance::Waiting;
use crate::issuance::outlook::foresee;
use crate::issuance::waiting::count;

#[test]
fn all_that_wait_are_counted_where_they_go_with_the_last_ones_time() {
    let config = config(&["a", "b"]);
    let (nothing, issued, moved) =
        (NameState::default(), issued_by(&config.accounts[0]), issued_by(&account("staging")));
    let mut failed = issued_by(&config.accounts[1]);
    failed.failed("404", (HOUR, HOUR), 0.0, NOW_MS);
    let names: Vec<_> = (0..1_010).map(|n| name(&format!("events.shop{n}.example"))).collect();
    let subjects: Vec<_> = names
        .iter()
        .enumerate()
        .map(|(at, name)| match at {
            // Renewed in time, due, expired and tried again later, and the operator's.
            0 => subject(name, days_old(1), &issued),
            1 | 2 => subject(name, days_old(70), &issued),
            3 => subject(name, Present::Nothing, &failed),
            4 => subject(name, Present::Operators, &nothing),
            // It has time: it is imported, and first of its CA only when it is due.
            5 => subject(name, days_old(1), &nothing),
            6 => subject(name, days_old(1), &moved),
            7 => Subject { busy: true, ..subject(name, Present::Nothing, &nothing) },
            _ => subject(name, Present::Nothing, &nothing),
        })
        .collect();
    let outlooks = foresee(&subjects, &config, &Budgets::default(), NOW_MS);
    let waiting = count(&subjects, &outlooks, &config, NOW_MS);
    // 1,003 first orders: 300 at once at each account, then one each 36 s at each.
    let last_first_ms = Some(NOW_MS + 202 * 36 * SECOND_MS);
    assert_eq!(waiting["a"].last_first_ms.max(waiting["b"].last_first_ms), last_first_ms);
    assert_eq!(waiting["a"].first + waiting["b"].first, 1_003);
    assert!(waiting["a"].first.abs_diff(waiting["b"].first) <= 1, "{waiting:?}");
    assert_eq!((waiting["a"].renewals, waiting["b"].renewals), (2, 1));
}

#[test]
fn the_accounts_tell_how_many_names_wait_for_them() {
    let dir = tempfile::tempdir().unwrap();
    let names: Vec<_> = (0..400).map(|n| format!("events.shop{n}.example")).chain([SHOES.to_owned()]).collect();
    let issuance = open(dir.path(), &[("many", &names)]);
    let began_ms = now_ms();
    let Waiting { first, renewals, last_first_ms } = issuance.accounts()[0].waiting;
    // With the host's own domain.
    assert_eq!((first, renewals), (402, 0));
    let late = last_first_ms.unwrap() - began_ms - 102 * 36 * SECOND_MS;
    assert!((0..HOUR_MS).contains(&late), "{late} ms");
}

#[test]
fn a_name_that_waits_for_a_visitor_is_no_problem_until_an_order_fails() {
    let dir = tempfile::tempdir().unwrap();
    let names = [SHOES.to_owned(), HATS.to_owned()];
    let issuance = open_with(dir.path(), &[("many", &names)], "on_demand = true");
    let snapshot = || issuance.shared.reloader.published().load_full();
    let counted = || {
        // Anew: what was counted a moment ago is good for a while.
        *issuance.shared.counted.lock().unwrap() = None;
        issuance.waiting_for_visitors()
    };
    // With the host's own domain.
    assert_eq!((counted(), issuance.accounts()[0].waiting.first), (3, 0));
    // The account has no pixel.
    assert_eq!((snapshot().problems().len(), snapshot().problem_counts()), (1, (0, 1)));
    assert_eq!(snapshot().certificate_problem(&name(SHOES)), None);
    issuance.shared.book.with(|memory| memory.change(&name(SHOES)).asked = true);
    assert_eq!(counted(), 2, "it is ordered now");
    issuance.shared.book.with(|memory| memory.change(&name(SHOES)).failed("404", (HOUR, HOUR), 0.0, now_ms()));
    assert_eq!((counted(), issuance.problems().len()), (2, 1));
    let folder = dir.path().join("certs").join(HATS);
    std::fs::create_dir_all(&folder).unwrap();
    std::fs::write(folder.join("key.pem"), "no key").unwrap();
    issuance.shared.reloader.refresh_certificates(&[name(HATS)], now_ms());
    assert_eq!((counted(), snapshot().problem_counts()), (1, (0, 2)), "half of a pair is a mistake");
}
