//! Which addresses an account's upstream servers may have.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Whether an account may make the gateway talk to an address: not to the machine itself, not to its link, where clouds
/// have their metadata services, and not to what is no host's address.
pub(super) fn is_reachable(address: IpAddr) -> bool {
    match address.to_canonical() {
        IpAddr::V4(v4) => v4_is_reachable(v4),
        IpAddr::V6(v6) => v6_is_reachable(v6),
    }
}

fn v4_is_reachable(v4: Ipv4Addr) -> bool {
    let [first, ..] = v4.octets();
    let refused = v4.is_loopback() || v4.is_link_local() || v4.is_multicast() || v4.is_broadcast() || first == 0;
    // Metadata services outside of the link-local range: Alibaba Cloud, Oracle Cloud.
    let metadata = [Ipv4Addr::new(100, 100, 100, 200), Ipv4Addr::new(192, 0, 0, 192)];
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
    // Amazon's metadata service over IPv6.
    let metadata = Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254);
    !refused && v6 != metadata && embedded.is_none_or(v4_is_reachable)
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
    }

    #[test]
    fn servers_in_public_and_private_networks_are_in_reach() {
        for allowed in ["10.0.0.5", "192.168.1.2", "172.16.0.1", "93.184.215.14", "2606:2800:21f::1", "fd12:3456::1"] {
            assert!(is_reachable(allowed.parse().unwrap()), "{allowed}");
        }
    }
}
