//! What an ACME server may ask for now, to see that a name is ours.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use crate::account::ServerName;
use crate::tls::Credential;

/// The open challenges of every name. Shared by issuance, which writes them, and the edge, which answers them.
#[derive(Default)]
pub struct Challenges {
    open: RwLock<HashMap<ServerName, Vec<Challenge>>>,
    begun: AtomicU64,
}

/// Answers for a name as long as it lives.
#[must_use = "the answer ends when this is dropped"]
pub struct Offered {
    challenges: Arc<Challenges>,
    name: ServerName,
    id: u64,
}

struct Challenge {
    id: u64,
    token: String,
    key_authorization: String,
    tls_alpn: Option<Arc<Credential>>,
}

// === impl Challenges ===

impl Challenges {
    /// Begins to answer for a name; ends when the guard is dropped. A name may have several challenges open.
    pub fn offer(
        self: &Arc<Self>,
        name: ServerName,
        token: String,
        key_authorization: String,
        tls_alpn: Option<Arc<Credential>>,
    ) -> Offered {
        let id = self.begun.fetch_add(1, Ordering::Relaxed);
        let mut open = self.open.write().unwrap_or_else(PoisonError::into_inner);
        open.entry(name.clone()).or_default().push(Challenge { id, token, key_authorization, tls_alpn });
        Offered { challenges: self.clone(), name, id }
    }

    /// RFC 8555, 8.3: the body for `GET /.well-known/acme-challenge/{token}` under this Host.
    pub fn http_answer(&self, name: &str, token: &str) -> Option<String> {
        let open = self.open.read().unwrap_or_else(PoisonError::into_inner);
        let challenge = open.get(name)?.iter().find(|challenge| challenge.token == token)?;
        Some(challenge.key_authorization.clone())
    }

    /// RFC 8737: the certificate for a handshake whose only ALPN protocol is `acme-tls/1`.
    pub fn tls_alpn_answer(&self, name: &str) -> Option<Arc<Credential>> {
        let open = self.open.read().unwrap_or_else(PoisonError::into_inner);
        open.get(name)?.iter().rev().find_map(|challenge| challenge.tls_alpn.clone())
    }
}

// === impl Offered ===

impl Drop for Offered {
    fn drop(&mut self) {
        let mut open = self.challenges.open.write().unwrap_or_else(PoisonError::into_inner);
        if let Entry::Occupied(mut entry) = open.entry(self.name.clone()) {
            entry.get_mut().retain(|challenge| challenge.id != self.id);
            if entry.get().is_empty() {
                entry.remove();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::tls::testing::Issued;

    #[test]
    fn a_challenge_is_answered_for_its_name_and_token_until_it_ends() {
        let challenges = Arc::new(Challenges::default());
        let name: ServerName = "a.example".parse().unwrap();
        let first = challenges.offer(name.clone(), "t1".into(), "t1.thumb".into(), None);
        let second = challenges.offer(name, "t2".into(), "t2.thumb".into(), None);
        assert_eq!(challenges.http_answer("a.example", "t1").as_deref(), Some("t1.thumb"));
        assert_eq!(challenges.http_answer("b.example", "t1"), None);
        assert_eq!(challenges.http_answer("a.example", "t3"), None);
        drop(first);
        assert_eq!(challenges.http_answer("a.example", "t1"), None);
        assert_eq!(challenges.http_answer("a.example", "t2").as_deref(), Some("t2.thumb"));
        drop(second);
        assert!(challenges.open.read().unwrap().is_empty());
    }

    #[test]
    fn a_handshake_is_answered_only_while_a_certificate_is_offered() {
        let challenges = Arc::new(Challenges::default());
        let issued = Issued::new(&["a.example"]);
        let credential = Credential::parse(issued.chain.as_bytes(), issued.key.as_bytes()).unwrap();
        let name: ServerName = "a.example".parse().unwrap();
        let offered = challenges.offer(name.clone(), "t".into(), "k".into(), Some(credential));
        let _other = challenges.offer(name, "u".into(), "l".into(), None);
        assert!(challenges.tls_alpn_answer("a.example").is_some());
        assert!(challenges.tls_alpn_answer("b.example").is_none());
        drop(offered);
        assert!(challenges.tls_alpn_answer("a.example").is_none());
    }
}
