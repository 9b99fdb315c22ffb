//! The same names and certificates for every server, in the layout that each of them wants.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose};

/// Accounts of Pixelgate have so many names each.
const NAMES_PER_ACCOUNT: usize = 5;
/// A name that is configured, and has no certificate at first.
pub(crate) const LATE: &str = "events.late.example";
/// A name that is not configured at first.
pub(crate) const NEW: &str = "events.new.example";
/// Is there once all certificates are.
const COMPLETE: &str = ".complete";

/// `count` names with a certificate each, made once and kept; below `folder`:
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
        names.reset();
        if names.folder.join(COMPLETE).exists() {
            return names;
        }
        let _ = std::fs::remove_dir_all(&names.folder);
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
                        drop(names.issue(&names.name(at)));
                    }
                });
            }
        });
        names.configure();
        std::fs::write(names.folder.join(COMPLETE), "").expect("a file");
        names
    }

    /// Everything as it was made.
    pub(crate) fn reset(&self) {
        [LATE, NEW].iter().for_each(|name| self.withdraw(name));
        let _ = std::fs::remove_file(self.folder.join("pixelgate/accounts/new.toml"));
    }

    pub(crate) fn name(&self, at: usize) -> String {
        format!("events.shop{at}.example")
    }

    /// Puts the files of a name where the servers look; says which leaf it is (DER).
    pub(crate) fn issue(&self, name: &str) -> Vec<u8> {
        let mut params = CertificateParams::new(vec![name.to_owned()]).expect("a DNS name");
        params.not_before = rcgen::date_time_ymd(2025, 1, 1);
        params.not_after = rcgen::date_time_ymd(2045, 1, 1);
        params.distinguished_name.push(DnType::CommonName, "leaf");
        let key = KeyPair::generate().expect("a key");
        let leaf = params.signed_by(&key, &self.issuer).expect("a certificate");
        let (chain, key) = (leaf.pem() + &self.intermediate, key.serialize_pem());
        let folder = self.folder.join("certs").join(name);
        std::fs::create_dir_all(&folder).expect("a folder");
        put(&folder.join("chain.pem"), &chain);
        put(&folder.join("key.pem"), &key);
        put(&self.folder.join("pem").join(format!("{name}.pem")), &(chain + &key));
        leaf.der().to_vec()
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
        names.push(LATE.to_owned());
        for (account, names) in names.chunks(NAMES_PER_ACCOUNT).enumerate() {
            self.write_account(&format!("a{account}"), names, pixel_of(account * NAMES_PER_ACCOUNT));
        }
    }

    /// An account with a name of its own.
    pub(crate) fn add_account(&self) {
        self.write_account("new", &[NEW.to_owned()], 1);
    }

    fn write_account(&self, id: &str, names: &[String], pixel: usize) {
        let toml = format!(
            "name = \"Account {id}\"\ndomains = {names:?}\n\n[[pixels]]\nid = \"{pixel}\"\naccess_token = {{ file = \"../token\" }}\n"
        );
        std::fs::write(self.folder.join(format!("pixelgate/accounts/{id}.toml")), toml).expect("a file");
    }
}

/// A file in place of another one, as ACME clients do it: written over in the second in which it was made, nginx takes it
/// for the one that it knows.
fn put(path: &Path, text: &str) {
    let new = path.with_extension("new");
    std::fs::write(&new, text).expect("a file");
    std::fs::rename(new, path).expect("a file");
}

/// The pixel of the account that has this name.
pub(crate) fn pixel_of(at: usize) -> usize {
    1_000_000 + at / NAMES_PER_ACCOUNT
}
