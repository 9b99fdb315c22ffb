//! The only way to a snapshot. All that can fail, fails here.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::account::{AccountId, PixelId, ServerName};
use crate::config::{
    self, AccountConfig, Accounts, Candidate, FilterConfig, FilterProgram, GatewayConfig, LastGood, Owners, Problem,
    Reading,
};
use crate::filter::{Chain, FilterHost, LoadError, Program, Stage};
use crate::parallel;
use crate::snapshot::budget::Budget;
use crate::snapshot::shards::Shards;
use crate::snapshot::websites::WebsiteRules;
use crate::snapshot::{Changes, Snapshot, Tenant};
use crate::tls::{CertFolders, CertStore};

/// What a snapshot is made from.
pub struct Inputs<'a> {
    /// `pixelgate.toml` as read now.
    pub gateway: Arc<GatewayConfig>,
    /// The accounts as read now, and what is wrong with their files.
    pub reading: Reading,
    /// What was in force before.
    pub before: Before<'a>,
    /// Where filters are compiled.
    pub filters: &'a FilterHost,
    /// Now, Unix milliseconds.
    pub now_ms: i64,
}

/// What was in force before: an account that cannot be compiled as it is written stays as it was there.
#[derive(Clone, Copy)]
pub enum Before<'a> {
    /// At a start: the accounts that were kept for it.
    Kept(&'a LastGood),
    /// At a reload: what runs.
    Running(&'a Snapshot),
}

/// What compiling came to.
pub struct Compiled {
    /// The configuration, ready to be published. Of names that were there before with an account that did not change, the
    /// certificates are as they were when they were last looked at.
    pub snapshot: Snapshot,
    /// What it changes of what runs; `None` at a start.
    pub changes: Option<Changes>,
}

/// The accounts' tenants in the making.
struct Making<'a> {
    previous: Option<&'a Snapshot>,
    filters: &'a FilterHost,
    tenants: BTreeMap<AccountId, Arc<Tenant>>,
    /// Those that are not, or were not all the time, as they are in `previous`.
    touched: BTreeSet<AccountId>,
}

/// What the accounts come to.
struct Settled<'a> {
    accounts: Accounts,
    making: Making<'a>,
    /// All that is wrong with the files.
    problems: Vec<Problem>,
}

/// Tenants that are there before and not after, and the other way round.
struct Difference<'a> {
    gone: Vec<&'a Arc<Tenant>>,
    new: Vec<&'a Arc<Tenant>>,
}

/// Compiles. An account that cannot be compiled as it is written stays as it was.
pub fn compile(inputs: Inputs<'_>) -> Compiled {
    let Inputs { gateway, mut reading, before, filters, now_ms } = inputs;
    let previous = before.running();
    let Settled { accounts, making, problems } = settle(&gateway, &mut reading, before, filters);
    let (tenants, touched) = making.finish(&accounts);
    let changes = previous.map(|previous| Changes::between(previous, &reading, &accounts, &touched));
    let all_in_force = reading.accounts.len() == accounts.len();
    let files = reading.accounts.into_keys().filter(|_| !all_in_force);
    let left_out = files.filter(|id| !accounts.contains_key(id)).collect();
    let difference = Difference::between(previous, &tenants, &touched);
    let certificates = certificates(&gateway, &accounts, previous, &difference, now_ms);
    let (names, pixels) = difference.routes(previous);
    let snapshot = Snapshot {
        revision: previous.map_or(1, |previous| previous.revision + 1),
        gateway,
        certificates: Arc::new(certificates),
        file_problems: Arc::new(problems),
        left_out: Arc::new(left_out),
        names,
        pixels,
        tenants: Arc::new(tenants),
    };
    Compiled { snapshot, changes }
}

/// What compiling would find wrong with the files: for a reading that changes nothing, because its `pixelgate.toml` is bad.
/// Another one stands in for that. No certificate is looked at.
pub fn judge(inputs: Inputs<'_>) -> Vec<Problem> {
    let Inputs { gateway, mut reading, before, filters, .. } = inputs;
    settle(&gateway, &mut reading, before, filters).problems
}

/// Compiles accounts until all that are left can be, and have what they claim.
fn settle<'a>(
    gateway: &GatewayConfig,
    reading: &mut Reading,
    before: Before<'a>,
    filters: &'a FilterHost,
) -> Settled<'a> {
    let mut problems = std::mem::take(&mut reading.problems);
    let previous = before.running();
    let mut kept = match before {
        Before::Kept(last_good) => last_good.owners(&reading.accounts),
        Before::Running(_) => Accounts::new(),
    };
    let mut refused = BTreeSet::new();
    let mut making = Making::new(previous, filters);
    let accounts = loop {
        let owners: &dyn Owners = match previous {
            Some(snapshot) => snapshot,
            None => &kept,
        };
        let settled = config::settle(gateway, &reading.accounts, owners, &refused);
        let failed = making.compile(&settled.accounts);
        if failed.is_empty() {
            problems.extend(settled.problems);
            break settled.accounts;
        }
        for (id, account_problems) in failed {
            problems.extend(account_problems);
            // What fails as it is written is refused; what fails as it was kept is given up.
            if !refused.insert(id.clone()) {
                kept.remove(&id);
            }
        }
    };
    problems.extend(further_problems(reading, &accounts, &refused, filters));
    // Before this a start has not loaded all that is used.
    filters.tidy();
    problems.sort();
    problems.dedup();
    Settled { accounts, making, problems }
}

