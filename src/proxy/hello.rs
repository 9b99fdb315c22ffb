//! Whom a ClientHello asks for, told from the first bytes of a connection: most of what scanners send needs no TLS to be
//! refused.
//!
//! Only what is plain is told: one whole message in one record (RFC 8446, 4.1.2 and 5.1). BoringSSL judges everything else,
//! and every ClientHello whose name is served.

use bytes::Buf;

/// `ContentType.handshake` and `HandshakeType.client_hello`.
const HANDSHAKE: u8 = 22;
const CLIENT_HELLO: u8 = 1;
/// Bytes of a message's version and random number.
const BEFORE_SESSION: usize = 2 + 32;
/// `ExtensionType.server_name` and `NameType.host_name` (RFC 6066, 3).
const SERVER_NAME: u16 = 0;
const HOST_NAME: u8 = 0;

/// Whom a ClientHello asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Asked<'a> {
    /// A server, by what it says is a name.
    For(&'a str),
    /// No server in particular.
    ForNone,
}

/// Whom the first bytes of a connection ask for; `None` = that cannot be told from them.
pub(super) fn asked(bytes: &[u8]) -> Option<Asked<'_>> {
    let mut record = bytes;
    let (kind, _version) = (record.try_get_u8().ok()?, record.try_get_u16().ok()?);
    let mut message = long(&mut record)?;
    if kind != HANDSHAKE || message.try_get_u8().ok()? != CLIENT_HELLO {
        return None;
    }
    let length = usize::try_from(message.try_get_uint(3).ok()?).ok()?;
    let mut hello = message.split_off(..length).filter(|_| message.is_empty())?;
    hello.split_off(..BEFORE_SESSION)?;
    let (_session, _ciphers, _compression) = (short(&mut hello)?, long(&mut hello)?, short(&mut hello)?);
    if hello.is_empty() {
        return Some(Asked::ForNone);
    }
    let mut extensions = long(&mut hello).filter(|_| hello.is_empty())?;
    let mut asked = Asked::ForNone;
    while !extensions.is_empty() {
        let kind = extensions.try_get_u16().ok()?;
        let extension = long(&mut extensions)?;
        if kind == SERVER_NAME {
            asked = Asked::For(server_name(extension)?);
        }
    }
    Some(asked)
}

/// The one name of a list of names.
fn server_name(mut extension: &[u8]) -> Option<&str> {
    let mut names = long(&mut extension).filter(|_| extension.is_empty())?;
    let kind = names.try_get_u8().ok()?;
    let name = long(&mut names).filter(|_| names.is_empty())?;
    if kind == HOST_NAME { str::from_utf8(name).ok() } else { None }
}

/// What follows, with its length in one byte before it.
fn short<'a>(from: &mut &'a [u8]) -> Option<&'a [u8]> {
    let length = from.try_get_u8().ok()?;
    from.split_off(..usize::from(length))
}

/// The same with its length in two bytes.
fn long<'a>(from: &mut &'a [u8]) -> Option<&'a [u8]> {
    let length = from.try_get_u16().ok()?;
    from.split_off(..usize::from(length))
}
