//! Reading a folder, and reading it again.

use super::*;
use crate::config::{FilterProgram, Upstream, control_socket, filter_limits};

/// A clock by which every file was written long ago.
fn much_later() -> i64 {
    crate::clock::now_ms() + 3_600_000
}

fn account(n: usize) -> String {
    format!(
        "name = \"Shop {n}\"\ndomains = [\"events{n}.shop.example\"]\n[[pixels]]\nid = \"{}\"\n\
         access_token = {{ file = \"../secrets/{n}\" }}\n[[filters]]\nname = \"consent\"\ncomponent = \"../consent.wasm\"\n",
        n + 1
    )
}

/// A folder of many accounts with one filter, and a source that trusts its files' times.
fn many(n: usize) -> (Folder, Source) {
    let folder = Folder::new();
    folder.write("consent.wasm", vec![7; 100_000]);
    for n in 0..n {
        folder.write(&format!("accounts/shop-{n}.toml"), account(n));
        folder.write(&format!("secrets/{n}"), format!("EAA{n}"));
    }
    let mut source = folder.source();
    source.now_ms = much_later;
    (folder, source)
}

/// Which accounts were made anew.
fn changed(before: &Reading, after: &Reading) -> Vec<String> {
    let anew = |id: &&crate::account::AccountId| match (before.accounts.get(*id), &after.accounts[*id]) {
        (Some(Candidate::Good(before)), Candidate::Good(after)) => !Arc::ptr_eq(before, after),
        _ => true,
    };
    after.accounts.keys().filter(anew).map(ToString::to_string).collect()
}

#[test]
fn an_account_is_what_its_file_says() {
    let folder = Folder::new();
    folder.write("consent.wasm", b"component");
    folder.write("token", "EAAtoken\n");
    let text = r#"
name = "Shoe Shop"
mode = "unmanaged"
active = false
domains = ["Events.Shoes.Example"]
host_domain = false
upstream = ["http://10.0.0.5:8080", "https://shoes.example"]
[[pixels]]
id = "1234567890"
access_token = { file = "../token" }
active = false
test_event_code = "TEST12345"
[[filters]]
name = "consent"
component = "../consent.wasm"
on_fault = "pass"
[websites]
allow = ["Shoes.example", "*.shoes.example"]
block = ["old.shoes.example"]
[cookies]
set = false
mint = true
[privacy]
consent_sources = ["OptanonConsent"]
"#;
    folder.write("accounts/shoes.toml", text);
    let shoes = folder.shoes();
    assert_eq!(folder.problems(), [""; 0]);
    assert_eq!((shoes.id.as_str(), shoes.name.as_str(), &*shoes.text), ("shoes", "Shoe Shop", text));
    assert_eq!(shoes.file, folder.path("accounts/shoes.toml"));
    assert_eq!(shoes.mode, crate::config::AccountMode::Unmanaged);
    assert!(!shoes.active && !shoes.host_domain);
    assert_eq!(shoes.domains[0].as_str(), "events.shoes.example");
    assert_eq!(shoes.upstream[1], Upstream { tls: true, host: "shoes.example".to_owned(), port: 443 });
    let pixel = &shoes.pixels[0];
    assert_eq!(pixel.id.as_u64(), 1_234_567_890);
    assert_eq!(pixel.access_token.as_ref().unwrap().reveal(), "EAAtoken");
    assert_eq!(pixel.access_token_source, format!("file {}", folder.path("token").display()));
    assert_eq!((pixel.active, pixel.test_event_code.as_deref()), (false, Some("TEST12345")));
    let filter = &shoes.filters[0];
    let FilterProgram::Component(path, bytes) = &filter.program else { panic!("a component") };
    assert_eq!((path.as_path(), &bytes[..]), (folder.path("accounts/../consent.wasm").as_path(), &b"component"[..]));
    assert_eq!((filter.on_fault, filter.settings.as_str()), (crate::event::OnFault::Pass, "{}"));
    assert_eq!(shoes.websites.allow, ["shoes.example", "*.shoes.example"]);
    assert_eq!(shoes.websites.block, ["old.shoes.example"]);
    assert!(!shoes.cookies.set && shoes.cookies.mint);
    assert_eq!(shoes.consent_sources, ["OptanonConsent"]);
}

