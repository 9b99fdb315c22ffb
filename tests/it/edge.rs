use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use boring::ssl::SslVersion;
use boring::x509::X509;
use rustix::process::{Pid, Resource, Rlimit, getrlimit, prlimit};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::util::client::page_view;
use crate::util::hello::connect;
use crate::util::site::HOST_DOMAIN;
use crate::util::{Account, Browser, Gateway, Hello, PATIENCE, Site, Standin, eventually};

const PIXEL: u64 = 3001;
const NAME: &str = "events.shoes.example";

fn names_of(certificate: &X509) -> Vec<String> {
    let names = certificate.subject_alt_names().into_iter().flatten();
    names.filter_map(|name| name.dnsname().map(ToOwned::to_owned)).collect()
}

async fn shop(standin: &Standin, extra: &str) -> (Site, Gateway) {
    let site = Site::new(&standin.url)
        .with(extra)
        .account(Account::new("shoes", PIXEL).domain(NAME).top("# first"))
        .account(Account::new("hats", 3002).domain("events.hats.example"));
    let gateway = Gateway::start(&site).await;
    (site, gateway)
}

#[tokio::test(flavor = "multi_thread")]
async fn the_certificate_is_chosen_by_the_server_name() {
    let standin = Standin::start().await;
    let site = Site::new(&standin.url)
        .account(Account::new("shoes", PIXEL).domain(NAME))
        .account(Account::new("wild", 3003).top("# its names are below one wildcard certificate"));
    site.write("accounts/wild.toml", "name = \"wild\"\ndomains = [\"a.wild.example\", \"exact.wild.example\"]\n");
    site.authority.issue(&site.path("certs"), "*.wild.example", 90);
    site.authority.issue(&site.path("certs"), "exact.wild.example", 90);
    let gateway = Gateway::start(&site).await;
    let served = |sni: &str| {
        let stream = Hello::to(sni).shake(gateway.https()).unwrap();
        let chain = stream.ssl().peer_cert_chain().unwrap().len();
        (names_of(&stream.ssl().peer_certificate().unwrap()), chain)
    };
    assert_eq!(served(NAME), (vec![NAME.to_owned()], 2), "the full chain is sent");
    assert_eq!(served("EVENTS.Shoes.example").0, vec![NAME.to_owned()]);
    assert_eq!(served(HOST_DOMAIN).0, vec![HOST_DOMAIN.to_owned()]);
    assert_eq!(served("a.wild.example").0, vec!["*.wild.example".to_owned()]);
    assert_eq!(served("exact.wild.example").0, vec!["exact.wild.example".to_owned()]);
}

