//! The only way to a snapshot. All that can fail, fails here.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use crate::account::AccountId;
use crate::config::{
    self, AccountConfig, Accounts, FilterConfig, FilterProgram, GatewayConfig, LastGood, Problem, Reading,
};
use crate::filter::{Chain, FilterHost, LoadError, Program, Stage};
use crate::snapshot::budget::Budget;
use crate::snapshot::websites::WebsiteRules;
use crate::snapshot::{Snapshot, Tenant};
use crate::tls::{CertFolders, CertStore};

/// What a snapshot is made from.
pub struct Inputs<'a> {
    /// `pixelgate.toml` as read now.
    pub gateway: Arc<GatewayConfig>,
    /// The accounts as read now, and what is wrong with their files.
    pub reading: Reading,
    /// What is in force; `None` at a start.
    pub previous: Option<&'a Snapshot>,
    /// What was in force before a restart.
    pub last_good: &'a LastGood,
    /// Where filters are compiled.
    pub filters: &'a FilterHost,
    /// Now, Unix milliseconds.
    pub now_ms: i64,
}

/// Compiles. An account that cannot be compiled as it is written stays as it was.
pub fn compile(inputs: Inputs<'_>) -> Snapshot {
    let Inputs { gateway, reading, previous, last_good, filters, now_ms } = inputs;
    let mut problems = reading.problems.clone();
    let mut owners = owners(&reading, previous, last_good);
    let mut refused = BTreeSet::new();
    let mut tenants = BTreeMap::new();
    let accounts = loop {
        let settled = config::settle(&gateway, &reading.accounts, &owners, &refused);
        let failed = compile_tenants(&settled.accounts, previous, filters, &mut tenants);
        if failed.is_empty() {
            problems.extend(settled.problems);
            break settled.accounts;
        }
        for (id, account_problems) in failed {
            problems.extend(account_problems);
            // What fails as it is written is refused; what fails as it was kept is given up.
            if !refused.insert(id.clone()) {
                owners.remove(&id);
            }
        }
    };
    tenants.retain(|id, tenant: &mut Arc<Tenant>| {
        accounts.get(id).is_some_and(|config| config.digest == tenant.config.digest)
    });
    let certificates = certificates(&gateway, &accounts, previous, now_ms);
    problems.sort();
    problems.dedup();
    let revision = previous.map_or(1, |previous| previous.revision + 1);
    assemble(revision, gateway, certificates, problems, tenants)
}

/// Who has which domains and pixels now: the accounts in force, or at a start those kept from before it.
fn owners(reading: &Reading, previous: Option<&Snapshot>, last_good: &LastGood) -> Accounts {
    let Some(snapshot) = previous else {
        return last_good.owners(&reading.accounts);
    };
    let ids = reading.accounts.keys();
    ids.filter_map(|id| Some((id.clone(), snapshot.tenant(id)?.config.clone()))).collect()
}

/// Compiles the accounts that have no tenant yet into `tenants`, and says which could not be.
fn compile_tenants(
    accounts: &Accounts,
    previous: Option<&Snapshot>,
    filters: &FilterHost,
    tenants: &mut BTreeMap<AccountId, Arc<Tenant>>,
) -> BTreeMap<AccountId, Vec<Problem>> {
    let mut failed = BTreeMap::new();
    for (id, config) in accounts {
        if tenants.get(id).is_some_and(|tenant| tenant.config.digest == config.digest) {
            continue;
        }
        let running = previous.and_then(|snapshot| snapshot.tenant(id));
        if let Some(unchanged) = running.filter(|tenant| tenant.config.digest == config.digest) {
            tenants.insert(id.clone(), unchanged.clone());
            continue;
        }
        match compile_tenant(config, running, filters) {
            Ok(tenant) => drop(tenants.insert(id.clone(), Arc::new(tenant))),
            Err(problems) => drop(failed.insert(id.clone(), problems)),
        }
    }
    failed
}

