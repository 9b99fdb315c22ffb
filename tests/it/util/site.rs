//! A site: the folder that an operator would keep in /etc/pixelgate, made for one test.

use std::fmt::Write;
use std::path::{Path, PathBuf};

use tempfile::TempDir;

use super::{Authority, Pebble};

/// The host's own domain in every test.
pub(crate) const HOST_DOMAIN: &str = "gw.agency.example";

/// A configuration folder with certificates.
pub(crate) struct Site {
    dir: TempDir,
    pub(crate) authority: Authority,
    graph_url: String,
    listen: String,
    host: String,
    /// Where TLS and plain HTTP are taken.
    edge: [String; 2],
    extra: String,
}

/// An account's file, in the making.
pub(crate) struct Account {
    id: String,
    pub(crate) pixel: u64,
    domains: Vec<String>,
    /// Those of them without a certificate in `certs_dir`.
    bare: Vec<String>,
    secrets: Vec<String>,
    top: String,
    pixel_keys: String,
    tables: String,
}

impl Site {
    /// An empty site that delivers to a Graph API at this URL.
    pub(crate) fn new(graph_url: &str) -> Self {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let (listen, host, extra) = (String::new(), String::new(), String::new());
        let edge = ["127.0.0.1:0".to_owned(), "127.0.0.1:0".to_owned()];
        let site =
            Self { dir, authority: Authority::new(), graph_url: graph_url.to_owned(), listen, host, edge, extra };
        std::fs::create_dir_all(site.path("accounts")).expect("a folder");
        site.authority.issue(&site.path("certs"), HOST_DOMAIN, 90);
        site.write_gateway_file();
        site
    }

    /// An empty site that takes part in the world of a CA: it listens where the CA looks, and orders there.
    pub(crate) fn issuing(pebble: &Pebble, acme: &str) -> Self {
        Self::issuing_at(&pebble.directory(), pebble, acme)
    }

    /// The same, and what it asks of the CA goes to this directory.
    pub(crate) fn issuing_at(directory: &str, pebble: &Pebble, acme: &str) -> Self {
        let mut site = Self::new("http://127.0.0.1:9");
        site.edge = [pebble.https().to_string(), pebble.http().to_string()];
        let (ca_file, resolver) = (pebble.ca_file(), pebble.dns());
        site.with(&format!(
            "[acme]\nenabled = true\nterms_agreed = true\nemail = \"ops@agency.example\"\ndirectory = \"{directory}\"\n\
             ca_file = {ca_file:?}\nresolver = \"{resolver}\"\nretry_min = \"200ms\"\nretry_max = \"1s\"\n{acme}\n"
        ))
    }

    /// Adds TOML to `pixelgate.toml`.
    pub(crate) fn with(mut self, toml: &str) -> Self {
        self.extra.push_str(toml);
        self.write_gateway_file();
        self
    }

    /// Adds a line to the `[host]` table.
    pub(crate) fn host(mut self, line: &str) -> Self {
        self.host = format!("{line}\n");
        self.write_gateway_file();
        self
    }

    /// Takes plain HTTP where the CA does not look.
    pub(crate) fn without_port_80(mut self) -> Self {
        "127.0.0.1:0".clone_into(&mut self.edge[1]);
        self.write_gateway_file();
        self
    }

    /// Adds a line to the `[listen]` table.
    pub(crate) fn listen(mut self, line: &str) -> Self {
        self.listen = format!("{line}\n");
        self.write_gateway_file();
        self
    }

    /// Writes an account's file and the certificates of its domains.
    pub(crate) fn account(self, account: Account) -> Self {
        self.write_account(&account);
        self
    }

