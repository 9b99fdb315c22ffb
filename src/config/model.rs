//! The configuration as meant: every default filled in, every path absolute, every name checked.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;

use crate::account::{AccessToken, AccountId, IngestKey, PixelId, ServerName};
use crate::config::acme::AcmeConfig;
use crate::event::OnFault;

/// `pixelgate.toml`: what the host decides for all accounts.
#[derive(Clone, Debug, PartialEq)]
pub struct GatewayConfig {
    /// The file, for messages.
    pub file: PathBuf,
    /// `[host]`
    pub host: HostConfig,
    /// `[listen]`
    pub listen: ListenConfig,
    /// `[tls]`
    pub tls: TlsConfig,
    /// `[acme]`
    pub acme: AcmeConfig,
    /// `[outbox]`
    pub outbox: OutboxConfig,
    /// `[delivery]`
    pub delivery: DeliveryConfig,
    /// `[filters]`
    pub filters: FilterLimits,
    /// `[limits]`
    pub limits: Limits,
    /// `[log]`
    pub log: LogConfig,
    /// `[metrics] per_account_max`: accounts with metric series of their own, the busiest first.
    pub metrics_per_account_max: usize,
}

/// `[host]`
#[derive(Clone, Debug, PartialEq)]
pub struct HostConfig {
    /// What the host is called, shown on pages.
    pub name: String,
    /// The name that accounts without a domain of their own use.
    pub domain: ServerName,
    /// Where everything is kept that must survive a restart.
    pub data_dir: PathBuf,
    /// The control socket.
    pub control: PathBuf,
    /// Reload by itself when a file in the folder or in `accounts/` changes.
    pub watch: bool,
    /// Allow upstreams at loopback, link-local and metadata addresses.
    pub upstream_private: bool,
    /// Where the names' DNS must lead, to reach this gateway; empty = it is not checked.
    pub addresses: Vec<IpAddr>,
}

/// `[listen]`
#[derive(Clone, Debug, PartialEq)]
pub struct ListenConfig {
    /// Where events come in over TLS.
    pub https: Vec<SocketAddr>,
    /// Where plain HTTP is redirected from.
    pub http: Vec<SocketAddr>,
    /// Health, metrics and status; GET only.
    pub ops: SocketAddr,
    /// Whose `X-Forwarded-For` is believed.
    pub trusted_proxies: Vec<IpNet>,
    /// Who must send a PROXY header.
    pub proxy_protocol: Vec<IpNet>,
}

/// `[tls]`
#[derive(Clone, Debug, PartialEq)]
pub struct TlsConfig {
    /// `<server name>/chain.pem` and `key.pem`; `*.example.com` lives in `_.example.com/`.
    pub certs_dir: PathBuf,
    /// The lowest TLS version that is spoken.
    pub min_version: TlsVersion,
    /// Time after which session tickets are made with a new key.
    pub ticket_rotation: Duration,
}

/// A version of TLS that may be the lowest one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TlsVersion {
    /// TLS 1.2 (RFC 5246)
    Tls12,
    /// TLS 1.3 (RFC 8446)
    Tls13,
}

/// `[outbox]`
#[derive(Clone, Debug, PartialEq)]
pub struct OutboxConfig {
    /// Size at which a segment of the log is closed.
    pub segment_bytes: u64,
    /// Free space below which new events are refused.
    pub reserve_bytes: u64,
    /// Dead letters one account may hold.
    pub dead_letters_max: u64,
    /// Bytes of dead letters one account may hold.
    pub dead_letter_bytes_max: u64,
}

/// `[delivery]`
#[derive(Clone, Debug, PartialEq)]
pub struct DeliveryConfig {
    /// Base of the Graph API; plain http only to loopback. No trailing slash.
    pub graph_url: String,
    /// A private CA (PEM) that the Graph API's certificate may chain to.
    pub ca_file: Option<PathBuf>,
    /// Such as `v26.0`.
    pub api_version: String,
    /// Events in one request, at most Meta's 1,000.
    pub batch_events_max: usize,
    /// Bytes of events in one request.
    pub batch_bytes_max: usize,
    /// Age of `event_time` past which Meta refuses an event.
    pub age_max: Duration,
    /// First wait after a failure.
    pub retry_min: Duration,
    /// Longest wait between two tries.
    pub retry_max: Duration,
    /// Requests in flight in all.
    pub requests_in_flight_max: usize,
    /// Requests in flight of one lane.
    pub requests_in_flight_per_lane_max: usize,
    /// Time for one request, from connecting to the end of the answer.
    pub timeout: Duration,
}

/// `[filters]`
#[derive(Clone, Debug, PartialEq)]
pub struct FilterLimits {
    /// Time for one call.
    pub deadline: Duration,
    /// Memory of one instance.
    pub memory_bytes_max: usize,
    /// Size of a component or script file.
    pub file_bytes_max: u64,
    /// Threads that run filters, at least two.
    pub threads: usize,
    /// How long an event may wait for a thread.
    pub wait_max: Duration,
    /// Time for compiling one component.
    pub compile_timeout: Duration,
    /// The component that runs scripts; needed only where an account has `script`.
    pub script_runner: PathBuf,
}

