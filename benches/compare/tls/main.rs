//! TLS with many names, side by side with what a user would take instead.
//!
//! `make bench-tls [N=100000] [ROUNDS=3]`; without N it runs 1,000, 20,000 and 100,000 names. Needs root, since the other
//! servers run with chroot; `benches/compare/peers` installs them. The certificates are made once and kept.
//!
//! All serve the same names with the same certificates (P-256, leaf and intermediate), with two threads or workers on two
//! cores, TLS 1.3, X25519, no access log, and session tickets as each makes them by default (Pixelgate cannot be told to make
//! none). The servers take turns, round by round; the table has medians. A server that needs longer than
//! two minutes to start is measured in the first round only, one that needs longer than ten not at all, and the changes
//! of one that needs longer than ten seconds are made in the first round only: most of them cost it another start. The
//! columns:
//!
//! * *start s*: from the start of the process to the first handshake that succeeds. Pixelgate has a row for its first
//!   start, and starts again with the index that the first one left: that is the start of its other row;
//! * *RSS MiB*, *PSS MiB*: of all its processes after the start, before anybody came;
//! * *KiB/name*, *visited*: RSS a name after the start, and after each name was visited, less that of the same server with
//!   one name, visited as often;
//! * *cold s*: CPU seconds of its processes, as the kernel counts them, for 10,000 full handshakes with names that nobody
//!   asked for before. Every name is visited once; nginx, which keeps a cache in each worker, gets further visits
//!   that are not counted, so that both have nearly all;
//! * *warm s*: the same for 10,000 handshakes, each on a new connection for a name drawn at random;
//! * *+ POST s*: the same with one `POST /events` and a close. Pixelgate decodes the event and has it on disk before it
//!   answers; the others answer 204 and forget it;
//! * *unknown s*: the same for 10,000 clients that ask for a name that nobody has;
//! * *added*, *replaced*, *removed*, in ms: from the moment in which a certificate's files lie there, or are gone, until
//!   clients notice. Each server is told in the way that changes certificates only, where it has one;
//! * *account ms*: the same for an account with a name that is new, by a whole reload; Pixelgate only;
//! * *closed*, *failed*: of 8 kept-alive connections and a stream of new ones, how many were closed or failed during all
//!   these changes.
//!
//! The client checks that every leaf is for the name it asked for.
// Pacing and polling of threads that do nothing else.
#![allow(clippy::disallowed_methods)]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)]

mod changes;
mod client;
mod names;
mod peers;

use std::path::{Path, PathBuf};
use std::process::exit;
use std::time::{Duration, Instant};

use changes::Change;
use client::{Load, Neighbours};
use names::Names;
use peers::{KINDS, Kind, Server};

/// Handshakes that one figure is made of.
const HANDSHAKES: usize = 10_000;
/// A server that needs longer to start than this does so in the first round only.
const ONCE_ABOVE: Duration = Duration::from_secs(120);
/// A server that needs longer to start than this is changed in the first round only.
const CHANGED_ONCE_ABOVE: Duration = Duration::from_secs(10);

/// What is measured, in the order of the table.
#[derive(Clone, Copy)]
enum Column {
    Start,
    Rss,
    Pss,
    KibName,
    KibVisited,
    Cold,
    Warm,
    Post,
    Unknown,
    Added,
    Replaced,
    Removed,
    Account,
    Closed,
    Failed,
}

/// Title and digits after the point of each column.
const COLUMNS: [(&str, usize); 15] = [
    ("start s", 2),
    ("RSS MiB", 1),
    ("PSS MiB", 1),
    ("KiB/name", 2),
    ("visited", 2),
    ("cold s", 2),
    ("warm s", 2),
    ("+ POST s", 2),
    ("unknown s", 2),
    ("added", 1),
    ("replaced", 1),
    ("removed", 1),
    ("account", 1),
    ("closed", 0),
    ("failed", 0),
];

/// What one round found of one server, by column.
#[derive(Clone, Copy, Default)]
struct Figures([Option<f64>; COLUMNS.len()]);

/// One line of the table.
struct Row {
    kind: Kind,
    rounds: Vec<Figures>,
    /// RSS with one name, before and after visits. MiB.
    base: (f64, f64),
    /// Why it is not measured any more.
    note: Option<String>,
    /// What was left out.
    remark: Option<String>,
}

struct Arguments {
    names: Vec<usize>,
    rounds: usize,
    peers: PathBuf,
}

fn main() {
    let arguments = arguments();
    let mut failed = false;
    for count in &arguments.names {
        let names = Names::make(&arguments.peers.join("bench"), *count);
        let bare = Names::make(&arguments.peers.join("bench"), 1);
        let mut rows = KINDS.map(|kind| Row { kind, rounds: Vec::new(), base: (0.0, 0.0), note: None, remark: None });
        for round in 1..=arguments.rounds {
            for row in rows.iter_mut().filter(|row| row.note.is_none()) {
                let begun = Instant::now();
                if let Err(error) = row.measure(&arguments.peers, &names, &bare) {
                    failed |= row.kind.is_pixelgate();
                    row.note = Some(error);
                }
                let note = row.note.as_deref().unwrap_or_default();
                eprintln!("{count} names, round {round}, {}: {:.0?} {note}", row.kind.title(), begun.elapsed());
            }
        }
        println!("\n{count} names, medians of {} rounds in turn", arguments.rounds);
        print!("{:>24}", "");
        COLUMNS.iter().for_each(|(title, _)| print!(" {title:>9}"));
        println!();
        rows.iter().for_each(Row::print);
    }
    exit(i32::from(failed));
}

