//! Files that change, break, go and come back, and time that passes.

use super::*;
use crate::tls::Which;

#[test]
fn time_alone_ends_and_begins_what_is_served() {
    let site = Site::new();
    let all = ["a.shop.example", "b.shop.example", "c.example", "d.example"];
    Issued::valid(&["a.shop.example"], 2020, 2027).write(site.operator(), "a.shop.example");
    Issued::valid(&["b.shop.example"], 2020, 2040).write(site.operator(), "b.shop.example");
    Issued::valid(&["*.shop.example"], 2020, 2030).write(site.operator(), "_.shop.example");
    Issued::valid(&["c.example"], 2028, 2040).write(site.operator(), "c.example");
    Issued::valid(&["d.example"], 2020, 2027).write(site.operator(), "d.example");
    let store = site.load(&all, None);
    assert!(!store.is_due(NOW) && !store.is_due(NOW + YEAR - 86_400));
    let origin = |store: &CertStore, name: &str| {
        let state = store.state(&name.parse().unwrap()).unwrap();
        state.served.contains(&true).then_some(state.origin)
    };
    assert_eq!(origin(&store, "c.example"), None);
    let ends = year(2027).unwrap();
    assert!(!store.is_due(ends) && store.is_due(ends + 1), "the last second is valid");
    let store = store.tended(ends + 1);
    assert!(!store.is_due(ends + 2));
    assert_eq!(origin(&store, "a.shop.example"), Some(Origin::OperatorWildcard));
    assert_eq!(origin(&store, "d.example"), None);
    assert_eq!((store.summary().expired, store.summary().first_expiry), (1, year(2030)));
    assert!(store.is_due(year(2028).unwrap()));
    let store = store.tended(year(2028).unwrap());
    assert_eq!(origin(&store, "c.example"), Some(Origin::Operator));
    let store = store.tended(year(2030).unwrap() + 1);
    assert_eq!(origin(&store, "a.shop.example"), None);
    // A clock that was wrong, and is put right.
    assert!(store.is_due(NOW));
    let store = store.tended(NOW);
    assert_eq!(origin(&store, "a.shop.example"), Some(Origin::Operator));
    assert_eq!((origin(&store, "c.example"), origin(&store, "d.example")), (None, Some(Origin::Operator)));
}

#[test]
fn only_the_pairs_that_are_good_are_served() {
    let site = Site::new();
    let folder = site.operator().join("a.example");
    let twin = |names: &[&str], until: i32| {
        let rsa = Issued::with_key(names, 2020, until, rcgen::KeyPair::generate_for(&rcgen::PKCS_RSA_SHA256).unwrap());
        std::fs::write(folder.join("chain.rsa.pem"), &rsa.chain).unwrap();
        std::fs::write(folder.join("key.rsa.pem"), &rsa.key).unwrap();
    };
    Issued::valid(&["a.example"], 2020, 2040).write(site.operator(), "a.example");
    twin(&["a.example"], 2050);
    let both = site.load(&["a.example"], None);
    assert!(served(&both, "a.example").unwrap().has_twin());
    assert_eq!((both.problems().count(), both.summary().first_expiry), (0, year(2040)));
    let later = both.tended(year(2041).unwrap());
    let left = served(&later, "a.example").unwrap();
    assert_eq!((left.has_twin(), Some(left.not_after())), (false, year(2050)));
    assert_eq!((only_problem(&later).fault, later.summary().first_expiry), (CertificateFault::Expired, year(2050)));
    for faulty in [(&["a.example"], 2025), (&["b.example"], 2050)] {
        twin(faulty.0, faulty.1);
        let store = site.load(&["a.example"], Some(&both));
        let left = served(&store, "a.example").unwrap();
        assert_eq!((left.has_twin(), Some(left.not_after())), (false, year(2040)));
        assert_eq!(only_problem(&store).file, folder.join("chain.rsa.pem"));
    }
    twin(&["a.example"], 2050);
    std::fs::remove_file(folder.join("chain.pem")).unwrap();
    std::fs::remove_file(folder.join("key.pem")).unwrap();
    let store = site.load(&["a.example"], None);
    assert_eq!(until(&store, "a.example"), year(2050), "a twin alone");
    assert_eq!(only_problem(&store).fault, CertificateFault::Missing);
}

