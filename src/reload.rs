//! The use case of a reload: read, compile, publish, keep, report.
//!
//! After a reload without problems the whole configuration is in force. After one with problems every account without
//! an error is in force as it is written, and every account with one stays as it was; a bad `pixelgate.toml` leaves
//! everything as it was. Nothing is half done: what is published is one snapshot, swapped in one step. Requests in
//! flight end on the one they began with.
//!
//! In force comes first: the snapshot is published before anything is written. What is kept for a restart is written after
//! that: the last good accounts at a start in the background, at a reload before it is answered; the index of certificates,
//! which only saves the next start time, now and then. A crash in between keeps the state before: the files are then judged anew, against the accounts that were in
//! force before that reload.
//!
//! A reload may take minutes, while filters compile; it holds up the next reload and nothing else. Certificates are
//! published meanwhile ([`Reloader::refresh_certificates`]), and what the reload publishes has them.

mod ended;
mod restart;
#[cfg(test)]
mod tests;

use std::collections::{BTreeSet, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};

use crate::account::ServerName;
use crate::config::{GatewayConfig, LastGood, Problem, Reading, Source};
use crate::filter::FilterHost;
use crate::reload::ended::ended;
use crate::reload::restart::{held, restart_needed};
use crate::snapshot::{self, Before, Changes, Compiled, Inputs, Published, Snapshot};
use crate::telemetry::Metrics;

/// Publishes configurations, one at a time.
pub struct Reloader {
    published: Arc<Published>,
    filters: Arc<FilterHost>,
    metrics: Arc<Metrics>,
    /// What the process was started with: some of it cannot change while it runs.
    started: Arc<GatewayConfig>,
    /// Held while files are read, by reloads and checks.
    source: Mutex<Source>,
    /// Held by a reload from its beginning to its end.
    reloading: Mutex<()>,
    /// Held while a snapshot takes the place of the one that it was made from, and while the few files are read that it
    /// differs in.
    publishing: Mutex<Meanwhile>,
    /// Held while something is kept, so that the newest is kept last.
    keeping: Mutex<LastGood>,
    /// What was wrong when the last reload was refused; nothing once one was taken up.
    refused: Mutex<Refused>,
}

/// What was wrong with a configuration that was refused.
#[derive(Debug, Default)]
struct Refused {
    problems: Vec<Problem>,
    /// Errors and warnings among them that what was in force did not have, counted once: 100,000 names may have one each.
    beyond: (usize, usize),
}

/// The names whose certificates were refreshed since the reload that is under way looked at certificates; `None` = none is.
#[derive(Debug, Default)]
struct Meanwhile(Option<BTreeSet<ServerName>>);

/// What a reload or a check came to.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Report {
    /// Whether what was read is in force now; otherwise all stays as it was.
    pub applied: bool,
    /// The revision in force afterwards.
    pub revision: u64,
    /// What is wrong with the configuration.
    pub problems: Vec<Problem>,
    /// What became of which account, or would; `None` where all stays as it was, or nothing runs to compare with.
    #[serde(default)]
    pub accounts: Option<Changes>,
}

/// A configuration that nothing can start from.
#[derive(Debug)]
pub struct Unusable(pub Vec<Problem>);

// === impl Reloader ===

impl Reloader {
    /// Compiles what was read as the first snapshot, and publishes it. Nothing is written: see [`Reloader::keep`].
    ///
    /// # Errors
    /// When `pixelgate.toml` itself is bad.
    pub fn start(
        source: Source,
        reading: Reading,
        last_good: LastGood,
        filters: Arc<FilterHost>,
        metrics: Arc<Metrics>,
        now_ms: i64,
    ) -> Result<Self, Unusable> {
        let Some(gateway) = reading.gateway.clone() else {
            return Err(Unusable(reading.problems));
        };
        let inputs = Inputs { gateway, reading, before: Before::Kept(&last_good), filters: &filters, now_ms };
        let Compiled { snapshot, .. } = snapshot::compile(inputs);
        if is_refused(&snapshot) {
            return Err(Unusable(snapshot.problems()));
        }
        tell(&metrics, &snapshot, (0, 0));
        Ok(Self {
            started: snapshot.gateway.clone(),
            published: Arc::new(Published::new(snapshot)),
            filters,
            metrics,
            source: Mutex::new(source),
            reloading: Mutex::default(),
            publishing: Mutex::default(),
            keeping: Mutex::new(last_good),
            refused: Mutex::default(),
        })
    }

