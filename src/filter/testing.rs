//! Filters for tests, and a host for them.
#![allow(clippy::unwrap_used)]

use std::path::Path;
use std::time::Duration;

use super::{Compiler, Options};

/// Long enough for a machine that is busy with other things; nothing waits for it when all is well.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// A filter written by hand, as text. It does what an event's name tells it to.
pub(crate) const GUEST: &str = include_str!("tests/guest.wat");

/// The guest with more in it: another file.
pub(crate) fn guest_with(more: &str) -> Vec<u8> {
    component(&format!("{} {more})", GUEST.trim_end().strip_suffix(')').unwrap()))
}

/// A component of the world `filter` from a core module.
pub(crate) fn component(core: &str) -> Vec<u8> {
    let mut resolve = wit_component::metadata::Bindgen::default().resolve;
    let (package, _) = resolve.push_path(concat!(env!("CARGO_MANIFEST_DIR"), "/plugins/wit")).unwrap();
    let world = resolve.select_world(&[package], Some("filter")).unwrap();
    let mut core = wat::parse_str(core).unwrap();
    wit_component::embed_component_metadata(&mut core, &resolve, world, wit_component::StringEncoding::UTF8).unwrap();
    wit_component::ComponentEncoder::default().validate(true).module(&core).unwrap().encode().unwrap()
}

/// A host whose files are in `dir`, and that no stalled machine brings to refuse a good filter.
pub(crate) fn options(dir: &Path) -> Options {
    Options {
        deadline: Duration::from_millis(250),
        memory_bytes_max: 16 << 20,
        file_bytes_max: 4 << 20,
        threads: 2,
        // The tests run beside others on few cores: waiting is no fault here unless a test says so.
        wait_max: PATIENCE,
        compile_timeout: PATIENCE,
        cache_dir: Some(dir.join("compiled")),
        script_runner: dir.join("script-runner.wasm"),
        compiler: Compiler::InProcess,
    }
}
