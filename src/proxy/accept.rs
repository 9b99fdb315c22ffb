//! From a listening socket to a connection that is served: caps, PROXY header, handshake, HTTP.

use std::future::poll_fn;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::pin;
use std::sync::Arc;
use std::task::{Poll, ready};
use std::time::Duration;

use pingora::apps::{HttpServerOptions, ServerApp};
use pingora::protocols::Stream;
use pingora::protocols::tls::ALPN;
use pingora::proxy::HttpProxy;
use pingora::server::ShutdownWatch;
use rustix::net::{SendFlags, send};
use tokio::io::{AsyncWriteExt, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{JoinSet, yield_now};
use tokio::time::{Instant, timeout_at};
use tokio_util::sync::CancellationToken;

use crate::config::GatewayConfig;
use crate::proxy::context::{Connection, ConnectionApp};
use crate::proxy::handshake::{HandshakeError, Terms, TlsAcceptor};
use crate::proxy::limits::{ConnectionLimits, ConnectionPermit};
use crate::proxy::pace::Pace;
use crate::proxy::rates::{HandshakeBudget, SourceRates};
use crate::proxy::service::Service;
use crate::proxy::wire::Wire;
use crate::proxy::{Observer, forwarded, proxy_protocol};
use crate::snapshot::Published;
use crate::tls::OwnConnections;

/// Wait after the system had no socket or memory for a connection.
const EXHAUSTED_WAIT: Duration = Duration::from_millis(100);
/// How often that is said in the log.
const EXHAUSTED_TOLD_EVERY: Duration = Duration::from_secs(60);
/// Connections that are accepted before what is established is served again: the kernel keeps the others waiting.
const ACCEPTED_IN_A_ROW: usize = 16;
/// Connections of the gateway with itself that find room when all others are taken: it must be able to look what it serves.
const OWN_CONNECTIONS: usize = 16;
/// Time after which a socket whose client takes nothing is given up.
const WRITE_STALL_MAX: Duration = Duration::from_secs(30);
/// Requests on one connection, after which the client is asked to open another: memory that libraries keep per
/// connection is given back then.
const REQUESTS_PER_CONNECTION_MAX: u32 = 10_000;

/// First bytes of a connection that are looked at before anything is set up for it: a browser's ClientHello has some 1,800.
const FIRST_BYTES: usize = 2_048;

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
    pub(super) own: Arc<OwnConnections>,
    pub(super) handshakes: HandshakeBudget,
    pub(super) handshakes_by_source: SourceRates,
    pub(super) proxy: Arc<HttpProxy<Service>>,
    pub(super) observer: Arc<dyn Observer>,
    /// Turns true when the gateway stops: Pingora then ends kept-alive connections after their request.
    pub(super) stopping: ShutdownWatch,
}

/// A socket that was let in.
struct Arrival {
    tcp: TcpStream,
    peer: SocketAddr,
    scheme: Scheme,
    permit: ConnectionPermit,
    /// The configuration that it came under.
    gateway: Arc<GatewayConfig>,
    /// Whether the gateway connected to itself.
    own: bool,
    /// Whether it begins with a PROXY header.
    is_proxied: bool,
}

/// How a client has begun to speak.
enum Begun {
    Well,
    /// It asked for what is not served.
    Refused(HandshakeError),
    /// It left.
    Ended,
}

/// A connection that is ready for HTTP.
struct Established {
    stream: Stream,
    connection: Connection,
}

// === impl Acceptor ===

