//! The use case of a request: decode, authorise, filter, append. What it answers is durable, or refused.

mod replay;
mod taking;

use std::sync::{Arc, OnceLock};

use crate::account::{AccountId, PixelId};
use crate::event::decode::{self, DecodeError, Decoded, Form, GraphRequest, RenewedCookies};
use crate::event::{Arrival, Event, click_id};
use crate::ingest::taking::Group;
use crate::outbox::{AppendError, DeadLetterError, Outbox};
use crate::snapshot::{Route, Snapshot, Tenant};
use crate::telemetry::Metrics;

pub use replay::Replayed;

/// Bodies larger than this are decoded where they keep no other connection waiting.
const DECODED_INLINE_MAX: usize = 1024 * 1024;

/// Takes events in, for every way they come.
pub struct Ingest {
    outbox: Outbox,
    metrics: Arc<Metrics>,
    /// Each group of dead letters that is replayed holds it, to read.
    replays_stopped: tokio::sync::RwLock<bool>,
}

/// What the edge knows of a request beside its body.
pub struct Request {
    /// The snapshot that this request began with.
    pub snapshot: Arc<Snapshot>,
    /// Whose name it came in on.
    pub route: Route,
    /// That name.
    pub host: String,
    /// The `Origin` header.
    pub origin: Option<String>,
    /// The `Cookie` header as it came; only the account's consent sources are read from it here.
    pub cookies: String,
    /// The visitor's country, if a trusted proxy says it.
    pub country: Option<String>,
    /// The rest of what the headers say.
    pub arrival: Arrival,
    /// Whose pixel it is for, once that is known; for the log.
    pub addressed: OnceLock<Addressed>,
}

/// Whose pixel a request is for.
#[derive(Clone, Debug)]
pub struct Addressed {
    /// The first pixel that it names.
    pub pixel: PixelId,
    /// Whose name it came in on, or else who has that pixel.
    pub account: Option<AccountId>,
}

/// The parts of a request to a Graph-compatible route.
#[derive(Clone, Copy)]
pub struct GraphParts<'a> {
    /// The pixel id in the path.
    pub pixel: &'a str,
    /// The `Content-Type` header.
    pub content_type: Option<&'a str>,
    /// The query, without `?`.
    pub query: &'a str,
    /// The token of an `Authorization: Bearer` header.
    pub bearer: Option<&'a str>,
    /// The body, inflated.
    pub body: &'a [u8],
}

/// A server that may send, as far as can be known before its body is read.
#[derive(Debug)]
pub struct Admitted {
    /// Whose pixel it sends to.
    pub account: AccountId,
    /// Whether it has shown a key; if not, the key must be in the body.
    pub proven: bool,
}

/// What was taken.
#[derive(Debug, Default)]
pub struct Accepted {
    /// Events taken, also those that a filter then dropped.
    pub received: usize,
    /// What a first-party answer may renew in the browser.
    pub cookies: RenewedCookies,
}

/// Why nothing was taken. Each has its answer in `proxy/respond.rs`.
#[derive(Debug, thiserror::Error)]
pub enum Refusal {
    /// The body is not what this route takes.
    #[error("{0}")]
    Malformed(#[from] DecodeError),
    /// No account here has this pixel.
    #[error("this name serves no such pixel")]
    NotOnboarded,
    /// The account is switched off.
    #[error("the account is not active")]
    AccountInactive,
    /// The pixel is switched off.
    #[error("the pixel is not active")]
    PixelInactive,
    /// The account's `[websites]` do not let this page send.
    #[error("this page may not send to this account")]
    WebsiteRefused,
    /// No ingest key of the account was given.
    #[error("no ingest key of this account was given")]
    KeyRefused,
    /// The account sends more than `[limits] account_events_per_second`.
    #[error("more events than the account may send in a second")]
    TooFast,
    /// The account's backlog is full.
    #[error("the account's backlog is full")]
    BacklogFull,
    /// The account's dead letters are full.
    #[error("the account has too many dead letters; replay or drop some")]
    LettersFull,
    /// The disk takes no more, or not now.
    #[error("events cannot be stored now")]
    Unavailable,
}

/// The way an event came in, as a metric's label.
#[derive(Clone, Copy, Debug)]
enum Format {
    Gateway,
    Graph,
    Pixel,
}

// === impl Ingest ===

impl Ingest {
    /// Stores what it takes in `outbox`.
    pub fn new(outbox: Outbox, metrics: Arc<Metrics>) -> Self {
        Self { outbox, metrics, replays_stopped: tokio::sync::RwLock::new(false) }
    }

