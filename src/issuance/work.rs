//! One name's way to a certificate that is served.
//!
//! The key is on disk before the CA hears of it, what an order costs before it is sent, its URL before its challenge is
//! answered, and the chain before it is published. So a process that is killed anywhere goes on with the same order.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use instant_acme::{Account, CertificateIdentifier};
use rcgen::KeyPair;
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use sha2::{Digest, Sha256};

use crate::account::ServerName;
use crate::clock::now_ms;
use crate::config::{AcmeAccount, GatewayConfig, KeyType};
use crate::issuance::Shared;
use crate::issuance::book::Memory;
use crate::issuance::budget::Kind;
use crate::issuance::cause::is_of_look;
use crate::issuance::order::{self, Clerk, Request};
use crate::issuance::schedule::{Goal, Start};
use crate::issuance::state::{NameState, OpenOrder, Proof};
use crate::issuance::store::{KeyKind, Stage, Store};
use crate::issuance::transport::hearing;
use crate::issuance::trouble::Trouble;
use crate::tls::Credential;

/// An order and all it needs.
pub(super) struct Work {
    pub(super) shared: Arc<Shared>,
    pub(super) gateway: Arc<GatewayConfig>,
    pub(super) start: Start,
    /// What the order goes on with.
    begun: Option<OpenOrder>,
    /// What was found wrong in the name's DNS, if it is ordered in spite of that.
    pub(super) finding: Option<Box<str>>,
    /// The challenge that is tried first.
    proof: Proof,
    /// Whether a chain lies in the stage.
    part: AtomicBool,
    /// The account's id at the CA, once it is known.
    account_id: Mutex<Option<String>>,
}

// === impl Work ===

impl Work {
    /// What is to be done for a name of which this is known.
    pub(super) fn new(shared: Arc<Shared>, gateway: Arc<GatewayConfig>, start: Start, state: &NameState) -> Self {
        let begun = state.order.clone().filter(|_| start.goal == Goal::Resume);
        let part = AtomicBool::new(begun.as_ref().is_some_and(|order| order.part));
        let finding = state.error.clone().filter(|_| state.failed_with.as_deref().is_some_and(is_of_look));
        let proof = first_proof(state, !gateway.listen.http.is_empty());
        Self { shared, gateway, start, begun, finding, proof, part, account_id: Mutex::default() }
    }

    /// Gets the certificate, and writes down what came of it.
    pub(super) async fn run(self) {
        let (result, told) = hearing(self.issue()).await;
        let mut result = result.map_err(|trouble| trouble.of_order(self.start.name.as_str()));
        if result == Err(Trouble::AccountGone)
            && let Err(trouble) = self.forget_account().await
        {
            result = Err(trouble.of_account());
        }
        match &result {
            Ok(()) => tracing::info!(name = %self.start.name, account = self.start.account.name, "certificate issued"),
            Err(trouble) => tracing::warn!(
                name = %self.start.name, account = self.start.account.name, reason = trouble.reason(),
                "no certificate was issued"
            ),
        }
        self.shared.observer.ordered(result.as_ref().map_or_else(Trouble::label, |()| "issued"));
        self.settle(result, told, now_ms());
        if let Err(error) = self.shared.book.keep(now_ms()).await {
            tracing::error!(%error, "what came of an order cannot be written down");
        }
    }

    async fn issue(&self) -> Result<(), Trouble> {
        if self.start.goal != Goal::Show {
            self.make().await?;
        }
        self.shared.show(&self.start.name, &self.gateway).await
    }

    /// Orders what is missing, and publishes each key's certificate as soon as it is there.
    async fn make(&self) -> Result<(), Trouble> {
        let stage = self.stage().await?;
        let (missing, there) = self.missing(&stage).await?;
        if self.part.load(Ordering::Relaxed) && !there {
            // It was published, and the process killed before that was written down.
            return Ok(());
        }
        // Killed between a chain and the note of it, the order that is noted is that chain's: nothing more comes of it.
        let begun = self.begun.as_ref().filter(|order| order.part == there && !order.url.is_empty());
        if there {
            if !self.part.swap(true, Ordering::Relaxed) {
                self.note("").await?;
            }
            self.publish(&stage, missing.is_empty()).await?;
        }
        let mut url = begun.map(|order| &*order.url);
        for (n, kind) in missing.iter().enumerate() {
            self.shared.directories.check(&self.start.account, url.is_none(), now_ms()).await?;
            let account = self.account().await?;
            self.obtain(&account, &stage, *kind, url.take()).await?;
            self.publish(&stage, n + 1 == missing.len()).await?;
        }
        Ok(())
    }

