//! The documentation says what the code does.

use std::collections::BTreeSet;

use super::*;
use crate::config::disk::{Disk, Files};
use crate::config::file::keys_asked;
use crate::config::resolve::{self, Rules};

/// A documented key.
struct Row {
    /// As in `host.domain`, `pixels[].id` or `secret.file`.
    key: String,
    default: String,
    range: String,
}

/// The documented keys, tables included, and the rows of those that have one.
fn documented() -> (BTreeSet<String>, Vec<Row>) {
    let text = fs::read_to_string(in_repository("docs/configuration.md")).unwrap();
    let (mut keys, mut rows, mut section) = (BTreeSet::new(), Vec::new(), String::new());
    for line in text.lines() {
        if let Some(heading) = line.strip_prefix("### ") {
            section = match heading.strip_prefix("[[") {
                Some(list) => format!("{}[].", list.trim_end_matches(']')),
                None => format!("{}.", heading.trim_matches(['[', ']'])),
            };
            section = if section == "account." { String::new() } else { section };
            keys.insert(section.trim_end_matches('.').trim_end_matches("[]").to_owned());
        } else if let Some(row) = line.strip_prefix("| `") {
            let mut cells = row.split('|').map(str::trim);
            let key = format!("{section}{}", cells.next().unwrap().trim_end_matches('`'));
            let (default, range) = (cells.nth(1).unwrap().to_owned(), cells.next().unwrap().to_owned());
            assert!(cells.next().is_some_and(|effect| effect.len() > 10), "{key} has no effect");
            assert!(keys.insert(key.clone()), "{key} is documented twice");
            rows.push(Row { key, default, range });
        }
    }
    keys.remove("");
    (keys, rows)
}

#[test]
fn every_key_is_documented_and_every_documented_key_exists() {
    let surroundings = Surroundings::default();
    let gateway = "[acme]\nexternal_account = { secret = {} }\n[[acme.accounts]]\nexternal_account = { secret = {} }\n";
    let mut known = keys_asked(gateway, |table| resolve::read_gateway(table, &surroundings));
    let account = "[[pixels]]\naccess_token = {}\n[[ingest_keys]]\nsecret = {}\n[[filters]]\nname = \"f\"\n";
    let id = "shoes".parse().unwrap();
    known.extend(keys_asked(account, |table| {
        resolve::read_account(&id, table, Rules::LENIENT, &surroundings, &mut Files::new(&Disk::new()))
    }));
    let secret = |key: String| {
        // A further account of [acme] has the keys of the first.
        let key = if key == "acme.accounts[].name" { key } else { key.replace("acme.accounts[].", "acme.") };
        let places = ["pixels[].access_token.", "ingest_keys[].secret.", "acme.external_account.secret."];
        places.into_iter().fold(key, |key, place| key.replace(place, "secret."))
    };
    let mut known: BTreeSet<_> = known.into_iter().map(secret).collect();
    known.insert("secret".to_owned());
    assert_eq!(known, documented().0);
}

#[test]
fn the_documented_defaults_are_the_defaults() {
    let minimal = Folder::new();
    let mut config = minimal.read().gateway.unwrap().as_ref().clone();
    let written = Folder::new();
    let mut text = GATEWAY.to_owned();
    let mut section = "host".to_owned();
    let mut count = 0;
    let is_toml =
        |default: &str| default.starts_with('`') && default.ends_with('`') && default.matches('`').count() == 2;
    for Row { key, default, .. } in documented().1.iter().filter(|row| is_toml(&row.default)) {
        let Some((table, key)) = key.split_once('.').filter(|(table, _)| !table.ends_with("[]")) else {
            continue;
        };
        if ["websites", "cookies", "privacy"].contains(&table) {
            continue;
        }
        if table != section {
            text.push_str(&format!("[{table}]\n"));
            section = table.to_owned();
        }
        text.push_str(&format!("{key} = {}\n", default.trim_matches('`')));
        count += 1;
    }
    written.write("pixelgate.toml", &text);
    let reading = written.read();
    assert_eq!(reading.problems, []);
    // The two lie in folders of their own.
    config.file = written.path("pixelgate.toml");
    config.tls.certs_dir = written.path("certs");
    assert_eq!(*reading.gateway.unwrap(), config);
    assert!(count > 35, "{count} defaults were found");
}

#[test]
fn the_documented_ranges_are_the_ranges() {
    let refused = |key: &str, value: &str| {
        let (table, name) = key.split_once('.').unwrap();
        let folder = Folder::new();
        let text = if table == "host" {
            format!("{GATEWAY}{name} = {value}\n")
        } else {
            format!("{GATEWAY}[{table}]\n{name} = {value}\n")
        };
        folder.write("pixelgate.toml", text);
        folder.read().problems.iter().any(|problem| problem.key == key && problem.reason.contains("out of range"))
    };
    let mut count = 0;
    for Row { key, range, .. } in documented().1 {
        let Some((low, high)) = range.split_once(" … ") else {
            continue;
        };
        let (low, high) = (low.trim_matches('`'), high.trim_matches('`'));
        let (inside, outside) = match humantime::parse_duration(low) {
            Ok(duration) if low != "0" => {
                let below = duration - std::time::Duration::from_millis(1);
                let quoted = |text: &str| format!("\"{text}\"");
                let below = quoted(&humantime::format_duration(below).to_string());
                ([quoted(low), quoted(high)], [below, quoted(&format!("{high} 1ms"))])
            }
            _ => {
                let number = |text: &str| text.replace('_', "").parse::<i64>().unwrap();
                let outside = [(number(low) - 1).to_string(), (number(high) + 1).to_string()];
                ([low.to_owned(), high.to_owned()], outside)
            }
        };
        assert!(inside.iter().all(|value| !refused(&key, value)), "{key} refuses its own range");
        assert!(outside.iter().all(|value| refused(&key, value)), "{key} takes what is out of its range");
        count += 1;
    }
    assert!(count > 25, "{count} ranges were found");
}

#[test]
fn the_samples_are_good() {
    let mut source = Source::with(&in_repository("conf"), Surroundings::default());
    let reading = source.read();
    let errors: Vec<_> = reading.problems.iter().filter(|problem| problem.is_error()).collect();
    assert!(errors.is_empty() && reading.gateway.is_some(), "{errors:#?}");
    assert!(reading.accounts.len() >= 2);
}
