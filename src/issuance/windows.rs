//! When a CA wants a certificate renewed (RFC 9773): a question that costs nothing, and what is learnt from the answer.

use std::sync::Arc;
use std::time::Duration;

use instant_acme::SuggestedWindow;

use crate::account::ServerName;
use crate::clock::now_ms;
use crate::config::AcmeAccount;
use crate::issuance::Shared;
use crate::issuance::budget::{Budgets, millis};
use crate::issuance::settle::PAUSE;
use crate::issuance::state::Renewal;
use crate::issuance::store::KeyKind;
use crate::issuance::transport::hearing;
use crate::issuance::trouble::Trouble;

/// The shortest time between two questions after a renewal window, whatever the CA says (RFC 9773, 4.3.2).
const EVERY_MIN: Duration = Duration::from_secs(60);
/// After a question that was not answered (RFC 9773, 4.3.3), or without a word when to ask again.
const AGAIN: Duration = Duration::from_secs(6 * 60 * 60);
/// How long nothing is asked after a question without an answer.
const REST: Duration = Duration::from_secs(10 * 60);
/// What of an account rests then: not its orders, which depend on no window.
pub(super) const WINDOWS: &str = "renewal windows";

/// What a CA says: its window and when to ask again (Unix milliseconds), or nothing.
type Told = Option<(SuggestedWindow, Option<i64>)>;

// === impl Shared ===

impl Shared {
    /// Asks the CA when a certificate is to be renewed: that with this last second of validity and this kind of key.
    pub(super) async fn ask_window(
        &self,
        name: ServerName,
        (of, kind): (i64, KeyKind),
        account: Arc<AcmeAccount>,
        interval_max: Duration,
    ) {
        let (answer, rest) = hearing(async {
            let id = self.identifier(&name, kind).await;
            let id = id.ok_or_else(|| Trouble::Local("the certificate has no key identifier".to_owned()))?;
            self.directories.window(&account, &id, now_ms()).await
        })
        .await;
        let now_ms = now_ms();
        self.book.with(|memory| {
            learn(&mut memory.budgets, &account.name, &answer, rest, now_ms);
            let known = memory.names.get(&name).and_then(|state| state.renewal.clone());
            let known = known.filter(|known| known.of == of);
            let nothing = Renewal { of, offered: false, at_ms: i64::MAX, window: (0, 0), look_ms: 0 };
            let (mut renewal, wait_ms) = match answer {
                Ok(Some((window, again_ms))) => {
                    let window = (window.start.unix_timestamp() * 1_000, window.end.unix_timestamp() * 1_000);
                    let same = known.filter(|known| known.offered && known.window == window);
                    let at_ms = same.map_or_else(|| draw(window, rand::random()), |known| known.at_ms);
                    let wait_ms = again_ms.map_or(millis(AGAIN), |again_ms| again_ms.saturating_sub(now_ms));
                    (Renewal { offered: true, at_ms, window, ..nothing }, wait_ms.max(millis(EVERY_MIN)))
                }
                Ok(None) if known.is_none() => (nothing, millis(interval_max)),
                _ => (known.unwrap_or(nothing), millis(AGAIN)),
            };
            renewal.look_ms = now_ms.saturating_add(wait_ms.min(millis(interval_max)));
            memory.change(&name).renewal = Some(renewal);
            self.let_go(memory, &name);
        });
    }
}

/// A CA that does not answer, or wants to be left alone (`rest` is until when, Unix milliseconds), is not asked meanwhile.
fn learn(budgets: &mut Budgets, account: &str, answer: &Result<Told, Trouble>, rest: Option<i64>, now_ms: i64) {
    let usual = match answer {
        Err(Trouble::Unreachable(_) | Trouble::Broken(_) | Trouble::Account(..)) => REST,
        Err(Trouble::RateLimited(_)) => PAUSE,
        // What is wrong with one certificate says nothing of the others.
        _ => return,
    };
    budgets.pause(account, WINDOWS, rest.unwrap_or(now_ms.saturating_add(millis(usual))), now_ms);
}

/// A moment in a window (RFC 9773, 4.2); `share` from 0 to 1.
fn draw((start, end): (i64, i64), share: f64) -> i64 {
    let width = end.saturating_sub(start).max(0);
    start.saturating_add((width as f64 * share) as i64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::issuance::tests::{NOW_MS, account};

    #[test]
    fn each_name_draws_a_moment_of_its_own_in_the_window() {
        let window = (NOW_MS, NOW_MS + 86_400_000);
        let drawn: std::collections::HashSet<i64> = (0..100).map(|_| draw(window, rand::random())).collect();
        assert!(drawn.len() > 90 && drawn.iter().all(|at| (window.0..=window.1).contains(at)), "{drawn:?}");
        assert_eq!([0.0, 0.5, 1.0].map(|share| draw(window, share) - NOW_MS), [0, 43_200_000, 86_400_000]);
        assert_eq!(draw((NOW_MS, NOW_MS - 1), 0.5), NOW_MS, "a window that ends before it begins");
    }

    #[test]
    fn a_ca_that_does_not_say_is_not_asked_for_a_while_and_orders_go_on() {
        let (ca, mut budgets) = (account("a"), Budgets::default());
        let mut learn = |answer: Result<Told, Trouble>, rest, now_ms| {
            learn(&mut budgets, &ca.name, &answer, rest, now_ms);
            assert_eq!(budgets.paused(&ca, now_ms), None);
            budgets.paused_until(&ca.name, WINDOWS, now_ms) - now_ms
        };
        assert_eq!(learn(Err(Trouble::Broken("busy".to_owned())), Some(NOW_MS + 60_000), NOW_MS), 60_000);
        assert_eq!(learn(Ok(None), None, NOW_MS + 60_000), 0);
        assert_eq!(learn(Err(Trouble::RateLimited("busy".to_owned())), None, NOW_MS + 60_000), millis(PAUSE));
        let later = NOW_MS + 60_000 + millis(PAUSE);
        assert_eq!(learn(Err(Trouble::Refused("malformed".to_owned())), Some(later + 60_000), later), 0);
        assert_eq!(learn(Err(Trouble::Unreachable("silent".to_owned())), None, later), millis(REST));
    }
}
