//! Any bytes as the body of `POST /events`; what decodes must come back the same from its own encoding.

#![no_main]

use libfuzzer_sys::fuzz_target;
use pixelgate::event::Arrival;
use pixelgate::event::decode::{gateway, graph};

fuzz_target!(|body: &[u8]| {
    if let Ok(decoded) = gateway::decode(body, &Arrival::default()) {
        let (mut once, mut twice) = (Vec::new(), Vec::new());
        decoded.event.encode(&mut once);
        graph::decode_stored(&once).expect("what was encoded decodes").encode(&mut twice);
        assert_eq!(once, twice);
    }
});
