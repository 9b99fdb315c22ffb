//! Publishing a certificate, and seeing it as clients do: only what they see is issued.

use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use tokio::time::{Duration, Instant};

use crate::account::ServerName;
use crate::clock::now_ms;
use crate::config::GatewayConfig;
use crate::issuance::Shared;
use crate::issuance::names::is_listed;
use crate::issuance::store::KeyKind;
use crate::issuance::trouble::Trouble;
use crate::tls::probe::{Clients, over_loopback, served_here};

/// Time within which a client must see a new certificate.
const SEEN_WITHIN: Duration = Duration::from_secs(10);
/// Wait between two looks whether one does.
const SEEN_EVERY: Duration = Duration::from_millis(200);

// === impl Shared ===

impl Shared {
    /// Publishes the certificate that lies in the store now.
    pub(super) async fn refresh(&self, name: &ServerName) -> Result<(), Trouble> {
        let (reloader, name) = (self.reloader.clone(), name.clone());
        let refreshed = tokio::task::spawn_blocking(move || reloader.refresh_certificates(&[name], now_ms())).await;
        refreshed.map_err(|error| Trouble::Local(error.to_string()))
    }

    /// Publishes a name's certificate and connects to each listener as its clients would: those that take any key, and
    /// where there are two those that take RSA only.
    pub(super) async fn show(&self, name: &ServerName, gateway: &GatewayConfig) -> Result<(), Trouble> {
        self.refresh(name).await?;
        if !is_listed(&self.reloader.published().load(), name) {
            // It left the configuration meanwhile: nobody is to see it.
            return Ok(());
        }
        let chains = self.with_files(name, |store, name| {
            let first = store.live_chain(name, KeyKind::Ecdsa)?;
            Ok([(Clients::All, Some(first)), (Clients::RsaOnly, store.live_chain(name, KeyKind::RsaTwin).ok())])
        });
        let chains = chains.await?;
        if self.edge.is_empty() {
            return Err(Trouble::NotServed("there is no https listener".to_owned()));
        }
        let deadline = Instant::now() + SEEN_WITHIN;
        for (clients, chain) in chains {
            let Some(chain) = chain else { continue };
            let Ok(leaf) = CertificateDer::from_pem_slice(&chain) else {
                return Err(Trouble::NotServed("its file is no PEM".to_owned()));
            };
            for listener in &self.edge {
                let (address, proxy_header) = over_loopback(*listener, &gateway.listen.proxy_protocol);
                loop {
                    let served = served_here(&self.own, clients, address, name, proxy_header, SEEN_WITHIN);
                    let why = match served.await {
                        Ok(served) if served.chain_der.first().is_some_and(|first| **first == *leaf) => break,
                        Ok(served) => format!("{address} serves another one, of {}", served.issuer),
                        Err(error) => error.to_string(),
                    };
                    if Instant::now() >= deadline {
                        return Err(Trouble::NotServed(why));
                    }
                    tokio::time::sleep(SEEN_EVERY).await;
                }
            }
        }
        Ok(())
    }
}
