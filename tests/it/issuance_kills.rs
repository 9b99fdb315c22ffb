//! A gateway that is killed on a certificate's way, at each of its steps, goes on with the same order.

use rusqlite::Connection;

use crate::issuance::{NAME, counted, live, orders_at, served, shoes};
use crate::issuance_troubles::{order_on_disk, ordered};
use crate::util::gate::{AUTHORISATIONS, CERTIFICATES, FINALISATIONS, ORDERS};
use crate::util::{Gate, Gateway, Pebble, Site, eventually};

/// Kills a gateway while it waits for an answer of the CA to a request like this, and sees what the next one does.
async fn killed_at(path: &'static str) {
    let pebble = Pebble::start().await;
    let gate = Gate::before(&pebble).await;
    gate.hold(Some(path));
    let site = Site::issuing_at(&gate.directory(), &pebble, "").account(shoes());
    let mut gateway = Gateway::start(&site).await;
    gate.has_waiting(1).await;
    let url = order_on_disk(&site, NAME).expect("the order is on disk");
    gateway.kill();
    gate.has_waiting(0).await;
    gate.hold(None);
    let gateway = Gateway::start(&site).await;
    served(&gateway, &pebble, NAME).await;
    counted(&gateway, 1).await;
    assert_eq!(orders_at(&pebble), 1, "{url}");
    eventually("nothing is left under way", async || order_on_disk(&site, NAME).is_none().then_some(())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn after_the_order_was_kept() {
    killed_at(AUTHORISATIONS).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn before_the_certificate_is_asked_for() {
    killed_at(FINALISATIONS).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn before_the_certificate_is_fetched() {
    killed_at(CERTIFICATES).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn before_clients_see_what_was_published() {
    let pebble = Pebble::start().await;
    let gate = Gate::before(&pebble).await;
    gate.hold(Some(CERTIFICATES));
    let site = Site::issuing_at(&gate.directory(), &pebble, "").account(shoes());
    let mut gateway = Gateway::start(&site).await;
    gate.has_waiting(1).await;
    // Clients see this one, and so it looks and looks.
    site.authority.issue(&site.path("certs"), NAME, 90);
    gateway.json(&["reload", "--json"]);
    gate.hold(None);
    let pending = live(&site, NAME).with_file_name("pending");
    eventually("it is published", async || (live(&site, NAME).exists() && !pending.exists()).then_some(())).await;
    gateway.kill();
    std::fs::remove_dir_all(site.path(&format!("certs/{NAME}"))).unwrap();
    let gateway = Gateway::start(&site).await;
    served(&gateway, &pebble, NAME).await;
    counted(&gateway, 1).await;
    assert_eq!(orders_at(&pebble), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_keys_before_it_is_noted_that_the_first_came() {
    let pebble = Pebble::start().await;
    let gate = Gate::before(&pebble).await;
    gate.hold(Some(CERTIFICATES));
    let site = Site::issuing_at(&gate.directory(), &pebble, "key_type = \"both\"").account(shoes());
    let mut gateway = Gateway::start(&site).await;
    gate.has_waiting(1).await;
    let url = order_on_disk(&site, NAME).expect("the order is on disk");
    gate.hold(Some(ORDERS));
    eventually("the first is live", async || live(&site, NAME).exists().then_some(())).await;
    gate.has_waiting(1).await;
    gateway.kill();
    gate.has_waiting(0).await;
    gate.hold(None);
    // As it was on disk a moment before.
    let file = Connection::open(site.path("data/acme/state.sqlite")).unwrap();
    let noted = "UPDATE names SET order_url = ?1, order_part = 0 WHERE name = ?2";
    assert_eq!(file.execute(noted, [&url, NAME]).unwrap(), 1);
    drop(file);
    let gateway = Gateway::start(&site).await;
    eventually("the second comes", async || live(&site, NAME).join("chain.rsa.pem").exists().then_some(())).await;
    served(&gateway, &pebble, NAME).await;
    counted(&gateway, 1).await;
    assert_eq!((orders_at(&pebble), ordered(&gateway, "lost").await), (2, 0.0));
}
