//! The certificate store at scale: start, memory, one change among many, a burst of renewals, a reload, the passing of time.
//!
//! `cargo bench --bench certificates [-- --dir DIR] [--names N]`, or `NAMES=N` in the environment
//!
//! Each name has a P-256 certificate of its own below one intermediate, as large as a public CA's, written as issuance does. *Start* is the time until
//! every name is judged: without an index every file is parsed, with one only stamps are compared; files are in the page
//! cache. *Memory* is the growth of the process's resident memory, and of what the allocator handed out. A *refresh* is
//! what a renewal costs after its files are in place: files looked at, parsed, judged, one shard copied, and published.
//!
//! CPU is the whole process's, as the kernel counts it. The program ends with 1 if a promise is missed.
#![allow(clippy::expect_used, clippy::indexing_slicing)]

mod measure;

use std::path::{Path, PathBuf};
use std::process::{ExitCode, id};
use std::sync::Arc;
use std::time::Instant;

use arc_swap::ArcSwap;
use measure::{Promises, cpu_seconds, in_threads, ms, resident};
use pixelgate::account::ServerName;
use pixelgate::tls::{CertFolders, CertStore, Lookup};
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, CustomExtension, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, KeyUsagePurpose, date_time_ymd,
};

#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

const NOW: i64 = 1_784_000_000;
const ROUNDS: usize = 5;
const BURST: usize = 1_000;
/// Bytes of a name that nobody visited, and of one that was; ms until a change of one is served; CPU ms of the burst.
const COLD_BYTES_MAX: f64 = 512.0;
const WARM_BYTES_MAX: f64 = 2_560.0;
const SERVED_MS_MAX: f64 = 5.0;
const BURST_CPU_MS_MAX: f64 = 500.0;

struct Arguments {
    dir: PathBuf,
    names: usize,
    /// Only measure memory, with files that are there.
    measure: bool,
}

/// Who signs leaves.
struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pem: String,
}

fn main() -> ExitCode {
    let arguments = arguments();
    let dir = arguments.dir.join("pixelgate-bench-certificates");
    let folders = CertFolders {
        certs_dir: dir.join("operator"),
        issued_dir: dir.join("certs"),
        index: dir.join("certificates.index"),
    };
    let names: Vec<ServerName> =
        (0..arguments.names).map(|n| format!("events.shop{n}.example").parse().expect("a name")).collect();
    if arguments.measure {
        return measure(&folders, &names);
    }
    let _ = std::fs::remove_dir_all(&dir);
    std::fs::create_dir_all(&folders.certs_dir).expect("a folder");
    let authority = Authority::new();
    let begun = Instant::now();
    in_threads(&names, |name| authority.issue(&folders.issued_dir, name, 1));
    println!("{} names, issued in {:.1} s, in {}", names.len(), begun.elapsed().as_secs_f64(), dir.display());

    starts(&folders, &names);
    // In a process of its own, where nothing else has left its traces in the allocator.
    let mut measured = std::process::Command::new(std::env::current_exe().expect("a program"));
    measured.arg("--measure").arg("--dir").arg(&arguments.dir).args(["--names", &names.len().to_string()]);
    let measured = measured.status().expect("a program").success();
    let mut promises = Promises::default();
    promises.at_most("promises of memory that are missed", f64::from(u8::from(!measured)), 0.0);

    let store = CertStore::load(&folders, &names, None, NOW);
    visit(&store, &names);
    let published = ArcSwap::from_pointee(store);
    lookups(&published.load(), &names);
    refreshes(&published, &folders, &authority, &names, &mut promises);
    reloads(&published.load(), &folders, &authority, &names);
    time_and_wildcards(&published.load(), &folders, &authority, &mut promises);
    let begun = Instant::now();
    published.load().keep_index().expect("an index");
    println!("index written: {:.0} ms", ms(begun));
    let _ = std::fs::remove_dir_all(&dir);
    promises.end()
}

/// What a store costs in memory, started with an index.
fn measure(folders: &CertFolders, names: &[ServerName]) -> ExitCode {
    let before = resident(id());
    let mut promises = Promises::default();
    let mut told = |what: &str, most: f64| {
        let now = resident(id());
        let grown = now.saturating_sub(before) as f64 / names.len() as f64;
        promises.at_most(&format!("memory, {what}: {} MiB resident in all, bytes a name", now >> 20), grown, most);
    };
    let store = CertStore::load(folders, names, None, NOW);
    told("never visited", COLD_BYTES_MAX);
    let begun = (Instant::now(), cpu_seconds(id()));
    visit(&store, names);
    told("all visited", WARM_BYTES_MAX);
    let each = |seconds: f64| seconds * 1e6 / names.len() as f64;
    let (wall, cpu) = (begun.0.elapsed().as_secs_f64(), cpu_seconds(id()) - begun.1);
    println!("first visit of every name: {:.0} µs each on all cores, {:.0} µs CPU", each(wall), each(cpu));
    promises.end()
}

