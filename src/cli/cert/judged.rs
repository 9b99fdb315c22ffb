//! What the files of a name say: the certificate, its key, its chain, and when it ends.

use std::path::Path;

use super::check::{Findings, Leaves};
use super::days;
use super::files::Configured;
use crate::clock::now_ms;
use crate::tls::chain::{Chain, ChainFault, LeafFacts, Roots, rfc3339};
use crate::tls::keep::FILES;
use crate::tls::{CertificateFault, Lookup};

// === impl Findings ===

impl Findings {
    /// Looks at them as a start would find them and the name's first visitor.
    pub(super) fn files(&mut self, configured: &Configured) -> anyhow::Result<Leaves> {
        let store = configured.store(&self.name);
        let (acme, waits) = (configured.gateway.acme.enabled, configured.gateway.acme.waits_for_visitors());
        for problem in store.problems() {
            let text = format!("{}: {problem}", problem.file.display());
            match problem.fault {
                CertificateFault::Nothing if waits => {
                    let text = "there is none, as for every name that waits for its first visitor ([acme] on_demand); the line \
                                `gateway` says whether this one does";
                    self.info("certificate", text);
                }
                // The line of the chain says more of it.
                CertificateFault::Alone | CertificateFault::Disordered => {}
                fault if fault.is_served() => self.warning("certificate", text, problem.remedy(acme)),
                _ => self.error("certificate", text, problem.remedy(acme)),
            }
        }
        let Some(state) = store.state(&self.name) else { return Ok(Leaves::default()) };
        if matches!(store.lookup(self.name.as_str()), Lookup::Ready(_)) {
            self.ok("key", format!("{}: belongs to the certificate", state.folder.display()));
        }
        let roots = configured.roots()?;
        let orders = configured.gateway.acme.enabled;
        let [[first, _], [twin, _]] = FILES.map(|files| files.map(|file| state.folder.join(file)));
        let rsa = twin.exists().then(|| self.file(&twin, &roots, orders)).flatten();
        Ok(Leaves { first: self.file(&first, &roots, orders), rsa })
    }

    /// `orders`: whether the gateway orders certificates.
    fn file(&mut self, file: &Path, roots: &Roots, orders: bool) -> Option<Vec<u8>> {
        let pem = match std::fs::read(file) {
            Ok(pem) => pem,
            Err(error) => {
                let text = format!("{}: {error}", file.display());
                self.error("certificate", text, "run this command as root or as the gateway's user");
                return None;
            }
        };
        let chain = Chain::from_pem(&pem)?;
        let leaf = chain.leaf()?;
        let names = if leaf.names.is_empty() { "no name at all".to_owned() } else { leaf.names.join(", ") };
        let text = format!("{}: for {names}, {} by {}", file.display(), leaf.key, leaf.issuer);
        if leaf.names.is_empty() {
            let remedy = "it begins with an issuer's certificate: write the leaf first; certbot's fullchain.pem has both, \
                          its chain.pem has no leaf";
            self.error("certificate", text, remedy);
        } else {
            self.ok("certificate", text);
        }
        if let Some(weakness) = leaf.weakness() {
            let remedy = "get a certificate with an ECDSA key (P-256 or P-384) or an RSA key of at least 2048 bits";
            self.error("certificate", format!("{}: {weakness}", file.display()), remedy);
        }
        self.chain(&chain, roots);
        self.expiry(&leaf, orders);
        chain.to_der()?.into_iter().next()
    }

    fn expiry(&mut self, leaf: &LeafFacts, orders: bool) {
        let until = rfc3339(leaf.not_after);
        let left = leaf.not_after - now_ms() / 1_000;
        if left < 0 {
            let remedy = if orders {
                "renew it; `pixelgate cert issue`, or `pixelgate cert import`"
            } else {
                "get a new one, and `pixelgate cert import` it; none is ordered, for [acme] is not enabled"
            };
            self.error("expiry", format!("ended at {until}"), remedy);
        } else if left < (leaf.not_after - leaf.not_before) / 4 {
            let text = format!("ends at {until}, in {}", days(left));
            let remedy = if orders {
                "see that it is renewed: `pixelgate cert list` shows what comes next"
            } else {
                "see that whoever renews it does: none is ordered, for [acme] is not enabled"
            };
            self.warning("expiry", text, remedy);
        } else {
            self.ok("expiry", format!("valid until {until}, {}", days(left)));
        }
    }

    fn chain(&mut self, chain: &Chain, roots: &Roots) {
        let about = "chain";
        match chain.judge(roots, now_ms() / 1_000) {
            Ok(()) => self.ok(about, "in order, and complete to a root that this machine or [acme] ca_file trusts"),
            Err(fault @ ChainFault::Order(..)) => {
                let remedy = "put the leaf first and each issuer after what it issued, nothing else: certbot's fullchain.pem is \
                              in order, and `pixelgate cert import` puts in order what it finds";
                self.error(about, fault.to_string(), remedy);
            }
            Err(fault @ ChainFault::LeafOnly(_)) => {
                let remedy = "add the intermediate certificate that your CA publishes (certbot: fullchain.pem instead of \
                              cert.pem), or browsers refuse it; fine only if that issuer is the root of a private CA that all \
                              clients trust";
                self.warning(about, fault.to_string(), remedy);
            }
            Err(fault @ ChainFault::Unanchored(_)) => {
                let remedy = "add the next intermediate certificate that your CA publishes (certbot: fullchain.pem); of a private \
                              CA name the root in [acme] ca_file, or put it at the end of a chain in certs_dir";
                self.warning(about, fault.to_string(), remedy);
            }
            // Whoever put a private CA's root there knows that it is one.
            Err(fault @ ChainFault::UnknownRoot(_)) if !chain.is_single() => {
                self.info(about, format!("{fault}: fine for a private CA, and browsers that do not know it refuse it"));
            }
            Err(fault @ ChainFault::UnknownRoot(_)) => {
                let remedy = "it issued itself: get one from a CA, unless all clients were told to trust just this one";
                self.warning(about, fault.to_string(), remedy);
            }
            Err(fault) => self.error(about, fault.to_string(), "get another certificate"),
        }
    }
}
