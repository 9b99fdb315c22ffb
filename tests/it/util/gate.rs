//! A gate before Pebble, which a test can open and shut: it refuses, holds and changes what passes, as a CA in trouble or
//! one with manners of its own would.

use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{Request, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::serve::Listener;
use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::crypto::aws_lc_rs::default_provider;
use tokio_rustls::server::TlsStream;

use super::{Pebble, eventually};

/// New accounts at Pebble.
pub(crate) const ACCOUNTS: &str = "/sign-me-up";
/// New orders at Pebble.
pub(crate) const ORDERS: &str = "/order-plz";
/// Authorisations at Pebble.
pub(crate) const AUTHORISATIONS: &str = "/authZ/";
/// Orders at Pebble that are to be issued.
pub(crate) const FINALISATIONS: &str = "/finalize-order/";
/// Certificates at Pebble.
pub(crate) const CERTIFICATES: &str = "/certZ/";

/// Pebble takes only requests that were signed for https.
struct Tls {
    listener: TcpListener,
    acceptor: TlsAcceptor,
}

/// The gate.
pub(crate) struct Gate {
    address: SocketAddr,
    shared: Arc<Shared>,
}

struct Shared {
    client: reqwest::Client,
    pebble: String,
    refusals: Mutex<Vec<Refusal>>,
    /// Requests whose path begins so wait.
    held: watch::Sender<Option<&'static str>>,
    /// How many do.
    waiting: AtomicUsize,
    /// The keys that it takes out of the answers to new orders, and what it adds to `meta` of the directory.
    manners: Mutex<(Vec<&'static str>, Value)>,
}

/// A request that waits.
struct Waits<'s>(&'s Shared);

/// Requests that are refused.
#[derive(Clone)]
pub(crate) struct Refusal {
    /// Their path begins so.
    pub(crate) path: &'static str,
    /// They are about this.
    pub(crate) about: &'static str,
    /// So many before them pass.
    pub(crate) skip: usize,
    /// So many are refused.
    pub(crate) times: usize,
    pub(crate) status: u16,
    /// The kind of problem (RFC 8555, 6.7), and what it says.
    pub(crate) problem: (&'static str, String),
    /// Seconds.
    pub(crate) retry_after: Option<u32>,
}

impl Gate {
    pub(crate) async fn before(pebble: &Pebble) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let (chain, key) = pebble.credential("127.0.0.1");
        let chain = CertificateDer::pem_slice_iter(chain.as_bytes()).collect::<Result<_, _>>().expect("PEM");
        let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).expect("PEM");
        let config = ServerConfig::builder_with_provider(Arc::new(default_provider()));
        let config = config.with_safe_default_protocol_versions().expect("TLS").with_no_client_auth();
        let config = config.with_single_cert(chain, key).expect("a key and its chain");
        let tls = Tls { listener, acceptor: TlsAcceptor::from(Arc::new(config)) };
        let shared = Arc::new(Shared {
            client: pebble.client(),
            pebble: pebble.directory().trim_end_matches("/dir").to_owned(),
            refusals: Mutex::default(),
            held: watch::Sender::new(None),
            waiting: AtomicUsize::new(0),
            manners: Mutex::new((Vec::new(), json!({}))),
        });
        let router = Router::new().fallback(pass).with_state(shared.clone());
        tokio::spawn(async move { axum::serve(tls, router).await });
        Self { address, shared }
    }

    /// The URL of the ACME directory.
    pub(crate) fn directory(&self) -> String {
        format!("https://{}/dir", self.address)
    }

    pub(crate) fn refuse(&self, refusal: Refusal) {
        self.shared.refusals.lock().unwrap().push(refusal);
    }

    /// Nothing is refused any more.
    pub(crate) fn open(&self) {
        self.shared.refusals.lock().unwrap().clear();
    }

    /// Requests whose path begins so wait until the next call.
    pub(crate) fn hold(&self, path: Option<&'static str>) {
        self.shared.held.send_replace(path);
    }

    /// Waits until so many requests wait.
    pub(crate) async fn has_waiting(&self, requests: usize) {
        let wait = async || (self.shared.waiting.load(Ordering::Relaxed) == requests).then_some(());
        eventually(&format!("{requests} requests wait at the gate"), wait).await;
    }

    /// Leaves a key out of the answers to new orders.
    pub(crate) fn never_say(&self, key: &'static str) {
        self.shared.manners.lock().unwrap().0.push(key);
    }

    /// Says this in the directory's `meta`.
    pub(crate) fn say(&self, meta: Value) {
        self.shared.manners.lock().unwrap().1 = meta;
    }
}

