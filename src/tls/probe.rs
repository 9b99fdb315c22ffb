//! What a client is served under a name: a handshake with ourselves, or with anybody, that trusts nothing and looks.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::pin::Pin;
use std::time::Duration;

use ipnet::IpNet;
use pingora::tls::error::ErrorStack;
use pingora::tls::ssl::{Ssl, SslContext, SslMethod, SslVerifyMode};
use pingora::tls::tokio_ssl::SslStream;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

use crate::account::ServerName;
use crate::tls::OwnConnections;
use crate::tls::chain::Chain;
use crate::tls::sni;

/// Version 2 of the PROXY protocol, command LOCAL: the sender speaks for itself.
const PROXY_LOCAL: [u8; 16] = *b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0";
/// `h2` and `http/1.1`, as browsers offer them (RFC 7301, 3.1).
const ALPN: &[u8] = b"\x02h2\x08http/1.1";

/// Signatures of RSA keys, for TLS 1.3 and for 1.2.
const RSA_SIGNATURES: &str = "rsa_pss_rsae_sha256:rsa_pkcs1_sha256";

/// Whom a certificate is to be served to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Clients {
    /// Those of today.
    All,
    /// Those that cannot verify ECDSA.
    RsaOnly,
}

/// What was served.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Served {
    /// The certificates as they came, leaf first.
    pub chain_der: Vec<Vec<u8>>,
    /// Last second of the leaf's validity, Unix time.
    pub not_after: i64,
    /// Who issued the leaf.
    pub issuer: String,
    /// The DNS names of the leaf.
    pub names: Vec<String>,
}

/// Why nothing was served.
#[derive(Debug, thiserror::Error)]
pub enum ProbeError {
    /// Nobody accepts there.
    #[error("{address} cannot be connected to: {error}")]
    Connect {
        /// Where.
        address: SocketAddr,
        /// What the operating system says.
        error: io::Error,
    },
    /// The server breaks the handshake off; a name that it does not serve ends so.
    #[error("the handshake is refused: {0}")]
    Handshake(String),
    /// It took longer.
    #[error("no handshake within {0:?}")]
    Timeout(Duration),
    /// What came is no certificate.
    #[error("the server sends no certificate that can be read")]
    NoCertificate,
    /// Memory, in all likelihood.
    #[error(transparent)]
    Tls(#[from] ErrorStack),
}

// === impl Served ===

impl Served {
    /// Whether the leaf is one for this name.
    pub fn covers(&self, name: &ServerName) -> bool {
        self.names.iter().any(|own| sni::covers(own, name.as_str()))
    }
}

/// Where a listener of this machine is reached over loopback, and whether a PROXY header must come first.
pub fn over_loopback(listener: SocketAddr, proxy_protocol: &[IpNet]) -> (SocketAddr, bool) {
    let address = match listener.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => SocketAddr::from((Ipv4Addr::LOCALHOST, listener.port())),
        IpAddr::V6(ip) if ip.is_unspecified() => SocketAddr::from((Ipv6Addr::LOCALHOST, listener.port())),
        _ => listener,
    };
    // A connection to an address of one's own comes from that address.
    (address, proxy_protocol.iter().any(|network| network.contains(&address.ip())))
}

/// Connects, asks for `name`, and tells which certificates came. Nothing about them is verified.
///
/// # Errors
/// When there is no complete handshake within `timeout`.
pub async fn served_leaf(
    address: SocketAddr,
    name: &ServerName,
    proxy_header: bool,
    timeout: Duration,
) -> Result<Served, ProbeError> {
    served_to(Clients::All, address, name, proxy_header, timeout).await
}

/// As [`served_leaf`], for some clients only.
///
/// # Errors
/// When there is no complete handshake within `timeout`.
pub async fn served_to(
    clients: Clients,
    address: SocketAddr,
    name: &ServerName,
    proxy_header: bool,
    timeout: Duration,
) -> Result<Served, ProbeError> {
    let looking = async {
        let socket = TcpStream::connect(address).await.map_err(|error| ProbeError::Connect { address, error })?;
        handshake(clients, socket, address, name, proxy_header).await
    };
    tokio::time::timeout(timeout, looking).await.map_err(|_| ProbeError::Timeout(timeout))?
}

/// As [`served_to`], at a listener of this process, which is not to take it for a visitor.
///
/// # Errors
/// When there is no complete handshake within `timeout`.
pub async fn served_here(
    own: &OwnConnections,
    clients: Clients,
    listener: SocketAddr,
    name: &ServerName,
    proxy_header: bool,
    timeout: Duration,
) -> Result<Served, ProbeError> {
    let looking = async {
        let connecting = own.connect(listener).await;
        let (socket, _known) = connecting.map_err(|error| ProbeError::Connect { address: listener, error })?;
        handshake(clients, socket, listener, name, proxy_header).await
    };
    tokio::time::timeout(timeout, looking).await.map_err(|_| ProbeError::Timeout(timeout))?
}

