//! A map that is made anew from the one before: a change copies a few hundred entries and shares the rest.

use std::borrow::Borrow;
use std::collections::{HashMap, HashSet};
use std::hash::{BuildHasher, Hash, RandomState};
use std::sync::Arc;

/// Entries of one shard on average: what one change copies.
const SHARD_ENTRIES: usize = 200;
/// How much larger a map may become than it was made for before all of it is made anew.
const GROWTH_MAX: usize = 4;

/// A map in shards. Immutable; a clone shares them all.
#[derive(Clone)]
pub(super) struct Shards<K, V> {
    shards: Vec<Arc<HashMap<K, V>>>,
    hasher: RandomState,
    entries: usize,
}

// === impl Shards ===

impl<K: Clone + Eq + Hash, V: Clone> Shards<K, V> {
    /// The value of a key.
    pub(super) fn get<Q: Eq + Hash + ?Sized>(&self, key: &Q) -> Option<&V>
    where
        K: Borrow<Q>,
    {
        self.shards.get(self.shard_of(key))?.get(key)
    }

    /// The same map without `removed` and with `added`, in this order.
    pub(super) fn changed<'k>(
        &self,
        removed: impl IntoIterator<Item = &'k K>,
        added: impl IntoIterator<Item = (K, V)>,
    ) -> Self
    where
        K: 'k,
    {
        let mut next = self.clone();
        let mut touched = HashSet::new();
        for key in removed {
            let at = next.shard_of(key);
            if let Some(shard) = next.shards.get_mut(at) {
                touched.insert(at);
                next.entries -= usize::from(Arc::make_mut(shard).remove(key).is_some());
            }
        }
        for (key, value) in added {
            let at = next.shard_of(&key);
            if let Some(shard) = next.shards.get_mut(at) {
                touched.insert(at);
                next.entries += usize::from(Arc::make_mut(shard).insert(key, value).is_none());
            }
        }
        if next.entries > next.shards.len() * SHARD_ENTRIES * GROWTH_MAX {
            return next.iter().map(|(key, value)| (key.clone(), value.clone())).collect();
        }
        for at in touched {
            next.shards.get_mut(at).into_iter().for_each(|shard| Arc::make_mut(shard).shrink_to_fit());
        }
        next
    }

    fn iter(&self) -> impl Iterator<Item = (&K, &V)> {
        self.shards.iter().flat_map(|shard| shard.iter())
    }

    fn shard_of<Q: Hash + ?Sized>(&self, key: &Q) -> usize {
        // There is always at least one, and their number is a power of two.
        self.hasher.hash_one(key) as usize & (self.shards.len().max(1) - 1)
    }
}

impl<K: Clone + Eq + Hash, V: Clone> FromIterator<(K, V)> for Shards<K, V> {
    fn from_iter<I: IntoIterator<Item = (K, V)>>(entries: I) -> Self {
        let entries: Vec<_> = entries.into_iter().collect();
        let count = (entries.len() / SHARD_ENTRIES).max(1).next_power_of_two();
        let empty = Arc::new(HashMap::with_capacity(entries.len() / count));
        Self { shards: vec![empty; count], hasher: RandomState::new(), entries: 0 }.changed([], entries)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn it_is_a_map(changes in prop::collection::vec((prop::collection::vec(0..3_000u32, 0..20), prop::collection::vec(0..3_000u32, 0..600)), 1..8)) {
            let mut model: HashMap<u32, usize> = HashMap::new();
            let mut map: Shards<u32, usize> = Shards::from_iter([]);
            for (round, (removed, added)) in changes.iter().enumerate() {
                let before = (map.clone(), model.clone());
                map = map.changed(removed, added.iter().map(|key| (*key, round)));
                model.retain(|key, _| !removed.contains(key));
                model.extend(added.iter().map(|key| (*key, round)));
                prop_assert_eq!(map.entries, model.len());
                prop_assert_eq!(map.iter().map(|(key, value)| (*key, *value)).collect::<HashMap<_, _>>(), model.clone());
                for key in 0..3_000 {
                    prop_assert_eq!(map.get(&key), model.get(&key));
                    prop_assert_eq!(before.0.get(&key), before.1.get(&key));
                }
            }
        }
    }

    #[test]
    fn a_change_shares_what_it_does_not_touch() {
        let before: Shards<u32, u32> = (0..10_000).map(|key| (key, key)).collect();
        let after = before.changed(&[7], [(10_001, 1)]);
        let same = before.shards.iter().zip(&after.shards).filter(|(before, after)| Arc::ptr_eq(before, after)).count();
        assert!(before.shards.len() > 16 && same >= before.shards.len() - 2, "{same} of {}", before.shards.len());
        let grown = before.changed([], (20_000..80_000).map(|key| (key, key)));
        assert!(grown.shards.len() > before.shards.len());
    }
}
