//! Every server name, what serves it and what is wrong with it.

use std::borrow::Cow;
use std::collections::{BTreeSet, HashMap};
use std::hash::{BuildHasher, RandomState};
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use crate::account::ServerName;
use crate::tls::credential::Credential;
use crate::tls::entry::{Entry, Told};
use crate::tls::folder::{Cold, Folder, Part};
use crate::tls::index::{self, Folders};
use crate::tls::native::Pool;
use crate::tls::places::{CertFolders, Listing, Origin};
use crate::tls::problem::{CertificateFault, CertificateProblem, Summary};

/// Names of one shard on average: what a change of one name copies.
const SHARD_NAMES: usize = 200;
/// Work below this is not worth threads.
const PARALLEL_FROM: usize = 256;

/// The certificate of every name that is served. Immutable; one made from another shares with it all that did not change.
#[derive(Clone)]
pub struct CertStore {
    folders: Arc<CertFolders>,
    shards: Vec<Arc<Shard>>,
    hasher: RandomState,
    /// The wildcards' folders: many names share one.
    wildcards: Arc<Folders>,
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

#[derive(Clone, Default)]
struct Shard {
    names: HashMap<ServerName, Entry>,
    summary: Summary,
}

/// What names are read with.
struct Reader<'a> {
    folders: &'a CertFolders,
    pool: Option<&'a Pool>,
    parsed: AtomicUsize,
}

// === impl CertStore ===

impl CertStore {
    /// Judges the certificates of `names` as of `now` (Unix seconds). What did not change since `previous` was loaded, or
    /// since the index was written where there is no `previous`, is not read again, but judged again. Blocks, on all
    /// cores.
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
        let reader = Reader { folders, pool: pool.as_deref(), parsed: AtomicUsize::new(0) };
        let listing = folders.list();

