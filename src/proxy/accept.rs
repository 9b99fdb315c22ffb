//! From a listening socket to a connection that is served: caps, PROXY header, handshake, HTTP.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use pingora::apps::{HttpServerOptions, ServerApp};
use pingora::protocols::Stream;
use pingora::protocols::tls::ALPN;
use pingora::proxy::HttpProxy;
use pingora::server::ShutdownWatch;
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::config::GatewayConfig;
use crate::proxy::context::{Connection, ConnectionApp};
use crate::proxy::handshake::TlsAcceptor;
use crate::proxy::limits::{ConnectionLimits, ConnectionPermit, HandshakeRate, SourceRates};
use crate::proxy::service::Service;
use crate::proxy::wire::{Pace, Wire};
use crate::proxy::{Observer, forwarded, proxy_protocol};
use crate::snapshot::Published;

/// Wait after the system had no socket or memory for a connection.
const EXHAUSTED_WAIT: Duration = Duration::from_millis(100);
/// Time after which a socket whose client takes nothing is given up.
const WRITE_STALL_MAX: Duration = Duration::from_secs(30);
/// Requests on one connection, after which the client is asked to open another: memory that libraries keep per
/// connection is given back then.
const REQUESTS_PER_CONNECTION_MAX: u32 = 10_000;

/// Whether a socket speaks TLS.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Scheme {
    Https,
    Http,
}

/// Serves connections of all listeners.
pub(super) struct Acceptor {
    pub(super) published: Arc<Published>,
    pub(super) tls: TlsAcceptor,
    pub(super) limits: Arc<ConnectionLimits>,
    pub(super) handshakes: HandshakeRate,
    pub(super) handshakes_by_source: SourceRates,
    pub(super) proxy: Arc<HttpProxy<Service>>,
    pub(super) observer: Arc<dyn Observer>,
    /// Turns true when the gateway stops: Pingora then ends kept-alive connections after their request.
    pub(super) stopping: ShutdownWatch,
    /// Ends connections that did not end in time.
    pub(super) cut: CancellationToken,
    pub(super) tasks: TaskTracker,
}

/// A connection that is ready for HTTP.
struct Established {
    stream: Stream,
    connection: Connection,
}

// === impl Acceptor ===

impl Acceptor {
    /// Accepts connections of one listener until `stop`.
    pub(super) async fn run(self: Arc<Self>, listener: TcpListener, scheme: Scheme, stop: CancellationToken) {
        loop {
            let accepted = tokio::select! {
                () = stop.cancelled() => return,
                accepted = listener.accept() => accepted,
            };
            let (tcp, peer) = match accepted {
                Ok(accepted) => accepted,
                Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => continue,
                Err(error) => {
                    // No descriptors or memory left. Connections that end will give some back.
                    tracing::warn!(%error, "a connection cannot be accepted");
                    tokio::time::sleep(EXHAUSTED_WAIT).await;
                    continue;
                }
            };
            let gateway = self.published.load().gateway.clone();
            let Some(permit) = self.limits.admit(gateway.limits.connections_max) else {
                self.observer.rejected("connections");
                continue;
            };
            let acceptor = self.clone();
            self.tasks.spawn(async move {
                tokio::select! {
                    () = acceptor.cut.cancelled() => {}
                    () = acceptor.serve(tcp, peer, scheme, permit, &gateway) => {}
                }
            });
        }
    }

    async fn serve(
        &self,
        tcp: TcpStream,
        peer: SocketAddr,
        scheme: Scheme,
        permit: ConnectionPermit,
        gateway: &GatewayConfig,
    ) {
        let time_max = gateway.limits.handshake_timeout;
        let Ok(established) = timeout(time_max, self.establish(tcp, peer, scheme, permit, gateway)).await else {
            match scheme {
                Scheme::Https => self.observer.handshake("timeout"),
                Scheme::Http => self.observer.rejected("proxy_header"),
            }
            return;
        };
        let Some(Established { stream, connection }) = established else {
            return;
        };
        let h2 = matches!(stream.selected_alpn_proto(), Some(ALPN::H2));
        let limits = &gateway.limits;
        connection.pace.idle(limits.idle_timeout, (!h2).then_some(limits.header_timeout));
        let mut options = HttpServerOptions::default();
        options.keepalive_request_limit = Some(REQUESTS_PER_CONNECTION_MAX);
        options.h2_idle_timeout = Some(limits.idle_timeout);
        let app = ConnectionApp { proxy: self.proxy.clone(), connection: Arc::new(connection), options };
        Arc::new(app).process_new(stream, &self.stopping).await;
    }

    /// Takes a socket up to where HTTP begins; `None` = it was refused.
    async fn establish(
        &self,
        tcp: TcpStream,
        peer: SocketAddr,
        scheme: Scheme,
        permit: ConnectionPermit,
        gateway: &GatewayConfig,
    ) -> Option<Established> {
        // An answer is written in one piece: nothing is gained by waiting for more of it.
        tcp.set_nodelay(true).ok()?;
        let pace = Pace::new();
        let mut wire = Wire::new(tcp, pace.clone(), WRITE_STALL_MAX, permit);
        let client = self.client(&mut wire, peer, gateway).await?;
        let per_ip = gateway.limits.connections_per_ip_max;
        // A trusted proxy brings many visitors over one address.
        if !forwarded::is_within(&gateway.listen.trusted_proxies, client.ip())
            && !wire.permit().count_for(client.ip(), per_ip)
        {
            self.observer.rejected("connections_per_ip");
            return None;
        }
        if scheme == Scheme::Http {
            let connection = Connection { peer: client, server_name: None, pace };
            return Some(Established { stream: Box::new(wire), connection });
        }
        let per_ip = gateway.limits.handshakes_per_second_per_ip;
        if !forwarded::is_within(&gateway.listen.trusted_proxies, client.ip())
            && !self.handshakes_by_source.take(client.ip(), per_ip, Instant::now())
        {
            self.observer.handshake("limited_per_ip");
            return None;
        }
        if !self.handshakes.take(gateway.limits.handshakes_per_second, Instant::now()) {
            self.observer.handshake("limited");
            return None;
        }
        match self.tls.accept(wire, gateway.tls.min_version).await {
            Ok((stream, name)) => {
                self.observer.handshake("ok");
                let connection = Connection { peer: client, server_name: Some(name), pace };
                Some(Established { stream: Box::new(stream), connection })
            }
            Err(error) => {
                self.observer.handshake(error.label());
                None
            }
        }
    }

    /// Who the client is: the peer, or whom its PROXY header names where it must send one.
    async fn client(&self, wire: &mut Wire, peer: SocketAddr, gateway: &GatewayConfig) -> Option<SocketAddr> {
        if !forwarded::is_within(&gateway.listen.proxy_protocol, peer.ip()) {
            return Some(peer);
        }
        match proxy_protocol::read_header(wire).await {
            Ok(source) => Some(source.unwrap_or(peer)),
            Err(_) => {
                self.observer.rejected("proxy_header");
                None
            }
        }
    }
}
