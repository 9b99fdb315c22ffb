//! `accounts/<id>.toml`

use std::collections::HashMap;
use std::fmt::Display;
use std::hash::Hash;
use std::path::Path;
use std::str::FromStr;

use sha2::{Digest, Sha256};

use crate::account::{AccountId, IngestKey, Secret};
use crate::config::disk::Files;
use crate::config::file::{self, Table, Value};
use crate::config::model::{AccountConfig, AccountMode, Cookies, FilterConfig, PixelConfig, Upstream, Websites};
use crate::config::problem::Problem;
use crate::config::resolve::address::{ServerUrl, WebsitePattern, may_be_named};
use crate::config::resolve::secret::{self, Origin};
use crate::config::resolve::{Rules, Surroundings, filters};

/// Upstream servers of one account.
const UPSTREAMS_MAX: usize = 64;
/// Cookies and keys that an account's filters may see.
const CONSENT_SOURCES_MAX: usize = 32;

/// Reads an account's file. There is an account only if none of the problems is an error.
pub(in crate::config) fn account(
    id: &AccountId,
    path: &Path,
    bytes: &[u8],
    rules: Rules,
    surroundings: &Surroundings,
    files: &mut Files<'_>,
) -> (Option<AccountConfig>, Vec<Problem>) {
    let (account, problems) = file::read(path, Some(id), bytes, |table| read(id, table, rules, surroundings, files));
    let refused = problems.iter().any(Problem::is_error);
    (account.filter(|_| !refused), problems)
}

/// Reads the root table.
pub(in crate::config) fn read(
    id: &AccountId,
    table: &mut Table<'_>,
    rules: Rules,
    surroundings: &Surroundings,
    files: &mut Files<'_>,
) -> AccountConfig {
    Reader { rules, surroundings, files }.account(id, table)
}

/// What reading an account needs beside its file.
struct Reader<'r, 'd> {
    rules: Rules,
    surroundings: &'r Surroundings,
    files: &'r mut Files<'d>,
}

/// What stands in a list once.
struct Once<T> {
    seen: HashMap<T, String>,
}

// === impl Reader ===

impl Reader<'_, '_> {
    fn account(&mut self, id: &AccountId, table: &mut Table<'_>) -> AccountConfig {
        let modes = [("managed", AccountMode::Managed), ("unmanaged", AccountMode::Unmanaged)];
        let mut account = AccountConfig {
            id: id.clone(),
            file: table.place.file().to_owned(),
            text: table.place.text().into(),
            name: table.label("name").unwrap_or_else(|| id.to_string()),
            mode: table.choice("mode", AccountMode::Managed, &modes),
            active: table.flag("active", true),
            domains: domains(table),
            host_domain: table.flag("host_domain", true),
            upstream: self.upstreams(table),
            pixels: self.pixels(table),
            ingest_keys: self.ingest_keys(table),
            filters: filters::read(table, self.files),
            websites: table.table("websites", websites),
            cookies: table.table("cookies", cookies),
            consent_sources: table.table("privacy", consent_sources),
            digest: [0; 32],
        };
        account.digest = digest(&account);
        account
    }

    fn upstreams(&self, table: &mut Table<'_>) -> Vec<Upstream> {
        let remedy = "write scheme, host and port, such as \"http://10.0.0.5:8080\"";
        let urls = table.list("upstream");
        if urls.len() > UPSTREAMS_MAX {
            let place = table.place_of("upstream");
            place.error(format!("there are {} servers", urls.len()), format!("name at most {UPSTREAMS_MAX}"));
        }
        let read = |value: &Value<'_>| {
            let ServerUrl(upstream) = value.parsed(remedy)?;
            if !self.rules.upstream_private && !may_be_named(&upstream) {
                value.place.error(
                    format!("{} is the gateway's own machine, its link or a cloud's metadata service", upstream.host),
                    "name another server, or allow this with [host] upstream_private = true in pixelgate.toml",
                );
            }
            Some(upstream)
        };
        urls.iter().filter_map(read).collect()
    }

    fn pixels(&mut self, table: &mut Table<'_>) -> Vec<PixelConfig> {
        let mut once = Once::new();
        let pixels = table.tables("pixels", |table| {
            let id = table.required("id", "write Meta's id of the pixel (data set), in quotes");
            let id = id.and_then(|value| once.parsed(&value, "write the digits that Meta shows, in quotes"));
            let token = table.required("access_token", secret::REMEDY);
            let (access_token, access_token_source) = self.access_token(token).unwrap_or_default();
            let active = table.flag("active", true);
            let test_event_code = table.value("test_event_code").and_then(|value| test_event_code(&value));
            Some(PixelConfig { id: id?, access_token, access_token_source, active, test_event_code })
        });
        let place = table.place.below("pixels", None);
        if pixels.is_empty() && !place.is_refused() {
            place.warning("the account has no pixel, so it takes no event", "add [[pixels]]");
        }
        pixels.into_iter().flatten().collect()
    }

    /// A token and where it is from. One that cannot be had is a warning: the account works, its lane waits.
    fn access_token(&mut self, value: Option<Value<'_>>) -> Option<(Option<Secret>, String)> {
        let value = value?;
        let place = value.place.clone();
        let origin = Origin::read(value)?;
        let token = origin.fetch(self.surroundings, self.files);
        let token = token.map_err(|error| {
            place.warning(format!("{origin} {error}; events of this pixel wait"), origin.remedy());
        });
        Some((token.ok(), origin.to_string()))
    }

    fn ingest_keys(&mut self, table: &mut Table<'_>) -> Vec<IngestKey> {
        let mut once = Once::new();
        let keys = table.tables("ingest_keys", |table| {
            let name = table.required("name", "give the key a name; logs show it").and_then(|value| {
                let name = value.label()?;
                once.add(&value, name.clone());
                Some(name)
            });
            let value = table.required("secret", secret::REMEDY)?;
            let place = value.place.clone();
            let origin = Origin::read(value)?;
            let secret = origin.fetch(self.surroundings, self.files).map_err(|error| {
                place.warning(format!("{origin} {error}; requests with this key are refused"), origin.remedy());
            });
            Some(IngestKey { name: name?, secret: secret.ok()? })
        });
        keys.into_iter().flatten().collect()
    }
}

