//! The engine: which instructions exist, how much room there is for instances, and the clock that cuts calls off.

use std::num::NonZeroUsize;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread::{self, JoinHandle, Thread};
use std::time::Duration;

use wasmtime::{Config, Enabled, Engine, PoolingAllocationConfig, WasmFeatures};

/// One step of the clock that deadlines are counted in.
const TICK: Duration = Duration::from_millis(1);
/// Ticks without a call after which the clock stops until the next call.
const IDLE_TICKS_MAX: u32 = 100;

/// Instances that may be there at one time where memory mappings allow it.
const SLOTS_MAX: usize = 1_024;
/// Fewer are of no use.
const SLOTS_MIN: usize = 64;
/// Memory mappings of a slot that was used once: they stay (measured; docs of `PoolingAllocationConfig`).
const MAPPINGS_PER_SLOT: usize = 4;
/// Memory mappings of a loaded component's code.
const MAPPINGS_PER_COMPONENT: usize = 3;
/// Distinct components that we leave mappings for.
const COMPONENTS_EXPECTED: usize = 5_000;
/// Memory mappings of the rest of the process.
const MAPPINGS_OF_OTHERS: usize = 2_000;
/// What Linux allows a process by default.
const MAPPINGS_DEFAULT: usize = 65_530;

/// Stack of a guest, of the 2 MiB that a thread has.
const WASM_STACK_BYTES: usize = 512 << 10;
/// Address space around each memory that makes bounds checks needless: all that 32 bits reach, and a guard.
const RESERVED_BYTES: u64 = 4 << 30;
const GUARD_BYTES: u64 = 32 << 20;

/// What an instance may consist of. A script's runner has 13 core instances and 3 memories.
pub(super) const CORE_INSTANCES_MAX: u32 = 32;
pub(super) const MEMORIES_MAX: u32 = 4;
pub(super) const TABLES_MAX: u32 = 16;
pub(super) const TABLE_ELEMENTS_MAX: usize = 20_000;

/// An engine that only compiles; its code fits the engine of [`running`].
pub(super) fn compiling() -> wasmtime::Result<Engine> {
    Engine::new(&settings())
}

/// An engine that runs up to `slots` instances at one time, each memory of at most `memory_bytes_max`.
pub(super) fn running(slots: usize, memory_bytes_max: usize) -> wasmtime::Result<Engine> {
    let slots = u32::try_from(slots).unwrap_or(u32::MAX);
    let mut pool = PoolingAllocationConfig::new();
    pool.total_component_instances(slots)
        .total_core_instances(slots.saturating_mul(16))
        .total_memories(slots.saturating_mul(3))
        .total_tables(slots.saturating_mul(8))
        .max_core_instances_per_component(CORE_INSTANCES_MAX)
        .max_memories_per_component(MEMORIES_MAX)
        .max_tables_per_component(TABLES_MAX)
        .table_elements(TABLE_ELEMENTS_MAX)
        .max_memory_size(memory_bytes_max)
        .max_component_instance_size(1 << 20)
        .max_core_instance_size(1 << 20)
        // What a call touches stays in memory and is cleared, instead of being given back and faulted in again: half
        // the time of a fresh call.
        .linear_memory_keep_resident(256 << 10)
        .table_keep_resident(64 << 10)
        .pagemap_scan(Enabled::Auto)
        .max_unused_warm_slots(100);
    Engine::new(settings().allocation_strategy(pool))
}

/// How many instances fit beside everything else, by the memory mappings that the system allows a process.
pub(super) fn slots() -> usize {
    let allowed = std::fs::read_to_string("/proc/sys/vm/max_map_count").ok();
    let mappings = allowed.and_then(|text| text.trim().parse().ok()).unwrap_or(MAPPINGS_DEFAULT);
    let slots = slots_within(mappings);
    let limited = slots < SLOTS_MAX;
    tracing::info!(slots, mappings, limited, "room for filter instances (vm.max_map_count)");
    slots
}

fn slots_within(mappings: usize) -> usize {
    let of_others = MAPPINGS_OF_OTHERS + MAPPINGS_PER_COMPONENT * COMPONENTS_EXPECTED;
    (mappings.saturating_sub(of_others) / MAPPINGS_PER_SLOT).clamp(SLOTS_MIN, SLOTS_MAX)
}

/// All that compiled code depends on.
fn settings() -> Config {
    let mut config = Config::new();
    config
        .epoch_interruption(true)
        .max_wasm_stack(WASM_STACK_BYTES)
        .memory_reservation(RESERVED_BYTES)
        .memory_reservation_for_growth(0)
        .memory_guard_size(GUARD_BYTES)
        .wasm_backtrace_max_frames(NonZeroUsize::new(8))
        .debug_info(false)
        .parallel_compilation(true);
    // What no filter needs is not there to be attacked. Multi-memory and tail calls stay: calls between the parts of a
    // component, and QuickJS, are made with them.
    let off = WasmFeatures::THREADS
        | WasmFeatures::SIMD
        | WasmFeatures::RELAXED_SIMD
        | WasmFeatures::MEMORY64
        | WasmFeatures::GC
        | WasmFeatures::FUNCTION_REFERENCES
        | WasmFeatures::EXCEPTIONS
        | WasmFeatures::STACK_SWITCHING
        | WasmFeatures::WIDE_ARITHMETIC
        | WasmFeatures::CUSTOM_PAGE_SIZES
        | WasmFeatures::CM_ASYNC;
    config.wasm_features(off, false);
    config
}

