use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::{Value, json};
use tokio::io::AsyncReadExt;

use crate::util::client::page_view;
use crate::util::{Account, Gateway, PATIENCE, Site, Standin, eventually};

const PIXEL: u64 = 7001;
const NAME: &str = "events.shoes.example";

fn shop(standin: &Standin) -> Site {
    Site::new(&standin.url).account(Account::new("shoes", PIXEL).domain(NAME))
}

#[tokio::test(flavor = "multi_thread")]
async fn health_readiness_metrics_and_status_are_there() {
    let standin = Standin::start().await;
    let site = shop(&standin);
    let gateway = Gateway::start(&site).await;
    let (_, fresh) = gateway.ops("/metrics").await;
    let of_shoes = |name: &str, more: &str| format!("pixelgate_{name}{{account=\"shoes\"{more}}} 0");
    for series in [
        of_shoes("events_accepted_total", ",format=\"gateway\""),
        of_shoes("events_delivered_total", ",pixel=\"7001\""),
        of_shoes("lane_pending", ",pixel=\"7001\""),
        "pixelgate_reloads_total{result=\"ok\"} 0".to_owned(),
        "pixelgate_events_rejected_total{reason=\"bad_request\"} 0".to_owned(),
    ] {
        assert!(fresh.lines().any(|line| line == series), "{series}: {fresh}");
    }
    assert_eq!(gateway.ops("/healthz").await.0, 200);
    let (code, ready) = gateway.ops("/readyz").await;
    assert_eq!((code, serde_json::from_str::<Value>(&ready).unwrap()), (200, json!({ "ready": true, "why": [] })));
    assert_eq!(gateway.browser().send(NAME, &page_view(PIXEL, "a")).await.0, 200);
    standin.took(PIXEL, &["a"]).await;
    eventually("it is counted", async || {
        (gateway.metric("pixelgate_events_delivered_total", "account=\"shoes\",pixel=\"7001\"").await == 1.0)
            .then_some(())
    })
    .await;
    let (_, text) = gateway.ops("/metrics").await;
    for metric in [
        "pixelgate_events_accepted_total",
        "pixelgate_lane_pending",
        "pixelgate_lane_in_flight",
        "pixelgate_lane_paused",
        "pixelgate_lane_oldest_seconds",
        "pixelgate_accept_seconds_bucket",
        "pixelgate_delivery_seconds_bucket",
        "pixelgate_outbox_fsync_seconds_bucket",
        "pixelgate_delivery_requests_total",
        "pixelgate_outbox_bytes",
        "pixelgate_disk_free_bytes",
        "pixelgate_handshakes_total",
        "pixelgate_connections",
        "pixelgate_config_problems",
        "pixelgate_certificates",
        "pixelgate_certificate_expiry_seconds_min",
    ] {
        assert!(text.contains(metric), "{metric} is missing in\n{text}");
    }
    let (_, status) = gateway.ops("/status").await;
    let status: Value = serde_json::from_str(&status).unwrap();
    let pixel = &status["accounts"][0]["pixels"][0];
    assert_eq!(
        (&pixel["id"], &pixel["state"], &pixel["delivered"], &pixel["dead"]),
        (&json!("7001"), &json!("active"), &json!(1), &json!(0))
    );
    assert_eq!(status["revision"], 1);
    let changed = reqwest::Client::new().post(format!("http://{}/status", gateway.ready.ops)).send().await.unwrap();
    assert_eq!(changed.status(), 405, "ops is GET only");
}

