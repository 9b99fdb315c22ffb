//! What delivery needs of the configuration in force.

use std::sync::Arc;

use crate::account::{AccessToken, AccountId, LaneKey};
use crate::config::{DeliveryConfig, PixelConfig};
use crate::snapshot::Snapshot;

/// A snapshot, as the senders see it.
#[derive(Clone)]
pub(crate) struct View {
    /// Which snapshot.
    pub(crate) revision: u64,
    /// `[delivery]`
    pub(crate) settings: Arc<DeliveryConfig>,
    /// The pixels of all lanes.
    pub(crate) pixels: Arc<dyn Pixels>,
}

/// Knows the pixels of lanes.
pub(crate) trait Pixels: Send + Sync {
    /// A lane's pixel, if it and its account are switched on.
    fn active(&self, lane: &LaneKey) -> Option<&PixelConfig>;
    /// Whether an account is in the configuration, be it switched off or faulty.
    fn has_account(&self, account: &AccountId) -> bool;
}

/// Whether a lane may send.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Permit<'a> {
    /// It may, with this token.
    Send(&'a PixelConfig, &'a AccessToken),
    /// It could, if the token could be read.
    NoToken(&'a PixelConfig),
    /// Its account or pixel is switched off, or left the configuration. Its events are kept.
    Inactive,
}

// === impl View ===

impl View {
    /// Sees a snapshot.
    pub(crate) fn of(snapshot: Arc<Snapshot>) -> Self {
        let settings = Arc::new(snapshot.gateway.delivery.clone());
        Self { revision: snapshot.revision, settings, pixels: snapshot }
    }

    /// Whether this lane may send now.
    pub(crate) fn permit(&self, lane: &LaneKey) -> Permit<'_> {
        match self.pixels.active(lane).map(|pixel| (pixel, &pixel.access_token)) {
            None => Permit::Inactive,
            Some((pixel, None)) => Permit::NoToken(pixel),
            Some((pixel, Some(token))) => Permit::Send(pixel, token),
        }
    }
}

// === impl Snapshot ===

impl Pixels for Snapshot {
    fn active(&self, lane: &LaneKey) -> Option<&PixelConfig> {
        let tenant = self.tenant(&lane.account).filter(|tenant| tenant.config.active)?;
        tenant.pixel(lane.pixel).filter(|pixel| pixel.active)
    }

    fn has_account(&self, account: &AccountId) -> bool {
        self.tenant(account).is_some() || self.left_out.contains(account)
    }
}
