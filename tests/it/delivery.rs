use serde_json::json;

use crate::util::client::page_view;
use crate::util::{Account, Gateway, Site, Standin, eventually};

const PIXEL: u64 = 4001;
const NAME: &str = "events.shoes.example";
const QUICK_RETRY: &str = "retry_min = \"20ms\"\nretry_max = \"200ms\"\n";

async fn shop(standin: &Standin) -> (Site, Gateway) {
    let site = Site::new(&standin.url)
        .with(QUICK_RETRY)
        .account(Account::new("shoes", PIXEL).domain(NAME))
        .account(Account::new("hats", 4002).domain("events.hats.example"));
    let gateway = Gateway::start(&site).await;
    (site, gateway)
}

async fn send(gateway: &Gateway, ids: &[&str]) {
    let browser = gateway.browser();
    for id in ids {
        assert_eq!(browser.send(NAME, &page_view(PIXEL, id)).await.0, 200);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_look_as_meta_wants_them() {
    let standin = Standin::start().await;
    let site = Site::new(&standin.url)
        .account(Account::new("shoes", PIXEL).domain(NAME).pixel_keys("test_event_code = \"TEST7\""));
    let gateway = Gateway::start(&site).await;
    send(&gateway, &["a"]).await;
    standin.took(PIXEL, &["a"]).await;
    let request = standin.requests(PIXEL).await.pop().unwrap();
    assert_eq!(request["api_version"], "v26.0");
    assert_eq!(request["user_agent"], format!("pixelgate/{}", env!("CARGO_PKG_VERSION")));
    assert_eq!(request["test_event_code"], "TEST7");
    let pixel = eventually("it is counted", async || {
        let pixel = gateway.json(&["accounts", "show", "shoes", "--json"])["pixels"][0].clone();
        (pixel["tested"] == 1).then_some(pixel)
    })
    .await;
    assert_eq!(pixel["delivered"], 0, "a test");
    assert!(request["token_in"] == "bearer" || request["token_in"] == "body", "{request}");
    assert_eq!(standin.violations().await, json!([]));
    assert!(!gateway.log().contains("token-4001"));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_waits_goes_out_in_large_batches() {
    let standin = Standin::start().await;
    let (_site, gateway) = shop(&standin).await;
    gateway.command(&["accounts", "pause", "shoes"]);
    let ids: Vec<String> = (0..300).map(|n| format!("b{n}")).collect();
    let ids: Vec<&str> = ids.iter().map(String::as_str).collect();
    send(&gateway, &ids).await;
    gateway.command(&["accounts", "resume", "shoes"]);
    standin.took(PIXEL, &ids).await;
    let requests = standin.requests(PIXEL).await.len();
    assert!(requests < 10, "{requests} requests for 300 events");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_batch_is_halved_until_the_bad_event_is_alone_and_buried() {
    let standin = Standin::start().await;
    let (_site, gateway) = shop(&standin).await;
    standin.bad_events(&["bad"]).await;
    gateway.command(&["accounts", "pause", "shoes"]);
    let mut ids: Vec<String> = (0..16).map(|n| format!("good{n}")).collect();
    ids.insert(5, "bad".to_owned());
    send(&gateway, &ids.iter().map(String::as_str).collect::<Vec<_>>()).await;
    gateway.command(&["accounts", "resume", "shoes"]);
    ids.retain(|id| id != "bad");
    standin.took(PIXEL, &ids.iter().map(String::as_str).collect::<Vec<_>>()).await;
    let dead = eventually("the bad one is buried", async || {
        gateway.json(&["dead-letters", "list", "--json"]).as_array().filter(|list| !list.is_empty()).cloned()
    })
    .await;
    assert_eq!(dead.len(), 1);
    assert_eq!(
        (&dead[0]["event_id"], &dead[0]["account"], &dead[0]["pixel"]),
        (&json!("bad"), &json!("shoes"), &json!("4001"))
    );
    assert!(
        dead[0]["reason"].is_string()
            && dead[0]["message"].is_string()
            && dead[0]["attempts"].is_u64()
            && dead[0]["accepted_at"].is_string()
    );
    assert!(!standin.events(PIXEL).await.contains_key("bad"));
    let twice: Vec<_> = standin.events(PIXEL).await.into_iter().filter(|(_, count)| *count > 1).collect();
    assert!(twice.is_empty(), "{twice:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_token_pauses_the_lane_until_a_reload_brings_another() {
    let standin = Standin::start().await;
    standin.tokens(PIXEL, &["fresh"]).await;
    let (site, gateway) = shop(&standin).await;
    send(&gateway, &["waits"]).await;
    let pixel = |gateway: &Gateway| gateway.json(&["accounts", "show", "shoes", "--json"])["pixels"][0].clone();
    eventually("the lane is paused", async || (pixel(&gateway)["state"] == "paused").then_some(())).await;
    assert!(pixel(&gateway)["reason"].as_str().unwrap().contains("token"), "{}", pixel(&gateway));
    assert_eq!(pixel(&gateway)["pending"], 1);
    assert_eq!(gateway.browser().send("events.hats.example", &page_view(4002, "unbothered")).await.0, 200);
    standin.took(4002, &["unbothered"]).await;

    site.write("secrets/token-4001", "fresh\n");
    assert!(gateway.command(&["reload"]).status.success());
    standin.took(PIXEL, &["waits"]).await;
    eventually("the lane is active", async || (pixel(&gateway)["state"] == "active").then_some(())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_meta_wrote_about_an_event_is_shown_and_not_logged() {
    let standin = Standin::start().await;
    let error = json!({ "code": 100, "message": "Invalid value 'Anna Q' for custom_data[name]", "fbtrace_id": "Atr9" });
    standin.fault(json!({ "pixel": PIXEL, "status": 400, "body": { "error": error } })).await;
    let (_site, gateway) = shop(&standin).await;
    send(&gateway, &["a"]).await;
    let reason = eventually("the lane is paused", async || {
        let pixel = gateway.json(&["accounts", "show", "shoes", "--json"])["pixels"][0].clone();
        (pixel["state"] == "paused").then(|| pixel["reason"].as_str().unwrap().to_owned())
    })
    .await;
    assert!(reason.contains("Anna Q") && reason.contains("code 100"), "{reason}");
    let line = eventually("it is logged", async || {
        gateway.log().lines().find(|line| line.contains("delivery of this pixel is paused")).map(str::to_owned)
    })
    .await;
    assert!(line.contains("code 100, fbtrace_id Atr9"), "{line}");
    assert!(!gateway.log().contains("Anna Q"));
}

#[tokio::test(flavor = "multi_thread")]
async fn troubles_are_retried_and_a_pause_asked_for_is_kept() {
    let standin = Standin::start().await;
    let (_site, gateway) = shop(&standin).await;
    for fault in [
        json!({ "pixel": PIXEL, "status": 500, "body": "<html>oops" }),
        json!({ "pixel": PIXEL, "status": 400, "body": { "error": { "code": 2, "message": "try later", "is_transient": true } } }),
        json!({ "pixel": PIXEL, "action": "close_before_reading" }),
        json!({ "pixel": PIXEL, "status": 429, "headers": { "retry-after": "1" }, "body": "slow down" }),
    ] {
        standin.fault(fault).await;
    }
    send(&gateway, &["stubborn"]).await;
    standin.took(PIXEL, &["stubborn"]).await;
    let requests = standin.requests(PIXEL).await;
    let asked = requests.iter().position(|request| request["status"] == 429).unwrap();
    let waited = requests[asked + 1]["at_ms"].as_u64().unwrap() - requests[asked]["at_ms"].as_u64().unwrap();
    assert!(waited >= 1_000, "Retry-After was not kept: {waited} ms");
    assert!(gateway.metric("pixelgate_events_retried_total", "shoes").await >= 4.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_send_without_an_answer_is_repeated_with_the_same_id_and_counted() {
    let standin = Standin::start().await;
    standin.fault(json!({ "pixel": PIXEL, "times": 1, "action": "close_after_taking" })).await;
    let (_site, gateway) = shop(&standin).await;
    send(&gateway, &["unsure"]).await;
    eventually("it is taken twice", async || (standin.events(PIXEL).await.get("unsure") == Some(&2)).then_some(()))
        .await;
    assert_eq!(gateway.metric("pixelgate_events_ambiguous_total", "shoes").await, 1.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn one_pixel_that_hangs_delays_no_other() {
    let standin = Standin::start().await;
    standin.fault(json!({ "pixel": PIXEL, "times": 1, "action": "hang" })).await;
    let (_site, gateway) = shop(&standin).await;
    send(&gateway, &["hangs"]).await;
    eventually("it hangs", async || (!standin.requests(PIXEL).await.is_empty()).then_some(())).await;
    for n in 0..5 {
        let id = format!("free{n}");
        assert_eq!(gateway.browser().send("events.hats.example", &page_view(4002, &id)).await.0, 200);
        standin.took(4002, &[&id]).await;
    }
    assert!(standin.events(PIXEL).await.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_operators_pause_outlives_a_restart_and_events_are_still_taken() {
    let standin = Standin::start().await;
    let (site, mut gateway) = shop(&standin).await;
    assert!(gateway.command(&["accounts", "pause", "shoes", "--reason", "invoice"]).status.success());
    send(&gateway, &["held-back"]).await;
    assert!(gateway.stop().await.success());
    let gateway = Gateway::start(&site).await;
    let pixel = gateway.json(&["accounts", "show", "shoes", "--json"])["pixels"][0].clone();
    assert_eq!(
        (&pixel["state"], &pixel["reason"], &pixel["pending"]),
        (&json!("paused"), &json!("invoice"), &json!(1))
    );
    assert!(standin.events(PIXEL).await.is_empty());
    assert!(gateway.command(&["accounts", "resume", "shoes"]).status.success());
    standin.took(PIXEL, &["held-back"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pixel_that_is_added_to_a_paused_account_is_paused_before_its_first_event() {
    let standin = Standin::start().await;
    let (site, gateway) = shop(&standin).await;
    assert!(gateway.command(&["accounts", "pause", "shoes", "--reason", "invoice"]).status.success());
    site.write_account(
        &Account::new("shoes", PIXEL)
            .domain(NAME)
            .tables("[[pixels]]\nid = \"4003\"\naccess_token = { file = \"../secrets/token-4001\" }"),
    );
    assert!(gateway.command(&["reload"]).status.success());
    let states = |gateway: &Gateway| {
        let pixels = gateway.json(&["accounts", "show", "shoes", "--json"])["pixels"].clone();
        pixels.as_array().unwrap().iter().map(|pixel| pixel["state"].clone()).collect::<Vec<_>>()
    };
    assert_eq!(states(&gateway), ["paused", "paused"]);
    assert!(gateway.command(&["accounts", "resume", "shoes"]).status.success());
    assert_eq!(states(&gateway), ["active", "active"]);
    assert_eq!(gateway.browser().send(NAME, &page_view(4003, "later")).await.0, 200);
    standin.took(4003, &["later"]).await;
}
