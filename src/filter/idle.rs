//! Instances that wait for their filter's next call: few of each filter, the longest unused given up first.

use std::collections::{BTreeMap, HashMap};
use std::time::{Duration, Instant};

/// Instances of one filter that are kept.
const PER_FILTER_MAX: usize = 2;
/// How long an unused instance is kept.
const UNUSED_MAX: Duration = Duration::from_secs(60);
/// Linear memory of all instances that are kept. Most of it was never touched, so the process holds far less.
const BYTES_MAX: usize = 512 << 20;

/// The idle instances of all filters. What leaves it is handed to the caller, who drops it without the lock.
pub(super) struct Idle<T> {
    entries_max: usize,
    bytes: usize,
    /// By the order of their last use.
    entries: BTreeMap<u64, Entry<T>>,
    /// Each filter's entries, the last used last.
    filters: HashMap<u64, Vec<u64>>,
    next: u64,
}

struct Entry<T> {
    filter: u64,
    since: Instant,
    bytes: usize,
    instance: T,
}

// === impl Idle ===

impl<T> Idle<T> {
    /// Keeps at most `entries_max` instances.
    pub(super) fn new(entries_max: usize) -> Self {
        Self { entries_max, bytes: 0, entries: BTreeMap::new(), filters: HashMap::new(), next: 0 }
    }

    /// Takes the last used instance of a filter.
    pub(super) fn take(&mut self, filter: u64) -> Option<T> {
        let newest = *self.filters.get(&filter)?.last()?;
        self.remove(newest)
    }

    /// Keeps an instance of a filter with this much memory; gives back what has to go for it.
    #[must_use]
    pub(super) fn put(&mut self, filter: u64, instance: T, bytes: usize, now: Instant) -> Vec<T> {
        let key = self.next;
        self.next += 1;
        self.bytes += bytes;
        self.entries.insert(key, Entry { filter, since: now, bytes, instance });
        let of_filter = self.filters.entry(filter).or_default();
        of_filter.push(key);
        let too_many = of_filter.len() > PER_FILTER_MAX;
        let oldest = of_filter.first().copied().filter(|_| too_many);
        let mut gone: Vec<T> = oldest.and_then(|oldest| self.remove(oldest)).into_iter().collect();
        gone.extend(self.expire(now));
        while self.entries.len() > self.entries_max || self.bytes > BYTES_MAX {
            let Some(instance) = self.take_oldest() else { break };
            gone.push(instance);
        }
        gone
    }

    /// Gives up the longest unused instance of all.
    pub(super) fn take_oldest(&mut self) -> Option<T> {
        let oldest = *self.entries.first_key_value()?.0;
        self.remove(oldest)
    }

    /// Gives up what was not used for a minute.
    #[must_use]
    pub(super) fn expire(&mut self, now: Instant) -> Vec<T> {
        let mut gone = Vec::new();
        while self.entries.first_key_value().is_some_and(|(_, entry)| entry.since + UNUSED_MAX <= now) {
            gone.extend(self.take_oldest());
        }
        gone
    }

    /// Gives up all instances of a filter.
    #[must_use]
    pub(super) fn remove_filter(&mut self, filter: u64) -> Vec<T> {
        std::iter::from_fn(|| self.take(filter)).collect()
    }

    fn remove(&mut self, key: u64) -> Option<T> {
        let entry = self.entries.remove(&key)?;
        self.bytes -= entry.bytes;
        if let Some(of_filter) = self.filters.get_mut(&entry.filter) {
            of_filter.retain(|other| *other != key);
            if of_filter.is_empty() {
                self.filters.remove(&entry.filter);
            }
        }
        Some(entry.instance)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_used_instance_is_taken_first_and_two_of_a_filter_are_kept() {
        let (mut idle, now) = (Idle::new(10), Instant::now());
        assert!(idle.put(1, "a", 1, now).is_empty());
        assert!(idle.put(1, "b", 1, now).is_empty());
        assert_eq!(idle.put(1, "c", 1, now), ["a"]);
        assert_eq!((idle.take(1), idle.take(1), idle.take(1)), (Some("c"), Some("b"), None));
        assert!(idle.filters.is_empty() && idle.bytes == 0);
    }

    #[test]
    fn the_longest_unused_goes_when_there_are_too_many_or_too_much() {
        let (mut idle, now) = (Idle::new(2), Instant::now());
        assert!(idle.put(1, "a", 1, now).is_empty() && idle.put(2, "b", 1, now).is_empty());
        assert_eq!(idle.put(3, "c", 1, now), ["a"]);
        assert_eq!(idle.put(4, "d", BYTES_MAX, now), ["b", "c"]);
        assert_eq!(idle.take(4), Some("d"));
    }

    #[test]
    fn what_is_unused_for_a_minute_goes() {
        let (mut idle, now) = (Idle::new(10), Instant::now());
        assert!(idle.put(1, "a", 1, now).is_empty());
        assert!(idle.put(2, "b", 1, now + Duration::from_secs(1)).is_empty());
        assert_eq!(idle.expire(now + UNUSED_MAX), ["a"]);
        assert_eq!(idle.remove_filter(2), ["b"]);
    }
}
