use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;

use crate::certificates::empty_dns;
use crate::util::certificates::ShortKey;
use crate::util::gateway::pixelgate;
use crate::util::{Account, Site};

const NAME: &str = "events.shoes.example";

/// What a check found, of names without records.
struct Check {
    lines: Vec<Value>,
}

impl Check {
    async fn of(site: &Site) -> Self {
        let resolver = empty_dns(3).await.to_string();
        let output = pixelgate(site.dir(), &["cert", "check", NAME, "--resolver", &resolver, "--json"]);
        let report: Value = serde_json::from_slice(&output.stdout).unwrap();
        Self { lines: report["lines"].as_array().unwrap().clone() }
    }

    /// Level and text of the first line about something.
    fn line(&self, about: &str) -> Option<String> {
        let line = self.lines.iter().find(|line| line["about"] == about)?;
        Some(format!("{}: {}", line["level"].as_str().unwrap(), line["text"].as_str().unwrap()))
    }

    fn assert(&self, about: &str, level: &str, text: &str) {
        let line = self.line(about).unwrap_or_default();
        assert!(line.starts_with(level) && line.contains(text), "{about}, {text}: {line}");
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

#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_is_damaged_or_anothers_is_an_error() {
    let site = Site::new("http://127.0.0.1:9").account(Account::new("shoes", 7001).domain(NAME));
    let file = format!("certs/{NAME}/key.pem");
    let good = std::fs::read_to_string(site.path(&file)).unwrap();
    site.write(&file, with_other_private_half(&good));
    let check = Check::of(&site).await;
    check.assert("certificate", "error", "the key is not a PEM private key");
    assert_eq!(check.line("key"), None);
    site.write(&file, site.authority.credential(NAME, 60).1);
    Check::of(&site).await.assert("certificate", "error", "the key does not belong to the first certificate");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_rsa_key_that_clients_refuse_is_an_error() {
    let site = Site::new("http://127.0.0.1:9").account(Account::new("shoes", 7001).domain(NAME));
    let short = ShortKey::new();
    site.write(&format!("certs/{NAME}/chain.pem"), site.authority.sign(&[NAME], &short, 1, 60));
    site.write(&format!("certs/{NAME}/key.pem"), &short.pem);
    let check = Check::of(&site).await;
    check.assert("key", "ok", "belongs to the certificate");
    let told =
        |line: &Value| line["level"] == "error" && line["text"].as_str().unwrap().contains("its key is RSA 1024");
    assert!(check.lines.iter().any(told), "{:#?}", check.lines);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_renews_an_ended_certificate_depends_on_whether_the_gateway_does() {
    let site = Site::new("http://127.0.0.1:9").account(Account::new("shoes", 7001).domain(NAME));
    site.authority.issue_for(&site.path("certs"), NAME, -60);
    let remedy = async || {
        let check = Check::of(&site).await;
        check.assert("expiry", "error", "ended at");
        check.lines.iter().find(|line| line["about"] == "expiry").unwrap()["remedy"].to_string()
    };
    let told = remedy().await;
    assert!(told.contains("`pixelgate cert import`") && !told.contains("cert issue"), "{told}");
    let file = std::fs::read_to_string(site.path("pixelgate.toml")).unwrap();
    let acme = "\n[acme]\nenabled = true\nterms_agreed = true\nemail = \"ops@agency.example\"\n";
    site.write("pixelgate.toml", file + acme);
    let told = remedy().await;
    assert!(told.contains("`pixelgate cert issue`"), "{told}");
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_configuration_nobody_is_asked_who_is_not_named() {
    let site = Site::new("http://127.0.0.1:9").account(Account::new("shoes", 7001).domain(NAME));
    site.write("pixelgate.toml", "[host]\n");
    let output = pixelgate(site.dir(), &["cert", "check", NAME, "--json"]);
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    let check = Check { lines: report["lines"].as_array().unwrap().clone() };
    check.assert("configuration", "error", "pixelgate.toml cannot be used");
    check.assert("dns", "skipped", "pixelgate.toml says which DNS server to ask");
    assert_eq!(check.lines.iter().filter(|line| line["level"] == "error").count(), 1, "{:#?}", check.lines);
    // Who is named is asked.
    Check::of(&site).await.assert("dns", "info", "at no address");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_twin_that_is_not_rsa_is_told() {
    let site = Site::new("http://127.0.0.1:9").account(Account::new("shoes", 7001).domain(NAME));
    for (file, twin) in [("chain.pem", "chain.rsa.pem"), ("key.pem", "key.rsa.pem")] {
        let text = std::fs::read_to_string(site.path(&format!("certs/{NAME}/{file}"))).unwrap();
        site.write(&format!("certs/{NAME}/{twin}"), text);
    }
    let check = Check::of(&site).await;
    check.assert("certificate", "warning", "in this file is ECDSA");
    check.assert("key", "ok", "belongs to the certificate");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_chain_that_is_not_whole_or_not_in_order_is_told() {
    let site = Site::new("http://127.0.0.1:9").account(Account::new("shoes", 7001).domain(NAME));
    let file = format!("certs/{NAME}/chain.pem");
    let chain = std::fs::read_to_string(site.path(&file)).unwrap();
    let leaf = chain.split_inclusive("-----END CERTIFICATE-----\n").next().unwrap().to_owned();
    site.write(&file, &leaf);
    let check = Check::of(&site).await;
    check.assert("chain", "warning", "the chain is the certificate alone");
    check.assert("key", "ok", "belongs to the certificate");
    site.write(&file, leaf + &site.authority.credential("other.example", 60).0);
    Check::of(&site).await.assert("chain", "error", "certificate 1 of the chain is not followed by its issuer");
}
