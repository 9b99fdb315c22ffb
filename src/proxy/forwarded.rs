//! Who a request is really from where a trusted proxy stands in front, and how upstream servers are told.

use std::net::{IpAddr, SocketAddr};

use http::header::{FORWARDED, VIA};
use http::{HeaderMap, HeaderName};
use ipnet::IpNet;
use pingora::http::RequestHeader;

const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const X_FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
const X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const X_REAL_IP: HeaderName = HeaderName::from_static("x-real-ip");
/// How the gateway calls itself in `Via` (RFC 9110, 7.6.3).
const VIA_OURS: &str = "1.1 pixelgate";

/// Headers in which CDNs tell the visitor's country: Cloudflare's and Amazon CloudFront's.
const COUNTRY_HEADERS: [&str; 2] = ["cf-ipcountry", "cloudfront-viewer-country"];

/// Whether an address is in one of the networks; an IPv4 address that came over an IPv6 socket is that IPv4 address.
pub(super) fn is_within(networks: &[IpNet], address: IpAddr) -> bool {
    let address = address.to_canonical();
    networks.iter().any(|network| network.contains(&address))
}

/// The visitor's address: the connection's, or if that is a trusted proxy, the last one in `X-Forwarded-For` that is
/// not one. What stands before it could have been written by anybody.
pub(super) fn client_address(peer: IpAddr, headers: &HeaderMap, trusted: &[IpNet]) -> IpAddr {
    let mut client = peer.to_canonical();
    if !is_within(trusted, client) {
        return client;
    }
    // A line that cannot be read hides who wrote those before it.
    let lines = headers.get_all(X_FORWARDED_FOR).iter().rev().map_while(|line| line.to_str().ok());
    for entry in lines.flat_map(|line| line.rsplit(',')) {
        let Some(address) = parse_entry(entry.trim()) else {
            break;
        };
        client = address.to_canonical();
        if !is_within(trusted, client) {
            break;
        }
    }
    client
}

/// The visitor's country as a trusted proxy tells it: two letters, in upper case.
pub(super) fn client_country(peer: IpAddr, headers: &HeaderMap, trusted: &[IpNet]) -> Option<String> {
    if !is_within(trusted, peer) {
        return None;
    }
    let told = COUNTRY_HEADERS.iter().find_map(|name| headers.get(*name)?.to_str().ok())?;
    (told.len() == 2 && told.bytes().all(|b| b.is_ascii_alphabetic())).then(|| told.to_ascii_uppercase())
}

/// Tells an upstream server who asked, for which name and how. What the client wrote into these headers is not passed
/// on: `client` was found from what can be believed of it.
pub(super) fn tell_upstream(request: &mut RequestHeader, client: IpAddr, host: &str) -> pingora::Result<()> {
    let told: Vec<HeaderName> = request.headers.keys().filter(|name| tells_of_client(name)).cloned().collect();
    for name in &told {
        request.remove_header(name);
    }
    request.insert_header(X_FORWARDED_FOR, client.to_string())?;
    request.insert_header(X_REAL_IP, client.to_string())?;
    request.insert_header(X_FORWARDED_HOST, host)?;
    request.insert_header(X_FORWARDED_PROTO, "https")?;
    request.append_header(VIA, VIA_OURS)?;
    Ok(())
}

/// Whether a server might believe this header to come from us; many read `_` in a name as `-`.
fn tells_of_client(name: &HeaderName) -> bool {
    let name = name.as_str().replace('_', "-");
    name.starts_with("x-forwarded-") || *name == X_REAL_IP || *name == FORWARDED
}

/// Whether a request went through a gateway like this one already: its upstream leads back here.
pub(super) fn is_looping(request: &RequestHeader) -> bool {
    let lines = request.headers.get_all(VIA).iter().filter_map(|line| line.to_str().ok());
    lines.flat_map(|line| line.split(',')).any(|hop| hop.trim() == VIA_OURS)
}

