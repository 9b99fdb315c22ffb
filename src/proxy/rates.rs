//! How many handshakes there may be: begun in a second, by all and by one source, and computed at one time.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::{sleep, timeout};

use crate::proxy::limits::{SOURCES_OF_NETWORK, network_of, source_of};

/// As many handshakes may begin at once as this time allows for: a request that comes just then is behind all of them.
const BURST: Duration = Duration::from_millis(50);
/// How long a visitor waits who comes when there are too many: all of a second's may come at once, as they do after a
/// restart.
const WAIT_MAX: Duration = Duration::from_secs(1);
/// The part of its rate that one source keeps while visitors wait for half as long as they may: a few sources must not
/// take all there is.
const SCARCE_PART: usize = 10;
/// Handshakes in a second that ACME servers have, and as many that the gateway has with itself, whatever visitors take.
const RESERVED_PER_SECOND: usize = 20;
/// How long a handshake waits while others are computed.
const TURN_WAIT_MAX: Duration = Duration::from_millis(500);
/// What one source may have saved up of its rate: a household's browsers come at once.
const SOURCE_BURST: Duration = Duration::from_secs(1);
/// Sources that are remembered before it is worth looking for some to forget.
const SOURCES_SWEPT_FROM: usize = 1_024;

/// Whom a handshake is with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Guest {
    /// Anybody.
    Visitor,
    /// An ACME server that looks for the answer to a challenge.
    Challenger,
    /// The gateway itself, which looks what it serves.
    Own,
}

/// The handshakes of all together.
pub(super) struct HandshakeBudget {
    since: Instant,
    visitors: Rate,
    challengers: Rate,
    own: Rate,
    /// Who computes takes a turn. There are fewer than threads, so that some serve the established connections.
    turns: Semaphore,
}

/// A turn; `None` = one is not needed.
pub(super) type Turn<'a> = Option<SemaphorePermit<'a>>;

/// The handshakes of each source.
pub(super) struct SourceRates {
    since: Instant,
    times: Mutex<SourceTimes>,
}

/// The generic cell rate algorithm: until when all that was taken is paid for, in µs.
#[derive(Default)]
struct Rate(AtomicU64);

/// The same for each source, and for each network that has many. One that owes nothing need not be remembered.
#[derive(Default)]
struct SourceTimes {
    sources: PaidUntil,
    networks: PaidUntil,
}

#[derive(Default)]
struct PaidUntil {
    us: HashMap<IpAddr, u64>,
    /// So many, from which on those that owe nothing are forgotten.
    sweep_at: usize,
}

// === impl HandshakeBudget ===

impl HandshakeBudget {
    /// Of a machine with so many threads.
    pub(super) fn new(threads: usize, now: Instant) -> Self {
        let (visitors, challengers, own) = (Rate::default(), Rate::default(), Rate::default());
        Self { since: now, visitors, challengers, own, turns: Semaphore::new((threads / 2).max(1)) }
    }

    /// Begins one more, after a wait if need be; false = there are too many.
    pub(super) async fn begin(&self, guest: Guest, per_second: usize) -> bool {
        let wait = self.take(guest, per_second, Instant::now());
        if let Some(wait) = wait.filter(|wait| !wait.is_zero()) {
            sleep(wait).await;
        }
        wait.is_some()
    }

    /// Waits for a turn for as long as it takes: to read a ClientHello, and to refuse it if need be, since nobody is shed
    /// before it is known who it is; and to go on with a handshake that was computed in part.
    pub(super) async fn sure_turn(&self, guest: Guest) -> Turn<'_> {
        if guest == Guest::Visitor { self.turns.acquire().await.ok() } else { None }
    }

    /// Waits for a turn to compute one that may begin; `None` = others take too long. Those that are not visitors are too few
    /// to need one.
    pub(super) async fn turn(&self, guest: Guest) -> Option<Turn<'_>> {
        if guest != Guest::Visitor {
            return Some(None);
        }
        if let Ok(turn) = self.turns.try_acquire() {
            return Some(Some(turn));
        }
        let turn = timeout(TURN_WAIT_MAX, self.turns.acquire()).await;
        Some(Some(turn.ok()?.ok()?))
    }

    /// How many of `per_second` one source may begin now.
    pub(super) fn share(&self, per_second: usize, now: Instant) -> usize {
        let scarce = self.visitors.owes(micros(self.since, now)) > WAIT_MAX / 2;
        if scarce { per_second.div_ceil(SCARCE_PART) } else { per_second }
    }

    /// How long one more has to wait; `None` = too long.
    fn take(&self, guest: Guest, per_second: usize, now: Instant) -> Option<Duration> {
        let now_us = micros(self.since, now);
        let reserved = match guest {
            Guest::Visitor => return self.visitors.take(per_second, BURST, WAIT_MAX, now_us),
            Guest::Challenger => &self.challengers,
            Guest::Own => &self.own,
        };
        let taken = self.visitors.take(per_second, BURST, Duration::ZERO, now_us);
        taken.or_else(|| reserved.take(RESERVED_PER_SECOND, SOURCE_BURST, Duration::ZERO, now_us))
    }
}

