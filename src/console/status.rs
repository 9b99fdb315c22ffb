//! The status document: what `pixelgate status --json` and `/status` show. Its keys are stable.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use axum::extract::State;
use axum::response::{IntoResponse, Json, Response};
use serde::{Deserialize, Serialize};

use crate::account::{AccountId, LaneKey, PixelId, ServerName};
use crate::clock::{now_ms, rfc3339_millis};
use crate::config::{PixelConfig, Problem};
use crate::console::Console;
use crate::console::certificates::expiring;
use crate::console::control::{Refused, blocking};
use crate::console::desk::CaAccountStatus;
use crate::outbox::{Counts, LaneStatus, Pause};
use crate::snapshot::{Snapshot, Tenant};

/// Names with a certificate that expires soon that are named in the status; `pixelgate cert list` shows all.
const EXPIRING_SHOWN: usize = 10;

/// The whole gateway.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Status {
    /// The version of the program.
    pub version: String,
    /// The revision of the configuration in force.
    pub revision: u64,
    /// Seconds since the start.
    pub uptime_seconds: u64,
    /// Whether requests are taken.
    pub ready: bool,
    /// Why not.
    pub why: Vec<String>,
    /// What is wrong with the configuration in force, and with one that a reload refused since.
    pub problems: Vec<Problem>,
    /// Certificates in sum.
    pub certificates: CertificatesStatus,
    /// The outbox in sum.
    pub outbox: OutboxStatus,
    /// Every account.
    pub accounts: Vec<AccountStatus>,
}

/// Certificates in sum.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct CertificatesStatus {
    /// Server names with a certificate that is served.
    pub served: usize,
    /// Server names that are not served; the problems say why.
    pub not_served: usize,
    /// When the first one expires, Unix seconds.
    pub first_expiry: Option<i64>,
    /// Names by the state of their certificate, as the metric `pixelgate_certificates` has them.
    pub states: BTreeMap<String, usize>,
    /// Names that are served with a certificate that expires soon: in 14 days, or in the last quarter of its validity
    /// if that is shorter.
    pub expiring: usize,
    /// The first of these.
    pub expiring_first: Vec<ExpiringName>,
    /// Where certificates are ordered.
    pub ca_accounts: Vec<CaAccountStatus>,
}

/// A name whose certificate expires soon.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct ExpiringName {
    /// Last second of its validity, RFC 3339.
    pub not_after: String,
    /// The name.
    pub name: String,
}

/// The outbox in sum.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct OutboxStatus {
    /// Bytes on disk.
    pub bytes: u64,
    /// Free bytes on that disk.
    pub free_bytes: u64,
    /// Dead letters that are there now, of all accounts.
    #[serde(default)]
    pub dead_letters: u64,
}

/// One account.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct AccountStatus {
    /// The stem of its file.
    pub id: AccountId,
    /// What it is called.
    pub name: String,
    /// Whether it is switched on.
    pub active: bool,
    /// Whether it left the configuration, and something of it waits.
    #[serde(default)]
    pub gone: bool,
    /// Its first-party names.
    pub domains: Vec<String>,
    /// Its filters' names, in order.
    pub filters: Vec<String>,
    /// Its pixels.
    pub pixels: Vec<PixelStatus>,
}

/// One pixel and its lane.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct PixelStatus {
    /// Meta's id.
    pub id: PixelId,
    /// `active`, `paused` or `inactive`
    pub state: String,
    /// Why it is paused or inactive.
    pub reason: Option<String>,
    /// Events that wait for delivery.
    pub pending: u64,
    /// Events in a request.
    pub in_flight: u64,
    /// Events that Meta took since the first start.
    pub delivered: u64,
    /// Events buried since the first start: refused for good, by Meta or for their size.
    pub dead: u64,
    /// Dead letters that are there now: buried, or held by a filter's fault, and neither replayed nor dropped since.
    #[serde(default)]
    pub dead_letters: u64,
    /// Events that Meta took as tests (`test_event_code`) since the first start; they are not among `delivered`.
    pub tested: u64,
    /// Events in requests that Meta took, and that it did not count, since the first start.
    pub uncounted: u64,
    /// Events that grew too old to be sent, and were dropped, since the first start.
    pub expired: u64,
    /// Dead letters that were dropped for their age, since the first start.
    pub purged: u64,
    /// Events that could not be read any more, since the first start; what is left of them is in quarantine.
    pub damaged: u64,
    /// When the oldest event that waits was accepted, RFC 3339.
    pub oldest_at: Option<String>,
    /// Failed requests since the last success.
    pub failures: u32,
    /// Nothing is sent before this, RFC 3339.
    pub waits_until: Option<String>,
}

