//! Who has which domain and pixel: the rules by which the claims of several files are settled.
//!
//! A claim is judged among the accounts in effect, not among the files: an account whose file is refused is in effect as
//! it was before, and keeps what it had. A claim that several make stays with the account that has it now, and the other
//! files are refused whole; one that nobody has yet is given to nobody. Neither the order of files nor their names
//! matter.
//!
//! Where it can be looked up who has what, only the files that are not as what is in force are judged: all others have
//! what they had, and no two of them the same.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt;
use std::sync::Arc;

use crate::account::{AccountId, PixelId, ServerName};
use crate::config::file::line_of;
use crate::config::model::{AccountConfig, Accounts, GatewayConfig};
use crate::config::problem::Problem;
use crate::config::source::Candidate;

/// The accounts in effect, and why some are not as their files say.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Settled {
    /// Each account as it is to be; no domain and no pixel is in two of them.
    pub accounts: Accounts,
    /// The claims that were refused.
    pub problems: Vec<Problem>,
}

/// The accounts as they are in force now.
pub trait Owners {
    /// An account as it is in force.
    fn account(&self, id: &AccountId) -> Option<&Arc<AccountConfig>>;

    /// Where it is looked up who has what, if it can be. What can be looked up is settled: no two accounts have the same.
    fn holders(&self) -> Option<&dyn Holders> {
        None
    }
}

/// Who has which domain and pixel now.
pub trait Holders {
    /// The account that has it.
    fn holder(&self, claim: Claim<'_>) -> Option<&AccountId>;
}

/// What only one account may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Claim<'a> {
    /// One of `domains`.
    Domain(&'a ServerName),
    /// The id of a pixel.
    Pixel(PixelId),
}

/// How an account is in effect.
#[derive(Clone, Copy)]
enum Standing<'a> {
    /// As its file says.
    Written(&'a Arc<AccountConfig>),
    /// As it was before.
    Before(&'a Arc<AccountConfig>),
}

/// The accounts in effect so far. An account only ever falls from written to before to absent, so settling ends.
struct Settlement<'a> {
    owners: &'a dyn Owners,
    standings: BTreeMap<&'a AccountId, Standing<'a>>,
    /// Those that are not as they are in force, or all where nobody can tell: each conflict has one of them.
    suspects: Vec<&'a AccountId>,
    problems: Vec<Problem>,
}

/// A claim that several accounts make.
struct Conflict<'a> {
    claim: Claim<'a>,
    claimants: Vec<&'a AccountId>,
    /// Who keeps it.
    keeper: Option<&'a AccountId>,
}

/// Settles the claims of all files. `owners` are the accounts as they are in force now; `refused` are those whose files
/// cannot be taken up for another reason, such as a filter that does not compile.
///
/// An account that has the host's own domain keeps it: that is an error of `pixelgate.toml`, and dropping the account
/// would lose its events.
pub fn settle(
    gateway: &GatewayConfig,
    candidates: &BTreeMap<AccountId, Candidate>,
    owners: &dyn Owners,
    refused: &BTreeSet<AccountId>,
) -> Settled {
    let mut settlement = Settlement::new(candidates, owners, refused);
    settlement.protect_host_domain(gateway);
    loop {
        let conflicts = settlement.conflicts();
        if conflicts.is_empty() {
            break;
        }
        settlement.resolve(&conflicts);
    }
    settlement.report_lost_host_domain(gateway);
    settlement.finish()
}

// === impl Settlement ===

impl<'a> Settlement<'a> {
    fn new(
        candidates: &'a BTreeMap<AccountId, Candidate>,
        owners: &'a dyn Owners,
        refused: &BTreeSet<AccountId>,
    ) -> Self {
        let (all, mut suspects) = (owners.holders().is_none(), Vec::new());
        let standing = |(id, candidate): (&'a AccountId, &'a Candidate)| {
            let owner = owners.account(id);
            let standing = match candidate {
                Candidate::Good(config) if !refused.contains(id) => Standing::Written(config),
                _ => Standing::Before(owner?),
            };
            if all || owner.is_none_or(|owner| owner.digest != standing.config().digest) {
                suspects.push(id);
            }
            Some((id, standing))
        };
        let standings = candidates.iter().filter_map(standing).collect();
        Self { owners, standings, suspects, problems: Vec::new() }
    }

