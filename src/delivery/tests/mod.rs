//! Delivery against a Graph API in this process: the client alone, then the whole service on a real outbox.

#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

mod client;
mod doubt;
mod failing;
mod graph;
mod reload;
mod rig;
mod service;
mod time;
