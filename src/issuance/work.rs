//! One name's way to a certificate that is served, and what is learnt on it.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use instant_acme::{Account, CertificateIdentifier, ChallengeType, Error};
use rcgen::KeyPair;
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use sha2::{Digest, Sha256};

use crate::account::ServerName;
use crate::clock::now_ms;
use crate::config::{AcmeAccount, GatewayConfig, KeyType};
use crate::issuance::Shared;
use crate::issuance::budget::{Kind, registered_domain};
use crate::issuance::dns::Dns;
use crate::issuance::order::{self, Request};
use crate::issuance::schedule::Start;
use crate::issuance::state::{OpenOrder, Renewal};
use crate::issuance::store::{KeyKind, Stage};
use crate::issuance::transport::hearing;
use crate::issuance::trouble::Trouble;
use crate::tls::{Credential, probe};

/// How long a CA is left alone that asks for it and does not say how long.
const PAUSE: Duration = Duration::from_secs(60 * 60);
/// Time within which a client must see a new certificate.
const SEEN_WITHIN: Duration = Duration::from_secs(10);
/// Wait between two looks whether one does.
const SEEN_EVERY: Duration = Duration::from_millis(200);
/// The shortest time between two questions after a renewal window, whatever the CA says (RFC 9773, 4.3.2).
const LOOK_EVERY_MIN: Duration = Duration::from_secs(60);
/// After a question that was not answered (RFC 9773, 4.3.3).
const LOOK_AGAIN: Duration = Duration::from_secs(6 * 60 * 60);

/// An order and all it needs.
pub(super) struct Work {
    pub(super) shared: Arc<Shared>,
    pub(super) gateway: Arc<GatewayConfig>,
    pub(super) start: Start,
    /// Failed orders before this one.
    pub(super) failures: u32,
    /// The order that this one goes on with.
    pub(super) begun: Option<OpenOrder>,
}

/// A certificate that clients see.
struct Issued {
    /// Whether the CA took every order as the renewal it was told of.
    replaced: bool,
}

// === impl Work ===

impl Work {
    /// Gets the certificate, and writes down what came of it.
    pub(super) async fn run(self) {
        let (result, told) = hearing(self.issue()).await;
        match &result {
            Ok(_) => tracing::info!(name = %self.start.name, account = self.start.account.name, "certificate issued"),
            Err(trouble) => tracing::warn!(
                name = %self.start.name, account = self.start.account.name, reason = trouble.reason(),
                "no certificate was issued"
            ),
        }
        self.shared.observer.ordered(result.as_ref().map_or_else(Trouble::label, |_| "issued"));
        if let Err(Trouble::AccountGone) = &result
            && let Err(trouble) = self.shared.accounts.forget(&self.start.account).await
        {
            tracing::error!(reason = trouble.reason(), "the key of an account that is gone cannot be put aside");
        }
        self.settle(result, told, now_ms());
        if let Err(error) = self.shared.book.keep(now_ms()).await {
            tracing::error!(%error, "what came of an order cannot be written down");
        }
    }

    async fn issue(&self) -> Result<Issued, Trouble> {
        let name = &self.start.name;
        self.shared.look_up(name, &self.gateway).await?;
        let account = self.shared.accounts.get(&self.start.account).await?;
        let stage = self.stage().await?;
        let mut begun = self.begun.as_ref().map(|order| order.url.as_ref()).filter(|url| !url.is_empty());
        let mut replaced = true;
        let mut leaf = None;
        for kind in kinds(self.gateway.acme.key_type).iter().copied() {
            let had = stage.clone();
            let (chain, as_told) = match blocking(move || had.chain(kind)).await? {
                Some(chain) => (chain, replaced),
                None => self.obtain(&account, &stage, kind, begun.take()).await?,
            };
            replaced &= as_told;
            leaf.get_or_insert(chain);
        }
        // From here on there is nothing to go on with: a kill now costs one more order, and no stale one is ever resumed.
        self.remember(None).await?;
        let leaf = leaf.ok_or_else(|| Trouble::Refused("there is no key to order for".to_owned()))?;
        let serial = serial(&leaf);
        let (store, published) = (self.shared.store.clone(), name.clone());
        blocking(move || store.publish(&published, &stage, &serial)).await?;
        self.shared.refresh(name).await?;
        self.shared.seen(name, &leaf, &self.gateway).await?;
        Ok(Issued { replaced })
    }

