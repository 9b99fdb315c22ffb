//! `--ready-file`: where a program finds the ports that were chosen.

use std::fs::File;
use std::io::{self, ErrorKind, Write};
use std::net::SocketAddr;
use std::path::Path;

use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;
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

/// The file that was written. As long as this lives no other gateway takes it for one of a process that is gone.
#[must_use]
pub(super) struct Written {
    _locked: File,
}

// === impl ReadyFile ===

impl ReadyFile {
    /// Removes what an earlier process wrote: who waits for the file must not take that one's.
    ///
    /// # Errors
    /// When a gateway that runs wrote it, or it cannot be removed.
    pub(super) fn remove(path: &Path) -> io::Result<()> {
        let file = match File::open(path) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
            file => file?,
        };
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Err(Errno::WOULDBLOCK) => {
                let why = "a gateway that runs has it as its ready file; name another one, or stop that gateway first";
                return Err(io::Error::other(why));
            }
            locked => locked?,
        }
        match std::fs::remove_file(path) {
            Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    /// Writes it whole: who sees the file sees all of it.
    ///
    /// # Errors
    /// When it cannot be written.
    pub(super) fn write(&self, path: &Path) -> io::Result<Written> {
        let beside = path.with_extension(format!("{}.tmp", self.pid));
        let mut file = File::create(&beside)?;
        flock(&file, FlockOperation::NonBlockingLockExclusive)?;
        file.write_all(&serde_json::to_vec(self)?)?;
        std::fs::rename(beside, path)?;
        Ok(Written { _locked: file })
    }
}
