//! What a start does: take the folder, read what is in it, begin.

use std::collections::HashSet;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, mpsc};
use std::thread;
use std::time::Duration;

use tokio::sync::Notify;

use super::dead::DeadLetters;
use super::index::Index;
use super::keeper::Keeper;
use super::log::file::{Disk, RealDisk};
use super::log::recovery::{Cut, Found, LoadError, Report};
use super::log::{Entry, LogDir, MarkKind};
use super::shared::{Limits, Shared};
use super::state::StateFile;
use super::writer::Writer;
use super::{Inner, Options, Outbox, Threads};
use crate::sqlite;

/// What a start found, for the log.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Recovered {
    /// Events that wait for delivery.
    pub pending: u64,
    /// Segments with a write at their end that never came to be (and was never confirmed).
    pub cut: Vec<Cut>,
    /// Files that damaged bytes were put into, and how many. These may be events that were accepted.
    pub quarantined: Vec<(PathBuf, u64)>,
}

/// Why an outbox cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another process has it.
    #[error("{} is in use by another process", dir.display())]
    InUse {
        /// The folder.
        dir: PathBuf,
    },
    /// A newer Pixelgate wrote it.
    #[error("{} has format {version}, which this version does not know", path.display())]
    NewerFormat {
        /// The file.
        path: PathBuf,
        /// Its format.
        version: u32,
    },
    /// The disk refused, or another program that has the file open.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// What it said.
        source: io::Error,
    },
    /// The lanes' state cannot be read.
    #[error("{}: {source}", path.display())]
    State {
        /// The file.
        path: PathBuf,
        /// What SQLite said.
        source: rusqlite::Error,
    },
}

/// What an outbox stands on; tests choose it.
pub(super) struct Base {
    pub(super) disk: Arc<dyn Disk>,
    /// SQLite's file.
    pub(super) state: PathBuf,
    /// How often a new segment is tried while the disk refuses.
    pub(super) probe: Duration,
    /// How often marks are synced and segments given back.
    pub(super) tick: Duration,
}

const SEGMENT_BYTES_MAX: u64 = 1 << 30;

impl Outbox {
    /// Opens an outbox, or makes a new one, and starts its two threads. A disk that takes no new events now is no error:
    /// what is there is delivered, see [`Outbox::health`].
    pub fn open(options: Options) -> Result<(Self, Recovered), OpenError> {
        let state = options.dir.join("state.sqlite");
        let (probe, tick) = (Duration::from_secs(10), Duration::from_secs(1));
        Self::open_on(Base { disk: Arc::new(RealDisk), state, probe, tick }, options)
    }

    pub(super) fn open_on(base: Base, options: Options) -> Result<(Self, Recovered), OpenError> {
        let Base { disk, state: state_path, probe, tick } = base;
        let dir = options.dir;
        let failed = |source| OpenError::Io { path: dir.clone(), source };
        disk.create_dir(&dir).map_err(failed)?;
        if let Some(parent) = dir.parent().filter(|parent| !parent.as_os_str().is_empty()) {
            disk.sync_dir(parent).map_err(failed)?;
        }
        let lock = disk.lock(&dir.join("lock")).map_err(|source| match source.kind() {
            io::ErrorKind::WouldBlock => OpenError::InUse { dir: dir.clone() },
            _ => OpenError::Io { path: dir.join("lock"), source },
        })?;
        let limits = Limits {
            segment_bytes: options.segment_bytes.min(SEGMENT_BYTES_MAX),
            reserve_bytes: options.reserve_bytes,
            account_backlog_bytes_max: options.account_backlog_bytes_max,
        };
        let log = LogDir::new(Arc::clone(&disk), &dir, limits.segment_bytes).map_err(failed)?;
        let mut index = Index::new(options.leases_per_lane_max);
        let report = load(&log, &mut index)?;
        let letter_limits = (options.dead_letters_max, options.dead_letter_bytes_max);
        let (dead, damaged_letters) = DeadLetters::open(disk, &dir, letter_limits)?;
        let (state, lanes) = StateFile::open(&state_path).map_err(|source| OpenError::of_state(state_path, source))?;
        index.restore_states(lanes);
        index.list_all();
        let recovered = Recovered {
            pending: index.status().iter().map(|lane| lane.pending).sum(),
            cut: report.cut,
            quarantined: report.quarantined.into_iter().chain(damaged_letters).collect(),
        };
        let shared = Arc::new(Shared {
            log,
            index: Mutex::new(index),
            dead,
            limits,
            changed: Notify::new(),
            waiting_bytes: AtomicU64::new(0),
            refusing: Mutex::new(None),
            refused_bytes: AtomicU64::new(0),
            on_sync: options.on_sync,
            on_lost: options.on_lost,
            _lock: lock,
        });
        let next = (report.next_segment, report.next_seq);
        Ok((start(shared, state, next, probe, tick).map_err(failed)?, recovered))
    }
}