    /// Where requests take their snapshot.
    pub fn published(&self) -> &Arc<Published> {
        &self.published
    }

    /// Takes up what is on disk now. Blocks while files are read and filters compiled, and until what is in force is kept:
    /// it asks for the time (Unix milliseconds) whenever it judges certificates.
    pub fn reload(&self, now_ms: impl Fn() -> i64) -> Report {
        let _alone = lock(&self.reloading);
        lock(&self.publishing).begin();
        let Compiled { snapshot, changes } = match self.compile(now_ms()) {
            Ok(compiled) => compiled,
            Err(problems) => {
                let mut meanwhile = lock(&self.publishing);
                meanwhile.end();
                let in_force = self.published.load();
                let refused = Refused::beside(&in_force, &problems);
                tell(&self.metrics, &in_force, refused.beyond);
                *lock(&self.refused) = refused;
                drop(meanwhile);
                self.metrics.reload("refused");
                return self.unapplied(problems, None);
            }
        };
        *lock(&self.refused) = Refused::default();
        self.publish(snapshot, now_ms());
        // The configuration is in force. Of the names that did not change, the files are looked at now: 100,000 take a while.
        let snapshot = self.look_through(now_ms());
        lock(&self.publishing).end();
        if changes.as_ref().is_some_and(|changes| !changes.removed.is_empty()) {
            let accounts: HashSet<_> = snapshot.tenants().map(|tenant| tenant.config.id.as_str()).collect();
            self.metrics.retain_accounts(|account| accounts.contains(account));
        }
        let report =
            Report { applied: true, revision: snapshot.revision, problems: snapshot.problems(), accounts: changes };
        self.keep_last_good();
        self.metrics.reload(if report.has_errors() { "partial" } else { "ok" });
        report
    }

    /// What [`Reloader::reload`] would say, publishing nothing. Holds nobody up while filters compile.
    pub fn check(&self, now_ms: i64) -> Report {
        match self.compile(now_ms) {
            Ok(Compiled { snapshot, changes }) => {
                let certificates = snapshot.certificates.looked_through(now_ms / 1_000);
                self.unapplied(snapshot.with_certificates(certificates).problems(), changes)
            }
            Err(problems) => self.unapplied(problems, None),
        }
    }

    /// Looks at these names' certificates again, and publishes what it finds with all else as it is. Names that are not
    /// in the configuration are left out. Blocks while their files are read; waits for no reload.
    pub fn refresh_certificates(&self, names: &[ServerName], now_ms: i64) {
        let mut meanwhile = lock(&self.publishing);
        let before = self.published.load();
        let refreshed = before.with_certificates(before.certificates.refreshed(names, now_ms / 1_000));
        self.put_in_force(&before, Arc::new(refreshed), now_ms);
        meanwhile.add(names);
    }

    /// Publishes certificates as time has it, with all else as it is: what expired is not served on, what became valid is,
    /// and what was read while it was being written is read once more. Cheap when nothing is due; else it blocks.
    pub fn tend_certificates(&self, now_ms: i64) {
        let now = now_ms / 1_000;
        let before = self.published.load_full();
        if !before.certificates.is_due(now) {
            return;
        }
        // What could not be read may be on a volume that hangs: nobody who publishes waits for that.
        let tended = before.certificates.tended(now);
        let _publishing = lock(&self.publishing);
        let meanwhile = self.published.load_full();
        let tended = if Arc::ptr_eq(&before, &meanwhile) { tended } else { meanwhile.certificates.tended(now) };
        self.put_in_force(&meanwhile, Arc::new(meanwhile.with_certificates(tended)), now_ms);
    }

