//! Handshakes by hand: what a browser's library would not let a test choose.

use std::io::Write;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream};

use boring::ssl::{SslConnector, SslMethod, SslStream, SslVerifyMode, SslVersion};
use socket2::{Domain, Socket, Type};

use super::PATIENCE;

/// How a handshake is to be made.
#[derive(Clone, Copy)]
pub(crate) struct Hello<'a> {
    pub(crate) sni: Option<&'a str>,
    pub(crate) min: SslVersion,
    pub(crate) max: SslVersion,
    pub(crate) alpn: Option<&'a [u8]>,
    /// The key exchanges that are offered.
    pub(crate) curves: Option<&'a str>,
    /// Where it comes from: every address of 127.0.0.0/8 is this machine's.
    pub(crate) from: Ipv4Addr,
}

impl<'a> Hello<'a> {
    pub(crate) fn to(sni: &'a str) -> Self {
        Self {
            sni: Some(sni),
            min: SslVersion::TLS1_2,
            max: SslVersion::TLS1_3,
            alpn: None,
            curves: None,
            from: Ipv4Addr::LOCALHOST,
        }
    }

    /// Shakes hands; the error is what the server's refusal looks like to a client.
    pub(crate) fn shake(&self, gateway: SocketAddr) -> Result<SslStream<TcpStream>, String> {
        self.shake_after(b"", gateway)
    }

    /// The same on a connection that begins with these bytes, as a load balancer's does.
    pub(crate) fn shake_after(&self, before: &[u8], gateway: SocketAddr) -> Result<SslStream<TcpStream>, String> {
        let mut stream = connect(self.from, gateway).map_err(|error| error.to_string())?;
        stream.write_all(before).map_err(|error| error.to_string())?;
        let mut builder = SslConnector::builder(SslMethod::tls()).expect("a connector");
        builder.set_verify(SslVerifyMode::NONE);
        builder.set_min_proto_version(Some(self.min)).expect("a version");
        builder.set_max_proto_version(Some(self.max)).expect("a version");
        if let Some(protocols) = self.alpn {
            builder.set_alpn_protos(protocols).expect("protocols");
        }
        if let Some(curves) = self.curves {
            builder.set_curves_list(curves).expect("curves");
        }
        let mut config = builder.build().configure().expect("a connector").verify_hostname(false);
        config.set_use_server_name_indication(self.sni.is_some());
        config.connect(self.sni.unwrap_or("unused.example"), stream).map_err(|error| error.to_string())
    }

    /// The first bytes of such a handshake, as they go over the network.
    pub(crate) fn bytes(&self) -> Vec<u8> {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a listener");
        let address = listener.local_addr().expect("an address");
        std::thread::scope(|scope| {
            let shaking = scope.spawn(move || Hello { from: Ipv4Addr::LOCALHOST, ..*self }.shake(address).is_ok());
            let (mut stream, _) = listener.accept().expect("a connection");
            let mut record = vec![0; 5];
            std::io::Read::read_exact(&mut stream, &mut record).expect("a record");
            let length = usize::from(u16::from_be_bytes([record[3], record[4]]));
            record.resize(5 + length, 0);
            std::io::Read::read_exact(&mut stream, &mut record[5..]).expect("a record");
            drop(stream);
            assert!(!shaking.join().expect("a handshake"));
            record
        })
    }
}

/// Connects from an address of this machine.
pub(crate) fn connect(from: Ipv4Addr, gateway: SocketAddr) -> std::io::Result<TcpStream> {
    let socket = Socket::new(Domain::for_address(gateway), Type::STREAM, None)?;
    if gateway.is_ipv4() {
        socket.bind(&SocketAddr::from((IpAddr::from(from), 0)).into())?;
    }
    socket.connect(&gateway.into())?;
    socket.set_read_timeout(Some(PATIENCE))?;
    Ok(socket.into())
}
