//! What is learnt from a failure, what an operator is told of it, and what ends the wait.

use std::fs;
use std::path::Path;

use rcgen::{CertificateParams, KeyPair, date_time_ymd};

use super::service::{SHOES, open};
use super::*;
use crate::clock::{now_ms, rfc3339};
use crate::issuance::agenda::Agenda;
use crate::issuance::blame::Told;
use crate::issuance::book::Doing;
use crate::issuance::cause::of_look;
use crate::issuance::fault::Fault;
use crate::issuance::trouble::Trouble;
use crate::issuance::work::Work;
use crate::issuance::{Issuance, NextAction};
use crate::tls::testing::Issued;

/// An order for the shoes came to nothing.
pub(super) fn fails(issuance: &Issuance, trouble: Trouble, told: Option<i64>) {
    let (shared, snapshot) = (issuance.shared.clone(), issuance.shared.reloader.published().load_full());
    let account = snapshot.gateway.acme.accounts[0].clone();
    let start = Start { name: name(SHOES), account, kind: Kind::New, goal: Goal::Fresh };
    Work::new(shared, snapshot.gateway.clone(), start, &NameState::default()).settle(Err(trouble), told, now_ms());
}

fn paused_until(issuance: &Issuance) -> Option<i64> {
    issuance.accounts()[0].paused_until_ms
}

/// The one thing that is wrong, at this key.
fn problem(issuance: &Issuance, key: &str) -> String {
    let problems = issuance.problems();
    assert_eq!(problems.iter().map(|problem| problem.key.as_str()).collect::<Vec<_>>(), [key]);
    problems[0].to_string()
}

/// Writes one text of `pixelgate.toml` in place of another, and takes it up.
fn rewrite(issuance: &Issuance, dir: &Path, before: &str, after: &str) {
    let path = dir.join("pixelgate.toml");
    let text = fs::read_to_string(&path).unwrap();
    assert!(text.contains(before), "{text}");
    fs::write(&path, text.replace(before, after)).unwrap();
    reload(issuance);
}

/// Takes up what is written now, as the service does.
fn reload(issuance: &Issuance) {
    issuance.shared.reloader.reload(now_ms);
    Agenda::make(&issuance.shared, Arc::default(), now_ms());
}

#[test]
fn trouble_of_an_account_is_told_once_with_its_end_and_a_person_ends_it() {
    let dir = tempfile::tempdir().unwrap();
    let issuance = open(dir.path(), &[("shoes", &[SHOES.to_owned()])]);
    let refused = Trouble::Account(Fault::ExternalAccount, "no contract".to_owned());
    for (trouble, why, remedy) in [
        (refused, "no contract", "into [acme] external_account, and reload"),
        (
            Trouble::Unreachable("no route".to_owned()),
            "no route",
            "[acme] directory = \"http://127.0.0.1:9/dir\" is right",
        ),
    ] {
        fails(&issuance, trouble, None);
        let until = paused_until(&issuance).unwrap();
        let told = problem(&issuance, "acme");
        for words in [why, remedy, &format!("left alone until {}", rfc3339(until))] {
            assert!(told.contains(words), "{words}: {told}");
        }
        assert!(issuance.accounts()[0].remedy.as_ref().is_some_and(|told| told.contains(remedy)));
        // It is nothing of the name's.
        let view = issuance.name(&name(SHOES)).unwrap();
        assert_eq!((view.failures, view.last_error.as_ref()), (0, None));
        assert!(view.next_why.as_ref().is_some_and(|told| told.contains(why)), "{view:?}");
        let ordered = issuance.order_now(&name(SHOES)).unwrap().unwrap();
        assert!(ordered.next_at_ms.unwrap() <= now_ms() && paused_until(&issuance).is_none(), "{ordered:?}");
        assert!(problem(&issuance, "acme").contains("is tried again"), "{}", problem(&issuance, "acme"));
    }
}

#[test]
fn an_account_that_is_gone_is_made_anew_at_once_and_if_that_one_goes_too_it_waits() {
    let dir = tempfile::tempdir().unwrap();
    let issuance = open(dir.path(), &[("shoes", &[SHOES.to_owned()])]);
    // The CA was away before.
    fails(&issuance, Trouble::Unreachable("no route".to_owned()), None);
    assert!(paused_until(&issuance).is_some());
    fails(&issuance, Trouble::AccountGone, None);
    assert_eq!(paused_until(&issuance), None);
    let told = problem(&issuance, "acme");
    for words in ["is tried again: the CA does not know", "nothing if the CA was set up anew", "[acme] directory = \""]
    {
        assert!(told.contains(words), "{words}: {told}");
    }
    fails(&issuance, Trouble::AccountGone, None);
    assert!(paused_until(&issuance).is_some());
    // It was of use in between.
    issuance.shared.book.with(|memory| {
        memory.budgets.blames.reached("default");
        memory.budgets.blames.lift("default");
    });
    fails(&issuance, Trouble::AccountGone, None);
    assert_eq!(paused_until(&issuance), None);
}

