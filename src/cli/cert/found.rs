//! What a folder of certificates holds, whatever its files are called, and for which names of the configuration it is.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::io::Read;
use std::path::Path;

use super::files::Configured;
use crate::account::ServerName;
use crate::tls::chain::{Bundle, Pile, rfc3339};

/// Bytes of a file that may hold certificates; a folder of a thousand intermediates is no certificate.
const FILE_BYTES_MAX: u64 = 256 * 1024;
/// What a PEM block begins with.
const PEM: &[u8] = b"-----BEGIN ";
/// Folders in folders: `certificates/<CA>/<name>/` is Caddy's.
const DEPTH_MAX: usize = 3;

/// Everything that was found.
#[derive(Default)]
pub(super) struct Found {
    pub(super) bundles: Vec<Bundle>,
    /// What could not be used, and why.
    pub(super) notes: Vec<String>,
    /// What is written where it can be used, but is not for names of this gateway.
    pub(super) unknown: BTreeSet<String>,
}

/// The names of the configuration, as certificates find them.
pub(super) struct Names {
    all: HashSet<ServerName>,
    /// By what comes after their first label.
    below: HashMap<String, Vec<ServerName>>,
}

/// What is to be put in place for one folder: the best certificate of either kind of key.
#[derive(Default)]
pub(super) struct Choice {
    pub(super) ecdsa: Option<usize>,
    pub(super) rsa: Option<usize>,
    /// Names of the configuration that it is for.
    pub(super) names: BTreeSet<ServerName>,
}

// === impl Found ===

impl Found {
    /// Reads a file, or a folder and those in it.
    pub(super) fn read(&mut self, path: &Path, depth: usize) -> std::io::Result<()> {
        let mut pile = Pile::default();
        if std::fs::metadata(path)?.is_file() {
            add_file(&mut pile, path)?;
            self.take(path, &pile);
            return Ok(());
        }
        let mut entries = std::fs::read_dir(path)?.collect::<Result<Vec<_>, _>>()?;
        entries.sort_by_key(std::fs::DirEntry::file_name);
        for entry in entries {
            let path = entry.path();
            // Of a link that leads nowhere nothing can be said but that.
            let kind = std::fs::metadata(&path);
            let read = match kind {
                Ok(kind) if kind.is_dir() && depth < DEPTH_MAX => self.read(&path, depth + 1),
                Ok(kind) if kind.is_file() => add_file(&mut pile, &path),
                Ok(_) => Ok(()),
                Err(error) => Err(error),
            };
            if let Err(error) = read {
                self.notes.push(format!("{}: {error}", path.display()));
            }
        }
        self.take(path, &pile);
        Ok(())
    }

    /// Takes what one folder or file holds.
    fn take(&mut self, path: &Path, pile: &Pile) {
        let path = path.display();
        if pile.encrypted {
            self.notes.push(format!("{path}: a key has a passphrase; write it without one (openssl pkey)"));
        }
        let bundles = pile.bundles();
        let with_key: HashSet<&String> = bundles.iter().flat_map(|bundle| &bundle.facts.names).collect();
        let keyless: Vec<_> = pile.keyless().into_iter().filter(|name| !with_key.contains(name)).collect();
        if !keyless.is_empty() {
            let names = keyless.join(", ");
            self.notes.push(format!(
                "{path}: the key of the certificate for {names} is not there, or is another one's; name the folder that \
                 holds both (certbot: fullchain.pem and privkey.pem)"
            ));
        }
        self.bundles.extend(bundles);
    }

    /// Decides what goes where: for each folder the certificate that is valid longest, of either kind of key.
    pub(super) fn choose(&mut self, names: &Names, now: i64) -> BTreeMap<String, Choice> {
        let mut choices: BTreeMap<String, Choice> = BTreeMap::new();
        for (index, bundle) in self.bundles.iter().enumerate() {
            let facts = &bundle.facts;
            let shown = facts.names.join(", ");
            if facts.not_after < now {
                self.notes
                    .push(format!("the certificate for {shown} has expired at {}: left out", rfc3339(facts.not_after)));
                continue;
            }
            if facts.not_before > now {
                self.notes
                    .push(format!("the certificate for {shown} is valid from {}: left out", rfc3339(facts.not_before)));
                continue;
            }
            let mut is_ours = false;
            for own in &facts.names {
                let (folder, covered) = names.covered(own);
                // A name that the certificate has itself needs no wildcard.
                let covered = covered
                    .into_iter()
                    .filter(|name| !own.starts_with("*.") || !facts.names.iter().any(|other| other == name.as_str()));
                let covered: Vec<_> = covered.cloned().collect();
                is_ours |= !covered.is_empty();
                if covered.is_empty() {
                    continue;
                }
                let choice = choices.entry(folder).or_default();
                choice.names.extend(covered);
                let best = if facts.is_rsa() { &mut choice.rsa } else { &mut choice.ecdsa };
                let before = best.and_then(|before| self.bundles.get(before)).map(|before| before.facts.not_after);
                if before.is_none_or(|before| before < facts.not_after) {
                    *best = Some(index);
                }
            }
            if !is_ours {
                self.unknown.extend(facts.names.iter().cloned());
            }
        }
        choices
    }
}

// === impl Names ===

impl Names {
    pub(super) fn of(configured: &Configured) -> Self {
        let mut names = Self { all: HashSet::new(), below: HashMap::new() };
        for (name, _) in configured.names() {
            if let Some((_, above)) = name.as_str().split_once('.') {
                names.below.entry(above.to_owned()).or_default().push(name.clone());
            }
            names.all.insert(name);
        }
        names
    }

    /// The names that a certificate with this DNS name is for, and the folder that it goes into.
    fn covered(&self, own: &str) -> (String, Vec<&ServerName>) {
        match own.strip_prefix("*.") {
            Some(above) => (format!("_.{above}"), self.below.get(above).into_iter().flatten().collect()),
            None => (own.to_owned(), self.all.get(own).into_iter().collect()),
        }
    }
}

/// What is longer is passed over, and told if it looks like certificates.
fn add_file(pile: &mut Pile, path: &Path) -> std::io::Result<()> {
    let mut begin = Vec::new();
    let bytes = std::fs::File::open(path)?.take(FILE_BYTES_MAX + 1).read_to_end(&mut begin)?;
    if u64::try_from(bytes).is_ok_and(|bytes| bytes <= FILE_BYTES_MAX) {
        pile.add(&begin);
    } else if begin.windows(PEM.len()).any(|window| window == PEM) {
        let text = format!(
            "left out: it is longer than {} KiB; write each certificate, with its key and its issuers, into a \
                            file or folder of its own",
            FILE_BYTES_MAX / 1_024
        );
        return Err(std::io::Error::other(text));
    }
    Ok(())
}
