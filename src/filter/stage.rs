//! One filter of one account: its instances, its breaker, and a call with all that may happen in it.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::bindings::Call;
use super::bindings::types::Verdict;
use super::breaker::{Breaker, Change};
use super::fault::{Fault, FaultKind, printable};
use super::host::Shared;
use super::instance::{Instance, NotStarted, Recipe};
use super::state::{Lines, Speaker};
use super::{CallEnd, Context, LoadError, Program, Stage};
use crate::account::AccountId;
use crate::event::{Edit, Event, OnFault};

/// Bytes of the reason that a filter gives for a drop.
const REASON_BYTES_MAX: usize = 80;
/// Time that starting an instance may take, in deadlines of a call.
const INIT_DEADLINES: u32 = 20;
/// What a filter does wrong whose starts are wasted.
const WASTED: &str = "it starts slowly and grows too large to be kept: a few such calls in a row are faults";
/// How often a start is tried that a stalled machine may have cut off, when nothing but patience is at stake.
const LOAD_TRIES: u32 = 3;

/// A filter, loaded.
pub(super) struct LoadedStage {
    /// Whose idle instances these are.
    key: u64,
    recipe: Recipe,
    pub(super) on_fault: OnFault,
    breaker: Mutex<Breaker>,
    shared: Arc<Shared>,
}

/// What a filter decided about an event.
#[derive(Debug, PartialEq)]
pub(super) enum Decision {
    /// It stays as it is.
    Keep,
    /// This is what it becomes.
    Replace(Box<Event>),
    /// It goes no further, and why.
    Drop(String),
}

/// What the start of a call's instance took, beside the calls that it served. A start may take many times a call's time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Start {
    /// Not much.
    Worth,
    /// Too much, but there are calls to come.
    NotYet,
    /// Too much, and it is gone.
    Wasted,
}

// === impl LoadedStage ===

impl LoadedStage {
    /// Compiles a stage if need be, and starts a first instance, which tells whether the settings are good.
    /// `lines` are the account's, as is the time that is `left` for compiling.
    pub(super) fn load(
        shared: &Arc<Shared>,
        account: &AccountId,
        lines: &Arc<Lines>,
        left: &mut Duration,
        stage: Stage,
    ) -> Result<Self, LoadError> {
        let code = shared.library.code(&stage.program, left)?;
        let script = match stage.program {
            Program::Component(_) => None,
            Program::Script(text) => Some(text),
        };
        let recipe = Recipe {
            code,
            script,
            settings: stage.settings,
            speaker: Arc::new(Speaker { account: account.clone(), filter: stage.name.into(), lines: lines.clone() }),
            memory_bytes_max: shared.memory_bytes_max,
            init_deadline: shared.deadline * INIT_DEADLINES,
        };
        let loaded = Self {
            key: shared.next_stage.fetch_add(1, Ordering::Relaxed),
            recipe,
            on_fault: stage.on_fault,
            breaker: Mutex::default(),
            shared: shared.clone(),
        };
        loaded.try_start()?;
        Ok(loaded)
    }

    /// Tells the observer of an event that had a fault here.
    pub(super) fn count(&self, kind: FaultKind) {
        self.shared.observer.on_fault(&self.recipe.speaker.account, self.name(), kind);
    }

    /// What the account calls it.
    pub(super) fn name(&self) -> &Arc<str> {
        &self.recipe.speaker.filter
    }

    /// What the filter says about an event.
    pub(super) fn decide(&self, context: &Context, event: &Event) -> Result<Decision, Fault> {
        let begun = Instant::now();
        if !self.breaker().admits(begun) {
            return Err(Fault::new(FaultKind::BreakerOpen, "it failed several times in a row and is not called now"));
        }
        let called = catch_unwind(AssertUnwindSafe(|| self.call(context, event)))
            .unwrap_or_else(|_| Err(Fault::new(FaultKind::Internal, "the gateway failed while it called the filter")));
        let (ended, well) = match &called {
            Ok((Decision::Keep, start)) => (CallEnd::Pass, start.is_well()),
            Ok((Decision::Replace(_), start)) => (CallEnd::Modify, start.is_well()),
            Ok((Decision::Drop(_), start)) => (CallEnd::Drop, start.is_well()),
            Err(fault) => (CallEnd::Fault(fault.kind), fault.kind.blames_filter().then_some(false)),
        };
        let now = Instant::now();
        self.shared.observer.on_call(&self.recipe.speaker.account, self.name(), ended, now - begun);
        let changed = self.breaker().ended(well, now);
        self.report(&called, changed);
        called.map(|(decision, _)| decision)
    }

    /// Says in the log what went wrong, as one of the account's own lines, of which a second has a limit.
    fn report(&self, called: &Result<(Decision, Start), Fault>, changed: Option<Change>) {
        let Speaker { account, filter, .. } = &*self.recipe.speaker;
        let wrong = match called {
            Ok((_, Start::Wasted)) => Some(("slow start", WASTED)),
            Ok(_) => None,
            Err(fault) => Some((fault.kind.as_str(), fault.message.as_str())),
        };
        if let Some((fault, message)) = wrong.filter(|_| self.recipe.speaker.lines.may_have_one(Instant::now())) {
            tracing::warn!(target: "filter::fault", %account, %filter, %fault, "{message}");
        }
        match changed {
            Some(Change::Opened) => {
                tracing::error!(target: "filter", %account, %filter, "failed too often in a row: not called for 10 s");
            }
            Some(Change::Closed) => tracing::info!(target: "filter", %account, %filter, "works again"),
            None => {}
        }
    }

