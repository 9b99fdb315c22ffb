//! What people write, and what they hear.

use super::*;

/// The problems of an account's file.
pub(super) fn of_account(text: impl AsRef<[u8]>) -> Vec<String> {
    let folder = Folder::new();
    folder.write("accounts/shoes.toml", text);
    folder.write("secrets/token", "EAAtoken\n");
    folder.write("filters/f.wasm", b"\0asm");
    let told = folder.problems();
    let at = |line: String| line.replace("accounts/shoes.toml", "shoes");
    told.into_iter().map(at).collect()
}

/// The problems of `pixelgate.toml`.
pub(super) fn of_gateway(text: &str) -> Vec<String> {
    let folder = Folder::new();
    folder.write("pixelgate.toml", text);
    folder.problems()
}

pub(super) const PIXEL: &str = "[[pixels]]\nid = \"1\"\naccess_token = { file = \"../secrets/token\" }\n";

#[test]
fn every_problem_of_a_file_is_told_at_once() {
    let text = r#"name = 7
mode = "manged"
activ = true
domains = ["events.shoes.example", "no name", "events.shoes.example"]
upstream = ["ftp://x", "http://127.0.0.1:80"]
[[pixels]]
id = 12
access_token = "EAAsecret"
[[pixels]]
id = "x"
test_event_code = "a b"
[[filters]]
name = "a:b"
component = "../filters/none.wasm"
script = "x.js"
on_fault = "stop"
settings = { rate = nan }
[websites]
allow = ["https://shoes.example"]
[cookies]
set = "yes"
colour = 1
"#;
    let expected = [
        "error shoes:1 name: this is a whole number → write a text in \"quotes\"",
        "error shoes:2 mode: \"manged\" is none of the choices → did you mean \"managed\"?",
        "error shoes:3 activ: there is no such key → did you mean active?",
        "error shoes:4 domains[1]: \"no name\": a domain is a DNS name such as events.shop.example: letters, digits and -, at most 253 bytes, at least two labels → write a DNS name without scheme, port or *, such as \"events.shop.example\"",
        "error shoes:4 domains[2]: domains[0] is the same → remove one of the two",
        "error shoes:5 upstream[0]: \"ftp://x\": this is no http or https URL of a server → write scheme, host and port, such as \"http://10.0.0.5:8080\"",
        "error shoes:5 upstream[1]: 127.0.0.1 is the gateway's own machine, its link or a cloud's metadata service → name another server, or allow this with [host] upstream_private = true in pixelgate.toml",
        "error shoes:7 pixels[0].id: this is a whole number → write a text in \"quotes\"",
        "error shoes:8 pixels[0].access_token: a secret must not stand here → write where it is: { file = \"…\" }, { env = \"…\" } or { credential = \"…\" }, and keep it out of this file",
        "error shoes:9 pixels[1].access_token: the key is missing → write where it is: { file = \"…\" }, { env = \"…\" } or { credential = \"…\" }, and keep it out of this file",
        "error shoes:10 pixels[1].id: \"x\": a pixel id is a positive whole number of at most 20 digits, without leading zeros → write the digits that Meta shows, in quotes",
        "error shoes:11 pixels[1].test_event_code: this is no test event code → write the code that the Events Manager shows, such as TEST12345",
        "error shoes:12 filters[0]: the filter has two programs → write either component = \"….wasm\" or script = \"….js\"; relative paths begin at the folder of this file",
        "error shoes:13 filters[0].name: this is no name for a filter → write 1 to 64 letters, digits, spaces, ., _ and -",
        "error shoes:16 filters[0].on_fault: \"stop\" is none of the choices → write one of \"hold\", \"drop\", \"pass\"",
        "error shoes:17 filters[0].settings: JSON has no such number → write numbers that are finite and have at most 64 bits",
        "error shoes:19 websites.allow[0]: \"https://shoes.example\": this is no host name, and no `*.` with one after it → write a host name, without scheme and path: \"shop.example\", or \"*.shop.example\" for those below it",
        "error shoes:21 cookies.set: this is a text → write true or false, without quotes",
        "error shoes:22 cookies.colour: there is no such key → remove it; the keys here are set, mint",
    ];
    assert_eq!(of_account(text), expected);
}

