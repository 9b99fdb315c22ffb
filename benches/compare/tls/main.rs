//! TLS with many names, side by side with what a user would take instead.
//!
//! `make bench-tls [N=100000] [ROUNDS=3]`; without N it runs 1,000, 20,000 and 100,000 names. Needs root, since the other
//! servers run with chroot; `benches/compare/peers` installs them.
//!
//! All serve the same names with the same certificates (P-256, leaf and intermediate), with two threads or workers,
//! TLS 1.3, X25519, no access log. The servers take turns, round by round; the table has medians. Its columns:
//!
//! * *start*: from the start of the process to the first handshake that succeeds;
//! * *RSS*, *PSS*: of all its processes after the start, and RSS a name, less that of the same server with one name;
//! * *handshakes*: CPU seconds of its processes, as the kernel counts them, for 10,000 full handshakes, each on a new
//!   connection for a name drawn at random, after as many to warm up;
//! * *+ POST*: the same with one `POST /events` and a close. Pixelgate decodes the event and has it on disk before it
//!   answers; the others answer 204 and forget it;
//! * *added*: from the moment in which a new name's files lie there until it is served;
//! * *cost*: of 8 kept-alive connections and a stream of new ones, how many were closed or refused meanwhile.
//!
//! The client checks that every leaf is for the name it asked for.
// Pacing and polling of threads that do nothing else.
#![allow(clippy::disallowed_methods)]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic, dead_code)]

mod client;
mod names;
mod peers;

use std::path::PathBuf;
use std::process::exit;

use client::{Load, Neighbours};
use names::Names;
use peers::{KINDS, Kind, Server};

/// Full handshakes that one figure is made of.
const HANDSHAKES: usize = 10_000;

struct Arguments {
    names: Vec<usize>,
    rounds: usize,
    peers: PathBuf,
}

/// What one round found of one server.
#[derive(Clone, Default)]
struct Figures {
    start_s: f64,
    rss_mib: f64,
    pss_mib: f64,
    handshakes_cpu_s: f64,
    posts_cpu_s: f64,
    added_ms: f64,
    closed: usize,
    refused: usize,
}

fn main() {
    let arguments = arguments();
    let mut failed = false;
    for count in &arguments.names {
        let names = Names::make(&arguments.peers.join("bench"), *count);
        let bare = Names::make(&arguments.peers.join("bench"), 1);
        let mut rounds: Vec<Vec<Figures>> = vec![Vec::new(); KINDS.len()];
        let mut bases = vec![0.0; KINDS.len()];
        print_head();
        for round in 0..arguments.rounds {
            for (at, kind) in KINDS.into_iter().enumerate() {
                if round == 0 {
                    bases[at] =
                        Server::start(kind, &arguments.peers, &bare).map_or(0.0, |server| server.memory_mib().0);
                } else if rounds[at].is_empty() {
                    continue;
                }
                match measure(kind, &arguments, &names) {
                    Ok(figures) => {
                        print_line(kind, *count, &figures, bases[at]);
                        rounds[at].push(figures);
                    }
                    Err(error) => {
                        println!("{count} names, {}: {error}", kind.title());
                        failed |= kind == Kind::Pixelgate;
                    }
                }
            }
        }
        print(*count, &rounds, &bases);
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

fn measure(kind: Kind, arguments: &Arguments, names: &Names) -> Result<Figures, String> {
    let mut server = Server::start(kind, &arguments.peers, names)?;
    let (rss_mib, pss_mib) = server.memory_mib();
    let load = Load { address: server.address, names };
    load.run(HANDSHAKES, false)?;
    let before = server.cpu_s();
    load.run(HANDSHAKES, false)?;
    let between = server.cpu_s();
    load.run(HANDSHAKES, true)?;
    let after = server.cpu_s();
    let neighbours = Neighbours::start(server.address, names);
    let added = server.add(names)?;
    let (closed, refused) = neighbours.stop();
    Ok(Figures {
        start_s: server.started_in.as_secs_f64(),
        rss_mib,
        pss_mib,
        handshakes_cpu_s: between - before,
        posts_cpu_s: after - between,
        added_ms: added.as_secs_f64() * 1e3,
        closed,
        refused,
    })
}

fn print(count: usize, rounds: &[Vec<Figures>], bases: &[f64]) {
    println!("\n{count} names, medians of {} rounds in turn", rounds.iter().map(Vec::len).max().unwrap_or_default());
    print_head();
    for ((kind, figures), base) in KINDS.into_iter().zip(rounds).zip(bases) {
        if figures.is_empty() {
            println!("{:>24} did not get there", kind.title());
            continue;
        }
        let median = |of: fn(&Figures) -> f64| {
            let mut values: Vec<f64> = figures.iter().map(of).collect();
            values.sort_by(f64::total_cmp);
            values[values.len() / 2]
        };
        let medians = Figures {
            start_s: median(|figures| figures.start_s),
            rss_mib: median(|figures| figures.rss_mib),
            pss_mib: median(|figures| figures.pss_mib),
            handshakes_cpu_s: median(|figures| figures.handshakes_cpu_s),
            posts_cpu_s: median(|figures| figures.posts_cpu_s),
            added_ms: median(|figures| figures.added_ms),
            closed: median(|figures| figures.closed as f64) as usize,
            refused: median(|figures| figures.refused as f64) as usize,
        };
        print_line(kind, count, &medians, *base);
    }
}

fn print_head() {
    println!(
        "{:>24} {:>8} {:>9} {:>9} {:>8} {:>12} {:>9} {:>9}  cost",
        "", "start s", "RSS MiB", "PSS MiB", "KiB/name", "handshakes s", "+ POST s", "added ms"
    );
}

fn print_line(kind: Kind, count: usize, figures: &Figures, base: f64) {
    println!(
        "{:>24} {:>8.2} {:>9.1} {:>9.1} {:>8.2} {:>12.2} {:>9.2} {:>9.1}  {} closed, {} refused",
        kind.title(),
        figures.start_s,
        figures.rss_mib,
        figures.pss_mib,
        (figures.rss_mib - base) * 1024.0 / count as f64,
        figures.handshakes_cpu_s,
        figures.posts_cpu_s,
        figures.added_ms,
        figures.closed,
        figures.refused,
    );
}
