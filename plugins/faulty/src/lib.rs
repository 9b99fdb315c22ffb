//! A filter that misbehaves as its settings say: the gateway's tests hold it against every limit. `faulty.js` beside
//! this crate does the same as a script.
//!
//! `{ "do": "loop", "when": "Loop" }` loops at events named `Loop` and passes all others; without `when` at every event.

use std::hint::black_box;

use pixelgate_filter::{Context, Edit, Event, Filter, Level, Verdict, export, log};
use serde::Deserialize;

/// The settings, and what the filter keeps.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Faulty {
    /// What it does.
    #[serde(rename = "do")]
    behaviour: Behaviour,
    /// At which events; absent = at all.
    when: Option<String>,
    /// For `spin`: rounds of a loop, about 1,000 a microsecond.
    #[serde(default)]
    rounds: u64,
    #[serde(skip)]
    hoard: Vec<Vec<u8>>,
}

#[derive(Clone, Copy, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Behaviour {
    /// Passes the event.
    Pass,
    /// Drops it, reason `told to`.
    Drop,
    /// Sets `custom_data.touched` to true.
    Modify,
    /// Never comes back.
    Loop,
    /// Panics.
    Panic,
    /// Keeps 100 kB more at each call.
    Hoard,
    /// Takes 32 MiB in one call, twice what an instance may have.
    Devour,
    /// Calls itself until the stack ends.
    Recurse,
    /// Answers with an error.
    Error,
    /// Logs 1,000 lines of 4 KiB.
    LogFlood,
    /// 65 edits, one more than are allowed.
    ManyEdits,
    /// A value of 5 KiB, where 4 are allowed.
    LongValue,
    /// Sets `event_id`.
    ForbiddenPath,
    /// Refuses its settings.
    InitError,
    /// Never comes back from `init`.
    InitLoop,
    /// Works for a while, see `rounds`, then passes the event.
    Spin,
}

impl Filter for Faulty {
    type Settings = Self;

    fn init(settings: Self) -> Result<Self, String> {
        match settings.behaviour {
            Behaviour::InitError => Err("told to refuse its settings".to_owned()),
            Behaviour::InitLoop => spin_for_ever(),
            _ => Ok(settings),
        }
    }

    fn filter(&mut self, _context: &Context, event: &Event) -> Result<Verdict, String> {
        if self.when.as_ref().is_some_and(|name| *name != event.event_name) {
            return Ok(Verdict::Pass);
        }
        let touch = |key: &str| Edit::set(format!("custom_data.{key}"), true);
        match self.behaviour {
            Behaviour::Pass | Behaviour::InitError | Behaviour::InitLoop => {}
            Behaviour::Drop => return Ok(Verdict::drop("told to")),
            Behaviour::Modify => return Ok(Verdict::modify(vec![touch("touched")])),
            Behaviour::Loop => spin_for_ever(),
            #[allow(clippy::panic)]
            Behaviour::Panic => panic!("told to panic"),
            Behaviour::Hoard => self.hoard.push(vec![1; 100_000]),
            Behaviour::Devour => self.hoard.push(vec![1; 32 << 20]),
            Behaviour::Recurse => _ = recurse(1),
            Behaviour::Error => return Err("told to fail".to_owned()),
            Behaviour::LogFlood => (0..1_000).for_each(|_| log(Level::Warn, "flood ".repeat(683))),
            Behaviour::ManyEdits => return Ok(Verdict::modify((0..65).map(|n| touch(&format!("key_{n}"))).collect())),
            Behaviour::LongValue => {
                return Ok(Verdict::modify(vec![Edit::set("custom_data.long", "x".repeat(5 * 1024))]));
            }
            Behaviour::ForbiddenPath => return Ok(Verdict::modify(vec![Edit::set("event_id", "another")])),
            Behaviour::Spin => (0..self.rounds).for_each(|round| _ = black_box(round)),
        }
        Ok(Verdict::Pass)
    }
}

export!(Faulty);

fn spin_for_ever() -> ! {
    loop {
        black_box(());
    }
}

#[allow(unconditional_recursion)]
fn recurse(depth: u64) -> u64 {
    black_box(recurse(black_box(depth) + 1)) + 1
}
