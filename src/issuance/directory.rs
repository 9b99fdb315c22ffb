//! What a CA's directory says of the CA, and the library keeps to itself (RFC 8555, 7.1.1).

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde::Deserialize;
use tokio::time::timeout;

use crate::config::AcmeAccount;
use crate::issuance::budget::millis;
use crate::issuance::transport::Transport;

/// How long what was read is believed.
const GOOD_FOR: Duration = Duration::from_secs(24 * 60 * 60);
/// How long a directory is left alone that could not be read.
const AGAIN_AFTER: Duration = Duration::from_secs(5 * 60);
/// How long it may take to answer: a person waits.
const PATIENCE: Duration = Duration::from_secs(5);

/// The names of CAs in CAA records, by directory.
#[derive(Default)]
pub(super) struct Directories {
    known: Mutex<HashMap<String, Known>>,
}

#[derive(Clone)]
struct Known {
    identities: Arc<[String]>,
    until_ms: i64,
}

/// The document, as far as it counts here.
#[derive(Deserialize)]
struct Directory {
    #[serde(default)]
    meta: Meta,
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
        if let Some(known) = self.known(&account.directory, now_ms) {
            return known;
        }
        let answer = timeout(PATIENCE, read(account)).await;
        let (identities, good_for) = match answer.unwrap_or_else(|_| Err("it does not answer".to_owned())) {
            Ok(identities) => (identities.into(), GOOD_FOR),
            Err(reason) => {
                tracing::warn!(directory = account.directory, reason, "the CA's directory cannot be read");
                (Arc::from([]), AGAIN_AFTER)
            }
        };
        let known = Known { identities: Arc::clone(&identities), until_ms: now_ms.saturating_add(millis(good_for)) };
        self.known.lock().unwrap_or_else(PoisonError::into_inner).insert(account.directory.clone(), known);
        identities
    }

    fn known(&self, directory: &str, now_ms: i64) -> Option<Arc<[String]>> {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner).get(directory).cloned()?;
        let left = known.until_ms.saturating_sub(now_ms);
        (left > 0 && left <= millis(GOOD_FOR)).then_some(known.identities)
    }
}

async fn read(account: &AcmeAccount) -> Result<Vec<String>, String> {
    let transport = Transport::new(&account.directory, account.ca_file.as_deref())?;
    let document = transport.get(&account.directory).await?;
    let directory: Directory = serde_json::from_slice(&document).map_err(|error| error.to_string())?;
    Ok(directory.meta.caa_identities)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn the_identities_are_read_where_they_are() {
        let identities = |text: &str| serde_json::from_str::<Directory>(text).unwrap().meta.caa_identities;
        assert_eq!(identities(r#"{"newNonce":"x","meta":{"caaIdentities":["letsencrypt.org"]}}"#), ["letsencrypt.org"]);
        assert_eq!(identities(r#"{"meta":{"termsOfService":"x"}}"#), [""; 0]);
        assert_eq!(identities(r#"{"newNonce":"x"}"#), [""; 0]);
    }
}
