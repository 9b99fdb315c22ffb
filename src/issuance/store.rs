//! Where what a CA issued is kept: `<data_dir>/certs/<name>/<serial>/`, and `live`, a link to the serial that is served.
//!
//! What is not complete lies in `pending/`: the keys, before the CA hears of them, and the chains that came. So a process
//! that is killed in the middle of an order goes on with it, and nothing that is half written is ever served: a serial's
//! folder appears by a rename, and is served by another.

use std::fs;
use std::io::{self, ErrorKind};
use std::path::PathBuf;

use rustix::fs::{Access, access};

use crate::account::ServerName;
use crate::tls::chain::Chain;
use crate::tls::disk::replace;
use crate::tls::keep::{FILES, LIVE, Live, keep, live, make_beside};

/// What is being had.
const PENDING: &str = "pending";

/// The folder of all names.
#[derive(Clone, Debug)]
pub(super) struct Store {
    dir: PathBuf,
}

/// A certificate in the making.
#[derive(Clone, Debug)]
pub(super) struct Stage {
    folder: PathBuf,
}

/// A chain and its key, PEM.
type Pair = [String; 2];

/// One of the two kinds of key that a name may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum KeyKind {
    Ecdsa,
    Rsa,
    /// RSA beside ECDSA.
    RsaTwin,
}

// === impl Store ===

impl Store {
    /// The store in this folder.
    pub(super) fn new(dir: PathBuf) -> Self {
        Self { dir }
    }

    /// What is in the making for a name, as far as it came. It stays as long as the name has something under way.
    pub(super) fn stage(&self, name: &ServerName) -> io::Result<Stage> {
        Ok(Stage { folder: make_beside(&self.dir, name.as_str(), PENDING)? })
    }

