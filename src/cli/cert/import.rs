//! `pixelgate cert import`: certificates that come from elsewhere are judged, put in place, and taken up.
//!
//! What a folder is called and how its files are called does not matter: every PEM file in it is read, each certificate
//! is put together with its key and its issuers. That suits certbot (`live/<name>/`), acme.sh, lego, Caddy and resellers.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use anyhow::Context;
use serde::Serialize;
use serde_json::json;

use super::files::Configured;
use super::{Ended, GatewayArgs, ImportArgs, client, say, say_json};
use crate::account::ServerName;
use crate::cli::client::CallError;
use crate::clock::now_ms;
use crate::console::CertificateView;
use crate::tls::chain::{Bundle, Chain, ChainFault, Pile, rfc3339};
use crate::tls::keep::{self, FILES, LIVE};

/// Bytes of a file that may hold certificates; a folder of a thousand intermediates is no certificate.
const FILE_BYTES_MAX: u64 = 256 * 1024;
/// Folders in folders: `certificates/<CA>/<name>/` is Caddy's.
const DEPTH_MAX: usize = 3;
/// Names that the gateway looks at in one request.
const NAMES_AT_ONCE: usize = 10_000;

/// One folder of the issued certificates and what came of it.
#[derive(Serialize)]
struct Imported {
    /// The server name; `_.shop.example` for the wildcard `*.shop.example`.
    name: String,
    /// `imported`, `unchanged`, `would_import` or `refused`
    result: &'static str,
    /// Last second of its validity, RFC 3339.
    not_after: Option<String>,
    /// Names of the configuration that the running gateway serves with a certificate now.
    served: Vec<ServerName>,
    /// What to know or to do.
    notes: Vec<String>,
}

/// Everything that was found.
#[derive(Default)]
struct Found {
    bundles: Vec<Bundle>,
    /// What could not be used, and why.
    notes: Vec<String>,
    /// What is written where it can be used, but is not for names of this gateway.
    unknown: BTreeSet<String>,
}

/// What is to be put in place for one folder: the best certificate of either kind of key.
#[derive(Default)]
struct Choice {
    ecdsa: Option<usize>,
    rsa: Option<usize>,
    /// Names of the configuration that it is for.
    names: BTreeSet<ServerName>,
}

pub(super) fn run(gateway: &GatewayArgs, args: &ImportArgs) -> anyhow::Result<Ended> {
    let configured = match Configured::read(gateway) {
        Ok(configured) => configured,
        Err(errors) => {
            errors.iter().for_each(|error| eprintln!("{error}"));
            return Ok(Ended::Bad);
        }
    };
    let mut found = Found::default();
    found.read(&args.path, 0).with_context(|| format!("{} cannot be read", args.path.display()))?;
    let names: Vec<ServerName> = configured.names().into_iter().map(|(name, _)| name).collect();
    let choices = found.choose(&names, now_ms() / 1_000);
    let mut results = Vec::new();
    let mut changed = BTreeSet::new();
    for (folder, choice) in &choices {
        let result = found.put(&configured, folder, choice, args)?;
        if result.result != "refused" && !args.dry_run {
            changed.extend(choice.names.iter().cloned());
        }
        results.push(result);
    }
    let gateway_says =
        if changed.is_empty() { None } else { take_up(gateway, &changed.into_iter().collect::<Vec<_>>())? };
    tell_served(&mut results, &choices, gateway_says.as_deref());
    report(args, &found, &results, gateway_says.is_some())?;
    let done = results.iter().any(|result| result.result != "refused");
    let refused = results.iter().any(|result| result.result == "refused");
    Ok(if done && !refused { Ended::Fine } else { Ended::Bad })
}

// === impl Found ===

impl Found {
    /// Reads a file, or a folder and those in it.
    fn read(&mut self, path: &Path, depth: usize) -> std::io::Result<()> {
        let mut pile = Pile::default();
        if std::fs::metadata(path)?.is_file() {
            add_file(&mut pile, path)?;
            self.take(path, &pile);
            return Ok(());
        }
        let mut entries = std::fs::read_dir(path)?.collect::<Result<Vec<_>, _>>()?;
        entries.sort_by_key(std::fs::DirEntry::file_name);
        for entry in entries {
            let path = entry.path();
            // Of a link that leads nowhere nothing can be said but that.
            let kind = std::fs::metadata(&path);
            let read = match kind {
                Ok(kind) if kind.is_dir() && depth < DEPTH_MAX => self.read(&path, depth + 1),
                Ok(kind) if kind.is_file() => add_file(&mut pile, &path),
                Ok(_) => Ok(()),
                Err(error) => Err(error),
            };
            if let Err(error) = read {
                self.notes.push(format!("{}: {error}", path.display()));
            }
        }
        self.take(path, &pile);
        Ok(())
    }

