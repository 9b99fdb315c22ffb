//! The summary of a segment, its `.index` file: where its events are, so that a start reads this and not the segment.
//!
//! ```text
//! magic      8 bytes  "PXGIDX\r\n"
//! version    u32      1
//! segment    u32
//! first_seq  u64      as in the segment's header
//! end        u64      bytes of the segment that count
//! lanes      u32      how many follow: account length u8, account, pixel u64
//! entries    u32      how many follow: seq u64, at u32, len u32, lane u32, envelope u32, accepted_s u32
//! crc        u32      CRC32C of all before it
//! ```
//! It is only a shortcut: one that is missing, damaged or of another version is made again from the segment.

use std::collections::HashMap;

use super::{Entry, frame};
use crate::account::{AccountId, LaneKey, PixelId};

/// What is in a segment.
#[derive(Debug, PartialEq)]
pub(crate) struct Summary {
    pub(crate) segment: u32,
    pub(crate) first_seq: u64,
    /// Bytes of the segment that count.
    pub(crate) end: u64,
    /// Whose events are in it.
    pub(crate) lanes: Vec<LaneKey>,
    /// Each event, with its lane's place in `lanes`.
    pub(crate) entries: Vec<(u32, Entry)>,
    by_pixel: HashMap<u64, Vec<u32>>,
    by_number: HashMap<u64, u32>,
}

const MAGIC: &[u8; 8] = b"PXGIDX\r\n";
const VERSION: u32 = 1;
const ENTRY_BYTES: usize = 28;

// === impl Summary ===

impl Summary {
    /// Of a segment with nothing in it yet.
    pub(crate) fn new(segment: u32, first_seq: u64, end: u64) -> Self {
        let (lanes, entries, by_number) = (Vec::new(), Vec::new(), HashMap::new());
        Self { segment, first_seq, end, lanes, entries, by_pixel: HashMap::new(), by_number }
    }

    /// Adds an event of a lane that the caller knows by a number: quicker than by its name.
    pub(crate) fn add_numbered(&mut self, number: u64, lane: &LaneKey, entry: Entry) {
        let known = self.by_number.get(&number).copied();
        let Some(lane) = known.or_else(|| self.lane(lane.account.as_str(), lane.pixel.as_u64())) else { return };
        if known.is_none() {
            self.by_number.insert(number, lane);
        }
        self.entries.push((lane, entry));
    }

    /// Adds an event; `false` if its account or pixel is none.
    pub(crate) fn add(&mut self, account: &str, pixel: u64, entry: Entry) -> bool {
        let Some(lane) = self.lane(account, pixel) else { return false };
        self.entries.push((lane, entry));
        true
    }

    /// The highest seq in it, or the one before its first.
    pub(crate) fn last_seq(&self) -> u64 {
        let last = self.entries.iter().map(|(_, entry)| entry.seq).max().unwrap_or(0);
        last.max(self.first_seq.saturating_sub(1))
    }

