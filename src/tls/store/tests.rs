#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic)]
use std::path::Path;

use proptest::prelude::*;
use tempfile::TempDir;

use super::*;
use crate::tls::credential::CredentialError;
use crate::tls::problem::CertificateFault;
use crate::tls::testing::Issued;

mod away;
mod change;
mod many;
mod odd;
mod unreadable;

/// The first second of 2026.
const NOW: i64 = 1_767_225_600;
const YEAR: i64 = 31_557_600;

/// Both folders, and the store's view of them.
struct Site {
    _dir: TempDir,
    folders: CertFolders,
}

impl Site {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        let folders =
            CertFolders { certs_dir: at("operator"), issued_dir: at("issued"), index: at("certificates.index") };
        std::fs::create_dir(&folders.certs_dir).unwrap();
        Self { _dir: dir, folders }
    }

    fn operator(&self) -> &Path {
        &self.folders.certs_dir
    }

    /// Puts a serial in place as issuance does.
    fn issue(&self, name: &str, serial: &str, issued: &Issued) {
        let folder = self.folders.issued_dir.join(name);
        issued.write(&folder, serial);
        std::os::unix::fs::symlink(serial, folder.join("live.new")).unwrap();
        std::fs::rename(folder.join("live.new"), folder.join("live")).unwrap();
    }

    fn load(&self, names: &[&str], previous: Option<&CertStore>) -> CertStore {
        CertStore::load(&self.folders, &self::names(names), previous, NOW)
    }

    fn fault_of(&self, name: &str) -> CertificateFault {
        let store = self.load(&[name], None);
        assert!(matches!(store.lookup(name), Lookup::Unknown));
        assert_eq!((store.summary().names(), store.summary().problems), (1, 1));
        let problem = only_problem(&store);
        assert!(problem.to_string().contains(name) && !problem.remedy(false).is_empty());
        problem.fault
    }
}

fn names(names: &[&str]) -> Vec<ServerName> {
    names.iter().map(|name| name.parse().unwrap()).collect()
}

fn only_problem(store: &CertStore) -> CertificateProblem {
    let problems: Vec<_> = store.problems().collect();
    assert_eq!(problems.len(), 1, "{problems:?}");
    problems[0].clone()
}

/// What a handshake gets, as the acceptor goes about it.
fn served(store: &CertStore, name: &str) -> Option<Arc<Credential>> {
    match store.lookup(name) {
        Lookup::Ready(credential) => Some(credential),
        Lookup::Cold(cold) => {
            cold.load().ok()?;
            match store.lookup(name) {
                Lookup::Ready(credential) => Some(credential),
                _ => panic!("{name} was loaded and is not ready"),
            }
        }
        Lookup::Unknown => None,
    }
}

/// How many shards of one store another does not share.
fn copied(first: &CertStore, second: &CertStore) -> usize {
    let pairs = first.names.all().iter().zip(second.names.all());
    pairs.filter(|(a, b)| !Arc::ptr_eq(&a.names, &b.names)).count()
}

fn until(store: &CertStore, name: &str) -> Option<i64> {
    served(store, name).map(|credential| credential.not_after())
}

/// Folders that were parsed since the index was written.
fn parsed(store: &CertStore) -> usize {
    store.knows - store.learnt.kept.load(Ordering::Relaxed)
}

fn year(year: i32) -> Option<i64> {
    Some(rcgen::date_time_ymd(year, 1, 1).unix_timestamp())
}

