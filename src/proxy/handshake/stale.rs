//! Names whose files are not those that were judged: they are judged again together, by one thread at a time.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync;
use tokio::task::spawn_blocking;

use crate::account::ServerName;

/// Looks at names' files again. May block.
pub(in crate::proxy) type Judge = dyn Fn(&[ServerName]) + Send + Sync;

/// Judges names again. That may wait for others who exchange the snapshot: whoever comes meanwhile takes no thread for it.
pub(super) struct StaleNames {
    judge: Arc<Judge>,
    waiting: Mutex<BTreeSet<ServerName>>,
    judging: Arc<sync::Mutex<()>>,
}

// === impl StaleNames ===

impl StaleNames {
    /// With what judges names.
    pub(super) fn new(judge: Arc<Judge>) -> Self {
        Self { judge, waiting: Mutex::default(), judging: Arc::default() }
    }

    /// Waits until a name was judged since now.
    pub(super) async fn judge(&self, name: ServerName) {
        self.waiting().insert(name);
        let turn = self.judging.clone().lock_owned().await;
        let names: Vec<_> = std::mem::take(&mut *self.waiting()).into_iter().collect();
        if names.is_empty() {
            // Whoever had the turn before has judged it.
            return;
        }
        let judge = self.judge.clone();
        let judged = spawn_blocking(move || {
            // Held until it is done, also when the client that waits for it is gone.
            let _turn = turn;
            judge(&names);
        });
        if let Err(error) = judged.await {
            tracing::error!(%error, "judging certificates again broke off");
        }
    }

    /// Names that are not being judged yet.
    #[cfg(test)]
    pub(super) fn waiting_now(&self) -> usize {
        self.waiting().len()
    }

    fn waiting(&self) -> MutexGuard<'_, BTreeSet<ServerName>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::future::poll_fn;
    use std::sync::mpsc;
    use std::task::Poll;
    use std::time::Duration;

    use super::*;

    const PATIENCE: Duration = Duration::from_secs(30);

    #[tokio::test]
    async fn names_that_wait_are_judged_together_each_once() {
        let (told, judged) = mpsc::channel();
        let (go, may_go) = mpsc::channel::<()>();
        let may_go = Mutex::new(may_go);
        let names = StaleNames::new(Arc::new(move |names: &[ServerName]| {
            told.send(names.iter().map(|name| name.as_str().to_owned()).collect::<Vec<_>>()).unwrap();
            may_go.lock().unwrap().recv_timeout(PATIENCE).unwrap();
        }));
        let mut waiting = Vec::new();
        for name in ["first.example"].iter().chain(&["a.example", "b.example"].repeat(20)) {
            let mut judging = Box::pin(names.judge(name.parse().unwrap()));
            assert!(poll_fn(|cx| Poll::Ready(judging.as_mut().poll(cx).is_pending())).await);
            waiting.push(judging);
        }
        assert_eq!(judged.recv_timeout(PATIENCE).unwrap(), ["first.example"]);
        (0..2).for_each(|_| go.send(()).unwrap());
        for judging in waiting {
            judging.await;
        }
        assert_eq!(judged.recv_timeout(PATIENCE).unwrap(), ["a.example", "b.example"]);
        assert!(judged.try_recv().is_err());
    }
}