    /// What is in the making: of the order that goes on, or nothing yet.
    async fn stage(&self) -> Result<Stage, Trouble> {
        let fresh = self.start.goal == Goal::Fresh;
        self.with_files(move |store, name| {
            if fresh {
                store.abandon(name)?;
            }
            store.stage(name)
        })
        .await
    }

    /// The keys for which no chain came yet, and whether one came for another.
    async fn missing(&self, stage: &Stage) -> Result<(Vec<KeyKind>, bool), Trouble> {
        let (stage, key_type) = (stage.clone(), self.gateway.acme.key_type);
        self.with_files(move |store, name| {
            let kinds = kinds(key_type, store.has_rsa(name)?);
            let mut missing = Vec::new();
            for kind in kinds {
                if stage.chain(*kind)?.is_none() {
                    missing.push(*kind);
                }
            }
            let there = missing.len() < kinds.len();
            Ok((missing, there))
        })
        .await
    }

    async fn account(&self) -> Result<Account, Trouble> {
        let account = self.shared.accounts.get(&self.start.account).await.map_err(Trouble::of_account)?;
        *self.account_id.lock().unwrap_or_else(PoisonError::into_inner) = Some(account.id().to_owned());
        Ok(account)
    }

    /// One order: a key, and the chain for it.
    async fn obtain(
        &self,
        account: &Account,
        stage: &Stage,
        kind: KeyKind,
        begun: Option<&str>,
    ) -> Result<(), Trouble> {
        let files = stage.clone();
        let key_pem = self.with_files(move |_, _| match files.key(kind)? {
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
            kind: self.plain_kind(),
            replaces,
            begun,
            proof: self.proof,
            challenges: &self.shared.challenges,
        };
        let obtained = order::obtain(request, self).await?;
        let credential = Credential::parse(obtained.chain.as_bytes(), key_pem.as_bytes());
        if !credential.is_ok_and(|credential| credential.covers(&self.start.name)) {
            return Err(Trouble::Lost);
        }
        let (chain, files) = (obtained.chain, stage.clone());
        self.with_files(move |_, _| files.put_chain(kind, &chain)).await?;
        self.shared.book.with(|memory| {
            memory.received(&self.start.name);
            let state = memory.change(&self.start.name);
            state.proof = obtained.proof.or(state.proof);
        });
        self.part.store(true, Ordering::Relaxed);
        self.note("").await
    }

    /// What the order is for if the CA does not take it as a replacement. The second of two keys is for a name that the
    /// CA has just issued for.
    fn plain_kind(&self) -> Kind {
        let name = &self.start.name;
        let at_this_ca = self.shared.book.with(|memory| {
            let known = memory.names.get(name).and_then(|state| state.issued_in.clone());
            known.as_deref() == Some(self.start.account.directory.as_str())
        });
        if at_this_ca { Kind::Renewal } else { Kind::New }
    }

    /// Makes what came the certificate that is served. What comes later is put beside it.
    async fn publish(&self, stage: &Stage, complete: bool) -> Result<(), Trouble> {
        let stage = stage.clone();
        if self.with_files(move |store, name| store.publish(name, &stage, complete, serial)).await? {
            self.shared.book.with(|memory| {
                let order = memory.names.get(&self.start.name).and_then(|state| state.order.clone());
                memory.change(&self.start.name).issued(&self.start.account, order, now_ms());
            });
        }
        self.shared.refresh(&self.start.name).await
    }

    async fn with_files<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Store, &ServerName) -> io::Result<T> + Send + 'static,
    ) -> Result<T, Trouble> {
        self.shared.with_files(&self.start.name, work).await
    }

    /// Keeps where the order is, durable when it returns.
    async fn note(&self, url: &str) -> Result<(), Trouble> {
        let (part, now_ms) = (self.part.load(Ordering::Relaxed), now_ms());
        let AcmeAccount { name, directory, .. } = &*self.start.account;
        let (account, directory) = (name.as_str().into(), directory.as_str().into());
        self.shared.book.with(|memory| {
            let state = memory.change(&self.start.name);
            // Of a second key it stays when the first one's chain came.
            let first = state.order.as_ref().filter(|order| part && order.part);
            let begun_ms = first.map_or(now_ms, |order| order.begun_ms);
            state.order = Some(OpenOrder { account, directory, url: url.into(), part, begun_ms });
        });
        self.shared.book.keep(now_ms).await.map_err(Trouble::Local)
    }

    /// Whether it goes on with an order that was at the CA when it began.
    pub(super) fn goes_on(&self) -> bool {
        self.begun.as_ref().is_some_and(|order| !order.url.is_empty())
    }

    async fn forget_account(&self) -> Result<(), Trouble> {
        let id = self.account_id.lock().unwrap_or_else(PoisonError::into_inner).clone();
        self.shared.accounts.forget(&self.start.account, id.as_deref()).await
    }
}

