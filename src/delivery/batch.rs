//! A leased batch and what of it may be sent: Meta refuses a whole request for one event that is too old, so age is
//! judged when a batch is built.

use std::ops::Range;
use std::time::Duration;

use bytes::Bytes;

use super::graph::{document, is_physical_store};
use crate::account::LaneKey;
use crate::outbox::{Lease, Leased, Outbox, Sent, Settlement};

/// How long Meta takes a shop's uploads ("Using the API").
const PHYSICAL_STORE_AGE_MAX: Duration = Duration::from_secs(62 * 86_400);

/// Old events that are read at a time.
const AGED_EVENTS_MAX: usize = 1_000;

/// Events that go in one request, and those leased with them that are too old to.
pub(crate) struct Batch {
    lease: Lease,
    /// Of each event of the lease, whether Meta would still take it.
    fresh: Vec<bool>,
}

// === impl Batch ===

impl Batch {
    /// Judges the age of a lease's events at `now_ms`.
    pub(crate) fn new(lease: Lease, now_ms: i64, age_max: Duration) -> Self {
        let fresh = lease.events().iter().map(|event| !is_expired(event, now_ms, age_max)).collect();
        Self { lease, fresh }
    }

    /// Events to be sent.
    pub(crate) fn len(&self) -> usize {
        self.fresh.iter().filter(|fresh| **fresh).count()
    }

    /// Events that are too old.
    pub(crate) fn expired(&self) -> usize {
        self.fresh.len() - self.len()
    }

    /// Events to be sent that an earlier request may have brought to Meta.
    pub(crate) fn maybe_sent(&self) -> usize {
        self.to_send().filter(|event| event.maybe_sent).count()
    }

    /// When the oldest event to be sent was accepted, Unix milliseconds.
    pub(crate) fn oldest_accepted_ms(&self) -> Option<i64> {
        self.to_send().map(|event| event.accepted_ms).min()
    }

    /// How often the lane was sent back since its last success.
    pub(crate) fn failures(&self) -> u32 {
        self.lease.failures()
    }

    /// The request's body, and whether it is a test. A request with it is about to go out, and the outbox notes that.
    pub(crate) fn departing(&mut self, test_event_code: Option<&str>) -> (Bytes, bool) {
        self.lease.mark_sent();
        document(self.lease.envelope(), test_event_code, self.to_send().map(|event| event.body.as_ref()))
    }

    /// Makes two of it: `count` events to send, and the others.
    pub(crate) fn split_at(mut self, count: usize) -> (Self, Option<Self>) {
        let mut sent = self.fresh.iter().enumerate().filter(|(_, fresh)| **fresh).map(|(place, _)| place);
        let Some(place) = sent.nth(count).filter(|place| *place > 0) else {
            return (self, None);
        };
        let rest = self.fresh.split_off(place);
        let (lease, others) = self.lease.split_at(place);
        (Self { lease, fresh: self.fresh }, others.map(|lease| Self { lease, fresh: rest }))
    }

    /// The events to be sent in this range of them, and what is before and after it.
    pub(crate) fn cut(self, range: Range<usize>) -> (Option<Self>, Vec<Self>) {
        let (before, rest) = match range.start {
            0 => (None, Some(self)),
            start => {
                let (before, rest) = self.split_at(start);
                (Some(before), rest)
            }
        };
        let (chosen, after) = rest.map_or((None, None), |rest| match range.len() {
            count if count < rest.len() => {
                let (chosen, after) = rest.split_at(count);
                (Some(chosen), after)
            }
            _ => (Some(rest), None),
        });
        (chosen, before.into_iter().chain(after).collect())
    }

    /// The places of the events to be sent in the order of acceptance.
    pub(crate) fn seqs(&self) -> Vec<u64> {
        self.to_send().map(|event| event.seq).collect()
    }

    /// The place of the first event to be sent in the order of acceptance.
    pub(crate) fn first_seq(&self) -> u64 {
        self.to_send().next().map_or(0, |event| event.seq)
    }

    /// The place of its last event in the order of acceptance.
    pub(crate) fn last_seq(&self) -> u64 {
        self.lease.events().last().map_or(0, |event| event.seq)
    }

