//! The gateway's connections to itself, by which it looks what it serves.

use std::collections::HashSet;
use std::io;
use std::net::SocketAddr;
use std::sync::{Mutex, PoisonError};

use tokio::net::{TcpSocket, TcpStream};

/// Their near ends. The edge lets them in whatever visitors take; an address alone would not do, since a proxy on this
/// machine brings all its visitors from it.
#[derive(Default)]
pub struct OwnConnections {
    ends: Mutex<HashSet<SocketAddr>>,
}

/// A connection is known for its own as long as this lives.
pub(super) struct Known<'a> {
    own: &'a OwnConnections,
    end: SocketAddr,
}

// === impl OwnConnections ===

impl OwnConnections {
    /// Whether it is the gateway itself that connects from there.
    pub fn contains(&self, peer: SocketAddr) -> bool {
        self.ends.lock().unwrap_or_else(PoisonError::into_inner).contains(&peer)
    }

    /// Connects to a listener of this process, which knows it from the first moment on.
    pub(super) async fn connect(&self, listener: SocketAddr) -> io::Result<(TcpStream, Known<'_>)> {
        let socket = if listener.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
        // From where it goes to, as the system would choose too.
        let mut from = listener;
        from.set_port(0);
        socket.bind(from)?;
        let end = socket.local_addr()?;
        self.ends.lock().unwrap_or_else(PoisonError::into_inner).insert(end);
        let known = Known { own: self, end };
        Ok((socket.connect(listener).await?, known))
    }
}

// === impl Known ===

impl Drop for Known<'_> {
    fn drop(&mut self) {
        self.own.ends.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.end);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use tokio::net::TcpListener;

    use super::*;

    #[tokio::test]
    async fn only_what_the_gateway_opened_is_its_own_and_no_longer_than_it_lasts() {
        let own = OwnConnections::default();
        for address in ["127.0.0.1:0", "[::1]:0"] {
            let listener = TcpListener::bind(address).await.unwrap();
            let address = listener.local_addr().unwrap();
            let opened = own.connect(address).await.unwrap();
            let (_, from) = listener.accept().await.unwrap();
            assert_eq!(from.ip(), address.ip());
            assert!(own.contains(from));
            let _visitor = TcpStream::connect(address).await.unwrap();
            assert!(!own.contains(listener.accept().await.unwrap().1), "of the same address");
            drop(opened);
            assert!(!own.contains(from));
        }
        assert!(own.ends.lock().unwrap().is_empty());
    }
}
