//! Filters: what an account runs on each of its events, as Wasm components or scripts, without anyone else noticing.
//!
//! ```text
//! at a reload    FilterHost::compile ─▶ library: component (what is it) ▸ compile (child process) ▸ cache (.cwasm)
//!                                       └▶ stage: instance ▸ init(settings) ─▶ Chain
//! on a request   Chain::run ─▶ host: queue (fair over accounts) ─▶ thread ─▶ chain: each event ▸ each stage
//!                                                                            stage: breaker ▸ idle | instance ▸ call
//! ```
//!
//! * A guest runs on a thread of ours, never where connections are served. Its call has a deadline (`engine`: a clock
//!   of 1 ms), its memory, stack, log lines and answers have limits (`instance`, `state`), its file is compiled in a
//!   process of its own (`compile`).
//! * Code is shared by content (`library`), instances never: one belongs to one account, filter and settings, is kept
//!   for some calls (`idle`), and is gone after any trap.
//! * Whatever goes wrong is a [`FaultKind`] of that one event, and the account's [`OnFault`] says what becomes of it.
//!   After five in a row the filter is not called for ten seconds (`breaker`).
//! * What passes in and out are values (`bindings`), so guests could move to a process of their own.
//!
//! wasmtime is known here and nowhere else.

mod bindings;
mod breaker;
mod cache;
mod chain;
mod compile;
mod component;
mod context;
mod engine;
mod error;
mod fault;
mod host;
mod idle;
mod instance;
mod library;
mod queue;
mod stage;
mod state;
#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use crate::account::AccountId;
use crate::event::{Event, OnFault};

pub use chain::Chain;
pub use compile::{ChildError, Compiler, compile_in_child};
pub use component::component_of;
pub use context::Context;
pub use error::{LoadError, StageError, StartError};
pub use fault::FaultKind;
pub use host::FilterHost;

/// How filters run.
#[derive(Clone, Debug)]
pub struct Options {
    /// Time for one call, at least a millisecond.
    pub deadline: Duration,
    /// Memory of one instance.
    pub memory_bytes_max: usize,
    /// Size of a component or script.
    pub file_bytes_max: u64,
    /// Threads that run filters.
    pub threads: usize,
    /// How long events may wait for a thread.
    pub wait_max: Duration,
    /// Time for compiling one component in a child.
    pub compile_timeout: Duration,
    /// Where compiled code is kept: a folder of our own, made if absent. `None` = it is not kept.
    pub cache_dir: Option<PathBuf>,
    /// The component that runs scripts; read when the first script is met.
    pub script_runner: PathBuf,
    /// Where components are compiled.
    pub compiler: Compiler,
}

/// One filter of an account as configured.
#[derive(Clone, Debug)]
pub struct Stage {
    /// What the account calls it.
    pub name: String,
    /// What runs.
    pub program: Program,
    /// The settings, as JSON.
    pub settings: String,
    /// What happens to an event that it fails on.
    pub on_fault: OnFault,
}

/// What a filter is made of.
#[derive(Clone, Debug)]
pub enum Program {
    /// A Wasm component.
    Component(Arc<[u8]>),
    /// JavaScript for the script runner.
    Script(Arc<str>),
}

/// What became of an event.
#[derive(Clone, Debug, PartialEq)]
pub enum Filtered {
    /// It goes on, as the filters left it.
    Pass(Event),
    /// It ends here.
    Drop {
        /// The filter that decided so, or failed.
        filter: Arc<str>,
        /// The filter's own words, or `fault: <kind>` where it failed and the account wants such events dropped.
        /// Printable, at most 80 bytes.
        reason: String,
    },
    /// A filter failed and the account wants such events held.
    Hold {
        /// As it was before the first filter.
        event: Event,
        /// `filter:<name>: <kind of fault>`
        reason: String,
        /// What is known beside; printable, at most 1 KiB.
        message: String,
    },
}

/// How one call ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CallEnd {
    /// With the verdict `pass`.
    Pass,
    /// With the verdict `drop`.
    Drop,
    /// With edits.
    Modify,
    /// Without a verdict.
    Fault(FaultKind),
}

/// Hears what filters do. Called on the threads of filters: it must not block.
pub trait Observer: Send + Sync {
    /// A filter was called; `took` includes a second try after a deadline.
    fn on_call(&self, _account: &AccountId, _filter: &str, _end: CallEnd, _took: Duration) {}

    /// An event had a fault at a filter, called or not.
    fn on_fault(&self, _account: &AccountId, _filter: &str, _kind: FaultKind) {}
}

// === impl CallEnd ===

impl CallEnd {
    /// The end as a metric's label.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pass => "pass",
            Self::Drop => "drop",
            Self::Modify => "modify",
            Self::Fault(_) => "fault",
        }
    }
}
