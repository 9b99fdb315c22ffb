//! On what a name's failure depended. Once the configuration says something else there, the failure says nothing any more, and
//! the name is tried at once. Pure.

use std::collections::HashSet;

use crate::config::{AcmeAccount, GatewayConfig};

/// What the cause of a failure that was found in DNS begins with.
const LOOK: &str = "dns";

/// What a failed order depended on: the account, its CA, and what is asked for there.
pub(super) fn of_order(account: &AcmeAccount) -> String {
    let AcmeAccount { name, directory, profile, external_account, .. } = account;
    let key_id = external_account.as_ref().map_or("", |external| &external.key_id);
    format!("ca {name} {directory} {} {key_id}", profile.as_deref().unwrap_or_default())
}

/// What was found in DNS depended on: who was asked, where *here* is, and which CA is to be allowed.
pub(super) fn of_look(account: &AcmeAccount, gateway: &GatewayConfig) -> String {
    let here: Vec<_> = gateway.host.addresses.iter().map(ToString::to_string).collect();
    let resolver = gateway.acme.resolver.map(|server| server.to_string()).unwrap_or_default();
    format!("{LOOK} {resolver} {} {}", here.join(","), account.directory)
}

/// Whether it was found in DNS.
pub(super) fn is_of_look(cause: &str) -> bool {
    cause.starts_with(LOOK)
}

/// All on which a failure can depend as the configuration is now, whichever account is taken: others are past.
pub(super) fn all(gateway: &GatewayConfig) -> HashSet<String> {
    gateway.acme.accounts.iter().flat_map(|account| [of_order(account), of_look(account, gateway)]).collect()
}
