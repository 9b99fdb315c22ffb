use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;

use crate::util::gateway::pixelgate;
use crate::util::{Account, Site};

const NAME: &str = "events.shoes.example";

/// What a check found.
struct Check {
    code: Option<i32>,
    lines: Vec<Value>,
}

impl Check {
    fn of(site: &Site) -> Self {
        let output = pixelgate(site.dir(), &["cert", "check", NAME, "--resolver", "127.0.0.1:9", "--json"]);
        let report: Value = serde_json::from_slice(&output.stdout).unwrap();
        Self { code: output.status.code(), lines: report["lines"].as_array().unwrap().clone() }
    }

    /// Level and text of the first line about something.
    fn line(&self, about: &str) -> Option<String> {
        let line = self.lines.iter().find(|line| line["about"] == about)?;
        Some(format!("{}: {}", line["level"].as_str().unwrap(), line["text"].as_str().unwrap()))
    }

    fn assert(&self, code: i32, about: &str, level: &str, text: &str) {
        let line = self.line(about).unwrap_or_default();
        assert!(line.starts_with(level) && line.contains(text), "{about}, {text}: {line}");
        assert_eq!(self.code, Some(code));
    }
}

/// A key file of which the public half is what it was.
fn with_other_private_half(pem: &str) -> String {
    let body: String = pem.lines().filter(|line| !line.starts_with('-')).collect();
    let mut der = STANDARD.decode(body).unwrap();
    // The private half is the one octet string of 32 bytes.
    let at = der.windows(2).position(|pair| pair == [0x04, 32]).unwrap();
    der[at + 10] ^= 1;
    let text = STANDARD.encode(der);
    let lines: Vec<_> = text.as_bytes().chunks(64).map(|line| std::str::from_utf8(line).unwrap()).collect();
    format!("-----BEGIN PRIVATE KEY-----\n{}\n-----END PRIVATE KEY-----\n", lines.join("\n"))
}

#[test]
fn a_key_that_is_damaged_or_anothers_is_an_error() {
    let site = Site::new("http://127.0.0.1:9").account(Account::new("shoes", 7001).domain(NAME));
    let file = format!("certs/{NAME}/key.pem");
    let good = std::fs::read_to_string(site.path(&file)).unwrap();
    site.write(&file, with_other_private_half(&good));
    let check = Check::of(&site);
    check.assert(1, "certificate", "error", "the key is not a PEM private key");
    assert_eq!(check.line("key"), None);
    site.write(&file, site.authority.credential(NAME, 60).1);
    Check::of(&site).assert(1, "certificate", "error", "the key does not belong to the first certificate");
}

#[test]
fn a_chain_that_is_not_whole_or_not_in_order_is_told() {
    let site = Site::new("http://127.0.0.1:9").account(Account::new("shoes", 7001).domain(NAME));
    let check = Check::of(&site);
    check.assert(0, "chain", "warning", "the chain is the certificate alone");
    check.assert(0, "key", "ok", "belongs to the certificate");
    let file = format!("certs/{NAME}/chain.pem");
    let leaf = std::fs::read_to_string(site.path(&file)).unwrap();
    site.write(&file, leaf + &site.authority.credential("other.example", 60).0);
    Check::of(&site).assert(1, "chain", "error", "certificate 1 of the chain is not followed by its issuer");
}
