//! Which CA accounts are left alone because something went wrong there, for how long and why. Nobody asked for that, so a
//! person, another configuration or a restart ends it. Pure: the time is an argument.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use crate::issuance::budget::millis;

/// First wait after a CA could not be reached, which doubles with each further time; the shortest one after it asked for one.
pub(super) const TROUBLE_MIN: Duration = Duration::from_secs(5);
/// Longest wait after a CA could not be reached.
const TROUBLE_MAX: Duration = Duration::from_secs(30 * 60);

/// How long it is told what went wrong at an account that nobody needed since.
const TOLD_FOR: Duration = Duration::from_secs(6 * 60 * 60);

/// What went wrong at which CA account, by its name.
#[derive(Clone, Debug, Default)]
pub(super) struct Blames(HashMap<Arc<str>, Blame>);

#[derive(Clone, Debug, Default)]
struct Blame {
    /// How often in a row the CA could not be reached.
    times: u32,
    /// Until then the account is left alone. Unix milliseconds.
    until_ms: i64,
    /// The CA did not know the account any more, and nothing went well since.
    anew: bool,
    /// What went wrong last, if nothing went well since, and when. Unix milliseconds.
    told: Option<(Told, i64)>,
}

/// What went wrong, for a person.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Told {
    pub(super) reason: String,
    /// What to do.
    pub(super) remedy: String,
}

// === impl Blames ===

impl Blames {
    /// A CA could not be reached, or is in trouble: its account is left alone, longer each time, unless it is already:
    /// orders in flight fail together, and are one trouble. Says until when.
    pub(super) fn unreachable(&mut self, account: &str, is_paused: bool, now_ms: i64) -> i64 {
        let blame = self.0.entry(account.into()).or_default();
        let wait = TROUBLE_MIN.saturating_mul(2u32.saturating_pow(blame.times)).min(TROUBLE_MAX);
        let until_ms = now_ms.saturating_add(millis(wait));
        if !is_paused {
            blame.times = blame.times.saturating_add(1);
            blame.until_ms = until_ms;
        }
        until_ms
    }

    /// A CA answers, and does not know the account any more. Says whether a new one is made at once: unless the one before was
    /// made for that too, and came to nothing.
    pub(super) fn begins_anew(&mut self, account: &str) -> bool {
        let blame = self.0.entry(account.into()).or_default();
        let begins = !std::mem::replace(&mut blame.anew, true);
        if begins {
            (blame.times, blame.until_ms) = (0, 0);
        }
        begins
    }

    /// Notes what went wrong, for those who look.
    pub(super) fn tell(&mut self, account: &str, told: Told, now_ms: i64) {
        self.0.entry(account.into()).or_default().told = Some((told, now_ms));
    }

    /// What was noted last, unless the account was of use since. Of one that is not left alone any more (`is_paused`) it is
    /// told for some hours: nobody needed it since, as where another account took over, so nobody knows how it is.
    pub(super) fn told(&self, account: &str, is_paused: bool, now_ms: i64) -> Option<&Told> {
        let (told, at_ms) = self.0.get(account)?.told.as_ref()?;
        let is_news = (0..millis(TOLD_FOR)).contains(&now_ms.saturating_sub(*at_ms));
        (is_paused || is_news).then_some(told)
    }

    /// The CA answers.
    pub(super) fn reached(&mut self, account: &str) {
        if let Some(blame) = self.0.get_mut(account) {
            (blame.times, blame.anew, blame.told) = (0, false, None);
        }
    }

    /// A person wants it tried now.
    pub(super) fn lift(&mut self, account: &str) {
        if let Some(blame) = self.0.get_mut(account) {
            blame.until_ms = 0;
        }
    }

    /// Forgets all accounts but these.
    pub(super) fn retain(&mut self, stays: impl Fn(&str) -> bool) {
        self.0.retain(|account, _| stays(account));
    }

    /// Whether the CA could not be reached the last time.
    pub(super) fn is_in_trouble(&self, account: &str) -> bool {
        self.0.get(account).is_some_and(|blame| blame.times > 0)
    }

    /// Until when an account is left alone; one that is not is so until long ago.
    pub(super) fn until(&self, account: &str, now_ms: i64) -> i64 {
        let until = self.0.get(account).map_or(i64::MIN, |blame| blame.until_ms);
        // A clock that went back must not lock an account out.
        if until > now_ms.saturating_add(millis(TROUBLE_MAX)) { i64::MIN } else { until }
    }
}