impl Acceptor {
    /// Accepts connections of one listener until `stop`; those that are left then.
    pub(super) async fn run(
        self: Arc<Self>,
        listener: TcpListener,
        scheme: Scheme,
        stop: CancellationToken,
    ) -> JoinSet<()> {
        let mut connections = JoinSet::new();
        let mut stopped = pin!(stop.cancelled());
        let mut told: Option<Instant> = None;
        loop {
            for _ in 0..ACCEPTED_IN_A_ROW {
                let accepted = tokio::select! {
                    () = &mut stopped => return connections,
                    // One that ended keeps its memory until it is seen.
                    Some(_) = connections.join_next() => continue,
                    accepted = listener.accept() => accepted,
                };
                match accepted {
                    Ok((tcp, peer)) => {
                        if let Some(arrival) = self.admit(tcp, peer, scheme) {
                            connections.spawn(self.clone().serve(arrival));
                        }
                    }
                    Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
                    Err(error) => {
                        // No descriptors or memory left. Connections that end will give some back.
                        self.observer.rejected("accept");
                        if told.is_none_or(|told| told.elapsed() >= EXHAUSTED_TOLD_EVERY) {
                            tracing::warn!(%error, "connections cannot be accepted; pixelgate_events_rejected_total counts them");
                            told = Some(Instant::now());
                        }
                        tokio::time::sleep(EXHAUSTED_WAIT).await;
                    }
                }
            }
            yield_now().await;
        }
    }

    /// Lets a connection in, if its peer has not too many.
    fn admit(&self, tcp: TcpStream, peer: SocketAddr, scheme: Scheme) -> Option<Arrival> {
        let gateway = self.published.load().gateway.clone();
        let own = self.own.contains(peer);
        let max = gateway.limits.connections_max + if own { OWN_CONNECTIONS } else { 0 };
        let Some(mut permit) = self.limits.admit(max) else {
            self.observer.rejected("connections");
            return None;
        };
        // Whom a balancer speaks for is in its header.
        let is_proxied = forwarded::is_within(&gateway.listen.proxy_protocol, peer.ip());
        if !is_proxied && !self.has_room(peer.ip(), own, scheme, &mut permit, &gateway) {
            return None;
        }
        Some(Arrival { tcp, peer, scheme, permit, gateway, own, is_proxied })
    }

    /// Whether a client may open one more connection, and begin one more handshake on it.
    fn has_room(
        &self,
        client: IpAddr,
        own: bool,
        scheme: Scheme,
        permit: &mut ConnectionPermit,
        gateway: &GatewayConfig,
    ) -> bool {
        // A trusted proxy brings many visitors over one address. The gateway is no visitor.
        if own || forwarded::is_within(&gateway.listen.trusted_proxies, client) {
            return true;
        }
        let limits = &gateway.limits;
        if !permit.count_for(client, limits.connections_per_ip_max) {
            self.observer.rejected("connections_per_ip");
            return false;
        }
        if scheme == Scheme::Http {
            return true;
        }
        let now = Instant::now().into_std();
        let per_second = self.handshakes.share(limits.handshakes_per_second_per_ip, now);
        let may_begin = self.handshakes_by_source.take(client, per_second, now);
        if !may_begin {
            self.observer.handshake("limited_per_ip");
        }
        may_begin
    }

    async fn serve(self: Arc<Self>, arrival: Arrival) {
        let limits = &arrival.gateway.limits;
        let opens = arrival.scheme == Scheme::Https || arrival.is_proxied;
        let until = Instant::now() + if opens { limits.handshake_timeout } else { limits.idle_timeout };
        // Of a client that says nothing there is no more than its socket.
        match timeout_at(until, self.begun(&arrival)).await {
            Ok(Ok(Begun::Well)) => Box::pin(self.converse(arrival, until)).await,
            Ok(Ok(Begun::Refused(error))) => self.refuse(&arrival.tcp, error),
            Ok(Ok(Begun::Ended) | Err(_)) => self.broke_off(arrival.scheme, arrival.is_proxied, "failed"),
            Err(_) => self.broke_off(arrival.scheme, arrival.is_proxied, "timeout"),
        }
    }

    /// Waits until a client begins to speak, and leaves what it says to be read. (An accepted socket is taken for readable
    /// until it is tried.)
    async fn begun(&self, arrival: &Arrival) -> io::Result<Begun> {
        let is_tls = arrival.scheme == Scheme::Https && !arrival.is_proxied;
        poll_fn(|cx| {
            let mut first = [0; FIRST_BYTES];
            let mut first = ReadBuf::new(&mut first);
            let refused = match ready!(arrival.tcp.poll_peek(cx, &mut first))? {
                0 => return Poll::Ready(Ok(Begun::Ended)),
                _ if is_tls => self.tls.refusal(first.filled()),
                _ => None,
            };
            Poll::Ready(Ok(refused.map_or(Begun::Well, Begun::Refused)))
        })
        .await
    }

