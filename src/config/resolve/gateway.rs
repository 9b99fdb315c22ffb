//! `pixelgate.toml`

use std::io::ErrorKind;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::account::ServerName;
use crate::config::disk::{read_file, tidy};
use crate::config::file::{self, FILE_BYTES_MAX, Table, Value, nearest};
use crate::config::findings::shown;
use crate::config::model::{
    DeliveryConfig, FilterLimits, GatewayConfig, HostConfig, Limits, LogConfig, LogFormat, OutboxConfig, TlsConfig,
    TlsVersion,
};
use crate::config::problem::Problem;
use crate::config::resolve::acme::acme;
use crate::config::resolve::address::GraphUrl;
use crate::config::resolve::listen::listen;
use crate::config::resolve::system::is_the_systems;
use crate::config::resolve::{PROGRAM_BYTES_MAX, Rules, Surroundings};

const KIB: u64 = 1024;
const MIB: u64 = 1024 * KIB;
const GIB: u64 = 1024 * MIB;
const TIB: u64 = 1024 * GIB;

const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(60 * 60);
const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// Where everything is kept unless the file says otherwise.
const DATA_DIR: &str = "/var/lib/pixelgate";
/// Bytes of a Unix socket's path (sun_path in unix(7), less its NUL).
const SOCKET_PATH_BYTES_MAX: usize = 107;
/// What to do about a file without certificates of a private CA.
pub(super) const CA_FILE_REMEDY: &str = "put the CA's certificates there, in PEM, readable for the gateway's user";
/// Moves the script runner, as `[filters] script_runner` does.
const SCRIPT_RUNNER_VARIABLE: &str = "PIXELGATE_SCRIPT_RUNNER";

/// `pixelgate.toml` as far as it could be read.
pub(in crate::config) struct Written {
    config: Option<GatewayConfig>,
    rules: Rules,
    control: PathBuf,
    filters: FilterLimits,
}

/// `[host]` as far as it could be read.
struct Host {
    name: Option<String>,
    domain: Option<ServerName>,
    data_dir: PathBuf,
    control: PathBuf,
    watch: bool,
    upstream_private: bool,
    addresses: Vec<IpAddr>,
}

/// Reads `pixelgate.toml`. There is a configuration only if none of the problems is an error; the rules for the
/// accounts' files are those that could be read; `None` where the text is no TOML at all.
pub(in crate::config) fn gateway(
    path: &Path,
    bytes: &[u8],
    surroundings: &Surroundings,
) -> (Option<GatewayConfig>, Option<Rules>, Vec<Problem>) {
    let (written, problems) = file::read(path, None, bytes, |table| read(table, surroundings));
    let refused = problems.iter().any(Problem::is_error);
    match written {
        Some(Written { config, rules, .. }) => (config.filter(|_| !refused), Some(rules), problems),
        None => (None, None, problems),
    }
}

/// Where the control socket is of the gateway that this file configures, whatever else is wrong with it.
pub(in crate::config) fn control_socket(path: &Path) -> PathBuf {
    let bytes = read_file(path, FILE_BYTES_MAX).unwrap_or_default();
    file::read_in_part(path, &bytes, |table| read(table, &Surroundings::default())).control
}

/// `[filters]` of this file, whatever else is wrong with it; where it says nothing, what holds without it.
pub(in crate::config) fn filter_limits(path: &Path, surroundings: &Surroundings) -> FilterLimits {
    let bytes = read_file(path, FILE_BYTES_MAX).unwrap_or_default();
    file::read_in_part(path, &bytes, |table| read(table, surroundings)).filters
}

/// Reads the root table.
pub(in crate::config) fn read(table: &mut Table<'_>, surroundings: &Surroundings) -> Written {
    let host = table.table("host", host);
    let listen = table.table("listen", listen);
    let tls = table.table("tls", tls);
    let acme = table.table("acme", |table| acme(table, surroundings));
    let outbox = table.table("outbox", |table| outbox(table, &host.data_dir));
    let delivery = table.table("delivery", delivery);
    let filters = table.table("filters", |table| filters(table, surroundings));
    let limits = table.table("limits", limits);
    let metrics_per_account_max = table.table("metrics", |table| table.count("per_account_max", 500, 0..=100_000));
    let log = table.table("log", log);

    let rules = Rules { upstream_private: host.upstream_private, program_bytes_max: filters.file_bytes_max };
    let (control, filter_limits) = (host.control.clone(), filters.clone());
    let file = table.place.file().to_owned();
    let config = host.named().map(|host| GatewayConfig {
        file,
        host,
        listen,
        tls,
        acme,
        outbox,
        delivery,
        filters,
        limits,
        log,
        metrics_per_account_max,
    });
    Written { config, rules, control, filters: filter_limits }
}