#[test]
fn a_certificate_that_ends_before_its_renewal_begins_is_told_with_what_that_waits_for() {
    let dir = tempfile::tempdir().unwrap();
    let now = date_time_ymd(1970, 1, 1) + Duration::from_secs((now_ms() / 1_000).unsigned_abs());
    let mut params = CertificateParams::new([SHOES.to_owned()]).unwrap();
    (params.not_before, params.not_after) = (now - HOUR, now + Duration::from_secs(600));
    let key = KeyPair::generate().unwrap();
    let (root, chain, key) = (String::new(), params.self_signed(&key).unwrap().pem(), key.serialize_pem());
    Issued { root, chain, key }.write(&dir.path().join("data/certs").join(SHOES), "live");
    let issuance = open(dir.path(), &[("shoes", &[SHOES.to_owned()])]);
    issuance.shared.reloader.refresh_certificates(&[name(SHOES)], now_ms());
    let account = issuance.shared.reloader.published().load().gateway.acme.accounts[0].clone();
    let waits_for = |words: &str| {
        let view = issuance.name(&name(SHOES)).unwrap();
        assert!(view.next_why.as_ref().is_some_and(|told| told.contains(words)), "{words}: {view:?}");
    };
    let book = &issuance.shared.book;
    book.with(|memory| memory.change(&name(SHOES)).issued(&account, None, now_ms()));
    waits_for("lies 1h at least ([acme] reissue_min)");
    let told = problem(&issuance, SHOES);
    for words in ["its certificate is valid until", "begins after that", "reissue_min", "pixelgate cert issue events."]
    {
        assert!(told.contains(words), "{words}: {told}");
    }
    book.with(|memory| {
        memory.change(&name(SHOES)).issued_ms = now_ms() - 2 * HOUR_MS;
        (0..5).for_each(|_| memory.budgets.take(&account, SHOES, Kind::Renewal, now_ms()));
    });
    waits_for("may have 5 certificates for one name in 7d");
}

#[test]
fn a_wait_that_the_ca_asked_for_is_not_ended_by_a_person() {
    let dir = tempfile::tempdir().unwrap();
    let issuance = open(dir.path(), &[("shoes", &[SHOES.to_owned()])]);
    reload(&issuance);
    let until = now_ms() + HOUR_MS;
    fails(&issuance, Trouble::RateLimited("too many new orders from this account".to_owned()), Some(until));
    assert!(problem(&issuance, "acme").contains(&rfc3339(until)), "{}", problem(&issuance, "acme"));
    assert_eq!(issuance.order_now(&name(SHOES)).unwrap().unwrap().next_at_ms, Some(until));
    let path = dir.path().join("pixelgate.toml");
    fs::write(&path, fs::read_to_string(&path).unwrap().replace("ops@", "acme@")).unwrap();
    reload(&issuance);
    assert_eq!(paused_until(&issuance), Some(until));
    // Another CA did not ask for it.
    rewrite(&issuance, dir.path(), "9/dir", "9/other");
    assert_eq!(paused_until(&issuance), None);
}

#[test]
fn a_ca_that_wants_to_be_left_alone_until_now_or_before_has_a_rest() {
    let dir = tempfile::tempdir().unwrap();
    let issuance = open(dir.path(), &[("shoes", &[SHOES.to_owned()])]);
    for told in [now_ms(), now_ms() - HOUR_MS] {
        let began_ms = now_ms();
        fails(&issuance, Trouble::RateLimited("busy".to_owned()), Some(told));
        let until = issuance.shared.book.with(|memory| memory.budgets.paused_until("default", "", began_ms));
        assert!(until >= began_ms + 5 * SECOND_MS, "{}", until - began_ms);
    }
}

#[test]
fn an_account_that_was_mended_is_tried_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let issuance = open(dir.path(), &[("shoes", &[SHOES.to_owned()])]);
    reload(&issuance);
    let before = issuance.shared.reloader.published().load_full();
    fails(&issuance, Trouble::Account(Fault::ExternalAccount, "no contract".to_owned()), None);
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
    work.settle(Err(Trouble::Account(Fault::ExternalAccount, "no contract".to_owned())), None, now_ms());
    assert_eq!(paused_until(&issuance), None);
}

