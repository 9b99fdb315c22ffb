//! What names something on a network: the Graph API's URL, upstream servers, networks, patterns of websites.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use http::Uri;
use ipnet::IpNet;

use crate::account::ServerName;
use crate::config::model::Upstream;

/// A network in CIDR notation, or one address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Network(pub(super) IpNet);

/// The base of the Graph API, without a trailing slash.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct GraphUrl(pub(super) String);

/// The directory of a certificate authority.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct DirectoryUrl(pub(super) String);

/// A server, as scheme, host and port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ServerUrl(pub(super) Upstream);

/// A host name, or `*.` and one: which pages may send.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct WebsitePattern(pub(super) String);

/// Why a text names nothing on a network.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum AddressError {
    /// Neither CIDR nor an address.
    #[error("this is no network")]
    Network,
    /// Not `http://` or `https://` with a host.
    #[error("this is no http or https URL of a server")]
    Url,
    /// A user, path or query where none belongs.
    #[error("only scheme, host and port belong here")]
    TooMuch,
    /// Tokens would be sent in clear.
    #[error("plain http would send access tokens and personal data in clear; it is for loopback only")]
    Clear,
    /// Anybody in between could change an answer of the CA.
    #[error("plain http would let others change what the CA answers; it is for loopback only")]
    Unsigned,
    /// Neither a host name nor `*.` and one.
    #[error("this is no host name, and no `*.` with one after it")]
    Pattern,
}

/// Whether an account may make the gateway talk to an address: not to the machine itself, not to its link, where clouds
/// have their metadata services, and not to what is no host's address.
pub fn is_reachable(address: IpAddr) -> bool {
    match address.to_canonical() {
        IpAddr::V4(v4) => v4_is_reachable(v4),
        IpAddr::V6(v6) => v6_is_reachable(v6),
    }
}

/// Whether a server may be named without `[host] upstream_private`. A name's addresses are judged where it is resolved.
pub(super) fn may_be_named(upstream: &Upstream) -> bool {
    match upstream.host.parse::<IpAddr>() {
        Ok(address) => is_reachable(address),
        Err(_) => !is_localhost(&upstream.host),
    }
}

fn v4_is_reachable(v4: Ipv4Addr) -> bool {
    let [first, ..] = v4.octets();
    let refused = v4.is_loopback() || v4.is_link_local() || v4.is_multicast() || v4.is_broadcast() || first == 0;
    // Metadata services outside of the link-local range: Alibaba Cloud, Oracle Cloud, Azure.
    let metadata = [Ipv4Addr::new(100, 100, 100, 200), Ipv4Addr::new(192, 0, 0, 192), Ipv4Addr::new(168, 63, 129, 16)];
    !refused && !metadata.contains(&v4)
}

fn v6_is_reachable(v6: Ipv6Addr) -> bool {
    let embedded = match v6.segments() {
        // IPv4-compatible, NAT64 (RFC 6052), 6to4 (RFC 3056): what counts is the IPv4 address within.
        [0, 0, 0, 0, 0, 0, high, low] | [0x64, 0xff9b, 0, 0, 0, 0, high, low] | [0x2002, high, low, ..] => {
            let ([a, b], [c, d]) = (high.to_be_bytes(), low.to_be_bytes());
            Some(Ipv4Addr::new(a, b, c, d))
        }
        _ => None,
    };
    let link_local = v6.is_unicast_link_local();
    let refused = v6.is_loopback() || v6.is_unspecified() || v6.is_multicast() || link_local;
    // Metadata services over IPv6: Amazon's, Google's.
    let metadata =
        [Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254), Ipv6Addr::new(0xfd20, 0xce, 0, 0, 0, 0, 0, 0x254)];
    !refused && !metadata.contains(&v6) && embedded.is_none_or(v4_is_reachable)
}

/// `localhost` and the names below it (RFC 6761, 6.3).
fn is_localhost(host: &str) -> bool {
    let host = host.strip_suffix('.').unwrap_or(host);
    host == "localhost" || host.ends_with(".localhost")
}

