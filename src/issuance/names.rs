//! The names that are to have a certificate, and what each is served with now.

use crate::account::{AccountId, ServerName};
use crate::issuance::schedule::Present;
use crate::snapshot::Snapshot;
use crate::tls::{CertificateFault, Origin};

/// A name that is to have a certificate.
#[derive(Clone, Debug)]
pub(super) struct Listed {
    pub(super) name: ServerName,
    /// Whose; `None` = the host's own domain.
    pub(super) account: Option<AccountId>,
    /// Its place among the names of its account.
    pub(super) rank: usize,
}

/// The host's domain and the names of every active account.
pub(super) fn listed(snapshot: &Snapshot) -> Vec<Listed> {
    let host = Listed { name: snapshot.gateway.host.domain.clone(), account: None, rank: 0 };
    let active = snapshot.tenants().filter(|tenant| tenant.config.active);
    let names = active.flat_map(|tenant| {
        let account = Some(tenant.config.id.clone());
        let listed =
            move |(rank, name): (usize, &ServerName)| Listed { name: name.clone(), account: account.clone(), rank };
        tenant.config.domains.iter().enumerate().map(listed)
    });
    std::iter::once(host).chain(names).collect()
}

/// What a name is served with.
pub(super) fn present(snapshot: &Snapshot, name: &ServerName) -> Present {
    match snapshot.certificates.state(name) {
        Some(state) => match (state.fault, state.origin) {
            // It begins to be valid by itself.
            (None | Some(CertificateFault::NotYetValid), Origin::Issued) => {
                Present::Issued { not_before: state.not_before, not_after: state.not_after }
            }
            (None, _) => Present::Operators,
            (Some(_), _) => Present::Nothing,
        },
        None => Present::Nothing,
    }
}
