//! `GET /pixelgate.js`: the first-party script, built into the gateway.

use std::io::Write;

use bytes::Bytes;
use flate2::Compression;
use flate2::write::GzEncoder;
use http::header::{ACCEPT_ENCODING, CACHE_CONTROL, CONTENT_ENCODING, ETAG, IF_NONE_MATCH, VARY};
use http::{HeaderMap, HeaderValue, StatusCode};
use sha2::{Digest, Sha256};

use crate::proxy::respond::Answer;

/// The script itself.
const SOURCE: &str = include_str!("../../web/pixelgate.js");
/// An hour at most until a new version is everywhere; meanwhile, and while it is fetched, pages do not wait.
const CACHE: &str = "public, max-age=3600, stale-while-revalidate=86400";

/// The script as it is sent.
pub(super) struct Script {
    packed: Bytes,
    etag: HeaderValue,
}

// === impl Script ===

impl Script {
    /// Packs the script once.
    pub(super) fn new() -> Self {
        let digest = hex::encode(Sha256::digest(SOURCE));
        let etag = format!("W/\"{}\"", digest.get(..16).unwrap_or_default());
        Self {
            packed: gzip(SOURCE.as_bytes()).into(),
            etag: HeaderValue::try_from(etag).unwrap_or(HeaderValue::from_static("W/\"0\"")),
        }
    }

    /// The answer to a request with these headers.
    pub(super) fn answer(&self, request: &HeaderMap) -> Answer {
        let known = request.get(IF_NONE_MATCH).is_some_and(|tags| lists(tags, &self.etag));
        let answer = match (known, accepts_gzip(request)) {
            (true, _) => Answer::new(StatusCode::NOT_MODIFIED),
            (false, true) => Answer::new(StatusCode::OK)
                .body("text/javascript; charset=utf-8", self.packed.clone())
                .header(CONTENT_ENCODING, HeaderValue::from_static("gzip")),
            (false, false) => Answer::new(StatusCode::OK)
                .body("text/javascript; charset=utf-8", Bytes::from_static(SOURCE.as_bytes())),
        };
        answer
            .header(ETAG, self.etag.clone())
            .header(CACHE_CONTROL, HeaderValue::from_static(CACHE))
            .header(VARY, HeaderValue::from_static("Accept-Encoding"))
            .embeddable()
    }
}

/// Whether an `If-None-Match` lists a tag (RFC 9110, 13.1.2: compared weakly).
fn lists(tags: &HeaderValue, etag: &HeaderValue) -> bool {
    let opaque = |tag: &str| tag.trim().trim_start_matches("W/").to_owned();
    let (Ok(tags), Ok(etag)) = (tags.to_str(), etag.to_str()) else {
        return false;
    };
    tags.trim() == "*" || tags.split(',').any(|tag| opaque(tag) == opaque(etag))
}

/// Whether `Accept-Encoding` has gzip, and not with a weight of zero (RFC 9110, 12.5.3).
fn accepts_gzip(request: &HeaderMap) -> bool {
    let lines = request.get_all(ACCEPT_ENCODING).iter().filter_map(|line| line.to_str().ok());
    lines.flat_map(|line| line.split(',')).any(|coding| {
        let mut parts = coding.split(';').map(str::trim);
        let gzip = parts.next().is_some_and(|name| name.eq_ignore_ascii_case("gzip"));
        let refused = parts.any(|part| part.strip_prefix("q=").and_then(|q| q.parse::<f32>().ok()) == Some(0.0));
        gzip && !refused
    })
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
    // Writing to memory does not fail.
    let _ = encoder.write_all(bytes);
    encoder.finish().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn request(name: http::HeaderName, value: &str) -> HeaderMap {
        HeaderMap::from_iter([(name, value.parse().unwrap())])
    }

    #[test]
    fn the_script_is_packed_for_those_who_take_it() {
        for (accept, packed) in [
            ("gzip, deflate, br", true),
            ("br;q=1.0, GZIP;q=0.8", true),
            ("gzip;q=0", false),
            ("br", false),
            ("", false),
        ] {
            let answer = Script::new().answer(&request(ACCEPT_ENCODING, accept));
            assert_eq!(answer.headers.iter().any(|(name, _)| name == CONTENT_ENCODING), packed, "{accept}");
            assert_eq!(answer.body.len() < SOURCE.len(), packed, "{accept}");
        }
    }

    #[test]
    fn the_script_says_which_version_it_is() {
        let version = env!("CARGO_PKG_VERSION");
        for place in [format!("* Pixelgate {version}: "), format!("api.version = '{version}';")] {
            assert!(SOURCE.contains(&place), "{place}");
        }
    }

    #[test]
    fn the_script_is_small() {
        assert!(Script::new().packed.len() <= 6 * 1024);
    }

    #[test]
    fn who_has_the_script_gets_no_second_copy() {
        let script = Script::new();
        let etag = script.etag.to_str().unwrap();
        for tags in [etag, etag.trim_start_matches("W/"), &format!("\"x\", {etag}"), "*"] {
            let answer = script.answer(&request(IF_NONE_MATCH, tags));
            assert_eq!((answer.status, answer.body.len()), (StatusCode::NOT_MODIFIED, 0), "{tags}");
        }
        assert_eq!(script.answer(&request(IF_NONE_MATCH, "\"x\"")).status, StatusCode::OK);
    }
}
