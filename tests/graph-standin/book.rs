//! What was received, per pixel. Everything in it has a bound; what is past one is counted.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use serde::Serialize;

/// Requests remembered of one pixel, the newest.
const REQUESTS_MAX: usize = 10_000;
/// Breaches of a rule that are remembered.
const VIOLATIONS_MAX: usize = 1_000;

/// All that was received.
pub(crate) struct Book {
    /// Events that may still be remembered by id.
    events_left: AtomicUsize,
    keep_body_bytes: usize,
    pixels: Mutex<BTreeMap<u64, Arc<Mutex<PixelBook>>>>,
    bodies: Mutex<VecDeque<(u64, Bytes)>>,
    violations: Mutex<Vec<String>>,
}

/// What one pixel received.
#[derive(Default)]
pub(crate) struct PixelBook {
    events: HashMap<Box<str>, Seen>,
    requests: VecDeque<RequestRecord>,
    totals: Totals,
}

/// Sums of one pixel.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub(crate) struct Totals {
    /// Requests that arrived, whatever became of them.
    pub(crate) requests: u64,
    /// Requests whose events were taken.
    taken_requests: u64,
    /// Events taken, repeated ones too.
    pub(crate) events: u64,
    /// Different events taken: by `event_name` and `event_id`.
    pub(crate) distinct: u64,
    /// Events taken again.
    pub(crate) repeated: u64,
    /// Events that were counted but not remembered by id; `distinct` and `repeated` leave them out.
    not_remembered: u64,
    /// The largest batch that was taken.
    batch_max: usize,
    /// Unix milliseconds of the last request.
    last_ms: u64,
}

/// When and how often an event was taken.
#[derive(Clone, Copy, Debug)]
struct Seen {
    count: u32,
    first_ms: u64,
    last_ms: u64,
}

/// One request as it arrived.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct RequestRecord {
    /// Unix milliseconds.
    pub(crate) at_ms: u64,
    /// `HTTP/1.1` or `HTTP/2.0`.
    pub(crate) http: String,
    /// The API version in the path.
    pub(crate) api_version: String,
    /// `bearer`, `body`, `url` or `none`.
    pub(crate) token_in: &'static str,
    /// The `User-Agent` header.
    pub(crate) user_agent: String,
    /// Events in it, as far as it could be read.
    pub(crate) events: usize,
    /// Size of the body.
    pub(crate) bytes: usize,
    /// `test_event_code`, if it had one.
    pub(crate) test_event_code: Option<String>,
    /// The status that it was answered with; null = the connection was closed or kept waiting.
    pub(crate) status: Option<u16>,
    /// The id of the first event.
    pub(crate) first_event_id: Option<String>,
}

/// One event, as the control API shows it.
#[derive(Debug, Serialize)]
pub(crate) struct EventRecord {
    event_name: String,
    event_id: String,
    count: u32,
    first_ms: u64,
    last_ms: u64,
}

// === impl Book ===

impl Book {
    /// An empty book that remembers at most `events_max` events by id.
    pub(crate) fn new(events_max: usize, keep_body_bytes: usize) -> Self {
        Self {
            events_left: AtomicUsize::new(events_max),
            keep_body_bytes,
            pixels: Mutex::default(),
            bodies: Mutex::default(),
            violations: Mutex::default(),
        }
    }

    /// Writes down that a request came.
    pub(crate) fn request(&self, pixel: u64, record: RequestRecord) {
        let book = self.pixel(pixel);
        let mut book = lock(&book);
        book.totals.requests += 1;
        book.totals.last_ms = record.at_ms;
        if book.requests.len() == REQUESTS_MAX {
            book.requests.pop_front();
        }
        book.requests.push_back(record);
    }

    /// Writes down that a request's events were taken: names and ids.
    pub(crate) fn take<'a>(&self, pixel: u64, events: impl Iterator<Item = (&'a str, &'a str)>, now_ms: u64) {
        let book = self.pixel(pixel);
        let mut book = lock(&book);
        let before = book.totals.events;
        for (name, id) in events {
            book.take(name, id, now_ms, &self.events_left);
        }
        let batch = usize::try_from(book.totals.events - before).unwrap_or(usize::MAX);
        book.totals.taken_requests += 1;
        book.totals.batch_max = book.totals.batch_max.max(batch);
    }

    /// Keeps a whole body, if bodies are kept.
    pub(crate) fn keep_body(&self, pixel: u64, body: &Bytes) {
        if self.keep_body_bytes == 0 {
            return;
        }
        let mut bodies = lock(&self.bodies);
        bodies.push_back((pixel, body.clone()));
        let mut kept: usize = bodies.iter().map(|(_, body)| body.len()).sum();
        while kept > self.keep_body_bytes {
            let Some((_, oldest)) = bodies.pop_front() else { break };
            kept -= oldest.len();
        }
    }

    /// Writes down a breach of a rule that Meta would not answer with an error.
    pub(crate) fn violation(&self, what: String) {
        let mut violations = lock(&self.violations);
        if violations.len() < VIOLATIONS_MAX {
            violations.push(what);
        }
    }

    /// Forgets what was received; the room for events stays used.
    pub(crate) fn reset(&self) {
        let forgotten: usize = lock(&self.pixels).values().map(|book| lock(book).events.len()).sum();
        self.events_left.fetch_add(forgotten, Ordering::Relaxed);
        lock(&self.pixels).clear();
        lock(&self.bodies).clear();
        lock(&self.violations).clear();
    }

    pub(crate) fn totals(&self) -> BTreeMap<u64, Totals> {
        lock(&self.pixels).iter().map(|(pixel, book)| (*pixel, lock(book).totals)).collect()
    }

    pub(crate) fn violations(&self) -> Vec<String> {
        lock(&self.violations).clone()
    }

    pub(crate) fn events(&self, pixel: u64) -> Vec<EventRecord> {
        let book = self.pixel(pixel);
        let book = lock(&book);
        book.events.iter().map(|(key, seen)| EventRecord::new(key, *seen)).collect()
    }

    pub(crate) fn requests(&self, pixel: u64) -> Vec<RequestRecord> {
        lock(&self.pixel(pixel)).requests.iter().cloned().collect()
    }

    pub(crate) fn bodies(&self, pixel: u64) -> Vec<Bytes> {
        lock(&self.bodies).iter().filter(|(of, _)| *of == pixel).map(|(_, body)| body.clone()).collect()
    }

    fn pixel(&self, pixel: u64) -> Arc<Mutex<PixelBook>> {
        lock(&self.pixels).entry(pixel).or_default().clone()
    }
}

// === impl PixelBook ===

impl PixelBook {
    fn take(&mut self, name: &str, id: &str, now_ms: u64, left: &AtomicUsize) {
        self.totals.events += 1;
        let key = format!("{name}\n{id}");
        if let Some(seen) = self.events.get_mut(key.as_str()) {
            seen.count = seen.count.saturating_add(1);
            seen.last_ms = now_ms;
            self.totals.repeated += 1;
            return;
        }
        if left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1)).is_err() {
            self.totals.not_remembered += 1;
            return;
        }
        self.events.insert(key.into(), Seen { count: 1, first_ms: now_ms, last_ms: now_ms });
        self.totals.distinct += 1;
    }
}

// === impl EventRecord ===

impl EventRecord {
    fn new(key: &str, seen: Seen) -> Self {
        let (name, id) = key.split_once('\n').unwrap_or(("", key));
        let Seen { count, first_ms, last_ms } = seen;
        Self { event_name: name.to_owned(), event_id: id.to_owned(), count, first_ms, last_ms }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
