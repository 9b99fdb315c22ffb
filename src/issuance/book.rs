//! What is known of all names and budgets: in memory, and durable when it is said to be.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use crate::account::ServerName;
use crate::config::{AcmeAccount, GatewayConfig};
use crate::issuance::budget::{Budgets, Kind};
use crate::issuance::cause;
use crate::issuance::resolver::Silence;
use crate::issuance::schedule::Load;
use crate::issuance::state::NameState;
use crate::issuance::state_file::{Kept, OpenError, StateFile};
use crate::issuance::windows::WINDOWS;

/// The book.
pub(super) struct Book {
    /// Where it is kept.
    pub(super) path: PathBuf,
    /// Held while a transaction is written; always taken before the other.
    file: Mutex<StateFile>,
    memory: Mutex<Memory>,
}

/// What is known now.
#[derive(Default)]
pub(super) struct Memory {
    /// Names of which something is known.
    pub(super) names: HashMap<ServerName, NameState>,
    pub(super) budgets: Budgets,
    /// The accounts at CAs that orders are made with, as they were taken up last.
    accounts: Vec<Arc<AcmeAccount>>,
    /// Names whose DNS was looked at and that are ordered then, be it in spite of what was found.
    pub(super) looked_up: HashMap<ServerName, Look>,
    /// How often in a row the DNS servers of a name did not answer.
    silences: HashMap<ServerName, u32>,
    /// The DNS server that is asked, as it was taken up last; `None` = the system's.
    resolver: Option<SocketAddr>,
    /// How that one is left alone, if it does not answer.
    pub(super) silence: Silence,
    /// Names with something under way: nothing else begins for them.
    busy: HashMap<ServerName, Doing>,
    changed: HashSet<ServerName>,
}

/// A look at a name's DNS.
pub(super) struct Look {
    /// When it was. Unix milliseconds.
    pub(super) at_ms: i64,
    /// On what of the configuration it depended (`cause`): it says nothing of another CA, nor of another *here*.
    pub(super) of: Box<str>,
}

/// What is under way for a name.
pub(super) enum Doing {
    /// An order.
    Order(Bill),
    /// A question after its renewal window.
    Window,
    /// A question after its DNS.
    Dns {
        /// It failed the last time.
        again: bool,
    },
}

/// What an order costs.
pub(super) struct Bill {
    account: Arc<AcmeAccount>,
    /// What is kept for an order that was not sent yet.
    reserved: Option<Kind>,
    /// What was taken, and counts at the CA only if a certificate comes of it.
    paid: Vec<Kind>,
}

// === impl Book ===

impl Book {
    /// Opens what was kept. A file that is damaged is put aside, and the book begins anew: then the second is true.
    pub(super) fn open(path: &Path) -> Result<(Self, bool), OpenError> {
        let (opened, anew) = match StateFile::open(path) {
            Err(OpenError::Damaged(error)) => {
                let aside = put_aside(path)
                    .map_err(|error| OpenError::Unusable(rusqlite::Error::ToSqlConversionFailure(Box::new(error))))?;
                tracing::error!(
                    path = %path.display(), %error, aside,
                    "what was known of certificates' orders is damaged and was put aside; new orders begin slowly"
                );
                (StateFile::open(path)?, true)
            }
            opened => (opened?, false),
        };
        let (file, Kept { names, budgets }) = opened;
        let memory =
            Memory { names: names.into_iter().collect(), budgets: Budgets::restored(budgets), ..Memory::default() };
        Ok((Self { path: path.to_owned(), file: Mutex::new(file), memory: Mutex::new(memory) }, anew))
    }

