//! Any bytes as what `cert import` finds in a file: they are left out, or put together to what a handshake can use. What is
//! written of a chain is read again.

#![no_main]

use libfuzzer_sys::fuzz_target;
use pixelgate::tls::chain::{Chain, Pile};
use pixelgate::tls::{Credential, CredentialError};

fuzz_target!(|bytes: &[u8]| {
    let mut pile = Pile::default();
    assert!(pile.add(bytes) || pile.is_empty());
    for bundle in pile.bundles() {
        again(&bundle.chain);
        // Of some kinds of key nothing is written.
        let (Some(chain), Some(key)) = (bundle.chain.to_pem(), bundle.key_pem()) else { continue };
        assert!(matches!(Credential::parse(&chain, &key), Ok(_) | Err(CredentialError::Unsupported)));
    }
    assert!(pile.keyless().is_sorted());
    Chain::from_pem(bytes).iter().for_each(again);
});

fn again(chain: &Chain) {
    let pem = chain.to_pem().expect("PEM");
    assert_eq!(Chain::from_pem(&pem).and_then(|chain| chain.to_der()), chain.to_der());
}
