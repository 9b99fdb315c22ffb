//! Issuance: certificates from certificate authorities that speak ACME (RFC 8555), for every name of the configuration.
//!
//! ```text
//! snapshot ─ names ─▶ agenda ─▶ work: order at a CA ▶ store ▶ publish ▶ connect to ourselves and see it
//!                       ▲  ▲                │
//!             budgets ──┘  └── book ◀───────┘   what came of it, durable
//! ```
//!
//! * `names` — the names that are to have a certificate, and what each is served with;
//! * `schedule` — what one name waits for, `survey` — all names in their order, `budget` — how much may still be asked of
//!   each CA, `blame` — which CA accounts are left alone for their trouble, all pure; `agenda` — what is begun next;
//! * `cause` — on what a failure depended, pure;
//! * `work` — one name's way; `order` — one order at a CA; `show` — whether clients see what came; `settle` — what is
//!   learnt, by `trouble`, whose trouble it is, `fault`, what is wrong with an account, and `limited`, of what a CA has had
//!   enough;
//! * `looks`, `windows` — questions that cost nothing: a name's DNS (`dns`, `caa`, through one `resolver`), the renewal window
//!   of its certificate;
//! * `account` — the accounts at the CAs, `directory` — what a CA says to anybody, `transport` — HTTP under both;
//! * `store` — the files of certificates, `prune` — what is left of names that are gone; `book` — what is known of
//!   names (`state`) and budgets, and `state_file` — the same on disk;
//! * `outlook` — the plan played through in time, pure; `waiting` — how many wait in it; `view` and `problems` — what an operator sees;
//! * `run` — the service that runs it all; here — its door.
//!
//! A process that is killed goes on where it was: the keys and the order's URL are on disk before the CA is asked for
//! anything that counts.

mod account;
mod agenda;
mod blame;
mod book;
mod budget;
mod caa;
mod cause;
mod directory;
mod dns;
mod fault;
mod limited;
mod looks;
mod names;
mod order;
mod outlook;
mod problems;
mod prune;
mod resolver;
mod run;
mod schedule;
mod settle;
mod show;
mod state;
mod state_file;
mod store;
mod survey;
#[cfg(test)]
mod tests;
mod transport;
mod trouble;
mod view;
mod waiting;
mod windows;
mod work;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::Notify;

use crate::account::ServerName;
use crate::clock::now_ms;
use crate::config::GatewayConfig;
use crate::issuance::account::Accounts;
use crate::issuance::book::Book;
use crate::issuance::directory::Directories;
use crate::issuance::names::{Names, find};
use crate::issuance::resolver::Resolver;
use crate::issuance::state_file::OpenError;
use crate::issuance::store::Store;
use crate::issuance::waiting::Counted;
use crate::reload::Reloader;
use crate::tls::{Challenges, Origin, OwnConnections, Wanted};

pub use self::dns::{Dns, DnsError, DnsFinding, DnsReport};
pub use self::view::{AccountView, NameView, NextAction};
pub use self::waiting::Waiting;

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
    /// What it kept is of a later version.
    #[error(
        "{path}: it is written in format {format}, which this version does not know; run the version that wrote it"
    )]
    Newer {
        /// The file.
        path: PathBuf,
        /// Its format.
        format: i64,
    },
    /// What it kept cannot be read or written.
    #[error("{path}: {error}")]
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
    /// `certs_dir` has a good certificate for the name, which is served whatever else there is.
    #[error(
        "certs_dir has a certificate for {name}, which is served before any that is ordered; to go over without a gap, keep it served \
         by `pixelgate cert import {folder}`, move that folder away, and then `pixelgate cert reload {name}` and \
         `pixelgate cert issue {name}`"
    )]
    Operators {
        /// The name.
        name: ServerName,
        /// Where the certificate lies.
        folder: PathBuf,
    },
    /// It cannot be written down.
    #[error(
        "the order cannot be written down: {path}: {error}; see that the file belongs to the gateway's user (`chown`) and that the \
         disk has room"
    )]
    State {
        /// The file.
        path: PathBuf,
        /// What SQLite says.
        error: rusqlite::Error,
    },
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
    /// By which the edge knows that it is us who look there.
    pub own: Arc<OwnConnections>,
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
    own: Arc<OwnConnections>,
    observer: Arc<dyn Observer>,
    book: Arc<Book>,
    store: Store,
    /// The folder of `store`.
    certs_dir: PathBuf,
    accounts: Accounts,
    directories: Directories,
    resolver: Resolver,
    /// Names that a person wants ordered now.
    hurried: Mutex<Vec<ServerName>>,
    /// What waits at each account, as it was counted last.
    counted: Mutex<Option<Counted>>,
    woken: Notify,
}

// === impl Issuance ===

