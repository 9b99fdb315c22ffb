//! An account, ready to run.

use std::sync::Arc;

use crate::account::{LaneKey, PixelId};
use crate::config::{AccountConfig, PixelConfig};
use crate::filter::Chain;
use crate::snapshot::budget::Budget;
use crate::snapshot::websites::WebsiteRules;

/// An account compiled: its configuration and what was made from it.
pub struct Tenant {
    /// What it was made from.
    pub config: Arc<AccountConfig>,
    /// Its filters, loaded and started.
    pub filters: Chain,
    /// How many events it may still send this second; lives on when the account is compiled anew.
    pub(super) budget: Arc<Budget>,
    pub(super) websites: WebsiteRules,
}

// === impl Tenant ===

impl Tenant {
    /// The pixel of that id, if it is one of this account's.
    pub fn pixel(&self, id: PixelId) -> Option<&PixelConfig> {
        self.config.pixels.iter().find(|pixel| pixel.id == id)
    }

    /// The lane of one of this account's pixels.
    pub fn lane(&self, pixel: PixelId) -> LaneKey {
        LaneKey { account: self.config.id.clone(), pixel }
    }

    /// Whether this text is an ingest key. Every key is compared, in constant time each.
    pub fn has_ingest_key(&self, text: &str) -> bool {
        self.config.ingest_keys.iter().fold(false, |found, key| key.secret.matches(text) | found)
    }

    /// Whether a page may send: judged on its URL or origin; `None` (no page is named) passes only without a list.
    pub fn allows_page(&self, page: Option<&str>) -> bool {
        self.websites.allow(page)
    }

    /// Takes `events` out of the account's budget of `per_second`; false = too many, try again in a second.
    pub fn take_budget(&self, events: u64, per_second: u64, now_ms: i64) -> bool {
        self.budget.take(events, per_second, now_ms)
    }
}
