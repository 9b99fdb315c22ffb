//! Request bodies: read whole, within a number of bytes and a time, and inflated within the same number.

use std::io::Read;
use std::mem;
use std::time::Duration;

use bytes::Bytes;
use flate2::read::MultiGzDecoder;
use http::header::{CONTENT_ENCODING, CONTENT_LENGTH, EXPECT};
use pingora::protocols::http::ServerSession;
use pingora::{Error, ErrorType};
use tokio::time::{Instant, timeout, timeout_at};

use crate::proxy::bodies::{HeldBytes, Shares};

/// What is read of a body that is refused, so that the client sees the answer and not a reset.
const REFUSED_BYTES_MAX: usize = 64 * 1024;
/// How long that may take.
const REFUSED_TIME_MAX: Duration = Duration::from_secs(1);
/// Bodies that may become larger than this are inflated where they keep no other connection waiting.
const INFLATED_INLINE_MAX: usize = 1024 * 1024;
/// Memory that an inflated body begins with; it doubles from there.
const INFLATED_FIRST: usize = 16 * 1024;

/// A whole body, inflated. Its memory counts until it is dropped.
pub(super) struct Body {
    pub(super) bytes: Bytes,
    _held: HeldBytes,
}

/// What a body may take.
#[derive(Clone, Copy, Debug)]
pub(super) struct BodyLimits {
    /// Bytes of it, after inflation too.
    pub(super) bytes_max: usize,
    /// Time from now until its last byte.
    pub(super) time_max: Duration,
    /// Bytes of all bodies at one time.
    pub(super) shares: Shares,
}

/// What came of a body so far.
#[derive(Default)]
struct Pieces {
    /// The first, as it came: most bodies have no other.
    first: Bytes,
    /// All, once there are more.
    joined: Vec<u8>,
    /// Bytes that were claimed for them.
    room: usize,
}

/// Why there is no body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum BodyError {
    /// More bytes than it may have.
    TooLarge,
    /// It took too long.
    TooSlow,
    /// It ended early, or is framed wrongly.
    Broken,
    /// A `Content-Encoding` other than gzip.
    Encoding,
    /// It says gzip and is not.
    NotGzip,
    /// All bodies together, or those of this sender, take too much memory now.
    NoMemory,
}

/// Reads the whole body. Its memory is claimed with `held`.
///
/// # Errors
/// The rest of the body may be unread then.
pub(super) async fn read(session: &mut ServerSession, limits: BodyLimits, held: HeldBytes) -> Result<Body, BodyError> {
    let gzip = match session.get_header_bytes(CONTENT_ENCODING) {
        b"" => false,
        encoding if encoding.eq_ignore_ascii_case(b"identity") => false,
        encoding if encoding.eq_ignore_ascii_case(b"gzip") || encoding.eq_ignore_ascii_case(b"x-gzip") => true,
        _ => return Err(BodyError::Encoding),
    };
    if declared_bytes(session).is_some_and(|bytes| bytes > limits.bytes_max as u64) {
        return Err(BodyError::TooLarge);
    }
    let mut held = held;
    let deadline = Instant::now() + limits.time_max;
    let whole = timeout_at(deadline, collect(session, limits, &mut held));
    let bytes = whole.await.map_err(|_| BodyError::TooSlow)??;
    let bytes = if gzip { inflate(&bytes, limits, &mut held)?.into() } else { bytes };
    Ok(Body { bytes, _held: held })
}

/// Reads some of a body that is refused, before the answer on HTTP/1.
pub(super) async fn discard(session: &mut ServerSession) {
    // A client that waits for leave to send has sent nothing that would have to be read.
    if expects_continue(session) {
        return;
    }
    // What was not read by then stays unread.
    let _ = timeout(REFUSED_TIME_MAX, read_some(session)).await;
}

