//! Every server name, what serves it and what is wrong with it. `change` makes one store from another.

mod change;

use std::collections::HashSet;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::account::ServerName;
use crate::parallel;
use crate::tls::credential::Credential;
use crate::tls::entry::{ByOwner, Entry, Standing, Told, Window};
use crate::tls::folder::{Cold, Folder};
use crate::tls::index::{self, Folders};
use crate::tls::native::Pool;
use crate::tls::places::{CertFolders, DirectoryProblem, Identity, Listing, Origin, parent};
use crate::tls::problem::{CertificateProblem, Meanwhile, Summary};
use crate::tls::reader::{Reader, own_name};
use crate::tls::shards::{Shard, Shards, wildcard_of};
use crate::tls::wildcards::Wildcards;

/// Folders of one piece of work.
const PIECE: usize = 64;
/// Seconds after which what could not be read is looked at again.
const AGAIN_AFTER: i64 = 60;
/// Shards of one piece of work.
const SHARDS_PIECE: usize = 2;

/// The certificate of every name that is served. Immutable; one made from another shares with it all that did not change.
#[derive(Clone)]
pub struct CertStore {
    folders: Arc<CertFolders>,
    names: Shards,
    wildcards: Wildcards,
    directories: Arc<[DirectoryProblem]>,
    /// The operator's directory that names are served from; `None` = none is.
    home: Option<Identity>,
    /// That which was there when all of it was looked at; `None` = none was.
    seen: Option<Identity>,
    pool: Option<Arc<Pool>>,
    learnt: Arc<Learnt>,
    /// While it lasts, what could not be read is left alone.
    rest: Window,
    /// What `learnt` came to when this store learnt something last: no other one that did has the same.
    knows: usize,
}

/// What stores that were made from one another, side by side too, learnt of folders.
#[derive(Default)]
struct Learnt {
    /// Folders that were parsed.
    parsed: AtomicUsize,
    /// What the store knew that was written to the index.
    kept: AtomicUsize,
}

/// What a handshake finds for a name.
pub enum Lookup {
    /// Its credential.
    Ready(Arc<Credential>),
    /// It is served, but nobody asked for it yet: its credential is to be loaded, and the name looked up again.
    Cold(Cold),
    /// It is not served.
    Unknown,
}

/// What is known of a name's certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CertificateState {
    /// First second of its validity, Unix time; 0 where it cannot be parsed.
    pub not_before: i64,
    /// Last second of its validity, Unix time; 0 where it cannot be parsed.
    pub not_after: i64,
    /// Whose it is.
    pub origin: Origin,
    /// Where it lies.
    pub folder: PathBuf,
    /// Which of the two pairs there serve the name now: the first, and its RSA twin.
    pub served: [bool; 2],
}

// === impl CertStore ===

