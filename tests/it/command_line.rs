use std::os::unix::ffi::OsStrExt;
use std::process::Command;

use serde_json::{Value, json};

use crate::util::client::page_view;
use crate::util::gateway::pixelgate;
use crate::util::process::{built, plugin};
use crate::util::{Account, Gateway, Site, Standin};

const PIXEL: u64 = 8001;
const NAME: &str = "events.shoes.example";

#[test]
fn usage_errors_exit_with_2_and_nothing_unbuilt_is_offered() {
    let run = |arguments: &[&str]| Command::new(built("pixelgate")).args(arguments).output().unwrap();
    for arguments in
        [&["nonsense"][..], &["status", "--nonsense"], &["users", "list"], &["cert", "renew"], &["filter", "new"], &[]]
    {
        assert_eq!(run(arguments).status.code(), Some(2), "{arguments:?}");
    }
    // What was given does not look as if it had to be.
    let mut command = Command::new(built("pixelgate"));
    let output = command.env("PIXELGATE_CONFIG", "/nonexistent").args(["dead-letters", "drop"]).output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(said.contains("Usage: pixelgate dead-letters drop [OPTIONS] <") && !said.contains("--config"), "{said}");
    let help = run(&["--help"]);
    assert_eq!(help.status.code(), Some(0));
    let text = String::from_utf8_lossy(&help.stdout).into_owned();
    for command in ["run", "check", "reload", "status", "accounts", "cert", "dead-letters", "filter", "completions"] {
        assert!(text.contains(command), "{command}");
    }
    assert!(!text.contains("compile-filter") && !text.contains("backup"));
    assert!(String::from_utf8_lossy(&run(&["completions", "bash"]).stdout).contains("dead-letters"));
}

#[test]
fn a_wildcard_in_the_place_of_a_name_is_told_what_to_write() {
    for command in ["list", "check", "reload", "issue"] {
        let output = Command::new(built("pixelgate")).args(["cert", command, "*.shoes.example"]).output().unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{said}");
        assert!(said.contains("this is a wildcard: write one name that it serves") && said.contains(NAME), "{said}");
    }
}

#[test]
fn who_closes_the_pipe_hears_nothing_more() {
    let site = Site::new("http://127.0.0.1:9").account(Account::new("shoes", PIXEL).domain(NAME));
    let run = |arguments: &[&str], errors_too: bool| {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let mut command = Command::new(built("pixelgate"));
        command.args(arguments).env("PIXELGATE_CONFIG", site.dir()).stdout(writer.try_clone().unwrap());
        if errors_too {
            command.stderr(writer);
        }
        command.output().unwrap()
    };
    for (arguments, code) in [
        (&["completions", "bash"][..], 0),
        (&["--help"], 0),
        (&["check"], 0),
        (&["check", "--json"], 0),
        (&["status"], 3),
        (&["filter", "test", "none.wasm"], 1),
        (&["nonsense"], 2),
    ] {
        let output = run(arguments, false);
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(output.status.code() == Some(code) && !said.contains("panicked"), "{arguments:?}: {said}");
        assert!(code != 0 || said.lines().all(|line| line.contains("no gateway is running")), "{arguments:?}: {said}");
        assert_eq!(run(arguments, true).status.code(), Some(code), "{arguments:?}");
    }
}

