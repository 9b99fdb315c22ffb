//! One folder with a certificate: what is known of it without its credential, which is built when a visitor comes (`cold`).

mod cold;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

use crate::account::ServerName;
use crate::tls::CertificateFault;
use crate::tls::credential::{Credential, CredentialError};
use crate::tls::entry::{Validity, Which};
use crate::tls::files::{Cause, Contents, Part, Place, Stamp};
use crate::tls::glance::{self, Intermediates};
use crate::tls::make::{Make, Order};
use crate::tls::native::Pool;
use crate::tls::sni;

pub use self::cold::{Cold, Stale};

/// A folder with at least one of the files in it, as it was when last read.
pub(super) struct Folder {
    /// Changes when a file is replaced or written to.
    pub(super) stamp: Stamp,
    /// Whether the stamp is to be believed. If not, the folder is looked at again soon.
    pub(super) settled: bool,
    /// Set when the credential cannot be built though the files are those that were judged.
    distrusted: AtomicBool,
    /// What kept it from being read again; the rest is what was known before.
    trouble: Option<FolderError>,
    pub(super) facts: Result<Facts, FolderError>,
    /// The same of the pair beside it, with another kind of key.
    pub(super) twin: Option<Box<Result<Facts, FolderError>>>,
    /// Built when it is needed, of the pairs that are good.
    credential: OnceLock<Arc<Credential>>,
}

/// What a name needs to be judged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Facts {
    pub(super) not_before: i64,
    pub(super) not_after: i64,
    /// The names that it is for; `None` = it is for all that the folder stands for.
    pub(super) names: Option<Box<[Box<str>]>>,
    pub(super) make: Make,
}

/// Why a folder holds no credential, and in which file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct FolderError {
    pub(super) part: Part,
    pub(super) cause: Cause,
}

/// What folders are read with.
pub(super) struct Means<'a> {
    pub(super) pool: Option<&'a Pool>,
    pub(super) intermediates: Intermediates,
    /// Unix seconds.
    pub(super) now: i64,
}

/// The two files of a pair, and of its twin.
const PAIRS: [[Part; 2]; 2] = [[Part::Chain, Part::Key], [Part::RsaChain, Part::RsaKey]];

// === impl Folder ===

impl Folder {
    /// A folder of which only this is known.
    pub(super) fn cold(stamp: Stamp, facts: Facts, twin: Option<Facts>) -> Self {
        Self::new(stamp, true, Ok(facts), twin.map(Ok))
    }

    /// What stands for a folder that was there until now: it is looked at once more.
    pub(super) fn gone() -> Self {
        Self::new(Stamp::NONE, false, Err(FolderError { part: Part::Chain, cause: Cause::Absent }), None)
    }

    fn new(
        stamp: Stamp,
        settled: bool,
        facts: Result<Facts, FolderError>,
        twin: Option<Result<Facts, FolderError>>,
    ) -> Self {
        Self {
            stamp,
            settled,
            distrusted: AtomicBool::new(false),
            trouble: None,
            facts,
            twin: twin.map(Box::new),
            credential: OnceLock::new(),
        }
    }

    /// The folder as it is now; `None` if none of the files is there. `known` is kept if nothing changed since, and of what
    /// cannot be read what it knows. What visitors used of it is built at once. `own` is the DNS name that the folder
    /// stands for; `written_once` says that no file in it is ever written to again.
    pub(super) fn read(
        place: &mut Place<'_>,
        own: &str,
        written_once: bool,
        known: Option<&Arc<Self>>,
        with: &Means<'_>,
    ) -> Option<Arc<Self>> {
        if let Some(unchanged) = known.filter(|known| known.is_believed() && known.is_as(place)) {
            return Some(unchanged.clone());
        }
        let contents = match place.read() {
            Ok(contents) => contents?,
            Err(cause) => return Some(Self::unreadable(FolderError { part: Part::Chain, cause }, known)),
        };
        let warm = known.is_some_and(|known| known.credential().is_some());
        let doubted = known.is_some_and(|known| known.is_distrusted() && known.stamp == contents.stamp);
        let [first, twin] = PAIRS.map(|pair| judge_pair(&contents, pair, own, warm || doubted, with));
        let settled = written_once || contents.is_settled(with.now);
        Some(Self::judged(contents.stamp, settled, first?, twin, known))
    }

