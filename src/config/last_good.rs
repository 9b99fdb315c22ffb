//! `<data_dir>/last-good/`: the accounts in force, kept so that a restart with a bad file has them.
//!
//! ```text
//! accounts/<id>.toml     one comment line (where the file was, the programs it named), then its text as it was
//! programs/<sha256>      the filters' programs, each once
//! ```
//!
//! Secrets are not kept: they are read from where they are named, and one that cannot be is only a warning. What is kept
//! is written before it is renamed into place, so a crash leaves the old or the new, and what is torn by worse is not
//! believed: each program must have its digest.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};

use crate::account::AccountId;
use crate::config::disk::{Disk, Files, read_file};
use crate::config::file::FILE_BYTES_MAX;
use crate::config::model::{AccountConfig, Accounts, FilterConfig, FilterProgram};
use crate::config::resolve::{self, Rules, Surroundings};
use crate::config::source::{Candidate, FILES_PIECE};
use crate::parallel;

/// Begins the first line of a kept file; the number is the format's.
const HEADER: &str = "# last good 1: ";
/// Bytes that the first line may add to a file.
const HEADER_BYTES_MAX: u64 = 256 * 1024;
/// Files from which on the whole volume is synced once, instead of each by itself.
const SYNC_VOLUME_FROM: usize = 64;

/// The folder of what is kept.
#[derive(Debug)]
pub struct LastGood {
    accounts_dir: PathBuf,
    programs_dir: PathBuf,
    surroundings: Surroundings,
    known: Mutex<Known>,
}

/// A file that could not be kept.
#[derive(Debug, thiserror::Error)]
#[error("{}: {error}", path.display())]
pub struct KeepError {
    path: PathBuf,
    error: io::Error,
}

/// What is kept as far as this process knows.
#[derive(Debug, Default)]
struct Known {
    /// The accounts that are kept as they are.
    accounts: HashMap<AccountId, Kept>,
    /// The accounts that the folder may hold beside them: it holds nothing else. `None` = nobody looked yet.
    others: Option<BTreeSet<AccountId>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Kept {
    digest: [u8; 32],
    /// Whether it names programs.
    has_programs: bool,
}

/// The first line of a kept file.
#[derive(Debug, Serialize, Deserialize)]
struct Header {
    /// Where the file was; its relative paths begin there.
    file: String,
    /// SHA-256 in hexadecimal of each program that it names, by path.
    programs: BTreeMap<String, String>,
}

/// Files that are written together.
struct Batch<'d> {
    dir: &'d Path,
    names: BTreeSet<String>,
}

// === impl LastGood ===

impl LastGood {
    /// What is kept below a data directory. Nothing is touched until something is asked of it.
    pub fn open(data_dir: &Path) -> Self {
        Self::with(data_dir, Surroundings::of_process())
    }

    /// The same, with an environment of one's own.
    pub fn with(data_dir: &Path, surroundings: Surroundings) -> Self {
        let dir = data_dir.join("last-good");
        let (accounts_dir, programs_dir) = (dir.join("accounts"), dir.join("programs"));
        Self { accounts_dir, programs_dir, surroundings, known: Mutex::default() }
    }

    /// An account as it was last in force; `None` if it is not kept, or what is kept cannot be used any more.
    fn load(&self, id: &AccountId, disk: &Disk) -> Option<Arc<AccountConfig>> {
        let bytes = self.read(id)?;
        let (header, text) = split(&bytes)?;
        let copy = |(path, digest): (&String, &String)| (PathBuf::from(path), self.programs_dir.join(digest));
        let mut files = Files::moved(disk, header.programs.iter().map(copy).collect());
        let file = Path::new(&header.file);
        let (config, _) = resolve::account(id, file, text, Rules::LENIENT, &self.surroundings, &mut files);
        let config = config.filter(|config| programs(config) == header.programs)?;
        Some(Arc::new(config))
    }

    /// The accounts of a reading as they were last in force. One that is kept as its file says is taken from the
    /// reading. Blocks, on all cores.
    pub fn owners(&self, candidates: &BTreeMap<AccountId, Candidate>) -> Accounts {
        if !self.accounts_dir.is_dir() {
            return Accounts::new();
        }
        // Accounts share programs; each is read once.
        let (disk, candidates) = (Disk::new(), candidates.iter().collect::<Vec<_>>());
        let found = parallel::map(&candidates, FILES_PIECE, |(id, candidate)| match candidate {
            Candidate::Good(config) if self.keeps(config) => Some((config.clone(), true)),
            _ => self.load(id, &disk).map(|kept| (kept, false)),
        });
        let mut known = self.known();
        for (config, _) in found.iter().flatten().filter(|(_, as_written)| *as_written) {
            known.accounts.insert(config.id.clone(), Kept::of(config));
        }
        found.into_iter().flatten().map(|(config, _)| (config.id.clone(), config)).collect()
    }

