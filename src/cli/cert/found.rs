//! What a folder of certificates holds, whatever its files are called, and for which names of the configuration it is.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use super::{count, files::Configured};
use crate::account::ServerName;
use crate::tls::chain::{Bundle, Chain, Pile, rfc3339};

/// Bytes of a file that may hold certificates; a folder of a thousand intermediates is no certificate.
const FILE_BYTES_MAX: u64 = 256 * 1024;
/// What a PEM block begins with.
const PEM: &[u8] = b"-----BEGIN ";
/// What a PEM block of certificates that belong together begins with; there is no key in it.
const PKCS_7: &[u8] = b"-----BEGIN PKCS7-----";
/// Folders in folders: `certificates/<CA>/<name>/` is Caddy's.
const DEPTH_MAX: usize = 3;

/// Everything that was found.
#[derive(Default)]
pub(super) struct Found {
    /// Certificates with their keys, and in which folder or file each is.
    bundles: Vec<(PathBuf, Bundle)>,
    /// What could not be used, and why.
    pub(super) notes: Vec<String>,
    /// What could not be read, and why: nobody knows what is in it.
    pub(super) failed: Vec<String>,
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
            let added = add_file(&mut pile, path);
            self.tell(path, added);
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
                Ok(kind) if kind.is_dir() && depth < DEPTH_MAX => self.read(&path, depth + 1).map(|()| None),
                Ok(kind) if kind.is_file() => add_file(&mut pile, &path),
                Ok(_) => Ok(None),
                Err(error) => Err(error),
            };
            self.tell(&path, read);
        }
        self.take(path, &pile);
        Ok(())
    }

    /// Notes why something was left out, if it was, or could not be read.
    fn tell(&mut self, path: &Path, read: io::Result<Option<String>>) {
        match read {
            Ok(None) => {}
            Ok(Some(reason)) => self.notes.push(format!("{}: left out: {reason}", path.display())),
            Err(error) => self.failed.push(format!("{}: {error}", path.display())),
        }
    }

    /// Takes what one folder or file holds, and says why the rest of it is of no use.
    fn take(&mut self, path: &Path, pile: &Pile) {
        let shown = path.display();
        if pile.encrypted {
            self.notes.push(format!("{shown}: a key has a passphrase; write it without one (openssl pkey)"));
        }
        if pile.damaged {
            self.notes.push(format!("{shown}: a certificate or key in it is damaged: left out"));
        }
        let bundles = pile.bundles();
        let with_key: HashSet<&String> = bundles.iter().flat_map(|bundle| &bundle.facts.names).collect();
        let keyless: Vec<_> = pile.keyless().into_iter().filter(|name| !with_key.contains(name)).collect();
        if !keyless.is_empty() {
            let names = keyless.join(", ");
            self.notes.push(format!(
                "{shown}: the key of the certificate for {names} is not there, or is another one's; name the folder that \
                 holds both (certbot: fullchain.pem and privkey.pem)"
            ));
        }
        match pile.lone_keys() {
            0 if bundles.is_empty() && keyless.is_empty() && !pile.is_empty() => {
                self.notes.push(format!("{shown}: only certificates of CAs, which are for no DNS name: left out"));
            }
            0 => {}
            keys => self.notes.push(format!(
                "{shown}: {} without a certificate: left out; name the folder that holds both",
                count(keys, "key")
            )),
        }
        self.bundles.extend(bundles.into_iter().map(|bundle| (path.to_owned(), bundle)));
    }

    /// One of what [`Found::choose`] chose.
    pub(super) fn bundle(&self, index: usize) -> Option<&Bundle> {
        self.bundles.get(index).map(|(_, bundle)| bundle)
    }

    /// Decides what goes where: for each folder the certificate that is valid longest, of either kind of key.
    pub(super) fn choose(&mut self, names: &Names, now: i64) -> BTreeMap<String, Choice> {
        let mut choices: BTreeMap<String, Choice> = BTreeMap::new();
        // Each that is for names of ours, and one of the folders that it is for.
        let mut ours = Vec::new();
        for (index, (path, bundle)) in self.bundles.iter().enumerate() {
            let facts = &bundle.facts;
            let reason = match facts {
                _ if facts.names.is_empty() => Some("is for no DNS name".to_owned()),
                _ if facts.not_after < now => Some(format!("has expired at {}", rfc3339(facts.not_after))),
                _ if facts.not_before > now => Some(format!("is valid from {}", rfc3339(facts.not_before))),
                _ => None,
            };
            if let Some(reason) = reason {
                self.notes.push(format!("{}: {} {reason}: left out", path.display(), the_certificate(bundle)));
                continue;
            }
            let mut folder_of_ours = None;
            for own in &facts.names {
                let (folder, covered) = names.covered(own);
                // A name that the certificate has itself needs no wildcard.
                let covered = covered
                    .into_iter()
                    .filter(|name| !own.starts_with("*.") || !facts.names.iter().any(|other| other == name.as_str()));
                let covered: Vec<_> = covered.cloned().collect();
                if covered.is_empty() {
                    continue;
                }
                folder_of_ours.get_or_insert_with(|| folder.clone());
                let choice = choices.entry(folder).or_default();
                choice.names.extend(covered);
                let best = choice.best(bundle);
                let before = best.and_then(|before| self.bundles.get(before)).map(|(_, before)| before.facts.not_after);
                if before.is_none_or(|before| before < facts.not_after) {
                    *best = Some(index);
                }
            }
            match folder_of_ours {
                Some(folder) => ours.push((index, folder)),
                None => self.unknown.extend(facts.names.iter().cloned()),
            }
        }
        self.tell_left_out(&mut choices, &ours);
        choices
    }

    /// Says of each certificate that was chosen for no folder which one was.
    fn tell_left_out(&mut self, choices: &mut BTreeMap<String, Choice>, ours: &[(usize, String)]) {
        let chosen: HashSet<usize> = choices.values().flat_map(|choice| [choice.ecdsa, choice.rsa]).flatten().collect();
        for (index, folder) in ours.iter().filter(|(index, _)| !chosen.contains(index)) {
            let Some((path, bundle)) = self.bundles.get(*index) else { continue };
            let better = choices.get_mut(folder).and_then(|choice| *choice.best(bundle));
            let Some((other, better)) = better.and_then(|better| self.bundles.get(better)) else { continue };
            self.notes.push(format!(
                "{}: {} that ends {} is left out: the one in {} ends no earlier, {}",
                path.display(),
                the_certificate(bundle),
                rfc3339(bundle.facts.not_after),
                other.display(),
                rfc3339(better.facts.not_after)
            ));
        }
    }
}

