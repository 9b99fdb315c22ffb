//! Files that cannot be read: what is told, and what is served on.

use std::os::unix::ffi::OsStringExt;

use super::*;
use crate::tls::files::{Part, Place};
use crate::tls::folder::Facts;
use crate::tls::make::{Make, Order};

#[test]
fn what_is_no_regular_file_is_not_waited_for() {
    let site = Site::new();
    let folder = site.operator().join("a.example");
    Issued::new(&["a.example"]).write(site.operator(), "a.example");
    std::fs::remove_file(folder.join("chain.pem")).unwrap();
    let pipe = rustix::fs::mknodat(
        rustix::fs::CWD,
        folder.join("chain.pem"),
        rustix::fs::FileType::Fifo,
        rustix::fs::Mode::RUSR,
        0,
    );
    pipe.unwrap();
    assert_eq!(site.fault_of("a.example"), CertificateFault::Unreadable(io::ErrorKind::Unsupported));
}

/// A link that leads to itself: nobody can follow it, root neither.
fn break_off(path: &Path) -> PathBuf {
    let aside = path.with_added_extension("aside");
    std::fs::rename(path, &aside).unwrap();
    std::os::unix::fs::symlink(path, path).unwrap();
    aside
}

fn mend(path: &Path, aside: &Path) {
    std::fs::remove_file(path).unwrap();
    std::fs::rename(aside, path).unwrap();
}

#[test]
fn a_directory_that_cannot_be_listed_changes_nothing_and_is_told_once() {
    let site = Site::new();
    let all = ["a.example", "b.example", "c.shop.example", "d.example"];
    all[..2].iter().for_each(|name| Issued::new(&[name]).write(site.operator(), name));
    Issued::new(&["*.shop.example"]).write(site.operator(), "_.shop.example");
    let first = site.load(&all, None);
    let visited = served(&first, "a.example").unwrap();
    let aside = break_off(site.operator());
    let second = site.load(&all, Some(&first));
    assert_eq!((second.summary().valid, second.summary().missing, second.summary().problems), (3, 1, 2));
    assert!(Arc::ptr_eq(&visited, &served(&second, "a.example").unwrap()));
    let [told] = second.directory_problems() else { panic!("one problem") };
    assert!(told.directory == *site.operator() && !told.remedy().is_empty() && told.to_string().contains("served on"));
    assert_eq!(only_problem(&second).name.as_str(), "d.example", "as before");
    let started = site.load(&all, None);
    assert_eq!((started.summary().missing, started.directory_problems().len()), (4, 1));
    let waits = started.tended(NOW + 60);
    assert_eq!((waits.summary().missing, waits.is_due(NOW + 119)), (4, false));
    mend(site.operator(), &aside);
    assert_eq!(waits.tended(NOW + 120).summary(), first.summary(), "it is listed again by itself");
    let third = site.load(&all, Some(&second));
    assert_eq!((third.directory_problems().len(), third.summary()), (0, first.summary()));
    assert!(served(&third, "b.example").is_some() && served(&third, "c.shop.example").is_some());
}

#[test]
fn a_file_that_cannot_be_read_is_told_and_what_was_read_before_is_served_on() {
    let site = Site::new();
    let all = ["a.example", "b.example"];
    all.iter().for_each(|name| Issued::valid(&[name], 2020, 2027).write(site.operator(), name));
    let first = site.load(&all, None);
    let visited = served(&first, "a.example").unwrap();
    let keys = all.map(|name| site.operator().join(name).join("key.pem"));
    let aside = keys.each_ref().map(|key| break_off(key));
    assert!(matches!(only_problem(&site.load(&["a.example"], None)).fault, CertificateFault::Unreadable(_)));
    for second in [site.load(&all, Some(&first)), first.refreshed(&names(&all), NOW)] {
        assert!(Arc::ptr_eq(&visited, &served(&second, "a.example").unwrap()));
        assert_eq!((second.summary().valid, second.summary().problems), (2, 2));
        let problem = second.problems().find(|problem| problem.name.as_str() == "a.example").unwrap();
        assert!(matches!(problem.fault, CertificateFault::Unreadable(_)) && problem.file == keys[0]);
        assert!(problem.to_string().contains("served on"), "{problem}");
        let Lookup::Cold(cold) = second.lookup("b.example") else { panic!("known, and not visited") };
        assert!(cold.load().is_err());
        assert_eq!(copied(&second, &site.load(&all, Some(&second))), 0);
        let late = second.tended(NOW + 2 * YEAR);
        assert_eq!(late.summary().expired, 0, "what cannot be read is told first");
        assert!(served(&late, "a.example").is_none(), "and is not served for ever");
        for problem in late.problems() {
            assert!(problem.to_string().ends_with("; the name is not served"), "{problem}");
        }
    }
    let second = site.load(&all, Some(&first));
    keys.iter().zip(&aside).for_each(|(key, aside)| mend(key, aside));
    let third = site.load(&all, Some(&second));
    assert_eq!((third.summary().valid, third.summary().problems), (2, 0));
    assert!(served(&third, "b.example").is_some());
}

