//! What a filter costs per event: a call of an instance that was called before, and of a fresh one.
//!
//! The guest of the host's own tests is always measured; the sample filter in Rust and a script where `make plugins`
//! has built them.

#![allow(missing_docs, clippy::unwrap_used)]

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use pixelgate::event::{Event, OnFault, UserData, UserKey};
use pixelgate::filter::{
    Chain, Compiler, Context, FilterHost, Filtered, Observer, Options, Program, Stage, component_of,
};
use tokio::runtime::Runtime;

/// Events in one request: enough that the way to the thread and back is not what is measured.
const BATCH: usize = 100;

const GUEST: &str = include_str!("../src/filter/tests/guest.wat");

const SCRIPT: &str = r#"
const withoutQuery = (url) => url.split("?")[0];
exports.filter = (context, event) => ({
  set: { event_source_url: withoutQuery(event.event_source_url), referrer_url: withoutQuery(event.referrer_url) },
  remove: ["custom_data.coupon"],
  rename: { "custom_data.sku": "custom_data.content_name" },
});
"#;

/// Settings of the sample filter `fields` that make the same four edits as [`SCRIPT`].
const FIELDS: &str = r#"{
  "strip_query": true,
  "remove_custom_data": ["coupon"],
  "rename_custom_data": { "sku": "content_name" }
}"#;

struct Nobody;

impl Observer for Nobody {}

struct Bench {
    runtime: Runtime,
    host: FilterHost,
    context: Arc<Context>,
}

impl Bench {
    fn new() -> Self {
        let options = Options {
            // Far above what is measured: a stall of the machine must not become a fault.
            deadline: Duration::from_secs(1),
            memory_bytes_max: 16 << 20,
            file_bytes_max: 4 << 20,
            threads: 2,
            wait_max: Duration::from_secs(10),
            compile_timeout: Duration::from_secs(60),
            cache_dir: None,
            script_runner: plugin("script-runner.wasm"),
            compiler: Compiler::InProcess,
        };
        let context = Context {
            account: "shop".parse().unwrap(),
            pixel: "1234567890".parse().unwrap(),
            host: "events.shop.example".to_owned(),
            signals: Vec::new(),
            sources: Vec::new(),
        };
        Self {
            runtime: tokio::runtime::Builder::new_current_thread().build().unwrap(),
            host: FilterHost::start(options, Arc::new(Nobody)).unwrap(),
            context: Arc::new(context),
        }
    }

    fn load(&self, program: Program, settings: &str) -> Chain {
        let stage = Stage { name: "bench".to_owned(), program, settings: settings.to_owned(), on_fault: OnFault::Hold };
        let loaded = self.host.compile(&"shop".parse().unwrap(), vec![stage]);
        loaded.unwrap_or_else(|errors| std::panic::resume_unwind(Box::new(errors.first().unwrap().to_string())))
    }

    fn run(&self, chain: &Chain, events: Vec<Event>) -> Vec<Filtered> {
        self.runtime.block_on(chain.run(self.context.clone(), events))
    }
}

/// A file of `make plugins`.
fn plugin(name: &str) -> PathBuf {
    let target = std::env::var_os("CARGO_TARGET_DIR").map(PathBuf::from);
    let target =
        target.unwrap_or_else(|| PathBuf::from(std::env::var_os("HOME").unwrap()).join(".cache/pixelgate/target"));
    target.join("plugins").join(name)
}

/// The guest of the tests as a component; `pages` of memory at its start.
fn guest(pages: usize) -> Program {
    let mut resolve = wit_component::metadata::Bindgen::default().resolve;
    let (package, _) = resolve.push_path(concat!(env!("CARGO_MANIFEST_DIR"), "/plugins/wit")).unwrap();
    let world = resolve.select_world(&[package], Some("filter")).unwrap();
    let text = GUEST.replace("(memory (export \"memory\") 2)", &format!("(memory (export \"memory\") {pages})"));
    let mut core = wat::parse_str(text).unwrap();
    wit_component::embed_component_metadata(&mut core, &resolve, world, wit_component::StringEncoding::UTF8).unwrap();
    Program::Component(component_of(&core).unwrap().into())
}

