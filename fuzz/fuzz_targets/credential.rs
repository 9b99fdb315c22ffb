//! Any bytes as a chain and, after the first zero byte, its key: they are refused or are a credential.

#![no_main]

use libfuzzer_sys::fuzz_target;
use pixelgate::tls::Credential;

fuzz_target!(|bytes: &[u8]| {
    let mut parts = bytes.splitn(2, |byte| *byte == 0);
    let (chain, key) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
    if let Err(error) = Credential::parse(chain, key) {
        assert!(!error.to_string().is_empty());
    }
});
