//! The accounts at the CAs: each made once, its key kept in `<data_dir>/acme/<name>-<directory>/account.json` (0600).

use std::collections::HashMap;
use std::fs::{self, DirBuilder};
use std::io::ErrorKind;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use base64::Engine;
use base64::prelude::{BASE64_URL_SAFE, BASE64_URL_SAFE_NO_PAD};
use instant_acme::{Account, AccountCredentials, ExternalAccountKey, NewAccount};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::config::{AcmeAccount, ExternalAccount};
use crate::issuance::fault::Fault;
use crate::issuance::transport::Transport;
use crate::issuance::trouble::Trouble;
use crate::tls::disk::replace;

/// What is kept of an account.
const FILE: &str = "account.json";

/// The accounts that orders are made with.
pub(super) struct Accounts {
    dir: PathBuf,
    /// One door for each account, so that a CA that does not answer keeps nobody else waiting.
    doors: Mutex<HashMap<String, Arc<Door>>>,
}

type Door = tokio::sync::Mutex<Option<Open>>;

/// An account in use, and the configuration that it was opened by.
struct Open {
    config: Arc<AcmeAccount>,
    account: Account,
}

/// The file.
#[derive(Serialize, Deserialize)]
struct Kept {
    email: String,
    credentials: AccountCredentials,
}

// === impl Accounts ===

impl Accounts {
    /// The accounts whose keys are in this folder.
    pub(super) fn new(dir: PathBuf) -> Self {
        Self { dir, doors: Mutex::default() }
    }

    /// The account that a configuration names: in use already, restored from its file, or made at the CA.
    pub(super) async fn get(&self, config: &Arc<AcmeAccount>) -> Result<Account, Trouble> {
        let door = self.door(&config.name);
        let mut open = door.lock().await;
        if let Some(open) = open.as_ref().filter(|open| open.config == *config) {
            return Ok(open.account.clone());
        }
        let account = self.open(config).await?;
        *open = Some(Open { config: config.clone(), account: account.clone() });
        Ok(account)
    }

    /// Puts aside the key of an account that its CA does not know any more, unless another was made meanwhile: orders in
    /// flight hear of it together.
    pub(super) async fn forget(&self, config: &AcmeAccount, id: Option<&str>) -> Result<(), Trouble> {
        let door = self.door(&config.name);
        let mut open = door.lock().await;
        if open.as_ref().is_some_and(|open| Some(open.account.id()) != id) {
            return Ok(());
        }
        *open = None;
        let file = self.folder(config).join(FILE);
        on_disk(move || match fs::rename(&file, file.with_extension("json.gone")) {
            Err(error) if error.kind() != ErrorKind::NotFound => Err(local(&file, &error)),
            _ => Ok(()),
        })
        .await
    }

    /// Forgets all accounts but these: their connections and secrets.
    pub(super) fn retain(&self, accounts: &[Arc<AcmeAccount>]) {
        let mut doors = self.doors.lock().unwrap_or_else(PoisonError::into_inner);
        doors.retain(|name, _| accounts.iter().any(|account| account.name == *name));
    }

    fn door(&self, name: &str) -> Arc<Door> {
        let mut doors = self.doors.lock().unwrap_or_else(PoisonError::into_inner);
        doors.entry(name.to_owned()).or_default().clone()
    }

    /// A folder for each account and CA: another directory means another account.
    fn folder(&self, config: &AcmeAccount) -> PathBuf {
        let digest = hex::encode(Sha256::digest(config.directory.as_bytes()));
        self.dir.join(format!("{}-{}", config.name, digest.get(..12).unwrap_or_default()))
    }

    async fn open(&self, config: &AcmeAccount) -> Result<Account, Trouble> {
        let folder = self.folder(config);
        let file = folder.join(FILE);
        let kept = on_disk(move || read(&file)).await?;
        let transport = Transport::open(config).await.map_err(|why| Trouble::of_way(config, why))?;
        let builder = Account::builder_with_http(Box::new(transport));
        let contact = format!("mailto:{}", config.email);
        let told = |error: instant_acme::Error| Trouble::of(&error);
        let Some(Kept { email, credentials }) = kept else {
            let external = config.external_account.as_ref().map(external_key).transpose()?;
            let new = NewAccount { contact: &[&contact], terms_of_service_agreed: true, only_return_existing: false };
            let made = builder.create(&new, config.directory.clone(), external.as_ref()).await;
            let (account, credentials) = made.map_err(told)?;
            let kept = Kept { email: config.email.clone(), credentials };
            on_disk(move || keep(&folder, &kept)).await?;
            tracing::info!(account = config.name, directory = config.directory, "an account was made at the CA");
            return Ok(account);
        };
        let bytes = serde_json::to_vec(&credentials).map_err(|error| Trouble::Local(error.to_string()))?;
        let account = builder.from_credentials(credentials).await.map_err(told)?;
        if email != config.email {
            account.update_contacts(&[&contact]).await.map_err(told)?;
            let credentials = serde_json::from_slice(&bytes).map_err(|error| Trouble::Local(error.to_string()))?;
            let kept = Kept { email: config.email.clone(), credentials };
            on_disk(move || keep(&folder, &kept)).await?;
        }
        Ok(account)
    }
}

/// Does what waits for the disk where nobody waits for it.
async fn on_disk<T: Send + 'static>(work: impl FnOnce() -> Result<T, Trouble> + Send + 'static) -> Result<T, Trouble> {
    tokio::task::spawn_blocking(work).await.map_err(|error| Trouble::Local(error.to_string()))?
}

/// What is kept of an account; `None` = it was never made.
fn read(file: &Path) -> Result<Option<Kept>, Trouble> {
    match fs::read(file) {
        Ok(bytes) => serde_json::from_slice(&bytes).map(Some).map_err(|error| {
            Trouble::Local(format!("{}: {error}; restore it from a backup, or move it away", file.display()))
        }),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(local(file, &error)),
    }
}

fn keep(folder: &Path, kept: &Kept) -> Result<(), Trouble> {
    let bytes = serde_json::to_vec_pretty(kept).map_err(|error| Trouble::Local(error.to_string()))?;
    let made = DirBuilder::new().recursive(true).mode(0o700).create(folder);
    made.and_then(|()| replace(&folder.join(FILE), &bytes)).map_err(|error| local(folder, &error))
}

/// RFC 8555, 7.3.4. CAs give the key in base64url, with padding or without.
fn external_key(external: &ExternalAccount) -> Result<ExternalAccountKey, Trouble> {
    let missing =
        || Trouble::Account(Fault::ExternalAccount, "the secret of external_account could not be read".to_owned());
    let secret = external.secret.as_ref().ok_or_else(missing)?;
    let text = secret.reveal().replace('+', "-").replace('/', "_");
    let key = BASE64_URL_SAFE_NO_PAD.decode(&text).or_else(|_| BASE64_URL_SAFE.decode(&text));
    let key = key.map_err(|_| {
        Trouble::Account(Fault::ExternalAccount, "the secret of external_account is not base64url".to_owned())
    })?;
    Ok(ExternalAccountKey::new(external.key_id.clone(), &key))
}

fn local(path: &Path, error: &std::io::Error) -> Trouble {
    Trouble::Local(format!("{}: {error}", path.display()))
}