/// A typical purchase: six hashed keys, eight fields, two URLs.
fn event(name: &str) -> Event {
    let mut user_data = UserData::default();
    for (key, text) in [
        (UserKey::Email, "ada@shop.example"),
        (UserKey::Phone, "+49 151 12345678"),
        (UserKey::FirstName, "Ada"),
        (UserKey::LastName, "Lovelace"),
        (UserKey::City, "Berlin"),
        (UserKey::Zip, "10115"),
    ] {
        user_data.add_text(key, text);
    }
    user_data.client_user_agent = Some("Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36".to_owned());
    let custom_data = r#"{"value": 19.5, "currency": "EUR", "contents": [{"id": "sku-1", "quantity": 2}], "sku": "1",
        "content_type": "product", "num_items": 2, "order_id": "o-1", "coupon": "SUMMER"}"#;
    Event {
        name: name.to_owned(),
        id: "e-1".to_owned(),
        time: 1_790_000_000,
        action_source: "website".to_owned(),
        source_url: Some("https://shop.example/thanks?order=1".to_owned()),
        referrer_url: Some("https://shop.example/cart?step=2".to_owned()),
        user_data,
        custom_data: serde_json::from_str(custom_data).unwrap(),
        data_processing: None,
        opt_out: None,
        app_data: serde_json::Map::new(),
        extra: serde_json::Map::new(),
        beside: Vec::new(),
    }
}

/// Measures requests of so many events of this kind, per event.
fn measure(criterion: &mut Criterion, bench: &Bench, name: &str, chain: &Chain, event: &Event, batch: usize) {
    let first = bench.run(chain, vec![event.clone()]).remove(0);
    assert!(matches!(first, Filtered::Pass(_)), "{name}: {first:?}");
    let mut group = criterion.benchmark_group("filter");
    group.throughput(Throughput::Elements(batch as u64));
    group.bench_function(name, |bencher| {
        bencher.iter_batched(|| vec![event.clone(); batch], |events| bench.run(chain, events), BatchSize::SmallInput);
    });
}

fn by_hand(criterion: &mut Criterion) {
    let (bench, event) = (Bench::new(), event("pass"));
    let kept = bench.load(guest(2), "\"\"");
    measure(criterion, &bench, "by hand, pass", &kept, &event, BATCH);
    measure(criterion, &bench, "by hand, pass, alone in its request", &kept, &event, 1);
    // More memory than an instance is kept with: each call is a fresh instance's first.
    let fresh = bench.load(guest(130), "\"\"");
    measure(criterion, &bench, "by hand, pass, fresh instance", &fresh, &event, BATCH);
}

fn built(criterion: &mut Criterion) {
    let (bench, event) = (Bench::new(), event("Purchase"));
    let (Ok(fields), true) = (std::fs::read(plugin("fields.wasm")), plugin("script-runner.wasm").is_file()) else {
        eprintln!("filter: the sample filters are not built (make plugins) and not measured");
        return;
    };
    let programs =
        [("Rust", Program::Component(fields.into()), FIELDS), ("script", Program::Script(SCRIPT.into()), "{}")];
    for (name, program, settings) in programs {
        let chain = bench.load(program.clone(), settings);
        measure(criterion, &bench, &format!("{name}, edits"), &chain, &event, BATCH);
        // What a fresh instance costs beside its call: its start, `init`, and the look for its code by content.
        criterion.bench_function(&format!("filter/{name}, started again"), |bencher| {
            bencher.iter(|| bench.load(program.clone(), settings));
        });
    }
}

criterion_group!(benches, by_hand, built);
criterion_main!(benches);
