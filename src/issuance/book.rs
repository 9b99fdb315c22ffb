//! What is known of all names and budgets: in memory, and durable when it is said to be.

use std::collections::{HashMap, HashSet};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use crate::account::ServerName;
use crate::issuance::budget::Budgets;
use crate::issuance::state::{NameState, StateFile};

/// The book.
pub(super) struct Book {
    /// Held while a transaction is written; always taken before the other.
    file: Mutex<StateFile>,
    memory: Mutex<Memory>,
}

/// What is known now.
#[derive(Default)]
pub(super) struct Memory {
    /// Names of which something is known.
    pub(super) names: HashMap<ServerName, NameState>,
    pub(super) budgets: Budgets,
    /// Names with an order (true) or a look under way: no second one begins.
    busy: HashMap<ServerName, bool>,
    changed: HashSet<ServerName>,
}

// === impl Book ===

impl Book {
    /// Opens what was kept.
    pub(super) fn open(path: &Path) -> rusqlite::Result<Self> {
        let (file, kept) = StateFile::open(path)?;
        let memory = Memory {
            names: kept.names.into_iter().collect(),
            budgets: Budgets::restored(kept.budgets),
            ..Memory::default()
        };
        Ok(Self { file: Mutex::new(file), memory: Mutex::new(memory) })
    }

    /// Looks at it, or changes it.
    pub(super) fn with<T>(&self, look: impl FnOnce(&mut Memory) -> T) -> T {
        look(&mut self.memory.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Makes all changes so far durable. Those that ask at one time share one transaction.
    pub(super) async fn keep(self: &Arc<Self>, now_ms: i64) -> Result<(), String> {
        let book = self.clone();
        let kept = tokio::task::spawn_blocking(move || book.write(now_ms)).await;
        kept.map_err(|error| error.to_string())?.map_err(|error| error.to_string())
    }

    /// As [`Book::keep`], and blocks meanwhile.
    pub(super) fn write(&self, now_ms: i64) -> rusqlite::Result<()> {
        let mut file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        let (names, budgets) = self.with(|memory| {
            let changed = std::mem::take(&mut memory.changed);
            let state = |name: ServerName| {
                let state = memory.names.get(&name).cloned();
                (name, state)
            };
            (changed.into_iter().map(state).collect::<Vec<_>>(), memory.budgets.take_changed(now_ms))
        });
        let written = file.save(&names, &budgets);
        if written.is_err() {
            self.with(|memory| memory.changed.extend(names.into_iter().map(|(name, _)| name)));
        }
        written
    }
}

// === impl Memory ===

impl Memory {
    /// The state of a name, to be changed.
    pub(super) fn change(&mut self, name: &ServerName) -> &mut NameState {
        self.changed.insert(name.clone());
        self.names.entry(name.clone()).or_default()
    }

    /// Whether an order or a look is under way.
    pub(super) fn is_busy(&self, name: &ServerName) -> bool {
        self.busy.contains_key(name)
    }

    /// Orders under way, and looks.
    pub(super) fn in_flight(&self) -> (usize, usize) {
        let orders = self.busy.values().filter(|is_order| **is_order).count();
        (orders, self.busy.len() - orders)
    }

    /// An order or a look begins.
    pub(super) fn begin(&mut self, name: ServerName, is_order: bool) {
        self.busy.insert(name, is_order);
    }

    /// It ended.
    pub(super) fn end(&mut self, name: &ServerName) {
        self.busy.remove(name);
    }

    /// Forgets the names that are not asked for any more.
    pub(super) fn retain(&mut self, wanted: impl Fn(&ServerName) -> bool) {
        let gone: Vec<_> = self.names.keys().filter(|name| !wanted(name)).cloned().collect();
        for name in gone {
            self.names.remove(&name);
            self.changed.insert(name);
        }
    }
}
