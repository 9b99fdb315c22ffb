//! TLS handshakes: the server name chooses the certificate, and a name that is not served ends it at once.

use std::io;
use std::sync::Arc;

use boring::ex_data::Index;
use pingora::protocols::tls::SslStream;
use pingora::tls::error::ErrorStack;
use pingora::tls::ssl::{
    AlpnError, ClientHello, NameType, SelectCertError, Ssl, SslAcceptor, SslMethod, SslSessionCacheMode, SslVersion,
    select_next_proto,
};

use crate::config::TlsVersion;
use crate::proxy::wire::Wire;
use crate::tls::{self, Credential};

/// HTTP/2 before HTTP/1.1 (RFC 7301, 3.1: each protocol with its length before it).
const PROTOCOLS: &[u8] = b"\x02h2\x08http/1.1";

/// Makes TLS of sockets, for every server name.
pub(super) struct TlsAcceptor {
    acceptor: SslAcceptor,
    choice: Index<Ssl, Choice>,
}

/// What the ClientHello led to.
enum Choice {
    /// No ClientHello yet.
    Open,
    /// This name's certificate.
    Serve(Arc<str>),
    /// The handshake was refused.
    Refuse(HandshakeError),
}

/// Why there is no TLS on a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum HandshakeError {
    /// The client named no server, or an address.
    NoName,
    /// The client named a server that has no certificate here.
    UnknownName,
    /// It is no TLS, of a version or with ciphers that are not spoken here, or the client gave up.
    Failed,
}

// === impl TlsAcceptor ===

impl TlsAcceptor {
    /// Mozilla's "intermediate" profile, version 5, with the certificates that `lookup` finds by name.
    ///
    /// # Errors
    /// When BoringSSL has no memory left.
    pub(super) fn new<F>(lookup: F) -> Result<Self, ErrorStack>
    where
        F: Fn(&str) -> Option<Arc<Credential>> + Send + Sync + 'static,
    {
        let choice = Ssl::new_ex_index()?;
        let mut builder = SslAcceptor::mozilla_intermediate_v5(SslMethod::tls())?;
        builder.set_curves_list("X25519MLKEM768:X25519:P-256:P-384")?;
        // Sessions are resumed by tickets, which cost the server no memory.
        builder.set_session_cache_mode(SslSessionCacheMode::OFF);
        builder.set_session_id_context(b"pixelgate")?;
        builder.set_alpn_select_callback(|_, offered| {
            // A client that offers protocols and none of ours meant another service (RFC 7301, 3.2).
            select_next_proto(PROTOCOLS, offered).ok_or(AlpnError::ALERT_FATAL)
        });
        builder.set_select_certificate_callback(move |mut hello| {
            let chosen = choose(&lookup, &mut hello);
            let refused = matches!(chosen, Choice::Refuse(_));
            hello.ssl_mut().set_ex_data(choice, chosen);
            if refused { Err(SelectCertError::ERROR) } else { Ok(()) }
        });
        Ok(Self { acceptor: builder.build(), choice })
    }

    /// Shakes hands, and says for which server name.
    ///
    /// # Errors
    /// Why not. The connection is over then, with an alert where TLS allows one.
    pub(super) async fn accept(
        &self,
        wire: Wire,
        min_version: TlsVersion,
    ) -> Result<(SslStream<Wire>, Arc<str>), HandshakeError> {
        let mut stream = self.prepare(wire, min_version).map_err(|_| HandshakeError::Failed)?;
        let accepted = stream.accept().await;
        match (accepted, stream.ssl().ex_data(self.choice)) {
            (Ok(()), Some(Choice::Serve(name))) => {
                let name = name.clone();
                Ok((stream, name))
            }
            (Err(_), Some(Choice::Refuse(error))) => Err(*error),
            _ => Err(HandshakeError::Failed),
        }
    }

    fn prepare(&self, wire: Wire, min_version: TlsVersion) -> io::Result<SslStream<Wire>> {
        let mut ssl = Ssl::new(self.acceptor.context())?;
        ssl.set_min_proto_version(Some(match min_version {
            TlsVersion::Tls12 => SslVersion::TLS1_2,
            TlsVersion::Tls13 => SslVersion::TLS1_3,
        }))?;
        ssl.set_ex_data(self.choice, Choice::Open);
        SslStream::new(ssl, wire).map_err(io::Error::other)
    }
}

/// Finds the certificate of the name that a client asks for, and makes the handshake use it.
fn choose(lookup: impl Fn(&str) -> Option<Arc<Credential>>, hello: &mut ClientHello<'_>) -> Choice {
    let Some(name) = hello.servername(NameType::HOST_NAME).and_then(tls::normalise) else {
        return Choice::Refuse(HandshakeError::NoName);
    };
    let name: Arc<str> = name.into();
    let Some(credential) = lookup(&name) else {
        return Choice::Refuse(HandshakeError::UnknownName);
    };
    match credential.install(hello.ssl_mut()) {
        Ok(()) => Choice::Serve(name),
        Err(_) => Choice::Refuse(HandshakeError::Failed),
    }
}

// === impl HandshakeError ===

