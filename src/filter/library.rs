//! Programs ready to be started: each file compiled once, whatever number of accounts use it.

use std::collections::{HashMap, HashSet};
use std::path::PathBuf;
use std::sync::{Arc, Condvar, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};

use wasmtime::Engine;
use wasmtime::component::{Component, HasSelf, Linker};

use super::bindings::{Filter, FilterPre, ScriptRunnerPre};
use super::cache::{Cache, ContentHash, content_hash, load_fresh};
use super::component::{World, inspect};
use super::state::State;
use super::{Compiler, LoadError, Options, Program, StartError};

/// Entries of the map by content before those that nobody uses are swept.
const SWEEP_MIN: usize = 64;

/// How long a component that could not be compiled is not tried again: a busy machine may have been the reason.
const FAILED: Duration = Duration::from_secs(600);

/// Components that are compiled at one time: a compiler takes hundreds of MB for a large one, and has its time by the clock.
const AT_ONCE_MAX: usize = 2;

/// Time for compiling all that is new of an account at a reload, in times for one component: others wait for the reload.
const ACCOUNT_TIMEOUTS: u32 = 4;

/// Where programs come from.
pub(super) struct Library {
    engine: Engine,
    linker: Linker<State>,
    cache: Option<Cache>,
    compiler: Compiler,
    compile_timeout: Duration,
    file_bytes_max: u64,
    runner_path: PathBuf,
    components: Mutex<Components>,
    /// The runner of scripts, once a script was met.
    runner: Mutex<Option<Arc<Code>>>,
    /// What is being compiled. Who wants the same waits for it, and so does who would be one too many.
    begun: Mutex<HashSet<ContentHash>>,
    /// Told when something of it is done.
    done: Condvar,
    /// What could not be compiled, and until when that is believed.
    failed: Mutex<HashMap<ContentHash, (LoadError, Instant)>>,
}

/// A component that is being compiled, for as long as this lives.
struct Begun<'a> {
    library: &'a Library,
    hash: ContentHash,
}

/// What accounts use now, by content.
struct Components {
    by_hash: HashMap<ContentHash, Weak<Code>>,
    /// The runner of scripts, once it was met.
    runner: Option<ContentHash>,
    sweep_at: usize,
}

/// Compiled code with its imports bound: all that is left is to make instances of it.
pub(super) enum Code {
    /// A filter of its own.
    Filter(FilterPre<State>),
    /// The runner, for all scripts.
    ScriptRunner(ScriptRunnerPre<State>),
}

// === impl Library ===

impl Library {
    pub(super) fn new(engine: &Engine, options: &Options) -> Result<Self, StartError> {
        let mut linker = Linker::new(engine);
        Filter::add_to_linker::<_, HasSelf<_>>(&mut linker, |state| state).map_err(StartError::Engine)?;
        Ok(Self {
            engine: engine.clone(),
            linker,
            cache: options.cache_dir.as_deref().map(|dir| Cache::open(dir, engine)).transpose()?,
            compiler: options.compiler.clone(),
            compile_timeout: options.compile_timeout,
            file_bytes_max: options.file_bytes_max,
            runner_path: options.script_runner.clone(),
            components: Mutex::new(Components { by_hash: HashMap::new(), runner: None, sweep_at: SWEEP_MIN }),
            runner: Mutex::default(),
            begun: Mutex::default(),
            done: Condvar::new(),
            failed: Mutex::default(),
        })
    }

    /// The time that an account has for compiling at one reload.
    pub(super) fn account_time(&self) -> Duration {
        self.compile_timeout * ACCOUNT_TIMEOUTS
    }

    /// The code that runs a program. Takes seconds where it was never compiled before, which are taken off what is `left` to
    /// the account.
    pub(super) fn code(&self, program: &Program, left: &mut Duration) -> Result<Arc<Code>, LoadError> {
        let bytes = match program {
            Program::Component(bytes) => bytes.len(),
            Program::Script(text) => text.len(),
        };
        if bytes as u64 > self.file_bytes_max {
            return Err(LoadError::TooLarge { bytes, bytes_max: self.file_bytes_max });
        }
        match program {
            Program::Component(bytes) => self.component(bytes, left),
            Program::Script(_) => self.script_runner(),
        }
    }

