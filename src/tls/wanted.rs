//! Names whose certificate a visitor asked for before there was one.

use std::collections::HashSet;
use std::sync::{Mutex, PoisonError};

use tokio::sync::Notify;

use crate::account::ServerName;

/// Names that may wait at one time; more are forgotten, and asked for again by their next visitor.
const NAMES_MAX: usize = 10_000;

/// The hook from the handshake to issuance, for `[acme] on_demand`.
#[derive(Default)]
pub struct Wanted {
    names: Mutex<HashSet<ServerName>>,
    asked: Notify,
}

// === impl Wanted ===

impl Wanted {
    /// Notes that a handshake wanted this name. Only for names of the configuration: a stranger must not be able to
    /// make us order what he likes.
    pub fn ask(&self, name: &ServerName) {
        let mut names = self.names.lock().unwrap_or_else(PoisonError::into_inner);
        if names.len() < NAMES_MAX && !names.contains(name) {
            names.insert(name.clone());
            self.asked.notify_one();
        }
    }

    /// Waits until a name is asked for.
    pub async fn asked(&self) {
        self.asked.notified().await;
    }

    /// Takes the names that were asked for since the last time.
    pub fn take(&self) -> HashSet<ServerName> {
        std::mem::take(&mut self.names.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[tokio::test]
    async fn a_name_that_was_asked_for_is_taken_once() {
        let wanted = Wanted::default();
        let name: ServerName = "a.example".parse().unwrap();
        wanted.ask(&name);
        wanted.ask(&name);
        wanted.asked().await;
        assert_eq!(wanted.take(), HashSet::from([name]));
        assert!(wanted.take().is_empty());
    }

    #[test]
    fn what_waits_is_bounded() {
        let wanted = Wanted::default();
        for n in 0..NAMES_MAX + 5 {
            wanted.ask(&format!("n{n}.example").parse().unwrap());
        }
        assert_eq!(wanted.take().len(), NAMES_MAX);
    }
}