    /// What is in the making: of the order that goes on, or nothing yet.
    async fn stage(&self) -> Result<Stage, Trouble> {
        let (store, name, fresh) = (self.shared.store.clone(), self.start.name.clone(), self.begun.is_none());
        let stage = move || {
            if fresh {
                store.abandon(&name)?;
            }
            store.stage(&name)
        };
        blocking(stage).await
    }

    /// One order: a key, and the chain for it. Says also whether the CA took it as the renewal it was told of.
    async fn obtain(
        &self,
        account: &Account,
        stage: &Stage,
        kind: KeyKind,
        begun: Option<&str>,
    ) -> Result<(String, bool), Trouble> {
        let files = stage.clone();
        let key_pem = blocking(move || match files.key(kind)? {
            Some(pem) => Ok(pem),
            None => {
                let pem = order::new_key(kind).map_err(io::Error::other)?.serialize_pem();
                files.put_key(kind, &pem)?;
                Ok(pem)
            }
        });
        let key_pem = key_pem.await?;
        let key = KeyPair::from_pem(&key_pem).map_err(|error| Trouble::Local(error.to_string()))?;
        let replaces = match self.start.kind {
            Kind::Replacement => self.shared.identifier(&self.start.name, kind).await,
            Kind::Renewal | Kind::New => None,
        };
        let request = Request {
            account,
            name: &self.start.name,
            key: &key,
            profile: self.start.account.profile.as_deref(),
            replaces,
            begun,
            challenge: self.challenge(),
            challenges: &self.shared.challenges,
        };
        let obtained = order::obtain(request, async |url: &str| self.remember(Some(url)).await).await?;
        let credential = Credential::parse(obtained.chain.as_bytes(), key_pem.as_bytes());
        if !credential.is_ok_and(|credential| credential.covers(&self.start.name)) {
            return Err(Trouble::Lost);
        }
        let (chain, files) = (obtained.chain.clone(), stage.clone());
        blocking(move || files.put_chain(kind, &chain)).await?;
        self.remember(Some("")).await?;
        Ok((obtained.chain, obtained.replaced || begun.is_some()))
    }

    /// HTTP-01 first, and with each failure the other one.
    fn challenge(&self) -> ChallengeType {
        let on_port_80 = !self.gateway.listen.http.is_empty();
        if on_port_80 && self.failures.is_multiple_of(2) { ChallengeType::Http01 } else { ChallengeType::TlsAlpn01 }
    }

    /// Keeps the order, durable when it returns.
    async fn remember(&self, url: Option<&str>) -> Result<(), Trouble> {
        let account = self.start.account.name.as_str();
        let order = url.map(|url| OpenOrder { account: account.into(), url: url.into() });
        self.shared.book.with(|memory| memory.change(&self.start.name).order = order);
        self.shared.book.keep(now_ms()).await.map_err(Trouble::Local)
    }

