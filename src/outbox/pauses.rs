//! Lanes that do not send: pauses, of a lane or of a whole account, and waits. What is kept of them over a restart.

use std::collections::HashMap;

use tokio::sync::oneshot;

use super::index::Index;
use super::keeper::Task;
use super::lane::{LaneNo, LaneState};
use super::{Outbox, Pause, PausedBy, Unavailable, locked};
use crate::account::{AccountId, LaneKey, PixelId};

// === impl Outbox ===

impl Outbox {
    /// Whether a lane may send now: it is not paused and need not wait. For what of it is leased already.
    pub fn may_send(&self, lane: &LaneKey, now_ms: i64) -> bool {
        locked(&self.inner.shared.index).may_send(lane, now_ms)
    }

    /// Leases nothing of a lane before a time, Unix milliseconds, or a later one that was said before. If `failed`, it counts
    /// towards [`LaneStatus::failures`].
    pub fn hold_off(&self, lane: &LaneKey, not_before_ms: i64, failed: bool) {
        self.change(lane, |state| {
            state.failures = state.failures.saturating_add(u32::from(failed));
            state.not_before_ms = state.not_before_ms.max(not_before_ms);
        });
    }

    /// Changes the times that lanes wait for, Unix milliseconds: the wall clock they are in was set.
    pub fn move_waits(&self, to: impl Fn(i64) -> i64) {
        locked(&self.inner.shared.index).move_waits(to);
        self.inner.shared.changed.notify_one();
    }

    /// Holds a lane: nothing is leased until it is resumed, events are still accepted. Holds at once; durable when it
    /// returns. A person's pause is not replaced by delivery's, and a lane that is new to the account begins with it.
    pub async fn pause(&self, lane: &LaneKey, reason: &str, by: PausedBy, now_ms: i64) -> Result<(), Unavailable> {
        let pause = Pause { reason: reason.to_owned(), by, since_ms: now_ms };
        {
            let mut index = locked(&self.inner.shared.index);
            let number = index.number(lane);
            index.pause(number, &pause);
        }
        self.save().await
    }

    /// Lets a lane send again, at once. Delivery ends only its own pauses, a person any. Durable when it returns.
    pub async fn resume(&self, lane: &LaneKey, by: PausedBy) -> Result<(), Unavailable> {
        let number = {
            let mut index = locked(&self.inner.shared.index);
            let number = index.number(lane);
            index.resume(number, by);
            number
        };
        self.inner.shared.list(number);
        self.save().await
    }

    /// Holds all lanes of an account for a person: those that there are, those of `pixels`, and those that come later, with
    /// no moment in between. Holds at once; durable when it returns, if there is a lane.
    pub async fn pause_account(
        &self,
        account: &AccountId,
        pixels: &[PixelId],
        reason: &str,
        now_ms: i64,
    ) -> Result<(), Unavailable> {
        let pause = Pause { reason: reason.to_owned(), by: PausedBy::Operator, since_ms: now_ms };
        {
            let mut index = locked(&self.inner.shared.index);
            for &pixel in pixels {
                index.number(&LaneKey { account: account.clone(), pixel });
            }
            index.held.insert(account.clone(), pause.clone());
            for number in index.numbers_of(account) {
                index.pause(number, &pause);
            }
        }
        self.save().await
    }

    /// Lets all lanes of an account send again, at once, whoever paused them. Durable when it returns.
    pub async fn resume_account(&self, account: &AccountId) -> Result<(), Unavailable> {
        let numbers = {
            let mut index = locked(&self.inner.shared.index);
            index.held.remove(account);
            let numbers = index.numbers_of(account);
            for &number in &numbers {
                index.resume(number, PausedBy::Operator);
            }
            numbers
        };
        numbers.into_iter().for_each(|number| self.inner.shared.list(number));
        self.save().await
    }

    /// The accounts that a person holds: a lane that is new to one begins paused.
    pub fn held_accounts(&self) -> HashMap<AccountId, Pause> {
        locked(&self.inner.shared.index).held.clone()
    }

    /// Changes what is kept of a lane, in memory; the lock ends before anything is awaited.
    fn change(&self, lane: &LaneKey, change: impl FnOnce(&mut LaneState)) -> LaneNo {
        let mut index = locked(&self.inner.shared.index);
        let number = index.number(lane);
        index.change_state(number, change);
        number
    }

