//! What is computed once the client has answered is computed in a turn too.

use std::sync::mpsc;

use tokio::sync::oneshot;
use tokio::time::timeout;

use super::*;

/// A client's socket that halts before its second flight, says so, and waits until it may go on.
struct Halting {
    tcp: std::net::TcpStream,
    is_second: bool,
    halt: Option<(oneshot::Sender<()>, mpsc::Receiver<()>)>,
}

impl Read for Halting {
    fn read(&mut self, buf: &mut [u8]) -> std::io::Result<usize> {
        self.is_second = true;
        self.tcp.read(buf)
    }
}

impl Write for Halting {
    fn write(&mut self, buf: &[u8]) -> std::io::Result<usize> {
        if self.is_second
            && let Some((halted, go_on)) = self.halt.take()
        {
            halted.send(()).unwrap();
            go_on.recv().unwrap();
        }
        self.tcp.write(buf)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.tcp.flush()
    }
}

/// Shakes hands in a version, with these key exchanges; while nobody has a turn, the second flight is taken or not.
async fn second_flight(version: SslVersion, curves: &'static str, is_taken: bool) {
    let rig = Rig::serving(&["a.example"]);
    let (address, mut accepting) = rig.accept(TlsVersion::Tls12).await;
    let (halted, halts) = oneshot::channel();
    let (go_on, goes_on) = mpsc::channel();
    let connecting = spawn_blocking(move || {
        let mut builder = SslConnector::builder(SslMethod::tls()).unwrap();
        builder.set_verify(SslVerifyMode::NONE);
        builder.set_max_proto_version(Some(version)).unwrap();
        builder.set_curves_list(curves).unwrap();
        let tcp = std::net::TcpStream::connect(address).unwrap();
        let halting = Halting { tcp, is_second: false, halt: Some((halted, goes_on)) };
        builder.build().connect("a.example", halting).is_ok()
    });
    halts.await.unwrap();
    let held = rig.budget.turn(Guest::Visitor).await.unwrap();
    go_on.send(()).unwrap();
    if !is_taken {
        assert!(timeout(Duration::from_millis(50), &mut accepting).await.is_err(), "{version:?} {curves}");
        drop(held);
    }
    assert_eq!(accepting.await.unwrap().as_deref(), Ok("a.example"), "{version:?} {curves}");
    assert!(connecting.await.unwrap());
}

#[tokio::test]
async fn a_key_exchange_in_the_second_flight_waits_for_a_turn() {
    second_flight(SslVersion::TLS1_2, "X25519:P-256", false).await;
    // The server has no P-521, and asks for a share of the other one.
    second_flight(SslVersion::TLS1_3, "P-521:P-256", false).await;
}

#[tokio::test]
async fn a_handshake_that_is_computed_does_not_wait() {
    second_flight(SslVersion::TLS1_3, "X25519", true).await;
}