fn is_loopback(host: &str) -> bool {
    host.parse::<IpAddr>().map_or_else(|_| is_localhost(host), |address| address.to_canonical().is_loopback())
}

/// Scheme (whether it is https), host without brackets in lower case, port if written, and the rest.
fn parts(text: &str) -> Result<(bool, String, Option<u16>, Uri), AddressError> {
    let uri: Uri = text.parse().map_err(|_| AddressError::Url)?;
    let tls = match uri.scheme_str() {
        Some("http") => false,
        Some("https") => true,
        _ => return Err(AddressError::Url),
    };
    let authority = uri.authority().ok_or(AddressError::Url)?;
    if authority.as_str().contains('@') {
        return Err(AddressError::TooMuch);
    }
    let host = authority.host().to_ascii_lowercase();
    let host = match host.strip_prefix('[').and_then(|host| host.strip_suffix(']')) {
        Some(v6) => v6.parse::<Ipv6Addr>().map_err(|_| AddressError::Url)?.to_string(),
        None => host,
    };
    let port_written = authority.as_str() != authority.host();
    let port = authority.port_u16().filter(|port| *port != 0);
    if host.is_empty() || (port_written && port.is_none()) {
        return Err(AddressError::Url);
    }
    Ok((tls, host, port, uri))
}

// === impls of FromStr ===

impl FromStr for Network {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, AddressError> {
        let network = text.parse::<IpNet>().or_else(|_| text.parse::<IpAddr>().map(IpNet::from));
        network.map(|network| Self(network.trunc())).map_err(|_| AddressError::Network)
    }
}

impl FromStr for GraphUrl {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, AddressError> {
        let (tls, host, _, uri) = parts(text)?;
        if uri.query().is_some() {
            return Err(AddressError::TooMuch);
        }
        if !tls && !is_loopback(&host) {
            return Err(AddressError::Clear);
        }
        Ok(Self(text.trim_end_matches('/').to_owned()))
    }
}

impl FromStr for DirectoryUrl {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, AddressError> {
        let (tls, host, _, _) = parts(text)?;
        if !tls && !is_loopback(&host) {
            return Err(AddressError::Unsigned);
        }
        Ok(Self(text.to_owned()))
    }
}

impl FromStr for ServerUrl {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, AddressError> {
        let (tls, host, port, uri) = parts(text)?;
        if uri.query().is_some() || !matches!(uri.path(), "" | "/") {
            return Err(AddressError::TooMuch);
        }
        let port = port.unwrap_or(if tls { 443 } else { 80 });
        Ok(Self(Upstream { tls, host, port }))
    }
}

impl FromStr for WebsitePattern {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, AddressError> {
        let (star, name) = match text.strip_prefix("*.") {
            Some(name) => ("*.", name),
            None => ("", text),
        };
        // Pages of a shop in the making are at addresses and at localhost.
        if star.is_empty() && (is_localhost(name) || name.parse::<IpAddr>().is_ok()) {
            return Ok(Self(name.to_owned()));
        }
        let name: ServerName = name.parse().map_err(|_| AddressError::Pattern)?;
        Ok(Self(format!("{star}{name}")))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn the_machine_its_link_and_metadata_are_out_of_reach() {
        for refused in [
            "127.0.0.1",
            "127.9.9.9",
            "0.0.0.0",
            "0.1.2.3",
            "169.254.169.254",
            "224.0.0.1",
            "255.255.255.255",
            "100.100.100.200",
            "168.63.129.16",
            "fd20:ce::254",
            "::1",
            "::",
            "fe80::1",
            "ff02::1",
            "fd00:ec2::254",
            "::ffff:127.0.0.1",
            "::ffff:169.254.169.254",
            "64:ff9b::7f00:1",
            "2002:7f00:1::",
            "::127.0.0.1",
        ] {
            assert!(!is_reachable(refused.parse().unwrap()), "{refused}");
        }
        for allowed in ["10.0.0.5", "192.168.1.2", "172.16.0.1", "93.184.215.14", "2606:2800:21f::1", "fd12:3456::1"] {
            assert!(is_reachable(allowed.parse().unwrap()), "{allowed}");
        }
    }