    /// Refuses files that claim the host's domain for an account that does not have it.
    fn protect_host_domain(&mut self, gateway: &'a GatewayConfig) {
        let claim = Claim::Domain(&gateway.host.domain);
        for id in self.claimants(claim).into_iter().filter(|id| !self.holds(id, claim)).collect::<Vec<_>>() {
            let reason = format!("{claim} is host.domain of {}", gateway.file.display());
            self.refuse(id, claim, reason, "give the account a domain of its own, or none to use the host's");
            self.demote(id);
        }
    }

    fn report_lost_host_domain(&mut self, gateway: &'a GatewayConfig) {
        let claim = Claim::Domain(&gateway.host.domain);
        let Some(config) = self.claimants(claim).first().copied().and_then(|id| self.config(id)) else {
            return;
        };
        let reason = format!("{claim} is {}, which has it now", place(config, claim));
        let remedy = "choose another domain for the host, or remove it from that account first";
        self.problems.push(Problem::error(&gateway.file, "host.domain", reason, remedy));
    }

    /// Every claim that more than one account makes, and who keeps it.
    fn conflicts(&self) -> Vec<Conflict<'a>> {
        let suspects = || self.suspects.iter().filter_map(|id| Some((*id, self.config(id)?)));
        let count = suspects().map(|(_, config)| claims(config).count()).sum();
        let mut first: HashMap<Claim<'a>, &'a AccountId> = HashMap::with_capacity(count);
        let mut several: BTreeMap<Claim<'a>, Vec<&'a AccountId>> = BTreeMap::new();
        for (id, config) in suspects() {
            for claim in claims(config) {
                match first.get(&claim) {
                    Some(other) => several.entry(claim).or_insert_with(|| vec![*other]).push(id),
                    None => drop(first.insert(claim, id)),
                }
            }
        }
        for (claim, suspect) in &first {
            if let Some(holder) = self.holder(*claim) {
                let claimants = several.entry(*claim).or_insert_with(|| vec![*suspect]);
                if !claimants.contains(&holder) {
                    claimants.push(holder);
                    claimants.sort_unstable();
                }
            }
        }
        several.retain(|_, claimants| claimants.len() > 1);
        let conflict = |(claim, claimants): (Claim<'a>, Vec<&'a AccountId>)| {
            let keeper = self.keeper(claim, &claimants);
            Conflict { claim, claimants, keeper }
        };
        several.into_iter().map(conflict).collect()
    }

    /// The account that has a claim now. Two have it only if what was kept for a restart is torn: then it is the one
    /// whose file says so too.
    fn keeper(&self, claim: Claim<'a>, claimants: &[&'a AccountId]) -> Option<&'a AccountId> {
        let only = |mut ids: Vec<&'a AccountId>| if ids.len() == 1 { ids.pop() } else { None };
        let holders: Vec<_> = claimants.iter().copied().filter(|id| self.holds(id, claim)).collect();
        let written = |id: &&AccountId| matches!(self.standings.get(*id), Some(Standing::Written(_)));
        only(holders.clone()).or_else(|| only(holders.into_iter().filter(written).collect()))
    }

    /// Refuses the losers of conflicts. Where somebody keeps a claim it is clear who loses it; only when that is done the
    /// claims that nobody has are refused, for one of their claimants may be out of effect by then.
    fn resolve(&mut self, conflicts: &[Conflict<'a>]) {
        let any_kept = conflicts.iter().any(|conflict| conflict.keeper.is_some());
        let mut losers = BTreeSet::new();
        for conflict in conflicts.iter().filter(|conflict| conflict.keeper.is_some() == any_kept) {
            for id in conflict.claimants.iter().copied().filter(|id| Some(*id) != conflict.keeper) {
                self.refuse_claim(id, conflict);
                losers.insert(id);
            }
        }
        for id in losers {
            self.demote(id);
        }
    }

    /// Reports a lost claim with both places.
    fn refuse_claim(&mut self, id: &'a AccountId, conflict: &Conflict<'a>) {
        let other = conflict.keeper.or_else(|| conflict.claimants.iter().copied().find(|other| *other != id));
        let Some(standing) = other.and_then(|other| self.standings.get(other)).copied() else {
            return;
        };
        let place = match standing {
            Standing::Written(config) => place(config, conflict.claim),
            // The file is another one by now, so a line of it says nothing.
            Standing::Before(config) => {
                format!("{} of {} as it was before", key(config, conflict.claim), config.file.display())
            }
        };
        let who_has_it = match conflict.keeper {
            Some(keeper) => format!("account {keeper} has it now"),
            None => "nobody has it yet".to_owned(),
        };
        let reason = format!("{} is also {place}; {who_has_it}", conflict.claim);
        self.refuse(id, conflict.claim, reason, "remove it from one of the two files");
    }

    fn refuse(&mut self, id: &AccountId, claim: Claim<'a>, reason: String, remedy: &str) {
        let Some(standing) = self.standings.get(id).copied() else { return };
        let is_written = matches!(standing, Standing::Written(_));
        let until_then = if is_written && self.owners.account(id).is_some() {
            "until then this account stays as it was"
        } else {
            "until then this account is not served"
        };
        let (config, key) = (standing.config(), key(standing.config(), claim));
        let line = is_written.then(|| line_of(&config.text, &key)).flatten();
        let problem = Problem::error(&config.file, &key, reason, format!("{remedy}; {until_then}")).at_line(line);
        self.problems.push(problem.of_account(id));
    }

    /// Puts an account one step back: to how it was before, or out of effect.
    fn demote(&mut self, id: &'a AccountId) {
        match (self.standings.get(id), self.owners.account(id)) {
            (Some(Standing::Written(_)), Some(before)) => drop(self.standings.insert(id, Standing::Before(before))),
            _ => drop(self.standings.remove(id)),
        }
    }

    /// Who makes a claim, in the order of ids.
    fn claimants(&self, claim: Claim<'a>) -> BTreeSet<&'a AccountId> {
        let suspects = self.suspects.iter().copied().filter(|id| self.makes(id, claim));
        suspects.chain(self.holder(claim)).collect()
    }

    /// Who has a claim in force and makes it still, if that can be looked up.
    fn holder(&self, claim: Claim<'a>) -> Option<&'a AccountId> {
        let holder = self.owners.holders()?.holder(claim)?;
        self.makes(holder, claim).then_some(holder)
    }

    /// Whether an account makes a claim as it stands.
    fn makes(&self, id: &AccountId, claim: Claim<'a>) -> bool {
        self.config(id).is_some_and(|config| claims(config).any(|made| made == claim))
    }

    /// Whether an account has it now.
    fn holds(&self, id: &AccountId, claim: Claim<'a>) -> bool {
        self.owners.account(id).is_some_and(|config| claims(config).any(|held| held == claim))
    }

    fn config(&self, id: &AccountId) -> Option<&'a Arc<AccountConfig>> {
        self.standings.get(id).map(|standing| standing.config())
    }

    fn finish(self) -> Settled {
        let account = |(id, standing): (&AccountId, Standing<'_>)| (id.clone(), standing.config().clone());
        let mut problems = self.problems;
        problems.sort();
        Settled { accounts: self.standings.into_iter().map(account).collect(), problems }
    }
}

fn claims(config: &AccountConfig) -> impl Iterator<Item = Claim<'_>> {
    let domains = config.domains.iter().map(Claim::Domain);
    domains.chain(config.pixels.iter().map(|pixel| Claim::Pixel(pixel.id)))
}

/// The key at which an account's file makes a claim.
fn key(config: &AccountConfig, claim: Claim<'_>) -> String {
    let domain = |name| config.domains.iter().position(|domain| domain == name).unwrap_or_default();
    let pixel = |id| config.pixels.iter().position(|pixel| pixel.id == id).unwrap_or_default();
    match claim {
        Claim::Domain(name) => format!("domains[{}]", domain(name)),
        Claim::Pixel(id) => format!("pixels[{}].id", pixel(id)),
    }
}

/// Where an account's file makes a claim.
fn place(config: &AccountConfig, claim: Claim<'_>) -> String {
    let key = key(config, claim);
    let line = line_of(&config.text, &key).map(|line| format!(":{line}")).unwrap_or_default();
    format!("{key} of {}{line}", config.file.display())
}

// === impl Standing ===

impl<'a> Standing<'a> {
    fn config(self) -> &'a Arc<AccountConfig> {
        match self {
            Self::Written(config) | Self::Before(config) => config,
        }
    }
}

// === impl Owners ===

impl Owners for Accounts {
    fn account(&self, id: &AccountId) -> Option<&Arc<AccountConfig>> {
        self.get(id)
    }
}

// === impl Claim ===

impl fmt::Display for Claim<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Domain(name) => write!(f, "{name}"),
            Self::Pixel(id) => write!(f, "pixel {id}"),
        }
    }
}