fn visit(store: &CertStore, names: &[ServerName]) {
    in_threads(names, |name| {
        if let Lookup::Cold(cold) = store.lookup(name.as_str()) {
            cold.load().expect("a credential");
        }
    });
}

fn starts(folders: &CertFolders, names: &[ServerName]) {
    for (kind, rounds) in [("without an index", 2), ("with an index", ROUNDS)] {
        let mut times = Vec::new();
        for _ in 0..rounds {
            if kind == "without an index" {
                let _ = std::fs::remove_file(&folders.index);
            }
            let begun = (Instant::now(), cpu_seconds(id()));
            let store = CertStore::load(folders, names, None, NOW);
            times.push((begun.0.elapsed().as_secs_f64(), cpu_seconds(id()) - begun.1));
            assert_eq!(store.summary().valid, names.len());
            store.keep_index().expect("an index");
        }
        times.sort_by(|a, b| a.0.total_cmp(&b.0));
        let (wall, cpu) = times[rounds / 2];
        println!("start {kind}: {wall:.2} s, CPU {cpu:.2} s (median of {rounds})");
    }
}

fn lookups(store: &CertStore, names: &[ServerName]) {
    let begun = Instant::now();
    let found = names.iter().filter(|name| matches!(store.lookup(name.as_str()), Lookup::Ready(_))).count();
    assert_eq!(found, names.len());
    println!("look-up: {:.0} ns each", begun.elapsed().as_secs_f64() * 1e9 / names.len() as f64);
}

fn refreshes(
    published: &ArcSwap<CertStore>,
    folders: &CertFolders,
    authority: &Authority,
    names: &[ServerName],
    promises: &mut Promises,
) {
    let renewed: Vec<ServerName> = names.iter().step_by((names.len() / BURST).max(1)).take(BURST).cloned().collect();
    in_threads(&renewed, |name| authority.issue(&folders.issued_dir, name, 2));
    let refresh = |name: &ServerName| {
        let begun = Instant::now();
        let before = published.load();
        published.store(Arc::new(before.refreshed(std::slice::from_ref(name), NOW)));
        let served = published.load();
        assert!(matches!(served.lookup(name.as_str()), Lookup::Ready(_)));
        begun.elapsed().as_secs_f64() * 1e3
    };
    let begun = (Instant::now(), cpu_seconds(id()));
    let mut times: Vec<f64> = renewed.iter().map(refresh).collect();
    let (wall, cpu) = (begun.0.elapsed().as_secs_f64(), cpu_seconds(id()) - begun.1);
    times.sort_by(f64::total_cmp);
    let at = |share: f64| times[((times.len() - 1) as f64 * share) as usize];
    println!("one refresh: median {:.3} ms, longest {:.3} ms", at(0.5), at(1.0));
    promises.at_most("one refresh: ms, p99", at(0.99), SERVED_MS_MAX);
    println!("{} refreshes in a burst, one by one: {:.0} ms", renewed.len(), wall * 1e3);
    promises.at_most("the burst: ms of CPU", cpu * 1e3, BURST_CPU_MS_MAX);
}

/// A reload of all names: of which nothing changed, with one that came, and without one that went.
fn reloads(store: &CertStore, folders: &CertFolders, authority: &Authority, names: &[ServerName]) {
    let load = |what: &str, names: &[ServerName], valid: usize| {
        let mut times: Vec<f64> = (0..ROUNDS)
            .map(|_| {
                let begun = Instant::now();
                let again = CertStore::load(folders, names, Some(store), NOW);
                assert_eq!(again.summary().valid, valid);
                ms(begun)
            })
            .collect();
        times.sort_by(f64::total_cmp);
        println!("reload, {what}: {:.0} ms", times[ROUNDS / 2]);
    };
    load("nothing changed", names, names.len());
    load("one name fewer", &names[1..], names.len() - 1);
    let added: ServerName = "events.added.example".parse().expect("a name");
    authority.issue(&folders.issued_dir, &added, 1);
    let names: Vec<_> = names.iter().cloned().chain([added]).collect();
    load("one name more", &names, names.len());
}

/// What a change of a wildcard for one name costs, and what it costs when the validity of all ends at once.
fn time_and_wildcards(store: &CertStore, folders: &CertFolders, authority: &Authority, promises: &mut Promises) {
    let name: ServerName = "events.shop1.example".parse().expect("a name");
    let mut times: Vec<f64> = (0..100)
        .map(|serial| {
            authority.issue_as(&folders.issued_dir, "_.shop1.example", "*.shop1.example", serial);
            let begun = Instant::now();
            let next = store.refreshed(std::slice::from_ref(&name), NOW);
            let took = ms(begun);
            assert!(next.state(&name).is_some());
            took
        })
        .collect();
    times.sort_by(f64::total_cmp);
    println!("a wildcard replaced: median {:.3} ms, longest {:.3} ms", times[50], times[99]);
    promises.at_most("a wildcard replaced: ms, p99", times[98], SERVED_MS_MAX);
    let begun = Instant::now();
    assert!((0..1_000).all(|_| !std::hint::black_box(store).is_due(NOW)));
    println!("asked whether time changed anything: {:.1} µs", ms(begun));
    let begun = Instant::now();
    let late = store.tended(i64::MAX);
    println!("all judged again because they expired: {:.0} ms", ms(begun));
    assert_eq!(late.summary().valid, 0);
}

