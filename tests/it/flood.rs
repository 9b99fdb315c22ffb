use std::io::{Read, Write};
use std::net::Ipv4Addr;
use std::thread;

use crate::util::client::page_view;
use crate::util::hello::connect;
use crate::util::{Account, Gateway, Hello, Site, Standin, eventually};

const PIXEL: u64 = 4001;
const NAME: &str = "events.shoes.example";
const FLOOD: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 2);
const VISITOR: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 3);

async fn shop(standin: &Standin, limits: &str) -> (Site, Gateway) {
    let site = Site::new(&standin.url)
        .with(&format!("[limits]\n{limits}\n"))
        .account(Account::new("shoes", PIXEL).domain(NAME));
    let gateway = Gateway::start(&site).await;
    (site, gateway)
}

/// Makes so many handshakes at one time; how many of them succeed.
fn shake_at_once(hello: Hello<'_>, gateway: &Gateway, count: usize) -> usize {
    let https = gateway.https();
    thread::scope(|scope| {
        let shaking: Vec<_> = (0..count).map(|_| scope.spawn(|| hello.shake(https).is_ok())).collect();
        shaking.into_iter().filter_map(|shaken| shaken.join().ok()).filter(|ok| *ok).count()
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn handshakes_in_excess_are_shed_from_the_gateways_own_address_too() {
    let standin = Standin::start().await;
    let (_site, gateway) = shop(&standin, "handshakes_per_second = 5").await;
    let mut shed = 0;
    // A proxy on this machine brings its visitors from the address that it sends them to.
    for from in [VISITOR, Ipv4Addr::LOCALHOST] {
        let served = shake_at_once(Hello { from, ..Hello::to(NAME) }, &gateway, 40);
        // One at once and those of a second; more only if the forty took more than one to come.
        assert!((2..=20).contains(&served), "{from}: {served}");
        shed += 40 - served;
        assert_eq!(gateway.metric("pixelgate_handshakes_total", "\"limited\"").await as usize, shed);
    }
    assert!(gateway.log().lines().filter(|line| line.contains("WARN")).count() <= 2, "{}", gateway.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn one_address_begins_so_many_handshakes_and_no_more() {
    let standin = Standin::start().await;
    let (_site, gateway) = shop(&standin, "handshakes_per_second_per_ip = 5").await;
    let served = shake_at_once(Hello { from: FLOOD, ..Hello::to(NAME) }, &gateway, 40);
    assert!((5..=25).contains(&served), "{served}");
    let limited = gateway.metric("pixelgate_handshakes_total", "limited_per_ip").await;
    assert_eq!(limited as usize, 40 - served);
    assert!(Hello { from: VISITOR, ..Hello::to(NAME) }.shake(gateway.https()).is_ok(), "the others do not notice");
    let flood = Hello { from: FLOOD, ..Hello::to(NAME) };
    eventually("a second later there is room again", async || flood.shake(gateway.https()).ok()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_says_nothing_takes_little_memory() {
    const SILENT: usize = 600;
    let standin = Standin::start().await;
    let (_site, gateway) = shop(&standin, "handshake_timeout = \"1m\"").await;
    let _ = gateway.ops("/metrics").await;
    let before = gateway.resident();
    let from = |n: usize| Ipv4Addr::from_bits(FLOOD.to_bits() + n as u32 % 10);
    let _silent: Vec<_> = (0..SILENT).map(|n| connect(from(n), gateway.https()).unwrap()).collect();
    eventually("all are accepted", async || {
        (gateway.metric("pixelgate_connections", "").await == SILENT as f64).then_some(())
    })
    .await;
    let each = gateway.resident().saturating_sub(before) / SILENT;
    assert!(each <= 5_000, "{each} bytes each");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flood_that_is_no_handshake_sheds_no_visitor() {
    let standin = Standin::start().await;
    let (_site, gateway) = shop(&standin, "handshakes_per_second = 5").await;
    let (https, unknown) = (gateway.https(), Hello::to("unknown.example").bytes());
    let nameless = Hello { sni: None, ..Hello::to("") }.bytes();
    let silent: Vec<_> = (0..100).map(|_| connect(FLOOD, https).unwrap()).collect();
    for n in 0..100 {
        let first: &[u8] = if n % 2 == 0 { &unknown } else { &nameless };
        for bytes in [first, b"GET / HTTP/1.1\r\n\r\n", b"\x16"] {
            let mut stream = connect(FLOOD, https).unwrap();
            stream.write_all(bytes).unwrap();
            stream.shutdown(std::net::Shutdown::Write).unwrap();
            // Until the gateway is through with it.
            let _ = stream.read_to_end(&mut Vec::new());
        }
    }
    for n in 0..3 {
        let mut stream = Hello { from: VISITOR, ..Hello::to(NAME) }.shake(https).expect("a visitor is served");
        let body = page_view(PIXEL, &format!("v{n}")).to_string();
        let head = format!("POST /events HTTP/1.1\r\nHost: {NAME}\r\nContent-Length: {}\r\n", body.len());
        write!(stream, "{head}Connection: close\r\n\r\n{body}").unwrap();
        let mut answer = String::new();
        let _ = stream.read_to_string(&mut answer);
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    }
    drop(silent);
    let counted = async |result: &str| gateway.metric("pixelgate_handshakes_total", result).await;
    assert_eq!((counted("unknown_name").await, counted("no_name").await), (50.0, 50.0));
    assert_eq!(counted("limited").await, 0.0);
    standin.took(PIXEL, &["v0", "v1", "v2"]).await;
}