    #[test]
    fn an_upstream_is_scheme_host_and_port() {
        let upstream = |tls, host: &str, port| Ok(ServerUrl(Upstream { tls, host: host.to_owned(), port }));
        assert_eq!("http://10.0.0.5:8080".parse::<ServerUrl>(), upstream(false, "10.0.0.5", 8080));
        assert_eq!("https://Shop.Example/".parse::<ServerUrl>(), upstream(true, "shop.example", 443));
        assert_eq!("http://[2001:DB8::1]".parse::<ServerUrl>(), upstream(false, "2001:db8::1", 80));
        for (bad, error) in [
            ("", AddressError::Url),
            ("shop.example", AddressError::Url),
            ("shop.example:80", AddressError::Url),
            ("/shop", AddressError::Url),
            ("ftp://shop.example", AddressError::Url),
            ("http://", AddressError::Url),
            ("http://:80", AddressError::Url),
            ("http://shop.example:0", AddressError::Url),
            ("http://shop.example:99999", AddressError::Url),
            ("http://shop.example:", AddressError::Url),
            ("http://[v1.x]", AddressError::Url),
            ("http://user:word@shop.example", AddressError::TooMuch),
            ("http://shop.example/path", AddressError::TooMuch),
            ("http://shop.example/?q", AddressError::TooMuch),
        ] {
            assert_eq!(bad.parse::<ServerUrl>(), Err(error), "{bad}");
        }
    }

    #[test]
    fn only_reachable_servers_may_be_named() {
        for (url, named) in [
            ("http://127.0.0.1:8080", false),
            ("http://localhost", false),
            ("http://a.localhost.", false),
            ("http://[::1]", false),
            ("http://169.254.169.254", false),
            ("http://10.0.0.5", true),
            ("http://shop.example", true),
        ] {
            assert_eq!(may_be_named(&url.parse::<ServerUrl>().unwrap().0), named, "{url}");
        }
    }

    #[test]
    fn the_graph_api_is_reached_in_clear_only_on_loopback() {
        let url = |text: &str| text.parse::<GraphUrl>().map(|url| url.0);
        assert_eq!(url("https://graph.facebook.com/").unwrap(), "https://graph.facebook.com");
        assert_eq!(url("http://127.0.0.1:9/base/").unwrap(), "http://127.0.0.1:9/base");
        assert!(url("http://localhost:9").is_ok() && url("http://[::1]:9").is_ok());
        assert_eq!(url("http://graph.facebook.com"), Err(AddressError::Clear));
        assert_eq!(url("http://127.0.0.1.evil.example"), Err(AddressError::Clear));
        assert_eq!(url("https://me@graph.facebook.com"), Err(AddressError::TooMuch));
        assert_eq!(url("https://graph.facebook.com?a=b"), Err(AddressError::TooMuch));
    }

    #[test]
    fn a_network_is_cidr_or_one_address() {
        let network = |text: &str| text.parse::<Network>().map(|network| network.0.to_string());
        assert_eq!(network("10.1.2.3/8").unwrap(), "10.0.0.0/8");
        assert_eq!(network("192.0.2.1").unwrap(), "192.0.2.1/32");
        assert_eq!(network("2001:db8::/32").unwrap(), "2001:db8::/32");
        assert_eq!(network("10.0.0.0/33"), Err(AddressError::Network));
    }

    #[test]
    fn website_patterns_are_compared_in_one_form() {
        let pattern = |text: &str| text.parse::<WebsitePattern>().map(|pattern| pattern.0);
        assert_eq!(pattern("*.Bücher.example").unwrap(), "*.xn--bcher-kva.example");
        assert_eq!(pattern("Shop.Example.").unwrap(), "shop.example");
        assert_eq!(pattern("localhost").unwrap(), "localhost");
        assert_eq!(pattern("127.0.0.1").unwrap(), "127.0.0.1");
        for bad in ["", "*", "*.", "**.shop.example", "shop.*", "https://shop.example", "shop.example/x", "*.10.0.0.1"]
        {
            assert_eq!(pattern(bad), Err(AddressError::Pattern), "{bad}");
        }
    }
}
