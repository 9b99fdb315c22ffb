//! What tests of the edge share.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::sync::Mutex;

use crate::proxy::Observer;

/// Counts by name.
#[derive(Default)]
pub(crate) struct Counts(Mutex<BTreeMap<String, i64>>);

// === impl Counts ===

impl Counts {
    pub(crate) fn get(&self, name: &str) -> i64 {
        self.0.lock().unwrap().get(name).copied().unwrap_or_default()
    }

    fn add(&self, name: &str, change: i64) {
        *self.0.lock().unwrap().entry(name.to_owned()).or_default() += change;
    }
}

impl Observer for Counts {
    fn connections(&self, change: i64) {
        self.add("connections", change);
    }

    fn handshake(&self, result: &'static str) {
        self.add(&format!("handshake {result}"), 1);
    }

    fn rejected(&self, reason: &'static str) {
        self.add(&format!("rejected {reason}"), 1);
    }
}