#[tokio::test(flavor = "multi_thread")]
async fn stopping_takes_under_ten_seconds_and_loses_nothing() {
    let standin = Standin::start().await;
    standin.fault(json!({ "pixel": PIXEL, "times": 1, "delay_ms": 1_000, "action": "delay" })).await;
    let site = shop(&standin);
    let mut gateway = Gateway::start(&site).await;
    let browser = gateway.browser();
    for n in 0..10 {
        assert_eq!(browser.send(NAME, &page_view(PIXEL, &format!("s{n}"))).await.0, 200);
    }
    let begun = Instant::now();
    let status = gateway.stop().await;
    assert!(status.success() && begun.elapsed() < Duration::from_secs(10), "{status} after {:?}", begun.elapsed());
    assert!(browser.try_send(NAME, &page_view(PIXEL, "late")).await.is_err());
    let _gateway = Gateway::start(&site).await;
    let ids: Vec<_> = (0..10).map(|n| format!("s{n}")).collect();
    standin.took(PIXEL, &ids.iter().map(String::as_str).collect::<Vec<_>>()).await;
    assert!(standin.events(PIXEL).await.values().all(|count| *count == 1), "an answered batch is not repeated");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_on_http_2_that_outstays_a_stop_ends_with_the_edge() {
    let standin = Standin::start().await;
    // The process goes on for as long.
    standin.fault(json!({ "pixel": PIXEL, "times": 1, "action": "hang" })).await;
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let upstream = format!("upstream = [\"http://{}\"]", silent.local_addr().unwrap());
    let site = Site::new(&standin.url).account(Account::new("shoes", PIXEL).domain(NAME).top(&upstream));
    let gateway = Gateway::start(&site).await;
    let browser = gateway.browser();
    assert_eq!(browser.send(NAME, &page_view(PIXEL, "hangs")).await.0, 200);
    tokio::spawn(browser.get(NAME, "/shop").send());
    // Health checks say nothing.
    let mut asked = loop {
        let (mut connection, _) = silent.accept().await.unwrap();
        if connection.read(&mut [0; 4_096]).await.is_ok_and(|bytes| bytes > 0) {
            break connection;
        }
    };
    eventually("the event is on its way", async || (!standin.requests(PIXEL).await.is_empty()).then_some(())).await;
    gateway.signal(Signal::TERM);
    let ended = tokio::time::timeout(Duration::from_secs(20), asked.read(&mut [0])).await;
    assert!(matches!(ended, Ok(Ok(0) | Err(_))), "{ended:?}");
    assert_eq!(gateway.ops("/healthz").await.0, 200, "the process is still there");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_right_after_the_start_waits_until_the_accounts_are_kept() {
    let standin = Standin::start().await;
    let site = shop(&standin);
    for n in 0..300 {
        site.write(&format!("accounts/more-{n}.toml"), format!("domains = [\"events.more{n}.example\"]\n"));
    }
    let mut gateway = Gateway::start(&site).await;
    assert!(gateway.stop().await.success());
    assert_eq!(std::fs::read_dir(site.path("data/last-good/accounts")).unwrap().count(), 301);
    site.write("accounts/shoes.toml", "nonsense");
    let gateway = Gateway::start(&site).await;
    assert_eq!(gateway.browser().send(NAME, &page_view(PIXEL, "as-it-was")).await.0, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn without_issuance_events_are_taken_and_the_operator_is_told() {
    let standin = Standin::start().await;
    let site = shop(&standin);
    site.write("data/acme", "a file where a folder should be");
    let gateway = Gateway::start(&site).await;
    assert_eq!(gateway.browser().send(NAME, &page_view(PIXEL, "taken")).await.0, 200);
    standin.took(PIXEL, &["taken"]).await;
    let status = gateway.json(&["status", "--json"]);
    let problems = status["problems"].as_array().unwrap();
    let told = problems.iter().find(|problem| problem["file"].as_str().unwrap().ends_with("data/acme"));
    assert_eq!(told.unwrap_or_else(|| panic!("{status:#}"))["severity"], "warning");
    assert_eq!(gateway.json(&["cert", "list", "--json"]).as_array().unwrap().len(), 2);
    let issue = gateway.command(&["cert", "issue", NAME]);
    assert_eq!(issue.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&issue.stderr).contains("no certificate is ordered"), "{issue:?}");
    assert!(gateway.log().contains("no certificate is ordered"));
}

#[tokio::test(flavor = "multi_thread")]
async fn systemd_hears_ready_reloading_stopping_and_the_watchdog() {
    let standin = Standin::start().await;
    let site = shop(&standin);
    let socket = UnixDatagram::bind(site.path("notify.sock")).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut gateway = Gateway::start_with(&site, |command| {
        command.env("NOTIFY_SOCKET", site.path("notify.sock")).env("WATCHDOG_USEC", "200000");
    })
    .await;
    let heard = |word: &str| {
        let mut buffer = [0; 4096];
        let deadline = Instant::now() + PATIENCE;
        while Instant::now() < deadline {
            let length = socket.recv(&mut buffer).expect("systemd is told");
            if String::from_utf8_lossy(&buffer[..length]).lines().any(|line| line.starts_with(word)) {
                return;
            }
        }
        panic!("{word} was not said");
    };
    heard("READY=1");
    heard("WATCHDOG=1");
    gateway.signal(Signal::HUP);
    heard("RELOADING=1");
    heard("READY=1");
    assert!(gateway.command(&["reload"]).status.success());
    heard("RELOADING=1");
    heard("READY=1");
    assert!(gateway.stop().await.success());
    heard("STOPPING=1");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_listening_socket_that_systemd_keeps_refuses_nobody_between_two_gateways() {
    let standin = Standin::start().await;
    let site = shop(&standin);
    let kept = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let stray = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = kept.local_addr().unwrap();
    let toml = std::fs::read_to_string(site.path("pixelgate.toml")).unwrap();
    let https = format!("https = [\"{address}\"]");
    site.write("pixelgate.toml", toml.replace("https = [\"127.0.0.1:0\"]", &https));
    let ready_file = site.path("ready.json");
    // As systemd passes them (sd_listen_fds(3)): descriptors from 3 on, and the id of the process that they are for.
    let script = format!(
        "exec 3<&0 4<&1 1>&2; LISTEN_FDS=2 LISTEN_PID=$$ exec {} run --config {} --ready-file {}",
        crate::util::process::built("pixelgate").display(),
        site.dir().display(),
        ready_file.display()
    );
    for round in 0..2 {
        let browser = crate::util::Browser::new(address, site.authority.pem());
        let id = format!("waits-{round}");
        let event = page_view(PIXEL, &id);
        // Nobody accepts yet: the kernel keeps the connection.
        let waiting = tokio::spawn(async move { browser.send(NAME, &event).await.0 });
        let socket: std::os::fd::OwnedFd = kept.try_clone().unwrap().into();
        let mut command = Command::new("sh");
        let log = std::fs::File::create(site.path("kept.log")).unwrap();
        let other: std::os::fd::OwnedFd = stray.try_clone().unwrap().into();
        command.args(["-c", &script]).stdin(socket).stdout(other).stderr(log);
        let mut gateway = command.spawn().unwrap();
        assert_eq!(waiting.await.unwrap(), 200);
        standin.took(PIXEL, &[&id]).await;
        let id = rustix::process::Pid::from_child(&gateway);
        rustix::process::kill_process(id, Signal::TERM).unwrap();
        assert!(gateway.wait().unwrap().success());
        let log = std::fs::read_to_string(site.path("kept.log")).unwrap();
        let warned = |address: std::net::SocketAddr| log.contains(&format!("no address of [listen] is {address}"));
        assert!(warned(stray.local_addr().unwrap()) && !warned(address), "{log}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_log_is_text_or_json_and_holds_neither_secrets_nor_people() {
    let standin = Standin::start().await;
    let site = shop(&standin).with("[log]\nformat = \"json\"\nlevel = \"debug\"\n");
    let mut gateway = Gateway::start(&site).await;
    let mut event = page_view(PIXEL, "private");
    event["fb.advanced_matching"] = json!({ "em": "jane.doe@mail.example", "ph": "+44 844 412 4653" });
    let request = gateway.browser().post(NAME, "/events?email=jane.doe@mail.example").body(event.to_string());
    assert_eq!(request.send().await.unwrap().status(), 200);
    let refused = gateway.browser().post(NAME, &format!("/v26.0/{PIXEL}/events?access_token=very-secret")).body("{}");
    assert_eq!(refused.send().await.unwrap().status(), 401);
    let image = format!("/tr?id={PIXEL}&ev=PageView&eid=image");
    assert_eq!(gateway.browser().get(crate::util::site::HOST_DOMAIN, &image).send().await.unwrap().status(), 200);
    standin.took(PIXEL, &["private", "image"]).await;
    assert!(gateway.stop().await.success());
    let log = gateway.log();
    assert!(log.lines().count() > 2);
    for line in log.lines() {
        serde_json::from_str::<Value>(line).unwrap_or_else(|error| panic!("{error}: {line}"));
    }
    for private in ["jane.doe", "844 412", "448444124653", "very-secret", "token-7001"] {
        assert!(!log.contains(private), "{private} is in the log");
    }
    let said = |path: &str, text: &str| log.lines().any(|line| line.contains(path) && line.contains(text));
    assert!(
        said("\"/events\"", "\"request_id\"") && said("\"/events\"", "\"account\":\"shoes\",\"pixel\":\"7001\""),
        "{log}"
    );
    assert!(
        said("/v26.0/7001/events", "\"rejected\":\"key\"") && said("/v26.0/7001/events", "\"pixel\":\"7001\""),
        "{log}"
    );
    assert!(said("\"/tr\"", "\"account\":\"shoes\",\"pixel\":\"7001\""), "on the host's domain too: {log}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_control_socket_is_for_its_user_only() {
    let standin = Standin::start().await;
    let site = shop(&standin);
    let _gateway = Gateway::start(&site).await;
    let mode = std::fs::metadata(site.path("data/control.sock")).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_data_folder_that_was_open_to_all_is_closed() {
    let standin = Standin::start().await;
    let site = shop(&standin);
    std::fs::create_dir(site.path("data")).unwrap();
    std::fs::set_permissions(site.path("data"), std::fs::Permissions::from_mode(0o755)).unwrap();
    let _gateway = Gateway::start(&site).await;
    let mode = std::fs::metadata(site.path("data")).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o700);
}

#[test]
fn a_file_in_the_place_of_the_control_socket_is_left_alone() {
    let site = Site::new("http://127.0.0.1:9");
    let toml = std::fs::read_to_string(site.path("pixelgate.toml")).unwrap();
    site.write("pixelgate.toml", toml.replace("[host]", "[host]\ncontrol = \"precious\""));
    site.write("precious", "data");
    let run = crate::util::gateway::pixelgate(site.dir(), &["run"]);
    let said = String::from_utf8_lossy(&run.stderr).into_owned();
    assert!(!run.status.success() && said.contains("precious") && said.contains("no socket"), "{said}");
    assert_eq!(std::fs::read_to_string(site.path("precious")).unwrap(), "data");
}

#[test]
fn a_ready_file_of_an_earlier_gateway_tells_of_none() {
    let site = Site::new("http://127.0.0.1:9").host("nonsense = 1");
    site.write("ready.json", "{}");
    let path = site.path("ready.json");
    let start = crate::util::gateway::pixelgate(site.dir(), &["run", "--ready-file", path.to_str().unwrap()]);
    assert_eq!((start.status.code(), path.exists()), (Some(1), false), "{start:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_ready_file_of_a_gateway_that_runs_is_left_alone() {
    let standin = Standin::start().await;
    let (site, other) = (shop(&standin), shop(&standin).host("nonsense = 1"));
    let mut gateway = Gateway::start(&site).await;
    let path = site.path("ready.json");
    let before = std::fs::read(&path).unwrap();
    let arguments = ["run", "--ready-file", path.to_str().unwrap()];
    let second = crate::util::gateway::pixelgate(other.dir(), &arguments);
    let said = String::from_utf8_lossy(&second.stderr).into_owned();
    assert!(!second.status.success() && said.contains("ready.json") && said.contains("name another one"), "{said}");
    assert_eq!(std::fs::read(&path).unwrap(), before);
    gateway.kill();
    let third = crate::util::gateway::pixelgate(other.dir(), &arguments);
    assert_eq!((third.status.code(), path.exists()), (Some(1), false), "{third:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hangup_during_the_start_ends_nothing() {
    let standin = Standin::start().await;
    let site = shop(&standin);
    let ready = site.path("ready.json");
    let mut command = Command::new(crate::util::process::built("pixelgate"));
    command.arg("run").arg("--config").arg(site.dir()).arg("--ready-file").arg(&ready);
    let mut process = crate::util::process::Process::start(&mut command, &site.path("gateway.log"));
    let status = format!("/proc/{}/status", process.id());
    let catches_hangup = || {
        let text = std::fs::read_to_string(&status).unwrap_or_default();
        let caught = text.lines().find_map(|line| line.strip_prefix("SigCgt:")).unwrap_or("0");
        u64::from_str_radix(caught.trim(), 16).unwrap_or_default() & 1 == 1
    };
    let begun = Instant::now();
    while !catches_hangup() {
        assert!(begun.elapsed() < PATIENCE && process.has_ended().is_none());
        tokio::task::yield_now().await;
    }
    assert!(!ready.exists(), "signals are caught before anything is ready");
    process.signal(Signal::HUP);
    eventually("it is ready", async || ready.exists().then_some(())).await;
    eventually("it takes the hangup as a reload", async || process.log().contains("reloaded").then_some(())).await;
    process.signal(Signal::TERM);
    assert!(process.ended().await.success());
}

#[tokio::test(flavor = "multi_thread")]
async fn idle_connections_do_not_hold_up_monitoring_for_ever() {
    let standin = Standin::start().await;
    let site = shop(&standin);
    let gateway = Gateway::start(&site).await;
    let ops = gateway.ready.ops;
    let silent: Vec<_> = (0..64).map(|_| std::net::TcpStream::connect(ops).unwrap()).collect();
    let status = async || Some(reqwest::get(format!("http://{ops}/healthz")).await.ok()?.status().as_u16());
    assert_eq!(status().await, None, "there is no room for more");
    drop(silent);
    assert_eq!(eventually("there is room again", status).await, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_time_until_the_first_certificate_expires_runs_down_without_a_reload() {
    let standin = Standin::start().await;
    let site = shop(&standin);
    let gateway = Gateway::start(&site).await;
    let left = async || gateway.metric("pixelgate_certificate_expiry_seconds_min", "").await;
    let first = left().await;
    assert!(first > 86_400.0);
    eventually("it is less", async || (left().await < first).then_some(())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_refuses_events_and_loses_none_and_the_gateway_starts_on_it() {
    // A user namespace of the test's own with a small tmpfs: needs no root.
    let standin = Standin::start().await;
    let site = shop(&standin).with("[outbox]\nsegment_bytes = 1048576\nreserve_bytes = 1048576\n");
    standin.fault(json!({ "pixel": PIXEL, "times": 100_000, "status": 503, "body": "later" })).await;
    let data = site.path("data");
    std::fs::create_dir_all(&data).unwrap();
    let gateway = crate::util::process::built("pixelgate");
    let (ready, kill, ready_again) = (site.path("ready.json"), site.path("kill"), site.path("ready-again.json"));
    let script = format!(
        "mount -t tmpfs -o size=8m none {data} || exit 1; run() {{ exec {gateway} run --config {config} --ready-file $1; }}
         run {ready} & until [ -e {kill} ]; do sleep 0.05; done; kill -9 $!; wait $!
         cat /dev/zero > {data}/filler; run {ready_again}",
        data = data.display(),
        gateway = gateway.display(),
        config = site.dir().display(),
        ready = ready.display(),
        kill = kill.display(),
        ready_again = ready_again.display(),
    );
    let mut command = Command::new("unshare");
    // With process numbers of its own too, so that none outlives the test.
    command.args(["-Urmpf", "--kill-child", "sh", "-c", &script]);
    let _process = crate::util::process::Process::start(&mut command, &site.path("full.log"));
    let ready: crate::util::gateway::Ready =
        eventually("it is ready", async || serde_json::from_slice(&std::fs::read(&ready).ok()?).ok()).await;
    let browser = crate::util::Browser::new(ready.https[0], site.authority.pem());
    let mut answered = 0;
    let refused = loop {
        let mut event = page_view(PIXEL, &format!("f{answered}"));
        event["custom_data"] = json!({ "filler": "x".repeat(20_000) });
        let (status, _) = browser.send(NAME, &event).await;
        if status != 200 {
            break status;
        }
        answered += 1;
        assert!(answered < 2_000, "8 MiB hold no {answered} events of 20 kB");
    };
    assert_eq!(refused, 503);
    assert!(answered > 50, "only {answered} events fitted");
    all_wait_and_none_is_taken(&ready, answered).await;

    std::fs::write(&kill, "").unwrap();
    let ready: crate::util::gateway::Ready =
        eventually("it is ready again", async || serde_json::from_slice(&std::fs::read(&ready_again).ok()?).ok()).await;
    all_wait_and_none_is_taken(&ready, answered).await;
}

async fn all_wait_and_none_is_taken(ready: &crate::util::gateway::Ready, answered: usize) {
    let readyz = reqwest::get(format!("http://{}/readyz", ready.ops)).await.unwrap();
    assert_eq!(readyz.status(), 503);
    let metrics = reqwest::get(format!("http://{}/metrics", ready.ops)).await.unwrap().text().await.unwrap();
    let of_lane = |what: &str| {
        let name = format!("pixelgate_lane_{what}{{account=\"shoes\",pixel=\"7001\"}} ");
        let line = metrics.lines().find_map(|line| line.strip_prefix(&name));
        line.and_then(|value| value.parse::<usize>().ok()).unwrap_or_else(|| panic!("no {what} in {metrics}"))
    };
    assert_eq!(of_lane("pending") + of_lane("in_flight"), answered);
}

#[test]
fn the_systemd_unit_is_sound() {
    let units = Path::new(env!("CARGO_MANIFEST_DIR")).join("conf/systemd");
    let folder = tempfile::tempdir().unwrap();
    let binary = crate::util::process::built("pixelgate");
    for unit in ["pixelgate.service", "pixelgate.socket"] {
        let text = std::fs::read_to_string(units.join(unit)).unwrap();
        let text = text.replace("/usr/local/bin/pixelgate", binary.to_str().unwrap());
        std::fs::write(folder.path().join(unit), text).unwrap();
        let copy = folder.path().join(unit);
        let verify = Command::new("systemd-analyze").arg("verify").arg(&copy).output().expect("systemd-analyze runs");
        let said = String::from_utf8_lossy(&verify.stderr).into_owned() + &String::from_utf8_lossy(&verify.stdout);
        let about_us: Vec<_> = said.lines().filter(|line| line.contains("pixelgate")).collect();
        assert!(about_us.is_empty(), "{about_us:#?}");
    }
    let copy = folder.path().join("pixelgate.service");
    // What the sample configuration listens on is what systemd holds for it.
    let sample = std::fs::read_to_string(units.join("../pixelgate.toml")).unwrap();
    let held = std::fs::read_to_string(units.join("pixelgate.socket")).unwrap();
    let held: Vec<_> = held.lines().filter_map(|line| line.strip_prefix("ListenStream=")).collect();
    assert_eq!(held.len(), 4);
    assert!(held.iter().all(|address| sample.contains(&format!("\"{address}\""))), "{held:?}");
    let security = Command::new("systemd-analyze")
        .args(["security", "--offline=true", "--threshold=25"])
        .arg(&copy)
        .output()
        .unwrap();
    assert!(security.status.success(), "{}", String::from_utf8_lossy(&security.stdout));
}
