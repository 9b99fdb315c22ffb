//! Memory for request bodies: how many bytes are held at one time, in all and by whom.
//!
//! The whole of it is `[limits] bodies_in_memory_max`. Nobody may hold all of it: there is a share for one source, for one
//! account, for all servers together (what is left is the browsers'), and a small one for bodies that must be read before
//! it is known whether their sender may send at all. The last of it is for sources that hold little: a few that hold as much
//! as they may keep nobody else out.

use std::collections::HashMap;
use std::hash::Hash;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};

use crate::account::AccountId;
use crate::config::Limits;
use crate::proxy::limits::{network_of, source_of};

/// Bytes of request bodies that are held now.
#[derive(Default)]
pub(super) struct BodyMemory(Mutex<Held>);

/// How much may be held at one time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Shares {
    all: usize,
    /// By all, but for sources that then hold no more than `little`.
    contested: usize,
    little: usize,
    /// By one source; by one account.
    source: usize,
    account: usize,
    /// By all servers together.
    servers: usize,
    /// By those of them that have not shown a key yet: together, and one source.
    unproven: usize,
    unproven_source: usize,
}

/// Who holds a body.
#[derive(Clone, Debug)]
pub(super) struct Holder {
    source: Option<IpAddr>,
    account: Option<AccountId>,
    sender: Sender,
}

/// What sends a body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sender {
    Browser,
    /// A server that has shown a key.
    Server,
    /// A server whose key can only be in the body.
    Unproven,
}

/// A part of [`BodyMemory`], given back when dropped.
pub(super) struct HeldBytes {
    memory: Arc<BodyMemory>,
    holder: Holder,
    bytes: usize,
}

/// All that is held. Who holds nothing is not remembered.
#[derive(Default)]
struct Held {
    all: usize,
    servers: usize,
    unproven: usize,
    by_source: HashMap<IpAddr, usize>,
    unproven_by_source: HashMap<IpAddr, usize>,
    by_account: HashMap<AccountId, usize>,
}

// === impl Shares ===

impl Shares {
    /// What these limits give.
    pub(super) fn of(limits: &Limits) -> Self {
        // Packed and inflated, with the byte that shows that there are too many.
        let body = 2 * limits.graph_body_bytes_max.max(limits.body_bytes_max) + 1;
        Self::new(limits.bodies_in_memory_max, body)
    }

    /// The parts of `all`; none but what is little is smaller than what one body may take.
    pub(super) fn new(all: usize, body: usize) -> Self {
        let at_least = |part: usize| part.max(body).min(all);
        Self {
            all,
            contested: at_least(all - all / 8),
            little: all / 256,
            source: at_least(all / 4),
            account: at_least(all / 2),
            servers: at_least(all - all / 4),
            unproven: at_least(all / 4),
            unproven_source: at_least(all / 8),
        }
    }
}

// === impl Holder ===

impl Holder {
    /// `source` is `None` for a proxy that many visitors come through. A network counts as one: a share is large.
    pub(super) fn new(source: Option<IpAddr>, account: Option<AccountId>, sender: Sender) -> Self {
        Self { source: source.map(|source| network_of(source).unwrap_or_else(|| source_of(source))), account, sender }
    }
}

// === impl BodyMemory ===

impl BodyMemory {
    /// A claim of no bytes yet.
    pub(super) fn claim(self: &Arc<Self>, holder: Holder) -> HeldBytes {
        HeldBytes { memory: self.clone(), holder, bytes: 0 }
    }
}

// === impl HeldBytes ===

impl HeldBytes {
    /// Claims `bytes` more; false = a share would be exceeded.
    pub(super) fn grow(&mut self, bytes: usize, shares: &Shares) -> bool {
        let mut held = self.memory.0.lock().unwrap_or_else(PoisonError::into_inner);
        let grown = held.add(&self.holder, bytes, shares);
        drop(held);
        if grown {
            self.bytes += bytes;
        }
        grown
    }
}

impl Drop for HeldBytes {
    fn drop(&mut self) {
        if self.bytes > 0 {
            let mut held = self.memory.0.lock().unwrap_or_else(PoisonError::into_inner);
            held.remove(&self.holder, self.bytes);
        }
    }
}

// === impl Held ===

impl Held {
    fn add(&mut self, holder: &Holder, bytes: usize, shares: &Shares) -> bool {
        let is_server = holder.sender != Sender::Browser;
        let is_unproven = holder.sender == Sender::Unproven;
        let fits = |held: usize, share: usize| held.checked_add(bytes).is_some_and(|after| after <= share);
        let is_little = holder.source.is_some_and(|source| fits(of(&self.by_source, Some(&source)), shares.little));
        let fit = fits(self.all, if is_little { shares.all } else { shares.contested })
            && (!is_server || fits(self.servers, shares.servers))
            && (!is_unproven || fits(self.unproven, shares.unproven))
            && (!is_unproven || fits(of(&self.unproven_by_source, holder.source.as_ref()), shares.unproven_source))
            // Without a source or an account there is nothing to compare: that fits wherever the whole does.
            && fits(of(&self.by_source, holder.source.as_ref()), shares.source)
            && fits(of(&self.by_account, holder.account.as_ref()), shares.account);
        if fit {
            self.all += bytes;
            self.servers += if is_server { bytes } else { 0 };
            self.unproven += if is_unproven { bytes } else { 0 };
            add(&mut self.by_source, holder.source.as_ref(), bytes);
            add(&mut self.unproven_by_source, holder.source.as_ref().filter(|_| is_unproven), bytes);
            add(&mut self.by_account, holder.account.as_ref(), bytes);
        }
        fit
    }

