//! How much may still be asked of each CA account. Pure: the time is an argument.
//!
//! Let's Encrypt refills its limits evenly ("300 in 3 hours" is one order each 36 s, up to 300 at once), so each budget
//! is a cell of the generic cell rate algorithm (ITU-T I.371): one number, the time when all that was taken is paid for.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use crate::config::{AcmeAccount, AcmeBudget};

/// A CA that is in trouble, or says so, is left alone for at most this long at a time.
const PAUSE_MAX: Duration = Duration::from_secs(7 * 24 * 60 * 60);
/// First wait after a CA could not be reached; it doubles with each further time.
const TROUBLE_MIN: Duration = Duration::from_secs(5);
/// Longest wait after a CA could not be reached.
const TROUBLE_MAX: Duration = Duration::from_secs(30 * 60);

/// What was taken of every CA account's budgets.
#[derive(Clone, Debug, Default)]
pub(super) struct Budgets {
    cells: HashMap<Key, i64>,
    /// How often in a row a CA could not be reached.
    trouble: HashMap<Arc<str>, u32>,
    /// Why a CA is left alone.
    blamed: HashMap<Arc<str>, Box<str>>,
    /// Cells that changed since they were last written to disk.
    changed: Vec<Key>,
}

/// One cell.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct Key {
    /// The CA account, by its name.
    pub(super) account: Arc<str>,
    /// What is counted.
    pub(super) limit: Limit,
    /// Of what: a name, a registered domain, or nothing.
    pub(super) subject: Box<str>,
}

/// What is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum Limit {
    /// Orders for names without a certificate.
    NewOrders,
    /// Certificates below a registered domain.
    Domain,
    /// Certificates for a name.
    Duplicates,
    /// Failed validations of a name.
    Failures,
    /// Nothing goes until then: the CA said so, or does not answer. With an empty subject for all names.
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
    /// A certificate that the CA wants replaced now or was told of (RFC 9773, 5): free of all limits.
    Replacement,
    /// The same names again: free of the limits of new orders and of the registered domain.
    Renewal,
    /// A name's first certificate.
    New,
}

// === impl Budgets ===

impl Budgets {
    /// The budgets as they were kept on disk.
    pub(super) fn restored(cells: impl IntoIterator<Item = (Key, i64)>) -> Self {
        Self { cells: cells.into_iter().collect(), ..Self::default() }
    }

    /// From when on an order of this kind may begin; not later than `now_ms` = it may begin now.
    pub(super) fn ready_at(&self, account: &AcmeAccount, name: &str, kind: Kind, now_ms: i64) -> i64 {
        self.bound(account, name, kind, now_ms).until_ms
    }

