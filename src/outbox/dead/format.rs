//! A file of dead letters, format version 1: `"PXGDEAD\n"`, the version (u32), then frames with the seed 0.
//!
//! ```text
//! kind  u8   1: a letter       id u64 · length of the JSON u32 · JSON of all but the body · body to the end
//!            2: letters of this file are gone      id u64, as often as there is room
//! ```
//! All numbers are little-endian. Letters are few and are read by people: their fields may grow, so they are JSON.

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::DeadLetter;
use crate::account::LaneKey;
use crate::outbox::log::frame;

/// What a frame says.
#[derive(Debug, PartialEq)]
pub(super) enum Item {
    Letter(Box<DeadLetter>),
    Gone(Vec<u64>),
}

/// All of a letter but its id and body.
#[derive(Serialize, Deserialize)]
struct Fields {
    #[serde(flatten)]
    lane: LaneKey,
    event_name: String,
    event_id: String,
    event_time: i64,
    reason: String,
    message: String,
    attempts: u32,
    accepted_ms: i64,
    dead_ms: i64,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    envelope: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    context: String,
}

/// What a file begins with.
pub(super) const HEADER: &[u8; 12] = b"PXGDEAD\n\x01\0\0\0";
pub(super) const SEED: u32 = 0;
const VERSION: u32 = 1;
const KIND_LETTER: u8 = 1;
const KIND_GONE: u8 = 2;
/// Ids are microseconds of our time at most, far below.
const ID_MAX: u64 = 1 << 53;

/// The version that a file says it has, if this code does not know it.
pub(super) fn newer_version(file: &[u8]) -> Option<u32> {
    let (magic, _) = HEADER.split_at(8);
    frame::u32_at(file, 8).filter(|version| file.starts_with(magic) && *version > VERSION)
}

/// Appends a letter's frame and gives its length.
pub(super) fn put_letter(letter: &DeadLetter, out: &mut Vec<u8>) -> usize {
    let fields = Fields {
        lane: letter.lane.clone(),
        event_name: letter.event_name.clone(),
        event_id: letter.event_id.clone(),
        event_time: letter.event_time,
        reason: letter.reason.clone(),
        message: letter.message.clone(),
        attempts: letter.attempts,
        accepted_ms: letter.accepted_ms,
        dead_ms: letter.dead_ms,
        envelope: letter.envelope.to_string(),
        context: letter.context.clone(),
    };
    // Texts and numbers under text keys: there is nothing in it that JSON could refuse.
    let json = serde_json::to_vec(&fields).unwrap_or_default();
    frame::seal(out, SEED, |out| {
        out.push(KIND_LETTER);
        out.extend_from_slice(&letter.id.to_le_bytes());
        out.extend_from_slice(&u32::try_from(json.len()).unwrap_or(0).to_le_bytes());
        out.extend_from_slice(&json);
        out.extend_from_slice(&letter.body);
    })
}

/// Appends a frame that says that letters are gone.
pub(super) fn put_gone(ids: &[u64], out: &mut Vec<u8>) {
    frame::seal(out, SEED, |out| {
        out.push(KIND_GONE);
        ids.iter().for_each(|id| out.extend_from_slice(&id.to_le_bytes()));
    });
}

/// A cheap look at whether a payload may be one of these.
pub(super) fn likely(payload: &[u8]) -> bool {
    matches!(payload.first(), Some(&(KIND_LETTER | KIND_GONE)))
        && frame::u64_at(payload, 1).is_some_and(|id| id < ID_MAX)
}

/// Reads a payload; `None` if it is none of this format.
pub(super) fn read(payload: &[u8]) -> Option<Item> {
    let (kind, rest) = payload.split_first()?;
    if *kind == KIND_GONE {
        let ids = rest.chunks_exact(8).filter_map(|id| frame::u64_at(id, 0));
        return Some(Item::Gone(ids.collect()));
    }
    let id = frame::u64_at(rest, 0)?;
    let json_len = usize::try_from(frame::u32_at(rest, 8)?).ok()?;
    let (json, body) = rest.get(12..)?.split_at_checked(json_len)?;
    let fields: Fields = serde_json::from_slice(json).ok()?;
    Some(Item::Letter(Box::new(DeadLetter {
        id,
        lane: fields.lane,
        event_name: fields.event_name,
        event_id: fields.event_id,
        event_time: fields.event_time,
        reason: fields.reason,
        message: fields.message,
        attempts: fields.attempts,
        accepted_ms: fields.accepted_ms,
        dead_ms: fields.dead_ms,
        envelope: fields.envelope.into(),
        body: Bytes::copy_from_slice(body),
        context: fields.context,
    })))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing)]
    use super::*;
    use crate::outbox::dead::tests::letter;

    #[test]
    fn a_letter_comes_back_as_it_went_in() {
        let letter = DeadLetter { id: 7, envelope: "{}".into(), context: "c".into(), ..letter("shoes", "e-1") };
        let mut bytes = Vec::new();
        assert_eq!(put_letter(&letter, &mut bytes), bytes.len());
        let payload = frame::unseal(&bytes, SEED).unwrap();
        assert!(likely(payload));
        assert_eq!(read(payload), Some(Item::Letter(Box::new(letter))));
        for end in 0..payload.len() {
            read(&payload[..end]);
        }
    }

    #[test]
    fn what_is_gone_comes_back_as_it_went_in() {
        let mut bytes = Vec::new();
        put_gone(&[3, 4], &mut bytes);
        assert_eq!(read(frame::unseal(&bytes, SEED).unwrap()), Some(Item::Gone(vec![3, 4])));
    }
}
