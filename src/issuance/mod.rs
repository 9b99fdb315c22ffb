//! Certificates from an ACME certificate authority.

mod dns;

pub use dns::{Dns, DnsError, DnsFinding, DnsReport};