impl CertStore {
    /// Judges the certificates of `names` as of `now` (Unix seconds). What did not change since `previous` was loaded, or
    /// since the index was written where there is no `previous`, is not read again, but judged again; names of whose
    /// certificates nothing changed are shared with it. Another `certs_dir` than that of `previous` takes its place unless it
    /// is away. Blocks, on all cores.
    pub fn load<'a>(
        folders: &CertFolders,
        names: impl IntoIterator<Item = &'a ServerName>,
        previous: Option<&CertStore>,
        now: i64,
    ) -> Self {
        let names: Vec<&ServerName> = names.into_iter().collect();
        let previous = previous.filter(|store| store.folders.issued_dir == folders.issued_dir);
        let home = previous.and_then(|store| store.home);
        let kept = if previous.is_none() { index::read(folders) } else { Folders::default() };
        let known = |origin: Origin, key: &str| match previous {
            Some(store) => store.folder(origin, key),
            None => kept.get(origin, key),
        };
        let pool = previous.map_or_else(|| Pool::new().map(Arc::new), |store| store.pool.clone());
        let seen = Identity::of(&folders.certs_dir);
        let reader = Reader::new(folders, home, pool.as_deref(), now);
        let listing = folders.list(home);
        // What cannot be listed is as it was.
        let find = |origin: Origin, key: &str| match listing.has(origin, key) {
            Some(true) => reader.read(origin, key, known(origin, key)),
            Some(false) => None,
            None => previous.and_then(|store| store.folder(origin, key)).cloned(),
        };

        let mut wildcards = previous.map(|store| store.wildcards.clone()).unwrap_or_default();
        let other_wildcards = find_wildcards(&mut wildcards, &names, &listing, find);
        let empty = Shards::for_names(names.len());
        let layout = previous.map(|store| &store.names).filter(|shards| shards.fit(names.len())).unwrap_or(&empty);
        let lots = layout.lay_out(&names);
        let judge = |name: &ServerName| {
            let exact = [Origin::Operator, Origin::Issued].map(|origin| find(origin, name.as_str()));
            Entry::judged(name, reader.candidates(name, exact), wildcard_of(&wildcards, name), now)
        };
        let shard = |at: usize| {
            let mut lot = lots.get(at).cloned().unwrap_or_default();
            lot.sort_unstable();
            lot.dedup();
            let before = layout.all().get(at).cloned().unwrap_or_default();
            let mut next = before.with_names(&lot, judge);
            if other_wildcards || !Arc::ptr_eq(&next.names, &before.names) || !next.window.has(now) {
                next.sum_up(&wildcards, now);
            }
            next
        };
        let shards = parallel::map(&(0..lots.len()).collect::<Vec<_>>(), SHARDS_PIECE, |at| shard(*at));
        let mut store = Self {
            folders: Arc::new(folders.clone()),
            names: layout.with(shards),
            wildcards,
            directories: listing.problems(folders).into(),
            home: home.filter(|_| !listing.has_operators()),
            seen,
            pool: pool.clone(),
            learnt: previous.map_or_else(Arc::default, |store| store.learnt.clone()),
            rest: rest(now),
            knows: previous.map_or(0, |store| store.knows),
        };
        store.learn(&reader);
        store
    }

    /// Whether it is made from these folders.
    pub fn is_of(&self, folders: &CertFolders) -> bool {
        *self.folders == *folders
    }

    /// What serves the name of a handshake, in the form of [`normalise`](crate::tls::normalise).
    pub fn lookup(&self, name: &str) -> Lookup {
        let serving = self.names.get(name).and_then(|entry| {
            // Few are served by a wildcard: for the others none is looked up.
            let wildcard = if entry.is_served_by_wildcard() { self.wildcard(name) } else { None };
            entry.serving(wildcard)
        });
        let Some((origin, folder, served)) = serving else {
            return Lookup::Unknown;
        };
        if let Some(credential) = folder.credential() {
            return Lookup::Ready(credential.only(served));
        }
        let key = origin.key(name).unwrap_or_default();
        let path = self.folders.path(origin, key);
        Lookup::Cold(Cold::new(folder.clone(), path, &own_name(origin, key), self.pool.clone(), served))
    }

    /// What is known of a name's certificate; `None` = the name is not served here at all, or there is none for it.
    pub fn state(&self, name: &ServerName) -> Option<CertificateState> {
        let (entry, wildcard) = (self.names.get(name.as_str())?, self.wildcard(name.as_str()));
        let serving = entry.serving(wildcard).map(|(origin, folder, served)| (origin, folder, Some(served)));
        let meant = entry.told.and_then(|told| Some((told.origin, entry.folder(wildcard, told.origin)?, None)));
        let (origin, folder, served) = serving.or(meant)?;
        let served_first = folder.facts().zip(served.unwrap_or([true; 2])).filter(|(_, served)| *served);
        let facts = served_first.filter_map(|(facts, _)| facts.as_ref().ok()).next();
        Some(CertificateState {
            not_before: facts.map_or(0, |facts| facts.not_before),
            not_after: facts.map_or(0, |facts| facts.not_after),
            origin,
            folder: self.folders.path(origin, origin.key(name.as_str()).unwrap_or_default()),
            served: served.unwrap_or_default(),
        })
    }

    /// What decides on a name's renewal: cheap, for looks at all names.
    pub fn standing(&self, name: &ServerName) -> Standing {
        let Some(entry) = self.names.get(name.as_str()) else { return Standing::default() };
        entry.standing(if entry.is_served_by_wildcard() { self.wildcard(name.as_str()) } else { None })
    }

    /// What is wrong with names' certificates for certain, in no order.
    pub fn problems(&self) -> impl Iterator<Item = CertificateProblem> {
        let flawed = self.names.all().iter().filter(|shard| shard.summary.problems > 0);
        let entries = flawed.flat_map(|shard| shard.names.iter());
        entries.filter_map(|(name, entry)| {
            let told = entry.told.filter(|told| told.fault.is_certain())?;
            Some(self.problem(name, entry, told))
        })
    }

    /// What is wrong with one name's certificate, or may be.
    pub fn problem_of(&self, name: &ServerName) -> Option<CertificateProblem> {
        let entry = self.names.get(name.as_str())?;
        Some(self.problem(name, entry, entry.told?))
    }

    /// The names that `before` served, and that nothing serves since what served them ended, in no order.
    pub fn ended_since(&self, before: &CertStore, now: i64) -> Vec<ServerName> {
        let ended = |name: &ServerName| {
            let entry = before.names.get(name.as_str())?;
            entry.served_until(before.wildcard(name.as_str())).filter(|until| *until < now)
        };
        let known = before.names.all();
        let is_other =
            |at: usize, shard: &Shard| known.get(at).is_none_or(|known| !Arc::ptr_eq(&known.names, &shard.names));
        let shards =
            self.names.all().iter().enumerate().filter(|(at, shard)| is_other(*at, shard)).map(|(_, shard)| shard);
        let unserved = shards.flat_map(|shard| shard.names.iter()).filter(|(_, entry)| !entry.is_served());
        unserved.filter(|(name, _)| ended(name).is_some()).map(|(name, _)| name.clone()).collect()
    }

    /// What is wrong with whole directories.
    pub fn directory_problems(&self) -> &[DirectoryProblem] {
        &self.directories
    }

    /// The names by the state of their certificate.
    pub fn summary(&self) -> Summary {
        let mut all = Summary { problems: self.directories.len(), ..Summary::default() };
        self.names.all().iter().for_each(|shard| all.add(&shard.summary));
        all
    }

    /// Writes down what is known, for the next start, unless it is what was written last. Not to be done by two
    /// at a time.
    ///
    /// # Errors
    /// When the file cannot be written; the next start parses more then.
    pub fn keep_index(&self) -> io::Result<()> {
        if self.learnt.kept.load(Ordering::Relaxed) == self.knows {
            return Ok(());
        }
        let exact = |(name, entry): (_, _)| of_name(name, entry);
        let known = self.names.entries().flat_map(exact).chain(self.wildcards.iter());
        index::write(&self.folders, known)?;
        self.learnt.kept.store(self.knows, Ordering::Relaxed);
        Ok(())
    }

    /// Notes what was read and parsed for it.
    fn learn(&mut self, reader: &Reader<'_>) {
        let is_operators = |(_, entry): (_, &Entry)| matches!(entry.exact, [Some(_), _]);
        let is_any = || {
            self.names.entries().any(is_operators)
                || self.wildcards.iter().any(|(origin, ..)| origin == Origin::OperatorWildcard)
        };
        // Of one of which nothing is left, nothing is missed.
        self.home = reader.home().or(self.home).filter(|_| is_any());
        let parsed = reader.parsed.load(Ordering::Relaxed);
        if parsed > 0 {
            self.knows = self.learnt.parsed.fetch_add(parsed, Ordering::Relaxed) + parsed;
        }
    }

    fn folder(&self, origin: Origin, key: &str) -> Option<&Arc<Folder>> {
        if origin.is_wildcard() {
            return self.wildcards.folder(origin, key);
        }
        self.names.get(key)?.exact.get(usize::from(origin.is_issued()))?.as_ref()
    }

    fn wildcard(&self, name: &str) -> Option<&ByOwner> {
        self.wildcards.get(parent(name)?)
    }

    fn problem(&self, name: &ServerName, entry: &Entry, told: Told) -> CertificateProblem {
        let wildcard = self.wildcard(name.as_str());
        let folder = entry.folder(wildcard, told.origin);
        let path = |origin: Origin| self.folders.path(origin, origin.key(name.as_str()).unwrap_or_default());
        let is_unread = folder.is_some_and(|folder| folder.is_unread(told.part));
        let meanwhile = match entry.serving(wildcard) {
            Some(_) if is_unread && entry.is_served_with(told.origin, told.part) => Meanwhile::Before,
            Some((origin, ..)) => Meanwhile::Other(path(origin)),
            None => Meanwhile::Nothing,
        };
        CertificateProblem {
            name: name.clone(),
            file: path(told.origin).join(told.part.file()),
            origin: told.origin,
            fault: told.fault,
            not_after: folder.and_then(|folder| folder.facts_of(told.part)).map(|facts| facts.not_after),
            meanwhile,
        }
    }
}