/// What the outbox knows of lanes.
struct Lanes {
    lanes: HashMap<LaneKey, LaneStatus>,
    /// How many dead letters there are of each that has any.
    dead_letters: HashMap<LaneKey, u64>,
}

// === impl PixelStatus ===

impl PixelStatus {
    /// All of it in a line, as a person reads it.
    pub fn summary(&self) -> String {
        let reason = self.reason.as_ref().map(|reason| format!(" ({reason})")).unwrap_or_default();
        let retries = match (self.failures, &self.waits_until) {
            (0, _) => String::new(),
            (failures, None) => format!(", failed {} in a row", times(failures)),
            (failures, Some(time)) => format!(", failed {} in a row, tries again {time}", times(failures)),
        };
        let rare = [
            (self.tested, "tested"),
            (self.uncounted, "not counted by Meta"),
            (self.expired, "expired"),
            (self.purged, "purged"),
            (self.damaged, "damaged"),
        ];
        let rare: String = rare.iter().filter(|(n, _)| *n > 0).map(|(n, what)| format!(", {n} {what}")).collect();
        let now = format!("{} pending, {} in flight", self.pending, self.in_flight);
        let so_far = format!("{} delivered, {} dead{rare}", self.delivered, self.dead);
        format!(
            "{:<20} {}{reason}{retries} · events: {now} · since the first start: {so_far} · dead letters now: {}",
            self.id, self.state, self.dead_letters
        )
    }
}

fn times(count: u32) -> String {
    if count == 1 { "once".to_owned() } else { format!("{count} times") }
}

/// Answers with the status: of 20,000 accounts and 100,000 names it is work, and megabytes.
pub(super) async fn show(State(console): State<Console>) -> Result<Response, Refused> {
    blocking(move || Json(status(&console)).into_response()).await
}

/// The status of everything now.
fn status(console: &Console) -> Status {
    let snapshot = console.reloader.published().load_full();
    let why = console.readiness.obstacles(&console.outbox);
    let stats = console.outbox.stats();
    Status {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        revision: snapshot.revision,
        uptime_seconds: console.started.elapsed().as_secs(),
        ready: why.is_empty(),
        why,
        problems: problems(console, &snapshot),
        certificates: certificates(console, &snapshot),
        outbox: OutboxStatus {
            bytes: stats.log_bytes + stats.dead_letter_bytes,
            free_bytes: stats.free_bytes,
            dead_letters: console.outbox.dead_letter_counts().values().sum(),
        },
        accounts: accounts(console),
    }
}

/// All that is wrong. That a name has no certificate is told once: by why none was issued, where that is known.
fn problems(console: &Console, snapshot: &Snapshot) -> Vec<Problem> {
    let issuance = (console.further_problems)();
    let told: HashSet<_> = issuance.iter().map(|problem| problem.key.as_str()).collect();
    let has_none =
        |name: &str| name.parse::<ServerName>().is_ok_and(|name| snapshot.certificates.state(&name).is_none());
    let mut problems = console.reloader.problems();
    problems.retain(|problem| !told.contains(problem.key.as_str()) || !has_none(&problem.key));
    problems.extend(issuance);
    problems
}

fn certificates(console: &Console, snapshot: &Snapshot) -> CertificatesStatus {
    let summary = snapshot.certificates.summary().with_waiting(console.desk.waiting_for_visitors());
    let mut expiring: Vec<_> = expiring(snapshot, now_ms()).collect();
    expiring.sort();
    CertificatesStatus {
        served: summary.valid,
        not_served: summary.names() - summary.valid,
        first_expiry: summary.first_expiry,
        states: summary.states().into_iter().map(|(state, names)| (state.to_owned(), names)).collect(),
        expiring: expiring.len(),
        expiring_first: expiring.into_iter().take(EXPIRING_SHOWN).collect(),
        ca_accounts: console.desk.ca_accounts(),
    }
}