impl HandshakeError {
    /// As the label of a metric.
    pub(super) fn label(self) -> &'static str {
        match self {
            HandshakeError::NoName => "no_name",
            HandshakeError::UnknownName => "unknown_name",
            HandshakeError::Failed => "failed",
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::net::SocketAddr;
    use std::time::Duration;

    use boring::ssl::{SslConnector, SslStream as ClientStream, SslVerifyMode};
    use tokio::net::TcpListener;
    use tokio::task::{JoinHandle, spawn_blocking};

    use super::*;
    use crate::proxy::limits::ConnectionLimits;
    use crate::proxy::testing::Uncounted;
    use crate::proxy::wire::Pace;
    use crate::tls::testing::Issued;

    type Accepted = Result<Arc<str>, HandshakeError>;

    /// How a client shakes hands.
    struct Client {
        name: Option<&'static str>,
        protocols: &'static [u8],
        max_version: SslVersion,
    }

    const CLIENT: Client = Client { name: Some("a.example"), protocols: PROTOCOLS, max_version: SslVersion::TLS1_3 };

    /// Accepts one connection for `a.example`.
    async fn server(min_version: TlsVersion) -> (SocketAddr, String, JoinHandle<Accepted>) {
        let issued = Issued::new(&["a.example"]);
        let credential = Credential::parse(issued.chain.as_bytes(), issued.key.as_bytes()).unwrap();
        let acceptor = TlsAcceptor::new(move |name| (name == "a.example").then(|| credential.clone())).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let accepting = tokio::spawn(async move {
            let (tcp, _) = listener.accept().await.unwrap();
            let permit = ConnectionLimits::new(Arc::new(Uncounted)).admit(1).unwrap();
            let wire = Wire::new(tcp, Pace::new(), Duration::from_secs(5), permit);
            acceptor.accept(wire, min_version).await.map(|(_, name)| name)
        });
        (address, issued.root, accepting)
    }

    /// Shakes hands; the client's side, and how the server saw it.
    async fn shake(client: Client, min_version: TlsVersion) -> (Option<ClientStream<std::net::TcpStream>>, Accepted) {
        let (address, root, accepting) = server(min_version).await;
        let connecting = spawn_blocking(move || {
            let mut builder = SslConnector::builder(SslMethod::tls()).unwrap();
            let root = boring::x509::X509::from_pem(root.as_bytes()).unwrap();
            builder.cert_store_mut().add_cert(&root).unwrap();
            builder.set_max_proto_version(Some(client.max_version)).unwrap();
            builder.set_alpn_protos(client.protocols).unwrap();
            builder.set_verify(if client.name.is_some() { SslVerifyMode::PEER } else { SslVerifyMode::NONE });
            let tcp = std::net::TcpStream::connect(address).unwrap();
            let mut configured = builder.build().configure().unwrap();
            configured.set_use_server_name_indication(client.name.is_some());
            configured.connect(client.name.unwrap_or("a.example"), tcp).ok()
        });
        (connecting.await.unwrap(), accepting.await.unwrap())
    }

    #[tokio::test]
    async fn a_served_name_gets_its_whole_chain_and_http_2() {
        let (stream, accepted) = shake(CLIENT, TlsVersion::Tls12).await;
        assert_eq!(accepted.as_deref(), Ok("a.example"));
        let stream = stream.unwrap();
        assert_eq!(stream.ssl().peer_cert_chain().unwrap().len(), 2);
        assert_eq!(stream.ssl().selected_alpn_protocol(), Some(&b"h2"[..]));
        assert_eq!(stream.ssl().version_str(), "TLSv1.3");
    }

    #[tokio::test]
    async fn names_are_served_in_any_case() {
        let (stream, accepted) = shake(Client { name: Some("A.Example"), ..CLIENT }, TlsVersion::Tls12).await;
        assert_eq!((stream.is_some(), accepted.as_deref()), (true, Ok("a.example")));
    }

    #[tokio::test]
    async fn an_unknown_name_and_none_are_told_apart_and_refused() {
        let (stream, accepted) = shake(Client { name: Some("b.example"), ..CLIENT }, TlsVersion::Tls12).await;
        assert_eq!((stream.is_none(), accepted), (true, Err(HandshakeError::UnknownName)));
        let (stream, accepted) = shake(Client { name: None, ..CLIENT }, TlsVersion::Tls12).await;
        assert_eq!((stream.is_none(), accepted), (true, Err(HandshakeError::NoName)));
    }

    #[tokio::test]
    async fn versions_below_the_lowest_are_refused() {
        for (max_version, min_version, served) in [
            (SslVersion::TLS1_1, TlsVersion::Tls12, false),
            (SslVersion::TLS1_2, TlsVersion::Tls12, true),
            (SslVersion::TLS1_2, TlsVersion::Tls13, false),
            (SslVersion::TLS1_3, TlsVersion::Tls13, true),
        ] {
            let (stream, accepted) = shake(Client { max_version, ..CLIENT }, min_version).await;
            assert_eq!((stream.is_some(), accepted.is_ok()), (served, served), "{max_version:?} {min_version:?}");
        }
    }

    #[tokio::test]
    async fn another_services_protocol_is_refused() {
        let (stream, accepted) = shake(Client { protocols: b"\x04imap", ..CLIENT }, TlsVersion::Tls12).await;
        assert_eq!((stream.is_none(), accepted), (true, Err(HandshakeError::Failed)));
        let (stream, _) = shake(Client { protocols: b"\x08http/1.1", ..CLIENT }, TlsVersion::Tls12).await;
        assert_eq!(stream.unwrap().ssl().selected_alpn_protocol(), Some(&b"http/1.1"[..]));
    }

    #[tokio::test]
    async fn what_is_no_tls_fails() {
        let (address, _, accepting) = server(TlsVersion::Tls12).await;
        spawn_blocking(move || {
            use std::io::Write;
            std::net::TcpStream::connect(address).unwrap().write_all(b"GET / HTTP/1.1\r\n\r\n").unwrap();
        })
        .await
        .unwrap();
        assert_eq!(accepting.await.unwrap(), Err(HandshakeError::Failed));
    }
}
