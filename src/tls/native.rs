//! The little of BoringSSL that its Rust binding does not have: credentials that many connections share, a pool in which
//! equal certificates are kept once, the session id context of one connection, and how many tickets it gets. All of our `unsafe` for TLS is here,
//! but for one line in `tickets`.
#![allow(unsafe_code)]

use std::ffi::c_int;
use std::ptr::{self, NonNull};

use foreign_types::ForeignTypeRef;
use pingora::tls::error::ErrorStack;
use pingora::tls::pkey::{Id, PKey, Private};
use pingora::tls::ssl::{SslContextBuilder, SslRef};
use pingora::tls::ssl_sys as ffi;

/// With what a handshake may be signed: Mozilla's intermediate profile, which has no SHA-1.
const SIGNATURES: [u16; 9] = [
    ffi::SSL_SIGN_ECDSA_SECP256R1_SHA256 as u16,
    ffi::SSL_SIGN_RSA_PSS_RSAE_SHA256 as u16,
    ffi::SSL_SIGN_RSA_PKCS1_SHA256 as u16,
    ffi::SSL_SIGN_ECDSA_SECP384R1_SHA384 as u16,
    ffi::SSL_SIGN_RSA_PSS_RSAE_SHA384 as u16,
    ffi::SSL_SIGN_RSA_PKCS1_SHA384 as u16,
    ffi::SSL_SIGN_ECDSA_SECP521R1_SHA512 as u16,
    ffi::SSL_SIGN_RSA_PSS_RSAE_SHA512 as u16,
    ffi::SSL_SIGN_RSA_PKCS1_SHA512 as u16,
];

/// Keeps certificates that many chains have, the intermediates, once. What is in it may outlive it.
pub(super) struct Pool(NonNull<ffi::CRYPTO_BUFFER_POOL>);

/// A chain and its key in BoringSSL's own form, complete and never changed again.
pub(super) struct NativeCredential(NonNull<ffi::SSL_CREDENTIAL>);

/// One certificate; a counted reference.
struct Buffer(NonNull<ffi::CRYPTO_BUFFER>);

// === impl Pool ===

// SAFETY: a pool is a hash table behind a lock of its own (crypto/pool/pool.cc: every use takes `handle_->lock_`), and it
// counts its references atomically.
unsafe impl Send for Pool {}
// SAFETY: as above.
unsafe impl Sync for Pool {}

impl Pool {
    /// An empty one; `None` when there is no memory left.
    pub(super) fn new() -> Option<Self> {
        // SAFETY: takes nothing; what it returns is ours, or null.
        NonNull::new(unsafe { ffi::CRYPTO_BUFFER_POOL_new() }).map(Self)
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        // SAFETY: our one reference, given back once. Buffers that are still in use hold the pool's lock by a reference of
        // their own and find the pool gone.
        unsafe { ffi::CRYPTO_BUFFER_POOL_free(self.0.as_ptr()) }
    }
}

// === impl Buffer ===

impl Buffer {
    fn new(der: &[u8], pool: Option<&Pool>) -> Result<Self, ErrorStack> {
        let pool = pool.map_or(ptr::null_mut(), |pool| pool.0.as_ptr());
        // SAFETY: `der` is readable for its length and is copied; `pool` is a live pool or null, which means none.
        let buffer = unsafe { ffi::CRYPTO_BUFFER_new(der.as_ptr(), der.len(), pool) };
        NonNull::new(buffer).map(Self).ok_or_else(ErrorStack::get)
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        // SAFETY: our one reference, given back once.
        unsafe { ffi::CRYPTO_BUFFER_free(self.0.as_ptr()) }
    }
}

// === impl NativeCredential ===

// SAFETY: it is completed in `new` before anybody else sees it, and only read after that: connections take counted
// references (the count is atomic), and BoringSSL documents a credential as shareable between threads once configured.
// Its key is an EVP_PKEY, which may be used for signing from many threads at once.
unsafe impl Send for NativeCredential {}
// SAFETY: as above.
unsafe impl Sync for NativeCredential {}

