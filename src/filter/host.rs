//! The threads that filters run on, and all that they share.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use wasmtime::Engine;

use super::chain::Job;
use super::engine::{self, Clock, Ticker};
use super::idle::Idle;
use super::instance::Instance;
use super::library::Library;
use super::queue::FairQueue;
use super::stage::LoadedStage;
use super::state::Lines;
use super::{Chain, Observer, Options, Stage, StageError, StartError};
use crate::account::AccountId;
use crate::parallel;

/// Stack of a thread that runs filters: a guest's, and the host's beneath and above it.
const STACK_BYTES: usize = 2 << 20;
/// How often a thread without work looks for instances that nobody used for long.
const IDLE_LOOK: Duration = Duration::from_secs(10);

/// Runs the filters of all accounts. Dropping it ends its threads; chains that are still there then refuse.
pub struct FilterHost {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
    /// Stops after the threads.
    _ticker: Ticker,
}

/// What chains and threads share.
pub(super) struct Shared {
    pub(super) engine: Engine,
    pub(super) library: Library,
    pub(super) clock: Arc<Clock>,
    pub(super) observer: Arc<dyn Observer>,
    pub(super) deadline: Duration,
    pub(super) memory_bytes_max: usize,
    /// What is said of a job that waited too long.
    no_thread: String,
    pub(super) next_stage: AtomicU64,
    idle: Mutex<Idle<Instance>>,
    work: Mutex<Work>,
    /// Told when work comes in or ends.
    changed: Condvar,
    /// Jobs that wait, to be read without the lock.
    waiting: AtomicUsize,
}

struct Work {
    queue: FairQueue<Job>,
    stopping: bool,
}

// === impl FilterHost ===

impl FilterHost {
    /// Sets up the engine and starts the threads.
    ///
    /// # Errors
    /// See [`StartError`].
    pub fn start(options: Options, observer: Arc<dyn Observer>) -> Result<Self, StartError> {
        let threads = options.threads.max(1);
        let slots = engine::slots();
        let engine = engine::running(slots, options.memory_bytes_max).map_err(StartError::Engine)?;
        let ticker = Ticker::start(engine.clone()).map_err(StartError::Thread)?;
        let shared = Arc::new(Shared {
            library: Library::new(&engine, &options)?,
            engine,
            clock: ticker.clock().clone(),
            observer,
            deadline: options.deadline,
            memory_bytes_max: options.memory_bytes_max,
            no_thread: format!(
                "no thread was free within {}, [filters] wait_max",
                humantime::format_duration(options.wait_max)
            ),
            next_stage: AtomicU64::new(0),
            // Each thread needs a place for the instance it calls. A reload starts some at one time, and a check beside it.
            idle: Mutex::new(Idle::new(slots.saturating_sub(threads + 2 * parallel::cores()).max(slots / 2))),
            work: Mutex::new(Work { queue: FairQueue::new(threads, options.wait_max), stopping: false }),
            changed: Condvar::new(),
            waiting: AtomicUsize::new(0),
        });
        let mut host = Self { shared, threads: Vec::with_capacity(threads), _ticker: ticker };
        for n in 0..threads {
            let shared = host.shared.clone();
            let thread = thread::Builder::new().name(format!("filter-{n}")).stack_size(STACK_BYTES);
            host.threads.push(thread.spawn(move || shared.work()).map_err(StartError::Thread)?);
        }
        Ok(host)
    }

    /// Loads the filters of an account: compiles what is new, for as long as an account may take, and starts each once with
    /// its settings. Blocks, for seconds where something is compiled, so never on a request.
    ///
    /// # Errors
    /// What is wrong with each stage that cannot be loaded.
    pub fn compile(&self, account: &AccountId, stages: Vec<Stage>) -> Result<Chain, Vec<StageError>> {
        let (mut loaded, mut errors) = (Vec::with_capacity(stages.len()), Vec::new());
        let (lines, mut left) = (Arc::new(Lines::new()), self.shared.library.account_time());
        for stage in stages {
            let name = stage.name.clone();
            match LoadedStage::load(&self.shared, account, &lines, &mut left, stage) {
                Ok(stage) => loaded.push(stage),
                Err(error) => errors.push(StageError { stage: name, error }),
            }
        }
        if errors.is_empty() { Ok(Chain::new(account.clone(), loaded, self.shared.clone())) } else { Err(errors) }
    }

