//! `pixelgate cert import`: certificates that come from elsewhere are judged, put in place, and taken up.
//!
//! What a folder is called and how its files are called does not matter: every PEM file in it is read, each certificate
//! is put together with its key and its issuers. That suits certbot (`live/<name>/`), acme.sh, lego, Caddy and resellers.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::io::ErrorKind;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use anyhow::Context;
use serde::Serialize;
use serde_json::json;

use super::files::Configured;
use super::found::{Choice, Found, Names};
use super::whole::{Places, whole};
use super::{Ended, GatewayArgs, ImportArgs, client, days, say, say_json, tell};
use crate::account::ServerName;
use crate::cli::client::CallError;
use crate::clock::now_ms;
use crate::console::CertificateView;
use crate::tls::Credential;
use crate::tls::chain::{Bundle, Chain, LeafFacts, Roots, rfc3339};
use crate::tls::keep::{self, FILES, IMPORTED, LIVE};

/// Names that the gateway looks at in one request, whose body is at most 2 MiB.
const NAMES_AT_ONCE: usize = 5_000;

/// One folder of the issued certificates and what came of it.
#[derive(Serialize)]
struct Imported {
    /// The server name; `_.shop.example` for the wildcard `*.shop.example`.
    name: String,
    /// `imported`, `unchanged`, `kept`: what is in place is valid longer, `would_import`, `refused`: it cannot be served, or
    /// `failed`: what is in place could not be read or written
    result: &'static str,
    /// Last second of its validity, RFC 3339; of what is kept, that one's.
    not_after: Option<String>,
    /// Names of the configuration that the running gateway serves with a certificate now.
    served: Vec<ServerName>,
    /// What to know or to do.
    notes: Vec<String>,
}

/// A certificate that is in place and can be served.
struct InPlace {
    /// The chain and the key, PEM.
    texts: [Vec<u8>; 2],
    leaf: LeafFacts,
}

/// What became of what is in place.
enum TakenUp {
    /// There was nothing to take up: nobody was asked.
    Unasked,
    /// No gateway runs.
    ByNobody,
    /// The gateway did not look, and why.
    Refused(String),
    /// What the gateway serves now.
    By(Vec<CertificateView>),
}

pub(super) fn run(gateway: &GatewayArgs, args: &ImportArgs) -> anyhow::Result<Ended> {
    let configured = match Configured::read(gateway) {
        Ok(configured) => configured,
        Err(errors) => {
            errors.iter().for_each(tell);
            return Ok(Ended::Bad);
        }
    };
    if let Some(refusal) = refusal(&configured.gateway.host.data_dir, rustix::process::geteuid().as_raw()) {
        tell(format_args!("pixelgate: {refusal}"));
        return Ok(Ended::Bad);
    }
    let mut found = Found::default();
    found.read(&args.path, 0).with_context(|| format!("{} cannot be read", args.path.display()))?;
    let names = Names::of(&configured);
    let choices = found.choose(&names, now_ms() / 1_000);
    let roots = configured.roots()?;
    let results = choices.iter().map(|(folder, choice)| {
        loop {
            if let Some(result) = put(&found, &configured, &roots, folder, choice, args)? {
                break Ok(result);
            }
        }
    });
    let mut results = results.collect::<anyhow::Result<Vec<_>>>()?;
    // What was put there before is asked for too: it may be that nobody took it up then.
    let in_place = results.iter().filter(|result| result.is_in_place() && !args.dry_run);
    let changed: BTreeSet<&ServerName> =
        in_place.filter_map(|result| choices.get(&result.name)).flat_map(|choice| &choice.names).collect();
    let taken_up = take_up(gateway, &changed.into_iter().collect::<Vec<_>>())?;
    let folder = configured.issued_dir();
    if let TakenUp::By(views) = &taken_up {
        tell_served(&mut results, &choices, &folder, views);
    }
    report(args, &found, &folder, &results, &taken_up)?;
    let good = results.iter().all(|result| result.is_in_place() || result.result == "would_import");
    let refused = matches!(taken_up, TakenUp::Refused(_));
    Ok(if good && !results.is_empty() && found.failed.is_empty() && !refused { Ended::Fine } else { Ended::Bad })
}