/// Reads the log into the index.
fn load(log: &LogDir, index: &mut Index) -> Result<Report, OpenError> {
    let (mut settled_copies, mut unconfirmed) = (HashSet::new(), HashSet::new());
    let found = log.load(|Found { segment, summary, marked, durable, stays }| {
        let (segment, first_seq) = (Arc::new(segment), summary.first_seq);
        index.segments.add(Arc::clone(&segment), summary.end, true);
        if stays {
            index.segments.set_stays(segment.id);
        }
        if !durable {
            unconfirmed.insert(segment.id);
        }
        // A lane of which nothing waits may be one of an account that is forgotten.
        let mut lanes: Vec<_> = summary.lanes.iter().map(|key| (key, None)).collect();
        for (lane, entry) in summary.entries {
            let is_copy = entry.seq < first_seq;
            if is_copy {
                index.segments.set_has_copies(segment.id);
            }
            if marked.is_done(entry.seq) {
                if is_copy && marked.is_settled(entry.seq) {
                    settled_copies.insert(entry.seq);
                }
                continue;
            }
            let (attempts, maybe_sent) = marked.sent(entry.seq);
            if let Some((key, number)) = lanes.get_mut(lane as usize) {
                let lane = *number.get_or_insert_with(|| index.number(key));
                index.found(lane, Entry { attempts, maybe_sent, ..entry });
            }
        }
    });
    let report = found?;
    for copy in index.all_found(&settled_copies, &unconfirmed) {
        let marked = index.segments.get(copy.segment).map(|segment| segment.mark(MarkKind::Moved, &[copy]));
        if let Some(Err(error)) = marked {
            tracing::warn!(segment = copy.segment, %error, "an event that was moved cannot be marked; it may be sent again");
        }
    }
    Ok(report)
}

// === impl OpenError ===

impl OpenError {
    /// What SQLite says of the state: what refuses the file is no damage, for which it would have to go.
    pub(super) fn of_state(path: PathBuf, source: rusqlite::Error) -> Self {
        match (&source, sqlite::refusal(&source)) {
            // As `StateFile::open` tells a newer format.
            (rusqlite::Error::IntegralValueOutOfRange(0, version), _) if *version > 0 => {
                Self::NewerFormat { version: u32::try_from(*version).unwrap_or(u32::MAX), path }
            }
            (_, Some(kind)) => Self::Io { source: io::Error::new(kind, sqlite_words(&path, &source)), path },
            (_, None) => Self::State { source, path },
        }
    }
}

/// What SQLite says, without the path that it puts behind some of it.
fn sqlite_words(path: &Path, error: &rusqlite::Error) -> String {
    error.to_string().replace(&format!(": {}", path.display()), "")
}

impl From<LoadError> for OpenError {
    fn from(error: LoadError) -> Self {
        match error {
            LoadError::Io { path, source } => Self::Io { path, source },
            LoadError::Newer { path, version } => Self::NewerFormat { path, version },
        }
    }
}

/// Starts the threads.
fn start(
    shared: Arc<Shared>,
    state: StateFile,
    next: (u32, u64),
    probe: Duration,
    tick: Duration,
) -> io::Result<Outbox> {
    let (writer_jobs, jobs) = mpsc::channel();
    let (keeper_tasks, tasks) = mpsc::channel();
    let writer = Writer::new(Arc::clone(&shared), jobs, next, probe);
    let keeper = Keeper { shared: Arc::clone(&shared), tasks, writer: writer_jobs.clone(), state, tick };
    let threads = Threads {
        writer: thread::Builder::new().name("outbox-writer".into()).spawn(move || writer.run())?,
        keeper: thread::Builder::new().name("outbox-keeper".into()).spawn(move || keeper.run())?,
    };
    let inner = Inner { shared, writer: writer_jobs, keeper: keeper_tasks, threads: Mutex::new(Some(threads)) };
    Ok(Outbox { inner: Arc::new(inner) })
}
