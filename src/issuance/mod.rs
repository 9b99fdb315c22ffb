//! Issuance: certificates from certificate authorities that speak ACME (RFC 8555), for every name of the configuration.
//!
//! ```text
//! snapshot ─ names ─▶ schedule ─▶ work: order at a CA ▶ store ▶ publish ▶ connect to ourselves and see it
//!                        ▲  ▲                │
//!              budgets ──┘  └── book ◀───────┘   what came of it, durable
//! ```
//!
//! * `names` — the names that are to have a certificate, and what each is served with;
//! * `schedule` — what to do next, pure; `budget` — how much may still be asked of each CA account, pure;
//! * `work` — one name's way; `dns` — whether it leads here; `order` — one order at a CA; `account` — the accounts there; `transport` — HTTP under it;
//!   `trouble` — whose trouble it is when nothing comes of it;
//! * `store` — the files of certificates; `book`, `state` — what is kept of names and budgets;
//! * `outlook` — the plan played through in time, pure; `view` — what an operator sees;
//! * here — the service that runs it all.
//!
//! A process that is killed goes on where it was: the keys and the order's URL are on disk before the CA is asked for
//! anything that counts.

mod account;
mod book;
mod budget;
mod dns;
mod names;
mod order;
mod outlook;
mod schedule;
mod state;
mod store;
#[cfg(test)]
mod tests;
mod transport;
mod trouble;
mod view;
mod work;

use std::collections::HashSet;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::account::ServerName;
use crate::clock::now_ms;
use crate::issuance::account::Accounts;
use crate::issuance::book::Book;
use crate::issuance::names::{Listed, listed, present};
use crate::issuance::schedule::{Present, Slots, Start, Subject, plan};
use crate::issuance::state::NameState;
use crate::issuance::store::Store;
use crate::issuance::work::Work;
use crate::reload::Reloader;
use crate::snapshot::Snapshot;
use crate::tls::{Challenges, Wanted};

pub use self::dns::{Dns, DnsError, DnsFinding, DnsReport};
pub use self::view::{AccountView, NameView, NextAction};

/// How often the configuration is looked at, and the clock, which may have been set.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);
/// Renewal windows that are asked for at one time.
const LOOKS_MAX: usize = 4;
/// Where a renewal window is asked that nobody's account issued: an imported certificate's.
const FIRST_ACCOUNT: usize = 0;

/// Is told what happens, to count it.
pub trait Observer: Send + Sync {
    /// An order and what came of it: `issued`, `dns`, `validation`, `refused`, `rate_limited`, `unreachable`, `lost`,
    /// `account`, `local`, `not_served`.
    fn ordered(&self, result: &'static str);
}

/// Why issuance cannot work.
#[derive(Debug, thiserror::Error)]
pub enum IssuanceError {
    /// Its folder cannot be made.
    #[error("{path}: {error}")]
    Folder {
        /// Which.
        path: PathBuf,
        /// What the operating system says.
        error: std::io::Error,
    },
    /// What it kept cannot be read.
    #[error("{path}: {error}; restore it from a backup, or move it away to begin anew")]
    State {
        /// The file.
        path: PathBuf,
        /// What SQLite says.
        error: rusqlite::Error,
    },
}

/// Why a certificate is not ordered now.
#[derive(Debug, thiserror::Error)]
pub enum Refusal {
    /// `[acme] enabled` is not set.
    #[error("certificates are not ordered here")]
    Disabled,
    /// The name is in the domains of no active account.
    #[error("the name is in the domains of no active account")]
    UnknownName,
    /// It cannot be written down.
    #[error("the order cannot be written down: {0}")]
    State(#[from] rusqlite::Error),
}

/// What it shares with the other parts.
pub struct Parts {
    /// `[host] data_dir`
    pub data_dir: PathBuf,
    /// Publishes new certificates.
    pub reloader: Arc<Reloader>,
    /// What the edge answers to CAs.
    pub challenges: Arc<Challenges>,
    /// Names that visitors ask for.
    pub wanted: Arc<Wanted>,
    /// Where clients come in, with the ports that the system chose.
    pub edge: Vec<SocketAddr>,
    /// Counts.
    pub observer: Arc<dyn Observer>,
}

/// The service, and the handle to it: a clone is cheap.
#[derive(Clone)]
pub struct Issuance {
    shared: Arc<Shared>,
}

struct Shared {
    reloader: Arc<Reloader>,
    challenges: Arc<Challenges>,
    wanted: Arc<Wanted>,
    edge: Vec<SocketAddr>,
    observer: Arc<dyn Observer>,
    book: Arc<Book>,
    store: Store,
    accounts: Accounts,
    /// Something changed that the next decision depends on.
    woken: Notify,
}

/// The names of one revision of the configuration.
#[derive(Default)]
struct Names {
    revision: u64,
    listed: Vec<Listed>,
}

/// A name with something under way; it is free again when this is dropped, however the work ended.
struct Busy {
    shared: Arc<Shared>,
    name: ServerName,
}

// === impl Issuance ===

impl Issuance {
    /// Opens what was kept in `<data_dir>/acme`.
    ///
    /// # Errors
    /// When the folder or the state in it cannot be used.
    pub fn open(parts: Parts) -> Result<Self, IssuanceError> {
        let dir = parts.data_dir.join("acme");
        private_folder(&dir).map_err(|error| IssuanceError::Folder { path: dir.clone(), error })?;
        let path = dir.join("state.sqlite");
        let book = Book::open(&path).map_err(|error| IssuanceError::State { path, error })?;
        Ok(Self {
            shared: Arc::new(Shared {
                reloader: parts.reloader,
                challenges: parts.challenges,
                wanted: parts.wanted,
                edge: parts.edge,
                observer: parts.observer,
                book: Arc::new(book),
                store: Store::new(parts.data_dir.join("certs")),
                accounts: Accounts::new(dir),
                woken: Notify::new(),
            }),
        })
    }

