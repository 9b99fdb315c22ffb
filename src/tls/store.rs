//! Every server name, what serves it and what is wrong with it.

use std::collections::{BTreeSet, HashSet};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::account::ServerName;
use crate::parallel;
use crate::tls::credential::Credential;
use crate::tls::entry::{Entry, Pair, ParentTag, Standing, Told};
use crate::tls::files::{Place, open_folder};
use crate::tls::folder::{Cold, Folder, Means};
use crate::tls::glance::Intermediates;
use crate::tls::index::{self, Folders};
use crate::tls::native::Pool;
use crate::tls::places::{CertFolders, DirectoryProblem, Listing, Origin, parent};
use crate::tls::problem::{CertificateFault, CertificateProblem, Summary};
use crate::tls::shards::{Shard, Shards, wildcard_of};
use crate::tls::wildcards::Wildcards;

/// Folders of one piece of work.
const PIECE: usize = 64;
/// Shards of one piece of work.
const SHARDS_PIECE: usize = 2;

/// The certificate of every name that is served. Immutable; one made from another shares with it all that did not change.
#[derive(Clone)]
pub struct CertStore {
    folders: Arc<CertFolders>,
    names: Shards,
    wildcards: Wildcards,
    directories: Arc<[DirectoryProblem]>,
    pool: Option<Arc<Pool>>,
    /// Folders that were parsed since the index was written, by this store or one that it was made from.
    unkept: Arc<AtomicUsize>,
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
    /// Whether it serves the name now.
    pub served: bool,
    /// What is wrong with the one that should serve the name; another may serve it all the same.
    pub fault: Option<CertificateFault>,
}

/// Reads folders. Their directories are opened once.
struct Reader<'a> {
    folders: &'a CertFolders,
    operator: Option<OwnedFd>,
    issued: Option<OwnedFd>,
    means: Means<'a>,
    parsed: AtomicUsize,
}

// === impl CertStore ===

