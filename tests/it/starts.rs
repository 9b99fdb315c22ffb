use std::net::TcpListener;
use std::os::unix::fs::{PermissionsExt, chown};
use std::process::Command;

use rustix::process::Signal;

use crate::util::gateway::pixelgate;
use crate::util::process::{Process, built};
use crate::util::{Gateway, Site, Standin, eventually};

/// What a start says that fails.
async fn told(site: &Site, arguments: &[&str]) -> String {
    let mut command = Command::new(built("pixelgate"));
    command.arg("run").args(arguments).arg("--config").arg(site.dir());
    let mut run = Process::start(&mut command, &site.path("start.log"));
    let status = run.ended().await;
    let said = run.log();
    assert_eq!(status.code(), Some(1), "{said}");
    let error = said.find("pixelgate: ").unwrap_or_else(|| panic!("{said}"));
    said[error..].to_owned()
}

fn site() -> Site {
    Site::new("http://127.0.0.1:9")
}

#[tokio::test]
async fn a_data_folder_of_another_user_is_left_as_it_is() {
    if !rustix::process::geteuid().is_root() {
        eprintln!("not root: nothing can be given to another user");
        return;
    }
    let site = site();
    let data = site.path("data");
    std::fs::create_dir(&data).unwrap();
    std::fs::set_permissions(&data, std::fs::Permissions::from_mode(0o750)).unwrap();
    chown(&data, Some(65_534), Some(65_534)).unwrap();
    let said = told(&site, &[]).await;
    for words in
        [&format!("[host] data_dir {}: it belongs to user ", data.display()), "user root", "systemctl", "chown -R"]
    {
        assert!(said.contains(words), "{words}: {said}");
    }
    assert_eq!(std::fs::read_dir(&data).unwrap().count(), 0, "nothing was written");
    assert_eq!(std::fs::metadata(&data).unwrap().permissions().mode() & 0o777, 0o750);
}

#[tokio::test]
async fn what_keeps_a_start_from_its_data_is_told_once_with_key_and_remedy() {
    let newer = |path: &std::path::Path| {
        let state = rusqlite::Connection::open(path).unwrap();
        state.pragma_update(None, "user_version", 9).unwrap();
    };
    let write = |path: &std::path::Path| std::fs::write(path, "no folder, and no database either ".repeat(50)).unwrap();
    type Spoil<'a> = &'a dyn Fn(&std::path::Path);
    for (name, spoil, words) in [
        ("data", &write as Spoil<'_>, &["it is no folder", "move away"][..]),
        ("data/outbox", &write, &["data/outbox: ", "move it away"]),
        ("data/outbox/state.sqlite", &write, &["state.sqlite: file is not a database", "restore it"]),
        ("data/outbox/state.sqlite", &newer, &["state.sqlite has format 9", "start the version that wrote it"]),
        ("data/filters", &write, &["data/filters: ", "move away", "[host] data_dir"]),
    ] {
        let site = site();
        let path = site.path(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        spoil(&path);
        let said = told(&site, &[]).await;
        for words in words.iter().chain(&["[host] data_dir", "\n  → "]) {
            assert_eq!(said.matches(words).count(), 1, "{words}: {said}");
        }
        assert!(said.matches("(os error").count() <= 1, "{said}");
    }
}

#[tokio::test]
async fn what_cannot_be_listened_on_is_told_with_its_key_and_what_to_do() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = taken.local_addr().unwrap();
    for (from, to, words) in [
        ("https = [\"127.0.0.1:0\"]", format!("https = [\"{taken}\"]"), ["[listen] https", "`ss -ltnp "]),
        ("ops = \"127.0.0.1:0\"", format!("ops = \"{taken}\""), ["[listen] ops", "`ss -ltnp "]),
        ("http = [\"127.0.0.1:0\"]", "http = [\"192.0.2.1:0\"]".to_owned(), ["[listen] http", "0.0.0.0 or [::]"]),
        ("[host]", "[host]\ncontrol = \"none/control.sock\"".to_owned(), ["[host] control", "make its folder"]),
    ] {
        let site = site();
        let toml = std::fs::read_to_string(site.path("pixelgate.toml")).unwrap();
        assert!(toml.contains(from));
        site.write("pixelgate.toml", toml.replace(from, &to));
        let said = told(&site, &[]).await;
        assert!(words.iter().all(|words| said.contains(words)), "{said}");
        assert!(said.contains("\n  → ") && said.matches("(os error").count() == 1, "{said}");
    }
    let site = site();
    let said = told(&site, &["--ready-file", site.path("none/ready.json").to_str().unwrap()]).await;
    assert!(said.contains("--ready-file") && said.contains("none/ready.json") && said.contains("\n  → "), "{said}");
}

#[tokio::test]
async fn a_state_that_another_program_has_open_is_not_told_as_damaged() {
    let site = site();
    let path = site.path("data/outbox/state.sqlite");
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    let other = rusqlite::Connection::open(&path).unwrap();
    other.execute_batch("PRAGMA journal_mode = WAL; CREATE TABLE other (it); SELECT * FROM other;").unwrap();
    let said = told(&site, &[]).await;
    assert!(said.contains("state.sqlite: database is locked\n  → ") && said.contains("`fuser -v "), "{said}");
    drop(other);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_gateway_on_the_same_data_is_told_of_the_first() {
    let standin = Standin::start().await;
    let site = Site::new(&standin.url);
    let _gateway = Gateway::start(&site).await;
    let said = told(&site, &[]).await;
    assert!(said.contains("[host] data_dir") && said.contains("in use by another process"), "{said}");
    assert!(said.contains("\n  → `pixelgate status`"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_whose_log_nobody_reads_goes_on() {
    let standin = Standin::start().await;
    let site = Site::new(&standin.url);
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let ready = site.path("ready.json");
    let mut command = Command::new(built("pixelgate"));
    command.arg("run").arg("--config").arg(site.dir()).arg("--ready-file").arg(&ready).stderr(writer);
    let mut gateway = Process::spawn(&mut command, &site.path("unread.log"));
    eventually("it is ready", async || {
        assert_eq!(gateway.has_ended(), None, "it goes on");
        ready.exists().then_some(())
    })
    .await;
    assert!(pixelgate(site.dir(), &["reload"]).status.success());
    gateway.signal(Signal::TERM);
    assert!(gateway.ended().await.success());
}
