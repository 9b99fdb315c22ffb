use std::io::{Read, Write};
use std::net::TcpStream;

use boring::ssl::SslStream;
use serde_json::json;

use crate::util::client::page_view;
use crate::util::{Account, Gateway, Hello, Site, Standin, eventually};

const PIXEL: u64 = 3101;
const NAME: &str = "events.shoes.example";
const OTHER_PIXEL: u64 = 3102;
const OTHER: &str = "events.hats.example";

fn connect(gateway: &Gateway) -> SslStream<TcpStream> {
    Hello::to(NAME).shake(gateway.https()).unwrap()
}

async fn shop(standin: &Standin, limits: &str) -> (Site, Gateway) {
    let site = Site::new(&standin.url)
        .listen("trusted_proxies = [\"127.0.0.0/8\"]")
        .with(&format!("[limits]\nbody_timeout = \"1m\"\n{limits}"))
        .account(Account::new("shoes", PIXEL).domain(NAME).ingest_key("backend", "key-of-shoes"))
        .account(Account::new("hats", OTHER_PIXEL).domain(OTHER).ingest_key("backend", "key-of-hats"));
    let gateway = Gateway::start(&site).await;
    (site, gateway)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_key_is_refused_before_the_body_comes() {
    let standin = Standin::start().await;
    let (_site, gateway) = shop(&standin, "").await;
    for (query, header) in
        [("", "Authorization: Bearer wrong\r\n"), ("?access_token=key-of-hats", ""), ("?access_token=%20", "")]
    {
        let mut stream = connect(&gateway);
        let length = "Content-Length: 1000000";
        write!(stream, "POST /v26.0/{PIXEL}/events{query} HTTP/1.1\r\nHost: {NAME}\r\n{header}{length}\r\n\r\n{{")
            .unwrap();
        let mut answer = String::new();
        let _ = stream.read_to_string(&mut answer);
        assert!(answer.starts_with("HTTP/1.1 401"), "{query} {header}: {answer}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_header_that_does_not_end_ends_the_connection() {
    let standin = Standin::start().await;
    let limits = "header_timeout = \"5m\"\nheader_bytes_max = 16_384\n";
    let (_site, gateway) = shop(&standin, limits).await;
    let sent = |bytes: usize| {
        let mut stream = connect(&gateway);
        // One that is refused may be closed before it has sent all.
        let _ = write!(stream, "GET /pixelgate.js HTTP/1.1\r\nHost: {NAME}\r\nConnection: close\r\n");
        let _ = write!(stream, "X-Filler: {}\r\n\r\n", "x".repeat(bytes));
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer);
        answer.starts_with(b"HTTP/1.1 200")
    };
    assert!(sent(12_000));
    assert!(!sent(64_000));
    assert!(gateway.metric("pixelgate_events_rejected_total", "header_too_large").await >= 1.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_shows_no_key_keeps_nobody_else_out() {
    let standin = Standin::start().await;
    let limits = "bodies_in_memory_max = 4_194_304\ngraph_body_bytes_max = 1_048_576\n";
    let (_site, gateway) = shop(&standin, limits).await;
    // Six sources begin bodies that would fill the memory, and say nothing more.
    let held: Vec<_> = (1..=6)
        .map(|source| {
            let mut stream = connect(&gateway);
            std::thread::spawn(move || {
                let head = format!(
                    "POST /v26.0/{PIXEL}/events HTTP/1.1\r\nHost: {NAME}\r\nX-Forwarded-For: 203.0.113.{source}\r\n\
                     Content-Length: 1048576\r\n\r\n"
                );
                // One that is refused may be closed before it has sent all.
                let _ = stream.write_all(head.as_bytes());
                let _ = stream.write_all(&vec![b' '; 1_048_574]);
                stream
            })
        })
        .collect();
    let refused = async || gateway.metric("pixelgate_events_rejected_total", "no_memory").await;
    eventually("no more than two find room", async || (refused().await >= 4.0).then_some(())).await;

    assert_eq!(gateway.browser().send(OTHER, &page_view(OTHER_PIXEL, "browser")).await.0, 200);
    let event = json!({"event_name": "Purchase", "event_id": "server", "event_time": 1_700_000_000,
        "action_source": "website", "user_data": {"fbp": "fb.1.1.2"}});
    let path = format!("/v26.0/{OTHER_PIXEL}/events");
    let request = gateway.browser().post(OTHER, &path).bearer_auth("key-of-hats");
    let answer = request.body(json!({"data": [event]}).to_string()).send().await.unwrap();
    assert_eq!(answer.status(), 200, "{}", answer.text().await.unwrap_or_default());
    held.into_iter().for_each(|sending| drop(sending.join()));
}
