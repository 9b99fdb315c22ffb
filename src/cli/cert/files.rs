//! What the configuration's folders say of names and their certificates, without a gateway.

use std::path::PathBuf;
use std::sync::Arc;

use super::GatewayArgs;
use crate::account::{AccountId, ServerName};
use crate::clock::now_ms;
use crate::config::{Candidate, GatewayConfig, Reading, Source};
use crate::tls::chain::Roots;
use crate::tls::{CertFolders, CertStore, Lookup};

/// The configuration as it is written now.
pub(super) struct Configured {
    pub(super) gateway: Arc<GatewayConfig>,
    reading: Reading,
}

// === impl Configured ===

impl Configured {
    /// Reads it; the errors of a bad `pixelgate.toml` otherwise, one a line.
    pub(super) fn read(args: &GatewayArgs) -> Result<Self, Vec<String>> {
        let reading = Source::new(&args.config).read();
        match reading.gateway.clone() {
            Some(gateway) => Ok(Self { gateway, reading }),
            None => {
                let errors = reading.problems.iter().filter(|problem| problem.is_error());
                Err(errors.map(ToString::to_string).collect())
            }
        }
    }

    /// Every name and whose it is; `None` = the host's own.
    pub(super) fn names(&self) -> Vec<(ServerName, Option<AccountId>)> {
        let accounts = self.reading.accounts.iter().filter_map(|(id, candidate)| match candidate {
            Candidate::Good(account) => Some((id, account)),
            Candidate::Bad => None,
        });
        let domains =
            accounts.flat_map(|(id, account)| account.domains.iter().map(|name| (name.clone(), Some(id.clone()))));
        domains.chain([(self.gateway.host.domain.clone(), None)]).collect()
    }

    /// Where certificates lie that are not the operator's own.
    pub(super) fn issued_dir(&self) -> PathBuf {
        self.gateway.host.data_dir.join("certs")
    }

    /// The roots that chains are judged by: this machine's, and those of private CAs as `[acme]` names them.
    pub(super) fn roots(&self) -> anyhow::Result<Roots> {
        let ca_files = self.gateway.acme.accounts.iter().filter_map(|account| account.ca_file.as_ref());
        let cas: Vec<_> = ca_files.filter_map(|file| std::fs::read(file).ok()).collect();
        Ok(Roots::of_this_machine_and(&cas)?)
    }

    /// The certificates of a name as a start would find them and its first visitor: every file is read, and the key used.
    pub(super) fn store(&self, name: &ServerName) -> CertStore {
        let folders = CertFolders {
            certs_dir: self.gateway.tls.certs_dir.clone(),
            issued_dir: self.issued_dir(),
            // There is none of this name: what is judged here is what is on disk now.
            index: self.gateway.host.data_dir.join("certificates.index.none"),
        };
        let (names, now) = (std::slice::from_ref(name), now_ms() / 1_000);
        let store = CertStore::load(&folders, names, None, now);
        match store.lookup(name.as_str()) {
            Lookup::Cold(cold) if cold.load().is_err() => store.refreshed(names, now),
            _ => store,
        }
    }
}
