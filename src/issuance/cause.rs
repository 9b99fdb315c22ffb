//! On what a name's failure depended. Once the configuration says something else there, the failure says nothing any more, and
//! the name is tried at once. Pure.

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

/// Whether it is not so any more, whichever account is taken.
pub(super) fn is_past(cause: &str, gateway: &GatewayConfig) -> bool {
    let is_so = |account: &AcmeAccount| of_order(account) == cause || of_look(account, gateway) == cause;
    !gateway.acme.accounts.iter().any(|account| is_so(account))
}
