//! What goes wrong between a gateway and its CAs, and what that costs at the CAs.

use std::path::Path;

use rcgen::KeyPair;
use rusqlite::{Connection, OpenFlags};
use serde_json::json;

use crate::issuance::{
    NAME, counted, is_served, live, orders_at, put_live, renewed, served, shoes, told, view, warnings,
};
use crate::util::gate::{ACCOUNTS, AUTHORISATIONS, CERTIFICATES, ORDERS, Refusal};
use crate::util::pebble::Manners;
use crate::util::{Account, Gate, Gateway, Pebble, Site, eventually, troubled_resolver};

pub(crate) const OTHER: &str = "events.hats.example";

pub(crate) fn hats() -> Account {
    Account::new("hats", 9002).bare_domain(OTHER)
}

/// An order that is refused once.
fn refused(about: &'static str, status: u16, kind: &'static str, detail: String) -> Refusal {
    Refusal { path: ORDERS, about, skip: 0, times: 1, status, problem: (kind, detail), retry_after: None }
}

pub(crate) async fn ordered(gateway: &Gateway, result: &str) -> f64 {
    gateway.metric("pixelgate_certificate_orders_total", result).await
}

/// The URL of the order that is under way for a name, as it is kept on disk.
pub(crate) fn order_on_disk(site: &Site, name: &str) -> Option<String> {
    let path = site.path("data/acme/state.sqlite");
    let file = Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_ONLY).ok()?;
    let url = file.query_row("SELECT order_url FROM names WHERE name = ?1", [name], |row| row.get(0));
    url.ok().filter(|url: &String| !url.is_empty())
}

/// Whether anything is kept of a name on disk.
fn is_known(site: &Site, name: &str) -> bool {
    let path = site.path("data/acme/state.sqlite");
    let file = Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_ONLY).unwrap();
    file.query_row("SELECT count(*) FROM names WHERE name = ?1", [name], |row| row.get(0))
        .is_ok_and(|count: u32| count > 0)
}