#[test]
fn what_nobody_may_read_and_is_not_in_memory_gives_way() {
    let site = Site::new();
    let all = ["a.shop.example", "b.shop.example", "c.example"];
    all.iter().for_each(|name| Issued::valid(&[name], 2020, 2027).write(site.operator(), name));
    Issued::valid(&["*.shop.example"], 2020, 2027).write(site.operator(), "_.shop.example");
    let first = site.load(&all, None);
    let visited = served(&first, "a.shop.example").unwrap();
    for name in all {
        let key = site.operator().join(name).join("key.pem");
        std::fs::remove_file(&key).unwrap();
        std::fs::create_dir(&key).unwrap();
    }
    let kept = first.refreshed(&names(&all), NOW);
    assert!(Arc::ptr_eq(&visited, &served(&kept, "a.shop.example").unwrap()));
    let origin = kept.state(&"b.shop.example".parse().unwrap()).map(|state| state.origin);
    assert_eq!(origin, Some(Origin::OperatorWildcard), "it takes the place of what cannot be served");
    let problem = kept.problem_of(&"b.shop.example".parse().unwrap()).unwrap();
    assert_eq!(problem.meanwhile, Meanwhile::Other(site.operator().join("_.shop.example")));
    assert!(problem.to_string().ends_with("_.shop.example is served"), "{problem}");
    assert!(served(&kept, "b.shop.example").is_some());
    assert!(matches!(kept.lookup("c.example"), Lookup::Unknown));
    assert_eq!((kept.summary().valid, kept.summary().problems), (2, 3));
}

/// What a start with the index knows of files that it may look at, and not open: those that root left to another user. A
/// socket stands for them, which nobody can open, root neither.
#[test]
fn what_the_index_knows_and_nobody_can_open_is_told_after_a_visit() {
    let site = Site::new();
    let folder = site.operator().join("a.example");
    Issued::new(&["a.example"]).write(site.operator(), "a.example");
    std::fs::remove_file(folder.join("key.pem")).unwrap();
    let _socket = std::os::unix::net::UnixListener::bind(folder.join("key.pem")).unwrap();
    let stamp = Place::new(folder.into_os_string().into_vec()).stamp(&[Part::Chain, Part::Key]).unwrap();
    let make = Make { is_rsa: false, order: Order::Right };
    let facts = Facts { not_before: 0, not_after: i64::MAX, names: None, make };
    let kept = Arc::new(Folder::cold(stamp, facts, None));
    index::write(&site.folders, [(Origin::Operator, "a.example", &kept)].into_iter()).unwrap();
    let first = site.load(&["a.example"], None);
    assert_eq!((first.summary().valid, first.problems().count()), (1, 0));
    let Lookup::Cold(cold) = first.lookup("a.example") else { panic!("nobody asked yet") };
    assert!(cold.load().is_err());
    let second = first.refreshed(&names(&["a.example"]), NOW);
    let problem = only_problem(&second);
    assert!(matches!(problem.fault, CertificateFault::Unreadable(_)) && problem.file.ends_with("key.pem"), "{problem}");
}

