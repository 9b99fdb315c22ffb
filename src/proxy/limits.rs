//! How many connections and handshakes there may be, and how many bytes of bodies.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use crate::proxy::Observer;

/// Sources that are remembered before it is worth looking for some to forget.
const SOURCES_SWEPT_FROM: usize = 1_024;

/// Open connections, in all and by source. A source is an IPv4 address or an IPv6 /64, the least that one visitor has.
pub(super) struct ConnectionLimits {
    open: AtomicUsize,
    by_source: Mutex<HashMap<IpAddr, usize>>,
    observer: Arc<dyn Observer>,
}

/// One open connection; dropping it makes room for another.
pub(super) struct ConnectionPermit {
    limits: Arc<ConnectionLimits>,
    source: Option<IpAddr>,
}

/// How many handshakes may begin in a second: the generic cell rate algorithm with a burst of one second.
pub(super) struct HandshakeRate {
    since: Instant,
    paid_until_us: AtomicU64,
}

/// The same for each source of its own.
pub(super) struct SourceRates {
    since: Instant,
    paid_until_us: Mutex<SourceTimes>,
}

/// When all that each source took is paid for. A source that owes nothing need not be remembered.
#[derive(Default)]
struct SourceTimes {
    by_source: HashMap<IpAddr, u64>,
    /// Sources from which on those that owe nothing are forgotten.
    sweep_at: usize,
}

/// Bytes of request bodies that are held now.
#[derive(Default)]
pub(super) struct BodyMemory {
    held: AtomicUsize,
}

/// A part of [`BodyMemory`], given back when dropped.
pub(super) struct HeldBytes {
    memory: Arc<BodyMemory>,
    bytes: usize,
}

// === impl ConnectionLimits ===

impl ConnectionLimits {
    pub(super) fn new(observer: Arc<dyn Observer>) -> Arc<Self> {
        Arc::new(Self { open: AtomicUsize::new(0), by_source: Mutex::default(), observer })
    }

    /// Counts a connection; `None` = there are `max` already.
    pub(super) fn admit(self: &Arc<Self>, max: usize) -> Option<ConnectionPermit> {
        let below = |open| (open < max).then_some(open + 1);
        self.open.fetch_update(Ordering::AcqRel, Ordering::Acquire, below).ok()?;
        self.observer.connections(1);
        Some(ConnectionPermit { limits: self.clone(), source: None })
    }
}

// === impl ConnectionPermit ===

impl ConnectionPermit {
    /// Counts the connection for its source too; false = that has `max` already.
    pub(super) fn count_for(&mut self, address: IpAddr, max: usize) -> bool {
        let source = source_of(address);
        let mut by_source = self.limits.by_source.lock().unwrap_or_else(PoisonError::into_inner);
        let open = by_source.entry(source).or_default();
        if *open >= max {
            return false;
        }
        *open += 1;
        self.source = Some(source);
        true
    }
}

impl Drop for ConnectionPermit {
    fn drop(&mut self) {
        self.limits.open.fetch_sub(1, Ordering::AcqRel);
        self.limits.observer.connections(-1);
        let Some(source) = self.source else {
            return;
        };
        let mut by_source = self.limits.by_source.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(open) = by_source.get_mut(&source) {
            *open -= 1;
            if *open == 0 {
                by_source.remove(&source);
            }
        }
    }
}

fn source_of(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(v6) => IpAddr::V6(Ipv6Addr::from_bits(v6.to_bits() & !u128::from(u64::MAX))),
        v4 => v4,
    }
}

// === impl HandshakeRate ===

impl HandshakeRate {
    pub(super) fn new(now: Instant) -> Self {
        Self { since: now, paid_until_us: AtomicU64::new(0) }
    }

    /// Whether one more may begin at `now`.
    pub(super) fn take(&self, per_second: usize, now: Instant) -> bool {
        let now_us = micros(self.since, now);
        let pay = |paid_until| pay(paid_until, per_second, now_us);
        self.paid_until_us.fetch_update(Ordering::AcqRel, Ordering::Acquire, pay).is_ok()
    }
}

/// The time until which all is paid when one more is taken; `None` = it is one too many.
fn pay(paid_until_us: u64, per_second: usize, now_us: u64) -> Option<u64> {
    let cost_us = 1_000_000 / (per_second.max(1) as u64);
    let after = paid_until_us.max(now_us).saturating_add(cost_us);
    (after <= now_us.saturating_add(1_000_000)).then_some(after)
}

fn micros(since: Instant, now: Instant) -> u64 {
    u64::try_from(now.duration_since(since).as_micros()).unwrap_or(u64::MAX)
}

// === impl SourceRates ===

impl SourceRates {
    pub(super) fn new(now: Instant) -> Self {
        Self { since: now, paid_until_us: Mutex::default() }
    }