        let mut wildcards = Folders::default();
        let keys: Vec<_> = wildcard_keys(&names, &listing).into_iter().collect();
        let read = parallel(&keys, |(origin, key)| reader.read(*origin, key, known(*origin, key)));
        for ((origin, key), folder) in keys.iter().zip(read) {
            wildcards.set(*origin, key, folder);
        }
        let entries = parallel(&names, |name| {
            let find = |origin: Origin, key: &str| {
                if origin.is_wildcard() {
                    return wildcards.get(origin, key).cloned();
                }
                listing.has(origin, key).then(|| reader.read(origin, key, known(origin, key)))?
            };
            Entry::judged(name, find, now)
        });
        // Given back before the shards are made, which take their memory.
        drop((kept, listing, keys));
        let mut store = Self {
            folders: Arc::new(folders.clone()),
            shards: Vec::new(),
            hasher: RandomState::new(),
            wildcards: Arc::new(wildcards),
            unkept: previous.map_or_else(Arc::default, |store| store.unkept.clone()),
            pool: pool.clone(),
        };
        store.unkept.fetch_add(reader.parsed.into_inner(), Ordering::Relaxed);
        store.fill(names.into_iter().cloned().zip(entries));
        store
    }

    /// The same store, with these names' files looked at again. Names that it does not have are left out; other names
    /// below a wildcard that changed are judged again too.
    pub fn refreshed(&self, names: &[ServerName], now: i64) -> Self {
        let mut next = self.clone();
        let pool = self.pool.clone();
        let reader = Reader { folders: &self.folders, pool: pool.as_deref(), parsed: AtomicUsize::new(0) };
        let names: BTreeSet<&ServerName> = names.iter().filter(|name| self.entry(name.as_str()).is_some()).collect();
        let changed = next.refresh_wildcards(&names, &reader);
        let mut touched = BTreeSet::new();
        for name in &names {
            let find = |origin: Origin, key: &str| {
                let known = self.folder(origin, key);
                if origin.is_wildcard() {
                    next.wildcards.get(origin, key).cloned()
                } else {
                    reader.read(origin, key, known)
                }
            };
            let entry = Entry::judged(name, find, now);
            touched.insert(next.replace(name, entry));
        }
        if !changed.is_empty() {
            touched.extend(next.rejudge_below(&changed, now));
        }
        for at in touched {
            next.shards.get_mut(at).into_iter().for_each(|shard| Arc::make_mut(shard).sum_up());
        }
        next.unkept.fetch_add(reader.parsed.into_inner(), Ordering::Relaxed);
        next
    }

    /// What serves the name of a handshake, in the form of [`normalise`](crate::tls::normalise).
    pub fn lookup(&self, name: &str) -> Lookup {
        let Some((origin, folder)) = self.entry(name).and_then(Entry::serving) else {
            return Lookup::Unknown;
        };
        if let Some(credential) = folder.credential() {
            return Lookup::Ready(credential.clone());
        }
        let path = origin.key(name).map(|key| self.folders.path(origin, &key)).unwrap_or_default();
        Lookup::Cold(Cold::new(folder.clone(), path, self.pool.clone()))
    }

    /// What is known of a name's certificate; `None` = the name is not served here at all, or there is none for it.
    pub fn state(&self, name: &ServerName) -> Option<CertificateState> {
        let entry = self.entry(name.as_str())?;
        let meant = entry.told.and_then(|told| Some((told.origin, entry.folder(told.origin)?)));
        let (origin, folder) = entry.serving().or(meant)?;
        let facts = folder.facts.as_ref().ok();
        Some(CertificateState {
            not_before: facts.map_or(0, |facts| facts.not_before),
            not_after: facts.map_or(0, |facts| facts.not_after),
            origin,
            folder: origin.key(name.as_str()).map(|key| self.folders.path(origin, &key)).unwrap_or_default(),
            served: entry.serving().is_some(),
            fault: entry.told.map(|told| told.fault),
        })
    }

    /// What is wrong, in no order.
    pub fn problems(&self) -> impl Iterator<Item = CertificateProblem> {
        let flawed = self.shards.iter().filter(|shard| shard.summary.problems > 0);
        let entries = flawed.flat_map(|shard| &shard.names);
        entries.filter_map(|(name, entry)| Some(self.problem(name, entry, entry.told?)))
    }

    /// The names by the state of their certificate.
    pub fn summary(&self) -> Summary {
        let mut all = Summary::default();
        self.shards.iter().for_each(|shard| all.add(&shard.summary));
        all
    }

    /// Writes down what is known, for the next start, if something was parsed since the last time.
    ///
    /// # Errors
    /// When the file cannot be written; the next start parses more then.
    pub fn keep_index(&self) -> io::Result<()> {
        let unkept = self.unkept.swap(0, Ordering::Relaxed);
        if unkept == 0 {
            return Ok(());
        }
        let exact = [Origin::Operator, Origin::Issued];
        let names = self.shards.iter().flat_map(|shard| &shard.names);
        let known = names.flat_map(|(name, entry)| {
            exact.into_iter().filter_map(|origin| Some((origin, name.as_str(), entry.folder(origin)?)))
        });
        let kept = index::write(&self.folders, known.chain(self.wildcards.iter()));
        if kept.is_err() {
            self.unkept.fetch_add(unkept, Ordering::Relaxed);
        }
        kept
    }

    fn fill(&mut self, entries: impl ExactSizeIterator<Item = (ServerName, Entry)>) {
        let shards = (entries.len() / SHARD_NAMES).max(1).next_power_of_two();
        let names = HashMap::with_capacity(entries.len() / shards + SHARD_NAMES / 10);
        let mut filled = vec![Shard { names, summary: Summary::default() }; shards];
        for (name, entry) in entries {
            let at = self.hasher.hash_one(name.as_str()) as usize % shards;
            if let Some(shard) = filled.get_mut(at) {
                shard.names.insert(name, entry);
            }
        }
        for shard in &mut filled {
            shard.names.shrink_to_fit();
            shard.sum_up();
        }
        self.shards = filled.into_iter().map(Arc::new).collect();
    }

    /// Reads the wildcards of names again; the keys of those that changed.
    fn refresh_wildcards(&mut self, names: &BTreeSet<&ServerName>, reader: &Reader<'_>) -> BTreeSet<String> {
        let keys: BTreeSet<_> = names.iter().flat_map(|name| Origin::OperatorWildcard.key(name.as_str())).collect();
        let mut changed = BTreeSet::new();
        for key in &keys {
            for origin in [Origin::OperatorWildcard, Origin::IssuedWildcard] {
                let known = self.wildcards.get(origin, key).cloned();
                let folder = reader.read(origin, key, known.as_ref());
                if folder.as_ref().map(Arc::as_ptr) != known.as_ref().map(Arc::as_ptr) {
                    Arc::make_mut(&mut self.wildcards).set(origin, key, folder);
                    changed.insert(key.to_string());
                }
            }
        }
        changed
    }

    /// Judges all names below wildcards that changed; where they are.
    fn rejudge_below(&mut self, changed: &BTreeSet<String>, now: i64) -> Vec<usize> {
        let below =
            |name: &ServerName| Origin::OperatorWildcard.key(name.as_str()).is_some_and(|key| changed.contains(&*key));
        let names: Vec<_> =
            self.shards.iter().flat_map(|shard| shard.names.keys()).filter(|name| below(name)).cloned().collect();
        let mut touched = Vec::new();
        for name in names {
            let find = |origin: Origin, key: &str| self.folder(origin, key).cloned();
            let entry = Entry::judged(&name, find, now);
            touched.push(self.replace(&name, entry));
        }
        touched
    }

    fn replace(&mut self, name: &ServerName, entry: Entry) -> usize {
        let at = self.shard_of(name.as_str());
        if let Some(shard) = self.shards.get_mut(at) {
            Arc::make_mut(shard).names.insert(name.clone(), entry);
        }
        at
    }

    fn folder(&self, origin: Origin, key: &str) -> Option<&Arc<Folder>> {
        if origin.is_wildcard() { self.wildcards.get(origin, key) } else { self.entry(key)?.folder(origin) }
    }

    fn entry(&self, name: &str) -> Option<&Entry> {
        self.shards.get(self.shard_of(name))?.names.get(name)
    }

    fn shard_of(&self, name: &str) -> usize {
        self.hasher.hash_one(name) as usize % self.shards.len().max(1)
    }

    fn problem(&self, name: &ServerName, entry: &Entry, told: Told) -> CertificateProblem {
        let key = told.origin.key(name.as_str()).unwrap_or(Cow::Borrowed(name.as_str()));
        let folder = entry.folder(told.origin);
        let facts = match told.part {
            Part::Chain | Part::Key => folder.map(|folder| &folder.facts),
            Part::RsaChain | Part::RsaKey => folder.and_then(|folder| folder.twin.as_deref()),
        };
        CertificateProblem {
            name: name.clone(),
            file: self.folders.path(told.origin, &key).join(told.part.file()),
            fault: told.fault,
            not_after: facts.and_then(|facts| facts.as_ref().ok()).map(|facts| facts.not_after),
        }
    }
}

