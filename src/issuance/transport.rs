//! The HTTP under ACME: bounded in time and bytes, and it hears `Retry-After`, which the library leaves out of its errors.

use std::cell::RefCell;
use std::future::Future;
use std::path::Path;
use std::pin::Pin;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::{Bytes, BytesMut};
use http::header::{LOCATION, RETRY_AFTER};
use http::{HeaderMap, Request, StatusCode};
use http_body_util::{BodyExt, Collected};
use instant_acme::{BodyWrapper, BytesResponse, Error, HttpClient};
use reqwest::{Certificate, Client, redirect};

use crate::clock::now_ms;
use crate::config::AcmeAccount;

/// Time for one request, from connecting to the end of the answer.
const TIMEOUT: Duration = Duration::from_secs(30);
/// Time for connecting.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// Bytes of an answer; a chain of ten RSA-4096 certificates is a twentieth of it.
const ANSWER_BYTES_MAX: usize = 512 * 1024;

tokio::task_local! {
    /// What the CA said to this task.
    static HEARD: RefCell<Heard>;
}

/// What a CA says in headers, which the library leaves out of its errors.
#[derive(Clone, Debug, Default)]
struct Heard {
    /// Until when it wants to be left alone, as of the last answer that refused something. Unix milliseconds.
    told: Option<i64>,
    /// What it made last (RFC 9110, 15.3.2).
    made: Option<String>,
}

/// Speaks to one CA.
#[derive(Clone)]
pub(super) struct Transport {
    client: Client,
}

/// What a CA answers to a question that needs no signature.
pub(super) struct Answer {
    pub(super) status: StatusCode,
    pub(super) body: Bytes,
    /// When it wants to be asked again. Unix milliseconds.
    pub(super) again_ms: Option<i64>,
}

/// A CA's answer is larger than any should be.
#[derive(Debug, thiserror::Error)]
#[error("the answer has more than {ANSWER_BYTES_MAX} bytes")]
struct TooLarge;

/// Runs a conversation with a CA; beside its result, until when the CA asked to be left alone when it last refused.
pub(super) async fn hearing<T>(conversation: impl Future<Output = T>) -> (T, Option<i64>) {
    HEARD
        .scope(RefCell::default(), async {
            let result = conversation.await;
            (result, HEARD.with(|heard| heard.borrow().told))
        })
        .await
}

/// Where lies what the CA made last in this conversation. Asked once, it is forgotten.
pub(super) fn made() -> Option<String> {
    HEARD.try_with(|heard| heard.borrow_mut().made.take()).ok().flatten()
}

// === impl Heard ===

impl Heard {
    fn note(&mut self, status: StatusCode, headers: &HeaderMap) {
        if status.is_client_error() || status.is_server_error() {
            self.told = retry_after(headers, now_ms());
        } else if status == StatusCode::CREATED {
            self.made = headers.get(LOCATION).and_then(|url| url.to_str().ok()).map(str::to_owned);
        }
    }
}

// === impl Transport ===

impl Transport {
    /// A way to an account's CA that trusts the system's CAs, and those of a file. The files are read where nobody waits for
    /// them.
    ///
    /// # Errors
    /// What is wrong with a file or with this machine's TLS settings, for a person to read.
    pub(super) async fn open(account: &AcmeAccount) -> Result<Self, String> {
        let (directory, ca_file) = (account.directory.clone(), account.ca_file.clone());
        let made = tokio::task::spawn_blocking(move || Self::new(&directory, ca_file.as_deref())).await;
        made.map_err(|error| error.to_string())?
    }

