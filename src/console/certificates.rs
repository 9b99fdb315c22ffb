//! Certificates over the control socket: each name's state, what comes next, and taking up what was imported. `folder` reads
//! what the store does not know.

mod folder;

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;

use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use axum::response::Json;
use serde::{Deserialize, Serialize};

use crate::account::{AccountId, ServerName};
use crate::clock::now_ms;
use crate::console::Console;
use crate::console::control::{Refused, blocking, unknown as unknown_account};
use crate::console::desk::{CaAccountStatus, DeskError, Ordered};
use crate::console::peer::Peer;
use crate::console::status::ExpiringName;
use crate::snapshot::{Route, Snapshot};
use crate::tls::chain::rfc3339;
use crate::tls::probe::over_loopback;
use crate::tls::{CertificateState, Lookup, Origin, Summary};

/// Names that one line of the log names.
const LOGGED: usize = 10;
/// Names that one answer lists, unless it is asked for more.
const LISTED: usize = 1_000;
/// What is left of a certificate's validity, in seconds, below which it is said to expire soon; never more than a
/// quarter of the whole.
const SOON: i64 = 14 * 86_400;

/// One name's certificate as it is listed. The keys are stable.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CertificateView {
    /// The server name.
    pub name: ServerName,
    /// Whose; `None` = the host's own domain.
    pub account: Option<AccountId>,
    /// `valid` = it is served; `waiting` = it is ordered when a visitor comes; else `missing`, `expired`, `not_yet_valid`,
    /// `mismatch`, `unreadable`.
    pub state: String,
    /// Who issued it.
    pub issuer: Option<String>,
    /// The kinds of its keys, the first pair's first, as in `ECDSA P-256` and `RSA 2048`: of the pairs that serve the name, of
    /// all that are there where none does.
    #[serde(default)]
    pub keys: Vec<String>,
    /// Last second of its validity, RFC 3339.
    pub not_after: Option<String>,
    /// `operator`, `issued`, `imported`, `operator_wildcard`, `imported_wildcard`.
    pub origin: Option<String>,
    /// The folder that it lies in.
    pub folder: Option<PathBuf>,
    /// Whether its validity ends soon.
    pub expires_soon: bool,
    /// What will be done about it.
    pub next_action: Option<String>,
    /// When, RFC 3339.
    pub next_action_at: Option<String>,
    /// Why not before.
    pub next_action_reason: Option<String>,
    /// Why the last order failed.
    pub last_error: Option<String>,
    /// What is wrong with the files, and with which.
    pub problem: Option<String>,
    /// What to do about that.
    pub remedy: Option<String>,
}

/// One name's certificate and where a client of this machine comes in.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct CertificateDetail {
    /// The certificate.
    pub certificate: CertificateView,
    /// Where TLS is spoken.
    pub https: Vec<Door>,
    /// Where plain HTTP is spoken.
    pub http: Vec<Door>,
    /// Where certificates are ordered.
    pub ca_accounts: Vec<CaAccountStatus>,
    /// What the CAs there are called in CAA records, as far as they say it.
    #[serde(default)]
    pub caa_identities: Vec<String>,
}

/// A listener as it is reached over loopback.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Door {
    /// Where to connect to.
    pub address: SocketAddr,
    /// Whether a PROXY header must come first.
    pub proxy_header: bool,
}

/// Names that are asked for: in a body, for a query holds some thousands only.
#[derive(Debug, Deserialize)]
pub(super) struct Named {
    names: Vec<String>,
}

/// Names whose files changed.
#[derive(Debug, Deserialize)]
pub(super) struct Changed {
    names: Vec<ServerName>,
    /// Whether an import changed them, and no person by hand.
    #[serde(default)]
    imported: bool,
}

/// All names, after their certificates were looked at again. The keys are stable.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CertificatesRefreshed {
    /// Names that are served now.
    pub served: usize,
    /// Names that are ordered when a visitor comes. Counted now and then.
    #[serde(default)]
    pub waiting: usize,
    /// The other ones; `pixelgate cert list --problems` shows them.
    pub not_served: usize,
}

pub(super) async fn list(
    State(console): State<Console>,
    Query(query): Query<HashMap<String, String>>,
) -> Result<Json<Vec<CertificateView>>, Refused> {
    listed(console, query, None).await
}

pub(super) async fn list_some(
    State(console): State<Console>,
    Query(query): Query<HashMap<String, String>>,
    Json(named): Json<Named>,
) -> Result<Json<Vec<CertificateView>>, Refused> {
    listed(console, query, Some(named)).await
}