    /// What an order of this kind waits for longest.
    pub(super) fn bound<'a>(&self, account: &AcmeAccount, name: &'a str, kind: Kind, now_ms: i64) -> Bound<'a> {
        let pause = |subject: &'a str| Bound {
            until_ms: self.paused_until(&account.name, subject, now_ms),
            limit: Limit::Pause,
            subject,
        };
        let cell = |limit, subject: &'a str, budget| Bound {
            until_ms: self.room_at(&Key::new(&account.name, limit, subject), budget, now_ms),
            limit,
            subject,
        };
        let (budgets, domain) = (&account.budgets, registered_domain(name));
        let always = [pause(name), cell(Limit::Failures, name, budgets.failures)];
        let again = (kind != Kind::Replacement).then(|| cell(Limit::Duplicates, name, budgets.duplicates));
        let first = (kind == Kind::New).then(|| {
            let orders = cell(Limit::NewOrders, "", budgets.new_orders);
            [orders, cell(Limit::Domain, domain, budgets.domain_certificates), pause(domain)]
        });
        let others = always.into_iter().chain(again).chain(first.into_iter().flatten());
        others.fold(pause(""), |longest, other| if other.until_ms > longest.until_ms { other } else { longest })
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

    /// Takes what an order of this kind costs. It is taken when the order begins, so that orders in flight count too.
    pub(super) fn take(&mut self, account: &AcmeAccount, name: &str, kind: Kind, now_ms: i64) {
        let budgets = &account.budgets;
        if kind != Kind::Replacement {
            self.pay(Key::new(&account.name, Limit::Duplicates, name), budgets.duplicates, now_ms);
        }
        if kind == Kind::New {
            self.pay(Key::new(&account.name, Limit::NewOrders, ""), budgets.new_orders, now_ms);
            self.pay(
                Key::new(&account.name, Limit::Domain, registered_domain(name)),
                budgets.domain_certificates,
                now_ms,
            );
        }
    }

    /// Gives back what counts only if a certificate is issued: the order came to nothing.
    pub(super) fn give_back(&mut self, account: &AcmeAccount, name: &str, kind: Kind) {
        let budgets = &account.budgets;
        if kind != Kind::Replacement {
            self.unpay(Key::new(&account.name, Limit::Duplicates, name), budgets.duplicates);
        }
        if kind == Kind::New {
            self.unpay(Key::new(&account.name, Limit::Domain, registered_domain(name)), budgets.domain_certificates);
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

    /// Notes why an account is left alone, for those who look.
    pub(super) fn blame(&mut self, account: &str, reason: &str) {
        self.blamed.insert(account.into(), reason.into());
    }

    /// What was noted last, unless the account was of use since; nothing is over a restart.
    pub(super) fn blamed(&self, account: &str) -> Option<&str> {
        self.blamed.get(account).map(|reason| &**reason)
    }

    /// Counts a failed validation.
    pub(super) fn validation_failed(&mut self, account: &AcmeAccount, name: &str, now_ms: i64) {
        self.pay(Key::new(&account.name, Limit::Failures, name), account.budgets.failures, now_ms);
    }

    /// Leaves an account alone until then, for one name or registered domain, or with an empty subject for all.
    pub(super) fn pause(&mut self, account: &str, subject: &str, until_ms: i64, now_ms: i64) {
        let until = until_ms.min(now_ms.saturating_add(millis(PAUSE_MAX)));
        let key = Key::new(account, Limit::Pause, subject);
        let cell = self.cells.entry(key.clone()).or_insert(until);
        *cell = until.max(*cell);
        self.changed.push(key);
    }

    /// A CA could not be reached, or is in trouble: it is left alone, longer each time. Says until when.
    pub(super) fn unreachable(&mut self, account: &str, now_ms: i64) -> i64 {
        let trouble = self.trouble.entry(account.into()).or_default();
        let wait = TROUBLE_MIN.saturating_mul(2u32.saturating_pow(*trouble)).min(TROUBLE_MAX);
        // Orders in flight fail together: they are one trouble.
        let until = now_ms.saturating_add(millis(wait));
        if self.cells.get(&Key::new(account, Limit::Pause, "")).is_none_or(|paused| *paused <= now_ms) {
            *self.trouble.entry(account.into()).or_default() += 1;
            self.pause(account, "", until, now_ms);
        }
        until
    }

    /// A CA answers.
    pub(super) fn reached(&mut self, account: &str) {
        self.trouble.remove(account);
        self.blamed.remove(account);
    }

    /// The cells that changed since the last call, and what they hold now; `None` = nothing that would limit anybody.
    pub(super) fn take_changed(&mut self, now_ms: i64) -> Vec<(Key, Option<i64>)> {
        let mut keys = std::mem::take(&mut self.changed);
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

    fn paused_until(&self, account: &str, subject: &str, now_ms: i64) -> i64 {
        let until = self.cells.get(&Key::new(account, Limit::Pause, subject)).copied().unwrap_or(i64::MIN);
        // A clock that went back must not lock an account out.
        if until > now_ms.saturating_add(millis(PAUSE_MAX)) { i64::MIN } else { until }
    }

    /// From when on the cell has room for one more.
    fn room_at(&self, key: &Key, budget: AcmeBudget, now_ms: i64) -> i64 {
        let window = millis(budget.window);
        let paid = self.cells.get(key).copied().unwrap_or(i64::MIN).min(now_ms.saturating_add(window));
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

/// The domain that a CA counts a name's certificates under: the public suffix and one label.
pub(super) fn registered_domain(name: &str) -> &str {
    psl::domain_str(name).unwrap_or(name)
}

/// In how many milliseconds one comes back.
pub(super) fn cost(budget: AcmeBudget) -> i64 {
    millis(budget.window) / i64::from(budget.max.max(1))
}

fn millis(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}

// === impl Key ===

impl Key {
    fn new(account: &str, limit: Limit, subject: &str) -> Self {
        Self { account: account.into(), limit, subject: subject.into() }
    }
}

// === impl Limit ===

impl Limit {
    const ALL: [Self; 5] = [Self::NewOrders, Self::Domain, Self::Duplicates, Self::Failures, Self::Pause];

    /// As it is written to disk.
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::NewOrders => "new_orders",
            Self::Domain => "domain",
            Self::Duplicates => "duplicates",
            Self::Failures => "failures",
            Self::Pause => "pause",
        }
    }

    /// What is written so.
    pub(super) fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|limit| limit.as_str() == text)
    }
}