#[test]
fn a_pair_that_cannot_be_read_keeps_nothing_of_the_other_back() {
    for visited in [true, false] {
        let site = Site::new();
        let folder = site.operator().join("a.example");
        let rsa = Issued::rsa(&["a.example"]);
        std::fs::create_dir(&folder).unwrap();
        std::fs::write(folder.join("chain.rsa.pem"), &rsa.chain).unwrap();
        std::fs::write(folder.join("key.rsa.pem"), &rsa.key).unwrap();
        Issued::valid(&["a.example"], 2020, 2027).write(site.operator(), "a.example");
        let first = site.load(&["a.example"], None);
        assert!(!visited || served(&first, "a.example").unwrap().has_twin());
        let aside = break_off(&folder.join("key.rsa.pem"));
        Issued::valid(&["a.example"], 2020, 2030).write(site.operator(), "a.example");
        let second = site.load(&["a.example"], Some(&first));
        assert_eq!(until(&second, "a.example"), year(2030), "the renewed one");
        assert_eq!(served(&second, "a.example").unwrap().has_twin(), visited, "the twin, if it is in memory");
        let problem = only_problem(&second);
        assert!(matches!(problem.fault, CertificateFault::Unreadable(_)) && problem.file.ends_with("key.rsa.pem"));
        let meanwhile = if visited { Meanwhile::Before } else { Meanwhile::Other(folder.clone()) };
        assert_eq!(problem.meanwhile, meanwhile);
        let told =
            if visited { "what was read before is served on" } else { "the other pair of files there is served" };
        assert!(problem.to_string().ends_with(told), "{problem}");
        let third = site.load(&["a.example"], Some(&second));
        assert_eq!(copied(&second, &third), 0, "the same again");
        mend(&folder.join("key.rsa.pem"), &aside);
        let fourth = site.load(&["a.example"], Some(&third));
        assert!(fourth.problems().count() == 0 && served(&fourth, "a.example").unwrap().has_twin());
    }
}

/// With a twin that a fresh start cannot read, the first pair is served.
#[test]
fn a_twin_that_could_never_be_read_keeps_no_visitor_waiting() {
    let site = Site::new();
    Issued::new(&["a.example"]).write(site.operator(), "a.example");
    let twin = site.operator().join("a.example/chain.rsa.pem");
    let _socket = std::os::unix::net::UnixListener::bind(&twin).unwrap();
    let store = site.load(&["a.example"], None);
    assert!(matches!(only_problem(&store).fault, CertificateFault::Unreadable(_)));
    assert!(served(&store, "a.example").is_some());
}

#[test]
fn what_could_not_be_read_is_looked_at_again_by_itself() {
    let site = Site::new();
    let all = ["a.example", "b.shop.example", "c.example"];
    for (name, folder) in [("a.example", "a.example"), ("*.shop.example", "_.shop.example"), ("c.example", "c.example")]
    {
        Issued::new(&[name]).write(site.operator(), folder);
    }
    let first = site.load(&all, None);
    assert!(!first.is_due(NOW + 600), "there is nothing to look at again");
    // A folder in the place of a key: it lasts until somebody mends it.
    let keys = ["a.example", "_.shop.example"].map(|folder| site.operator().join(folder).join("key.pem"));
    for key in &keys {
        std::fs::rename(key, key.with_added_extension("aside")).unwrap();
        std::fs::create_dir(key).unwrap();
    }
    let second = site.load(&all, Some(&first));
    assert_eq!((second.summary().unreadable, second.summary().valid), (2, 1));
    assert!(!second.is_due(NOW + 59) && second.is_due(NOW + 60));
    let third = second.tended(NOW + 60);
    assert!(copied(&second, &third) == 0 && !third.is_due(NOW + 119), "it is looked at once a minute");
    for key in &keys {
        std::fs::remove_dir(key).unwrap();
        std::fs::rename(key.with_added_extension("aside"), key).unwrap();
    }
    let fourth = third.tended(NOW + 120);
    assert_eq!((fourth.summary().valid, fourth.summary().problems), (3, 0));
    assert!(served(&fourth, "a.example").is_some() && served(&fourth, "b.shop.example").is_some());
    assert!(!fourth.is_due(NOW + 600));
    assert!(second.is_due(NOW - 1), "a clock that was set back keeps nothing waiting");
}

#[test]
fn what_could_never_be_read_is_the_same_at_each_look() {
    let site = Site::new();
    for name in ["a.example", "b.example"] {
        Issued::new(&[name]).write(site.operator(), name);
    }
    let key = site.operator().join("a.example/key.pem");
    std::fs::remove_file(&key).unwrap();
    std::fs::create_dir(&key).unwrap();
    let _aside = break_off(&site.operator().join("b.example"));
    let first = site.load(&["a.example", "b.example"], None);
    assert_eq!(first.summary().unreadable, 2);
    let second = site.load(&["a.example", "b.example"], Some(&first));
    assert_eq!((copied(&first, &second), parsed(&second)), (0, parsed(&first)));
}
