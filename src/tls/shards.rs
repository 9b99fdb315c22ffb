//! Server names in shards: what a change copies is one of them, and cores share the work by them.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;

use crate::account::ServerName;
use crate::tls::entry::{ByOwner, Entry, Window};
use crate::tls::places::parent;
use crate::tls::problem::Summary;
use crate::tls::wildcards::Wildcards;

/// Names of one shard on average.
const SHARD_NAMES: usize = 200;

/// All names. Immutable in its shards: one that was made from another shares with it all shards that did not change.
#[derive(Clone)]
pub(super) struct Shards {
    shards: Vec<Shard>,
    hasher: RandomState,
}

/// Some names, and what they come to.
#[derive(Clone)]
pub(super) struct Shard {
    pub(super) names: Arc<HashMap<ServerName, Entry>>,
    pub(super) summary: Summary,
    /// When what was judged holds.
    pub(super) window: Window,
    /// Whether a name is to be looked at again soon.
    pub(super) unsettled: bool,
    /// Whether something of a name could not be read.
    pub(super) unread: bool,
}

// === impl Shards ===

impl Shards {
    /// Empty ones for about so many names.
    pub(super) fn for_names(count: usize) -> Self {
        let shards = (count / SHARD_NAMES).max(1).next_power_of_two();
        Self { shards: vec![Shard::default(); shards], hasher: RandomState::new() }
    }

    /// Whether so many names may lie in these, or had better be laid out anew.
    pub(super) fn fit(&self, count: usize) -> bool {
        let shards = (count / SHARD_NAMES).max(1).next_power_of_two();
        (self.shards.len() / 2..=self.shards.len() * 2).contains(&shards)
    }

    /// The same layout with other shards in it.
    pub(super) fn with(&self, shards: Vec<Shard>) -> Self {
        Self { shards, hasher: self.hasher.clone() }
    }

    /// Lays names out: those of each shard, each name once, in order.
    pub(super) fn lay_out<'n>(&self, names: &[&'n ServerName]) -> Vec<Vec<&'n ServerName>> {
        let mut lots = vec![Vec::with_capacity(names.len() / self.shards.len() + SHARD_NAMES / 10); self.shards.len()];
        for name in names {
            if let Some(lot) = lots.get_mut(self.shard_of(name.as_str())) {
                lot.push(*name);
            }
        }
        lots
    }

    pub(super) fn get(&self, name: &str) -> Option<&Entry> {
        self.shards.get(self.shard_of(name))?.names.get(name)
    }

    pub(super) fn all(&self) -> &[Shard] {
        &self.shards
    }

    /// The shard of a name, to be changed.
    pub(super) fn shard_mut(&mut self, at: usize) -> Option<&mut Shard> {
        self.shards.get_mut(at)
    }

    pub(super) fn shard_of(&self, name: &str) -> usize {
        self.hasher.hash_one(name) as usize % self.shards.len().max(1)
    }

    pub(super) fn entries(&self) -> impl Iterator<Item = (&ServerName, &Entry)> + Clone {
        self.shards.iter().flat_map(|shard| shard.names.iter())
    }
}

// === impl Shard ===

impl Default for Shard {
    fn default() -> Self {
        Self {
            names: Arc::default(),
            summary: Summary::default(),
            window: Window::ALL,
            unsettled: false,
            unread: false,
        }
    }
}

impl Shard {
    /// The shard with exactly these names, which are in order, as `judge` finds them, what it found of them before.
    pub(super) fn with_names(&self, names: &[&ServerName], judge: impl Fn(&ServerName) -> Entry) -> Self {
        let mut next = self.clone();
        if next.names.is_empty() {
            next.names = Arc::new(HashMap::with_capacity(names.len()));
        }
        for name in names {
            next.put(name, judge(name));
        }
        if next.names.len() > names.len() {
            Arc::make_mut(&mut next.names).retain(|name, _| names.binary_search(&name).is_ok());
        }
        next
    }

    /// Puts in what was found of a name. What says the same as before copies nothing.
    pub(super) fn put(&mut self, name: &ServerName, entry: Entry) {
        if self.names.get(name).is_none_or(|known| !known.is_same(&entry)) {
            Arc::make_mut(&mut self.names).insert(name.clone(), entry);
        }
    }

    /// Takes a name out, if it is in it.
    pub(super) fn remove(&mut self, name: &ServerName) {
        if self.names.contains_key(name) {
            Arc::make_mut(&mut self.names).remove(name);
        }
    }

    /// Judges names again by what is known of them.
    pub(super) fn rejudge(&mut self, which: impl Fn(&ServerName, &Entry) -> bool, wildcards: &Wildcards, now: i64) {
        let judged = |(name, entry): (&ServerName, &Entry)| {
            let again = Entry::judged(name, entry.exact.clone(), wildcard_of(wildcards, name), now);
            (!again.is_same(entry)).then(|| (name.clone(), again))
        };
        let which = self.names.iter().filter(|(name, entry)| which(name, entry));
        let other: Vec<_> = which.filter_map(judged).collect();
        other.into_iter().for_each(|(name, entry)| self.put(&name, entry));
    }

    /// After a change, or once its window has passed: judges again what time has changed, and counts what is in it.
    pub(super) fn settle(&mut self, wildcards: &Wildcards, now: i64) {
        if !self.window.has(now) {
            self.rejudge(|_, _| true, wildcards, now);
        }
        self.sum_up(wildcards, now);
    }

    /// Counts what is in it. All of it is judged as of now.
    pub(super) fn sum_up(&mut self, wildcards: &Wildcards, now: i64) {
        (self.summary, self.window) = (Summary::default(), Window::ALL);
        (self.unsettled, self.unread) = (false, false);
        for (name, entry) in self.names.iter() {
            let wildcard = wildcard_of(wildcards, name);
            self.summary.count(entry.served_until(wildcard), entry.told.map(|told| told.fault));
            entry.narrow(&mut self.window, wildcard, now);
            self.unsettled |= entry.is_unsettled();
            self.unread |= entry.is_unread();
        }
    }
}

/// The wildcard's folders for a name.
pub(super) fn wildcard_of<'w>(wildcards: &'w Wildcards, name: &ServerName) -> Option<&'w ByOwner> {
    wildcards.get(parent(name.as_str())?)
}