#[test]
fn what_only_follows_from_a_mistake_is_not_told() {
    let of_listen = |listen: &str| of_gateway(&format!("{GATEWAY}[listen]\n{listen}\n"));
    for listen in ["https = [\"0.0.0.0\"]", "https = \"0.0.0.0:443\"", "https = [443]"] {
        let told = of_listen(listen);
        assert_eq!(told.len(), 1, "{told:#?}");
        assert!(told[0].starts_with("error pixelgate.toml:4 listen.https"), "{told:#?}");
    }
    let acme = "[acme]\nenabled = true\nterms_agreed = true\nemail = 1\n";
    assert_eq!(of_gateway(&format!("{GATEWAY}{acme}")).len(), 1);
    let acme = "[acme]\nenabled = true\nterms_agreed = 1\nemail = \"ops@agency.example\"\n";
    assert_eq!(of_gateway(&format!("{GATEWAY}{acme}")).len(), 1);
    assert_eq!(of_account("pixels = 3\n").len(), 1);
}

#[test]
fn the_systems_own_folders_are_nobodys_data_directory() {
    let folder = Folder::new();
    std::os::unix::fs::symlink("/var", folder.path("link")).unwrap();
    let told = |data_dir: &str| {
        folder.write("pixelgate.toml", format!("{GATEWAY}data_dir = \"{data_dir}\"\n"));
        folder.problems()
    };
    for (data_dir, shown) in [
        ("/", "/"),
        ("/etc/", "/etc"),
        ("/tmp/.", "/tmp"),
        ("/var/lib", "/var/lib"),
        ("/usr/local", "/usr/local"),
        ("/usr/../var/log", "/var/log"),
        ("link/tmp", "link/tmp"),
    ] {
        let expected = format!(
            "error pixelgate.toml:3 host.data_dir: {shown} is a folder of the operating system → name a folder of its own, \
             such as \"/var/lib/pixelgate\""
        );
        assert_eq!(told(data_dir), [expected]);
    }
    for data_dir in ["/var/lib/pixelgate", "/srv/pixelgate", "/pixelgate", "/var/pixelgate", "data", "etc"] {
        assert_eq!(told(data_dir), [""; 0], "{data_dir}");
    }
}

#[test]
fn a_thousand_mistakes_are_cut_short() {
    let text: String = (0..1_000).map(|n| format!("key{n} = 1\n")).collect();
    let told = of_account(text);
    assert_eq!(told.len(), 102, "{told:#?}");
    assert!(told[0].contains("there are more than 100 errors in this file"), "{told:#?}");
}

#[test]
fn numbers_and_times_have_ranges() {
    for (toml, expected) in [
        (
            "[delivery]\nbatch_events_max = 1001",
            "error pixelgate.toml:4 delivery.batch_events_max: 1001 is out of range → write a number from 1 to 1000",
        ),
        (
            "[delivery]\nbatch_events_max = -1",
            "error pixelgate.toml:4 delivery.batch_events_max: -1 is out of range → write a number from 1 to 1000",
        ),
        (
            "[delivery]\nbatch_events_max = 1.5",
            "error pixelgate.toml:4 delivery.batch_events_max: this is a number with a point → write a whole number",
        ),
        (
            "[delivery]\ntimeout = 30",
            "error pixelgate.toml:4 delivery.timeout: this is no time with its unit → write a time from 100ms to 10m, such as \"500ms\", \"10s\", \"5m\", \"12h\", \"7d\"",
        ),
        (
            "[delivery]\ntimeout = \"11m\"",
            "error pixelgate.toml:4 delivery.timeout: \"11m\" is out of range → write a time from 100ms to 10m, such as \"500ms\", \"10s\", \"5m\", \"12h\", \"7d\"",
        ),
        (
            "[delivery]\ntimeout = \"soon\"",
            "error pixelgate.toml:4 delivery.timeout: \"soon\" is no time: expected number at 0 → write a time from 100ms to 10m, such as \"500ms\", \"10s\", \"5m\", \"12h\", \"7d\"",
        ),
        (
            "[delivery]\ntimeout = \"1s\"\nretry_max = \"5ms\"\nretry_min = \"20m\"",
            "error pixelgate.toml:5 delivery.retry_max: \"5ms\" is out of range → write a time from 10ms to 1d, such as \"500ms\", \"10s\", \"5m\", \"12h\", \"7d\"",
        ),
        (
            "[delivery]\nretry_min = \"5m\"\nretry_max = \"90s\"\n[acme]\nretry_min = \"1m\"",
            "error pixelgate.toml:5 delivery.retry_max: retry_max (1m 30s) is shorter than retry_min (5m) → make retry_max at least as long as retry_min",
        ),
        (
            "[acme]\nrenew_before = \"366d\"",
            "error pixelgate.toml:4 acme.renew_before: \"366d\" is out of range → write a time from 1h to 365d, such as \"500ms\", \"10s\", \"5m\", \"12h\", \"7d\"",
        ),
        (
            "[delivery]\nretry_min = \"20m\"",
            "error pixelgate.toml:4 delivery.retry_min: retry_max (10m) is shorter than retry_min (20m) → make retry_max at least as long as retry_min",
        ),
    ] {
        assert_eq!(of_gateway(&format!("{GATEWAY}{toml}\n")), [expected], "{toml}");
    }
    let huge = of_gateway(&format!("{GATEWAY}[limits]\nconnections_max = {}\n", "9".repeat(60)));
    assert_eq!(
        huge,
        ["error pixelgate.toml:4 limits.connections_max: the number has more than 128 bits → write a smaller one"]
    );
}

