//! The service on a real folder: what it begins, and that it stops.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::sync::mpsc;

use tokio_util::sync::CancellationToken;

use super::*;
use crate::clock::now_ms;
use crate::config::{GatewayConfig, LastGood, Source};
use crate::filter::{self, Compiler, FilterHost};
use crate::issuance::agenda::Agenda;
use crate::issuance::book::{Look, Memory};
use crate::issuance::cause::of_look;
use crate::issuance::order::Clerk;
use crate::issuance::store::KeyKind;
use crate::issuance::work::Work;
use crate::issuance::{Issuance, NextAction, Observer, Parts};
use crate::reload::Reloader;
use crate::telemetry::Metrics;
use crate::tls::testing::Issued;

pub(super) const HOST: &str = "gw.agency.example";
pub(super) const SHOES: &str = "events.shoes.example";
pub(super) const HATS: &str = "events.hats.example";

struct Nobody;

impl filter::Observer for Nobody {}

impl Observer for Nobody {
    fn ordered(&self, _: &'static str) {}
}

/// The issuance of a gateway with these accounts, each with its domains, that knows where it is. Its CA is nobody.
pub(super) fn open(dir: &Path, accounts: &[(&str, &[String])]) -> Issuance {
    open_with(dir, accounts, "")
}

/// The same with more in `[acme]`.
pub(super) fn open_with(dir: &Path, accounts: &[(&str, &[String])], acme: &str) -> Issuance {
    let gateway = format!(
        "[host]\ndomain = \"{HOST}\"\ndata_dir = \"data\"\naddresses = [\"203.0.113.5\"]\n[acme]\nenabled = true\n\
         terms_agreed = true\nemail = \"ops@agency.example\"\ndirectory = \"http://127.0.0.1:9/dir\"\n{acme}\n"
    );
    fs::write(dir.join("pixelgate.toml"), gateway).unwrap();
    fs::create_dir(dir.join("accounts")).unwrap();
    for (id, domains) in accounts {
        fs::write(dir.join(format!("accounts/{id}.toml")), format!("domains = {domains:?}\n")).unwrap();
    }
    let options = filter::Options {
        deadline: HOUR,
        memory_bytes_max: 16 << 20,
        file_bytes_max: 4 << 20,
        threads: 1,
        wait_max: HOUR,
        compile_timeout: HOUR,
        cache_dir: None,
        script_runner: dir.join("none"),
        compiler: Compiler::InProcess,
    };
    let filters = Arc::new(FilterHost::start(options, Arc::new(Nobody)).unwrap());
    let (metrics, last_good) = (Arc::new(Metrics::new().unwrap()), LastGood::open(&dir.join("data")));
    let mut source = Source::new(dir);
    let reading = source.read();
    let reloader = Reloader::start(source, reading, last_good, filters, metrics, NOW_MS);
    Issuance::open(Parts {
        data_dir: dir.join("data"),
        reloader: Arc::new(reloader.unwrap_or_else(|unusable| panic!("{unusable:?}"))),
        challenges: Arc::default(),
        wanted: Arc::default(),
        edge: Vec::new(),
        own: Arc::default(),
        observer: Arc::new(Nobody),
    })
    .unwrap()
}

/// A look found that a name may be ordered at the first account.
pub(super) fn looked_up(memory: &mut Memory, gateway: &GatewayConfig, name: &ServerName, at_ms: i64) {
    let of = of_look(&gateway.acme.accounts[0], gateway).into();
    memory.looked_up.insert(name.clone(), Look { at_ms, of });
}

#[test]
fn domains_that_nobody_uses_any_more_keep_no_other_waiting() {
    let dir = tempfile::tempdir().unwrap();
    let dead: Vec<_> = (0..1_100).map(|n| format!("events.dead{n}.example")).collect();
    Issued::valid(&[SHOES], 2020, 2028).write(&dir.path().join("data/certs").join(SHOES), "live");
    let issuance = open(dir.path(), &[("dead", &dead), ("hats", &[HATS.to_owned()]), ("shoes", &[SHOES.to_owned()])]);
    let shared = &issuance.shared;
    let snapshot = shared.reloader.published().load_full();
    shared.book.with(|memory| {
        for dead in &dead {
            let state = memory.change(&name(dead));
            state.issued(&snapshot.gateway.acme.accounts[0], None, NOW_MS - 100 * DAY_MS);
            state.failed("its DNS servers are silent", (HOUR, HOUR), 0.0, NOW_MS - 2 * HOUR_MS);
        }
    });
    let mut agenda = Agenda::make(shared, Arc::default(), NOW_MS);
    let begun = shared.book.with(|memory| agenda.take(memory, &snapshot, NOW_MS));
    let asked = begun.look_ups.iter().map(|start| start.name.as_str());
    let (others, of_dead): (Vec<&str>, Vec<&str>) = asked.partition(|name| [HOST, SHOES, HATS].contains(name));
    assert_eq!(others, [SHOES, HOST, HATS], "renewals first");
    assert_eq!(of_dead.len(), 8);

    // One of those is ordered after its look, and goes before nobody else although it ended last; no look at the others ends.
    let looked_at = [SHOES, of_dead[0]];
    let orders = shared.book.with(|memory| {
        for looked_at in looked_at.map(name) {
            looked_up(memory, &snapshot.gateway, &looked_at, NOW_MS);
            memory.end(&looked_at);
            agenda.ended(looked_at, memory, &snapshot, NOW_MS);
        }
        agenda.take(memory, &snapshot, NOW_MS).orders
    });
    assert_eq!(orders.iter().map(|start| start.name.as_str()).collect::<Vec<_>>(), looked_at);
}

#[tokio::test]
async fn what_is_told_to_stop_while_it_looks_at_all_names_begins_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let issuance = open(dir.path(), &[("shoes", &[SHOES.to_owned()])]);
    let (shared, stop) = (issuance.shared.clone(), CancellationToken::new());
    // Its order could begin at once, and would take that away.
    let gateway = shared.reloader.published().load().gateway.clone();
    shared.book.with(|memory| looked_up(memory, &gateway, &name(SHOES), now_ms()));
    let (holds, is_held) = mpsc::channel();
    let (let_go, held) = mpsc::channel::<()>();
    let book = shared.book.clone();
    let holding = std::thread::spawn(move || {
        book.with(|_| {
            holds.send(()).unwrap();
            held.recv().unwrap();
        });
    });
    is_held.recv().unwrap();
    let running = tokio::spawn(issuance.run(stop.clone()));
    // It looks at all names now, and waits for the book.
    tokio::task::yield_now().await;
    stop.cancel();
    let_go.send(()).unwrap();
    running.await.unwrap();
    holding.join().unwrap();
    assert!(shared.book.with(|memory| memory.looked_up.contains_key(&name(SHOES))));
}