    async fn save(&self) -> Result<(), Unavailable> {
        let (reply, answer) = oneshot::channel();
        self.inner.ask_keeper(Task::Save { reply });
        answer.await.unwrap_or_else(|_| Err(Unavailable { reason: "it is closed".into() }))
    }
}

// === impl Index ===

impl Index {
    /// Whether a lane is not paused and need not wait.
    pub(crate) fn may_send(&self, key: &LaneKey, now_ms: i64) -> bool {
        let lane = self.numbers.get(key).and_then(|number| self.lanes.get(number));
        lane.is_some_and(|lane| lane.state.paused.is_none() && lane.state.not_before_ms <= now_ms)
    }

    /// Changes the times that lanes wait for.
    pub(crate) fn move_waits(&mut self, to: impl Fn(i64) -> i64) {
        for lane in self.lanes.values_mut() {
            lane.aside_until_ms = to(lane.aside_until_ms);
        }
        for lane in self.lanes.values_mut().filter(|lane| lane.state.not_before_ms > 0) {
            lane.state.not_before_ms = to(lane.state.not_before_ms).max(1);
            lane.changed = true;
        }
        self.list_all();
    }

    /// Pauses a lane; a person's pause is not replaced by delivery's.
    fn pause(&mut self, number: LaneNo, pause: &Pause) {
        let Some(lane) = self.lane_mut(number) else { return };
        let kept = lane.state.paused.as_ref().is_some_and(|pause| pause.by == PausedBy::Operator);
        if !kept || pause.by == PausedBy::Operator {
            lane.state.paused = Some(pause.clone());
            lane.changed = true;
        }
        if pause.by == PausedBy::Operator {
            let account = lane.key.account.clone();
            self.held.insert(account, pause.clone());
        }
    }

    /// Ends a lane's pause, if it is one that may be ended so.
    fn resume(&mut self, number: LaneNo, by: PausedBy) {
        let Some(lane) = self.lane_mut(number) else { return };
        if lane.state.paused.as_ref().is_some_and(|pause| by == PausedBy::Operator || by == pause.by) {
            (lane.state.paused, lane.state.not_before_ms, lane.state.failures) = (None, 0, 0);
            lane.changed = true;
        }
        if by == PausedBy::Operator {
            let account = lane.key.account.clone();
            self.held.remove(&account);
        }
    }

    /// The lanes of an account.
    fn numbers_of(&self, account: &AccountId) -> Vec<LaneNo> {
        let lanes = self.numbers.iter().filter(|(key, _)| key.account == *account);
        lanes.map(|(_, number)| *number).collect()
    }

    /// Changes what is kept of a lane over a restart.
    pub(crate) fn change_state(&mut self, number: LaneNo, change: impl FnOnce(&mut LaneState)) {
        let Some(lane) = self.lane_mut(number) else { return };
        change(&mut lane.state);
        lane.changed = true;
    }

    /// Sets what was kept of lanes. Lanes of a held account of which nothing was kept are new: they are held too.
    pub(crate) fn restore_states(&mut self, states: Vec<(LaneKey, LaneState)>) {
        for (key, state) in states {
            if let Some(pause) = state.paused.as_ref().filter(|pause| pause.by == PausedBy::Operator) {
                self.held.insert(key.account.clone(), pause.clone());
            }
            let number = self.number(&key);
            if let Some(lane) = self.lane_mut(number) {
                lane.state = state;
            }
        }
        for lane in self.lanes.values_mut().filter(|lane| lane.state.paused.is_none()) {
            lane.state.paused = self.held.get(&lane.key.account).cloned();
            lane.changed |= lane.state.paused.is_some();
        }
    }

    /// Since the last call: the lanes that were forgotten, and what changed of the others.
    pub(crate) fn take_changes(&mut self) -> (Vec<LaneKey>, Vec<(LaneKey, LaneState)>) {
        let changed = self.lanes.values_mut().filter(|lane| lane.changed);
        let changed = changed.map(|lane| {
            lane.changed = false;
            (lane.key.clone(), lane.state.clone())
        });
        let changed = changed.collect();
        (std::mem::take(&mut self.forgotten), changed)
    }

    /// What [`Index::take_changes`] gave could not be kept.
    pub(crate) fn changed_again(&mut self, lanes: &[(LaneKey, LaneState)]) {
        for (key, _) in lanes {
            // One that was forgotten meanwhile has nothing to keep.
            if let Some(lane) = self.numbers.get(key).and_then(|number| self.lanes.get_mut(number)) {
                lane.changed = true;
            }
        }
    }
}