    /// Whether one more may begin at `now` from an address.
    pub(super) fn take(&self, address: IpAddr, per_second: usize, now: Instant) -> bool {
        let (source, now_us) = (source_of(address), micros(self.since, now));
        let mut times = self.paid_until_us.lock().unwrap_or_else(PoisonError::into_inner);
        if times.by_source.len() >= times.sweep_at {
            times.by_source.retain(|_, paid_until| *paid_until > now_us);
            times.sweep_at = (2 * times.by_source.len()).max(SOURCES_SWEPT_FROM);
        }
        let paid_until = times.by_source.entry(source).or_default();
        let paid = pay(*paid_until, per_second, now_us);
        *paid_until = paid.unwrap_or(*paid_until);
        paid.is_some()
    }
}

// === impl BodyMemory ===

impl BodyMemory {
    /// A claim of no bytes yet.
    pub(super) fn claim(self: &Arc<Self>) -> HeldBytes {
        HeldBytes { memory: self.clone(), bytes: 0 }
    }
}

// === impl HeldBytes ===

impl HeldBytes {
    /// Claims `bytes` more; false = all bodies together would exceed `max`.
    pub(super) fn grow(&mut self, bytes: usize, max: usize) -> bool {
        let fits = |held: usize| held.checked_add(bytes).filter(|after| *after <= max);
        let grown = self.memory.held.fetch_update(Ordering::AcqRel, Ordering::Acquire, fits).is_ok();
        if grown {
            self.bytes += bytes;
        }
        grown
    }
}

impl Drop for HeldBytes {
    fn drop(&mut self) {
        self.memory.held.fetch_sub(self.bytes, Ordering::AcqRel);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::time::Duration;

    use super::*;
    use crate::proxy::testing::Uncounted;

    #[test]
    fn connections_are_capped_in_all_and_by_source() {
        let limits = ConnectionLimits::new(Arc::new(Uncounted));
        let mut first = limits.admit(2).unwrap();
        let mut second = limits.admit(2).unwrap();
        assert!(limits.admit(2).is_none());
        let (v4, mapped) = ("192.0.2.1".parse().unwrap(), "::ffff:192.0.2.1".parse().unwrap());
        assert!(first.count_for(v4, 1));
        assert!(!second.count_for(mapped, 1));
        drop(first);
        assert!(second.count_for(mapped, 1));
        drop(second);
        assert!(limits.by_source.lock().unwrap().is_empty());
        assert!(limits.admit(1).is_some());
    }

    #[test]
    fn a_visitor_has_one_ipv6_network() {
        let network = |text: &str| source_of(text.parse().unwrap());
        assert_eq!(network("2001:db8:1:2::1"), network("2001:db8:1:2:ffff::9"));
        assert_ne!(network("2001:db8:1:2::1"), network("2001:db8:1:3::1"));
    }

    #[test]
    fn handshakes_are_limited_by_the_second() {
        let now = Instant::now();
        let rate = HandshakeRate::new(now);
        assert_eq!((0..100).filter(|_| rate.take(10, now)).count(), 10);
        assert_eq!((0..100).filter(|_| rate.take(10, now + Duration::from_millis(500))).count(), 5);
        assert_eq!((0..100).filter(|_| rate.take(10, now + Duration::from_secs(60))).count(), 10);
    }

    #[test]
    fn handshakes_are_limited_by_source_and_forgotten_with_their_second() {
        let now = Instant::now();
        let rates = SourceRates::new(now);
        let take = |address: &str, now| rates.take(address.parse().unwrap(), 10, now);
        assert_eq!((0..100).filter(|_| take("192.0.2.1", now)).count(), 10);
        assert!(take("192.0.2.2", now) && take("2001:db8:1:2::1", now));
        assert_eq!((0..100).filter(|_| take("2001:db8:1:2:ffff::9", now)).count(), 9, "one visitor's network");
        for n in 0..50_000_u32 {
            let address = IpAddr::from(std::net::Ipv4Addr::from_bits(n));
            assert!(rates.take(address, 10, now + Duration::from_millis(u64::from(n))));
        }
        let remembered = rates.paid_until_us.lock().unwrap().by_source.len();
        assert!(remembered <= 2 * SOURCES_SWEPT_FROM, "{remembered}");
    }

    #[test]
    fn body_memory_is_given_back() {
        let memory = Arc::new(BodyMemory::default());
        let mut one = memory.claim();
        let mut two = memory.claim();
        assert!(one.grow(60, 100) && !two.grow(60, 100) && two.grow(40, 100));
        drop(one);
        assert!(two.grow(60, 100));
        assert!(!two.grow(usize::MAX, usize::MAX));
    }
}
