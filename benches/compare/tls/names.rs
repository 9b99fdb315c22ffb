//! The same names and certificates for every server, in the layout that each of them wants.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose};

/// Accounts of Pixelgate have so many names each.
const NAMES_PER_ACCOUNT: usize = 5;

/// `count` names with a certificate each; below `folder`:
///
/// * `certs/<name>/{chain.pem,key.pem}`, as Pixelgate and nginx read them;
/// * `pem/<name>.pem`, both in one, as haproxy and caddy do;
/// * `pixelgate/`: the configuration that routes them.
pub(crate) struct Names {
    pub(crate) folder: PathBuf,
    pub(crate) count: usize,
    issuer: Issuer<'static, KeyPair>,
    intermediate: String,
}

impl Names {
    pub(crate) fn make(parent: &Path, count: usize) -> Self {
        let folder = parent.join(count.to_string());
        let _ = std::fs::remove_dir_all(&folder);
        let mut root = CertificateParams::new(Vec::new()).expect("no names");
        root.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let root_key = KeyPair::generate().expect("a key");
        let mut params = CertificateParams::new(Vec::new()).expect("no names");
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params.distinguished_name.push(DnType::CommonName, "Intermediate of the comparison");
        let key = KeyPair::generate().expect("a key");
        let intermediate = params.signed_by(&key, &Issuer::new(root, root_key)).expect("a certificate").pem();
        let names = Self { folder, count, issuer: Issuer::new(params, key), intermediate };
        std::fs::create_dir_all(names.folder.join("pem")).expect("a folder");
        let next = AtomicUsize::new(0);
        std::thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| {
                    loop {
                        let at = next.fetch_add(1, Ordering::Relaxed);
                        if at >= count {
                            break;
                        }
                        names.issue(&names.name(at));
                    }
                });
            }
        });
        names.configure();
        names
    }

    pub(crate) fn name(&self, at: usize) -> String {
        format!("events.shop{at}.example")
    }

    /// A name that is configured, and has no certificate yet.
    pub(crate) fn late(&self) -> &'static str {
        "events.late.example"
    }

    /// Puts the files of a name where the servers look.
    pub(crate) fn issue(&self, name: &str) {
        let mut params = CertificateParams::new(vec![name.to_owned()]).expect("a DNS name");
        params.not_before = rcgen::date_time_ymd(2025, 1, 1);
        params.not_after = rcgen::date_time_ymd(2045, 1, 1);
        params.distinguished_name.push(DnType::CommonName, "leaf");
        let key = KeyPair::generate().expect("a key");
        let leaf = params.signed_by(&key, &self.issuer).expect("a certificate").pem();
        let (chain, key) = (leaf + &self.intermediate, key.serialize_pem());
        let folder = self.folder.join("certs").join(name);
        std::fs::create_dir_all(&folder).expect("a folder");
        std::fs::write(folder.join("chain.pem"), &chain).expect("a file");
        std::fs::write(folder.join("key.pem"), &key).expect("a file");
        std::fs::write(self.folder.join("pem").join(format!("{name}.pem")), chain + &key).expect("a file");
    }

    pub(crate) fn withdraw(&self, name: &str) {
        let _ = std::fs::remove_dir_all(self.folder.join("certs").join(name));
        let _ = std::fs::remove_file(self.folder.join("pem").join(format!("{name}.pem")));
    }

    fn configure(&self) {
        let dir = self.folder.join("pixelgate");
        std::fs::create_dir_all(dir.join("accounts")).expect("a folder");
        std::fs::write(dir.join("token"), "a-token-for-nothing").expect("a file");
        let mut names: Vec<String> = (0..self.count).map(|at| self.name(at)).collect();
        names.push(self.late().to_owned());
        for (account, names) in names.chunks(NAMES_PER_ACCOUNT).enumerate() {
            let toml = format!(
                "name = \"Account {account}\"\ndomains = {names:?}\n\n[[pixels]]\nid = \"{}\"\naccess_token = {{ file = \"../token\" }}\n",
                pixel_of(account * NAMES_PER_ACCOUNT)
            );
            std::fs::write(dir.join(format!("accounts/a{account}.toml")), toml).expect("a file");
        }
    }
}

/// The pixel of the account that has this name.
pub(crate) fn pixel_of(at: usize) -> usize {
    1_000_000 + at / NAMES_PER_ACCOUNT
}
