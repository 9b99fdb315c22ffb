//! The PROXY protocol, versions 1 and 2 (haproxy's `proxy-protocol.txt`): who a load balancer's connection is from.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use tokio::io::{AsyncRead, AsyncReadExt};

/// The first bytes of version 2.
const V2_SIGNATURE: [u8; 12] = *b"\r\n\r\n\0\r\nQUIT\n";
/// Bytes of a version 1 line (2.1), with its CRLF.
const V1_BYTES_MAX: usize = 107;
/// Bytes after the head of version 2: addresses and type-length-values. Cloud load balancers send less than 300.
const V2_BYTES_MAX: usize = 2_048;

/// Why a connection does not begin with a PROXY header.
#[derive(Debug, thiserror::Error)]
pub(super) enum HeaderError {
    /// It begins with something else, or with a header that is not right.
    #[error("no PROXY header")]
    Malformed,
    /// It ended or failed before the header was complete.
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// Reads the header and nothing after it. `None` = the balancer speaks for itself (a health check).
pub(super) async fn read_header<R: AsyncRead + Unpin>(reader: &mut R) -> Result<Option<SocketAddr>, HeaderError> {
    match reader.read_u8().await? {
        b'P' => read_v1(reader).await,
        b'\r' => read_v2(reader).await,
        _ => Err(HeaderError::Malformed),
    }
}

/// The rest of `PROXY TCP4 192.0.2.1 198.51.100.1 56324 443\r\n` after its first letter.
async fn read_v1<R: AsyncRead + Unpin>(reader: &mut R) -> Result<Option<SocketAddr>, HeaderError> {
    let mut line = vec![b'P'];
    while !line.ends_with(b"\r\n") {
        if line.len() >= V1_BYTES_MAX {
            return Err(HeaderError::Malformed);
        }
        line.push(reader.read_u8().await?);
    }
    parse_v1(&line).ok_or(HeaderError::Malformed)
}

fn parse_v1(line: &[u8]) -> Option<Option<SocketAddr>> {
    let line = std::str::from_utf8(line).ok()?.strip_suffix("\r\n")?.strip_prefix("PROXY ")?;
    let mut words = line.split(' ');
    let family = words.next()?;
    if family == "UNKNOWN" {
        return Some(None);
    }
    let (source, destination): (IpAddr, IpAddr) = (words.next()?.parse().ok()?, words.next()?.parse().ok()?);
    let port: u16 = words.next()?.parse().ok()?;
    let _destination_port: u16 = words.next()?.parse().ok()?;
    let same_family = match family {
        "TCP4" => source.is_ipv4() && destination.is_ipv4(),
        "TCP6" => source.is_ipv6() && destination.is_ipv6(),
        _ => false,
    };
    (same_family && words.next().is_none()).then(|| Some(SocketAddr::new(source, port)))
}

/// The rest of a binary header after its first byte.
async fn read_v2<R: AsyncRead + Unpin>(reader: &mut R) -> Result<Option<SocketAddr>, HeaderError> {
    let mut signature = [b'\r'; V2_SIGNATURE.len()];
    reader.read_exact(signature.get_mut(1..).unwrap_or_default()).await?;
    let (command, family) = (reader.read_u8().await?, reader.read_u8().await?);
    let length = usize::from(reader.read_u16().await?);
    if signature != V2_SIGNATURE || length > V2_BYTES_MAX {
        return Err(HeaderError::Malformed);
    }
    let mut rest = vec![0; length];
    reader.read_exact(&mut rest).await?;
    match command {
        // LOCAL: the addresses, if any, say nothing.
        0x20 => Ok(None),
        0x21 => parse_v2(family, &rest).ok_or(HeaderError::Malformed),
        _ => Err(HeaderError::Malformed),
    }
}

fn parse_v2(family: u8, addresses: &[u8]) -> Option<Option<SocketAddr>> {
    match family {
        // UNSPEC
        0x00 => Some(None),
        // TCP over IPv4: source, destination, source port, destination port.
        0x11 => {
            let (source, rest) = addresses.split_first_chunk::<4>()?;
            let (port, _) = rest.get(4..)?.split_first_chunk::<2>()?;
            rest.get(6..8)?;
            Some(Some(SocketAddr::new(Ipv4Addr::from(*source).into(), u16::from_be_bytes(*port))))
        }
        // TCP over IPv6
        0x21 => {
            let (source, rest) = addresses.split_first_chunk::<16>()?;
            let (port, _) = rest.get(16..)?.split_first_chunk::<2>()?;
            rest.get(18..20)?;
            Some(Some(SocketAddr::new(Ipv6Addr::from(*source).into(), u16::from_be_bytes(*port))))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    async fn read(bytes: &[u8]) -> Result<(Option<SocketAddr>, Vec<u8>), HeaderError> {
        let mut reader = bytes;
        let source = read_header(&mut reader).await?;
        Ok((source, reader.to_vec()))
    }

    fn v2(command: u8, family: u8, rest: &[u8]) -> Vec<u8> {
        let length = u16::try_from(rest.len()).unwrap().to_be_bytes();
        [&V2_SIGNATURE[..], &[command, family], &length, rest].concat()
    }

    #[tokio::test]
    async fn version_1_is_read_and_nothing_after_it() {
        let (source, rest) = read(b"PROXY TCP4 192.0.2.1 198.51.100.1 56324 443\r\n\x16\x03\x01").await.unwrap();
        assert_eq!((source, rest.as_slice()), (Some("192.0.2.1:56324".parse().unwrap()), &b"\x16\x03\x01"[..]));
        let (source, _) = read(b"PROXY TCP6 2001:db8::1 2001:db8::2 1 443\r\n").await.unwrap();
        assert_eq!(source, Some("[2001:db8::1]:1".parse().unwrap()));
        let (source, _) = read(b"PROXY UNKNOWN ffff:f::1 ffff:f::2 65535 65535\r\n").await.unwrap();
        assert_eq!(source, None);
    }

    #[tokio::test]
    async fn version_2_is_read_with_its_extensions() {
        let v4 = [192, 0, 2, 1, 198, 51, 100, 1, 0xdc, 0x04, 0x01, 0xbb, 0x04, 0, 1, 9];
        let (source, rest) = read(&[&v2(0x21, 0x11, &v4)[..], b"GET"].concat()).await.unwrap();
        assert_eq!((source, rest.as_slice()), (Some("192.0.2.1:56324".parse().unwrap()), &b"GET"[..]));
        let v6 = [&Ipv6Addr::LOCALHOST.octets()[..], &[0; 16], &[0, 7, 0, 8]].concat();
        assert_eq!(read(&v2(0x21, 0x21, &v6)).await.unwrap().0, Some("[::1]:7".parse().unwrap()));
        assert_eq!(read(&v2(0x20, 0x00, &[])).await.unwrap().0, None);
        assert_eq!(read(&v2(0x21, 0x00, &[1, 2, 3])).await.unwrap().0, None);
    }

    #[tokio::test]
    async fn anything_else_is_refused() {
        let long = [b"PROXY UNKNOWN ", [b'x'; 200].as_slice(), b"\r\n"].concat();
        let bad: [&[u8]; 14] = [
            b"",
            b"P",
            b"\x16\x03\x01\x02\x00",
            b"PROXY TCP4 192.0.2.1",
            b"PROXY TCP4 192.0.2.1 198.51.100.1 56324\r\n",
            b"PROXY TCP4 192.0.2.1 198.51.100.1 56324 443 9\r\n",
            b"PROXY TCP4 ::1 ::1 56324 443\r\n",
            b"PROXY TCP4 192.0.2.1 198.51.100.1 65536 443\r\n",
            b"PROXY UDP4 192.0.2.1 198.51.100.1 1 443\r\n",
            &long,
            &v2(0x22, 0x11, &[0; 12]),
            &v2(0x21, 0x12, &[0; 12]),
            &v2(0x21, 0x11, &[0; 11]),
            &v2(0x21, 0x21, &[0; 35]),
        ];
        for bytes in bad {
            assert!(read(bytes).await.is_err(), "{bytes:?}");
        }
        let mut huge = v2(0x21, 0x11, &[0; 12]);
        huge.splice(14..16, [0xff, 0xff]);
        assert!(matches!(read(&huge).await, Err(HeaderError::Malformed)));
    }
}
