//! What a CA says to anybody who asks, and the library keeps to itself or to accounts: its directory (RFC 8555, 7.1.1), and
//! when it wants a certificate renewed (RFC 9773).

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use http::StatusCode;
use instant_acme::{CertificateIdentifier, RenewalInfo, SuggestedWindow};
use serde::Deserialize;
use tokio::time::timeout;

use crate::config::AcmeAccount;
use crate::issuance::budget::millis;
use crate::issuance::transport::Transport;
use crate::issuance::trouble::Trouble;

/// How long what was read is believed.
const GOOD_FOR: Duration = Duration::from_secs(24 * 60 * 60);
/// How long a directory is left alone that could not be read.
const AGAIN_AFTER: Duration = Duration::from_secs(5 * 60);
/// How long it may take to answer: a person waits.
const PATIENCE: Duration = Duration::from_secs(5);

/// CAs by their directories.
#[derive(Default)]
pub(super) struct Directories {
    known: Mutex<HashMap<String, Known>>,
}

#[derive(Clone)]
struct Known {
    /// `None` = its directory could not be read.
    ca: Option<Arc<Ca>>,
    until_ms: i64,
}

/// What a directory says, and the way to the CA.
struct Ca {
    transport: Transport,
    /// What the CA is called in CAA records.
    identities: Arc<[String]>,
    /// Where it says when it wants certificates renewed.
    renewal_info: Option<String>,
}

/// The document, as far as it counts here.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Directory {
    #[serde(default)]
    meta: Meta,
    renewal_info: Option<String>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Meta {
    #[serde(default)]
    caa_identities: Vec<String>,
}

// === impl Directories ===

impl Directories {
    /// What the account's CA is called in CAA records; empty = it does not say, or cannot be asked.
    pub(super) async fn caa_identities(&self, account: &AcmeAccount, now_ms: i64) -> Arc<[String]> {
        let ca = match self.known(&account.directory, now_ms) {
            Some(known) => known.ca,
            None => match self.read(account, now_ms).await {
                Ok(ca) => Some(ca),
                Err(reason) => {
                    tracing::warn!(directory = account.directory, reason, "the CA's directory cannot be read");
                    None
                }
            },
        };
        ca.map_or_else(|| Arc::from([]), |ca| ca.identities.clone())
    }

    /// When the account's CA wants a certificate renewed, and when it wants to be asked again (Unix milliseconds); `None` =
    /// it says nothing of it. No account is needed for that: it is not told of.
    pub(super) async fn window(
        &self,
        account: &AcmeAccount,
        id: &CertificateIdentifier<'_>,
        now_ms: i64,
    ) -> Result<Option<(SuggestedWindow, Option<i64>)>, Trouble> {
        let ca = match self.known(&account.directory, now_ms).and_then(|known| known.ca) {
            Some(ca) => ca,
            None => self.read(account, now_ms).await.map_err(Trouble::Unreachable)?,
        };
        let Some(url) = &ca.renewal_info else { return Ok(None) };
        let answer = ca.transport.get(&format!("{url}/{id}")).await.map_err(|reason| {
            // The CA may have moved, or its `ca_file` been renewed.
            self.known.lock().unwrap_or_else(PoisonError::into_inner).remove(&account.directory);
            Trouble::Unreachable(reason)
        })?;
        match answer.status {
            // Another CA's certificate.
            StatusCode::NOT_FOUND => Ok(None),
            status if status.is_success() => {
                let info: RenewalInfo =
                    serde_json::from_slice(&answer.body).map_err(|error| Trouble::Refused(error.to_string()))?;
                Ok(Some((info.suggested_window, answer.again_ms)))
            }
            status => Err(Trouble::of_status(status.as_u16(), &answer.body)),
        }
    }

    /// Forgets all CAs but those of these accounts.
    pub(super) fn retain(&self, accounts: &[Arc<AcmeAccount>]) {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.retain(|directory, _| accounts.iter().any(|account| account.directory == *directory));
    }

    fn known(&self, directory: &str, now_ms: i64) -> Option<Known> {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner).get(directory).cloned()?;
        let left = known.until_ms.saturating_sub(now_ms);
        (left > 0 && left <= millis(GOOD_FOR)).then_some(known)
    }

    async fn read(&self, account: &AcmeAccount, now_ms: i64) -> Result<Arc<Ca>, String> {
        let read = timeout(PATIENCE, read(account)).await.unwrap_or_else(|_| Err("it does not answer".to_owned()));
        let read = read.map(Arc::new);
        let good_for = if read.is_ok() { GOOD_FOR } else { AGAIN_AFTER };
        let known = Known { ca: read.as_ref().ok().cloned(), until_ms: now_ms.saturating_add(millis(good_for)) };
        self.known.lock().unwrap_or_else(PoisonError::into_inner).insert(account.directory.clone(), known);
        read
    }
}

async fn read(account: &AcmeAccount) -> Result<Ca, String> {
    let transport = Transport::open(account).await?;
    let answer = transport.get(&account.directory).await?;
    if !answer.status.is_success() {
        return Err(format!("{} answers {}", account.directory, answer.status));
    }
    let directory: Directory = serde_json::from_slice(&answer.body).map_err(|error| error.to_string())?;
    Ok(Ca { transport, identities: directory.meta.caa_identities.into(), renewal_info: directory.renewal_info })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn what_counts_is_read_where_it_is() {
        let read = |text: &str| serde_json::from_str::<Directory>(text).unwrap();
        let identities = |text: &str| read(text).meta.caa_identities;
        assert_eq!(identities(r#"{"newNonce":"x","meta":{"caaIdentities":["letsencrypt.org"]}}"#), ["letsencrypt.org"]);
        assert_eq!(identities(r#"{"meta":{"termsOfService":"x"}}"#), [""; 0]);
        assert_eq!(identities(r#"{"newNonce":"x"}"#), [""; 0]);
        let renewal_info = read(r#"{"renewalInfo":"https://ca.example/ari"}"#).renewal_info;
        assert_eq!(renewal_info.as_deref(), Some("https://ca.example/ari"));
    }
}
