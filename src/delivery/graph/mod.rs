//! The Graph API's client: one connection pool, HTTP/2 where offered, the token in a header and nowhere else.
//!
//! The only place that knows Meta's field names on the way out: [`document`] writes a request, [`Answer`] reads what
//! comes back. What an answer *means* is for `outcome.rs`.

mod answer;
mod document;

use std::error::Error as _;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::{Duration, UNIX_EPOCH};

use bytes::Bytes;
use http::HeaderValue;
use http::header::{AUTHORIZATION, CONTENT_TYPE};
use reqwest::{Certificate, Client, Response, Url, redirect};

use crate::account::{AccessToken, PixelId};
use crate::clock::now_ms;
use crate::config::DeliveryConfig;

pub(crate) use answer::{Answer, AnswerBody, GraphError};
pub(crate) use document::{document, is_physical_store};

/// Bytes of an answer that are read; Meta's are below 2 KiB.
const ANSWER_BYTES_MAX: usize = 256 * 1024;
/// Longest time for DNS, TCP and TLS together. Below the request's own limit, so that it is known what was not sent.
const CONNECT_TIMEOUT_MAX: Duration = Duration::from_secs(10);
/// Unused connections are closed before a server's own limit makes sending on one a gamble.
const POOL_IDLE_TIMEOUT: Duration = Duration::from_secs(30);
/// How often a connection is asked whether it still lives, and how long it may take to say so.
const PING_INTERVAL: Duration = Duration::from_secs(20);
const PING_TIMEOUT: Duration = Duration::from_secs(10);

/// Sends documents to one Graph API.
pub(crate) struct GraphClient {
    http: Client,
    base: String,
}

/// What became of a request.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Reply {
    /// A status line came back.
    Answered(Answer),
    /// None came back, and it may have been processed: bytes of it had gone out.
    Lost(String),
    /// It was not sent: no connection, or the server said that it did not look at it.
    NotSent(String),
    /// It was not sent: no header may hold what this token holds.
    UnusableToken,
}

/// Why a client cannot be made of the configuration.
#[derive(Debug, thiserror::Error)]
pub enum DeliveryError {
    /// `[delivery] ca_file` cannot be read.
    #[error("[delivery] ca_file {path}: {source}; make it readable for the gateway's user")]
    CaUnreadable {
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: std::io::Error,
    },
    /// `[delivery] ca_file` holds no certificate.
    #[error("[delivery] ca_file {path} holds no PEM certificate; it must be the CA that signed the Graph API's")]
    CaMalformed {
        /// The file.
        path: PathBuf,
    },
    /// The TLS or proxy settings of this machine do not work.
    #[error("no client for the Graph API can be made: {0}; look at the system's CA certificates and at HTTPS_PROXY")]
    Client(String),
    /// The system gives no more threads.
    #[error("no threads for the delivery can be begun: {0}; look at TasksMax of the unit, and at the machine's memory")]
    Threads(#[source] std::io::Error),
}

// === impl GraphClient ===

impl GraphClient {
    /// A client for the Graph API that the settings name. Proxies are taken from the environment, but never for a
    /// Graph API on this machine.
    pub(crate) fn new(settings: &DeliveryConfig) -> Result<Self, DeliveryError> {
        let mut builder = Client::builder()
            .user_agent(concat!("pixelgate/", env!("CARGO_PKG_VERSION")))
            .redirect(redirect::Policy::none())
            .referer(false)
            .timeout(settings.timeout)
            .connect_timeout(CONNECT_TIMEOUT_MAX.min(settings.timeout / 2))
            .pool_idle_timeout(POOL_IDLE_TIMEOUT)
            .pool_max_idle_per_host(settings.requests_in_flight_max)
            .http2_keep_alive_interval(PING_INTERVAL)
            .http2_keep_alive_timeout(PING_TIMEOUT)
            .tcp_nodelay(true);
        if let Some(path) = &settings.ca_file {
            let pem =
                std::fs::read(path).map_err(|source| DeliveryError::CaUnreadable { path: path.clone(), source })?;
            let certificates = Certificate::from_pem_bundle(&pem).unwrap_or_default();
            if certificates.is_empty() {
                return Err(DeliveryError::CaMalformed { path: path.clone() });
            }
            builder = builder.tls_certs_merge(certificates);
        }
        if is_loopback(&settings.graph_url) {
            builder = builder.no_proxy();
        }
        let http = builder.build().map_err(|error| DeliveryError::Client(chain(error)))?;
        Ok(Self { http, base: format!("{}/{}", settings.graph_url, settings.api_version) })
    }

    /// Sends one document to a pixel's events edge and reads the answer.
    pub(crate) async fn send(&self, pixel: PixelId, token: &AccessToken, document: Bytes) -> Reply {
        let Ok(mut bearer) = HeaderValue::try_from(format!("Bearer {}", token.reveal())) else {
            return Reply::UnusableToken;
        };
        bearer.set_sensitive(true);
        let request = self
            .http
            .post(format!("{}/{pixel}/events", self.base))
            .header(CONTENT_TYPE, HeaderValue::from_static("application/json"))
            .header(AUTHORIZATION, bearer)
            .body(document);
        let mut response = match request.send().await {
            Ok(response) => response,
            Err(error) if was_not_sent(&error) => return Reply::NotSent(chain(error)),
            Err(error) => return Reply::Lost(chain(error)),
        };
        let body = whole_body(&mut response).await;
        let (status, headers) = (response.status().as_u16(), response.headers());
        let now = UNIX_EPOCH + Duration::from_millis(u64::try_from(now_ms()).unwrap_or_default());
        Reply::Answered(Answer::read(status, headers, body.as_deref(), token, now))
    }
}

/// The body, unless it breaks off or is larger than any answer of Meta's.
async fn whole_body(response: &mut Response) -> Option<Vec<u8>> {
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await.ok()? {
        if body.len() + chunk.len() > ANSWER_BYTES_MAX {
            return None;
        }
        body.extend_from_slice(&chunk);
    }
    Some(body)
}

/// Whether it is certain that the server did not process the request: no connection was made, the request never left
/// the queue of one that closed, or an HTTP/2 server refused the stream or named a lower one as its last (RFC 9113,
/// 8.7).
fn was_not_sent(error: &reqwest::Error) -> bool {
    if error.is_connect() || error.is_builder() {
        return true;
    }
    let mut source = error.source();
    while let Some(cause) = source {
        if cause.downcast_ref::<hyper::Error>().is_some_and(hyper::Error::is_canceled) {
            return true;
        }
        if let Some(h2) = cause.downcast_ref::<h2::Error>() {
            let refused = h2.is_reset() && h2.reason() == Some(h2::Reason::REFUSED_STREAM);
            return h2.is_remote() && (refused || h2.is_go_away() && h2.reason() == Some(h2::Reason::NO_ERROR));
        }
        source = cause.source();
    }
    false
}

/// An error with all its causes on one line, without the URL.
fn chain(error: reqwest::Error) -> String {
    let error = error.without_url();
    let mut text = if error.is_timeout() { "no answer in time".to_owned() } else { error.to_string() };
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}

fn is_loopback(url: &str) -> bool {
    let Some(host) = Url::parse(url).ok().and_then(|url| url.host_str().map(str::to_owned)) else {
        return false;
    };
    let address = host.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>();
    host == "localhost" || address.is_ok_and(|address| address.is_loopback())
}
