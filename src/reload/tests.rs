//! Reloads on real folders: what they come to, and what they hold up.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic)]

mod data_dir;

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::thread::JoinHandle;
use std::time::Instant;

use tempfile::TempDir;

use super::*;
use crate::account::AccountId;
use crate::filter::testing::{PATIENCE, guest_with};
use crate::filter::{self, Compiler};
use crate::parallel;
use crate::snapshot::Route;
use crate::tls::testing::Issued;

const NAME: &str = "events.shoes.example";
/// Some day of 2026.
const NOW_MS: i64 = 1_784_000_000_000;

/// A configuration's folder, with a compiler of filters that takes as long as the test wants.
struct Site {
    dir: TempDir,
}

struct Nobody;

impl filter::Observer for Nobody {}

// === impl Site ===

impl Site {
    fn new() -> Self {
        let site = Self { dir: tempfile::tempdir().unwrap() };
        site.write("pixelgate.toml", "[host]\ndomain = \"gw.agency.example\"\ndata_dir = \"data\"\n");
        std::fs::create_dir(site.path("accounts")).unwrap();
        let compiler = "#!/bin/sh\ncat > /dev/null\n: > \"$0.begun.$$\"\n: > \"$0.begun\"\nwhile [ ! -e \"$0.go\" ]; do sleep 0.02; done\nexit 1\n";
        site.write("compiler", compiler);
        std::fs::set_permissions(site.path("compiler"), std::fs::Permissions::from_mode(0o755)).unwrap();
        site
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn write(&self, name: &str, contents: impl AsRef<[u8]>) {
        let path = self.path(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, contents).unwrap();
    }

    fn write_account(&self, id: &str, domains: &[&str], pixels: &[u64]) {
        let pixel = |id: &u64| format!("[[pixels]]\nid = \"{id}\"\naccess_token = {{ file = \"../token\" }}\n");
        let pixels: String = pixels.iter().map(pixel).collect();
        self.write("token", "EAAtoken");
        self.write(&format!("accounts/{id}.toml"), format!("domains = {domains:?}\n{pixels}"));
    }

    /// Gives the shoes a filter that was never compiled.
    fn write_slow_filter(&self) {
        self.write("filter.wasm", guest_with(""));
        let filter = "[[filters]]\nname = \"slow\"\ncomponent = \"../filter.wasm\"\n";
        self.write("accounts/shoes.toml", format!("domains = [\"{NAME}\"]\n{filter}"));
    }

    fn issue(&self, name: &str, until: i32) {
        Issued::valid(&[name], 2020, until).write(&self.path("certs"), name);
    }

    fn start(&self) -> Arc<Reloader> {
        let options = filter::Options {
            cache_dir: None,
            compiler: Compiler::Child(self.path("compiler")),
            ..filter::testing::options(self.dir.path())
        };
        let filters = Arc::new(FilterHost::start(options, Arc::new(Nobody)).unwrap());
        let (metrics, last_good) = (Arc::new(Metrics::new().unwrap()), LastGood::open(&self.path("data")));
        let mut source = Source::new(self.dir.path());
        let reading = source.read();
        let started = Reloader::start(source, reading, last_good, filters, metrics, NOW_MS);
        Arc::new(started.unwrap_or_else(|unusable| panic!("{unusable:?}")))
    }

    /// Begins a reload or a check that hangs in the compiler until [`Site::go_on`].
    fn hang(&self, reloader: &Arc<Reloader>, act: fn(&Reloader, i64) -> Report) -> JoinHandle<Report> {
        let reloader = reloader.clone();
        let acting = std::thread::spawn(move || act(&reloader, NOW_MS));
        until("the compiler runs", || self.path("compiler.begun").exists());
        acting
    }

    fn go_on(&self) {
        self.write("compiler.go", "");
    }
}

fn until(what: &str, mut happened: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !happened() {
        assert!(begun.elapsed() < PATIENCE, "did not happen: {what}");
        std::thread::yield_now();
    }
}

fn id(text: &str) -> AccountId {
    text.parse().unwrap()
}

fn name(text: &str) -> ServerName {
    text.parse().unwrap()
}

/// The year in which what is served for a name ends.
fn served_until(reloader: &Reloader, of: &str) -> Option<i64> {
    let state = reloader.published().load().certificates.state(&name(of))?;
    Some(1970 + state.not_after / 31_556_952)
}

/// Whose a name is, in force.
fn owner(reloader: &Reloader, name: &str) -> Option<AccountId> {
    match reloader.published().load().route(name)? {
        Route::Tenant(tenant) => Some(tenant.config.id.clone()),
        Route::Host => None,
    }
}

#[test]
fn certificates_are_published_while_a_reload_compiles_and_it_does_not_undo_them() {
    let site = Site::new();
    site.write_account("shoes", &[NAME], &[]);
    site.write_account("hats", &["events.hats.example"], &[]);
    site.issue(NAME, 2031);
    let reloader = site.start();
    site.write_slow_filter();
    site.write_account("hats", &["events.hats.example", "new.hats.example"], &[]);
    let reload = site.hang(&reloader, |reloader, now_ms| reloader.reload(|| now_ms));
    for (of, year) in [(NAME, 2041), ("new.hats.example", 2051)] {
        site.issue(of, year);
        reloader.refresh_certificates(&[name(of)], NOW_MS);
    }
    assert_eq!(served_until(&reloader, NAME), Some(2041));
    assert!(!reload.is_finished(), "it waits for the compiler still");
    site.go_on();
    let report = reload.join().unwrap();
    assert_eq!((report.applied, report.revision), (true, 2));
    assert_eq!(
        report.accounts.unwrap(),
        Changes { changed: vec![id("hats")], kept: vec![id("shoes")], ..Changes::default() }
    );
    assert_eq!(served_until(&reloader, NAME), Some(2041));
    assert_eq!(served_until(&reloader, "new.hats.example"), Some(2051));
}

#[test]
fn filters_of_several_accounts_are_compiled_at_one_time() {
    let site = Site::new();
    let reloader = site.start();
    for (account, more) in [("hats", ""), ("shoes", "(func)")] {
        site.write(&format!("{account}.wasm"), guest_with(more));
        let filter = format!("[[filters]]\nname = \"f\"\ncomponent = \"../{account}.wasm\"\n");
        site.write(&format!("accounts/{account}.toml"), filter);
    }
    let begun = || {
        std::fs::read_dir(site.dir.path())
            .unwrap()
            .filter(|entry| entry.as_ref().unwrap().file_name().to_str().unwrap().starts_with("compiler.begun."))
    };
    let reload = site.hang(&reloader, |reloader, now_ms| reloader.reload(|| now_ms));
    until("a compiler runs on each core", || begun().count() == parallel::cores().min(2));
    site.go_on();
    assert_eq!(reload.join().unwrap().accounts.unwrap().left_out.len(), 2);
}

#[test]
fn what_was_refreshed_before_the_reload_looked_is_looked_at_again_when_it_publishes() {
    let site = Site::new();
    site.write_account("shoes", &[NAME], &[]);
    site.issue(NAME, 2031);
    let reloader = site.start();
    lock(&reloader.publishing).begin();
    let before = reloader.published().load_full();
    site.issue(NAME, 2041);
    reloader.refresh_certificates(&[name(NAME)], NOW_MS);
    reloader.publish(Snapshot::clone(&before), NOW_MS);
    assert_eq!(served_until(&reloader, NAME), Some(2041));
    reloader.publish(Snapshot::clone(&before), NOW_MS);
    assert_eq!(served_until(&reloader, NAME), Some(2031), "it is looked at again once, and then known");
}

#[test]
fn a_check_that_compiles_holds_up_neither_reloads_nor_certificates() {
    let site = Site::new();
    site.write_account("shoes", &[NAME], &[]);
    site.issue(NAME, 2031);
    let reloader = site.start();
    site.write_slow_filter();
    let check = site.hang(&reloader, Reloader::check);
    site.write_account("shoes", &[NAME], &[7]);
    site.issue(NAME, 2041);
    reloader.refresh_certificates(&[name(NAME)], NOW_MS);
    assert_eq!(served_until(&reloader, NAME), Some(2041));
    let report = reloader.reload(|| NOW_MS);
    assert_eq!((report.applied, report.revision), (true, 2));
    assert!(!check.is_finished(), "it waits for the compiler still");
    site.go_on();
    assert!(check.join().unwrap().has_errors(), "it judged the file as it was when it was read");
}

#[test]
fn a_reload_is_in_force_before_anything_is_written_and_answered_after_that() {
    let site = Site::new();
    site.write_account("shoes", &[NAME], &[]);
    let reloader = site.start();
    assert!(!site.path("data").exists(), "a start writes nothing before it is asked to keep");
    let kept = lock(&reloader.keeping);
    site.write_account("hats", &["events.hats.example"], &[]);
    let reloading = reloader.clone();
    let reload = std::thread::spawn(move || reloading.reload(|| NOW_MS));
    until("it is in force", || owner(&reloader, "events.hats.example").is_some());
    site.issue(NAME, 2041);
    reloader.refresh_certificates(&[name(NAME)], NOW_MS);
    assert_eq!(served_until(&reloader, NAME), Some(2041));
    assert!(!reload.is_finished() && !site.path("data").exists());
    drop(kept);
    assert!(reload.join().unwrap().applied);
    let files = || std::fs::read_dir(site.path("data/last-good/accounts")).unwrap().count();
    assert_eq!(files(), 2);
    // What is kept late is what is in force then.
    site.write_account("gloves", &[], &[9]);
    reloader.reload(|| NOW_MS);
    reloader.keep();
    assert_eq!(files(), 3);
}

#[test]
fn what_cannot_be_kept_is_in_force_all_the_same() {
    let site = Site::new();
    site.write_account("shoes", &[NAME], &[]);
    site.write("data", "a file where a folder should be");
    let reloader = site.start();
    site.write_account("hats", &["events.hats.example"], &[]);
    assert!(reloader.reload(|| NOW_MS).applied);
    assert_eq!(owner(&reloader, "events.hats.example"), Some(id("hats")));
}

#[test]
fn what_is_refused_judges_all_files_and_looks_at_no_certificate() {
    use rustix::fs::inotify::{CreateFlags, WatchFlags, add_watch, init};
    let site = Site::new();
    site.write_account("shoes", &[NAME], &[]);
    let reloader = site.start();
    site.write_account("hats", &["events.hats.example"], &[]);
    site.issue("events.hats.example", 2031);
    site.write("accounts/bad.toml", "name = 3\n");
    site.write("pixelgate.toml", "nonsense = 1");
    let opened = init(CreateFlags::NONBLOCK).unwrap();
    add_watch(&opened, site.path("certs/events.hats.example"), WatchFlags::OPEN).unwrap();
    for report in [reloader.reload(|| NOW_MS), reloader.check(NOW_MS)] {
        let files: Vec<_> = report.problems.iter().map(|problem| problem.file.file_name().unwrap()).collect();
        assert!(files.iter().any(|file| *file == "bad.toml") && files.iter().any(|file| *file == "pixelgate.toml"));
    }
    let nothing = rustix::io::read(&opened, &mut [0; 256]);
    assert_eq!(nothing, Err(rustix::io::Errno::AGAIN));
}

#[test]
fn a_report_says_what_became_of_which_account() {
    let site = Site::new();
    for account in ["changes", "goes", "keeps", "stays"] {
        site.write_account(account, &[&format!("{account}.example")], &[]);
    }
    let reloader = site.start();
    assert_eq!(reloader.reload(|| NOW_MS).accounts, Some(Changes::default()));
    site.write_account("changes", &["changes.example", "more.example"], &[]);
    std::fs::remove_file(site.path("accounts/goes.toml")).unwrap();
    site.write("accounts/keeps.toml", "name = 3\n");
    site.write("accounts/bad.toml", "name = 3\n");
    site.write_account("thief", &["stays.example"], &[]);
    site.write_account("new", &["goes.example"], &[]);
    let expected = Changes {
        added: vec![id("new")],
        changed: vec![id("changes")],
        removed: vec![id("goes")],
        kept: vec![id("keeps")],
        left_out: vec![id("bad"), id("thief")],
    };
    assert_eq!(reloader.check(NOW_MS).accounts, Some(expected.clone()), "a check says what a reload would do");
    let report = reloader.reload(|| NOW_MS);
    assert_eq!(report.accounts, Some(expected));
    let json = serde_json::to_value(&report).unwrap();
    assert_eq!(json["accounts"]["left_out"], serde_json::json!(["bad", "thief"]));
    site.write("pixelgate.toml", "nonsense = 1");
    assert_eq!(reloader.reload(|| NOW_MS).accounts, None, "nothing became of any account");
}

#[test]
fn reloads_one_after_the_other_come_to_what_a_start_comes_to() {
    let site = Site::new();
    let names: Vec<String> = (0..40).map(|n| format!("n{n}.example")).collect();
    let of = |numbers: &[usize]| numbers.iter().map(|n| names[*n].clone()).collect::<Vec<_>>();
    let write = |account: &str, numbers: &[usize], pixels: &[u64]| {
        let domains = of(numbers);
        site.write_account(account, &domains.iter().map(String::as_str).collect::<Vec<_>>(), pixels);
    };
    for n in 0..20 {
        write(&format!("a{n}"), &[n], &[100 + n as u64]);
    }
    site.issue("n0.example", 2031);
    site.issue("n20.example", 2041);
    let reloader = site.start();
    let steps: [&dyn Fn(); 5] = [
        &|| write("a0", &[0, 20, 21], &[100, 200]),
        // Two exchange what they have, a third one is new and takes what the first gives up.
        &|| {
            write("a0", &[1], &[101]);
            write("a1", &[0], &[100]);
            write("b", &[20, 21], &[200]);
        },
        &|| std::fs::remove_file(site.path("accounts/a2.toml")).unwrap(),
        &|| write("b", &[2, 20], &[102, 300]),
        &|| site.write("pixelgate.toml", "[host]\ndomain = \"n39.example\"\ndata_dir = \"data\"\n"),
    ];
    for (round, step) in steps.iter().enumerate() {
        step();
        let report = reloader.reload(|| NOW_MS);
        assert!(!report.has_errors(), "{round}: {report:#?}");
        // Nothing that is kept may tell the start what was before.
        let _ = std::fs::remove_dir_all(site.path("data"));
        let started = site.start();
        let (reloaded, started) = (reloader.published().load_full(), started.published().load_full());
        let whose = |snapshot: &Snapshot, name: &str| match snapshot.route(name) {
            Some(Route::Tenant(tenant)) => tenant.config.id.to_string(),
            Some(Route::Host) => "the host".to_owned(),
            None => "nobody".to_owned(),
        };
        for name in names.iter().map(String::as_str).chain(["gw.agency.example"]) {
            assert_eq!(whose(&reloaded, name), whose(&started, name), "{round}: {name}");
            let state = |snapshot: &Snapshot| snapshot.certificates.state(&self::name(name));
            assert_eq!(state(&reloaded), state(&started));
        }
        for pixel in (100..320).map(|n: u64| n.to_string().parse().unwrap()) {
            let whose =
                |snapshot: &Snapshot| snapshot.tenant_on_host_domain(pixel).map(|tenant| tenant.config.id.clone());
            assert_eq!(whose(&reloaded), whose(&started), "{round}: {pixel}");
        }
        assert_eq!(reloaded.certificates.summary().names(), started.certificates.summary().names());
        assert_eq!(reloaded.problems(), started.problems());
    }
}

#[test]
fn a_restart_is_asked_for_where_it_is_needed_and_nowhere_else() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir(dir.path().join("accounts")).unwrap();
    let config = |tables: &str| {
        let text = format!("[host]\ndomain = \"gw.agency.example\"\n{tables}");
        std::fs::write(Path::join(dir.path(), "pixelgate.toml"), text).unwrap();
        Source::new(dir.path()).read().gateway.unwrap()
    };
    let running = config("");
    let keys = |tables: &str| {
        restart_needed(&running, &config(tables)).into_iter().map(|problem| problem.key).collect::<Vec<_>>()
    };
    for live in [
        "[listen]\ntrusted_proxies = [\"10.0.0.0/8\"]\nproxy_protocol = [\"10.0.0.0/8\"]\n",
        "[delivery]\nage_max = \"1d\"\nrequests_in_flight_max = 3\n",
        "[limits]\nconnections_max = 7\n",
    ] {
        assert_eq!(keys(live), [""; 0], "{live}");
    }
    assert_eq!(keys("[listen]\nhttp = []\n"), ["listen.http"]);
    let late = "[delivery]\nrequests_in_flight_per_lane_max = 2\n[limits]\naccount_backlog_bytes_max = 2_000_000\n";
    assert_eq!(keys(late), ["delivery.requests_in_flight_per_lane_max", "limits.account_backlog_bytes_max"]);
}

#[test]
fn metrics_forget_an_account_that_is_removed() {
    let site = Site::new();
    site.write_account("shoes", &[NAME], &[7]);
    site.write_account("hats", &[], &[8]);
    let reloader = site.start();
    ["shoes", "hats"].iter().for_each(|account| reloader.metrics.held(&id(account), 1));
    let text = || crate::telemetry::exposition(&reloader.metrics, &crate::telemetry::Activity::default(), 2).unwrap();
    assert!(text().contains("shoes") && text().contains("hats"));
    std::fs::remove_file(site.path("accounts/shoes.toml")).unwrap();
    reloader.reload(|| NOW_MS);
    assert!(!text().contains("shoes") && text().contains("hats"), "{}", text());
}
