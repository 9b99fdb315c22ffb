//! Programs that a test starts: stopped with the test, by their own id and no other.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};

use super::eventually;

/// A program that runs.
pub(crate) struct Process {
    child: Child,
    log: PathBuf,
}

impl Process {
    /// Starts it, its output in `log`.
    pub(crate) fn start(command: &mut Command, log: &Path) -> Self {
        let file = std::fs::OpenOptions::new().create(true).append(true).open(log).expect("a log file");
        let errors = file.try_clone().expect("a log file");
        Self::spawn(command.stdout(file).stderr(errors), log)
    }

    /// Starts it with the output that the command says; what of that is in a file is in `log`.
    pub(crate) fn spawn(command: &mut Command, log: &Path) -> Self {
        command.stdin(Stdio::null());
        let child = command.spawn().unwrap_or_else(|error| panic!("{command:?}: {error}"));
        Self { child, log: log.to_owned() }
    }

    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// All that it wrote so far.
    pub(crate) fn log(&self) -> String {
        String::from_utf8_lossy(&std::fs::read(&self.log).unwrap_or_default()).into_owned()
    }

    pub(crate) fn has_ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().expect("our own child")
    }

    pub(crate) fn signal(&self, signal: rustix::process::Signal) {
        let id = rustix::process::Pid::from_raw(i32::try_from(self.id()).expect("a process id")).expect("a process id");
        rustix::process::kill_process(id, signal).expect("our own child");
    }

    pub(crate) fn kill(&mut self) {
        self.child.kill().expect("our own child");
        self.child.wait().expect("our own child");
    }

    /// Waits for its end.
    pub(crate) async fn ended(&mut self) -> ExitStatus {
        eventually("the process ends", async || self.has_ended()).await
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            eprintln!("--- {} ---\n{}", self.log.display(), self.log());
        }
    }
}

/// A program of ours, built for the tests.
pub(crate) fn built(name: &str) -> PathBuf {
    let gateway = Path::new(env!("CARGO_BIN_EXE_pixelgate"));
    match name {
        "pixelgate" => gateway.to_owned(),
        name => gateway.with_file_name("examples").join(name),
    }
}

/// A program that `make setup-test` brought, below the folder of tools.
pub(crate) fn tool(path: &str) -> PathBuf {
    let tools = std::env::var_os("PIXELGATE_TOOLS").map_or_else(
        || PathBuf::from(std::env::var_os("HOME").expect("a home folder")).join(".cache/pixelgate/tools"),
        PathBuf::from,
    );
    let tool = tools.join(path);
    assert!(tool.exists(), "{} is not there: run `make setup-test`", tool.display());
    tool
}

/// A Wasm component that `make plugins` built.
pub(crate) fn plugin(name: &str) -> PathBuf {
    let target = Path::new(env!("CARGO_BIN_EXE_pixelgate")).ancestors().nth(2).expect("a target directory");
    let path = target.join("plugins").join(name);
    assert!(path.is_file(), "{} is not there: run `make plugins`", path.display());
    path
}
