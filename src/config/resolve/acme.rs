//! `[acme]`: certificates from certificate authorities.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use crate::config::acme::{AcmeAccount, AcmeBudget, AcmeBudgets, AcmeConfig, ExternalAccount, KeyType};
use crate::config::disk::{Disk, Files};
use crate::config::file::{Table, Value};
use crate::config::findings::shown;
use crate::config::resolve::Surroundings;
use crate::config::resolve::address::DirectoryUrl;
use crate::config::resolve::gateway::{CA_FILE_REMEDY, ca_certificates};
use crate::config::resolve::secret::{self, Origin};

const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(60 * 60);
const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// Let's Encrypt.
const DIRECTORY: &str = "https://acme-v02.api.letsencrypt.org/directory";
/// What `[acme]`'s own account is called.
const OWN: &str = "default";
/// Where DNS is spoken.
const DNS_PORT: u16 = 53;
/// The most that one budget may be set to.
const BUDGET_MAX: u64 = 10_000_000;

/// A DNS server: an address, or an address and a port.
struct Resolver(SocketAddr);

/// What an account is given where it does not say otherwise.
struct Defaults {
    directory: String,
    email: String,
    ca_file: Option<PathBuf>,
    profile: Option<String>,
    budgets: AcmeBudgets,
}

/// Reads `[acme]`.
pub(super) fn acme(table: &mut Table<'_>, surroundings: &Surroundings) -> AcmeConfig {
    let enabled = table.flag("enabled", false);
    let agreed = table.flag("terms_agreed", false);
    let own = account(table, OWN.to_owned(), &Defaults::lets_encrypt(), surroundings);
    let place = table.place_of("terms_agreed");
    if enabled && !agreed && !place.is_refused() {
        place.error(
            "certificates are ordered only from a CA whose terms of service were agreed to",
            "read the CA's terms, then write terms_agreed = true",
        );
    }
    let place = table.place_of("email");
    if enabled && own.email.is_empty() && !place.is_refused() {
        place.error(
            "the key is missing",
            "write the address at which the CA reaches you, such as \"ops@agency.example\"",
        );
    }
    let config = AcmeConfig {
        enabled,
        key_type: table.choice(
            "key_type",
            KeyType::Ecdsa,
            &[("ecdsa", KeyType::Ecdsa), ("rsa", KeyType::Rsa), ("both", KeyType::Both)],
        ),
        renew_before: table.value("renew_before").and_then(|value| value.duration(&(HOUR..=365 * DAY))),
        on_demand: table.flag("on_demand", false),
        resolver: resolver(table),
        orders_in_flight_max: table.count("orders_in_flight_max", 8, 1..=256),
        retry_min: table.duration("retry_min", MINUTE, Duration::from_millis(10)..=DAY),
        retry_max: table.duration("retry_max", 12 * HOUR, Duration::from_millis(10)..=30 * DAY),
        reissue_min: table.duration("reissue_min", HOUR, SECOND..=7 * DAY),
        renewal_info_interval_max: table.duration("renewal_info_interval_max", DAY, SECOND..=7 * DAY),
        accounts: accounts(table, own, surroundings),
    };
    table.in_order(("retry_min", config.retry_min), ("retry_max", config.retry_max));
    config
}

/// `[acme]`'s own account and those of `[[acme.accounts]]`, which take from it what they do not say.
fn accounts(table: &mut Table<'_>, own: AcmeAccount, surroundings: &Surroundings) -> Vec<Arc<AcmeAccount>> {
    let defaults = Defaults {
        directory: own.directory.clone(),
        email: own.email.clone(),
        ca_file: own.ca_file.clone(),
        profile: own.profile.clone(),
        budgets: own.budgets,
    };
    let mut names = BTreeSet::from([own.name.clone()]);
    let further = table.tables("accounts", |table| {
        let name = table.required("name", "give the account a name; its key lies in a folder of that name");
        let name = name.and_then(|value| account_name(&value, &mut names));
        let account = account(table, name.clone().unwrap_or_default(), &defaults, surroundings);
        name.map(|_| account)
    });
    std::iter::once(own).chain(further.into_iter().flatten()).map(Arc::new).collect()
}

fn account_name(value: &Value<'_>, names: &mut BTreeSet<String>) -> Option<String> {
    let text = value.text()?;
    let allowed = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    if text.is_empty() || text.len() > 32 || !text.chars().all(allowed) {
        value.place.error(format!("{} is no name", shown(text)), "write 1 to 32 of a-z, 0-9 and -");
        return None;
    }
    if !names.insert(text.to_owned()) {
        let remedy = format!("choose another; [acme]'s own account is called \"{OWN}\"");
        value.place.error(format!("another account is called {}", shown(text)), remedy);
        return None;
    }
    Some(text.to_owned())
}