#[test]
fn addresses_of_the_host_are_checked() {
    for (toml, expected) in [
        (
            "[listen]\nhttps = []",
            "error pixelgate.toml:4 listen.https: there is no address to take events at → name at least one, such as \"0.0.0.0:443\"",
        ),
        (
            "[listen]\nops = \"localhost:1\"",
            "error pixelgate.toml:4 listen.ops: \"localhost:1\": invalid socket address syntax → write address and port, such as \"0.0.0.0:443\" or \"[::]:443\"",
        ),
        (
            "[listen]\nhttp = [\"0.0.0.0:443\"]",
            "error pixelgate.toml:4 listen.http[0]: listen.https[0] is the same address → remove one of the two",
        ),
        (
            "[listen]\ntrusted_proxies = [\"10.0.0.0/40\"]",
            "error pixelgate.toml:4 listen.trusted_proxies[0]: \"10.0.0.0/40\": this is no network → write it as \"10.0.0.0/8\", \"2001:db8::/32\" or one address",
        ),
        (
            "[delivery]\ngraph_url = \"http://graph.facebook.com\"",
            "error pixelgate.toml:4 delivery.graph_url: \"http://graph.facebook.com\": plain http would send access tokens and personal data in clear; it is for loopback only → write an https URL, such as \"https://graph.facebook.com\"",
        ),
        (
            "[delivery]\napi_version = \"26\"",
            "error pixelgate.toml:4 delivery.api_version: this is no version of the Graph API → write it as Meta does, such as \"v26.0\"",
        ),
        (
            "[delivery]\nca_file = \"none.pem\"",
            "error pixelgate.toml:4 delivery.ca_file: none.pem does not exist → put the CA's certificates there, in PEM, readable for the gateway's user",
        ),
        (
            "[delivery]\nca_file = \"pixelgate.toml\"",
            "error pixelgate.toml:4 delivery.ca_file: pixelgate.toml holds no certificate → put the CA's certificates there, in PEM, readable for the gateway's user",
        ),
        (
            "[log]\nlevel = \"pixelgate=debg\"",
            "error pixelgate.toml:4 log.level: \"debg\" is no level → did you mean debug?",
        ),
        (
            "[log]\nlevel = \"a b=info\"",
            "error pixelgate.toml:4 log.level: \"a b\" is no target → write a list such as \"pixelgate=debug,info\"",
        ),
        (
            "[tls]\nmin_version = \"1.1\"",
            "error pixelgate.toml:4 tls.min_version: \"1.1\" is none of the choices → did you mean \"1.2\"?",
        ),
        ("[hots]\nname = 1", "error pixelgate.toml:3 hots: there is no such key → did you mean host?"),
    ] {
        // Both defaults are in the way of one of them.
        let listen = if toml.contains("http = ") {
            toml.replace("[listen]\n", "[listen]\nhttps = [\"0.0.0.0:443\"]\n")
        } else {
            toml.to_owned()
        };
        let told: Vec<_> =
            of_gateway(&format!("{GATEWAY}{listen}\n")).iter().map(|line| line.replace("toml:5", "toml:4")).collect();
        assert_eq!(told, [expected], "{toml}");
    }
}

