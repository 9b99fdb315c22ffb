//! Pixelgate: a gateway from the Meta Pixel to the Conversions API, for many accounts.
//!
//! ```text
//! browser ─TLS─▶ proxy ─▶ ingest ─▶ filter ─▶ outbox ─▶ 2xx        outbox ─▶ delivery ─▶ Graph API
//!                  │         ▲
//!                 tls     snapshot ◀─ reload ◀─ config
//! ```
//!
//! ARCHITECTURE.md tells the whole; the modules below stand in the order in which an event meets them. What is not here:
//! a database server (the outbox is a log of files, beside a small SQLite file), a cluster, a user interface.

pub mod account;
pub mod event;

pub mod telemetry;

mod parallel;
mod sqlite;
mod threads;

pub mod clock;
pub mod config;
pub mod tls;

pub mod filter;
pub mod outbox;

pub mod snapshot;

pub mod ingest;
pub mod reload;

pub mod console;
pub mod delivery;
pub mod issuance;
pub mod proxy;

pub mod server;

pub mod cli;