    fn settle(&self, result: Result<Issued, Trouble>, told: Option<i64>, now_ms: i64) {
        let (start, acme) = (&self.start, &self.gateway.acme);
        let (account, name) = (&start.account, start.name.as_str());
        self.shared.book.with(|memory| {
            let trouble = match result {
                Ok(issued) => {
                    memory.change(&start.name).issued(&account.name);
                    memory.budgets.reached(&account.name);
                    if start.kind == Kind::Replacement && !issued.replaced {
                        memory.budgets.take(account, name, Kind::Renewal, now_ms);
                    }
                    return;
                }
                Err(trouble) => trouble,
            };
            let reason = trouble.reason();
            let waits = (acme.retry_min, acme.retry_max);
            let mut until = now_ms;
            if trouble.is_with_the_ca() {
                memory.budgets.blame(&account.name, &reason);
            }
            match &trouble {
                Trouble::NotServed(_) => memory.change(&start.name).issued(&account.name),
                Trouble::Unreachable(_) => until = memory.budgets.unreachable(&account.name, now_ms),
                Trouble::AccountGone | Trouble::Account(_) => {
                    memory.change(&start.name).order = None;
                    until = memory.budgets.unreachable(&account.name, now_ms);
                }
                Trouble::RateLimited(text) => {
                    until = told.unwrap_or(now_ms.saturating_add(millis(PAUSE)));
                    memory.budgets.pause(&account.name, limited(text, name), until, now_ms);
                }
                Trouble::Lost if start.resumes => memory.change(&start.name).order = None,
                Trouble::Slow(_) => {
                    let order = memory.change(&start.name).order.clone();
                    memory.change(&start.name).failed(&reason, waits, rand::random(), now_ms);
                    memory.change(&start.name).order = order;
                }
                Trouble::Validation(_) => {
                    memory.budgets.validation_failed(account, name, now_ms);
                    memory.change(&start.name).failed(&reason, waits, rand::random(), now_ms);
                }
                Trouble::Dns(_) | Trouble::Refused(_) | Trouble::Local(_) | Trouble::Lost => {
                    memory.change(&start.name).failed(&reason, waits, rand::random(), now_ms);
                }
            }
            if let (Some(told), false) = (told, matches!(trouble, Trouble::RateLimited(_))) {
                memory.budgets.pause(&account.name, "", told, now_ms);
            }
            let state = memory.change(&start.name);
            state.error = Some(reason.into());
            state.not_before_ms = state.not_before_ms.max(until);
            if state.order.is_none() && !matches!(trouble, Trouble::NotServed(_)) && !start.resumes {
                memory.budgets.give_back(account, name, start.kind);
            }
        });
    }
}

// === impl Shared ===

impl Shared {
    /// Asks the CA when a certificate is to be renewed.
    pub(super) async fn look(&self, name: ServerName, of: i64, account: Arc<AcmeAccount>, interval_max: Duration) {
        let asked = async {
            let id = self.identifier(&name, KeyKind::Ecdsa).await?;
            let account = self.accounts.get(&account).await.ok()?;
            Some(account.renewal_info(&id).await)
        };
        let answer = asked.await;
        let now_ms = now_ms();
        self.book.with(|memory| {
            let known = memory.names.get(&name).and_then(|state| state.renewal.clone());
            let known = known.filter(|known| known.of == of);
            let nothing = Renewal { of, offered: false, at_ms: i64::MAX, window: (0, 0), look_ms: 0 };
            let (mut renewal, wait) = match answer {
                Some(Ok((info, wait))) => {
                    let window = (info.suggested_window.start, info.suggested_window.end);
                    let window = (window.0.unix_timestamp() * 1_000, window.1.unix_timestamp() * 1_000);
                    let same = known.filter(|known| known.offered && known.window == window);
                    let at_ms = same.map_or_else(|| draw(window, rand::random()), |known| known.at_ms);
                    (Renewal { offered: true, at_ms, window, ..nothing }, wait.max(LOOK_EVERY_MIN))
                }
                Some(Err(Error::Unsupported(_))) => (nothing, interval_max),
                _ => (known.unwrap_or(nothing), LOOK_AGAIN),
            };
            renewal.look_ms = now_ms.saturating_add(millis(wait.min(interval_max)));
            memory.change(&name).renewal = Some(renewal);
        });
        if let Err(error) = self.book.keep(now_ms).await {
            tracing::error!(%error, "a renewal window cannot be written down");
        }
    }

