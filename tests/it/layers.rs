//! The house: arrows between modules go down only, and what belongs in one place stays there.
//!
//! `main, cli → server → proxy | delivery | issuance | console → ingest | reload → snapshot → tls | filter | outbox | config →
//! account, event, telemetry, clock, parallel, sqlite, threads`. Siblings are blind to each other.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// Modules by layer, the lowest first.
const LAYERS: &[&[&str]] = &[
    &["account", "event", "telemetry", "clock", "parallel", "sqlite", "threads"],
    &["tls", "filter", "outbox", "config"],
    &["snapshot"],
    &["ingest", "reload"],
    &["proxy", "delivery", "issuance", "console"],
    &["server"],
    &["cli"],
];

/// The lowest layer's modules are small and may know each other, but only so.
const GROUND: &[(&str, &str)] = &[("event", "account"), ("telemetry", "account")];

/// What the command line prints it may name.
const FROM_CLI: &[&str] =
    &["account", "clock", "config", "console", "event", "filter", "issuance", "reload", "server", "telemetry", "tls"];

/// A word that may stand only in certain files, and why.
const PLACES: &[(&str, &[&str], &str)] = &[
    ("pingora::", &["proxy/", "server/", "tls/"], "Pingora's types stay at the edge"),
    ("wasmtime::", &["filter/"], "the Wasm engine stays in the filter host"),
    ("toml::", &["config/file.rs", "config/edit.rs"], "TOML is read in one place"),
    ("toml_edit::", &["config/file.rs", "config/edit.rs"], "TOML is written in one place"),
    ("reqwest::", &["delivery/", "issuance/transport.rs"], "only delivery calls the Graph API, and issuance CAs"),
    ("rusqlite::", &["outbox/", "issuance/", "sqlite.rs"], "small state lives with what it is of"),
    ("SystemTime::now", &["clock.rs", "outbox/", "filter/"], "below the services time is an argument"),
    ("anyhow::", &["cli/", "server/"], "typed errors everywhere but on the command line"),
    ("println!(", &["issuance/tests/"], "it panics where a pipe is closed: `say` and `tell` of cli, and the log"),
    ("Set-Cookie", &["proxy/"], "cookies are set at the edge"),
    ("Not Onboarded", &["proxy/respond.rs"], "error text for clients stands in one table"),
];

struct Source {
    /// Relative to src/, such as `proxy/cors.rs`.
    path: String,
    module: String,
    /// Without comments and without the tests at the bottom.
    code: String,
}

#[test]
fn arrows_go_down() {
    let mut wrong = Vec::new();
    for source in sources() {
        for target in imports(&source.code) {
            if target != source.module && !may_import(&source.module, &target) {
                wrong.push(format!("{} imports {target}", source.path));
            }
        }
    }
    assert!(wrong.is_empty(), "arrows that go up or across:\n{}", wrong.join("\n"));
}

#[test]
fn every_module_has_its_layer() {
    let known: BTreeSet<_> = LAYERS.iter().flat_map(|layer| layer.iter().copied()).chain(["lib", "main"]).collect();
    let found: BTreeSet<_> = sources().into_iter().map(|source| source.module).collect();
    let unknown: Vec<_> = found.iter().filter(|module| !known.contains(module.as_str())).collect();
    assert!(unknown.is_empty(), "modules without a layer: {unknown:?}");
}

#[test]
fn what_belongs_in_one_place_stays_there() {
    let mut wrong = Vec::new();
    for source in sources() {
        for (word, places, why) in PLACES {
            let allowed = places.iter().any(|place| source.path.starts_with(place));
            if !allowed && source.code.contains(word) {
                wrong.push(format!("{}: {word} ({why})", source.path));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn no_static_has_state() {
    let stateful =
        |line: &str| line.trim_start().trim_start_matches("pub ").starts_with("static ") && !line.contains("ALLOCATOR");
    let wrong: Vec<_> = sources()
        .into_iter()
        .flat_map(|source| {
            source
                .code
                .lines()
                .filter(|line| stateful(line))
                .map(|line| format!("{}: {line}", source.path))
                .collect::<Vec<_>>()
        })
        .filter(|line| {
            ["Mutex", "RwLock", "Atomic", "OnceLock", "LazyLock", "static mut"].iter().any(|word| line.contains(word))
        })
        .collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn files_are_small() {
    let too_long: Vec<_> = sources()
        .into_iter()
        .map(|source| (source.code.lines().count(), source.path))
        .filter(|(lines, _)| *lines > 400)
        .collect();
    assert!(too_long.is_empty(), "more than 400 lines before the tests: {too_long:?}");
}

fn may_import(from: &str, to: &str) -> bool {
    if from == "main" || from == "lib" {
        return true;
    }
    if from == "cli" {
        return FROM_CLI.contains(&to);
    }
    match (layer(from), layer(to)) {
        (Some(0), Some(0)) => GROUND.contains(&(from, to)),
        (Some(from), Some(to)) => to < from,
        _ => false,
    }
}

fn layer(module: &str) -> Option<usize> {
    LAYERS.iter().position(|layer| layer.contains(&module))
}

/// The modules named after `crate::`, also inside `use crate::{a::…, b::…}`.
fn imports(code: &str) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for (at, _) in code.match_indices("crate::") {
        let rest = &code[at + "crate::".len()..];
        if let Some(list) = rest.strip_prefix('{') {
            let list = list.split("};").next().unwrap_or_default();
            let mut depth = 0;
            let mut word = String::new();
            for c in list.chars() {
                match c {
                    '{' => depth += 1,
                    '}' => depth -= 1,
                    ',' if depth == 0 => drop(found.insert(first_segment(&std::mem::take(&mut word)))),
                    c => word.push(c),
                }
            }
            found.insert(first_segment(&word));
        } else {
            found.insert(first_segment(rest));
        }
    }
    found.retain(|module| layer(module).is_some());
    found
}

fn first_segment(path: &str) -> String {
    path.trim().chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect()
}

fn sources() -> Vec<Source> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    collect(&root, &mut files);
    assert!(files.len() > 20, "the sources were not found");
    files.into_iter().map(|file| read(&root, &file)).collect()
}

fn collect(folder: &Path, files: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).expect("src is there") {
        let path = entry.expect("src can be read").path();
        if path.is_dir() {
            collect(&path, files);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
}

fn read(root: &Path, file: &Path) -> Source {
    let path = file.strip_prefix(root).expect("below src").to_string_lossy().into_owned();
    let module = path.split(['/', '.']).next().unwrap_or_default().to_owned();
    let text = std::fs::read_to_string(file).expect("sources are UTF-8");
    let lines: Vec<&str> = text.lines().collect();
    let begins_tests = |pair: &[&str]| pair[0] == "#[cfg(test)]" && pair[1].contains("mod ") && pair[1].ends_with('{');
    let tests_at = lines.windows(2).position(begins_tests).unwrap_or(lines.len());
    let code = lines[..tests_at]
        .iter()
        .copied()
        .filter(|line| !line.trim_start().starts_with("//"))
        .collect::<Vec<_>>()
        .join("\n");
    Source { path, module, code }
}