    fn call(&self, context: &Context, event: &Event) -> Result<(Decision, Start), Fault> {
        let call = Call::new(context, event);
        let (verdict, start) = match self.call_once(&call) {
            // Deadlines are wall time: the machine may have stalled instead of the filter. It is asked once more.
            Err(fault) if fault.kind == FaultKind::Deadline => self.call_once(&call)?,
            other => other?,
        };
        let decision = match verdict {
            Verdict::Pass => Decision::Keep,
            Verdict::Drop(reason) => Decision::Drop(printable(&reason, REASON_BYTES_MAX)),
            Verdict::Modify(edits) => {
                let edits: Vec<Edit> = edits.into_iter().map(Edit::from).collect();
                let mut edited = event.clone();
                match edited.apply(&edits) {
                    Ok(()) => Decision::Replace(Box::new(edited)),
                    Err(error) => return Err(Fault::new(FaultKind::BadVerdict, &error.to_string())),
                }
            }
        };
        Ok((decision, start))
    }

    fn call_once(&self, call: &Call<'_>) -> Result<(Verdict, Start), Fault> {
        let idle = self.shared.idle().take(self.key);
        let mut instance = match idle {
            Some(instance) => instance,
            None => self.start_awaited()?,
        };
        let deadline = self.shared.deadline;
        let verdict = instance.call(call, deadline);
        let start = match instance.is_worth_its_start(deadline) {
            true => Start::Worth,
            false if instance.is_reusable() => Start::NotYet,
            false => Start::Wasted,
        };
        self.keep(instance);
        Ok((verdict.map_err(|fault| self.with_limit(fault, 1))?, start))
    }

    /// Starts an instance that a request waits for.
    fn start_awaited(&self) -> Result<Instance, Fault> {
        let begun = Instant::now();
        let mut instance = self.start().map_err(|error| match error {
            NotStarted::Refused(why) => Fault::new(FaultKind::Error, &format!("init: {why}")),
            NotStarted::Fault(fault) => fault,
        })?;
        instance.was_awaited(begun.elapsed());
        Ok(instance)
    }

    /// A fault that names the limit that was hit: its value, and its key. The time is so many deadlines.
    fn with_limit(&self, fault: Fault, deadlines: u32) -> Fault {
        let limit = match fault.kind {
            FaultKind::Deadline => {
                let time = humantime::format_duration(self.shared.deadline * deadlines);
                let of = if deadlines == 1 { String::new() } else { format!("{deadlines} times ") };
                format!("took longer than {time}, {of}[filters] deadline")
            }
            FaultKind::OutOfMemory => {
                format!("wanted more than {} bytes, [filters] memory_bytes_max", self.shared.memory_bytes_max)
            }
            _ => return fault,
        };
        Fault::new(fault.kind, &format!("{limit}: {}", fault.message))
    }

    /// Starts an instance; where all room is taken, an idle one of others makes room.
    fn start(&self) -> Result<Instance, NotStarted> {
        loop {
            let started = Instance::start(&self.shared.engine, &self.recipe);
            match &started {
                Err(NotStarted::Fault(fault)) if fault.kind == FaultKind::Overloaded => {}
                _ => return started.map_err(|error| error.map(|fault| self.with_limit(fault, INIT_DEADLINES))),
            }
            let oldest = self.shared.idle().take_oldest();
            if oldest.is_none() {
                return started;
            }
        }
    }

    fn keep(&self, instance: Instance) {
        if !instance.is_reusable() {
            return;
        }
        let bytes = instance.memory_bytes();
        // The lock ends with this statement; what has to go is dropped, and its memory cleared, after it.
        let gone = self.shared.idle().put(self.key, instance, bytes, Instant::now());
        drop(gone);
    }

    /// Starts the first instance.
    fn try_start(&self) -> Result<(), LoadError> {
        let _ticking = self.shared.clock.ticking();
        let mut tries = 0;
        loop {
            tries += 1;
            // A guest that makes the engine panic is refused as one that fails.
            let started = catch_unwind(AssertUnwindSafe(|| self.start())).unwrap_or_else(|_| {
                Err(NotStarted::Fault(Fault::new(
                    FaultKind::Internal,
                    "the gateway failed while it started the filter",
                )))
            });
            match started {
                Ok(instance) => {
                    self.keep(instance);
                    return Ok(());
                }
                Err(NotStarted::Fault(fault)) if fault.kind == FaultKind::Deadline && tries < LOAD_TRIES => {}
                Err(NotStarted::Fault(Fault { kind, message })) => return Err(LoadError::InitFault { kind, message }),
                Err(NotStarted::Refused(why)) => return Err(LoadError::Refused(why)),
            }
        }
    }

    fn breaker(&self) -> std::sync::MutexGuard<'_, Breaker> {
        self.breaker.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

// === impl Start ===

impl Start {
    /// Whether a call that had a verdict was a good one for the breaker: it is bad if each one has to be started for, and
    /// makes up for none before it as long as that may be so.
    fn is_well(self) -> Option<bool> {
        match self {
            Self::Worth => Some(true),
            Self::NotYet => None,
            Self::Wasted => Some(false),
        }
    }
}

#[cfg(test)]
impl LoadedStage {
    /// Whether both run the same code.
    pub(super) fn shares_code_with(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.recipe.code, &other.recipe.code)
    }

    /// Whether their lines are counted together.
    pub(super) fn shares_lines_with(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.recipe.speaker.lines, &other.recipe.speaker.lines)
    }
}

impl Drop for LoadedStage {
    fn drop(&mut self) {
        let gone = self.shared.idle().remove_filter(self.key);
        drop(gone);
    }
}
