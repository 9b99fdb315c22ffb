//! Dead letters sent again: what Meta refused goes back to its lane, what a filter held goes through the chain anew.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::event::decode;
use crate::filter::{Context, Filtered};
use crate::ingest::taking::stored;
use crate::ingest::{Ingest, Refusal};
use crate::outbox::{DeadLetter, NewEvent};
use crate::snapshot::Snapshot;

/// Letters that are taken at one time.
const GROUP_MAX: usize = 500;
/// How the reason of a letter begins that a filter's fault made.
const HELD_BY_FILTER: &str = "filter:";

/// What became of dead letters.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Replayed {
    /// In their lanes again.
    pub replayed: usize,
    /// Dropped by a filter, as they would be now on arrival.
    pub dropped: usize,
    /// Still dead letters: the filter still fails, the account is gone, or somebody else is replaying them.
    pub held: usize,
}

impl Ingest {
    /// Sends dead letters again. What a filter held goes through the account's whole chain as it is now.
    ///
    /// # Errors
    /// When the store refuses; what was not replayed by then is where it was.
    pub async fn replay(&self, snapshot: &Snapshot, ids: &[u64], now_ms: i64) -> Result<Replayed, Refusal> {
        let mut total = Replayed::default();
        for ids in ids.chunks(GROUP_MAX) {
            let (outbox, named) = (self.outbox.clone(), ids.to_vec());
            let claiming = tokio::task::spawn_blocking(move || outbox.claim_dead_letters(&named));
            let claimed = claiming.await.map_err(|_| Refusal::Unavailable)?;
            let mut done = Vec::new();
            let mut events = Vec::new();
            for letter in claimed.letters() {
                match self.again(snapshot, letter).await {
                    Again::Send(event) => events.push(event),
                    Again::Drop => total.dropped += 1,
                    Again::Hold => continue,
                }
                done.push(letter.id);
            }
            total.replayed += events.len();
            total.held += ids.len() - done.len();
            self.outbox.append(events, now_ms).await?;
            claimed.remove(&done).await?;
        }
        Ok(total)
    }

    /// What becomes of one letter now.
    async fn again(&self, snapshot: &Snapshot, letter: &DeadLetter) -> Again {
        if !letter.reason.starts_with(HELD_BY_FILTER) {
            return Again::Send(letter.event(letter.body.clone()));
        }
        let Some(tenant) = snapshot.tenant(&letter.lane.account) else {
            return Again::Hold;
        };
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
