//! The configuration compiled to what a request reads: immutable, swapped whole, shared by all threads.
//!
//! [`compile`] is the only way to make one, and all that can fail fails there. A request takes one snapshot when it
//! begins and ends on it, whatever is published meanwhile. One that is made after another shares with it all that did not
//! change, so it costs what changed.

mod budget;
mod changes;
mod compile;
mod published;
mod shards;
mod tenant;
mod websites;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::account::{AccountId, LaneKey, PixelId, ServerName};
use crate::config::{AccountConfig, Claim, GatewayConfig, Holders, Owners, PixelConfig, Problem};
use crate::snapshot::shards::Shards;
use crate::tls::{CertStore, CertificateFault, CertificateProblem, DirectoryProblem};

pub use changes::Changes;
pub use compile::{Before, Compiled, Inputs, compile, judge};
pub use published::Published;
pub use tenant::Tenant;

/// All that a request, a handshake or a sender needs to know of the configuration. A clone shares everything.
#[derive(Clone)]
pub struct Snapshot {
    /// Counts what was published since the start, from 1.
    pub revision: u64,
    /// `pixelgate.toml`
    pub gateway: Arc<GatewayConfig>,
    /// Server name → credential.
    pub certificates: Arc<CertStore>,
    /// What is wrong with the files that this was made from, warnings included. What is wrong with certificates is
    /// known by the store: see [`Snapshot::problems`].
    pub file_problems: Arc<Vec<Problem>>,
    /// The accounts that have a file and are not in force: an error in it, and nothing to stay as it was.
    pub left_out: Arc<BTreeSet<AccountId>>,
    tenants: Arc<BTreeMap<AccountId, Arc<Tenant>>>,
    names: Shards<ServerName, Arc<Tenant>>,
    pixels: Shards<PixelId, Arc<Tenant>>,
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
    /// The same configuration with other certificates.
    #[must_use]
    pub fn with_certificates(&self, certificates: CertStore) -> Self {
        Self { certificates: Arc::new(certificates), ..self.clone() }
    }

    /// All that is wrong, in order: with the files, and with the certificate of each name.
    pub fn problems(&self) -> Vec<Problem> {
        let acme = self.gateway.acme.enabled;
        let warning = |problem: CertificateProblem| {
            let remedy = problem.remedy(acme);
            let made = Problem::warning(&problem.file, problem.name.as_str(), problem.to_string(), remedy);
            match self.names.get(&problem.name) {
                Some(tenant) => made.of_account(&tenant.config.id),
                None => made,
            }
        };
        let directory = |problem: &DirectoryProblem| {
            let is_operators = problem.directory == self.gateway.tls.certs_dir;
            let key = if is_operators { "tls.certs_dir" } else { "host.data_dir" };
            Problem::warning(&problem.directory, key, problem.to_string(), problem.remedy())
        };
        let certificates = self.certificates.problems().filter(|problem| !self.is_meant(problem));
        let mut problems: Vec<_> = certificates.map(warning).collect();
        problems.extend(self.certificates.directory_problems().iter().map(directory));
        problems.extend(self.file_problems.iter().cloned());
        problems.sort();
        problems.dedup();
        problems
    }

    /// How many errors and warnings there are among [`Snapshot::problems`].
    pub fn problem_counts(&self) -> (usize, usize) {
        let errors = self.file_problems.iter().filter(|problem| problem.is_error()).count();
        let certificates = self.certificates.summary();
        let meant = if self.gateway.acme.waits_for_visitors() { certificates.nothing } else { 0 };
        (errors, self.file_problems.len() - errors + certificates.problems - meant)
    }

    /// What is wrong with the certificate of a name.
    pub fn certificate_problem(&self, name: &ServerName) -> Option<CertificateProblem> {
        self.certificates.problem_of(name).filter(|problem| !self.is_meant(problem))
    }

    /// Whether it is no problem: where visitors are waited for, that there is nothing for a name. That an order came to
    /// nothing is one, and is told by who ordered.
    fn is_meant(&self, problem: &CertificateProblem) -> bool {
        self.gateway.acme.waits_for_visitors() && problem.fault == CertificateFault::Nothing
    }

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

impl Owners for Snapshot {
    fn account(&self, id: &AccountId) -> Option<&Arc<AccountConfig>> {
        self.tenants.get(id).map(|tenant| &tenant.config)
    }

    fn holders(&self) -> Option<&dyn Holders> {
        Some(self)
    }
}

impl Holders for Snapshot {
    fn holder(&self, claim: Claim<'_>) -> Option<&AccountId> {
        let tenant = match claim {
            Claim::Domain(name) => self.names.get(name),
            Claim::Pixel(id) => self.pixels.get(&id),
        };
        tenant.map(|tenant| &tenant.config.id)
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
