//! Any bytes as the body of a Graph-compatible route; what decodes must come back the same from its own encoding.

#![no_main]

use libfuzzer_sys::fuzz_target;
use pixelgate::event::Arrival;
use pixelgate::event::decode::{GraphRequest, graph};

fuzz_target!(|body: &[u8]| {
    for content_type in [None, Some("application/json"), Some("multipart/form-data; boundary=b")] {
        let request = GraphRequest { content_type, body, ..GraphRequest::default() };
        let _ = graph::access_token(&request);
        let decoded = graph::decode(request, &Arrival::default(), 1_000);
        for event in decoded.into_iter().flat_map(|decoded| decoded.events) {
            let (mut once, mut twice) = (Vec::new(), Vec::new());
            event.encode(&mut once);
            graph::decode_stored(&once).expect("what was encoded decodes").encode(&mut twice);
            assert_eq!(once, twice);
        }
    }
});