impl Issuance {
    /// Opens what was kept in `<data_dir>/acme`.
    ///
    /// # Errors
    /// When the folder or the state in it cannot be used. A state that is damaged is put aside.
    pub fn open(parts: Parts) -> Result<Self, IssuanceError> {
        let dir = parts.data_dir.join("acme");
        private_folder(&dir).map_err(|error| IssuanceError::Folder { path: dir.clone(), error })?;
        let path = dir.join("state.sqlite");
        let (book, anew) = Book::open(&path).map_err(|error| match error {
            OpenError::Newer(format) => IssuanceError::Newer { path, format },
            OpenError::Damaged(error) | OpenError::Unusable(error) => IssuanceError::State { path, error },
        })?;
        if anew {
            let snapshot = parts.reloader.published().load_full();
            let now_ms = now_ms();
            book.with(|memory| {
                snapshot.gateway.acme.accounts.iter().for_each(|account| memory.budgets.use_up(account, now_ms));
            });
            // A kill before the first order must not make it whole again.
            book.write(now_ms).map_err(|error| IssuanceError::State { path: dir.join("state.sqlite"), error })?;
        }
        let certs_dir = parts.data_dir.join("certs");
        Ok(Self {
            shared: Arc::new(Shared {
                reloader: parts.reloader,
                challenges: parts.challenges,
                wanted: parts.wanted,
                edge: parts.edge,
                own: parts.own,
                observer: parts.observer,
                book: Arc::new(book),
                store: Store::new(certs_dir.clone()),
                certs_dir,
                accounts: Accounts::new(dir),
                directories: Directories::default(),
                resolver: Resolver::default(),
                hurried: Mutex::default(),
                counted: Mutex::default(),
                woken: Notify::new(),
            }),
        })
    }

    /// Orders a certificate for a name now, whatever it has, and says how it stands then: a limit may hold the order back, and
    /// a CA that asked to be left alone. One that did not answer is tried again. Said twice it is ordered once. What waits is
    /// withdrawn by taking the name out of the configuration. Blocks until that is written down.
    ///
    /// # Errors
    /// Why nothing will come of it.
    pub fn order_now(&self, name: &ServerName) -> Result<Option<NameView>, Refusal> {
        let snapshot = self.shared.reloader.published().load_full();
        if !snapshot.gateway.acme.enabled {
            return Err(Refusal::Disabled);
        }
        let found = find(&snapshot, name).ok_or(Refusal::UnknownName)?;
        if let Some(own) = snapshot
            .certificates
            .state(name)
            .filter(|state| state.served != [false; 2] && state.origin == Origin::Operator)
        {
            return Err(Refusal::Operators { name: name.clone(), folder: own.folder });
        }
        let under_way = self.shared.book.with(|memory| {
            let state = memory.change(name);
            state.forced = true;
            state.not_before_ms = 0;
            for account in &snapshot.gateway.acme.accounts {
                memory.budgets.blames.lift(&account.name);
                // What failed there may be mended. What the CA itself wants for the name is kept under its directory.
                memory.budgets.lift(&account.name, name.as_str());
            }
            memory.load().orders.len()
        });
        let book = &self.shared.book;
        book.write(now_ms()).map_err(|error| Refusal::State { path: book.path.clone(), error })?;
        // Nobody goes before it: it stands as if it were alone, but for what is under way.
        let mut view = self.views(&snapshot, &[found]).pop();
        let is_full = under_way >= snapshot.gateway.acme.orders_in_flight_max;
        let goes_now = |view: &&mut NameView| view.next != NextAction::Running && view.next_why.is_none();
        if let Some(view) = view.as_mut().filter(|view| is_full && goes_now(view)) {
            let why = "its order waits for one of those under way to end; they are as many as [acme] orders_in_flight_max allows";
            (view.next_at_ms, view.next_why) = (None, Some(why.to_owned()));
        }
        self.shared.hurried.lock().unwrap_or_else(PoisonError::into_inner).push(name.clone());
        self.shared.woken.notify_one();
        Ok(view)
    }

    /// What the CAs of this configuration are called in CAA records, as their directories say (RFC 8555, 7.1.1); empty
    /// where none does or can be asked, or nothing is ordered.
    pub async fn caa_identities(&self) -> Vec<String> {
        let snapshot = self.shared.reloader.published().load_full();
        let acme = &snapshot.gateway.acme;
        let mut identities: Vec<String> = Vec::new();
        for account in acme.accounts.iter().filter(|_| acme.enabled) {
            for identity in self.shared.directories.caa_identities(account, now_ms()).await.iter() {
                if !identities.contains(identity) {
                    identities.push(identity.clone());
                }
            }
        }
        identities
    }
}

// === impl Shared ===

impl Shared {
    /// Takes up another configuration: nothing is kept of names and accounts at CAs that are not in it any more.
    fn take_up(&self, gateway: &GatewayConfig, names: &Names, now_ms: i64) {
        self.book.with(|memory| {
            memory.retain(|name| names.get(name).is_some());
            memory.take_up(gateway, now_ms);
        });
        self.accounts.retain(&gateway.acme.accounts);
        self.directories.retain(&gateway.acme.accounts);
    }
}

/// A folder that only we may enter.
fn private_folder(path: &Path) -> std::io::Result<()> {
    use std::os::unix::fs::DirBuilderExt;
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(path)
}
