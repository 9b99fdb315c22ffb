//! What a chain and its key say, without building what a handshake needs: a start judges every name, and builds nothing
//! that no visitor asked for.
//!
//! A glance is never more lenient than [`Credential::parse`]: it reads PEM and DER in the one form that everybody writes,
//! checks all of the leaf's structure and that the key's public half is the leaf's, and answers nothing where it cannot be
//! sure. The one thing that it takes on trust is the private half of the key; the first visit finds what is wrong with
//! that.

use std::collections::HashMap;
use std::sync::{PoisonError, RwLock};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use boring::bn::BigNumContext;
use boring::ec::{EcGroup, EcPoint};
use boring::error::ErrorStack;
use boring::nid::Nid;
use pingora::tls::x509::X509;

use crate::tls::credential::Credential;
use crate::tls::der::{self, Der};
use crate::tls::make::{Make, Order, is_in_order, subject};

/// Characters of a line (RFC 7468, 2: 64; RFC 2045: 76).
const LINE_MAX: usize = 76;
/// Texts of intermediates that are remembered; a host's certificates come from a few.
const TEXTS_MAX: usize = 1_024;
/// Bytes of an RSA key's modulus, with the zero before it: 2048 to 4096 bits.
const MODULUS_BYTES: std::ops::RangeInclusive<usize> = 257..=513;
/// The exponent that everybody uses, 65537.
const EXPONENT: &[u8] = &[1, 0, 1];

const RSA: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x01];
const EC: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01];
const P256: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07];
const P384: &[u8] = &[0x2b, 0x81, 0x04, 0x00, 0x22];
const KEY_USAGE: &[u8] = &[0x55, 0x1d, 0x0f];
const SUBJECT_ALT_NAMES: &[u8] = &[0x55, 0x1d, 0x11];

/// What is known of a good credential.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Glance {
    /// First second in which it is valid, Unix time.
    pub not_before: i64,
    /// Last second in which it is valid, Unix time.
    pub not_after: i64,
    /// The DNS names that it is for, in lower case.
    pub names: Vec<Box<str>>,
}

/// What follows the leaf in chains, the same in most of them: each text is parsed once.
#[derive(Default)]
pub(super) struct Intermediates(RwLock<HashMap<Box<[u8]>, Follower>>);

/// What is known of such a text.
struct Follower {
    /// Whose the first certificate in it is, as its DER has it; `None` = there is no certificate in it.
    subject: Option<Vec<u8>>,
    in_order: bool,
}

/// What is found in a leaf.
struct Leaf<'d> {
    glance: Glance,
    public: Public<'d>,
    /// Both as the DER has them.
    issuer: &'d [u8],
    subject: &'d [u8],
}

/// A public key as it is written.
#[derive(PartialEq, Eq)]
enum Public<'d> {
    Ec { curve: &'d [u8], point: &'d [u8] },
    Rsa { modulus: &'d [u8] },
}

// === impl Credential ===

impl Credential {
    /// What [`Credential::parse`] would find, much cheaper; `None` = only that can say.
    pub fn glance(chain_pem: &[u8], key_pem: &[u8]) -> Option<Glance> {
        glance(chain_pem, key_pem, &Intermediates::default()).map(|(glance, _)| glance)
    }
}

/// The same with intermediates that are known from other chains.
pub(super) fn glance(chain_pem: &[u8], key_pem: &[u8], intermediates: &Intermediates) -> Option<(Glance, Make)> {
    let (leaf, rest) = block(chain_pem, b"CERTIFICATE")?;
    let leaf = read_leaf(&leaf)?;
    is_key_of(key_pem, &leaf.public)?.then_some(())?;
    let make =
        Make { is_rsa: matches!(leaf.public, Public::Rsa { .. }), order: intermediates.order_after(&leaf, rest)? };
    Some((leaf.glance, make))
}

