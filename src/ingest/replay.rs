//! Dead letters sent again: what Meta refused goes back to its lane, what a filter held goes through the chain anew.

use std::collections::HashSet;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::event::decode;
use crate::filter::{Context, Filtered};
use crate::ingest::taking::stored;
use crate::ingest::{Ingest, Refusal};
use crate::outbox::{AppendError, DeadLetter, NewEvent};
use crate::snapshot::Snapshot;

/// Letters that are taken at one time, all of one account.
const GROUP_MAX: usize = 500;
/// Bytes of them: half of the smallest backlog that an account can be given.
const GROUP_BYTES_MAX: u64 = 512 << 10;
/// How the reason of a letter begins that a filter's fault made.
const HELD_BY_FILTER: &str = "filter:";

/// What became of dead letters.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Replayed {
    /// In their lanes again.
    pub replayed: usize,
    /// Dropped by a filter, as they would be now on arrival.
    pub dropped: usize,
    /// Still dead letters: the filter still fails, the account is gone or its backlog full, or somebody else is replaying
    /// them.
    pub held: usize,
}

impl Ingest {
    /// Sends dead letters again. What a filter held goes through the account's whole chain as it is now. An account that
    /// cannot have its letters back now keeps nobody else's.
    ///
    /// # Errors
    /// When the store refuses; what was not replayed by then is where it was.
    pub async fn replay(&self, snapshot: &Snapshot, ids: &[u64], now_ms: i64) -> Result<Replayed, Refusal> {
        let mut total = Replayed::default();
        for group in self.outbox.dead_letter_groups(ids, GROUP_MAX, GROUP_BYTES_MAX) {
            self.replay_group(snapshot, group, now_ms, &mut total).await?;
        }
        let asked = ids.iter().collect::<HashSet<_>>().len();
        total.held = asked.saturating_sub(total.replayed + total.dropped);
        Ok(total)
    }

    /// Sends letters of one account again, all or none of those that its filters let pass.
    async fn replay_group(
        &self,
        snapshot: &Snapshot,
        ids: Vec<u64>,
        now_ms: i64,
        total: &mut Replayed,
    ) -> Result<(), Refusal> {
        let outbox = self.outbox.clone();
        let claiming = tokio::task::spawn_blocking(move || outbox.claim_dead_letters(&ids));
        let claimed = claiming.await.map_err(|_| Refusal::Unavailable)?;
        let (mut dropped, mut passed, mut events) = (Vec::new(), Vec::new(), Vec::new());
        for letter in claimed.letters() {
            match self.again(snapshot, letter).await {
                Again::Send(event) => {
                    passed.push(letter.id);
                    events.push(event);
                }
                Again::Drop => dropped.push(letter.id),
                Again::Hold => {}
            }
        }
        let account = claimed.letters().first().map(|letter| letter.lane.account.clone());
        let appended = self.outbox.append_replayed(events, now_ms).await;
        let sent = if appended.is_ok() { passed.as_slice() } else { &[] };
        claimed.remove(&[&dropped, sent].concat()).await?;
        total.dropped += dropped.len();
        total.replayed += sent.len();
        match appended {
            Err(error @ (AppendError::Backlog | AppendError::TooLarge)) => {
                tracing::warn!(account = account.as_ref().map(tracing::field::display), letters = passed.len(), %error, "dead letters stay");
                Ok(())
            }
            other => Ok(other?),
        }
    }

    /// What becomes of one letter now.
    async fn again(&self, snapshot: &Snapshot, letter: &DeadLetter) -> Again {
        let tenant = snapshot.tenant(&letter.lane.account);
        // Where the account or its pixel is gone nobody would send it, and it would end by its age.
        let Some(tenant) = tenant.filter(|tenant| tenant.pixel(letter.lane.pixel).is_some()) else {
            return Again::Hold;
        };
        if !letter.reason.starts_with(HELD_BY_FILTER) {
            return Again::Send(letter.event(letter.body.clone()));
        }
        let (Ok(mut context), Ok(event)) =
            (Context::from_json(&letter.context), decode::graph::decode_stored(&letter.body))
        else {
            tracing::warn!(id = letter.id, lane = %letter.lane, "a held event cannot be read back; it stays");
            return Again::Hold;
        };
        context.sources.clone_from(&tenant.config.consent_sources);
        match tenant.filters.run(Arc::new(context), vec![event]).await.pop() {
            Some(Filtered::Pass(event)) => Again::Send(stored(&letter.lane, &letter.envelope, &event)),
            Some(Filtered::Drop { filter, reason }) => {
                self.metrics.dropped(&letter.lane.account, &format!("{filter}: {reason}"));
                Again::Drop
            }
            Some(Filtered::Hold { .. }) | None => Again::Hold,
        }
    }
}

/// What becomes of one letter.
enum Again {
    Send(NewEvent),
    Drop,
    Hold,
}
