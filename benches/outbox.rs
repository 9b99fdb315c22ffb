//! Durable acceptance against its physical limit, and a large backlog.
//!
//! `cargo bench --bench outbox [-- --dir DIR] [--seconds N] [--backlog N]`
//!
//! *Acceptance*: so many requesters append one 900-byte event each to one of 200 lanes and wait until it is durable; in the
//! rows `delivered` a consumer leases and acknowledges at the same time. The yardstick is a bare file with the same grouping: one thread takes what waits,
//! writes it with one call, syncs once, answers all. The two take turns in the same run; the ratio is of neighbouring
//! turns, because a shared disk is not the same one a minute later.
//!
//! *Backlog*: a million events are appended and then the outbox is opened again, as a start does, and drained.
//!
//! CPU is the whole process's, requesters included, as the kernel counts it.
#![allow(clippy::expect_used, clippy::indexing_slicing)]

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use pixelgate::account::LaneKey;
use pixelgate::outbox::{Due, NewEvent, Options, Outbox};
use tokio::sync::{Semaphore, oneshot};

#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

const BODY_BYTES: usize = 900;
const LANES: u64 = 200;
/// How long the consumer's requests take.
const REQUEST: Duration = Duration::from_millis(20);
const ROUNDS: usize = 5;
const NOW_MS: i64 = 1_784_000_000_000;

struct Arguments {
    dir: PathBuf,
    seconds: f64,
    backlog: usize,
}

/// What one turn measured.
struct Turn {
    per_second: f64,
    cpu_per_100k: f64,
    p50: Duration,
    p99: Duration,
}

/// What takes events: the outbox, or the bare file.
enum Sink {
    Outbox(Outbox),
    File(mpsc::Sender<(Vec<u8>, oneshot::Sender<()>)>),
}

fn main() {
    let arguments = arguments();
    println!(
        "{BODY_BYTES}-byte events, {LANES} lanes, {} s a turn, {ROUNDS} rounds, in {}",
        arguments.seconds,
        arguments.dir.display()
    );
    println!(
        "{:>10} {:>10} {:>10} {:>8} {:>14} {:>10} {:>10}",
        "requesters", "sink", "events/s", "ratio", "CPU s per 100k", "p50 ms", "p99 ms"
    );
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_time().build().expect("a runtime");
    for requesters in [1, 64, 1_024] {
        let mut ratios = [Vec::new(), Vec::new()];
        for _ in 0..ROUNDS {
            let file = runtime.block_on(file_turn(&arguments, requesters));
            print_turn(requesters, "file", &file, 1.0);
            for (delivered, ratios) in [false, true].into_iter().zip(&mut ratios) {
                let outbox = runtime.block_on(outbox_turn(&arguments, requesters, delivered));
                let ratio = outbox.per_second / file.per_second;
                print_turn(requesters, if delivered { "delivered" } else { "outbox" }, &outbox, ratio);
                ratios.push(ratio);
            }
        }
        for (name, ratios) in ["outbox", "delivered"].into_iter().zip(&mut ratios) {
            ratios.sort_by(f64::total_cmp);
            println!("{requesters:>10} {name:>10}     median {:>8.2}", ratios[ROUNDS / 2]);
        }
    }
    if arguments.backlog > 0 {
        runtime.block_on(backlog(&arguments));
    }
}

fn print_turn(requesters: usize, sink: &str, turn: &Turn, ratio: f64) {
    let ms = |time: Duration| time.as_secs_f64() * 1e3;
    println!(
        "{requesters:>10} {sink:>10} {:>10.0} {ratio:>8.2} {:>14.2} {:>10.2} {:>10.2}",
        turn.per_second,
        turn.cpu_per_100k,
        ms(turn.p50),
        ms(turn.p99)
    );
}

async fn file_turn(arguments: &Arguments, requesters: usize) -> Turn {
    let dir = fresh(arguments);
    let (sender, receiver) = mpsc::channel();
    let path = dir.join("bare");
    let writer = std::thread::spawn(move || bare_file(&path, &receiver));
    let turn = drive(Arc::new(Sink::File(sender)), requesters, arguments.seconds).await;
    writer.join().expect("the writer ends");
    turn
}

