//! An account's own servers, where requests that are no events go: balanced, health-checked, with all timeouts set.

use std::collections::{BTreeSet, HashMap};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::net::{SocketAddr, ToSocketAddrs};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use http::Extensions;
use pingora::lb::discovery::ServiceDiscovery;
use pingora::lb::health_check::TcpHealthCheck;
use pingora::lb::selection::RoundRobin;
use pingora::lb::{Backend, Backends, LoadBalancer};
use pingora::protocols::l4::socket::SocketAddr as PingoraAddr;
use pingora::upstreams::peer::HttpPeer;
use tokio::sync::{OnceCell, Semaphore};
use tokio::task::{JoinSet, spawn_blocking};
use tokio::time::{MissedTickBehavior, interval, timeout};
use tokio_util::sync::CancellationToken;

use crate::account::AccountId;
use crate::config::{self, AccountConfig, Upstream};
use crate::snapshot::{Published, Snapshot};

/// How often each server is asked for a connection.
const CHECK_EVERY: Duration = Duration::from_secs(5);
/// Checks after which names are resolved again. Those of a pool without an address are resolved at each.
const CHECKS_PER_RESOLVE: u32 = 6;
/// Pools that are checked at one time.
const CHECKS_AT_ONCE: usize = 64;
/// Time for the names of an account.
const RESOLVE_TIMEOUT: Duration = Duration::from_secs(5);
/// Look-ups at one time: of all accounts, and of one. The system's resolver holds a thread for each, and longer than anybody
/// waits for it if DNS does not answer.
const LOOK_UPS: usize = 256;
const LOOK_UPS_EACH: usize = 16;
/// Time for a connection, TLS included.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Time between two reads or two writes of a request.
const STALL_TIMEOUT: Duration = Duration::from_secs(60);
/// How long an idle connection is kept; below what servers commonly keep theirs.
const IDLE_TIMEOUT: Duration = Duration::from_secs(50);
/// Servers that are looked at for one request.
const CANDIDATES_MAX: usize = 64;

/// The pools of all accounts that have upstream servers.
pub(super) struct Upstreams {
    pools: Mutex<HashMap<AccountId, Arc<Pool>>>,
    look_ups: Arc<Semaphore>,
}

/// The servers of one account.
pub(super) struct Pool {
    servers: Vec<Upstream>,
    private_allowed: bool,
    /// Keeps the kept-alive connections of accounts apart.
    group: u64,
    balancer: LoadBalancer<RoundRobin>,
    resolved: OnceCell<()>,
}

/// Finds the addresses of an account's servers.
struct Resolver {
    account: AccountId,
    servers: Vec<Upstream>,
    private_allowed: bool,
    /// Look-ups that may begin: of all accounts, of this one.
    look_ups: [Arc<Semaphore>; 2],
}

// === impl Upstreams ===

impl Default for Upstreams {
    fn default() -> Self {
        Self { pools: Mutex::default(), look_ups: Arc::new(Semaphore::new(LOOK_UPS)) }
    }
}

impl Upstreams {
    /// The pool of an account; made, or made anew, if its configuration changed. `None` = the account has no servers.
    pub(super) async fn pool(&self, account: &AccountConfig, private_allowed: bool) -> Option<Arc<Pool>> {
        if account.upstream.is_empty() {
            return None;
        }
        let pool = {
            let mut pools = self.pools.lock().unwrap_or_else(PoisonError::into_inner);
            match pools.get(&account.id).filter(|pool| pool.is_of(account, private_allowed)) {
                Some(pool) => pool.clone(),
                None => {
                    let (id, servers, look_ups) = (account.id.clone(), account.upstream.clone(), self.look_ups.clone());
                    let pool = Arc::new(Pool::new(id, servers, private_allowed, look_ups));
                    pools.insert(account.id.clone(), pool.clone());
                    pool
                }
            }
        };
        // Whoever comes first resolves; the others wait for it.
        pool.resolved.get_or_init(|| pool.resolve()).await;
        Some(pool)
    }

