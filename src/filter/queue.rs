//! Whose turn it is: a queue that is fair over accounts by the time their filters take, not by how much they send.
//!
//! Start-time fair queueing (Goyal, Vin, Cheng, SIGCOMM 1996) with every account of equal weight: each has a clock that
//! runs while one of its jobs holds a thread, and the account whose clock is furthest behind is next. One that was away
//! begins at the present clock, so that nobody saves up turns. Before that, who holds fewer threads is served first,
//! and nobody holds the last free thread beside its others: one account can never stand in the way of all.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::time::{Duration, Instant};

use crate::account::AccountId;

/// Jobs of one account that may wait at one time.
const WAITING_PER_ACCOUNT_MAX: usize = 1_024;
/// Idle accounts whose clock is remembered before the first sweep.
const REMEMBERED_MIN: usize = 64;

/// Jobs that wait for a thread.
pub(super) struct FairQueue<T> {
    /// Threads that one account may hold at one time.
    threads_per_account_max: usize,
    /// How long a job may wait.
    wait_max: Duration,
    flows: HashMap<AccountId, Flow<T>>,
    /// Accounts with a job that waits, the next one first.
    ready: BTreeSet<Turn>,
    /// Every job in the order it came, to find those that waited too long. May name jobs that are gone.
    arrivals: VecDeque<(Instant, AccountId)>,
    /// The present: the clock of the account that was served last.
    clock: u64,
    /// The clock that is furthest ahead.
    latest: u64,
    /// Threads that are held.
    running: usize,
    sweep_at: usize,
}

/// One account's jobs and its clock.
struct Flow<T> {
    waiting: VecDeque<(Instant, T)>,
    /// Threads it holds.
    running: usize,
    /// Its clock: nanoseconds of threads.
    clock: u64,
}

/// The order in which accounts are served.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Turn {
    running: usize,
    clock: u64,
    account: AccountId,
}

// === impl FairQueue ===

impl<T> FairQueue<T> {
    /// For so many threads. A job that waited for `wait_max` is given up.
    pub(super) fn new(threads: usize, wait_max: Duration) -> Self {
        Self {
            threads_per_account_max: threads.saturating_sub(1).max(1),
            wait_max,
            flows: HashMap::new(),
            ready: BTreeSet::new(),
            arrivals: VecDeque::new(),
            clock: 0,
            latest: 0,
            running: 0,
            sweep_at: REMEMBERED_MIN,
        }
    }

    /// Takes a job in; gives it back if too many of the account's wait already.
    pub(super) fn put(&mut self, account: &AccountId, job: T, now: Instant) -> Result<(), T> {
        let flow = self.flows.entry(account.clone()).or_insert_with(|| Flow {
            waiting: VecDeque::new(),
            running: 0,
            clock: 0,
        });
        if flow.waiting.len() >= WAITING_PER_ACCOUNT_MAX {
            return Err(job);
        }
        if flow.waiting.is_empty() {
            if flow.running == 0 {
                flow.clock = flow.clock.max(self.clock);
            }
            self.ready.insert(flow.turn(account));
        }
        flow.waiting.push_back((now, job));
        self.arrivals.push_back((now, account.clone()));
        Ok(())
    }

    /// The next job that may begin. Its end is told by [`FairQueue::ended`].
    pub(super) fn take(&mut self) -> Option<(AccountId, T)> {
        let turn = self.ready.first().filter(|turn| turn.running < self.threads_per_account_max)?.clone();
        self.ready.remove(&turn);
        let flow = self.flows.get_mut(&turn.account)?;
        let (_, job) = flow.waiting.pop_front()?;
        flow.running += 1;
        self.running += 1;
        self.clock = self.clock.max(flow.clock);
        if !flow.waiting.is_empty() {
            self.ready.insert(flow.turn(&turn.account));
        }
        Some((turn.account, job))
    }

    /// A job of this account left its thread after `took`.
    pub(super) fn ended(&mut self, account: &AccountId, took: Duration) {
        if let Some(flow) = self.flows.get_mut(account) {
            let waits = self.ready.remove(&flow.turn(account));
            flow.running = flow.running.saturating_sub(1);
            flow.clock = flow.clock.saturating_add(u64::try_from(took.as_nanos()).unwrap_or(u64::MAX));
            self.latest = self.latest.max(flow.clock);
            self.running = self.running.saturating_sub(1);
            if waits {
                self.ready.insert(flow.turn(account));
            }
        }
        if self.running == 0 && self.ready.is_empty() {
            // Nobody had to wait for what was used so far: nobody owes anything for it.
            self.clock = self.latest;
        }
        self.sweep();
    }

    /// The jobs that waited too long.
    pub(super) fn overdue(&mut self, now: Instant) -> Vec<T> {
        let mut overdue = Vec::new();
        while let Some((since, account)) = self.arrivals.pop_front_if(|(since, _)| *since + self.wait_max <= now) {
            let Some(flow) = self.flows.get_mut(&account) else { continue };
            if flow.waiting.front().is_none_or(|(first, _)| *first > since) {
                continue;
            }
            overdue.extend(flow.waiting.pop_front().map(|(_, job)| job));
            if flow.waiting.is_empty() {
                let turn = flow.turn(&account);
                self.ready.remove(&turn);
            }
        }
        overdue
    }

    /// When the next job will have waited too long.
    pub(super) fn next_overdue(&self) -> Option<Instant> {
        self.arrivals.front().map(|(since, _)| *since + self.wait_max)
    }

    /// Whether a job of another account waits.
    pub(super) fn others_wait(&self, account: &AccountId) -> bool {
        self.ready.iter().take(2).any(|turn| turn.account != *account)
    }

