//! Threads of one purpose, for work that reads or writes files and may have to wait for the disk.
//!
//! Tokio's blocking threads are for what is rare. It begins another one whenever none is idle at that moment, and wakes the
//! idle ones in turn, so that under steady work none of them ever ends: a busy machine went from 40 to 260, each with 0.3 MB
//! of the allocator's cache and of stack.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use tokio::runtime::Handle;
use tokio::sync::{Semaphore, oneshot};

/// So many threads, and a queue before them. They end with the last clone.
#[derive(Clone)]
pub(crate) struct Threads {
    queue: Sender<Work>,
    /// As many as there are threads.
    turns: Arc<Semaphore>,
}

type Work = Box<dyn FnOnce() + Send>;

// === impl Threads ===

impl Threads {
    /// Begins them.
    pub(crate) fn begin(name: &str, count: usize) -> io::Result<Self> {
        let (sender, queue) = channel::<Work>();
        let queue = Arc::new(Mutex::new(queue));
        for number in 0..count {
            let queue = queue.clone();
            thread::Builder::new().name(format!("{name}-{number}")).spawn(move || {
                while let Some(work) = next(&queue) {
                    // Whoever waits for it hears that it broke off; the thread goes on.
                    let _ = catch_unwind(AssertUnwindSafe(work));
                }
            })?;
        }
        Ok(Self { queue: sender, turns: Arc::new(Semaphore::new(count)) })
    }

    /// Does work on one of them when its turn comes. Who does not wait for that leaves nothing behind: what a disk that hangs
    /// is asked for piles up nowhere. `None` if it broke off.
    pub(crate) async fn run_in_turn<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> Option<T> {
        let turn = self.turns.clone().acquire_owned().await.ok()?;
        let work = move || {
            let _turn = turn;
            work()
        };
        self.run(work).await
    }

    /// Does work on one of them, also when nobody waits for it any more. It may use the runtime that waits. `None` if it
    /// broke off.
    pub(crate) async fn run<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> Option<T> {
        let (done, result) = oneshot::channel();
        let runtime = Handle::current();
        let work = move || {
            let _entered = runtime.enter();
            let _ = done.send(work());
        };
        self.queue.send(Box::new(work)).ok()?;
        result.await.ok()
    }
}

fn next(queue: &Mutex<Receiver<Work>>) -> Option<Work> {
    queue.lock().unwrap_or_else(PoisonError::into_inner).recv().ok()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic)]
    use std::sync::Barrier;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use tokio::task::JoinSet;

    use super::*;

    #[tokio::test(flavor = "multi_thread")]
    async fn as_many_work_at_one_time_as_there_are_threads_and_no_more() {
        let threads = Threads::begin("test", 3).unwrap();
        let (all, now, most) =
            (Arc::new(Barrier::new(3)), Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let mut works = JoinSet::new();
        for number in 0..30 {
            let (threads, all, now, most) = (threads.clone(), all.clone(), now.clone(), most.clone());
            works.spawn(async move {
                let work = move || {
                    most.fetch_max(now.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                    all.wait();
                    now.fetch_sub(1, Ordering::SeqCst);
                    number
                };
                threads.run(work).await
            });
        }
        let mut done: Vec<usize> = works.join_all().await.into_iter().map(Option::unwrap).collect();
        done.sort_unstable();
        assert_eq!((done, most.load(Ordering::SeqCst)), ((0..30).collect(), 3));
    }

    #[tokio::test]
    async fn work_that_waits_for_its_turn_is_forgotten_with_who_waits_for_it() {
        let threads = Threads::begin("test", 1).unwrap();
        let (held, done) = (Arc::new(Barrier::new(2)), Arc::new(AtomicUsize::new(0)));
        let holding = tokio::spawn({
            let (threads, held) = (threads.clone(), held.clone());
            async move { threads.run_in_turn(move || held.wait()).await }
        });
        tokio::task::yield_now().await;
        let count = |done: &Arc<AtomicUsize>| {
            let done = done.clone();
            move || done.fetch_add(1, Ordering::SeqCst)
        };
        for _ in 0..100 {
            tokio::select! {
                biased;
                _ = threads.run_in_turn(count(&done)) => panic!("there is no turn"),
                () = std::future::ready(()) => {}
            }
        }
        held.wait();
        assert!(holding.await.unwrap().is_some());
        assert_eq!(threads.run_in_turn(count(&done)).await, Some(0), "none of the hundred was done before");
    }

    #[tokio::test]
    async fn work_that_panics_is_told_and_the_thread_goes_on() {
        let threads = Threads::begin("test", 1).unwrap();
        assert_eq!(threads.run(|| -> u8 { panic!("as it should") }).await, None);
        assert_eq!(threads.run(|| Handle::current().block_on(async { 7 })).await, Some(7));
    }
}
