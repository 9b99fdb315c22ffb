use std::net::SocketAddr;

use boring::x509::X509;
use hickory_resolver::TokioResolver;
use hickory_resolver::config::{ConnectionConfig, NameServerConfig, ResolverConfig};
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use instant_acme::{Account, ChallengeType, Identifier, NewAccount, NewOrder, OrderStatus, RetryPolicy};
use serde_json::json;

use crate::util::Pebble;
use crate::util::pebble::Manners;

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
