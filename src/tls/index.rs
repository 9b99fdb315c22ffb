//! What is known of every folder, kept on disk: a start with it looks at files' stamps and parses only what changed.
//!
//! ```text
//! MAGIC · certs_dir · issued_dir · entry … · CRC-32C of all before it
//! entry = origin (u8) · key · stamp (u64) · facts · twin (u8: 0 = none, 1 = facts follow)
//! facts = not_before (i64) · not_after (i64) · make (u8: 1 = RSA, and twice the order of its chain) · names (u16; 0xFFFF = all that the folder stands for) · name …
//! ```
//!
//! Texts have their length (u16) before them; numbers are little-endian. An index of other folders, of another format or
//! with damage is like none. It is a hint only: a stamp is believed when the files have it now.

use std::collections::HashMap;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Arc;

use crate::tls::disk;
use crate::tls::files::Stamp;
use crate::tls::folder::{Facts, Folder};
use crate::tls::make::Make;
use crate::tls::places::{CertFolders, Origin};

/// Names the format.
const MAGIC: &[u8] = b"pixelgate certificates 3\n";
/// Stands for a number of names.
const ALL_NAMES: u16 = u16::MAX;

/// Folders by origin, and by the name that stands for them there.
#[derive(Default)]
pub(super) struct Folders([HashMap<Box<str>, Arc<Folder>>; 4]);

// === impl Folders ===

impl Folders {
    pub(super) fn get(&self, origin: Origin, key: &str) -> Option<&Arc<Folder>> {
        self.of(origin).get(key)
    }

    fn put(&mut self, origin: Origin, key: &str, folder: Folder) {
        let Self(all) = self;
        if let Some(of_origin) = all.get_mut(origin as usize) {
            of_origin.insert(key.into(), Arc::new(folder));
        }
    }

    fn of(&self, origin: Origin) -> &HashMap<Box<str>, Arc<Folder>> {
        let [operator, issued, operator_wildcard, issued_wildcard] = &self.0;
        match origin {
            Origin::Operator => operator,
            Origin::Issued => issued,
            Origin::OperatorWildcard => operator_wildcard,
            Origin::IssuedWildcard => issued_wildcard,
        }
    }
}

/// What was kept; nothing if it cannot be used.
pub(super) fn read(folders: &CertFolders) -> Folders {
    std::fs::read(&folders.index).ok().and_then(|bytes| decode(&bytes, folders)).unwrap_or_default()
}

/// Keeps what is known of folders. What is faulty is not kept, it is parsed and told at every start; nor is what was read
/// while it may have been written, or could not be read again.
///
/// # Errors
/// When the file cannot be written; the one before is there still.
pub(super) fn write<'a>(
    folders: &CertFolders,
    known: impl Iterator<Item = (Origin, &'a str, &'a Arc<Folder>)>,
) -> io::Result<()> {
    disk::replace(&folders.index, &encode(folders, known))
}

fn encode<'a>(folders: &CertFolders, known: impl Iterator<Item = (Origin, &'a str, &'a Arc<Folder>)>) -> Vec<u8> {
    let mut bytes = MAGIC.to_vec();
    put_text(&mut bytes, path_bytes(&folders.certs_dir));
    put_text(&mut bytes, path_bytes(&folders.issued_dir));
    for (origin, key, folder) in known {
        let (Ok(facts), Ok(twin)) = (&folder.facts, folder.twin.as_deref().map(Result::as_ref).transpose()) else {
            continue;
        };
        if !folder.is_believed() {
            continue;
        }
        bytes.push(origin as u8);
        put_text(&mut bytes, key.as_bytes());
        bytes.extend(folder.stamp.to_bytes());
        put_facts(&mut bytes, facts);
        bytes.push(u8::from(twin.is_some()));
        twin.into_iter().for_each(|facts| put_facts(&mut bytes, facts));
    }
    bytes.extend(crc32c::crc32c(&bytes).to_le_bytes());
    bytes
}

fn put_facts(bytes: &mut Vec<u8>, facts: &Facts) {
    bytes.extend(facts.not_before.to_le_bytes());
    bytes.extend(facts.not_after.to_le_bytes());
    bytes.push(facts.make.to_byte());
    let names = facts.names.as_deref();
    // Of more names than fit the rest is left out: at worst the name is told as not covered, and parsed when it changes.
    let count = names.map_or(ALL_NAMES, |names| u16::try_from(names.len()).unwrap_or(ALL_NAMES - 1).min(ALL_NAMES - 1));
    bytes.extend(count.to_le_bytes());
    names.into_iter().flatten().take(usize::from(count)).for_each(|name| put_text(bytes, name.as_bytes()));
}

fn put_text(bytes: &mut Vec<u8>, text: &[u8]) {
    let text = text.get(..usize::from(u16::MAX)).unwrap_or(text);
    bytes.extend((text.len() as u16).to_le_bytes());
    bytes.extend(text);
}

fn path_bytes(path: &Path) -> &[u8] {
    path.as_os_str().as_bytes()
}

