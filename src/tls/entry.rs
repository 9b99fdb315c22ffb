//! One server name: what there is for it, and what of that serves it.

use std::sync::Arc;

use crate::account::ServerName;
use crate::tls::files::Part;
use crate::tls::folder::Folder;
use crate::tls::places::{Origin, parent};
use crate::tls::problem::CertificateFault;

/// The operator's folder and that of what was issued here, of one kind: for a name, or for all below one.
pub(super) type ByOwner = [Option<Arc<Folder>>; 2];

/// A name and its certificates. Those of wildcards are not kept in it: many names share one.
#[derive(Clone)]
pub(super) struct Entry {
    /// What there is for this very name.
    pub(super) exact: ByOwner,
    /// Of the name above it: which names are below one is found without reading them.
    pub(super) parent: ParentTag,
    /// What serves it, and with which of the two pairs there.
    choice: Option<(Origin, Served)>,
    /// What is wrong with the one that was meant.
    pub(super) told: Option<Told>,
}

/// Which of the two pairs of a folder serve.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Served {
    First,
    Twin,
    Both,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Told {
    pub(super) origin: Origin,
    pub(super) part: Part,
    pub(super) fault: CertificateFault,
}

/// What decides on a name's renewal, without the rest of what is known of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Standing {
    /// What serves it; `None` = nothing does.
    pub serving: Option<Origin>,
    /// Of what was issued or imported here: of the pairs that serve the name that which ends first; where it does not serve
    /// the name, the first pair for this very name. `None` = there is none that can be read.
    pub issued: Option<Validity>,
}

/// When a pair of ours is valid.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Validity {
    /// First second, Unix time.
    pub not_before: i64,
    /// Last second, Unix time.
    pub not_after: i64,
    /// Which pair it is.
    pub which: Which,
}

/// One of the pairs of a folder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Which {
    /// The only one.
    Only,
    /// That which has a twin beside it, good or not.
    First,
    /// The twin.
    Twin,
}

/// A hash of a name.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct ParentTag(u16);

/// When what was judged holds: from the first second to before the last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Window {
    pub(super) since: i64,
    pub(super) until: i64,
}

// === impl Entry ===

impl Entry {
    /// Chooses of what there is: an exact name's before a wildcard's, the operator's before what was issued here. A good
    /// one serves in the place of a faulty one that comes before it; the fault is told all the same.
    pub(super) fn judged(name: &ServerName, exact: ByOwner, wildcard: Option<&ByOwner>, now: i64) -> Self {
        let (mut choice, mut told) = (None, None);
        for (origin, folder) in folders(&exact, wildcard) {
            let (served, fault) = folder.judge(name, now);
            // The first folder is what its owner meant: its problem is the one to tell. Of one that is gone nothing is meant.
            let fault = fault.filter(|_| !folder.is_gone());
            told = told.or(fault.map(|(part, fault)| Told { origin, part, fault }));
            choice = Served::of(served).map(|served| (origin, served));
            if choice.is_some() {
                break;
            }
        }
        if choice.is_none() && told.is_none() {
            told = Some(Told { origin: Origin::Operator, part: Part::Chain, fault: CertificateFault::Nothing });
        }
        Self { exact, parent: ParentTag::of(parent(name.as_str()).unwrap_or_default()), choice, told }
    }

    /// What decides on its renewal.
    pub(super) fn standing(&self, wildcard: Option<&ByOwner>) -> Standing {
        let issued = match self.serving(wildcard) {
            Some((origin, folder, served)) if origin.is_issued() => folder.ends_first(served),
            _ => self.folder(None, Origin::Issued).and_then(|folder| folder.ends_first([true, false])),
        };
        Standing { serving: self.choice.map(|(origin, _)| origin), issued }
    }

    /// Whether it says the same of the same folders.
    pub(super) fn is_same(&self, other: &Self) -> bool {
        let same = |(ours, theirs): (&Option<Arc<Folder>>, &Option<Arc<Folder>>)| {
            ours.as_ref().map(Arc::as_ptr) == theirs.as_ref().map(Arc::as_ptr)
        };
        self.choice == other.choice && self.told == other.told && self.exact.iter().zip(&other.exact).all(same)
    }

