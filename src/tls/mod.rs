//! Certificates: server name → [`Credential`], as a handshake looks it up.
//!
//! * `sni` — how names are compared;
//! * `native` — what of BoringSSL its binding does not have; `credential` — a chain and its key, parsed and checked;
//! * `glance` — what can be told of both without building anything, by `der`; `make` — what is worth telling though it can be
//!   served;
//! * `places` — where certificates lie; `folder` — one of these, its credential built when a visitor comes; `files` — as the
//!   operating system has it; `reader` — reads them;
//! * `index` — what is known of folders, kept for the next start;
//! * `store` — [`CertStore`]: every name, in `shards`, and by `entry` what serves it and what is wrong with it; `wildcards` —
//!   what serves all names below one; `problem` — how faults are told;
//! * `tickets` — the keys of session tickets; `challenges` — what an ACME server may ask for, and a sign of this
//!   process;
//! * `wanted` — names that a visitor asked for before they had a certificate;
//! * `chain` — certificates looked at for a person; `keep` — putting one in place, `inside` a
//!   folder that others may write to, by a `way` that root can trust; `probe` — what a client is served, and `own` — by which
//!   of its connections the gateway itself looks.
//!
//! A name's certificate is `<certs_dir>/<name>/chain.pem` with `key.pem`, else what was issued in
//! `<data_dir>/certs/<name>/live/`, else either's for the name with its first label replaced by `_` (the wildcard
//! `*.shop.example` lives in `_.shop.example/`). `chain.rsa.pem` with `key.rsa.pem` beside them are for clients that
//! cannot use the first pair.

pub mod chain;
mod challenges;
mod credential;
mod der;
pub mod disk;
mod entry;
mod files;
mod folder;
mod glance;
mod index;
mod inside;
pub mod keep;
mod make;
mod native;
mod own;
mod places;
pub mod probe;
mod problem;
mod reader;
mod shards;
mod sni;
mod store;
#[cfg(test)]
pub(crate) mod testing;
mod tickets;
mod wanted;
mod way;
mod wildcards;

pub use challenges::{Challenges, Offered, SIGN};
pub use credential::{Credential, CredentialError};
pub use entry::{Standing, Validity, Which};
pub use folder::{Cold, Stale};
pub use glance::Glance;
pub use native::{send_one_ticket, set_session_context};
pub use own::OwnConnections;
pub use places::{CertFolders, DirectoryFault, DirectoryProblem, Origin};
pub use problem::{CertificateFault, CertificateProblem, Meanwhile, Summary};
pub use sni::normalise;
pub use store::{CertStore, CertificateState, Lookup};
pub use tickets::TicketKeys;
pub use wanted::Wanted;