// === impl Authority ===

impl Authority {
    fn new() -> Self {
        let authority = |name: &str| {
            let mut params = CertificateParams::default();
            params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
            params.distinguished_name.push(DnType::CountryName, "US");
            params.distinguished_name.push(DnType::OrganizationName, "An Authority");
            params.distinguished_name.push(DnType::CommonName, name);
            params
        };
        let root =
            CertifiedIssuer::self_signed(authority("Root"), KeyPair::generate().expect("a key")).expect("a root");
        let (params, key) = (authority("Intermediate"), KeyPair::generate().expect("a key"));
        let pem = params.signed_by(&key, &root).expect("an intermediate").pem();
        Self { issuer: Issuer::new(params, key), pem }
    }

    /// Writes a certificate and switches to it.
    fn issue(&self, folder: &Path, name: &ServerName, serial: u32) {
        self.issue_as(folder, name.as_str(), name.as_str(), serial);
    }

    fn issue_as(&self, folder: &Path, as_folder: &str, name: &str, serial: u32) {
        let mut leaf = CertificateParams::new(vec![name.to_owned()]).expect("a name");
        leaf.not_after = date_time_ymd(2100, 1, 1);
        leaf.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        leaf.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        leaf.use_authority_key_identifier_extension = true;
        leaf.custom_extensions = public_extensions();
        let key = KeyPair::generate().expect("a key");
        let leaf = leaf.signed_by(&key, &self.issuer).expect("a leaf");
        assert!((850..1_100).contains(&leaf.der().len()), "{} bytes, unlike a public CA's", leaf.der().len());
        let folder = folder.join(as_folder);
        let place = folder.join(serial.to_string());
        std::fs::create_dir_all(&place).expect("a folder");
        std::fs::write(place.join("chain.pem"), leaf.pem() + &self.pem).expect("a file");
        std::fs::write(place.join("key.pem"), key.serialize_pem()).expect("a file");
        std::os::unix::fs::symlink(serial.to_string(), folder.join("live.new")).expect("a link");
        std::fs::rename(folder.join("live.new"), folder.join("live")).expect("a link");
    }
}

/// What public CAs write into a leaf besides: key identifier, policy, where its issuer and its revocation are found, and the
/// time stamps of two logs.
fn public_extensions() -> Vec<CustomExtension> {
    const SEQUENCE: u8 = 0x30;
    const OCTETS: u8 = 0x04;
    const OID: u8 = 0x06;
    const URI: u8 = 0x86;
    let issuer = [der(OID, &[0x2b, 6, 1, 5, 5, 7, 0x30, 2]), der(URI, b"http://authority.example/e7.der")].concat();
    let domain_validated = der(OID, &[0x67, 0x81, 0x0c, 1, 2, 1]);
    let revoked = der(0xa0, &der(0xa0, &der(URI, b"http://e7.revoked.example/107.crl")));
    let extension = |oid: &[u64], content: Vec<u8>| CustomExtension::from_oid_content(oid, content);
    vec![
        extension(&[2, 5, 29, 14], der(OCTETS, &[7; 20])),
        extension(&[2, 5, 29, 32], der(SEQUENCE, &der(SEQUENCE, &domain_validated))),
        extension(&[2, 5, 29, 31], der(SEQUENCE, &der(SEQUENCE, &revoked))),
        extension(&[1, 3, 6, 1, 5, 5, 7, 1, 1], der(SEQUENCE, &der(SEQUENCE, &issuer))),
        extension(&[1, 3, 6, 1, 4, 1, 11129, 2, 4, 2], der(OCTETS, &[7; 240])),
    ]
}

/// A value of DER, of less than 256 bytes.
fn der(tag: u8, content: &[u8]) -> Vec<u8> {
    let length = content.len() as u8;
    let head = if length < 128 { vec![tag, length] } else { vec![tag, 0x81, length] };
    [&head, content].concat()
}

fn arguments() -> Arguments {
    let names = std::env::var("NAMES").ok().and_then(|names| names.parse().ok()).unwrap_or(5_000);
    let mut arguments = Arguments { dir: std::env::temp_dir(), names, measure: false };
    let mut given = std::env::args().skip(1);
    while let Some(argument) = given.next() {
        match argument.as_str() {
            "--dir" => arguments.dir = given.next().expect("a folder").into(),
            "--names" => arguments.names = given.next().and_then(|value| value.parse().ok()).expect("a number"),
            "--measure" => arguments.measure = true,
            // What cargo passes to every bench.
            "--bench" => {}
            other => eprintln!("{other} is not known"),
        }
    }
    arguments
}
