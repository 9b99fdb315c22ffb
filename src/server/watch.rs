//! `[host] watch = true`: reload when a file of the configuration changes. The folder itself and `accounts/` are
//! watched, whichever folder that is now: it may be made later, be replaced, or be a link that is led elsewhere. An
//! editor's several writes come as one change.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use notify::{Event, RecommendedWatcher, RecursiveMode, Watcher};
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout_at};

/// How long the files must rest before they are read.
const REST: Duration = Duration::from_millis(300);
/// How long they may keep from resting: something may write without end.
const UNREST_MAX: Duration = Duration::from_secs(5);

/// Tells of changes; stops watching when it is dropped.
pub(super) struct Changes {
    watcher: RecommendedWatcher,
    accounts: PathBuf,
    /// Which folder was `accounts` when it was last looked at; `None` = none.
    followed: Option<Identity>,
    seen: mpsc::Receiver<()>,
    /// Whether a file of the configuration has changed, or may have.
    changed: Arc<AtomicBool>,
}

/// Device and inode.
type Identity = (u64, u64);

// === impl Changes ===

impl Changes {
    /// Watches a configuration's folder.
    pub(super) fn watch(config_dir: &Path) -> notify::Result<Self> {
        // One change that waits is enough: more of them mean the same.
        let (tell, seen) = mpsc::channel(1);
        let changed = Arc::new(AtomicBool::new(false));
        let flag = changed.clone();
        let mut watcher = notify::recommended_watcher(move |event: notify::Result<Event>| {
            let Ok(event) = event else { return };
            // Whatever moves may be what leads to the accounts' folder.
            if event.need_rescan() || !event.kind.is_access() {
                flag.fetch_or(is_change(&event), Ordering::AcqRel);
                let _ = tell.try_send(());
            }
        })?;
        watcher.watch(config_dir, RecursiveMode::NonRecursive)?;
        let mut changes = Self { watcher, accounts: config_dir.join("accounts"), followed: None, seen, changed };
        changes.follow();
        Ok(changes)
    }

    /// Waits for a change, and until the files rest. What was seen is kept if nobody waits any longer.
    pub(super) async fn next(&mut self) {
        while !self.changed.load(Ordering::Acquire) && identity(&self.accounts) == self.followed {
            if self.seen.recv().await.is_none() {
                // The watcher is gone, and nothing will change any more.
                std::future::pending::<()>().await;
            }
        }
        let latest = Instant::now() + UNREST_MAX;
        let rested = || latest.min(Instant::now() + REST);
        while Instant::now() < latest && timeout_at(rested(), self.seen.recv()).await.is_ok_and(|seen| seen.is_some()) {
        }
        // What is written from now on is a change of its own; what was written before will be read.
        self.changed.store(false, Ordering::Release);
        self.follow();
    }

    /// Watches the folder that is `accounts` now.
    fn follow(&mut self) {
        let now = identity(&self.accounts);
        if now == self.followed {
            return;
        }
        if self.followed.is_some() {
            // The one before may be gone, and its watch with it.
            let _ = self.watcher.unwatch(&self.accounts);
        }
        self.followed = now;
        if now.is_some()
            && let Err(error) = self.watcher.watch(&self.accounts, RecursiveMode::NonRecursive)
        {
            tracing::warn!(%error, "[host] watch: the folder accounts cannot be watched; reload by hand");
        }
    }
}

fn identity(folder: &Path) -> Option<Identity> {
    let metadata = std::fs::metadata(folder).ok().filter(std::fs::Metadata::is_dir)?;
    Some((metadata.dev(), metadata.ino()))
}

/// Whether a file of the configuration changed, or events were lost, so that one may have. Editors and programs leave
/// other files beside them, which mean nothing.
fn is_change(event: &Event) -> bool {
    let is_configuration = |path: &PathBuf| path.extension().is_some_and(|extension| extension == "toml");
    event.need_rescan() || event.paths.iter().any(is_configuration)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::fs;
    use std::os::unix::fs::symlink;

    use notify::EventKind;
    use notify::event::Flag;
    use tempfile::TempDir;
    use tokio::time::timeout;

    use super::*;

    const PATIENCE: Duration = Duration::from_secs(30);

    /// A configuration's folder in which `accounts` leads to `one`, beside `two`.
    fn folder() -> TempDir {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("one")).unwrap();
        fs::create_dir(dir.path().join("two")).unwrap();
        symlink("one", dir.path().join("accounts")).unwrap();
        dir
    }

    async fn seen(changes: &mut Changes) -> bool {
        timeout(PATIENCE, changes.next()).await.is_ok()
    }

    #[tokio::test]
    async fn the_accounts_folder_is_followed_when_it_is_replaced() {
        let dir = folder();
        let path = |name: &str| dir.path().join(name);
        let mut changes = Changes::watch(dir.path()).unwrap();
        fs::write(path("one/a.toml"), "").unwrap();
        assert!(seen(&mut changes).await, "a file");
        symlink("two", path("next")).unwrap();
        fs::rename(path("next"), path("accounts")).unwrap();
        assert!(seen(&mut changes).await, "a link that is led elsewhere");
        fs::write(path("two/b.toml"), "").unwrap();
        assert!(seen(&mut changes).await, "a file in the folder that it leads to now");
        fs::remove_file(path("accounts")).unwrap();
        assert!(seen(&mut changes).await, "nothing any more");
        fs::create_dir(path("accounts")).unwrap();
        assert!(seen(&mut changes).await, "a folder in its place");
        fs::write(path("accounts/c.toml"), "").unwrap();
        assert!(seen(&mut changes).await, "a file in that");
        fs::write(path("accounts/.c.toml.swp"), "").unwrap();
        fs::write(path("notes"), "").unwrap();
        assert!(timeout(2 * REST, changes.next()).await.is_err(), "other files mean nothing");
    }

    #[tokio::test]
    async fn what_never_rests_is_read_all_the_same() {
        let dir = folder();
        let mut changes = Changes::watch(dir.path()).unwrap();
        let (file, mut ticks) = (dir.path().join("one/a.toml"), tokio::time::interval(REST / 10));
        let writing = tokio::spawn(async move {
            loop {
                ticks.tick().await;
                fs::write(&file, "").unwrap();
            }
        });
        assert!(seen(&mut changes).await);
        writing.abort();
    }

    #[test]
    fn events_that_were_lost_are_a_change() {
        let event = Event::new(EventKind::Other);
        assert!(!is_change(&event));
        assert!(is_change(&event.set_flag(Flag::Rescan)));
    }
}
