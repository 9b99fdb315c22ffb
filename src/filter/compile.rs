//! From a component to machine code: the one step that takes seconds, cannot be interrupted, and runs a large compiler
//! on bytes that an account chose. In the gateway it therefore runs in a process of its own, with a limit on its time
//! and its memory; where that process dies, nothing else does.

use std::io::{self, Read, Write};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use rustix::process::{Resource, Rlimit, setrlimit};
use wasmtime::Engine;

use super::LoadError;
use super::engine;
use super::error::DETAIL_BYTES_MAX;
use super::fault::printable;

/// What a component may at most weigh in the child; the gateway's own limit is far lower.
const COMPONENT_BYTES_MAX: u64 = 256 << 20;
/// Machine code that is taken back.
const CODE_BYTES_MAX: u64 = 1 << 30;
/// Address space of the child: the largest component that we tried (12 MB) took 0.4 GB of memory.
const CHILD_ADDRESS_SPACE_MAX: u64 = 4 << 30;
/// CPU time of the child, for one that outlives the gateway; the gateway itself kills it much earlier.
const CHILD_CPU_SECONDS_MAX: u64 = 300;
/// Bytes of the child's complaints that are read.
const COMPLAINT_BYTES_MAX: u64 = 64 << 10;

/// First byte of the child's answer: machine code follows.
const COMPILED: u8 = 0;
/// First byte of the child's answer: what is wrong with the component follows.
const REFUSED: u8 = 1;

/// Where components are compiled.
#[derive(Clone, Debug)]
pub enum Compiler {
    /// In this process, without a limit on time: for commands that a person waits for.
    InProcess,
    /// In a child: this executable, run with the argument `compile-filter`, must call [`compile_in_child`].
    Child(PathBuf),
}

