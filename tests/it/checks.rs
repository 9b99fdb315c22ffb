use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;

use crate::util::gateway::pixelgate;
use crate::util::{Account, Authority, Site};

const NAME: &str = "events.shoes.example";

/// Exit code, and the lines about one thing, with their level.
fn check(site: &Site, about: &str) -> (Option<i32>, Vec<String>) {
    let output = pixelgate(site.dir(), &["cert", "check", NAME, "--resolver", "127.0.0.1:9", "--json"]);
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    let lines = report["lines"].as_array().unwrap().iter().filter(|line| line["about"] == about);
    let shown = |line: &Value| format!("{}: {}", line["level"].as_str().unwrap(), line["text"].as_str().unwrap());
    (output.status.code(), lines.map(shown).collect())
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
    let (code, key) = check(&site, "key");
    assert!(code == Some(0) && key.len() == 1 && key[0].starts_with("ok: "), "{key:?}");
    let file = format!("certs/{NAME}/key.pem");
    let good = std::fs::read_to_string(site.path(&file)).unwrap();
    site.write(&file, with_other_private_half(&good));
    let (code, lines) = check(&site, "certificate");
    assert!(code == Some(1) && lines[0].contains("error: ") && lines[0].contains("the key is not"), "{lines:?}");
    assert_eq!(check(&site, "key").1, [""; 0]);
    site.write(&file, site.authority.credential(NAME, 60).1);
    let (code, lines) = check(&site, "certificate");
    assert!(code == Some(1) && lines[0].contains("the key does not belong to the first certificate"), "{lines:?}");
}

#[test]
fn a_chain_that_is_not_whole_or_not_in_order_is_told() {
    let site = Site::new("http://127.0.0.1:9").account(Account::new("shoes", 7001).domain(NAME));
    let (code, chain) = check(&site, "chain");
    assert_eq!(code, Some(0), "fine for a private CA");
    assert!(chain[0].starts_with("warning: the chain is the certificate alone"), "{chain:?}");
    let file = format!("certs/{NAME}/chain.pem");
    let leaf = std::fs::read_to_string(site.path(&file)).unwrap();
    site.write(&file, leaf + &Authority::new().pem());
    let (code, chain) = check(&site, "chain");
    assert!(
        code == Some(1) && chain[0].contains("certificate 1 of the chain is not followed by its issuer"),
        "{chain:?}"
    );
}
