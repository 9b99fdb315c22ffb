//! The folder that an operator writes, and reading it again and again.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::account::AccountId;
use crate::clock::now_ms;
use crate::config::disk::{Disk, FileError, Files, Need};
use crate::config::file::FILE_BYTES_MAX;
use crate::config::model::{AccountConfig, GatewayConfig};
use crate::config::problem::Problem;
use crate::config::resolve::{self, Rules, Surroundings};
use crate::parallel;

/// The host's file.
pub(super) const GATEWAY_FILE: &str = "pixelgate.toml";
/// The folder of the accounts' files.
const ACCOUNTS_DIR: &str = "accounts";
/// Accounts of one piece of work.
pub(super) const FILES_PIECE: usize = 64;

/// A configuration's folder. What did not change since the last reading is not read again.
#[derive(Debug)]
pub struct Source {
    dir: PathBuf,
    surroundings: Surroundings,
    /// The clock by which a file is old enough for its times to be believed.
    pub(super) now_ms: fn() -> i64,
    disk: Disk,
    rules: Rules,
    known: BTreeMap<AccountId, Known>,
}

/// What a folder holds now.
#[derive(Clone, Debug)]
pub struct Reading {
    /// `pixelgate.toml`; `None` if it has an error, or if the accounts' folder cannot be read: nothing is to change then.
    pub gateway: Option<Arc<GatewayConfig>>,
    /// Every account that has a file.
    pub accounts: BTreeMap<AccountId, Candidate>,
    /// All that is wrong.
    pub problems: Vec<Problem>,
}

/// An account's file.
#[derive(Clone, Debug, PartialEq)]
pub enum Candidate {
    /// Without an error.
    Good(Arc<AccountConfig>),
    /// With one; it is among the problems.
    Bad,
}

/// An account's file as it was read, and all that it was made from.
#[derive(Debug)]
struct Known {
    candidate: Candidate,
    problems: Vec<Problem>,
    needs: Vec<Need>,
}

// === impl Source ===

impl Source {
    /// The folder of `pixelgate.toml`, read as this process sees it.
    pub fn new(dir: &Path) -> Self {
        Self::with(dir, Surroundings::of_process())
    }

    /// The folder of `pixelgate.toml`, read with an environment of one's own.
    pub fn with(dir: &Path, surroundings: Surroundings) -> Self {
        Self {
            // Problems name whole paths, and a later change of the working directory changes nothing.
            dir: std::path::absolute(dir).unwrap_or_else(|_| dir.to_owned()),
            surroundings,
            now_ms,
            disk: Disk::new(),
            rules: Rules::LENIENT,
            known: BTreeMap::new(),
        }
    }

    /// The path of `pixelgate.toml`.
    pub fn gateway_file(&self) -> PathBuf {
        self.dir.join(GATEWAY_FILE)
    }

    /// Reads what changed, secrets and filters included, on all cores.
    pub fn read(&mut self) -> Reading {
        let mut problems = Vec::new();
        let (gateway, rules) = self.read_gateway(&mut problems);
        // While the file cannot be read its limits hold as they were: a slip in it lifts none.
        let rules = rules.unwrap_or(self.rules);
        if rules != self.rules {
            self.known.clear();
            self.rules = rules;
        }
        self.disk.begin((self.now_ms)(), rules.program_bytes_max);
        let accounts_dir = self.dir.join(ACCOUNTS_DIR);
        let files = account_files(&accounts_dir, &mut problems);
        let gateway = gateway.filter(|_| files.is_some());
        let mut before = std::mem::take(&mut self.known);
        let files: Vec<_> = files.unwrap_or_default();
        let files: Vec<_> = files.into_iter().map(|(id, path)| (before.remove(&id), id, path)).collect();
        let read = parallel::map(&files, FILES_PIECE, |(known, id, path)| {
            let unchanged = known.as_ref().is_some_and(|known| self.disk.unchanged(&known.needs));
            (!unchanged).then(|| self.read_account(id, path))
        });
        let known = files.into_iter().zip(read).filter_map(|((known, id, _), read)| Some((id, read.or(known)?)));
        self.known = known.collect();
        problems.extend(self.known.values().flat_map(|known| known.problems.iter().cloned()));
        problems.sort();
        let accounts = self.known.iter().map(|(id, known)| (id.clone(), known.candidate.clone())).collect();
        Reading { gateway: gateway.map(Arc::new), accounts, problems }
    }

    fn read_gateway(&mut self, problems: &mut Vec<Problem>) -> (Option<GatewayConfig>, Option<Rules>) {
        let path = self.gateway_file();
        match crate::config::disk::read_file(&path, FILE_BYTES_MAX) {
            Ok(bytes) => {
                let (config, rules, found) = resolve::gateway(&path, &bytes, &self.surroundings);
                problems.extend(found);
                (config, rules)
            }
            Err(error) => {
                problems.push(unreadable(&path, error));
                (None, None)
            }
        }
    }

    fn read_account(&self, id: &AccountId, path: &Path) -> Known {
        let mut files = Files::new(&self.disk);
        let (config, problems) = match files.file(path, FILE_BYTES_MAX) {
            Ok(bytes) => resolve::account(id, path, &bytes, self.rules, &self.surroundings, &mut files),
            Err(error) => (None, vec![unreadable(path, error).of_account(id)]),
        };
        let candidate = config.map_or(Candidate::Bad, |config| Candidate::Good(Arc::new(config)));
        Known { candidate, problems, needs: files.into_needs() }
    }
}

fn unreadable(path: &Path, error: FileError) -> Problem {
    let remedy = match error {
        FileError::Missing => "put it there, readable for the gateway's user",
        FileError::Refused(_) => "make it readable for the gateway's user",
        FileError::NoFile => "put a file of text in its place",
        FileError::TooLarge(_) | FileError::NotUtf8 => "write it again as text in UTF-8 of at most 1 MiB",
    };
    Problem::error(path, "", format!("the file {error}"), remedy)
}

/// The accounts' files; `None` if the folder cannot be read, which must not look like "no accounts".
fn account_files(dir: &Path, problems: &mut Vec<Problem>) -> Option<Vec<(AccountId, PathBuf)>> {
    let entries = std::fs::read_dir(dir).and_then(|entries| entries.collect::<Result<Vec<_>, _>>());
    let entries = entries.map_err(|error| {
        let reason = match error.kind() {
            ErrorKind::NotFound => "the folder does not exist".to_owned(),
            kind => format!("the folder cannot be read: {kind}"),
        };
        let remedy = "make it, readable for the gateway's user; it may be empty";
        problems.push(Problem::error(dir, "", reason, remedy));
    });
    let mut files = Vec::new();
    for path in entries.ok()?.into_iter().map(|entry| entry.path()).filter(|path| is_toml(path)) {
        match path.file_stem().and_then(OsStr::to_str).unwrap_or_default().parse() {
            Ok(id) => files.push((id, path)),
            Err(error) => {
                let reason = format!("the file's name is no account id: {error}");
                problems.push(Problem::error(&path, "", reason, "rename it to <account id>.toml"));
            }
        }
    }
    Some(files)
}

/// Whether a file is meant to be read: hidden files and what editors leave are not.
fn is_toml(path: &Path) -> bool {
    let hidden = path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"."));
    !hidden && path.extension() == Some(OsStr::new("toml"))
}
