use std::io::Write;
use std::time::Instant;

use serde_json::{Value, json};

use crate::util::client::page_view;
use crate::util::{Account, Gateway, Site, Standin, eventually};

const PIXEL: u64 = 5001;
const NAME: &str = "events.shoes.example";

/// A gateway with one account, whose only filter is the faulty one of plugins/faulty in this mood.
async fn with_faulty(standin: &Standin, mood: &str, on_fault: &str) -> (Site, Gateway) {
    let site = Site::new(&standin.url)
        .account(Account::new("shoes", PIXEL).domain(NAME).filter(
            "moody",
            "faulty.wasm",
            on_fault,
            &format!("do = \"{mood}\""),
        ))
        .account(Account::new("hats", 5002).domain("events.hats.example"));
    let gateway = Gateway::start(&site).await;
    (site, gateway)
}

fn dead_letters(gateway: &Gateway) -> Vec<Value> {
    gateway.json(&["dead-letters", "list", "--json"]).as_array().cloned().unwrap_or_default()
}

#[tokio::test(flavor = "multi_thread")]
async fn two_accounts_with_different_filters_do_not_mix() {
    let standin = Standin::start().await;
    let site = Site::new(&standin.url)
        .account(
            Account::new("shoes", PIXEL)
                .domain(NAME)
                .tables("[privacy]\nconsent_sources = [\"consent\"]")
                .filter("consent", "consent.wasm", "hold", "require = \"marketing\"\n[[filters.settings.sources]]\nsignal = \"consent\"\nformat = \"flag\"\ngranted = [\"marketing\"]"),
        )
        .account(Account::new("hats", 5002).domain("events.hats.example").filter("fields", "fields.wasm", "hold", "remove_custom_data = [\"secret\"]\ndrop_events = [\"Search\"]"))
        .account(Account::new("plain", 5003).domain("events.plain.example"));
    let gateway = Gateway::start(&site).await;
    let browser = gateway.browser();
    let send = async |name: &str, pixel: u64, id: &str, cookie: &str| {
        let mut event = page_view(pixel, id);
        event["custom_data"] = json!({ "secret": "s", "colour": "red" });
        if id == "said" {
            event["custom_data"]["consent"] = "marketing".into();
        }
        if id == "beside" {
            event["consent"] = "marketing".into();
        }
        let request = browser.post(name, "/events").header("cookie", cookie).body(event.to_string());
        assert_eq!(request.send().await.unwrap().status(), 200);
    };
    send(NAME, PIXEL, "no-consent", "other=marketing").await;
    send(NAME, PIXEL, "consent", "consent=marketing").await;
    send(NAME, PIXEL, "said", "").await;
    send(NAME, PIXEL, "beside", "").await;
    let image = format!("/tr?id={PIXEL}&ev=PageView&eid=image&cd[colour]=red&consent=marketing");
    assert_eq!(browser.get(NAME, &image).send().await.unwrap().status(), 200);
    send("events.hats.example", 5002, "hat", "").await;
    send("events.plain.example", 5003, "plain", "").await;
    standin.took(PIXEL, &["consent", "said", "beside", "image"]).await;
    for id in ["beside", "image"] {
        assert!(!standin.event(PIXEL, id).await.to_string().contains("marketing"), "what is said beside is not kept");
    }
    standin.took(5002, &["hat"]).await;
    standin.took(5003, &["plain"]).await;
    assert!(!standin.events(PIXEL).await.contains_key("no-consent"));
    assert_eq!(standin.event(PIXEL, "consent").await["custom_data"], json!({ "secret": "s", "colour": "red" }));
    assert_eq!(standin.event(5002, "hat").await["custom_data"], json!({ "colour": "red" }));
    assert_eq!(standin.event(5003, "plain").await["custom_data"], json!({ "secret": "s", "colour": "red" }));
    assert_eq!(gateway.metric("pixelgate_events_dropped_total", "account=\"shoes\"").await, 1.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_broken_filter_fails_on_is_held_and_the_next_event_is_served() {
    for mood in ["loop", "panic", "error", "devour", "recurse", "forbidden_path", "many_edits", "long_value"] {
        let standin = Standin::start().await;
        let (_site, gateway) = with_faulty(&standin, mood, "hold").await;
        let begun = Instant::now();
        for n in 0..3 {
            assert_eq!(gateway.browser().send(NAME, &page_view(PIXEL, &format!("{mood}-{n}"))).await.0, 200, "{mood}");
        }
        assert!(begun.elapsed().as_secs() < 60, "{mood} is cut off");
        let held = dead_letters(&gateway);
        assert!(!held.is_empty(), "{mood}");
        for letter in &held {
            let reason = letter["reason"].as_str().unwrap();
            assert!(reason.starts_with("filter:"), "{letter}");
            assert!(mood != "devour" || reason.contains("out of memory"), "{letter}");
        }
        assert_eq!(gateway.browser().send("events.hats.example", &page_view(5002, mood)).await.0, 200);
        standin.took(5002, &[mood]).await;
        assert_eq!(gateway.metric("pixelgate_events_held_total", "shoes").await, held.len() as f64, "{mood}");
        let pixel = &gateway.json(&["accounts", "show", "shoes", "--json"])["pixels"][0];
        assert_eq!((&pixel["dead"], &pixel["dead_letters"]), (&json!(0), &json!(held.len())), "{mood}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_filter_that_eats_memory_is_begun_anew_before_it_fails() {
    let standin = Standin::start().await;
    let (_site, gateway) = with_faulty(&standin, "hoard", "hold").await;
    // It keeps 100 kB at each call: 16 MiB would be full after some 160.
    let ids: Vec<String> = (0..400).map(|n| format!("h{n}")).collect();
    let browser = gateway.browser();
    for id in &ids {
        assert_eq!(browser.send(NAME, &page_view(PIXEL, id)).await.0, 200);
    }
    standin.took(PIXEL, &ids.iter().map(String::as_str).collect::<Vec<_>>()).await;
    assert!(dead_letters(&gateway).is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn on_fault_may_pass_or_drop() {
    let standin = Standin::start().await;
    let (_site, gateway) = with_faulty(&standin, "panic", "pass").await;
    assert_eq!(gateway.browser().send(NAME, &page_view(PIXEL, "passed")).await.0, 200);
    standin.took(PIXEL, &["passed"]).await;
    let (_site, gateway) = with_faulty(&standin, "panic", "drop").await;
    assert_eq!(gateway.browser().send(NAME, &page_view(PIXEL, "dropped")).await.0, 200);
    assert_eq!(gateway.metric("pixelgate_events_dropped_total", "shoes").await, 1.0);
    assert!(dead_letters(&gateway).is_empty());
    assert!(!standin.events(PIXEL).await.contains_key("dropped"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_held_event_survives_a_crash_and_is_replayed_through_the_mended_chain() {
    let standin = Standin::start().await;
    let (site, mut gateway) = with_faulty(&standin, "panic", "hold").await;
    let mut event = page_view(PIXEL, "held");
    event["fb.advanced_matching"] = json!({ "em": "John_Smith@gmail.com" });
    assert_eq!(gateway.browser().send(NAME, &event).await.0, 200);
    gateway.kill();
    let gateway = Gateway::start(&site).await;
    let letter = dead_letters(&gateway).pop().expect("it is held");
    let shown = gateway.json(&["dead-letters", "show", letter["id"].as_str().unwrap()]);
    assert!(!shown.to_string().contains("John_Smith"), "held as it was after hashing: {shown}");

    let replay = gateway.command(&["dead-letters", "replay", "--account", "shoes"]);
    assert_eq!(replay.status.code(), Some(1), "the filter still fails on it: {replay:?}");
    assert_eq!(dead_letters(&gateway).len(), 1);

    site.write_account(&Account::new("shoes", PIXEL).domain(NAME).filter(
        "fields",
        "fields.wasm",
        "hold",
        "remove_custom_data = [\"x\"]",
    ));
    assert!(gateway.command(&["reload"]).status.success());
    let replay = gateway.command(&["dead-letters", "replay", "--account", "shoes"]);
    assert!(replay.status.success(), "{replay:?}");
    let arrived = standin.event(PIXEL, "held").await;
    assert_eq!(arrived["user_data"]["em"][0], "62a14e44f765419d10fea99367361a727c12365e2520f32218d505ed9aa0f62f");
    assert!(dead_letters(&gateway).is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_account_with_all_the_dead_letters_it_may_have_can_replay_them() {
    let standin = Standin::start().await;
    let faulty = |id: &str, pixel, name: &str| {
        Account::new(id, pixel).domain(name).filter("moody", "faulty.wasm", "hold", "do = \"panic\"")
    };
    let site = Site::new(&standin.url)
        .with("[outbox]\ndead_letters_max = 1\n")
        .account(faulty("boots", 5003, "events.boots.example"))
        .account(faulty("shoes", PIXEL, NAME));
    let gateway = Gateway::start(&site).await;
    for (pixel, name) in [(5003, "events.boots.example"), (PIXEL, NAME)] {
        assert_eq!(gateway.browser().send(name, &page_view(pixel, "held")).await.0, 200);
        assert_eq!(gateway.browser().send(name, &page_view(pixel, "one-more")).await.0, 429);
    }
    // Only one of the two is mended; the other keeps nobody's letters.
    site.write_account(&Account::new("shoes", PIXEL).domain(NAME));
    assert!(gateway.command(&["reload"]).status.success());
    let replay = gateway.command(&["dead-letters", "replay", "--all", "--json"]);
    let said: Value = serde_json::from_slice(&replay.stdout).unwrap();
    assert_eq!((&said["replayed"], &said["held"]), (&json!(1), &json!(1)), "{said}");
    standin.took(PIXEL, &["held"]).await;
    assert_eq!(gateway.browser().send(NAME, &page_view(PIXEL, "room-again")).await.0, 200);
    assert_eq!(dead_letters(&gateway).len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replay_whose_client_leaves_ends_in_order_and_is_in_the_log() {
    let standin = Standin::start().await;
    let moody = |id: &str, pixel, name: &str, mood: &str| {
        Account::new(id, pixel).domain(name).filter("moody", "faulty.wasm", "hold", &format!("do = \"{mood}\""))
    };
    let site = Site::new(&standin.url)
        .with("[filters]\ndeadline = \"3s\"\n")
        .account(moody("hats", 5002, "events.hats.example", "panic"))
        .account(moody("shoes", PIXEL, NAME, "panic"));
    let gateway = Gateway::start(&site).await;
    for (pixel, name) in [(5002, "events.hats.example"), (PIXEL, NAME)] {
        assert_eq!(gateway.browser().send(name, &page_view(pixel, "held")).await.0, 200);
    }
    site.write_account(&Account::new("hats", 5002).domain("events.hats.example"));
    site.write_account(&moody("shoes", PIXEL, NAME, "loop"));
    assert!(gateway.command(&["reload"]).status.success());
    // The letters of the hats are replayed while those of the shoes take their time; then the client is gone.
    let mut client = std::os::unix::net::UnixStream::connect(site.path("data/control.sock")).unwrap();
    let body = json!({ "ids": [], "account": null, "all": true }).to_string();
    let head = "POST /dead-letters/replay HTTP/1.1\r\nhost: pixelgate\r\ncontent-type: application/json";
    client.write_all(format!("{head}\r\ncontent-length: {}\r\n\r\n{body}", body.len()).as_bytes()).unwrap();
    standin.took(5002, &["held"]).await;
    drop(client);
    let said = eventually("it is in the log", async || {
        let log = gateway.log();
        log.lines().find(|line| line.contains("dead-letters replay")).map(str::to_owned)
    });
    let said = said.await;
    assert!(said.contains("uid=") && said.contains("1 replayed"), "{said}");
    assert_eq!(dead_letters(&gateway).len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_looping_account_does_not_delay_the_others() {
    let standin = Standin::start().await;
    let (_site, gateway) = with_faulty(&standin, "loop", "pass").await;
    let noisy: Vec<_> = (0..16)
        .map(|n| {
            let browser = gateway.browser();
            tokio::spawn(async move { browser.send(NAME, &page_view(PIXEL, &format!("n{n}"))).await })
        })
        .collect();
    let begun = Instant::now();
    for n in 0..20 {
        assert_eq!(gateway.browser().send("events.hats.example", &page_view(5002, &format!("h{n}"))).await.0, 200);
    }
    assert!(begun.elapsed().as_secs() < 20);
    for task in noisy {
        assert_eq!(task.await.unwrap().0, 200);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_script_needs_no_tools() {
    let standin = Standin::start().await;
    let account = Account::new("shoes", PIXEL).domain(NAME);
    let script =
        "[[filters]]\nname = \"mine\"\nscript = \"../filters/mine.js\"\n[filters.settings]\nsecret = \"colour\"";
    let site = Site::new(&standin.url)
        .with(&format!("[filters]\nscript_runner = {:?}\n", crate::util::process::plugin("script-runner.wasm")));
    site.write(
        "filters/mine.js",
        "let secret;\nexports.init = (settings) => { secret = settings.secret; };\n\
         exports.filter = (context, event) => {\n  if (event.event_name === 'Search') return { drop: 'searches' };\n  \
         if (event.event_name === 'Lead') throw new Error('no leads');\n  return { remove: ['custom_data.' + secret], set: { 'custom_data.via': context.account } };\n};\n",
    );
    let site = site.account(account.tables(script));
    let gateway = Gateway::start(&site).await;
    let send = async |name: &str, id: &str| {
        let mut event = page_view(PIXEL, id);
        event["event_name"] = name.into();
        event["custom_data"] = json!({ "colour": "red", "size": 44 });
        assert_eq!(gateway.browser().send(NAME, &event).await.0, 200);
    };
    send("Purchase", "bought").await;
    send("Search", "searched").await;
    send("Lead", "threw").await;
    let arrived = standin.event(PIXEL, "bought").await;
    assert_eq!(arrived["custom_data"]["via"], "shoes");
    assert!(arrived["custom_data"].get("colour").is_none() && arrived["custom_data"]["size"] == 44, "{arrived}");
    let held = eventually("the throw is held", async || dead_letters(&gateway).pop()).await;
    assert_eq!(held["event_id"], "threw");
    assert!(held["message"].as_str().unwrap().contains("no leads"), "{held}");
    assert!(!standin.events(PIXEL).await.contains_key("searched"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_is_no_filter_is_a_problem_of_its_account_alone() {
    let standin = Standin::start().await;
    let site = Site::new(&standin.url).account(Account::new("hats", 5002).domain("events.hats.example"));
    site.write("filters/garbage.wasm", b"garbage");
    site.write("filters/core.wasm", wat::parse_str("(module)").unwrap());
    site.write("filters/empty.wasm", wat::parse_str("(component)").unwrap());
    site.write("filters/broken.js", "let a = 1;\nlet b = ;\n");
    for (id, source) in [
        ("a", "component = \"../filters/garbage.wasm\""),
        ("b", "component = \"../filters/core.wasm\""),
        ("c", "component = \"../filters/empty.wasm\""),
        ("d", "script = \"../filters/broken.js\""),
    ] {
        site.write(&format!("accounts/{id}.toml"), format!("name = \"{id}\"\n[[filters]]\nname = \"f\"\n{source}\n"));
    }
    let site =
        site.with(&format!("[filters]\nscript_runner = {:?}\n", crate::util::process::plugin("script-runner.wasm")));
    let gateway = Gateway::start(&site).await;
    let status = gateway.json(&["status", "--json"]);
    let reasons: Vec<_> = status["problems"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|p| p["severity"] == "error")
        .map(|p| (p["account"].clone(), p["reason"].as_str().unwrap().to_owned()))
        .collect();
    let reason = |id: &str| {
        reasons.iter().find(|(account, _)| account == id).map(|(_, reason)| reason.clone()).unwrap_or_default()
    };
    assert_eq!(reasons.len(), 4, "{reasons:#?}");
    assert!(reason("b").contains("core module"), "{}", reason("b"));
    assert!(reason("c").contains("export"), "{}", reason("c"));
    assert!(reason("d").contains("line 2, column"), "names the line: {}", reason("d"));
    assert!(reason("d").contains("broken.js: "), "names the file: {}", reason("d"));
    assert_eq!(gateway.browser().send("events.hats.example", &page_view(5002, "fine")).await.0, 200);
}