// === impl Rate ===

impl Rate {
    fn take(&self, per_second: usize, burst: Duration, wait_max: Duration, now_us: u64) -> Option<Duration> {
        let mut wait = Duration::ZERO;
        let paid = self.0.fetch_update(Ordering::AcqRel, Ordering::Acquire, |paid_until_us| {
            let after_us;
            (after_us, wait) = pay(paid_until_us, per_second, burst, now_us);
            (wait <= wait_max).then_some(after_us)
        });
        paid.is_ok().then_some(wait)
    }

    fn owes(&self, now_us: u64) -> Duration {
        Duration::from_micros(self.0.load(Ordering::Acquire).saturating_sub(now_us))
    }
}

/// Until when all is paid for if one more is taken, and how long that one waits.
fn pay(paid_until_us: u64, per_second: usize, burst: Duration, now_us: u64) -> (u64, Duration) {
    let cost_us = 1_000_000 / (per_second.max(1) as u64);
    let after_us = paid_until_us.max(now_us).saturating_add(cost_us);
    // A whole one may always begin if nothing is owed.
    let burst = burst.max(Duration::from_micros(cost_us));
    (after_us, Duration::from_micros(after_us - now_us).saturating_sub(burst))
}

fn micros(since: Instant, now: Instant) -> u64 {
    u64::try_from(now.duration_since(since).as_micros()).unwrap_or(u64::MAX)
}

// === impl SourceRates ===

impl SourceRates {
    pub(super) fn new(now: Instant) -> Self {
        Self { since: now, times: Mutex::default() }
    }

    /// Whether one more may begin at `now` from an address: of its source, and of its network, which has ten times as much.
    pub(super) fn take(&self, address: IpAddr, per_second: usize, now: Instant) -> bool {
        let (source, now_us) = (source_of(address), micros(self.since, now));
        let mut times = self.times.lock().unwrap_or_else(PoisonError::into_inner);
        let paid = times.sources.next(source, per_second, now_us);
        let network = network_of(address).map(|network| {
            let per_second = per_second.saturating_mul(SOURCES_OF_NETWORK);
            (network, times.networks.next(network, per_second, now_us))
        });
        let (Some(paid), None | Some((_, Some(_)))) = (paid, network) else {
            return false;
        };
        times.sources.us.insert(source, paid);
        if let Some((network, Some(paid))) = network {
            times.networks.us.insert(network, paid);
        }
        true
    }
}

// === impl PaidUntil ===

