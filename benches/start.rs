//! A start and a reload at scale: where the time goes, and what a name costs in memory.
//!
//! `cargo bench --bench start [-- --dir DIR] [--accounts N] [--names N] [--keep]`
//!
//! Each account has so many names, a certificate for each, one pixel and its token's file. First each *part* by itself, in
//! this process, files in the page cache; then the *whole*: the real program until its ready file is there, without and with
//! what the run before left, and its resident memory; then a *reload* of which one account changed: until it is in force,
//! and until it is answered. With `--keep` the folder stays, and the next run takes it as it is.
//!
//! CPU is the whole process's, as the kernel counts it. With 100,000 names the program ends with 1 if a promise is missed.
#![allow(clippy::expect_used, clippy::indexing_slicing, clippy::panic, clippy::disallowed_methods)]

mod measure;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use measure::{Promises, cpu_seconds, in_threads, ms, resident};
use pixelgate::config::{LastGood, Reading, Source, settle};
use pixelgate::filter::{self, Compiler, FilterHost};
use pixelgate::reload::Reloader;
use pixelgate::snapshot::{self, Before, Inputs, Snapshot};
use pixelgate::telemetry::Metrics;
use pixelgate::tls::{CertFolders, CertStore};
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, date_time_ymd};

#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

const NOW_MS: i64 = 1_784_000_000_000;
const ROUNDS: usize = 3;
const RELOADS: usize = 5;
/// What is promised of 100,000 names: s until the program is ready, with what the run before left; bytes a name
/// that are resident then, of as many; ms until a reload of one account is in force.
const PROMISED_NAMES: usize = 100_000;
const READY_S_MAX: f64 = 2.0;
const BYTES_MAX: f64 = 6_144.0;
const IN_FORCE_MS_MAX: f64 = 150.0;
/// How long the program may take to be ready, or to end.
const PATIENCE: Duration = Duration::from_secs(300);

struct Arguments {
    dir: PathBuf,
    accounts: usize,
    names: usize,
    keep: bool,
}

/// A configuration's folder of so many accounts.
struct Site {
    dir: PathBuf,
    accounts: usize,
    names: usize,
}

/// What a start of the program took: s until it was ready, bytes a name then.
struct Start {
    ready_s: f64,
    bytes: f64,
}

struct Nobody;

impl filter::Observer for Nobody {}

fn main() -> ExitCode {
    let arguments = arguments();
    let dir = arguments.dir.join(format!("pixelgate-bench-start-{}-{}", arguments.accounts, arguments.names));
    let site = Site { dir, accounts: arguments.accounts, names: arguments.names };
    site.make();
    println!("{} accounts with {} names each, in {}", site.accounts, site.names, site.dir.display());
    site.parts();
    let started = site.whole();
    let in_force = site.reloads();
    if !arguments.keep {
        let _ = std::fs::remove_dir_all(&site.dir);
    }
    let mut promises = Promises::default();
    if site.accounts * site.names == PROMISED_NAMES {
        println!();
        promises.at_most("s until it is ready", median(started.iter().map(|start| start.ready_s)), READY_S_MAX);
        promises.at_most("bytes a name", median(started.iter().map(|start| start.bytes)), BYTES_MAX);
        promises.at_most("ms until a reload is in force", median(in_force), IN_FORCE_MS_MAX);
    }
    promises.end()
}

