//! The configuration compiled to what a request reads: immutable, swapped whole, shared by all threads.
//!
//! [`compile`] is the only way to make one, and all that can fail fails there. A request takes one snapshot when it
//! begins and ends on it, whatever is published meanwhile.

mod budget;
mod compile;
mod tenant;
mod websites;

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use arc_swap::ArcSwap;

use crate::account::{AccountId, LaneKey, PixelId, ServerName};
use crate::config::{GatewayConfig, PixelConfig, Problem};
use crate::tls::CertStore;

pub use compile::{Inputs, compile};
pub use tenant::Tenant;

/// The snapshot that requests take now.
pub type Published = ArcSwap<Snapshot>;

/// All that a request, a handshake or a sender needs to know of the configuration.
pub struct Snapshot {
    /// Counts what was published since the start, from 1.
    pub revision: u64,
    /// `pixelgate.toml`
    pub gateway: Arc<GatewayConfig>,
    /// Server name → credential.
    pub certificates: Arc<CertStore>,
    /// What is wrong with the configuration that this was made from, warnings included.
    pub problems: Vec<Problem>,
    tenants: BTreeMap<AccountId, Arc<Tenant>>,
    names: HashMap<ServerName, Arc<Tenant>>,
    pixels: HashMap<PixelId, Arc<Tenant>>,
}

/// Whose request it is, by its Host.
#[derive(Clone)]
pub enum Route {
    /// The host's own domain: the pixel id says which account.
    Host,
    /// A first-party name of this account.
    Tenant(Arc<Tenant>),
}

// === impl Snapshot ===

impl Snapshot {
    /// The route of a Host, compared as [`ServerName`] is; `None` = a name this gateway does not know.
    pub fn route(&self, host: &str) -> Option<Route> {
        if host == self.gateway.host.domain.as_str() {
            return Some(Route::Host);
        }
        self.names.get(host).cloned().map(Route::Tenant)
    }

    /// The tenant that serves a pixel on the host's domain.
    pub fn tenant_on_host_domain(&self, pixel: PixelId) -> Option<&Arc<Tenant>> {
        self.pixels.get(&pixel).filter(|tenant| tenant.config.host_domain)
    }

    /// The tenant of an account.
    pub fn tenant(&self, account: &AccountId) -> Option<&Arc<Tenant>> {
        self.tenants.get(account)
    }

    /// Every tenant, by account id.
    pub fn tenants(&self) -> impl Iterator<Item = &Arc<Tenant>> {
        self.tenants.values()
    }

    /// The pixel a lane sends to; `None` once the account or the pixel left the configuration.
    pub fn pixel(&self, lane: &LaneKey) -> Option<&PixelConfig> {
        self.tenants.get(&lane.account)?.pixel(lane.pixel)
    }
}

// === impl Route ===

impl Route {
    /// Whether two names lead to the same place, so that one may stand in the handshake and the other in `Host`.
    pub fn same_as(&self, other: &Route) -> bool {
        match (self, other) {
            (Route::Host, Route::Host) => true,
            (Route::Tenant(a), Route::Tenant(b)) => a.config.id == b.config.id,
            _ => false,
        }
    }
}
