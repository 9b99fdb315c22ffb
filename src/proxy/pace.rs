//! What a connection is doing, as far as it limits how long a read may wait.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// The longest record that TLS itself may send to a client that went away, an alert; any answer is longer.
pub(super) const TLS_ALERT_BYTES_MAX: usize = 64;

/// What a connection is doing, as far as it limits how long a read may wait.
pub(super) struct Pace(Mutex<State>);

struct State {
    doing: Doing,
    /// Requests that were taken up so far.
    requests: u64,
}

#[derive(Clone, Copy)]
enum Doing {
    /// A handshake or a request: whoever handles it has the limit.
    Busy,
    /// Nothing, since a moment. The first byte of an HTTP/1 header begins [`Doing::Header`] with that limit.
    Idle { until: Instant, header: Option<Duration>, settled: bool },
    /// Sending a header; so many bytes were written meanwhile.
    Header { until: Instant, written: usize },
    /// Its header took too long.
    Late,
}

/// What was just received, as far as it counts.
pub(super) enum Received {
    /// No header.
    Other,
    /// The beginning of a header.
    HeaderBegun,
    /// More of it.
    MoreHeader,
}

// === impl Pace ===

impl Pace {
    /// Busy.
    pub(super) fn new() -> Arc<Self> {
        Arc::new(Self(Mutex::new(State { doing: Doing::Busy, requests: 0 })))
    }

    /// A request is being handled.
    pub(super) fn busy(&self) {
        let mut state = self.state();
        state.requests += 1;
        state.doing = Doing::Busy;
    }

    /// Requests that were taken up so far.
    pub(super) fn requests(&self) -> u64 {
        self.state().requests
    }

    /// Why a header that was begun led to no request, as a metric's label: it was answered for not being HTTP, or it took
    /// too long. `None` if its client went away, or none was begun.
    pub(super) fn broken_header(&self) -> Option<&'static str> {
        match self.state().doing {
            Doing::Header { written, .. } if written > TLS_ALERT_BYTES_MAX => Some("bad_request"),
            Doing::Late => Some("too_slow"),
            _ => None,
        }
    }

    /// Waits for a request: its first byte within `idle`, then its whole header within `header`. Without `header` there
    /// is no telling where one begins (HTTP/2), and `idle` goes on until [`Pace::busy`].
    pub(super) fn idle(&self, idle: Duration, header: Option<Duration>) {
        self.set(Doing::Idle { until: Instant::now() + idle, header, settled: false });
    }

    /// The same after an HTTP/1 request that was read to its end and answered: its client sends nothing more before it has
    /// the answer.
    pub(super) fn settled(&self, idle: Duration, header: Duration) {
        self.set(Doing::Idle { until: Instant::now() + idle, header: Some(header), settled: true });
    }

    /// Whether its client sends nothing more before it has the answer.
    pub(super) fn is_settled(&self) -> bool {
        matches!(self.state().doing, Doing::Idle { settled: true, .. })
    }

    /// Its client sends all the same.
    pub(super) fn unsettle(&self) {
        if let Doing::Idle { settled, .. } = &mut self.state().doing {
            *settled = false;
        }
    }

    /// Takes note that something was received.
    pub(super) fn received(&self) -> Received {
        let mut state = self.state();
        match state.doing {
            Doing::Idle { header: Some(header), .. } => {
                state.doing = Doing::Header { until: Instant::now() + header, written: 0 };
                Received::HeaderBegun
            }
            Doing::Header { .. } => Received::MoreHeader,
            Doing::Idle { header: None, .. } | Doing::Busy | Doing::Late => Received::Other,
        }
    }

    /// Its client ended it: what TLS still writes then is no answer.
    pub(super) fn gone(&self) {
        let mut state = self.state();
        if matches!(state.doing, Doing::Header { .. }) {
            state.doing = Doing::Busy;
        }
    }

    /// Takes note of what was written.
    pub(super) fn sent(&self, bytes: usize) {
        if let Doing::Header { written, .. } = &mut self.state().doing {
            *written += bytes;
        }
    }

    /// It waited until its deadline.
    pub(super) fn late(&self) {
        let mut state = self.state();
        if matches!(state.doing, Doing::Header { .. }) {
            state.doing = Doing::Late;
        }
    }

    /// Whether its client has begun a header.
    pub(super) fn is_in_header(&self) -> bool {
        matches!(self.state().doing, Doing::Header { .. })
    }

    /// Until when a read may wait.
    pub(super) fn deadline(&self) -> Option<Instant> {
        match self.state().doing {
            Doing::Busy | Doing::Late => None,
            Doing::Idle { until, .. } | Doing::Header { until, .. } => Some(until),
        }
    }

    fn set(&self, doing: Doing) {
        self.state().doing = doing;
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