    fn component(&self, bytes: &[u8], left: &mut Duration) -> Result<Arc<Code>, LoadError> {
        let hash = content_hash(bytes);
        if let Some(code) = self.in_use(&hash) {
            return Ok(code);
        }
        inspect(bytes, World::Filter)?;
        let component = match self.kept(&hash) {
            Some(component) => component,
            None => {
                let begun = self.begin(hash);
                // Another account with the same file may have been first.
                if let Some(code) = self.in_use(&hash) {
                    return Ok(code);
                }
                self.compiled(&begun, bytes, left)?
            }
        };
        let bound = self.linker.instantiate_pre(&component).and_then(FilterPre::new).map_err(LoadError::invalid)?;
        let code = Arc::new(Code::Filter(bound));
        let mut components = self.components.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(components.insert(hash, code))
    }

    fn begin(&self, hash: ContentHash) -> Begun<'_> {
        let begun = self.begun.lock().unwrap_or_else(PoisonError::into_inner);
        let must_wait = |begun: &mut HashSet<_>| begun.len() >= AT_ONCE_MAX || begun.contains(&hash);
        let mut begun = self.done.wait_while(begun, must_wait).unwrap_or_else(PoisonError::into_inner);
        begun.insert(hash);
        Begun { library: self, hash }
    }

    fn kept(&self, hash: &ContentHash) -> Option<Component> {
        self.cache.as_ref()?.load(&self.engine, hash)
    }

    fn in_use(&self, hash: &ContentHash) -> Option<Arc<Code>> {
        let components = self.components.lock().unwrap_or_else(PoisonError::into_inner);
        components.by_hash.get(hash)?.upgrade()
    }

    fn script_runner(&self) -> Result<Arc<Code>, LoadError> {
        let mut runner = self.runner.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(code) = &*runner {
            return Ok(code.clone());
        }
        let path = || self.runner_path.clone();
        let bytes =
            std::fs::read(&self.runner_path).map_err(|error| LoadError::RunnerUnreadable { path: path(), error })?;
        let code = self.bind_runner(&bytes).map_err(|error| LoadError::Runner { path: path(), error: error.into() })?;
        Ok(runner.insert(Arc::new(code)).clone())
    }

    fn bind_runner(&self, bytes: &[u8]) -> Result<Code, LoadError> {
        inspect(bytes, World::ScriptRunner)?;
        let hash = content_hash(bytes);
        self.components.lock().unwrap_or_else(PoisonError::into_inner).runner = Some(hash);
        let component = match self.kept(&hash) {
            Some(component) => component,
            // It is no account's, and has a time of its own.
            None => self.compiled(&self.begin(hash), bytes, &mut self.account_time())?,
        };
        let bound =
            self.linker.instantiate_pre(&component).and_then(ScriptRunnerPre::new).map_err(LoadError::invalid)?;
        Ok(Code::ScriptRunner(bound))
    }

    /// Why a component could not be compiled lately.
    fn failure(&self, hash: &ContentHash) -> Option<LoadError> {
        let mut failed = self.failed.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        failed.retain(|_, (_, until)| *until > now);
        failed.get(hash)?.0.of_component()
    }

    /// The machine code of the component that was begun, from the folder or made now if there is time `left`.
    fn compiled(&self, begun: &Begun<'_>, bytes: &[u8], left: &mut Duration) -> Result<Component, LoadError> {
        let hash = &begun.hash;
        if let Some(component) = self.kept(hash) {
            return Ok(component);
        }
        if let Some(error) = self.failure(hash) {
            return Err(error);
        }
        if left.is_zero() {
            return Err(LoadError::NoTimeLeft { seconds: self.account_time().as_secs() });
        }
        let since = Instant::now();
        let compiled = self.compiler.compile(&self.engine, bytes, self.compile_timeout);
        *left = left.saturating_sub(since.elapsed());
        if let Some(error) = compiled.as_ref().err().and_then(LoadError::of_component) {
            let mut failed = self.failed.lock().unwrap_or_else(PoisonError::into_inner);
            failed.insert(*hash, (error, Instant::now() + FAILED));
        }
        let code = compiled?;
        let keep = || self.cache.as_ref()?.store(&self.engine, hash, &code);
        match keep() {
            Some(component) => Ok(component),
            None => load_fresh(&self.engine, &code).map_err(LoadError::invalid),
        }
    }

    /// Has old code removed from the folder if much came in, and at the first call. What somebody uses or compiles stays; what
    /// another thread takes from the folder at this very moment may go, and is compiled again then.
    pub(super) fn tidy(&self) {
        let Some(cache) = self.cache.as_ref().filter(|cache| cache.has_grown()) else {
            return;
        };
        let mut used = self.begun.lock().unwrap_or_else(PoisonError::into_inner).clone();
        used.extend(self.components.lock().unwrap_or_else(PoisonError::into_inner).used());
        cache.prune(&used);
    }
}

