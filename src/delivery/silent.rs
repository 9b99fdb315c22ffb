//! Lanes that do not send: what in them grows too old is dropped, and accounts that are gone are forgotten once nothing of
//! them is left.

use super::outcome::Fault;
use super::view::Permit;
use super::{Delivery, batch, report};
use crate::account::LaneKey;
use crate::outbox::LaneStatus;

// === impl Delivery ===

impl Delivery {
    /// Drops what grew too old in lanes that do not send; the others look when they do.
    pub(super) fn drop_expired(&mut self) {
        let (now_ms, age_max) = (self.clock.now_ms(), self.view.settings.age_max);
        let before_ms = now_ms.saturating_sub(i64::try_from(age_max.as_millis()).unwrap_or(i64::MAX));
        let does_not_send = |lane: &LaneStatus| {
            lane.oldest_accepted_ms.is_some_and(|oldest| oldest < before_ms)
                && (lane.paused.is_some() || !matches!(self.view.permit(&lane.lane), Permit::Send(..)))
        };
        let lanes: Vec<_> = self.outbox.lanes().into_iter().filter(does_not_send).map(|lane| lane.lane).collect();
        if lanes.is_empty() {
            return;
        }
        let (outbox, observer) = (self.outbox.clone(), self.observer.clone());
        self.chores.spawn_blocking(move || {
            for lane in lanes {
                let dropped = batch::drop_expired(&outbox, &lane, now_ms, before_ms, age_max);
                if dropped > 0 {
                    report::expired_unsent(&lane, dropped);
                    observer.dead(&lane, Fault::Expired.reason(), dropped);
                }
            }
        });
    }

    /// Forgets accounts that are not in the configuration any more and of which nothing is left in the outbox. The others are
    /// asked for again when the next configuration is published, and with what grew too old.
    pub(super) fn forget_gone(&mut self) {
        let (outbox, pixels) = (&self.outbox, &self.view.pixels);
        outbox.forget_accounts(|account| !pixels.has_account(account));
        let stays = |lane: &LaneKey| pixels.has_account(&lane.account) || outbox.has_lane(lane);
        self.senders.retain(|lane, _| stays(lane));
        self.parked.retain(stays);
        self.schedule.retain(stays);
    }
}