    /// Meta took the request, and counted so many of what was sent. It does not say which: these are the first.
    pub(crate) fn delivered(self, counted: u64, test: bool, now_ms: i64) {
        if self.expired() == 0 && !test && counted == self.fresh.len() as u64 {
            return self.lease.ack();
        }
        let mut left = counted;
        let of_one = |fresh: &bool| match (*fresh, left) {
            (false, _) => Settlement::Expire,
            (true, 0) => Settlement::Uncounted,
            (true, _) => {
                left -= 1;
                if test { Settlement::Tested } else { Settlement::Ack }
            }
        };
        let settlements = self.fresh.iter().map(of_one).collect();
        self.lease.settle(settlements, now_ms);
    }

    /// What was sent goes to the dead letters.
    pub(crate) fn bury(self, reason: &str, message: &str, now_ms: i64) {
        let burial = Settlement::Bury { reason: reason.to_owned(), message: message.to_owned() };
        self.settle(&burial, now_ms);
    }

    /// What was sent is too old for Meta.
    pub(crate) fn expire(self, now_ms: i64) {
        self.settle(&Settlement::Expire, now_ms);
    }

    /// Nothing was sent: the others go back as they were.
    pub(crate) fn drop_expired(self, now_ms: i64) {
        self.settle(&Settlement::Retry(Sent::No), now_ms);
    }

    /// What was, or was to be, sent goes back to the lane.
    pub(crate) fn give_back(self, sent: Sent, now_ms: i64) {
        self.settle(&Settlement::Retry(sent), now_ms);
    }

    /// What is too old is dropped whatever becomes of the others.
    fn settle(self, of_the_sent: &Settlement, now_ms: i64) {
        let of_one = |fresh: &bool| if *fresh { of_the_sent.clone() } else { Settlement::Expire };
        let settlements = self.fresh.iter().map(of_one).collect();
        self.lease.settle(settlements, now_ms);
    }

    fn to_send(&self) -> impl Iterator<Item = &Leased> + Clone {
        self.lease.events().iter().zip(&self.fresh).filter(|(_, fresh)| **fresh).map(|(event, _)| event)
    }
}

/// Drops the events of a lane that Meta would no longer take, whether or not it may send; gives how many. Looked at are those
/// accepted before `before_ms`, and few at a time.
pub(crate) fn drop_expired(outbox: &Outbox, lane: &LaneKey, now_ms: i64, before_ms: i64, age_max: Duration) -> u64 {
    let (mut dropped, mut after_seq) = (0, 0);
    while let Some(lease) = outbox.lease_aged(lane, after_seq, before_ms, AGED_EVENTS_MAX, now_ms) {
        let batch = Batch::new(lease, now_ms, age_max);
        (dropped, after_seq) = (dropped + batch.expired() as u64, batch.last_seq());
        batch.drop_expired(now_ms);
    }
    dropped
}

/// The body is looked at only for what is old, and that is rare.
fn is_expired(event: &Leased, now_ms: i64, age_max: Duration) -> bool {
    let age_s = now_ms.div_euclid(1_000).saturating_sub(event.event_time);
    let over = |limit: Duration| age_s > i64::try_from(limit.as_secs()).unwrap_or(i64::MAX);
    over(age_max) && (over(PHYSICAL_STORE_AGE_MAX.max(age_max)) || !is_physical_store(&event.body))
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY_S: i64 = 86_400;
    const NOW_S: i64 = 1_800_000_000;

    fn expired(event_time: i64, body: &'static str) -> bool {
        let event = Leased {
            seq: 1,
            accepted_ms: 0,
            event_time,
            event_name: "Purchase".to_owned(),
            event_id: "1".to_owned(),
            body: Bytes::from_static(body.as_bytes()),
            attempts: 0,
            maybe_sent: false,
        };
        is_expired(&event, NOW_S * 1_000 + 999, Duration::from_secs(7 * 86_400))
    }

    #[test]
    fn what_is_older_than_meta_takes_is_expired() {
        let (website, store) = (r#"{"action_source":"website"}"#, r#"{"action_source":"physical_store"}"#);
        for (time, body, is) in [
            (NOW_S, website, false),
            (NOW_S - 7 * DAY_S, website, false),
            (NOW_S - 7 * DAY_S - 1, website, true),
            (NOW_S - 7 * DAY_S - 1, "{", true),
            (NOW_S - 62 * DAY_S, store, false),
            (NOW_S - 62 * DAY_S - 1, store, true),
            (NOW_S + DAY_S, website, false),
            (i64::MIN, website, true),
        ] {
            assert_eq!(expired(time, body), is, "{time} {body}");
        }
    }
}
