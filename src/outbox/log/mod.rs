//! Files of the log: what they are called, how they are written, what they mean after a crash.
//!
//! ```text
//! log/00000007.log    a segment: a header, then frames; one frame is one event    record.rs, in frames of frame.rs
//! log/00000007.done   which of its events need no delivery any more              marks.rs
//! log/00000007.index  where its events are, so that a start need not read them    summary.rs (may be missing)
//! log/00000007.free   a segment that is no longer needed, kept to be overwritten
//! quarantine/         bytes that should have been events and are not readable     quarantine.rs
//! ```
//!
//! Nothing here knows of queues, threads or accounts' limits: that is the folder above. Nothing above opens a file of
//! the log. The disk itself is a trait (file.rs), so that the tests can crash it at every write.

pub(crate) mod file;
pub(crate) mod frame;
mod marks;
pub(crate) mod quarantine;
mod record;
pub(crate) mod recovery;
mod segment;
mod summary;

#[cfg(test)]
pub(crate) mod fault;

pub(crate) use marks::MarkKind;
pub(crate) use record::{Record, reseal};
pub(crate) use segment::{LogDir, Segment, first_free_offset};
pub(crate) use summary::Summary;

/// Where an event is and what must be known of it while it waits: all that memory holds of a backlog.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    /// The order of acceptance, over all lanes; a copy keeps it.
    pub(crate) seq: u64,
    /// The segment it is in.
    pub(crate) segment: u32,
    /// Where its frame begins.
    pub(crate) at: u32,
    /// Bytes of its frame.
    pub(crate) len: u32,
    /// CRC32C of its envelope, 0 for the empty one: equal envelopes are found without reading.
    pub(crate) envelope: u32,
    /// When it was accepted, Unix seconds.
    pub(crate) accepted_s: u32,
    /// Requests that it was in.
    pub(crate) attempts: u16,
    /// Whether one of them may have reached Meta without our knowing.
    pub(crate) maybe_sent: bool,
    /// Marks of them that this process wrote.
    pub(crate) marks: u8,
}

/// Marks of one event's requests that a process writes, or a lane that fails for days would fill the volume with them. From
/// then on they say that it may have been sent, until an orderly stop says how it is. The last one can only say so.
const REQUEST_MARKS_MAX: u8 = 9;

/// The promise that a backlog's memory is counted with.
const _: () = assert!(size_of::<Entry>() == 32);

// === impl Entry ===

impl Entry {
    /// The entry of a record that lies in a segment.
    pub(crate) fn new(record: &Record<'_>, segment: u32, at: u32, len: u32) -> Self {
        Self {
            seq: record.seq,
            segment,
            at,
            len,
            envelope: crc32c::crc32c(record.envelope.as_bytes()),
            accepted_s: u32::try_from(record.accepted_ms.div_euclid(1000)).unwrap_or(0),
            attempts: 0,
            maybe_sent: false,
            marks: 0,
        }
    }

    /// It is about to be in a request; whether that is to be marked.
    pub(crate) fn sends(&mut self) -> bool {
        self.attempts = self.attempts.saturating_add(1);
        let marks = self.marks < REQUEST_MARKS_MAX;
        self.marks += u8::from(marks);
        marks
    }

    /// That request did not take it; whether that is to be marked.
    pub(crate) fn comes_back(&mut self) -> bool {
        let marks = !self.maybe_sent && self.marks + 1 < REQUEST_MARKS_MAX;
        self.marks += u8::from(marks);
        marks
    }

    /// Whether its marks may say that it may have been sent, though it was not.
    pub(crate) fn is_doubted(&self) -> bool {
        !self.maybe_sent && self.marks + 1 >= REQUEST_MARKS_MAX
    }
}
