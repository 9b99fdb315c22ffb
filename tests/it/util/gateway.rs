//! The gateway under test: the real executable on a site.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Command, ExitStatus, Output};

use rustix::process::Signal;
use serde::Deserialize;
use serde_json::Value;

use super::process::{Process, built};
use super::{Browser, PATIENCE, Site, eventually};

/// What `--ready-file` says.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Ready {
    pub(crate) https: Vec<SocketAddr>,
    pub(crate) http: Vec<SocketAddr>,
    pub(crate) ops: SocketAddr,
    pub(crate) pid: u32,
    pub(crate) revision: u64,
}

/// A gateway that runs.
pub(crate) struct Gateway {
    process: Process,
    pub(crate) ready: Ready,
    config_dir: PathBuf,
    ca: String,
}

impl Gateway {
    /// Starts one and waits until it accepts.
    pub(crate) async fn start(site: &Site) -> Self {
        Self::start_with(site, |_| {}).await
    }

    /// Starts one with more environment or arguments.
    pub(crate) async fn start_with(site: &Site, adjust: impl FnOnce(&mut Command)) -> Self {
        let ready_file = site.path("ready.json");
        let _ = std::fs::remove_file(&ready_file);
        let mut command = Command::new(built("pixelgate"));
        command.arg("run").arg("--config").arg(site.dir()).arg("--ready-file").arg(&ready_file);
        adjust(&mut command);
        let mut process = Process::start(&mut command, &site.path("gateway.log"));
        let ready = eventually("the gateway is ready", async || {
            if let Some(status) = process.has_ended() {
                panic!("the gateway ended with {status}");
            }
            serde_json::from_slice(&std::fs::read(&ready_file).ok()?).ok()
        });
        let ready: Ready = ready.await;
        assert_eq!((ready.pid, ready.revision), (process.id(), 1));
        Self { process, ready, config_dir: site.dir().to_owned(), ca: site.authority.pem().to_owned() }
    }

    /// Where it takes events.
    pub(crate) fn https(&self) -> SocketAddr {
        *self.ready.https.first().expect("an https listener")
    }

    /// A client that finds every name at this gateway.
    pub(crate) fn browser(&self) -> Browser {
        Browser::new(self.https(), &self.ca)
    }

    /// Runs a command of the command line on it.
    pub(crate) fn command(&self, arguments: &[&str]) -> Output {
        pixelgate(&self.config_dir, arguments)
    }

    /// Runs a command that prints JSON.
    pub(crate) fn json(&self, arguments: &[&str]) -> Value {
        let output = self.command(arguments);
        serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{arguments:?}: {error}: {output:?}"))
    }

    /// Reads a page of the ops listener.
    pub(crate) async fn ops(&self, path: &str) -> (u16, String) {
        let answer = reqwest::get(format!("http://{}{path}", self.ready.ops)).await.expect("ops answers");
        (answer.status().as_u16(), answer.text().await.expect("ops answers"))
    }

    /// The value of a metric, added up over the labels that contain `labels`.
    pub(crate) async fn metric(&self, name: &str, labels: &str) -> f64 {
        let (_, text) = self.ops("/metrics").await;
        let lines =
            text.lines().filter(|line| line.strip_prefix(name).is_some_and(|rest| rest.starts_with(['{', ' '])));
        lines.filter(|line| line.contains(labels)).filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum()
    }

    /// Bytes of its process that are in memory.
    pub(crate) fn resident(&self) -> usize {
        let pages = std::fs::read_to_string(format!("/proc/{}/statm", self.ready.pid)).expect("it runs");
        pages.split(' ').nth(1).and_then(|pages| pages.parse::<usize>().ok()).expect("pages") * 4_096
    }

    pub(crate) fn log(&self) -> String {
        self.process.log()
    }

    pub(crate) fn signal(&self, signal: Signal) {
        self.process.signal(signal);
    }

    /// Ends it as a power cut would, but for the page cache.
    pub(crate) fn kill(&mut self) {
        self.process.kill();
    }

    /// Ends it as systemd would.
    pub(crate) async fn stop(&mut self) -> ExitStatus {
        self.process.signal(Signal::TERM);
        tokio::time::timeout(PATIENCE, self.process.ended()).await.expect("it stops in time")
    }
}

/// Runs the command line on a configuration folder.
pub(crate) fn pixelgate(config_dir: &std::path::Path, arguments: &[&str]) -> Output {
    let mut command = Command::new(built("pixelgate"));
    command.args(arguments).arg("--config").arg(config_dir);
    command.output().expect("pixelgate runs")
}