#[test]
fn trouble_of_an_account_that_nobody_needs_any_more_is_told_for_some_hours() {
    let (ca, mut budgets) = (account("a"), Budgets::default());
    let told = Told { reason: "no contract".to_owned(), remedy: "mend it".to_owned() };
    let until = budgets.unreachable(&ca.name, NOW_MS);
    budgets.blames.tell(&ca.name, told, NOW_MS);
    let is_told = |budgets: &Budgets, at_ms| budgets.told(&ca, at_ms).is_some();
    assert!(is_told(&budgets, NOW_MS) && is_told(&budgets, until + 5 * HOUR_MS));
    assert!(!is_told(&budgets, until + 6 * HOUR_MS), "another account took over");
    budgets.pause(&ca.name, "", NOW_MS + 12 * HOUR_MS, NOW_MS);
    assert!(is_told(&budgets, NOW_MS + 11 * HOUR_MS) && !is_told(&budgets, NOW_MS + 12 * HOUR_MS));
}

#[test]
fn a_dns_server_that_does_not_answer_is_told_once_and_to_each_name_that_waits_for_it() {
    let dir = tempfile::tempdir().unwrap();
    let issuance = open(dir.path(), &[("shoes", &[SHOES.to_owned()])]);
    reload(&issuance);
    let why = || issuance.names().into_iter().map(|view| view.next_why).collect::<Vec<_>>();
    assert_eq!((why(), issuance.resolver_is_silent()), (vec![None, None], false));
    issuance.shared.book.with(|memory| memory.silence.heard(Some("request timed out"), now_ms()));
    assert!(issuance.resolver_is_silent());
    let problems = issuance.problems();
    assert_eq!(problems.iter().map(|problem| problem.key.as_str()).collect::<Vec<_>>(), ["acme.resolver"]);
    assert!(problems[0].reason.contains("/etc/resolv.conf") && problems[0].reason.contains("request timed out"));
    for why in why() {
        assert!(why.as_ref().is_some_and(|why| why.contains("request timed out")), "{why:?}");
    }
    issuance.order_now(&name(SHOES)).unwrap();
    assert_eq!(why().iter().flatten().count(), 1, "what a person asked for does not wait for it");

    // Another one is asked at once.
    let path = dir.path().join("pixelgate.toml");
    let text = fs::read_to_string(&path).unwrap();
    fs::write(&path, text.replace("[acme]", "[acme]\nresolver = \"192.0.2.53\"")).unwrap();
    reload(&issuance);
    assert_eq!((why(), issuance.problems()), (vec![None, None], Vec::new()));
    assert!(!issuance.resolver_is_silent());

    // No time is told that is past.
    let before_ms = now_ms() - 10 * 60 * SECOND_MS;
    issuance.shared.book.with(|memory| memory.silence.heard(Some("request timed out"), before_ms));
    let told = problem(&issuance, "acme.resolver");
    assert!(told.contains("it is asked again for the next name;"), "{told}");
}

#[test]
fn a_name_is_said_to_be_ordered_only_while_it_is() {
    let dir = tempfile::tempdir().unwrap();
    let issuance = open(dir.path(), &[("shoes", &[SHOES.to_owned()])]);
    let (book, shoes) = (&issuance.shared.book, name(SHOES));
    let seen = || {
        let view = issuance.name(&shoes).unwrap();
        (view.next, view.next_why)
    };
    for (doing, why) in [(Doing::Dns { again: false }, Some("its DNS is looked at".to_owned())), (Doing::Window, None)]
    {
        book.with(|memory| memory.begin(shoes.clone(), doing));
        assert_eq!(seen(), (NextAction::Order, why));
    }
    let account = issuance.shared.reloader.published().load().gateway.acme.accounts[0].clone();
    book.with(|memory| memory.begin_order(shoes.clone(), account, None));
    assert_eq!(seen(), (NextAction::Running, None));
}

