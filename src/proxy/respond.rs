//! Answers. [`Rejection::row`] is the only table of error answers: status, text, Graph code, metric label.

use std::borrow::Cow;

use bytes::Bytes;
use http::header::{CACHE_CONTROL, CONTENT_LENGTH, CONTENT_TYPE, LOCATION, ORIGIN, RETRY_AFTER};
use http::{HeaderName, HeaderValue, Method, StatusCode};
use pingora::http::ResponseHeader;
use pingora::proxy::Session;
use serde_json::json;

use crate::event::decode::DecodeError;
use crate::ingest::Refusal;
use crate::proxy::body::BodyError;
use crate::proxy::cors;

/// A transparent GIF of one pixel.
const GIF: &[u8; 43] = b"GIF89a\x01\x00\x01\x00\x80\x00\x00\x00\x00\x00\x00\x00\x00!\xf9\x04\x01\x00\x00\x00\x00,\x00\x00\x00\x00\x01\x00\x01\x00\x00\x02\x02D\x01\x00;";

/// A whole answer of the gateway's own.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) status: StatusCode,
    pub(super) headers: Vec<(HeaderName, HeaderValue)>,
    pub(super) body: Bytes,
}

/// How errors look to a client.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Style {
    /// A text; stop words are the whole of it (facts of Meta's browser client).
    #[default]
    Plain,
    /// The Graph API's error envelope.
    Graph,
}

/// Why a request is answered with an error.
#[derive(Debug)]
pub(super) enum Rejection {
    /// The Host is not served here, or not under the server name of the handshake.
    Misdirected,
    /// There is nothing under this path.
    NotFound,
    /// The body was not read.
    Body(BodyError),
    /// The event was not taken.
    Refused(Refusal),
    /// No upstream server can be reached.
    UpstreamDown,
    /// An upstream server did not answer in time.
    UpstreamSlow,
    /// The request has been here before.
    Loop,
    /// The request is not HTTP as it should be.
    BadRequest,
    /// What must not happen.
    Internal,
}

/// One row of the table.
struct Row {
    status: StatusCode,
    text: Cow<'static, str>,
    /// Graph API error code ("Handling errors"): 1 and 2 are temporary, 4 is too many calls, 100 a bad parameter, 190 a
    /// bad token, 200 a missing permission.
    code: u16,
    retry_after: Option<u32>,
    label: &'static str,
}

// === impl Answer ===

impl Answer {
    /// An answer without a body.
    pub(super) fn new(status: StatusCode) -> Self {
        Self { status, headers: Vec::new(), body: Bytes::new() }
    }

    /// The answer to an image request (`noscript`).
    pub(super) fn gif() -> Self {
        let answer = Self::new(StatusCode::OK).body("image/gif", Bytes::from_static(GIF));
        answer.header(CACHE_CONTROL, HeaderValue::from_static("no-store")).embeddable()
    }

    /// What the Graph API answers when it took events.
    pub(super) fn graph_success(received: usize, trace: &str) -> Self {
        let body = json!({"events_received": received, "messages": [], "fbtrace_id": trace});
        Self::new(StatusCode::OK).body("application/json; charset=UTF-8", body.to_string().into())
    }

    /// The answer to a request over plain HTTP.
    pub(super) fn redirect(location: HeaderValue) -> Self {
        Self::new(StatusCode::PERMANENT_REDIRECT).header(LOCATION, location)
    }

    /// With a body.
    pub(super) fn body(mut self, content_type: &'static str, body: Bytes) -> Self {
        self.body = body;
        self.header(CONTENT_TYPE, HeaderValue::from_static(content_type))
    }

    /// With a header.
    pub(super) fn header(mut self, name: HeaderName, value: HeaderValue) -> Self {
        self.headers.push((name, value));
        self
    }

    /// For pages that embed only what allows it (`Cross-Origin-Embedder-Policy: require-corp`).
    pub(super) fn embeddable(self) -> Self {
        let name = HeaderName::from_static("cross-origin-resource-policy");
        self.header(name, HeaderValue::from_static("cross-origin"))
    }