    /// Keeps these accounts. What is kept already is not written again. What is kept of `others`, which have a file too but
    /// are not in force, stays: it may be what such an account falls back to once the reason is gone.
    ///
    /// # Errors
    /// When the folder or a file in it cannot be written; what was kept before is kept still.
    pub fn keep(&self, accounts: &[Arc<AccountConfig>], others: &BTreeSet<AccountId>) -> Result<(), KeepError> {
        let mut known = self.known();
        let is_new = |account: &&Arc<AccountConfig>| known.accounts.get(&account.id) != Some(&Kept::of(account));
        let new: Vec<_> = accounts.iter().filter(is_new).collect();
        if new.is_empty() && known.accounts.len() == accounts.len() && known.others.as_ref() == Some(others) {
            return Ok(());
        }
        for path in [&self.accounts_dir, &self.programs_dir] {
            let made = DirBuilder::new().recursive(true).mode(0o700).create(path);
            made.map_err(|error| KeepError { path: path.clone(), error })?;
        }
        self.write(&new)?;
        self.remove(accounts, others, &new, &known)?;
        let kept = accounts.iter().map(|account| (account.id.clone(), Kept::of(account)));
        *known = Known { accounts: kept.collect(), others: Some(others.clone()) };
        Ok(())
    }

    fn write(&self, accounts: &[&Arc<AccountConfig>]) -> Result<(), KeepError> {
        let mut programs = Batch::new(&self.programs_dir);
        let mut files = Batch::new(&self.accounts_dir);
        for account in accounts {
            for FilterConfig { program, program_digest, .. } in &account.filters {
                programs.add_program(hex::encode(program_digest), program)?;
            }
            if !self.keeps(account) {
                files.add(file_name(&account.id), &kept_bytes(account))?;
            }
        }
        // Programs first: an account that is kept never names one that is not there.
        programs.finish()?;
        files.finish()
    }

    /// Removes what is kept of nobody any more. The folder is looked at once; from then on it is known what it holds.
    fn remove(
        &self,
        accounts: &[Arc<AccountConfig>],
        others: &BTreeSet<AccountId>,
        new: &[&Arc<AccountConfig>],
        known: &Known,
    ) -> Result<(), KeepError> {
        let in_force: HashSet<_> = accounts.iter().map(|account| &account.id).collect();
        let stays = |id: &AccountId| in_force.contains(id) || others.contains(id);
        let Some(others_before) = &known.others else {
            let files = in_force.iter().copied().chain(others).map(file_name).collect();
            remove_all_but(&self.accounts_dir, &files)?;
            return self.remove_programs(accounts, others, &in_force);
        };
        let gone: Vec<_> = known.accounts.keys().chain(others_before).filter(|id| !stays(id)).collect();
        for path in gone.iter().map(|id| self.accounts_dir.join(file_name(id))) {
            match std::fs::remove_file(&path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(KeepError { path, error }),
                _ => {}
            }
        }
        let had_programs = |id: &AccountId| match known.accounts.get(id) {
            Some(kept) => kept.has_programs,
            None => others_before.contains(id),
        };
        let has_programs = |account: &&Arc<AccountConfig>| !account.filters.is_empty();
        if new.iter().any(has_programs) || new.iter().map(|account| &account.id).chain(gone).any(had_programs) {
            self.remove_programs(accounts, others, &in_force)?;
        }
        Ok(())
    }

    fn remove_programs(
        &self,
        accounts: &[Arc<AccountConfig>],
        others: &BTreeSet<AccountId>,
        in_force: &HashSet<&AccountId>,
    ) -> Result<(), KeepError> {
        let filters = accounts.iter().flat_map(|account| &account.filters);
        let mut programs: BTreeSet<_> = filters.map(|filter| hex::encode(filter.program_digest)).collect();
        for bytes in others.iter().filter(|id| !in_force.contains(id)).filter_map(|id| self.read(id)) {
            programs.extend(split(&bytes).into_iter().flat_map(|(header, _)| header.programs.into_values()));
        }
        remove_all_but(&self.programs_dir, &programs)
    }

