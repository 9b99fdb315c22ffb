use std::net::{IpAddr, SocketAddr};

use boring::x509::X509;
use hickory_resolver::TokioResolver;
use hickory_resolver::config::{ConnectionConfig, NameServerConfig, ResolverConfig};
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use instant_acme::{Account, ChallengeType, Identifier, NewAccount, NewOrder, OrderStatus, RetryPolicy};
use pixelgate::issuance::Dns;
use serde_json::json;

use crate::util::Pebble;
use crate::util::pebble::Manners;

const NAME: &str = "events.shoes.example";

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
    let answer =
        client.user_agent("Tester/0").no_proxy().build().unwrap().get(pebble.directory()).send().await.unwrap();
    let directory: serde_json::Value = serde_json::from_slice(&answer.bytes().await.unwrap()).unwrap();
    assert!(directory["newOrder"].is_string() && directory["renewalInfo"].is_string(), "{directory}");
    assert!(directory["meta"]["profiles"]["shortlived"].is_string(), "{directory}");
    assert!(pebble.root().await.contains("BEGIN CERTIFICATE"));

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
    let pebble = Pebble::start_with(&Manners { trusting: true, nonces_refused: 30, ..Manners::default() }).await;
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
    assert_eq!(forbidden.caa, ["0 issue \"digicert.com\""]);
    assert!(forbidden.findings[0].remedy.contains("add to hats.example: CAA 0 issue"), "{forbidden:?}");
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
async fn empty_dns(rcode: u8) -> SocketAddr {
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
    let builder = Account::builder_with_root(pebble.ca_file()).unwrap();
    let (account, _) = builder.create(&account, pebble.directory(), None).await.unwrap();
    let mut order = account.new_order(&NewOrder::new(&[Identifier::Dns(name.to_owned())])).await.unwrap();
    let mut authorizations = order.authorizations();
    while let Some(authorization) = authorizations.next().await {
        authorization.unwrap().challenge(ChallengeType::Http01).unwrap().set_ready().await.unwrap();
    }
    let retries = RetryPolicy::default();
    assert_eq!(order.poll_ready(&retries).await.unwrap(), OrderStatus::Ready);
    let key = order.finalize().await.unwrap();
    (order.poll_certificate(&retries).await.unwrap(), key)
}