#[test]
fn a_name_below_an_imported_wildcard_is_ordered_before_that_ends() {
    let dir = tempfile::tempdir().unwrap();
    let certs = dir.path().join("data/certs");
    Issued::valid(&["*.shoes.example"], 2020, 2028).write(&certs.join("_.shoes.example"), "live");
    Issued::valid(&["*.hats.example"], 2026, 2034).write(&certs.join("_.hats.example"), "live");
    let issuance = open(dir.path(), &[("hats", &[HATS.to_owned()]), ("shoes", &[SHOES.to_owned()])]);
    let shared = &issuance.shared;
    let snapshot = shared.reloader.published().load_full();
    let mut agenda = Agenda::make(shared, Arc::default(), NOW_MS);
    let begun = shared.book.with(|memory| agenda.take(memory, &snapshot, NOW_MS));
    let orders: Vec<_> = begun.look_ups.iter().map(|start| (start.name.as_str(), start.kind)).collect();
    assert_eq!(orders, [(SHOES, Kind::New), (HOST, Kind::New)]);
    assert!(begun.windows.is_empty(), "no CA is asked for the window of a wildcard");
    // Nothing of it is renewed, whoever issued what the name had before.
    shared.book.with(|memory| memory.change(&name(HATS)).issued_by = Some("default".into()));
    let view = issuance.names().into_iter().find(|view| view.name == name(HATS)).unwrap();
    let why = view.next_why.unwrap_or_default();
    assert!(view.next == NextAction::Order && why.contains("an imported wildcard serves it"), "{:?}: {why}", view.next);
}

#[test]
fn a_name_whose_certificate_ended_waits_for_no_visitor_whoever_had_it_issued() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("data/certs").join(SHOES);
    Issued::valid(&[SHOES], 2020, 2021).write(&folder, "live");
    let domains = [SHOES, HATS].map(str::to_owned);
    let issuance = open_with(dir.path(), &[("shoes", &domains)], "on_demand = true");
    let next = |of: &str| issuance.name(&name(of)).unwrap().next;
    assert_eq!((next(SHOES), next(HATS)), (NextAction::Order, NextAction::Visitor));
}

#[test]
fn a_visitor_of_a_name_that_the_agenda_does_not_know_yet_is_not_lost() {
    let dir = tempfile::tempdir().unwrap();
    let issuance = open(dir.path(), &[("shoes", &[SHOES.to_owned()])]);
    let shared = &issuance.shared;
    shared.wanted.ask(&name(SHOES));
    shared.wanted.ask(&name(HATS));
    shared.take_asked(&mut Agenda::default());
    let asked = shared.book.with(|memory| [SHOES, HATS].map(|known| memory.names.contains_key(&name(known))));
    assert_eq!(asked, [true, false]);
}

/// As after a chain came for a renewal of this name.
fn received(issuance: &Issuance, of: &ServerName) {
    let shared = &issuance.shared;
    let account = shared.reloader.published().load().gateway.acme.accounts[0].clone();
    let (by, directory) = (account.name.as_str().into(), account.directory.as_str().into());
    let order = OpenOrder { account: by, directory, url: "".into(), part: true, begun_ms: NOW_MS };
    shared.book.with(|memory| *memory.change(of) = NameState { order: Some(order), ..issued_by(&account) });
}

