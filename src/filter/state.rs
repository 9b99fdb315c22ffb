//! What the gateway keeps beside a guest: how much it may still take, and what it says.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use wasmtime::ResourceLimiter;

use super::bindings::host::Level;
use super::engine::{CORE_INSTANCES_MAX, MEMORIES_MAX, TABLE_ELEMENTS_MAX, TABLES_MAX};
use super::fault::printable;
use crate::account::AccountId;

/// Bytes of a line of the log.
const LINE_BYTES_MAX: usize = 1_024;
/// Lines of one call.
const LINES_PER_CALL_MAX: usize = 20;
/// Lines of one account's filters in a second, so that one that always logs doesn't fill the disk of all, or take the rate
/// that journald allows the gateway (333).
const LINES_PER_SECOND_MAX: u32 = 200;

/// The data of a guest's store.
pub(super) struct State {
    memory: Memory,
    log: Log,
}

/// The memory of one instance.
struct Memory {
    bytes: usize,
    bytes_max: usize,
    refused: bool,
}

/// The lines of one call.
struct Log {
    speaker: Arc<Speaker>,
    lines: usize,
    last_error: Option<String>,
}

/// Whose lines these are.
#[derive(Debug)]
pub(super) struct Speaker {
    pub(super) account: AccountId,
    pub(super) filter: Arc<str>,
    /// Those of all filters of the account.
    pub(super) lines: Arc<Lines>,
}

/// How many lines an account's filters wrote of late.
#[derive(Debug)]
pub(super) struct Lines {
    /// The second that is counted, and its lines.
    second: Mutex<(Instant, u32)>,
}

// === impl State ===

impl State {
    pub(super) fn new(speaker: Arc<Speaker>, memory_bytes_max: usize) -> Self {
        Self {
            memory: Memory { bytes: 0, bytes_max: memory_bytes_max, refused: false },
            log: Log { speaker, lines: 0, last_error: None },
        }
    }

    /// A call begins: what is counted per call begins anew.
    pub(super) fn begin_call(&mut self) {
        self.memory.refused = false;
        self.log.lines = 0;
        self.log.last_error = None;
    }

    /// Bytes of linear memory that the instance has.
    pub(super) fn memory_bytes(&self) -> usize {
        self.memory.bytes
    }

    /// Whether this call was refused memory.
    pub(super) fn memory_refused(&self) -> bool {
        self.memory.refused
    }

    /// What the guest last logged as an error in this call.
    pub(super) fn last_error(&self) -> Option<&str> {
        self.log.last_error.as_deref()
    }
}

impl super::bindings::types::Host for State {}

impl super::bindings::host::Host for State {
    fn log(&mut self, level: Level, message: String) {
        self.log.line(level, &message);
    }
}

impl ResourceLimiter for State {
    fn memory_growing(&mut self, current: usize, desired: usize, _: Option<usize>) -> wasmtime::Result<bool> {
        let bytes = self.memory.bytes.saturating_sub(current).saturating_add(desired);
        if bytes > self.memory.bytes_max {
            self.memory.refused = true;
            return Ok(false);
        }
        self.memory.bytes = bytes;
        Ok(true)
    }

    fn memory_grow_failed(&mut self, _: wasmtime::Error) -> wasmtime::Result<()> {
        self.memory.refused = true;
        Ok(())
    }

    fn table_growing(&mut self, _: usize, desired: usize, _: Option<usize>) -> wasmtime::Result<bool> {
        Ok(desired <= TABLE_ELEMENTS_MAX)
    }

    fn instances(&self) -> usize {
        CORE_INSTANCES_MAX as usize
    }

    fn tables(&self) -> usize {
        TABLES_MAX as usize
    }

    fn memories(&self) -> usize {
        MEMORIES_MAX as usize
    }
}

// === impl Log ===

impl Log {
    fn line(&mut self, level: Level, message: &str) {
        self.lines += 1;
        if self.lines > LINES_PER_CALL_MAX + 1 {
            return;
        }
        if self.lines > LINES_PER_CALL_MAX {
            return self.speaker.say(Level::Warn, "further lines of this call are left out");
        }
        let line = printable(message, LINE_BYTES_MAX);
        self.speaker.say(level, &line);
        if level == Level::Error {
            self.last_error =
                Some(message.get(..message.floor_char_boundary(LINE_BYTES_MAX)).unwrap_or_default().to_owned());
        }
    }
}

// === impl Speaker ===

impl Speaker {
    fn say(&self, level: Level, line: &str) {
        if !self.lines.may_have_one(Instant::now()) {
            return;
        }
        let (account, filter) = (&self.account, &self.filter);
        match level {
            Level::Debug => tracing::debug!(target: "filter", %account, %filter, "{line}"),
            Level::Info => tracing::info!(target: "filter", %account, %filter, "{line}"),
            Level::Warn => tracing::warn!(target: "filter", %account, %filter, "{line}"),
            Level::Error => tracing::error!(target: "filter", %account, %filter, "{line}"),
        }
    }
}

// === impl Lines ===

impl Lines {
    pub(super) fn new() -> Self {
        Self { second: Mutex::new((Instant::now(), 0)) }
    }

    /// Counts a line, and says whether it may be written.
    pub(super) fn may_have_one(&self, now: Instant) -> bool {
        let mut second = self.second.lock().unwrap_or_else(PoisonError::into_inner);
        if now.saturating_duration_since(second.0) >= Duration::from_secs(1) {
            *second = (now, 0);
        }
        second.1 = second.1.saturating_add(1);
        second.1 <= LINES_PER_SECOND_MAX
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn state() -> State {
        let lines = Arc::new(Lines::new());
        State::new(Arc::new(Speaker { account: "shop".parse().unwrap(), filter: "consent".into(), lines }), 1_000)
    }

    #[test]
    fn the_memories_of_an_instance_share_one_limit_and_a_refusal_is_noted() {
        let mut state = state();
        assert!(state.memory_growing(0, 600, None).unwrap());
        assert!(state.memory_growing(0, 400, None).unwrap());
        assert!(!state.memory_refused());
        assert!(!state.memory_growing(600, 601, None).unwrap());
        assert!(state.memory_refused() && state.memory_bytes() == 1_000);
        state.begin_call();
        assert!(!state.memory_refused());
    }

    #[test]
    fn a_second_has_a_limit_of_lines() {
        let (lines, now) = (Lines::new(), Instant::now());
        assert_eq!((0..1_000).filter(|_| lines.may_have_one(now)).count(), LINES_PER_SECOND_MAX as usize);
        assert!(lines.may_have_one(now + Duration::from_secs(1)));
    }

    #[test]
    fn the_last_error_of_a_call_is_remembered() {
        let mut state = state();
        state.log.line(Level::Error, "panicked at\nline 3");
        state.log.line(Level::Info, "bye");
        assert_eq!(state.last_error(), Some("panicked at\nline 3"));
        (0..100).for_each(|_| state.log.line(Level::Error, "late"));
        assert_eq!(state.last_error(), Some("late"));
        state.begin_call();
        assert_eq!(state.last_error(), None);
    }
}
