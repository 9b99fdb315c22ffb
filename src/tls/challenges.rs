//! What an ACME server may ask for now, to see that a name is ours; and what a person may, to see that it is us who answers.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use sha2::{Digest, Sha256};

use crate::account::ServerName;
use crate::tls::Credential;

/// What a token begins with that is no challenge: its answer is a sign of the process that gives it, and is another one for
/// each name and for what follows in the token. Whoever asks us, and then elsewhere, learns whether that leads to us.
pub const SIGN: &str = "pixelgate-sign-";

/// The open challenges of every name. Shared by issuance, which writes them, and the edge, which answers them.
pub struct Challenges {
    open: RwLock<HashMap<ServerName, Vec<Challenge>>>,
    begun: AtomicU64,
    /// What no other process can know.
    secret: [u8; 32],
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

impl Default for Challenges {
    fn default() -> Self {
        Self { open: RwLock::default(), begun: AtomicU64::default(), secret: rand::random() }
    }
}

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
        if token.starts_with(SIGN) {
            let sign = Sha256::new().chain_update(self.secret).chain_update(name).chain_update("/").chain_update(token);
            return Some(hex::encode(sign.finalize()));
        }
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
    fn a_sign_is_of_one_process_one_name_and_one_token() {
        let (ours, others) = (Challenges::default(), Challenges::default());
        let sign = |of: &Challenges, name: &str, end: &str| of.http_answer(name, &format!("{SIGN}{end}")).unwrap();
        let first = sign(&ours, "a.example", "1");
        assert_eq!((first.len(), sign(&ours, "a.example", "1")), (64, first.clone()));
        for other in [sign(&others, "a.example", "1"), sign(&ours, "b.example", "1"), sign(&ours, "a.example", "2")] {
            assert_ne!(first, other);
        }
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