    /// A folder of two pairs as they are now; of one that cannot be read what was known before, if that can be served on.
    fn judged(
        stamp: Stamp,
        settled: bool,
        first: Judged,
        twin: Option<Judged>,
        known: Option<&Arc<Self>>,
    ) -> Arc<Self> {
        let pairs = || std::iter::once(&first).chain(&twin);
        let one_is_good = pairs().any(|(facts, _)| facts.is_ok());
        let one_is_built = pairs().any(|(_, built)| built.is_some());
        let mut trouble = None;
        let mut or_before = |judged: Judged, parts: [Part; 2]| {
            let Err(error) = judged.0 else { return judged };
            let before = known.and_then(|known| known.outlasting(parts, error.cause, one_is_good));
            before.inspect(|_| trouble = trouble.or(Some(error))).unwrap_or(judged)
        };
        let [first_parts, twin_parts] = PAIRS;
        let first = or_before(first, first_parts);
        let twin = twin.map(|twin| or_before(twin, twin_parts));
        let (twin, twin_built) = twin.map_or((None, None), |(facts, built)| (Some(facts), built));
        let is_same = |known: &&Arc<Self>| {
            let of_files = known.settled && settled && known.stamp == stamp && !known.is_distrusted();
            of_files && known.trouble == trouble && known.facts == first.0 && known.twin.as_deref() == twin.as_ref()
        };
        // What cannot be read is looked at each time, and mostly is as it was.
        if let Some(known) = known.filter(is_same) {
            return known.clone();
        }
        let folder = Self { trouble, ..Self::new(stamp, settled, first.0, twin) };
        let warm = known.and_then(|known| known.credential());
        let credential = warm.and_then(|warm| match trouble {
            Some(_) if !one_is_built => Some(warm.clone()),
            _ => Credential::of_pairs(first.1, twin_built).map(Arc::new),
        });
        if let Some(credential) = credential {
            let _ = folder.credential.set(credential);
        }
        Arc::new(folder)
    }

    /// What is known of a folder that cannot be looked at: what was known before, if that was good.
    pub(super) fn unreadable(trouble: FolderError, known: Option<&Arc<Self>>) -> Arc<Self> {
        if let Some(known) = known
            .filter(|known| known.trouble == Some(trouble) || known.stamp == Stamp::NONE && known.facts == Err(trouble))
        {
            return known.clone();
        }
        let Some(known) = known.filter(|known| known.facts().any(Result::is_ok) && known.outlasts(trouble.cause))
        else {
            return Arc::new(Self::new(Stamp::NONE, true, Err(trouble), None));
        };
        Arc::new(Self {
            stamp: known.stamp,
            settled: true,
            distrusted: AtomicBool::new(known.is_distrusted()),
            trouble: Some(trouble),
            facts: known.facts.clone(),
            twin: known.twin.clone(),
            credential: known.credential.clone(),
        })
    }

    /// Whether it can be served on though it cannot be read: nobody could ever be served what is not in memory.
    fn outlasts(&self, cause: Cause) -> bool {
        self.credential().is_some() || !cause.is_lasting()
    }

    /// What is known of a pair that cannot be read now, if it can be served on. One that is not in memory is no reason to
    /// have visitors wait for it where the other pair is good.
    fn outlasting(&self, [chain, key]: [Part; 2], cause: Cause, other_is_good: bool) -> Option<Judged> {
        let facts = self.facts_of(chain)?;
        let built = self.credential().and_then(|credential| credential.alone(key == Part::RsaKey));
        let outlasts = matches!(cause, Cause::Io(_)) && self.outlasts(cause) && (built.is_some() || !other_is_good);
        outlasts.then(|| (Ok(facts.clone()), built))
    }

    /// Whether it stands for one that was there until now.
    pub(super) fn is_gone(&self) -> bool {
        self.stamp == Stamp::NONE && !self.settled
    }

    /// Whether files with the same stamp are what is known of them. What could not be read may be read another time.
    pub(super) fn is_believed(&self) -> bool {
        self.settled && self.was_read() && self.stamp != Stamp::NONE && !self.is_distrusted()
    }

    /// Whether all that is there could be read when it was looked at last.
    pub(super) fn was_read(&self) -> bool {
        let unread =
            |facts: &Result<_, FolderError>| matches!(facts, Err(error) if matches!(error.cause, Cause::Io(_)));
        self.trouble.is_none() && !self.facts().any(unread)
    }

    fn is_distrusted(&self) -> bool {
        self.distrusted.load(Ordering::Relaxed)
    }

    /// Whether the files are those that this was made from. The folder's own times say that no twin came.
    fn is_as(&self, place: &mut Place<'_>) -> bool {
        let parts = if self.twin.is_some() { &Part::ALL[..] } else { &[Part::Chain, Part::Key] };
        place.stamp(parts) == Some(self.stamp)
    }

    /// The credential, if it was needed yet.
    pub(super) fn credential(&self) -> Option<&Arc<Credential>> {
        self.credential.get()
    }

    /// What is known of the pair, and of its twin if there is one.
    pub(super) fn facts(&self) -> impl Iterator<Item = &Result<Facts, FolderError>> {
        std::iter::once(&self.facts).chain(self.twin.as_deref())
    }

    /// What is known of the pair that a file belongs to.
    pub(super) fn facts_of(&self, part: Part) -> Option<&Facts> {
        let facts = match part {
            Part::Chain | Part::Key => &self.facts,
            Part::RsaChain | Part::RsaKey => self.twin.as_deref()?,
        };
        facts.as_ref().ok()
    }

