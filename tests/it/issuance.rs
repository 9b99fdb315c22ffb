use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rcgen::KeyPair;
use serde_json::{Value, json};

use crate::util::pebble::Manners;
use crate::util::{Account, Browser, Gateway, Pebble, Site, eventually};

pub(crate) const NAME: &str = "events.shoes.example";

pub(crate) fn shoes() -> Account {
    Account::new("shoes", 9001).bare_domain(NAME)
}

/// Whether a client that trusts the CA is served under a name.
pub(crate) async fn is_served(gateway: &Gateway, root: &str, name: &str) -> bool {
    let answer = Browser::new(gateway.https(), root).get(name, "/pixelgate.js").send().await;
    answer.is_ok_and(|answer| answer.status() == 200)
}

pub(crate) async fn served(gateway: &Gateway, pebble: &Pebble, name: &str) {
    let root = pebble.root().await;
    eventually(&format!("{name} is served with a certificate of the CA"), async || {
        is_served(gateway, &root, name).await.then_some(())
    })
    .await;
}

pub(crate) fn live(site: &Site, name: &str) -> PathBuf {
    site.path(&format!("data/certs/{name}/live"))
}

/// Puts a chain and its key, and a twin's, where an import does.
pub(crate) fn put_live(site: &Site, name: &str, first: [&str; 2], twin: Option<[&str; 2]>) {
    let folder = site.path(&format!("data/certs/{name}/imported-1"));
    std::fs::create_dir_all(&folder).unwrap();
    let files = ["chain.pem", "key.pem", "chain.rsa.pem", "key.rsa.pem"];
    let texts = first.into_iter().chain(twin.into_iter().flatten());
    files.into_iter().zip(texts).for_each(|(file, text)| std::fs::write(folder.join(file), text).unwrap());
    std::os::unix::fs::symlink("imported-1", folder.with_file_name("live")).unwrap();
}

fn mode(path: &Path) -> u32 {
    std::fs::metadata(path).unwrap().permissions().mode() & 0o777
}

/// The warnings of a name in the status.
pub(crate) async fn warnings(gateway: &Gateway, name: &str) -> Vec<String> {
    let (_, status) = gateway.ops("/status").await;
    let status: Value = serde_json::from_str(&status).unwrap();
    let problems = status["problems"].as_array().unwrap().iter().filter(|problem| problem["key"] == name);
    problems.map(|problem| problem["reason"].as_str().unwrap().to_owned()).collect()
}

async fn issued(gateway: &Gateway) -> f64 {
    gateway.metric("pixelgate_certificate_orders_total", "issued").await
}

/// Waits until so many certificates were counted.
pub(crate) async fn counted(gateway: &Gateway, certificates: u32) {
    let all = async || (issued(gateway).await == f64::from(certificates)).then_some(());
    eventually(&format!("{certificates} certificates are counted"), all).await;
}

/// Waits for a warning of a name in the status with these words, and gives it.
pub(crate) async fn told(gateway: &Gateway, name: &str, words: &str) -> String {
    let find = async || warnings(gateway, name).await.into_iter().find(|warning| warning.contains(words));
    eventually(&format!("the status says {words}"), find).await
}

/// What `cert list` says of a name.
pub(crate) fn view(gateway: &Gateway, name: &str) -> Option<Value> {
    let list = gateway.json(&["cert", "list", "--json"]);
    list.as_array()?.iter().find(|view| view["name"] == name).cloned()
}

/// Waits until another certificate of a name is live than that of a serial.
pub(crate) async fn replaced(site: &Site, name: &str, serial: &Path) {
    let other = async || (std::fs::read_link(live(site, name)).ok()? != serial).then_some(());
    eventually("another one is live", other).await;
}

