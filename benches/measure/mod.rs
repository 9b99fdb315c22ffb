//! What benchmarks of whole processes and of certificates measure with.

use std::process::ExitCode;
use std::time::Instant;

/// What was promised of figures, and whether all of it holds.
#[derive(Default)]
pub(crate) struct Promises {
    missed: usize,
}

// === impl Promises ===

impl Promises {
    /// Prints whether a figure is as small as was promised.
    pub(crate) fn at_most(&mut self, what: &str, figure: f64, most: f64) {
        let holds = figure <= most;
        self.missed += usize::from(!holds);
        println!("{what}: {figure:.2}, at most {most}: {}", if holds { "holds" } else { "missed" });
    }

    /// How the program ends: badly if a promise was missed.
    pub(crate) fn end(self) -> ExitCode {
        if self.missed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
    }
}

/// Does work on all cores.
pub(crate) fn in_threads<T: Sync>(items: &[T], work: impl Fn(&T) + Sync) {
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let work = &work;
    std::thread::scope(|scope| {
        for part in items.chunks(items.len().div_ceil(threads).max(1)) {
            scope.spawn(move || part.iter().for_each(work));
        }
    });
}

/// Milliseconds since then.
pub(crate) fn ms(begun: Instant) -> f64 {
    begun.elapsed().as_secs_f64() * 1e3
}

/// Bytes of a process that are in memory.
pub(crate) fn resident(process: u32) -> u64 {
    let pages = std::fs::read_to_string(format!("/proc/{process}/statm")).expect("procfs");
    pages.split_whitespace().nth(1).and_then(|pages| pages.parse::<u64>().ok()).unwrap_or(0) * 4_096
}

/// CPU seconds that a process used.
pub(crate) fn cpu_seconds(process: u32) -> f64 {
    let ticks = std::fs::read_to_string(format!("/proc/{process}/stat")).expect("procfs");
    // utime and stime, 100 ticks a second (proc_pid_stat(5)); the name before them is in parentheses.
    let fields = ticks.rsplit(')').next().expect("fields").split_whitespace();
    fields.skip(11).take(2).filter_map(|field| field.parse::<f64>().ok()).sum::<f64>() / 100.0
}