#[test]
fn without_a_gateway_the_exit_code_is_3() {
    let site = Site::new("http://127.0.0.1:9");
    for arguments in [
        &["status"][..],
        &["reload"],
        &["accounts", "list"],
        &["cert", "list"],
        &["cert", "reload"],
        &["dead-letters", "list"],
    ] {
        let output = pixelgate(site.dir(), arguments);
        assert_eq!(output.status.code(), Some(3), "{arguments:?}");
        assert!(String::from_utf8_lossy(&output.stderr).contains("control.sock"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_socket_is_found_also_where_the_file_has_problems_or_by_hand() {
    let standin = Standin::start().await;
    let site = Site::new(&standin.url).account(Account::new("shoes", PIXEL).domain(NAME));
    let toml = std::fs::read_to_string(site.path("pixelgate.toml")).unwrap();
    site.write("pixelgate.toml", toml.replace("[host]", "[host]\ncontrol = \"own.sock\""));
    let gateway = Gateway::start(&site).await;
    site.write("pixelgate.toml", std::fs::read_to_string(site.path("pixelgate.toml")).unwrap() + "\n[nonsense]\n");
    assert!(gateway.command(&["status"]).status.success());
    let socket = site.path("own.sock");
    let by_hand = Command::new(built("pixelgate")).args(["accounts", "list", "--socket"]).arg(socket).output().unwrap();
    assert!(by_hand.status.success(), "{by_hand:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn accounts_and_dead_letters_are_listed_shown_and_dropped() {
    let standin = Standin::start().await;
    standin.bad_events(&["bad1", "bad2"]).await;
    let site =
        Site::new(&standin.url).account(Account::new("shoes", PIXEL).domain(NAME)).account(Account::new("hats", 8002));
    let gateway = Gateway::start(&site).await;
    let accounts = gateway.json(&["accounts", "list", "--json"]);
    let ids: Vec<_> = accounts.as_array().unwrap().iter().map(|account| account["id"].as_str().unwrap()).collect();
    assert_eq!(ids, ["hats", "shoes"]);
    assert!(String::from_utf8_lossy(&gateway.command(&["accounts", "list"]).stdout).contains("events.shoes.example"));
    assert_eq!(gateway.command(&["accounts", "show", "nobody"]).status.code(), Some(1));
    let shown = String::from_utf8(gateway.command(&["accounts", "show", "shoes"]).stdout).unwrap();
    assert!(shown.contains("names    events.shoes.example") && shown.contains("events: 0 pending"), "{shown}");
    assert_eq!(gateway.json(&["accounts", "show", "shoes", "--json"])["id"], "shoes");
    let status = String::from_utf8(gateway.command(&["status"]).stdout).unwrap();
    assert!(status.contains("iB free"), "{status}");
    for id in ["bad1", "bad2"] {
        assert_eq!(gateway.browser().send(NAME, &page_view(PIXEL, id)).await.0, 200);
    }
    let list = crate::util::eventually("both are buried", async || {
        let list = gateway.json(&["dead-letters", "list", "--json"]);
        (list.as_array()?.len() == 2).then_some(list)
    })
    .await;
    let id = list[0]["id"].as_str().unwrap();
    let shown = gateway.json(&["dead-letters", "show", id]);
    assert_eq!(gateway.json(&["dead-letters", "show", id, "--json"]), shown);
    assert_eq!(shown["event"]["event_name"], "PageView");
    assert!(gateway.command(&["dead-letters", "drop", id]).status.success());
    assert_eq!(gateway.json(&["dead-letters", "list", "--json"]).as_array().unwrap().len(), 1);
    // How many were buried so far, and how many letters are there now, are two numbers.
    let pixel = &gateway.json(&["accounts", "show", "shoes", "--json"])["pixels"][0];
    assert_eq!((&pixel["dead"], &pixel["dead_letters"]), (&json!(2), &json!(1)));
    for command in [&["status"][..], &["accounts", "show", "shoes"]] {
        let shown = String::from_utf8(gateway.command(command).stdout).unwrap();
        assert!(shown.contains("2 dead · dead letters now: 1"), "{shown}");
    }
    let listed = String::from_utf8(gateway.command(&["accounts", "list"]).stdout).unwrap();
    let line = listed.lines().find(|line| line.starts_with("shoes ")).unwrap_or_else(|| panic!("{listed}"));
    let rest = "active    1 pixel · events: 0 pending, 0 in flight · since the first start: 0 delivered, 2 dead · dead letters now: 1";
    assert_eq!(line, format!("{:<24} {rest} · {NAME}", "shoes"));
    assert_eq!(gateway.json(&["status", "--json"])["outbox"]["dead_letters"], 1);
    assert_eq!(gateway.command(&["dead-letters", "show", id]).status.code(), Some(1));
    standin.get("summary").await;
    assert!(gateway.command(&["dead-letters", "drop", "--all"]).status.success());
    assert_eq!(gateway.json(&["dead-letters", "list", "--json"]), json!([]));
    assert_eq!(gateway.command(&["dead-letters", "drop"]).status.code(), Some(2), "which ones must be said");
}

#[test]
fn a_build_without_the_target_says_what_takes_so_long() {
    use std::os::unix::fs::PermissionsExt;
    let folder = tempfile::tempdir().unwrap();
    // A toolchain that has the library for no target, and builds nothing.
    for (name, script) in [("rustc", "#!/bin/sh\necho 'host: none'\n"), ("cargo", "#!/bin/sh\nexit 1\n")] {
        std::fs::write(folder.path().join(name), script).unwrap();
        std::fs::set_permissions(folder.path().join(name), std::fs::Permissions::from_mode(0o700)).unwrap();
    }
    let mut command = Command::new(built("pixelgate"));
    command.env("PATH", format!("{}:/usr/bin:/bin", folder.path().display()));
    let output = command.args(["filter", "build"]).arg(folder.path()).output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains(": cargo builds it for wasm32-unknown-unknown\n"), "{said}");
    assert!(said.contains("library for wasm32-unknown-unknown is not installed"), "{said}");
    assert!(said.contains("rustup target add wasm32-unknown-unknown"), "{said}");
}

#[test]
fn filters_are_tried_without_a_gateway() {
    let folder = tempfile::tempdir().unwrap();
    let event = folder.path().join("event.json");
    let settings = folder.path().join("settings.json");
    let text = json!({ "event_name": "Purchase", "event_time": 1_700_000_000, "event_id": "1", "action_source": "website", "user_data": { "client_user_agent": "x" }, "custom_data": { "secret": 1, "value": 2, "currency": "EUR" } });
    std::fs::write(&event, text.to_string()).unwrap();
    std::fs::write(&settings, json!({ "remove_custom_data": ["secret"] }).to_string()).unwrap();
    let test = |settings: &std::path::Path| {
        let mut command = Command::new(built("pixelgate"));
        command
            .args(["filter", "test"])
            .arg(plugin("fields.wasm"))
            .arg("--event")
            .arg(&event)
            .arg("--settings")
            .arg(settings);
        command.arg("--json").output().unwrap()
    };
    let good = test(&settings);
    assert_eq!(good.status.code(), Some(0), "{good:?}");
    let result: Value = serde_json::from_slice(&good.stdout).unwrap();
    assert_eq!(result["verdict"], "modify");
    assert_eq!(result["event"]["custom_data"], json!({ "value": 2, "currency": "EUR" }));
    std::fs::write(&settings, json!({ "drop_events": ["Purchase"] }).to_string()).unwrap();
    let dropped: Value = serde_json::from_slice(&test(&settings).stdout).unwrap();
    assert_eq!(dropped["verdict"], "drop");
    std::fs::write(&settings, "[1]").unwrap();
    assert_eq!(test(&settings).status.code(), Some(1), "settings that the filter refuses");
}

#[test]
fn what_is_wrong_with_a_filter_is_told_once_with_its_limit_and_what_to_do_here() {
    let folder = tempfile::tempdir().unwrap();
    for (file, text) in [
        ("note.txt", "a note"),
        ("f.js", "exports.filter = () => true;"),
        ("loop.json", r#"{ "do": "loop" }"#),
        ("devour.json", r#"{ "do": "devour" }"#),
        ("wrong.json", "{}"),
    ] {
        std::fs::write(folder.path().join(file), text).unwrap();
    }
    let (faulty, runner) = (plugin("faulty.wasm"), folder.path().join("none.wasm"));
    let (faulty, runner) = (faulty.to_str().unwrap(), runner.to_str().unwrap());
    for (arguments, words) in [
        (&[faulty][..], &["missing field", "→ give it the settings that it wants", "--settings"][..]),
        (&[faulty, "--settings", "wrong.json"], &["missing field", "→ correct wrong.json as it says"]),
        (&["note.txt"], &["not a Wasm file", "→ name a component (.wasm), or a script: its name ends in .js"]),
        (&[faulty, "--settings", "loop.json"], &["fault: deadline: took longer than 5ms, [filters] deadline"]),
        (
            &[faulty, "--settings", "devour.json"],
            &["fault: out of memory: wanted more than 16777216 bytes, [filters] mem"],
        ),
        (&["f.js", "--script-runner", "none.wasm"], &[runner, "--script-runner", "PIXELGATE_SCRIPT_RUNNER"]),
    ] {
        let mut command = Command::new(built("pixelgate"));
        let output = command.current_dir(folder.path()).args(["filter", "test"]).args(arguments).output().unwrap();
        assert_eq!(output.status.code(), Some(1), "{output:?}");
        let said = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
        for word in words {
            assert_eq!(said.matches(word).count(), 1, "{word}: {said}");
        }
        assert!(said.lines().count() <= 2, "{said}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_check_judges_the_folder_it_was_given_and_says_who_judges() {
    let standin = Standin::start().await;
    let site = Site::new(&standin.url).account(Account::new("shoes", PIXEL).domain(NAME));
    let _gateway = Gateway::start(&site).await;
    let said = |output: &std::process::Output| String::from_utf8_lossy(&output.stderr).into_owned();
    let own = pixelgate(site.dir(), &["check"]);
    assert!(own.status.success() && own.stderr.is_empty(), "{}", said(&own));
    // The new configuration beside the running one, for the same data: its control socket is the same.
    let new = site.path("new");
    std::fs::create_dir_all(new.join("accounts")).unwrap();
    let toml = std::fs::read_to_string(site.path("pixelgate.toml")).unwrap();
    let data = format!("data_dir = {:?}", site.path("data"));
    std::fs::write(new.join("pixelgate.toml"), toml.replace("data_dir = \"data\"", &data)).unwrap();
    std::fs::write(new.join("accounts/hats.toml"), "name = 3\n").unwrap();
    let other = pixelgate(&new, &["check", "--json"]);
    assert_eq!(other.status.code(), Some(1), "{other:?}");
    assert!(said(&other).contains("this gateway runs on") && said(&other).contains("alone"), "{}", said(&other));
    let report: Value = serde_json::from_slice(&other.stdout).unwrap();
    assert!(report["problems"].to_string().contains("hats.toml"), "{report}");
    assert_eq!((&report["applied"], &report["accounts"]), (&json!(false), &Value::Null));
    // A reload of it is none of this gateway's folder, unless the gateway is named by its socket.
    let reload = pixelgate(&new, &["reload"]);
    assert!(reload.status.code() == Some(1) && said(&reload).contains("this gateway runs on"), "{}", said(&reload));
    let by_socket =
        pixelgate(&new, &["reload", "--json", "--socket", site.path("data/control.sock").to_str().unwrap()]);
    let report: Value = serde_json::from_slice(&by_socket.stdout).unwrap();
    assert_eq!((&report["applied"], &report["revision"]), (&json!(true), &json!(2)), "{report}");
}

#[tokio::test(flavor = "multi_thread")]
async fn each_command_that_changes_something_leaves_one_line_with_its_user() {
    let standin = Standin::start().await;
    let site = Site::new(&standin.url).account(Account::new("shoes", PIXEL).domain(NAME));
    let gateway = Gateway::start(&site).await;
    let uid = format!("uid={}", rustix::process::getuid().as_raw());
    for (arguments, code, words) in [
        (&["accounts", "pause", "shoes", "--reason", "for now"][..], 0, &["accounts pause", "shoes", "for now"][..]),
        (&["accounts", "resume", "shoes"], 0, &["accounts resume", "shoes"]),
        (&["accounts", "pause", "nobody"], 1, &["accounts pause", "nobody", "refused"]),
        (
            &["dead-letters", "replay", "--account", "shoes"],
            0,
            &["dead-letters replay", "account shoes", "0 dropped, 0 held, 0 replayed"],
        ),
        (&["dead-letters", "drop", "--all"], 0, &["dead-letters drop", "of=all"]),
        (&["cert", "reload", NAME], 0, &["cert reload", NAME, "1 served"]),
        (&["cert", "reload"], 0, &["cert reload", "all names", "2 served"]),
        (&["cert", "issue", NAME], 1, &["cert issue", NAME, "refused"]),
        (&["reload"], 0, &["reloaded", "revision=2"]),
        (&["status"], 0, &[]),
        (&["check"], 0, &[]),
    ] {
        let before = gateway.log().lines().count();
        let output = gateway.command(arguments);
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {output:?}");
        let log = gateway.log();
        let lines: Vec<_> = log.lines().skip(before).filter(|line| line.contains("uid=")).collect();
        assert!(!lines.concat().contains('\\'), "nothing is escaped: {lines:#?}");
        assert_eq!(lines.len(), usize::from(!words.is_empty()), "{arguments:?}: {lines:#?}");
        assert!(
            words.iter().chain([&uid.as_str()]).all(|word| words.is_empty() || lines[0].contains(word)),
            "{lines:#?}"
        );
    }
}

#[test]
fn a_folder_that_is_not_utf_8_is_judged_alone() {
    let site = Site::new("http://127.0.0.1:9").account(Account::new("shoes", PIXEL).domain(NAME));
    let parent = tempfile::tempdir().unwrap();
    let folder = parent.path().join(std::ffi::OsStr::from_bytes(b"etc-\xff"));
    std::os::unix::fs::symlink(site.dir(), &folder).unwrap();
    let output = pixelgate(&folder, &["check"]);
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    assert!(said.contains("not UTF-8") && said.contains("alone"), "{said}");
}

#[test]
fn a_check_sums_up_and_a_start_that_failed_says_so() {
    let site = Site::new("http://127.0.0.1:9").account(Account::new("shoes", PIXEL).domain(NAME));
    let check = pixelgate(site.dir(), &["check"]);
    assert_eq!(String::from_utf8(check.stdout).unwrap(), "checked: 0 errors, 0 warnings\n");
    site.write("accounts/hats.toml", "name = 3\n");
    let check = pixelgate(site.dir(), &["check"]);
    let said = String::from_utf8(check.stdout).unwrap();
    assert!(said.ends_with("\nchecked: 1 error, 1 warning\n"), "{said}");
    site.write("pixelgate.toml", "[host]\n");
    let run = pixelgate(site.dir(), &["run"]);
    let said = String::from_utf8(run.stderr).unwrap();
    assert_eq!(run.status.code(), Some(1), "{said}");
    assert!(said.ends_with("pixelgate: did not start: 2 errors, 1 warning in the configuration\n"), "{said}");
}

#[test]
fn only_where_nothing_listens_is_no_gateway_running() {
    let site = Site::new("http://127.0.0.1:9");
    site.write("file", "");
    let through_a_file = site.path("file/control.sock");
    let output = pixelgate(site.dir(), &["check", "--socket", through_a_file.to_str().unwrap()]);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.code() == Some(1) && !said.contains("no gateway is running"), "{said}");
}

#[test]
fn a_control_socket_that_nothing_can_have_is_a_problem_and_no_gateway() {
    let site = Site::new("http://127.0.0.1:9").host(&format!("control = \"/{}/control.sock\"", "x".repeat(120)));
    let check = pixelgate(site.dir(), &["check", "--json"]);
    assert_eq!(check.status.code(), Some(1), "{check:?}");
    let report: Value = serde_json::from_slice(&check.stdout).unwrap();
    assert_eq!(report["problems"][0]["key"], "host.control", "{report}");
    assert!(String::from_utf8_lossy(&check.stderr).contains("no gateway is running"), "{check:?}");
    assert_eq!(pixelgate(site.dir(), &["status"]).status.code(), Some(3));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_changes_something_answers_programs_too() {
    let standin = Standin::start().await;
    let site = Site::new(&standin.url).account(Account::new("shoes", PIXEL).domain(NAME));
    let gateway = Gateway::start(&site).await;
    assert_eq!(gateway.json(&["accounts", "pause", "shoes", "--json"]), json!({ "account": "shoes", "paused": true }));
    for was_paused in [true, false] {
        assert_eq!(
            gateway.json(&["accounts", "resume", "shoes", "--json"]),
            json!({ "account": "shoes", "paused": false, "was_paused": was_paused })
        );
    }
    let again = gateway.command(&["accounts", "resume", "shoes"]);
    assert!(String::from_utf8_lossy(&again.stdout).contains("nothing was paused that can be resumed"), "{again:?}");
    assert_eq!(gateway.json(&["dead-letters", "drop", "--all", "--json"])["dropped"], 0);
    for command in ["list", "drop", "replay"] {
        let unknown = gateway.command(&["dead-letters", command, "--account", "nobody"]);
        assert_eq!(unknown.status.code(), Some(1), "{unknown:?}");
        assert!(String::from_utf8_lossy(&unknown.stderr).contains("no account nobody"), "{unknown:?}");
    }
    assert_eq!(gateway.json(&["dead-letters", "replay", "--account", "shoes", "--json"])["replayed"], 0);
    for which in [&["--json"][..], &["--all", "--account", "shoes"]] {
        let arguments = [&["dead-letters", "drop"], which].concat();
        assert_eq!(gateway.command(&arguments).status.code(), Some(2), "{arguments:?}");
    }
}
