//! One folder of `certs_dir`, read again only when its files changed.

use std::fs::{File, Metadata};
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::tls::credential::{Credential, CredentialError};

/// The chain, leaf first.
const CHAIN: &str = "chain.pem";
/// The leaf's key.
const KEY: &str = "key.pem";
/// Bytes of either file; a chain of ten RSA-4096 certificates is a tenth of it.
const FILE_BYTES_MAX: u64 = 256 * 1024;

/// A folder with at least one of the two files in it, as it was when last read.
pub(super) struct Folder {
    stamps: [Stamp; 2],
    pub(super) content: Result<Arc<Credential>, FolderError>,
}

/// Why a folder holds no credential, and in which file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct FolderError {
    pub(super) file: PathBuf,
    pub(super) cause: Cause,
}

/// What is wrong with a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Cause {
    Absent,
    Io(io::ErrorKind),
    Content(CredentialError),
}

/// What changes when a file is replaced or written to; `None` = there is no such file.
type Stamp = Option<FileStamp>;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct FileStamp {
    device: u64,
    inode: u64,
    bytes: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

// === impl Folder ===

impl Folder {
    /// The folder as it is now; `None` if neither file is there. `previous` is kept if nothing changed since.
    ///
    /// Symbolic links are followed, so a link that was switched to another folder is a change.
    pub(super) fn read(path: &Path, previous: Option<&Arc<Self>>) -> Option<Arc<Self>> {
        let (chain, key) = (path.join(CHAIN), path.join(KEY));
        // Stamped before it is read: what is written meanwhile is seen at the next load.
        let stamps = [stamp(&chain), stamp(&key)];
        if stamps == [None, None] {
            return None;
        }
        match previous {
            Some(previous) if previous.stamps == stamps => Some(previous.clone()),
            _ => Some(Arc::new(Self { stamps, content: load(chain, key) })),
        }
    }

    /// The file whose absence is told when the folder is not there.
    pub(super) fn chain_in(path: &Path) -> PathBuf {
        path.join(CHAIN)
    }
}

fn load(chain: PathBuf, key: PathBuf) -> Result<Arc<Credential>, FolderError> {
    let chain_pem = read_bounded(&chain).map_err(|cause| FolderError { file: chain.clone(), cause })?;
    let key_pem = read_bounded(&key).map_err(|cause| FolderError { file: key.clone(), cause })?;
    Credential::parse(&chain_pem, &key_pem).map_err(|error| {
        let file = if error == CredentialError::Chain { chain } else { key };
        FolderError { file, cause: Cause::Content(error) }
    })
}

fn read_bounded(path: &Path) -> Result<Vec<u8>, Cause> {
    let mut content = Vec::new();
    let read = File::open(path).and_then(|file| file.take(FILE_BYTES_MAX + 1).read_to_end(&mut content));
    match read {
        Ok(bytes) if bytes as u64 > FILE_BYTES_MAX => Err(Cause::Io(io::ErrorKind::FileTooLarge)),
        Ok(_) => Ok(content),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Err(Cause::Absent),
        Err(error) => Err(Cause::Io(error.kind())),
    }
}

fn stamp(path: &Path) -> Stamp {
    std::fs::metadata(path).ok().map(|metadata: Metadata| FileStamp {
        device: metadata.dev(),
        inode: metadata.ino(),
        bytes: metadata.size(),
        modified: (metadata.mtime(), metadata.mtime_nsec()),
        changed: (metadata.ctime(), metadata.ctime_nsec()),
    })
}