// === impl Begun ===

impl Drop for Begun<'_> {
    fn drop(&mut self) {
        self.library.begun.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.hash);
        self.library.done.notify_all();
    }
}

// === impl Components ===

impl Components {
    /// What somebody uses now.
    fn used(&self) -> impl Iterator<Item = ContentHash> + '_ {
        let live = self.by_hash.iter().filter(|(_, code)| code.strong_count() > 0).map(|(hash, _)| *hash);
        live.chain(self.runner)
    }

    /// Keeps code for others; gives what is there if somebody was first.
    fn insert(&mut self, hash: ContentHash, code: Arc<Code>) -> Arc<Code> {
        if let Some(present) = self.by_hash.get(&hash).and_then(Weak::upgrade) {
            return present;
        }
        if self.by_hash.len() >= self.sweep_at {
            self.by_hash.retain(|_, code| code.strong_count() > 0);
            self.sweep_at = SWEEP_MIN.max(self.by_hash.len() * 2);
        }
        self.by_hash.insert(hash, Arc::downgrade(&code));
        code
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::filter::engine;
    use crate::filter::testing::{guest_with, options};

    #[test]
    fn the_folder_of_code_is_tidied_when_it_has_grown_and_what_is_in_use_stays() {
        let dir = tempfile::tempdir().unwrap();
        let engine = engine::running(64, 16 << 20).unwrap();
        let started = || {
            let mut library = Library::new(&engine, &options(dir.path())).unwrap();
            let cache = library.cache.as_mut().unwrap();
            (cache.bytes_max, cache.growth_max) = (0, 1);
            library
        };
        let library = started();
        let component = |n: u32| Program::Component(guest_with(&format!("(global i32 (i32.const {n}))")).into());
        let code_of = |library: &Library, n| library.code(&component(n), &mut library.account_time()).unwrap();
        let code = |n| code_of(&library, n);
        let is_kept = |n| {
            let Program::Component(bytes) = component(n) else { return false };
            library.kept(&content_hash(&bytes)).is_some()
        };
        let (first, second) = (code(1), code(2));
        library.tidy();
        assert!(is_kept(1) && is_kept(2), "both are in use");
        drop(first);
        library.tidy();
        assert!(is_kept(1), "nothing came in");
        let third = code(3);
        assert!(is_kept(1), "not all is loaded that will be used");
        library.tidy();
        assert!(!is_kept(1), "nobody uses it any more");
        assert!(is_kept(2) && is_kept(3));
        drop((second, third));
        let library = started();
        assert!(is_kept(2) && is_kept(3), "a start does not know yet what is used");
        let _second = code_of(&library, 2);
        library.tidy();
        assert!(is_kept(2) && !is_kept(3), "what nobody used since the start goes, though nothing came in");
    }
}
