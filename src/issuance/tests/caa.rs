//! Of two CAs, one that a name's CAA records forbid and one that they allow: which has its turn, and when.

use std::path::Path;

use rcgen::{CertificateParams, KeyPair, date_time_ymd};

use super::service::{SHOES, looked_up, open_with};
use super::*;
use crate::clock::now_ms;
use crate::issuance::Issuance;
use crate::issuance::agenda::Agenda;
use crate::issuance::trouble::Trouble;

const MINUTE_MS: i64 = 60 * SECOND_MS;

/// An issuance with two CAs, of which the first may not issue for the shoes.
fn of_two(dir: &Path) -> Issuance {
    let other = "[[acme.accounts]]\nname = \"b\"\ndirectory = \"http://127.0.0.1:9/other\"";
    let issuance = open_with(dir, &[("shoes", &[SHOES.to_owned()])], other);
    issuance.shared.reloader.reload(now_ms);
    issuance
}

/// The same where the shoes are served with a certificate for 45 days of the first CA, with so many left.
fn of_two_with_days_left(dir: &Path, left: u64, now_ms: i64) -> Issuance {
    let day = |from: i64, days: u64| {
        let seconds = u64::try_from(from / SECOND_MS).unwrap();
        date_time_ymd(1970, 1, 1) + Duration::from_secs(seconds + days * 86_400)
    };
    let mut params = CertificateParams::new([SHOES.to_owned()]).unwrap();
    (params.not_before, params.not_after) = (day(now_ms - 45 * DAY_MS, left), day(now_ms, left));
    let key = KeyPair::generate().unwrap();
    let folder = dir.join("data/certs").join(SHOES).join("live");
    std::fs::create_dir_all(&folder).unwrap();
    std::fs::write(folder.join("chain.pem"), params.self_signed(&key).unwrap().pem()).unwrap();
    std::fs::write(folder.join("key.pem"), key.serialize_pem()).unwrap();
    let issuance = of_two(dir);
    let account = issuance.shared.reloader.published().load().gateway.acme.accounts[0].clone();
    issuance.shared.book.with(|memory| memory.change(&name(SHOES)).issued(&account, None, now_ms - 36 * DAY_MS));
    issuance
}

/// A look finds that the first CA is forbidden and the other one allowed.
fn is_forbidden(issuance: &Issuance, now_ms: i64) {
    let snapshot = issuance.shared.reloader.published().load_full();
    let account = snapshot.gateway.acme.accounts[0].clone();
    let start = Start { name: name(SHOES), account, kind: Kind::Renewal, goal: Goal::Fresh };
    let forbidden = Trouble::Forbidden("the CAA records do not allow a.example to issue".to_owned());
    issuance.shared.found(&start, &snapshot.gateway, Err(forbidden), now_ms);
}

fn ask_another_dns_server(issuance: &Issuance, dir: &Path) {
    let path = dir.join("pixelgate.toml");
    let resolver = std::fs::read_to_string(&path).unwrap().replace("[acme]\n", "[acme]\nresolver = \"192.0.2.53\"\n");
    std::fs::write(&path, resolver).unwrap();
    issuance.shared.reloader.reload(now_ms);
}

/// For which account the shoes' DNS is looked at now; nothing is ordered before.
fn looks_for(issuance: &Issuance, now_ms: i64) -> Option<String> {
    let shared = &issuance.shared;
    let mut agenda = Agenda::make(shared, Arc::default(), now_ms);
    let snapshot = shared.reloader.published().load_full();
    shared.book.with(|memory| {
        let begun = agenda.take(memory, &snapshot, now_ms);
        assert!(begun.orders.is_empty(), "{:?}", begun.orders);
        begun.look_ups.iter().map(|start| &start.name).chain(&begun.windows).for_each(|name| memory.end(name));
        let of_shoes = begun.look_ups.iter().find(|start| start.name == name(SHOES));
        of_shoes.map(|start| start.account.name.clone())
    })
}

