//! Any bytes as a chain and, after the first zero byte, its key: they are refused or are a credential. What a glance finds,
//! parsing finds as well; it may only find that the key's private half is none.

#![no_main]

use libfuzzer_sys::fuzz_target;
use pixelgate::tls::{Credential, CredentialError};

fuzz_target!(|bytes: &[u8]| {
    let mut parts = bytes.splitn(2, |byte| *byte == 0);
    let (chain, key) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
    let parsed = Credential::parse(chain, key);
    if let Err(error) = &parsed {
        assert!(!error.to_string().is_empty());
    }
    if let Some(glance) = Credential::glance(chain, key) {
        match parsed {
            Ok(parsed) => {
                assert_eq!((glance.not_before, glance.not_after), (parsed.not_before(), parsed.not_after()));
                assert_eq!(glance.names, parsed.names());
            }
            Err(error) => assert_eq!(error, CredentialError::Key),
        }
    }
});
