//! What the header of a request says, in the terms of the gateway.

use std::borrow::Cow;
use std::net::IpAddr;
use std::sync::OnceLock;

use http::header::{AUTHORIZATION, AsHeaderName, COOKIE, HOST, ORIGIN, REFERER, USER_AGENT};
use http::{HeaderMap, HeaderValue, Uri};
use pingora::http::RequestHeader;

use crate::event::Arrival;
use crate::ingest::Request;
use crate::proxy::context::Context;
use crate::proxy::{cookies, forwarded};
use crate::snapshot::{Route, Snapshot};
use crate::tls;

/// Where a URL without a port leads.
const HTTP_PORT: u16 = 80;
const HTTPS_PORT: u16 = 443;

/// The Host that a request names, without its port, in the form that names are compared in.
pub(super) fn host_of(header: &RequestHeader) -> Option<Cow<'_, str>> {
    let authority = match header.uri.authority() {
        Some(authority) => authority.as_str(),
        None => header.headers.get(HOST)?.to_str().ok()?,
    };
    let host = match authority.rsplit_once(':') {
        Some((host, port)) if port.bytes().all(|b| b.is_ascii_digit()) => host,
        _ => authority,
    };
    tls::normalise(host)
}

/// The route of a Host on a connection whose handshake was for `server_name`. The two may be different names of one
/// account; anything else is not answered, or one tenant's certificate would vouch for another's content.
pub(super) fn route_of(snapshot: &Snapshot, server_name: &str, host: &str) -> Option<Route> {
    let route = snapshot.route(host)?;
    let same = host == server_name || snapshot.route(server_name).is_some_and(|named| named.same_as(&route));
    same.then_some(route)
}

/// Where plain HTTP and TLS are taken.
#[derive(Clone, Debug, Default)]
pub(super) struct Ports {
    pub(super) http: Vec<u16>,
    pub(super) https: Vec<u16>,
}

/// The port that a client of plain HTTP connected to, as far as it says so.
pub(super) fn port_of(header: &RequestHeader) -> u16 {
    let authority = header.uri.authority().map(|authority| authority.as_str());
    let authority = authority.or_else(|| header.headers.get(HOST)?.to_str().ok());
    let port = authority.and_then(|authority| authority.rsplit_once(':')?.1.parse().ok());
    port.unwrap_or(HTTP_PORT)
}

/// The https URL of what was asked for over plain HTTP at this port. Where the client met the very port that we listen
/// on, it meets our TLS port as well; else something maps ports in between, and what it maps to TLS can only be guessed:
/// the usual one.
pub(super) fn secure_location(host: &str, port: u16, uri: &Uri, ports: &Ports) -> Option<HeaderValue> {
    let path = uri.path_and_query().map_or("/", |path| path.as_str());
    let path = if path.starts_with('/') { path } else { "/" };
    let direct = ports.http.contains(&port) && !ports.https.contains(&HTTPS_PORT);
    match ports.https.first().filter(|_| direct) {
        Some(port) => HeaderValue::try_from(format!("https://{host}:{port}{path}")).ok(),
        None => HeaderValue::try_from(format!("https://{host}{path}")).ok(),
    }
}

/// The request as ingest takes it.
pub(super) fn request(
    header: &RequestHeader,
    ctx: &Context,
    peer: IpAddr,
    route: Route,
    host: &str,
    now_ms: i64,
) -> Request {
    let headers = &header.headers;
    let trusted = &ctx.snapshot.gateway.listen.trusted_proxies;
    // HTTP/2 may split cookies over several lines (RFC 9113, 8.2.3).
    let cookie_lines: Vec<&[u8]> = headers.get_all(COOKIE).iter().map(HeaderValue::as_bytes).collect();
    // One cookie that is no ASCII costs the others nothing.
    let cookies = String::from_utf8_lossy(&cookie_lines.join(&b"; "[..])).into_owned();
    Request {
        snapshot: ctx.snapshot.clone(),
        route,
        host: host.to_owned(),
        origin: text(headers, ORIGIN),
        country: forwarded::client_country(peer, headers, trusted),
        arrival: Arrival {
            now_ms,
            client_ip: Some(forwarded::client_address(peer, headers, trusted)),
            user_agent: text(headers, USER_AGENT),
            fbp: cookies::read(&cookies, "_fbp").map(str::to_owned),
            fbc: cookies::read(&cookies, "_fbc").map(str::to_owned),
            referer: text(headers, REFERER),
        },
        cookies,
        addressed: OnceLock::new(),
    }
}