#[test]
fn paths_begin_at_the_file_and_the_environment_moves_the_script_runner() {
    let mut folder = Folder::new();
    folder.write("pixelgate.toml", format!("{GATEWAY}data_dir = \"data\"\n"));
    folder.surroundings.executable = Some("/opt/pixelgate/bin/pixelgate".into());
    folder.surroundings.cpus = 8;
    let config = folder.read().gateway.unwrap();
    assert_eq!(config.host.data_dir, folder.path("data"));
    assert_eq!(config.host.control, folder.path("data/control.sock"));
    assert_eq!(config.host.name, "gw.agency.example");
    assert_eq!(config.tls.certs_dir, folder.path("certs"));
    assert_eq!(config.filters.threads, 8);
    assert_eq!(config.filters.script_runner, Path::new("/opt/pixelgate/lib/pixelgate/script-runner.wasm"));
    folder.surroundings.environment = environment(&[("PIXELGATE_SCRIPT_RUNNER", "/moved.wasm")]);
    assert_eq!(folder.read().gateway.unwrap().filters.script_runner, Path::new("/moved.wasm"));
    folder.surroundings.environment = environment(&[("PIXELGATE_SCRIPT_RUNNER", "moved.wasm")]);
    let here = std::env::current_dir().unwrap();
    assert_eq!(folder.read().gateway.unwrap().filters.script_runner, here.join("moved.wasm"));
    folder.surroundings.environment = environment(&[("PIXELGATE_SCRIPT_RUNNER", "/moved.wasm")]);
    folder.write("pixelgate.toml", format!("{GATEWAY}[filters]\nscript_runner = \"named.wasm\"\n"));
    assert_eq!(folder.read().gateway.unwrap().filters.script_runner, folder.path("named.wasm"));
    let limits = |folder: &Folder| filter_limits(folder.dir.path(), &folder.surroundings);
    folder.write("pixelgate.toml", "nonsense = 1\n[filters]\nthreads = 3\nscript_runner = \"named.wasm\"\n");
    assert_eq!((limits(&folder).threads, limits(&folder).script_runner), (3, folder.path("named.wasm")));
    fs::remove_file(folder.path("pixelgate.toml")).unwrap();
    assert_eq!((limits(&folder).threads, limits(&folder).script_runner), (8, "/moved.wasm".into()));
}

#[test]
fn the_control_socket_is_found_in_spite_of_problems() {
    let folder = Folder::new();
    let at = |text: &str| {
        folder.write("pixelgate.toml", text);
        control_socket(folder.dir.path())
    };
    assert_eq!(at(GATEWAY), Path::new("/var/lib/pixelgate/control.sock"));
    assert_eq!(at("nonsense = 1\n[host]\ndata_dir = \"data\"\n"), folder.path("data/control.sock"));
    assert_eq!(at("[host]\ndomain = 1\ncontrol = \"c.sock\"\n"), folder.path("c.sock"));
    assert_eq!(at("[host"), Path::new("/var/lib/pixelgate/control.sock"));
    assert_eq!(control_socket(&folder.path("none")), Path::new("/var/lib/pixelgate/control.sock"));
}

#[test]
fn a_reload_reads_what_changed() {
    let (folder, mut source) = many(2_000);
    let first = source.read();
    assert_eq!((first.problems.len(), first.accounts.len()), (0, 2_000), "{:#?}", first.problems.first());
    let second = source.read();
    assert_eq!(changed(&first, &second), [""; 0]);

    folder.write("accounts/shop-7.toml", account(7).replace("Shop", "New shop"));
    let third = source.read();
    assert_eq!(changed(&second, &third), ["shop-7"]);
    assert_eq!(good(&third, "shop-7").name, "New shop 7");

    folder.write("secrets/9", "EAAx");
    let fourth = source.read();
    assert_eq!(changed(&third, &fourth), ["shop-9"]);
    assert_eq!(good(&fourth, "shop-9").pixels[0].access_token.as_ref().unwrap().reveal(), "EAAx");

    fs::remove_file(folder.path("secrets/11")).unwrap();
    fs::remove_file(folder.path("accounts/shop-12.toml")).unwrap();
    let fifth = source.read();
    assert_eq!(changed(&fourth, &fifth), ["shop-11"]);
    assert_eq!((fifth.problems.len(), fifth.accounts.len()), (1, 1_999));
}

