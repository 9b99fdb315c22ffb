//! The folders of wildcards, by the name above those that they are for.

use std::collections::{BTreeSet, HashMap};
use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;

use crate::tls::entry::ByOwner;
use crate::tls::folder::Folder;
use crate::tls::places::Origin;

/// Parts of the map: what a change copies is one of them.
const PARTS: usize = 128;

/// Immutable in its parts: one that was made from another shares with it all parts that did not change.
#[derive(Clone)]
pub(super) struct Wildcards {
    parts: Vec<Arc<HashMap<Arc<str>, ByOwner>>>,
    hasher: RandomState,
    /// Those with a folder that is to be looked at again soon.
    unsettled: Marked,
    /// Those with a folder that could not be read.
    unread: Marked,
}

/// Some of them; few.
type Marked = Arc<BTreeSet<Arc<str>>>;

// === impl Wildcards ===

impl Default for Wildcards {
    fn default() -> Self {
        let empty = Arc::default();
        Self {
            parts: vec![empty; PARTS],
            hasher: RandomState::new(),
            unsettled: Arc::default(),
            unread: Arc::default(),
        }
    }
}

impl Wildcards {
    /// What there is for the names directly below one.
    pub(super) fn get(&self, parent: &str) -> Option<&ByOwner> {
        self.parts.get(self.part_of(parent))?.get(parent)
    }

    pub(super) fn folder(&self, origin: Origin, parent: &str) -> Option<&Arc<Folder>> {
        self.get(parent)?.get(usize::from(origin.is_issued()))?.as_ref()
    }

    /// Puts a folder in its place, or takes one away; whether that is a change.
    pub(super) fn set(&mut self, origin: Origin, parent: &str, folder: Option<Arc<Folder>>) -> bool {
        if self.folder(origin, parent).map(Arc::as_ptr) == folder.as_ref().map(Arc::as_ptr) {
            return false;
        }
        let at = self.part_of(parent);
        let Some(part) = self.parts.get_mut(at).map(Arc::make_mut) else {
            return false;
        };
        let (key, mut by_owner) = part.remove_entry(parent).unwrap_or_else(|| (parent.into(), ByOwner::default()));
        if let Some(place) = by_owner.get_mut(usize::from(origin.is_issued())) {
            *place = folder;
        }
        mark(&mut self.unsettled, &key, by_owner.iter().flatten().any(|folder| !folder.settled));
        mark(&mut self.unread, &key, by_owner.iter().flatten().any(|folder| !folder.was_read()));
        if by_owner.iter().any(Option::is_some) {
            part.insert(key, by_owner);
        }
        true
    }

    pub(super) fn keys(&self) -> impl Iterator<Item = &Arc<str>> {
        self.parts.iter().flat_map(|part| part.keys())
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (Origin, &str, &Arc<Folder>)> {
        let of_key = |(key, by_owner): (_, _)| of_key(key, by_owner);
        self.parts.iter().flat_map(|part| part.iter()).flat_map(of_key)
    }

    /// Those with a folder that is to be looked at again soon.
    pub(super) fn unsettled(&self) -> &BTreeSet<Arc<str>> {
        &self.unsettled
    }

    /// Those with a folder that could not be read.
    pub(super) fn unread(&self) -> &BTreeSet<Arc<str>> {
        &self.unread
    }

    fn part_of(&self, parent: &str) -> usize {
        self.hasher.hash_one(parent) as usize % PARTS
    }
}

fn mark(marked: &mut Marked, key: &Arc<str>, is_so: bool) {
    if is_so != marked.contains(key) {
        let all = Arc::make_mut(marked);
        let _ = if is_so { all.insert(key.clone()) } else { all.remove(key) };
    }
}

fn of_key<'w>(key: &'w Arc<str>, by_owner: &'w ByOwner) -> impl Iterator<Item = (Origin, &'w str, &'w Arc<Folder>)> {
    let origins = [Origin::OperatorWildcard, Origin::IssuedWildcard];
    origins.into_iter().zip(by_owner).filter_map(|(origin, folder)| Some((origin, &**key, folder.as_ref()?)))
}