#[test]
fn what_may_have_been_written_while_it_was_read_is_read_again() {
    let site = Site::new();
    Issued::new(&["a.example"]).write(site.operator(), "a.example");
    Issued::new(&["*.shop.example"]).write(site.operator(), "_.shop.example");
    let all = names(&["a.example", "b.shop.example"]);
    let first = CertStore::load(&site.folders, &all, None, clock());
    assert_eq!((parsed(&first), first.summary().valid), (2, 2));
    assert!(first.is_due(clock()));
    first.keep_index().unwrap();
    let started = CertStore::load(&site.folders, &all, None, clock());
    assert_eq!(parsed(&started), 2, "what is not settled is not kept");
    let second = CertStore::load(&site.folders, &all, Some(&started), clock());
    assert_eq!(parsed(&second), 4, "nor believed");
    let settled = second.tended(clock() + 5);
    assert!(!settled.is_due(clock() + 6) && parsed(&settled) == 6);
    settled.keep_index().unwrap();
    assert_eq!(parsed(&CertStore::load(&site.folders, &all, None, clock() + 5)), 0);
    assert_eq!(parsed(&CertStore::load(&site.folders, &all, Some(&settled), clock() + 5)), 0);
}

#[test]
fn a_visitor_who_comes_while_files_are_replaced_harms_nobody_for_long() {
    let site = Site::new();
    Issued::new(&["a.example"]).write(site.operator(), "a.example");
    let (first, next) = (site.load(&["a.example"], None), Issued::new(&["a.example"]));
    let visit = |store: &CertStore| {
        let Lookup::Cold(cold) = store.lookup("a.example") else { panic!("nobody asked yet") };
        assert!(cold.load().is_err());
        store.refreshed(&names(&["a.example"]), clock())
    };
    let folder = site.operator().join("a.example");
    std::fs::write(folder.join("chain.pem"), &next.chain).unwrap();
    let between = visit(&first);
    assert_eq!(only_problem(&between).fault, CertificateFault::Malformed(CredentialError::KeyMismatch));
    assert!(between.is_due(clock()));
    std::fs::write(folder.join("key.pem"), &next.key).unwrap();
    let whole = between.tended(clock());
    assert!(whole.problems().count() == 0 && served(&whole, "a.example").is_some());

    std::fs::remove_dir_all(&folder).unwrap();
    let gone = visit(&first);
    assert_eq!(only_problem(&gone).fault, CertificateFault::Nothing);
    assert!(gone.is_due(clock()));
    assert!(!gone.tended(clock()).is_due(clock()), "looked at once");
    next.write(site.operator(), "a.example");
    assert!(served(&gone.tended(clock()), "a.example").is_some());
}

#[test]
fn what_a_glance_cannot_see_is_found_by_the_first_visitor() {
    let site = Site::new();
    let issued = Issued::new(&["a.example"]);
    issued.write(site.operator(), "a.example");
    let key = site.operator().join("a.example/key.pem");
    std::fs::write(&key, with_other_private_half(&issued.key)).unwrap();
    let first = site.load(&["a.example"], None);
    assert_eq!(first.problems().count(), 0);
    let Lookup::Cold(cold) = first.lookup("a.example") else { panic!("nobody asked yet") };
    assert!(cold.load().is_err());
    let second = first.refreshed(&names(&["a.example"]), NOW);
    assert_eq!(only_problem(&second).fault, CertificateFault::Malformed(CredentialError::Key));
    assert!(matches!(second.lookup("a.example"), Lookup::Unknown));
    let third = site.load(&["a.example"], Some(&second));
    assert_eq!((copied(&second, &third), third.summary().unreadable), (0, 1), "it is remembered");
    std::fs::write(&key, &issued.key).unwrap();
    assert!(served(&site.load(&["a.example"], Some(&third)), "a.example").is_some());
}

/// A key file of which the public half is what it was.
fn with_other_private_half(pem: &str) -> String {
    use base64::Engine as _;
    let engine = base64::engine::general_purpose::STANDARD;
    let body: String = pem.lines().filter(|line| !line.starts_with('-')).collect();
    let mut der = engine.decode(body).unwrap();
    // The private half is the one octet string of 32 bytes.
    let at = der.windows(2).position(|pair| pair == [0x04, 32]).unwrap();
    der[at + 10] ^= 1;
    let text = engine.encode(der);
    let lines: Vec<_> = text.as_bytes().chunks(64).map(|line| std::str::from_utf8(line).unwrap()).collect();
    format!("-----BEGIN PRIVATE KEY-----\n{}\n-----END PRIVATE KEY-----\n", lines.join("\n"))
}

/// Seconds of the clock by which files are stamped: what was just written is not settled then.
fn clock() -> i64 {
    crate::clock::now_ms() / 1_000
}

