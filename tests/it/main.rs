//! The integration tests: one program that drives the real executable.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic, missing_docs)]

/// The small language of these tests.
mod util;

/// Memory for headers and bodies: who may hold how much of it.
mod bodies;
/// Certificates: what the command line does with them, DNS, a real ACME server.
mod certificates;
/// `cert check`: what it says of files.
mod checks;
/// The official clients as they come from their registries, and a real browser.
mod clients;
/// What a person types: output, exit codes.
mod command_line;
/// Lanes: batches, retries, refusals, pauses.
mod delivery;
/// What was answered with success is never lost.
mod durability;
/// TLS, names, limits: before a request has a meaning.
mod edge;
/// Filters of accounts, good and bad ones.
mod filters;
/// Handshakes beyond the limits: who is shed, and who is not.
mod flood;
/// `cert import`: what goes into place, and what of what was there stays.
mod imports;
/// Certificates from a real ACME server.
mod issuance;
/// Kills on a certificate's way.
mod issuance_kills;
/// What goes wrong between a gateway and its CAs.
mod issuance_troubles;
/// Arrows between modules, and what stands where.
mod layers;
/// Starting, stopping, signals, systemd, the log.
mod life;
/// What a scanner for weak TLS says.
mod rating;
/// What is refused before anything is computed for it: noise, names that nobody has, excess.
mod refusals;
/// Problems of the configuration, and taking up a new one under load.
mod reload;
/// Certificates that are replaced while events come.
mod renewals;
/// Many names: what each takes of memory.
mod scale;
/// Certificates as they are served: broken since the start, issued here, sessions resumed.
mod serving;
/// Starts that fail: what they say, and that they leave nothing behind.
mod starts;
/// The ways in: gateway, pixel and Graph formats, good input and bad.
mod ways_in;