/// The token of an `Authorization: Bearer` header (RFC 6750, 2.1).
pub(super) fn bearer(headers: &HeaderMap) -> Option<String> {
    let (scheme, token) = headers.get(AUTHORIZATION)?.to_str().ok()?.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim().to_owned())
}

/// A header as text; one that is not ASCII is taken as UTF-8 with the rest replaced.
pub(super) fn text(headers: &HeaderMap, name: impl AsHeaderName) -> Option<String> {
    headers.get(name).map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn host(host: &[u8]) -> Option<String> {
        let mut header = RequestHeader::build("GET", b"/", None).unwrap();
        header.insert_header(HOST, HeaderValue::from_bytes(host).unwrap()).unwrap();
        host_of(&header).map(Cow::into_owned)
    }

    #[test]
    fn hosts_are_compared_without_port_and_case() {
        for text in
            ["events.shop.example", "Events.Shop.Example:8443", "events.shop.example.", "events.shop.example.:443"]
        {
            assert_eq!(host(text.as_bytes()).as_deref(), Some("events.shop.example"), "{text}");
        }
        for text in ["", ":443", "127.0.0.1:443", "[::1]:443", "[::1]", "a b", "user@events.shop.example", "a:b:1"] {
            assert_eq!(host(text.as_bytes()), None, "{text}");
        }
        assert_eq!(host(b"\xff.example"), None);
    }

    #[test]
    fn the_authority_comes_before_the_host_header() {
        let mut header = RequestHeader::build("GET", b"/", None).unwrap();
        header.set_uri("https://a.example:1/x".parse().unwrap());
        assert_eq!(host_of(&header).as_deref(), Some("a.example"));
    }

    #[test]
    fn a_redirect_keeps_path_and_query() {
        let location = |uri: &str| secure_location("a.example", 80, &uri.parse().unwrap(), &Ports::default()).unwrap();
        assert_eq!(location("/p?q=1"), "https://a.example/p?q=1");
        assert_eq!(location("http://a.example/p"), "https://a.example/p");
        assert_eq!(location("//evil.example/p"), "https://a.example//evil.example/p");
        assert_eq!(location("*"), "https://a.example/");
    }

    #[test]
    fn a_redirect_leads_to_where_tls_is_taken() {
        let location = |port, http: &[u16], https: &[u16]| {
            let ports = Ports { http: http.to_vec(), https: https.to_vec() };
            secure_location("a.example", port, &Uri::from_static("/p"), &ports).unwrap().to_str().unwrap().to_owned()
        };
        assert_eq!(location(80, &[80], &[443]), "https://a.example/p");
        assert_eq!(location(80, &[80, 80], &[8443, 443]), "https://a.example/p");
        assert_eq!(location(80, &[80], &[8443]), "https://a.example:8443/p");
        assert_eq!(location(8080, &[8080], &[8443]), "https://a.example:8443/p");
        assert_eq!(location(80, &[8080], &[8443]), "https://a.example/p", "80 is mapped to 8080, so 443 to 8443");
        let port = |host: &'static str| {
            let mut header = RequestHeader::build("GET", b"/", None).unwrap();
            header.insert_header(HOST, host).unwrap();
            port_of(&header)
        };
        assert_eq!([port("a.example"), port("a.example:8080"), port("a.example:x")], [80, 8080, 80]);
    }

    #[test]
    fn a_bearer_token_is_read() {
        let headers = |value: &str| HeaderMap::from_iter([(AUTHORIZATION, value.parse().unwrap())]);
        assert_eq!(bearer(&headers("bearer  key ")).as_deref(), Some("key"));
        assert_eq!(bearer(&headers("Basic key")), None);
        assert_eq!(bearer(&headers("Bearer")), None);
    }
}