impl CertStore {
    /// Judges the certificates of `names` as of `now` (Unix seconds). What did not change since `previous` was loaded, or
    /// since the index was written where there is no `previous`, is not read again, but judged again; names of whose
    /// certificates nothing changed are shared with it. Blocks, on all cores.
    pub fn load<'a>(
        folders: &CertFolders,
        names: impl IntoIterator<Item = &'a ServerName>,
        previous: Option<&CertStore>,
        now: i64,
    ) -> Self {
        let names: Vec<&ServerName> = names.into_iter().collect();
        let previous = previous.filter(|store| *store.folders == *folders);
        let kept = if previous.is_none() { index::read(folders) } else { Folders::default() };
        let known = |origin: Origin, key: &str| match previous {
            Some(store) => store.folder(origin, key),
            None => kept.get(origin, key),
        };
        let pool = previous.map_or_else(|| Pool::new().map(Arc::new), |store| store.pool.clone());
        let reader = Reader::new(folders, pool.as_deref(), now);
        let listing = folders.list();
        // What cannot be listed is as it was.
        let find = |origin: Origin, key: &str| match listing.has(origin, key) {
            Some(true) => reader.read(origin, key, known(origin, key)),
            Some(false) => None,
            None => previous.and_then(|store| store.folder(origin, key)).cloned(),
        };

        let mut wildcards = previous.map(|store| store.wildcards.clone()).unwrap_or_default();
        let other_wildcards = find_wildcards(&mut wildcards, &names, &listing, find);
        let before = previous.map(|store| &store.names).filter(|shards| shards.fit(names.len()));
        let empty = before.is_none().then(|| Shards::for_names(names.len()));
        let layout = before.or(empty.as_ref());
        let lots = layout.map(|shards| shards.lay_out(&names)).unwrap_or_default();
        let judge = |name: &ServerName| {
            let exact = [Origin::Operator, Origin::Issued].map(|origin| find(origin, name.as_str()));
            Entry::judged(name, exact, wildcard_of(&wildcards, name), now)
        };
        let shard = |at: usize| {
            let mut lot = lots.get(at).cloned().unwrap_or_default();
            lot.sort_unstable();
            lot.dedup();
            let before = layout.and_then(|shards| shards.all().get(at)).cloned().unwrap_or_default();
            let mut next = before.with_names(&lot, judge);
            if other_wildcards || !Arc::ptr_eq(&next.names, &before.names) || !next.window.has(now) {
                next.sum_up(&wildcards, now);
            }
            next
        };
        let shards = parallel::map(&(0..lots.len()).collect::<Vec<_>>(), SHARDS_PIECE, |at| shard(*at));
        let unkept = previous.map_or_else(Arc::default, |store| store.unkept.clone());
        unkept.fetch_add(reader.parsed.load(Ordering::Relaxed), Ordering::Relaxed);
        Self {
            folders: Arc::new(folders.clone()),
            names: layout.map_or_else(|| Shards::for_names(0), |layout| layout.with(shards)),
            wildcards,
            directories: listing.problems().cloned().collect(),
            pool: pool.clone(),
            unkept,
        }
    }

    /// Whether it is made from these folders.
    pub fn is_of(&self, folders: &CertFolders) -> bool {
        *self.folders == *folders
    }

    /// The same store without the names that are `gone` and with those that are `new`, whose files are looked at; a name
    /// may be both. All others are as they were. Blocks, on all cores.
    pub fn changed(&self, gone: &[ServerName], new: &[ServerName], now: i64) -> Self {
        let new: BTreeSet<&ServerName> = new.iter().collect();
        let gone: BTreeSet<&ServerName> = gone.iter().filter(|name| !new.contains(name)).collect();
        let names = self.names.entries().map(|(name, _)| name);
        if !self.names.fit(names.clone().count() + new.len()) {
            let kept = names.filter(|name| !gone.contains(name) && !new.contains(name));
            return Self::load(&self.folders, kept.chain(new.iter().copied()), Some(self), now);
        }
        let parents = new.iter().filter_map(|name| parent(name.as_str())).collect();
        let mut next = self.looked_at(&new.into_iter().collect::<Vec<_>>(), &parents, now);
        for name in gone {
            let at = next.names.shard_of(name.as_str());
            if let Some(shard) = next.names.shard_mut(at) {
                shard.remove(name);
                shard.sum_up(&next.wildcards, now);
            }
        }
        next
    }

    /// The same store, with the files of all names looked at again. Blocks, on all cores.
    pub fn looked_through(&self, now: i64) -> Self {
        Self::load(&self.folders, self.names.entries().map(|(name, _)| name), Some(self), now)
    }

    /// The same store, with these names' files looked at again. Names that it does not have are left out; other names
    /// below a wildcard that changed are judged again too.
    pub fn refreshed(&self, names: &[ServerName], now: i64) -> Self {
        let names: BTreeSet<&ServerName> =
            names.iter().filter(|name| self.names.get(name.as_str()).is_some()).collect();
        let parents = names.iter().filter_map(|name| parent(name.as_str())).collect();
        self.looked_at(&names.into_iter().collect::<Vec<_>>(), &parents, now)
    }

    /// Whether the passing of time alone makes something to do: see [`CertStore::tended`]. Cheap.
    pub fn is_due(&self, now: i64) -> bool {
        let due = |shard: &Shard| shard.unsettled || !shard.window.has(now);
        !self.wildcards.unsettled().is_empty() || self.names.all().iter().any(due)
    }

    /// The same store as of now: certificates that expired are no longer served, those that became valid are, and what was
    /// read while it was being written is looked at once more.
    pub fn tended(&self, now: i64) -> Self {
        let unsettled = self.names.all().iter().filter(|shard| shard.unsettled).flat_map(|shard| shard.names.iter());
        let names: Vec<_> = unsettled.filter(|(_, entry)| entry.is_unsettled()).map(|(name, _)| name).collect();
        let parents = self.wildcards.unsettled().iter().map(|parent| &**parent).collect();
        let mut next = self.looked_at(&names, &parents, now);
        for at in 0..next.names.all().len() {
            if let Some(shard) = next.names.shard_mut(at).filter(|shard| !shard.window.has(now)) {
                shard.rejudge(|_, _| true, &next.wildcards, now);
                shard.sum_up(&next.wildcards, now);
            }
        }
        next
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
        Lookup::Cold(Cold::new(folder.clone(), path, &own_name(origin, key), self.pool.clone()))
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
            served: served.is_some(),
            fault: entry.told.map(|told| told.fault),
        })
    }

    /// What decides on a name's renewal: cheap, for looks at all names.
    pub fn standing(&self, name: &ServerName) -> Standing {
        self.names.get(name.as_str()).map(Entry::standing).unwrap_or_default()
    }

    /// What is wrong with names' certificates, in no order.
    pub fn problems(&self) -> impl Iterator<Item = CertificateProblem> {
        let flawed = self.names.all().iter().filter(|shard| shard.summary.problems > 0);
        let entries = flawed.flat_map(|shard| shard.names.iter());
        entries.filter_map(|(name, entry)| Some(self.problem(name, entry, entry.told?)))
    }

    /// Directories that could not be listed.
    pub fn directory_problems(&self) -> &[DirectoryProblem] {
        &self.directories
    }

    /// The names by the state of their certificate.
    pub fn summary(&self) -> Summary {
        let mut all = Summary { problems: self.directories.len(), ..Summary::default() };
        self.names.all().iter().for_each(|shard| all.add(&shard.summary));
        all
    }

    /// Writes down what is known, for the next start, if something was parsed since the last time. Not to be done by two
    /// at a time.
    ///
    /// # Errors
    /// When the file cannot be written; the next start parses more then.
    pub fn keep_index(&self) -> io::Result<()> {
        let unkept = self.unkept.swap(0, Ordering::Relaxed);
        if unkept == 0 {
            return Ok(());
        }
        let exact = |(name, entry): (_, _)| of_name(name, entry);
        let known = self.names.entries().flat_map(exact).chain(self.wildcards.iter());
        let kept = index::write(&self.folders, known);
        if kept.is_err() {
            self.unkept.fetch_add(unkept, Ordering::Relaxed);
        }
        kept
    }

    /// The same store, with the files of these names, and of the wildcards for the names below these, looked at again.
    fn looked_at(&self, names: &[&ServerName], parents: &BTreeSet<&str>, now: i64) -> Self {
        let mut next = self.clone();
        let reader = Reader::new(&self.folders, self.pool.as_deref(), now);
        let look = |origin: Origin, key: &str| reader.read_again(origin, key, self.folder(origin, key));
        let mut changed = HashSet::new();
        for origin in [Origin::OperatorWildcard, Origin::IssuedWildcard] {
            for parent in parents {
                if next.wildcards.set(origin, parent, look(origin, parent)) {
                    changed.insert(*parent);
                }
            }
        }
        let wildcards = &next.wildcards;
        let judge = |name: &&ServerName| {
            let exact = [Origin::Operator, Origin::Issued].map(|origin| look(origin, name.as_str()));
            Entry::judged(name, exact, wildcard_of(wildcards, name), now)
        };
        let mut touched = BTreeSet::new();
        for (name, entry) in names.iter().zip(parallel::map(names, PIECE, judge)) {
            let at = next.names.shard_of(name.as_str());
            touched.insert(at);
            if let Some(shard) = next.names.shard_mut(at) {
                shard.put(name, entry);
            }
        }
        if !changed.is_empty() {
            touched.extend(next.rejudge_below(&changed, now));
        }
        for at in touched {
            next.names.shard_mut(at).into_iter().for_each(|shard| shard.sum_up(&next.wildcards, now));
        }
        next.unkept.fetch_add(reader.parsed.load(Ordering::Relaxed), Ordering::Relaxed);
        next
    }

    /// Judges all names below wildcards that changed; where they are.
    fn rejudge_below(&mut self, changed: &HashSet<&str>, now: i64) -> Vec<usize> {
        let tags: BTreeSet<ParentTag> = changed.iter().map(|parent| ParentTag::of(parent)).collect();
        let is_below = |name: &ServerName, entry: &Entry| {
            tags.contains(&entry.parent) && parent(name.as_str()).is_some_and(|parent| changed.contains(parent))
        };
        let mut touched = Vec::new();
        for at in 0..self.names.all().len() {
            let Some(shard) = self.names.shard_mut(at) else { continue };
            if shard.names.iter().any(|(name, entry)| is_below(name, entry)) {
                shard.rejudge(is_below, &self.wildcards, now);
                touched.push(at);
            }
        }
        touched
    }

    fn folder(&self, origin: Origin, key: &str) -> Option<&Arc<Folder>> {
        if origin.is_wildcard() {
            return self.wildcards.folder(origin, key);
        }
        self.names.get(key)?.exact.get(usize::from(origin.is_issued()))?.as_ref()
    }

    fn wildcard(&self, name: &str) -> Option<&Pair> {
        self.wildcards.get(parent(name)?)
    }

    fn problem(&self, name: &ServerName, entry: &Entry, told: Told) -> CertificateProblem {
        let wildcard = self.wildcard(name.as_str());
        let folder = entry.folder(wildcard, told.origin);
        let path = self.folders.path(told.origin, told.origin.key(name.as_str()).unwrap_or_default());
        CertificateProblem {
            name: name.clone(),
            file: path.join(told.part.file()),
            fault: told.fault,
            not_after: folder.and_then(|folder| folder.facts_of(told.part)).map(|facts| facts.not_after),
            served_on: folder.is_some_and(|folder| folder.is_unread(told.part)),
        }
    }
}