fn decode(bytes: &[u8], folders: &CertFolders) -> Option<Folders> {
    let (bytes, sum) = bytes.split_last_chunk()?;
    if crc32c::crc32c(bytes) != u32::from_le_bytes(*sum) {
        return None;
    }
    let mut rest = bytes.strip_prefix(MAGIC)?;
    for folder in [&folders.certs_dir, &folders.issued_dir] {
        if take_text(&mut rest)? != path_bytes(folder) {
            return None;
        }
    }
    let mut known = Folders::default();
    while !rest.is_empty() {
        let [origin] = take(&mut rest)?;
        let origin = *Origin::ALL.get(usize::from(origin))?;
        let key = std::str::from_utf8(take_text(&mut rest)?).ok()?;
        let stamp = Stamp::from_bytes(take(&mut rest)?);
        let facts = take_facts(&mut rest)?;
        let twin = match take(&mut rest)? {
            [0] => None,
            _ => Some(take_facts(&mut rest)?),
        };
        known.put(origin, key, Folder::cold(stamp, facts, twin));
    }
    Some(known)
}

fn take_facts(rest: &mut &[u8]) -> Option<Facts> {
    let (not_before, not_after) = (i64::from_le_bytes(take(rest)?), i64::from_le_bytes(take(rest)?));
    let [make] = take(rest)?;
    let make = Make::from_byte(make)?;
    let name = |rest: &mut &[u8]| Some(std::str::from_utf8(take_text(rest)?).ok()?.into());
    let names = match u16::from_le_bytes(take(rest)?) {
        ALL_NAMES => None,
        count => Some((0..count).map(|_| name(rest)).collect::<Option<_>>()?),
    };
    Some(Facts { not_before, not_after, names, make })
}

fn take_text<'b>(rest: &mut &'b [u8]) -> Option<&'b [u8]> {
    let length = u16::from_le_bytes(take(rest)?);
    let (text, after) = rest.split_at_checked(usize::from(length))?;
    *rest = after;
    Some(text)
}

fn take<const N: usize>(rest: &mut &[u8]) -> Option<[u8; N]> {
    let (taken, after) = rest.split_first_chunk()?;
    *rest = after;
    Some(*taken)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing)]
    use proptest::prelude::*;

    use super::*;
    use crate::tls::make::Order;

    fn folders() -> CertFolders {
        CertFolders { certs_dir: "/c".into(), issued_dir: "/i".into(), index: "/x".into() }
    }

    fn sample() -> Vec<u8> {
        let facts = |names: Option<&[&str]>| Facts {
            not_before: 1,
            not_after: -2,
            names: names.map(|names| names.iter().map(|name| (*name).into()).collect()),
            make: Make { is_rsa: true, order: Order::Alone },
        };
        let stamp = |number: u64| Stamp::from_bytes(number.to_le_bytes());
        let plain = Arc::new(Folder::cold(stamp(7), facts(None), None));
        let twin = Arc::new(Folder::cold(stamp(8), facts(Some(&["x.example", "*.y.example"])), Some(facts(None))));
        let known = [(Origin::Operator, "a.example", &plain), (Origin::IssuedWildcard, "b.example", &twin)];
        encode(&folders(), known.into_iter())
    }

    #[test]
    fn what_was_kept_is_read_again() {
        let known = decode(&sample(), &folders()).unwrap();
        assert!(known.get(Origin::Operator, "a.example").is_some() && known.get(Origin::Issued, "a.example").is_none());
        let twin = known.get(Origin::IssuedWildcard, "b.example").unwrap();
        assert_eq!(twin.stamp, Stamp::from_bytes(8_u64.to_le_bytes()));
        assert_eq!(twin.facts.as_ref().unwrap().names.as_ref().unwrap().len(), 2);
        assert_eq!(twin.facts.as_ref().unwrap().make, Make { is_rsa: true, order: Order::Alone });
        assert_eq!(twin.twin.as_ref().unwrap().as_ref().as_ref().unwrap().not_after, -2);
        let other = CertFolders { certs_dir: "/d".into(), ..folders() };
        assert!(decode(&sample(), &other).is_none(), "an index of other folders");
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn damage_is_noticed(at in any::<prop::sample::Index>(), bit in 0..8_u8, cut in any::<prop::sample::Index>()) {
            let whole = sample();
            let mut flipped = whole.clone();
            flipped[at.index(whole.len())] ^= 1 << bit;
            prop_assert!(decode(&flipped, &folders()).is_none());
            prop_assert!(decode(&whole[..cut.index(whole.len())], &folders()).is_none());
        }

        #[test]
        fn any_bytes_are_survived(body in prop::collection::vec(any::<u8>(), 0..200)) {
            let mut bytes = sample();
            bytes.truncate(bytes.len() - 4);
            bytes.extend(body);
            bytes.extend(crc32c::crc32c(&bytes).to_le_bytes());
            let _ = decode(&bytes, &folders());
        }
    }
}