fn the_certificate(bundle: &Bundle) -> String {
    match bundle.facts.names.join(", ") {
        none if none.is_empty() => "the certificate with a key".to_owned(),
        names => format!("the certificate for {names}"),
    }
}

// === impl Choice ===

impl Choice {
    /// The place of the best certificate with a key of this one's kind.
    fn best(&mut self, bundle: &Bundle) -> &mut Option<usize> {
        if bundle.facts.is_rsa() { &mut self.rsa } else { &mut self.ecdsa }
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

/// Adds what a file holds, or says why it is left out: it is too long, or certificates or keys in another format.
fn add_file(pile: &mut Pile, path: &Path) -> io::Result<Option<String>> {
    let mut begin = Vec::new();
    let bytes = std::fs::File::open(path)?.take(FILE_BYTES_MAX + 1).read_to_end(&mut begin)?;
    if u64::try_from(bytes).is_ok_and(|bytes| bytes > FILE_BYTES_MAX) {
        return Ok(Some(format!(
            "it is longer than {} KiB; if certificates are in it, write each, with its key and its issuers, into a file or \
             folder of its own",
            FILE_BYTES_MAX / 1_024
        )));
    }
    if begin.windows(PEM.len()).any(|window| window == PEM) {
        pile.add(&begin);
    }
    Ok(other_format(&begin).map(|(what, command)| {
        format!(
            "it is {what}, and only certificates and keys in PEM are read; write it so (`openssl {command} -in {} -out \
             NEW.pem`)",
            path.display()
        )
    }))
}

/// What certificates and keys are that are not written in PEM one by one, and the command of openssl that writes them so.
fn other_format(bytes: &[u8]) -> Option<(&'static str, &'static str)> {
    if bytes.windows(PKCS_7.len()).any(|window| window == PKCS_7) {
        return Some(("a PKCS #7 file (.p7b)", "pkcs7 -print_certs"));
    }
    // A sequence: its length takes one byte, or says in how many bytes it follows.
    let (length, rest) = bytes.strip_prefix(&[0x30])?.split_first()?;
    let content = rest.get(usize::from(length.saturating_sub(0x80))..)?;
    match content {
        [2, 1, 3, ..] => Some(("a PKCS #12 file (.pfx, .p12), which has a password", "pkcs12 -nodes")),
        // An object identifier of PKCS (RSADSI's arc): signed data.
        [6, 9, 0x2a, 0x86, 0x48, ..] => Some(("a PKCS #7 file (.p7b)", "pkcs7 -print_certs -inform der")),
        [2, 1, 0 | 1, ..] => Some(("a key in DER", "pkey -inform der")),
        _ => Chain::from_der(&[bytes.to_vec()]).map(|_| ("a certificate in DER", "x509 -inform der")),
    }
}
