//! `[host] watch = true`: reload when a file of the configuration changes. The folder itself and `accounts/` are
//! watched; an editor's several writes come as one change.

use std::path::Path;
use std::time::Duration;

use notify::{RecommendedWatcher, RecursiveMode, Watcher};
use tokio::sync::mpsc;

/// How long the files must rest before they are read.
const REST: Duration = Duration::from_millis(300);

/// Tells of changes; stops watching when it is dropped.
pub(super) struct Changes {
    _watcher: RecommendedWatcher,
    seen: mpsc::Receiver<()>,
}

// === impl Changes ===

impl Changes {
    /// Watches a configuration's folder.
    pub(super) fn watch(config_dir: &Path) -> notify::Result<Self> {
        // One change that waits is enough: more of them mean the same.
        let (tell, seen) = mpsc::channel(1);
        let mut watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
            if event.is_ok_and(|event| !event.kind.is_access() && event.paths.iter().any(|path| is_configuration(path)))
            {
                let _ = tell.try_send(());
            }
        })?;
        watcher.watch(config_dir, RecursiveMode::NonRecursive)?;
        let accounts = config_dir.join("accounts");
        if accounts.is_dir() {
            watcher.watch(&accounts, RecursiveMode::NonRecursive)?;
        }
        Ok(Self { _watcher: watcher, seen })
    }

    /// Waits for a change, and until the files rest.
    pub(super) async fn next(&mut self) {
        if self.seen.recv().await.is_none() {
            // The watcher is gone, and nothing will change any more.
            std::future::pending::<()>().await;
        }
        while tokio::time::timeout(REST, self.seen.recv()).await.is_ok_and(|seen| seen.is_some()) {}
    }
}

/// Editors and programs leave other files beside them, which mean nothing.
fn is_configuration(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension == "toml")
}