    pub(crate) fn write_account(&self, account: &Account) {
        let certs = self.path("certs");
        let needs_one = |domain: &&String| {
            !account.bare.contains(domain) && !certs.join(domain.replacen('*', "_", 1)).join("chain.pem").exists()
        };
        // One that is there stays: two files that change one after the other are faulty in between.
        for domain in account.domains.iter().filter(needs_one) {
            self.authority.issue(&certs, domain, 90);
        }
        self.write(&format!("secrets/token-{}", account.pixel), format!("token-{}", account.pixel));
        for secret in &account.secrets {
            self.write(&format!("secrets/{secret}"), secret);
        }
        self.write(&format!("accounts/{}.toml", account.id), account.to_toml());
    }

    /// A file or folder of the site.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub(crate) fn write(&self, name: &str, contents: impl AsRef<[u8]>) {
        let path = self.path(name);
        std::fs::create_dir_all(path.parent().expect("a folder")).expect("a folder");
        std::fs::write(path, contents).expect("a file");
    }

    pub(crate) fn dir(&self) -> &Path {
        self.dir.path()
    }

    fn write_gateway_file(&self) {
        let mut toml = format!(
            "[host]\nname = \"Example Agency\"\ndomain = \"{HOST_DOMAIN}\"\ndata_dir = \"data\"\nupstream_private = true\n{}\n\
             [listen]\nhttps = [\"{}\"]\nhttp = [\"{}\"]\nops = \"127.0.0.1:0\"\n{}\n\
             [delivery]\ngraph_url = \"{}\"\n",
            self.host, self.edge[0], self.edge[1], self.listen, self.graph_url
        );
        toml.push_str(&self.extra);
        self.write("pixelgate.toml", toml);
    }
}

impl Account {
    /// An account with one pixel, whose token is the id with `token-` before it.
    pub(crate) fn new(id: &str, pixel: u64) -> Self {
        Self {
            id: id.to_owned(),
            pixel,
            domains: Vec::new(),
            bare: Vec::new(),
            secrets: Vec::new(),
            top: String::new(),
            pixel_keys: String::new(),
            tables: String::new(),
        }
    }

    pub(crate) fn domain(mut self, name: &str) -> Self {
        self.domains.push(name.to_owned());
        self
    }

    /// A domain whose certificate nobody has yet.
    pub(crate) fn bare_domain(mut self, name: &str) -> Self {
        self.bare.push(name.to_owned());
        self.domain(name)
    }

    /// Adds top-level keys.
    pub(crate) fn top(mut self, toml: &str) -> Self {
        let _ = writeln!(self.top, "{toml}");
        self
    }

    /// Adds keys to its pixel.
    pub(crate) fn pixel_keys(mut self, toml: &str) -> Self {
        let _ = writeln!(self.pixel_keys, "{toml}");
        self
    }

    /// Adds tables.
    pub(crate) fn tables(mut self, toml: &str) -> Self {
        let _ = writeln!(self.tables, "\n{toml}");
        self
    }

    /// Lets servers send with this key.
    pub(crate) fn ingest_key(mut self, name: &str, secret: &str) -> Self {
        self.secrets.push(secret.to_owned());
        self.tables(&format!("[[ingest_keys]]\nname = \"{name}\"\nsecret = {{ file = \"../secrets/{secret}\" }}"))
    }

    /// Adds a filter of the components that the build made.
    pub(crate) fn filter(self, name: &str, component: &str, on_fault: &str, settings: &str) -> Self {
        let component = super::process::plugin(component);
        self.tables(&format!(
            "[[filters]]\nname = \"{name}\"\ncomponent = {component:?}\non_fault = \"{on_fault}\"\n[filters.settings]\n{settings}"
        ))
    }

    pub(crate) fn to_toml(&self) -> String {
        format!(
            "name = \"{}\"\ndomains = {:?}\n{}\n[[pixels]]\nid = \"{}\"\naccess_token = {{ file = \"../secrets/token-{}\" }}\n{}{}",
            self.id, self.domains, self.top, self.pixel, self.pixel, self.pixel_keys, self.tables
        )
    }
}