/// The clock: a thread that moves the engine's epoch on while calls are under way.
pub(super) struct Ticker {
    clock: Arc<Clock>,
    thread: Option<JoinHandle<()>>,
}

/// What the clock's thread and its users share.
pub(super) struct Clock {
    engine: Engine,
    /// Calls under way.
    calls: AtomicUsize,
    asleep: AtomicBool,
    stopping: AtomicBool,
    thread: OnceLock<Thread>,
}

/// As long as it lives the clock runs.
pub(super) struct Ticking<'a>(&'a Clock);

// === impl Ticker ===

impl Ticker {
    pub(super) fn start(engine: Engine) -> std::io::Result<Self> {
        let clock = Arc::new(Clock {
            engine,
            calls: AtomicUsize::new(0),
            asleep: AtomicBool::new(false),
            stopping: AtomicBool::new(false),
            thread: OnceLock::new(),
        });
        let ours = clock.clone();
        let thread = thread::Builder::new().name("filter-clock".to_owned()).spawn(move || ours.run())?;
        let _ = clock.thread.set(thread.thread().clone());
        Ok(Self { clock, thread: Some(thread) })
    }

    pub(super) fn clock(&self) -> &Arc<Clock> {
        &self.clock
    }
}

impl Drop for Ticker {
    fn drop(&mut self) {
        self.clock.stopping.store(true, Ordering::SeqCst);
        if let Some(thread) = self.thread.take() {
            thread.thread().unpark();
            let _ = thread.join();
        }
    }
}

// === impl Clock ===

impl Clock {
    /// Makes the clock run for a call.
    pub(super) fn ticking(&self) -> Ticking<'_> {
        self.calls.fetch_add(1, Ordering::SeqCst);
        if self.asleep.load(Ordering::SeqCst)
            && let Some(thread) = self.thread.get()
        {
            thread.unpark();
        }
        Ticking(self)
    }

    /// A time in ticks, never less than it: one more, since the present tick has already begun.
    pub(super) fn ticks(time: Duration) -> u64 {
        u64::try_from(time.as_micros().div_ceil(TICK.as_micros())).unwrap_or(u64::MAX - 1) + 1
    }

    fn run(&self) {
        let mut idle_ticks = 0;
        while !self.stopping.load(Ordering::SeqCst) {
            idle_ticks = if self.calls.load(Ordering::SeqCst) == 0 { idle_ticks + 1 } else { 0 };
            if idle_ticks > IDLE_TICKS_MAX {
                self.sleep();
                idle_ticks = 0;
            }
            #[expect(clippy::disallowed_methods, reason = "a clock has nothing to wait for but time")]
            thread::sleep(TICK);
            self.engine.increment_epoch();
        }
    }

    /// Sleeps until a call begins. A call counts itself before it looks whether we sleep, and we say that we sleep
    /// before we look whether a call is counted: so one of the two sees the other.
    fn sleep(&self) {
        self.asleep.store(true, Ordering::SeqCst);
        while self.calls.load(Ordering::SeqCst) == 0 && !self.stopping.load(Ordering::SeqCst) {
            thread::park();
        }
        self.asleep.store(false, Ordering::SeqCst);
    }
}

// === impl Ticking ===

impl Drop for Ticking<'_> {
    fn drop(&mut self) {
        self.0.calls.fetch_sub(1, Ordering::SeqCst);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_leave_room_for_code_and_the_rest() {
        assert_eq!(slots_within(MAPPINGS_DEFAULT), SLOTS_MAX);
        assert_eq!(slots_within(20_000), 750);
        assert_eq!(slots_within(1_000), SLOTS_MIN);
    }

    #[test]
    fn a_deadline_is_never_shortened() {
        assert_eq!(Clock::ticks(Duration::from_millis(5)), 6);
        assert_eq!(Clock::ticks(Duration::from_micros(5_001)), 7);
    }

    #[test]
    fn code_of_the_compiling_engine_fits_the_running_one() {
        #![allow(clippy::unwrap_used)]
        use std::hash::{DefaultHasher, Hash, Hasher};
        let hash = |engine: &Engine| {
            let mut hasher = DefaultHasher::new();
            engine.precompile_compatibility_hash().hash(&mut hasher);
            hasher.finish()
        };
        assert_eq!(hash(&compiling().unwrap()), hash(&running(64, 16 << 20).unwrap()));
    }
}