/// The block at the beginning of a PEM text, and what comes after it.
fn block<'t>(text: &'t [u8], label: &[u8]) -> Option<(Vec<u8>, &'t [u8])> {
    let body = text.strip_prefix(b"-----BEGIN ")?.strip_prefix(label)?.strip_prefix(b"-----\n")?;
    let (body, end) = body.split_at_checked(body.iter().position(|byte| *byte == b'-')?)?;
    let rest = end.strip_prefix(b"-----END ")?.strip_prefix(label)?.strip_prefix(b"-----")?;
    let rest = if rest.is_empty() { rest } else { rest.strip_prefix(b"\n")? };
    let mut packed = Vec::with_capacity(body.len());
    for line in body.strip_suffix(b"\n")?.split(|byte| *byte == b'\n') {
        if line.is_empty() || line.len() > LINE_MAX {
            return None;
        }
        packed.extend_from_slice(line);
    }
    Some((STANDARD.decode(packed).ok()?, rest))
}

/// Goes through a certificate (RFC 5280, 4.1).
fn read_leaf(der: &[u8]) -> Option<Leaf<'_>> {
    let mut all = Der::new(der);
    let mut certificate = all.enter(der::SEQUENCE)?;
    all.end()?;
    let mut tbs = certificate.enter(der::SEQUENCE)?;
    skip_signature_algorithm(&mut certificate)?;
    certificate.bytes()?;
    certificate.end()?;

    // Version 3.
    if tbs.take(0xa0)? != [der::INTEGER, 1, 2] {
        return None;
    }
    tbs.unsigned()?;
    skip_signature_algorithm(&mut tbs)?;
    let issuer = read_name(&mut tbs)?;
    let mut validity = tbs.enter(der::SEQUENCE)?;
    let (not_before, not_after) = (validity.time()?, validity.time()?);
    validity.end()?;
    let subject = read_name(&mut tbs)?;
    let public = read_public(&mut tbs)?;
    let names = if tbs.is_at_end() { Vec::new() } else { read_extensions(&mut tbs)? };
    tbs.end()?;
    Some(Leaf { glance: Glance { not_before, not_after, names }, public, issuer, subject })
}

fn skip_signature_algorithm(der: &mut Der<'_>) -> Option<()> {
    let mut algorithm = der.enter(der::SEQUENCE)?;
    algorithm.oid()?;
    skip_null(&mut algorithm)?;
    algorithm.end()
}

fn skip_null(der: &mut Der<'_>) -> Option<()> {
    der.is_at_end().then_some(()).or_else(|| der.take(der::NULL)?.is_empty().then_some(()))
}

/// A name of ASCII texts; others are spelled in too many ways.
fn read_name<'d>(der: &mut Der<'d>) -> Option<&'d [u8]> {
    let content = der.take(der::SEQUENCE)?;
    let mut name = Der::new(content);
    while !name.is_at_end() {
        let mut set = name.enter(der::SET)?;
        set.tag()?;
        while !set.is_at_end() {
            let mut attribute = set.enter(der::SEQUENCE)?;
            attribute.oid()?;
            if !matches!(attribute.tag()?, der::UTF8_STRING | der::PRINTABLE_STRING | der::IA5_STRING) {
                return None;
            }
            is_text(attribute.any()?).then_some(())?;
            attribute.end()?;
        }
    }
    Some(content)
}

fn is_text(bytes: &[u8]) -> bool {
    bytes.iter().all(|byte| matches!(byte, b' '..=b'~'))
}

fn read_public<'d>(tbs: &mut Der<'d>) -> Option<Public<'d>> {
    let mut info = tbs.enter(der::SEQUENCE)?;
    let curve = read_algorithm(&mut info)?;
    let key = info.bytes()?;
    info.end()?;
    match curve {
        Some(curve) => is_on_curve(curve, key).then_some(Public::Ec { curve, point: key }),
        None => {
            let mut rsa = Der::new(key);
            let mut key = rsa.enter(der::SEQUENCE)?;
            rsa.end()?;
            let public = read_rsa(&mut key)?;
            key.end()?;
            Some(public)
        }
    }
}

/// The kind of a key: `Some` curve, or RSA.
fn read_algorithm<'d>(der: &mut Der<'d>) -> Option<Option<&'d [u8]>> {
    let mut algorithm = der.enter(der::SEQUENCE)?;
    let curve = match algorithm.oid()? {
        EC => Some(algorithm.oid()?),
        RSA => {
            algorithm.take(der::NULL)?.is_empty().then_some(())?;
            None
        }
        _ => return None,
    };
    algorithm.end()?;
    Some(curve)
}

