//! What tests of the edge share.

use crate::proxy::Observer;

/// Counts nothing.
pub(crate) struct Uncounted;

impl Observer for Uncounted {
    fn connections(&self, _change: i64) {}

    fn handshake(&self, _result: &'static str) {}

    fn rejected(&self, _reason: &'static str) {}
}
