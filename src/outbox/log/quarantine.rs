//! Where bytes go that should have been events and are not readable: kept, never dropped, for a person to look at.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::file::Disk;

/// The folder of unreadable bytes.
pub(crate) struct Quarantine {
    disk: Arc<dyn Disk>,
    dir: PathBuf,
}

// === impl Quarantine ===

impl Quarantine {
    /// Makes `root/quarantine` where it is not there.
    pub(crate) fn new(disk: Arc<dyn Disk>, root: &Path) -> io::Result<Self> {
        let dir = root.join("quarantine");
        disk.create_dir(&dir)?;
        disk.sync_dir(root)?;
        Ok(Self { disk, dir })
    }

    /// Keeps bytes under a name, durable, and says where. The same bytes again, after a crash, take the same place.
    pub(crate) fn keep(&self, name: &str, bytes: &[u8]) -> io::Result<PathBuf> {
        let path = self.dir.join(name);
        let file = self.disk.create_or_open(&path)?;
        file.write_at(bytes, 0)?;
        file.sync()?;
        self.disk.sync_dir(&self.dir)?;
        Ok(path)
    }
}
