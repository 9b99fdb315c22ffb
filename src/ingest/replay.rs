//! Dead letters sent again: what Meta refused goes back to its lane, what a filter held goes through the chain anew.

use std::collections::HashSet;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;

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
    /// Still dead letters: the filter still fails, the account is gone or its backlog full, somebody else is replaying them, or
    /// it was enough before.
    pub held: usize,
}

impl Ingest {
    /// Sends dead letters again, group by group until `enough`. What a filter held goes through the account's whole chain as
    /// it is now. An account that cannot have its letters back now keeps nobody else's. For a task of its own: dropped between
    /// two steps it leaves letters that are in their lanes too.
    ///
    /// # Errors
    /// When the store refuses, or the gateway stops. What was replayed by then is in its lanes; the rest is where it was, but
    /// for a group that was stored and whose letters the disk would not let go: it is in both places.
    pub async fn replay(
        &self,
        snapshot: &Snapshot,
        ids: &[u64],
        now_ms: i64,
        enough: &CancellationToken,
    ) -> Result<Replayed, Refusal> {
        let mut total = Replayed::default();
        for group in self.outbox.dead_letter_groups(ids, GROUP_MAX, GROUP_BYTES_MAX) {
            if enough.is_cancelled() {
                break;
            }
            let stopped = self.replays_stopped.read().await;
            if *stopped {
                return Err(Refusal::Unavailable);
            }
            self.replay_group(snapshot, group, now_ms, &mut total).await?;
        }
        let asked = ids.iter().collect::<HashSet<_>>().len();
        total.held = asked.saturating_sub(total.replayed + total.dropped);
        Ok(total)
    }

    /// Lets no further group of letters be replayed, and waits for those that are.
    pub async fn stop_replays(&self) {
        *self.replays_stopped.write().await = true;
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

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::path::Path;

    use super::*;
    use crate::account::LaneKey;
    use crate::config::{LastGood, Source};
    use crate::filter::{self, FilterHost};
    use crate::outbox::{Options, Outbox};
    use crate::snapshot::{Before, Inputs, compile};
    use crate::telemetry::Metrics;

    /// A moment in July 2026, Unix milliseconds.
    const NOW_MS: i64 = 1_784_000_000_000;

    struct Nobody;

    impl filter::Observer for Nobody {}

    fn shoes() -> LaneKey {
        LaneKey { account: "shoes".parse().unwrap(), pixel: "1".parse().unwrap() }
    }

    fn snapshot(dir: &Path) -> Snapshot {
        std::fs::create_dir(dir.join("accounts")).unwrap();
        let gateway = "[host]\ndomain = \"gw.agency.example\"\ndata_dir = \"data\"\n";
        std::fs::write(dir.join("pixelgate.toml"), gateway).unwrap();
        let shoes = "[[pixels]]\nid = \"1\"\naccess_token = { file = \"../pixelgate.toml\" }\n";
        std::fs::write(dir.join("accounts/shoes.toml"), shoes).unwrap();
        let reading = Source::new(dir).read();
        let filters = FilterHost::start(filter::testing::options(dir), Arc::new(Nobody)).unwrap();
        let last_good = LastGood::open(&dir.join("data"));
        let (gateway, before) = (reading.gateway.clone().unwrap(), Before::Kept(&last_good));
        compile(Inputs { gateway, reading, before, filters: &filters, now_ms: NOW_MS }).snapshot
    }

    fn outbox(dir: &Path) -> Outbox {
        let options = Options {
            dir: dir.join("outbox"),
            segment_bytes: 1 << 20,
            reserve_bytes: 0,
            account_backlog_bytes_max: 1 << 30,
            dead_letters_max: 9,
            dead_letter_bytes_max: 1 << 20,
            leases_per_lane_max: 1,
            on_sync: Box::new(|_| {}),
            on_lost: Box::new(|_, _, _| {}),
        };
        Outbox::open(options).unwrap().0
    }

    fn letter() -> DeadLetter {
        DeadLetter {
            id: 0,
            lane: shoes(),
            event_name: "Purchase".to_owned(),
            event_id: "e0".to_owned(),
            event_time: NOW_MS / 1_000,
            reason: "refused".to_owned(),
            message: String::new(),
            attempts: 1,
            accepted_ms: NOW_MS,
            dead_ms: NOW_MS,
            envelope: "".into(),
            body: "{}".into(),
            context: String::new(),
        }
    }

    #[tokio::test]
    async fn nothing_is_replayed_once_it_is_enough_or_the_gateway_stops() {
        let dir = tempfile::tempdir().unwrap();
        let (snapshot, outbox) = (snapshot(dir.path()), outbox(dir.path()));
        outbox.hold(vec![letter()]).await.unwrap();
        let ids = outbox.dead_letter_ids(None);
        let ingest = Ingest::new(outbox.clone(), Arc::new(Metrics::new().unwrap()));
        let (go_on, enough) = (CancellationToken::new(), CancellationToken::new());
        enough.cancel();
        let replayed = ingest.replay(&snapshot, &ids, NOW_MS, &enough).await.unwrap();
        assert_eq!(replayed, Replayed { held: 1, ..Replayed::default() });

        let group = ingest.replays_stopped.read().await;
        let mut stopping = std::pin::pin!(ingest.stop_replays());
        tokio::select! {
            biased;
            () = &mut stopping => unreachable!("a group is under way"),
            () = std::future::ready(()) => {}
        }
        let mut next = std::pin::pin!(ingest.replay(&snapshot, &ids, NOW_MS, &go_on));
        tokio::select! {
            biased;
            _ = &mut next => unreachable!("no group begins once it was asked to stop"),
            () = std::future::ready(()) => {}
        }
        drop(group);
        stopping.await;
        assert!(matches!(next.await, Err(Refusal::Unavailable)));
        assert_eq!(
            (outbox.dead_letter_ids(None), outbox.lease(&shoes(), 1, u64::MAX, NOW_MS).is_none()),
            (ids.clone(), true)
        );

        let ingest = Ingest::new(outbox.clone(), Arc::new(Metrics::new().unwrap()));
        let ids = outbox.dead_letter_ids(None);
        let replayed = ingest.replay(&snapshot, &ids, NOW_MS, &go_on).await.unwrap();
        assert_eq!((replayed.replayed, outbox.dead_letter_ids(None).len()), (1, 0));
    }
}