    /// Checks the servers of every pool that was asked for, and forgets the pools of accounts that are gone, until `stop`.
    pub(super) async fn watch(&self, published: &Published, stop: CancellationToken) {
        let mut ticks = interval(CHECK_EVERY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut checks: u32 = 0;
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                _ = ticks.tick() => {}
            }
            let resolve = checks.is_multiple_of(CHECKS_PER_RESOLVE);
            let snapshot = published.load_full();
            tokio::select! {
                () = stop.cancelled() => return,
                () = self.check(&snapshot, resolve) => {}
            }
            checks = checks.wrapping_add(1);
        }
    }

    async fn check(&self, snapshot: &Snapshot, resolve: bool) {
        let private_allowed = snapshot.gateway.host.upstream_private;
        let pools: Vec<Arc<Pool>> = {
            let mut pools = self.pools.lock().unwrap_or_else(PoisonError::into_inner);
            pools.retain(|id, pool| {
                snapshot.tenant(id).is_some_and(|tenant| pool.is_of(&tenant.config, private_allowed))
            });
            // One that is being resolved for the first time is left alone: updates of one pool must not overlap.
            pools.values().filter(|pool| pool.resolved.initialized()).cloned().collect()
        };
        let room = Arc::new(Semaphore::new(CHECKS_AT_ONCE));
        let mut checks = JoinSet::new();
        for pool in pools {
            let Ok(place) = room.clone().acquire_owned().await else {
                break;
            };
            checks.spawn(async move {
                pool.check(resolve).await;
                drop(place);
            });
        }
        while checks.join_next().await.is_some() {}
    }
}

// === impl Pool ===

impl Pool {
    fn new(account: AccountId, servers: Vec<Upstream>, private_allowed: bool, look_ups: Arc<Semaphore>) -> Self {
        let mut hasher = DefaultHasher::new();
        account.hash(&mut hasher);
        let look_ups = [look_ups, Arc::new(Semaphore::new(LOOK_UPS_EACH))];
        let resolver = Resolver { account, servers: servers.clone(), private_allowed, look_ups };
        let mut balancer = LoadBalancer::from_backends(Backends::new(Box::new(resolver)));
        let mut check = TcpHealthCheck::new();
        check.consecutive_failure = 2;
        balancer.set_health_check(check);
        Self { servers, private_allowed, group: hasher.finish(), balancer, resolved: OnceCell::new() }
    }

    fn is_of(&self, account: &AccountConfig, private_allowed: bool) -> bool {
        self.servers == account.upstream && self.private_allowed == private_allowed
    }

    /// Sees which servers can be reached; their names are resolved first if `resolve`, or if none has an address yet.
    async fn check(&self, resolve: bool) {
        if resolve || self.is_empty() {
            self.resolve().await;
        }
        self.balancer.backends().run_health_check(true).await;
    }

    fn is_empty(&self) -> bool {
        self.balancer.backends().get_backend().is_empty()
    }

    async fn resolve(&self) {
        if self.balancer.update().await.is_err() {
            // The addresses found before stay in use.
            tracing::debug!("no upstream server could be resolved");
        }
    }

    /// A server that is not in `tried`: a healthy one, or else any, for a check may be wrong.
    pub(super) fn peer(&self, tried: &[SocketAddr]) -> Option<HttpPeer> {
        let untried = |backend: &Backend| backend.addr.as_inet().is_some_and(|address| !tried.contains(address));
        let healthy = self.balancer.select_with(b"", CANDIDATES_MAX, |backend, healthy| healthy && untried(backend));
        let backend =
            healthy.or_else(|| self.balancer.select_with(b"", CANDIDATES_MAX, |backend, _| untried(backend)))?;
        let server = backend.ext.get::<Upstream>()?;
        #[expect(clippy::disallowed_methods, reason = "an address needs no resolving")]
        let mut peer = HttpPeer::new(backend.addr.as_inet()?, server.tls, server.host.clone());
        peer.group_key = self.group;
        peer.options.connection_timeout = Some(CONNECT_TIMEOUT);
        peer.options.total_connection_timeout = Some(CONNECT_TIMEOUT);
        peer.options.read_timeout = Some(STALL_TIMEOUT);
        peer.options.write_timeout = Some(STALL_TIMEOUT);
        peer.options.idle_timeout = Some(IDLE_TIMEOUT);
        Some(peer)
    }
}

// === impl Resolver ===