#[tokio::test(flavor = "multi_thread")]
async fn unknown_names_no_name_and_old_versions_are_refused_without_a_line_each() {
    let standin = Standin::start().await;
    let (_site, gateway) = shop(&standin, "").await;
    let https = gateway.https();
    for _ in 0..50 {
        let refused = Hello::to("unknown.example").shake(https).expect_err("a name that is not served");
        assert!(refused.contains("UNRECOGNIZED_NAME"), "{refused}");
        assert!(Hello { sni: None, ..Hello::to("") }.shake(https).is_err());
    }
    let old = Hello { min: SslVersion::TLS1, max: SslVersion::TLS1_1, ..Hello::to(NAME) };
    assert!(old.shake(https).is_err(), "TLS 1.0 and 1.1 are not spoken");
    for version in [SslVersion::TLS1_2, SslVersion::TLS1_3] {
        let stream = Hello { min: version, max: version, ..Hello::to(NAME) }.shake(https).unwrap();
        assert_eq!(stream.ssl().version2(), Some(version));
    }
    assert!(gateway.metric("pixelgate_handshakes_total", "").await >= 103.0);
    let lines = gateway.log().lines().filter(|line| line.contains("ERROR") || line.contains("unknown.example")).count();
    assert!(lines <= 1, "{}", gateway.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_of_another_tenant_than_the_server_name_is_misdirected() {
    let standin = Standin::start().await;
    let (_site, gateway) = shop(&standin, "").await;
    let status = |sni: &str, host: &str| {
        let mut stream = Hello::to(sni).shake(gateway.https()).unwrap();
        write!(stream, "POST /events HTTP/1.1\r\nHost: {host}\r\nContent-Length: 2\r\nConnection: close\r\n\r\n{{}}")
            .unwrap();
        let mut answer = String::new();
        let _ = stream.read_to_string(&mut answer);
        answer.split(' ').nth(1).unwrap_or("none").to_owned()
    };
    assert_eq!(status(NAME, NAME), "400");
    assert_eq!(status(NAME, &format!("{}:8443", NAME.to_uppercase())), "400", "case and port do not matter");
    for host in ["events.hats.example", HOST_DOMAIN, "unknown.example", "127.0.0.1"] {
        assert_eq!(status(NAME, host), "421", "{host}");
    }
    assert_eq!(status(HOST_DOMAIN, NAME), "421");
}

#[tokio::test(flavor = "multi_thread")]
async fn http_1_and_http_2_are_spoken_on_kept_connections() {
    let standin = Standin::start().await;
    let (_site, gateway) = shop(&standin, "").await;
    // By hand: a client's pool may open a second connection before it has the first one back.
    let mut stream = Hello::to(NAME).shake(gateway.https()).unwrap();
    for n in 0..3 {
        let body = page_view(PIXEL, &format!("h1-{n}")).to_string();
        write!(stream, "POST /events HTTP/1.1\r\nHost: {NAME}\r\nContent-Length: {}\r\n\r\n{body}", body.len())
            .unwrap();
        let mut answer = Vec::new();
        while !answer.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            stream.read_exact(&mut byte).expect("the connection is kept");
            answer.extend(byte);
        }
        assert!(answer.starts_with(b"HTTP/1.1 200"), "{}", String::from_utf8_lossy(&answer));
    }
    let browser = gateway.browser();
    for n in 0..3 {
        let event = page_view(PIXEL, &format!("h2-{n}"));
        let answer = browser.post(NAME, "/events").body(event.to_string()).send().await.unwrap();
        assert_eq!((answer.status().as_u16(), answer.version()), (200, reqwest::Version::HTTP_2));
    }
    assert_eq!(gateway.metric("pixelgate_handshakes_total", "ok").await, 2.0, "one connection each");
}

#[tokio::test(flavor = "multi_thread")]
async fn chunked_bodies_are_taken_and_broken_framing_is_not() {
    let standin = Standin::start().await;
    let (_site, gateway) = shop(&standin, "[limits]\nbody_timeout = \"1s\"\n").await;
    let talk = |request: String| {
        let mut stream = Hello::to(NAME).shake(gateway.https()).unwrap();
        stream.write_all(request.as_bytes()).unwrap();
        let mut answer = String::new();
        let _ = stream.read_to_string(&mut answer);
        answer.split(' ').nth(1).unwrap_or("closed").to_owned()
    };
    let body = page_view(PIXEL, "chunked").to_string();
    let (first, second) = body.split_at(20);
    let chunked = format!(
        "POST /events HTTP/1.1\r\nHost: {NAME}\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n{:x}\r\n{first}\r\n{:x}\r\n{second}\r\n0\r\n\r\n",
        first.len(),
        second.len()
    );
    assert_eq!(talk(chunked), "200");
    let short =
        format!("POST /events HTTP/1.1\r\nHost: {NAME}\r\nContent-Length: 500\r\nConnection: close\r\n\r\n{body}");
    assert_eq!(talk(short), "408", "a body that does not come");
    for bad in ["Content-Length: -1", "Content-Length: 5\r\nContent-Length: 6", "Content-Length: abc"] {
        let status = talk(format!("POST /events HTTP/1.1\r\nHost: {NAME}\r\n{bad}\r\nConnection: close\r\n\r\n{body}"));
        assert!(status == "400" || status == "closed", "{bad}: {status}");
    }
    let rejected = async |reason: &str| gateway.metric("pixelgate_events_rejected_total", reason).await;
    let before = rejected("bad_request").await;
    for bad in ["NO HTTP\r\n\r\n", "GET / HTTP/1.1\r\nno colon\r\n\r\n"] {
        assert_eq!(talk(bad.to_owned()), "400", "{bad}");
    }
    assert_eq!(talk(format!("CONNECT {NAME}:443 HTTP/1.1\r\nHost: {NAME}\r\n\r\n")), "405");
    eventually("each is counted", async || (rejected("bad_request").await == before + 3.0).then_some(())).await;
    // A client that leaves without a request, or in the midst of one, has refused itself.
    let idle = Hello::to(NAME).shake(gateway.https()).unwrap();
    drop(idle);
    let mut leaves = Hello::to(NAME).shake(gateway.https()).unwrap();
    leaves.write_all(b"POST /eve").unwrap();
    drop(leaves);
    eventually("all are gone", async || (gateway.metric("pixelgate_connections", "").await == 0.0).then_some(())).await;
    assert_eq!(rejected("bad_request").await, before + 3.0);
    standin.took(PIXEL, &["chunked"]).await;
    assert_eq!(standin.events(PIXEL).await.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn slow_clients_are_let_go() {
    let standin = Standin::start().await;
    let (_site, gateway) = shop(&standin, "[limits]\nheader_timeout = \"1s\"\nhandshake_timeout = \"1s\"\n").await;
    let begun = Instant::now();
    let mut silent = TcpStream::connect(gateway.https()).unwrap();
    silent.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut slow = Hello::to(NAME).shake(gateway.https()).unwrap();
    slow.write_all(b"POST /events HTTP/1.1\r\nHost: ").unwrap();
    let mut nothing = [0; 512];
    assert!(!matches!(silent.read(&mut nothing), Ok(n) if n > 0), "no handshake, no connection");
    let _ = slow.read(&mut nothing);
    assert!(begun.elapsed() < PATIENCE && begun.elapsed() > Duration::from_millis(500));
    let counted = async || gateway.metric("pixelgate_events_rejected_total", "too_slow").await == 1.0;
    eventually("the header is counted", async || counted().await.then_some(())).await;
    assert_eq!(gateway.browser().send(NAME, &page_view(PIXEL, "quick")).await.0, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_refused_in_the_midst_of_a_body_hears_why() {
    let standin = Standin::start().await;
    let (site, gateway) = shop(&standin, "").await;
    site.write("ca.pem", site.authority.pem());
    site.write("body", vec![b'x'; 3 << 20]);
    let (ca, body) = (site.path("ca.pem"), format!("@{}", site.path("body").display()));
    for version in ["--http1.1", "--http2"] {
        for (path, answer) in [("/events", "Content Too Large 413"), ("/nothing/here", "Not Found 404")] {
            let curl = std::process::Command::new("curl")
                .args(["-sS", version, "--cacert", ca.to_str().unwrap(), "--connect-to"])
                .args([&format!("::{}", gateway.https()), "-H", "Expect:", "--data-binary", &body])
                .args(["-w", " %{http_code}", &format!("https://{NAME}{path}")])
                .output()
                .expect("curl runs");
            assert_eq!(String::from_utf8_lossy(&curl.stdout), answer, "{version} {path}: {curl:?}");
            assert!(curl.status.success(), "{version} {path}: {curl:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_may_take_longer_than_a_header() {
    let standin = Standin::start().await;
    let (_site, gateway) = shop(&standin, "[limits]\nheader_timeout = \"300ms\"\nbody_timeout = \"20s\"\n").await;
    let mut stream = Hello::to(NAME).shake(gateway.https()).unwrap();
    let body = page_view(PIXEL, "slow").to_string();
    let head = format!("POST /events HTTP/1.1\r\nHost: {NAME}\r\nContent-Length: {}\r\n", body.len());
    write!(stream, "{head}Connection: close\r\n\r\n{}", &body[..20]).unwrap();
    // Waits three times the header's limit: an answer or an end of the connection would come now.
    stream.get_ref().set_read_timeout(Some(Duration::from_millis(900))).unwrap();
    let early = stream.read(&mut [0; 1]).map_err(|error| error.kind());
    assert_eq!(early, Err(std::io::ErrorKind::WouldBlock));
    stream.get_ref().set_read_timeout(Some(PATIENCE)).unwrap();
    stream.write_all(&body.as_bytes()[20..]).unwrap();
    let mut answer = String::new();
    let _ = stream.read_to_string(&mut answer);
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    standin.took(PIXEL, &["slow"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn only_a_trusted_proxy_says_who_the_visitor_is() {
    let standin = Standin::start().await;
    for (trusted, ip) in [("[\"127.0.0.0/8\"]", "203.0.113.7"), ("[]", "absent")] {
        let site = Site::new(&standin.url)
            .listen(&format!("trusted_proxies = {trusted}"))
            .account(Account::new("shoes", PIXEL).domain(NAME));
        let gateway = Gateway::start(&site).await;
        let event = page_view(PIXEL, ip);
        let request = gateway.browser().post(NAME, "/events").header("x-forwarded-for", "198.51.100.9, 203.0.113.7");
        assert_eq!(request.body(event.to_string()).send().await.unwrap().status(), 200);
        let user = standin.event(PIXEL, ip).await["user_data"].clone();
        assert_eq!(user["client_ip_address"].as_str().unwrap_or("absent"), ip, "{user}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_balancer_that_must_says_who_the_visitor_is_before_the_handshake() {
    let standin = Standin::start().await;
    let site = Site::new(&standin.url)
        .listen("proxy_protocol = [\"127.0.0.0/8\"]")
        .account(Account::new("shoes", PIXEL).domain(NAME));
    let gateway = Gateway::start(&site).await;
    let mut binary = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\x00\x0c".to_vec();
    binary.extend([203, 0, 113, 8, 127, 0, 0, 1, 0x13, 0x88, 0x01, 0xbb]);
    let line = b"PROXY TCP4 203.0.113.7 127.0.0.1 5000 443\r\n".to_vec();
    for (header, ip) in [(line, "203.0.113.7"), (binary, "203.0.113.8")] {
        let mut stream = Hello::to(NAME).shake_after(&header, gateway.https()).unwrap();
        let body = page_view(PIXEL, ip).to_string();
        let head = format!("POST /events HTTP/1.1\r\nHost: {NAME}\r\nContent-Length: {}\r\n", body.len());
        write!(stream, "{head}X-Forwarded-For: 198.51.100.9\r\nConnection: close\r\n\r\n{body}").unwrap();
        let mut answer = String::new();
        let _ = stream.read_to_string(&mut answer);
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        assert_eq!(standin.event(PIXEL, ip).await["user_data"]["client_ip_address"], ip);
    }
    assert!(Hello::to(NAME).shake(gateway.https()).is_err(), "without the header there is no connection");
    assert_eq!(gateway.metric("pixelgate_events_rejected_total", "proxy_header").await, 1.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_no_balancer_is_not_believed_and_needs_no_header() {
    let standin = Standin::start().await;
    let site = Site::new(&standin.url)
        .listen("proxy_protocol = [\"127.0.0.2/32\"]")
        .account(Account::new("shoes", PIXEL).domain(NAME));
    let gateway = Gateway::start(&site).await;
    let header = b"PROXY TCP4 203.0.113.7 127.0.0.1 5000 443\r\n";
    let balancer = Hello { from: Ipv4Addr::new(127, 0, 0, 2), ..Hello::to(NAME) };
    assert!(balancer.shake_after(header, gateway.https()).is_ok());
    assert!(balancer.shake(gateway.https()).is_err());
    assert!(Hello::to(NAME).shake(gateway.https()).is_ok());
    assert!(Hello::to(NAME).shake_after(header, gateway.https()).is_err(), "to others it is no TLS");
    // On port 80 as well.
    let plain = |from: u8, header: &[u8]| {
        let mut stream = connect(Ipv4Addr::new(127, 0, 0, from), gateway.ready.http[0]).unwrap();
        stream.write_all(header).unwrap();
        write!(stream, "GET /p HTTP/1.1\r\nHost: {NAME}\r\nConnection: close\r\n\r\n").unwrap();
        let mut answer = String::new();
        let _ = stream.read_to_string(&mut answer);
        answer.split(' ').nth(1).unwrap_or("none").to_owned()
    };
    assert_eq!(plain(2, header), "308");
    assert_eq!(plain(2, b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0"), "308", "it speaks for itself");
    assert_eq!(plain(2, b""), "none");
    assert_eq!(plain(1, b""), "308");
    assert_eq!(plain(1, header), "400");
    assert_eq!(gateway.metric("pixelgate_events_rejected_total", "proxy_header").await, 2.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_key_exchanges_of_tomorrow_and_today_are_spoken() {
    let standin = Standin::start().await;
    let (_site, gateway) = shop(&standin, "").await;
    for (offered, used) in [
        ("X25519MLKEM768:X25519:P-256", "X25519MLKEM768"),
        ("X25519:P-256", "X25519"),
        ("P-256", "P-256"),
        ("P-384", "P-384"),
    ] {
        let stream = Hello { curves: Some(offered), ..Hello::to(NAME) }.shake(gateway.https()).unwrap();
        assert_eq!(stream.ssl().curve_name(), Some(used), "{offered}");
    }
    let unknown = Hello { curves: Some("P-521"), ..Hello::to(NAME) };
    assert!(unknown.shake(gateway.https()).is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_lowest_version_is_configured() {
    let standin = Standin::start().await;
    let (site, gateway) = shop(&standin, "[tls]\nmin_version = \"1.3\"\n").await;
    let spoken = |version| Hello { min: version, max: version, ..Hello::to(NAME) }.shake(gateway.https()).is_ok();
    assert_eq!((spoken(SslVersion::TLS1_2), spoken(SslVersion::TLS1_3)), (false, true));
    let toml = std::fs::read_to_string(site.path("pixelgate.toml")).unwrap();
    site.write("pixelgate.toml", toml.replace("\"1.3\"", "\"1.2\""));
    assert!(gateway.command(&["reload"]).status.success());
    assert_eq!((spoken(SslVersion::TLS1_2), spoken(SslVersion::TLS1_3)), (true, true));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_handshake_ends_in_time_wherever_it_stops() {
    let standin = Standin::start().await;
    let (_site, gateway) = shop(&standin, "[limits]\nhandshake_timeout = \"1s\"\n").await;
    let (https, hello) = (gateway.https(), Hello::to(NAME).bytes());
    let begun = Instant::now();
    let mut stopped: Vec<_> = [0, 1, hello.len() / 2, hello.len()]
        .into_iter()
        .map(|bytes| {
            let mut stream = connect(Ipv4Addr::LOCALHOST, https).unwrap();
            stream.write_all(&hello[..bytes]).unwrap();
            stream
        })
        .collect();
    // One that never stops: a byte every tenth of a second.
    let mut slow = connect(Ipv4Addr::LOCALHOST, https).unwrap();
    slow.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
    let mut bytes = hello.chunks(1);
    while begun.elapsed() < PATIENCE {
        let _ = slow.write_all(bytes.next().unwrap());
        match slow.read(&mut [0; 16]) {
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
            _ => break,
        }
    }
    for stream in &mut stopped {
        let _ = stream.read_to_end(&mut Vec::new());
    }
    assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
    assert_eq!(gateway.metric("pixelgate_handshakes_total", "timeout").await, 5.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_is_done_is_closed_though_the_client_keeps_it_open() {
    let standin = Standin::start().await;
    let (_site, gateway) = shop(&standin, "").await;
    let mut stream = Hello::to(NAME).shake(gateway.https()).unwrap();
    let body = page_view(PIXEL, "done").to_string();
    let head = format!("POST /events HTTP/1.1\r\nHost: {NAME}\r\nContent-Length: {}\r\n", body.len());
    write!(stream, "{head}Connection: close\r\n\r\n{body}").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("it ends as TLS does");
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    let begun = Instant::now();
    eventually("it is closed", async || (gateway.metric("pixelgate_connections", "").await == 0.0).then_some(())).await;
    assert!(begun.elapsed() < Duration::from_millis(1_500), "{:?}", begun.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_accepted_is_counted_and_told_once() {
    let standin = Standin::start().await;
    let (_site, gateway) = shop(&standin, "").await;
    let pid = Pid::from_raw(i32::try_from(gateway.ready.pid).unwrap());
    let usual = getrlimit(Resource::Nofile);
    let files = || std::fs::read_dir(format!("/proc/{}/fd", gateway.ready.pid)).unwrap().count() as u64;
    let told = || gateway.log().lines().filter(|line| line.contains("cannot be accepted")).count();
    eventually("it is counted", async || {
        let few = Rlimit { current: Some(files() + 5), maximum: usual.maximum };
        prlimit(pid, Resource::Nofile, few).unwrap();
        let held: Vec<_> = (0..20).map(|_| TcpStream::connect(gateway.https()).unwrap()).collect();
        eventually("there is no file left", async || (files() >= few.current.unwrap()).then_some(())).await;
        prlimit(pid, Resource::Nofile, usual).unwrap();
        drop(held);
        (gateway.metric("pixelgate_events_rejected_total", "\"accept\"").await >= 3.0).then_some(())
    })
    .await;
    assert_eq!(told(), 1, "{}", gateway.log());
    assert!(Hello::to(NAME).shake(gateway.https()).is_ok());
}

#[tokio::test(flavor = "multi_thread")]
async fn one_address_may_hold_so_many_connections_and_no_more() {
    let standin = Standin::start().await;
    let (_site, gateway) = shop(&standin, "[limits]\nconnections_per_ip_max = 5\n").await;
    let held: Vec<_> = (0..5).map(|_| Hello::to(NAME).shake(gateway.https()).unwrap()).collect();
    assert!(Hello::to(NAME).shake(gateway.https()).is_err());
    drop(held);
    eventually("there is room again", async || Hello::to(NAME).shake(gateway.https()).ok()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn plain_http_is_redirected_for_known_hosts_only() {
    let standin = Standin::start().await;
    let (_site, gateway) = shop(&standin, "").await;
    let http = gateway.ready.http[0];
    let answer = |host: &str| {
        let mut stream = TcpStream::connect(http).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        write!(stream, "GET /p?q=1 HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer.to_lowercase()
    };
    let known = answer(NAME);
    assert!(known.starts_with("http/1.1 308") && known.contains(&format!("location: https://{NAME}/p?q=1")), "{known}");
    // Whoever met the port that is listened on meets that of TLS too.
    let direct = answer(&format!("{NAME}:{}", http.port()));
    assert!(direct.contains(&format!("location: https://{NAME}:{}/p?q=1", gateway.https().port())), "{direct}");
    assert!(answer("unknown.example").starts_with("http/1.1 404"));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_event_goes_to_the_accounts_own_servers() {
    let standin = Standin::start().await;
    let (one, two) = (origin("one").await, origin("two").await);
    let site = Site::new(&standin.url)
        .with("[limits]\nupstream_body_bytes_max = 1_024\n")
        .account(
            Account::new("shoes", PIXEL).domain(NAME).top(&format!("upstream = [\"http://{one}\", \"http://{two}\"]")),
        )
        .account(Account::new("hats", 3002).domain("events.hats.example"));
    let gateway = Gateway::start(&site).await;
    let mut seen = std::collections::BTreeSet::new();
    for _ in 0..20 {
        let answer =
            gateway.browser().get(NAME, "/shop?x=1").header("x-forwarded-for", "6.6.6.6").send().await.unwrap();
        assert_eq!(answer.status(), 200);
        let text = answer.text().await.unwrap();
        assert!(text.contains("GET /shop?x=1") && text.contains("x-forwarded-proto: https"), "{text}");
        assert!(text.contains(&format!("x-forwarded-host: {NAME}")), "{text}");
        assert!(text.contains("x-forwarded-for: 127.0.0.1") && !text.contains("6.6.6.6"), "{text}");
        seen.insert(text.lines().next().unwrap().to_owned());
    }
    assert_eq!(seen.len(), 2, "both servers are used: {seen:?}");
    assert_eq!(gateway.browser().get("events.hats.example", "/shop").send().await.unwrap().status(), 404);
    for (bytes, status) in [(1_024, 200), (1_025, 413)] {
        let request = gateway.browser().post(NAME, "/upload").body(vec![b'a'; bytes]);
        assert_eq!(request.send().await.unwrap().status(), status);
    }
    assert_eq!(gateway.browser().send(NAME, &page_view(PIXEL, "beside")).await.0, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_goes_down_costs_no_request() {
    let standin = Standin::start().await;
    let stays = origin("stays").await;
    let goes = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let goes_at = goes.local_addr().unwrap();
    let account = Account::new("shoes", PIXEL)
        .domain(NAME)
        .top(&format!("upstream = [\"http://{goes_at}\", \"http://{stays}\"]"));
    let site = Site::new(&standin.url).account(account);
    let gateway = Gateway::start(&site).await;
    drop(goes);
    for n in 0..10 {
        let answer = gateway.browser().get(NAME, "/shop").send().await.unwrap();
        assert_eq!(answer.status(), 200, "request {n}");
        assert!(answer.text().await.unwrap().starts_with("stays"), "request {n}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn there_may_be_so_many_connections_and_no_more() {
    let standin = Standin::start().await;
    let (_site, gateway) = shop(&standin, "[limits]\nconnections_max = 3\nhandshake_timeout = \"5m\"\n").await;
    let open = || connect(Ipv4Addr::LOCALHOST, gateway.https()).unwrap();
    // A connection that is let in hears nothing before it has said something.
    let is_let_in = |mut stream: &TcpStream, wait: Duration| {
        stream.set_read_timeout(Some(wait)).unwrap();
        stream.read(&mut [0]).is_err_and(|error| error.kind() == std::io::ErrorKind::WouldBlock)
    };
    let mut held = vec![open(), open(), open()];
    assert!(!is_let_in(&open(), PATIENCE));
    assert!(held.iter().all(|stream| is_let_in(stream, Duration::from_millis(50))));
    assert_eq!(gateway.metric("pixelgate_events_rejected_total", "\"connections\"").await, 1.0);
    drop(held.pop());
    eventually("there is room again", async || is_let_in(&open(), Duration::from_millis(500)).then_some(())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_without_a_request_is_closed_in_both_versions_of_http() {
    let standin = Standin::start().await;
    let (_site, gateway) = shop(&standin, "[limits]\nidle_timeout = \"500ms\"\n").await;
    let mut h1 = Hello::to(NAME).shake(gateway.https()).unwrap();
    write!(h1, "GET /pixelgate.js HTTP/1.1\r\nHost: {NAME}\r\n\r\n").unwrap();
    let mut h2 = Hello { alpn: Some(b"\x02h2"), ..Hello::to(NAME) }.shake(gateway.https()).unwrap();
    // The preface and empty SETTINGS.
    h2.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00").unwrap();
    let begun = Instant::now();
    for stream in [&mut h1, &mut h2] {
        let mut received = Vec::new();
        // Reading ends before the client's own patience does.
        let end = stream.read_to_end(&mut received).map_err(|error| error.kind());
        assert!(!received.is_empty() && end != Err(std::io::ErrorKind::WouldBlock), "{end:?}");
    }
    assert!(begun.elapsed() < PATIENCE, "{:?}", begun.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kept_connection_that_the_only_server_closed_costs_no_request() {
    let standin = Standin::start().await;
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    // Answers once on each connection, keeps it, and closes it when the next request has come.
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            tokio::spawn(async move {
                let mut request = [0; 4096];
                let _ = stream.read(&mut request).await;
                let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await;
                let _ = stream.read(&mut request).await;
            });
        }
    });
    let account = Account::new("shoes", PIXEL).domain(NAME).top(&format!("upstream = [\"http://{address}\"]"));
    let site = Site::new(&standin.url).account(account);
    let gateway = Gateway::start(&site).await;
    for n in 0..6 {
        assert_eq!(gateway.browser().get(NAME, "/shop").send().await.unwrap().status(), 200, "request {n}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_forwarded_body_has_one_limit_for_all_of_it() {
    let standin = Standin::start().await;
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let upstream = listener.local_addr().unwrap();
    // Reads what comes, and does not answer.
    tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        while let Ok(1..) = stream.read(&mut [0; 64]).await {}
    });
    let account = Account::new("shoes", PIXEL).domain(NAME).top(&format!("upstream = [\"http://{upstream}\"]"));
    let site = Site::new(&standin.url).with("[limits]\nbody_timeout = \"1s\"\n").account(account);
    let gateway = Gateway::start(&site).await;
    let mut stream = Hello::to(NAME).shake(gateway.https()).unwrap();
    write!(stream, "POST /upload HTTP/1.1\r\nHost: {NAME}\r\nContent-Length: 1000\r\n\r\n").unwrap();
    stream.get_ref().set_read_timeout(Some(Duration::from_millis(100))).unwrap();
    let begun = Instant::now();
    let mut answer = [0; 512];
    // A byte every tenth of a second: each read is quick, and all of them would take minutes.
    let read = loop {
        let _ = stream.write_all(b"x");
        match stream.read(&mut answer) {
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
            read => break read.unwrap(),
        }
        assert!(begun.elapsed() < Duration::from_secs(10), "nobody put an end to it");
    };
    let answer = String::from_utf8_lossy(&answer[..read]).into_owned();
    assert!(answer.starts_with("HTTP/1.1 408"), "{answer}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_follows_an_upgrade_is_no_body() {
    let standin = Standin::start().await;
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let upstream = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            tokio::spawn(async move {
                let mut bytes = [0; 4096];
                let _ = stream.read(&mut bytes).await;
                let _ = stream
                    .write_all(b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n")
                    .await;
                while let Ok(read @ 1..) = stream.read(&mut bytes).await {
                    let _ = stream.write_all(&bytes[..read]).await;
                }
            });
        }
    });
    let account = Account::new("shoes", PIXEL).domain(NAME).top(&format!("upstream = [\"http://{upstream}\"]"));
    let limits = "[limits]\nbody_timeout = \"300ms\"\nupstream_body_bytes_max = 1_024\n";
    let site = Site::new(&standin.url).with(limits).account(account);
    let gateway = Gateway::start(&site).await;
    let upgraded = || {
        let mut stream = Hello::to(NAME).shake(gateway.https()).unwrap();
        write!(stream, "GET /socket HTTP/1.1\r\nHost: {NAME}\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n")
            .unwrap();
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            stream.read_exact(&mut byte).unwrap();
            head.extend(byte);
        }
        assert!(head.starts_with(b"HTTP/1.1 101"), "{}", String::from_utf8_lossy(&head));
        // Three times the limit of a body in silence, and then four times its size.
        stream.get_ref().set_read_timeout(Some(Duration::from_millis(900))).unwrap();
        let early = stream.read(&mut [0; 1]).map_err(|error| error.kind());
        (early == Err(std::io::ErrorKind::WouldBlock)).then_some(stream)
    };
    // Pingora 0.9.1 takes the end of a request without a body for the connection's if a server answers sooner than that is
    // passed on: it ends at once then, whatever the limits.
    let mut stream = (0..10).find_map(|_| upgraded()).expect("a connection that lasts");
    stream.get_ref().set_read_timeout(Some(PATIENCE)).unwrap();
    let mut echoed = vec![0; 4_096];
    stream.write_all(&vec![b'e'; 4_096]).unwrap();
    stream.read_exact(&mut echoed).unwrap();
    assert!(echoed.iter().all(|byte| *byte == b'e'));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_waits_for_requests_and_not_for_idle_connections() {
    let standin = Standin::start().await;
    let (_site, mut gateway) = shop(&standin, "").await;
    let _silent = TcpStream::connect(gateway.https()).unwrap();
    let _plain = TcpStream::connect(gateway.ready.http[0]).unwrap();
    let _idle = Hello::to(NAME).shake(gateway.https()).unwrap();
    let mut h2 = Hello { alpn: Some(b"\x02h2"), ..Hello::to(NAME) }.shake(gateway.https()).unwrap();
    // The preface and empty SETTINGS; then it says nothing more, not even to a PING.
    h2.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00").unwrap();
    assert!(h2.read(&mut [0; 512]).unwrap() > 0);
    let begun = Instant::now();
    assert!(gateway.stop().await.success());
    assert!(begun.elapsed() < Duration::from_secs(2), "{:?}", begun.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn listeners_stand_on_ipv4_and_ipv6_side_by_side() {
    let standin = Standin::start().await;
    let site = Site::new(&standin.url).account(Account::new("shoes", PIXEL).domain(NAME));
    let toml = std::fs::read_to_string(site.path("pixelgate.toml")).unwrap();
    site.write("pixelgate.toml", toml.replace("https = [\"127.0.0.1:0\"]", "https = [\"127.0.0.1:0\", \"[::1]:0\"]"));
    let gateway = Gateway::start(&site).await;
    assert_eq!(gateway.ready.https.len(), 2);
    for (n, address) in gateway.ready.https.iter().enumerate() {
        let browser = Browser::new(*address, site.authority.pem());
        assert_eq!(browser.send(NAME, &page_view(PIXEL, &format!("v{n}"))).await.0, 200);
    }
}

/// A web server that answers with its name and the request it got, header names in lower case.
async fn origin(name: &'static str) -> SocketAddr {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let echo = move |request: axum::extract::Request| async move {
        let mut text = format!("{name}\n{} {}\n", request.method(), request.uri());
        for (key, value) in request.headers() {
            text.push_str(&format!("{key}: {}\n", value.to_str().unwrap_or("?")));
        }
        text
    };
    tokio::spawn(async move { axum::serve(listener, axum::Router::new().fallback(echo)).await });
    address
}