    /// By what the CA knows the certificate that is served (RFC 9773, 4.1); `None` = it has no authority key identifier.
    async fn identifier(&self, name: &ServerName, kind: KeyKind) -> Option<CertificateIdentifier<'static>> {
        let (store, name) = (self.store.clone(), name.clone());
        let chain = blocking(move || store.live_chain(&name, kind)).await.ok()?;
        identifier(&chain)
    }

    /// Publishes the certificate that lies in the store now.
    async fn refresh(&self, name: &ServerName) -> Result<(), Trouble> {
        let (reloader, name) = (self.reloader.clone(), name.clone());
        let refreshed = tokio::task::spawn_blocking(move || reloader.refresh_certificates(&[name], now_ms())).await;
        refreshed.map_err(|error| Trouble::Local(error.to_string()))
    }

    /// Connects to ourselves as a client would: only what it sees is issued.
    async fn seen(&self, name: &ServerName, chain: &str, gateway: &GatewayConfig) -> Result<(), Trouble> {
        let Ok(leaf) = CertificateDer::from_pem_slice(chain.as_bytes()) else {
            return Err(Trouble::Refused("its certificate is no PEM".to_owned()));
        };
        let Some(edge) = self.edge.first().copied() else {
            return Err(Trouble::NotServed("there is no https listener".to_owned()));
        };
        let (edge, proxy_header) = probe::over_loopback(edge, &gateway.listen.proxy_protocol);
        let deadline = tokio::time::Instant::now() + SEEN_WITHIN;
        loop {
            let served = probe::served_leaf(edge, name, proxy_header, SEEN_WITHIN).await;
            let why = match served {
                Ok(served) if served.chain_der.first().is_some_and(|first| **first == *leaf) => return Ok(()),
                Ok(served) => format!("{edge} serves another one, of {}", served.issuer),
                Err(error) => error.to_string(),
            };
            if tokio::time::Instant::now() >= deadline {
                return Err(Trouble::NotServed(why));
            }
            tokio::time::sleep(SEEN_EVERY).await;
        }
    }

    /// Sees whether a name's DNS leads here, before an order is spent on it.
    async fn look_up(&self, name: &ServerName, gateway: &GatewayConfig) -> Result<(), Trouble> {
        let here = &gateway.host.addresses;
        if here.is_empty() {
            return Ok(());
        }
        let dns = Dns::new(gateway.acme.resolver).map_err(|error| Trouble::Dns(error.to_string()))?;
        // Which CAA records allow this CA only it knows: it looks at them itself.
        let report = dns.inspect(name, here, &[]).await;
        let wrong = report.findings.iter().filter(|finding| finding.is_error);
        let told: Vec<_> = wrong.map(|finding| format!("{}; {}", finding.reason, finding.remedy)).collect();
        if told.is_empty() { Ok(()) } else { Err(Trouble::Dns(told.join(". "))) }
    }
}

/// The keys that a name gets.
fn kinds(key_type: KeyType) -> &'static [KeyKind] {
    match key_type {
        KeyType::Ecdsa => &[KeyKind::Ecdsa],
        KeyType::Rsa => &[KeyKind::Rsa],
        KeyType::Both => &[KeyKind::Ecdsa, KeyKind::RsaTwin],
    }
}

/// Of what a CA has had enough: of this name, of its registered domain, or of the account as a whole (empty).
fn limited<'a>(text: &str, name: &'a str) -> &'a str {
    let domain = registered_domain(name);
    let quoted = |what: &str| text.contains(&format!("\"{what}\"")) || text.contains(&format!("[{what}]"));
    if quoted(name) {
        name
    } else if quoted(domain) {
        domain
    } else {
        ""
    }
}

fn identifier(chain: &[u8]) -> Option<CertificateIdentifier<'static>> {
    let leaf = CertificateDer::from_pem_slice(chain).ok()?;
    Some(CertificateIdentifier::try_from(&leaf).ok()?.into_owned())
}

/// What the folder of a certificate is called: its serial number, or where that cannot be read its digest.
fn serial(chain: &str) -> String {
    let id = identifier(chain.as_bytes());
    let serial = id.and_then(|id| BASE64_URL_SAFE_NO_PAD.decode(id.serial.as_bytes()).ok());
    serial.map_or_else(|| hex::encode(Sha256::digest(chain.as_bytes())), hex::encode)
}

/// A moment in a window (RFC 9773, 4.2); `share` from 0 to 1.
fn draw((start, end): (i64, i64), share: f64) -> i64 {
    let width = end.saturating_sub(start).max(0);
    start.saturating_add((width as f64 * share) as i64)
}

/// Does what waits for the disk, or computes long, where nobody waits for it.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> io::Result<T> + Send + 'static) -> Result<T, Trouble> {
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(|error| Trouble::Local(error.to_string()))?.map_err(|error| Trouble::Local(error.to_string()))
}

fn millis(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}
