//! The configuration as a whole, on real folders.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)]

mod claims;
mod documentation;
mod kept;
mod mistakes;
mod ordering;
mod reading;
mod secrets;
mod syntax;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tempfile::TempDir;

use crate::config::{AccountConfig, Candidate, Problem, Reading, Source, Surroundings};

/// A gateway's file with nothing but what must be in it.
const GATEWAY: &str = "[host]\ndomain = \"gw.agency.example\"\n";

/// A configuration's folder.
struct Folder {
    dir: TempDir,
    surroundings: Surroundings,
}

impl Folder {
    /// A folder without accounts.
    fn new() -> Self {
        let folder = Self { dir: tempfile::tempdir().unwrap(), surroundings: Surroundings::default() };
        folder.write("pixelgate.toml", GATEWAY);
        fs::create_dir(folder.path("accounts")).unwrap();
        folder
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn write(&self, name: &str, contents: impl AsRef<[u8]>) {
        let path = self.path(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, contents).unwrap();
    }

    fn source(&self) -> Source {
        Source::with(self.dir.path(), self.surroundings.clone())
    }

    fn read(&self) -> Reading {
        self.source().read()
    }

    /// The problems of one reading, each as `file:line key: reason → remedy`, with paths from here.
    fn problems(&self) -> Vec<String> {
        self.read().problems.iter().map(|problem| self.told(problem)).collect()
    }

    fn told(&self, problem: &Problem) -> String {
        let here = format!("{}/", self.dir.path().display());
        let line = problem.line.map(|line| format!(":{line}")).unwrap_or_default();
        let Problem { severity, file, key, reason, remedy, .. } = problem;
        format!("{severity} {}{line} {key}: {reason} → {remedy}", file.display()).replace(&here, "")
    }

    /// The account `shoes`, which must be good.
    fn shoes(&self) -> Arc<AccountConfig> {
        good(&self.read(), "shoes")
    }
}

/// An account that must be good.
fn good(reading: &Reading, id: &str) -> Arc<AccountConfig> {
    match &reading.accounts[&id.parse().unwrap()] {
        Candidate::Good(config) => config.clone(),
        Candidate::Bad => panic!("{id} is bad: {:#?}", reading.problems),
    }
}

fn environment(variables: &[(&str, &str)]) -> BTreeMap<String, String> {
    variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

/// A file of this repository.
fn in_repository(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(name)
}
