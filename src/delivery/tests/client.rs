//! What the client sends, and how it tells what was sent from what was not.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::Version;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};

use super::graph::{Behaviour, Graph};
use super::rig::settings;
use crate::account::AccessToken;
use crate::config::DeliveryConfig;
use crate::delivery::graph::{AnswerBody, DeliveryError, GraphClient, Reply};

const DOCUMENT: &[u8] = br#"{"data":[{"event_id":"1"}]}"#;

async fn send(settings: &DeliveryConfig) -> Reply {
    let client = GraphClient::new(settings).unwrap();
    let token = AccessToken::new("EAAtoken");
    client.send("42".parse().unwrap(), &token, Bytes::from_static(DOCUMENT)).await
}

async fn reply_to(behaviour: Behaviour) -> Reply {
    let graph = Graph::start(move |_| behaviour.clone()).await;
    send(&settings(&graph.url)).await
}

#[tokio::test]
async fn the_token_is_in_a_header_and_nowhere_else() {
    let graph = Graph::start(|_| Behaviour::Take).await;
    let Reply::Answered(answer) = send(&settings(&graph.url)).await else { unreachable!() };
    assert_eq!((answer.status, answer.body), (200, AnswerBody::Received(1)));
    let [seen] = graph.seen().try_into().unwrap();
    assert_eq!(seen.uri, "/v26.0/42/events");
    assert_eq!(seen.headers["authorization"], "Bearer EAAtoken");
    assert_eq!(seen.headers["content-type"], "application/json");
    assert_eq!(seen.headers["user-agent"], concat!("pixelgate/", env!("CARGO_PKG_VERSION")));
    assert_eq!(seen.body, serde_json::from_slice::<serde_json::Value>(DOCUMENT).unwrap());
}

#[tokio::test]
async fn redirects_are_answers_and_not_followed() {
    let elsewhere = Graph::start(|_| Behaviour::Take).await;
    let to = vec![("location", format!("{}/v26.0/42/events", elsewhere.url))];
    let reply = reply_to(Behaviour::Answer(307, to, String::new())).await;
    assert!(matches!(reply, Reply::Answered(answer) if answer.status == 307));
    assert!(elsewhere.seen().is_empty());
}

#[tokio::test]
async fn a_refused_connection_was_not_sent_and_a_closed_one_may_have_been() {
    let unused = std::net::TcpListener::bind(SocketAddr::from((Ipv4Addr::LOCALHOST, 0))).unwrap();
    let url = format!("http://{}", unused.local_addr().unwrap());
    drop(unused);
    let reply = send(&settings(&url)).await;
    assert!(matches!(&reply, Reply::NotSent(why) if !why.contains(&url)), "{reply:?}");
    assert!(matches!(reply_to(Behaviour::Close).await, Reply::Lost(_)));
}

#[tokio::test]
async fn a_request_without_an_answer_in_time_may_have_been_sent() {
    let graph = Graph::start(|_| Behaviour::Hang).await;
    let settings = DeliveryConfig { timeout: Duration::from_millis(200), ..settings(&graph.url) };
    assert!(matches!(send(&settings).await, Reply::Lost(why) if why.contains("no answer in time")));
    assert_eq!(graph.seen().len(), 1);
}

#[tokio::test]
async fn an_answer_without_end_is_cut() {
    let endless = format!(r#"{{"events_received":1,"messages":["{}"]}}"#, "x".repeat(300_000));
    let reply = reply_to(Behaviour::Answer(200, Vec::new(), endless)).await;
    assert!(matches!(reply, Reply::Answered(answer) if answer.body == AnswerBody::Cut && answer.status == 200));
}

#[tokio::test]
async fn a_token_that_no_header_may_hold_is_not_sent() {
    let client = GraphClient::new(&settings("http://127.0.0.1:9")).unwrap();
    let reply = client.send("42".parse().unwrap(), &AccessToken::new("EAA\nX: y"), Bytes::new()).await;
    assert_eq!(reply, Reply::UnusableToken);
}

/// TLS for 127.0.0.1 with HTTP/2 offered, and the file to trust it by.
fn tls(folder: &Path) -> (TlsAcceptor, PathBuf) {
    let made = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).unwrap();
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(made.signing_key.serialize_der()));
    let mut config =
        ServerConfig::builder().with_no_client_auth().with_single_cert(vec![made.cert.der().clone()], key).unwrap();
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    let ca_file = folder.join("ca.pem");
    std::fs::write(&ca_file, made.cert.pem()).unwrap();
    (TlsAcceptor::from(Arc::new(config)), ca_file)
}

#[tokio::test]
async fn a_private_ca_is_trusted_and_http_2_is_spoken() {
    let folder = tempfile::tempdir().unwrap();
    let (acceptor, ca_file) = tls(folder.path());
    let graph = Graph::start_with(Some(acceptor), |_| Behaviour::Take).await;
    let untrusted = send(&settings(&graph.url)).await;
    assert!(matches!(untrusted, Reply::NotSent(_)), "{untrusted:?}");
    let reply = send(&DeliveryConfig { ca_file: Some(ca_file), ..settings(&graph.url) }).await;
    assert!(matches!(&reply, Reply::Answered(answer) if answer.status == 200), "{reply:?}");
    assert_eq!(graph.seen()[0].version, Version::HTTP_2);
}

#[tokio::test]
async fn only_a_stream_that_was_refused_was_not_sent() {
    for (reason, sent) in [(h2::Reason::REFUSED_STREAM, false), (h2::Reason::INTERNAL_ERROR, true)] {
        let folder = tempfile::tempdir().unwrap();
        let (acceptor, ca_file) = tls(folder.path());
        let listener = tokio::net::TcpListener::bind(SocketAddr::from((Ipv4Addr::LOCALHOST, 0))).await.unwrap();
        let url = format!("https://{}", listener.local_addr().unwrap());
        tokio::spawn(async move {
            let stream = acceptor.accept(listener.accept().await.unwrap().0).await.unwrap();
            let mut connection = h2::server::handshake(stream).await.unwrap();
            while let Some(Ok((_, mut respond))) = connection.accept().await {
                respond.send_reset(reason);
            }
        });
        let reply = send(&DeliveryConfig { ca_file: Some(ca_file), ..settings(&url) }).await;
        assert_eq!(matches!(reply, Reply::Lost(_)), sent, "{reply:?}");
        assert_eq!(matches!(reply, Reply::NotSent(_)), !sent, "{reply:?}");
    }
}

#[test]
fn a_ca_file_that_is_none_is_told() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("ca.pem");
    let client =
        || GraphClient::new(&DeliveryConfig { ca_file: Some(path.clone()), ..settings("https://graph.example") });
    assert!(matches!(client(), Err(DeliveryError::CaUnreadable { .. })));
    std::fs::write(&path, "no certificate").unwrap();
    assert!(matches!(client(), Err(DeliveryError::CaMalformed { .. })));
}