/// The wildcards' folders that are there for some of these names.
fn wildcard_keys(names: &[&ServerName], listing: &Listing) -> BTreeSet<(Origin, String)> {
    let mut keys = BTreeSet::new();
    for name in names {
        for origin in [Origin::OperatorWildcard, Origin::IssuedWildcard] {
            if let Some(key) = origin.key(name.as_str()).filter(|key| listing.has(origin, key)) {
                keys.insert((origin, key.into_owned()));
            }
        }
    }
    keys
}

/// Does work on all cores; the results are in the order of the items.
fn parallel<T: Sync, R: Send>(items: &[T], work: impl Fn(&T) -> R + Sync) -> Vec<R> {
    let threads = thread::available_parallelism().map_or(1, usize::from);
    if items.len() < PARALLEL_FROM || threads == 1 {
        return items.iter().map(work).collect();
    }
    let work = &work;
    thread::scope(|scope| {
        let part = |part| scope.spawn(move || <[T]>::iter(part).map(work).collect::<Vec<_>>());
        let parts: Vec<_> = items.chunks(items.len().div_ceil(threads)).map(part).collect();
        let joined = parts.into_iter().map(|part| part.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)));
        joined.flatten().collect()
    })
}

// === impl Reader ===

impl Reader<'_> {
    fn read(&self, origin: Origin, key: &str, known: Option<&Arc<Folder>>) -> Option<Arc<Folder>> {
        let own = key.strip_prefix('_').map_or(Cow::Borrowed(key), |rest| Cow::Owned(format!("*{rest}")));
        let folder = Folder::read(&self.folders.path(origin, key), &own, known, self.pool)?;
        if !known.is_some_and(|known| Arc::ptr_eq(known, &folder)) {
            self.parsed.fetch_add(1, Ordering::Relaxed);
        }
        Some(folder)
    }
}

