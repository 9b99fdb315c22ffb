//! What a file is, told before the compiler sees it, so that a wrong one is refused in words its author understands.

use wasmparser::{Parser, Payload};
use wit_component::ComponentEncoder;

use super::LoadError;
use super::fault::printable;

/// What a filter may import.
pub(super) const HOST: &str = "pixelgate:filter/host@0.1.0";
/// What a filter exports.
pub(super) const HANDLER: &str = "pixelgate:filter/handler@0.1.0";
/// What the script runner exports.
pub(super) const SCRIPT_HANDLER: &str = "pixelgate:filter/script-handler@0.1.0";
/// Only types, so it costs nothing to offer.
const TYPES: &str = "pixelgate:filter/types@0.1.0";

/// Bytes of a name from the file that are shown.
const NAME_BYTES_MAX: usize = 120;
/// Names that are shown.
const NAMES_MAX: usize = 8;

/// What a component is asked to export.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum World {
    /// An account's own filter.
    Filter,
    /// The runner of scripts.
    ScriptRunner,
}

/// Names at the outside of a component or module.
#[derive(Default)]
struct Outside {
    imports: Vec<String>,
    exports: Vec<String>,
}

/// The component that a core module was built to be: one that `wit-bindgen` left its types in. A component stays as it
/// is.
///
/// # Errors
/// When it is neither, or no filter.
pub fn component_of(bytes: &[u8]) -> Result<Vec<u8>, LoadError> {
    if !Parser::is_core_wasm(bytes) {
        inspect(bytes, World::Filter)?;
        return Ok(bytes.to_vec());
    }
    if let Some(import) =
        outside(bytes).map_err(LoadError::invalid)?.imports.into_iter().find(|name| name.starts_with("wasi"))
    {
        return Err(LoadError::Import(printable(&import, NAME_BYTES_MAX)));
    }
    let encoder = ComponentEncoder::default().validate(true).module(bytes);
    let component = encoder.and_then(|mut encoder| encoder.encode());
    let component = component.map_err(LoadError::invalid)?;
    inspect(&component, World::Filter)?;
    Ok(component)
}

/// Whether this is a component with the right imports and exports. Says nothing yet about what is inside.
pub(super) fn inspect(bytes: &[u8], world: World) -> Result<(), LoadError> {
    if !bytes.starts_with(b"\0asm") {
        let start = printable(&String::from_utf8_lossy(bytes.get(..16).unwrap_or(bytes)), NAME_BYTES_MAX);
        return Err(LoadError::NotWasm(if start.is_empty() { "nothing".to_owned() } else { format!("`{start}`") }));
    }
    if Parser::is_core_wasm(bytes) {
        return Err(LoadError::CoreModule);
    }
    let outside = outside(bytes).map_err(LoadError::invalid)?;
    for name in &outside.imports {
        if !offers(HOST, name) && !offers(TYPES, name) {
            let shown = printable(name, NAME_BYTES_MAX);
            return Err(if is_ours(name) { LoadError::OtherVersion(shown) } else { LoadError::Import(shown) });
        }
    }
    let wanted = match world {
        World::Filter => HANDLER,
        World::ScriptRunner => SCRIPT_HANDLER,
    };
    if outside.exports.iter().any(|name| offers(wanted, name)) {
        return Ok(());
    }
    let interface = |name: &str| name.split_once('@').map(|(interface, _)| interface.to_owned());
    match outside.exports.iter().find(|name| interface(name) == interface(wanted)) {
        Some(other) => Err(LoadError::OtherVersion(printable(other, NAME_BYTES_MAX))),
        None => {
            let shown = outside.exports.iter().take(NAMES_MAX).map(|name| printable(name, NAME_BYTES_MAX));
            Err(LoadError::NoHandler(shown.collect()))
        }
    }
}

/// Whether `name` is this interface in this version or another patch of it, which the engine takes as equal.
fn offers(interface: &str, name: &str) -> bool {
    let minor = |name: &str| name.rsplit_once('.').map(|(minor, _)| minor.to_owned());
    name == interface || (minor(name).is_some() && minor(name) == minor(interface) && patch_is_a_number(name))
}

fn patch_is_a_number(name: &str) -> bool {
    name.rsplit('.').next().is_some_and(|patch| !patch.is_empty() && patch.bytes().all(|b| b.is_ascii_digit()))
}

