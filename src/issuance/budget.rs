//! How much may still be asked of each CA. Pure: the time is an argument.
//!
//! Let's Encrypt refills its limits evenly ("300 in 3 hours" is one order each 36 s, up to 300 at once), so each budget
//! is a cell of the generic cell rate algorithm (ITU-T I.371): one number, the time when all that was taken is paid for.
//!
//! A CA counts orders and failures by account, but certificates by domain and name over all its accounts: those cells
//! are kept for the CA, that is for its directory.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use crate::config::{AcmeAccount, AcmeBudget};
use crate::issuance::blame::{Blames, Told};

/// What a CA says of one name or domain is obeyed for at most this long at a time.
const PAUSE_MAX: Duration = Duration::from_secs(7 * 24 * 60 * 60);
/// A whole account is left alone for at most this long at a time: all its names wait for it.
const ACCOUNT_PAUSE_MAX: Duration = Duration::from_secs(24 * 60 * 60);

/// Cells that are remembered before it is worth looking for some to forget.
const SWEPT_FROM: usize = 1_024;
/// How long a cell must have been of no use: the clock may have been set.
const SWEPT_AFTER: Duration = PAUSE_MAX;

/// What was taken of all budgets.
#[derive(Clone, Debug, Default)]
pub(super) struct Budgets {
    cells: HashMap<Key, i64>,
    /// What orders will take that were begun and have not been sent yet, in milliseconds.
    reserved: HashMap<Key, i64>,
    /// CA accounts that are left alone without having asked for it. Not on disk.
    pub(super) blames: Blames,
    /// Cells that changed since they were last written to disk.
    changed: Vec<Key>,
    /// Cells from which on those of no use are forgotten: names come and go.
    sweep_at: usize,
}

/// One cell.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct Key {
    /// Who counts: a CA account by its name, or a CA by its directory.
    pub(super) scope: Arc<str>,
    /// What is counted.
    pub(super) limit: Limit,
    /// Of what: a name, a registered domain, or nothing.
    pub(super) subject: Box<str>,
}

/// What is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum Limit {
    /// An account's orders for names without a certificate.
    NewOrders,
    /// A CA's certificates below a registered domain.
    Domain,
    /// A CA's certificates for a name.
    Duplicates,
    /// A CA's certificates for a name that it wanted replaced. Our own limit: a CA that never has enough would be asked
    /// for ever.
    Replacements,
    /// Failed validations of a name, of an account.
    Failures,
    /// Nothing goes until then: the CA said so; of an account, also what `blames` says. With an empty subject for all names
    /// of an account.
    Pause,
}

/// What holds an order back longest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Bound<'a> {
    /// Until then, Unix milliseconds; not later than the present = nothing does.
    pub(super) until_ms: i64,
    /// Which limit.
    pub(super) limit: Limit,
    /// Of what: a name, a registered domain, or nothing.
    pub(super) subject: &'a str,
}

/// What an order is for, as far as limits go (letsencrypt.org/docs/rate-limits, "Limit Exemptions").
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Kind {
    /// A certificate that the CA wants replaced now or was told of (RFC 9773, 5): free of all limits there.
    Replacement,
    /// The same names again at the same CA: free of the limits of new orders and of the registered domain.
    Renewal,
    /// A name's first certificate at this CA.
    New,
}

// === impl Budgets ===

impl Budgets {
    /// The budgets as they were kept on disk.
    pub(super) fn restored(cells: impl IntoIterator<Item = (Key, i64)>) -> Self {
        Self { cells: cells.into_iter().collect(), ..Self::default() }
    }

    /// What was taken is not known any more: accounts begin with nothing left of their orders, and get it back evenly.
    pub(super) fn use_up(&mut self, account: &AcmeAccount, now_ms: i64) {
        let budget = account.budgets.new_orders;
        let key = Key::new(&account.name, Limit::NewOrders, "");
        self.cells.insert(key.clone(), now_ms.saturating_add(millis(budget.window)));
        self.changed.push(key);
    }

