//! Work on many items, on all cores: for starts and reloads, never on a request.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

/// Does work on all cores, each taking the next `piece` items when it is done with some: some take longer than others. The
/// results are in the order of the items.
pub(crate) fn map<T: Sync, R: Send>(items: &[T], piece: usize, work: impl Fn(&T) -> R + Sync) -> Vec<R> {
    let threads = if items.len() <= piece { 1 } else { cores().min(items.len().div_ceil(piece.max(1))) };
    if threads < 2 {
        return items.iter().map(work).collect();
    }
    let (next, work) = (AtomicUsize::new(0), &work);
    let take = || {
        let mut done = Vec::new();
        loop {
            let at = next.fetch_add(piece, Ordering::Relaxed);
            let Some(rest) = items.get(at..).filter(|rest| !rest.is_empty()) else {
                return done;
            };
            done.push((at, rest.iter().take(piece).map(work).collect::<Vec<_>>()));
        }
    };
    let mut parts: Vec<_> = thread::scope(|scope| {
        let threads: Vec<_> = (0..threads).map(|_| scope.spawn(take)).collect();
        let ended = |thread: thread::ScopedJoinHandle<'_, _>| {
            thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        };
        threads.into_iter().flat_map(ended).collect()
    });
    parts.sort_unstable_by_key(|(at, _)| *at);
    parts.into_iter().flat_map(|(_, part)| part).collect()
}

/// On how many threads it is done; not asked for little work, since it is answered from files.
pub(crate) fn cores() -> usize {
    thread::available_parallelism().map_or(1, usize::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_are_in_the_order_of_the_items() {
        for (count, piece) in [(0, 64), (1, 64), (64, 64), (65, 64), (640, 64), (5_000, 64), (7, 2), (3, 1)] {
            let items: Vec<usize> = (0..count).collect();
            let expected: Vec<usize> = items.iter().map(|item| item * 2).collect();
            assert_eq!(map(&items, piece, |item| item * 2), expected, "{count}");
        }
    }

    #[test]
    #[should_panic(expected = "at 700")]
    fn a_panic_is_the_callers() {
        let items: Vec<usize> = (0..1_000).collect();
        map(&items, 64, |item| assert_ne!(*item, 700, "at 700"));
    }
}
