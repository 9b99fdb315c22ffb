//! The service: begins what is due, and goes on when something ended, was asked for, or its time came.

use std::sync::{Arc, PoisonError};
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::account::ServerName;
use crate::clock::now_ms;
use crate::issuance::agenda::{Agenda, Begun};
use crate::issuance::names::{is_listed, present};
use crate::issuance::schedule::{Present, asked};
use crate::issuance::store::KeyKind;
use crate::issuance::work::Work;
use crate::issuance::{Issuance, Shared, prune};
use crate::tls::Which;

/// How often the configuration is looked at, and the clock, which may have been set.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);
/// How often that is written down which may be lost: an answer that can be had again.
const KEEP_INTERVAL: Duration = Duration::from_secs(30);
/// How often it is looked for what is left of names that are gone.
const PRUNE_INTERVAL: Duration = Duration::from_secs(24 * 60 * 60);

/// What is done now and then, where nobody waits for it.
struct Chores {
    keep: Instant,
    prune: Instant,
    tasks: JoinSet<()>,
}

/// A name with something under way; it is free again when this is dropped, however the work ended.
struct Busy {
    shared: Arc<Shared>,
    name: ServerName,
}

// === impl Issuance ===

impl Issuance {
    /// Orders and renews until told to stop: from then on nothing begins. Orders in flight are broken off, and go on after
    /// the next start.
    pub async fn run(self, stop: CancellationToken) {
        let shared = self.shared;
        let (mut tasks, mut agenda) = (JoinSet::new(), Agenda::default());
        let mut chores = Chores::new();
        while !stop.is_cancelled() {
            let spent = agenda.is_spent(&shared.reloader.published().load(), now_ms());
            if spent.is_ok() {
                agenda = shared.look_at_all(&agenda).await;
                // It takes a while.
                if stop.is_cancelled() {
                    break;
                }
            }
            shared.begin(&mut agenda, &mut tasks);
            chores.due(&shared);
            let due_ms = u64::try_from(agenda.next_ms.saturating_sub(now_ms())).unwrap_or_default();
            let may_be = spent.err().filter(|_| due_ms == 0);
            let due = Instant::now() + Duration::from_millis(due_ms).min(LOOK_INTERVAL);
            let deadline = may_be.map_or(due, |may_be| due.max(may_be.min(due + LOOK_INTERVAL)));
            tokio::select! {
                biased;
                () = stop.cancelled() => break,
                Some(ended) = tasks.join_next() => match ended {
                    Ok(name) => shared.book.with(|memory| {
                        // Only now: a name that is not busy any more is served with what it got, in this snapshot and
                        // all later ones.
                        let snapshot = shared.reloader.published().load();
                        agenda.ended(name, memory, &snapshot, now_ms());
                    }),
                    Err(error) => {
                        tracing::error!(%error, "the work on a certificate broke off");
                        agenda.spend();
                    }
                },
                () = shared.woken.notified() => shared.take_hurried().into_iter().for_each(|name| agenda.hurry(name)),
                () = shared.wanted.asked() => shared.take_asked(&mut agenda),
                () = tokio::time::sleep_until(deadline) => {}
            }
        }
        tasks.shutdown().await;
        chores.end().await;
        if let Err(error) = shared.book.keep(now_ms()).await {
            tracing::error!(%error, "what is known of certificates' orders cannot be written down");
        }
    }
}

// === impl Shared ===

impl Shared {
    async fn look_at_all(self: &Arc<Self>, before: &Agenda) -> Agenda {
        let (shared, names) = (self.clone(), before.names.clone());
        let looked = tokio::task::spawn_blocking(move || Agenda::make(&shared, names, now_ms())).await;
        match looked {
            Ok(agenda) => agenda,
            Err(error) => {
                tracing::error!(%error, "the look at all names broke off");
                tokio::time::sleep(LOOK_INTERVAL).await;
                Agenda::default()
            }
        }
    }