fn of_name<'s>(name: &'s ServerName, entry: &'s Entry) -> impl Iterator<Item = (Origin, &'s str, &'s Arc<Folder>)> {
    let folders = [Origin::Operator, Origin::Issued].into_iter().zip(&entry.exact);
    folders.filter_map(|(origin, folder)| Some((origin, name.as_str(), folder.as_ref()?)))
}

/// How long what could not be read is left alone.
fn rest(now: i64) -> Window {
    Window { since: now, until: now.saturating_add(AGAIN_AFTER) }
}

/// Takes up the wildcards' folders that are there for some of these names, and gives up the others; whether that is a
/// change.
fn find_wildcards(
    wildcards: &mut Wildcards,
    names: &[&ServerName],
    listing: &Listing,
    find: impl Fn(Origin, &str) -> Option<Arc<Folder>> + Sync,
) -> bool {
    let origins = [Origin::OperatorWildcard, Origin::IssuedWildcard];
    let known: Vec<Arc<str>> = wildcards.keys().cloned().collect();
    let mut there: HashSet<&str> = origins.into_iter().flat_map(|origin| listing.wildcards(origin)).collect();
    there.extend(known.iter().map(|parent| &**parent));
    if there.is_empty() {
        return false;
    }
    let wanted: HashSet<&str> =
        names.iter().filter_map(|name| parent(name.as_str())).filter(|parent| there.contains(parent)).collect();
    let gone = there.difference(&wanted).map(|parent| (*parent, [None, None])).collect::<Vec<_>>();
    let wanted: Vec<&str> = wanted.into_iter().collect();
    let found = parallel::map(&wanted, PIECE, |parent| (*parent, origins.map(|origin| find(origin, parent))));
    let mut changed = false;
    for (parent, folders) in found.into_iter().chain(gone) {
        for (origin, folder) in origins.into_iter().zip(folders) {
            changed |= wildcards.set(origin, parent, folder);
        }
    }
    changed
}

#[cfg(test)]
mod tests;
