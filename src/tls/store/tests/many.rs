//! Many names: what a change copies, and what is left over.

use std::collections::BTreeSet;

use super::*;
use crate::tls::testing::Authority;

#[test]
fn among_5_000_names_a_change_copies_what_changed() {
    let site = Site::new();
    let authority = Authority::new();
    let mut all: Vec<String> = (0..5_000).map(|n| format!("events.shop{n}.example")).collect();
    std::thread::scope(|scope| {
        for half in all.chunks(2_500) {
            let (site, authority) = (&site, &authority);
            scope.spawn(move || half.iter().for_each(|name| site.issue(name, "1", &authority.issue(&[name]))));
        }
    });
    let load = |all: &[String], previous: Option<&CertStore>| {
        let names: Vec<ServerName> = all.iter().map(|name| name.parse().unwrap()).collect();
        CertStore::load(&site.folders, &names, previous, NOW)
    };
    let first = load(&all, None);
    assert_eq!((first.summary().valid, parsed(&first)), (5_000, 5_000));
    assert_eq!(copied(&first, &load(&all, Some(&first))), 0, "nothing changed");

    site.issue(&all[7], "2", &authority.issue(&[&all[7]]));
    let replaced = load(&all, Some(&first));
    assert_eq!((copied(&first, &replaced), parsed(&replaced)), (1, 5_001));
    all.push("events.added.example".to_owned());
    site.issue("events.added.example", "1", &authority.issue(&["events.added.example"]));
    let added = load(&all, Some(&replaced));
    assert_eq!((copied(&replaced, &added), added.summary().valid), (1, 5_001));
    all.swap_remove(100);
    let removed = load(&all, Some(&added));
    assert_eq!((copied(&added, &removed), removed.summary().valid), (1, 5_000));
    assert!(matches!(removed.lookup("events.shop100.example"), Lookup::Unknown));

    // A wildcard for one shop changes what can serve one name, and no shard: its own certificate comes first.
    Issued::new(&["*.shop9.example"]).write(site.operator(), "_.shop9.example");
    let wildcard = removed.refreshed(&names(&["events.shop9.example"]), NOW);
    assert_eq!(copied(&removed, &wildcard), 0);
    assert!(wildcard.wildcards.folder(Origin::OperatorWildcard, "shop9.example").is_some());

    let renewed: Vec<ServerName> = all[200..700].iter().map(|name| name.parse().unwrap()).collect();
    for name in &renewed {
        site.issue(name.as_str(), "2", &authority.issue(&[name.as_str()]));
    }
    let before = parsed(&wildcard);
    let burst = wildcard.refreshed(&renewed, NOW);
    assert_eq!((parsed(&burst) - before, burst.summary().valid), (500, 5_000));
    assert_eq!(renewed.iter().filter(|name| served(&burst, name.as_str()).is_some()).count(), 500);
    let shards: BTreeSet<usize> = renewed.iter().map(|name| burst.names.shard_of(name.as_str())).collect();
    assert_eq!(copied(&wildcard, &burst), shards.len());
}

#[test]
fn memory_is_flat_over_visits_and_renewals() {
    let site = Site::new();
    let authority = Authority::new();
    let all: Vec<String> = (0..100).map(|n| format!("n{n}.example")).collect();
    let all = names(&all.iter().map(String::as_str).collect::<Vec<_>>());
    for name in &all {
        site.issue(name.as_str(), "1", &authority.issue(&[name.as_str()]));
    }
    let mut store = CertStore::load(&site.folders, &all, None, NOW);
    let mut round = |count: usize| {
        for _ in 0..count {
            for name in &all {
                assert!(served(&store, name.as_str()).is_some());
                // A new inode: the same certificate, but other files.
                let live = site.folders.issued_dir.join(name.as_str()).join("live");
                std::fs::copy(live.join("chain.pem"), live.join("next")).unwrap();
                std::fs::rename(live.join("next"), live.join("chain.pem")).unwrap();
            }
            store = store.refreshed(&all, NOW);
            assert_eq!(store.summary().valid, 100);
        }
    };
    round(10);
    let before = resident();
    round(30);
    // 3,000 credentials of 2 KB each.
    let grown = resident().saturating_sub(before);
    assert!(grown < 1_500_000, "{grown} bytes");
}

#[test]
fn memory_is_flat_over_many_credentials() {
    let issued = Issued::new(&["a.example"]);
    let rounds = |count: usize| {
        for _ in 0..count {
            let pool = Pool::new().map(Arc::new);
            let load = || Credential::parse_in(pool.as_deref(), issued.chain.as_bytes(), issued.key.as_bytes());
            let many: Vec<_> = (0..50).map(|_| load().unwrap()).collect();
            // Certificates may outlive the pool.
            drop(pool);
            drop(many);
        }
    };
    rounds(40);
    let before = resident();
    rounds(200);
    // 10,000 credentials of 2 KB each: a leak of one in ten would show.
    let grown = resident().saturating_sub(before);
    assert!(grown < 2_000_000, "{grown} bytes");
}

fn resident() -> usize {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
    statm.split(' ').nth(1).unwrap().parse::<usize>().unwrap() * 4_096
}