    /// Orders and renews until told to stop. Orders in flight are broken off then, and go on after the next start.
    pub async fn run(self, stop: CancellationToken) {
        let shared = self.shared;
        let (mut tasks, mut names) = (JoinSet::new(), Names::default());
        let mut next_ms = 0;
        loop {
            let snapshot = shared.reloader.published().load_full();
            let changed = names.follow(&snapshot, &shared.book);
            if changed || next_ms <= now_ms() {
                next_ms = shared.begin(&names, &mut tasks);
            }
            let wait = u64::try_from(next_ms.saturating_sub(now_ms())).unwrap_or_default();
            let deadline = Instant::now() + Duration::from_millis(wait).min(LOOK_INTERVAL);
            tokio::select! {
                () = stop.cancelled() => break,
                Some(ended) = tasks.join_next() => if let Err(error) = ended {
                    tracing::error!(%error, "the work on a certificate broke off");
                },
                () = shared.woken.notified() => next_ms = 0,
                () = shared.wanted.asked() => if shared.ask_for(&names) {
                    next_ms = 0;
                },
                () = tokio::time::sleep_until(deadline) => {}
            }
        }
        tasks.shutdown().await;
    }

    /// Orders a certificate for a name now, whatever it has, and says how it stands then: a limit may hold the order back.
    /// Blocks until that is written down.
    ///
    /// # Errors
    /// Why nothing will come of it.
    pub fn order_now(&self, name: &ServerName) -> Result<Option<NameView>, Refusal> {
        let snapshot = self.shared.reloader.published().load_full();
        if !snapshot.gateway.acme.enabled {
            return Err(Refusal::Disabled);
        }
        let found = listed(&snapshot).into_iter().find(|listed| listed.name == *name).ok_or(Refusal::UnknownName)?;
        self.shared.book.with(|memory| {
            let state = memory.change(name);
            state.forced = true;
            state.not_before_ms = 0;
        });
        self.shared.book.write(now_ms())?;
        // Nobody goes before it: it stands as if it were alone.
        let view = self.views(&snapshot, &[found]).pop();
        self.shared.woken.notify_one();
        Ok(view)
    }
}

// === impl Shared ===

impl Shared {
    /// Begins what is due, and says when to ask again (Unix milliseconds).
    fn begin(self: &Arc<Self>, names: &Names, tasks: &mut JoinSet<()>) -> i64 {
        let (now_ms, nothing) = (now_ms(), NameState::default());
        let begun = self.book.with(|memory| {
            // Only now: a name that is not busy any more is served with what it got, in this snapshot and all later ones.
            let snapshot = self.reloader.published().load_full();
            let config = &snapshot.gateway.acme;
            if !config.enabled {
                return None;
            }
            let (orders, looks) = memory.in_flight();
            let slots = Slots {
                orders: config.orders_in_flight_max.saturating_sub(orders),
                looks: LOOKS_MAX.saturating_sub(looks),
            };
            let mut budgets = std::mem::take(&mut memory.budgets);
            let subjects = names.listed.iter().map(|listed| Subject {
                name: &listed.name,
                rank: listed.rank,
                present: present(&snapshot, &listed.name),
                state: memory.names.get(&listed.name).unwrap_or(&nothing),
                busy: memory.is_busy(&listed.name),
            });
            let plan = plan(subjects, config, &mut budgets, slots, now_ms);
            memory.budgets = budgets;
            let work = |start: Start| {
                let state = memory.names.get(&start.name).unwrap_or(&nothing);
                let begun = state.order.clone().filter(|_| start.resumes);
                (state.failures, begun, start)
            };
            let starts: Vec<_> = plan.orders.into_iter().map(work).collect();
            let issuer = |name: ServerName| {
                let issuer = memory.names.get(&name).and_then(|state| state.issued_by.clone());
                (name, issuer)
            };
            let looks: Vec<_> = plan.looks.into_iter().map(issuer).collect();
            starts.iter().for_each(|(.., start)| memory.begin(start.name.clone(), true));
            looks.iter().for_each(|(name, _)| memory.begin(name.clone(), false));
            Some((snapshot, starts, looks, plan.next_ms))
        });
        let Some((snapshot, starts, looks, next_ms)) = begun else {
            return i64::MAX;
        };
        let config = &snapshot.gateway.acme;
        for (failures, begun, start) in starts {
            let busy = Busy { shared: self.clone(), name: start.name.clone() };
            let work = Work { shared: self.clone(), gateway: snapshot.gateway.clone(), start, failures, begun };
            tasks.spawn(async move {
                work.run().await;
                drop(busy);
            });
        }
        for (name, issuer) in looks {
            let busy = Busy { shared: self.clone(), name: name.clone() };
            let issuer = config.accounts.iter().find(|account| issuer.as_deref() == Some(account.name.as_str()));
            let account = issuer.or(config.accounts.get(FIRST_ACCOUNT)).cloned();
            let (Present::Issued { not_after, .. }, Some(account)) = (present(&snapshot, &name), account) else {
                continue;
            };
            let (shared, interval_max) = (self.clone(), config.renewal_info_interval_max);
            tasks.spawn(async move {
                shared.look(name, not_after, account, interval_max).await;
                drop(busy);
            });
        }
        next_ms.unwrap_or(i64::MAX)
    }

