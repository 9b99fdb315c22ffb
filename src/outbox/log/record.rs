//! What is in a segment, format version 1. All numbers are little-endian.

use super::frame;

/// What every segment begins with.
///
/// ```text
/// magic      8 bytes  "PXGLOG\r\n"
/// version    u32      1; a higher one was written by a newer Pixelgate and is not opened
/// id         u32      the segment's own, as in its file's name
/// first_seq  u64      lower than no seq that is given out from here on
/// crc        u32      CRC32C of all before it
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Header {
    pub(crate) version: u32,
    pub(crate) id: u32,
    pub(crate) first_seq: u64,
}

/// One event as it lies in a segment: the payload of a frame whose seed is the segment's id.
///
/// ```text
/// kind         u8    1: the last event of its group, 2: the next record is of the same group
/// seq          u64
/// accepted_ms  i64   Unix milliseconds
/// meta_len     u32   bytes of the metadata
/// metadata           fields: tag u8, length u16, value; unknown tags are skipped, a missing one is empty or 0
/// body               to the end
/// ```
/// A group is what one request brought: it is there whole or, if its end was never written, not at all. A record names its
/// own account and pixel, so that damage to one never makes another one's owner unknown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Record<'a> {
    /// More of the same group follow.
    pub(crate) more: bool,
    pub(crate) seq: u64,
    pub(crate) accepted_ms: i64,
    pub(crate) account: &'a str,
    pub(crate) pixel: u64,
    pub(crate) event_name: &'a str,
    pub(crate) event_id: &'a str,
    /// Unix seconds, as the event says.
    pub(crate) event_time: i64,
    /// The first 8 bytes of SHA-256 of `pixel|event_name|event_id`, the pixel in decimal: what two copies share.
    pub(crate) fingerprint: [u8; 8],
    /// Fields of the request that the event must be sent with, as JSON text; often empty.
    pub(crate) envelope: &'a str,
    /// The event's JSON as the Graph API gets it.
    pub(crate) body: &'a [u8],
}

/// The fields of a record's metadata. A number is never used again for something else.
#[repr(u8)]
enum Tag {
    /// Text.
    Account = 1,
    /// u64.
    Pixel = 2,
    /// Text.
    EventName = 3,
    /// Text.
    EventId = 4,
    /// i64.
    EventTime = 5,
    /// 8 bytes.
    Fingerprint = 6,
    /// Text; left out when empty.
    Envelope = 7,
}

/// The format that this code writes, and the newest that it reads.
pub(crate) const VERSION: u32 = 1;

/// Bytes of a segment's header.
pub(crate) const HEADER_BYTES: usize = 28;

const MAGIC: &[u8; 8] = b"PXGLOG\r\n";
const KIND_LAST: u8 = 1;
const KIND_MORE: u8 = 2;
/// kind, seq, accepted_ms, meta_len.
const FIXED: usize = 1 + 8 + 8 + 4;
/// No gateway gets there: at a million events a second it is nine years.
const SEQ_MAX: u64 = 1 << 48;

/// Appends the frame of a record of another segment, sealed for this one, as a group of its own.
pub(crate) fn reseal(payload: &[u8], segment: u32, out: &mut Vec<u8>) -> usize {
    frame::seal(out, segment, |out| {
        out.push(KIND_LAST);
        out.extend_from_slice(payload.get(1..).unwrap_or_default());
    })
}

// === impl Header ===

impl Header {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(HEADER_BYTES);
        out.extend_from_slice(MAGIC);
        out.extend_from_slice(&self.version.to_le_bytes());
        out.extend_from_slice(&self.id.to_le_bytes());
        out.extend_from_slice(&self.first_seq.to_le_bytes());
        out.extend_from_slice(&crc32c::crc32c(&out).to_le_bytes());
        out
    }

    /// `None` if it is damaged. Whether its version is known is for the caller to look at.
    pub(crate) fn decode(bytes: &[u8]) -> Option<Self> {
        let (covered, _) = bytes.split_at_checked(HEADER_BYTES - 4)?;
        let whole = covered.starts_with(MAGIC) && frame::u32_at(bytes, HEADER_BYTES - 4)? == crc32c::crc32c(covered);
        whole.then_some(Self {
            version: frame::u32_at(bytes, 8)?,
            id: frame::u32_at(bytes, 12)?,
            first_seq: frame::u64_at(bytes, 16)?,
        })
    }
}