// === impl Shard ===

impl Shard {
    fn sum_up(&mut self) {
        let mut summary = Summary::default();
        for entry in self.names.values() {
            let until = entry.serving().and_then(|(_, folder)| Some(folder.facts.as_ref().ok()?.not_after));
            summary.count(until, entry.told.map(|told| told.fault));
        }
        self.summary = summary;
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic)]
    use std::path::Path;

    use proptest::prelude::*;
    use tempfile::TempDir;

    use super::*;
    use crate::tls::credential::CredentialError;
    use crate::tls::testing::Issued;

    /// The first second of 2026.
    const NOW: i64 = 1_767_225_600;
    const YEAR: i64 = 31_557_600;

    /// Both folders, and the store's view of them.
    struct Site {
        _dir: TempDir,
        folders: CertFolders,
    }

    impl Site {
        fn new() -> Self {
            let dir = tempfile::tempdir().unwrap();
            let at = |name: &str| dir.path().join(name);
            let folders =
                CertFolders { certs_dir: at("operator"), issued_dir: at("issued"), index: at("certificates.index") };
            std::fs::create_dir(&folders.certs_dir).unwrap();
            Self { _dir: dir, folders }
        }

        fn operator(&self) -> &Path {
            &self.folders.certs_dir
        }

        /// Puts a serial in place as issuance does.
        fn issue(&self, name: &str, serial: &str, issued: &Issued) {
            let folder = self.folders.issued_dir.join(name);
            issued.write(&folder, serial);
            std::os::unix::fs::symlink(serial, folder.join("live.new")).unwrap();
            std::fs::rename(folder.join("live.new"), folder.join("live")).unwrap();
        }

        fn load(&self, names: &[&str], previous: Option<&CertStore>) -> CertStore {
            CertStore::load(&self.folders, &self::names(names), previous, NOW)
        }

        fn fault_of(&self, name: &str) -> CertificateFault {
            let store = self.load(&[name], None);
            assert!(matches!(store.lookup(name), Lookup::Unknown));
            assert_eq!((store.summary().names(), store.summary().problems), (1, 1));
            let problem = only_problem(&store);
            assert!(problem.to_string().contains(name) && !problem.remedy().is_empty());
            problem.fault
        }
    }

    fn names(names: &[&str]) -> Vec<ServerName> {
        names.iter().map(|name| name.parse().unwrap()).collect()
    }

    fn only_problem(store: &CertStore) -> CertificateProblem {
        let problems: Vec<_> = store.problems().collect();
        assert_eq!(problems.len(), 1, "{problems:?}");
        problems[0].clone()
    }

    /// What a handshake gets, as the acceptor goes about it.
    fn served(store: &CertStore, name: &str) -> Option<Arc<Credential>> {
        match store.lookup(name) {
            Lookup::Ready(credential) => Some(credential),
            Lookup::Cold(cold) => {
                cold.load().ok()?;
                match store.lookup(name) {
                    Lookup::Ready(credential) => Some(credential),
                    _ => panic!("{name} was loaded and is not ready"),
                }
            }
            Lookup::Unknown => None,
        }
    }

    fn until(store: &CertStore, name: &str) -> Option<i64> {
        served(store, name).map(|credential| credential.not_after())
    }

    fn year(year: i32) -> Option<i64> {
        Some(rcgen::date_time_ymd(year, 1, 1).unix_timestamp())
    }

    #[test]
    fn the_exact_folder_comes_before_the_wildcards_and_the_operators_before_the_issued() {
        let site = Site::new();
        Issued::valid(&["a.shop.example"], 2020, 2030).write(site.operator(), "a.shop.example");
        Issued::valid(&["*.shop.example"], 2020, 2040).write(site.operator(), "_.shop.example");
        site.issue("a.shop.example", "1", &Issued::valid(&["a.shop.example"], 2020, 2050));
        site.issue("i.shop.example", "1", &Issued::valid(&["i.shop.example"], 2020, 2060));
        site.issue("_.d.shop.example", "1", &Issued::valid(&["*.d.shop.example"], 2020, 2070));
        let all = ["a.shop.example", "b.shop.example", "i.shop.example", "c.d.shop.example", "c.e.shop.example"];
        let store = site.load(&all, None);
        assert_eq!(all.map(|name| until(&store, name)), [year(2030), year(2040), year(2060), year(2070), None]);
        assert_eq!(until(&store, "e.shop.example"), None, "a name that is not configured");
        assert_eq!(only_problem(&store).file, site.operator().join("c.e.shop.example/chain.pem"));
        let summary = store.summary();
        assert_eq!((summary.valid, summary.missing, summary.names(), summary.first_expiry), (4, 1, 5, year(2030)));
        let origin = |name: &str| store.state(&name.parse().unwrap()).map(|state| state.origin);
        assert_eq!(
            all.map(origin),
            [
                Some(Origin::Operator),
                Some(Origin::OperatorWildcard),
                Some(Origin::Issued),
                Some(Origin::IssuedWildcard),
                None
            ]
        );
    }

    #[test]
    fn what_is_wrong_is_told_and_not_served() {
        let site = Site::new();
        let name = "a.example";
        assert_eq!(site.fault_of(name), CertificateFault::Missing);
        Issued::valid(&[name], 2020, 2025).write(site.operator(), name);
        assert_eq!(site.fault_of(name), CertificateFault::Expired);
        Issued::valid(&[name], 2030, 2040).write(site.operator(), name);
        assert_eq!(site.fault_of(name), CertificateFault::NotYetValid);
        Issued::new(&["b.example"]).write(site.operator(), name);
        assert_eq!(site.fault_of(name), CertificateFault::NameMismatch);
        let key = site.operator().join(name).join("key.pem");
        std::fs::write(&key, Issued::new(&[name]).key).unwrap();
        assert_eq!(site.fault_of(name), CertificateFault::Malformed(CredentialError::KeyMismatch));
        std::fs::remove_file(&key).unwrap();
        assert_eq!(site.fault_of(name), CertificateFault::Missing);
        std::fs::create_dir(&key).unwrap();
        assert!(matches!(site.fault_of(name), CertificateFault::Unreadable(_)));
        std::fs::write(site.operator().join(name).join("chain.pem"), vec![b'A'; 300_000]).unwrap();
        assert_eq!(site.fault_of(name), CertificateFault::Unreadable(io::ErrorKind::FileTooLarge));
    }

    #[test]
    fn a_good_one_stands_in_and_the_problem_is_told_all_the_same() {
        let site = Site::new();
        Issued::valid(&["a.example.org"], 2020, 2025).write(site.operator(), "a.example.org");
        Issued::new(&["*.example.org"]).write(site.operator(), "_.example.org");
        let store = site.load(&["a.example.org"], None);
        assert!(served(&store, "a.example.org").is_some());
        assert_eq!(only_problem(&store).fault, CertificateFault::Expired);
        assert_eq!(store.summary().valid, 1);
        let state = store.state(&"a.example.org".parse().unwrap()).unwrap();
        assert_eq!((state.origin, state.served), (Origin::OperatorWildcard, true));
        assert_eq!(state.fault, Some(CertificateFault::Expired));
    }

    #[test]
    fn an_rsa_twin_is_loaded_beside_and_its_faults_are_told() {
        let site = Site::new();
        let folder = site.operator().join("a.example");
        Issued::new(&["a.example"]).write(site.operator(), "a.example");
        let rsa = Issued::rsa(&["a.example"]);
        std::fs::write(folder.join("chain.rsa.pem"), &rsa.chain).unwrap();
        let store = site.load(&["a.example"], None);
        let problem = only_problem(&store);
        assert_eq!((problem.fault, problem.file), (CertificateFault::Missing, folder.join("key.rsa.pem")));
        assert!(served(&store, "a.example").is_some(), "the first pair is good");
        std::fs::write(folder.join("key.rsa.pem"), &rsa.key).unwrap();
        let store = site.load(&["a.example"], Some(&store));
        assert_eq!(store.problems().count(), 0);
        assert!(served(&store, "a.example").unwrap().has_twin());
        store.keep_index().unwrap();
        let store = site.load(&["a.example"], None);
        assert!(served(&store, "a.example").unwrap().has_twin(), "from the index as well");
        let other = Issued::valid(&["a.example"], 2020, 2025);
        std::fs::write(folder.join("chain.rsa.pem"), &other.chain).unwrap();
        std::fs::write(folder.join("key.rsa.pem"), &other.key).unwrap();
        let store = site.load(&["a.example"], Some(&store));
        assert_eq!(only_problem(&store).fault, CertificateFault::Expired);
    }

    #[test]
    fn only_what_changed_is_read_again_and_what_was_visited_stays_warm() {
        let site = Site::new();
        let all = ["a.example", "b.example", "c.example"];
        all.iter().for_each(|name| Issued::new(&[name]).write(site.operator(), name));
        let first = site.load(&all, None);
        let visited = ["a.example", "b.example"].map(|name| served(&first, name).unwrap());
        Issued::new(&["b.example"]).write(site.operator(), "b.example");
        Issued::new(&["c.example"]).write(site.operator(), "c.example");
        let second = site.load(&all, Some(&first));
        assert_eq!(second.problems().count(), 0);
        let ready = |name: &str| match second.lookup(name) {
            Lookup::Ready(credential) => Some(credential),
            _ => None,
        };
        assert!(Arc::ptr_eq(&visited[0], &ready("a.example").unwrap()));
        assert!(!Arc::ptr_eq(&visited[1], &ready("b.example").unwrap()));
        assert!(ready("c.example").is_none() && served(&second, "c.example").is_some());
    }

    #[test]
    fn a_refresh_copies_one_shard_and_sees_the_switched_link() {
        let site = Site::new();
        let all: Vec<String> = (0..2_000).map(|n| format!("n{n}.example")).collect();
        let all: Vec<&str> = all.iter().map(String::as_str).collect();
        site.issue("n7.example", "1", &Issued::valid(&["n7.example"], 2020, 2030));
        let first = site.load(&all, None);
        assert_eq!(until(&first, "n7.example"), year(2030));
        site.issue("n7.example", "2", &Issued::valid(&["n7.example"], 2020, 2040));
        let second = first.refreshed(&names(&["n7.example", "stranger.example"]), NOW);
        assert_eq!(until(&first, "n7.example"), year(2030), "whoever has the old store is not disturbed");
        assert_eq!(until(&second, "n7.example"), year(2040));
        let copied: Vec<_> = first.shards.iter().zip(&second.shards).filter(|(a, b)| !Arc::ptr_eq(a, b)).collect();
        assert_eq!(copied.len(), 1);
        assert!(copied[0].1.names.len() < 1_000 && first.shards.len() > 4);
        assert_eq!(second.summary(), Summary { first_expiry: year(2040), ..first.summary() });
        assert!(second.state(&"stranger.example".parse().unwrap()).is_none());
        std::fs::remove_file(site.folders.issued_dir.join("n7.example/live")).unwrap();
        let third = second.refreshed(&names(&["n7.example"]), NOW);
        assert!(served(&third, "n7.example").is_none());
        assert_eq!(third.summary().missing, 2_000);
    }

    #[test]
    fn a_wildcard_that_changes_changes_all_names_below_it() {
        let site = Site::new();
        let all = ["a.shop.example", "b.shop.example", "a.b.shop.example"];
        let first = site.load(&all, None);
        assert_eq!(first.summary().missing, 3);
        site.issue("_.shop.example", "1", &Issued::valid(&["*.shop.example"], 2020, 2030));
        let second = first.refreshed(&names(&["a.shop.example"]), NOW);
        assert_eq!(all.map(|name| until(&second, name)), [year(2030), year(2030), None]);
        assert_eq!((second.summary().valid, second.summary().missing), (2, 1));
    }

    #[test]
    fn an_unchanged_file_is_judged_by_the_new_time() {
        let site = Site::new();
        Issued::valid(&["a.example"], 2020, 2027).write(site.operator(), "a.example");
        let first = site.load(&["a.example"], None);
        assert!(served(&first, "a.example").is_some());
        let second = CertStore::load(&site.folders, &names(&["a.example"]), Some(&first), NOW + 2 * YEAR);
        assert!(served(&second, "a.example").is_none());
        assert!(only_problem(&second).to_string().contains("2027-01-01T00:00:00Z"));
        let refreshed = first.refreshed(&names(&["a.example"]), NOW + 2 * YEAR);
        assert_eq!(only_problem(&refreshed).fault, CertificateFault::Expired);
    }

    #[test]
    fn files_that_broke_since_they_were_judged_are_stale() {
        let site = Site::new();
        Issued::new(&["a.example"]).write(site.operator(), "a.example");
        let first = site.load(&["a.example"], None);
        let Lookup::Cold(cold) = first.lookup("a.example") else { panic!("nobody asked yet") };
        std::fs::write(site.operator().join("a.example/chain.pem"), "broken").unwrap();
        assert!(cold.load().is_err());
        let second = first.refreshed(&names(&["a.example"]), NOW);
        assert_eq!(only_problem(&second).fault, CertificateFault::Malformed(CredentialError::Chain));
        assert!(matches!(second.lookup("a.example"), Lookup::Unknown));
        Issued::new(&["a.example"]).write(site.operator(), "a.example");
        assert!(cold.load().is_err(), "a good certificate, but another one");
        assert!(served(&second.refreshed(&names(&["a.example"]), NOW), "a.example").is_some());
    }

    #[test]
    fn a_start_with_the_index_parses_only_what_changed() {
        let site = Site::new();
        let all = ["a.example", "b.example", "c.shop.example"];
        all[..2].iter().for_each(|name| Issued::new(&[name]).write(site.operator(), name));
        site.issue("_.shop.example", "1", &Issued::new(&["*.shop.example"]));
        let parsed = |store: &CertStore| store.unkept.load(Ordering::Relaxed);
        let first = site.load(&all, None);
        assert_eq!(parsed(&first), 3);
        first.keep_index().unwrap();
        assert_eq!(parsed(&site.load(&all, None)), 0);
        Issued::new(&["b.example"]).write(site.operator(), "b.example");
        let third = site.load(&all, None);
        assert_eq!((parsed(&third), third.summary().valid), (1, 3));
        third.keep_index().unwrap();
        let mut damaged = std::fs::read(&site.folders.index).unwrap();
        damaged[60] ^= 1;
        std::fs::write(&site.folders.index, damaged).unwrap();
        let fourth = site.load(&all, None);
        assert_eq!((parsed(&fourth), fourth.summary().valid), (3, 3));
        assert!(all.iter().all(|name| served(&fourth, name).is_some()));
    }

    #[test]
    fn memory_is_flat_over_many_credentials() {
        let issued = Issued::new(&["a.example"]);
        let rounds = |count: usize| {
            for _ in 0..count {
                let pool = Pool::new().map(Arc::new);
                let load = || Credential::parse_in(pool.as_deref(), issued.chain.as_bytes(), issued.key.as_bytes());
                let many: Vec<_> = (0..50).map(|_| load().unwrap()).collect();
                // Certificates may outlive the pool.
                drop(pool);
                drop(many);
            }
        };
        let resident = || {
            let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
            statm.split(' ').nth(1).unwrap().parse::<usize>().unwrap() * 4_096
        };
        rounds(40);
        let before = resident();
        rounds(200);
        // 10,000 credentials of 2 KB each: a leak of one in ten would show.
        let grown = resident().saturating_sub(before);
        assert!(grown < 2_000_000, "{grown} bytes");
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

        /// The store against the rule said in one line, with folders that need no parsing to be told apart.
        #[test]
        fn a_name_is_served_by_its_own_folder_or_by_its_parents_wildcard(
            folders in prop::collection::btree_set("[ab](\\.[ab]){0,2}\\.example|_(\\.[ab]){0,2}\\.example", 0..8),
            asked in "[ab](\\.[ab]){0,2}\\.example",
        ) {
            let site = Site::new();
            for folder in &folders {
                // What is no certificate is told with its file: that says which folder was chosen.
                std::fs::create_dir(site.operator().join(folder)).unwrap();
                for file in ["chain.pem", "key.pem"] {
                    std::fs::write(site.operator().join(folder).join(file), "none").unwrap();
                }
            }
            let store = site.load(&[&asked], None);
            let wildcard = format!("_.{}", asked.split_once('.').unwrap().1);
            let expected = [&asked, &wildcard].into_iter().find(|folder| folders.contains(*folder));
            let problem = only_problem(&store);
            let expected_file = site.operator().join(expected.unwrap_or(&asked)).join("chain.pem");
            prop_assert_eq!(problem.file, expected_file);
            prop_assert_eq!(problem.fault == CertificateFault::Missing, expected.is_none());
        }
    }
}