impl PaidUntil {
    /// Until when all is paid for if `who` takes one more; `None` = not now.
    fn next(&mut self, who: IpAddr, per_second: usize, now_us: u64) -> Option<u64> {
        if self.us.len() >= self.sweep_at {
            self.us.retain(|_, paid_until_us| *paid_until_us > now_us);
            self.sweep_at = (2 * self.us.len()).max(SOURCES_SWEPT_FROM);
        }
        let paid_until_us = self.us.get(&who).copied().unwrap_or_default();
        let (after_us, wait) = pay(paid_until_us, per_second, SOURCE_BURST, now_us);
        wait.is_zero().then_some(after_us)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[test]
    fn visitors_begin_in_small_bursts_and_wait_for_a_second_at_most() {
        let now = Instant::now();
        let budget = HandshakeBudget::new(2, now);
        let take = |now| budget.take(Guest::Visitor, 2_000, now);
        assert_eq!((0..100).filter(|_| take(now) == Some(Duration::ZERO)).count(), 100, "50 ms' worth begin at once");
        let waits: Vec<_> = (0..5_000).map_while(|_| take(now)).collect();
        assert_eq!(waits.len(), 2_000, "a second's worth waits");
        assert!(waits.is_sorted() && waits.iter().all(|wait| *wait > Duration::ZERO && *wait <= WAIT_MAX));
        assert_eq!(take(now + ms(1)).map(|wait| wait.as_millis()), Some(999));
        let later = now + ms(60_000);
        assert_eq!((0..5_000).filter(|_| take(later) == Some(Duration::ZERO)).count(), 100, "nothing is saved up");
    }

    #[test]
    fn a_low_rate_lets_whole_handshakes_begin() {
        let now = Instant::now();
        let budget = HandshakeBudget::new(1, now);
        let take = |now| budget.take(Guest::Visitor, 1, now);
        assert_eq!((take(now), take(now), take(now)), (Some(Duration::ZERO), Some(ms(1_000)), None));
    }

    #[test]
    fn challenges_and_own_looks_get_through_whatever_visitors_take() {
        let now = Instant::now();
        let budget = HandshakeBudget::new(2, now);
        while budget.take(Guest::Visitor, 2_000, now).is_some() {}
        for guest in [Guest::Challenger, Guest::Own] {
            let taken = (0..100).filter_map(|_| budget.take(guest, 2_000, now)).collect::<Vec<_>>();
            assert_eq!(taken, [Duration::ZERO; RESERVED_PER_SECOND], "{guest:?}");
        }
    }

    #[test]
    fn a_few_sources_cannot_take_all_there_is() {
        let begin = Instant::now();
        let (budget, sources) = (HandshakeBudget::new(2, begin), SourceRates::new(begin));
        let from = |source: u8, now| {
            let address = IpAddr::from([192, 0, 2, source]);
            sources.take(address, budget.share(500, now), now) && budget.take(Guest::Visitor, 2_000, now).is_some()
        };
        // Eight sources, each as often as it can; beside them a visitor from elsewhere every 10 ms.
        let mut refused = 0;
        for tick in 0..5_000 {
            let now = begin + ms(tick);
            for source in 1..=8 {
                let _ = (from(source, now), from(source, now));
            }
            if tick % 10 == 0 && !from(100 + u8::try_from(tick / 10 % 100).unwrap(), now) {
                refused += 1;
            }
        }
        assert_eq!(refused, 0);
    }

    #[tokio::test]
    async fn a_turn_is_waited_for_and_given_back() {
        let budget = HandshakeBudget::new(2, Instant::now());
        let held = budget.turn(Guest::Visitor).await.unwrap();
        assert!(held.is_some());
        assert!(timeout(ms(20), budget.turn(Guest::Visitor)).await.is_err(), "half of two threads computes");
        assert!(budget.turn(Guest::Own).await.is_some() && budget.turn(Guest::Challenger).await.is_some());
        drop(held);
        assert!(budget.turn(Guest::Visitor).await.is_some());
    }

    #[test]
    fn a_network_begins_as_many_handshakes_as_ten_sources() {
        let now = Instant::now();
        let rates = SourceRates::new(now);
        let take = |network: u16, source: u16| rates.take([0x2001, 0xdb8, network, source, 0, 0, 0, 1].into(), 10, now);
        assert_eq!((0..500).filter(|n| take(1, n % 50)).count(), 100);
        assert!(take(2, 0));
    }

    #[test]
    fn handshakes_are_limited_by_source_and_forgotten_with_their_second() {
        let now = Instant::now();
        let rates = SourceRates::new(now);
        let take = |address: &str, now| rates.take(address.parse().unwrap(), 10, now);
        assert_eq!((0..100).filter(|_| take("192.0.2.1", now)).count(), 10);
        assert!(take("192.0.2.2", now) && take("2001:db8:1:2::1", now));
        assert_eq!((0..100).filter(|_| take("2001:db8:1:2:ffff::9", now)).count(), 9, "one visitor's network");
        assert_eq!((0..100).filter(|_| take("192.0.2.1", now + ms(500))).count(), 5);
        for n in 0..50_000_u32 {
            let address = IpAddr::from(std::net::Ipv4Addr::from_bits(n));
            assert!(rates.take(address, 10, now + ms(1_000 + u64::from(n))));
        }
        let remembered = rates.times.lock().unwrap().sources.us.len();
        assert!(remembered <= 2 * SOURCES_SWEPT_FROM, "{remembered}");
    }
}
