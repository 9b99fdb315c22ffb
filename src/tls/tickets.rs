//! The keys of session tickets (RFC 5077, RFC 8446 4.6.1): kept over a restart, so that visitors resume after it, and
//! changed regularly, so that a stolen key opens little.
//!
//! The newest key makes tickets. A key is taken for as long again after the next one came, and then forgotten.

use std::fmt;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use boring::hash::MessageDigest;
use boring::hmac::HmacCtxRef;
use boring::symm::{Cipher, CipherCtxRef};
use pingora::tls::error::ErrorStack;
use pingora::tls::ssl::{SslAcceptorBuilder, TicketKeyCallbackResult};

use crate::tls::disk;

/// Names the format.
const MAGIC: &[u8] = b"pixelgate ticket keys 1\n";
/// Bytes of one key on disk: when it was made, its name, two secrets.
const KEY_BYTES: usize = 8 + 16 + 32 + 32;

/// The keys in use, the newest first.
pub struct TicketKeys {
    path: PathBuf,
    keys: ArcSwap<Vec<TicketKey>>,
}

#[derive(Clone, PartialEq, Eq)]
struct TicketKey {
    /// Unix seconds.
    made_at: i64,
    name: [u8; 16],
    cipher: [u8; 32],
    mac: [u8; 32],
}

// === impl TicketKeys ===

impl TicketKeys {
    /// Takes up the keys in a file; a file that is not there or damaged is like one without keys. There are none to use
    /// before the first [`TicketKeys::rotate`].
    pub fn open(path: PathBuf) -> Self {
        let keys = std::fs::read(&path).ok().and_then(|bytes| decode(&bytes)).unwrap_or_default();
        Self { path, keys: ArcSwap::from_pointee(keys) }
    }

    /// Makes a new key if the newest is `every` old at `now` (Unix seconds), and forgets those that are too old. Blocks
    /// while the file is written.
    ///
    /// # Errors
    /// When the file cannot be written: the new key is used all the same, but not kept over a restart.
    pub fn rotate(&self, every: Duration, now: i64) -> io::Result<()> {
        let every = i64::try_from(every.as_secs()).unwrap_or(i64::MAX).max(1);
        // A clock that went back leaves keys of the future: they are as new as can be, and not for ever.
        let age = |key: &TicketKey| {
            now.saturating_sub(key.made_at).max(key.made_at.saturating_sub(now).saturating_sub(every))
        };
        let before = self.keys.load();
        if before.first().is_some_and(|newest| age(newest) < every) {
            return Ok(());
        }
        let mut keys = vec![TicketKey::new(now).map_err(io::Error::other)?];
        keys.extend(before.iter().filter(|key| age(key) < every.saturating_mul(2)).cloned());
        let written = disk::replace(&self.path, &encode(&keys));
        self.keys.store(Arc::new(keys));
        written
    }

    /// Lets handshakes make and take tickets with these keys.
    #[allow(unsafe_code)]
    pub fn install(self: Arc<Self>, builder: &mut SslAcceptorBuilder) {
        // SAFETY: the binding wants the callback to set name, initialisation vector and both contexts whenever it says
        // success, as SSL_CTX_set_tlsext_ticket_key_cb asks; `seal` and `open_with` do so in full or report failure.
        unsafe {
            builder.set_ticket_key_callback(move |_, name, iv, cipher, mac, encrypt| {
                let done = if encrypt { self.seal(name, iv, cipher, mac) } else { self.unseal(name, iv, cipher, mac) };
                // Without a ticket there is a full handshake: never a reason to fail.
                done.unwrap_or(TicketKeyCallbackResult::Noop)
            });
        }
    }

    fn seal(
        &self,
        name: &mut [u8; 16],
        iv: &mut [u8; 16],
        cipher: &mut CipherCtxRef,
        mac: &mut HmacCtxRef,
    ) -> Result<TicketKeyCallbackResult, ErrorStack> {
        let keys = self.keys.load();
        let Some(key) = keys.first() else {
            return Ok(TicketKeyCallbackResult::Noop);
        };
        boring::rand::rand_bytes(iv)?;
        cipher.init_encrypt(&Cipher::aes_256_cbc(), &key.cipher, iv)?;
        mac.init(&key.mac, &MessageDigest::sha256())?;
        *name = key.name;
        Ok(TicketKeyCallbackResult::Success)
    }

