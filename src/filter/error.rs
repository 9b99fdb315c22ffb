//! Why filters cannot run here, and why one cannot be loaded.

use std::fmt;
use std::io;
use std::path::PathBuf;

use super::FaultKind;
use super::fault::printable;

/// Bytes of what a library says about a file.
pub(super) const DETAIL_BYTES_MAX: usize = 1_024;

/// Why filters cannot run on this machine.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The engine could not be set up.
    #[error("the Wasm engine cannot start; it reserves several TiB of address space (not memory): lift LimitAS=")]
    Engine(#[source] wasmtime::Error),
    /// A thread could not be started.
    #[error("a thread for filters cannot start")]
    Thread(#[source] io::Error),
    /// The folder of compiled code cannot be used.
    #[error(
        "the folder of compiled filters {}: {error}\n  → move away what is there, and let the gateway's user write in [host] data_dir",
        path.display()
    )]
    CacheDir {
        /// Where it is.
        path: PathBuf,
        /// What the operating system says.
        error: io::Error,
    },
    /// Others may write where machine code is kept that we run.
    #[error(
        "the folder of compiled filters {} must belong to the gateway's user alone, mode 0700\n  → remove it: it is a cache, \
         and is made again",
        .0.display()
    )]
    CacheDirShared(PathBuf),
}

/// A stage that cannot be loaded.
#[derive(Debug, thiserror::Error)]
#[error("filter `{stage}`: {error}")]
pub struct StageError {
    /// The name of the stage.
    pub stage: String,
    /// What is wrong with it.
    pub error: LoadError,
}

/// Why a component or script cannot be loaded.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The file is larger than the host allows.
    #[error("{bytes} bytes, but a filter may have {bytes_max}")]
    TooLarge {
        /// Its size.
        bytes: usize,
        /// `[filters] file_bytes_max`
        bytes_max: u64,
    },
    /// The file is no Wasm.
    #[error("not a Wasm file: it starts with {0}")]
    NotWasm(String),
    /// The file is a core module.
    #[error("a core module, not a component")]
    CoreModule,
    /// It wants what is not offered.
    #[error("imports `{0}`; only {offered} is offered", offered = super::component::HOST)]
    Import(String),
    /// It was made for another version of the interface.
    #[error("made for `{0}`; this gateway speaks {spoken}", spoken = super::component::HANDLER)]
    OtherVersion(String),
    /// It is no filter.
    #[error("does not export {wanted} (it exports {})", exported(.0), wanted = super::component::HANDLER)]
    NoHandler(Vec<String>),
    /// The component is malformed, or larger in some way than an instance may be.
    #[error("not a component that can be run: {0}")]
    Invalid(String),
    /// Compiling took too long.
    #[error("compiling took longer than {seconds} s")]
    CompileTimeout {
        /// `[filters] compile_timeout`
        seconds: u64,
    },
    /// The account's other filters took all the time that it has for compiling at one reload.
    #[error("not compiled: this account's filters took more than {seconds} s to compile already")]
    NoTimeLeft {
        /// Four times `[filters] compile_timeout`
        seconds: u64,
    },
    /// The compiler failed on it.
    #[error("the compiler failed: {0}")]
    CompilerFailed(String),
    /// The compiler's process could not be started.
    #[error("the compiler's process cannot be started: {0}")]
    CompilerMissing(io::Error),
    /// The filter refused its settings, or a script cannot be parsed.
    #[error("{0}")]
    Refused(String),
    /// The filter failed while it took its settings.
    #[error("failed in `init`: {kind}: {message}")]
    InitFault {
        /// How.
        kind: FaultKind,
        /// What is known beside.
        message: String,
    },
    /// The component that runs scripts cannot be read.
    #[error("the script runner {} cannot be read: {error}", path.display())]
    RunnerUnreadable {
        /// Where it should be.
        path: PathBuf,
        /// What the operating system says.
        error: io::Error,
    },
    /// The component that runs scripts cannot be loaded.
    #[error("the script runner {}: {error}", path.display())]
    Runner {
        /// Where it is.
        path: PathBuf,
        /// What is wrong with it.
        error: Box<LoadError>,
    },
}

// === impl LoadError ===

impl LoadError {
    /// [`LoadError::Invalid`] in the words of the library that found it.
    pub(super) fn invalid(error: impl fmt::Display) -> Self {
        Self::Invalid(printable(&format!("{error:#}"), DETAIL_BYTES_MAX))
    }

    /// The same error, if the component is to blame for it, so that compiling again would most likely end in it too.
    pub(super) fn of_component(&self) -> Option<Self> {
        match self {
            Self::Invalid(why) => Some(Self::Invalid(why.clone())),
            Self::CompilerFailed(why) => Some(Self::CompilerFailed(why.clone())),
            Self::CompileTimeout { seconds } => Some(Self::CompileTimeout { seconds: *seconds }),
            _ => None,
        }
    }

    /// What to do about it.
    pub fn remedy(&self) -> &'static str {
        match self {
            Self::TooLarge { .. } => {
                "build it for size (opt-level \"s\", lto, strip), or raise [filters] file_bytes_max"
            }
            Self::NotWasm(_) => "name a component (.wasm); a script goes under `script`",
            Self::CoreModule => "make a component of it: pixelgate filter build",
            Self::Import(name) if name.starts_with("wasi") => {
                "build for wasm32-unknown-unknown, not a wasip target: a filter has no files, clock or network"
            }
            Self::Import(_) => "leave the import out: a filter may import nothing else",
            Self::OtherVersion(_) | Self::NoHandler(_) => "build it with the SDK of this version, see docs/filters.md",
            Self::Invalid(_) => "build it again with a current toolchain: pixelgate filter build",
            Self::CompileTimeout { .. } => "make it smaller, or raise [filters] compile_timeout",
            Self::NoTimeLeft { .. } => {
                "reload again, as what was compiled is kept; make them smaller, or raise [filters] compile_timeout"
            }
            Self::CompilerFailed(_) => "build it again with a current toolchain; if it stays, report it with the file",
            Self::CompilerMissing(_) => "check that the gateway's own executable is in place and may be started",
            Self::Refused(_) => "correct [filters.settings] or the script as it says",
            Self::InitFault { .. } => {
                "try it with pixelgate filter test; `init` has the limits of a call, and 20 times its deadline"
            }
            Self::RunnerUnreadable { .. } | Self::Runner { .. } => {
                "put it there (`make plugins` makes it), or name another with [filters] script_runner or the environment's \
                 PIXELGATE_SCRIPT_RUNNER"
            }
        }
    }
}

fn exported(names: &[String]) -> String {
    if names.is_empty() { "nothing".to_owned() } else { names.join(", ") }
}
