//! Connections: plain or TLS, HTTP/1.1 and HTTP/2.

use std::path::Path;
use std::sync::Arc;

use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};

use crate::{StandIn, StartError, control, edge};

/// TLS with HTTP/2 offered before HTTP/1.1.
pub(crate) fn tls_acceptor(chain: &Path, key: &Path) -> Result<TlsAcceptor, StartError> {
    let chain = CertificateDer::pem_file_iter(chain)?.collect::<Result<Vec<_>, _>>()?;
    let key = PrivateKeyDer::from_pem_file(key)?;
    let mut config = ServerConfig::builder().with_no_client_auth().with_single_cert(chain, key)?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(TlsAcceptor::from(Arc::new(config)))
}

/// Serves until the process ends.
pub(crate) async fn serve(listener: TcpListener, tls: Option<TlsAcceptor>, stand_in: Arc<StandIn>) {
    loop {
        let Ok((stream, _)) = listener.accept().await else { continue };
        let _best_effort = stream.set_nodelay(true);
        let (tls, stand_in) = (tls.clone(), stand_in.clone());
        tokio::spawn(async move {
            match tls {
                None => connection(stream, stand_in).await,
                Some(tls) => {
                    if let Ok(stream) = tls.accept(stream).await {
                        connection(stream, stand_in).await;
                    }
                }
            }
        });
    }
}

/// One connection. An error that the service returns closes it (HTTP/1.1) or resets the stream (HTTP/2).
async fn connection(stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static, stand_in: Arc<StandIn>) {
    let service = service_fn(move |request| {
        let stand_in = stand_in.clone();
        async move {
            if request.uri().path().starts_with("/_control/") {
                return Ok(control::answer(&stand_in, request).await);
            }
            edge::answer(&stand_in, request).await
        }
    });
    let _closed = auto::Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(stream), service).await;
}
