//! Whether a chain that goes into place is whole, and its missing issuers where they lie already.

use std::path::Path;

use crate::clock::now_ms;
use crate::tls::chain::{Chain, ChainFault, Pile, Roots};
use crate::tls::keep::{FILES, Live};

/// Where a name has chains already: what is in place, with the folder that it is read from, and the operator's own folder.
pub(super) struct Places<'a> {
    pub(super) live: (&'a Path, &'a Live),
    pub(super) operators: &'a Path,
}

/// What a person should know of a chain that goes into place; and the chain with its issuers, where those were not found with
/// it, and a chain of the name has them.
pub(super) fn whole(chain: &Chain, roots: &Roots, places: &Places<'_>) -> (Option<Chain>, Vec<String>) {
    let judge = |chain: &Chain| chain.judge(roots, now_ms() / 1_000).err();
    let Some(fault) = judge(chain) else { return (None, Vec::new()) };
    let completed = ends_early(&fault).then(|| places.complete(chain)).flatten();
    let Some((chain, folder)) = completed else { return (None, vec![told(&fault)]) };
    let mut notes = vec![format!("it came without its issuers: they are added from the chain in {}", folder.display())];
    notes.extend(judge(&chain).as_ref().map(told));
    (Some(chain), notes)
}

/// Whether more issuers could mend it.
fn ends_early(fault: &ChainFault) -> bool {
    matches!(fault, ChainFault::LeafOnly(_) | ChainFault::Unanchored(_))
}

fn told(fault: &ChainFault) -> String {
    if !ends_early(fault) {
        return fault.to_string();
    }
    format!(
        "{fault}: put the CA's intermediate certificate beside it (certbot: fullchain.pem has both), or name a private CA's \
         root in [acme] ca_file"
    )
}

// === impl Places ===

impl<'a> Places<'a> {
    /// The chain with issuers of it that one of the folders has, and that folder.
    fn complete(&self, chain: &Chain) -> Option<(Chain, &'a Path)> {
        let (folder, files) = self.live;
        let in_place = completed(chain, |file| files.get(file).cloned()).map(|chain| (chain, folder));
        // One that cannot be read has no issuers for anybody.
        let operators = || completed(chain, |file| std::fs::read(self.operators.join(file)).ok());
        in_place.or_else(|| operators().map(|chain| (chain, self.operators)))
    }
}

/// A chain with issuers of it that are in the chains of one folder.
fn completed(chain: &Chain, read: impl Fn(&str) -> Option<Vec<u8>>) -> Option<Chain> {
    let mut pile = Pile::default();
    for pem in FILES.iter().filter_map(|[chain, _]| read(chain)) {
        pile.add(&pem);
    }
    pile.completed(chain)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing)]
    use super::*;
    use crate::tls::testing::Issued;

    #[test]
    fn missing_issuers_come_from_a_chain_of_the_name_that_has_them() {
        let dir = tempfile::tempdir().unwrap();
        let issued = Issued::new(&["a.example"]);
        let roots = Roots::of_this_machine_and(&[issued.root.clone().into_bytes()]).unwrap();
        let leaf = issued.chain.split_inclusive("-----END CERTIFICATE-----\n").next().unwrap();
        let (live, operators) = (Path::new("/data/certs/a.example/live"), dir.path().join("a.example"));
        let judged = |chain: &str, in_place: &str| {
            let in_place = Live::from([("chain.pem", in_place.as_bytes().to_vec())]);
            let places = Places { live: (live, &in_place), operators: &operators };
            let (chain, notes) = whole(&Chain::from_pem(chain.as_bytes()).unwrap(), &roots, &places);
            (chain.map(|chain| String::from_utf8(chain.to_pem().unwrap()).unwrap()), notes)
        };
        assert_eq!(judged(&issued.chain, &issued.chain), (None, Vec::new()), "nothing is missing");
        let (chain, notes) = judged(leaf, &issued.chain);
        assert_eq!(chain.as_deref(), Some(issued.chain.as_str()));
        assert!(
            notes.len() == 1 && notes[0].ends_with(&format!("added from the chain in {}", live.display())),
            "{notes:?}"
        );
        // Its issuer has the same name and another key.
        let other = Issued::new(&["a.example"]);
        let (chain, notes) = judged(leaf, &other.chain);
        assert!(chain.is_none() && notes.len() == 1 && notes[0].contains("fullchain.pem has both"), "{notes:?}");
        issued.write(dir.path(), "a.example");
        let (chain, notes) = judged(leaf, &other.chain);
        assert_eq!(chain.as_deref(), Some(issued.chain.as_str()));
        assert!(notes.len() == 1 && notes[0].ends_with(&operators.display().to_string()), "{notes:?}");
    }
}