/// Keeps an HTTP/2 stream open for a moment after the answer to a request that is still being sent: reset at once, some
/// clients lose the answer. As much is read as on HTTP/1. A client that has more to send waits for room then, sees the
/// answer, and ends the stream itself; or it is reset.
pub(super) async fn see_off(session: &mut ServerSession) {
    let seen_off = async {
        if read_some(session).await {
            let _ = session.read_body_or_idle(true).await;
        }
    };
    let _ = timeout(REFUSED_TIME_MAX, seen_off).await;
}

/// Reads as much as is read of a body that is refused; whether there is more of it.
async fn read_some(session: &mut ServerSession) -> bool {
    let mut discarded = 0;
    while discarded < REFUSED_BYTES_MAX {
        match session.read_request_body().await {
            Ok(Some(chunk)) => discarded += chunk.len(),
            Ok(None) | Err(_) => return false,
        }
    }
    true
}

/// The `Content-Length`, if there is one.
pub(super) fn declared_bytes(session: &ServerSession) -> Option<u64> {
    session.get_header(CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

async fn collect(session: &mut ServerSession, limits: BodyLimits, held: &mut HeldBytes) -> Result<Bytes, BodyError> {
    if expects_continue(session) {
        // An interim answer is not the early end that closes a connection.
        session.set_close_on_response_before_downstream_finish(false);
        session.write_continue_response().await.map_err(|_| BodyError::Broken)?;
        session.set_close_on_response_before_downstream_finish(true);
    }
    let declared = declared_bytes(session).and_then(|bytes| usize::try_from(bytes).ok());
    let mut pieces = Pieces::default();
    while let Some(piece) = session.read_request_body().await.map_err(|error| unread(&error))? {
        pieces.add(piece, declared, limits, held)?;
    }
    Ok(pieces.whole())
}

// === impl Pieces ===

impl Pieces {
    /// Adds what came. Memory is claimed before it is taken. (While a body moves to a larger place it has both: one at a time
    /// on each thread.)
    fn add(
        &mut self,
        piece: Bytes,
        declared: Option<usize>,
        limits: BodyLimits,
        held: &mut HeldBytes,
    ) -> Result<(), BodyError> {
        let bytes = self.first.len() + self.joined.len() + piece.len();
        if bytes > limits.bytes_max {
            return Err(BodyError::TooLarge);
        }
        if bytes > self.room {
            let is_first = self.room == 0;
            let room = if is_first { bytes } else { 2 * self.room };
            let room = room.min(declared.unwrap_or(limits.bytes_max)).clamp(bytes, limits.bytes_max);
            if !held.grow(room - self.room, &limits.shares) {
                return Err(BodyError::NoMemory);
            }
            self.room = room;
            if is_first {
                self.first = piece;
                return Ok(());
            }
            self.joined.reserve_exact(room - self.joined.len());
        }
        self.joined.extend_from_slice(&mem::take(&mut self.first));
        self.joined.extend_from_slice(&piece);
        Ok(())
    }

    fn whole(self) -> Bytes {
        if self.joined.is_empty() { self.first } else { self.joined.into() }
    }
}

/// Why a read failed: Pingora has a limit of its own for each, which may strike first.
fn unread(error: &Error) -> BodyError {
    match error.etype() {
        ErrorType::ReadTimedout => BodyError::TooSlow,
        _ => BodyError::Broken,
    }
}

fn inflate(packed: &[u8], limits: BodyLimits, held: &mut HeldBytes) -> Result<Vec<u8>, BodyError> {
    if limits.bytes_max <= INFLATED_INLINE_MAX {
        return gunzip(packed, limits, held);
    }
    tokio::task::block_in_place(|| gunzip(packed, limits, held))
}

/// Inflates into memory that is claimed before it is taken: a bomb takes no more of it than there is.
fn gunzip(packed: &[u8], limits: BodyLimits, held: &mut HeldBytes) -> Result<Vec<u8>, BodyError> {
    let mut decoder = MultiGzDecoder::new(packed);
    let mut inflated = Vec::new();
    let mut room = 0;
    while inflated.len() == room {
        if room > limits.bytes_max {
            return Err(BodyError::TooLarge);
        }
        // One byte more than there may be shows that there are too many.
        let more = room.max(INFLATED_FIRST).min(limits.bytes_max + 1 - room);
        if !held.grow(more, &limits.shares) {
            return Err(BodyError::NoMemory);
        }
        inflated.reserve_exact(more);
        room += more;
        decoder.by_ref().take(more as u64).read_to_end(&mut inflated).map_err(|_| BodyError::NotGzip)?;
    }
    Ok(inflated)
}

fn expects_continue(session: &ServerSession) -> bool {
    !session.is_http2() && session.get_header_bytes(EXPECT).eq_ignore_ascii_case(b"100-continue")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::io::Write;
    use std::sync::Arc;

    use flate2::Compression;
    use flate2::write::GzEncoder;

    use super::*;
    use crate::proxy::bodies::{BodyMemory, Holder, Sender};

    fn claim() -> HeldBytes {
        Arc::new(BodyMemory::default()).claim(Holder::new(None, None, Sender::Browser))
    }

    fn limits(bytes_max: usize, memory_max: usize) -> BodyLimits {
        BodyLimits { bytes_max, time_max: Duration::ZERO, shares: Shares::new(memory_max, memory_max) }
    }

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    /// Inflates within `bytes_max`, where all bodies may take `memory_max`.
    fn gunzip(packed: &[u8], bytes_max: usize, memory_max: usize) -> Result<Vec<u8>, BodyError> {
        super::gunzip(packed, limits(bytes_max, memory_max), &mut claim())
    }

    #[test]
    fn a_bomb_is_cut_off() {
        let bomb = gzip(&vec![0; 10_000_000]);
        assert!(bomb.len() < 20_000);
        assert_eq!(gunzip(&bomb, 262_144, usize::MAX), Err(BodyError::TooLarge));
    }

    #[test]
    fn memory_is_claimed_before_it_is_taken() {
        let inflated = gunzip(&gzip(&vec![0; 10_000_000]), 16_000_000, 100_000);
        assert_eq!(inflated, Err(BodyError::NoMemory));
        let whole = gunzip(&gzip(&vec![7; 100_000]), 100_000, 100_001).unwrap();
        assert_eq!((whole.len(), whole.capacity()), (100_000, 100_001), "no more is taken than was claimed");
    }

    #[test]
    fn pieces_take_no_more_than_was_claimed() {
        let piece = || Bytes::from_static(&[7; 100]);
        for (declared, memory_max, pieces) in [(None, 1_000, 8), (Some(1_000), 1_000, 10), (None, 10_000, 20)] {
            let (limits, mut held) = (limits(2_000, memory_max), claim());
            let mut body = Pieces::default();
            let mut add = || body.add(piece(), declared, limits, &mut held);
            assert_eq!((0..30).take_while(|_| add().is_ok()).count(), pieces, "{declared:?} {memory_max}");
            assert_eq!(add(), Err(if memory_max < 2_000 { BodyError::NoMemory } else { BodyError::TooLarge }));
            assert!(body.joined.capacity() <= memory_max.min(2_000), "{}", body.joined.capacity());
            assert_eq!(body.whole(), vec![7; 100 * pieces]);
        }
    }

    #[test]
    fn a_body_in_one_piece_is_not_copied() {
        let (piece, mut body) = (Bytes::from(vec![7; 100]), Pieces::default());
        body.add(piece.clone(), None, limits(100, 100), &mut claim()).unwrap();
        assert_eq!(body.whole().as_ptr(), piece.as_ptr());
    }

    #[test]
    fn gzip_is_inflated_up_to_the_last_byte_that_fits() {
        let packed = gzip(b"0123456789");
        assert_eq!(gunzip(&packed, 10, 11).unwrap(), b"0123456789");
        assert_eq!(gunzip(&packed, 9, 11), Err(BodyError::TooLarge));
        assert_eq!(gunzip(packed.get(..packed.len() - 4).unwrap(), 10, 11), Err(BodyError::NotGzip));
        assert_eq!(gunzip(b"{}", 10, 11), Err(BodyError::NotGzip));
    }
}