#[test]
fn a_default_address_may_be_another_keys() {
    let told = |listen: &str| of_gateway(&format!("{GATEWAY}[listen]\n{listen}\n"));
    let expected = "error pixelgate.toml:4 listen.http[0]: the default of listen.https is the same address → remove one of the two";
    assert_eq!(told("http = [\"0.0.0.0:443\"]"), [expected]);
    let expected = "error pixelgate.toml:3 listen.http: listen.https[0] is 0.0.0.0:80, which is this key's default → write both keys";
    assert_eq!(told("https = [\"0.0.0.0:80\"]"), [expected]);
    let expected = "error pixelgate.toml:3 listen.ops: listen.https[0] is 127.0.0.1:9090, which is this key's default → write both keys";
    assert_eq!(told("https = [\"127.0.0.1:9090\"]"), [expected]);
}

#[test]
fn a_socket_has_a_short_path() {
    let long = "d".repeat(100);
    let told = of_gateway(&format!("[host]\ndomain = \"gw.agency.example\"\ndata_dir = \"/{long}\"\n"));
    assert_eq!(
        told,
        [format!(
            "error pixelgate.toml:1 host.control: /{long}/control.sock is longer than the 107 bytes that a socket's path \
             may have → set [host] control to a shorter path, such as \"/run/pixelgate/control.sock\""
        )]
    );
}

#[test]
fn the_host_must_have_a_domain() {
    let folder = Folder::new();
    folder.write("pixelgate.toml", "[host]\nname = \"x\"\n");
    assert!(folder.read().gateway.is_none());
    assert_eq!(
        folder.problems(),
        [
            "error pixelgate.toml:1 host.domain: the key is missing → write the gateway's own DNS name, such as \"gw.agency.example\""
        ]
    );
}

#[test]
fn filters_name_one_file_that_is_there() {
    let filter = |keys: &str| format!("{PIXEL}[[filters]]\nname = \"f\"\n{keys}\n");
    assert_eq!(of_account(filter("component = \"../filters/f.wasm\"")), [""; 0]);
    for (keys, expected) in [
        (
            "",
            "error shoes:4 filters[0]: the filter has no program → write either component = \"….wasm\" or script = \"….js\"; relative paths begin at the folder of this file",
        ),
        (
            "component = \"none.wasm\"",
            "error shoes:6 filters[0].component: accounts/none.wasm does not exist → put the file there, readable for the gateway's user; its size is bounded by [filters] file_bytes_max",
        ),
        (
            "component = \"../filters\"",
            "error shoes:6 filters[0].component: filters is no file → put the file there, readable for the gateway's user; its size is bounded by [filters] file_bytes_max",
        ),
        (
            "component = \"\"",
            "error shoes:6 filters[0].component: this is no path → write a path, relative ones begin at the folder of this file",
        ),
        (
            "component = \"../filters/f.wasm\"\nsettings = 1",
            "error shoes:7 filters[0].settings: settings are a table → write [filters.settings] and the settings below it",
        ),
    ] {
        assert_eq!(of_account(filter(keys)), [expected], "{keys}");
    }
    let again =
        filter("component = \"../filters/f.wasm\"") + "[[filters]]\nname = \"f\"\ncomponent = \"../filters/f.wasm\"\n";
    assert_eq!(
        of_account(again),
        ["error shoes:8 filters[1].name: filters[0] has this name already → give each filter a name of its own"]
    );
}

#[test]
fn a_filter_file_has_a_size_and_a_script_is_text() {
    let folder = Folder::new();
    folder.write("pixelgate.toml", format!("{GATEWAY}[filters]\nfile_bytes_max = 1024\n"));
    folder.write("large.wasm", vec![0; 1025]);
    folder.write("bytes.js", b"\xff");
    folder.write(
        "accounts/shoes.toml",
        "[[filters]]\nname = \"a\"\ncomponent = \"../large.wasm\"\n[[filters]]\nname = \"b\"\nscript = \"../bytes.js\"\n",
    );
    let told = folder.problems();
    assert!(told[1].contains("filters[0].component: large.wasm is larger than 1024 bytes"), "{told:#?}");
    assert!(told[2].contains("filters[1].script: bytes.js is not UTF-8"), "{told:#?}");
}