    /// Notes that visitors asked for names, and says whether one of them is news: a flood of handshakes must not make a
    /// plan each.
    fn ask_for(&self, names: &Names) -> bool {
        let asked = self.wanted.take();
        self.book.with(|memory| {
            let news = |name: &ServerName| !memory.names.get(name).is_some_and(|state| state.asked);
            let asked = names.listed.iter().map(|listed| &listed.name).filter(|name| asked.contains(*name));
            let news: Vec<_> = asked.filter(|name| news(name)).cloned().collect();
            news.iter().for_each(|name| memory.change(name).asked = true);
            !news.is_empty()
        })
    }
}

// === impl Names ===

impl Names {
    /// Takes up a newer configuration; says whether there was one.
    fn follow(&mut self, snapshot: &Snapshot, book: &Book) -> bool {
        if self.revision == snapshot.revision {
            return false;
        }
        self.revision = snapshot.revision;
        self.listed = listed(snapshot);
        if snapshot.gateway.acme.enabled {
            let names: HashSet<&ServerName> = self.listed.iter().map(|listed| &listed.name).collect();
            book.with(|memory| memory.retain(|name| names.contains(name)));
        }
        true
    }
}

// === impl Busy ===

impl Drop for Busy {
    fn drop(&mut self) {
        self.shared.book.with(|memory| memory.end(&self.name));
        self.shared.woken.notify_one();
    }
}

/// A folder that only we may enter.
fn private_folder(path: &Path) -> std::io::Result<()> {
    use std::os::unix::fs::DirBuilderExt;
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(path)
}