/// Why this user (by number) can put nothing below the data directory, or nothing that the gateway could use.
fn refusal(data_dir: &Path, user: u32) -> Option<String> {
    let dir = data_dir.display();
    match std::fs::metadata(data_dir) {
        Ok(found) if user == 0 || user == found.uid() => None,
        Ok(found) => {
            let owner = found.uid();
            Some(format!(
                "{dir} belongs to the user {owner}, who could not read what another one puts there\n  → run this as root, or \
                 as that user (`sudo -u '#{owner}' pixelgate cert import …`)"
            ))
        }
        Err(error) if error.kind() == ErrorKind::NotFound => Some(format!(
            "{dir}, the data_dir of [host], is not there; an import does not make it, for it must belong to the gateway's \
             user\n  → start the gateway once, or make it for its user (`install -d -m 0700 -o pixelgate -g pixelgate {dir}`)"
        )),
        Err(error) => {
            Some(format!("{dir} cannot be looked at: {error}\n  → run this as root or as the gateway's user"))
        }
    }
}

// === impl Imported ===

impl Imported {
    fn is_in_place(&self) -> bool {
        matches!(self.result, "imported" | "unchanged" | "kept")
    }

    fn failed(mut self, issued_dir: &Path, what: &str, error: &std::io::Error) -> Self {
        self.result = "failed";
        self.notes.push(format!(
            "{} cannot be {what}: {error}; run this as root or as the gateway's user, and see that it is no link and the disk \
             is not full",
            issued_dir.join(&self.name).display()
        ));
        self
    }
}

/// Judges one choice against what is in place, and puts it there. `None` = somebody else put something there meanwhile: it is
/// to be judged again.
fn put(
    found: &Found,
    configured: &Configured,
    roots: &Roots,
    folder: &str,
    choice: &Choice,
    args: &ImportArgs,
) -> anyhow::Result<Option<Imported>> {
    let chosen = [choice.ecdsa, choice.rsa].map(|index| index.and_then(|index| found.bundle(index)));
    let best = chosen.into_iter().flatten().next().context("no certificate was chosen")?;
    let mut result = Imported {
        name: folder.to_owned(),
        result: "refused",
        not_after: Some(rfc3339(best.facts.not_after)),
        served: Vec::new(),
        notes: Vec::new(),
    };
    let issued_dir = configured.issued_dir();
    let in_place = match keep::live(&issued_dir, folder) {
        Ok(in_place) => in_place,
        Err(error) => return Ok(Some(result.failed(&issued_dir, "read", &error))),
    };
    let (live, operators) = (issued_dir.join(folder).join(LIVE), configured.gateway.tls.certs_dir.join(folder));
    let places = Places { live: (&live, &in_place), operators: &operators };
    let (mut pairs, mut imported, mut kept, mut of_chains) = (Vec::new(), None, None, Vec::new());
    for (bundle, live) in chosen.into_iter().zip(in_place_by_kind(&in_place, folder)) {
        // `--force` puts just that there which was found.
        match (bundle, live.filter(|_| !args.force)) {
            (Some(bundle), Some(live)) if live.leaf.not_after > bundle.facts.not_after => {
                let (until, found) = (rfc3339(live.leaf.not_after), rfc3339(bundle.facts.not_after));
                result.notes.push(format!(
                    "the one in place is valid longer, until {until}, than this one, until {found}; --force puts this one there"
                ));
                kept.get_or_insert(until);
                pairs.push(live.texts);
            }
            (Some(bundle), _) => {
                let (completed, notes) = whole(&bundle.chain, roots, &places);
                let chain = completed
                    .as_ref()
                    .unwrap_or(&bundle.chain)
                    .to_pem()
                    .context("the chain cannot be written as PEM")?;
                let key = bundle.key_pem().context("the key cannot be written as PEM")?;
                let refusal = match Credential::parse(&chain, &key) {
                    Ok(_) => bundle.facts.weakness(),
                    Err(error) => Some(format!("it cannot be served: {error}; its key is {}", bundle.facts.key)),
                };
                if let Some(refusal) = refusal {
                    result.notes.push(refusal);
                    return Ok(Some(result));
                }
                of_chains.extend(notes);
                imported = imported.or(Some(bundle));
                pairs.push([chain, key]);
            }
            (None, Some(live)) => {
                let (key, until) = (&live.leaf.key, rfc3339(live.leaf.not_after));
                result.notes.push(format!(
                    "the one in place with another kind of key, {key}, stays beside it until {until}; --force leaves it out"
                ));
                pairs.push(live.texts);
            }
            (None, None) => {}
        }
    }
    let Some(imported) = imported else { return Ok(Some(Imported { result: "kept", not_after: kept, ..result })) };
    result.not_after = Some(rfc3339(imported.facts.not_after));
    let mut files: BTreeMap<&str, Vec<u8>> = FILES.into_iter().flatten().zip(pairs.into_iter().flatten()).collect();
    if files == in_place {
        result.result = "unchanged";
        return Ok(Some(result));
    }
    // Of two kinds of key there may be the same to say.
    of_chains.dedup();
    result.notes.extend(of_chains);
    result.notes.extend(notes(&operators, imported));
    if args.dry_run {
        result.result = "would_import";
        return Ok(Some(result));
    }
    files.insert(IMPORTED, Vec::new());
    let files: Vec<(&str, &[u8])> = files.iter().map(|(file, content)| (*file, content.as_slice())).collect();
    // What is in place already is taken up all the same, and the next one may go.
    Ok(match keep::keep(&issued_dir, folder, &imported.facts.serial, &files, &in_place) {
        Ok(true) => Some(Imported { result: "imported", ..result }),
        Ok(false) => None,
        Err(error) => Some(result.failed(&issued_dir, "written", &error)),
    })
}