/// Those of the names, or of all, that the query lets through.
async fn listed(
    console: Console,
    query: HashMap<String, String>,
    named: Option<Named>,
) -> Result<Json<Vec<CertificateView>>, Refused> {
    let limit = query.get("limit").and_then(|limit| limit.parse().ok()).unwrap_or(LISTED);
    blocking(move || {
        if let Some(account) = query.get("account") {
            known_account(&console, account)?;
        }
        let names = named.map(|named| named.names.iter().map(|name| known(&console, name)).collect());
        let names: Option<HashSet<_>> = names.transpose()?;
        let mut views = console.desk.list();
        views.retain(|view| {
            let account = view.account.as_ref().map_or("", |account| account.as_str());
            names.as_ref().is_none_or(|names| names.contains(&view.name))
                && query.get("account").is_none_or(|wanted| wanted == account)
                && query.get("state").is_none_or(|wanted| *wanted == view.state)
                && (!query.contains_key("problems") || view.has_problem())
        });
        views.sort_by_cached_key(CertificateView::need);
        views.truncate(limit);
        let snapshot = console.reloader.published().load_full();
        views.iter_mut().for_each(|view| view.read_folder(&snapshot));
        Ok(Json(views))
    })
    .await?
}

pub(super) async fn show(
    State(console): State<Console>,
    Path(name): Path<String>,
) -> Result<Json<CertificateDetail>, Refused> {
    blocking(move || {
        let name = known(&console, &name)?;
        let found = console.desk.find(&name);
        let mut certificate = found.ok_or_else(|| unknown(name))?;
        let snapshot = console.reloader.published().load_full();
        certificate.read_folder(&snapshot);
        let proxy_protocol = &snapshot.gateway.listen.proxy_protocol;
        let doors = |listeners: &[SocketAddr]| -> Vec<Door> {
            let over = listeners.iter().map(|listener| over_loopback(*listener, proxy_protocol));
            over.map(|(address, proxy_header)| Door { address, proxy_header }).collect()
        };
        Ok(Json(CertificateDetail {
            certificate,
            https: doors(&console.https),
            http: doors(&console.http),
            ca_accounts: console.desk.ca_accounts(),
            caa_identities: console.desk.caa_identities(),
        }))
    })
    .await?
}

pub(super) async fn refresh(
    State(console): State<Console>,
    peer: Peer,
    Json(changed): Json<Changed>,
) -> Result<Json<Vec<CertificateView>>, Refused> {
    let (names, command) = (changed.to_string(), if changed.imported { "cert import" } else { "cert reload" });
    let done = blocking(move || {
        console.reloader.refresh_certificates(&changed.names, now_ms());
        let snapshot = console.reloader.published().load_full();
        let mut views: Vec<_> = changed.names.iter().filter_map(|name| view(&snapshot, name, now_ms())).collect();
        if views.iter().any(|view| view.state == "missing") {
            // What they wait for, only who orders it knows.
            let mut all: HashMap<_, _> =
                console.desk.list().into_iter().map(|view| (view.name.clone(), view)).collect();
            views.iter_mut().for_each(|view| all.remove(&view.name).into_iter().for_each(|known| *view = known));
        }
        views.iter_mut().for_each(|view| view.read_folder(&snapshot));
        views
    })
    .await;
    let served = |views: &[CertificateView]| views.iter().filter(|view| view.state == "valid").count();
    peer.log(command, names, &done, |views| format!("{} served", served(views)));
    done.map(Json)
}

pub(super) async fn refresh_all(
    State(console): State<Console>,
    peer: Peer,
) -> Result<Json<CertificatesRefreshed>, Refused> {
    let done = blocking(move || {
        console.reloader.refresh_all_certificates(now_ms);
        let summary = console.reloader.published().load().certificates.summary();
        let Summary { valid: served, waiting, .. } = summary.with_waiting(console.desk.waiting_for_visitors());
        CertificatesRefreshed { served, waiting, not_served: summary.names() - served - waiting }
    })
    .await;
    peer.log("cert reload", "all names", &done, |all| format!("{} served", all.served));
    done.map(Json)
}

pub(super) async fn issue(
    State(console): State<Console>,
    Path(name): Path<String>,
    peer: Peer,
) -> Result<Json<Ordered>, Refused> {
    let done = order(console, &name).await;
    peer.log("cert issue", &name, &done, |Json(ordered)| {
        ordered.reason.clone().unwrap_or_else(|| "ordered".to_owned())
    });
    done
}

async fn order(console: Console, name: &str) -> Result<Json<Ordered>, Refused> {
    let name = known(&console, name)?;
    // It is written down durably first.
    blocking(move || {
        let refused = |error: DeskError| Refused(StatusCode::CONFLICT, error.to_string());
        console.desk.issue(&name).map(Json).map_err(refused)
    })
    .await?
}

/// Every name of the configuration as the store knows it, without what comes next.
pub fn views(snapshot: &Snapshot, now_ms: i64) -> Vec<CertificateView> {
    let domains = snapshot.tenants().flat_map(|tenant| &tenant.config.domains);
    domains.chain([&snapshot.gateway.host.domain]).filter_map(|name| view(snapshot, name, now_ms)).collect()
}