    fn new(directory: &str, ca_file: Option<&Path>) -> Result<Self, String> {
        let mut builder = Client::builder()
            .user_agent(concat!("pixelgate/", env!("CARGO_PKG_VERSION")))
            .redirect(redirect::Policy::none())
            .referer(false)
            .timeout(TIMEOUT)
            .connect_timeout(CONNECT_TIMEOUT)
            .tcp_nodelay(true);
        if let Some(path) = ca_file {
            let pem = std::fs::read(path).map_err(|error| format!("ca_file {}: {error}", path.display()))?;
            let certificates = Certificate::from_pem_bundle(&pem).unwrap_or_default();
            if certificates.is_empty() {
                return Err(format!("ca_file {} holds no PEM certificate", path.display()));
            }
            builder = builder.tls_certs_merge(certificates);
        }
        let on_this_machine = directory.parse::<http::Uri>().ok().and_then(|uri| {
            let host = uri.host()?.trim_matches(['[', ']']).to_owned();
            Some(host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback()))
        });
        if on_this_machine == Some(true) {
            builder = builder.no_proxy();
        }
        builder.build().map(|client| Self { client }).map_err(|error| chain(&error))
    }

    /// Fetches what needs no signature, such as the directory.
    ///
    /// # Errors
    /// Why there is no answer, for a person to read.
    pub(super) async fn get(&self, url: &str) -> Result<Answer, String> {
        let request = self.client.get(url).build().map_err(|error| chain(&error))?;
        let mut response = self.execute(request).await.map_err(|error| chain(&error))?;
        let body = whole(&mut response).await.map_err(|error| chain(&error))?;
        let again_ms = retry_after(response.headers(), now_ms());
        Ok(Answer { status: response.status(), body, again_ms })
    }

    async fn execute(&self, request: reqwest::Request) -> Result<reqwest::Response, reqwest::Error> {
        let response = self.client.execute(request).await?;
        let _outside_of_a_conversation =
            HEARD.try_with(|heard| heard.borrow_mut().note(response.status(), response.headers()));
        Ok(response)
    }
}

impl HttpClient for Transport {
    fn request(
        &self,
        request: Request<BodyWrapper<Bytes>>,
    ) -> Pin<Box<dyn Future<Output = Result<BytesResponse, Error>> + Send>> {
        let transport = self.clone();
        Box::pin(async move {
            let (parts, body) = request.into_parts();
            let Ok(body) = body.collect().await.map(Collected::to_bytes);
            let request = reqwest::Request::try_from(Request::from_parts(parts, body));
            answer(transport.execute(request.map_err(other)?).await.map_err(other)?).await
        })
    }
}

async fn whole(response: &mut reqwest::Response) -> Result<Bytes, Error> {
    let mut whole = BytesMut::new();
    while let Some(chunk) = response.chunk().await.map_err(other)? {
        whole.extend_from_slice(&chunk);
        if whole.len() > ANSWER_BYTES_MAX {
            return Err(other(TooLarge));
        }
    }
    Ok(whole.freeze())
}

async fn answer(mut response: reqwest::Response) -> Result<BytesResponse, Error> {
    let whole = whole(&mut response).await?;
    let mut answer = http::Response::new(());
    *answer.status_mut() = response.status();
    *answer.headers_mut() = std::mem::take(response.headers_mut());
    let (parts, ()) = answer.into_parts();
    Ok(BytesResponse { parts, body: Box::new(whole) })
}

/// RFC 9110, 10.2.3, as Unix milliseconds.
fn retry_after(headers: &HeaderMap, now_ms: i64) -> Option<i64> {
    let value = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    if let Ok(seconds) = value.parse::<u32>() {
        return Some(now_ms.saturating_add(i64::from(seconds) * 1_000));
    }
    let at: SystemTime = httpdate::parse_http_date(value).ok()?;
    i64::try_from(at.duration_since(UNIX_EPOCH).ok()?.as_millis()).ok()
}

fn other(error: impl std::error::Error + Send + Sync + 'static) -> Error {
    Error::Other(Box::new(error))
}

/// An error with its causes: reqwest tells them one by one.
pub(super) fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let more = error.to_string();
        if !text.contains(&more) {
            text = format!("{text}: {more}");
        }
        cause = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn both_forms_of_retry_after_are_read() {
        let at = |value: &str| retry_after(&HeaderMap::from_iter([(RETRY_AFTER, value.parse().unwrap())]), 5_000);
        assert_eq!(at("120"), Some(125_000));
        assert_eq!(at("Thu, 01 Jan 1970 00:01:00 GMT"), Some(60_000));
        assert_eq!(at("soon"), None);
        assert_eq!(at("-1"), None);
    }
}