    /// Sends it. The connection is closed after it if the gateway is stopping, or the body was not read to its end.
    pub(super) async fn send(self, session: &mut Session) -> pingora::Result<()> {
        let request = session.req_header();
        let bodiless = request.method == Method::HEAD || self.body.is_empty();
        let origin = request.headers.get(ORIGIN).cloned();
        let mut header = ResponseHeader::build_no_case(self.status, Some(self.headers.len() + 6))?;
        for (name, value) in self.headers {
            header.append_header(name, value)?;
        }
        if !matches!(self.status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED) {
            header.insert_header(CONTENT_LENGTH, self.body.len())?;
        }
        cors::allow_origin(&mut header, origin)?;
        if session.is_process_shutting_down() {
            session.set_keepalive(None);
        }
        session.write_response_header(Box::new(header), bodiless).await?;
        if !bodiless {
            session.write_response_body(Some(self.body), true).await?;
        }
        Ok(())
    }
}

// === impl Rejection ===

impl Rejection {
    /// As the label of a metric.
    pub(super) fn label(&self) -> &'static str {
        self.row().label
    }

    /// As a client sees it. `trace` is what an operator finds the request by.
    pub(super) fn answer(&self, style: Style, trace: &str) -> Answer {
        let row = self.row();
        let answer = Answer::new(row.status).header(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        let answer = match row.retry_after {
            Some(seconds) => answer.header(RETRY_AFTER, seconds.into()),
            None => answer,
        };
        match style {
            Style::Plain => answer.body("text/plain", row.text.into_owned().into()),
            Style::Graph => {
                let error = json!({
                    "message": row.text,
                    "type": "OAuthException",
                    "code": row.code,
                    "is_transient": row.retry_after.is_some(),
                    "fbtrace_id": trace,
                });
                answer.body("application/json; charset=UTF-8", json!({"error": error}).to_string().into())
            }
        }
    }

    fn row(&self) -> Row {
        match self {
            Rejection::Misdirected => row(421, "Misdirected Request", 100, "misdirected"),
            Rejection::NotFound => row(404, "Not Found", 100, "not_found"),
            Rejection::BadRequest => row(400, "Bad Request", 100, "bad_request"),
            Rejection::Internal => row(500, "Internal Server Error", 2, "internal"),
            Rejection::Loop => row(508, "Loop Detected", 1, "loop"),
            Rejection::UpstreamDown => row(502, "Bad Gateway", 2, "upstream_down"),
            Rejection::UpstreamSlow => row(504, "Gateway Timeout", 2, "upstream_slow"),
            Rejection::Body(error) => body_row(*error),
            Rejection::Refused(refusal) => refusal_row(refusal),
        }
    }
}

impl From<BodyError> for Rejection {
    fn from(error: BodyError) -> Self {
        Rejection::Body(error)
    }
}

impl From<Refusal> for Rejection {
    fn from(refusal: Refusal) -> Self {
        Rejection::Refused(refusal)
    }
}

fn body_row(error: BodyError) -> Row {
    match error {
        BodyError::TooLarge => row(413, "Content Too Large", 100, "too_large"),
        BodyError::TooSlow => row(408, "Request Timeout", 1, "too_slow"),
        BodyError::Broken => row(400, "The body is incomplete.", 100, "body_broken"),
        BodyError::Encoding => row(415, "Only gzip is understood as Content-Encoding.", 100, "body_encoding"),
        BodyError::NotGzip => row(400, "The body is not gzip, as its Content-Encoding says.", 100, "body_encoding"),
        BodyError::NoMemory => row(503, "Too many requests at once.", 2, "no_memory").retry_after(1),
    }
}

fn refusal_row(refusal: &Refusal) -> Row {
    match refusal {
        Refusal::Malformed(DecodeError::TooLarge) => row(413, "Content Too Large", 100, "too_large"),
        Refusal::Malformed(DecodeError::PixelMissing) => {
            row(400, "Data Source Id Or Pixel Id Missing.", 100, "pixel_missing")
        }
        Refusal::Malformed(error) => Row { text: error.to_string().into(), ..row(400, "", 100, "malformed") },
        Refusal::NotOnboarded => row(404, "Not Onboarded", 100, "not_onboarded"),
        Refusal::WebsiteRefused => row(403, "Not Onboarded", 200, "website"),
        Refusal::AccountInactive => row(403, "Account Deactivated", 200, "account_inactive"),
        Refusal::PixelInactive => row(403, "Data Source Deactivated", 200, "pixel_inactive"),
        Refusal::KeyRefused => row(401, "Invalid OAuth access token - Cannot parse access token", 190, "key"),
        Refusal::TooFast => row(429, "Too many events.", 4, "too_fast").retry_after(1),
        Refusal::BacklogFull => row(429, "Too many events wait for delivery.", 4, "backlog_full").retry_after(60),
        Refusal::LettersFull => {
            row(429, "Too many events could not be delivered and are held.", 4, "dead_letters_full").retry_after(60)
        }
        Refusal::Unavailable => row(503, "Events cannot be stored now.", 2, "store_unavailable").retry_after(10),
    }
}