/// Whether it is an uncompressed point of one of the two curves that certificates are for.
fn is_point(curve: &[u8], bytes: &[u8]) -> bool {
    bytes.first() == Some(&4) && field_bytes(curve).is_some_and(|field| bytes.len() == 1 + 2 * field)
}

/// Whether it is a point of the curve.
fn is_on_curve(curve: &[u8], bytes: &[u8]) -> bool {
    let nid = if curve == P256 { Nid::X9_62_PRIME256V1 } else { Nid::SECP384R1 };
    let read = || -> Result<EcPoint, ErrorStack> {
        let (group, mut context) = (EcGroup::from_curve_name(nid)?, BigNumContext::new()?);
        EcPoint::from_bytes(&group, bytes, &mut context)
    };
    is_point(curve, bytes) && read().is_ok()
}

fn field_bytes(curve: &[u8]) -> Option<usize> {
    match curve {
        P256 => Some(32),
        P384 => Some(48),
        _ => None,
    }
}

fn read_rsa<'d>(key: &mut Der<'d>) -> Option<Public<'d>> {
    let (modulus, exponent) = (key.unsigned()?, key.unsigned()?);
    let is_odd = modulus.last().is_some_and(|last| last & 1 == 1);
    (MODULUS_BYTES.contains(&modulus.len()) && is_odd && exponent == EXPONENT).then_some(Public::Rsa { modulus })
}

/// The DNS names, and whether the key may sign.
fn read_extensions(tbs: &mut Der<'_>) -> Option<Vec<Box<str>>> {
    let mut wrapped = tbs.enter(0xa3)?;
    let mut extensions = wrapped.enter(der::SEQUENCE)?;
    wrapped.end()?;
    // At least one (RFC 5280, 4.1).
    extensions.tag()?;
    let (mut names, mut has_usage) = (None, false);
    while !extensions.is_at_end() {
        let mut extension = extensions.enter(der::SEQUENCE)?;
        let kind = extension.oid()?;
        if extension.tag() == Some(der::BOOLEAN) && extension.any()? != [0xff] {
            return None;
        }
        let content = extension.take(der::OCTET_STRING)?;
        extension.end()?;
        match kind {
            // Neither may come twice.
            SUBJECT_ALT_NAMES if names.is_none() => names = Some(read_names(content)?),
            KEY_USAGE if !has_usage && may_sign(content)? => has_usage = true,
            SUBJECT_ALT_NAMES | KEY_USAGE => return None,
            _ => {}
        }
    }
    Some(names.unwrap_or_default())
}

fn read_names(content: &[u8]) -> Option<Vec<Box<str>>> {
    let mut content = Der::new(content);
    let mut general = content.enter(der::SEQUENCE)?;
    content.end()?;
    let mut names = Vec::new();
    while !general.is_at_end() {
        match (general.tag()?, general.any()?) {
            (0x82, name) if is_text(name) => names.push(std::str::from_utf8(name).ok()?.to_ascii_lowercase().into()),
            // Mail address, URI, IP address.
            (0x81 | 0x86, text) if is_text(text) => {}
            (0x87, _) => {}
            _ => return None,
        }
    }
    Some(names)
}

/// Whether a key usage has `digitalSignature`, its first bit.
fn may_sign(content: &[u8]) -> Option<bool> {
    let mut content = Der::new(content);
    let bits = content.take(der::BIT_STRING)?;
    content.end()?;
    let (unused, bits) = bits.split_first()?;
    let last = bits.last()?;
    let padding = 1_u8.checked_shl(u32::from(*unused)).filter(|_| *unused < 8)? - 1;
    Some(last & padding == 0 && bits.first()? & 0x80 != 0)
}

