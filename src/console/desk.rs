//! How the console learns what comes next for a name's certificate, without knowing who orders it.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::account::ServerName;
use crate::clock::span;
use crate::console::certificates::CertificateView;

/// Who knows what comes next for a name's certificate, and can hasten it.
pub trait CertificateDesk: Send + Sync {
    /// Every name of the configuration, in no order. What stands in the files only, its issuer, its keys and that it was imported,
    /// may be left out.
    fn list(&self) -> Vec<CertificateView>;

    /// One of them, as [`CertificateDesk::list`] has it.
    fn find(&self, name: &ServerName) -> Option<CertificateView>;

    /// What the CAs of this configuration are called in CAA records, as far as they say it; none where nothing is ordered.
    /// Blocks while they are asked; they are asked seldom.
    fn caa_identities(&self) -> Vec<String>;

    /// The accounts at CAs; none where nothing is ordered.
    fn ca_accounts(&self) -> Vec<CaAccountStatus>;

    /// How many names without a certificate are ordered only when a visitor comes. Counted now and then.
    fn waiting_for_visitors(&self) -> usize;

    /// Whether the DNS server that names are looked up with does not answer; never where nothing is ordered.
    fn resolver_is_silent(&self) -> bool;

    /// Orders a certificate for a name as soon as the limits let it, and says when that is. Returns before it is there.
    ///
    /// # Errors
    /// When nothing will come of it.
    fn issue(&self, name: &ServerName) -> Result<Ordered, DeskError>;
}

/// One account at a CA. The keys are stable.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CaAccountStatus {
    /// Its name: `default` for `[acme]` itself, else as in `[[acme.accounts]]`.
    pub name: String,
    /// The CA's directory.
    pub directory: String,
    /// Until when nothing is asked of it, RFC 3339.
    pub paused_until: Option<String>,
    /// What went wrong there last, if nothing went well since.
    pub reason: Option<String>,
    /// What to do about it.
    #[serde(default)]
    pub remedy: Option<String>,
    /// First orders that it may be given now.
    pub orders_left: u32,
    /// Of so many…
    pub orders_max: u32,
    /// …in so many seconds.
    pub orders_window_seconds: u64,
    /// Names that wait for their first order there.
    #[serde(default)]
    pub first_orders_waiting: usize,
    /// When the last of these goes if all goes well, RFC 3339; `None` = none waits, or nobody can say.
    #[serde(default)]
    pub last_first_order_at: Option<String>,
    /// Names whose renewal there is due and waits.
    #[serde(default)]
    pub renewals_waiting: usize,
}

/// An order that a person asked for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ordered {
    /// The name.
    pub name: ServerName,
    /// When it is ordered, RFC 3339; `None` = nobody can say.
    pub at: Option<String>,
    /// Why not at once; `None` = it is ordered at once.
    pub reason: Option<String>,
}

/// Why nothing is ordered.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DeskError {
    /// There is no ACME here.
    #[error("certificates are not ordered here; set [acme] enabled, email and terms_agreed, then reload")]
    Disabled,
    /// The name is in no account's `domains`.
    #[error("{0} is not in the configuration; add it to the domains of an account and reload")]
    UnknownName(ServerName),
    /// Anything else, with what to do.
    #[error("{0}")]
    Refused(String),
}

// === impl CaAccountStatus ===

impl CaAccountStatus {
    /// How it stands, as a person reads it.
    pub fn summary(&self) -> String {
        let window = span(Duration::from_secs(self.orders_window_seconds));
        let left = format!("{} of {} first orders in {window} left", self.orders_left, self.orders_max);
        let orders = left + &self.waiting();
        let reason = self.reason.as_ref().map(|reason| format!(": {reason}")).unwrap_or_default();
        match &self.paused_until {
            Some(until) => format!("{} at {}: left alone until {until}{reason}; {orders}", self.name, self.directory),
            None => format!("{} at {}: {orders}", self.name, self.directory),
        }
    }

    /// What waits there; nothing if nothing does.
    fn waiting(&self) -> String {
        let names = |count: usize| if count == 1 { "1 name waits".to_owned() } else { format!("{count} names wait") };
        let last = self.last_first_order_at.as_ref().map(|at| format!(", the last one goes {at}")).unwrap_or_default();
        let first = format!("; {} for a first order{last}", names(self.first_orders_waiting));
        let renewals = format!("; {} for a renewal", names(self.renewals_waiting));
        let some = [(self.first_orders_waiting, first), (self.renewals_waiting, renewals)].into_iter();
        some.filter(|(count, _)| *count > 0).map(|(_, text)| text).collect()
    }
}