/// What in place can be served now, and is not refused by clients, for what the folder stands for, with an ECDSA key and with an RSA key.
fn in_place_by_kind(files: &BTreeMap<&str, Vec<u8>>, folder: &str) -> [Option<InPlace>; 2] {
    let own = folder.strip_prefix("_.").map_or_else(|| folder.to_owned(), |above| format!("*.{above}"));
    let pair = |names: [&str; 2]| {
        let [Some(chain), Some(key)] = names.map(|name| files.get(name)) else { return None };
        Credential::parse(chain, key).ok()?;
        let leaf = Chain::from_pem(chain)?.leaf()?;
        let is_valid = (leaf.not_before..=leaf.not_after).contains(&(now_ms() / 1_000));
        (is_valid && leaf.covers(&own) && leaf.weakness().is_none())
            .then(|| InPlace { texts: [chain.clone(), key.clone()], leaf })
    };
    let (mut ecdsa, mut rsa) = (None, None);
    for pair in FILES.into_iter().filter_map(pair) {
        let kind = if pair.leaf.is_rsa() { &mut rsa } else { &mut ecdsa };
        kind.get_or_insert(pair);
    }
    [ecdsa, rsa]
}

/// What a person should know of a certificate that goes into place, beside what there is to say of its chain.
fn notes(operators: &Path, bundle: &Bundle) -> Vec<String> {
    let mut notes = Vec::new();
    if operators.join("chain.pem").exists() {
        notes.push(format!("{} has one too, and wins: remove it to have this one served", operators.display()));
    }
    let (left, whole) = (bundle.facts.not_after - now_ms() / 1_000, bundle.facts.not_after - bundle.facts.not_before);
    if left < whole / 4 {
        notes.push(format!("it ends soon, in {}", days(left)));
    }
    notes
}

/// Asks the running gateway to look at these names again.
fn take_up(gateway: &GatewayArgs, names: &[&ServerName]) -> anyhow::Result<TakenUp> {
    let mut views = Vec::new();
    for names in names.chunks(NAMES_AT_ONCE) {
        match client::try_call(
            gateway,
            "POST",
            "/certificates/refresh",
            Some(&json!({ "names": names, "imported": true })),
        ) {
            Ok(answer) if answer.status.is_success() => {
                views.extend(serde_json::from_value::<Vec<CertificateView>>(answer.body)?);
            }
            Ok(answer) => return Ok(TakenUp::Refused(format!("{} ({})", answer.reason(), answer.status))),
            Err(CallError::Unreachable(..)) => return Ok(TakenUp::ByNobody),
            Err(CallError::Other(error)) => return Ok(TakenUp::Refused(format!("{error:#}"))),
        }
    }
    Ok(if names.is_empty() { TakenUp::Unasked } else { TakenUp::By(views) })
}

/// Writes down what is served with what was imported: a certificate out of that folder. A gateway may run with another data
/// directory than the configuration has by now.
fn tell_served(
    results: &mut [Imported],
    choices: &BTreeMap<String, Choice>,
    issued_dir: &Path,
    views: &[CertificateView],
) {
    let views: HashMap<&ServerName, &CertificateView> = views.iter().map(|view| (&view.name, view)).collect();
    for result in results.iter_mut().filter(|result| result.is_in_place()) {
        let names = choices.get(&result.name).into_iter().flat_map(|choice| &choice.names);
        for view in names.filter_map(|name| views.get(name)) {
            let ours = issued_dir.join(&result.name).join(LIVE);
            let is_ours = view.folder.as_ref().is_some_and(|folder| is_same(folder, &ours));
            if view.state == "valid" && is_ours {
                result.served.push(view.name.clone());
            } else {
                result.notes.push(instead(view, issued_dir));
            }
        }
    }
}

