//! What only the files of a certificate say: who issued it, its keys, and whether it was imported.

use super::CertificateView;
use crate::snapshot::Snapshot;
use crate::tls::chain::Chain;
use crate::tls::keep::{FILES, IMPORTED};

// === impl CertificateView ===

impl CertificateView {
    /// Adds what the files of its folder say.
    pub(super) fn read_folder(&mut self, snapshot: &Snapshot) {
        let Some(folder) = &self.folder else { return };
        let served = snapshot.certificates.state(&self.name).map(|state| state.served);
        let shown = served.filter(|pairs| pairs.contains(&true)).unwrap_or([true; 2]);
        let leaf = |[chain, _]: [&str; 2]| {
            let path = folder.join(chain);
            // A pipe would have to be waited for.
            let bytes = path.metadata().ok()?.is_file().then(|| std::fs::read(path))?;
            Chain::from_pem(&bytes.ok()?)?.leaf()
        };
        let files = FILES.into_iter().zip(shown).filter_map(|(files, shown)| shown.then_some(files));
        let leaves: Vec<_> = files.filter_map(leaf).collect();
        self.keys = leaves.iter().map(|leaf| leaf.key.clone()).collect();
        self.issuer = self.issuer.take().or(leaves.into_iter().next().map(|leaf| leaf.issuer));
        if self.origin.as_deref() == Some("issued") && folder.join(IMPORTED).exists() {
            self.origin = Some("imported".to_owned());
        }
    }
}