/// Whether a private key (PKCS #8, SEC 1 or PKCS #1) belongs to a public one, by the public half that is written in it.
fn is_key_of(pem: &[u8], public: &Public<'_>) -> Option<bool> {
    // All of the text: what comes after a key is nothing to guess about.
    let whole = |label: &[u8]| block(pem, label).and_then(|(der, rest)| rest.is_empty().then_some(der));
    if let Some(der) = whole(b"PRIVATE KEY") {
        Some(read_pkcs8(&der)? == *public)
    } else if let Some(der) = whole(b"EC PRIVATE KEY") {
        Some(read_sec1(&der, None)? == *public)
    } else {
        Some(read_pkcs1(&whole(b"RSA PRIVATE KEY")?)? == *public)
    }
}

fn read_pkcs8(der: &[u8]) -> Option<Public<'_>> {
    let mut all = Der::new(der);
    let mut info = all.enter(der::SEQUENCE)?;
    all.end()?;
    (info.unsigned()? == [0]).then_some(())?;
    let curve = read_algorithm(&mut info)?;
    let key = info.take(der::OCTET_STRING)?;
    info.end()?;
    match curve {
        Some(curve) => read_sec1(key, Some(curve)),
        None => read_pkcs1(key),
    }
}

/// RFC 5915. Its public half may be absent: then it would have to be computed.
fn read_sec1<'d>(der: &'d [u8], outer: Option<&'d [u8]>) -> Option<Public<'d>> {
    let mut all = Der::new(der);
    let mut key = all.enter(der::SEQUENCE)?;
    all.end()?;
    (key.unsigned()? == [1]).then_some(())?;
    let private = key.take(der::OCTET_STRING)?;
    let inner = match key.enter(0xa0) {
        Some(mut parameters) => {
            let curve = parameters.oid()?;
            parameters.end()?;
            Some(curve)
        }
        None => None,
    };
    let curve = outer.or(inner)?;
    let mut wrapped = key.enter(0xa1)?;
    key.end()?;
    let point = wrapped.bytes()?;
    wrapped.end()?;
    let sound = inner.is_none_or(|inner| inner == curve) && field_bytes(curve)? == private.len();
    (sound && is_point(curve, point)).then_some(Public::Ec { curve, point })
}

/// RFC 8017, A.1.2, of two primes.
fn read_pkcs1(der: &[u8]) -> Option<Public<'_>> {
    let mut all = Der::new(der);
    let mut key = all.enter(der::SEQUENCE)?;
    all.end()?;
    (key.unsigned()? == [0]).then_some(())?;
    let public = read_rsa(&mut key)?;
    // The private exponent, two primes, their exponents, and the coefficient.
    (0..6).try_for_each(|_| key.unsigned().map(drop))?;
    key.end()?;
    Some(public)
}

// === impl Intermediates ===

impl Intermediates {
    /// How a chain of the leaf and this text is made, if all certificates in the text can be parsed. `None` also where only
    /// BoringSSL can say whether the first one issued the leaf.
    fn order_after(&self, leaf: &Leaf<'_>, text: &[u8]) -> Option<Order> {
        let order = |follower: &Follower| match &follower.subject {
            None => Some(Order::of_leaf(leaf.issuer, leaf.subject)),
            Some(_) if !follower.in_order => Some(Order::Wrong),
            Some(subject) => (subject == leaf.issuer).then_some(Order::Right),
        };
        if text.is_empty() {
            return Some(Order::of_leaf(leaf.issuer, leaf.subject));
        }
        if let Some(known) = self.0.read().unwrap_or_else(PoisonError::into_inner).get(text) {
            return order(known);
        }
        let chain = X509::stack_from_pem(text).ok()?;
        let follower = Follower { subject: chain.first().map(|first| subject(first)), in_order: is_in_order(&chain) };
        let found = order(&follower);
        let mut known = self.0.write().unwrap_or_else(PoisonError::into_inner);
        if known.len() < TEXTS_MAX {
            known.insert(text.into(), follower);
        }
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_of_extensions_has_at_least_one() {
        let read = |der: &[u8]| read_extensions(&mut Der::new(der));
        assert_eq!(read(&[0xa3, 2, 0x30, 0]), None);
        let unknown = [0xa3, 11, 0x30, 9, 0x30, 7, 6, 3, 0x55, 0x1d, 0x0e, 4, 0];
        assert_eq!(read(&unknown), Some(Vec::new()));
    }
}