/// What became of a name that is not served with what was imported.
fn instead(view: &CertificateView, issued_dir: &Path) -> String {
    const ELSEWHERE: &str = "the gateway runs with another data_dir than pixelgate.toml has: restart it";
    let is_operators = view.origin.as_ref().is_some_and(|origin| origin.starts_with("operator"));
    let is_known = |folder: &Path| is_operators || folder.ancestors().any(|above| is_same(above, issued_dir));
    match (&view.folder, &view.problem) {
        (Some(folder), _) if view.state == "valid" => {
            let why = if is_known(folder) { "the gateway looks there first" } else { ELSEWHERE };
            format!("{} is served with what lies in {}: {why}", view.name, folder.display())
        }
        // It finds nothing at all, although something was put there.
        (None, _) => format!("{} is not served with it: {ELSEWHERE}", view.name),
        (_, Some(problem)) => format!("{} is not served with it: {problem}", view.name),
        (_, None) => format!("{} is not served with it: {}", view.name, view.state),
    }
}

/// Whether two paths lead to the same folder.
fn is_same(one: &Path, other: &Path) -> bool {
    one == other || matches!((one.canonicalize(), other.canonicalize()), (Ok(one), Ok(other)) if one == other)
}

fn report(
    args: &ImportArgs,
    found: &Found,
    folder: &Path,
    results: &[Imported],
    taken_up: &TakenUp,
) -> anyhow::Result<()> {
    let refusal = match taken_up {
        TakenUp::Refused(error) => Some(error),
        TakenUp::Unasked | TakenUp::ByNobody | TakenUp::By(_) => None,
    };
    if args.json {
        let running = (!matches!(taken_up, TakenUp::Unasked)).then_some(matches!(taken_up, TakenUp::By(_)));
        return say_json(&json!({
            "gateway": running, "gateway_error": refusal, "folder": folder, "results": results, "unknown": found.unknown, "notes": found.notes,
            "failed": found.failed,
        }));
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
    found.failed.iter().try_for_each(|failed| say(format_args!("failed: {failed}")))?;
    if !found.unknown.is_empty() {
        let names = found.unknown.iter().map(String::as_str).collect::<Vec<_>>().join(", ");
        say(format_args!("left out, for no account has these names in its domains: {names}"))?;
    }
    if !args.dry_run && results.iter().any(Imported::is_in_place) {
        say(format_args!("they lie in {}", folder.display()))?;
    }
    if results.is_empty() {
        say(format_args!("nothing in {} can be used", args.path.display()))?;
    }
    match taken_up {
        TakenUp::Refused(error) => tell(format_args!(
            "what is in place was not taken up: {error}\n  → the gateway's log says more; `pixelgate reload` takes it up as well"
        )),
        TakenUp::ByNobody => tell("no gateway took it up; one that is started with this data_dir does"),
        TakenUp::Unasked | TakenUp::By(_) => {}
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing)]
    use super::*;
    use crate::tls::testing::Issued;

    #[test]
    fn nothing_is_put_where_the_gateway_could_not_read_it() {
        let dir = tempfile::tempdir().unwrap();
        let owner = std::fs::metadata(dir.path()).unwrap().uid();
        assert_eq!((refusal(dir.path(), owner), refusal(dir.path(), 0)), (None, None));
        let told = refusal(dir.path(), owner + 1).unwrap();
        assert!(told.contains(&format!("belongs to the user {owner}")) && told.contains("run this as root"), "{told}");
        let told = refusal(&dir.path().join("data"), 0).unwrap();
        assert!(told.contains("is not there") && told.contains("install -d"), "{told}");
    }

    #[test]
    fn only_what_can_be_served_for_the_folder_is_in_place() {
        let is_in_place = |issued: &Issued, folder: &str| {
            let files = [("chain.pem", &issued.chain), ("key.pem", &issued.key)];
            let files = files.map(|(file, text)| (file, text.clone().into_bytes()));
            in_place_by_kind(&BTreeMap::from(files), folder)[0].is_some()
        };
        let both = Issued::new(&["a.example", "*.b.example"]);
        for folder in ["a.example", "_.b.example", "x.b.example"] {
            assert!(is_in_place(&both, folder), "{folder}");
        }
        assert!(!is_in_place(&both, "c.example") && !is_in_place(&Issued::new(&["x.b.example"]), "_.b.example"));
        assert!(!is_in_place(&Issued::valid(&["a.example"], 2090, 2099), "a.example"), "it is valid later");
    }
}