fn host(table: &mut Table<'_>) -> Host {
    let remedy = "write the gateway's own DNS name, such as \"gw.agency.example\"";
    let data_dir = table.path("data_dir").unwrap_or_else(|| PathBuf::from(DATA_DIR));
    // It is closed to all other users and filled.
    if is_the_systems(&data_dir) {
        table.place_of("data_dir").error(
            format!("{} is a folder of the operating system", tidy(&data_dir).display()),
            format!("name a folder of its own, such as \"{DATA_DIR}\""),
        );
    }
    let control = table.path("control").unwrap_or_else(|| data_dir.join("control.sock"));
    if control.as_os_str().len() > SOCKET_PATH_BYTES_MAX {
        let most = format!("the {SOCKET_PATH_BYTES_MAX} bytes that a socket's path may have");
        table.place_of("control").error(
            format!("{} is longer than {most}", control.display()),
            "set [host] control to a shorter path, such as \"/run/pixelgate/control.sock\"",
        );
    }
    Host {
        name: table.label("name"),
        domain: table.required("domain", remedy).and_then(|value| value.parsed(remedy)),
        data_dir,
        control,
        watch: table.flag("watch", false),
        upstream_private: table.flag("upstream_private", false),
        addresses: table
            .parsed_list("addresses", "write an address that the names' DNS leads to, such as \"192.0.2.7\""),
    }
}

fn tls(table: &mut Table<'_>) -> TlsConfig {
    let versions = [("1.2", TlsVersion::Tls12), ("1.3", TlsVersion::Tls13)];
    let folder = table.place.file().parent().unwrap_or(Path::new(""));
    TlsConfig {
        certs_dir: table.value("certs_dir").and_then(|value| certs_dir(&value)).unwrap_or_else(|| folder.join("certs")),
        min_version: table.choice("min_version", TlsVersion::Tls12, &versions),
        ticket_rotation: table.duration("ticket_rotation", DAY, MINUTE..=7 * DAY),
    }
}

/// A folder that is written down is meant to be there.
fn certs_dir(value: &Value<'_>) -> Option<PathBuf> {
    let path = value.path()?;
    if std::fs::metadata(&path).is_err_and(|error| error.kind() == ErrorKind::NotFound) {
        let reason = format!("{} is not there: no certificate comes from it", tidy(&path).display());
        value.place.warning(reason, "mend the path, mount the volume or make the folder, then `pixelgate reload`");
    }
    Some(path)
}

fn outbox(table: &mut Table<'_>, data_dir: &Path) -> OutboxConfig {
    // Two per cent of a small volume: a reserve must not eat what it protects.
    let reserve = volume_bytes(data_dir).map_or(256 * MIB, |bytes| (bytes / 50).min(256 * MIB));
    OutboxConfig {
        segment_bytes: table.size("segment_bytes", 64 * MIB, MIB..=GIB),
        reserve_bytes: table.size("reserve_bytes", reserve, 0..=TIB),
        dead_letters_max: table.size("dead_letters_max", 100_000, 1..=10_000_000),
        dead_letter_bytes_max: table.size("dead_letter_bytes_max", 256 * MIB, MIB..=TIB),
    }
}