    /// Whether no job waits.
    pub(super) fn is_empty(&self) -> bool {
        self.ready.is_empty()
    }

    /// Forgets accounts that have nothing here and whose clock is not ahead: they would begin at the present anyway.
    fn sweep(&mut self) {
        if self.flows.len() < self.sweep_at {
            return;
        }
        let present = self.clock;
        self.flows.retain(|_, flow| flow.running > 0 || !flow.waiting.is_empty() || flow.clock > present);
        self.sweep_at = REMEMBERED_MIN.max(self.flows.len() * 2);
    }
}

// === impl Flow ===

impl<T> Flow<T> {
    fn turn(&self, account: &AccountId) -> Turn {
        Turn { running: self.running, clock: self.clock, account: account.clone() }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    fn id(text: &str) -> AccountId {
        text.parse().unwrap()
    }

    fn queue(threads: usize) -> FairQueue<&'static str> {
        FairQueue::new(threads, 50 * MS)
    }

    #[test]
    fn who_took_little_goes_before_who_took_much() {
        let (mut queue, now, slow, quick) = (queue(1), Instant::now(), id("slow"), id("quick"));
        let mut served = Vec::new();
        for _ in 0..100 {
            queue.put(&slow, "slow", now).unwrap();
            queue.put(&quick, "quick", now).unwrap();
        }
        for _ in 0..60 {
            let (account, job) = queue.take().unwrap();
            queue.ended(&account, if job == "slow" { 10 * MS } else { MS });
            served.push(job);
        }
        let slow = served.iter().filter(|job| **job == "slow").count();
        assert!((5..=7).contains(&slow), "{slow} of 60");
    }

    #[test]
    fn one_account_never_holds_the_last_thread() {
        let (mut queue, now, greedy, other) = (queue(3), Instant::now(), id("greedy"), id("other"));
        (0..5).for_each(|_| queue.put(&greedy, "greedy", now).unwrap());
        assert!(queue.take().is_some() && queue.take().is_some());
        assert!(queue.take().is_none());
        assert!(!queue.others_wait(&greedy));
        queue.put(&other, "other", now).unwrap();
        assert!(queue.others_wait(&greedy));
        assert_eq!(queue.take().unwrap().1, "other");
        queue.ended(&greedy, MS);
        assert_eq!(queue.take().unwrap().1, "greedy");
    }

    #[test]
    fn with_one_thread_everyone_may_still_run() {
        let mut queue = queue(1);
        queue.put(&id("only"), "job", Instant::now()).unwrap();
        assert!(queue.take().is_some());
    }

    #[test]
    fn a_second_thread_goes_to_another_account_first() {
        let (mut queue, now, a, b) = (queue(4), Instant::now(), id("a"), id("b"));
        (0..3).for_each(|_| queue.put(&a, "a", now).unwrap());
        assert_eq!(queue.take().unwrap().1, "a");
        queue.put(&b, "b", now).unwrap();
        queue.take().unwrap();
        queue.ended(&b, 100 * MS);
        queue.put(&b, "b", now).unwrap();
        assert_eq!(queue.take().unwrap().1, "b", "although its clock is far ahead");
    }

    #[test]
    fn nobody_saves_up_turns_while_away() {
        let (mut queue, now, busy, back) = (queue(1), Instant::now(), id("busy"), id("back"));
        for _ in 0..10 {
            queue.put(&busy, "busy", now).unwrap();
            queue.take().unwrap();
            queue.ended(&busy, 10 * MS);
        }
        for _ in 0..20 {
            queue.put(&back, "back", now).unwrap();
            queue.put(&busy, "busy", now).unwrap();
        }
        let mut served = Vec::new();
        for _ in 0..10 {
            let (account, job) = queue.take().unwrap();
            queue.ended(&account, 10 * MS);
            served.push(job);
        }
        assert!(served.iter().filter(|job| **job == "busy").count() >= 4, "{served:?}");
    }

    #[test]
    fn who_waits_too_long_is_given_up_in_order() {
        let (mut queue, now, a, b) = (queue(1), Instant::now(), id("a"), id("b"));
        queue.put(&a, "a1", now).unwrap();
        queue.put(&b, "b1", now + 10 * MS).unwrap();
        queue.put(&a, "a2", now + 20 * MS).unwrap();
        assert_eq!(queue.take().unwrap().1, "a1");
        assert_eq!(queue.next_overdue(), Some(now + 50 * MS));
        assert!(queue.overdue(now + 59 * MS).is_empty());
        assert_eq!(queue.overdue(now + 60 * MS), ["b1"]);
        assert_eq!(queue.overdue(now + 70 * MS), ["a2"]);
        assert!(queue.is_empty() && queue.next_overdue().is_none());
    }

    #[test]
    fn the_queue_of_one_account_ends() {
        let (mut queue, now, a) = (queue(1), Instant::now(), id("a"));
        (0..WAITING_PER_ACCOUNT_MAX).for_each(|_| queue.put(&a, "job", now).unwrap());
        assert_eq!(queue.put(&a, "one more", now), Err("one more"));
        assert!(queue.put(&id("b"), "job", now).is_ok());
    }

    #[test]
    fn accounts_that_left_are_forgotten() {
        let (mut queue, now) = (queue(1), Instant::now());
        for n in 0..10_000 {
            let account = id(&format!("a{n}"));
            queue.put(&account, "job", now).unwrap();
            queue.take().unwrap();
            queue.ended(&account, MS);
            queue.overdue(now + 50 * MS);
        }
        assert!(queue.flows.len() < 500, "{}", queue.flows.len());
    }
}