#[async_trait]
impl ServiceDiscovery for Resolver {
    async fn discover(&self) -> pingora::Result<(BTreeSet<Backend>, HashMap<u64, bool>)> {
        let mut backends = BTreeSet::new();
        // All at once, so that they share one limit.
        let mut lookups = JoinSet::new();
        for server in self.servers.clone() {
            let look_ups = self.look_ups.clone();
            lookups.spawn(async move {
                let found = timeout(RESOLVE_TIMEOUT, look_up(server.host.clone(), server.port, look_ups)).await;
                (server, found)
            });
        }
        for (server, found) in lookups.join_all().await {
            let Ok(Some(addresses)) = found else {
                tracing::warn!(account = %self.account, host = %server.host, "an upstream server's name cannot be resolved");
                continue;
            };
            for address in addresses {
                if !self.private_allowed && !config::is_reachable(address.ip()) {
                    tracing::warn!(account = %self.account, host = %server.host, %address,
                        "an upstream server is at an address that only [host] upstream_private = true allows");
                    continue;
                }
                let mut ext = Extensions::new();
                ext.insert(server.clone());
                backends.insert(Backend { addr: PingoraAddr::Inet(address), weight: 1, ext });
            }
        }
        if backends.is_empty() {
            return pingora::Error::e_explain(pingora::ErrorType::ConnectError, "no upstream address");
        }
        Ok((backends, HashMap::new()))
    }
}

/// A server's addresses, once there is room to ask for them.
async fn look_up(host: String, port: u16, [all, own]: [Arc<Semaphore>; 2]) -> Option<Vec<SocketAddr>> {
    let permits = (own.acquire_owned().await.ok()?, all.acquire_owned().await.ok()?);
    let found = spawn_blocking(move || {
        // Held while the thread is taken, also when nobody waits any more.
        let _permits = permits;
        (host.as_str(), port).to_socket_addrs().map(Vec::from_iter)
    });
    found.await.ok()?.ok()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use pingora::upstreams::peer::Peer;
    use tokio::net::TcpListener;

    use super::*;

    fn server(address: SocketAddr) -> Upstream {
        Upstream { tls: false, host: address.ip().to_string(), port: address.port() }
    }

    fn pool(servers: Vec<Upstream>, private_allowed: bool) -> Pool {
        Pool::new("shop".parse().unwrap(), servers, private_allowed, Arc::new(Semaphore::new(LOOK_UPS)))
    }

    /// The servers that requests would go to.
    fn used(pool: &Pool) -> BTreeSet<SocketAddr> {
        (0..20).filter_map(|_| pool.peer(&[])?.address().as_inet().copied()).collect()
    }

    #[tokio::test]
    async fn a_server_that_is_down_is_left_out_until_it_is_up_again() {
        let (up, down) =
            (TcpListener::bind("127.0.0.1:0").await.unwrap(), TcpListener::bind("127.0.0.1:0").await.unwrap());
        let (up_at, down_at) = (up.local_addr().unwrap(), down.local_addr().unwrap());
        let pool = pool(vec![server(up_at), server(down_at)], true);
        pool.resolve().await;
        pool.check(false).await;
        assert_eq!(used(&pool), BTreeSet::from([up_at, down_at]));
        drop(down);
        pool.check(false).await;
        assert_eq!(used(&pool).len(), 2, "one failure may be chance");
        pool.check(false).await;
        assert_eq!(used(&pool), BTreeSet::from([up_at]));
        assert!(pool.peer(&[up_at]).is_some(), "rather a server that seems down than none");
        let _down = TcpListener::bind(down_at).await.unwrap();
        pool.check(false).await;
        assert_eq!(used(&pool), BTreeSet::from([up_at, down_at]));
    }

    #[tokio::test]
    async fn a_pool_without_an_address_is_resolved_at_the_next_check() {
        let server = server("127.0.0.1:9".parse().unwrap());
        let refused = pool(vec![server.clone()], false);
        refused.resolve().await;
        assert!(refused.is_empty() && refused.peer(&[]).is_none());
        let pool = pool(vec![server], true);
        assert!(pool.is_empty());
        pool.check(false).await;
        assert!(!pool.is_empty() && pool.peer(&[]).is_some());
    }
}