fn account(table: &mut Table<'_>, name: String, defaults: &Defaults, surroundings: &Surroundings) -> AcmeAccount {
    let directory = table.value("directory").and_then(|value| {
        let DirectoryUrl(url) =
            value.parsed(&format!("write the URL of the CA's ACME directory, such as \"{DIRECTORY}\""))?;
        Some(url)
    });
    AcmeAccount {
        name,
        directory: directory.unwrap_or_else(|| defaults.directory.clone()),
        email: table.value("email").and_then(|value| email(&value)).unwrap_or_else(|| defaults.email.clone()),
        external_account: table.value("external_account").and_then(|value| external_account(value, surroundings)),
        ca_file: table.value("ca_file").map_or_else(|| defaults.ca_file.clone(), |value| ca_file(&value)),
        profile: table.value("profile").map_or_else(|| defaults.profile.clone(), |value| profile(&value)),
        budgets: AcmeBudgets {
            new_orders: budget(table, ["new_orders_max", "new_orders_window"], defaults.budgets.new_orders),
            domain_certificates: budget(
                table,
                ["domain_certificates_max", "domain_certificates_window"],
                defaults.budgets.domain_certificates,
            ),
            duplicates: budget(table, ["duplicates_max", "duplicates_window"], defaults.budgets.duplicates),
            failures: budget(table, ["failures_max", "failures_window"], defaults.budgets.failures),
        },
    }
}

fn budget(table: &mut Table<'_>, [max, window]: [&'static str; 2], default: AcmeBudget) -> AcmeBudget {
    let count = table.size(max, u64::from(default.max), 1..=BUDGET_MAX);
    AcmeBudget {
        max: u32::try_from(count).unwrap_or(u32::MAX),
        window: table.duration(window, default.window, SECOND..=90 * DAY),
    }
}

fn email(value: &Value<'_>) -> Option<String> {
    let text = value.text()?;
    let good = text.split_once('@').is_some_and(|(user, host)| !user.is_empty() && host.contains('.'));
    if !good || text.len() > 254 || !text.chars().all(|c| c.is_ascii_graphic()) || text.contains([',', '<', '>', '?']) {
        value.place.error(format!("{} is no e-mail address", shown(text)), "write one such as \"ops@agency.example\"");
        return None;
    }
    Some(text.to_owned())
}

fn profile(value: &Value<'_>) -> Option<String> {
    let text = value.text()?;
    if text.is_empty() || text.len() > 64 || !text.chars().all(|c| c.is_ascii_graphic()) {
        value.place.error("this is no profile's name", "write what the CA calls it, such as \"shortlived\"");
        return None;
    }
    Some(text.to_owned())
}

/// A file without which nothing is ordered keeps nothing from being served: what is wrong with it is a warning.
fn ca_file(value: &Value<'_>) -> Option<PathBuf> {
    let path = value.path()?;
    if let Err(reason) = ca_certificates(&path) {
        value.place.warning(format!("{reason}; nothing can be ordered at this CA"), CA_FILE_REMEDY);
    }
    Some(path)
}

fn external_account(value: Value<'_>, surroundings: &Surroundings) -> Option<ExternalAccount> {
    value.table(|table| {
        let key_id = table.required("key_id", "write the key id that the CA gave you");
        let key_id = key_id.and_then(|value| value.label());
        let value = table.required("secret", secret::REMEDY)?;
        let place = value.place.clone();
        let origin = Origin::read(value)?;
        let secret = origin.fetch(surroundings, &mut Files::new(&Disk::new())).map_err(|error| {
            place.warning(format!("{origin} {error}; no account can be made at this CA"), origin.remedy());
        });
        Some(ExternalAccount { key_id: key_id?, secret: secret.ok() })
    })?
}

fn resolver(table: &mut Table<'_>) -> Option<SocketAddr> {
    let value = table.value("resolver")?;
    let Resolver(address) = value.parsed("write a DNS server's address, such as \"9.9.9.9\" or \"127.0.0.1:5353\"")?;
    Some(address)
}

// === impl Resolver ===

impl FromStr for Resolver {
    type Err = std::net::AddrParseError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        text.parse::<SocketAddr>()
            .or_else(|_| text.parse::<IpAddr>().map(|address| SocketAddr::new(address, DNS_PORT)))
            .map(Self)
    }
}

// === impl Defaults ===

impl Defaults {
    /// Let's Encrypt, with the limits it publishes (letsencrypt.org/docs/rate-limits, 2025).
    fn lets_encrypt() -> Self {
        Self {
            directory: DIRECTORY.to_owned(),
            email: String::new(),
            ca_file: None,
            profile: None,
            budgets: AcmeBudgets {
                new_orders: AcmeBudget { max: 300, window: 3 * HOUR },
                domain_certificates: AcmeBudget { max: 50, window: 7 * DAY },
                duplicates: AcmeBudget { max: 5, window: 7 * DAY },
                failures: AcmeBudget { max: 5, window: HOUR },
            },
        }
    }
}
