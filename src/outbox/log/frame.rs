//! Frames: pieces of a file that each say how long they are and prove that they are whole.
//!
//! ```text
//! length  u32   bytes of the payload; less than PAYLOAD_MIN means: nothing was written here
//! crc     u32   CRC32C of the file's seed (u32), then of the payload
//! payload
//! ```
//! All numbers are little-endian. The seed is the segment's id, so what an earlier life of a reused file left behind is
//! never taken for a frame of this one.

/// Bytes before the payload.
pub(crate) const HEAD: usize = 8;

/// The shortest payload there can be.
pub(crate) const PAYLOAD_MIN: usize = 5;

/// What a walk over a file's bytes comes upon.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Piece<'a> {
    /// A whole frame that begins at `at`.
    Frame { at: usize, payload: &'a [u8] },
    /// Bytes that are no frame although a whole one follows: damage.
    Gap { from: usize, to: usize },
}

/// Walks over the frames of a file. After a bad one it searches on for a whole one: found means damage, of which only the
/// gap is lost; none means that here is the end, whether a write was torn or nothing more was written.
pub(crate) struct Frames<'a, F> {
    bytes: &'a [u8],
    seed: u32,
    likely: F,
    at: usize,
    after_gap: Option<usize>,
}

/// Appends a frame whose payload `fill` writes, and gives its length.
pub(crate) fn seal(out: &mut Vec<u8>, seed: u32, fill: impl FnOnce(&mut Vec<u8>)) -> usize {
    let begin = out.len();
    out.extend_from_slice(&[0; HEAD]);
    fill(out);
    let (_, frame) = out.split_at_mut(begin);
    let len = frame.len();
    let (head, payload) = frame.split_at_mut(HEAD);
    let (length, crc) = head.split_at_mut(4);
    length.copy_from_slice(&u32::try_from(payload.len()).unwrap_or(0).to_le_bytes());
    crc.copy_from_slice(&checksum(seed, payload).to_le_bytes());
    len
}

/// The payload of the frame that `bytes` begin with, if it is whole.
pub(crate) fn unseal(bytes: &[u8], seed: u32) -> Option<&[u8]> {
    let (payload, crc) = claimed(bytes)?;
    (checksum(seed, payload) == crc).then_some(payload)
}

/// CRC32C of the seed, then of the payload.
pub(crate) fn checksum(seed: u32, payload: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(&seed.to_le_bytes()), payload)
}

/// A little-endian number at an offset.
pub(crate) fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(*bytes.get(at..)?.first_chunk()?))
}

/// A little-endian number at an offset.
pub(crate) fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(*bytes.get(at..)?.first_chunk()?))
}

/// What the head of a frame says: the payload, unproven, and the checksum it should have.
fn claimed(bytes: &[u8]) -> Option<(&[u8], u32)> {
    let length = usize::try_from(u32_at(bytes, 0)?).ok()?;
    if length < PAYLOAD_MIN {
        return None;
    }
    Some((bytes.get(HEAD..HEAD.checked_add(length)?)?, u32_at(bytes, 4)?))
}

// === impl Frames ===

impl<'a, F: Fn(&[u8]) -> bool> Frames<'a, F> {
    /// Walks over `bytes` from `at`. `likely` is a cheap look at a payload's first bytes that spares the search most
    /// checksums.
    pub(crate) fn new(bytes: &'a [u8], at: usize, seed: u32, likely: F) -> Self {
        Self { bytes, seed, likely, at, after_gap: None }
    }

    /// Where the last whole frame ends; right once the walk is over.
    pub(crate) fn end(&self) -> usize {
        self.at
    }

    /// Whether a frame was begun here and is not whole. `false` for what cannot be told from an older life's leftovers.
    pub(crate) fn is_torn(&self, fresh: impl Fn(&[u8]) -> bool) -> bool {
        let tail = self.bytes.get(self.at..).unwrap_or_default();
        let payload = tail.get(HEAD..).unwrap_or_default();
        u32_at(tail, 0).is_some_and(|length| length as usize >= PAYLOAD_MIN) && (self.likely)(payload) && fresh(payload)
    }

    fn frame_at(&self, at: usize) -> Option<&'a [u8]> {
        let bytes = self.bytes.get(at..)?;
        if !(self.likely)(bytes.get(HEAD..)?) {
            return None;
        }
        unseal(bytes, self.seed)
    }
}

impl<'a, F: Fn(&[u8]) -> bool> Iterator for Frames<'a, F> {
    type Item = Piece<'a>;

    fn next(&mut self) -> Option<Piece<'a>> {
        if let Some(to) = self.after_gap.take() {
            self.at = to;
        }
        if let Some(payload) = self.frame_at(self.at) {
            let at = self.at;
            self.at += HEAD + payload.len();
            return Some(Piece::Frame { at, payload });
        }
        let found = (self.at + 1..self.bytes.len()).find(|&at| self.frame_at(at).is_some())?;
        self.after_gap = Some(found);
        Some(Piece::Gap { from: self.at, to: found })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing)]
    use super::*;

    fn walk(bytes: &[u8], seed: u32) -> (Vec<Piece<'_>>, usize) {
        let mut frames = Frames::new(bytes, 0, seed, |payload| payload.first() == Some(&b'x'));
        let pieces = frames.by_ref().collect();
        (pieces, frames.end())
    }

    fn three() -> Vec<u8> {
        let mut bytes = Vec::new();
        for text in ["x-one", "x-number-two", "x-three"] {
            seal(&mut bytes, 7, |out| out.extend_from_slice(text.as_bytes()));
        }
        bytes
    }

    #[test]
    fn frames_come_back_as_they_went_in() {
        let bytes = three();
        let (pieces, end) = walk(&bytes, 7);
        assert_eq!(pieces.len(), 3);
        assert_eq!(pieces[1], Piece::Frame { at: 13, payload: b"x-number-two" });
        assert_eq!(end, bytes.len());
    }

    #[test]
    fn another_seed_sees_nothing() {
        assert_eq!(walk(&three(), 8), (vec![], 0));
    }

    #[test]
    fn any_flipped_bit_costs_only_its_own_frame() {
        let whole = three();
        for bit in 13 * 8..33 * 8 {
            let mut bytes = whole.clone();
            bytes[bit / 8] ^= 1 << (bit % 8);
            let (pieces, end) = walk(&bytes, 7);
            assert_eq!(pieces[1], Piece::Gap { from: 13, to: 33 }, "bit {bit}");
            assert_eq!((pieces.len(), end), (3, bytes.len()));
        }
    }

    #[test]
    fn a_cut_frame_is_the_end() {
        let whole = three();
        for len in 33..whole.len() {
            let (pieces, end) = walk(&whole[..len], 7);
            assert_eq!((pieces.len(), end), (2, 33), "{len}");
        }
    }
}