/// One name as the store knows it; `None` = it is not in the configuration.
pub fn view(snapshot: &Snapshot, name: &ServerName, now_ms: i64) -> Option<CertificateView> {
    let account = match snapshot.route(name.as_str())? {
        Route::Tenant(tenant) => Some(tenant.config.id.clone()),
        Route::Host => None,
    };
    let known = snapshot.certificates.state(name);
    let is_served = !matches!(snapshot.certificates.lookup(name.as_str()), Lookup::Unknown);
    let problem = snapshot.certificate_problem(name);
    let state = match &problem {
        _ if is_served => "valid",
        Some(problem) => problem.fault.state(),
        None => "missing",
    };
    let valid = known.as_ref().filter(|known| known.not_after != 0);
    Some(CertificateView {
        name: name.clone(),
        account,
        state: state.to_owned(),
        issuer: None,
        keys: Vec::new(),
        not_after: valid.map(|known| rfc3339(known.not_after)),
        origin: known.as_ref().map(|known| origin(known.origin).to_owned()),
        folder: known.as_ref().map(|known| known.folder.clone()),
        expires_soon: valid.is_some_and(|known| expires_soon(known, now_ms / 1_000)),
        next_action: None,
        next_action_at: None,
        next_action_reason: None,
        last_error: None,
        problem: problem.as_ref().map(|problem| format!("{}: {problem}", problem.file.display())),
        remedy: problem.as_ref().map(|problem| problem.remedy(snapshot.gateway.acme.enabled)),
    })
}

/// The names that are served with a certificate that expires soon.
pub(super) fn expiring(snapshot: &Snapshot, now_ms: i64) -> impl Iterator<Item = ExpiringName> {
    let domains = snapshot.tenants().flat_map(|tenant| &tenant.config.domains);
    domains.chain([&snapshot.gateway.host.domain]).filter_map(move |name| {
        let known = snapshot.certificates.state(name)?;
        let soon = known.not_after > now_ms / 1_000 && expires_soon(&known, now_ms / 1_000);
        soon.then(|| ExpiringName { not_after: rfc3339(known.not_after), name: name.to_string() })
    })
}

/// Whether a certificate's end is near enough to be told: fourteen days, less for short-lived ones.
fn expires_soon(known: &CertificateState, now: i64) -> bool {
    known.not_after - now < SOON.min((known.not_after - known.not_before) / 4)
}

fn origin(origin: Origin) -> &'static str {
    match origin {
        Origin::Operator => "operator",
        Origin::Issued => "issued",
        Origin::OperatorWildcard => "operator_wildcard",
        // ACME orders none here.
        Origin::IssuedWildcard => "imported_wildcard",
    }
}

fn known_account(console: &Console, account: &str) -> Result<(), Refused> {
    let is_known = |id| console.reloader.published().load().tenant(&id).is_some();
    if account.parse().is_ok_and(is_known) { Ok(()) } else { Err(unknown_account(account)) }
}

fn known(console: &Console, name: &str) -> Result<ServerName, Refused> {
    let name: ServerName =
        name.parse().map_err(|_| Refused(StatusCode::NOT_FOUND, format!("{name} is no server name")))?;
    match console.reloader.published().load().route(name.as_str()) {
        Some(_) => Ok(name),
        None => Err(unknown(name)),
    }
}

fn unknown(name: ServerName) -> Refused {
    Refused(StatusCode::NOT_FOUND, DeskError::UnknownName(name).to_string())
}

// === impl Changed ===

impl fmt::Display for Changed {
    /// As the log says it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let first: Vec<_> = self.names.iter().take(LOGGED).map(ServerName::as_str).collect();
        f.write_str(&first.join(" "))?;
        match self.names.len().saturating_sub(LOGGED) {
            0 => Ok(()),
            more => write!(f, " and {more} more"),
        }
    }
}

// === impl CertificateView ===

impl CertificateView {
    /// Whether somebody should look at it.
    pub fn has_problem(&self) -> bool {
        !self.is_as_meant() || self.expires_soon || self.last_error.is_some() || self.problem.is_some()
    }

    /// What comes next for it, as a person reads it.
    pub fn next(&self) -> Option<String> {
        let mut text = self.next_action.clone()?;
        let further = [(" ", &self.next_action_at), (": ", &self.next_action_reason)];
        for (before, part) in further.into_iter().filter_map(|(before, part)| Some((before, part.as_ref()?))) {
            text.push_str(before);
            text.push_str(part);
        }
        Some(text)
    }

    /// What needs a person most comes first: what is not served, then what has an error, then what ends first, then
    /// what is ordered first.
    fn need(&self) -> (bool, bool, Option<String>, Option<String>, ServerName) {
        let (ends, ordered) = (self.not_after.clone(), self.next_action_at.clone());
        let is_well = self.last_error.is_none() && (self.state != "valid" || self.problem.is_none());
        (self.is_as_meant(), is_well, ends, ordered, self.name.clone())
    }

    /// Whether it is served, or is to be once a visitor comes.
    pub fn is_as_meant(&self) -> bool {
        ["valid", "waiting"].contains(&self.state.as_str())
    }
}