/// A second account at another CA, which comes to the gateway of the first.
async fn second(first: &Pebble) -> (Pebble, String) {
    let second = Pebble::start().await;
    second.set_a(NAME, &[&first.address().to_string()]).await;
    let account = format!(
        "[[acme.accounts]]\nname = \"second\"\ndirectory = \"{}\"\nca_file = {:?}\n",
        second.directory(),
        second.ca_file()
    );
    (second, account)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_ca_that_does_not_answer_is_waited_for() {
    let pebble = Pebble::start().await;
    let site = Site::issuing(&pebble, "").account(shoes());
    let gateway = Gateway::start(&site).await;
    served(&gateway, &pebble, NAME).await;
    pebble.sleep();
    site.write_account(&hats());
    gateway.json(&["reload", "--json"]);
    eventually("an order is under way", async || (view(&gateway, OTHER)?["next_action"] == "ordering").then_some(()))
        .await;
    pebble.wake();
    served(&gateway, &pebble, OTHER).await;
    assert_eq!(orders_at(&pebble), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_ca_in_trouble_is_left_alone_and_then_all_goes_on() {
    let pebble = Pebble::start().await;
    let gate = Gate::before(&pebble).await;
    gate.refuse(Refusal { times: usize::MAX, ..refused("", 503, "serverInternal", "down for maintenance".to_owned()) });
    let site = Site::issuing_at(&gate.directory(), &pebble, "").account(shoes());
    let gateway = Gateway::start(&site).await;
    told(&gateway, NAME, "maintenance").await;
    gate.open();
    served(&gateway, &pebble, NAME).await;
    assert_eq!(orders_at(&pebble), 1);
    assert!(ordered(&gateway, "unreachable").await <= 3.0, "it waits longer each time");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_profile_that_the_ca_does_not_offer_costs_no_order_and_once_it_is_right_all_goes_on() {
    let pebble = Pebble::start().await;
    let site = Site::issuing(&pebble, "profile = \"longlived\"").account(shoes());
    let gateway = Gateway::start(&site).await;
    let why = told(&gateway, "acme", "[acme] profile = \"longlived\"").await;
    assert!(why.contains("shortlived"), "what is offered is told: {why}");
    let waits = view(&gateway, NAME).unwrap();
    assert!(waits["last_error"].is_null() && waits["next_action"] == "order", "{waits}");
    let check = gateway.command(&["cert", "check", NAME, "--resolver", "127.0.0.1:9"]);
    let said = String::from_utf8_lossy(&check.stdout).into_owned();
    assert!(said.contains("write one that it offers into [acme] profile"), "{said}");
    assert_eq!(orders_at(&pebble), 0);
    let toml = std::fs::read_to_string(site.path("pixelgate.toml")).unwrap();
    site.write("pixelgate.toml", toml.replace("longlived", "shortlived"));
    gateway.json(&["reload", "--json"]);
    served(&gateway, &pebble, NAME).await;
    assert_eq!((orders_at(&pebble), warnings(&gateway, "acme").await), (1, Vec::new()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_private_ca_that_is_not_trusted_is_told_with_the_key_to_write() {
    let pebble = Pebble::start().await;
    let site = Site::issuing(&pebble, "").account(shoes());
    let toml = std::fs::read_to_string(site.path("pixelgate.toml")).unwrap();
    let without: String = toml.split_inclusive('\n').filter(|line| !line.starts_with("ca_file")).collect();
    assert_ne!(toml, without);
    site.write("pixelgate.toml", without);
    let gateway = Gateway::start(&site).await;
    let why = told(&gateway, "acme", "is not trusted").await;
    assert!(why.contains(&format!("[acme] directory = \"{}\"", pebble.directory())), "{why}");
    let said = String::from_utf8_lossy(&gateway.command(&["status"]).stdout).into_owned();
    assert!(said.contains("into [acme] ca_file"), "{said}");
    site.write("pixelgate.toml", toml);
    gateway.json(&["reload", "--json"]);
    served(&gateway, &pebble, NAME).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_limit_of_one_name_keeps_no_other_name_waiting() {
    let pebble = Pebble::start().await;
    let gate = Gate::before(&pebble).await;
    let detail = "too many certificates (5) already issued for this exact set of identifiers in the last 168h0m0s";
    let refusal = refused(NAME, 429, "rateLimited", detail.to_owned());
    gate.refuse(Refusal { times: usize::MAX, retry_after: Some(600), ..refusal.clone() });
    let site = Site::issuing_at(&gate.directory(), &pebble, "").account(shoes());
    let gateway = Gateway::start(&site).await;
    told(&gateway, NAME, "exact set").await;
    site.write_account(&hats());
    gateway.json(&["reload", "--json"]);
    served(&gateway, &pebble, OTHER).await;
    // Its own wait after a failure is over long since: the CA's holds.
    assert_eq!(ordered(&gateway, "rate_limited").await, 1.0);
    assert_eq!(orders_at(&pebble), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wait_that_the_ca_asks_for_is_kept_and_then_it_is_asked_again() {
    let pebble = Pebble::start().await;
    let gate = Gate::before(&pebble).await;
    let refusal = refused("", 429, "rateLimited", "too many new orders (300) from this account".to_owned());
    gate.refuse(Refusal { retry_after: Some(3), ..refusal });
    let site = Site::issuing_at(&gate.directory(), &pebble, "").account(shoes());
    let began = std::time::Instant::now();
    let gateway = Gateway::start(&site).await;
    served(&gateway, &pebble, NAME).await;
    assert!(began.elapsed().as_secs() >= 3, "{:?}", began.elapsed());
    assert_eq!((ordered(&gateway, "rate_limited").await, orders_at(&pebble)), (1.0, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_that_one_ca_refuses_is_ordered_at_the_other() {
    let first = Pebble::start_with(&Manners { blocked: vec![NAME.to_owned()], ..Manners::default() }).await;
    let (second, account) = second(&first).await;
    let site = Site::issuing(&first, &account).account(shoes());
    let gateway = Gateway::start(&site).await;
    served(&gateway, &second, NAME).await;
    counted(&gateway, 1).await;
    assert_eq!((orders_at(&first), orders_at(&second)), (0, 1));
    assert_eq!(ordered(&gateway, "refused").await, 1.0);
    eventually("the warning goes", async || warnings(&gateway, NAME).await.is_empty().then_some(())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_first_ca_does_not_do_the_second_does() {
    let first = Pebble::start().await;
    let (second, account) = second(&first).await;
    // Nobody listens there.
    let site = Site::issuing_at("http://127.0.0.1:9/dir", &first, &account).account(shoes());
    let gateway = Gateway::start(&site).await;
    served(&gateway, &second, NAME).await;
    assert_eq!(orders_at(&second), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_faulty_folder_of_the_operators_brings_one_order_and_no_more() {
    let pebble = Pebble::start().await;
    let site = Site::issuing(&pebble, "").account(shoes());
    site.authority.issue(&site.path("certs"), NAME, -1);
    let gateway = Gateway::start(&site).await;
    served(&gateway, &pebble, NAME).await;
    counted(&gateway, 1).await;
    // As long as another order takes there would be time for many.
    site.write_account(&hats());
    gateway.json(&["reload", "--json"]);
    served(&gateway, &pebble, OTHER).await;
    counted(&gateway, 2).await;
    assert_eq!(orders_at(&pebble), 2);

    // A good one is the operator's to renew, and nothing else would be served.
    site.authority.issue(&site.path("certs"), NAME, 90);
    gateway.json(&["reload", "--json"]);
    let refused = gateway.command(&["cert", "issue", NAME]);
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(!refused.status.success() && said.contains("certs_dir"), "{said}");

    // What is said to do leaves the name served all along.
    let folder = site.path("certs").join(NAME);
    let import = format!("pixelgate cert import {}`", folder.display());
    assert!(said.contains(&import), "{said}");
    gateway.command(&["cert", "import", &folder.to_string_lossy()]);
    std::fs::rename(&folder, site.path("moved")).unwrap();
    gateway.command(&["cert", "reload", NAME]);
    assert_eq!(view(&gateway, NAME).unwrap()["state"], "valid");
    assert!(gateway.command(&["cert", "issue", NAME]).status.success());
    served(&gateway, &pebble, NAME).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_ca_that_does_not_say_what_an_order_replaces_still_renews() {
    let pebble = Pebble::start().await;
    let gate = Gate::before(&pebble).await;
    gate.never_say("replaces");
    let acme = "renewal_info_interval_max = \"1s\"\nreissue_min = \"1s\"";
    let site = Site::issuing_at(&gate.directory(), &pebble, acme).account(shoes());
    let gateway = Gateway::start(&site).await;
    served(&gateway, &pebble, NAME).await;
    counted(&gateway, 1).await;
    renewed(&site, &pebble, NAME).await;
    counted(&gateway, 2).await;
    assert_eq!(orders_at(&pebble), 2, "the order that was made is the one that is used");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_ca_that_refuses_what_an_order_replaces_in_whatever_words_still_renews() {
    let pebble = Pebble::start().await;
    let gate = Gate::before(&pebble).await;
    let words = "parsing ARI CertID failed: no known issuer matches the provided Authority Key Identifier";
    gate.refuse(Refusal { times: usize::MAX, ..refused("\"replaces\"", 400, "malformed", words.to_owned()) });
    let acme = "renewal_info_interval_max = \"1s\"\nreissue_min = \"1s\"";
    let site = Site::issuing_at(&gate.directory(), &pebble, acme).account(shoes());
    let gateway = Gateway::start(&site).await;
    served(&gateway, &pebble, NAME).await;
    counted(&gateway, 1).await;
    renewed(&site, &pebble, NAME).await;
    counted(&gateway, 2).await;
    assert_eq!((orders_at(&pebble), ordered(&gateway, "refused").await), (2, 0.0));
}

#[tokio::test(flavor = "multi_thread")]
async fn of_a_ca_that_forgot_the_account_the_next_order_makes_a_new_one() {
    let pebble = Pebble::start().await;
    let gate = Gate::before(&pebble).await;
    gate.refuse(refused(NAME, 400, "accountDoesNotExist", "it was set up anew".to_owned()));
    let site = Site::issuing_at(&gate.directory(), &pebble, "").account(shoes());
    let gateway = Gateway::start(&site).await;
    served(&gateway, &pebble, NAME).await;
    counted(&gateway, 1).await;
    assert_eq!((orders_at(&pebble), ordered(&gateway, "account").await), (1, 1.0));
    let mut folders = std::fs::read_dir(site.path("data/acme")).unwrap().map(|entry| entry.unwrap().path());
    let folder = folders.find(|path| path.is_dir()).expect("the account's");
    assert!(["account.json", "account.json.gone"].iter().all(|file| folder.join(file).exists()));
    assert_eq!(warnings(&gateway, "acme").await, Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_window_is_asked_for_without_an_account() {
    let pebble = Pebble::start().await;
    let gate = Gate::before(&pebble).await;
    let site = Site::issuing_at(&gate.directory(), &pebble, "").account(shoes());
    let mut gateway = Gateway::start(&site).await;
    served(&gateway, &pebble, NAME).await;
    counted(&gateway, 1).await;
    gateway.stop().await;
    let no_account = refused("", 403, "externalAccountRequired", "no account without a contract".to_owned());
    let no_account = Refusal { path: ACCOUNTS, times: usize::MAX, ..no_account };
    gate.refuse(no_account);
    std::fs::remove_dir_all(site.path("data/acme")).unwrap();
    let gateway = Gateway::start(&site).await;
    eventually("the CA says when", async || {
        let list = gateway.json(&["cert", "list", "--json"]);
        let view = list.as_array()?.iter().find(|view| view["name"] == NAME)?.clone();
        (view["next_action_reason"] == "the CA wants it then").then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_keys_the_first_is_served_while_the_other_waits_and_is_not_ordered_again() {
    let pebble = Pebble::start().await;
    let gate = Gate::before(&pebble).await;
    let broken = refused(NAME, 500, "serverInternal", "out of order".to_owned());
    gate.refuse(Refusal { skip: 1, times: 1, ..broken });
    let site = Site::issuing_at(&gate.directory(), &pebble, "key_type = \"both\"").account(shoes());
    let gateway = Gateway::start(&site).await;
    served(&gateway, &pebble, NAME).await;
    let first = std::fs::read(live(&site, NAME).join("chain.pem")).unwrap();
    eventually("the other comes later", async || live(&site, NAME).join("chain.rsa.pem").exists().then_some(())).await;
    assert_eq!(std::fs::read(live(&site, NAME).join("chain.pem")).unwrap(), first);
    counted(&gateway, 1).await;
    assert_eq!((orders_at(&pebble), ordered(&gateway, "unreachable").await), (2, 1.0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_that_leaves_while_it_is_ordered_is_forgotten_and_may_come_back() {
    let pebble = Pebble::start().await;
    let gate = Gate::before(&pebble).await;
    gate.hold(Some(AUTHORISATIONS));
    let site = Site::issuing_at(&gate.directory(), &pebble, "").account(shoes());
    let gateway = Gateway::start(&site).await;
    eventually("the order is on disk", async || order_on_disk(&site, NAME)).await;
    std::fs::remove_file(site.path("accounts/shoes.toml")).unwrap();
    gateway.json(&["reload", "--json"]);
    let listed = || gateway.json(&["cert", "list", "--json"]).to_string().contains(NAME);
    assert!(!listed());
    gate.hold(None);
    eventually("the CA finds nothing", async || (ordered(&gateway, "validation").await == 1.0).then_some(())).await;
    eventually("nothing is known of it any more", async || (!is_known(&site, NAME)).then_some(())).await;
    assert_eq!(warnings(&gateway, NAME).await, Vec::<String>::new());

    site.write_account(&shoes());
    gateway.json(&["reload", "--json"]);
    served(&gateway, &pebble, NAME).await;
    assert_eq!((orders_at(&pebble), ordered(&gateway, "validation").await), (2, 1.0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_that_leaves_before_its_certificate_comes_is_served_with_it_once_it_is_back() {
    let pebble = Pebble::start().await;
    let gate = Gate::before(&pebble).await;
    gate.hold(Some(CERTIFICATES));
    let site = Site::issuing_at(&gate.directory(), &pebble, "").account(shoes());
    let gateway = Gateway::start(&site).await;
    let issued_there = async || pebble.server.log().contains("Issued certificate").then_some(());
    eventually("the CA has issued it", issued_there).await;
    std::fs::remove_file(site.path("accounts/shoes.toml")).unwrap();
    gateway.json(&["reload", "--json"]);
    gate.hold(None);
    counted(&gateway, 1).await;
    eventually("nothing is known of it any more", async || (!is_known(&site, NAME)).then_some(())).await;
    site.write_account(&shoes());
    gateway.json(&["reload", "--json"]);
    assert!(is_served(&gateway, &pebble.root().await, NAME).await);
    assert_eq!(orders_at(&pebble), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_ca_whose_second_certificate_is_none_is_not_asked_without_rest() {
    let pebble = Pebble::start().await;
    let gate = Gate::before(&pebble).await;
    let nonsense = Refusal { path: CERTIFICATES, ..refused("", 200, "none", "no chain".to_owned()) };
    gate.refuse(Refusal { skip: 1, times: usize::MAX, ..nonsense });
    let site = Site::issuing_at(&gate.directory(), &pebble, "key_type = \"both\"").account(shoes());
    let toml = std::fs::read_to_string(site.path("pixelgate.toml")).unwrap();
    let slow = toml.replace("retry_min = \"200ms\"\nretry_max = \"1s\"", "retry_min = \"3s\"\nretry_max = \"1m\"");
    assert_ne!(toml, slow);
    site.write("pixelgate.toml", slow);
    let began = std::time::Instant::now();
    let gateway = Gateway::start(&site).await;
    eventually("it is lost again and again", async || (ordered(&gateway, "lost").await >= 3.0).then_some(())).await;
    // Four fifths of three and of six seconds.
    assert!(began.elapsed().as_secs() >= 7, "{:?}", began.elapsed());
    served(&gateway, &pebble, NAME).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_order_is_spent_on_a_name_whose_caa_forbids_the_ca() {
    let pebble = Pebble::start().await;
    let gate = Gate::before(&pebble).await;
    gate.say(json!({ "caaIdentities": ["pebble.letsencrypt.org"] }));
    pebble.set_caa(NAME, &[("issue", "other.example")]).await;
    // It needs no [host] addresses.
    let site = Site::issuing_at(&gate.directory(), &pebble, "").account(shoes());
    let gateway = Gateway::start(&site).await;
    told(&gateway, NAME, "do not allow pebble").await;
    assert_eq!(orders_at(&pebble), 0);
    let check = gateway.command(&["cert", "check", NAME]);
    let said = String::from_utf8_lossy(&check.stdout).into_owned();
    assert!(check.status.code() == Some(1) && said.contains("do not allow pebble.letsencrypt.org"), "{said}");
    pebble.set_caa(NAME, &[]).await;
    served(&gateway, &pebble, NAME).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_whose_caa_allows_only_the_second_ca_is_ordered_there() {
    let first = Pebble::start().await;
    let gate = Gate::before(&first).await;
    gate.say(json!({ "caaIdentities": ["pebble.letsencrypt.org"] }));
    let (second, account) = second(&first).await;
    let other = Gate::before(&second).await;
    other.say(json!({ "caaIdentities": ["second.example"] }));
    first.set_caa(NAME, &[("issue", "second.example")]).await;
    first.set_caa(OTHER, &[("issue", "nobody.example")]).await;
    let account = account.replace(&second.directory(), &other.directory());
    let site = Site::issuing_at(&gate.directory(), &first, &account).account(shoes()).account(hats());
    let gateway = Gateway::start(&site).await;
    served(&gateway, &second, NAME).await;
    counted(&gateway, 1).await;
    assert_eq!((orders_at(&first), orders_at(&second)), (0, 1));
    // One that neither may issue for is looked at as ever.
    told(&gateway, OTHER, "do not allow pebble").await;
    first.set_caa(OTHER, &[("issue", "pebble.letsencrypt.org")]).await;
    served(&gateway, &first, OTHER).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_resolver_that_does_not_answer_is_no_fault_of_names() {
    let pebble = Pebble::start().await;
    let site = Site::issuing(&pebble, "").host(&format!("addresses = [\"{}\"]", pebble.address())).account(shoes());
    pebble.set_servfail(NAME, true).await;
    let gateway = Gateway::start(&site).await;
    // Other names are answered: it is this one's.
    told(&gateway, NAME, "cannot be resolved").await;
    drop(gateway);
    let toml = std::fs::read_to_string(site.dir().join("pixelgate.toml")).unwrap();
    let nobody = toml.replace(&format!("resolver = \"{}\"", pebble.dns()), "resolver = \"127.0.0.1:9\"");
    assert_ne!(toml, nobody);
    std::fs::write(site.dir().join("pixelgate.toml"), nobody).unwrap();
    std::fs::remove_dir_all(site.path("data/acme")).unwrap();
    let gateway = Gateway::start(&site).await;
    eventually("the log tells it", async || gateway.log().contains("DNS server does not answer").then_some(())).await;
    assert_eq!(warnings(&gateway, NAME).await.len(), 1, "only that there is none");
    let server = "resolver = \"127.0.0.1:9\" does not answer";
    assert!(told(&gateway, "acme.resolver", server).await.contains("only what ends soon"));
    let waits = async || view(&gateway, NAME)?["next_action_reason"].as_str()?.contains(server).then_some(());
    eventually("the name says what it waits for", waits).await;
    assert_eq!(gateway.metric("pixelgate_acme_resolver_silent", "").await, 1.0);
    assert_eq!(orders_at(&pebble), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn where_nobody_said_what_here_is_a_resolver_that_does_not_answer_stops_no_order() {
    let pebble = Pebble::start().await;
    let site = Site::issuing(&pebble, "").account(shoes());
    let toml = std::fs::read_to_string(site.path("pixelgate.toml")).unwrap();
    let nobody =
        toml.replace(&format!("resolver = \"{}\"", pebble.dns()), &format!("resolver = \"{}\"", troubled_resolver()));
    assert_ne!(toml, nobody);
    site.write("pixelgate.toml", nobody);
    let gateway = Gateway::start(&site).await;
    served(&gateway, &pebble, NAME).await;
    assert!(gateway.log().contains("DNS server does not answer"), "{}", gateway.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_ends_soon_or_was_asked_for_is_ordered_in_spite_of_dns() {
    let pebble = Pebble::start().await;
    // A mistake of the operator's: all names lead here, and not there.
    let site = Site::issuing(&pebble, "").host("addresses = [\"203.0.113.5\"]").account(shoes()).account(hats());
    let key = KeyPair::generate().unwrap();
    put_live(&site, NAME, [&site.authority.sign(&[NAME], &key, 60, 5), &key.serialize_pem()], None);
    let gateway = Gateway::start(&site).await;
    served(&gateway, &pebble, NAME).await;
    told(&gateway, OTHER, "203.0.113.5").await;
    assert_eq!(orders_at(&pebble), 1);
    let ordered = gateway.command(&["cert", "issue", OTHER]);
    assert!(ordered.status.success(), "{ordered:?}");
    served(&gateway, &pebble, OTHER).await;
    assert_eq!(orders_at(&pebble), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_clients_do_not_see_is_told_until_the_operators_own_is_there() {
    let pebble = Pebble::start().await;
    let gate = Gate::before(&pebble).await;
    gate.hold(Some(CERTIFICATES));
    let site = Site::issuing_at(&gate.directory(), &pebble, "").account(shoes());
    let gateway = Gateway::start(&site).await;
    gate.has_waiting(1).await;
    // Put there while an order is under way: clients see this one.
    site.authority.issue(&site.path("certs"), NAME, 90);
    gateway.json(&["reload", "--json"]);
    gate.hold(None);
    eventually("it is not seen", async || (ordered(&gateway, "not_served").await == 1.0).then_some(())).await;
    assert_eq!(ordered(&gateway, "issued").await, 0.0);
    site.write_account(&hats());
    gateway.json(&["reload", "--json"]);
    eventually("the warning goes", async || warnings(&gateway, NAME).await.is_empty().then_some(())).await;
    std::fs::remove_dir_all(site.path(&format!("certs/{NAME}"))).unwrap();
    gateway.json(&["reload", "--json"]);
    served(&gateway, &pebble, NAME).await;
    served(&gateway, &pebble, OTHER).await;
    assert_eq!(orders_at(&pebble), 2, "one each");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_state_that_is_damaged_is_put_aside_and_all_goes_on() {
    let pebble = Pebble::start().await;
    let site = Site::issuing(&pebble, "").account(shoes());
    let mut gateway = Gateway::start(&site).await;
    served(&gateway, &pebble, NAME).await;
    gateway.stop().await;
    let state = site.path("data/acme/state.sqlite");
    std::fs::write(
        &state,
        "this is no database, and longer than the hundred bytes at which SQLite would look for its header",
    )
    .unwrap();
    let gateway = Gateway::start(&site).await;
    assert!(is_served(&gateway, &pebble.root().await, NAME).await);
    assert!(Path::new(&site.path("data/acme/state.sqlite.damaged-1")).exists());
    assert!(gateway.log().contains("damaged"), "{}", gateway.log());
    assert_eq!(view(&gateway, NAME).unwrap()["state"], "valid");
    assert_eq!(orders_at(&pebble), 1);
}