// === impl Record ===

impl<'a> Record<'a> {
    /// Whether its frame and its fields are short enough for the format's lengths.
    pub(crate) fn fits(&self) -> bool {
        let texts = [self.account, self.event_name, self.event_id, self.envelope];
        texts.iter().all(|text| u16::try_from(text.len()).is_ok()) && self.encoded_len() < (1 << 31)
    }

    /// Bytes that [`Record::encode`] appends.
    pub(crate) fn encoded_len(&self) -> usize {
        frame::HEAD + FIXED + self.meta_len() + self.body.len()
    }

    /// Appends the record's frame and gives its length.
    pub(crate) fn encode(&self, segment: u32, out: &mut Vec<u8>) -> usize {
        frame::seal(out, segment, |out| {
            out.push(if self.more { KIND_MORE } else { KIND_LAST });
            out.extend_from_slice(&self.seq.to_le_bytes());
            out.extend_from_slice(&self.accepted_ms.to_le_bytes());
            out.extend_from_slice(&u32::try_from(self.meta_len()).unwrap_or(0).to_le_bytes());
            put(out, Tag::Account, self.account.as_bytes());
            put(out, Tag::Pixel, &self.pixel.to_le_bytes());
            put(out, Tag::EventName, self.event_name.as_bytes());
            put(out, Tag::EventId, self.event_id.as_bytes());
            put(out, Tag::EventTime, &self.event_time.to_le_bytes());
            put(out, Tag::Fingerprint, &self.fingerprint);
            if !self.envelope.is_empty() {
                put(out, Tag::Envelope, self.envelope.as_bytes());
            }
            out.extend_from_slice(self.body);
        })
    }

    /// Reads a payload; `None` if it is none of this format.
    pub(crate) fn decode(payload: &'a [u8]) -> Option<Self> {
        let kind = *payload.first()?;
        let (_, rest) = payload.split_at_checked(FIXED)?;
        let (mut meta, body) = rest.split_at_checked(usize::try_from(frame::u32_at(payload, 17)?).ok()?)?;
        let mut record = Self {
            more: kind == KIND_MORE,
            seq: frame::u64_at(payload, 1)?,
            accepted_ms: frame::u64_at(payload, 9)?.cast_signed(),
            account: "",
            pixel: 0,
            event_name: "",
            event_id: "",
            event_time: 0,
            fingerprint: [0; 8],
            envelope: "",
            body,
        };
        while let Some((&tag, rest)) = meta.split_first() {
            let (length, rest) = rest.split_first_chunk()?;
            let (value, rest) = rest.split_at_checked(usize::from(u16::from_le_bytes(*length)))?;
            record.set(tag, value)?;
            meta = rest;
        }
        (Self::likely(payload) && !record.account.is_empty()).then_some(record)
    }

    /// A cheap look at whether a payload may be a record.
    pub(crate) fn likely(payload: &[u8]) -> bool {
        payload.len() >= FIXED
            && matches!(payload.first(), Some(&(KIND_LAST | KIND_MORE)))
            && Self::seq_of(payload) < SEQ_MAX
    }

    /// The seq that a payload names, without a proof that it is one.
    pub(crate) fn seq_of(payload: &[u8]) -> u64 {
        frame::u64_at(payload, 1).unwrap_or(u64::MAX)
    }

    fn meta_len(&self) -> usize {
        let field = |value: usize| 3 + value;
        let envelope = if self.envelope.is_empty() { 0 } else { field(self.envelope.len()) };
        let texts = field(self.account.len()) + field(self.event_name.len()) + field(self.event_id.len());
        texts + 3 * field(8) + envelope
    }