#[test]
fn a_filter_that_many_share_is_read_once() {
    let (folder, mut source) = many(50);
    let bytes = |reading: &Reading, n: usize| match &good(reading, &format!("shop-{n}")).filters[0].program {
        FilterProgram::Component(_, bytes) => bytes.clone(),
        FilterProgram::Script(..) => panic!("a component"),
    };
    let first = source.read();
    assert!((1..50).all(|n| Arc::ptr_eq(&bytes(&first, 0), &bytes(&first, n))));
    folder.write("consent.wasm", vec![8; 100_000]);
    let second = source.read();
    assert_eq!(changed(&first, &second).len(), 50);
    assert!((1..50).all(|n| Arc::ptr_eq(&bytes(&second, 0), &bytes(&second, n))));
    assert_eq!(bytes(&second, 0)[0], 8);
}

#[test]
fn two_changes_within_one_tick_of_the_clock_are_both_seen() {
    // As large as each other and written at once: only a file that has rested is trusted to be as it was.
    let folder = Folder::new();
    let mut source = folder.source();
    for n in 0..50 {
        folder.write("accounts/shoes.toml", format!("name = \"{}\"\n", n % 10));
        assert_eq!(good(&source.read(), "shoes").name, (n % 10).to_string());
    }
}

#[test]
fn the_digest_changes_with_all_that_the_account_is_made_from() {
    let mut folder = Folder::new();
    folder.surroundings.environment = environment(&[("KEY", "one")]);
    folder.write("token", "EAA1");
    folder.write("f.js", "1");
    let text = "[[pixels]]\nid = \"1\"\naccess_token = { file = \"../token\" }\n[[ingest_keys]]\nname = \"a\"\nsecret = { env = \"KEY\" }\n\
                [[filters]]\nname = \"f\"\nscript = \"../f.js\"\n";
    folder.write("accounts/shoes.toml", text);
    let mut seen = vec![folder.shoes().digest];
    let mut differs = |folder: &Folder, what: &str| {
        let digest = folder.shoes().digest;
        assert!(!seen.contains(&digest), "{what}");
        seen.push(digest);
    };
    folder.write("token", "EAA2");
    differs(&folder, "a token");
    fs::remove_file(folder.path("token")).unwrap();
    differs(&folder, "a token that went away");
    folder.surroundings.environment = environment(&[("KEY", "two")]);
    differs(&folder, "an ingest key");
    folder.write("f.js", "2");
    differs(&folder, "a script");
    folder.write("accounts/shoes.toml", format!("{text}# comment\n"));
    differs(&folder, "the file");

    folder.write("accounts/other.toml", "[[pixels]]\nid = \"2\"\naccess_token = { file = \"../token2\" }\n");
    folder.write("token2", "EAA2");
    folder.write("pixelgate.toml", format!("{GATEWAY}[limits]\nconnections_max = 5\n"));
    assert_eq!(seen.last(), Some(&folder.shoes().digest), "nothing of this account changed");
}

#[test]
fn only_files_of_accounts_are_read() {
    let folder = Folder::new();
    folder.write("accounts/shoes.toml", "name = \"x\"\n");
    for ignored in ["shoes.toml~", ".shoes.toml.swp", ".hidden.toml", "#shoes.toml#", "README", "shoes.toml.bak"] {
        folder.write(&format!("accounts/{ignored}"), "nonsense");
    }
    assert_eq!(folder.read().accounts.len(), 1);
    folder.write("accounts/Shoes_2.toml", "");
    fs::create_dir(folder.path("accounts/folder.toml")).unwrap();
    let told = folder.problems();
    assert_eq!(
        told[..2],
        [
            "error accounts/Shoes_2.toml : the file's name is no account id: an account id is 1 to 63 of a-z, 0-9 and -, and does not begin with - → rename it to <account id>.toml",
            "error accounts/folder.toml : the file is no file → put a file of text in its place",
        ]
    );
}

#[test]
fn a_folder_that_cannot_be_read_changes_nothing() {
    let folder = Folder::new();
    fs::remove_dir(folder.path("accounts")).unwrap();
    assert!(folder.read().gateway.is_none());
    assert_eq!(
        folder.problems(),
        ["error accounts : the folder does not exist → make it, readable for the gateway's user; it may be empty"]
    );
    fs::remove_file(folder.path("pixelgate.toml")).unwrap();
    assert_eq!(folder.problems().len(), 2);
}

