//! A DNS server in trouble.

use std::net::{SocketAddr, UdpSocket};

/// Has every question answered with SERVFAIL as long as the test runs, and says where.
pub(crate) fn troubled_resolver() -> SocketAddr {
    let socket = UdpSocket::bind("127.0.0.1:0").expect("a port");
    let address = socket.local_addr().expect("an address");
    std::thread::spawn(move || {
        let mut message = [0; 1_500];
        while let Ok((length, from)) = socket.recv_from(&mut message) {
            // The question comes back as an answer without records (RFC 1035, 4.1.1).
            message[2] |= 0x80;
            message[3] = message[3] & 0xf0 | 2;
            let _ = socket.send_to(&message[..length], from);
        }
    });
    address
}