/// `[limits]`
#[derive(Clone, Debug, PartialEq)]
pub struct Limits {
    /// Body of a browser's request, after inflation too.
    pub body_bytes_max: usize,
    /// Body of a request to the Graph-compatible routes, after inflation too.
    pub graph_body_bytes_max: usize,
    /// Body of a request to an account's own servers, as it comes.
    pub upstream_body_bytes_max: u64,
    /// Events in one request.
    pub events_per_request_max: usize,
    /// Open connections in all.
    pub connections_max: usize,
    /// Open connections from one address.
    pub connections_per_ip_max: usize,
    /// TLS handshakes of visitors begun in a second; more wait a little, then they are refused.
    pub handshakes_per_second: usize,
    /// TLS connections that one address may open in a second.
    pub handshakes_per_second_per_ip: usize,
    /// From accept to the end of the TLS handshake.
    pub handshake_timeout: Duration,
    /// From the first byte of a request's header to its last.
    pub header_timeout: Duration,
    /// Bytes of an HTTP/1 header, as they come over the network.
    pub header_bytes_max: usize,
    /// From the end of the header to the end of the body.
    pub body_timeout: Duration,
    /// Idle time after which a kept connection is closed.
    pub idle_timeout: Duration,
    /// Bytes of request bodies held at one time.
    pub bodies_in_memory_max: usize,
    /// Events of one account in a second, averaged over a few.
    pub account_events_per_second: u64,
    /// Bytes of one account that wait for delivery.
    pub account_backlog_bytes_max: u64,
}

/// `[log]`
#[derive(Clone, Debug, PartialEq)]
pub struct LogConfig {
    /// How a line is written.
    pub format: LogFormat,
    /// What is written, as in `info` or `pixelgate=debug,info`.
    pub level: String,
}

/// How a line of the log is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

/// `accounts/<id>.toml`: one advertiser.
#[derive(Clone, Debug, PartialEq)]
pub struct AccountConfig {
    /// The stem of the file.
    pub id: AccountId,
    /// The file, for messages.
    pub file: PathBuf,
    /// The file's text, from which the account can be made again after a restart.
    pub text: Arc<str>,
    /// What the advertiser is called.
    pub name: String,
    /// Whether the host's users may act on it.
    pub mode: AccountMode,
    /// An inactive account answers with its stop word.
    pub active: bool,
    /// First-party names; empty = on the host's domain only.
    pub domains: Vec<ServerName>,
    /// Whether its pixels are served on the host's domain too.
    pub host_domain: bool,
    /// Where requests that are no events go, as `http://host:port` or `https://host:port`.
    pub upstream: Vec<Upstream>,
    /// Where its events go.
    pub pixels: Vec<PixelConfig>,
    /// With what its servers may send.
    pub ingest_keys: Vec<IngestKey>,
    /// What runs on each event, in this order.
    pub filters: Vec<FilterConfig>,
    /// Which pages may send.
    pub websites: Websites,
    /// `[cookies]`
    pub cookies: Cookies,
    /// `[privacy] consent_sources`: cookies and keys that filters may see as signals.
    pub consent_sources: Vec<String>,
    /// SHA-256 of all that this account was made from: its file, the secrets and the filter files it names.
    pub digest: [u8; 32],
}

/// Whether the host's users may act on an account.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AccountMode {
    /// They may.
    Managed,
    /// They may not see more than that it is there.
    Unmanaged,
}

/// One server behind the gateway.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Upstream {
    /// TLS to it.
    pub tls: bool,
    /// A name or an address.
    pub host: String,
    /// Its port.
    pub port: u16,
}

/// `[[pixels]]`
#[derive(Clone, Debug, PartialEq)]
pub struct PixelConfig {
    /// Meta's id.
    pub id: PixelId,
    /// `None`: it could not be read (a warning); its lane is paused.
    pub access_token: Option<AccessToken>,
    /// Where the token was to come from, for messages: never the token.
    pub access_token_source: String,
    /// An inactive pixel answers with its stop word.
    pub active: bool,
    /// `test_event_code`, passed on with each request.
    pub test_event_code: Option<String>,
}

/// `[[filters]]`
#[derive(Clone, Debug, PartialEq)]
pub struct FilterConfig {
    /// What the account calls it; the `reason` of what it drops and holds begins with it.
    pub name: String,
    /// What runs.
    pub program: FilterProgram,
    /// SHA-256 of the program's bytes.
    pub program_digest: [u8; 32],
    /// `[filters.settings]` as JSON.
    pub settings: String,
    /// What happens to an event that it fails on.
    pub on_fault: OnFault,
}

/// What a filter is made of: a file's path, for messages, and its bytes as they were when the account was read.
#[derive(Clone, Debug, PartialEq)]
pub enum FilterProgram {
    /// A Wasm component.
    Component(PathBuf, Arc<[u8]>),
    /// JavaScript for the shared script runner.
    Script(PathBuf, Arc<str>),
}

/// `[websites]`: host names or `*.` patterns.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Websites {
    /// Pages that may send; empty = all.
    pub allow: Vec<String>,
    /// Pages that may not, even if allowed.
    pub block: Vec<String>,
}

/// `[cookies]`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cookies {
    /// Renew `_fbp` and `_fbc` as HTTP cookies, and set `_fbc` when a new click id came.
    pub set: bool,
    /// Make an `_fbp` where there is none.
    pub mint: bool,
}

/// Every account by its id.
pub type Accounts = BTreeMap<AccountId, Arc<AccountConfig>>;
