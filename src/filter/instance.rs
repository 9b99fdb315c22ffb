//! One instance: a guest with memory of its own, started with an account's settings and called until it has served its
//! time. Nothing of it is ever seen by another account or another filter.

use std::sync::Arc;
use std::time::Duration;

use wasmtime::{Engine, Store};

use super::bindings::types::Verdict;
use super::bindings::{Call, Handler, ScriptHandler};
use super::engine::Clock;
use super::fault::{Fault, FaultKind, printable};
use super::library::Code;
use super::state::{Speaker, State};

/// Calls after which an instance is replaced by a fresh one: what it hoards is bounded.
const CALLS_MAX: u32 = 1_000;
/// Memory past which it is replaced.
const KEPT_BYTES_MAX: usize = 8 << 20;
/// Time of its start, in deadlines, that each of its calls is worth.
const START_DEADLINES_PER_CALL: u32 = 2;
/// Bytes that a guest may pass to the host in one call: 64 edits of 4 KiB with room to spare. Without it the host would
/// copy whatever a guest names, as often as it names it.
const PASSED_BYTES_MAX: usize = 512 << 10;
/// Bytes of what a filter says about its settings.
const REFUSAL_BYTES_MAX: usize = 2_048;

/// What an instance is made from.
pub(super) struct Recipe {
    pub(super) code: Arc<Code>,
    /// The account's script, where `code` is the runner of scripts.
    pub(super) script: Option<Arc<str>>,
    /// JSON
    pub(super) settings: String,
    pub(super) speaker: Arc<Speaker>,
    /// All memories of the instance together.
    pub(super) memory_bytes_max: usize,
    /// Time for starting it.
    pub(super) init_deadline: Duration,
}

/// A guest, ready to be called.
pub(super) struct Instance {
    store: Store<State>,
    guest: Guest,
    /// How long it took to start while a request waited.
    started_in: Duration,
    calls: u32,
    failed: bool,
}

enum Guest {
    Filter(Handler),
    Script(ScriptHandler),
}

/// Why an instance could not be started.
#[derive(Debug)]
pub(super) enum NotStarted {
    /// `init` refused the settings, or the script.
    Refused(String),
    /// It failed.
    Fault(Fault),
}

// === impl Instance ===

impl Instance {
    /// Makes an instance and gives it its settings. The clock must be ticking.
    pub(super) fn start(engine: &Engine, recipe: &Recipe) -> Result<Self, NotStarted> {
        let mut store = Store::new(engine, State::new(recipe.speaker.clone(), recipe.memory_bytes_max));
        store.limiter(|state| state);
        store.set_hostcall_fuel(PASSED_BYTES_MAX);
        store.set_epoch_deadline(Clock::ticks(recipe.init_deadline));
        match Guest::start(&mut store, recipe) {
            Ok((guest, Ok(()))) => Ok(Self { store, guest, started_in: Duration::ZERO, calls: 0, failed: false }),
            Ok((_, Err(refusal))) if store.data().memory_refused() => {
                Err(NotStarted::Fault(Fault::new(FaultKind::OutOfMemory, &refusal)))
            }
            Ok((_, Err(refusal))) => Err(NotStarted::Refused(printable(&refusal, REFUSAL_BYTES_MAX))),
            Err(error) => Err(NotStarted::Fault(fault(&store, &error))),
        }
    }

    /// Filters one event. The clock must be ticking.
    pub(super) fn call(&mut self, call: &Call<'_>, deadline: Duration) -> Result<Verdict, Fault> {
        self.calls += 1;
        self.store.data_mut().begin_call();
        // The deadline of a store is a point in time: each call sets its own.
        self.store.set_epoch_deadline(Clock::ticks(deadline));
        let (store, guest) = (&mut self.store, &self.guest);
        let answered = call.lend(|context, event| match guest {
            Guest::Filter(handler) => handler.call_filter(store, context, event),
            Guest::Script(handler) => handler.call_filter(store, context, event),
        });
        match answered {
            Ok(Ok(verdict)) => Ok(verdict),
            Ok(Err(error)) => {
                let refused = self.store.data().memory_refused();
                Err(Fault::new(if refused { FaultKind::OutOfMemory } else { FaultKind::Error }, &error))
            }
            Err(error) => {
                self.failed = true;
                Err(fault(&self.store, &error))
            }
        }
    }

    /// A request waited for its start.
    pub(super) fn was_awaited(&mut self, started_in: Duration) {
        self.started_in = started_in;
    }

    /// Whether the calls that it served so far are worth its start.
    pub(super) fn is_worth_its_start(&self, deadline: Duration) -> bool {
        self.started_in <= deadline * START_DEADLINES_PER_CALL * self.calls
    }

    /// Whether it may be called again.
    pub(super) fn is_reusable(&self) -> bool {
        !self.failed && self.calls < CALLS_MAX && self.memory_bytes() <= KEPT_BYTES_MAX
    }

    /// Its linear memory.
    pub(super) fn memory_bytes(&self) -> usize {
        self.store.data().memory_bytes()
    }
}

fn fault(store: &Store<State>, error: &wasmtime::Error) -> Fault {
    let fault = Fault::of_engine(error, store.data().memory_refused(), store.data().last_error());
    if fault.kind == FaultKind::BadVerdict && fault.message.contains("fuel") {
        // wasmtime's word for what may be copied out of a guest.
        return Fault::new(fault.kind, &format!("more than {PASSED_BYTES_MAX} bytes in one call: {}", fault.message));
    }
    fault
}

// === impl NotStarted ===

impl NotStarted {
    /// The same, with another fault.
    pub(super) fn map(self, change: impl FnOnce(Fault) -> Fault) -> Self {
        match self {
            Self::Fault(fault) => Self::Fault(change(fault)),
            refused @ Self::Refused(_) => refused,
        }
    }
}

// === impl Guest ===

impl Guest {
    /// Instantiates and calls `init`; the inner result is the guest's own.
    fn start(store: &mut Store<State>, recipe: &Recipe) -> wasmtime::Result<(Self, Result<(), String>)> {
        match &*recipe.code {
            Code::Filter(bound) => {
                let handler = bound.instantiate(&mut *store)?.pixelgate_filter_handler().clone();
                let begun = handler.call_init(store, &recipe.settings)?;
                Ok((Self::Filter(handler), begun))
            }
            Code::ScriptRunner(bound) => {
                let handler = bound.instantiate(&mut *store)?.pixelgate_filter_script_handler().clone();
                let script = recipe.script.as_deref().unwrap_or_default();
                let begun = handler.call_init(store, script, &recipe.settings)?;
                Ok((Self::Script(handler), begun))
            }
        }
    }
}