    /// Removes compiled code that nobody uses, if there is too much of it. To be called once all accounts are compiled: what of
    /// them is not loaded yet counts as unused. Blocks while the folder is read.
    pub fn tidy(&self) {
        self.shared.library.tidy();
    }
}

impl Drop for FilterHost {
    fn drop(&mut self) {
        self.shared.lock_work().stopping = true;
        self.shared.changed.notify_all();
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

// === impl Shared ===

impl Shared {
    /// Gives a job to the threads; gives it back if they take no more of this account.
    pub(super) fn put(&self, account: &AccountId, job: Job) -> Result<(), Job> {
        let mut work = self.lock_work();
        if work.stopping {
            return Err(job);
        }
        work.queue.put(account, job, Instant::now())?;
        self.waiting.fetch_add(1, Ordering::Relaxed);
        drop(work);
        self.changed.notify_one();
        Ok(())
    }

    /// The idle instances. What leaves them should be dropped after the lock.
    pub(super) fn idle(&self) -> MutexGuard<'_, Idle<Instance>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lock_work(&self) -> MutexGuard<'_, Work> {
        self.work.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A thread's life.
    fn work(&self) {
        while let Some((account, job)) = self.next() {
            let begun = Instant::now();
            let ticking = self.clock.ticking();
            let advanced = catch_unwind(AssertUnwindSafe(|| job.advance(|ran| self.should_pause(&account, ran))));
            drop(ticking);
            let rest = advanced.unwrap_or_else(|_| {
                tracing::error!(target: "filter", %account, "a filter thread panicked; the request is refused");
                None
            });
            let refused = {
                let mut work = self.lock_work();
                work.queue.ended(&account, begun.elapsed());
                rest.and_then(|job| self.put_back(&mut work, &account, job))
            };
            if let Some(job) = refused {
                job.give_up("too many requests of this account wait already");
            }
        }
    }

    /// Puts back what is left of a job, also while stopping.
    fn put_back(&self, work: &mut Work, account: &AccountId, job: Job) -> Option<Job> {
        let refused = work.queue.put(account, job, Instant::now()).err();
        if refused.is_none() {
            self.waiting.fetch_add(1, Ordering::Relaxed);
            self.changed.notify_one();
        }
        refused
    }

    /// Whether a job that ran so long should make room: for others, and after a deadline's time.
    fn should_pause(&self, account: &AccountId, ran: Duration) -> bool {
        ran >= self.deadline && self.waiting.load(Ordering::Relaxed) > 0 && self.lock_work().queue.others_wait(account)
    }

    /// The next job; waits for one. `None` = there is none and will be none.
    fn next(&self) -> Option<(AccountId, Job)> {
        let mut work = self.lock_work();
        loop {
            let overdue = work.queue.overdue(Instant::now());
            if !overdue.is_empty() {
                drop(work);
                self.waiting.fetch_sub(overdue.len(), Ordering::Relaxed);
                overdue.into_iter().for_each(|job| job.give_up(&self.no_thread));
                work = self.lock_work();
                continue;
            }
            if let Some(taken) = work.queue.take() {
                self.waiting.fetch_sub(1, Ordering::Relaxed);
                return Some(taken);
            }
            if work.stopping && work.queue.is_empty() {
                // Threads that could not take the last jobs still wait for their end.
                self.changed.notify_all();
                return None;
            }
            let until_overdue = work.queue.next_overdue().map(|at| at.saturating_duration_since(Instant::now()));
            let waited = self.changed.wait_timeout(work, until_overdue.unwrap_or(IDLE_LOOK));
            let (again, timeout) = waited.unwrap_or_else(PoisonError::into_inner);
            work = again;
            if timeout.timed_out() {
                drop(work);
                let expired = self.idle().expire(Instant::now());
                drop(expired);
                work = self.lock_work();
            }
        }
    }
}