    /// `POST /events`: one event in the format of Meta's gateway.
    pub async fn gateway(&self, request: &Request, body: &[u8]) -> Result<Accepted, Refusal> {
        let decoded = decode::gateway::decode(body, &request.arrival)?;
        self.take_from_browser(request, vec![decoded], Format::Gateway).await
    }

    /// `GET` and `POST /tr`: events in the format of the pixel's own endpoint.
    pub async fn pixel(&self, request: &Request, form: Form<'_>) -> Result<Accepted, Refusal> {
        let decoded =
            decode::pixel::decode(form, &request.arrival, request.snapshot.gateway.limits.events_per_request_max)?;
        self.take_from_browser(request, decoded, Format::Pixel).await
    }

    /// `POST /v26.0/<pixel>/events` and `POST /capi/<pixel>/events`: events of a server that has an ingest key.
    pub async fn graph(&self, request: &Request, parts: GraphParts<'_>) -> Result<Accepted, Refusal> {
        let (pixel, tenant) = addressed(request, parts.pixel)?;
        let graph = GraphRequest {
            content_type: parts.content_type,
            query: parts.query,
            bearer: parts.bearer,
            body: parts.body,
        };
        let events_max = request.snapshot.gateway.limits.events_per_request_max;
        let work = || {
            let key = decode::graph::access_token(&graph)?;
            if !key.is_some_and(|key| tenant.has_ingest_key(key.reveal())) {
                return Err(Refusal::KeyRefused);
            }
            Ok(decode::graph::decode(graph, &request.arrival, events_max)?)
        };
        let decoded = if parts.body.len() > DECODED_INLINE_MAX { tokio::task::block_in_place(work) } else { work() }?;
        let group = Group { tenant, pixel, envelope: decoded.envelope.into(), events: decoded.events };
        let taken = self.accept(request, Format::Graph, vec![group]).await?;
        Ok(Accepted { received: taken.received, cookies: RenewedCookies::default() })
    }

    /// Judges a request to a Graph-compatible route by all but its body: the pixel in the path, and the key if it is in a
    /// header or in the query.
    ///
    /// # Errors
    /// As [`Ingest::graph`] would refuse it.
    pub fn admit(&self, request: &Request, parts: &GraphParts<'_>) -> Result<Admitted, Refusal> {
        let (_, tenant) = addressed(request, parts.pixel)?;
        let key = decode::graph::token_outside(parts.bearer, parts.query);
        let proven = key.is_some();
        if key.is_some_and(|key| !tenant.has_ingest_key(key.reveal())) {
            return Err(Refusal::KeyRefused);
        }
        Ok(Admitted { account: tenant.config.id.clone(), proven })
    }