    /// Takes what one folder or file holds.
    fn take(&mut self, path: &Path, pile: &Pile) {
        let path = path.display();
        if pile.encrypted {
            self.notes.push(format!("{path}: a key has a passphrase; write it without one (openssl pkey)"));
        }
        let bundles = pile.bundles();
        let with_key = |name: &String| bundles.iter().any(|bundle| bundle.facts.names.contains(name));
        let keyless: Vec<_> = pile.keyless().into_iter().filter(|name| !with_key(name)).collect();
        if !keyless.is_empty() {
            let names = keyless.join(", ");
            self.notes
                .push(format!("{path}: the key of the certificate for {names} is not there, or is another one's"));
        }
        self.bundles.extend(bundles);
    }

    /// Decides what goes where: for each folder the certificate that is valid longest, of either kind of key.
    fn choose(&mut self, names: &[ServerName], now: i64) -> BTreeMap<String, Choice> {
        let mut choices: BTreeMap<String, Choice> = BTreeMap::new();
        for (index, bundle) in self.bundles.iter().enumerate() {
            let facts = &bundle.facts;
            let shown = facts.names.join(", ");
            if facts.not_after < now {
                self.notes
                    .push(format!("the certificate for {shown} has expired at {}: left out", rfc3339(facts.not_after)));
                continue;
            }
            if facts.not_before > now {
                self.notes
                    .push(format!("the certificate for {shown} is valid from {}: left out", rfc3339(facts.not_before)));
                continue;
            }
            let covered: Vec<&ServerName> = names.iter().filter(|name| facts.covers(name)).collect();
            if covered.is_empty() {
                self.unknown.extend(facts.names.iter().cloned());
            }
            for name in covered {
                let exact = facts.names.iter().any(|own| own == name.as_str());
                let above = name.as_str().split_once('.').map(|(_, above)| format!("_.{above}"));
                let folder = if exact { name.to_string() } else { above.unwrap_or_default() };
                let choice = choices.entry(folder).or_default();
                choice.names.insert(name.clone());
                let best = if facts.is_rsa() { &mut choice.rsa } else { &mut choice.ecdsa };
                let before = best.and_then(|before| self.bundles.get(before)).map(|before| before.facts.not_after);
                if before.is_none_or(|before| before < facts.not_after) {
                    *best = Some(index);
                }
            }
        }
        choices
    }

    /// Judges one choice against what is in place, and puts it there.
    fn put(
        &self,
        configured: &Configured,
        folder: &str,
        choice: &Choice,
        args: &ImportArgs,
    ) -> anyhow::Result<Imported> {
        let bundle = |index: Option<usize>| index.and_then(|index| self.bundles.get(index));
        let (ecdsa, rsa) = (bundle(choice.ecdsa), bundle(choice.rsa));
        let (main, twin) = match ecdsa {
            Some(ecdsa) => (ecdsa, rsa),
            None => (rsa.context("no certificate was chosen")?, None),
        };
        let mut result = Imported {
            name: folder.to_owned(),
            result: "refused",
            not_after: Some(rfc3339(main.facts.not_after)),
            served: Vec::new(),
            notes: notes(configured, folder, main),
        };
        let mut files = Vec::new();
        for (bundle, [chain_file, key_file]) in std::iter::once(main).chain(twin).zip(FILES) {
            files.push((chain_file, bundle.chain.to_pem().context("the chain cannot be written as PEM")?));
            files.push((key_file, bundle.key_pem().context("the key cannot be written as PEM")?));
        }
        let issued_dir = configured.issued_dir();
        let live = issued_dir.join(folder).join(LIVE);
        let in_place = std::fs::read(live.join("chain.pem")).ok();
        if files.iter().all(|(file, content)| std::fs::read(live.join(file)).is_ok_and(|present| present == *content)) {
            result.result = "unchanged";
            return Ok(result);
        }
        let until = in_place.and_then(|pem| Chain::from_pem(&pem)?.leaf()).map(|leaf| leaf.not_after);
        if let Some(until) = until.filter(|until| *until > main.facts.not_after && !args.force) {
            result.notes.push(format!(
                "the one in place is valid longer, until {}; --force puts this one there",
                rfc3339(until)
            ));
            return Ok(result);
        }
        result.result = if args.dry_run { "would_import" } else { "imported" };
        if !args.dry_run {
            let files: Vec<(&str, &[u8])> = files.iter().map(|(file, content)| (*file, content.as_slice())).collect();
            let kept = keep::keep(&issued_dir, folder, &main.facts.serial, &files);
            kept.with_context(|| {
                format!(
                    "{} cannot be written; run this as root or as the gateway's user",
                    issued_dir.join(folder).display()
                )
            })?;
        }
        Ok(result)
    }
}