    /// Begins what is due.
    fn begin(self: &Arc<Self>, agenda: &mut Agenda, tasks: &mut JoinSet<ServerName>) {
        let (snapshot, begun, states) = self.book.with(|memory| {
            let snapshot = self.reloader.published().load_full();
            let begun = agenda.take(memory, &snapshot, now_ms());
            let state = |name: &ServerName| memory.names.get(name).cloned().unwrap_or_default();
            let orders: Vec<_> = begun.orders.iter().map(|start| state(&start.name)).collect();
            let windows: Vec<_> = begun.windows.iter().map(state).collect();
            (snapshot, begun, (orders, windows))
        });
        let Begun { orders, look_ups, windows } = begun;
        let gateway = &snapshot.gateway;
        for (start, state) in orders.into_iter().zip(states.0) {
            let busy = self.busy(&start.name);
            let work = Work::new(self.clone(), gateway.clone(), start, &state);
            tasks.spawn(async move {
                work.run().await;
                busy.end()
            });
        }
        for start in look_ups {
            let (busy, shared, gateway) = (self.busy(&start.name), self.clone(), gateway.clone());
            tasks.spawn(async move {
                shared.look_up(start, &gateway).await;
                busy.end()
            });
        }
        for (name, state) in windows.into_iter().zip(states.1) {
            let (busy, shared) = (self.busy(&name), self.clone());
            let asked = match present(&snapshot, &name, now_ms()) {
                Present::Issued { not_after, which, .. } => {
                    let kind = if which == Which::Twin { KeyKind::RsaTwin } else { KeyKind::Ecdsa };
                    asked(&state, &gateway.acme).map(|account| ((not_after, kind), account.clone()))
                }
                Present::Nothing
                | Present::Ended
                | Present::Operators
                | Present::OperatorsWildcard
                | Present::Wildcard { .. } => None,
            };
            let interval_max = gateway.acme.renewal_info_interval_max;
            tasks.spawn(async move {
                if let Some((of, account)) = asked {
                    shared.ask_window(name, of, account, interval_max).await;
                }
                busy.end()
            });
        }
    }

    /// Whether a name is in the configuration, be its account active or not, or something is under way for it.
    pub(super) fn wants(&self, name: &ServerName) -> bool {
        self.reloader.published().load().route(name.as_str()).is_some() || self.book.with(|memory| memory.is_busy(name))
    }

    fn busy(self: &Arc<Self>, name: &ServerName) -> Busy {
        Busy { shared: self.clone(), name: name.clone() }
    }

    pub(super) fn take_hurried(&self) -> Vec<ServerName> {
        std::mem::take(&mut self.hurried.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Notes that visitors asked for names. Only what is news is looked at: there may be a flood of handshakes. A name may be
    /// newer than the agenda: the next one finds it then.
    pub(super) fn take_asked(&self, agenda: &mut Agenda) {
        let asked = self.wanted.take();
        self.book.with(|memory| {
            let snapshot = self.reloader.published().load();
            for name in asked {
                if is_listed(&snapshot, &name) && !memory.names.get(&name).is_some_and(|state| state.asked) {
                    memory.change(&name).asked = true;
                    agenda.hurry(name);
                }
            }
        });
    }
}

// === impl Chores ===

impl Chores {
    fn new() -> Self {
        let now = Instant::now();
        // Not at the start, when there is enough to do.
        Self { keep: now + KEEP_INTERVAL, prune: now + PRUNE_INTERVAL / 24, tasks: JoinSet::new() }
    }

    /// Begins what is due, one at a time.
    fn due(&mut self, shared: &Arc<Shared>) {
        while self.tasks.try_join_next().is_some() {}
        let now = Instant::now();
        if !self.tasks.is_empty() {
            return;
        }
        if self.keep <= now {
            self.keep = now + KEEP_INTERVAL;
            if shared.book.with(|memory| memory.is_changed()) {
                let book = shared.book.clone();
                self.tasks.spawn_blocking(move || {
                    if let Err(error) = book.write(now_ms()) {
                        tracing::error!(%error, "what is known of certificates' orders cannot be written down");
                    }
                });
            }
        } else if self.prune <= now {
            self.prune = now + PRUNE_INTERVAL;
            let shared = shared.clone();
            self.tasks.spawn_blocking(move || {
                if let Err(error) = prune::prune(&shared.certs_dir, |name| shared.wants(name), now_ms()) {
                    tracing::warn!(%error, "what is left of names that are gone cannot be removed");
                }
            });
        }
    }

    async fn end(mut self) {
        while self.tasks.join_next().await.is_some() {}
    }
}

// === impl Busy ===

impl Busy {
    /// It ended; says for whom.
    fn end(self) -> ServerName {
        self.name.clone()
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.shared.book.with(|memory| memory.end(&self.name));
    }
}
