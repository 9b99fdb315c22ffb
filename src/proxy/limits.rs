//! How many connections there may be.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use crate::proxy::Observer;

/// As many sources one IPv6 network may be: whoever has a /48 or a part of it has thousands.
pub(super) const SOURCES_OF_NETWORK: usize = 10;

/// Open connections, in all and by source. A source is an IPv4 address or an IPv6 /64, the least that one visitor has.
pub(super) struct ConnectionLimits {
    open: AtomicUsize,
    counted: Mutex<Counted>,
    observer: Arc<dyn Observer>,
}

/// Connections of each source, and of each network that has many.
#[derive(Default)]
struct Counted {
    sources: HashMap<IpAddr, usize>,
    networks: HashMap<IpAddr, usize>,
}

/// One open connection; dropping it makes room for another.
pub(super) struct ConnectionPermit {
    limits: Arc<ConnectionLimits>,
    source: Option<IpAddr>,
}

// === impl ConnectionLimits ===

impl ConnectionLimits {
    pub(super) fn new(observer: Arc<dyn Observer>) -> Arc<Self> {
        Arc::new(Self { open: AtomicUsize::new(0), counted: Mutex::default(), observer })
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
    /// Who counts what happens on the connection.
    pub(super) fn observer(&self) -> &dyn Observer {
        &*self.limits.observer
    }

    /// Counts the connection for its source too; false = that has `max` already, or its network ten times as many.
    pub(super) fn count_for(&mut self, address: IpAddr, max: usize) -> bool {
        let source = source_of(address);
        let mut counted = self.limits.counted.lock().unwrap_or_else(PoisonError::into_inner);
        let counts = counted.add(source, max);
        self.source = counts.then_some(source);
        counts
    }
}

impl Drop for ConnectionPermit {
    fn drop(&mut self) {
        self.limits.open.fetch_sub(1, Ordering::AcqRel);
        self.limits.observer.connections(-1);
        if let Some(source) = self.source {
            self.limits.counted.lock().unwrap_or_else(PoisonError::into_inner).remove(source);
        }
    }
}

// === impl Counted ===

impl Counted {
    fn add(&mut self, source: IpAddr, max: usize) -> bool {
        let network = network_of(source);
        let of = |counted: &HashMap<IpAddr, usize>, who: &IpAddr| counted.get(who).copied().unwrap_or_default();
        if of(&self.sources, &source) >= max
            || network.is_some_and(|network| of(&self.networks, &network) >= max.saturating_mul(SOURCES_OF_NETWORK))
        {
            return false;
        }
        *self.sources.entry(source).or_default() += 1;
        network.into_iter().for_each(|network| *self.networks.entry(network).or_default() += 1);
        true
    }

    fn remove(&mut self, source: IpAddr) {
        less(&mut self.sources, source);
        network_of(source).into_iter().for_each(|network| less(&mut self.networks, network));
    }
}

/// One less; who has none is not remembered.
fn less(counted: &mut HashMap<IpAddr, usize>, who: IpAddr) {
    if let Some(open) = counted.get_mut(&who) {
        *open -= 1;
        if *open == 0 {
            counted.remove(&who);
        }
    }
}

/// What counts as one source.
pub(super) fn source_of(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(v6) => first_bits(v6, 64),
        v4 => v4,
    }
}

/// The network in which one holder may have many sources.
pub(super) fn network_of(address: IpAddr) -> Option<IpAddr> {
    match address.to_canonical() {
        IpAddr::V6(v6) => Some(first_bits(v6, 48)),
        IpAddr::V4(_) => None,
    }
}

fn first_bits(address: Ipv6Addr, bits: u32) -> IpAddr {
    IpAddr::V6(Ipv6Addr::from_bits(address.to_bits() & !(u128::MAX >> bits)))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
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
        assert!(limits.counted.lock().unwrap().sources.is_empty());
        assert!(limits.admit(1).is_some());
    }

    #[test]
    fn a_network_is_no_more_than_ten_sources() {
        let limits = ConnectionLimits::new(Arc::new(Uncounted));
        let of = |source: u16| IpAddr::from([0x2001, 0xdb8, 1, source, 0, 0, 0, 1]);
        let mut open: Vec<_> = (0..100).map(|_| limits.admit(1_000).unwrap()).collect();
        let counted = open.iter_mut().zip(0..).filter_map(|(permit, n)| permit.count_for(of(n / 2), 2).then_some(()));
        assert_eq!(counted.count(), 20);
        let mut other = limits.admit(1_000).unwrap();
        assert!(other.count_for("2001:db8:2::1".parse().unwrap(), 2));
        drop((open, other));
        let counted = limits.counted.lock().unwrap();
        assert!(counted.sources.is_empty() && counted.networks.is_empty());
    }

    #[test]
    fn a_visitor_has_one_ipv6_network() {
        let network = |text: &str| source_of(text.parse().unwrap());
        assert_eq!(network("2001:db8:1:2::1"), network("2001:db8:1:2:ffff::9"));
        assert_ne!(network("2001:db8:1:2::1"), network("2001:db8:1:3::1"));
    }
}
