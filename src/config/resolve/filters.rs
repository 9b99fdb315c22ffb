//! `[[filters]]`: what runs on an account's events.

use std::path::PathBuf;

use crate::config::disk::{Files, Program, ProgramKind, tidy};
use crate::config::file::{Table, Value};
use crate::config::model::FilterConfig;
use crate::event::OnFault;

/// Filters of one account.
const FILTERS_MAX: usize = 16;
/// Bytes of one filter's settings, as JSON.
const SETTINGS_BYTES_MAX: usize = 64 * 1024;
/// Bytes of a filter's name; it begins the reason of what the filter drops.
const NAME_BYTES_MAX: usize = 64;

const ONE_PROGRAM: &str =
    "write either component = \"….wasm\" or script = \"….js\"; relative paths begin at the folder of this file";

/// A filter's program as named and read.
struct Named {
    path: PathBuf,
    program: Program,
}

/// Reads all filters of an account. One that is wrong is reported and left out.
pub(super) fn read(account: &mut Table<'_>, files: &mut Files<'_>) -> Vec<FilterConfig> {
    let mut names: Vec<String> = Vec::new();
    let filters = account.tables("filters", |table| {
        let name = table.required("name", "give the filter a name").and_then(|value| name(&value, &mut names));
        let program = program(table, files);
        let on_fault = [("hold", OnFault::Hold), ("drop", OnFault::Drop), ("pass", OnFault::Pass)];
        let on_fault = table.choice("on_fault", OnFault::Hold, &on_fault);
        let settings = table.value("settings").and_then(|value| settings(&value)).unwrap_or_else(|| "{}".to_owned());
        let (name, Named { path, program }) = name.zip(program)?;
        let program_digest = program.digest;
        Some(FilterConfig { name, program: program.named(&path), program_digest, settings, on_fault })
    });
    if filters.len() > FILTERS_MAX {
        let place = account.place.below("filters", None);
        place.error(format!("there are {} filters", filters.len()), format!("use at most {FILTERS_MAX}"));
    }
    filters.into_iter().flatten().collect()
}

fn name(value: &Value<'_>, names: &mut Vec<String>) -> Option<String> {
    let name = value.text()?;
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, ' ' | '.' | '_' | '-');
    if name.trim() != name || name.is_empty() || name.len() > NAME_BYTES_MAX || !name.chars().all(allowed) {
        let remedy = format!("write 1 to {NAME_BYTES_MAX} letters, digits, spaces, ., _ and -");
        value.place.error("this is no name for a filter", remedy);
        return None;
    }
    if let Some(first) = names.iter().position(|other| other == name) {
        value.place.error(format!("filters[{first}] has this name already"), "give each filter a name of its own");
    }
    names.push(name.to_owned());
    Some(name.to_owned())
}

fn program(table: &mut Table<'_>, files: &mut Files<'_>) -> Option<Named> {
    let component = table.value("component").map(|value| (value, ProgramKind::Component));
    let script = table.value("script").map(|value| (value, ProgramKind::Script));
    let ((value, kind), None) = (match (component, script) {
        (Some(first), second) => (first, second),
        (None, Some(first)) => (first, None),
        (None, None) => {
            table.place.error("the filter has no program", ONE_PROGRAM);
            return None;
        }
    }) else {
        table.place.error("the filter has two programs", ONE_PROGRAM);
        return None;
    };
    let path = value.path()?;
    match files.program(&path, kind) {
        Ok(program) => Some(Named { path, program }),
        Err(error) => {
            let remedy =
                "put the file there, readable for the gateway's user; its size is bounded by [filters] file_bytes_max";
            value.place.error(format!("{} {error}", tidy(&path).display()), remedy);
            None
        }
    }
}

/// The settings as the filter gets them. They are any table.
fn settings(value: &Value<'_>) -> Option<String> {
    let json = value.json()?;
    if !json.is_object() {
        value.place.error("settings are a table", "write [filters.settings] and the settings below it");
        return None;
    }
    let json = json.to_string();
    if json.len() > SETTINGS_BYTES_MAX {
        let reason = format!("the settings have {} bytes as JSON", json.len());
        value.place.error(reason, format!("use at most {SETTINGS_BYTES_MAX} bytes"));
        return None;
    }
    Some(json)
}