/// What else is wrong with files that lost a claim: they were not compiled as they are written.
fn further_problems(
    reading: &Reading,
    accounts: &Accounts,
    refused: &BTreeSet<AccountId>,
    filters: &FilterHost,
) -> Vec<Problem> {
    let mut problems = Vec::new();
    for (id, candidate) in reading.accounts.iter().filter(|(id, _)| !refused.contains(*id)) {
        if let Candidate::Good(config) = candidate
            && accounts.get(id).is_none_or(|in_effect| in_effect.digest != config.digest)
        {
            problems.extend(compile_chain(config, filters).err().into_iter().flatten());
        }
    }
    problems
}

// === impl Before ===

impl<'a> Before<'a> {
    fn running(self) -> Option<&'a Snapshot> {
        match self {
            Self::Kept(_) => None,
            Self::Running(snapshot) => Some(snapshot),
        }
    }
}

// === impl Making ===

impl<'a> Making<'a> {
    fn new(previous: Option<&'a Snapshot>, filters: &'a FilterHost) -> Self {
        let tenants = previous.map(|previous| BTreeMap::clone(&previous.tenants)).unwrap_or_default();
        Self { previous, filters, tenants, touched: BTreeSet::new() }
    }

    /// Compiles the accounts that have no tenant yet, and says which could not be.
    fn compile(&mut self, accounts: &Accounts) -> BTreeMap<AccountId, Vec<Problem>> {
        let mut wanted = Vec::new();
        for (id, config) in accounts {
            if self.tenants.get(id).is_some_and(|tenant| tenant.config.digest == config.digest) {
                continue;
            }
            self.touched.insert(id.clone());
            let running = self.previous.and_then(|snapshot| snapshot.tenant(id));
            // It was compiled as it is written, and is to stay as it was all the same.
            if let Some(unchanged) = running.filter(|tenant| tenant.config.digest == config.digest) {
                self.tenants.insert(id.clone(), unchanged.clone());
                continue;
            }
            wanted.push((id, config, running));
        }
        let made = parallel::map(&wanted, 1, |(_, config, running)| compile_tenant(config, *running, self.filters));
        let mut failed = BTreeMap::new();
        for ((id, ..), made) in wanted.into_iter().zip(made) {
            match made {
                Ok(tenant) => drop(self.tenants.insert(id.clone(), Arc::new(tenant))),
                Err(problems) => drop(failed.insert(id.clone(), problems)),
            }
        }
        failed
    }

    /// The tenants of these accounts, which all have one, and those that were touched.
    fn finish(mut self, accounts: &Accounts) -> (BTreeMap<AccountId, Arc<Tenant>>, BTreeSet<AccountId>) {
        if self.tenants.len() > accounts.len() {
            self.touched.extend(self.tenants.keys().filter(|id| !accounts.contains_key(id)).cloned());
            self.tenants.retain(|id, _| accounts.contains_key(id));
        }
        (self.tenants, self.touched)
    }
}

// === impl Difference ===

impl<'a> Difference<'a> {
    fn between(
        previous: Option<&'a Snapshot>,
        tenants: &'a BTreeMap<AccountId, Arc<Tenant>>,
        touched: &BTreeSet<AccountId>,
    ) -> Self {
        let mut difference = Self { gone: Vec::new(), new: Vec::new() };
        for id in touched {
            let (before, now) = (previous.and_then(|previous| previous.tenant(id)), tenants.get(id));
            if before.map(Arc::as_ptr) != now.map(Arc::as_ptr) {
                difference.gone.extend(before);
                difference.new.extend(now);
            }
        }
        difference
    }

    /// Whose each name and each pixel is.
    fn routes(&self, previous: Option<&Snapshot>) -> (Shards<ServerName, Arc<Tenant>>, Shards<PixelId, Arc<Tenant>>) {
        let gone_names = self.gone.iter().flat_map(|tenant| &tenant.config.domains);
        let gone_pixels = self.gone.iter().flat_map(|tenant| tenant.config.pixels.iter().map(|pixel| &pixel.id));
        let names = self
            .new
            .iter()
            .flat_map(|tenant| tenant.config.domains.iter().map(|name| (name.clone(), Arc::clone(tenant))));
        let pixels =
            self.new.iter().flat_map(|tenant| tenant.config.pixels.iter().map(|pixel| (pixel.id, Arc::clone(tenant))));
        match previous {
            Some(previous) => (previous.names.changed(gone_names, names), previous.pixels.changed(gone_pixels, pixels)),
            None => (names.collect(), pixels.collect()),
        }
    }
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
            format!("{}: {error}", config::tidy(path).display())
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

/// Judges the certificate of every name; of those that did not change since `previous`, it is known. What is wrong with
/// one is a warning on that name.
fn certificates(
    gateway: &GatewayConfig,
    accounts: &Accounts,
    previous: Option<&Snapshot>,
    difference: &Difference<'_>,
    now_ms: i64,
) -> CertStore {
    let data_dir = &gateway.host.data_dir;
    let folders = CertFolders {
        certs_dir: gateway.tls.certs_dir.clone(),
        issued_dir: data_dir.join("certs"),
        index: data_dir.join("certificates.index"),
    };
    let now = now_ms / 1_000;
    let (host, running) = (&gateway.host.domain, previous.map(|snapshot| &*snapshot.certificates));
    let of = |tenants: &[&'_ Arc<Tenant>]| -> Vec<ServerName> {
        tenants.iter().flat_map(|tenant| &tenant.config.domains).cloned().collect()
    };
    match (previous, running) {
        (Some(previous), Some(store)) if store.is_of(&folders) => {
            let (mut gone, mut new) = (of(&difference.gone), of(&difference.new));
            if previous.gateway.host.domain != *host {
                gone.push(previous.gateway.host.domain.clone());
                new.push(host.clone());
            }
            store.changed(&gone, &new, now)
        }
        _ => {
            let names = accounts.values().flat_map(|account| &account.domains).chain([host]);
            CertStore::load(&folders, names, running, now)
        }
    }
}