fn delivery(table: &mut Table<'_>) -> DeliveryConfig {
    let graph_url = table.value("graph_url").and_then(|value| {
        let GraphUrl(url) = value.parsed("write an https URL, such as \"https://graph.facebook.com\"")?;
        Some(url)
    });
    let config = DeliveryConfig {
        graph_url: graph_url.unwrap_or_else(|| "https://graph.facebook.com".to_owned()),
        ca_file: table.value("ca_file").and_then(|value| {
            let path = value.path()?;
            let found = ca_certificates(&path).map_err(|reason| value.place.error(reason, CA_FILE_REMEDY));
            found.is_ok().then_some(path)
        }),
        api_version: table
            .value("api_version")
            .and_then(|value| api_version(&value))
            .unwrap_or_else(|| "v26.0".to_owned()),
        batch_events_max: table.count("batch_events_max", 1_000, 1..=1_000),
        batch_bytes_max: table.count("batch_bytes_max", 4 * MIB as usize, 64 * KIB as usize..=64 * MIB as usize),
        age_max: table.duration("age_max", 7 * DAY, MINUTE..=7 * DAY),
        retry_min: table.duration("retry_min", SECOND, Duration::from_millis(10)..=HOUR),
        retry_max: table.duration("retry_max", 10 * MINUTE, Duration::from_millis(10)..=DAY),
        requests_in_flight_max: table.count("requests_in_flight_max", 64, 1..=10_000),
        requests_in_flight_per_lane_max: table.count("requests_in_flight_per_lane_max", 1, 1..=64),
        timeout: table.duration("timeout", 30 * SECOND, Duration::from_millis(100)..=10 * MINUTE),
    };
    table.in_order(("retry_min", config.retry_min), ("retry_max", config.retry_max));
    config
}

fn filters(table: &mut Table<'_>, surroundings: &Surroundings) -> FilterLimits {
    let default = FilterLimits::of(surroundings);
    FilterLimits {
        deadline: table.duration("deadline", default.deadline, Duration::from_millis(1)..=10 * SECOND),
        memory_bytes_max: table.count("memory_bytes_max", default.memory_bytes_max, MIB as usize..=GIB as usize),
        file_bytes_max: table.size("file_bytes_max", default.file_bytes_max, KIB..=PROGRAM_BYTES_MAX),
        threads: table.count("threads", default.threads, 2..=1_024),
        wait_max: table.duration("wait_max", default.wait_max, Duration::from_millis(1)..=10 * SECOND),
        compile_timeout: table.duration("compile_timeout", default.compile_timeout, SECOND..=10 * MINUTE),
        script_runner: table.path("script_runner").map_or(default.script_runner, |path| tidy(&path)),
    }
}

fn limits(table: &mut Table<'_>) -> Limits {
    let while_served = Duration::from_millis(100)..=HOUR;
    let config = Limits {
        body_bytes_max: table.count("body_bytes_max", 256 * KIB as usize, KIB as usize..=16 * MIB as usize),
        graph_body_bytes_max: table.count("graph_body_bytes_max", 16 * MIB as usize, KIB as usize..=256 * MIB as usize),
        upstream_body_bytes_max: table.size("upstream_body_bytes_max", 16 * MIB, KIB..=TIB),
        events_per_request_max: table.count("events_per_request_max", 1_000, 1..=10_000),
        connections_max: table.count("connections_max", 65_536, 1..=10_000_000),
        connections_per_ip_max: table.count("connections_per_ip_max", 1_024, 1..=10_000_000),
        handshakes_per_second: table.count("handshakes_per_second", 2_000, 1..=1_000_000),
        handshakes_per_second_per_ip: table.count("handshakes_per_second_per_ip", 500, 1..=1_000_000),
        handshake_timeout: table.duration("handshake_timeout", 10 * SECOND, while_served.clone()),
        header_timeout: table.duration("header_timeout", 10 * SECOND, while_served.clone()),
        header_bytes_max: table.count("header_bytes_max", 64 * KIB as usize, 8 * KIB as usize..=MIB as usize),
        body_timeout: table.duration("body_timeout", 30 * SECOND, while_served.clone()),
        idle_timeout: table.duration("idle_timeout", MINUTE, while_served),
        bodies_in_memory_max: table.count("bodies_in_memory_max", 256 * MIB as usize, MIB as usize..=TIB as usize),
        account_events_per_second: table.size("account_events_per_second", 10_000, 1..=10_000_000),
        account_backlog_bytes_max: table.size("account_backlog_bytes_max", 2 * GIB, MIB..=1024 * TIB),
    };
    if config.bodies_in_memory_max < config.graph_body_bytes_max.max(config.body_bytes_max) {
        let place = table.place_of("bodies_in_memory_max");
        place.error("not even one body has room in it", "make it larger than graph_body_bytes_max and body_bytes_max");
    }
    config
}

