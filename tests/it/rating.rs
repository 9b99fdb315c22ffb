use std::process::Command;

use serde_json::Value;

use crate::util::process::tool;
use crate::util::{Account, Gateway, Site, Standin};

const NAME: &str = "events.shoes.example";

/// What testssl.sh may find, and why that is as it should be. Everything else that is no "OK" or "INFO" fails the test.
const ACCEPTED: [(&str, &str); 3] = [
    ("engine_problem", "of the openssl program that testssl.sh uses, not of the server"),
    ("cert_revocation", "the test's own CA has no revocation list; public ones have"),
    ("HSTS", "an events host has no pages that a visitor could open without TLS, and its port 80 only redirects"),
];

#[tokio::test(flavor = "multi_thread")]
async fn testssl_rates_it_a() {
    let standin = Standin::start().await;
    let site = Site::new(&standin.url).account(Account::new("shoes", 9101).domain(NAME));
    let gateway = Gateway::start(&site).await;
    site.write("ca.pem", site.authority.pem());
    let data = tool("testssl.sh/etc/testssl");
    let report = site.path("testssl.json");
    let testssl = || {
        let mut testssl = Command::new(tool("testssl.sh/usr/bin/testssl"));
        testssl.env("TESTSSL_INSTALL_DIR", &data).env("CA_BUNDLES_PATH", &data);
        testssl
    };
    let version = testssl().arg("--version").output().expect("testssl.sh runs").stdout;
    let version = String::from_utf8_lossy(&version).into_owned();
    assert!(version.lines().any(|line| line.contains("version") && line.contains("3.2.")), "{version}");
    let mut testssl = testssl();
    testssl.args(["--openssl", "/usr/bin/openssl", "--ip", "127.0.0.1", "--nodns", "none", "--warnings", "batch"]);
    testssl.args(["--color", "0", "--quiet"]).arg("--add-ca").arg(site.path("ca.pem"));
    testssl.arg("--jsonfile").arg(&report).arg(format!("{NAME}:{}", gateway.https().port()));
    let said = tokio::task::spawn_blocking(move || testssl.output()).await.unwrap().expect("testssl.sh runs");
    let said = String::from_utf8_lossy(&said.stdout).into_owned();
    let findings: Vec<Value> = serde_json::from_slice(&std::fs::read(&report).expect(&said)).expect(&said);
    let text = |finding: &Value, key: &str| finding[key].as_str().unwrap_or_default().to_owned();
    let grade = findings.iter().find(|finding| finding["id"] == "overall_grade").map(|found| text(found, "finding"));
    assert!(matches!(grade.as_deref(), Some("A" | "A+")), "{grade:?}\n{said}");
    let unexpected: Vec<_> = findings
        .iter()
        .filter(|finding| !["OK", "INFO"].contains(&text(finding, "severity").as_str()))
        .filter(|finding| !ACCEPTED.iter().any(|(id, _)| finding["id"] == *id))
        .collect();
    assert!(unexpected.is_empty(), "{unexpected:#?}");
}