    fn remove(&mut self, holder: &Holder, bytes: usize) {
        let is_unproven = holder.sender == Sender::Unproven;
        self.all -= bytes;
        self.servers -= if holder.sender == Sender::Browser { 0 } else { bytes };
        self.unproven -= if is_unproven { bytes } else { 0 };
        remove(&mut self.by_source, holder.source.as_ref(), bytes);
        remove(&mut self.unproven_by_source, holder.source.as_ref().filter(|_| is_unproven), bytes);
        remove(&mut self.by_account, holder.account.as_ref(), bytes);
    }
}

fn of<K: Eq + Hash>(held: &HashMap<K, usize>, who: Option<&K>) -> usize {
    who.and_then(|who| held.get(who)).copied().unwrap_or_default()
}

fn add<K: Clone + Eq + Hash>(held: &mut HashMap<K, usize>, who: Option<&K>, bytes: usize) {
    if let Some(who) = who {
        *held.entry(who.clone()).or_default() += bytes;
    }
}

fn remove<K: Eq + Hash>(held: &mut HashMap<K, usize>, who: Option<&K>, bytes: usize) {
    let Some(who) = who else { return };
    if let Some(of_who) = held.get_mut(who) {
        *of_who -= bytes;
        if *of_who == 0 {
            held.remove(who);
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing)]
    use super::*;

    fn claim(memory: &Arc<BodyMemory>, source: u8, account: &str, sender: Sender) -> HeldBytes {
        memory.claim(Holder::new(Some([192, 0, 2, source].into()), Some(account.parse().unwrap()), sender))
    }

    #[test]
    fn memory_is_given_back_and_nobody_is_remembered() {
        let memory = Arc::new(BodyMemory::default());
        let shares = Shares::new(100, 100);
        let mut one = claim(&memory, 1, "shoes", Sender::Unproven);
        let mut two = claim(&memory, 2, "hats", Sender::Browser);
        assert!(one.grow(60, &shares) && !two.grow(60, &shares) && two.grow(40, &shares));
        drop(one);
        assert!(two.grow(60, &shares));
        assert!(!two.grow(usize::MAX, &Shares::new(usize::MAX, usize::MAX)));
        drop(two);
        let held = memory.0.lock().unwrap();
        assert_eq!((held.all, held.servers, held.unproven), (0, 0, 0));
        assert!(held.by_source.is_empty() && held.unproven_by_source.is_empty() && held.by_account.is_empty());
    }

    #[test]
    fn nobody_holds_more_than_a_share() {
        let shares = Shares::new(1_000, 10);
        let memory = Arc::new(BodyMemory::default());
        // Bodies of ten bytes from a source each, or all from one.
        let fill = |sources: u8, account: &str, sender: Sender| -> Vec<HeldBytes> {
            let bodies = (0..200).map(|n| claim(&memory, n % sources, account, sender));
            bodies.filter_map(|mut body| body.grow(10, &shares).then_some(body)).collect()
        };
        assert_eq!(fill(1, "shoes", Sender::Browser).len(), 25, "one source");
        assert_eq!(fill(1, "shoes", Sender::Unproven).len(), 12, "one source that has shown no key");
        assert_eq!(fill(200, "shoes", Sender::Unproven).len(), 25, "all that have shown no key");
        assert_eq!(fill(200, "shoes", Sender::Server).len(), 50, "one account");
        let shoes = fill(200, "shoes", Sender::Server);
        let hats = fill(200, "hats", Sender::Server);
        assert_eq!(shoes.len() + hats.len(), 75, "all servers");
        assert_eq!(fill(200, "caps", Sender::Browser).len(), 12, "the rest is the browsers', but for what is kept");
    }

    #[test]
    fn a_few_sources_keep_nobody_out() {
        let (memory, shares) = (Arc::new(BodyMemory::default()), Shares::new(256_000, 100));
        // Bodies of 100 bytes of one source, each for another account.
        let fill = |source: u8| -> Vec<HeldBytes> {
            let bodies = (0..2_000).map(|n| claim(&memory, source, &format!("a{n}"), Sender::Browser));
            bodies.filter_map(|mut body| body.grow(100, &shares).then_some(body)).collect()
        };
        let held: Vec<_> = (1..=20).map(fill).collect();
        let counts: Vec<_> = held.iter().map(Vec::len).collect();
        assert_eq!(counts[..4], [640, 640, 640, 320], "a quarter each, of all but an eighth");
        assert!(counts[4..].iter().all(|count| *count == 10), "who comes later finds a little: {counts:?}");
        let mut proxied = memory.claim(Holder::new(None, Some("caps".parse().unwrap()), Sender::Browser));
        assert!(!proxied.grow(100, &shares), "who holds how much behind it is not known");
        let mut visitor = claim(&memory, 200, "shoes", Sender::Browser);
        assert!(visitor.grow(1_000, &shares) && !visitor.grow(1, &shares));
    }

    #[test]
    fn a_share_has_room_for_one_body() {
        let shares = Shares::new(100, 80);
        assert_eq!(
            shares,
            Shares {
                all: 100,
                contested: 88,
                little: 0,
                source: 80,
                account: 80,
                servers: 80,
                unproven: 80,
                unproven_source: 80
            }
        );
        assert_eq!(Shares::new(100, 500).unproven_source, 100);
    }
}
