//! One server name: what there is for it, and what of that serves it.

use std::sync::Arc;

use crate::account::ServerName;
use crate::tls::folder::{Folder, Part};
use crate::tls::places::Origin;
use crate::tls::problem::CertificateFault;

/// A name and its certificates.
#[derive(Clone, Default)]
pub(super) struct Entry {
    /// What there is for it, by [`Origin`].
    folders: [Option<Arc<Folder>>; 4],
    /// What serves it.
    choice: Option<Origin>,
    /// What is wrong with the one that was meant.
    pub(super) told: Option<Told>,
}

#[derive(Clone, Copy)]
pub(super) struct Told {
    pub(super) origin: Origin,
    pub(super) part: Part,
    pub(super) fault: CertificateFault,
}

// === impl Entry ===

impl Entry {
    /// Finds what there is for a name and chooses: an exact name's before a wildcard's, the operator's before what was
    /// issued here. A good one serves in the place of a faulty one that comes before it; the fault is told all the same.
    pub(super) fn judged(name: &ServerName, find: impl Fn(Origin, &str) -> Option<Arc<Folder>>, now: i64) -> Self {
        let folders = Origin::ALL.map(|origin| find(origin, &origin.key(name.as_str())?));
        let (mut choice, mut told) = (None, None);
        for (origin, folder) in Origin::ALL.into_iter().zip(&folders) {
            let Some(folder) = folder else {
                continue;
            };
            let judged = folder.judge(name, now);
            let served = judged.is_ok();
            // The first folder is what its owner meant: its problem is the one to tell.
            let fault = judged.and_then(|()| folder.judge_twin(name, now)).err();
            told = told.or(fault.map(|(part, fault)| Told { origin, part, fault }));
            if served {
                choice = Some(origin);
                break;
            }
        }
        if choice.is_none() && told.is_none() {
            told = Some(Told { origin: Origin::Operator, part: Part::Chain, fault: CertificateFault::Missing });
        }
        Self { folders, choice, told }
    }

    pub(super) fn folder(&self, origin: Origin) -> Option<&Arc<Folder>> {
        self.folders.get(origin as usize)?.as_ref()
    }

    pub(super) fn serving(&self) -> Option<(Origin, &Arc<Folder>)> {
        let origin = self.choice?;
        Some((origin, self.folder(origin)?))
    }
}