    fn set(&mut self, tag: u8, value: &'a [u8]) -> Option<()> {
        let text = || std::str::from_utf8(value).ok();
        match tag {
            tag if tag == Tag::Account as u8 => self.account = text()?,
            tag if tag == Tag::Pixel as u8 => self.pixel = frame::u64_at(value, 0)?,
            tag if tag == Tag::EventName as u8 => self.event_name = text()?,
            tag if tag == Tag::EventId as u8 => self.event_id = text()?,
            tag if tag == Tag::EventTime as u8 => self.event_time = frame::u64_at(value, 0)?.cast_signed(),
            tag if tag == Tag::Fingerprint as u8 => self.fingerprint = value.try_into().ok()?,
            tag if tag == Tag::Envelope as u8 => self.envelope = text()?,
            _ => {}
        }
        Some(())
    }
}

/// Appends one field of the metadata; [`Record::fits`] saw to it that its length fits.
fn put(out: &mut Vec<u8>, tag: Tag, value: &[u8]) {
    out.push(tag as u8);
    out.extend_from_slice(&u16::try_from(value.len()).unwrap_or(0).to_le_bytes());
    out.extend_from_slice(value);
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing)]
    use super::*;

    fn record() -> Record<'static> {
        Record {
            more: true,
            seq: 77,
            accepted_ms: 1_700_000_000_123,
            account: "shoes",
            pixel: 1_234_567_890,
            event_name: "Purchase",
            event_id: "e-1",
            event_time: 1_700_000_000,
            fingerprint: *b"12345678",
            envelope: r#"{"test_event_code":"T1"}"#,
            body: br#"{"event_name":"Purchase"}"#,
        }
    }

    #[test]
    fn a_record_comes_back_as_it_went_in() {
        for envelope in ["", record().envelope] {
            let record = Record { envelope, ..record() };
            let mut bytes = Vec::new();
            assert_eq!(record.encode(9, &mut bytes), record.encoded_len());
            assert_eq!(bytes.len(), record.encoded_len());
            assert_eq!(Record::decode(frame::unseal(&bytes, 9).unwrap()), Some(record));
        }
    }

    #[test]
    fn a_copy_is_the_same_record_in_a_group_of_its_own() {
        let mut bytes = Vec::new();
        record().encode(9, &mut bytes);
        let mut copy = Vec::new();
        reseal(frame::unseal(&bytes, 9).unwrap(), 10, &mut copy);
        assert_eq!(Record::decode(frame::unseal(&copy, 10).unwrap()), Some(Record { more: false, ..record() }));
    }

    #[test]
    fn unknown_fields_are_skipped() {
        let mut payload = Vec::new();
        record().encode(9, &mut payload);
        payload.drain(..frame::HEAD);
        let meta = frame::u32_at(&payload, 17).unwrap() + 5;
        payload[17..21].copy_from_slice(&meta.to_le_bytes());
        payload.splice(21..21, [200, 2, 0, b'h', b'i']);
        assert_eq!(Record::decode(&payload), Some(record()));
    }

    #[test]
    fn no_payload_makes_decoding_panic() {
        let mut bytes = Vec::new();
        record().encode(9, &mut bytes);
        for end in 0..bytes.len() {
            Record::decode(&bytes[frame::HEAD.min(end)..end]);
        }
        for at in frame::HEAD..bytes.len() {
            let mut bytes = bytes.clone();
            bytes[at] = 0xff;
            Record::decode(&bytes[frame::HEAD..]);
        }
    }

    #[test]
    fn a_damaged_header_is_known_as_such() {
        let header = Header { version: VERSION, id: 5, first_seq: 100 };
        let bytes = header.encode();
        assert_eq!((bytes.len(), Header::decode(&bytes)), (HEADER_BYTES, Some(header)));
        for at in 0..bytes.len() {
            let mut bytes = bytes.clone();
            bytes[at] ^= 1;
            assert_eq!(Header::decode(&bytes), None);
        }
    }
}