#[test]
fn the_exact_folder_comes_before_the_wildcards_and_the_operators_before_the_issued() {
    let site = Site::new();
    Issued::valid(&["a.shop.example"], 2020, 2030).write(site.operator(), "a.shop.example");
    Issued::valid(&["*.shop.example"], 2020, 2040).write(site.operator(), "_.shop.example");
    site.issue("a.shop.example", "1", &Issued::valid(&["a.shop.example"], 2020, 2050));
    site.issue("i.shop.example", "1", &Issued::valid(&["i.shop.example"], 2020, 2060));
    site.issue("_.d.shop.example", "1", &Issued::valid(&["*.d.shop.example"], 2020, 2070));
    let all = ["a.shop.example", "b.shop.example", "i.shop.example", "c.d.shop.example", "c.e.shop.example"];
    let store = site.load(&all, None);
    assert_eq!(all.map(|name| until(&store, name)), [year(2030), year(2040), year(2060), year(2070), None]);
    assert_eq!(until(&store, "e.shop.example"), None, "a name that is not configured");
    assert_eq!(only_problem(&store).file, site.operator().join("c.e.shop.example/chain.pem"));
    let summary = store.summary();
    assert_eq!((summary.valid, summary.missing, summary.names(), summary.first_expiry), (4, 1, 5, year(2030)));
    let origin = |name: &str| store.state(&name.parse().unwrap()).map(|state| state.origin);
    assert_eq!(
        all.map(origin),
        [
            Some(Origin::Operator),
            Some(Origin::OperatorWildcard),
            Some(Origin::Issued),
            Some(Origin::IssuedWildcard),
            None
        ]
    );
}

#[test]
fn what_is_wrong_is_told_and_not_served() {
    let site = Site::new();
    let name = "a.example";
    assert_eq!(site.fault_of(name), CertificateFault::Nothing);
    Issued::valid(&[name], 2020, 2025).write(site.operator(), name);
    assert_eq!(site.fault_of(name), CertificateFault::Expired);
    Issued::valid(&[name], 2030, 2040).write(site.operator(), name);
    assert_eq!(site.fault_of(name), CertificateFault::NotYetValid);
    Issued::new(&["b.example"]).write(site.operator(), name);
    assert_eq!(site.fault_of(name), CertificateFault::NameMismatch);
    let key = site.operator().join(name).join("key.pem");
    std::fs::write(&key, Issued::new(&[name]).key).unwrap();
    assert_eq!(site.fault_of(name), CertificateFault::Malformed(CredentialError::KeyMismatch));
    std::fs::remove_file(&key).unwrap();
    assert_eq!(site.fault_of(name), CertificateFault::Missing);
    std::fs::create_dir(&key).unwrap();
    assert!(matches!(site.fault_of(name), CertificateFault::Unreadable(_)));
    std::fs::write(site.operator().join(name).join("chain.pem"), vec![b'A'; 300_000]).unwrap();
    assert_eq!(site.fault_of(name), CertificateFault::Unreadable(io::ErrorKind::FileTooLarge));
}

#[test]
fn a_good_one_stands_in_and_the_problem_is_told_all_the_same() {
    let site = Site::new();
    Issued::valid(&["a.example.org"], 2020, 2025).write(site.operator(), "a.example.org");
    Issued::new(&["*.example.org"]).write(site.operator(), "_.example.org");
    let store = site.load(&["a.example.org"], None);
    assert!(served(&store, "a.example.org").is_some());
    assert_eq!(only_problem(&store).fault, CertificateFault::Expired);
    assert_eq!(store.summary().valid, 1);
    let state = store.state(&"a.example.org".parse().unwrap()).unwrap();
    assert_eq!((state.origin, state.served), (Origin::OperatorWildcard, [true, false]));
}

#[test]
fn an_rsa_twin_is_loaded_beside_and_its_faults_are_told() {
    let site = Site::new();
    let folder = site.operator().join("a.example");
    Issued::new(&["a.example"]).write(site.operator(), "a.example");
    let rsa = Issued::rsa(&["a.example"]);
    std::fs::write(folder.join("chain.rsa.pem"), &rsa.chain).unwrap();
    let store = site.load(&["a.example"], None);
    let problem = only_problem(&store);
    assert_eq!((problem.fault, problem.file), (CertificateFault::Missing, folder.join("key.rsa.pem")));
    assert!(served(&store, "a.example").is_some(), "the first pair is good");
    std::fs::write(folder.join("key.rsa.pem"), &rsa.key).unwrap();
    let store = site.load(&["a.example"], Some(&store));
    assert_eq!(store.problems().count(), 0);
    assert!(served(&store, "a.example").unwrap().has_twin());
    store.keep_index().unwrap();
    let store = site.load(&["a.example"], None);
    assert!(served(&store, "a.example").unwrap().has_twin(), "from the index as well");
    let other = Issued::valid(&["a.example"], 2020, 2025);
    std::fs::write(folder.join("chain.rsa.pem"), &other.chain).unwrap();
    std::fs::write(folder.join("key.rsa.pem"), &other.key).unwrap();
    let store = site.load(&["a.example"], Some(&store));
    assert_eq!(only_problem(&store).fault, CertificateFault::Expired);
}