/// Why the child could not do its work. A component that is refused is no such error: the parent is told.
#[derive(Debug, thiserror::Error)]
pub enum ChildError {
    /// The process could not limit itself.
    #[error("limits cannot be set")]
    Limits(#[source] rustix::io::Errno),
    /// The engine could not be set up.
    #[error("the Wasm engine cannot start")]
    Engine(#[source] wasmtime::Error),
    /// Standard input or output failed.
    #[error("the component cannot be read, or its code not be written")]
    Io(#[from] io::Error),
}

/// The child's work: a component in, its machine code out, under limits that the process sets on itself first.
///
/// # Errors
/// See [`ChildError`].
pub fn compile_in_child(input: &mut dyn Read, output: &mut dyn Write) -> Result<(), ChildError> {
    let limits = [(Resource::Cpu, CHILD_CPU_SECONDS_MAX), (Resource::As, CHILD_ADDRESS_SPACE_MAX), (Resource::Core, 0)];
    for (resource, limit) in limits {
        let both = Rlimit { current: Some(limit), maximum: Some(limit) };
        setrlimit(resource, both).map_err(ChildError::Limits)?;
    }
    let engine = engine::compiling().map_err(ChildError::Engine)?;
    let mut bytes = Vec::new();
    input.take(COMPONENT_BYTES_MAX).read_to_end(&mut bytes)?;
    let (kind, answer) = match engine.precompile_component(&bytes) {
        Ok(code) => (COMPILED, code),
        Err(error) => (REFUSED, format!("{error:#}").into_bytes()),
    };
    output.write_all(&[kind])?;
    output.write_all(&answer)?;
    Ok(output.flush()?)
}

// === impl Compiler ===

impl Compiler {
    /// Machine code of a component for `engine`. Takes up to seconds; a child gets `timeout` for it.
    pub(super) fn compile(&self, engine: &Engine, bytes: &[u8], timeout: Duration) -> Result<Vec<u8>, LoadError> {
        match self {
            Self::InProcess => in_process(engine, bytes),
            Self::Child(executable) => in_child(executable, bytes, timeout),
        }
    }
}

fn in_process(engine: &Engine, bytes: &[u8]) -> Result<Vec<u8>, LoadError> {
    // The compiler shares nothing with us but the engine, whose state a compilation does not change.
    match catch_unwind(AssertUnwindSafe(|| engine.precompile_component(bytes))) {
        Ok(Ok(code)) => Ok(code),
        Ok(Err(error)) => Err(LoadError::invalid(error)),
        Err(panic) => Err(LoadError::CompilerFailed(printable(panic_text(panic.as_ref()), DETAIL_BYTES_MAX))),
    }
}

fn panic_text(panic: &(dyn std::any::Any + Send)) -> &str {
    let owned = panic.downcast_ref::<String>().map(String::as_str);
    owned.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("it panicked")
}

fn in_child(executable: &Path, bytes: &[u8], timeout: Duration) -> Result<Vec<u8>, LoadError> {
    let mut child = Command::new(executable)
        .arg("compile-filter")
        .env_clear()
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(LoadError::CompilerMissing)?;
    let talk = converse(&mut child, bytes, timeout);
    let status = child.wait().map_err(LoadError::CompilerMissing)?;
    let Talk { answer, complaint, in_time } = talk;
    if !in_time {
        return Err(LoadError::CompileTimeout { seconds: timeout.as_secs() });
    }
    match answer.split_first() {
        Some((&COMPILED, code)) if status.success() => Ok(code.to_vec()),
        Some((&REFUSED, why)) if status.success() => Err(LoadError::invalid(String::from_utf8_lossy(why))),
        _ => Err(LoadError::CompilerFailed(printable(&format!("{status}: {}", complaint.trim()), DETAIL_BYTES_MAX))),
    }
}

/// What came of a conversation with the child.
struct Talk {
    answer: Vec<u8>,
    complaint: String,
    in_time: bool,
}

/// Writes the component, reads the answer and the complaints, all at once, and kills the child when its time is up.
fn converse(child: &mut Child, bytes: &[u8], timeout: Duration) -> Talk {
    let (stdin, stdout, stderr) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
    let (finished, finish) = mpsc::channel::<()>();
    thread::scope(|scope| {
        // A child that gives up closes its end early; what it says counts, not that we could not go on writing.
        let writer = stdin.map(|mut stdin| scope.spawn(move || stdin.write_all(bytes)));
        let answer = scope.spawn(move || {
            let answer = stdout.map(|stdout| read(stdout, CODE_BYTES_MAX)).unwrap_or_default();
            drop(finished);
            answer
        });
        let complaint = scope.spawn(move || stderr.map(|stderr| read(stderr, COMPLAINT_BYTES_MAX)).unwrap_or_default());
        let in_time = finish.recv_timeout(timeout) != Err(mpsc::RecvTimeoutError::Timeout);
        if !in_time {
            let _ = child.kill();
        }
        drop(writer.map(|writer| writer.join()));
        let complaint = complaint.join().unwrap_or_default();
        Talk {
            answer: answer.join().unwrap_or_default(),
            complaint: String::from_utf8_lossy(&complaint).into_owned(),
            in_time,
        }
    })
}

/// What can be read to the end, up to a limit.
fn read(from: impl Read, bytes_max: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    let _ = from.take(bytes_max).read_to_end(&mut bytes);
    bytes
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn script(text: &str) -> (tempfile::TempDir, PathBuf) {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("child");
        std::fs::write(&path, format!("#!/bin/sh\n{text}\n")).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o700)).unwrap();
        (dir, path)
    }

    fn compiled_by(text: &str, timeout: Duration) -> Result<Vec<u8>, LoadError> {
        let (_dir, path) = script(text);
        // A large component, so that writing it to a child that doesn't read blocks.
        Compiler::Child(path).compile(&engine::compiling().unwrap(), &vec![0; 1 << 20], timeout)
    }

    #[test]
    fn the_answer_of_a_child_is_taken() {
        let second = Duration::from_secs(60);
        assert_eq!(compiled_by("/bin/cat > /dev/null; printf '\\000code'", second).unwrap(), b"code");
        let refused = compiled_by("/bin/cat > /dev/null; printf '\\001no memory section'", second).unwrap_err();
        assert!(matches!(refused, LoadError::Invalid(text) if text == "no memory section"));
    }

    #[test]
    fn a_child_that_dies_or_hangs_is_an_error_of_that_component_only() {
        let crashed = compiled_by("printf '\\000half'; echo 'out of luck' >&2; kill -9 $$", Duration::from_secs(60));
        assert!(crashed.unwrap_err().to_string().contains("out of luck"));
        let hanging = compiled_by("exec /bin/sleep 600", Duration::from_millis(50));
        assert!(matches!(hanging, Err(LoadError::CompileTimeout { .. })));
        let missing = Compiler::Child("/nonexistent/pixelgate".into());
        let missing = missing.compile(&engine::compiling().unwrap(), b"", Duration::from_secs(1));
        assert!(matches!(missing, Err(LoadError::CompilerMissing(_))));
    }

    #[test]
    fn both_ways_refuse_what_is_invalid() {
        let bytes = wat::parse_str("(component)").unwrap();
        let mut broken = bytes.clone();
        broken.extend([0xff, 0x01, 0x00]);
        let engine = engine::compiling().unwrap();
        assert!(Compiler::InProcess.compile(&engine, &bytes, Duration::ZERO).is_ok());
        assert!(matches!(Compiler::InProcess.compile(&engine, &broken, Duration::ZERO), Err(LoadError::Invalid(_))));
    }
}
