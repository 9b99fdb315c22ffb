//! A store of other names, or of the same ones looked at again.

use std::collections::{BTreeSet, HashSet};

use super::{CertStore, PIECE, rest};
use crate::account::ServerName;
use crate::parallel;
use crate::tls::entry::{Entry, ParentTag};
use crate::tls::places::{DirectoryProblem, Identity, Origin, parent};
use crate::tls::reader::Reader;
use crate::tls::shards::{Shard, wildcard_of};

impl CertStore {
    /// The same store without the names that are `gone` and with those that are `new`, whose files are looked at; a name
    /// may be both. All others are as they were. Blocks, on all cores.
    pub fn changed(&self, gone: &[ServerName], new: &[ServerName], now: i64) -> Self {
        let new: BTreeSet<&ServerName> = new.iter().collect();
        let gone: BTreeSet<&ServerName> = gone.iter().filter(|name| !new.contains(name)).collect();
        let names = self.names.entries().map(|(name, _)| name);
        if !self.names.fit(names.clone().count() + new.len()) {
            let kept = names.filter(|name| !gone.contains(name) && !new.contains(name));
            return Self::load(&self.folders, kept.chain(new.iter().copied()), Some(self), now);
        }
        let parents = new.iter().filter_map(|name| parent(name.as_str())).collect();
        let mut next = self.looked_at(&new.into_iter().collect::<Vec<_>>(), &parents, now);
        for name in gone {
            let at = next.names.shard_of(name.as_str());
            if let Some(shard) = next.names.shard_mut(at) {
                shard.remove(name);
                shard.settle(&next.wildcards, now);
            }
        }
        next
    }

    /// The same store, with the files of all names looked at again. Blocks, on all cores.
    pub fn looked_through(&self, now: i64) -> Self {
        Self::load(&self.folders, self.names.entries().map(|(name, _)| name), Some(self), now)
    }

    /// The same store, with these names' files looked at again. Names that it does not have are left out; other names
    /// below a wildcard that changed are judged again too.
    pub fn refreshed(&self, names: &[ServerName], now: i64) -> Self {
        let names: BTreeSet<&ServerName> =
            names.iter().filter(|name| self.names.get(name.as_str()).is_some()).collect();
        let parents = names.iter().filter_map(|name| parent(name.as_str())).collect();
        self.looked_at(&names.into_iter().collect::<Vec<_>>(), &parents, now)
    }

    /// Whether the passing of time alone makes something to do: see [`CertStore::tended`]. Cheap.
    pub fn is_due(&self, now: i64) -> bool {
        let due = |shard: &Shard| shard.unsettled || !shard.window.has(now);
        !self.wildcards.unsettled().is_empty() || self.names.all().iter().any(due) || self.tries_again(now)
    }

    /// Whether another directory is there now than was when nothing was found for any name: a volume that is mounted late.
    fn came_late(&self) -> bool {
        self.home.is_none() && Identity::of(&self.folders.certs_dir).is_some_and(|now| self.seen != Some(now))
    }

    /// Whether it is time to look again at what could not be read, or was not there.
    fn tries_again(&self, now: i64) -> bool {
        let is_unlisted = || self.directories.iter().any(DirectoryProblem::is_unlisted);
        let is_any = || !self.wildcards.unread().is_empty() || is_unlisted() || self.came_late();
        !self.rest.has(now) && (is_any() || self.names.all().iter().any(|shard| shard.unread))
    }

    /// The same store as of now: certificates that expired are no longer served, those that became valid are, what was
    /// read while it was being written is looked at once more, and what could not be read is each minute.
    pub fn tended(&self, now: i64) -> Self {
        let again = self.tries_again(now);
        let is_other = || self.folders.list(self.home).problems(&self.folders) != *self.directories;
        if again && (self.came_late() || is_other()) {
            return self.looked_through(now);
        }
        let shards = self.names.all().iter().filter(|shard| shard.unsettled || again && shard.unread);
        let is_due = |entry: &Entry| entry.is_unsettled() || again && entry.is_unread();
        let due = shards.flat_map(|shard| shard.names.iter()).filter(|(_, entry)| is_due(entry));
        let names: Vec<_> = due.map(|(name, _)| name).collect();
        let unread = self.wildcards.unread().iter().filter(|_| again);
        let parents = self.wildcards.unsettled().iter().chain(unread).map(|parent| &**parent).collect();
        let mut next = self.looked_at(&names, &parents, now);
        if again {
            next.rest = rest(now);
        }
        for at in 0..next.names.all().len() {
            if let Some(shard) = next.names.shard_mut(at).filter(|shard| !shard.window.has(now)) {
                shard.settle(&next.wildcards, now);
            }
        }
        next
    }

    /// The same store, with the files of these names, and of the wildcards for the names below these, looked at again.
    fn looked_at(&self, names: &[&ServerName], parents: &BTreeSet<&str>, now: i64) -> Self {
        let mut next = self.clone();
        let reader = Reader::new(&self.folders, self.home, self.pool.as_deref(), now);
        let look = |origin: Origin, key: &str| reader.read_again(origin, key, self.folder(origin, key));
        let mut changed = HashSet::new();
        for origin in [Origin::OperatorWildcard, Origin::IssuedWildcard] {
            for parent in parents {
                if next.wildcards.set(origin, parent, look(origin, parent)) {
                    changed.insert(*parent);
                }
            }
        }
        let wildcards = &next.wildcards;
        let judge = |name: &&ServerName| {
            let exact = [Origin::Operator, Origin::Issued].map(|origin| look(origin, name.as_str()));
            Entry::judged(name, reader.candidates(name, exact), wildcard_of(wildcards, name), now)
        };
        let mut touched = BTreeSet::new();
        for (name, entry) in names.iter().zip(parallel::map(names, PIECE, judge)) {
            let at = next.names.shard_of(name.as_str());
            touched.insert(at);
            if let Some(shard) = next.names.shard_mut(at) {
                shard.put(name, entry);
            }
        }
        if !changed.is_empty() {
            touched.extend(next.rejudge_below(&changed, now));
        }
        for at in touched {
            next.names.shard_mut(at).into_iter().for_each(|shard| shard.settle(&next.wildcards, now));
        }
        next.learn(&reader);
        next
    }

    /// Judges all names below wildcards that changed; where they are.
    fn rejudge_below(&mut self, changed: &HashSet<&str>, now: i64) -> Vec<usize> {
        let tags: BTreeSet<ParentTag> = changed.iter().map(|parent| ParentTag::of(parent)).collect();
        let is_below = |name: &ServerName, entry: &Entry| {
            tags.contains(&entry.parent) && parent(name.as_str()).is_some_and(|parent| changed.contains(parent))
        };
        let mut touched = Vec::new();
        for at in 0..self.names.all().len() {
            let Some(shard) = self.names.shard_mut(at) else { continue };
            if shard.names.iter().any(|(name, entry)| is_below(name, entry)) {
                shard.rejudge(is_below, &self.wildcards, now);
                touched.push(at);
            }
        }
        touched
    }
}