#[test]
fn accounts_are_judged_even_if_the_hosts_file_is_bad() {
    let folder = Folder::new();
    folder.write("pixelgate.toml", "[host");
    folder.write("accounts/shoes.toml", format!("{}nonsense = 1\n", "upstream = [\"http://127.0.0.1\"]\n"));
    let told = folder.problems();
    assert_eq!(told.iter().filter(|told| told.contains("nonsense")).count(), 1);
    assert!(!told.iter().any(|told| told.contains("upstream[")), "what the host allows is not known: {told:#?}");
}

#[test]
fn a_rule_of_the_host_judges_all_accounts_anew() {
    let folder = Folder::new();
    folder.write("accounts/shoes.toml", "upstream = [\"http://127.0.0.1\"]\n");
    let mut source = folder.source();
    source.now_ms = much_later;
    assert_eq!(source.read().accounts.values().next(), Some(&Candidate::Bad));
    folder.write("pixelgate.toml", format!("{GATEWAY}upstream_private = true\n"));
    assert!(matches!(source.read().accounts.values().next(), Some(Candidate::Good(_))));
}

#[test]
fn many_files_are_read_as_each_by_itself() {
    let folder = Folder::new();
    let (count, bad) = (700, |n: usize| n % 7 == 3);
    folder.write("token", "EAAtoken");
    folder.write("f.js", "script");
    for n in 0..count {
        let filter = "[[filters]]\nname = \"f\"\nscript = \"../f.js\"\n";
        let pixel = format!("[[pixels]]\nid = \"{}\"\naccess_token = {{ file = \"../token\" }}\n", n + 1);
        let broken = if bad(n) { "domian = 1\n" } else { "" };
        folder.write(&format!("accounts/shop-{n:03}.toml"), format!("{broken}{pixel}{filter}"));
    }
    let mut source = folder.source();
    let reading = source.read();
    let told: Vec<_> = reading.problems.iter().map(|problem| problem.account.as_ref().unwrap().as_str()).collect();
    let expected: Vec<_> = (0..count).filter(|n| bad(*n)).map(|n| format!("shop-{n:03}")).collect();
    assert_eq!(told, expected, "in the order of files, each once");
    for n in (0..count).filter(|n| !bad(*n)) {
        let account = good(&reading, &format!("shop-{n:03}"));
        assert_eq!((account.pixels[0].id.as_u64(), account.filters.len()), (n as u64 + 1, 1));
    }
    let FilterProgram::Script(_, first) = &good(&reading, "shop-000").filters[0].program else { panic!("a script") };
    let FilterProgram::Script(_, last) = &good(&reading, "shop-699").filters[0].program else { panic!("a script") };
    assert!(Arc::ptr_eq(first, last), "a program is read once");
    // A later reading keeps what did not change, whichever thread looks at it.
    source.now_ms = much_later;
    let again = source.read();
    folder.write("accounts/shop-600.toml", "name = \"Other\"\n");
    let changed = source.read();
    for n in (0..count).filter(|n| !bad(*n) && *n != 600) {
        let id = format!("shop-{n:03}");
        assert!(Arc::ptr_eq(&good(&again, &id), &good(&changed, &id)), "{id}");
    }
    assert_eq!(good(&changed, "shop-600").name, "Other");
}

#[test]
fn a_slip_in_the_gateways_file_lifts_no_limit_of_filters() {
    let filter = "[[pixels]]\nid = \"1\"\naccess_token = { env = \"T\" }\n[[filters]]\nname = \"f\"\ncomponent = \"../f.wasm\"\n";
    let slip = format!("{GATEWAY}[filters\n");
    let larger_than = |reading: &Reading, bytes: u64| {
        let told = format!("is larger than {bytes} bytes");
        reading.problems.iter().any(|problem| problem.reason.contains(&told))
    };
    let folder = Folder::new();
    folder.write("pixelgate.toml", format!("{GATEWAY}[filters]\nfile_bytes_max = 1_024\n"));
    folder.write("accounts/shoes.toml", filter);
    folder.write("f.wasm", vec![7; 2_000]);
    let mut source = folder.source();
    assert!(larger_than(&source.read(), 1_024));
    folder.write("pixelgate.toml", &slip);
    assert!(larger_than(&source.read(), 1_024), "the limit that was read last");
    // Where none was read yet it is the largest that there is. The file takes no room: it is a hole.
    fs::File::create(folder.path("f.wasm")).unwrap().set_len((256 << 20) + 1).unwrap();
    assert!(larger_than(&folder.read(), 256 << 20));
}