    /// The bytes of its file.
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(64 + self.lanes.len() * 40 + self.entries.len() * ENTRY_BYTES);
        out.extend_from_slice(MAGIC);
        put(&mut out, VERSION);
        put(&mut out, self.segment);
        out.extend_from_slice(&self.first_seq.to_le_bytes());
        out.extend_from_slice(&self.end.to_le_bytes());
        put(&mut out, u32::try_from(self.lanes.len()).unwrap_or(u32::MAX));
        for lane in &self.lanes {
            let account = lane.account.as_str().as_bytes();
            out.push(u8::try_from(account.len()).unwrap_or(0));
            out.extend_from_slice(account);
            out.extend_from_slice(&lane.pixel.as_u64().to_le_bytes());
        }
        put(&mut out, u32::try_from(self.entries.len()).unwrap_or(u32::MAX));
        for (lane, entry) in &self.entries {
            out.extend_from_slice(&entry.seq.to_le_bytes());
            for number in [entry.at, entry.len, *lane, entry.envelope, entry.accepted_s] {
                put(&mut out, number);
            }
        }
        let crc = crc32c::crc32c(&out);
        put(&mut out, crc);
        out
    }

    /// Reads a summary of this segment; `None` if it is none, or not whole.
    pub(crate) fn decode(bytes: &[u8], segment: u32) -> Option<Self> {
        let (covered, crc) = bytes.split_at_checked(bytes.len().checked_sub(4)?)?;
        if frame::u32_at(crc, 0)? != crc32c::crc32c(covered) || !covered.starts_with(MAGIC) {
            return None;
        }
        let mut rest = Reader(covered.get(MAGIC.len()..)?);
        if rest.u32()? != VERSION || rest.u32()? != segment {
            return None;
        }
        let mut summary = Self::new(segment, rest.u64()?, rest.u64()?);
        for _ in 0..rest.u32()? {
            let length = usize::from(*rest.take(1)?.first()?);
            let account = std::str::from_utf8(rest.take(length)?).ok()?;
            summary.lane(account, rest.u64()?)?;
        }
        let count = rest.u32()?;
        summary.entries.reserve_exact(rest.0.len() / ENTRY_BYTES);
        for _ in 0..count {
            let seq = rest.u64()?;
            let (at, len, lane) = (rest.u32()?, rest.u32()?, rest.u32()?);
            let (envelope, accepted_s) = (rest.u32()?, rest.u32()?);
            summary.lanes.get(lane as usize)?;
            let entry = Entry { seq, segment, at, len, envelope, accepted_s, attempts: 0, maybe_sent: false, marks: 0 };
            summary.entries.push((lane, entry));
        }
        Some(summary)
    }

    fn lane(&mut self, account: &str, pixel: u64) -> Option<u32> {
        let lanes = self.by_pixel.entry(pixel).or_default();
        let same = |at: &&u32| self.lanes.get(**at as usize).is_some_and(|lane| lane.account.as_str() == account);
        if let Some(&known) = lanes.iter().find(same) {
            return Some(known);
        }
        let account: AccountId = account.parse().ok()?;
        let pixel: PixelId = pixel.to_string().parse().ok()?;
        let at = u32::try_from(self.lanes.len()).ok()?;
        lanes.push(at);
        self.lanes.push(LaneKey { account, pixel });
        Some(at)
    }
}

fn put(out: &mut Vec<u8>, number: u32) {
    out.extend_from_slice(&number.to_le_bytes());
}

/// What is left to read.
struct Reader<'a>(&'a [u8]);

// === impl Reader ===

impl<'a> Reader<'a> {
    fn take(&mut self, len: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(len)?;
        self.0 = rest;
        Some(taken)
    }

    fn u32(&mut self) -> Option<u32> {
        frame::u32_at(self.take(4)?, 0)
    }

    fn u64(&mut self) -> Option<u64> {
        frame::u64_at(self.take(8)?, 0)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing)]
    use super::*;

    fn summary() -> Summary {
        let mut summary = Summary::new(3, 10, 500);
        let entry = Entry {
            seq: 10,
            segment: 3,
            at: 28,
            len: 100,
            envelope: 5,
            accepted_s: 1_700_000_000,
            attempts: 0,
            maybe_sent: false,
            marks: 0,
        };
        assert!(summary.add("shoes", 1, entry));
        assert!(summary.add("hats", 1, Entry { seq: 11, at: 128, ..entry }));
        assert!(summary.add("shoes", 1, Entry { seq: 12, at: 228, ..entry }));
        assert!(!summary.add("", 1, entry) && !summary.add("shoes", 0, entry));
        summary
    }

    #[test]
    fn a_summary_comes_back_as_it_went_in() {
        let summary = summary();
        assert_eq!((summary.lanes.len(), summary.last_seq()), (2, 12));
        let read = Summary::decode(&summary.encode(), 3).unwrap();
        assert_eq!((&read.lanes, &read.entries, read.end), (&summary.lanes, &summary.entries, 500));
        assert_eq!(Summary::decode(&summary.encode(), 4), None, "another segment's");
    }

    #[test]
    fn a_damaged_summary_is_none() {
        let whole = summary().encode();
        for at in 0..whole.len() {
            let mut bytes = whole.clone();
            bytes[at] ^= 0x10;
            assert_eq!(Summary::decode(&bytes, 3), None);
            assert_eq!(Summary::decode(&whole[..at], 3), None);
        }
    }
}