/// `192.0.2.1`, `2001:db8::1`, or either with a port, as some proxies write it.
fn parse_entry(entry: &str) -> Option<IpAddr> {
    let bare = entry.strip_prefix('[').and_then(|entry| entry.strip_suffix(']')).unwrap_or(entry);
    bare.parse().ok().or_else(|| entry.parse::<SocketAddr>().ok().map(|address| address.ip()))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn client(peer: &str, lines: &[&str]) -> String {
        let mut headers = HeaderMap::new();
        for line in lines {
            headers.append("x-forwarded-for", http::HeaderValue::from_bytes(line.as_bytes()).unwrap());
        }
        let trusted = ["10.0.0.0/8".parse().unwrap(), "2001:db8::/32".parse().unwrap()];
        client_address(peer.parse().unwrap(), &headers, &trusted).to_string()
    }

    #[test]
    fn a_stranger_is_not_believed() {
        assert_eq!(client("192.0.2.1", &["198.51.100.7"]), "192.0.2.1");
        assert_eq!(client("::ffff:192.0.2.1", &[]), "192.0.2.1");
    }

    #[test]
    fn the_last_address_that_is_no_proxy_is_the_client() {
        assert_eq!(client("10.0.0.1", &["1.1.1.1, 198.51.100.7, 10.0.0.2"]), "198.51.100.7");
        assert_eq!(client("::ffff:10.0.0.1", &["1.1.1.1", "198.51.100.7:4711"]), "198.51.100.7");
        assert_eq!(client("2001:db8::1", &["[2001:db9::5]:80"]), "2001:db9::5");
        assert_eq!(client("10.0.0.1", &[]), "10.0.0.1");
        assert_eq!(client("10.0.0.1", &["198.51.100.7, unknown, 10.0.0.2"]), "10.0.0.2");
        assert_eq!(client("10.0.0.1", &["10.0.0.3, 10.0.0.2"]), "10.0.0.3");
    }

    #[test]
    fn a_line_that_cannot_be_read_ends_the_search() {
        assert_eq!(client("10.0.0.1", &["198.51.100.7", "\u{e9}"]), "10.0.0.1");
        assert_eq!(client("10.0.0.1", &["198.51.100.7", "\u{e9}", "10.0.0.2"]), "10.0.0.2");
    }

    #[test]
    fn an_upstream_hears_of_the_client_and_of_nothing_it_made_up() {
        let mut request = RequestHeader::build("GET", b"/", None).unwrap();
        request.insert_header("X-Forwarded-For", "1.2.3.4").unwrap();
        request.insert_header("Forwarded", "for=1.2.3.4").unwrap();
        let made_up = ["X-Forwarded-Port", "X-Forwarded-Prefix", "x_forwarded_for", "X_Real-IP", "X-Forwarded_Server"];
        for name in made_up {
            request.insert_header(name, "1.2.3.4").unwrap();
        }
        assert!(!is_looping(&request));
        tell_upstream(&mut request, "192.0.2.1".parse().unwrap(), "www.shop.example").unwrap();
        let told = |name: &str| request.headers.get(name).map(|value| value.to_str().unwrap());
        assert_eq!(told("x-forwarded-for"), Some("192.0.2.1"));
        assert_eq!(told("x-forwarded-host"), Some("www.shop.example"));
        assert_eq!((told("x-forwarded-proto"), told("forwarded")), (Some("https"), None));
        assert!(is_looping(&request));
        assert!(request.headers.values().all(|value| value != "1.2.3.4"), "{request:?}");
    }

    #[test]
    fn a_country_is_taken_from_a_trusted_proxy_only() {
        let mut headers = HeaderMap::new();
        headers.insert("cf-ipcountry", "de".parse().unwrap());
        let trusted = ["10.0.0.0/8".parse().unwrap()];
        assert_eq!(client_country("10.0.0.1".parse().unwrap(), &headers, &trusted).as_deref(), Some("DE"));
        assert_eq!(client_country("192.0.2.1".parse().unwrap(), &headers, &trusted), None);
        headers.insert("cf-ipcountry", "T1x".parse().unwrap());
        assert_eq!(client_country("10.0.0.1".parse().unwrap(), &headers, &trusted), None);
    }
}