impl NativeCredential {
    /// Makes one of certificates (DER, leaf first) and the leaf's key, nobody else's. The leaf is one of a kind; the others
    /// are shared in the pool.
    ///
    /// # Errors
    /// When the leaf's key is of a kind that TLS has no signatures for, or is not `key`.
    pub(super) fn new(chain: &[Vec<u8>], key: PKey<Private>, pool: Option<&Pool>) -> Result<Self, ErrorStack> {
        let one = |(index, der): (usize, &Vec<u8>)| Buffer::new(der, pool.filter(|_| index > 0));
        let buffers = chain.iter().enumerate().map(one).collect::<Result<Vec<_>, _>>()?;
        let pointers: Vec<_> = buffers.iter().map(|buffer| buffer.0.as_ptr()).collect();
        // SAFETY: takes nothing; what it returns is ours, or null.
        let made = unsafe { ffi::SSL_CREDENTIAL_new_x509() };
        let made = Self(NonNull::new(made).ok_or_else(ErrorStack::get)?);
        // SAFETY: `made` is live and nobody else's; `pointers` are live buffers, of which it takes references of its own.
        succeeded(unsafe { ffi::SSL_CREDENTIAL_set1_cert_chain(made.0.as_ptr(), pointers.as_ptr(), pointers.len()) })?;
        // SAFETY: both are live; it takes a reference of its own to the key.
        succeeded(unsafe { ffi::SSL_CREDENTIAL_set1_private_key(made.0.as_ptr(), key.as_ptr()) })?;
        // SAFETY: it is live, and takes a copy of the numbers.
        succeeded(unsafe {
            ffi::SSL_CREDENTIAL_set1_signing_algorithm_prefs(made.0.as_ptr(), SIGNATURES.as_ptr(), SIGNATURES.len())
        })?;
        if key.id() == Id::EC {
            // Its public half was compared and is in the leaf; signing needs the private one only. It is a tenth of a
            // credential. What is returned says that there is none now (`EC_KEY_set_public_key`, ec_key.cc.inc).
            // SAFETY: the key is an EC key, live, and used by nobody yet but `made`, which takes no part of it; null stands
            // for no point.
            unsafe { ffi::EC_KEY_set_public_key(ffi::EVP_PKEY_get0_EC_KEY(key.as_ptr()), ptr::null()) };
        }
        Ok(made)
    }

    /// Offers it in a handshake, after those offered before.
    ///
    /// # Errors
    /// When BoringSSL has no memory left.
    pub(super) fn install(&self, ssl: &mut SslRef) -> Result<(), ErrorStack> {
        // SAFETY: both are live; the connection takes a reference of its own.
        succeeded(unsafe { ffi::SSL_add1_credential(ssl.as_ptr(), self.0.as_ptr()) })
    }
}

impl Clone for NativeCredential {
    fn clone(&self) -> Self {
        // SAFETY: it is live; the reference that is counted here is the new value's own.
        unsafe { ffi::SSL_CREDENTIAL_up_ref(self.0.as_ptr()) };
        Self(self.0)
    }
}

impl Drop for NativeCredential {
    fn drop(&mut self) {
        // SAFETY: our one reference, given back once; connections that use it have their own.
        unsafe { ffi::SSL_CREDENTIAL_free(self.0.as_ptr()) }
    }
}

/// Sessions of a connection are resumed only by connections with the same context.
///
/// # Errors
/// When BoringSSL has no memory left.
pub fn set_session_context(ssl: &mut SslRef, context: &[u8; 32]) -> Result<(), ErrorStack> {
    // SAFETY: `ssl` is live; the 32 bytes, the most there may be, are copied.
    succeeded(unsafe { ffi::SSL_set_session_id_context(ssl.as_ptr(), context.as_ptr(), context.len()) })
}

/// Sends one session ticket after a handshake of TLS 1.3; BoringSSL's default is two. A visitor keeps one connection, or a
/// few that began together.
///
/// # Errors
/// Never, as BoringSSL is today.
pub fn send_one_ticket(builder: &mut SslContextBuilder) -> Result<(), ErrorStack> {
    // SAFETY: the context is live and nobody else's yet.
    succeeded(unsafe { ffi::SSL_CTX_set_num_tickets(builder.as_ptr(), 1) })
}

fn succeeded(result: c_int) -> Result<(), ErrorStack> {
    if result == 1 { Ok(()) } else { Err(ErrorStack::get()) }
}
