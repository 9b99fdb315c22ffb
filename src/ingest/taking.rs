//! What becomes of the events of a request that may be taken: filtered, then stored all at once, then counted.

use std::sync::Arc;
use std::time::Instant;

use crate::account::{AccountId, LaneKey, PixelId};
use crate::event::{Event, Scalar};
use crate::filter::{Context, Filtered};
use crate::ingest::{Format, Ingest, Refusal, Request};
use crate::outbox::{DeadLetter, NewEvent};
use crate::snapshot::Tenant;
use crate::telemetry::Metrics;

/// The events of one request that go to one pixel.
pub(super) struct Group {
    pub(super) tenant: Arc<Tenant>,
    pub(super) pixel: PixelId,
    pub(super) envelope: Arc<str>,
    pub(super) events: Vec<Event>,
}

/// What became of the events of a request.
pub(super) struct Taken {
    pub(super) received: usize,
    /// Whether all go on, those of every pixel with an `fbp`.
    pub(super) kept_fbp: bool,
    /// The same of an `fbc`.
    pub(super) kept_fbc: bool,
}

/// What metrics hear of a group once it is stored.
struct Count {
    account: AccountId,
    received: usize,
    unusable: u64,
    held: u64,
    dropped: Vec<String>,
}

/// What filters made of a group.
#[derive(Default)]
struct Sorted {
    passed: Vec<NewEvent>,
    held: Vec<DeadLetter>,
    /// Why each dropped event was dropped.
    dropped: Vec<String>,
    kept_fbp: bool,
    kept_fbc: bool,
}

// === impl Ingest ===

impl Ingest {
    /// Filters and stores the events of one request: all of them, or none.
    pub(super) async fn accept(&self, request: &Request, format: Format, groups: Vec<Group>) -> Result<Taken, Refusal> {
        let begun = Instant::now();
        let now_ms = request.arrival.now_ms;
        let per_second = request.snapshot.gateway.limits.account_events_per_second;
        for group in &groups {
            if !group.tenant.take_budget(group.events.len() as u64, per_second, now_ms) {
                return Err(Refusal::TooFast);
            }
        }
        let (mut passed, mut held, mut counted) = (Vec::new(), Vec::new(), Vec::new());
        let mut taken = Taken { received: 0, kept_fbp: true, kept_fbc: true };
        for group in groups {
            let mut count = Count::of(&group);
            let sorted = self.filter(request, group).await;
            let whole = sorted.passed.len() == count.received;
            taken.received += count.received;
            taken.kept_fbp &= whole && sorted.kept_fbp;
            taken.kept_fbc &= whole && sorted.kept_fbc;
            count.held = sorted.held.len() as u64;
            count.dropped = sorted.dropped;
            passed.extend(sorted.passed);
            held.extend(sorted.held);
            counted.push(count);
        }
        // Events first: a sender that is refused tries again, and letters must not pile up meanwhile. Are only the letters
        // refused, what passed comes twice, with one id.
        self.outbox.append(passed, now_ms).await?;
        self.outbox.hold(held).await?;
        counted.iter().for_each(|count| count.tell(&self.metrics, format, begun));
        Ok(taken)
    }

    /// Runs the account's filters, and makes of each event what is stored of it.
    async fn filter(&self, request: &Request, group: Group) -> Sorted {
        let Group { tenant, pixel, envelope, mut events } = group;
        let lane = tenant.lane(pixel);
        let mut sorted = Sorted::default();
        if tenant.filters.is_empty() {
            events.iter().for_each(|event| sorted.pass(event, stored(&lane, &envelope, event)));
            return sorted;
        }
        // What else was said is nothing to a filter, and need not wait for one.
        let sources = &tenant.config.consent_sources;
        events.iter_mut().for_each(|event| event.beside.retain(|(name, _)| sources.contains(name)));
        let context = Arc::new(Context {
            account: tenant.config.id.clone(),
            pixel,
            host: request.host.clone(),
            signals: signals(request, &tenant),
            sources: sources.clone(),
        });
        for filtered in tenant.filters.run(context.clone(), events).await {
            match filtered {
                Filtered::Pass(event) => sorted.pass(&event, stored(&lane, &envelope, &event)),
                Filtered::Drop { filter, reason } => sorted.dropped.push(format!("{filter}: {reason}")),
                Filtered::Hold { event, reason, message } => {
                    let context = context.with_beside(&event).to_json();
                    let event = stored(&lane, &envelope, &event);
                    sorted.held.push(held(event, reason, message, context, request.arrival.now_ms));
                }
            }
        }
        sorted
    }
}

// === impl Sorted ===

impl Sorted {
    fn pass(&mut self, event: &Event, stored: NewEvent) {
        self.kept_fbp |= event.user_data.fbp.is_some();
        self.kept_fbc |= event.user_data.fbc.is_some();
        self.passed.push(stored);
    }
}

// === impl Count ===

impl Count {
    fn of(group: &Group) -> Self {
        Self {
            account: group.tenant.config.id.clone(),
            received: group.events.len(),
            unusable: group.events.iter().map(|event| u64::from(event.user_data.dropped())).sum(),
            held: 0,
            dropped: Vec::new(),
        }
    }

    fn tell(&self, metrics: &Metrics, format: Format, begun: Instant) {
        let account = &self.account;
        if self.held > 0 {
            metrics.held(account, self.held);
        }
        self.dropped.iter().for_each(|reason| metrics.dropped(account, reason));
        if self.unusable > 0 {
            metrics.unusable_values(account, self.unusable);
        }
        metrics.accepted(account, format.label(), self.received as u64, begun.elapsed());
    }
}

/// The cookies that the account names as consent sources, and the country.
fn signals(request: &Request, tenant: &Tenant) -> Vec<(String, Scalar)> {
    let named = |name: &str| tenant.config.consent_sources.iter().any(|source| source == name);
    let pairs = request.cookies.split(';').filter_map(|pair| pair.trim().split_once('='));
    let mut signals: Vec<_> = pairs
        .filter(|(name, _)| named(name))
        .map(|(name, value)| (name.to_owned(), Scalar::Text(value.to_owned())))
        .collect();
    if let Some(country) = &request.country {
        signals.push(("country".to_owned(), Scalar::Text(country.clone())));
    }
    signals
}

/// The event as it is kept: its final JSON, encoded here and never again.
pub(super) fn stored(lane: &LaneKey, envelope: &Arc<str>, event: &Event) -> NewEvent {
    let mut body = Vec::with_capacity(1_024);
    event.encode(&mut body);
    NewEvent {
        lane: lane.clone(),
        event_name: event.name.clone(),
        event_id: event.id.clone(),
        event_time: event.time,
        envelope: envelope.clone(),
        body: body.into(),
    }
}

/// The event as a dead letter that waits for its filter to be mended.
fn held(event: NewEvent, reason: String, message: String, context: String, now_ms: i64) -> DeadLetter {
    DeadLetter {
        id: 0,
        lane: event.lane,
        event_name: event.event_name,
        event_id: event.event_id,
        event_time: event.event_time,
        reason,
        message,
        attempts: 0,
        accepted_ms: now_ms,
        dead_ms: now_ms,
        envelope: event.envelope,
        body: event.body,
        context,
    }
}