    /// Gives up what is in the making.
    pub(super) fn abandon(&self, name: &ServerName) -> io::Result<()> {
        match fs::remove_dir_all(self.dir.join(name.as_str()).join(PENDING)) {
            Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    /// Makes what came the certificate that is served; `serial` is what a chain's folder is called. Of two keys the second
    /// may come later: then the stage is kept. An RSA key that is live, as the first or as the twin, stays beside an ECDSA
    /// one until another takes its place: its clients cannot use anything else. The certificate before stays beside the new
    /// one, older ones go. Says whether it was not live already.
    pub(super) fn publish(
        &self,
        name: &ServerName,
        stage: &Stage,
        complete: bool,
        serial: impl Fn(&str) -> String,
    ) -> io::Result<bool> {
        let came = stage.pairs()?;
        let is_new = loop {
            // An import may put another one in place in between: then it is that which this one takes the place of.
            let live = live(&self.dir, name.as_str())?;
            let before = FILES.map(|files| pair_of(&live, files));
            let [first, twin] = beside(came.clone(), before.clone());
            let Some(first) = first else {
                return Err(io::Error::new(ErrorKind::NotFound, "no certificate came"));
            };
            let serial = serial(&first[0]);
            let after = [Some(first), twin];
            if after == before {
                break false;
            }
            let pairs = FILES.into_iter().zip(after.iter().flatten());
            let contents = pairs.flat_map(|(files, texts)| files.into_iter().zip(texts.iter().map(String::as_bytes)));
            if keep(&self.dir, name.as_str(), &serial, &contents.collect::<Vec<_>>(), &live)? {
                break true;
            }
        };
        if complete {
            self.abandon(name)?;
        }
        Ok(is_new)
    }

    /// The chain that is served under a name, PEM, leaf first.
    pub(super) fn live_chain(&self, name: &ServerName, kind: KeyKind) -> io::Result<Vec<u8>> {
        fs::read(self.live(name).folder.join(kind.chain_file()))
    }

    /// Whether one of the keys that are live is RSA.
    pub(super) fn has_rsa(&self, name: &ServerName) -> io::Result<bool> {
        let [first, twin] = self.live(name).pairs()?;
        Ok(twin.is_some() || first.as_ref().is_some_and(is_rsa))
    }

    /// What the operating system says of a name's files, with the folder that it says it of: that of the name, or, where it
    /// says the same of all names, that of all.
    pub(super) fn told(&self, name: &ServerName, error: &io::Error) -> String {
        let of_name = self.dir.join(name.as_str());
        let is_open = access(&self.dir, Access::WRITE_OK | Access::EXEC_OK).is_ok();
        let is_of_disk = matches!(error.kind(), ErrorKind::StorageFull | ErrorKind::ReadOnlyFilesystem);
        let folder = if is_open && !is_of_disk && of_name.exists() { &of_name } else { &self.dir };
        format!("{}: {error}", folder.display())
    }

    fn live(&self, name: &ServerName) -> Stage {
        Stage { folder: self.dir.join(name.as_str()).join(LIVE) }
    }
}

// === impl Stage ===

impl Stage {
    /// The key, if it was made before.
    pub(super) fn key(&self, kind: KeyKind) -> io::Result<Option<String>> {
        self.read(kind.key_file())
    }

    /// The chain, if it came before.
    pub(super) fn chain(&self, kind: KeyKind) -> io::Result<Option<String>> {
        self.read(kind.chain_file())
    }

    /// Keeps a key, durable when it returns.
    pub(super) fn put_key(&self, kind: KeyKind, pem: &str) -> io::Result<()> {
        self.write(kind.key_file(), pem)
    }

    /// Keeps a chain, durable when it returns.
    pub(super) fn put_chain(&self, kind: KeyKind, pem: &str) -> io::Result<()> {
        self.write(kind.chain_file(), pem)
    }

    /// What of a first pair and its twin is there.
    fn pairs(&self) -> io::Result<[Option<Pair>; 2]> {
        let [first, twin] = FILES;
        Ok([self.pair(first)?, self.pair(twin)?])
    }

    /// A chain and its key, if both are there.
    fn pair(&self, [chain, key]: [&str; 2]) -> io::Result<Option<Pair>> {
        Ok(self.read(chain)?.zip(self.read(key)?).map(|(chain, key)| [chain, key]))
    }

    fn read(&self, file: &str) -> io::Result<Option<String>> {
        match fs::read_to_string(self.folder.join(file)) {
            Ok(text) => Ok(Some(text)),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn write(&self, file: &str, text: &str) -> io::Result<()> {
        replace(&self.folder.join(file), text.as_bytes())
    }
}

/// What is live once a first pair and a twin came, of what was before and of what came.
fn beside([first, twin]: [Option<Pair>; 2], [first_before, twin_before]: [Option<Pair>; 2]) -> [Option<Pair>; 2] {
    let Some(first) = first.or_else(|| first_before.clone()) else { return [None, twin] };
    let rsa_before = || twin_before.or(first_before.filter(is_rsa)).filter(|_| !is_rsa(&first));
    let twin = twin.or_else(rsa_before);
    [Some(first), twin]
}

/// A chain and its key of what is live, if both are there.
fn pair_of(live: &Live, [chain, key]: [&str; 2]) -> Option<Pair> {
    let text = |file| live.get(file).map(|bytes| String::from_utf8_lossy(bytes).into_owned());
    text(chain).zip(text(key)).map(|(chain, key)| [chain, key])
}

fn is_rsa([chain, _]: &Pair) -> bool {
    let leaf = Chain::from_pem(chain.as_bytes()).and_then(|chain| chain.leaf());
    leaf.is_some_and(|leaf| leaf.is_rsa())
}

// === impl KeyKind ===

impl KeyKind {
    fn chain_file(self) -> &'static str {
        let [[chain, _], [twin, _]] = FILES;
        if self == Self::RsaTwin { twin } else { chain }
    }

    fn key_file(self) -> &'static str {
        let [[_, key], [_, twin]] = FILES;
        if self == Self::RsaTwin { twin } else { key }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::os::unix::fs::PermissionsExt;
    use std::path::Path;

    use super::*;
    use crate::tls::testing::Issued;

    fn publish(store: &Store, name: &ServerName, serial: &str) {
        let stage = store.stage(name).unwrap();
        stage.put_key(KeyKind::Ecdsa, "key").unwrap();
        stage.put_chain(KeyKind::Ecdsa, serial).unwrap();
        store.publish(name, &stage, true, str::to_owned).unwrap();
    }

    #[test]
    fn what_is_published_is_live_and_the_one_before_stays() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::new(dir.path().join("certs"));
        let name: ServerName = "a.example".parse().unwrap();
        for serial in ["01", "02", "03"] {
            publish(&store, &name, serial);
            assert_eq!(store.live_chain(&name, KeyKind::Ecdsa).unwrap(), serial.as_bytes());
        }
        let folder = dir.path().join("certs/a.example");
        assert_eq!(fs::read_link(folder.join("live")).unwrap(), Path::new("03"));
        let mut left: Vec<_> = fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        left.sort();
        assert_eq!(left, ["02", "03", "live"]);
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(&folder.join("03/key.pem")), 0o600);
        assert_eq!((mode(&folder.join("03")), mode(&folder)), (0o700, 0o700));
    }

    #[test]
    fn a_twin_that_is_imported_meanwhile_stays() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::new(dir.path().join("certs"));
        let name: ServerName = "a.example".parse().unwrap();
        publish(&store, &name, "01");
        let stage = store.stage(&name).unwrap();
        stage.put_key(KeyKind::Ecdsa, "key").unwrap();
        stage.put_chain(KeyKind::Ecdsa, "02").unwrap();
        let asked = std::cell::Cell::new(0);
        let import = || {
            let before = live(&store.dir, name.as_str()).unwrap();
            let files = FILES.as_flattened().iter().map(|file| (*file, &b"imported"[..]));
            assert!(keep(&store.dir, name.as_str(), "aa", &files.collect::<Vec<_>>(), &before).unwrap());
        };
        // What is put in place has a serial once what is live was looked at.
        let serial = |chain: &str| {
            if asked.replace(asked.get() + 1) == 0 {
                import();
            }
            chain.to_owned()
        };
        assert!(store.publish(&name, &stage, true, serial).unwrap());
        assert_eq!(store.live_chain(&name, KeyKind::Ecdsa).unwrap(), b"02");
        assert_eq!((store.live_chain(&name, KeyKind::RsaTwin).unwrap(), asked.get()), (b"imported".to_vec(), 2));
    }