    /// From when on an order of this kind may begin; not later than `now_ms` = it may begin now.
    pub(super) fn ready_at(&self, account: &AcmeAccount, name: &str, kind: Kind, now_ms: i64) -> i64 {
        self.bound(account, name, kind, now_ms).until_ms
    }

    /// What an order of this kind waits for longest.
    pub(super) fn bound<'a>(&self, account: &AcmeAccount, name: &'a str, kind: Kind, now_ms: i64) -> Bound<'a> {
        let domain = registered_domain(name);
        let pause = |scope: &str, subject: &'a str| Bound {
            until_ms: self.paused_until(scope, subject, now_ms),
            limit: Limit::Pause,
            subject,
        };
        let cell = |key: &Key, budget| {
            let subject = match key.limit {
                Limit::NewOrders => "",
                Limit::Domain => domain,
                Limit::Duplicates | Limit::Replacements | Limit::Failures | Limit::Pause => name,
            };
            Bound { until_ms: self.room_at(key, budget, now_ms), limit: key.limit, subject }
        };
        let failures = cell(&Key::new(&account.name, Limit::Failures, name), account.budgets.failures);
        let of_name = [pause(&account.name, name), pause(&account.directory, name), failures];
        let of_domain = (kind == Kind::New).then(|| pause(&account.directory, domain));
        let cells = costs(account, name, kind).map(|(key, budget)| cell(&key, budget));
        let others = of_name.into_iter().chain(of_domain).chain(cells);
        others.fold(
            pause(&account.name, ""),
            |longest, other| {
                if other.until_ms > longest.until_ms { other } else { longest }
            },
        )
    }

    /// From when on an account may be asked for anything that has to do with a name.
    pub(super) fn free_at(&self, account: &AcmeAccount, name: &str, now_ms: i64) -> i64 {
        let of_name = [&account.name, &account.directory].map(|scope| self.paused_until(scope, name, now_ms));
        of_name.into_iter().fold(self.paused_until(&account.name, "", now_ms), i64::max)
    }

    /// From when on an account takes new orders at all.
    pub(super) fn account_ready_at(&self, account: &AcmeAccount, kind: Kind, now_ms: i64) -> i64 {
        let paused = self.paused_until(&account.name, "", now_ms);
        match kind {
            Kind::New => {
                let key = Key::new(&account.name, Limit::NewOrders, "");
                paused.max(self.room_at(&key, account.budgets.new_orders, now_ms))
            }
            Kind::Renewal | Kind::Replacement => paused,
        }
    }

    /// Keeps room for an order of this kind, which is begun and not yet sent.
    pub(super) fn reserve(&mut self, account: &AcmeAccount, name: &str, kind: Kind) {
        for (key, budget) in costs(account, name, kind) {
            *self.reserved.entry(key).or_default() += cost(budget);
        }
    }

    /// Gives up what was reserved: the order is sent and takes what it costs, or never will be.
    pub(super) fn release(&mut self, account: &AcmeAccount, name: &str, kind: Kind) {
        for (key, budget) in costs(account, name, kind) {
            if let Some(reserved) = self.reserved.get_mut(&key) {
                *reserved -= cost(budget);
                if *reserved <= 0 {
                    self.reserved.remove(&key);
                }
            }
        }
    }

    /// Takes what an order of this kind costs. It is taken before the order is sent, so that orders in flight count too.
    pub(super) fn take(&mut self, account: &AcmeAccount, name: &str, kind: Kind, now_ms: i64) {
        for (key, budget) in costs(account, name, kind) {
            self.pay(key, budget, now_ms);
        }
    }

    /// As if all that is reserved were taken now: no later time gives it up.
    pub(super) fn with_reserved_taken(mut self, now_ms: i64) -> Self {
        for (key, reserved) in std::mem::take(&mut self.reserved) {
            let cell = self.cells.entry(key).or_insert(now_ms);
            *cell = (*cell).max(now_ms).saturating_add(reserved);
        }
        self
    }

    /// Gives back what counts only if a certificate is issued: the order came to nothing.
    pub(super) fn give_back(&mut self, account: &AcmeAccount, name: &str, kind: Kind) {
        for (key, budget) in costs(account, name, kind) {
            if key.limit != Limit::NewOrders {
                self.unpay(key, budget);
            }
        }
    }

    /// How many first orders an account may begin now.
    pub(super) fn new_orders_left(&self, account: &AcmeAccount, now_ms: i64) -> u32 {
        let (budget, key) = (account.budgets.new_orders, Key::new(&account.name, Limit::NewOrders, ""));
        let window = millis(budget.window);
        let owed = self.cells.get(&key).map_or(0, |paid| paid.saturating_sub(now_ms)).clamp(0, window);
        u32::try_from((window - owed) / cost(budget).max(1)).unwrap_or(u32::MAX).min(budget.max)
    }

    /// Until when an account is left alone; `None` = it is not.
    pub(super) fn paused(&self, account: &AcmeAccount, now_ms: i64) -> Option<i64> {
        Some(self.paused_until(&account.name, "", now_ms)).filter(|until| *until > now_ms)
    }

    /// What went wrong at an account, as long as it says something of it.
    pub(super) fn told(&self, account: &AcmeAccount, now_ms: i64) -> Option<&Told> {
        self.blames.told(&account.name, self.paused(account, now_ms).is_some(), now_ms)
    }

    /// Counts a failed validation.
    pub(super) fn validation_failed(&mut self, account: &AcmeAccount, name: &str, now_ms: i64) {
        self.pay(Key::new(&account.name, Limit::Failures, name), account.budgets.failures, now_ms);
    }

    /// Leaves an account alone until then (`scope` its name), or a CA (`scope` its directory), for one name or registered
    /// domain, or with an empty subject for all.
    pub(super) fn pause(&mut self, scope: &str, subject: &str, until_ms: i64, now_ms: i64) {
        let until = until_ms.min(now_ms.saturating_add(longest_pause(subject)));
        let key = Key::new(scope, Limit::Pause, subject);
        // What a clock that went back left there is not kept.
        let before = self.told_until(scope, subject, now_ms);
        self.cells.insert(key.clone(), until.max(before));
        self.changed.push(key);
    }

    /// Ends a pause: what it was for is not so any more.
    pub(super) fn lift(&mut self, scope: &str, subject: &str) {
        let key = Key::new(scope, Limit::Pause, subject);
        if self.cells.remove(&key).is_some() {
            self.changed.push(key);
        }
    }

    /// A CA could not be reached, or is in trouble: its account is left alone, longer each time. Says until when.
    pub(super) fn unreachable(&mut self, account: &str, now_ms: i64) -> i64 {
        let is_paused = self.paused_until(account, "", now_ms) > now_ms;
        self.blames.unreachable(account, is_paused, now_ms)
    }

    /// The cells that changed since the last call, and what they hold now; `None` = nothing that would limit anybody.
    pub(super) fn take_changed(&mut self, now_ms: i64) -> Vec<(Key, Option<i64>)> {
        let mut keys = std::mem::take(&mut self.changed);
        if self.cells.len() >= self.sweep_at {
            let long_ago = now_ms.saturating_sub(millis(SWEPT_AFTER));
            let before = keys.len();
            keys.extend(self.cells.iter().filter(|(_, paid)| **paid < long_ago).map(|(key, _)| key.clone()));
            self.sweep_at = SWEPT_FROM.max(2 * self.cells.len().saturating_sub(keys.len() - before));
        }
        keys.sort();
        keys.dedup();
        let state = |key: Key| {
            let paid = self.cells.get(&key).copied().filter(|paid| *paid > now_ms);
            if paid.is_none() {
                self.cells.remove(&key);
            }
            (key, paid)
        };
        keys.into_iter().map(state).collect()
    }

    /// They could not be written: they are still to be.
    pub(super) fn mark_changed(&mut self, keys: impl IntoIterator<Item = Key>) {
        self.changed.extend(keys);
    }

    /// Until when nothing is asked, because the CA said so, or for the trouble with it.
    pub(super) fn paused_until(&self, scope: &str, subject: &str, now_ms: i64) -> i64 {
        let told = self.told_until(scope, subject, now_ms);
        if subject.is_empty() { told.max(self.blames.until(scope, now_ms)) } else { told }
    }

    /// Until when a CA wants to be left alone.
    fn told_until(&self, scope: &str, subject: &str, now_ms: i64) -> i64 {
        let until = self.cells.get(&Key::new(scope, Limit::Pause, subject)).copied().unwrap_or(i64::MIN);
        // A clock that went back must not lock an account out.
        if until > now_ms.saturating_add(longest_pause(subject)) { i64::MIN } else { until }
    }

    /// From when on the cell has room for one more, beside those that are reserved.
    fn room_at(&self, key: &Key, budget: AcmeBudget, now_ms: i64) -> i64 {
        let window = millis(budget.window);
        let mut paid = self.cells.get(key).copied().unwrap_or(i64::MIN).min(now_ms.saturating_add(window));
        if let Some(reserved) = self.reserved.get(key) {
            paid = paid.max(now_ms).saturating_add(*reserved);
        }
        paid.saturating_sub(window - cost(budget))
    }

    fn pay(&mut self, key: Key, budget: AcmeBudget, now_ms: i64) {
        let most = now_ms.saturating_add(millis(budget.window));
        let cell = self.cells.entry(key.clone()).or_insert(now_ms);
        *cell = (*cell).max(now_ms).saturating_add(cost(budget)).min(most);
        self.changed.push(key);
    }

    fn unpay(&mut self, key: Key, budget: AcmeBudget) {
        if let Some(cell) = self.cells.get_mut(&key) {
            *cell = cell.saturating_sub(cost(budget));
            self.changed.push(key);
        }
    }
}

