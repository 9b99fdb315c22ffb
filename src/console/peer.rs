//! Who is at the other end of the control socket, and the trace that a command leaves in the log.

use std::convert::Infallible;
use std::fmt::Display;

use axum::extract::FromRequestParts;
use axum::extract::connect_info::{ConnectInfo, Connected};
use axum::http::request::Parts;
use axum::serve::IncomingStream;
use tokio::net::UnixListener;

use crate::console::control::Refused;

/// A process at the other end.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Peer {
    /// Its user; `None` = the system does not say.
    pub(super) uid: Option<u32>,
}

// === impl Peer ===

impl Peer {
    /// Leaves one line of a command that changes something: who gave it, of what, and what came of it.
    pub(super) fn log<T>(
        self,
        command: &str,
        of: impl Display,
        done: &Result<T, Refused>,
        came_of_it: impl FnOnce(&T) -> String,
    ) {
        let uid = self.uid;
        match done {
            Ok(done) => tracing::info!(uid, command, %of, came_of_it = came_of_it(done), "the operator's command"),
            Err(Refused(_, why)) => tracing::warn!(uid, command, %of, why, "the operator's command was refused"),
        }
    }
}

impl Connected<IncomingStream<'_, UnixListener>> for Peer {
    fn connect_info(stream: IncomingStream<'_, UnixListener>) -> Self {
        Self { uid: stream.io().peer_cred().ok().map(|credentials| credentials.uid()) }
    }
}

impl<S: Sync> FromRequestParts<S> for Peer {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Infallible> {
        Ok(parts.extensions.get::<ConnectInfo<Self>>().map(|ConnectInfo(peer)| *peer).unwrap_or_default())
    }
}