async fn handshake(
    clients: Clients,
    mut socket: TcpStream,
    address: SocketAddr,
    name: &ServerName,
    proxy_header: bool,
) -> Result<Served, ProbeError> {
    let failed = |error| ProbeError::Connect { address, error };
    if proxy_header {
        socket.write_all(&PROXY_LOCAL).await.map_err(failed)?;
    }
    let mut context = SslContext::builder(SslMethod::tls())?;
    context.set_verify(SslVerifyMode::NONE);
    context.set_alpn_protos(ALPN)?;
    if clients == Clients::RsaOnly {
        context.set_sigalgs_list(RSA_SIGNATURES)?;
    }
    let mut ssl = Ssl::new(&context.build())?;
    ssl.set_hostname(name.as_str())?;
    let mut stream = SslStream::new(ssl, socket)?;
    Pin::new(&mut stream).connect().await.map_err(|error| ProbeError::Handshake(error.to_string()))?;
    let chain = stream.ssl().peer_cert_chain().ok_or(ProbeError::NoCertificate)?;
    let chain_der = chain.iter().map(|certificate| certificate.to_der()).collect::<Result<Vec<_>, _>>()?;
    let leaf = Chain::from_der(&chain_der).and_then(|chain| chain.leaf()).ok_or(ProbeError::NoCertificate)?;
    Ok(Served { chain_der, not_after: leaf.not_after, issuer: leaf.issuer, names: leaf.names })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use pingora::tls::pkey::PKey;
    use pingora::tls::ssl::SslAcceptor;
    use pingora::tls::x509::X509;
    use tokio::io::AsyncReadExt;
    use tokio::net::TcpListener;

    use super::*;
    use crate::tls::testing::Issued;

    const SOON: Duration = Duration::from_secs(10);

    fn name() -> ServerName {
        "a.example".parse().unwrap()
    }

    /// Serves one handshake with what is given, after a PROXY header if there is to be one.
    async fn server(issued: &Issued, proxy_header: bool) -> SocketAddr {
        let mut chain = X509::stack_from_pem(issued.chain.as_bytes()).unwrap().into_iter();
        let mut acceptor = SslAcceptor::mozilla_intermediate_v5(SslMethod::tls()).unwrap();
        acceptor.set_certificate(&chain.next().unwrap()).unwrap();
        chain.for_each(|certificate| acceptor.add_extra_chain_cert(certificate).unwrap());
        acceptor.set_private_key(&PKey::private_key_from_pem(issued.key.as_bytes()).unwrap()).unwrap();
        let acceptor = acceptor.build();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move {
            let (mut socket, _) = listener.accept().await.unwrap();
            if proxy_header {
                let mut header = [0; PROXY_LOCAL.len()];
                socket.read_exact(&mut header).await.unwrap();
                assert_eq!(header, PROXY_LOCAL);
            }
            let mut stream = SslStream::new(Ssl::new(acceptor.context()).unwrap(), socket).unwrap();
            Pin::new(&mut stream).accept().await.unwrap();
            assert_eq!(
                stream.ssl().servername(pingora::tls::ssl::NameType::HOST_NAME),
                Some("a.example"),
                "the name is asked for"
            );
        });
        address
    }

    #[tokio::test]
    async fn the_whole_chain_is_told_with_and_without_a_proxy_header() {
        for proxy_header in [false, true] {
            let issued = Issued::valid(&["a.example", "b.example"], 2020, 2030);
            let served = served_leaf(server(&issued, proxy_header).await, &name(), proxy_header, SOON).await.unwrap();
            assert_eq!(served.chain_der.len(), 2);
            assert_eq!((served.not_after, served.names.len()), (1_893_456_000, 2));
            assert!(served.issuer.contains("Intermediate of a.example"), "{}", served.issuer);
        }
    }

    #[tokio::test]
    async fn clients_that_know_rsa_only_are_served_rsa_or_nothing() {
        let (rsa, ecdsa) = (Issued::rsa(&["a.example"]), Issued::new(&["a.example"]));
        let served = |address| async move { served_to(Clients::RsaOnly, address, &name(), false, SOON).await };
        served(server(&rsa, false).await).await.unwrap();
        let refused = served(server(&ecdsa, false).await).await;
        assert!(matches!(refused, Err(ProbeError::Handshake(_))), "{refused:?}");
    }

    #[tokio::test]
    async fn what_is_no_handshake_is_told_apart() {
        let nobody = {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            listener.local_addr().unwrap()
        };
        let refused = served_leaf(nobody, &name(), false, SOON).await;
        assert!(matches!(refused, Err(ProbeError::Connect { .. })), "{refused:?}");
        let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let timeout = Duration::from_millis(50);
        let slow = served_leaf(silent.local_addr().unwrap(), &name(), false, timeout).await;
        assert!(matches!(slow, Err(ProbeError::Timeout(_))), "{slow:?}");
        let plain = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = plain.local_addr().unwrap();
        tokio::spawn(async move { plain.accept().await.unwrap().0.write_all(b"HTTP/1.1 400 No\r\n\r\n").await });
        let other = served_leaf(address, &name(), false, SOON).await;
        assert!(matches!(other, Err(ProbeError::Handshake(_))), "{other:?}");
    }

    #[test]
    fn listeners_are_reached_over_loopback() {
        let networks = ["127.0.0.0/8".parse().unwrap()];
        let over = |listener: &str| over_loopback(listener.parse().unwrap(), &networks);
        assert_eq!(over("0.0.0.0:443"), ("127.0.0.1:443".parse().unwrap(), true));
        assert_eq!(over("[::]:443"), ("[::1]:443".parse().unwrap(), false));
        assert_eq!(over("192.0.2.1:8443"), ("192.0.2.1:8443".parse().unwrap(), false));
    }
}
