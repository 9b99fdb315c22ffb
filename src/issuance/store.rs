//! Where what a CA issued is kept: `<data_dir>/certs/<name>/<serial>/`, and `live`, a link to the serial that is served.
//!
//! What is not complete lies in `pending/`: the keys, before the CA hears of them, and the chains that came. So a process
//! that is killed in the middle of an order goes on with it, and nothing that is half written is ever served: a serial's
//! folder appears by a rename, and is served by another.

use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use crate::account::ServerName;
use crate::tls::keep::{FILES, LIVE, keep, make_beside};

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
    /// may come later: until then the one that is live stays beside the first, and the stage is kept. The certificate
    /// before stays beside it, older ones go. Says whether it was not live already.
    pub(super) fn publish(
        &self,
        name: &ServerName,
        stage: &Stage,
        complete: bool,
        serial: impl Fn(&str) -> String,
    ) -> io::Result<bool> {
        let live = Stage { folder: self.dir.join(name.as_str()).join(LIVE) };
        let (mut files, mut is_live) = (Vec::new(), true);
        for pair in FILES {
            let mut from = stage.pair(pair)?;
            let before = live.pair(pair)?;
            if from.is_none() && !complete {
                from.clone_from(&before);
            }
            is_live &= from == before;
            files.extend(from.into_iter().flat_map(|texts| pair.into_iter().zip(texts)));
        }
        let Some((_, chain)) = files.first() else {
            return Err(io::Error::new(ErrorKind::NotFound, "no certificate came"));
        };
        if !is_live {
            let contents: Vec<_> = files.iter().map(|(file, text)| (*file, text.as_bytes())).collect();
            keep(&self.dir, name.as_str(), &serial(chain), &contents)?;
        }
        if complete {
            self.abandon(name)?;
        }
        Ok(!is_live)
    }

    /// The chain that is served under a name, PEM, leaf first.
    pub(super) fn live_chain(&self, name: &ServerName, kind: KeyKind) -> io::Result<Vec<u8>> {
        fs::read(self.dir.join(name.as_str()).join(LIVE).join(kind.chain_file()))
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

    /// A chain and its key, if both are there.
    fn pair(&self, [chain, key]: [&str; 2]) -> io::Result<Option<[String; 2]>> {
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
        write_private(&self.folder, file, text.as_bytes())
    }
}

/// Writes a file that only we may read, whole or not at all, durable when it returns.
pub(super) fn write_private(folder: &Path, file: &str, bytes: &[u8]) -> io::Result<()> {
    let part = folder.join(format!("{file}.part"));
    let mut open = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&part)?;
    open.write_all(bytes)?;
    open.sync_all()?;
    fs::rename(&part, folder.join(file))?;
    sync(folder)
}

fn sync(folder: &Path) -> io::Result<()> {
    File::open(folder)?.sync_all()
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

    use super::*;

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
        assert_eq!(live(KeyKind::RsaTwin), None, "no second key is wanted any more");
    }
}