fn compile_tenant(
    config: &Arc<AccountConfig>,
    running: Option<&Arc<Tenant>>,
    filters: &FilterHost,
) -> Result<Tenant, Vec<Problem>> {
    Ok(Tenant {
        filters: compile_chain(config, filters)?,
        websites: WebsiteRules::new(&config.websites),
        budget: running.map_or_else(|| Arc::new(Budget::default()), |tenant| tenant.budget.clone()),
        config: config.clone(),
    })
}

fn compile_chain(config: &AccountConfig, filters: &FilterHost) -> Result<Chain, Vec<Problem>> {
    let stages = config.filters.iter().map(stage).collect();
    filters.compile(&config.id, stages).map_err(|errors| {
        let problem = |error: crate::filter::StageError| {
            let index = config.filters.iter().position(|filter| filter.name == error.stage).unwrap_or_default();
            let filter = config.filters.get(index);
            let key = format!("filters[{index}].{}", key_of(filter, &error.error));
            let reason = reason_of(filter, &error.error);
            Problem::error(&config.file, &key, reason, error.error.remedy()).of_account(&config.id)
        };
        errors.into_iter().map(problem).collect()
    })
}

fn stage(filter: &FilterConfig) -> Stage {
    let program = match &filter.program {
        FilterProgram::Component(_, bytes) => Program::Component(bytes.clone()),
        FilterProgram::Script(_, text) => Program::Script(text.clone()),
    };
    Stage { name: filter.name.clone(), program, settings: filter.settings.clone(), on_fault: filter.on_fault }
}

/// What is wrong, with the script in which a line is at fault.
fn reason_of(filter: Option<&FilterConfig>, error: &LoadError) -> String {
    match (filter.map(|filter| &filter.program), error) {
        (Some(FilterProgram::Script(path, _)), LoadError::Refused(_) | LoadError::InitFault { .. }) => {
            format!("{}: {error}", path.display())
        }
        _ => error.to_string(),
    }
}

/// The key that an error is about. What a script refuses may be the script itself.
fn key_of(filter: Option<&FilterConfig>, error: &LoadError) -> &'static str {
    match (filter.map(|filter| &filter.program), error) {
        (Some(FilterProgram::Script(..)), _) => "script",
        (_, LoadError::Refused(_)) => "settings",
        _ => "component",
    }
}

/// Judges the certificate of every name. What is wrong with one is a warning on that name.
fn certificates(gateway: &GatewayConfig, accounts: &Accounts, previous: Option<&Snapshot>, now_ms: i64) -> CertStore {
    let data_dir = &gateway.host.data_dir;
    let folders = CertFolders {
        certs_dir: gateway.tls.certs_dir.clone(),
        issued_dir: data_dir.join("certs"),
        index: data_dir.join("certificates.index"),
    };
    let names = accounts.values().flat_map(|account| &account.domains).chain([&gateway.host.domain]);
    let running = previous.map(|snapshot| &*snapshot.certificates);
    CertStore::load(&folders, names, running, now_ms / 1_000)
}

fn assemble(
    revision: u64,
    gateway: Arc<GatewayConfig>,
    certificates: CertStore,
    problems: Vec<Problem>,
    tenants: BTreeMap<AccountId, Arc<Tenant>>,
) -> Snapshot {
    let mut names = HashMap::new();
    let mut pixels = HashMap::new();
    for tenant in tenants.values() {
        names.extend(tenant.config.domains.iter().map(|name| (name.clone(), tenant.clone())));
        pixels.extend(tenant.config.pixels.iter().map(|pixel| (pixel.id, tenant.clone())));
    }
    Snapshot {
        revision,
        gateway,
        certificates: Arc::new(certificates),
        file_problems: Arc::new(problems),
        tenants: Arc::new(tenants),
        names: Arc::new(names),
        pixels: Arc::new(pixels),
    }
}
