//! What can go wrong with one event, and how an error of the engine is told apart.

use std::fmt;

use wasmtime::{PoolConcurrencyLimitError, Trap};

/// Bytes of a message that are kept.
const MESSAGE_BYTES_MAX: usize = 1_024;

/// The kinds of fault. Its text is part of a held event's reason and a metric's label, so it stays the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FaultKind {
    /// The call took longer than its deadline, twice.
    Deadline,
    /// The filter asked for more memory than an instance gets.
    OutOfMemory,
    /// The code trapped: a panic, an endless recursion, an access out of bounds.
    Trap,
    /// The filter answered with an error; a script threw.
    Error,
    /// The verdict is none: an edit that is not allowed, too many of them, or more data than a verdict may have.
    BadVerdict,
    /// No thread was free in time, or the request used up its time.
    Overloaded,
    /// The filter failed several times in a row and is not called for some seconds.
    BreakerOpen,
    /// The gateway itself failed.
    Internal,
}

/// One fault: its kind, and what is known beside.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Fault {
    pub(super) kind: FaultKind,
    /// For the account's people; printable, at most 1 KiB.
    pub(super) message: String,
}

// === impl FaultKind ===

impl FaultKind {
    /// The text of this kind.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Deadline => "deadline",
            Self::OutOfMemory => "out of memory",
            Self::Trap => "trap",
            Self::Error => "error",
            Self::BadVerdict => "bad verdict",
            Self::Overloaded => "overloaded",
            Self::BreakerOpen => "breaker open",
            Self::Internal => "internal",
        }
    }

    /// Whether the filter is to blame, so that it counts for the breaker.
    pub(super) fn blames_filter(self) -> bool {
        !matches!(self, Self::Overloaded | Self::BreakerOpen)
    }
}

impl fmt::Display for FaultKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

// === impl Fault ===

impl Fault {
    pub(super) fn new(kind: FaultKind, message: &str) -> Self {
        Self { kind, message: printable(message, MESSAGE_BYTES_MAX) }
    }

    /// Tells an error of the engine apart. `memory_refused`: whether the call was refused memory, which guests answer
    /// with all kinds of traps. `last_error`: what the guest logged as an error before, often the text of its panic.
    pub(super) fn of_engine(error: &wasmtime::Error, memory_refused: bool, last_error: Option<&str>) -> Self {
        let trap = error.downcast_ref::<Trap>();
        let kind = match trap {
            _ if error.is::<PoolConcurrencyLimitError>() => FaultKind::Overloaded,
            Some(Trap::Interrupt) => FaultKind::Deadline,
            _ if memory_refused => FaultKind::OutOfMemory,
            Some(_) => FaultKind::Trap,
            // Not the code failed but the taking of its values: not UTF-8, out of range, more than may be copied.
            None => FaultKind::BadVerdict,
        };
        let text = match trap {
            Some(trap) => trap.to_string(),
            None => error.root_cause().to_string(),
        };
        match last_error {
            Some(logged) => Self::new(kind, &format!("{text}; it had logged: {logged}")),
            None => Self::new(kind, &text),
        }
    }
}

/// A text of at most `bytes_max` bytes that does no harm in a log or a terminal: what is not printable is escaped.
pub(super) fn printable(text: &str, bytes_max: usize) -> String {
    let mut made = String::with_capacity(text.len().min(bytes_max));
    for c in text.chars() {
        let before = made.len();
        match c {
            '"' | '\'' => made.push(c),
            _ => made.extend(c.escape_debug()),
        }
        if made.len() > bytes_max {
            made.truncate(before);
            break;
        }
    }
    made
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_does_not_print_is_escaped_and_the_rest_is_cut() {
        assert_eq!(printable("a\n\u{1b}[31m\u{202e}é\"x\"", 100), "a\\n\\u{1b}[31m\\u{202e}é\"x\"");
        assert_eq!(printable("ééé", 5), "éé");
        assert_eq!(printable("ab\n", 3), "ab");
    }

    #[test]
    fn refused_memory_is_told_from_a_bug() {
        let unreachable = wasmtime::Error::from(Trap::UnreachableCodeReached);
        assert_eq!(Fault::of_engine(&unreachable, true, None).kind, FaultKind::OutOfMemory);
        let fault = Fault::of_engine(&unreachable, false, Some("panicked at 'no such key'"));
        assert_eq!(fault.kind, FaultKind::Trap);
        assert!(fault.message.contains("no such key"), "{}", fault.message);
        assert_eq!(Fault::of_engine(&Trap::Interrupt.into(), true, None).kind, FaultKind::Deadline);
    }
}