    fn unseal(
        &self,
        name: &[u8; 16],
        iv: &[u8; 16],
        cipher: &mut CipherCtxRef,
        mac: &mut HmacCtxRef,
    ) -> Result<TicketKeyCallbackResult, ErrorStack> {
        let keys = self.keys.load();
        let Some((age, key)) = keys.iter().enumerate().find(|(_, key)| key.name == *name) else {
            return Ok(TicketKeyCallbackResult::Noop);
        };
        cipher.init_decrypt(&Cipher::aes_256_cbc(), &key.cipher, iv)?;
        mac.init(&key.mac, &MessageDigest::sha256())?;
        Ok(if age == 0 { TicketKeyCallbackResult::Success } else { TicketKeyCallbackResult::DecryptSuccessRenew })
    }
}

impl fmt::Debug for TicketKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TicketKeys").field("path", &self.path).finish_non_exhaustive()
    }
}

// === impl TicketKey ===

impl TicketKey {
    fn new(now: i64) -> Result<Self, ErrorStack> {
        let mut key = Self { made_at: now, name: [0; 16], cipher: [0; 32], mac: [0; 32] };
        for secret in [&mut key.name[..], &mut key.cipher, &mut key.mac] {
            boring::rand::rand_bytes(secret)?;
        }
        Ok(key)
    }
}

fn encode(keys: &[TicketKey]) -> Vec<u8> {
    let mut bytes = MAGIC.to_vec();
    for key in keys {
        bytes.extend(key.made_at.to_le_bytes());
        bytes.extend([&key.name[..], &key.cipher, &key.mac].concat());
    }
    bytes.extend(crc32c::crc32c(&bytes).to_le_bytes());
    bytes
}

fn decode(bytes: &[u8]) -> Option<Vec<TicketKey>> {
    let (bytes, sum) = bytes.split_last_chunk()?;
    if crc32c::crc32c(bytes) != u32::from_le_bytes(*sum) {
        return None;
    }
    let (keys, []) = bytes.strip_prefix(MAGIC)?.as_chunks::<KEY_BYTES>() else {
        return None;
    };
    let key = |bytes: &[u8; KEY_BYTES]| {
        let (made_at, rest) = bytes.split_first_chunk()?;
        let (name, rest) = rest.split_first_chunk()?;
        let (cipher, rest) = rest.split_first_chunk()?;
        let (mac, _) = rest.split_first_chunk()?;
        Some(TicketKey { made_at: i64::from_le_bytes(*made_at), name: *name, cipher: *cipher, mac: *mac })
    };
    keys.iter().map(key).collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing)]
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    const DAY: Duration = Duration::from_secs(86_400);

    fn names(keys: &TicketKeys) -> Vec<[u8; 16]> {
        keys.keys.load().iter().map(|key| key.name).collect()
    }

    #[test]
    fn keys_survive_a_restart_and_end_after_their_overlap() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("ticket.keys");
        let keys = TicketKeys::open(path.clone());
        assert!(names(&keys).is_empty());
        keys.rotate(DAY, 0).unwrap();
        keys.rotate(DAY, 86_399).unwrap();
        let first = names(&keys);
        assert_eq!(first.len(), 1);
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        let again = TicketKeys::open(path.clone());
        assert_eq!(names(&again), first);
        again.rotate(DAY, 86_400).unwrap();
        assert_eq!(names(&again).len(), 2);
        assert_eq!(names(&again)[1], first[0], "the old one is still taken");
        again.rotate(DAY, 2 * 86_400).unwrap();
        assert!(names(&again).len() == 2 && !names(&again).contains(&first[0]));
        // Long down: what is too old is not taken up.
        let late = TicketKeys::open(path);
        late.rotate(DAY, 10 * 86_400).unwrap();
        assert_eq!(names(&late).len(), 1);
    }

    #[test]
    fn a_clock_that_goes_back_does_not_keep_a_key_for_ever() {
        let dir = tempfile::tempdir().unwrap();
        let keys = TicketKeys::open(dir.path().join("ticket.keys"));
        keys.rotate(DAY, 1_000_000_000).unwrap();
        keys.rotate(DAY, 1_000).unwrap();
        assert_eq!(names(&keys).len(), 1);
        assert_eq!(keys.keys.load()[0].made_at, 1_000);
    }

    #[test]
    fn a_damaged_file_is_like_none_and_one_that_cannot_be_written_is_no_end() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("ticket.keys");
        let keys = TicketKeys::open(path.clone());
        keys.rotate(DAY, 0).unwrap();
        let mut bytes = std::fs::read(&path).unwrap();
        bytes[30] ^= 1;
        std::fs::write(&path, bytes).unwrap();
        assert!(names(&TicketKeys::open(path)).is_empty());
        let nowhere = TicketKeys::open(dir.path().join("missing/ticket.keys"));
        assert!(nowhere.rotate(DAY, 0).is_err());
        assert_eq!(names(&nowhere).len(), 1);
    }
}
