//! What one event costs on its way in, without network and disk: decode, hash, encode.

#![allow(missing_docs, clippy::unwrap_used)]

use std::hint::black_box;

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use pixelgate::event::decode::{Form, GraphRequest, gateway, graph, pixel};
use pixelgate::event::{Arrival, Digest, UserData, UserKey};

/// As the pixel of a shop sends it: hashed in the browser.
const RECORDED: &str = include_str!("../tests/fixtures/decode/gateway/recorded.in");

/// With every key of the format, its identifiers as a person wrote them.
const EVERY_KEY: &str = include_str!("../tests/fixtures/decode/gateway/every_key.in");

/// As the pixel's own endpoint gets it.
const IMAGE: &str = include_str!("../tests/fixtures/decode/pixel/script.in");

fn arrival() -> Arrival {
    Arrival {
        now_ms: 1_790_000_000_123,
        client_ip: Some("203.0.113.7".parse().unwrap()),
        user_agent: Some("Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/140.0".into()),
        ..Arrival::default()
    }
}

fn decode(criterion: &mut Criterion) {
    let arrival = arrival();
    let mut group = criterion.benchmark_group("decode");
    group.throughput(Throughput::Elements(1));
    for (name, body) in [("gateway, recorded", RECORDED), ("gateway, every key", EVERY_KEY)] {
        group.bench_function(name, |bencher| {
            bencher.iter(|| gateway::decode(black_box(body.as_bytes()), &arrival).unwrap());
        });
    }
    group.bench_function("pixel", |bencher| {
        bencher.iter(|| pixel::decode(Form { query: black_box(IMAGE), ..Form::default() }, &arrival, 100).unwrap());
    });

    let mut event = Vec::new();
    gateway::decode(EVERY_KEY.as_bytes(), &arrival).unwrap().event.encode(&mut event);
    let body = [b"{\"data\":[".as_slice(), &vec![event; 1_000].join(&b','), b"]}"].concat();
    group.throughput(Throughput::Elements(1_000));
    group.sample_size(20);
    group.bench_function("graph, 1,000 events", |bencher| {
        let request = GraphRequest { body: &body, ..GraphRequest::default() };
        bencher.iter(|| graph::decode(black_box(request), &arrival, 1_000).unwrap());
    });
}

fn hash(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("hash");
    group.bench_function("digest", |bencher| bencher.iter(|| Digest::of(black_box("john_smith@gmail.com"))));
    for (name, key, raw) in [
        ("e-mail", UserKey::Email, " John_Smith@Gmail.com "),
        ("telephone", UserKey::Phone, "+1 (650) 555-1212"),
        ("name with accents", UserKey::LastName, "Émilie-Valéry"),
        ("country by name", UserKey::Country, "Zimbabwe"),
    ] {
        group.bench_function(name, |bencher| {
            bencher.iter_batched_ref(
                UserData::default,
                |user_data| user_data.add_text(key, black_box(raw)),
                BatchSize::SmallInput,
            );
        });
    }
}

fn encode(criterion: &mut Criterion) {
    let event = gateway::decode(EVERY_KEY.as_bytes(), &arrival()).unwrap().event;
    criterion.bench_function("encode", |bencher| {
        let mut out = Vec::new();
        bencher.iter(|| {
            out.clear();
            black_box(&event).encode(&mut out);
        });
    });
}

criterion_group!(benches, decode, hash, encode);
criterion_main!(benches);
