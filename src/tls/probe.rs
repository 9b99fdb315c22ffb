//! What a client is served: a handshake with ourselves.

use std::io::Write;
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use boring::ssl::{SslConnector, SslMethod, SslVerifyMode};

use crate::account::ServerName;

/// What was served.
#[derive(Clone, Debug)]
pub struct Served {
    /// DER, leaf first.
    pub chain_der: Vec<Vec<u8>>,
    /// The leaf's issuer, for people.
    pub issuer: String,
}

/// Why nothing was served.
#[derive(Debug, thiserror::Error)]
pub enum ProbeError {
    /// No handshake.
    #[error("{address}: {reason}")]
    Handshake {
        /// Where.
        address: SocketAddr,
        /// Why.
        reason: String,
    },
}

/// Connects and shakes hands with this server name; nothing is verified.
///
/// # Errors
/// When there is no handshake within `timeout`.
pub async fn served_leaf(
    address: SocketAddr,
    name: &ServerName,
    proxy_header: bool,
    timeout: Duration,
) -> Result<Served, ProbeError> {
    let name = name.clone();
    let shaken = tokio::task::spawn_blocking(move || shake(address, name.as_str(), proxy_header, timeout)).await;
    let reason = match shaken {
        Ok(Ok(served)) => return Ok(served),
        Ok(Err(error)) => error.to_string(),
        Err(error) => error.to_string(),
    };
    Err(ProbeError::Handshake { address, reason })
}

fn shake(
    address: SocketAddr,
    name: &str,
    proxy_header: bool,
    timeout: Duration,
) -> Result<Served, Box<dyn std::error::Error + Send + Sync>> {
    let mut tcp = TcpStream::connect_timeout(&address, timeout)?;
    tcp.set_read_timeout(Some(timeout))?;
    tcp.set_write_timeout(Some(timeout))?;
    if proxy_header {
        tcp.write_all(b"PROXY UNKNOWN\r\n")?;
    }
    let mut builder = SslConnector::builder(SslMethod::tls())?;
    builder.set_verify(SslVerifyMode::NONE);
    let mut config = builder.build().configure()?;
    config.set_verify_hostname(false);
    let stream = config.connect(name, tcp).map_err(|error| error.to_string())?;
    let chain = stream.ssl().peer_cert_chain().ok_or("no certificate was sent")?;
    let chain_der = chain.iter().map(|certificate| certificate.to_der()).collect::<Result<_, _>>()?;
    let issuer = chain.iter().next().map(|leaf| {
        let entries = leaf.issuer_name().entries();
        entries
            .filter_map(|entry| entry.data().as_utf8().ok().map(|text| text.to_string()))
            .collect::<Vec<_>>()
            .join(", ")
    });
    Ok(Served { chain_der, issuer: issuer.unwrap_or_default() })
}