impl<'s> Waits<'s> {
    fn of(shared: &'s Shared) -> Self {
        shared.waiting.fetch_add(1, Ordering::Relaxed);
        Self(shared)
    }
}

impl Drop for Waits<'_> {
    fn drop(&mut self) {
        self.0.waiting.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Listener for Tls {
    type Io = TlsStream<TcpStream>;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Self::Io, Self::Addr) {
        loop {
            if let Ok((socket, from)) = self.listener.accept().await
                && let Ok(tls) = self.acceptor.accept(socket).await
            {
                return (tls, from);
            }
        }
    }

    fn local_addr(&self) -> io::Result<Self::Addr> {
        self.listener.local_addr()
    }
}

async fn pass(State(shared): State<Arc<Shared>>, request: Request) -> Response {
    let (parts, body) = request.into_parts();
    let path = parts.uri.path().to_owned();
    let mut held = shared.held.subscribe();
    let is_held = held.borrow().is_some_and(|held| path.starts_with(held));
    if is_held {
        let _waits = Waits::of(&shared);
        let _ = held.wait_for(|held| !held.is_some_and(|held| path.starts_with(held))).await;
    }
    let body = axum::body::to_bytes(body, 1 << 20).await.unwrap_or_default();
    if let Some(refusal) = shared.refusal(&path, &about(&body)) {
        let (kind, detail) = refusal.problem;
        let problem = json!({ "type": format!("urn:ietf:params:acme:error:{kind}"), "detail": detail });
        let mut answer = (StatusCode::from_u16(refusal.status).unwrap(), problem.to_string()).into_response();
        answer.headers_mut().insert(header::CONTENT_TYPE, "application/problem+json".parse().unwrap());
        if let Some(seconds) = refusal.retry_after {
            answer.headers_mut().insert(header::RETRY_AFTER, seconds.into());
        }
        return answer;
    }
    let mut headers = parts.headers;
    headers.remove(header::CONTENT_LENGTH);
    let request = shared.client.request(parts.method, format!("{}{path}", shared.pebble)).headers(headers).body(body);
    let Ok(answer) = request.send().await else { return StatusCode::BAD_GATEWAY.into_response() };
    let (status, headers) = (answer.status(), answer.headers().clone());
    let body = answer.bytes().await.unwrap_or_default();
    let mut passed = Response::new(Body::from(shared.with_manners(&path, &body)));
    *passed.status_mut() = status;
    *passed.headers_mut() = end_to_end(headers);
    passed
}

fn end_to_end(mut headers: HeaderMap) -> HeaderMap {
    for hop in [header::CONTENT_LENGTH, header::TRANSFER_ENCODING, header::CONNECTION] {
        headers.remove(hop);
    }
    headers
}

/// The payload of a signed request (RFC 8555, 6.2).
fn about(body: &[u8]) -> String {
    let payload = serde_json::from_slice::<Value>(body)
        .ok()
        .and_then(|body| BASE64_URL_SAFE_NO_PAD.decode(body["payload"].as_str()?).ok());
    String::from_utf8_lossy(&payload.unwrap_or_default()).into_owned()
}

impl Shared {
    fn refusal(&self, path: &str, about: &str) -> Option<Refusal> {
        let mut refusals = self.refusals.lock().unwrap();
        let mut these =
            refusals.iter_mut().filter(|refusal| path.starts_with(refusal.path) && about.contains(refusal.about));
        let refusal = these.find(|refusal| refusal.times > 0)?;
        if refusal.skip > 0 {
            refusal.skip -= 1;
            return None;
        }
        refusal.times -= 1;
        Some(refusal.clone())
    }

    fn with_manners(&self, path: &str, body: &Bytes) -> Bytes {
        let (silent, meta) = self.manners.lock().unwrap().clone();
        let Ok(mut json) = serde_json::from_slice::<Value>(body) else { return body.clone() };
        if path == "/dir" {
            let known = json["meta"].as_object_mut().expect("meta");
            known.extend(meta.as_object().cloned().unwrap_or_default());
        } else if path == ORDERS {
            let order = json.as_object_mut().expect("an order");
            silent.iter().for_each(|key| drop(order.remove(*key)));
        } else {
            return body.clone();
        }
        json.to_string().into()
    }
}
