//! How many connections there may be.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use crate::proxy::Observer;

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
    /// Who counts what happens on the connection.
    pub(super) fn observer(&self) -> &dyn Observer {
        &*self.limits.observer
    }

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

/// What counts as one source.
pub(super) fn source_of(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(v6) => IpAddr::V6(Ipv6Addr::from_bits(v6.to_bits() & !u128::from(u64::MAX))),
        v4 => v4,
    }
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
        assert!(limits.by_source.lock().unwrap().is_empty());
        assert!(limits.admit(1).is_some());
    }

    #[test]
    fn a_visitor_has_one_ipv6_network() {
        let network = |text: &str| source_of(text.parse().unwrap());
        assert_eq!(network("2001:db8:1:2::1"), network("2001:db8:1:2:ffff::9"));
        assert_ne!(network("2001:db8:1:2::1"), network("2001:db8:1:3::1"));
    }
}