    /// Looks at the certificates of all names again, and publishes what it finds with all else as it is. Blocks while files
    /// are read, and while a reload is under way, which looks at all of them too.
    pub fn refresh_all_certificates(&self, now_ms: impl Fn() -> i64) {
        let _alone = lock(&self.reloading);
        lock(&self.publishing).begin();
        self.look_through(now_ms());
        lock(&self.publishing).end();
    }

    /// Keeps what is in force for a restart: the accounts, and what is known of certificates. Waits for those who keep
    /// already, and writes nothing that is kept already.
    pub fn keep(&self) {
        self.keep_last_good();
        self.keep_certificate_index();
    }

    /// All that is wrong with the configuration in force, and with one that was refused since.
    pub fn problems(&self) -> Vec<Problem> {
        with_refused(&self.published.load(), &lock(&self.refused).problems)
    }

    fn beyond(&self) -> (usize, usize) {
        lock(&self.refused).beyond
    }

    /// Writes down what is known of certificates, for the next start, if it changed. Failing to costs the next start time.
    pub fn keep_certificate_index(&self) {
        let _alone = lock(&self.keeping);
        if let Err(error) = self.published.load().certificates.keep_index() {
            tracing::warn!(%error, "the index of certificates could not be written; the next start will take longer");
        }
    }

    /// Keeps the accounts in force for a restart. Failing to is not failing the reload: it is said in the log.
    fn keep_last_good(&self) {
        let last_good = lock(&self.keeping);
        // Looked at only now: whoever waited for the lock keeps what is newest.
        let snapshot = self.published.load_full();
        let accounts: Vec<_> = snapshot.tenants().map(|tenant| tenant.config.clone()).collect();
        if let Err(error) = last_good.keep(&accounts, &snapshot.left_out) {
            tracing::error!(%error, "the accounts in force could not be kept for a restart with bad files");
        }
    }

    /// Publishes the certificates of all names as they are now.
    fn look_through(&self, now_ms: i64) -> Arc<Snapshot> {
        let snapshot = self.published.load_full();
        let certificates = snapshot.certificates.looked_through(now_ms / 1_000);
        self.publish(snapshot.with_certificates(certificates), now_ms)
    }

    /// Puts a snapshot in force, with the certificates that were refreshed while it was made as they are now.
    fn publish(&self, snapshot: Snapshot, now_ms: i64) -> Arc<Snapshot> {
        let mut meanwhile = lock(&self.publishing);
        let names = meanwhile.take();
        let snapshot = if names.is_empty() {
            snapshot
        } else {
            snapshot.with_certificates(snapshot.certificates.refreshed(&names, now_ms / 1_000))
        };
        let snapshot = Arc::new(snapshot);
        self.put_in_force(&self.published.load(), snapshot.clone(), now_ms);
        snapshot
    }

    /// The one step in which a snapshot takes the place of another. What time took out of service is said in the log.
    fn put_in_force(&self, before: &Snapshot, snapshot: Arc<Snapshot>, now_ms: i64) {
        if let Some(ended) = ended(&before.certificates, &snapshot.certificates, now_ms / 1_000) {
            tracing::warn!("{ended}");
        }
        tell(&self.metrics, &snapshot, self.beyond());
        self.published.store(snapshot);
    }

