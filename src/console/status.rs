//! The status document: what `pixelgate status --json` and `/status` show. Its keys are stable.

use std::collections::{BTreeMap, HashMap};
use std::time::SystemTime;

use serde::{Deserialize, Serialize};

use crate::account::{AccountId, LaneKey, PixelId};
use crate::clock::now_ms;
use crate::config::{PixelConfig, Problem};
use crate::console::Console;
use crate::console::certificates::expiring;
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
    /// Events buried since the first start.
    pub dead: u64,
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

// === impl PixelStatus ===

impl PixelStatus {
    /// All of it in a line, as a person reads it.
    pub fn summary(&self) -> String {
        let reason = self.reason.as_ref().map(|reason| format!(" ({reason})")).unwrap_or_default();
        let retries = match (self.failures, &self.waits_until) {
            (0, _) => String::new(),
            (failures, None) => format!(", failed {failures} times in a row"),
            (failures, Some(time)) => format!(", failed {failures} times in a row, tries again {time}"),
        };
        let rare = [
            (self.tested, "tested"),
            (self.uncounted, "not counted by Meta"),
            (self.expired, "expired"),
            (self.purged, "purged"),
            (self.damaged, "damaged"),
        ];
        let rare: String = rare.iter().filter(|(n, _)| *n > 0).map(|(n, what)| format!(", {n} {what}")).collect();
        format!(
            "{:<20} {}{reason}{retries} · events: {} pending, {} in flight, {} delivered, {} dead{rare}",
            self.id, self.state, self.pending, self.in_flight, self.delivered, self.dead
        )
    }
}

/// The status of everything now.
pub(super) fn status(console: &Console) -> Status {
    let snapshot = console.reloader.published().load_full();
    let why = console.readiness.obstacles(&console.outbox);
    let stats = console.outbox.stats();
    Status {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        revision: snapshot.revision,
        uptime_seconds: console.started.elapsed().as_secs(),
        ready: why.is_empty(),
        why,
        problems: console.reloader.problems().into_iter().chain((console.further_problems)()).collect(),
        certificates: certificates(&snapshot, console.desk.ca_accounts()),
        outbox: OutboxStatus { bytes: stats.log_bytes + stats.dead_letter_bytes, free_bytes: stats.free_bytes },
        accounts: accounts(console),
    }
}

fn certificates(snapshot: &Snapshot, ca_accounts: Vec<CaAccountStatus>) -> CertificatesStatus {
    let summary = snapshot.certificates.summary();
    let mut expiring: Vec<_> = expiring(snapshot, now_ms()).collect();
    expiring.sort();
    CertificatesStatus {
        served: summary.valid,
        not_served: summary.names() - summary.valid,
        first_expiry: summary.first_expiry,
        states: summary.states().into_iter().map(|(state, names)| (state.to_owned(), names)).collect(),
        expiring: expiring.len(),
        expiring_first: expiring.into_iter().take(EXPIRING_SHOWN).collect(),
        ca_accounts,
    }
}

/// Every account now, also one that left the configuration while its events wait.
pub(super) fn accounts(console: &Console) -> Vec<AccountStatus> {
    let snapshot = console.reloader.published().load_full();
    let lanes: HashMap<LaneKey, LaneStatus> =
        console.outbox.lanes().into_iter().map(|lane| (lane.lane.clone(), lane)).collect();
    let held = console.outbox.held_accounts();
    let mut accounts: Vec<_> =
        snapshot.tenants().map(|tenant| account(tenant, &lanes, held.get(&tenant.config.id))).collect();
    let mut left: Vec<_> =
        lanes.values().filter(|lane| snapshot.pixel(&lane.lane).is_none() && lane.pending > 0).collect();
    left.sort_by(|a, b| a.lane.cmp(&b.lane));
    for lane in left {
        let pixel = pixel(lane.lane.pixel, None, true, Some(lane), None);
        match accounts.iter_mut().find(|account| account.id == lane.lane.account) {
            Some(account) => account.pixels.push(pixel),
            None => accounts.push(AccountStatus {
                id: lane.lane.account.clone(),
                name: String::new(),
                active: false,
                domains: Vec::new(),
                filters: Vec::new(),
                pixels: vec![pixel],
            }),
        }
    }
    accounts
}

/// `held` is the pause that a new lane of the account begins with.
fn account(tenant: &Tenant, lanes: &HashMap<LaneKey, LaneStatus>, held: Option<&Pause>) -> AccountStatus {
    let config = &tenant.config;
    let status = |written: &PixelConfig| {
        pixel(written.id, Some(written), config.active, lanes.get(&tenant.lane(written.id)), held)
    };
    let pixels = config.pixels.iter().map(status);
    AccountStatus {
        id: config.id.clone(),
        name: config.name.clone(),
        active: config.active,
        domains: config.domains.iter().map(ToString::to_string).collect(),
        filters: config.filters.iter().map(|filter| filter.name.clone()).collect(),
        pixels: pixels.collect(),
    }
}

fn pixel(
    id: PixelId,
    written: Option<&PixelConfig>,
    account_active: bool,
    lane: Option<&LaneStatus>,
    held: Option<&Pause>,
) -> PixelStatus {
    let pause = lane.map_or(held, |lane| lane.paused.as_ref());
    let (state, reason) = state(written, account_active, pause);
    let counts = lane.map_or_else(Counts::default, |lane| lane.counts);
    PixelStatus {
        id,
        state: state.to_owned(),
        reason,
        pending: lane.map_or(0, |lane| lane.pending),
        in_flight: lane.map_or(0, |lane| lane.in_flight),
        delivered: counts.delivered,
        dead: counts.dead,
        tested: counts.tested,
        uncounted: counts.uncounted,
        expired: counts.expired,
        purged: counts.purged,
        damaged: counts.damaged,
        oldest_at: lane.and_then(|lane| lane.oldest_accepted_ms).map(rfc3339),
        failures: lane.map_or(0, |lane| lane.failures),
        waits_until: lane.map(|lane| lane.not_before_ms).filter(|time_ms| *time_ms > 0).map(rfc3339),
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

/// Unix milliseconds as RFC 3339, UTC.
pub(super) fn rfc3339(at_ms: i64) -> String {
    let since = std::time::Duration::from_millis(u64::try_from(at_ms).unwrap_or_default());
    humantime::format_rfc3339_millis(SystemTime::UNIX_EPOCH + since).to_string()
}