fn arguments() -> Arguments {
    let given: Vec<String> = std::env::args().collect();
    let value = |name: &str| given.iter().position(|argument| argument == name).and_then(|at| given.get(at + 1));
    Arguments {
        names: value("--names")
            .map_or_else(|| vec![1_000, 20_000, 100_000], |text| vec![text.parse().expect("a number of names")]),
        rounds: value("--rounds").map_or(3, |text| text.parse().expect("a number of rounds")),
        peers: value("--peers").map(PathBuf::from).expect("--peers FOLDER, as benches/compare/peers made it"),
    }
}

// === impl Row ===

impl Row {
    /// One round.
    fn measure(&mut self, peers: &Path, names: &Names, bare: &Names) -> Result<(), String> {
        let is_first = self.rounds.is_empty();
        if is_first {
            let server = Server::start(self.kind, peers, bare)?;
            let cold = server.memory_mib().0;
            Load { address: server.address, names: bare }.random(HANDSHAKES, false)?;
            self.base = (cold, server.memory_mib().0);
        }
        let server = Server::start(self.kind, peers, names)?;
        let (mut figures, mut changed) = (Figures::default(), Ok(()));
        let per_name = |mib: f64, base: f64| (mib - base) * 1024.0 / names.count as f64;
        let (rss, pss) = server.memory_mib();
        figures.set(Column::Start, server.started_in.as_secs_f64());
        figures.set(Column::Rss, rss);
        figures.set(Column::Pss, pss);
        figures.set(Column::KibName, per_name(rss, self.base.0));
        if self.kind != Kind::FirstStart {
            let load = Load { address: server.address, names };
            let cold = server.cpu_s_of(|| load.all())?;
            figures.set(Column::Cold, cold * HANDSHAKES as f64 / names.count as f64);
            (1..self.kind.visits()).try_for_each(|_| load.all())?;
            figures.set(Column::KibVisited, per_name(server.memory_mib().0, self.base.1));
            figures.set(Column::Warm, server.cpu_s_of(|| load.random(HANDSHAKES, false))?);
            figures.set(Column::Post, server.cpu_s_of(|| load.random(HANDSHAKES, true))?);
            figures.set(Column::Unknown, server.cpu_s_of(|| load.unknown(HANDSHAKES))?);
            // A reload reads everything beside what there is, and workers stay as long as their connections: three reloads in
            // a row have four of each.
            if server.kind == Kind::NginxBlocks && 4.0 * pss > memory_mib() {
                self.remark = Some(format!("not changed: each reload needs {pss:.0} MiB more"));
            } else if is_first || server.started_in < CHANGED_ONCE_ABOVE {
                changed = change(&server, names, &mut figures);
            }
        }
        // What was measured before counts, whatever became of the changes.
        self.rounds.push(figures);
        changed?;
        if server.started_in > ONCE_ABOVE {
            self.note = Some("one round only, for its start takes so long".to_owned());
        }
        Ok(())
    }

    fn print(&self) {
        print!("{:>24}", self.kind.title());
        for (column, (_, digits)) in COLUMNS.iter().enumerate() {
            let mut values: Vec<f64> = self.rounds.iter().filter_map(|figures| figures.0[column]).collect();
            values.sort_by(f64::total_cmp);
            match values.get(values.len() / 2) {
                Some(median) => print!(" {median:>9.digits$}"),
                None => print!(" {:>9}", "–"),
            }
        }
        println!("  {}", self.note.as_deref().or(self.remark.as_deref()).unwrap_or_default());
    }
}

/// Memory of this machine.
fn memory_mib() -> f64 {
    let text = std::fs::read_to_string("/proc/meminfo").expect("meminfo");
    let kib = text.lines().next().and_then(|line| line.split_whitespace().nth(1)?.parse::<f64>().ok());
    kib.expect("MemTotal") / 1024.0
}

/// Adds, replaces and removes a certificate, and an account where that is another thing, while others are served.
fn change(server: &Server, names: &Names, figures: &mut Figures) -> Result<(), String> {
    let neighbours = Neighbours::start(server.address, names);
    let mut done = Ok(());
    let mut changes =
        vec![(Column::Added, Change::Added), (Column::Replaced, Change::Replaced), (Column::Removed, Change::Removed)];
    changes.extend(server.kind.is_pixelgate().then_some((Column::Account, Change::Account)));
    for (column, change) in changes {
        match server.change(change, names) {
            Ok(took) => figures.set(column, took.as_secs_f64() * 1e3),
            Err(error) => done = done.and(Err(error)),
        }
    }
    let (closed, failed) = neighbours.stop();
    figures.set(Column::Closed, closed as f64);
    figures.set(Column::Failed, failed as f64);
    done
}

// === impl Figures ===

impl Figures {
    fn set(&mut self, column: Column, value: f64) {
        self.0[column as usize] = Some(value);
    }
}