#[test]
fn only_what_changed_is_read_again_and_what_was_visited_stays_warm() {
    let site = Site::new();
    let all = ["a.example", "b.example", "c.example"];
    all.iter().for_each(|name| Issued::new(&[name]).write(site.operator(), name));
    let first = site.load(&all, None);
    let visited = ["a.example", "b.example"].map(|name| served(&first, name).unwrap());
    Issued::new(&["b.example"]).write(site.operator(), "b.example");
    Issued::new(&["c.example"]).write(site.operator(), "c.example");
    let second = site.load(&all, Some(&first));
    assert_eq!(second.problems().count(), 0);
    let ready = |name: &str| match second.lookup(name) {
        Lookup::Ready(credential) => Some(credential),
        _ => None,
    };
    assert!(Arc::ptr_eq(&visited[0], &ready("a.example").unwrap()));
    assert!(!Arc::ptr_eq(&visited[1], &ready("b.example").unwrap()));
    assert!(ready("c.example").is_none() && served(&second, "c.example").is_some());
}

#[test]
fn a_refresh_copies_one_shard_and_sees_the_switched_link() {
    let site = Site::new();
    let all: Vec<String> = (0..2_000).map(|n| format!("n{n}.example")).collect();
    let all: Vec<&str> = all.iter().map(String::as_str).collect();
    site.issue("n7.example", "1", &Issued::valid(&["n7.example"], 2020, 2030));
    let first = site.load(&all, None);
    assert_eq!(until(&first, "n7.example"), year(2030));
    site.issue("n7.example", "2", &Issued::valid(&["n7.example"], 2020, 2040));
    let second = first.refreshed(&names(&["n7.example", "stranger.example"]), NOW);
    assert_eq!(until(&first, "n7.example"), year(2030), "whoever has the old store is not disturbed");
    assert_eq!(until(&second, "n7.example"), year(2040));
    assert_eq!(copied(&first, &second), 1);
    assert!(first.names.all().len() > 4);
    assert_eq!(second.summary(), Summary { first_expiry: year(2040), ..first.summary() });
    assert!(second.state(&"stranger.example".parse().unwrap()).is_none());
    std::fs::remove_file(site.folders.issued_dir.join("n7.example/live")).unwrap();
    let third = second.refreshed(&names(&["n7.example"]), NOW);
    assert!(served(&third, "n7.example").is_none());
    assert_eq!(third.summary().missing, 2_000);
}

#[test]
fn a_wildcard_that_changes_changes_all_names_below_it() {
    let site = Site::new();
    let all = ["a.shop.example", "b.shop.example", "a.b.shop.example"];
    let first = site.load(&all, None);
    assert_eq!(first.summary().missing, 3);
    site.issue("_.shop.example", "1", &Issued::valid(&["*.shop.example"], 2020, 2030));
    let second = first.refreshed(&names(&["a.shop.example"]), NOW);
    assert_eq!(all.map(|name| until(&second, name)), [year(2030), year(2030), None]);
    assert_eq!((second.summary().valid, second.summary().missing), (2, 1));
}

#[test]
fn an_unchanged_file_is_judged_by_the_new_time() {
    let site = Site::new();
    Issued::valid(&["a.example"], 2020, 2027).write(site.operator(), "a.example");
    let first = site.load(&["a.example"], None);
    assert!(served(&first, "a.example").is_some());
    let second = CertStore::load(&site.folders, &names(&["a.example"]), Some(&first), NOW + 2 * YEAR);
    assert!(served(&second, "a.example").is_none());
    assert!(only_problem(&second).to_string().contains("2027-01-01T00:00:00Z"));
    let refreshed = first.refreshed(&names(&["a.example"]), NOW + 2 * YEAR);
    assert_eq!(only_problem(&refreshed).fault, CertificateFault::Expired);
}