/// What a person should know of a certificate that goes into place.
fn notes(configured: &Configured, folder: &str, bundle: &Bundle) -> Vec<String> {
    let mut notes = Vec::new();
    match bundle.chain.judge(now_ms() / 1_000) {
        Ok(()) => {}
        Err(fault @ ChainFault::Unanchored(_)) => {
            notes
                .push(format!("{fault}: put the CA's intermediate certificate beside it, unless this is a private CA"));
        }
        Err(fault) => notes.push(fault.to_string()),
    }
    let operators: PathBuf = configured.gateway.tls.certs_dir.join(folder);
    if operators.join("chain.pem").exists() {
        notes.push(format!("{} has one too, and wins: remove it to have this one served", operators.display()));
    }
    let (left, whole) = (bundle.facts.not_after - now_ms() / 1_000, bundle.facts.not_after - bundle.facts.not_before);
    if left < whole / 4 {
        notes.push(format!("it ends soon, in {} days", left / 86_400));
    }
    notes
}

fn add_file(pile: &mut Pile, path: &Path) -> std::io::Result<()> {
    if std::fs::metadata(path)?.len() <= FILE_BYTES_MAX {
        pile.add(&std::fs::read(path)?);
    }
    Ok(())
}

/// Asks the running gateway to look at these names again; `None` = none runs.
fn take_up(gateway: &GatewayArgs, names: &[ServerName]) -> anyhow::Result<Option<Vec<CertificateView>>> {
    let mut views = Vec::new();
    for names in names.chunks(NAMES_AT_ONCE) {
        match client::try_call(gateway, "POST", "/certificates/refresh", Some(&json!({ "names": names }))) {
            Ok(answer) => views.extend(serde_json::from_value::<Vec<CertificateView>>(answer.body)?),
            Err(CallError::Unreachable(..)) => return Ok(None),
            Err(CallError::Other(error)) => return Err(error),
        }
    }
    Ok(Some(views))
}

/// Writes down what is served with what was imported: a certificate valid as long, out of that folder.
fn tell_served(results: &mut [Imported], choices: &BTreeMap<String, Choice>, views: Option<&[CertificateView]>) {
    let Some(views) = views else { return };
    for result in results.iter_mut().filter(|result| result.result != "refused") {
        let Some(choice) = choices.get(&result.name) else { continue };
        for view in views.iter().filter(|view| choice.names.contains(&view.name)) {
            let ours = view.folder.as_ref().is_some_and(|folder| folder.ends_with(Path::new(&result.name).join(LIVE)));
            if view.state == "valid" && ours {
                result.served.push(view.name.clone());
            } else {
                result.notes.push(format!("{} is not served with it: {}", view.name, view.state));
            }
        }
    }
}

fn report(args: &ImportArgs, found: &Found, results: &[Imported], running: bool) -> anyhow::Result<()> {
    let unknown: Vec<_> = found.unknown.iter().collect();
    if args.json {
        return say_json(&json!({ "gateway": running, "results": results, "unknown": unknown, "notes": found.notes }));
    }
    for result in results {
        let served = if result.served.is_empty() { "" } else { ", served now" };
        say(format_args!(
            "{}: {}{served}, until {}",
            result.name,
            result.result,
            result.not_after.as_deref().unwrap_or_default()
        ))?;
        result.notes.iter().try_for_each(|note| say(format_args!("    {note}")))?;
    }
    found.notes.iter().try_for_each(say)?;
    if !unknown.is_empty() {
        let names = found.unknown.iter().map(String::as_str).collect::<Vec<_>>().join(", ");
        say(format_args!("left out, for no account has these names in its domains: {names}"))?;
    }
    if results.is_empty() {
        say(format_args!("nothing in {} can be used", args.path.display()))?;
    } else if !running && !args.dry_run {
        eprintln!("no gateway took it up; one that is started does");
    }
    Ok(())
}