fn median(values: impl IntoIterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.into_iter().collect();
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

// === impl Site ===

impl Site {
    fn make(&self) {
        let made = self.dir.join("made");
        if made.exists() {
            return;
        }
        let begun = Instant::now();
        let _ = std::fs::remove_dir_all(&self.dir);
        for folder in ["accounts", "secrets", "certs"] {
            std::fs::create_dir_all(self.dir.join(folder)).expect("a folder");
        }
        let toml = "[host]\ndomain = \"gw.agency.example\"\ndata_dir = \"data\"\n[listen]\nhttps = [\"127.0.0.1:0\"]\n\
                    http = [\"127.0.0.1:0\"]\nops = \"127.0.0.1:0\"\n[delivery]\ngraph_url = \"http://127.0.0.1:9\"\n";
        std::fs::write(self.dir.join("pixelgate.toml"), toml).expect("a file");
        let authority = Authority::new();
        authority.issue(&self.dir.join("certs"), "gw.agency.example");
        let numbers: Vec<usize> = (0..self.accounts).collect();
        in_threads(&numbers, |n| {
            std::fs::write(self.dir.join(format!("secrets/token-{n}")), format!("EAAtoken{n}\n")).expect("a file");
            self.write_account(*n, "");
            (0..self.names).for_each(|k| authority.issue(&self.dir.join("certs"), &name(*n, k)));
        });
        std::fs::write(made, "").expect("a file");
        println!("made in {:.0} s", begun.elapsed().as_secs_f64());
    }

    fn write_account(&self, n: usize, comment: &str) {
        let domains: Vec<String> = (0..self.names).map(|k| name(n, k)).collect();
        let text = format!(
            "# {comment}\nname = \"Shop {n}\"\nmode = \"managed\"\nactive = true\ndomains = {domains:?}\n\n[[pixels]]\n\
             id = \"{}\"\naccess_token = {{ file = \"../secrets/token-{n}\" }}\nactive = true\n\n[websites]\n\
             allow = [\"shop{n}.example\", \"*.shop{n}.example\"]\n",
            1_000_000 + n
        );
        std::fs::write(self.dir.join(format!("accounts/shop-{n}.toml")), text).expect("a file");
    }

    fn data(&self) -> PathBuf {
        self.dir.join("data")
    }

    fn forget(&self) {
        let _ = std::fs::remove_dir_all(self.data());
    }

    /// Each part of a start by itself.
    fn parts(&self) {
        self.forget();
        std::fs::create_dir_all(self.data()).expect("a folder");
        let filters = filters();
        println!("\nparts of a start, best of {ROUNDS}");
        let reading = timed("reading the files", || Source::new(&self.dir).read());
        assert_eq!((reading.accounts.len(), reading.problems.len()), (self.accounts, 0), "{:?}", reading.problems);
        let gateway = reading.gateway.clone().expect("a good file");
        let nobody = timed("owners, first start", || LastGood::open(&self.data()).owners(&reading.accounts));
        let settled = timed("settle", || settle(&gateway, &reading.accounts, &nobody, &BTreeSet::new()));
        let folders = CertFolders {
            certs_dir: gateway.tls.certs_dir.clone(),
            issued_dir: self.data().join("certs"),
            index: self.data().join("certificates.index"),
        };
        let names: Vec<_> = settled.accounts.values().flat_map(|account| account.domains.clone()).collect();
        let load = || CertStore::load(&folders, &names, None, NOW_MS / 1_000);
        let store = timed("certificates, without an index", load);
        assert_eq!(store.summary().valid, names.len());
        once("certificates' index written", || store.keep_index().expect("an index"));
        timed("certificates, with an index", load);
        drop(store);
        let last_good = LastGood::open(&self.data());
        let compile = || compiled(reading.clone(), Before::Kept(&last_good), &filters);
        let first = timed("compile, all of the above but the files", compile);
        let accounts: Vec<_> = first.tenants().map(|tenant| tenant.config.clone()).collect();
        let others = BTreeSet::new();
        once("last good written", || LastGood::open(&self.data()).keep(&accounts, &others).expect("kept"));
        timed("owners, from last good", || LastGood::open(&self.data()).owners(&reading.accounts));
        timed("last good found unchanged", || LastGood::open(&self.data()).keep(&accounts, &others).expect("kept"));
        let mut source = Source::new(&self.dir);
        source.read();
        // What was written this second is not believed to be unchanged.
        std::thread::sleep(Duration::from_millis(1_200));
        source.read();
        let again = timed("reading the files again, nothing changed", || source.read());
        timed("compile again, nothing changed", || {
            let again = compiled(again.clone(), Before::Running(&first), &filters);
            assert_eq!(again.revision, 2);
            again
        });
        timed("certificates again, nothing changed", || first.certificates.looked_through(NOW_MS / 1_000));
    }

    /// The real program; its starts but for the first one.
    fn whole(&self) -> Vec<Start> {
        println!("\nthe whole process until it is ready");
        self.forget();
        self.run("first start");
        (0..ROUNDS).map(|_| self.run("start")).collect()
    }

    fn run(&self, what: &str) -> Start {
        let ready = self.dir.join("ready.json");
        let _ = std::fs::remove_file(&ready);
        let begun = Instant::now();
        let mut program = Command::new(env!("CARGO_BIN_EXE_pixelgate"));
        program.arg("run").arg("--config").arg(&self.dir).arg("--ready-file").arg(&ready).env("RUST_LOG", "off");
        let log = std::fs::File::create(self.dir.join("log")).expect("a file");
        let mut program = program.stdin(Stdio::null()).stderr(log).spawn().expect("the program");
        while !ready.exists() {
            assert!(begun.elapsed() < PATIENCE && program.try_wait().expect("a child").is_none(), "it is not ready");
            std::thread::sleep(Duration::from_millis(1));
        }
        let took = begun.elapsed();
        let (resident, cpu) = (resident(program.id()), cpu_seconds(program.id()));
        let bytes = resident as f64 / (self.accounts * self.names) as f64;
        let begun = Instant::now();
        let id = rustix::process::Pid::from_child(&program);
        rustix::process::kill_process(id, rustix::process::Signal::TERM).expect("our own child");
        assert!(program.wait().expect("a child").success());
        println!(
            "{what:>42}: {:>7.0} ms, CPU {cpu:.2} s, {} MiB resident, {bytes:.0} bytes a name; stopped in {:.0} ms",
            took.as_secs_f64() * 1e3,
            resident >> 20,
            ms(begun)
        );
        Start { ready_s: took.as_secs_f64(), bytes }
    }

    /// One account changes; ms until that is in force.
    fn reloads(&self) -> Vec<f64> {
        println!("\na reload, one of {} accounts changed", self.accounts);
        let mut source = Source::new(&self.dir);
        let reading = source.read();
        let metrics = Arc::new(Metrics::new().expect("metrics"));
        let filters = Arc::new(filters());
        let started = Reloader::start(source, reading, LastGood::open(&self.data()), filters, metrics, NOW_MS);
        let reloader = Arc::new(started.map_err(|unusable| unusable.0).expect("a good file"));
        // What was written this second is read again.
        std::thread::sleep(Duration::from_millis(1_200));
        reloader.reload(|| NOW_MS);
        let mut times = Vec::new();
        for round in 0..RELOADS {
            self.write_account(self.accounts / 2, &format!("round {round}"));
            let before = reloader.published().load().revision;
            let begun = (Instant::now(), cpu_seconds(std::process::id()));
            let reloading = reloader.clone();
            let reload = std::thread::spawn(move || reloading.reload(|| NOW_MS));
            while reloader.published().load().revision == before {
                std::thread::sleep(Duration::from_micros(100));
            }
            let in_force = ms(begun.0);
            let report = reload.join().expect("a report");
            assert!(report.applied && report.problems.is_empty());
            let cpu = cpu_seconds(std::process::id()) - begun.1;
            println!("{:>42}: {in_force:>7.0} ms, answered after {:.0} ms, CPU {cpu:.2} s", "in force", ms(begun.0));
            times.push(in_force);
        }
        self.write_account(self.accounts / 2, "");
        let name = reloader.published().load().tenants().next().expect("an account").config.domains[0].clone();
        timed("one certificate taken up", || reloader.refresh_certificates(std::slice::from_ref(&name), NOW_MS));
        times
    }
}

fn compiled(reading: Reading, before: Before<'_>, filters: &FilterHost) -> Snapshot {
    let gateway = reading.gateway.clone().expect("a good file");
    snapshot::compile(Inputs { gateway, reading, before, filters, now_ms: NOW_MS }).snapshot
}

fn filters() -> FilterHost {
    let options = filter::Options {
        deadline: Duration::from_millis(5),
        memory_bytes_max: 16 << 20,
        file_bytes_max: 4 << 20,
        threads: 2,
        wait_max: Duration::from_millis(50),
        compile_timeout: Duration::from_secs(60),
        cache_dir: None,
        script_runner: "none".into(),
        compiler: Compiler::InProcess,
    };
    FilterHost::start(options, Arc::new(Nobody)).expect("filters")
}

fn name(account: usize, k: usize) -> String {
    format!("events{k}.shop{account}.example")
}

/// Does it a few times and tells the best one; what the last one made is given back.
fn timed<T>(what: &str, mut work: impl FnMut() -> T) -> T {
    let mut best: Option<(f64, f64, T)> = None;
    for _ in 0..ROUNDS {
        let begun = (Instant::now(), cpu_seconds(std::process::id()));
        let made = work();
        let (wall, cpu) = (ms(begun.0), cpu_seconds(std::process::id()) - begun.1);
        let (wall, cpu) = best.as_ref().map_or((wall, cpu), |best| (wall.min(best.0), cpu.min(best.1)));
        best = Some((wall, cpu, made));
    }
    let (wall, cpu, made) = best.expect("a round");
    println!("{what:>42}: {wall:>7.0} ms, CPU {cpu:.2} s");
    made
}

fn once(what: &str, work: impl FnOnce()) {
    let begun = (Instant::now(), cpu_seconds(std::process::id()));
    work();
    println!("{what:>42}: {:>7.0} ms, CPU {:.2} s", ms(begun.0), cpu_seconds(std::process::id()) - begun.1);
}

/// Who signs leaves.
struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pem: String,
    /// One for all leaves: what is measured does not depend on it.
    leaf: KeyPair,
}