fn of_name<'s>(name: &'s ServerName, entry: &'s Entry) -> impl Iterator<Item = (Origin, &'s str, &'s Arc<Folder>)> {
    let folders = [Origin::Operator, Origin::Issued].into_iter().zip(&entry.exact);
    folders.filter_map(|(origin, folder)| Some((origin, name.as_str(), folder.as_ref()?)))
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

/// The DNS name that a folder stands for.
fn own_name(origin: Origin, key: &str) -> String {
    [if origin.is_wildcard() { "*." } else { "" }, key].concat()
}

// === impl Reader ===

impl<'a> Reader<'a> {
    fn new(folders: &'a CertFolders, pool: Option<&'a Pool>, now: i64) -> Self {
        let (operator, issued) = (open_folder(&folders.certs_dir), open_folder(&folders.issued_dir));
        let means = Means { pool, intermediates: Intermediates::default(), now };
        Self { folders, operator, issued, means, parsed: AtomicUsize::new(0) }
    }

    fn read(&self, origin: Origin, key: &str, known: Option<&Arc<Folder>>) -> Option<Arc<Folder>> {
        let above = if origin.is_issued() { &self.issued } else { &self.operator };
        let mut place = match above {
            Some(above) => Place::below(above.as_fd(), origin.folder(key).into_bytes()),
            None => Place::new(self.folders.path(origin, key).as_os_str().as_bytes().to_vec()),
        };
        // What is issued here is put in place whole, and never written to again.
        let folder = Folder::read(&mut place, &own_name(origin, key), origin.is_issued(), known, &self.means)?;
        if !known.is_some_and(|known| Arc::ptr_eq(known, &folder)) {
            self.parsed.fetch_add(1, Ordering::Relaxed);
        }
        Some(folder)
    }

    /// The same, for a folder that may be being replaced: if it is gone, it is looked at once more.
    fn read_again(&self, origin: Origin, key: &str, known: Option<&Arc<Folder>>) -> Option<Arc<Folder>> {
        let was_there = !origin.is_issued() && known.is_some_and(|known| known.settled);
        self.read(origin, key, known).or_else(|| was_there.then(|| Arc::new(Folder::gone())))
    }
}

#[cfg(test)]
mod tests;