#[test]
fn lists_have_limits() {
    let many = |n: usize, text: &str| vec![text; n].join(", ");
    let told = of_account(format!("upstream = [{}]\n{PIXEL}", many(65, "\"http://a.example\"")));
    assert_eq!(told, ["error shoes:1 upstream: there are 65 servers → name at most 64"]);
    let told = of_account(format!("{PIXEL}[privacy]\nconsent_sources = [{}]\n", many(33, "\"a\"")));
    assert_eq!(told, ["error shoes:5 privacy.consent_sources: there are 33 names → name at most 32"]);
    let filters: String =
        (0..17).map(|n| format!("[[filters]]\nname = \"{n}\"\ncomponent = \"../filters/f.wasm\"\n")).collect();
    assert_eq!(of_account(format!("{PIXEL}{filters}")), ["error shoes filters: there are 17 filters → use at most 16"]);
    let settings = format!(
        "{PIXEL}[[filters]]\nname = \"f\"\ncomponent = \"../filters/f.wasm\"\nsettings.x = \"{}\"\n",
        "x".repeat(70_000)
    );
    assert_eq!(
        of_account(settings),
        ["error shoes:7 filters[0].settings: the settings have 70008 bytes as JSON → use at most 65536 bytes"]
    );
}

#[test]
fn settings_are_any_toml_as_json() {
    let folder = Folder::new();
    folder.write("f.js", "export {}");
    folder.write(
        "accounts/shoes.toml",
        "[[filters]]\nname = \"f\"\nscript = \"../f.js\"\n[filters.settings]\nrequire = \"marketing\"\nn = [1, -2, 0x10, 1.5]\n\
         since = 2026-01-02T03:04:05Z\nday = 2026-01-02\nlarge = 18446744073709551615\n[filters.settings.deep]\non = true\n",
    );
    let expected = r#"{"day":"2026-01-02","deep":{"on":true},"large":18446744073709551615,"n":[1,-2,16,1.5],"require":"marketing","since":"2026-01-02T03:04:05Z"}"#;
    assert_eq!(folder.shoes().filters[0].settings, expected);
}

#[test]
fn the_corpus_of_the_fuzzer_holds() {
    let seeds: Vec<_> = fs::read_dir(in_repository("fuzz/corpus/config_load")).unwrap().map(Result::unwrap).collect();
    assert!(seeds.len() >= 5);
    for seed in seeds {
        for problem in crate::config::judge(&fs::read(seed.path()).unwrap()) {
            assert!(!problem.reason.is_empty() && !problem.remedy.is_empty(), "{problem}");
        }
    }
}

proptest::proptest! {
    #![proptest_config(proptest::prelude::ProptestConfig { failure_persistence: None, ..Default::default() })]

    #[test]
    fn a_damaged_file_breaks_nothing(at in 0..600usize, len in 0..40usize, with in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..8)) {
        let mut bytes = fs::read(in_repository("fuzz/corpus/config_load/mistakes")).unwrap();
        let at = at.min(bytes.len());
        bytes.splice(at..(at + len).min(bytes.len()), with);
        for problem in crate::config::judge(&bytes) {
            proptest::prop_assert!(!problem.reason.is_empty() && !problem.remedy.is_empty());
        }
    }
}

#[test]
fn a_folder_of_certificates_that_is_written_and_not_there_is_a_warning() {
    let folder = Folder::new();
    assert_eq!(folder.problems(), [""; 0], "the default need not be there");
    folder.write("pixelgate.toml", format!("{GATEWAY}[tls]\ncerts_dir = \"nope\"\n"));
    let told = folder.problems();
    assert_eq!(told.len(), 1, "{told:#?}");
    let expected = "warning pixelgate.toml:4 tls.certs_dir: nope is not there: no certificate comes from it";
    assert!(told[0].replace(&format!("{}/", folder.dir.path().display()), "").starts_with(expected), "{told:#?}");
    assert!(folder.read().gateway.is_some(), "it keeps nothing from starting");
    fs::create_dir(folder.path("nope")).unwrap();
    assert_eq!(folder.problems(), [""; 0]);
}