// === impl Authority ===

impl Authority {
    fn new() -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, "Root");
        let key = KeyPair::generate().expect("a key");
        let pem = params.self_signed(&key).expect("a root").pem();
        Self { issuer: Issuer::new(params, key), pem, leaf: KeyPair::generate().expect("a key") }
    }

    fn issue(&self, certs_dir: &Path, name: &str) {
        let mut params = CertificateParams::new(vec![name.to_owned()]).expect("a name");
        params.not_after = date_time_ymd(2100, 1, 1);
        let leaf = params.signed_by(&self.leaf, &self.issuer).expect("a leaf");
        let folder = certs_dir.join(name);
        std::fs::create_dir_all(&folder).expect("a folder");
        std::fs::write(folder.join("chain.pem"), leaf.pem() + &self.pem).expect("a file");
        std::fs::write(folder.join("key.pem"), self.leaf.serialize_pem()).expect("a file");
    }
}

fn arguments() -> Arguments {
    let mut arguments = Arguments { dir: std::env::temp_dir(), accounts: 20_000, names: 5, keep: false };
    let mut given = std::env::args().skip(1);
    while let Some(argument) = given.next() {
        let mut number = || given.next().and_then(|value| value.parse().ok()).expect("a number");
        match argument.as_str() {
            "--accounts" => arguments.accounts = number(),
            "--names" => arguments.names = number(),
            "--dir" => arguments.dir = given.next().expect("a folder").into(),
            "--keep" => arguments.keep = true,
            // What cargo passes to every bench.
            "--bench" => {}
            other => eprintln!("{other} is not known"),
        }
    }
    arguments
}
