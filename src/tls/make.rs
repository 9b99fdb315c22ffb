//! What of a certificate is worth telling though it can be served: the kind of its key, and whether its issuers follow it.

use boring::x509::{X509, X509Ref};

use crate::tls::der::Der;

/// How a pair is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Make {
    /// Whether the key is RSA, or else ECDSA.
    pub(super) is_rsa: bool,
    pub(super) order: Order,
}

/// What a chain is, by names alone: a start asks for 100,000 of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Order {
    /// Each certificate is followed by its issuer, but for the last.
    Right,
    /// There is the leaf only, which others issued.
    Alone,
    /// One is not followed by its issuer.
    Wrong,
}

// === impl Make ===

impl Make {
    /// As it is kept on disk.
    pub(super) fn to_byte(self) -> u8 {
        u8::from(self.is_rsa) | (self.order as u8) << 1
    }

    pub(super) fn from_byte(byte: u8) -> Option<Self> {
        let order = match byte >> 1 {
            0 => Order::Right,
            1 => Order::Alone,
            2 => Order::Wrong,
            _ => return None,
        };
        Some(Self { is_rsa: byte & 1 == 1, order })
    }
}

// === impl Order ===

impl Order {
    /// Of a whole chain, leaf first.
    pub(super) fn of(chain: &[X509]) -> Self {
        match chain {
            [leaf] => Self::of_leaf(&issuer(leaf), &subject(leaf)),
            _ if is_in_order(chain) => Self::Right,
            _ => Self::Wrong,
        }
    }

    /// Of a leaf without others, by the names in it.
    pub(super) fn of_leaf(issuer: &[u8], subject: &[u8]) -> Self {
        if issuer == subject { Self::Right } else { Self::Alone }
    }
}

/// Whether each of them is followed by its issuer. Most names are written alike in both; BoringSSL knows which others are
/// the same.
pub(super) fn is_in_order(chain: &[X509]) -> bool {
    chain.windows(2).all(|pair| match pair {
        [certificate, next] => subject(next) == issuer(certificate) || next.issued(certificate).is_ok(),
        _ => true,
    })
}

/// Whose a certificate is: the content of the name's DER.
pub(super) fn subject(certificate: &X509Ref) -> Vec<u8> {
    content(certificate.subject_name().to_der())
}

fn issuer(certificate: &X509Ref) -> Vec<u8> {
    content(certificate.issuer_name().to_der())
}

fn content<E>(der: Result<Vec<u8>, E>) -> Vec<u8> {
    der.ok().and_then(|der| Der::new(&der).any().map(<[u8]>::to_vec)).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_kept_is_read_again() {
        for is_rsa in [true, false] {
            for order in [Order::Right, Order::Alone, Order::Wrong] {
                let make = Make { is_rsa, order };
                assert_eq!(Make::from_byte(make.to_byte()), Some(make));
            }
        }
        assert_eq!(Make::from_byte(6), None);
    }
}