/// Whether the name is one of our interfaces, of whatever version.
fn is_ours(name: &str) -> bool {
    name.starts_with("pixelgate:filter/host@") || name.starts_with("pixelgate:filter/types@")
}

fn outside(bytes: &[u8]) -> Result<Outside, wasmparser::BinaryReaderError> {
    let mut outside = Outside::default();
    let mut depth = 0u32;
    for payload in Parser::new(0).parse_all(bytes) {
        match payload? {
            Payload::ModuleSection { .. } | Payload::ComponentSection { .. } => depth += 1,
            Payload::End(_) => depth = depth.saturating_sub(1),
            Payload::ImportSection(section) if depth == 0 => {
                for import in section.into_imports() {
                    outside.imports.push(import?.module.to_owned());
                }
            }
            Payload::ComponentImportSection(section) if depth == 0 => {
                for import in section {
                    outside.imports.push(import?.name.name.to_owned());
                }
            }
            Payload::ComponentExportSection(section) if depth == 0 => {
                for export in section {
                    outside.exports.push(export?.name.name.to_owned());
                }
            }
            _ => {}
        }
    }
    Ok(outside)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn refused(text: &str) -> LoadError {
        inspect(&wat::parse_str(text).unwrap(), World::Filter).unwrap_err()
    }

    #[test]
    fn what_is_no_component_is_named() {
        let of = |bytes: &[u8]| inspect(bytes, World::Filter).unwrap_err().to_string();
        assert_eq!(of(b""), "not a Wasm file: it starts with nothing");
        assert_eq!(of(b"export const x\n= 1"), "not a Wasm file: it starts with `export const x\\n=`");
        assert!(matches!(refused("(module)"), LoadError::CoreModule));
        let component = wat::parse_str("(component (core module (memory 1)))").unwrap();
        let cut = component.get(..component.len() - 2).unwrap();
        assert!(matches!(inspect(cut, World::Filter), Err(LoadError::Invalid(_))));
    }

    #[test]
    fn a_module_built_for_wasi_or_without_types_makes_no_filter() {
        let of = |text: &str| component_of(&wat::parse_str(text).unwrap()).unwrap_err();
        let wasi = of(r#"(module (import "wasi_snapshot_preview1" "fd_write" (func)))"#);
        assert!(matches!(&wasi, LoadError::Import(_)) && wasi.remedy().contains("wasm32-unknown-unknown"), "{wasi}");
        assert!(matches!(of("(module)"), LoadError::NoHandler(_)));
        assert!(matches!(component_of(b"text"), Err(LoadError::NotWasm(_))));
    }

    #[test]
    fn imports_beside_our_own_are_refused() {
        let wasi = refused(r#"(component (import "wasi:clocks/wall-clock@0.2.0" (instance)))"#);
        assert_eq!(
            wasi.to_string(),
            "imports `wasi:clocks/wall-clock@0.2.0`; only pixelgate:filter/host@0.1.0 is offered"
        );
        assert!(wasi.remedy().contains("wasm32-unknown-unknown"));
        let newer = refused(r#"(component (import "pixelgate:filter/host@0.2.0" (instance)))"#);
        assert!(matches!(newer, LoadError::OtherVersion(_)));
        let inner = r#"(component (component (import "wasi:io/error@0.2.0" (instance))))"#;
        assert!(matches!(refused(inner), LoadError::NoHandler(_)), "only the outside counts");
    }

    #[test]
    fn exports_tell_a_filter_from_others() {
        let exporting = |name: &str| format!(r#"(component (instance $i) (export "{name}" (instance $i)))"#);
        let other = refused(&exporting("pixelgate:filter/handler@0.2.0"));
        assert_eq!(
            other.to_string(),
            "made for `pixelgate:filter/handler@0.2.0`; this gateway speaks pixelgate:filter/handler@0.1.0"
        );
        let none = refused(&exporting("example:other/thing"));
        assert!(none.to_string().ends_with("(it exports example:other/thing)"), "{none}");
        let patch = wat::parse_str(exporting("pixelgate:filter/handler@0.1.7")).unwrap();
        assert!(inspect(&patch, World::Filter).is_ok());
        assert!(matches!(inspect(&patch, World::ScriptRunner), Err(LoadError::NoHandler(_))));
    }
}
