//! Any bytes as the query and as either kind of body of `/tr`; what decodes must come back the same from its own encoding.

#![no_main]

use libfuzzer_sys::fuzz_target;
use pixelgate::event::Arrival;
use pixelgate::event::decode::{Form, graph, pixel};

fuzz_target!(|input: &[u8]| {
    let query = std::str::from_utf8(input).unwrap_or_default();
    let multipart = Some("multipart/form-data; boundary=b");
    let forms = [
        Form { query, ..Form::default() },
        Form { body: input, ..Form::default() },
        Form { body: input, content_type: multipart, ..Form::default() },
    ];
    for decoded in forms.into_iter().flat_map(|form| pixel::decode(form, &Arrival::default(), 100).unwrap_or_default()) {
        let (mut once, mut twice) = (Vec::new(), Vec::new());
        decoded.event.encode(&mut once);
        graph::decode_stored(&once).expect("what was encoded decodes").encode(&mut twice);
        assert_eq!(once, twice);
    }
});
