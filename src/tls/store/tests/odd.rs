//! What is served, and is told all the same: chains without issuers or out of order, and twins that are of no use.

use super::*;
use crate::tls::testing::Authority;

fn twin(site: &Site, issued: &Issued) {
    let folder = site.operator().join("a.example");
    std::fs::write(folder.join("chain.rsa.pem"), &issued.chain).unwrap();
    std::fs::write(folder.join("key.rsa.pem"), &issued.key).unwrap();
}

/// What is told of the name, by a store that takes a glance, by one that knows it from the index, and by one that was visited.
fn told(site: &Site) -> Option<CertificateProblem> {
    let first = site.load(&["a.example"], None);
    first.keep_index().unwrap();
    let known = site.load(&["a.example"], None);
    assert_eq!(parsed(&known), 0);
    assert!(served(&known, "a.example").is_some(), "a visit finds what was judged");
    let visited = known.refreshed(&names(&["a.example"]), NOW);
    let told = [&first, &known, &visited].map(|store| store.problem_of(&names(&["a.example"])[0]));
    assert!(told[0] == told[1] && told[0] == told[2], "{told:?}");
    let certain = told[0].iter().filter(|told| told.fault.is_certain()).count();
    assert_eq!((first.summary().valid, first.summary().problems, first.problems().count()), (1, certain, certain));
    told[0].clone()
}

/// The certificates of a chain one by one.
fn blocks(chain: &str) -> Vec<&str> {
    chain.split_inclusive("-----END CERTIFICATE-----\n").collect()
}

#[test]
fn a_chain_that_is_served_without_issuers_or_out_of_order_is_told() {
    let site = Site::new();
    let (issued, other) = (Authority::new().issue(&["a.example"]), Issued::new(&["b.example"]));
    let (blocks, others) = (blocks(&issued.chain), blocks(&other.chain));
    let fault = |chain: &[&str]| {
        Issued { chain: chain.concat(), ..issued.clone() }.write(site.operator(), "a.example");
        told(&site).map(|problem| problem.fault)
    };
    assert_eq!(fault(&blocks), None);
    assert_eq!(fault(&[blocks[0], blocks[1], &issued.root]), None, "a root too");
    assert_eq!(fault(&blocks[..1]), Some(CertificateFault::Alone));
    assert_eq!(fault(&[blocks[0], others[1]]), Some(CertificateFault::Disordered));
    assert_eq!(fault(&[blocks[0], &issued.root, blocks[1]]), Some(CertificateFault::Disordered));
    assert_eq!(fault(&[blocks[0], blocks[1], others[1]]), Some(CertificateFault::Disordered));
}

#[test]
fn folders_that_are_called_as_no_name_is_are_told_once() {
    let site = Site::new();
    for folder in ["*.shop.example", "A.example", "a.example"] {
        Issued::new(&["a.example"]).write(site.operator(), folder);
    }
    std::fs::write(site.operator().join("Notes.txt"), "a file").unwrap();
    let store = site.load(&["a.example"], None);
    let [told] = store.directory_problems() else { panic!("one problem") };
    assert!(told.to_string().starts_with("2 folders in it serve nothing, *.shop.example among them"), "{told}");
    assert_eq!((store.summary().valid, store.summary().problems), (1, 1));
    assert!(!store.is_due(NOW + 600), "nothing comes of looking again");
}

#[test]
fn a_certificate_that_issued_itself_is_whole() {
    let site = Site::new();
    let made = rcgen::generate_simple_self_signed(["a.example".to_owned()]).unwrap();
    let issued = Issued { root: String::new(), chain: made.cert.pem(), key: made.signing_key.serialize_pem() };
    issued.write(site.operator(), "a.example");
    assert_eq!(told(&site), None);
}

#[test]
fn a_twin_that_serves_nobody_is_told() {
    let site = Site::new();
    let (ecdsa, rsa) = (Issued::new(&["a.example"]), Issued::rsa(&["a.example"]));
    let fault = |first: &Issued, second: &Issued| {
        first.write(site.operator(), "a.example");
        twin(&site, second);
        let problem = told(&site)?;
        assert!(
            problem.file.ends_with("chain.rsa.pem") && problem.to_string().contains("served to nobody"),
            "{problem}"
        );
        Some(problem.fault)
    };
    assert_eq!(fault(&ecdsa, &rsa), None);
    assert_eq!(fault(&ecdsa, &Issued::new(&["a.example"])), Some(CertificateFault::TwinNotRsa));
    assert_eq!(fault(&rsa, &ecdsa), Some(CertificateFault::TwinNotRsa));
    assert_eq!(fault(&rsa, &Issued::rsa(&["a.example"])), Some(CertificateFault::BothRsa));
}