#[test]
fn a_failure_is_forgotten_once_what_it_depended_on_is_not_so_any_more() {
    let dir = tempfile::tempdir().unwrap();
    let issuance = open(dir.path(), &[("shoes", &[SHOES.to_owned()])]);
    let state = || issuance.shared.book.with(|memory| memory.names.get(&name(SHOES)).cloned().unwrap_or_default());
    let waits = || state().not_before_ms > now_ms();
    reload(&issuance);
    let by_ca = |trouble: Trouble| {
        fails(&issuance, trouble, None);
        assert!(waits() && state().error.is_some());
    };
    by_ca(Trouble::Validation("404".to_owned()));
    rewrite(&issuance, dir.path(), "ops@", "acme@");
    assert!(waits(), "nothing that it depended on");
    rewrite(&issuance, dir.path(), "127.0.0.1:9/dir\"\n", "127.0.0.1:9/dir\"\nprofile = \"shortlived\"\n");
    assert_eq!(state(), NameState::default());
    by_ca(Trouble::Refused("not in your contract".to_owned()));
    rewrite(&issuance, dir.path(), "9/dir", "9/other");
    assert_eq!(state(), NameState::default());

    // What was found in DNS depends on whom we ask, and on what is said of here.
    let before = issuance.shared.reloader.published().load_full();
    let found = || {
        issuance.shared.book.with(|memory| {
            let state = memory.change(&name(SHOES));
            state.failed("it leads elsewhere", (HOUR, HOUR), 0.0, now_ms());
            state.failed_with = Some(of_look(&before.gateway.acme.accounts[0], &before.gateway).into());
        });
    };
    found();
    rewrite(&issuance, dir.path(), "shortlived", "classic");
    assert!(waits());
    rewrite(&issuance, dir.path(), "203.0.113.5", "203.0.113.6");
    assert!(!waits() && state().error.is_none() && state().is_tried_again(), "it keeps its place: {:?}", state());
    // A look that began before comes to an end.
    found();
    issuance.shared.book.with(|memory| issuance.shared.let_go(memory, &name(SHOES)));
    assert!(!waits());
    // What a look found is told beside what the CA says.
    found();
    let now = issuance.shared.reloader.published().load_full();
    let start =
        Start { name: name(SHOES), account: now.gateway.acme.accounts[0].clone(), kind: Kind::New, goal: Goal::Fresh };
    let work = Work::new(issuance.shared.clone(), now.gateway.clone(), start, &state());
    work.settle(Err(Trouble::Validation("404".to_owned())), None, now_ms());
    let told = problem(&issuance, SHOES);
    assert!(told.contains("could not validate the name: 404") && told.contains("it leads elsewhere"), "{told}");
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
    let ordered = issuance.order_now(&name(SHOES)).unwrap().unwrap();
    assert_eq!((ordered.next_why, ordered.next_at_ms.is_some_and(|at| at <= now_ms())), (None, true), "it goes now");
}

#[test]
fn an_order_that_waits_for_others_says_so_is_there_once_and_is_withdrawn_with_its_name() {
    let dir = tempfile::tempdir().unwrap();
    let issuance = open(dir.path(), &[("shoes", &[SHOES.to_owned()])]);
    rewrite(&issuance, dir.path(), "[acme]", "[acme]\norders_in_flight_max = 1");
    let account = issuance.shared.reloader.published().load().gateway.acme.accounts[0].clone();
    issuance.shared.book.with(|memory| memory.begin_order(name(super::service::HOST), account, Some(Kind::New)));
    for _ in 0..2 {
        let ordered = issuance.order_now(&name(SHOES)).unwrap().unwrap();
        assert!(ordered.next_why.is_some_and(|why| why.contains("orders_in_flight_max")), "{:?}", ordered.next_at_ms);
    }
    let begun = |agenda: &mut Agenda| {
        let snapshot = issuance.shared.reloader.published().load_full();
        issuance.shared.take_hurried().into_iter().for_each(|name| agenda.hurry(name));
        issuance.shared.book.with(|memory| {
            memory.end(&name(super::service::HOST));
            let begun = agenda.take(memory, &snapshot, now_ms());
            begun.look_ups.iter().filter(|start| start.name == name(SHOES)).count()
        })
    };
    let mut agenda = Agenda::make(&issuance.shared, Arc::default(), now_ms());
    assert_eq!(begun(&mut agenda), 1);
    issuance.shared.book.with(|memory| memory.end(&name(SHOES)));
    issuance.order_now(&name(SHOES)).unwrap();
    fs::remove_file(dir.path().join("accounts/shoes.toml")).unwrap();
    issuance.shared.reloader.reload(now_ms);
    let mut agenda = Agenda::make(&issuance.shared, Arc::default(), now_ms());
    assert_eq!(begun(&mut agenda), 0);
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
        super::service::looked_up(memory, &issuance.shared.reloader.published().load().gateway, &name(hats), now_ms());
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