/// The cells that an order of this kind takes from.
fn costs(account: &AcmeAccount, name: &str, kind: Kind) -> impl Iterator<Item = (Key, AcmeBudget)> {
    let budgets = &account.budgets;
    let of_name = match kind {
        Kind::Replacement => Limit::Replacements,
        Kind::Renewal | Kind::New => Limit::Duplicates,
    };
    let certificate = (Key::new(&account.directory, of_name, name), budgets.duplicates);
    let first = (kind == Kind::New).then(|| {
        [
            (Key::new(&account.name, Limit::NewOrders, ""), budgets.new_orders),
            (Key::new(&account.directory, Limit::Domain, registered_domain(name)), budgets.domain_certificates),
        ]
    });
    std::iter::once(certificate).chain(first.into_iter().flatten())
}

/// The domain that a CA counts a name's certificates under: the public suffix and one label.
pub(super) fn registered_domain(name: &str) -> &str {
    psl::domain_str(name).unwrap_or(name)
}

/// In how many milliseconds one comes back.
pub(super) fn cost(budget: AcmeBudget) -> i64 {
    millis(budget.window) / i64::from(budget.max.max(1))
}

fn longest_pause(subject: &str) -> i64 {
    millis(if subject.is_empty() { ACCOUNT_PAUSE_MAX } else { PAUSE_MAX })
}

pub(super) fn millis(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}

// === impl Key ===

impl Key {
    fn new(scope: &str, limit: Limit, subject: &str) -> Self {
        Self { scope: scope.into(), limit, subject: subject.into() }
    }
}

// === impl Limit ===

impl Limit {
    const ALL: [Self; 6] =
        [Self::NewOrders, Self::Domain, Self::Duplicates, Self::Replacements, Self::Failures, Self::Pause];

    /// As it is written to disk.
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::NewOrders => "new_orders",
            Self::Domain => "domain",
            Self::Duplicates => "duplicates",
            Self::Replacements => "replacements",
            Self::Failures => "failures",
            Self::Pause => "pause",
        }
    }

    /// What is written so.
    pub(super) fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|limit| limit.as_str() == text)
    }
}