fn log(table: &mut Table<'_>) -> LogConfig {
    let formats = [("text", LogFormat::Text), ("json", LogFormat::Json)];
    LogConfig {
        format: table.choice("format", LogFormat::Text, &formats),
        level: table.value("level").and_then(|value| log_level(&value)).unwrap_or_else(|| "info".to_owned()),
    }
}

/// Sees whether a file has certificates of a private CA; else what is wrong with it.
pub(super) fn ca_certificates(path: &Path) -> Result<(), String> {
    match read_file(path, FILE_BYTES_MAX) {
        Ok(pem) if pem.windows(27).any(|part| part == b"-----BEGIN CERTIFICATE-----") => Ok(()),
        Ok(_) => Err(format!("{} holds no certificate", tidy(path).display())),
        Err(error) => Err(format!("{} {error}", tidy(path).display())),
    }
}

fn api_version(value: &Value<'_>) -> Option<String> {
    let version = value.text()?;
    let digits = |part: &str| !part.is_empty() && part.len() <= 4 && part.bytes().all(|byte| byte.is_ascii_digit());
    let parts = version.strip_prefix('v').and_then(|version| version.split_once('.'));
    if !parts.is_some_and(|(major, minor)| digits(major) && digits(minor)) {
        value.place.error("this is no version of the Graph API", "write it as Meta does, such as \"v26.0\"");
        return None;
    }
    Some(version.to_owned())
}

/// A level, or a list of `target=level` and levels.
fn log_level(value: &Value<'_>) -> Option<String> {
    let levels = ["off", "error", "warn", "info", "debug", "trace"];
    let text = value.text()?;
    for directive in text.split(',') {
        let (target, level) = directive.trim().rsplit_once('=').unwrap_or(("any", directive.trim()));
        let of_target = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | ':' | '-');
        if !levels.contains(&level) {
            let remedy = match nearest(level, &levels) {
                Some(meant) => format!("did you mean {meant}?"),
                None => format!("write one of {}, or a list such as \"pixelgate=debug,info\"", levels.join(", ")),
            };
            value.place.error(format!("{} is no level", shown(level)), remedy);
            return None;
        }
        if target.is_empty() || !target.chars().all(of_target) {
            value
                .place
                .error(format!("{} is no target", shown(target)), "write a list such as \"pixelgate=debug,info\"");
            return None;
        }
    }
    Some(text.to_owned())
}

/// The size of the volume that a folder is on, or will be on once it is made.
fn volume_bytes(folder: &Path) -> Option<u64> {
    let volume = folder.ancestors().find_map(|folder| rustix::fs::statvfs(folder).ok())?;
    volume.f_blocks.checked_mul(volume.f_frsize)
}

// === impl Host ===

impl Host {
    /// `[host]` as meant; `None` without a domain, which was reported.
    fn named(self) -> Option<HostConfig> {
        let Self { name, domain, data_dir, control, watch, upstream_private, addresses } = self;
        let domain = domain?;
        let name = name.unwrap_or_else(|| domain.to_string());
        Some(HostConfig { name, domain, data_dir, control, watch, upstream_private, addresses })
    }
}

// === impl FilterLimits ===

impl FilterLimits {
    /// The limits where nobody says otherwise.
    fn of(surroundings: &Surroundings) -> Self {
        // A message that names it must say where that is.
        let absolute = |path: &String| std::path::absolute(path).unwrap_or_else(|_| PathBuf::from(path));
        let moved = surroundings.environment.get(SCRIPT_RUNNER_VARIABLE).map(absolute);
        Self {
            deadline: Duration::from_millis(5),
            memory_bytes_max: 16 * MIB as usize,
            file_bytes_max: 4 * MIB,
            // One account holds at most all but one of them.
            threads: surroundings.cpus.clamp(2, 1_024),
            wait_max: Duration::from_millis(50),
            compile_timeout: 30 * SECOND,
            script_runner: moved.unwrap_or_else(|| installed_script_runner(surroundings)),
        }
    }
}

/// `<prefix>/lib/pixelgate/script-runner.wasm` for an executable in `<prefix>/bin`.
fn installed_script_runner(surroundings: &Surroundings) -> PathBuf {
    let prefix = surroundings.executable.as_deref().and_then(Path::parent).and_then(Path::parent);
    prefix.unwrap_or(Path::new("/usr/local")).join("lib/pixelgate/script-runner.wasm")
}
