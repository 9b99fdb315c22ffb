//! `--ready-file`: where a program finds the ports that were chosen.

use std::io::ErrorKind;
use std::net::SocketAddr;
use std::path::Path;

use serde::Serialize;

/// What the file says. Its keys are a contract.
#[derive(Debug, Serialize)]
pub(super) struct ReadyFile {
    pub(super) https: Vec<SocketAddr>,
    pub(super) http: Vec<SocketAddr>,
    pub(super) ops: SocketAddr,
    pub(super) pid: u32,
    pub(super) revision: u64,
}

// === impl ReadyFile ===

impl ReadyFile {
    /// Removes what an earlier process wrote: who waits for the file must not take that one's.
    pub(super) fn remove(path: &Path) -> std::io::Result<()> {
        match std::fs::remove_file(path) {
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
            done => done,
        }
    }

    /// Writes it whole: who sees the file sees all of it.
    pub(super) fn write(&self, path: &Path) -> std::io::Result<()> {
        let beside = path.with_extension("tmp");
        std::fs::write(&beside, serde_json::to_vec(self)?)?;
        std::fs::rename(beside, path)
    }
}
