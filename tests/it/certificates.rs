use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::process::Output;
use std::time::Duration;

use boring::x509::X509;
use hickory_resolver::TokioResolver;
use hickory_resolver::config::{ConnectionConfig, NameServerConfig, ResolverConfig};
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use instant_acme::{Account as CaAccount, ChallengeType, Identifier, NewAccount, NewOrder, OrderStatus, RetryPolicy};
use pixelgate::issuance::Dns;
use pixelgate::tls::probe::served_leaf;
use rcgen::KeyPair;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use crate::util::client::page_view;
use crate::util::gateway::pixelgate;
use crate::util::pebble::Manners;
use crate::util::{Account, Authority, Gateway, Pebble, Site, Standin, eventually, troubled_resolver};

const NAME: &str = "events.shoes.example";
const PIXEL: u64 = 7001;

fn resolver(server: SocketAddr) -> TokioResolver {
    let mut connection = ConnectionConfig::udp();
    connection.port = server.port();
    let server = NameServerConfig::new(server.ip(), true, vec![connection]);
    let config = ResolverConfig::from_parts(None, Vec::new(), vec![server]);
    TokioResolver::builder_with_config(config, TokioRuntimeProvider::default()).build().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn pebble_and_its_dns_answer() {
    let pebble = Pebble::start().await;
    let ca = std::fs::read(pebble.ca_file()).unwrap();
    let client = reqwest::Client::builder().tls_certs_only([reqwest::Certificate::from_pem(&ca).unwrap()]);
    let client = client.user_agent("Tester/0").no_proxy().build().unwrap();
    let answer = client.get(pebble.directory()).send().await.unwrap();
    let directory: serde_json::Value = serde_json::from_slice(&answer.bytes().await.unwrap()).unwrap();
    assert!(directory["newOrder"].is_string() && directory["renewalInfo"].is_string(), "{directory}");
    assert!(directory["meta"]["profiles"]["shortlived"].is_string(), "{directory}");
    assert!(pebble.root().await.contains("BEGIN CERTIFICATE"));
    pebble.sleep();
    // The signal is sent, and arrives when it does.
    eventually("Pebble falls silent", async || {
        let answer = client.get(pebble.directory()).send();
        tokio::time::timeout(Duration::from_millis(300), answer).await.is_err().then_some(())
    })
    .await;
    pebble.wake();
    assert!(client.get(pebble.directory()).send().await.is_ok());

    let addresses = async |name: &str| {
        let found = resolver(pebble.dns()).lookup_ip(name).await.unwrap();
        found.iter().map(|address| address.to_string()).collect::<Vec<_>>()
    };
    assert_eq!(addresses("any.example.").await, [pebble.address().to_string()]);
    pebble.set_a("shoes.example", &["192.0.2.1"]).await;
    pebble.set_cname("events.shoes.example", "shoes.example").await;
    assert_eq!(addresses("events.shoes.example.").await, ["192.0.2.1"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn pebble_revokes_and_hastens_renewals() {
    let pebble =
        Pebble::start_with(&Manners { nonces_refused: 5, validation_delay_max: 1, ..Manners::default() }).await;
    let (chain, key) = order(&pebble, "events.shoes.example").await;
    let serial = X509::from_pem(chain.as_bytes()).unwrap().serial_number().to_bn().unwrap().to_hex_str().unwrap();
    assert_eq!(pebble.status(&serial).await, "Valid");
    pebble
        .set_renewal_info(
            &chain,
            &json!({ "suggestedWindow": { "start": "2026-01-01T00:00:00Z", "end": "2026-01-02T00:00:00Z" } }),
        )
        .await;
    pebble.revoke(&chain, &key).await;
    assert_eq!(pebble.status(&serial).await, "Revoked");
}

#[tokio::test(flavor = "multi_thread")]
async fn dns_is_judged_as_a_ca_would() {
    let pebble = Pebble::start().await;
    let dns = Dns::new(Some(pebble.dns())).unwrap();
    let (here, ca): ([IpAddr; 1], _) = (["203.0.113.5".parse().unwrap()], ["letsencrypt.org".to_owned()]);
    let inspect = async |name: &str| dns.inspect(&name.parse().unwrap(), &here, &ca).await;
    pebble.set_cname("events.shoes.example", "x.example").await;
    pebble.set_a("x.example", &["192.0.2.1"]).await;
    let elsewhere = inspect("events.shoes.example").await;
    assert_eq!(elsewhere.chain, ["x.example"]);
    assert_eq!(elsewhere.addresses, ["192.0.2.1".parse::<IpAddr>().unwrap()]);
    assert!(elsewhere.findings.len() == 1 && elsewhere.findings[0].is_error, "{elsewhere:?}");
    pebble.set_a("x.example", &["203.0.113.5"]).await;
    assert_eq!(inspect("events.shoes.example").await.findings, [], "nothing is remembered");
    pebble.set_aaaa("x.example", &["2001:db8::9"]).await;
    let stale = inspect("events.shoes.example").await;
    assert!(stale.findings[0].remedy.contains("remove 2001:db8::9"), "{stale:?}");

    // CAA stands at the registered domain, or at the target of the CNAME, which comes first.
    pebble.set_a("a.b.hats.example", &["203.0.113.5"]).await;
    pebble.set_caa("hats.example", &[("issue", "digicert.com")]).await;
    let forbidden = inspect("a.b.hats.example").await;
    assert_eq!(forbidden.caa.as_deref(), Some(&["0 issue \"digicert.com\"".to_owned()][..]));
    assert!(forbidden.findings[0].remedy.contains("add to hats.example: CAA 0 issue"), "{forbidden:?}");
    assert!(forbidden.findings[0].is_of_caa && !elsewhere.findings[0].is_of_caa, "{forbidden:?}");
    pebble.set_caa("a.b.hats.example", &[("issue", "letsencrypt.org")]).await;
    assert_eq!(inspect("a.b.hats.example").await.findings, []);
    pebble.set_caa("a.b.hats.example", &[]).await;
    pebble.set_cname("a.b.hats.example", "y.example").await;
    pebble.set_a("y.example", &["203.0.113.5"]).await;
    pebble.set_caa("y.example", &[("issue", "letsencrypt.org")]).await;
    assert_eq!(inspect("a.b.hats.example").await.findings, []);

    pebble.set_servfail("caps.example", true).await;
    let failing = inspect("caps.example").await;
    assert!(failing.findings[0].is_error && failing.findings[0].reason.contains("cannot be resolved"), "{failing:?}");
    pebble.set_cname("circle.example", "circle2.example").await;
    pebble.set_cname("circle2.example", "circle.example").await;
    let circle = inspect("circle.example").await;
    assert!(circle.findings[0].is_error && circle.findings[0].reason.contains("nowhere"), "{circle:?}");
}

/// A DNS server that knows no name at all, and no CAA for those that it is told: what the challenge server cannot say.
pub(crate) async fn empty_dns(rcode: u8) -> SocketAddr {
    let socket = tokio::net::UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let address = socket.local_addr().unwrap();
    tokio::spawn(async move {
        let mut buffer = [0; 1_500];
        while let Ok((length, peer)) = socket.recv_from(&mut buffer).await {
            let mut answer = buffer[..length].to_vec();
            // A response, recursion available; no answers and no additional records (RFC 1035, 4.1.1).
            let question = 12 + answer[12..].iter().position(|byte| *byte == 0).unwrap() + 5;
            answer.truncate(question);
            (answer[2], answer[3]) = (0x81, 0x80 | rcode);
            answer[6..12].fill(0);
            let _ = socket.send_to(&answer, peer).await;
        }
    });
    address
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_without_records_and_a_silent_resolver_are_told_apart() {
    let here = ["203.0.113.5".parse().unwrap()];
    for rcode in [0, 3] {
        let report = Dns::new(Some(empty_dns(rcode).await)).unwrap().inspect(&NAME.parse().unwrap(), &here, &[]).await;
        assert_eq!(report.findings.len(), 1, "{report:?}");
        assert!(report.findings[0].reason.contains("has no address"), "{report:?}");
        assert!(report.findings[0].remedy.contains("A 203.0.113.5"), "{report:?}");
    }
    let silent = tokio::net::UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let report =
        Dns::new(Some(silent.local_addr().unwrap())).unwrap().inspect(&NAME.parse().unwrap(), &here, &[]).await;
    assert!(report.findings[0].reason.contains("cannot be resolved"), "{report:?}");
}

/// Orders a certificate as any ACME client does: the chain and its key.
async fn order(pebble: &Pebble, name: &str) -> (String, String) {
    let account = NewAccount { contact: &[], terms_of_service_agreed: true, only_return_existing: false };
    let builder = CaAccount::builder_with_root(pebble.ca_file()).unwrap();
    let (account, _) = builder.create(&account, pebble.directory(), None).await.unwrap();
    let mut order = account.new_order(&NewOrder::new(&[Identifier::Dns(name.to_owned())])).await.unwrap();
    let mut authorizations = order.authorizations();
    let mut authorization = authorizations.next().await.unwrap().unwrap();
    let mut challenge = authorization.challenge(ChallengeType::Http01).unwrap();
    let answer = challenge.key_authorization().as_str().to_owned();
    let listener = TcpListener::bind(pebble.http()).await.unwrap();
    tokio::spawn(async move {
        loop {
            let (mut socket, _) = listener.accept().await.unwrap();
            let length = answer.len();
            let text = format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{answer}");
            let _ = socket.read(&mut [0; 1_024]).await;
            let _ = socket.write_all(text.as_bytes()).await;
        }
    });
    challenge.set_ready().await.unwrap();
    let retries = RetryPolicy::default();
    assert_eq!(order.poll_ready(&retries).await.unwrap(), OrderStatus::Ready);
    let key = order.finalize().await.unwrap();
    (order.poll_certificate(&retries).await.unwrap(), key)
}

/// A site with accounts whose names have no certificate yet.
fn bare_site(graph_url: &str, names: &[&str]) -> Site {
    let shoes = names.iter().fold(Account::new("shoes", PIXEL), |account, name| account.domain(name));
    let site = Site::new(graph_url).account(shoes);
    names.iter().for_each(|name| std::fs::remove_dir_all(site.path("certs").join(name)).unwrap());
    site
}

/// What certbot leaves of a name: four links in `live/<name>/` to files in `archive/<name>/`.
fn certbot(folder: &Path, name: &str, chain: &str, key: &str) {
    let end = "-----END CERTIFICATE-----\n";
    let (leaf, rest) = chain.split_at(chain.find(end).unwrap() + end.len());
    let (live, archive) = (folder.join("live").join(name), folder.join("archive").join(name));
    for (file, text) in [("cert", leaf), ("chain", rest), ("fullchain", chain), ("privkey", key)] {
        std::fs::create_dir_all(&live).unwrap();
        std::fs::create_dir_all(&archive).unwrap();
        std::fs::write(archive.join(format!("{file}1.pem")), text).unwrap();
        let _ = std::fs::remove_file(live.join(format!("{file}.pem")));
        let target = Path::new("../../archive").join(name).join(format!("{file}1.pem"));
        std::os::unix::fs::symlink(target, live.join(format!("{file}.pem"))).unwrap();
    }
    std::fs::write(folder.join("live/README"), "This directory contains your keys and certificates.").unwrap();
}

fn parsed(output: &Output) -> Value {
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {output:?}"))
}

#[tokio::test(flavor = "multi_thread")]
async fn certbots_folder_is_imported_served_at_once_and_renewed_without_a_break() {
    let standin = Standin::start().await;
    let site = bare_site(&standin.url, &[NAME, "www.hats.example"]);
    let gateway = Gateway::start(&site).await;
    assert!(gateway.browser().try_send(NAME, &page_view(PIXEL, "none")).await.is_err(), "there is no certificate yet");
    let letsencrypt = tempfile::tempdir().unwrap();
    let import = |arguments: &[&str]| {
        let live = letsencrypt.path().join("live");
        let start = ["cert", "import", live.to_str().unwrap(), "--json"];
        gateway.command(&[&start[..], arguments].concat())
    };
    let (chain, key) = site.authority.credential(NAME, 60);
    certbot(letsencrypt.path(), NAME, &chain, &key);
    let (stranger, strangers_key) = site.authority.credential("strange.example", 60);
    certbot(letsencrypt.path(), "strange.example", &stranger, &strangers_key);
    let (other, _) = site.authority.credential("www.hats.example", 60);
    certbot(letsencrypt.path(), "www.hats.example", &other, &strangers_key);

    let dry = parsed(&import(&["--dry-run"]));
    assert_eq!((&dry["results"][0]["result"], &dry["gateway"]), (&json!("would_import"), &Value::Null));
    assert!(!site.path("data/certs").join(NAME).exists());
    let output = import(&[]);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let report = parsed(&output);
    assert_eq!((&report["gateway"], &report["unknown"]), (&json!(true), &json!(["strange.example"])));
    assert_eq!(report["results"].as_array().unwrap().len(), 1);
    assert_eq!(report["results"][0]["served"], json!([NAME]));
    let noted = |command: &str| gateway.log().contains(&format!("command=\"{command}\""));
    assert!(noted("cert import") && !noted("cert reload"), "{}", gateway.log());
    assert!(report["notes"].to_string().contains("the key of the certificate for www.hats.example"), "{report}");
    let browser = gateway.browser();
    assert_eq!(browser.send(NAME, &page_view(PIXEL, "first")).await.0, 200);

    // The same again, an older one, and a renewal.
    assert_eq!(parsed(&import(&[]))["results"][0]["result"], "unchanged");
    let live = letsencrypt.path().join("live");
    let dry = gateway.command(&["cert", "import", live.to_str().unwrap(), "--dry-run"]);
    let said = String::from_utf8([dry.stdout, dry.stderr].concat()).unwrap();
    assert!(said.contains(": unchanged, until") && !said.contains("took it up"), "{said}");
    assert!(!said.contains("they lie in"), "{said}");
    let served =
        async || served_leaf(gateway.https(), &NAME.parse().unwrap(), false, Duration::from_secs(10)).await.unwrap();
    let before = served().await;
    let (older, older_key) = site.authority.credential(NAME, 30);
    certbot(letsencrypt.path(), NAME, &older, &older_key);
    let kept = import(&[]);
    assert_eq!(kept.status.code(), Some(0));
    assert_eq!(parsed(&kept)["results"][0]["result"], "kept");
    assert!(parsed(&kept)["results"][0]["notes"].to_string().contains("--force"));
    assert_eq!(served().await, before);
    let (newer, newer_key) = site.authority.credential(NAME, 80);
    certbot(letsencrypt.path(), NAME, &newer, &newer_key);
    assert_eq!(parsed(&import(&[]))["results"][0]["served"], json!([NAME]));
    assert!(served().await.not_after > before.not_after);
    assert_eq!(browser.send(NAME, &page_view(PIXEL, "second")).await.0, 200);
    certbot(letsencrypt.path(), NAME, &older, &older_key);
    assert_eq!(import(&["--force"]).status.code(), Some(0));
    assert!(served().await.not_after < before.not_after);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_imported_without_a_gateway_is_served_by_the_next_one() {
    let standin = Standin::start().await;
    let site = bare_site(&standin.url, &[NAME, "a.hats.example", "b.hats.example"]);
    std::fs::create_dir(site.path("data")).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let bundle = folder.path().join("bundle.pem");
    // One file with everything, and a wildcard beside it.
    let key = KeyPair::generate().unwrap();
    let chain = site.authority.sign(&[NAME, "*.hats.example"], &key, 2, 60);
    std::fs::write(&bundle, key.serialize_pem() + &chain).unwrap();
    let output = pixelgate(site.dir(), &["cert", "import", bundle.to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    assert!(String::from_utf8_lossy(&output.stderr).contains("no gateway took it up"), "{output:?}");
    let gateway = Gateway::start(&site).await;
    for name in [NAME, "a.hats.example", "b.hats.example"] {
        assert_eq!(gateway.browser().send(name, &page_view(PIXEL, name)).await.0, 200);
    }
    let listed = gateway.json(&["cert", "list", "--json"]);
    let origin =
        |name: &str| listed.as_array().unwrap().iter().find(|view| view["name"] == name).unwrap()["origin"].clone();
    assert_eq!((origin(NAME), origin("a.hats.example")), (json!("imported"), json!("imported_wildcard")));

    // An RSA certificate and an ECDSA one for the same name go side by side.
    let twins = tempfile::tempdir().unwrap();
    let rsa = KeyPair::generate_rsa_for(&rcgen::PKCS_RSA_SHA256, rcgen::RsaKeySize::_2048).unwrap();
    for (folder, key) in [(NAME.to_owned(), &rsa), (format!("{NAME}_ecc"), &key)] {
        let folder = twins.path().join(folder);
        std::fs::create_dir(&folder).unwrap();
        std::fs::write(folder.join("fullchain.cer"), site.authority.sign(&[NAME], key, 2, 70)).unwrap();
        std::fs::write(folder.join("private.key"), key.serialize_pem()).unwrap();
    }
    assert_eq!(gateway.command(&["cert", "import", twins.path().to_str().unwrap()]).status.code(), Some(0));
    let live = site.path("data/certs").join(NAME).join("live");
    let key_of = |file: &str| {
        let leaf = X509::from_pem(&std::fs::read(live.join(file)).unwrap()).unwrap();
        leaf.public_key().unwrap().id()
    };
    assert_eq!((key_of("chain.pem"), key_of("chain.rsa.pem")), (boring::pkey::Id::EC, boring::pkey::Id::RSA));
    assert!(live.join("key.rsa.pem").is_file());
    let keys = gateway.json(&["cert", "list", NAME, "--json"])[0]["keys"].clone();
    assert_eq!(keys, json!(["ECDSA P-256", "RSA 2048"]));
    let check = gateway.command(&["cert", "check", NAME, "--resolver", "127.0.0.1:9"]);
    let text = String::from_utf8(check.stdout).unwrap();
    assert!(text.contains("chain.rsa.pem: for events.shoes.example, RSA 2048"), "{text}");
    assert!(text.contains("that knows RSA only gets 1 certificate,"), "{text}");
    let reloaded = || gateway.json(&["cert", "reload", "--json", NAME])["certificates"][0].clone();
    let both = reloaded();
    assert_eq!((&both["origin"], &both["keys"]), (&json!("imported"), &keys), "as `cert list` says it");
    assert!(both["issuer"].is_string(), "{both}");
    std::fs::write(live.join("key.rsa.pem"), "no key").unwrap();
    assert_eq!(reloaded()["keys"], json!(["ECDSA P-256"]), "a twin that is broken serves nobody");

    let nothing = tempfile::tempdir().unwrap();
    std::fs::write(
        nothing.path().join("key.pem"),
        "-----BEGIN ENCRYPTED PRIVATE KEY-----\nAA==\n-----END ENCRYPTED PRIVATE KEY-----\n",
    )
    .unwrap();
    let output = gateway.command(&["cert", "import", nothing.path().to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stdout).contains("passphrase"), "{output:?}");
    assert_eq!(gateway.command(&["cert", "import", "/nonexistent"]).status.code(), Some(1));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_import_goes_on_after_a_folder_that_cannot_be_had() {
    let names = ["a.example.org", "b.example.org", "c.example.org"];
    let site = bare_site("http://127.0.0.1:9", &names);
    let gateway = Gateway::start(&site).await;
    let folder = tempfile::tempdir().unwrap();
    for name in names {
        let (chain, key) = site.authority.credential(name, 60);
        std::fs::write(folder.path().join(format!("{name}.pem")), chain + &key).unwrap();
    }
    // Where a folder has to be made there is a file.
    site.write("data/certs/b.example.org", "");
    let output = gateway.command(&["cert", "import", folder.path().to_str().unwrap(), "--json"]);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let results = parsed(&output)["results"].clone();
    let result = |at: usize| (results[at]["result"].clone(), results[at]["served"].clone());
    assert_eq!(result(0), (json!("imported"), json!(["a.example.org"])));
    assert_eq!(result(1), (json!("failed"), json!([])));
    assert_eq!(result(2), (json!("imported"), json!(["c.example.org"])));
    assert!(results[1]["notes"].to_string().contains("b.example.org cannot be read"), "{results}");
}

#[test]
fn an_import_that_the_gateway_does_not_take_up_says_so() {
    let site = bare_site("http://127.0.0.1:9", &[NAME]);
    std::fs::create_dir(site.path("data")).unwrap();
    let (chain, key) = site.authority.credential(NAME, 60);
    let file = site.path("bundle.pem");
    std::fs::write(&file, chain + &key).unwrap();
    let socket = site.path("refusing.sock");
    let listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
    let refusing = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let _ = std::io::Read::read(&mut stream, &mut [0; 4_096]);
        let body = "{\"error\":\"it broke off\"}";
        let head = format!("HTTP/1.1 500 Internal Server Error\r\nContent-Length: {}\r\n\r\n", body.len());
        std::io::Write::write_all(&mut stream, (head + body).as_bytes()).unwrap();
    });
    let socket = socket.to_str().unwrap();
    let output = pixelgate(site.dir(), &["cert", "import", file.to_str().unwrap(), "--json", "--socket", socket]);
    refusing.join().unwrap();
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let report = parsed(&output);
    assert_eq!((&report["gateway"], &report["results"][0]["result"]), (&json!(false), &json!("imported")));
    assert!(report["gateway_error"].as_str().unwrap().contains("it broke off"), "{report}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_key_over_a_good_certificate_is_told_loudly() {
    let site = Site::new("http://127.0.0.1:9").account(Account::new("shoes", PIXEL).domain(NAME));
    let gateway = Gateway::start(&site).await;
    let (_, other_key) = site.authority.credential(NAME, 60);
    site.write(&format!("certs/{NAME}/key.pem"), other_key);
    gateway.json(&["reload", "--json"]);
    let status = gateway.json(&["status", "--json"]);
    let problem = status["problems"].as_array().unwrap().iter().find(|problem| problem["key"] == NAME).unwrap();
    let remedy = problem["remedy"].as_str().unwrap();
    assert!(remedy.contains("took the place of the pair that was there before"), "{problem}");
    // An issuer's certificate in the place of the leaf: certbot's chain.pem.
    site.write(&format!("certs/{NAME}/chain.pem"), site.authority.pem());
    let check = gateway.command(&["cert", "check", NAME, "--resolver", "127.0.0.1:9"]);
    let text = String::from_utf8(check.stdout).unwrap();
    assert!(text.contains("for no name at all") && text.contains("certbot's fullchain.pem has both"), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_queue_of_thousands_is_listed_with_times_reasons_and_errors() {
    const NAMES: usize = 3_000;
    let mut site = Site::new("http://127.0.0.1:9").with(
        // Nobody answers there.
        &format!(
            "[acme]\nenabled = true\nterms_agreed = true\nemail = \"ops@agency.example\"\n\
             directory = \"http://127.0.0.1:9/dir\"\nresolver = \"{}\"\n",
            troubled_resolver()
        ),
    );
    for account in 0..3 {
        let names = (0..NAMES / 3).map(|n| format!("events.n{n}-a{account}.example"));
        let made =
            names.fold(Account::new(&format!("a{account}"), 7100 + account), |made, name| made.bare_domain(&name));
        site = site.account(made);
    }
    let gateway = Gateway::start(&site).await;
    let list = || gateway.json(&["cert", "list", "--json", "--state", "missing", "--limit", "5000"]);
    let list = eventually("the CA is left alone", async || {
        let list = list();
        let waits = |view: &Value| view["next_action_reason"].as_str().is_some_and(|why| why.contains("is left alone"));
        list.as_array()?.iter().any(waits).then_some(list)
    })
    .await;
    let list = list.as_array().unwrap();
    assert_eq!(list.len(), NAMES);
    assert!(list.iter().all(|view| view["last_error"].is_null()), "what is the CA's is held against no name");
    let queued = list.iter().filter(|view| !view["next_action_at"].is_null());
    let queued: Vec<&Value> = queued.collect();
    let time = |view: &Value| view["next_action_at"].as_str().unwrap().to_owned();
    assert!(
        queued.len() > NAMES - 50 && queued.is_sorted_by_key(|view| time(view)),
        "in the order in which they are begun"
    );
    let last = queued.last().unwrap();
    let why = last["next_action_reason"].as_str().unwrap();
    assert!(why.contains("300 first orders in 3h") && why.contains("go before it"), "{last}");
    assert!(queued.iter().all(|view| view["next_action"] == "order" && view["next_action_reason"].is_string()));

    let account = &gateway.json(&["status", "--json"])["certificates"]["ca_accounts"][0];
    assert_eq!((&account["name"], &account["orders_max"]), (&json!("default"), &json!(300)));
    assert!(account["reason"].as_str().unwrap().contains("cannot be reached"), "{account}");
    let waiting = account["first_orders_waiting"].as_u64().unwrap() as usize;
    assert!((NAMES - 50..=NAMES).contains(&waiting) && account["renewals_waiting"] == 0, "{account}");
    assert!(account["last_first_order_at"].as_str().unwrap() >= last["next_action_at"].as_str().unwrap(), "{account}");
    let text = String::from_utf8(gateway.command(&["status"]).stdout).unwrap();
    assert!(
        text.contains("CA account default at http://127.0.0.1:9/dir") && text.contains("first orders in 3h left"),
        "{text}"
    );
    assert!(text.contains("names wait for a first order, the last one goes 20"), "{text}");
    let left = gateway.metric("pixelgate_ca_account_orders_left", "default").await;
    assert!((0.0..=300.0).contains(&left), "{left}");

    // What a person orders waits for the CA all the same, and says so.
    let ordered = gateway.json(&["cert", "issue", "events.n999-a2.example", "--json"]);
    assert!(ordered["name"] == "events.n999-a2.example" && ordered.get("reason").is_some(), "{ordered}");
    let check = gateway.command(&["cert", "check", "events.n999-a2.example", "--resolver", "127.0.0.1:9"]);
    let text = String::from_utf8(check.stdout).unwrap();
    assert!(text.contains("ca account") && text.contains("--ca says what it calls itself"), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn certificates_are_listed_by_need_and_counted_in_the_status() {
    let standin = Standin::start().await;
    let site = bare_site(&standin.url, &["missing.example.org"]).account(
        Account::new("hats", 7002).domain("good.example.org").domain("soon.example.org").domain("late.example.org"),
    );
    site.authority.issue(&site.path("certs"), "late.example.org", -1);
    let key = KeyPair::generate().unwrap();
    site.write("certs/soon.example.org/chain.pem", site.authority.sign(&["soon.example.org"], &key, 80, 10));
    site.write("certs/soon.example.org/key.pem", key.serialize_pem());
    let gateway = Gateway::start(&site).await;
    let names = |arguments: &[&str]| {
        let listed = gateway.json(&[&["cert", "list", "--json"][..], arguments].concat());
        listed.as_array().unwrap().iter().map(|view| view["name"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    let all = names(&[]);
    assert_eq!(all[..3], ["missing.example.org", "late.example.org", "soon.example.org"]);
    assert_eq!(all.len(), 5, "with the host's own: {all:?}");
    assert_eq!(names(&["--problems"]), all[..3]);
    assert_eq!(names(&["--state", "expired"]), ["late.example.org"]);
    assert_eq!(names(&["--account", "shoes"]), ["missing.example.org"]);
    assert_eq!(names(&["--limit", "1"]), all[..1]);
    assert_eq!(names(&["Good.example.org", "late.example.org"]), ["late.example.org", "good.example.org"]);
    // More than a URI may hold.
    assert_eq!(names(&["good.example.org"; 4_100]), ["good.example.org"]);
    for (unknown, told) in
        [(&["--account", "nope"][..], "no account nope"), (&["nope.example.org"], "nope.example.org is not")]
    {
        let output = gateway.command(&[&["cert", "list"], unknown].concat());
        let error = String::from_utf8(output.stderr).unwrap();
        assert!(output.status.code() == Some(1) && error.contains(told), "{error}");
    }
    let view = &gateway.json(&["cert", "list", "--json", "--state", "valid", "--account", "hats"])[0];
    assert_eq!((&view["issuer"], &view["expires_soon"]), (&json!("Pixelgate test CA"), &json!(true)));
    assert_eq!(
        (&view["account"], &view["origin"], &view["next_action"]),
        (&json!("hats"), &json!("operator"), &Value::Null)
    );
    let text = String::from_utf8(gateway.command(&["cert", "list"]).stdout).unwrap();
    assert!(text.contains("late.example.org") && text.contains("expired"), "{text}");
    assert!(text.contains("Pixelgate test CA · operator · ECDSA P-256\n"), "{text}");

    let certificates = &gateway.json(&["status", "--json"])["certificates"];
    assert_eq!((&certificates["states"]["valid"], &certificates["states"]["missing"]), (&json!(3), &json!(1)));
    assert_eq!(
        (&certificates["expiring"], &certificates["expiring_first"][0]["name"]),
        (&json!(1), &json!("soon.example.org"))
    );
    let text = String::from_utf8(gateway.command(&["status"]).stdout).unwrap();
    assert!(
        text.contains("(1 expired, 1 missing)") && text.contains("1 certificate expires soon: soon.example.org"),
        "{text}"
    );
    assert_eq!(text.matches("missing.example.org: there is no certificate").count(), 1, "{text}");
    assert!(text.contains("\n2 problems:") && !text.contains("warning: certificates:"), "{text}");
    assert_eq!(gateway.metric("pixelgate_certificates", "expired").await, 1.0);
    let (_, metrics) = gateway.ops("/metrics").await;
    assert!(!metrics.contains("example.org"), "no series of a name");

    assert_eq!(gateway.json(&["status", "--json"])["certificates"]["ca_accounts"], json!([]), "nothing is ordered");
    let issue = gateway.command(&["cert", "issue", "good.example.org"]);
    assert_eq!(issue.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&issue.stderr).contains("[acme]"), "{issue:?}");
    assert_eq!(gateway.command(&["cert", "issue", "nobody.example.org"]).status.code(), Some(1));
    assert_eq!(gateway.command(&["cert", "issue", "127.0.0.1"]).status.code(), Some(2), "no name at all");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_is_checked_from_dns_to_handshake() {
    let (standin, pebble) = (Standin::start().await, Pebble::start().await);
    let site = Site::new(&standin.url).account(Account::new("shoes", PIXEL).domain(NAME).domain("late.example.org"));
    site.authority.issue(&site.path("certs"), "late.example.org", -1);
    let (resolver, address) = (pebble.dns().to_string(), pebble.address().to_string());
    let check = |name: &str| {
        let output =
            pixelgate(site.dir(), &["cert", "check", name, "--resolver", &resolver, "--address", &address, "--json"]);
        let lines = parsed(&output)["lines"].as_array().unwrap().clone();
        let level = move |about: &str| {
            let of = |line: &&Value| line["about"] == about;
            lines.iter().filter(of).map(|line| line["level"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
        };
        (output.status.code(), level, String::from_utf8(output.stdout).unwrap())
    };
    let (code, level, text) = check(NAME);
    assert_eq!(
        (code, level("gateway"), level("served")),
        (Some(0), vec!["skipped".to_owned()], vec!["skipped".to_owned()])
    );
    assert!(text.contains("no gateway answers"), "{text}");

    let mut gateway = Gateway::start(&site).await;
    let (code, level, text) = check(NAME);
    assert_eq!(code, Some(0), "{text}");
    for about in ["configuration", "certificate", "key", "expiry", "gateway", "caa"] {
        assert_eq!(level(about), ["ok"], "{about}: {text}");
    }
    assert_eq!(level("chain"), ["info"], "whoever put its root there knows the CA: {text}");
    assert_eq!(level("dns"), ["ok", "warning"], "it is a loopback address: {text}");
    assert_eq!((level("port 80")[0].as_str(), level("served")[0].as_str()), ("ok", "ok"), "{text}");
    pebble.set_cname(NAME, "x.example").await;
    pebble.set_a("x.example", &["127.0.0.9"]).await;
    let (code, level, text) = check(NAME);
    assert_eq!((code, level("dns")), (Some(1), vec!["info".to_owned(), "error".to_owned()]), "{text}");
    assert!(text.contains("events.shoes.example → x.example at 127.0.0.9"), "what DNS says is shown: {text}");
    assert_eq!(level("caa"), ["ok"], "{text}");
    assert!(
        text.contains(&format!("which is at 127.0.0.9 (a loopback address); this gateway is at {address}")),
        "{text}"
    );

    let (code, level, text) = check("late.example.org");
    assert_eq!(
        (code, level("certificate")[0].as_str(), level("expiry")),
        (Some(1), "error", vec!["error".to_owned()]),
        "{text}"
    );
    assert_eq!(level("served")[0], "error", "{text}");
    let (code, level, text) = check("nobody.example.org");
    assert_eq!((code, level("configuration")), (Some(1), vec!["error".to_owned()]), "{text}");
    for about in ["certificate", "gateway", "served"] {
        assert_eq!(level(about), ["skipped"], "{about}: {text}");
    }

    // A certificate that is put into place but not taken up.
    let authority = Authority::new();
    authority.issue(&site.path("certs"), NAME, 50);
    let (_, level, text) = check(NAME);
    assert!(level("served")[0] == "warning" && text.contains("pixelgate cert reload"), "{text}");
    assert!(gateway.stop().await.success());
    let plain = pixelgate(site.dir(), &["cert", "check", NAME, "--resolver", &resolver]);
    let text = String::from_utf8(plain.stdout).unwrap();
    assert!(text.contains("ok            configuration a name of the account shoes") && text.contains("→"), "{text}");
    assert!(text.contains("\nnot looked at gateway       no gateway answers"), "{text}");
    // A DNS server that answers nothing says nothing of the name.
    let deaf = pixelgate(site.dir(), &["cert", "check", NAME, "--resolver", "127.0.0.1:9"]);
    let text = String::from_utf8(deaf.stdout).unwrap();
    assert_eq!(deaf.status.code(), Some(0), "{text}");
    assert!(text.contains("not looked at dns           where the name leads: no DNS server answers"), "{text}");
    assert!(text.contains("events.shoes.example: 0 errors, 0 warnings, 3 not looked at"), "{text}");
}