#[test]
fn files_that_broke_since_they_were_judged_are_stale() {
    let site = Site::new();
    Issued::new(&["a.example"]).write(site.operator(), "a.example");
    let first = site.load(&["a.example"], None);
    let Lookup::Cold(cold) = first.lookup("a.example") else { panic!("nobody asked yet") };
    std::fs::write(site.operator().join("a.example/chain.pem"), "broken").unwrap();
    assert!(cold.load().is_err());
    let second = first.refreshed(&names(&["a.example"]), NOW);
    assert_eq!(only_problem(&second).fault, CertificateFault::Malformed(CredentialError::Chain));
    assert!(matches!(second.lookup("a.example"), Lookup::Unknown));
    Issued::new(&["a.example"]).write(site.operator(), "a.example");
    assert!(cold.load().is_err(), "a good certificate, but another one");
    assert!(served(&second.refreshed(&names(&["a.example"]), NOW), "a.example").is_some());
}

#[test]
fn a_start_with_the_index_parses_only_what_changed() {
    let site = Site::new();
    let all = ["a.example", "b.example", "c.shop.example"];
    all[..2].iter().for_each(|name| Issued::new(&[name]).write(site.operator(), name));
    site.issue("_.shop.example", "1", &Issued::new(&["*.shop.example"]));
    let first = site.load(&all, None);
    assert_eq!(parsed(&first), 3);
    first.keep_index().unwrap();
    assert_eq!(parsed(&site.load(&all, None)), 0);
    Issued::new(&["b.example"]).write(site.operator(), "b.example");
    let third = site.load(&all, None);
    assert_eq!((parsed(&third), third.summary().valid), (1, 3));
    third.keep_index().unwrap();
    let mut damaged = std::fs::read(&site.folders.index).unwrap();
    damaged[60] ^= 1;
    std::fs::write(&site.folders.index, damaged).unwrap();
    let fourth = site.load(&all, None);
    assert_eq!((parsed(&fourth), fourth.summary().valid), (3, 3));
    assert!(all.iter().all(|name| served(&fourth, name).is_some()));
}

#[test]
fn what_one_store_keeps_is_not_taken_for_what_another_one_knows() {
    let site = Site::new();
    let all = ["a.example", "b.example"];
    all.iter().for_each(|name| Issued::new(&[name]).write(site.operator(), name));
    let first = site.load(&all[..1], None);
    // As by a reload under way.
    let second = first.changed(&[], &names(&all[1..]), NOW);
    first.keep_index().unwrap();
    second.keep_index().unwrap();
    assert_eq!(parsed(&site.load(&all, None)), 0);
    // What is looked at and never published, as by a check, makes nothing to write.
    Issued::new(&["b.example"]).write(site.operator(), "b.example");
    let checked = second.looked_through(NOW);
    std::fs::remove_file(&site.folders.index).unwrap();
    second.keep_index().unwrap();
    assert!(!site.folders.index.exists());
    checked.keep_index().unwrap();
    assert!(site.folders.index.exists());
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    /// The store against the rule said in one line, with folders that need no parsing to be told apart.
    #[test]
    fn a_name_is_served_by_its_own_folder_or_by_its_parents_wildcard(
        folders in prop::collection::btree_set("[ab](\\.[ab]){0,2}\\.example|_(\\.[ab]){0,2}\\.example", 0..8),
        asked in "[ab](\\.[ab]){0,2}\\.example",
    ) {
        let site = Site::new();
        for folder in &folders {
            // What is no certificate is told with its file: that says which folder was chosen.
            std::fs::create_dir(site.operator().join(folder)).unwrap();
            for file in ["chain.pem", "key.pem"] {
                std::fs::write(site.operator().join(folder).join(file), "none").unwrap();
            }
        }
        let store = site.load(&[&asked], None);
        let wildcard = format!("_.{}", asked.split_once('.').unwrap().1);
        let expected = [&asked, &wildcard].into_iter().find(|folder| folders.contains(*folder));
        let problem = only_problem(&store);
        let expected_file = site.operator().join(expected.unwrap_or(&asked)).join("chain.pem");
        prop_assert_eq!(problem.file, expected_file);
        prop_assert_eq!(problem.fault == CertificateFault::Nothing, expected.is_none());
    }
}