#[test]
fn a_ca_that_is_forbidden_gets_no_order_however_near_the_end_and_the_other_has_its_turn_in_the_last_sixth() {
    let (dir, now_ms) = (tempfile::tempdir().unwrap(), now_ms());
    let issuance = of_two_with_days_left(dir.path(), 9, now_ms);
    assert_eq!(looks_for(&issuance, now_ms).as_deref(), Some("default"));
    is_forbidden(&issuance, now_ms);
    assert_eq!(looks_for(&issuance, now_ms), None, "it is not the last sixth yet");
    let why = issuance.name(&name(SHOES)).unwrap().next_why.unwrap();
    let words = format!("the CA account default is left alone for {SHOES} until then, after what failed there");
    assert_eq!(why, words, "no CA said so");
    assert_eq!(looks_for(&issuance, now_ms + 16 * MINUTE_MS).as_deref(), Some("default"));
    let later = now_ms + 2 * DAY_MS;
    is_forbidden(&issuance, later);
    assert_eq!(looks_for(&issuance, later).as_deref(), Some("b"));
}

#[test]
fn what_a_person_asks_for_goes_to_the_ca_that_is_allowed_at_once() {
    let (dir, now_ms) = (tempfile::tempdir().unwrap(), now_ms());
    let issuance = of_two_with_days_left(dir.path(), 40, now_ms);
    issuance.order_now(&name(SHOES)).unwrap();
    assert_eq!(looks_for(&issuance, now_ms).as_deref(), Some("default"));
    is_forbidden(&issuance, now_ms);
    assert_eq!(looks_for(&issuance, now_ms).as_deref(), Some("b"));
    let state = issuance.shared.book.with(|memory| memory.names[&name(SHOES)].clone());
    assert!(state.error.is_some() && !state.is_tried_again(), "its one try is to come: {state:?}");
}

#[test]
fn a_ca_that_was_forbidden_as_it_was_looked_at_is_looked_at_anew_once_that_is_changed() {
    let (dir, now_ms) = (tempfile::tempdir().unwrap(), now_ms());
    let issuance = of_two(dir.path());
    is_forbidden(&issuance, now_ms);
    ask_another_dns_server(&issuance, dir.path());
    assert_eq!(looks_for(&issuance, crate::clock::now_ms()).as_deref(), Some("default"));
}

#[test]
fn a_look_that_let_one_ca_is_none_for_another_nor_of_what_is_written_now() {
    let (dir, began_ms) = (tempfile::tempdir().unwrap(), now_ms());
    let issuance = of_two(dir.path());
    let good_for_an_order = || {
        let gateway = issuance.shared.reloader.published().load().gateway.clone();
        issuance.shared.book.with(|memory| looked_up(memory, &gateway, &name(SHOES), began_ms));
    };
    good_for_an_order();
    issuance.shared.book.with(|memory| memory.budgets.pause("default", "", began_ms + HOUR_MS, began_ms));
    assert_eq!(looks_for(&issuance, began_ms).as_deref(), Some("b"));
    issuance.shared.book.with(|memory| memory.budgets.lift("default", ""));
    good_for_an_order();
    ask_another_dns_server(&issuance, dir.path());
    assert_eq!(looks_for(&issuance, began_ms).as_deref(), Some("default"));
}

#[test]
fn a_ca_that_finds_itself_forbidden_counts_it_and_leaves_the_name_to_the_next() {
    let (dir, now_ms) = (tempfile::tempdir().unwrap(), now_ms());
    let issuance = of_two(dir.path());
    super::troubles::fails(&issuance, Trouble::Caa("CAA record prevents issuance".to_owned()), None);
    let (waits_until, ready) = issuance.shared.book.with(|memory| {
        let snapshot = issuance.shared.reloader.published().load_full();
        let accounts = &snapshot.gateway.acme.accounts;
        let ready = |account| memory.budgets.ready_at(account, SHOES, Kind::New, now_ms);
        (memory.names[&name(SHOES)].not_before_ms, [ready(&accounts[0]), ready(&accounts[1])])
    });
    assert!(ready[0] > waits_until && ready[1] <= now_ms, "{waits_until} {ready:?}");
    assert_eq!(looks_for(&issuance, waits_until).as_deref(), Some("b"));
}
