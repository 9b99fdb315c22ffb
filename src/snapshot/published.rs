//! The snapshot in force, and word of a new one.

use std::sync::Arc;

use arc_swap::{ArcSwap, Guard};
use tokio::sync::watch;

use crate::snapshot::Snapshot;

/// The snapshot that requests take now.
pub struct Published {
    current: ArcSwap<Snapshot>,
    revision: watch::Sender<u64>,
}

// === impl Published ===

impl Published {
    /// Begins with this one.
    pub fn new(snapshot: Snapshot) -> Self {
        let revision = watch::Sender::new(snapshot.revision);
        Self { current: ArcSwap::from_pointee(snapshot), revision }
    }

    /// The one in force, for a moment.
    pub fn load(&self) -> Guard<Arc<Snapshot>> {
        self.current.load()
    }

    /// The one in force, to be kept.
    pub fn load_full(&self) -> Arc<Snapshot> {
        self.current.load_full()
    }

    /// Puts one in force.
    pub fn store(&self, snapshot: Arc<Snapshot>) {
        let revision = snapshot.revision;
        self.current.store(snapshot);
        // After it: who hears of a revision finds it in force.
        self.revision.send_if_modified(|known| std::mem::replace(known, revision) != revision);
    }

    /// The revision in force, to be waited for. New certificates alone are no new one.
    pub fn revision(&self) -> watch::Receiver<u64> {
        self.revision.subscribe()
    }
}