    /// When that one of these pairs is valid that ends first, as far as they can be read.
    pub(super) fn ends_first(&self, pairs: [bool; 2]) -> Option<Validity> {
        let which = if self.twin.is_some() { [Which::First, Which::Twin] } else { [Which::Only; 2] };
        let meant = self.facts().zip(which).zip(pairs).filter(|(_, meant)| *meant);
        let validities = meant.filter_map(|((facts, which), _)| {
            let Facts { not_before, not_after, .. } = *facts.as_ref().ok()?;
            Some(Validity { not_before, not_after, which })
        });
        validities.min_by_key(|validity| validity.not_after)
    }

    /// Whether a file could not be read, and what was known before of its pair is used on.
    pub(super) fn is_unread(&self, part: Part) -> bool {
        self.trouble.is_some_and(|trouble| trouble.part == part) && self.facts_of(part).is_some()
    }

    /// Which of the two pairs may be served under a name now, and the first thing that is wrong.
    pub(super) fn judge(&self, name: &ServerName, now: i64) -> ([bool; 2], Option<(Part, CertificateFault)>) {
        let first = judge(&self.facts, Part::Chain, name, now);
        let twin = self.twin.as_deref().map(|facts| judge(facts, Part::RsaChain, name, now));
        let served = [first.is_ok(), twin.is_some_and(|twin| twin.is_ok())];
        let trouble = self.trouble.map(|error| (error.part, error.cause.into()));
        let faulty = trouble.or(first.err()).or(twin.and_then(Result::err));
        (served, faulty.or_else(|| self.oddity()))
    }

    /// What a person should know of pairs that can be served.
    fn oddity(&self) -> Option<(Part, CertificateFault)> {
        let makes = [Part::Chain, Part::RsaChain].map(|part| Some((part, self.facts_of(part)?.make)));
        let kinds = makes.map(|make| make.map(|(_, make)| make.is_rsa));
        let order = |(part, make): (Part, Make)| match make.order {
            Order::Right => None,
            Order::Alone => Some((part, CertificateFault::Alone)),
            Order::Wrong => Some((part, CertificateFault::Disordered)),
        };
        match kinds {
            [_, Some(false)] => Some((Part::RsaChain, CertificateFault::TwinNotRsa)),
            [Some(true), Some(true)] => Some((Part::RsaChain, CertificateFault::BothRsa)),
            _ => makes.into_iter().flatten().find_map(order),
        }
    }
}

fn judge(
    facts: &Result<Facts, FolderError>,
    chain: Part,
    name: &ServerName,
    now: i64,
) -> Result<(), (Part, CertificateFault)> {
    let facts = facts.as_ref().map_err(|error| (error.part, error.cause.into()))?;
    if !facts.cover(name) {
        Err((chain, CertificateFault::NameMismatch))
    } else if now > facts.not_after {
        Err((chain, CertificateFault::Expired))
    } else if now < facts.not_before {
        Err((chain, CertificateFault::NotYetValid))
    } else {
        Ok(())
    }
}

/// What is known of a pair, and its credential if it was parsed whole.
type Judged = (Result<Facts, FolderError>, Option<Credential>);

/// Judges a pair, by a glance if that is enough and not all is asked for. `None` is a twin that is not there; one of the
/// two files without the other is a mistake to tell.
fn judge_pair(contents: &Contents, parts: [Part; 2], own: &str, whole: bool, with: &Means<'_>) -> Option<Judged> {
    let [chain, key] = parts.map(|part| contents.part(part).map_err(|cause| FolderError { part, cause }));
    let (chain, key) = match (chain, key) {
        (Err(chain), Err(key)) if chain.cause == Cause::Absent && key.cause == Cause::Absent => {
            return (parts == PAIRS[0]).then_some((Err(chain), None));
        }
        (Err(error), _) | (_, Err(error)) => return Some((Err(error), None)),
        (Ok(chain), Ok(key)) => (chain, key),
    };
    let known = Some(&with.intermediates).filter(|_| !whole);
    if let Some((seen, make)) = known.and_then(|known| glance::glance(chain, key, known)) {
        return Some((Ok(Facts::new(seen.not_before, seen.not_after, &seen.names, make, own)), None));
    }
    Some(match Credential::parse_in(with.pool, chain, key) {
        Ok(credential) => (Ok(Facts::of(&credential, own)), Some(credential)),
        Err(error) => {
            let [chain, key] = parts;
            let part = if matches!(error, CredentialError::Chain) { chain } else { key };
            (Err(FolderError { part, cause: Cause::Content(error) }), None)
        }
    })
}

// === impl Facts ===

impl Facts {
    fn of(credential: &Credential, own: &str) -> Self {
        let (not_before, not_after) = (credential.not_before(), credential.not_after());
        Self::new(not_before, not_after, credential.names(), credential.make(), own)
    }

    fn new(not_before: i64, not_after: i64, names: &[Box<str>], make: Make, own: &str) -> Self {
        let covers_own = names.iter().any(|name| sni::covers(name, own));
        let names = (!covers_own).then(|| names.into());
        Self { not_before, not_after, names, make }
    }

    fn cover(&self, name: &ServerName) -> bool {
        self.names.as_ref().is_none_or(|names| names.iter().any(|own| sni::covers(own, name.as_str())))
    }
}
