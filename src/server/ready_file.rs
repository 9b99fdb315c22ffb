//! `--ready-file`: where a program finds the ports that were chosen.

use std::fs::{self, File};
use std::io::{self, ErrorKind, Write};
use std::net::SocketAddr;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

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

/// The right to write a ready file, this process's alone as long as this lives.
#[must_use]
pub(super) struct Claim {
    path: PathBuf,
    /// What becomes the ready file, locked: beside its place, and in it once it is written.
    file: File,
    beside: PathBuf,
    written: bool,
}

// === impl Claim ===

impl Claim {
    /// Takes it, and removes what an earlier process wrote: who waits for the file must not take that one's.
    ///
    /// # Errors
    /// When a gateway that runs or starts has it, or the file cannot be made or removed.
    pub(super) fn take(path: &Path) -> io::Result<Self> {
        let mut beside = path.as_os_str().to_owned();
        beside.push(".tmp");
        let beside = PathBuf::from(beside);
        let file = loop {
            let file = File::options().write(true).create(true).truncate(false).open(&beside)?;
            lock(&file)?;
            // Who had it may have moved or removed it meanwhile.
            if is_at(&file, &beside)? {
                break file;
            }
        };
        let claim = Self { path: path.to_owned(), file, beside, written: false };
        // Nobody else puts one there from here on.
        match File::open(path) {
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            earlier => {
                lock(&earlier?)?;
                fs::remove_file(path)?;
            }
        }
        Ok(claim)
    }

    /// Writes it whole: who sees the file sees all of it.
    ///
    /// # Errors
    /// When it cannot be written.
    pub(super) fn write(&mut self, ready: &ReadyFile) -> io::Result<()> {
        self.file.set_len(0)?;
        self.file.write_all(&serde_json::to_vec(ready)?)?;
        fs::rename(&self.beside, &self.path)?;
        self.written = true;
        Ok(())
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        if !self.written {
            // One that stays is taken by the next process.
            let _ = fs::remove_file(&self.beside);
        }
    }
}

fn lock(file: &File) -> io::Result<()> {
    match flock(file, FlockOperation::NonBlockingLockExclusive) {
        Err(Errno::WOULDBLOCK) => Err(io::Error::other(
            "a gateway that runs or starts has it as its ready file; name another one, or stop that gateway first",
        )),
        locked => Ok(locked?),
    }
}

/// Whether a file is what is found at a path.
fn is_at(file: &File, path: &Path) -> io::Result<bool> {
    let file = file.metadata()?;
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(false),
        found => found.map(|found| (found.dev(), found.ino()) == (file.dev(), file.ino())),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing)]
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    fn ready(pid: u32) -> ReadyFile {
        ReadyFile { https: Vec::new(), http: Vec::new(), ops: ([127, 0, 0, 1], 9).into(), pid, revision: 1 }
    }

    fn pid(path: &Path) -> serde_json::Value {
        serde_json::from_slice::<serde_json::Value>(&fs::read(path).unwrap()).unwrap()["pid"].clone()
    }

    fn refused(path: &Path) -> bool {
        Claim::take(path).is_err_and(|error| error.to_string().contains("name another one"))
    }

    #[test]
    fn it_is_the_first_gateways_from_its_start_to_its_end() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("ready.json");
        fs::write(&path, "an earlier process's").unwrap();
        let mut first = Claim::take(&path).unwrap();
        assert!(!path.exists());
        assert!(refused(&path), "of one that starts");
        first.write(&ready(7)).unwrap();
        assert!(refused(&path), "of one that runs");
        assert_eq!((pid(&path), fs::read_dir(&dir).unwrap().count()), (7.into(), 1));
        drop(first);
        assert_eq!(pid(&path), 7);
        // What a process that was killed left is longer.
        fs::write(dir.path().join("ready.json.tmp"), "x".repeat(1_000)).unwrap();
        let mut second = Claim::take(&path).unwrap();
        assert!(!path.exists());
        second.write(&ready(8)).unwrap();
        assert_eq!(pid(&path), 8);
        drop(second);
        drop(Claim::take(&path).unwrap());
        assert_eq!(fs::read_dir(&dir).unwrap().count(), 0, "one that never was ready leaves nothing");
    }

    #[test]
    fn of_many_that_start_at_one_moment_one_has_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("ready.json");
        let (holders, taken) = (AtomicUsize::new(0), AtomicUsize::new(0));
        std::thread::scope(|scope| {
            for starter in 0..4 {
                let (path, holders, taken) = (&path, &holders, &taken);
                scope.spawn(move || {
                    for _ in 0..200 {
                        let Ok(mut claim) = Claim::take(path) else { continue };
                        assert_eq!(holders.fetch_add(1, Ordering::SeqCst), 0);
                        taken.fetch_add(1, Ordering::SeqCst);
                        if starter % 2 == 0 {
                            claim.write(&ready(starter)).unwrap();
                            assert_eq!(pid(path), starter);
                        }
                        holders.fetch_sub(1, Ordering::SeqCst);
                    }
                });
            }
        });
        assert!(taken.into_inner() > 0);
    }
}