/// The physical limit: append, sync, answer.
fn bare_file(path: &Path, receiver: &mpsc::Receiver<(Vec<u8>, oneshot::Sender<()>)>) {
    let mut file = File::create_new(path).expect("a file");
    let mut buffer = Vec::new();
    while let Ok((first, reply)) = receiver.recv() {
        buffer.clear();
        buffer.extend_from_slice(&first);
        let mut replies = vec![reply];
        while replies.len() < 4_096 && buffer.len() < 8 << 20 {
            let Ok((next, reply)) = receiver.try_recv() else { break };
            buffer.extend_from_slice(&next);
            replies.push(reply);
        }
        file.write_all(&buffer).expect("written");
        file.sync_data().expect("synced");
        replies.into_iter().for_each(|reply| reply.send(()).expect("a requester waits"));
    }
}

async fn outbox_turn(arguments: &Arguments, requesters: usize, delivered: bool) -> Turn {
    let outbox = open(fresh(arguments));
    let consumer = delivered.then(|| tokio::spawn(consume(outbox.clone())));
    let turn = drive(Arc::new(Sink::Outbox(outbox.clone())), requesters, arguments.seconds).await;
    if let Some(consumer) = consumer {
        consumer.abort();
    }
    outbox.close();
    turn
}

/// Leases and acknowledges as delivery does: one request of a lane in flight, which takes a while, and 64 in all.
async fn consume(outbox: Outbox) {
    let slots = Arc::new(Semaphore::new(64));
    loop {
        let slot = Arc::clone(&slots).acquire_owned().await.expect("slots");
        let Due::Lane(lane) = outbox.next_due(NOW_MS) else {
            drop(slot);
            outbox.changed().await;
            continue;
        };
        if let Some(lease) = outbox.lease(&lane, 1_000, 8 << 20, NOW_MS) {
            tokio::spawn(async move {
                tokio::time::sleep(REQUEST).await;
                lease.ack();
                drop(slot);
            });
        }
    }
}

/// Has requesters append for some seconds, and measures them.
async fn drive(sink: Arc<Sink>, requesters: usize, seconds: f64) -> Turn {
    let done = Arc::new(AtomicU64::new(0));
    let (begun, cpu) = (Instant::now(), cpu_seconds());
    let tasks: Vec<_> = (0..requesters)
        .map(|requester| {
            let (sink, done) = (Arc::clone(&sink), Arc::clone(&done));
            tokio::spawn(async move {
                let mut times = Vec::new();
                while begun.elapsed().as_secs_f64() < seconds {
                    let event = event(done.fetch_add(1, Ordering::Relaxed), requester as u64);
                    let asked = Instant::now();
                    match &*sink {
                        Sink::Outbox(outbox) => outbox.append(vec![event], NOW_MS).await.expect("accepted"),
                        Sink::File(writer) => {
                            let (reply, answer) = oneshot::channel();
                            writer.send((event.body.to_vec(), reply)).expect("the writer runs");
                            answer.await.expect("answered");
                        }
                    }
                    times.push(asked.elapsed());
                }
                times
            })
        })
        .collect();
    let mut times = Vec::new();
    for task in tasks {
        times.extend(task.await.expect("a requester ends"));
    }
    let (elapsed, cpu) = (begun.elapsed().as_secs_f64(), cpu_seconds() - cpu);
    times.sort_unstable();
    let at = |share: f64| times.get((times.len() as f64 * share) as usize).copied().unwrap_or_default();
    Turn {
        per_second: times.len() as f64 / elapsed,
        cpu_per_100k: cpu / times.len() as f64 * 1e5,
        p50: at(0.5),
        p99: at(0.99),
    }
}