fn row(status: u16, text: &'static str, code: u16, label: &'static str) -> Row {
    let status = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    Row { status, text: text.into(), code, retry_after: None, label }
}

// === impl Row ===

impl Row {
    fn retry_after(self, seconds: u32) -> Self {
        Self { retry_after: Some(seconds), ..self }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::proxy::body::BodyError::{Broken, Encoding, NoMemory, NotGzip, TooLarge, TooSlow};
    use crate::telemetry::REJECTED;

    fn plain(refusal: Refusal) -> (u16, String) {
        let answer = Rejection::Refused(refusal).answer(Style::Plain, "t");
        (answer.status.as_u16(), String::from_utf8(answer.body.to_vec()).unwrap())
    }

    #[test]
    fn stop_words_are_the_whole_body() {
        assert_eq!(
            plain(Refusal::Malformed(DecodeError::PixelMissing)),
            (400, "Data Source Id Or Pixel Id Missing.".into())
        );
        assert_eq!(plain(Refusal::PixelInactive), (403, "Data Source Deactivated".into()));
        assert_eq!(plain(Refusal::AccountInactive), (403, "Account Deactivated".into()));
        assert_eq!(plain(Refusal::NotOnboarded), (404, "Not Onboarded".into()));
        assert_eq!(plain(Refusal::WebsiteRefused), (403, "Not Onboarded".into()));
        let answer = Rejection::Refused(Refusal::NotOnboarded).answer(Style::Plain, "t");
        assert!(answer.headers.contains(&(CONTENT_TYPE, HeaderValue::from_static("text/plain"))));
    }

    #[test]
    fn what_is_temporary_says_when_to_come_again() {
        for (refusal, status) in [
            (Refusal::TooFast, 429),
            (Refusal::BacklogFull, 429),
            (Refusal::LettersFull, 429),
            (Refusal::Unavailable, 503),
        ] {
            let answer = Rejection::Refused(refusal).answer(Style::Plain, "t");
            assert_eq!(answer.status, status);
            assert!(answer.headers.iter().any(|(name, _)| name == RETRY_AFTER));
        }
    }

    #[test]
    fn every_rejection_is_counted_from_the_start() {
        let bodies = [TooLarge, TooSlow, Broken, Encoding, NotGzip, NoMemory].map(Rejection::Body);
        let refusals = [
            Refusal::Malformed(DecodeError::TooLarge),
            Refusal::Malformed(DecodeError::PixelMissing),
            Refusal::Malformed(DecodeError::EventNameMissing),
            Refusal::NotOnboarded,
            Refusal::WebsiteRefused,
            Refusal::AccountInactive,
            Refusal::PixelInactive,
            Refusal::KeyRefused,
            Refusal::TooFast,
            Refusal::BacklogFull,
            Refusal::LettersFull,
            Refusal::Unavailable,
        ];
        let others = [
            Rejection::Misdirected,
            Rejection::NotFound,
            Rejection::BadRequest,
            Rejection::Internal,
            Rejection::Loop,
            Rejection::UpstreamDown,
            Rejection::UpstreamSlow,
        ];
        for rejection in bodies.into_iter().chain(refusals.map(Rejection::Refused)).chain(others) {
            assert!(REJECTED.contains(&rejection.label()), "{}", rejection.label());
        }
    }

    #[test]
    fn graph_errors_have_graphs_shape() {
        let answer = Rejection::Refused(Refusal::KeyRefused).answer(Style::Graph, "trace");
        let body: serde_json::Value = serde_json::from_slice(&answer.body).unwrap();
        assert_eq!(answer.status, 401);
        let error = body.get("error").unwrap();
        assert_eq!(error.get("code").unwrap(), 190);
        assert_eq!(error.get("type").unwrap(), "OAuthException");
        assert_eq!(error.get("fbtrace_id").unwrap(), "trace");
    }

    #[test]
    fn the_gif_is_one() {
        assert_eq!(GIF.len(), 43);
        assert!(GIF.starts_with(b"GIF89a") && GIF.ends_with(b";"));
    }
}