    /// The folder of an origin.
    pub(super) fn folder<'e>(&'e self, wildcard: Option<&'e ByOwner>, origin: Origin) -> Option<&'e Arc<Folder>> {
        folders(&self.exact, wildcard).find(|(of, _)| *of == origin).map(|(_, folder)| folder)
    }

    /// What serves it, and with which of the two pairs there.
    pub(super) fn serving<'e>(&'e self, wildcard: Option<&'e ByOwner>) -> Option<(Origin, &'e Arc<Folder>, [bool; 2])> {
        let (origin, served) = self.choice?;
        Some((origin, self.folder(wildcard, origin)?, served.pairs()))
    }

    /// Whether it is served with the pair that a file of this origin belongs to.
    pub(super) fn is_served_with(&self, origin: Origin, part: Part) -> bool {
        let is_twin = matches!(part, Part::RsaChain | Part::RsaKey);
        self.choice.is_some_and(|(of, served)| {
            let [first, twin] = served.pairs();
            of == origin && if is_twin { twin } else { first }
        })
    }

    pub(super) fn is_served_by_wildcard(&self) -> bool {
        self.choice.is_some_and(|(origin, _)| origin.is_wildcard())
    }

    /// Whether something serves it.
    pub(super) fn is_served(&self) -> bool {
        self.choice.is_some()
    }

    /// Until when what serves it can.
    pub(super) fn served_until(&self, wildcard: Option<&ByOwner>) -> Option<i64> {
        let (_, folder, served) = self.serving(wildcard)?;
        let served = folder.facts().zip(served).filter(|(_, served)| *served);
        served.filter_map(|(facts, _)| Some(facts.as_ref().ok()?.not_after)).min()
    }

    /// Narrows a window down to that in which all validities that were judged `now` are what they are.
    pub(super) fn narrow(&self, window: &mut Window, wildcard: Option<&ByOwner>, now: i64) {
        let facts = folders(&self.exact, wildcard).flat_map(|(_, folder)| folder.facts()).flatten();
        for moment in facts.flat_map(|facts| [facts.not_before, facts.not_after.saturating_add(1)]) {
            if moment <= now {
                window.since = window.since.max(moment);
            } else {
                window.until = window.until.min(moment);
            }
        }
    }

    /// Whether it is to be looked at again soon.
    pub(super) fn is_unsettled(&self) -> bool {
        self.exact.iter().flatten().any(|folder| !folder.settled)
    }

    /// Whether something of it could not be read.
    pub(super) fn is_unread(&self) -> bool {
        self.exact.iter().flatten().any(|folder| !folder.was_read())
    }
}

/// What there is, the most preferred first.
fn folders<'e>(exact: &'e ByOwner, wildcard: Option<&'e ByOwner>) -> impl Iterator<Item = (Origin, &'e Arc<Folder>)> {
    let all = exact.iter().chain(wildcard.into_iter().flatten());
    Origin::ALL.into_iter().zip(all).filter_map(|(origin, folder)| Some((origin, folder.as_ref()?)))
}

// === impl Served ===

impl Served {
    fn of(pairs: [bool; 2]) -> Option<Self> {
        match pairs {
            [true, false] => Some(Served::First),
            [false, true] => Some(Served::Twin),
            [true, true] => Some(Served::Both),
            [false, false] => None,
        }
    }

    fn pairs(self) -> [bool; 2] {
        [self != Served::Twin, self != Served::First]
    }
}

// === impl ParentTag ===

impl ParentTag {
    pub(super) fn of(name: &str) -> Self {
        Self(crc32c::crc32c(name.as_bytes()) as u16)
    }
}

// === impl Window ===

impl Window {
    /// Always.
    pub(super) const ALL: Window = Window { since: i64::MIN, until: i64::MAX };

    pub(super) fn has(self, now: i64) -> bool {
        (self.since..self.until).contains(&now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_each_of_100_000_names_costs_is_known() {
        assert_eq!(size_of::<Entry>(), 24);
        // With the counts of its `Arc` in the allocator's class of 96 bytes.
        assert_eq!(size_of::<Folder>(), 80);
    }
}
