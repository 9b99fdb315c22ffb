//! From the configuration as written to the configuration as meant: defaults filled in, paths made absolute, names
//! checked, the files read that it names. Keys are declared where they are read; `docs/configuration.md` is held to them
//! by a test.
//!
//! [`gateway`] reads `pixelgate.toml`, `acme` and `listen` its `[acme]` and `[listen]` · [`account`] an account's file · `filters`, `secret` parts of it
//! · `address` what names something on a network · `system` which folders are the operating system's.

mod account;
mod acme;
mod address;
mod filters;
mod gateway;
mod listen;
mod secret;
mod system;

use std::collections::BTreeMap;
use std::path::PathBuf;

pub(super) use account::account;
pub use address::is_reachable;
pub(super) use gateway::{control_socket, filter_limits, gateway};
#[cfg(test)]
pub(super) use {account::read as read_account, gateway::read as read_gateway};

/// Bytes of a filter's file that can be allowed.
pub(super) const PROGRAM_BYTES_MAX: u64 = 256 * 1024 * 1024;

/// What a process has beside its files, and a configuration may refer to.
#[derive(Clone, Default)]
pub struct Surroundings {
    /// The environment; variables that are no UTF-8 are left out.
    pub environment: BTreeMap<String, String>,
    /// `$CREDENTIALS_DIRECTORY`, where systemd puts credentials (systemd.exec(5)).
    pub credentials_dir: Option<PathBuf>,
    /// The executable; what is installed with it lies beside it.
    pub executable: Option<PathBuf>,
    /// CPUs that it may use.
    pub cpus: usize,
}

/// What `pixelgate.toml` decides about the accounts' files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Rules {
    /// `[host] upstream_private`
    pub(super) upstream_private: bool,
    /// `[filters] file_bytes_max`
    pub(super) program_bytes_max: u64,
}

// === impl Surroundings ===

impl Surroundings {
    /// Those of this process.
    pub fn of_process() -> Self {
        let variables = std::env::vars_os();
        let text = |(name, value): (std::ffi::OsString, std::ffi::OsString)| {
            Some((name.into_string().ok()?, value.into_string().ok()?))
        };
        Self {
            environment: variables.filter_map(text).collect(),
            credentials_dir: std::env::var_os("CREDENTIALS_DIRECTORY").map(PathBuf::from),
            executable: std::env::current_exe().ok(),
            cpus: std::thread::available_parallelism().map_or(1, usize::from),
        }
    }
}

impl std::fmt::Debug for Surroundings {
    /// The environment holds secrets.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Surroundings").finish_non_exhaustive()
    }
}

// === impl Rules ===

impl Rules {
    /// Allows all that can be allowed: for a file that was judged before, or where no rules were read yet.
    pub(super) const LENIENT: Self = Self { upstream_private: true, program_bytes_max: PROGRAM_BYTES_MAX };
}