    /// Whether an account is kept as it is.
    fn keeps(&self, account: &AccountConfig) -> bool {
        self.read(&account.id).is_some_and(|bytes| bytes == kept_bytes(account))
    }

    fn read(&self, id: &AccountId) -> Option<Vec<u8>> {
        read_file(&self.accounts_dir.join(file_name(id)), FILE_BYTES_MAX + HEADER_BYTES_MAX).ok()
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

// === impl Kept ===

impl Kept {
    fn of(account: &AccountConfig) -> Self {
        Self { digest: account.digest, has_programs: !account.filters.is_empty() }
    }
}

fn file_name(id: &AccountId) -> String {
    format!("{id}.toml")
}

/// An account as it is kept.
fn kept_bytes(account: &AccountConfig) -> Vec<u8> {
    let header = Header { file: account.file.to_string_lossy().into_owned(), programs: programs(account) };
    // Texts in a map are always JSON.
    let header = serde_json::to_string(&header).unwrap_or_default();
    format!("{HEADER}{header}\n{}", account.text).into_bytes()
}

/// The first line of what is kept, and the text of the account's file.
fn split(bytes: &[u8]) -> Option<(Header, &[u8])> {
    let newline = bytes.iter().position(|byte| *byte == b'\n')?;
    let (line, text) = bytes.split_at_checked(newline)?;
    let header = serde_json::from_slice(line.strip_prefix(HEADER.as_bytes())?).ok()?;
    Some((header, text.strip_prefix(b"\n")?))
}

/// The programs that an account names, and their digests.
fn programs(account: &AccountConfig) -> BTreeMap<String, String> {
    let program = |filter: &FilterConfig| {
        let (FilterProgram::Component(path, _) | FilterProgram::Script(path, _)) = &filter.program;
        (path.to_string_lossy().into_owned(), hex::encode(filter.program_digest))
    };
    account.filters.iter().map(program).collect()
}

fn remove_all_but(dir: &Path, names: &BTreeSet<String>) -> Result<(), KeepError> {
    let failed = |error| KeepError { path: dir.to_owned(), error };
    for entry in std::fs::read_dir(dir).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        if !entry.file_name().to_str().is_some_and(|name| names.contains(name)) {
            let path = entry.path();
            std::fs::remove_file(&path).map_err(|error| KeepError { path, error })?;
        }
    }
    Ok(())
}

// === impl Batch ===

impl<'d> Batch<'d> {
    fn new(dir: &'d Path) -> Self {
        Self { dir, names: BTreeSet::new() }
    }

    /// Writes a program under its digest, unless it is there.
    fn add_program(&mut self, digest: String, program: &FilterProgram) -> Result<(), KeepError> {
        let bytes = match program {
            FilterProgram::Component(_, bytes) => bytes,
            FilterProgram::Script(_, text) => text.as_bytes(),
        };
        let there = std::fs::metadata(self.dir.join(&digest)).is_ok_and(|there| there.len() == bytes.len() as u64);
        if there || self.names.contains(&digest) { Ok(()) } else { self.add(digest, bytes) }
    }

    /// Writes a file beside its place.
    fn add(&mut self, name: String, bytes: &[u8]) -> Result<(), KeepError> {
        let path = self.beside(&name);
        let opened = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&path);
        opened.and_then(|mut file| file.write_all(bytes)).map_err(|error| KeepError { path, error })?;
        self.names.insert(name);
        Ok(())
    }

    /// Makes what was written durable, and then puts it into place.
    fn finish(self) -> Result<(), KeepError> {
        let failed = |path: &Path, error| KeepError { path: path.to_owned(), error };
        if self.names.is_empty() {
            return Ok(());
        }
        let dir = File::open(self.dir).map_err(|error| failed(self.dir, error))?;
        if self.names.len() < SYNC_VOLUME_FROM {
            for name in &self.names {
                let path = self.beside(name);
                File::open(&path).and_then(|file| file.sync_all()).map_err(|error| failed(&path, error))?;
            }
        } else {
            rustix::fs::syncfs(&dir).map_err(|error| failed(self.dir, error.into()))?;
        }
        for name in &self.names {
            let path = self.dir.join(name);
            std::fs::rename(self.beside(name), &path).map_err(|error| failed(&path, error))?;
        }
        dir.sync_all().map_err(|error| failed(self.dir, error))
    }

    fn beside(&self, name: &str) -> PathBuf {
        self.dir.join(format!(".{name}.new"))
    }
}
