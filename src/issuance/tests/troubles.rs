//! What is learnt from a failure, what an operator is told of it, and what ends the wait.

use std::fs;

use super::service::{SHOES, open};
use super::*;
use crate::clock::{now_ms, rfc3339};
use crate::issuance::Issuance;
use crate::issuance::agenda::Agenda;
use crate::issuance::trouble::Trouble;
use crate::issuance::work::Work;
use crate::tls::testing::Issued;

/// An order for the shoes came to nothing.
fn fails(issuance: &Issuance, trouble: Trouble, told: Option<i64>) {
    let (shared, snapshot) = (issuance.shared.clone(), issuance.shared.reloader.published().load_full());
    let account = snapshot.gateway.acme.accounts[0].clone();
    let start = Start { name: name(SHOES), account, kind: Kind::New, goal: Goal::Fresh };
    Work::new(shared, snapshot.gateway.clone(), start, &NameState::default()).settle(Err(trouble), told, now_ms());
}

fn paused_until(issuance: &Issuance) -> Option<i64> {
    issuance.accounts()[0].paused_until_ms
}

/// What is to be done about the one name that failed.
fn remedy(issuance: &Issuance) -> String {
    let problems = issuance.problems();
    assert_eq!(problems.iter().map(|problem| problem.key.as_str()).collect::<Vec<_>>(), [SHOES]);
    problems[0].remedy.clone()
}

/// Takes up what is written now, as the service does.
fn reload(issuance: &Issuance) {
    issuance.shared.reloader.reload(now_ms);
    Agenda::make(&issuance.shared, Arc::default(), now_ms());
}

#[test]
fn trouble_of_an_account_is_told_with_its_end_and_a_person_ends_it() {
    let dir = tempfile::tempdir().unwrap();
    let issuance = open(dir.path(), &[("shoes", &[SHOES.to_owned()])]);
    for trouble in [Trouble::Account("no contract".to_owned()), Trouble::Unreachable("no route".to_owned())] {
        fails(&issuance, trouble, None);
        let until = paused_until(&issuance).unwrap();
        assert!(remedy(&issuance).contains(&format!("tried again after {}", rfc3339(until))), "{}", remedy(&issuance));
        let ordered = issuance.order_now(&name(SHOES)).unwrap().unwrap();
        assert!(ordered.next_at_ms.unwrap() <= now_ms() && paused_until(&issuance).is_none(), "{ordered:?}");
        assert!(remedy(&issuance).contains("when its turn comes"), "{}", remedy(&issuance));
    }
}

#[test]
fn a_wait_that_the_ca_asked_for_is_not_ended_by_a_person() {
    let dir = tempfile::tempdir().unwrap();
    let issuance = open(dir.path(), &[("shoes", &[SHOES.to_owned()])]);
    reload(&issuance);
    let until = now_ms() + HOUR_MS;
    fails(&issuance, Trouble::RateLimited("too many new orders from this account".to_owned()), Some(until));
    assert!(remedy(&issuance).contains(&rfc3339(until)), "{}", remedy(&issuance));
    assert_eq!(issuance.order_now(&name(SHOES)).unwrap().unwrap().next_at_ms, Some(until));
    let path = dir.path().join("pixelgate.toml");
    fs::write(&path, fs::read_to_string(&path).unwrap().replace("ops@", "acme@")).unwrap();
    reload(&issuance);
    assert_eq!(paused_until(&issuance), Some(until));
}

#[test]
fn an_account_that_was_mended_is_tried_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let issuance = open(dir.path(), &[("shoes", &[SHOES.to_owned()])]);
    reload(&issuance);
    let before = issuance.shared.reloader.published().load_full();
    fails(&issuance, Trouble::Account("no contract".to_owned()), None);
    reload(&issuance);
    assert!(paused_until(&issuance).is_some(), "nothing was mended");
    let path = dir.path().join("pixelgate.toml");
    fs::write(&path, fs::read_to_string(&path).unwrap().replace("ops@", "acme@")).unwrap();
    reload(&issuance);
    assert_eq!(paused_until(&issuance), None);

    // An order that was begun before says nothing of what is written now.
    let account = before.gateway.acme.accounts[0].clone();
    let start = Start { name: name(SHOES), account, kind: Kind::New, goal: Goal::Fresh };
    let work = Work::new(issuance.shared.clone(), before.gateway.clone(), start, &NameState::default());
    work.settle(Err(Trouble::Account("no contract".to_owned())), None, now_ms());
    assert_eq!(paused_until(&issuance), None);
}

#[test]
fn what_is_asked_for_below_the_operators_wildcard_waits_longer_each_time_and_ends_with_his_own_for_the_name() {
    let dir = tempfile::tempdir().unwrap();
    let certs = dir.path().join("certs");
    Issued::new(&["*.shoes.example"]).write(&certs, "_.shoes.example");
    let issuance = open(dir.path(), &[("shoes", &[SHOES.to_owned()])]);
    let state = || issuance.shared.book.with(|memory| memory.names[&name(SHOES)].clone());
    issuance.order_now(&name(SHOES)).unwrap();
    for failures in 1..4 {
        fails(&issuance, Trouble::Refused("a policy".to_owned()), None);
        Agenda::make(&issuance.shared, Arc::default(), now_ms());
        let NameState { failures: counted, not_before_ms, error, .. } = state();
        assert!(counted == failures && not_before_ms > now_ms() && error.is_some(), "{counted} {error:?}");
    }
    Issued::new(&[SHOES]).write(&certs, SHOES);
    reload(&issuance);
    assert_eq!(state(), NameState::default(), "nothing is wrong, and nothing asked for");
}

#[test]
fn one_failure_is_told_as_one() {
    let dir = tempfile::tempdir().unwrap();
    let issuance = open(dir.path(), &[("shoes", &[SHOES.to_owned()])]);
    let why = || issuance.name(&name(SHOES)).unwrap().next_why;
    fails(&issuance, Trouble::Validation("404".to_owned()), None);
    assert_eq!(why().as_deref(), Some("it failed once"));
    fails(&issuance, Trouble::Validation("404".to_owned()), None);
    assert_eq!(why().as_deref(), Some("it failed 2 times in a row"));
}

#[test]
fn nothing_is_kept_of_accounts_and_names_that_are_gone_and_an_inactive_name_keeps_its_files() {
    let dir = tempfile::tempdir().unwrap();
    let hats = super::service::HATS;
    let issuance = open(dir.path(), &[("shoes", &[SHOES.to_owned()]), ("hats", &[hats.to_owned()])]);
    let shared = &issuance.shared;
    reload(&issuance);
    fails(&issuance, Trouble::Validation("404".to_owned()), None);
    shared.book.with(|memory| {
        memory.looked_up.insert(name(hats), now_ms());
        memory.dns_answers(&name(hats), false);
    });
    let path = dir.path().join("pixelgate.toml");
    fs::write(&path, fs::read_to_string(&path).unwrap().replace("enabled = true", "enabled = false")).unwrap();
    fs::remove_file(dir.path().join("accounts/shoes.toml")).unwrap();
    fs::write(dir.path().join("accounts/hats.toml"), format!("active = false\ndomains = [{hats:?}]\n")).unwrap();
    reload(&issuance);
    assert!(shared.book.with(|memory| memory.names.is_empty() && memory.looked_up.is_empty()));
    assert!(shared.wants(&name(hats)) && !shared.wants(&name(SHOES)));
}