#[test]
fn other_names_come_and_go_without_a_look_at_the_rest() {
    let site = Site::new();
    let all: Vec<String> = (0..2_000).map(|n| format!("n{n}.example")).collect();
    let all: Vec<&str> = all.iter().map(String::as_str).collect();
    for name in ["n3.example", "n4.example", "late.example"] {
        Issued::new(&[name]).write(site.operator(), name);
    }
    let first = site.load(&all, None);
    let visited = served(&first, "n4.example").unwrap();
    let second = first.changed(&names(&["n3.example"]), &names(&["late.example"]), NOW);
    assert!(
        matches!(second.lookup("n3.example"), Lookup::Unknown) && second.state(&names(&["n3.example"])[0]).is_none()
    );
    assert!(served(&second, "late.example").is_some());
    assert!(Arc::ptr_eq(&visited, &served(&second, "n4.example").unwrap()));
    assert!((1..=2).contains(&copied(&first, &second)), "the shards of the two names");
    assert_eq!((second.summary().valid, second.summary().missing), (2, 1_998));
    // One that leaves one account for another is looked at again, and stays.
    let third = second.changed(&names(&["n4.example"]), &names(&["n4.example"]), NOW);
    assert!(served(&third, "n4.example").is_some() && third.summary() == second.summary());
    // So many that the shards are laid out anew.
    let more: Vec<String> = (0..9_000).map(|n| format!("m{n}.example")).collect();
    let more: Vec<&str> = more.iter().map(String::as_str).collect();
    let fourth = third.changed(&names(&all), &names(&more), NOW);
    assert_eq!((fourth.summary().valid, fourth.summary().missing), (1, 9_000));
}

#[test]
fn a_look_at_one_name_judges_what_time_has_changed_of_its_neighbours() {
    let site = Site::new();
    Issued::valid(&["a.example"], 2020, 2027).write(site.operator(), "a.example");
    Issued::new(&["b.example"]).write(site.operator(), "b.example");
    let first = site.load(&["a.example", "b.example"], None);
    let late = NOW + 2 * YEAR;
    for next in [first.refreshed(&names(&["b.example"]), late), first.changed(&[], &names(&["c.example"]), late)] {
        assert!(matches!(next.lookup("a.example"), Lookup::Unknown), "it ended");
        assert_eq!((next.summary().expired, next.summary().valid), (1, 1));
    }
}

#[test]
fn of_the_pairs_that_serve_a_name_the_first_end_decides_on_its_renewal() {
    let (site, name) = (Site::new(), "events.shoes.example");
    let standing = || {
        let Standing { serving, issued } = site.load(&[name], None).standing(&name.parse().unwrap());
        (serving, issued.map(|issued| (issued.which, issued.not_after)))
    };
    let end = |which, until| Some((which, year(until).unwrap()));
    assert_eq!(standing(), (None, None));
    site.issue("_.shoes.example", "01", &Issued::valid(&["*.shoes.example"], 2020, 2035));
    assert_eq!(standing(), (Some(Origin::IssuedWildcard), end(Which::Only, 2035)));
    site.issue(name, "01", &Issued::valid(&[name], 2020, 2030));
    assert_eq!(standing(), (Some(Origin::Issued), end(Which::Only, 2030)));

    let folder = site.folders.issued_dir.join(name).join("02");
    site.issue(name, "02", &Issued::valid(&[name], 2020, 2030));
    let twin = |until| {
        let key = rcgen::KeyPair::generate_for(&rcgen::PKCS_RSA_SHA256).unwrap();
        let rsa = Issued::with_key(&[name], 2020, until, key);
        std::fs::write(folder.join("chain.rsa.pem"), &rsa.chain).unwrap();
        std::fs::write(folder.join("key.rsa.pem"), &rsa.key).unwrap();
    };
    for (until, decides) in
        [(2028, end(Which::Twin, 2028)), (2025, end(Which::First, 2030)), (2034, end(Which::First, 2030))]
    {
        twin(until);
        assert_eq!(standing(), (Some(Origin::Issued), decides), "{until}");
    }
    std::fs::write(folder.join("key.pem"), Issued::new(&[name]).key).unwrap();
    assert_eq!(standing(), (Some(Origin::Issued), end(Which::Twin, 2034)), "the first one is damaged");
    Issued::valid(&[name], 2020, 2027).write(site.operator(), name);
    assert_eq!(standing().0, Some(Origin::Operator));
}