/// Has the CA want a name's certificate renewed, and waits for the new one.
pub(crate) async fn renewed(site: &Site, pebble: &Pebble, name: &str) {
    let live = live(site, name);
    let serial = std::fs::read_link(&live).unwrap();
    let window = json!({ "suggestedWindow": { "start": "2026-01-01T00:00:00Z", "end": "2026-01-02T00:00:00Z" } });
    pebble.set_renewal_info(&std::fs::read_to_string(live.join("chain.pem")).unwrap(), &window).await;
    replaced(site, name, &serial).await;
}

/// Orders that were ever begun at the CA.
pub(crate) fn orders_at(pebble: &Pebble) -> usize {
    pebble.server.log().matches("Added order").count()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_is_issued_served_and_kept() {
    let pebble = Pebble::start_with(&Manners { nonces_refused: 20, ..Manners::default() }).await;
    let site = Site::issuing(&pebble, "").account(shoes());
    let mut gateway = Gateway::start(&site).await;
    served(&gateway, &pebble, NAME).await;
    counted(&gateway, 1).await;
    assert_eq!(warnings(&gateway, NAME).await, Vec::<String>::new());

    let live = live(&site, NAME);
    assert_eq!((mode(&live.join("key.pem")), mode(&live.join("chain.pem")), mode(&live)), (0o600, 0o600, 0o700));
    assert!(std::fs::read_link(&live).unwrap().is_relative());
    assert!(!site.path(&format!("data/certs/{NAME}/pending")).exists());
    let folder = std::fs::read_dir(site.path("data/acme")).unwrap();
    let mut folders = folder.map(|entry| entry.unwrap().path()).filter(|path| path.is_dir());
    let account = folders.next().unwrap();
    assert_eq!((mode(&account), mode(&account.join("account.json"))), (0o700, 0o600));

    // A restart neither orders again nor makes another account.
    let before = std::fs::read(account.join("account.json")).unwrap();
    gateway.stop().await;
    let gateway = Gateway::start(&site).await;
    served(&gateway, &pebble, NAME).await;
    assert_eq!(std::fs::read(account.join("account.json")).unwrap(), before);
    assert_eq!(orders_at(&pebble), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_account_that_comes_by_a_reload_is_issued_and_needs_a_binding() {
    let binding = ("kid-1".to_owned(), "zWNDZM6eQGHWpSRTPal5eIUYFTu7EajVIoguysqZ9wG44nMEtx3MUAsUDkMTQ12W".to_owned());
    let pebble = Pebble::start_with(&Manners { external_account: Some(binding.clone()), ..Manners::default() }).await;
    let site = Site::issuing(&pebble, "external_account = { key_id = \"kid-1\", secret = { file = \"secrets/eab\" } }");
    site.write("secrets/eab", &binding.1);
    let gateway = Gateway::start(&site).await;
    site.write_account(&shoes());
    gateway.json(&["reload", "--json"]);
    served(&gateway, &pebble, NAME).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn both_keys_are_issued() {
    let pebble = Pebble::start().await;
    let site = Site::issuing(&pebble, "key_type = \"both\"\nprofile = \"shortlived\"").account(shoes());
    let gateway = Gateway::start(&site).await;
    served(&gateway, &pebble, NAME).await;
    // The first key is served as soon as it is there.
    counted(&gateway, 1).await;
    let live = live(&site, NAME);
    for (file, bits) in [("chain.pem", 256), ("chain.rsa.pem", 2048)] {
        let pem = std::fs::read(live.join(file)).unwrap();
        let leaf = boring::x509::X509::from_pem(&pem).unwrap();
        assert_eq!(leaf.public_key().unwrap().bits(), bits, "{file}");
        let in_five_days = boring::asn1::Asn1Time::days_from_now(5).unwrap();
        let in_seven_days = boring::asn1::Asn1Time::days_from_now(7).unwrap();
        assert!(*leaf.not_after() > *in_five_days && *leaf.not_after() < *in_seven_days, "six days");
    }
    assert_eq!(orders_at(&pebble), 2);
}

/// The kinds of the keys that are live for a name, and whether the CA issued for them.
fn live_keys(site: &Site, name: &str) -> Vec<(boring::pkey::Id, bool)> {
    let pems = ["chain.pem", "chain.rsa.pem"].map(|file| std::fs::read(live(site, name).join(file)));
    let key = |pem: Vec<u8>| {
        let leaf = boring::x509::X509::from_pem(&pem).unwrap();
        let by_pebble = format!("{:?}", leaf.issuer_name()).contains("Pebble");
        (leaf.public_key().unwrap().id(), by_pebble)
    };
    pems.into_iter().flatten().map(key).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_imported_is_renewed_and_nobodys_kind_of_key_is_lost() {
    use boring::pkey::Id;
    let (rsa_alone, early_twin, below) = (NAME, "events.hats.example", "events.caps.example");
    let pebble = Pebble::start().await;
    let account = Account::new("imported", 9003).bare_domain(rsa_alone).bare_domain(early_twin).bare_domain(below);
    let site = Site::issuing(&pebble, "").account(account);
    let key = KeyPair::generate().unwrap();
    let rsa = KeyPair::generate_rsa_for(&rcgen::PKCS_RSA_SHA256, rcgen::RsaKeySize::_2048).unwrap();
    let pair = |name: &str, key: &KeyPair, days| (site.authority.sign(&[name], key, 60, days), key.serialize_pem());
    let put = |name: &str, first: &(String, String), twin: Option<&(String, String)>| {
        let texts = |(chain, key): &(String, String)| [chain.clone(), key.clone()];
        let (first, twin) = (texts(first), twin.map(texts));
        put_live(
            &site,
            name,
            first.each_ref().map(String::as_str),
            twin.as_ref().map(|twin| twin.each_ref().map(String::as_str)),
        );
    };
    put(rsa_alone, &pair(rsa_alone, &rsa, 5), None);
    put(early_twin, &pair(early_twin, &key, 600), Some(&pair(early_twin, &rsa, 5)));
    put("_.caps.example", &pair("*.caps.example", &key, 5), None);
    let gateway = Gateway::start(&site).await;
    counted(&gateway, 3).await;
    let both = [(Id::EC, true), (Id::RSA, true)];
    assert_eq!((live_keys(&site, rsa_alone), live_keys(&site, early_twin)), (both.to_vec(), both.to_vec()));
    assert_eq!(live_keys(&site, below), [(Id::EC, true)]);
    assert_eq!(orders_at(&pebble), 5);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_validation_that_the_ca_remembers_is_not_asked_for_again() {
    let pebble = Pebble::start_with(&Manners { validations_reused: 100, ..Manners::default() }).await;
    let site = Site::issuing(&pebble, "").account(shoes());
    let gateway = Gateway::start(&site).await;
    served(&gateway, &pebble, NAME).await;
    counted(&gateway, 1).await;
    // Nothing listens there: the CA would not find us.
    pebble.set_a(NAME, &["127.0.0.1"]).await;
    let ordered = gateway.command(&["cert", "issue", NAME]);
    assert!(ordered.status.success(), "{ordered:?}");
    counted(&gateway, 2).await;
    assert_eq!(orders_at(&pebble), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_killed_in_the_middle_of_an_order_goes_on_with_it() {
    let pebble = Pebble::start_with(&Manners { validation_delay_max: 4, ..Manners::default() }).await;
    let site = Site::issuing(&pebble, "").account(shoes());
    for life in 0..3 {
        let mut gateway = Gateway::start(&site).await;
        eventually("an order is begun", async || (orders_at(&pebble) > 0).then_some(())).await;
        if life > 0 {
            // Not only at the same place.
            tokio::time::timeout(Duration::from_millis(300 * life), std::future::pending::<()>()).await.unwrap_err();
        }
        gateway.kill();
    }
    let gateway = Gateway::start(&site).await;
    served(&gateway, &pebble, NAME).await;
    // A life may lose its order: killed before the answer to it came, or while the CA was looking.
    assert!(orders_at(&pebble) <= 4, "{} orders were begun", orders_at(&pebble));
    let accounts = std::fs::read_dir(site.path("data/acme")).unwrap();
    assert_eq!(accounts.filter(|entry| entry.as_ref().unwrap().path().is_dir()).count(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_that_leads_elsewhere_is_told_and_issued_once_it_leads_here() {
    let pebble = Pebble::start().await;
    // Nothing listens there.
    pebble.set_a(NAME, &["127.0.0.1"]).await;
    let site = Site::issuing(&pebble, "").account(shoes().bare_domain("shop.shoes.example"));
    let gateway = Gateway::start(&site).await;
    served(&gateway, &pebble, "shop.shoes.example").await;
    assert!(told(&gateway, NAME, "could not validate").await.contains("127.0.0.1"));
    pebble.set_a(NAME, &[&pebble.address().to_string()]).await;
    gateway.json(&["reload", "--json"]);
    served(&gateway, &pebble, NAME).await;
    eventually("the warning goes", async || warnings(&gateway, NAME).await.is_empty().then_some(())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revoked_certificate_is_replaced_at_once() {
    let pebble = Pebble::start().await;
    let site = Site::issuing(&pebble, "renewal_info_interval_max = \"1s\"\nreissue_min = \"1s\"").account(shoes());
    let gateway = Gateway::start(&site).await;
    served(&gateway, &pebble, NAME).await;
    counted(&gateway, 1).await;
    let (live, read) = (live(&site, NAME), |path: PathBuf| std::fs::read_to_string(path).unwrap());
    let (chain, serial) = (read(live.join("chain.pem")), std::fs::read_link(&live).unwrap());
    pebble.revoke(&chain, &read(live.join("key.pem"))).await;
    replaced(&site, NAME, &serial).await;
    served(&gateway, &pebble, NAME).await;
    assert!(live.with_file_name(&serial).join("chain.pem").exists(), "the one before is kept");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_is_renewed_when_the_ca_wants_it() {
    let pebble = Pebble::start().await;
    let site = Site::issuing(&pebble, "renewal_info_interval_max = \"1s\"\nreissue_min = \"1s\"").account(shoes());
    let gateway = Gateway::start(&site).await;
    served(&gateway, &pebble, NAME).await;
    counted(&gateway, 1).await;
    renewed(&site, &pebble, NAME).await;
    assert_eq!(orders_at(&pebble), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn without_port_80_the_other_challenge_is_tried() {
    let pebble = Pebble::start().await;
    let site = Site::issuing(&pebble, "").without_port_80().account(shoes());
    let gateway = Gateway::start(&site).await;
    served(&gateway, &pebble, NAME).await;
    let failed = gateway.metric("pixelgate_certificate_orders_total", "validation").await;
    assert_eq!((failed, orders_at(&pebble)), (1.0, 2), "HTTP-01 first, then TLS-ALPN-01");
    counted(&gateway, 1).await;
    let ordered = gateway.command(&["cert", "issue", NAME]);
    assert!(ordered.status.success(), "{ordered:?}");
    counted(&gateway, 2).await;
    let failed = gateway.metric("pixelgate_certificate_orders_total", "validation").await;
    assert_eq!(failed, 1.0, "what worked is tried first");
}

#[tokio::test(flavor = "multi_thread")]
async fn on_demand_a_visitor_brings_the_order_and_a_stranger_does_not() {
    let pebble = Pebble::start().await;
    let site = Site::issuing(&pebble, "on_demand = true").account(shoes().bare_domain("shop.shoes.example"));
    let gateway = Gateway::start(&site).await;
    let next = |name: &str| view(&gateway, name).unwrap()["next_action"].clone();
    assert_eq!(next(NAME), "wait for a visitor");
    let check = gateway.command(&["cert", "check", NAME, "--json"]);
    let check: Value = serde_json::from_slice(&check.stdout).unwrap();
    let line = |about: &str| check["lines"].as_array().unwrap().iter().find(|line| line["about"] == about).unwrap();
    assert_eq!((&line("gateway")["level"], &line("served")["level"]), (&json!("info"), &json!("skipped")), "{check:#}");
    let waiting = async || gateway.metric("pixelgate_certificates", "waiting").await;
    assert_eq!((waiting().await, gateway.metric("pixelgate_certificates", "missing").await), (2.0, 0.0));
    assert!(warnings(&gateway, NAME).await.is_empty());
    let listed = gateway.json(&["cert", "list", "--json", "--state", "waiting"]);
    assert_eq!(
        (listed.as_array().unwrap().len(), gateway.json(&["cert", "list", "--json", "--problems"])),
        (2, json!([]))
    );
    assert_eq!(gateway.json(&["cert", "reload", "--json"]), json!({ "served": 1, "waiting": 2, "not_served": 0 }));
    let all = String::from_utf8(gateway.command(&["cert", "reload"]).stdout).unwrap();
    assert_eq!(all, "looked at 3 names: 1 served, 2 waiting for a visitor, 0 without a certificate\n");
    let one = gateway.command(&["cert", "reload", NAME]);
    assert!(one.status.success() && String::from_utf8_lossy(&one.stdout).contains(": waiting\n"), "{one:?}");
    assert_eq!((next(NAME), orders_at(&pebble)), (json!("wait for a visitor"), 0), "a check is no visitor");
    let root = pebble.root().await;
    assert!(!is_served(&gateway, &root, "events.stranger.example").await);
    served(&gateway, &pebble, NAME).await;
    assert_eq!((next("shop.shoes.example"), orders_at(&pebble)), (json!("wait for a visitor"), 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_operator_orders_and_sees_what_comes_next() {
    let pebble = Pebble::start().await;
    let site = Site::issuing(&pebble, "").account(shoes());
    let gateway = Gateway::start(&site).await;
    served(&gateway, &pebble, NAME).await;
    counted(&gateway, 1).await;
    let view = eventually("the renewal is planned", async || {
        view(&gateway, NAME).filter(|view| view["next_action"] == "renew")
    })
    .await;
    assert_eq!(
        (&view["state"], &view["origin"], &view["account"]),
        (&json!("valid"), &json!("issued"), &json!("shoes"))
    );
    assert!(view["next_action_at"].as_str().unwrap() < view["not_after"].as_str().unwrap(), "{view}");
    let before = std::fs::read_link(live(&site, NAME)).unwrap();
    let ordered = gateway.command(&["cert", "issue", NAME]);
    assert!(ordered.status.success(), "{ordered:?}");
    assert!(String::from_utf8_lossy(&ordered.stdout).contains("is being ordered"), "{ordered:?}");
    replaced(&site, NAME, &before).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_holds_an_order_back_is_said_to_who_asks_for_it() {
    let pebble = Pebble::start().await;
    let site = Site::issuing(&pebble, "domain_certificates_max = 1")
        .account(shoes().bare_domain("shop.shoes.example"))
        .account(Account::new("hats", 9002).bare_domain("events.hats.example").top("active = false"));
    let gateway = Gateway::start(&site).await;
    counted(&gateway, 1).await;
    // The one whose DNS was answered first has the order.
    let other = ["shop.shoes.example", NAME].into_iter().find(|name| view(&gateway, name).unwrap()["state"] != "valid");
    let other = other.unwrap();
    let view = view(&gateway, other).unwrap();
    let check = gateway.command(&["cert", "check", other]);
    let said = String::from_utf8_lossy(&check.stdout).into_owned();
    assert!(said.contains(view["next_action_reason"].as_str().unwrap()), "one name as among all: {view} {said}");
    let ordered = gateway.command(&["cert", "issue", other]);
    let said = String::from_utf8_lossy(&ordered.stdout).into_owned();
    assert!(said.contains("is ordered at 20") && said.contains("names of shoes.example in 7d"), "{said}");
    let refused = gateway.command(&["cert", "issue", "events.hats.example"]);
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(refused.status.code() == Some(1) && said.contains("its account is not active"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn trouble_with_the_account_at_the_ca_is_told_where_it_is_mended() {
    let binding = ("kid-1".to_owned(), "zWNDZM6eQGHWpSRTPal5eIUYFTu7EajVIoguysqZ9wG44nMEtx3MUAsUDkMTQ12W".to_owned());
    let pebble = Pebble::start_with(&Manners { external_account: Some(binding), ..Manners::default() }).await;
    let site = Site::issuing(&pebble, "").account(shoes());
    let gateway = Gateway::start(&site).await;
    let problem = eventually("the status tells", async || {
        let (_, status) = gateway.ops("/status").await;
        let status: Value = serde_json::from_str(&status).unwrap();
        let reason =
            |problem: &Value| problem["reason"].as_str().is_some_and(|reason| reason.contains("account at the CA"));
        status["problems"].as_array().unwrap().iter().find(|problem| reason(problem)).cloned()
    })
    .await;
    assert!(problem["remedy"].as_str().unwrap().contains("external_account"), "{problem}");
    let account = gateway.json(&["status", "--json"])["certificates"]["ca_accounts"][0].clone();
    assert!(account["reason"].as_str().unwrap().contains("account at the CA"), "{account}");
    let check = gateway.command(&["cert", "check", NAME]);
    let said = String::from_utf8_lossy(&check.stdout).into_owned();
    assert!(said.contains("ca account") && said.contains("external"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn no_order_is_spent_on_a_name_whose_dns_leads_elsewhere() {
    let pebble = Pebble::start().await;
    pebble.set_a(NAME, &["192.0.2.1"]).await;
    let site = Site::issuing(&pebble, "").host(&format!("addresses = [\"{}\"]", pebble.address())).account(shoes());
    let gateway = Gateway::start(&site).await;
    told(&gateway, NAME, "192.0.2.1").await;
    assert_eq!(orders_at(&pebble), 0);
    let check = gateway.command(&["cert", "check", NAME]);
    let said = String::from_utf8_lossy(&check.stdout).into_owned();
    assert!(check.status.code() == Some(1) && said.contains("192.0.2.1"), "{said}");
    pebble.set_a(NAME, &[&pebble.address().to_string()]).await;
    served(&gateway, &pebble, NAME).await;
}

/// Issues many names at once, and says how long it took.
async fn onboard(names: usize, within: Duration) {
    let pebble = Pebble::start().await;
    // Pebble stops answering now and then when 64 orders are under way: all its handlers wait for its one lock.
    let mut site =
        Site::issuing(&pebble, "orders_in_flight_max = 4\nnew_orders_max = 10000\ndomain_certificates_max = 10000");
    let per_account = names / 5;
    let name = |account: usize, n: usize| format!("n{n}.a{account}.example");
    for account in 0..5 {
        let mut made = Account::new(&format!("a{account}"), 9100 + account as u64);
        for n in 0..per_account {
            made = made.bare_domain(&name(account, n));
        }
        site = site.account(made);
    }
    let began = Instant::now();
    let gateway = Gateway::start(&site).await;
    let mut ticks = tokio::time::interval(Duration::from_millis(100));
    while issued(&gateway).await < names as f64 {
        ticks.tick().await;
        assert!(began.elapsed() < within, "{} of {names} after {within:?}", issued(&gateway).await);
    }
    eprintln!("{names} names in {:.1} s", began.elapsed().as_secs_f64());
    let root = pebble.root().await;
    for account in 0..5 {
        assert!(is_served(&gateway, &root, &name(account, per_account - 1)).await);
    }
    assert_eq!(orders_at(&pebble), names, "one order a name");
}

#[tokio::test(flavor = "multi_thread")]
async fn fifty_names_are_issued() {
    onboard(50, Duration::from_secs(60)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn five_hundred_names_are_issued() {
    onboard(500, Duration::from_secs(240)).await;
}