    /// Compiles what is on disk now; all that is wrong if that changes nothing.
    fn compile(&self, now_ms: i64) -> Result<Compiled, Vec<Problem>> {
        let reading = lock(&self.source).read();
        let previous = self.published.load_full();
        let Some(gateway) = reading.gateway.clone() else {
            // All the rest that is wrong is told too.
            let (gateway, before) = (previous.gateway.clone(), Before::Running(&previous));
            return Err(snapshot::judge(Inputs { gateway, reading, before, filters: &self.filters, now_ms }));
        };
        let restart = restart_needed(&self.started, &gateway);
        let gateway = Arc::new(held(&self.started, &gateway));
        let inputs = Inputs { gateway, reading, before: Before::Running(&previous), filters: &self.filters, now_ms };
        let mut compiled = snapshot::compile(inputs);
        if is_refused(&compiled.snapshot) {
            return Err(compiled.snapshot.problems());
        }
        Arc::make_mut(&mut compiled.snapshot.file_problems).extend(restart);
        Ok(compiled)
    }

    fn unapplied(&self, problems: Vec<Problem>, accounts: Option<Changes>) -> Report {
        Report { applied: false, revision: self.published.load().revision, problems, accounts }
    }
}

// === impl Meanwhile ===

impl Meanwhile {
    fn begin(&mut self) {
        self.0 = Some(BTreeSet::new());
    }

    fn end(&mut self) {
        self.0 = None;
    }

    fn add(&mut self, names: &[ServerName]) {
        self.0.iter_mut().for_each(|refreshed| refreshed.extend(names.iter().cloned()));
    }

    /// The names so far; from now on others are noted.
    fn take(&mut self) -> Vec<ServerName> {
        self.0.as_mut().map(std::mem::take).into_iter().flatten().collect()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Whether compiling found an error in `pixelgate.toml`, such as a `host.domain` that an account has: a bad one changes
/// nothing, and starts nothing.
fn is_refused(snapshot: &Snapshot) -> bool {
    snapshot.file_problems.iter().any(|problem| problem.is_error() && problem.file == snapshot.gateway.file)
}

/// Tells metrics how much is wrong with what is in force, and `beyond` that with what was refused since.
fn tell(metrics: &Metrics, snapshot: &Snapshot, beyond: (usize, usize)) {
    let (errors, warnings) = snapshot.problem_counts();
    metrics.config_problems(errors + beyond.0, warnings + beyond.1);
}

/// The problems of both, each once and in order.
fn with_refused(snapshot: &Snapshot, refused: &[Problem]) -> Vec<Problem> {
    let mut problems = snapshot.problems();
    if !refused.is_empty() {
        problems.extend_from_slice(refused);
        problems.sort();
        problems.dedup();
    }
    problems
}

// === impl Refused ===

impl Refused {
    fn beside(in_force: &Snapshot, problems: &[Problem]) -> Self {
        let both = with_refused(in_force, problems);
        let errors = both.iter().filter(|problem| problem.is_error()).count();
        let known = in_force.problem_counts();
        let beyond = (errors.saturating_sub(known.0), (both.len() - errors).saturating_sub(known.1));
        Self { problems: problems.to_vec(), beyond }
    }
}

// === impl Report ===

impl Report {
    /// Of a check where nothing runs.
    pub fn alone(problems: Vec<Problem>) -> Self {
        Self { applied: false, revision: 0, problems, accounts: None }
    }

    /// Says in the log what came of a reload, in one line, and which user asked for it over the control socket.
    pub fn log(&self, uid: Option<u32>) {
        let (revision, problems) = (self.revision, self.problems.len());
        if !self.applied {
            tracing::error!(uid, revision, problems, "the reload was refused; all stays as it was");
            return;
        }
        let Changes { added, changed, removed, kept, left_out } = self.accounts.clone().unwrap_or_default();
        tracing::info!(
            uid,
            revision,
            problems,
            added = added.len(),
            changed = changed.len(),
            removed = removed.len(),
            kept = kept.len(),
            left_out = left_out.len(),
            "reloaded"
        );
    }

    /// Whether something is wrong enough to be refused.
    pub fn has_errors(&self) -> bool {
        self.problems.iter().any(Problem::is_error)
    }
}
