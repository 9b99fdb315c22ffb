//! The configuration: from the files of a folder to what they mean, or to everything that is wrong with them.
//!
//! ```text
//! pixelgate.toml, accounts/*.toml ─▶ Source ─▶ Reading ─▶ settle ─▶ the accounts in force
//!                                                           ▲          │
//!                                          running accounts │ LastGood ◀
//! ```
//!
//! [`Source`] reads (`file` is TOML as written, `syntax` tells what is wrong with a text that is none, `resolve` makes it the
//! [`model`] as meant, `disk` knows what changed) ·
//! [`settle`] decides who has which domain and pixel · [`LastGood`] keeps the accounts in force for a restart ·
//! [`Problem`] is what any of them finds wrong.
//!
//! An error keeps one file from being taken up, and its account as it was; a warning is a condition that the file is
//! taken up with.

mod acme;
mod disk;
mod file;
mod findings;
mod last_good;
mod model;
mod outline;
mod problem;
mod resolve;
mod settle;
mod source;
mod syntax;
mod values;

use std::path::{Path, PathBuf};

pub use acme::{AcmeAccount, AcmeBudget, AcmeBudgets, AcmeConfig, ExternalAccount, KeyType};
pub use disk::tidy;
pub use last_good::{KeepError, LastGood};
pub use model::{
    AccountConfig, AccountMode, Accounts, Cookies, DeliveryConfig, FilterConfig, FilterLimits, FilterProgram,
    GatewayConfig, HostConfig, Limits, ListenConfig, LogConfig, LogFormat, OutboxConfig, PixelConfig, TlsConfig,
    TlsVersion, Upstream, Websites,
};
pub use problem::{Problem, Severity};
pub use resolve::{Surroundings, is_reachable};
pub use settle::{Claim, Holders, Owners, Settled, settle};
pub use source::{Candidate, Reading, Source};

/// The control socket of the gateway that this folder configures, even if its `pixelgate.toml` has problems.
pub fn control_socket(dir: &Path) -> PathBuf {
    let dir = std::path::absolute(dir).unwrap_or_else(|_| dir.to_owned());
    resolve::control_socket(&dir.join(source::GATEWAY_FILE))
}

/// The limits of filters that this folder's `pixelgate.toml` sets, even if it has problems; nothing else is read.
pub fn filter_limits(dir: &Path, surroundings: &Surroundings) -> FilterLimits {
    let dir = std::path::absolute(dir).unwrap_or_else(|_| dir.to_owned());
    resolve::filter_limits(&dir.join(source::GATEWAY_FILE), surroundings)
}

/// Judges bytes as `pixelgate.toml` and as an account's file, without an environment. For fuzzing: it never panics.
pub fn judge(bytes: &[u8]) -> Vec<Problem> {
    let (file, surroundings) = (Path::new("/nonexistent/accounts/file.toml"), Surroundings::default());
    let (_, rules, mut problems) = resolve::gateway(file, bytes, &surroundings);
    let disk = disk::Disk::new();
    if let Ok(id) = "file".parse() {
        let rules = rules.unwrap_or(resolve::Rules::LENIENT);
        let mut files = disk::Files::new(&disk);
        problems.extend(resolve::account(&id, file, bytes, rules, &surroundings, &mut files).1);
    }
    problems
}

#[cfg(test)]
mod tests;
