//! A Graph API in this process that does what a test tells it, over plain HTTP or TLS with HTTP/2.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::{Request, Response, Version};
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio_rustls::TlsAcceptor;

/// One request, as it arrived.
#[derive(Clone, Debug)]
pub(super) struct Seen {
    pub(super) at: Instant,
    pub(super) version: Version,
    pub(super) uri: String,
    pub(super) headers: http::HeaderMap,
    pub(super) body: Value,
}

/// What the Graph API does with a request.
#[derive(Clone, Debug)]
pub(super) enum Behaviour {
    /// Takes all events.
    Take,
    /// Answers something else.
    Answer(u16, Vec<(&'static str, String)>, String),
    /// Closes the connection, the body read.
    Close,
    /// Does not answer at all.
    Hang,
}

type Decide = dyn Fn(&Seen) -> Behaviour + Send + Sync;

/// A Graph API on 127.0.0.1; it lives as long as the test's runtime.
pub(super) struct Graph {
    pub(super) url: String,
    seen: Arc<Mutex<Vec<Seen>>>,
}

#[derive(Clone)]
struct Api {
    seen: Arc<Mutex<Vec<Seen>>>,
    permits: Option<Arc<Semaphore>>,
    decide: Arc<Decide>,
}

// === impl Seen ===

impl Seen {
    pub(super) fn pixel(&self) -> &str {
        self.uri.split('/').nth(2).unwrap()
    }

    /// The ids of the events, in the order of the document.
    pub(super) fn ids(&self) -> Vec<String> {
        let events = self.body["data"].as_array().cloned().unwrap_or_default();
        events.iter().map(|event| event["event_id"].as_str().unwrap().to_owned()).collect()
    }

    pub(super) fn has(&self, id: &str) -> bool {
        self.ids().iter().any(|seen| seen == id)
    }
}

// === impl Behaviour ===

impl Behaviour {
    /// Meta's error envelope.
    pub(super) fn error(status: u16, code: i64, subcode: Option<i64>) -> Self {
        let mut error =
            json!({ "message": "refused", "type": "OAuthException", "code": code, "fbtrace_id": "Atrace1" });
        if let Some(subcode) = subcode {
            error["error_subcode"] = subcode.into();
        }
        Self::Answer(status, Vec::new(), json!({ "error": error }).to_string())
    }
}

// === impl Graph ===

impl Graph {
    pub(super) async fn start(decide: impl Fn(&Seen) -> Behaviour + Send + Sync + 'static) -> Self {
        Self::start_with(None, decide).await
    }

    /// Over TLS, if there is an acceptor.
    pub(super) async fn start_with(
        tls: Option<TlsAcceptor>,
        decide: impl Fn(&Seen) -> Behaviour + Send + Sync + 'static,
    ) -> Self {
        Self::listen(tls, None, decide).await
    }

    /// Each answer takes a permit.
    pub(super) async fn start_slow(
        permits: Arc<Semaphore>,
        decide: impl Fn(&Seen) -> Behaviour + Send + Sync + 'static,
    ) -> Self {
        Self::listen(None, Some(permits), decide).await
    }

    async fn listen(
        tls: Option<TlsAcceptor>,
        permits: Option<Arc<Semaphore>>,
        decide: impl Fn(&Seen) -> Behaviour + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind(SocketAddr::from((Ipv4Addr::LOCALHOST, 0))).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let url = format!("{}://127.0.0.1:{port}", if tls.is_some() { "https" } else { "http" });
        let seen = Arc::<Mutex<Vec<Seen>>>::default();
        let graph = Self { url, seen: seen.clone() };
        let api = Api { seen, permits, decide: Arc::new(decide) };
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (tls, api) = (tls.clone(), api.clone());
                tokio::spawn(async move {
                    match tls {
                        None => serve(stream, api).await,
                        Some(tls) => {
                            if let Ok(stream) = tls.accept(stream).await {
                                serve(stream, api).await;
                            }
                        }
                    }
                });
            }
        });
        graph
    }

    pub(super) fn seen(&self) -> Vec<Seen> {
        self.seen.lock().unwrap().clone()
    }

    /// Waits until the requests are as wanted.
    pub(super) async fn until(&self, what: &str, wanted: impl Fn(&[Seen]) -> bool) -> Vec<Seen> {
        let deadline = Instant::now() + Duration::from_secs(20);
        loop {
            let seen = self.seen();
            if wanted(&seen) {
                return seen;
            }
            assert!(Instant::now() < deadline, "{what}: {:?}", seen.iter().map(Seen::ids).collect::<Vec<_>>());
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }
}

async fn serve(stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static, api: Api) {
    let service = service_fn(move |request| {
        let api = api.clone();
        async move { api.answer(request).await }
    });
    let _closed = auto::Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(stream), service).await;
}

// === impl Api ===

impl Api {
    async fn answer(&self, request: Request<Incoming>) -> io::Result<Response<Full<Bytes>>> {
        let at = Instant::now();
        let (parts, body) = request.into_parts();
        let body = body.collect().await.map_err(io::Error::other)?.to_bytes();
        let uri = parts.uri.path_and_query().unwrap().to_string();
        let body = serde_json::from_slice(&body).unwrap_or_default();
        let request = Seen { at, version: parts.version, uri, headers: parts.headers, body };
        let behaviour = (self.decide)(&request);
        let events = request.ids().len();
        self.seen.lock().unwrap().push(request);
        if let Some(permits) = &self.permits {
            permits.acquire().await.unwrap().forget();
        }
        match behaviour {
            Behaviour::Hang => std::future::pending().await,
            Behaviour::Close => Err(io::Error::other("closed")),
            Behaviour::Answer(status, headers, body) => Ok(response(status, headers, body)),
            Behaviour::Take => {
                let answer = json!({ "events_received": events, "messages": [], "fbtrace_id": "Atrace2" });
                Ok(response(200, Vec::new(), answer.to_string()))
            }
        }
    }
}

fn response(status: u16, headers: Vec<(&'static str, String)>, body: String) -> Response<Full<Bytes>> {
    let mut builder = Response::builder().status(status);
    for (name, value) in headers {
        builder = builder.header(name, value);
    }
    builder.body(Full::new(Bytes::from(body))).unwrap()
}
