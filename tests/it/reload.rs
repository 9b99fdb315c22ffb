use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use rustix::process::Signal;
use serde_json::{Value, json};

use crate::util::client::page_view;
use crate::util::gateway::pixelgate;
use crate::util::{Account, Gateway, Site, Standin, eventually};

const PIXEL: u64 = 6001;
const NAME: &str = "events.shoes.example";

fn shoes() -> Account {
    Account::new("shoes", PIXEL).domain(NAME)
}

fn problems(report: &Value) -> Vec<Value> {
    report["problems"].as_array().cloned().unwrap_or_default()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reload_under_load_fails_no_request() {
    let standin = Standin::start().await;
    let site = Site::new(&standin.url).account(shoes());
    let gateway = Gateway::start(&site).await;
    let (stop, sent) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let senders: Vec<_> = (0..6)
        .map(|sender| {
            let (stop, sent, browser) = (stop.clone(), sent.clone(), gateway.browser());
            tokio::spawn(async move {
                for n in 0.. {
                    if stop.load(Ordering::Relaxed) {
                        break;
                    }
                    let answer = browser.send(NAME, &page_view(PIXEL, &format!("{sender}-{n}"))).await;
                    assert_eq!(answer.0, 200, "{answer:?}");
                    sent.fetch_add(1, Ordering::Relaxed);
                }
            })
        })
        .collect();
    for round in 0..20 {
        let before = sent.load(Ordering::Relaxed);
        site.write_account(&shoes().top(&format!("# round {round}")));
        site.write_account(
            &Account::new(&format!("new{round}"), 6100 + round).domain(&format!("events.new{round}.example")),
        );
        let report = gateway.json(&["reload", "--json"]);
        assert_eq!(problems(&report), Vec::<Value>::new());
        assert_eq!(report["revision"], round + 2);
        let new = page_view(6100 + round, "hello");
        assert_eq!(gateway.browser().send(&format!("events.new{round}.example"), &new).await.0, 200);
        eventually("events go on", async || (sent.load(Ordering::Relaxed) > before + 10).then_some(())).await;
    }
    stop.store(true, Ordering::Relaxed);
    for sender in senders {
        sender.await.unwrap();
    }
    assert_eq!(gateway.metric("pixelgate_reloads_total", "ok").await, 20.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_problem_in_one_account_keeps_that_account_as_it_was_also_after_a_restart() {
    let standin = Standin::start().await;
    let site = Site::new(&standin.url).account(shoes());
    let mut gateway = Gateway::start(&site).await;
    site.write("accounts/shoes.toml", "name = 3\ndomians = [\"events.shoes.example\"]\n");
    site.write_account(&Account::new("hats", 6002).domain("events.hats.example"));
    let checked = gateway.json(&["check", "--json"]);
    let reload = gateway.command(&["reload", "--json"]);
    assert_eq!(reload.status.code(), Some(1), "a problem, even if other accounts went through");
    let reloaded: Value = serde_json::from_slice(&reload.stdout).unwrap();
    assert_eq!(problems(&checked), problems(&reloaded), "check says exactly what a reload says");
    let found = problems(&reloaded);
    let keys: Vec<_> = found.iter().map(|problem| problem["key"].as_str().unwrap()).collect();
    assert!(keys.contains(&"name") && keys.contains(&"domians"), "{found:#?}");
    let misspelt = found.iter().find(|problem| problem["key"] == "domians").unwrap();
    assert!(misspelt["remedy"].as_str().unwrap().contains("domains"), "{misspelt}");
    assert_eq!((&misspelt["account"], &misspelt["severity"]), (&json!("shoes"), &json!("error")));
    assert!(misspelt["file"].as_str().unwrap().contains("accounts/shoes.toml"));

    assert_eq!(gateway.browser().send(NAME, &page_view(PIXEL, "as-it-was")).await.0, 200);
    assert_eq!(gateway.browser().send("events.hats.example", &page_view(6002, "new")).await.0, 200);
    assert!(gateway.stop().await.success());
    let gateway = Gateway::start(&site).await;
    assert_eq!(gateway.browser().send(NAME, &page_view(PIXEL, "after-restart")).await.0, 200);
    standin.took(PIXEL, &["as-it-was", "after-restart"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_problem_in_the_gateways_own_file_keeps_everything_and_ends_a_start() {
    let standin = Standin::start().await;
    let site = Site::new(&standin.url).account(shoes());
    let mut gateway = Gateway::start(&site).await;
    let good = std::fs::read_to_string(site.path("pixelgate.toml")).unwrap();
    site.write("pixelgate.toml", format!("{good}\n[hosts]\n"));
    site.write_account(&Account::new("hats", 6002).domain("events.hats.example"));
    let reload = gateway.command(&["reload"]);
    assert_eq!(reload.status.code(), Some(1));
    let said = String::from_utf8_lossy(&reload.stdout).into_owned();
    assert!(said.contains("hosts") && said.contains("refused") && !said.contains("reloaded"), "{said}");
    assert_eq!(gateway.json(&["reload", "--json"])["applied"], false);
    let errors = async || gateway.metric("pixelgate_config_problems", "error").await;
    let told = || problems(&gateway.json(&["status", "--json"])).iter().any(|problem| problem["key"] == "hosts");
    assert!(told() && errors().await == 1.0);
    // As an issued certificate comes in.
    let names = json!({ "names": [NAME] }).to_string();
    let refresh = std::process::Command::new("curl")
        .args(["-sSf", "-H", "content-type: application/json", "-d", &names, "--unix-socket"])
        .args([site.path("data/control.sock").to_str().unwrap(), "http://pixelgate/certificates/refresh"])
        .output()
        .expect("curl runs");
    assert!(refresh.status.success(), "{refresh:?}");
    assert!(told() && errors().await == 1.0, "new certificates change nothing of it");
    assert_eq!(gateway.browser().send(NAME, &page_view(PIXEL, "unchanged")).await.0, 200);
    site.write("pixelgate.toml", &good);
    gateway.command(&["reload"]);
    assert!(!told() && errors().await == 0.0, "a reload that is taken up ends it");
    std::fs::remove_file(site.path("accounts/hats.toml")).unwrap();
    gateway.command(&["reload"]);
    site.write("pixelgate.toml", format!("{good}\n[hosts]\n"));
    assert!(gateway.browser().try_send("events.hats.example", &page_view(6002, "x")).await.is_err());
    assert!(gateway.stop().await.success());
    let start = pixelgate(site.dir(), &["run"]);
    assert_eq!(start.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&start.stderr).contains("hosts"));
    // What only compiling finds ends a start too: the shoes have this name, and their file now is bad.
    site.write(
        "pixelgate.toml",
        good.lines()
            .map(
                |line| {
                    if line.starts_with("domain = ") { format!("domain = \"{NAME}\"\n") } else { format!("{line}\n") }
                },
            )
            .collect::<String>(),
    );
    site.write("accounts/shoes.toml", "domains = 1\n");
    let start = pixelgate(site.dir(), &["run"]);
    assert_eq!(start.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&start.stderr).contains("host.domain"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_domain_claimed_twice_stays_with_the_account_that_has_it() {
    let standin = Standin::start().await;
    let site = Site::new(&standin.url).account(shoes());
    let gateway = Gateway::start(&site).await;
    site.write_account(&Account::new("a-thief", 6009).domain(NAME).domain("events.thief.example"));
    let report = gateway.json(&["reload", "--json"]);
    let found = problems(&report);
    let twice = found.iter().find(|problem| problem["severity"] == "error").unwrap_or_else(|| panic!("{report:#}"));
    let text = twice.to_string();
    assert!(text.contains("a-thief.toml") && text.contains("shoes"), "both places are named: {text}");
    assert_eq!(gateway.browser().send(NAME, &page_view(PIXEL, "mine")).await.0, 200);
    assert!(gateway.browser().try_send("events.thief.example", &page_view(6009, "x")).await.is_err(), "refused whole");
}

#[tokio::test(flavor = "multi_thread")]
async fn all_that_is_wrong_is_told_at_once() {
    let standin = Standin::start().await;
    let site = Site::new(&standin.url).account(shoes());
    let gateway = Gateway::start(&site).await;
    let told = |command: &str| {
        let report = gateway.json(&[command, "--json"]);
        let keys = |problem: &Value| {
            (problem["account"].as_str().map(str::to_owned), problem["key"].as_str().map(str::to_owned))
        };
        let errors =
            problems(&report).iter().filter(|problem| problem["severity"] == "error").map(keys).collect::<Vec<_>>();
        (report["applied"].as_bool().unwrap(), errors)
    };
    let of = |account: &str, key: &str| (Some(account.to_owned()), Some(key.to_owned()));
    // One file with a claim that another account has and a filter that is none.
    site.write("none.wasm", "no component");
    let broken = "[[filters]]\nname = \"f\"\ncomponent = \"../none.wasm\"";
    site.write_account(&Account::new("hats", 6002).domain(NAME).tables(broken));
    // A problem without a line comes before those with one.
    let both = [of("hats", "filters[0].component"), of("hats", "domains[0]")];
    assert_eq!(told("check"), (false, both.to_vec()));
    assert_eq!(told("reload"), (true, both.to_vec()));
    // A slip in the gateway's own file hides neither.
    let toml = std::fs::read_to_string(site.path("pixelgate.toml")).unwrap();
    site.write("pixelgate.toml", format!("{toml}\n[nonsense]\n"));
    for command in ["check", "reload"] {
        let (applied, errors) = told(command);
        assert!(!applied && both.iter().all(|error| errors.contains(error)), "{command}: {errors:?}");
        assert!(errors.iter().any(|(_, key)| key.as_deref() == Some("nonsense")), "{command}: {errors:?}");
    }
    assert_eq!(gateway.browser().send(NAME, &page_view(PIXEL, "unchanged")).await.0, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn signals_and_changed_files_reload_too() {
    let standin = Standin::start().await;
    let site = Site::new(&standin.url).account(shoes());
    let toml = std::fs::read_to_string(site.path("pixelgate.toml")).unwrap();
    site.write("pixelgate.toml", toml.replace("[host]", "[host]\nwatch = true"));
    let gateway = Gateway::start(&site).await;
    let served = async |name: &str, pixel: u64| {
        eventually("the new account is served", async || {
            let answer = gateway.browser().try_send(name, &page_view(pixel, "x")).await;
            answer.is_ok_and(|(status, _)| status == 200).then_some(())
        })
        .await;
    };
    // Another folder takes the place of the one that was there.
    std::fs::rename(site.path("accounts"), site.path("accounts-before")).unwrap();
    site.write_account(&shoes());
    site.write_account(&Account::new("moved", 6005).domain("events.moved.example"));
    served("events.moved.example", 6005).await;
    site.write_account(&Account::new("seen", 6003).domain("events.seen.example"));
    served("events.seen.example", 6003).await;
    std::fs::remove_file(site.path("accounts/seen.toml")).unwrap();
    site.write_account(&Account::new("told", 6004).domain("events.told.example"));
    gateway.signal(Signal::HUP);
    served("events.told.example", 6004).await;
    assert!(gateway.browser().try_send("events.seen.example", &page_view(6003, "x")).await.is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_hangup_says_where_and_is_no_revision() {
    let standin = Standin::start().await;
    let site = Site::new(&standin.url).account(shoes());
    let gateway = Gateway::start(&site).await;
    let good = std::fs::read_to_string(site.path("pixelgate.toml")).unwrap();
    site.write("pixelgate.toml", format!("{good}\n[hosts]\n"));
    gateway.signal(Signal::HUP);
    eventually("it is refused", async || gateway.log().contains("the reload was refused").then_some(())).await;
    let log = gateway.log();
    let told = log.lines().find(|line| line.contains("key=\"hosts\"")).unwrap_or_else(|| panic!("{log}"));
    let file = site.path("pixelgate.toml");
    assert!(told.contains(&format!("file={} line={} ", file.display(), good.lines().count() + 2)), "{told}");
    assert!(told.contains("no such key") && told.contains("did you mean host?"), "{told}");
    assert!(log.lines().any(|line| line.contains("was refused") && line.contains("revision=1 ")), "{log}");
    assert_eq!(gateway.json(&["reload", "--json"])["revision"], 1);
    assert_eq!(gateway.json(&["status", "--json"])["revision"], 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_letter_stays_one_while_its_account_or_its_pixel_is_gone() {
    let standin = Standin::start().await;
    standin.bad_events(&["bad"]).await;
    let site = Site::new(&standin.url).account(shoes());
    let gateway = Gateway::start(&site).await;
    assert_eq!(gateway.browser().send(NAME, &page_view(PIXEL, "bad")).await.0, 200);
    let letters = || gateway.json(&["dead-letters", "list", "--json"]).as_array().map_or(0, Vec::len);
    eventually("it is buried", async || (letters() == 1).then_some(())).await;
    let replayed = || {
        gateway.json(&["reload", "--json"]);
        let done = gateway.json(&["dead-letters", "replay", "--all", "--json"]);
        (done["replayed"].as_u64().unwrap(), done["held"].as_u64().unwrap())
    };
    std::fs::remove_file(site.path("accounts/shoes.toml")).unwrap();
    assert_eq!((replayed(), letters()), ((0, 1), 1), "without the account");
    let shown = String::from_utf8(gateway.command(&["accounts", "show", "shoes"]).stdout).unwrap();
    assert!(shown.starts_with("shoes (not in the configuration): inactive\n  names    none\n"), "{shown}");
    let listed = String::from_utf8(gateway.command(&["accounts", "list"]).stdout).unwrap();
    assert!(listed.trim_end().ends_with("· not in the configuration"), "{listed}");
    site.write_account(&Account::new("shoes", 6020).domain(NAME));
    assert_eq!((replayed(), letters()), ((0, 1), 1), "without the pixel");
    site.write_account(&shoes());
    assert_eq!(replayed(), (1, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn certificates_are_warnings_and_taken_up_by_a_reload() {
    let standin = Standin::start().await;
    let names = ["missing", "expired", "mismatch", "fine"].map(|name| format!("events.{name}.example"));
    let mut account = Account::new("certs", 6005);
    for name in &names {
        account = account.domain(name);
    }
    let site = Site::new(&standin.url).account(account);
    let certs = site.path("certs");
    std::fs::remove_dir_all(certs.join(&names[0])).unwrap();
    site.authority.issue(&certs, &names[1], -1);
    let (_, other_key) = site.authority.credential(&names[2], 90);
    std::fs::write(certs.join(&names[2]).join("key.pem"), other_key).unwrap();
    let gateway = Gateway::start(&site).await;
    let status = gateway.json(&["status", "--json"]);
    for name in &names[..3] {
        let warning = problems(&status).into_iter().find(|problem| problem.to_string().contains(name.as_str()));
        let warning = warning.unwrap_or_else(|| panic!("{name}: {status:#}"));
        assert_eq!(warning["severity"], "warning");
        assert!(gateway.browser().try_send(name, &page_view(6005, "x")).await.is_err(), "{name} is not served");
    }
    assert_eq!(gateway.browser().send(&names[3], &page_view(6005, "fine")).await.0, 200);
    assert!(gateway.command(&["check"]).status.success(), "warnings are no errors");
    for name in &names[..3] {
        site.authority.issue(&certs, name, 90);
    }
    assert_eq!(problems(&gateway.json(&["reload", "--json"])), Vec::<Value>::new());
    for name in &names {
        assert_eq!(gateway.browser().send(name, &page_view(6005, name)).await.0, 200);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn certificates_alone_are_taken_up_by_name_or_all_at_once() {
    let standin = Standin::start().await;
    let names = ["one", "two", "three"].map(|name| format!("events.{name}.example"));
    let account = names.iter().fold(Account::new("certs", 6005), |account, name| account.bare_domain(name));
    let site = Site::new(&standin.url).account(account);
    let gateway = Gateway::start(&site).await;
    for name in &names {
        site.authority.issue(&site.path("certs"), name, 90);
    }
    // What waits to be reloaded goes on waiting.
    site.write_account(&Account::new("hats", 6002).domain("events.hats.example"));
    let one = gateway.command(&["cert", "reload", &names[0]]);
    let said = String::from_utf8_lossy(&one.stdout).into_owned();
    assert!(one.status.success() && said.contains("events.one.example: valid, until "), "{one:?}");
    assert_eq!(gateway.browser().send(&names[0], &page_view(6005, "one")).await.0, 200);
    assert!(gateway.browser().try_send(&names[1], &page_view(6005, "x")).await.is_err(), "nobody named it");
    let unknown = gateway.command(&["cert", "reload", "--json", &names[1], "events.hats.example"]);
    let report: Value = serde_json::from_slice(&unknown.stdout).unwrap();
    assert_eq!((unknown.status.code(), &report["unknown"]), (Some(1), &json!(["events.hats.example"])));
    assert_eq!(report["certificates"][0]["state"], "valid");
    assert_eq!(gateway.json(&["cert", "reload", "--json"]), json!({ "served": 4, "waiting": 0, "not_served": 0 }));
    assert_eq!(gateway.browser().send(&names[2], &page_view(6005, "three")).await.0, 200);
    let status = gateway.json(&["status", "--json"]);
    assert_eq!((&status["revision"], status["accounts"].as_array().unwrap().len()), (&json!(1), 1));
    std::fs::remove_file(site.path("certs").join(&names[2]).join("key.pem")).unwrap();
    assert_eq!(gateway.command(&["cert", "reload", &names[2]]).status.code(), Some(1), "it is not served");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reload_says_what_became_of_which_account() {
    let standin = Standin::start().await;
    let site = Site::new(&standin.url).account(shoes());
    let gateway = Gateway::start(&site).await;
    site.write_account(&Account::new("hats", 6002).domain("events.hats.example"));
    site.write("accounts/shoes.toml", "name = 3\n");
    let reload = gateway.command(&["reload"]);
    let said = String::from_utf8_lossy(&reload.stdout).into_owned();
    assert!(
        said.contains("added: hats\n") && said.contains("kept as before, for there is an error: shoes\n"),
        "{said}"
    );
    std::fs::remove_file(site.path("accounts/hats.toml")).unwrap();
    site.write_account(&shoes().top("# mended"));
    let report = gateway.json(&["reload", "--json"]);
    let expected = json!({ "added": [], "changed": ["shoes"], "removed": ["hats"], "kept": [], "left_out": [] });
    assert_eq!(report["accounts"], expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn check_without_a_gateway_says_so_and_judges_alone() {
    let site = Site::new("http://127.0.0.1:9").account(shoes());
    let good = pixelgate(site.dir(), &["check", "--json"]);
    assert_eq!(good.status.code(), Some(0), "{good:?}");
    assert!(String::from_utf8_lossy(&good.stderr).contains("no gateway"));
    site.write("accounts/bad.toml", b"name = \"caf\xe9\"");
    site.write("accounts/Bad Name.toml", "name = \"x\"");
    let bad = pixelgate(site.dir(), &["check", "--json"]);
    assert_eq!(bad.status.code(), Some(1));
    let report: Value = serde_json::from_slice(&bad.stdout).unwrap();
    assert_eq!(problems(&report).iter().filter(|problem| problem["severity"] == "error").count(), 2, "{report:#}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_needs_a_restart_is_told_until_it_is_as_at_the_start_again() {
    let standin = Standin::start().await;
    let site = Site::new(&standin.url).account(shoes());
    let gateway = Gateway::start(&site).await;
    let as_started = std::fs::read_to_string(site.path("pixelgate.toml")).unwrap();
    let warned = || {
        let report = gateway.json(&["reload", "--json"]);
        report["problems"].as_array().unwrap().iter().filter(|problem| problem["key"] == "listen.http").count()
    };
    site.write("pixelgate.toml", as_started.replace("http = [\"127.0.0.1:0\"]", "http = []"));
    assert_eq!((warned(), warned()), (1, 1));
    site.write("pixelgate.toml", &as_started);
    assert_eq!(warned(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_is_no_toml_still_says_where_the_gateway_is() {
    let standin = Standin::start().await;
    let site = Site::new(&standin.url).account(shoes());
    let gateway = Gateway::start(&site).await;
    let toml = std::fs::read_to_string(site.path("pixelgate.toml")).unwrap();
    site.write("pixelgate.toml", format!("{toml}\nx = \"\n"));
    let reload = gateway.command(&["reload"]);
    let said = String::from_utf8_lossy(&reload.stdout).into_owned() + &String::from_utf8_lossy(&reload.stderr);
    assert_eq!(reload.status.code(), Some(1), "{said}");
    assert!(said.contains("no TOML"), "{said}");
    assert!(gateway.command(&["status"]).status.success());
}
