//! `[acme]` as meant: from which certificate authorities certificates are had, and how much may be asked of each.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use crate::account::Secret;

/// `[acme]`
#[derive(Clone, Debug, PartialEq)]
pub struct AcmeConfig {
    /// Whether certificates are ordered at all.
    pub enabled: bool,
    /// Which keys a name gets.
    pub key_type: KeyType,
    /// How long before its end a certificate is renewed; `None` = when the CA says (RFC 9773), else after two thirds of
    /// its lifetime.
    pub renew_before: Option<Duration>,
    /// Whether the first order of a name waits for its first visitor.
    pub on_demand: bool,
    /// The DNS server that is asked before an order; `None` = the system's.
    pub resolver: Option<SocketAddr>,
    /// Orders at one time.
    pub orders_in_flight_max: usize,
    /// First wait after a failed order.
    pub retry_min: Duration,
    /// Longest wait after a failed order.
    pub retry_max: Duration,
    /// Shortest time from a certificate to the next order for its name, unless a person asks for it.
    pub reissue_min: Duration,
    /// Longest time between two questions after a certificate's renewal window (RFC 9773, 4.3.2).
    pub renewal_info_interval_max: Duration,
    /// Where certificates are ordered, the preferred one first: `[acme]` itself, then `[[acme.accounts]]`.
    pub accounts: Vec<Arc<AcmeAccount>>,
}

/// One account at one certificate authority.
#[derive(Clone, Debug, PartialEq)]
pub struct AcmeAccount {
    /// What it is called here; its key lies in a folder of that name.
    pub name: String,
    /// The CA's directory (RFC 8555, 7.1.1).
    pub directory: String,
    /// Whom the CA may write to; empty only where ACME is not enabled.
    pub email: String,
    /// Binds the account to one that the CA knows already (RFC 8555, 7.3.4).
    pub external_account: Option<ExternalAccount>,
    /// A private CA (PEM) that the directory's own certificate may chain to.
    pub ca_file: Option<PathBuf>,
    /// The certificate profile that is asked for, such as `shortlived`; `None` = the CA's default.
    pub profile: Option<String>,
    /// How much may be asked of it.
    pub budgets: AcmeBudgets,
}

/// `external_account`
#[derive(Clone, Debug, PartialEq)]
pub struct ExternalAccount {
    /// What the CA calls the key.
    pub key_id: String,
    /// The MAC key, base64url; `None`: it could not be read (a warning).
    pub secret: Option<Secret>,
}

/// What a CA allows one account.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AcmeBudgets {
    /// New orders.
    pub new_orders: AcmeBudget,
    /// Certificates for one registered domain and the names below it.
    pub domain_certificates: AcmeBudget,
    /// Certificates for exactly the same names.
    pub duplicates: AcmeBudget,
    /// Failed validations of one name.
    pub failures: AcmeBudget,
}

/// So many in so long a time; what is used up comes back evenly.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AcmeBudget {
    /// How many.
    pub max: u32,
    /// In which time.
    pub window: Duration,
}

/// Which keys a name gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyType {
    /// ECDSA over P-256.
    Ecdsa,
    /// RSA of 2048 bits.
    Rsa,
    /// One of each, in two orders; the client's signature algorithms choose.
    Both,
}

// === impl AcmeConfig ===

impl AcmeConfig {
    /// Whether names without a certificate are as they should be until a visitor comes.
    pub fn waits_for_visitors(&self) -> bool {
        self.enabled && self.on_demand
    }
}