    /// Refuses a client before there is TLS.
    fn refuse(&self, tcp: &TcpStream, error: HandshakeError) {
        // A socket that is closed with bytes unread resets its connection, and the alert might be lost. What has no room now
        // is not waited for, and the alert leaves in one packet with the end.
        let _ = tcp.try_read(&mut [0; FIRST_BYTES]);
        let _ = send(tcp, &error.alert(), SendFlags::MORE | SendFlags::NOSIGNAL);
        self.observer.handshake(error.label());
    }

    /// Serves a client that has begun to speak.
    async fn converse(&self, arrival: Arrival, until: Instant) {
        let limits = &arrival.gateway.limits;
        let (idle_timeout, header_timeout) = (limits.idle_timeout, limits.header_timeout);
        let (scheme, is_proxied) = (arrival.scheme, arrival.is_proxied);
        let Ok(established) = timeout_at(until, self.establish(arrival)).await else {
            self.broke_off(scheme, is_proxied, "timeout");
            return;
        };
        let Some(Established { stream, connection }) = established else {
            return;
        };
        let h2 = matches!(stream.selected_alpn_proto(), Some(ALPN::H2));
        connection.pace.idle(idle_timeout, (!h2).then_some(header_timeout));
        let mut options = HttpServerOptions::default();
        options.keepalive_request_limit = Some(REQUESTS_PER_CONNECTION_MAX);
        options.h2_idle_timeout = Some(idle_timeout);
        let (proxy, observer) = (self.proxy.clone(), self.observer.clone());
        let app = ConnectionApp { proxy, connection: Arc::new(connection), options, observer };
        Arc::new(app).process_new(stream, &self.stopping).await;
    }

    /// Takes a socket up to where HTTP begins; `None` = it was refused.
    async fn establish(&self, arrival: Arrival) -> Option<Established> {
        let Arrival { tcp, peer, scheme, permit, gateway, mut own, is_proxied } = arrival;
        let pace = Pace::new();
        let mut wire = Wire::new(tcp, pace.clone(), WRITE_STALL_MAX, gateway.limits.header_bytes_max, permit);
        let mut client = peer;
        if is_proxied {
            match proxy_protocol::read_header(&mut wire).await {
                Ok(None) => {}
                Ok(Some(source)) => (client, own) = (source, false),
                Err(_) => {
                    self.observer.rejected("proxy_header");
                    return None;
                }
            }
            if !self.has_room(client.ip(), own, scheme, wire.permit(), &gateway) {
                return None;
            }
        }
        if scheme == Scheme::Http {
            let connection = Connection { peer: client, server_name: None, pace };
            return Some(Established { stream: Box::new(wire), connection });
        }
        if is_proxied && let Some(error) = self.tls.refusal(wire.unread().await.unwrap_or_default()) {
            // Whether the client hears it is its own concern.
            let _ = wire.write_all(&error.alert()).await;
            let _ = wire.flush().await;
            self.observer.handshake(error.label());
            return None;
        }
        let terms = Terms {
            budget: &self.handshakes,
            per_second: gateway.limits.handshakes_per_second,
            min_version: gateway.tls.min_version,
            own,
        };
        match self.tls.accept(wire, terms).await {
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

    /// Counts a client that said too little. One that is silent on plain HTTP did nothing wrong.
    fn broke_off(&self, scheme: Scheme, is_proxied: bool, result: &'static str) {
        match scheme {
            Scheme::Https => self.observer.handshake(result),
            Scheme::Http if is_proxied => self.observer.rejected("proxy_header"),
            Scheme::Http => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_that_says_nothing_costs_little_more_than_its_socket() {
        fn size_of_future<F>(_: fn(Arc<Acceptor>, Arrival) -> F) -> usize {
            size_of::<F>()
        }
        let bytes = size_of_future(Acceptor::serve);
        assert!(bytes <= 640, "{bytes}");
    }
}
