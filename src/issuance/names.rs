//! The names that are to have a certificate, and what each is served with now.

use std::collections::HashMap;

use crate::account::{AccountId, ServerName};
use crate::issuance::schedule::Present;
use crate::snapshot::{Route, Snapshot};
use crate::tls::{Origin, Validity};

/// A name that is to have a certificate.
#[derive(Clone, Debug)]
pub(super) struct Listed {
    pub(super) name: ServerName,
    /// Whose; `None` = the host's own domain.
    pub(super) account: Option<AccountId>,
    /// Its place among the names of its account.
    pub(super) rank: usize,
}

/// The names of one revision of the configuration.
#[derive(Default)]
pub(super) struct Names {
    pub(super) revision: u64,
    pub(super) listed: Vec<Listed>,
    places: HashMap<ServerName, usize>,
}

// === impl Names ===

impl Names {
    /// The names of this configuration.
    pub(super) fn of(snapshot: &Snapshot) -> Self {
        let listed = listed(snapshot);
        let places = listed.iter().enumerate().map(|(at, listed)| (listed.name.clone(), at)).collect();
        Self { revision: snapshot.revision, listed, places }
    }

    /// What is written of a name.
    pub(super) fn get(&self, name: &ServerName) -> Option<&Listed> {
        self.listed.get(*self.places.get(name)?)
    }
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

/// One of [`listed`].
pub(super) fn find(snapshot: &Snapshot, name: &ServerName) -> Option<Listed> {
    let (account, rank) = match snapshot.route(name.as_str())? {
        Route::Host => (None, 0),
        Route::Tenant(tenant) if !tenant.config.active => return None,
        Route::Tenant(tenant) => {
            let rank = tenant.config.domains.iter().position(|domain| domain == name)?;
            (Some(tenant.config.id.clone()), rank)
        }
    };
    Some(Listed { name: name.clone(), account, rank })
}

/// Whether a name is to have a certificate.
pub(super) fn is_listed(snapshot: &Snapshot, name: &ServerName) -> bool {
    match snapshot.route(name.as_str()) {
        Some(Route::Host) => true,
        Some(Route::Tenant(tenant)) => tenant.config.active,
        None => false,
    }
}

/// What a name is served with. What is wrong with a folder that does not serve it counts for nothing here: a new
/// certificate would not mend it.
pub(super) fn present(snapshot: &Snapshot, name: &ServerName, now_ms: i64) -> Present {
    let standing = snapshot.certificates.standing(name);
    match (standing.serving, standing.issued) {
        (Some(Origin::IssuedWildcard), Some(Validity { not_before, not_after, .. })) => {
            Present::Wildcard { not_before, not_after }
        }
        (Some(Origin::Issued), Some(validity)) => issued(validity),
        (Some(Origin::OperatorWildcard), _) => Present::OperatorsWildcard,
        (Some(_), _) => Present::Operators,
        // It begins to be valid by itself.
        (None, Some(validity)) if validity.not_before > now_ms / 1_000 => issued(validity),
        (None, Some(_)) => Present::Ended,
        (None, None) => Present::Nothing,
    }
}

fn issued(Validity { not_before, not_after, which }: Validity) -> Present {
    Present::Issued { not_before, not_after, which }
}
