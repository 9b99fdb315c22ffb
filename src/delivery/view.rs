//! What delivery needs of the configuration in force.

use std::collections::HashMap;
use std::sync::Arc;

use crate::account::{AccessToken, LaneKey};
use crate::config::{DeliveryConfig, PixelConfig};
use crate::snapshot::Snapshot;

/// A snapshot, as the senders see it.
#[derive(Clone)]
pub(crate) struct View {
    /// Which snapshot.
    pub(crate) revision: u64,
    /// `[delivery]`
    pub(crate) settings: Arc<DeliveryConfig>,
    /// The pixels that are switched on, of accounts that are.
    pub(crate) pixels: HashMap<LaneKey, PixelConfig>,
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
    pub(crate) fn of(snapshot: &Snapshot) -> Self {
        let accounts = snapshot.tenants().map(|tenant| &tenant.config).filter(|account| account.active);
        let pixels = accounts.flat_map(|account| {
            let lane = |pixel: &PixelConfig| LaneKey { account: account.id.clone(), pixel: pixel.id };
            account.pixels.iter().filter(|pixel| pixel.active).map(move |pixel| (lane(pixel), pixel.clone()))
        });
        let settings = Arc::new(snapshot.gateway.delivery.clone());
        Self { revision: snapshot.revision, settings, pixels: pixels.collect() }
    }

    /// Whether this lane may send now.
    pub(crate) fn permit(&self, lane: &LaneKey) -> Permit<'_> {
        match self.pixels.get(lane).map(|pixel| (pixel, &pixel.access_token)) {
            None => Permit::Inactive,
            Some((pixel, None)) => Permit::NoToken(pixel),
            Some((pixel, Some(token))) => Permit::Send(pixel, token),
        }
    }
}