    /// Looks at it, or changes it.
    pub(super) fn with<T>(&self, look: impl FnOnce(&mut Memory) -> T) -> T {
        look(&mut self.memory.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Makes all changes so far durable. Those that ask at one time share one transaction. An error is told with the file.
    pub(super) async fn keep(self: &Arc<Self>, now_ms: i64) -> Result<(), String> {
        let book = self.clone();
        let kept = tokio::task::spawn_blocking(move || book.write(now_ms)).await;
        kept.map_err(|error| error.to_string())?.map_err(|error| format!("{}: {error}", self.path.display()))
    }

    /// As [`Book::keep`], and blocks meanwhile.
    pub(super) fn write(&self, now_ms: i64) -> rusqlite::Result<()> {
        let mut file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        let (names, budgets) = self.with(|memory| {
            let changed = std::mem::take(&mut memory.changed);
            let state = |name: ServerName| {
                let state = memory.names.get(&name).cloned();
                (name, state)
            };
            (changed.into_iter().map(state).collect::<Vec<_>>(), memory.budgets.take_changed(now_ms))
        });
        let written = file.save(&names, &budgets);
        if written.is_err() {
            self.with(|memory| {
                memory.changed.extend(names.into_iter().map(|(name, _)| name));
                memory.budgets.mark_changed(budgets.into_iter().map(|(key, _)| key));
            });
        }
        written
    }
}

/// Renames a file that cannot be read, with what SQLite keeps beside it, to a name that is free.
fn put_aside(path: &Path) -> io::Result<String> {
    let with = |suffix: &str| {
        let mut name = path.as_os_str().to_owned();
        name.push(suffix);
        name
    };
    let free = (1..).map(|n| format!(".damaged-{n}")).find(|suffix| !Path::new(&with(suffix)).exists());
    let suffix = free.unwrap_or_default();
    fs::rename(path, with(&suffix))?;
    for beside in ["-wal", "-shm"] {
        match fs::rename(with(beside), with(&format!("{suffix}{beside}"))) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    Ok(with(&suffix).to_string_lossy().into_owned())
}

// === impl Memory ===

impl Memory {
    /// The state of a name, to be changed.
    pub(super) fn change(&mut self, name: &ServerName) -> &mut NameState {
        self.changed.insert(name.clone());
        self.names.entry(name.clone()).or_default()
    }

    /// Takes up another configuration. What went wrong at an account that is not as it was, or with another DNS server, says
    /// nothing any more.
    pub(super) fn take_up(&mut self, gateway: &GatewayConfig, now_ms: i64) {
        let config = &gateway.acme;
        let accounts = &config.accounts;
        let before = std::mem::replace(&mut self.accounts, accounts.clone());
        let stays = |name: &str| before.iter().any(|account| account.name == name && accounts.contains(account));
        self.budgets.blames.retain(stays);
        let moved = |account: &&Arc<AcmeAccount>| {
            before.iter().any(|known| known.name == account.name && known.directory != account.directory)
        };
        for account in accounts.iter().filter(moved) {
            // It was another CA that wanted to be left alone.
            ["", WINDOWS].into_iter().for_each(|subject| self.budgets.lift(&account.name, subject));
        }
        if std::mem::replace(&mut self.resolver, config.resolver) != config.resolver {
            self.silence = Silence::default();
        }
        // Made once: many names may have failed.
        let causes = cause::all(gateway);
        let is_past = |state: &NameState| state.failed_with.as_deref().is_some_and(|cause| !causes.contains(cause));
        let past = self.names.iter().filter(|(_, state)| is_past(state));
        let past: Vec<_> = past.map(|(name, _)| name.clone()).collect();
        past.iter().for_each(|name| self.forget_failure(name, accounts, now_ms));
    }

    /// Forgets a name's failure if that depended on what the configuration does not say any more: the name is tried now.
    pub(super) fn outlive(&mut self, name: &ServerName, gateway: &GatewayConfig, now_ms: i64) {
        let cause = self.names.get(name).and_then(|state| state.failed_with.as_deref());
        if cause.is_some_and(|cause| !cause::all(gateway).contains(cause)) {
            self.forget_failure(name, &gateway.acme.accounts, now_ms);
        }
    }

    /// Forgets a name's failure, and how it is left alone for that. What its orders cost stays taken.
    fn forget_failure(&mut self, name: &ServerName, accounts: &[Arc<AcmeAccount>], now_ms: i64) {
        self.silences.remove(name);
        accounts.iter().for_each(|account| self.budgets.lift(&account.name, name.as_str()));
        self.change(name).outlive(now_ms);
    }

    /// Whether something is to be written.
    pub(super) fn is_changed(&self) -> bool {
        !self.changed.is_empty()
    }

    /// Whether something is under way for a name.
    pub(super) fn is_busy(&self, name: &ServerName) -> bool {
        self.busy.contains_key(name)
    }

    /// Whether an order is under way for a name.
    pub(super) fn is_ordered(&self, name: &ServerName) -> bool {
        matches!(self.busy.get(name), Some(Doing::Order(_)))
    }

    /// Names whose DNS is being asked for.
    pub(super) fn looks(&self) -> HashSet<ServerName> {
        let looks = self.busy.iter().filter(|(_, doing)| matches!(doing, Doing::Dns { .. }));
        looks.map(|(name, _)| name.clone()).collect()
    }

    /// What is under way.
    pub(super) fn load(&self) -> Load {
        let mut load = Load::default();
        for doing in self.busy.values() {
            match doing {
                Doing::Order(bill) => load.orders.push(bill.account.name.as_str().into()),
                Doing::Window => load.windows += 1,
                Doing::Dns { again: false } => load.look_ups += 1,
                Doing::Dns { again: true } => load.look_ups_again += 1,
            }
        }
        load
    }

    /// The DNS servers of a name answered, or did not: says how often in a row they did not.
    pub(super) fn dns_answers(&mut self, name: &ServerName, answers: bool) -> u32 {
        if answers {
            self.silences.remove(name);
            return 0;
        }
        let silences = self.silences.entry(name.clone()).or_default();
        *silences = silences.saturating_add(1);
        *silences
    }

    /// Something begins.
    pub(super) fn begin(&mut self, name: ServerName, doing: Doing) {
        self.busy.insert(name, doing);
    }

    /// An order begins; one that will be sent has room kept for it in the budgets.
    pub(super) fn begin_order(&mut self, name: ServerName, account: Arc<AcmeAccount>, reserved: Option<Kind>) {
        if let Some(kind) = reserved {
            self.budgets.reserve(&account, name.as_str(), kind);
        }
        self.begin(name, Doing::Order(Bill { account, reserved, paid: Vec::new() }));
    }

    /// An order is about to be sent.
    pub(super) fn pay(&mut self, name: &ServerName, kind: Kind, now_ms: i64) {
        if let Some(Doing::Order(bill)) = self.busy.get_mut(name) {
            if let Some(reserved) = bill.reserved.take() {
                self.budgets.release(&bill.account, name.as_str(), reserved);
            }
            self.budgets.take(&bill.account, name.as_str(), kind, now_ms);
            bill.paid.push(kind);
        }
    }

    /// A certificate came of what was paid so far.
    pub(super) fn received(&mut self, name: &ServerName) {
        if let Some(Doing::Order(bill)) = self.busy.get_mut(name) {
            bill.paid.clear();
        }
    }

    /// Nothing will come of what was paid since the last certificate.
    pub(super) fn give_back(&mut self, name: &ServerName) {
        if let Some(Doing::Order(bill)) = self.busy.get_mut(name) {
            for kind in bill.paid.drain(..) {
                self.budgets.give_back(&bill.account, name.as_str(), kind);
            }
        }
    }

    /// What was under way ended, however.
    pub(super) fn end(&mut self, name: &ServerName) {
        if let Some(Doing::Order(Bill { account, reserved: Some(kind), .. })) = self.busy.remove(name) {
            self.budgets.release(&account, name.as_str(), kind);
        }
    }

    /// Forgets a name that is not asked for any more.
    pub(super) fn forget(&mut self, name: &ServerName) {
        self.looked_up.remove(name);
        self.silences.remove(name);
        if self.names.remove(name).is_some() {
            self.changed.insert(name.clone());
        }
    }

    /// Forgets all names but those that are asked for.
    pub(super) fn retain(&mut self, wanted: impl Fn(&ServerName) -> bool) {
        let gone: Vec<_> =
            self.names.keys().chain(self.looked_up.keys()).filter(|name| !wanted(name)).cloned().collect();
        gone.iter().for_each(|name| self.forget(name));
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::issuance::tests::{NOW_MS, account};

    #[test]
    fn damage_is_put_aside_and_the_book_begins_anew() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state.sqlite");
        let name: ServerName = "a.example".parse().unwrap();
        for n in 1..3 {
            let text =
                "no database, and long enough to be one; SQLite looks at the first hundred bytes or so of it ........";
            fs::write(&path, text).unwrap();
            let (book, anew) = Book::open(&path).unwrap();
            assert!(anew && book.with(|memory| memory.names.is_empty()));
            assert_eq!(fs::read_to_string(dir.path().join(format!("state.sqlite.damaged-{n}"))).unwrap(), text);
            book.with(|memory| memory.change(&name).failures = 3);
            book.write(NOW_MS).unwrap();
            drop(book);
            let (book, anew) = Book::open(&path).unwrap();
            assert!(!anew && book.with(|memory| memory.names.contains_key(&name)));
        }
    }

    #[test]
    fn what_could_not_be_written_is_written_later() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state.sqlite");
        let (book, _) = Book::open(&path).unwrap();
        let ca = account("a");
        let other = rusqlite::Connection::open(&path).unwrap();
        other
            .execute_batch("CREATE TRIGGER full BEFORE INSERT ON budgets BEGIN SELECT RAISE(ABORT, 'full'); END")
            .unwrap();
        book.with(|memory| memory.budgets.take(&ca, "a.example", Kind::New, NOW_MS));
        assert!(book.write(NOW_MS).is_err());
        other.execute_batch("DROP TRIGGER full").unwrap();
        book.write(NOW_MS).unwrap();
        drop(book);
        let kept = StateFile::open(&path).unwrap().1;
        assert_eq!(kept.budgets.len(), 3);
    }

    #[test]
    fn what_was_reserved_and_not_sent_costs_nothing_and_what_was_issued_is_never_given_back() {
        let (ca, name) = (account("a"), "a.example.com".parse::<ServerName>().unwrap());
        let mut memory = Memory::default();
        let duplicates = |memory: &Memory| {
            let mut budgets = memory.budgets.clone();
            let mut left = 0;
            while budgets.ready_at(&ca, name.as_str(), Kind::Renewal, NOW_MS) <= NOW_MS {
                budgets.take(&ca, name.as_str(), Kind::Renewal, NOW_MS);
                left += 1;
            }
            left
        };
        memory.begin_order(name.clone(), ca.clone(), Some(Kind::New));
        assert_eq!(duplicates(&memory), 4);
        memory.end(&name);
        assert_eq!(duplicates(&memory), 5);
        memory.begin_order(name.clone(), ca.clone(), Some(Kind::New));
        memory.pay(&name, Kind::New, NOW_MS);
        memory.received(&name);
        memory.pay(&name, Kind::Renewal, NOW_MS);
        assert_eq!(duplicates(&memory), 3, "two keys, two orders");
        memory.give_back(&name);
        memory.end(&name);
        assert_eq!(duplicates(&memory), 4, "one of them was issued");
    }
}