impl Clerk for Work {
    async fn pay(&self, kind: Kind) -> Result<(), Trouble> {
        let now_ms = now_ms();
        self.shared.book.with(|memory| memory.pay(&self.start.name, kind, now_ms));
        self.shared.book.keep(now_ms).await.map_err(Trouble::Local)
    }

    fn has_room(&self, kind: Kind) -> bool {
        let (start, now_ms) = (&self.start, now_ms());
        let ready = |memory: &mut Memory| memory.budgets.ready_at(&start.account, start.name.as_str(), kind, now_ms);
        self.shared.book.with(ready) <= now_ms
    }

    async fn remember(&self, url: &str) -> Result<(), Trouble> {
        self.note(url).await
    }
}

// === impl Shared ===

impl Shared {
    /// By what the CA knows the certificate that is served (RFC 9773, 4.1); `None` = it has no authority key identifier.
    pub(super) async fn identifier(&self, name: &ServerName, kind: KeyKind) -> Option<CertificateIdentifier<'static>> {
        let chain = self.with_files(name, move |store, name| store.live_chain(name, kind)).await.ok()?;
        identifier(&chain)
    }

    /// Does what waits for the disk with a name's files, or computes long, where nobody waits for it.
    pub(super) async fn with_files<T: Send + 'static>(
        &self,
        name: &ServerName,
        work: impl FnOnce(&Store, &ServerName) -> io::Result<T> + Send + 'static,
    ) -> Result<T, Trouble> {
        let (store, name) = (self.store.clone(), name.clone());
        let told = move || work(&store, &name).map_err(|error| Trouble::Local(store.told(&name, &error)));
        tokio::task::spawn_blocking(told).await.map_err(|error| Trouble::Local(error.to_string()))?
    }
}

/// What worked the last time is tried first, else HTTP-01; with each failure the other one.
fn first_proof(state: &NameState, on_port_80: bool) -> Proof {
    let usual = if on_port_80 { Proof::Http01 } else { Proof::TlsAlpn01 };
    let first = state.proof.filter(|proof| on_port_80 || *proof != Proof::Http01).unwrap_or(usual);
    if state.failures.is_multiple_of(2) || !on_port_80 { first } else { first.other() }
}

/// The keys that a name gets. One that is served with an RSA key gets another: some of its clients may know nothing else.
fn kinds(key_type: KeyType, has_rsa: bool) -> &'static [KeyKind] {
    match key_type {
        KeyType::Ecdsa if !has_rsa => &[KeyKind::Ecdsa],
        KeyType::Rsa => &[KeyKind::Rsa],
        KeyType::Ecdsa | KeyType::Both => &[KeyKind::Ecdsa, KeyKind::RsaTwin],
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