/// Every account now, also one that left the configuration while its events or dead letters wait.
pub(super) fn accounts(console: &Console) -> Vec<AccountStatus> {
    let snapshot = console.reloader.published().load_full();
    let lanes = Lanes {
        lanes: console.outbox.lanes().into_iter().map(|lane| (lane.lane.clone(), lane)).collect(),
        dead_letters: console.outbox.dead_letter_counts(),
    };
    let held = console.outbox.held_accounts();
    let mut accounts: Vec<_> =
        snapshot.tenants().map(|tenant| account(tenant, &lanes, held.get(&tenant.config.id))).collect();
    for lane in lanes.waiting().into_iter().filter(|lane| snapshot.pixel(lane).is_none()) {
        let pixel = lanes.pixel(lane, None, true, None);
        match accounts.iter_mut().find(|account| account.id == lane.account) {
            Some(account) => account.pixels.push(pixel),
            None => accounts.push(AccountStatus {
                id: lane.account.clone(),
                name: String::new(),
                active: false,
                gone: true,
                domains: Vec::new(),
                filters: Vec::new(),
                pixels: vec![pixel],
            }),
        }
    }
    accounts
}

/// `held` is the pause that a new lane of the account begins with.
fn account(tenant: &Tenant, lanes: &Lanes, held: Option<&Pause>) -> AccountStatus {
    let config = &tenant.config;
    let status = |written: &PixelConfig| lanes.pixel(&tenant.lane(written.id), Some(written), config.active, held);
    let pixels = config.pixels.iter().map(status);
    AccountStatus {
        id: config.id.clone(),
        name: config.name.clone(),
        active: config.active,
        gone: false,
        domains: config.domains.iter().map(ToString::to_string).collect(),
        filters: config.filters.iter().map(|filter| filter.name.clone()).collect(),
        pixels: pixels.collect(),
    }
}

// === impl AccountStatus ===

impl AccountStatus {
    /// Its id and what it is called, or that nothing says so any more.
    pub fn title(&self) -> String {
        format!("{} ({})", self.id, if self.gone { "not in the configuration" } else { &self.name })
    }
}

// === impl Lanes ===

impl Lanes {
    /// Those of which something waits: an event for delivery, or a dead letter for a person.
    fn waiting(&self) -> BTreeSet<&LaneKey> {
        let pending = self.lanes.values().filter(|lane| lane.pending > 0).map(|lane| &lane.lane);
        pending.chain(self.dead_letters.keys()).collect()
    }

    fn pixel(
        &self,
        key: &LaneKey,
        written: Option<&PixelConfig>,
        account_active: bool,
        held: Option<&Pause>,
    ) -> PixelStatus {
        let lane = self.lanes.get(key);
        let pause = lane.map_or(held, |lane| lane.paused.as_ref());
        let (state, reason) = state(written, account_active, pause);
        let counts = lane.map_or_else(Counts::default, |lane| lane.counts);
        PixelStatus {
            id: key.pixel,
            state: state.to_owned(),
            reason,
            pending: lane.map_or(0, |lane| lane.pending),
            in_flight: lane.map_or(0, |lane| lane.in_flight),
            delivered: counts.delivered,
            dead: counts.dead,
            dead_letters: self.dead_letters.get(key).copied().unwrap_or_default(),
            tested: counts.tested,
            uncounted: counts.uncounted,
            expired: counts.expired,
            purged: counts.purged,
            damaged: counts.damaged,
            oldest_at: lane.and_then(|lane| lane.oldest_accepted_ms).map(rfc3339_millis),
            failures: lane.map_or(0, |lane| lane.failures),
            waits_until: lane.map(|lane| lane.not_before_ms).filter(|time_ms| *time_ms > 0).map(rfc3339_millis),
        }
    }
}

fn state(written: Option<&PixelConfig>, account_active: bool, pause: Option<&Pause>) -> (&'static str, Option<String>) {
    if let Some(pause) = pause {
        return ("paused", Some(pause.reason.clone()));
    }
    match written {
        None => ("inactive", Some("not in the configuration".to_owned())),
        Some(_) if !account_active => ("inactive", Some("the account is not active".to_owned())),
        Some(pixel) if !pixel.active => ("inactive", Some("the pixel is not active".to_owned())),
        Some(pixel) if pixel.access_token.is_none() => {
            ("paused", Some(format!("no access token: {}", pixel.access_token_source)))
        }
        Some(_) => ("active", None),
    }
}