async fn backlog(arguments: &Arguments) {
    let dir = fresh(arguments);
    let outbox = open(dir.clone());
    let count = arguments.backlog as u64;
    for first in (0..count).step_by(1_000) {
        let group = (first..(first + 1_000).min(count)).map(|id| event(id, id)).collect();
        outbox.append(group, NOW_MS).await.expect("accepted");
    }
    outbox.close();

    let before = resident_mib();
    let begun = Instant::now();
    let outbox = open(dir);
    let opened = begun.elapsed();
    println!(
        "\nbacklog of {count}: open {:.3} s, resident {} MiB (before: {before})",
        opened.as_secs_f64(),
        resident_mib()
    );
    let (begun, cpu) = (Instant::now(), cpu_seconds());
    let (mut drained, mut most) = (0, 0);
    while let Due::Lane(lane) = outbox.next_due(NOW_MS) {
        let Some(lease) = outbox.lease(&lane, 1_000, 8 << 20, NOW_MS) else { continue };
        drained += lease.events().len();
        lease.ack();
        most = most.max(resident_mib());
    }
    let elapsed = begun.elapsed().as_secs_f64();
    println!(
        "drained {drained} in {elapsed:.2} s: {:.0} events/s, {:.2} CPU s per 100k, resident at most {most} MiB",
        drained as f64 / elapsed,
        (cpu_seconds() - cpu) / drained as f64 * 1e5
    );
    outbox.close();
}

fn event(id: u64, lane: u64) -> NewEvent {
    let pixel = (1 + lane % LANES).to_string();
    let event_id = format!("event-{id:020}");
    let mut body = Vec::with_capacity(BODY_BYTES);
    write!(body, r#"{{"event_name":"PageView","event_id":"{event_id}","pad":""#).expect("in memory");
    body.resize(BODY_BYTES - 2, b'x');
    body.extend_from_slice(b"\"}");
    NewEvent {
        lane: LaneKey { account: "account".parse().expect("an id"), pixel: pixel.parse().expect("a pixel") },
        event_name: "PageView".into(),
        event_id,
        event_time: NOW_MS / 1_000,
        envelope: "".into(),
        body: body.into(),
    }
}

fn open(dir: PathBuf) -> Outbox {
    let options = Options {
        dir,
        segment_bytes: 64 << 20,
        reserve_bytes: 256 << 20,
        account_backlog_bytes_max: u64::MAX,
        dead_letters_max: 10_000,
        dead_letter_bytes_max: 64 << 20,
        leases_per_lane_max: 1,
        on_sync: Box::new(|_| {}),
        on_lost: Box::new(|_, _, _| {}),
    };
    Outbox::open(options).expect("an outbox").0
}

/// An empty folder, the same for each turn.
fn fresh(arguments: &Arguments) -> PathBuf {
    let dir = arguments.dir.join("pixelgate-bench-outbox");
    let _ = std::fs::remove_dir_all(&dir);
    std::fs::create_dir_all(&dir).expect("a folder");
    dir
}

fn cpu_seconds() -> f64 {
    let ticks = std::fs::read_to_string("/proc/self/stat").expect("procfs");
    // utime and stime, 100 ticks a second (proc_pid_stat(5)); the name before them is in parentheses.
    let fields = ticks.rsplit(')').next().expect("fields").split_whitespace();
    fields.skip(11).take(2).filter_map(|field| field.parse::<f64>().ok()).sum::<f64>() / 100.0
}

fn resident_mib() -> u64 {
    let pages = std::fs::read_to_string("/proc/self/statm").expect("procfs");
    let resident = pages.split_whitespace().nth(1).and_then(|pages| pages.parse::<u64>().ok());
    (resident.unwrap_or(0) * 4_096) >> 20
}

fn arguments() -> Arguments {
    let mut arguments = Arguments { dir: std::env::temp_dir(), seconds: 3.0, backlog: 1_000_000 };
    let mut given = std::env::args().skip(1);
    while let Some(argument) = given.next() {
        match argument.as_str() {
            "--dir" => arguments.dir = given.next().expect("a folder").into(),
            "--seconds" => arguments.seconds = given.next().and_then(|value| value.parse().ok()).expect("a number"),
            "--backlog" => arguments.backlog = given.next().and_then(|value| value.parse().ok()).expect("a number"),
            // What cargo passes to every bench.
            "--bench" => {}
            other => eprintln!("{other} is not known"),
        }
    }
    arguments
}