/// Begins and ends the one order that goes on; what is known of its name then.
async fn go_on(issuance: &Issuance) -> NameState {
    let shared = &issuance.shared;
    let snapshot = shared.reloader.published().load_full();
    let mut agenda = Agenda::make(shared, Arc::default(), NOW_MS);
    let (start, state) = shared.book.with(|memory| {
        let start = agenda.take(memory, &snapshot, NOW_MS).orders.remove(0);
        let state = memory.names[&start.name].clone();
        (start, state)
    });
    let name = start.name.clone();
    Work::new(shared.clone(), snapshot.gateway.clone(), start, &state).run().await;
    shared.book.with(|memory| {
        memory.end(&name);
        memory.names[&name].clone()
    })
}

#[tokio::test]
async fn a_renewed_certificate_that_could_not_be_put_in_place_is_put_there_and_not_ordered_again() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("data/certs").join(SHOES);
    Issued::valid(&[SHOES], 2020, 2028).write(&folder, "live");
    let issuance = open(dir.path(), &[("shoes", &[SHOES.to_owned()])]);
    let (shared, renewed) = (&issuance.shared, Issued::new(&[SHOES]));
    received(&issuance, &name(SHOES));
    let stage = shared.store.stage(&name(SHOES)).unwrap();
    stage.put_key(KeyKind::Ecdsa, &renewed.key).unwrap();
    stage.put_chain(KeyKind::Ecdsa, &renewed.chain).unwrap();
    // A folder where the link is to be.
    let failed = go_on(&issuance).await;
    assert!(failed.error.as_ref().is_some_and(|error| error.contains("cannot be kept")), "{failed:?}");
    fs::rename(folder.join("live"), folder.join("01")).unwrap();
    symlink("01", folder.join("live")).unwrap();
    shared.book.with(|memory| memory.change(&name(SHOES)).not_before_ms = 0);
    let published = go_on(&issuance).await;
    assert!(published.order.is_none() && published.unseen, "there is no listener: {published:?}");
    assert_eq!(fs::read_to_string(folder.join("live/chain.pem")).unwrap(), renewed.chain);
}

#[tokio::test]
async fn a_folder_that_cannot_be_written_is_told_once_for_all_names_and_so_is_what_is_known_of_them() {
    let dir = tempfile::tempdir().unwrap();
    let domains = [SHOES, HATS].map(str::to_owned);
    let issuance = open(dir.path(), &[("shoes", &domains)]);
    let (shared, certs) = (&issuance.shared, dir.path().join("data/certs"));
    let snapshot = shared.reloader.published().load_full();
    let order = async |of: &str| {
        let account = snapshot.gateway.acme.accounts[0].clone();
        let start = Start { name: name(of), account, kind: Kind::New, goal: Goal::Fresh };
        Work::new(shared.clone(), snapshot.gateway.clone(), start, &NameState::default()).run().await;
        let problems = issuance.problems();
        assert_eq!(problems.len(), 1, "{problems:?}");
        (problems[0].key.clone(), problems[0].to_string())
    };
    // A file where the folder is to be.
    fs::write(&certs, "").unwrap();
    let (key, told) = order(SHOES).await;
    assert!(key == SHOES && told.contains("`chown -R`") && told.contains("it is tried again"), "{told}");
    let (key, told) = order(HATS).await;
    let folder = format!("and 1 more: the certificate cannot be kept: {}: ", certs.display());
    assert!(key == "host.data_dir" && told.contains("`chown -R`") && told.contains(&folder), "{told}");
    // Of what is known.
    let path = dir.path().join("data/acme/state.sqlite");
    let other = rusqlite::Connection::open(&path).unwrap();
    other.execute_batch("CREATE TRIGGER full BEFORE INSERT ON names BEGIN SELECT RAISE(ABORT, 'full'); END").unwrap();
    let refused = issuance.order_now(&name(SHOES)).unwrap_err().to_string();
    assert!(refused.contains(&format!("{}: full; see that", path.display())), "{refused}");
    let kept = shared.book.keep(now_ms()).await.unwrap_err();
    assert!(kept.starts_with(&path.display().to_string()), "{kept}");
}

#[tokio::test]
async fn of_a_second_key_it_stays_on_record_when_the_first_ones_chain_came() {
    let dir = tempfile::tempdir().unwrap();
    let issuance = open(dir.path(), &[("shoes", &[SHOES.to_owned()])]);
    let (shared, shoes) = (&issuance.shared, name(SHOES));
    received(&issuance, &shoes);
    let snapshot = shared.reloader.published().load_full();
    let account = snapshot.gateway.acme.accounts[0].clone();
    let start = Start { name: shoes.clone(), account, kind: Kind::Renewal, goal: Goal::Resume };
    let state = || shared.book.with(|memory| memory.names[&shoes].clone());
    let work = Work::new(shared.clone(), snapshot.gateway.clone(), start, &state());
    work.remember("https://ca.example/order/2").await.unwrap();
    let order = state().order.unwrap();
    assert_eq!((&*order.url, order.begun_ms), ("https://ca.example/order/2", NOW_MS));
}
