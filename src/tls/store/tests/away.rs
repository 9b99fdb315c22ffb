//! The operator's directory that is not there, or another one: what is told, and what is served on.

use super::*;
use crate::tls::places::DirectoryFault;

const ALL: [&str; 3] = ["a.example", "b.example", "c.shop.example"];

/// Three names with a certificate, the first of them visited.
fn visited(site: &Site) -> (CertStore, Arc<Credential>) {
    ALL[..2].iter().for_each(|name| Issued::new(&[name]).write(site.operator(), name));
    Issued::new(&["*.shop.example"]).write(site.operator(), "_.shop.example");
    let store = site.load(&ALL, None);
    let credential = served(&store, "a.example").unwrap();
    (store, credential)
}

fn faults(store: &CertStore) -> Vec<DirectoryFault> {
    store.directory_problems().iter().map(|problem| problem.fault.clone()).collect()
}

#[test]
fn a_directory_that_is_away_changes_nothing_and_is_told() {
    for (is_empty_there, fault) in [(false, DirectoryFault::Absent), (true, DirectoryFault::Replaced)] {
        let site = Site::new();
        let (first, credential) = visited(&site);
        let aside = site.operator().with_added_extension("aside");
        std::fs::rename(site.operator(), &aside).unwrap();
        if is_empty_there {
            std::fs::create_dir(site.operator()).unwrap();
            std::fs::write(site.operator().join("README"), "a volume is mounted here").unwrap();
        }
        let mut away = site.load(&ALL, Some(&first));
        for _ in 0..2 {
            assert_eq!((away.summary().valid, faults(&away)), (3, vec![fault.clone()]));
            assert!(Arc::ptr_eq(&credential, &served(&away, "a.example").unwrap()));
            let [told] = away.directory_problems() else { panic!("one problem") };
            assert!(told.to_string().contains("served on where somebody visited them") && !told.remedy().is_empty());
            assert!(!away.is_due(NOW + 59) && away.is_due(NOW + 60));
            away = site.load(&ALL, Some(&away));
        }
        // As after a visitor came in vain, and as a person asks for it.
        let looked = away.refreshed(&names(&ALL), NOW);
        assert!(Arc::ptr_eq(&credential, &served(&looked, "a.example").unwrap()));
        assert!(matches!(looked.lookup("b.example"), Lookup::Unknown), "nobody can be served what is not in memory");
        assert_eq!((looked.summary().valid, looked.summary().unreadable), (1, 2));
        let waits = looked.tended(NOW + 60);
        assert!(copied(&looked, &waits) == 0 && !waits.is_due(NOW + 119));
        if is_empty_there {
            std::fs::remove_dir_all(site.operator()).unwrap();
        }
        std::fs::rename(&aside, site.operator()).unwrap();
        let back = waits.tended(NOW + 120);
        assert_eq!((back.summary(), faults(&back)), (first.summary(), vec![]), "it is listed again by itself");
        assert!(served(&back, "b.example").is_some() && served(&back, "c.shop.example").is_some());
    }
}

#[test]
fn what_is_removed_from_the_directory_is_removed() {
    let site = Site::new();
    let (first, _) = visited(&site);
    for folder in ["a.example", "b.example", "_.shop.example"] {
        std::fs::remove_dir_all(site.operator().join(folder)).unwrap();
    }
    let emptied = site.load(&ALL, Some(&first));
    assert_eq!((emptied.summary().missing, faults(&emptied)), (3, vec![]));
    std::fs::remove_dir(site.operator()).unwrap();
    let gone = site.load(&ALL, Some(&emptied));
    assert_eq!((gone.summary().missing, faults(&gone)), (3, vec![]), "nothing was served from it any more");
    assert!(!gone.is_due(NOW + 600));
}

#[test]
fn another_directory_with_something_in_it_takes_the_place_of_the_first() {
    let site = Site::new();
    let (first, _) = visited(&site);
    std::fs::rename(site.operator(), site.operator().with_added_extension("aside")).unwrap();
    Issued::valid(&["b.example"], 2020, 2030).write(site.operator(), "b.example");
    let second = site.load(&ALL, Some(&first));
    assert_eq!((second.summary().valid, second.summary().missing, faults(&second)), (1, 2, vec![]));
    assert_eq!(until(&second, "b.example"), year(2030));
}

#[test]
fn a_new_path_that_leads_nowhere_gives_nothing_up() {
    let mut site = Site::new();
    let (first, credential) = visited(&site);
    let there = std::mem::replace(&mut site.folders.certs_dir, PathBuf::from("/nowhere"));
    let away = site.load(&ALL, Some(&first));
    assert_eq!((away.summary().valid, faults(&away)), (3, vec![DirectoryFault::Absent]));
    assert!(Arc::ptr_eq(&credential, &served(&away, "a.example").unwrap()));
    site.folders.certs_dir = there.with_added_extension("other");
    Issued::valid(&["b.example"], 2020, 2030).write(site.operator(), "b.example");
    let other = site.load(&ALL, Some(&away));
    assert_eq!((other.summary().valid, faults(&other)), (1, vec![]));
    assert_eq!((until(&other, "a.example"), until(&other, "b.example")), (None, year(2030)));
}

#[test]
fn a_folder_that_was_removed_is_not_told_as_half_of_one() {
    let site = Site::new();
    let (first, _) = visited(&site);
    std::fs::remove_dir_all(site.operator().join("a.example")).unwrap();
    let second = first.refreshed(&names(&["a.example"]), NOW);
    assert_eq!(only_problem(&second).fault, CertificateFault::Nothing);
    assert!(second.is_due(NOW), "it may be being replaced: it is looked at once more");
    site.issue("a.example", "1", &Issued::new(&["a.example"]));
    let third = first.refreshed(&names(&["a.example"]), NOW);
    assert_eq!((third.problems().count(), third.summary().valid), (0, 3), "what was imported is served");
}

#[test]
fn what_was_imported_before_the_directory_went_away_serves_then_and_is_renewed() {
    let site = Site::new();
    let (first, operators) = visited(&site);
    let imported = Issued::new(&["a.example"]);
    imported.write(&site.folders.issued_dir.join("a.example"), "live");
    std::fs::rename(site.operator(), site.operator().with_added_extension("aside")).unwrap();
    for away in [site.load(&ALL, Some(&first)), first.refreshed(&names(&ALL[..1]), NOW)] {
        assert!(!Arc::ptr_eq(&operators, &served(&away, "a.example").unwrap()));
        assert_eq!(away.standing(&names(&ALL)[0]).serving, Some(Origin::Issued));
    }
}

#[test]
fn a_volume_that_is_mounted_after_the_start_is_taken_up() {
    for is_empty_there in [false, true] {
        let site = Site::new();
        let aside = site.operator().with_added_extension("aside");
        Issued::new(&["a.example"]).write(&aside, "a.example");
        if is_empty_there {
            std::fs::create_dir_all(site.operator()).unwrap();
        }
        let before = site.load(&ALL, None);
        assert!(served(&before, "a.example").is_none() && !before.is_due(NOW + 600));
        let _ = std::fs::remove_dir(site.operator());
        std::fs::rename(&aside, site.operator()).unwrap();
        assert!(!before.is_due(NOW + 59) && before.is_due(NOW + 60));
        let mounted = before.tended(NOW + 60);
        assert!(served(&mounted, "a.example").is_some() && !mounted.is_due(NOW + 600));
    }
}