fn domains(table: &mut Table<'_>) -> Vec<crate::account::ServerName> {
    let mut once = Once::new();
    let remedy = "write a DNS name without scheme, port or *, such as \"events.shop.example\"";
    table.list("domains").iter().filter_map(|value| once.parsed(value, remedy)).collect()
}

fn websites(table: &mut Table<'_>) -> Websites {
    let remedy =
        "write a host name, without scheme and path: \"shop.example\", or \"*.shop.example\" for those below it";
    let mut patterns = |key| {
        let patterns: Vec<WebsitePattern> = table.parsed_list(key, remedy);
        patterns.into_iter().map(|WebsitePattern(pattern)| pattern).collect()
    };
    Websites { allow: patterns("allow"), block: patterns("block") }
}

fn cookies(table: &mut Table<'_>) -> Cookies {
    Cookies { set: table.flag("set", true), mint: table.flag("mint", false) }
}

fn consent_sources(table: &mut Table<'_>) -> Vec<String> {
    let sources = table.list("consent_sources");
    if sources.len() > CONSENT_SOURCES_MAX {
        let place = table.place_of("consent_sources");
        place.error(format!("there are {} names", sources.len()), format!("name at most {CONSENT_SOURCES_MAX}"));
    }
    // A token as in RFC 6265, 4.1.1: what a cookie may be called.
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
    let read = |value: &Value<'_>| {
        let name = value.text()?;
        if name.is_empty() || name.len() > 128 || !name.bytes().all(allowed) {
            value
                .place
                .error("nothing can be called so", "write the name of a cookie or key, such as \"OptanonConsent\"");
            return None;
        }
        Some(name.to_owned())
    };
    sources.iter().filter_map(read).collect()
}

fn test_event_code(value: &Value<'_>) -> Option<String> {
    let code = value.text()?;
    if code.is_empty() || code.len() > 64 || !code.bytes().all(|byte| byte.is_ascii_alphanumeric()) {
        value
            .place
            .error("this is no test event code", "write the code that the Events Manager shows, such as TEST12345");
        return None;
    }
    Some(code.to_owned())
}

/// SHA-256 of all that an account was made from. Each part has its length before it, so no two can be taken for one.
fn digest(account: &AccountConfig) -> [u8; 32] {
    let mut hasher = Sha256::new();
    let mut part = |bytes: &[u8]| {
        hasher.update((bytes.len() as u64).to_be_bytes());
        hasher.update(bytes);
    };
    part(account.text.as_bytes());
    for token in account.pixels.iter().map(|pixel| &pixel.access_token) {
        // A secret is never empty, so an empty part is one that could not be had.
        part(token.as_ref().map_or(&[], |token| token.reveal().as_bytes()));
    }
    for key in &account.ingest_keys {
        part(key.name.as_bytes());
        part(key.secret.reveal().as_bytes());
    }
    for FilterConfig { program_digest, .. } in &account.filters {
        part(program_digest);
    }
    hasher.finalize().into()
}

// === impl Once ===

impl<T: Eq + Hash> Once<T> {
    fn new() -> Self {
        Self { seen: HashMap::new() }
    }

    /// Reports a thing that stands in the file already.
    fn add(&mut self, value: &Value<'_>, thing: T) {
        match self.seen.get(&thing) {
            Some(first) => value.place.error(format!("{first} is the same"), "remove one of the two"),
            None => drop(self.seen.insert(thing, value.place.key().to_owned())),
        }
    }

    fn parsed(&mut self, value: &Value<'_>, remedy: &str) -> Option<T>
    where
        T: Clone + FromStr<Err: Display>,
    {
        let thing: T = value.parsed(remedy)?;
        self.add(value, thing.clone());
        Some(thing)
    }
}
