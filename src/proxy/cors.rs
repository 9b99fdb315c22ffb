//! Cross-origin answers (Fetch, 3.2): the page's origin, exactly, with credentials.
//!
//! Every answer that the gateway makes itself has these headers, or a page could not read an error's stop word. An
//! upstream's answers do not: what they allow is for the account to say.

use http::HeaderValue;
use http::header::{
    ACCESS_CONTROL_ALLOW_CREDENTIALS, ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS,
    ACCESS_CONTROL_ALLOW_ORIGIN, ACCESS_CONTROL_MAX_AGE, VARY,
};
use pingora::http::ResponseHeader;

/// Bytes of an `Access-Control-Request-Headers` that is answered with what it asks for.
const REQUEST_HEADERS_BYTES_MAX: usize = 512;

/// Lets the page of `origin` read an answer.
pub(super) fn allow_origin(answer: &mut ResponseHeader, origin: Option<HeaderValue>) -> pingora::Result<()> {
    answer.append_header(VARY, "Origin")?;
    if let Some(origin) = origin {
        answer.insert_header(ACCESS_CONTROL_ALLOW_ORIGIN, origin)?;
        answer.insert_header(ACCESS_CONTROL_ALLOW_CREDENTIALS, "true")?;
    }
    Ok(())
}

/// The further headers of the answer to a preflight that asks for `requested` headers.
pub(super) fn preflight(requested: Option<&HeaderValue>) -> Vec<(http::HeaderName, HeaderValue)> {
    let requested = requested.filter(|names| names.len() <= REQUEST_HEADERS_BYTES_MAX);
    let names = requested.cloned().unwrap_or(HeaderValue::from_static("content-type"));
    vec![
        (ACCESS_CONTROL_ALLOW_METHODS, HeaderValue::from_static("GET, POST, OPTIONS")),
        (ACCESS_CONTROL_ALLOW_HEADERS, names),
        (ACCESS_CONTROL_MAX_AGE, HeaderValue::from_static("86400")),
    ]
}