    async fn take_from_browser(
        &self,
        request: &Request,
        decoded: Vec<Decoded>,
        format: Format,
    ) -> Result<Accepted, Refusal> {
        let mut groups: Vec<Group> = Vec::new();
        let mut renewed = RenewedCookies::default();
        let mut fresh = None;
        for Decoded { pixel, mut event, mut cookies } in decoded {
            let tenant = serving(request, pixel)?;
            if !tenant.allows_page(page_of(request, &event)) {
                return Err(Refusal::WebsiteRefused);
            }
            if mints(request, &tenant) {
                let fbp = event
                    .user_data
                    .fbp
                    .get_or_insert_with(|| fresh.get_or_insert_with(|| minted(request.arrival.now_ms)).clone());
                cookies.fbp.get_or_insert_with(|| fbp.clone());
            }
            renewed = cookies;
            match groups.iter_mut().find(|group| group.pixel == pixel) {
                Some(group) => group.events.push(event),
                None => groups.push(Group { tenant, pixel, envelope: "".into(), events: vec![event] }),
            }
        }
        let taken = self.accept(request, format, groups).await?;
        // What the account's rules did not let pass leaves no trace in the browser either.
        let fbp = renewed.fbp.filter(|_| taken.kept_fbp);
        let fbc = renewed.fbc.filter(|_| taken.kept_fbc);
        Ok(Accepted { received: taken.received, cookies: RenewedCookies { fbp, fbc } })
    }
}

/// The pixel in a path, and who serves it.
fn addressed(request: &Request, pixel: &str) -> Result<(PixelId, Arc<Tenant>), Refusal> {
    let pixel = pixel.parse().map_err(|_| Refusal::NotOnboarded)?;
    Ok((pixel, serving(request, pixel)?))
}

/// The tenant that serves this pixel under the request's name, if it and the pixel are switched on.
fn serving(request: &Request, pixel: PixelId) -> Result<Arc<Tenant>, Refusal> {
    let tenant = match &request.route {
        Route::Host => request.snapshot.tenant_on_host_domain(pixel),
        Route::Tenant(tenant) => Some(tenant),
    };
    let account = tenant.map(|tenant| tenant.config.id.clone());
    request.addressed.get_or_init(|| Addressed { pixel, account });
    let tenant = tenant.ok_or(Refusal::NotOnboarded)?;
    let served = tenant.pixel(pixel).ok_or(Refusal::NotOnboarded)?;
    match (tenant.config.active, served.active) {
        (false, _) => Err(Refusal::AccountInactive),
        (true, false) => Err(Refusal::PixelInactive),
        (true, true) => Ok(tenant.clone()),
    }
}

/// Whether an `fbp` is made for a browser that has none: only where the answer can set it as a cookie, or every event
/// would seem to come from another browser.
fn mints(request: &Request, tenant: &Tenant) -> bool {
    let cookies = tenant.config.cookies;
    let own = matches!(request.route, Route::Tenant(_));
    own && cookies.mint && cookies.set && psl::domain_str(&request.host).is_some()
}

/// An `fbp` for a browser that has none.
fn minted(now_ms: i64) -> String {
    click_id::mint_fbp(now_ms, rand::random())
}

/// The page that sent: what the browser says of it before what the script says.
fn page_of<'a>(request: &'a Request, event: &'a Event) -> Option<&'a str> {
    let origin = request.origin.as_deref().filter(|origin| *origin != "null");
    origin.or(request.arrival.referer.as_deref()).or(event.source_url.as_deref())
}

// === impl Format ===

impl Format {
    fn label(self) -> &'static str {
        match self {
            Format::Gateway => "gateway",
            Format::Graph => "graph",
            Format::Pixel => "pixel",
        }
    }
}

// === impl Refusal ===

impl From<AppendError> for Refusal {
    fn from(error: AppendError) -> Self {
        match error {
            AppendError::Backlog => Self::BacklogFull,
            AppendError::DeadLetters => Self::LettersFull,
            AppendError::TooLarge => Self::Malformed(DecodeError::TooLarge),
            AppendError::Full | AppendError::Busy | AppendError::Unavailable { .. } => Self::Unavailable,
        }
    }
}

impl From<DeadLetterError> for Refusal {
    fn from(error: DeadLetterError) -> Self {
        match error {
            DeadLetterError::Full => Self::LettersFull,
            DeadLetterError::Unavailable(_) => Self::Unavailable,
        }
    }
}