    #[test]
    fn what_was_killed_in_between_goes_on() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::new(dir.path().to_owned());
        let name: ServerName = "a.example".parse().unwrap();
        let stage = store.stage(&name).unwrap();
        assert_eq!(stage.key(KeyKind::Rsa).unwrap(), None);
        stage.put_key(KeyKind::Rsa, "key").unwrap();
        drop(stage);
        let stage = store.stage(&name).unwrap();
        assert_eq!(stage.key(KeyKind::Rsa).unwrap().as_deref(), Some("key"));
        assert_eq!(stage.chain(KeyKind::Rsa).unwrap(), None);
        stage.put_chain(KeyKind::Rsa, "chain").unwrap();
        store.publish(&name, &stage, true, |_| "01".to_owned()).unwrap();
        assert_eq!(store.live_chain(&name, KeyKind::Rsa).unwrap(), b"chain");
        store.stage(&name).unwrap();
        store.abandon(&name).unwrap();
        store.abandon(&name).unwrap();
        assert!(!dir.path().join("a.example/pending").exists());
    }

    #[test]
    fn the_first_of_two_keys_is_served_beside_the_twin_before_it() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::new(dir.path().to_owned());
        let name: ServerName = "a.example".parse().unwrap();
        let publish = |chains: &[(KeyKind, &str)], complete| {
            let stage = store.stage(&name).unwrap();
            for (kind, chain) in chains {
                stage.put_key(*kind, "key").unwrap();
                stage.put_chain(*kind, chain).unwrap();
            }
            store.publish(&name, &stage, complete, str::to_owned).unwrap()
        };
        let live = |kind| store.live_chain(&name, kind).ok().map(|chain| String::from_utf8(chain).unwrap());
        let folder = || fs::read_link(dir.path().join("a.example/live")).unwrap();
        publish(&[(KeyKind::Ecdsa, "01"), (KeyKind::RsaTwin, "r1")], true);
        assert!(publish(&[(KeyKind::Ecdsa, "02")], false));
        assert_eq!((live(KeyKind::Ecdsa).as_deref(), live(KeyKind::RsaTwin).as_deref()), (Some("02"), Some("r1")));
        // Once more, as after a kill: nothing changes.
        let before = folder();
        assert!(!publish(&[], false));
        assert_eq!(folder(), before);
        publish(&[(KeyKind::RsaTwin, "r2")], true);
        assert_eq!((live(KeyKind::Ecdsa).as_deref(), live(KeyKind::RsaTwin).as_deref()), (Some("02"), Some("r2")));
        assert!(!dir.path().join("a.example/pending").exists());
        publish(&[(KeyKind::Ecdsa, "03")], true);
        assert_eq!(live(KeyKind::RsaTwin).as_deref(), Some("r2"), "its clients can use nothing else");
    }

    #[test]
    fn an_rsa_key_stays_beside_an_ecdsa_one_until_another_takes_its_place() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::new(dir.path().to_owned());
        let name: ServerName = "a.example".parse().unwrap();
        let publish = |kind, issued: &Issued, complete| {
            let stage = store.stage(&name).unwrap();
            stage.put_key(kind, &issued.key).unwrap();
            stage.put_chain(kind, &issued.chain).unwrap();
            store.publish(&name, &stage, complete, |chain| crc32c::crc32c(chain.as_bytes()).to_string()).unwrap();
        };
        let live = |kind| store.live_chain(&name, kind).ok().map(|chain| String::from_utf8(chain).unwrap());
        let (rsa, ecdsa, next) =
            (Issued::rsa(&["a.example"]), Issued::new(&["a.example"]), Issued::rsa(&["a.example"]));
        assert!(!store.has_rsa(&name).unwrap());
        publish(KeyKind::Rsa, &rsa, true);
        assert!(store.has_rsa(&name).unwrap(), "alone");
        publish(KeyKind::Ecdsa, &ecdsa, false);
        assert_eq!((live(KeyKind::Ecdsa), live(KeyKind::RsaTwin)), (Some(ecdsa.chain), Some(rsa.chain)));
        assert!(store.has_rsa(&name).unwrap(), "beside");
        publish(KeyKind::RsaTwin, &next, true);
        assert_eq!(live(KeyKind::RsaTwin), Some(next.chain));
        publish(KeyKind::Rsa, &Issued::rsa(&["a.example"]), true);
        assert_eq!(live(KeyKind::RsaTwin), None, "all clients can use the first");
    }
}
