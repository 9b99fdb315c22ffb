use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use boring::x509::X509;

use crate::util::process::{Process, tool};
use crate::util::site::HOST_DOMAIN;
use crate::util::{Account, Gateway, Site, Standin};

const PIXEL: u64 = 9001;
const NAME: &str = "events.shop.example";

/// A path in the repository.
fn repository(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

/// The official SDK as pip installed it, in a folder of the test's own, with the test's CA in the bundle that it pins.
fn sdk_that_trusts(site: &Site) -> PathBuf {
    let python = tool("python/bin/python");
    let find = Command::new(&python)
        .args(["-c", "import facebook_business; print(facebook_business.__path__[0])"])
        .output()
        .unwrap();
    let installed = String::from_utf8(find.stdout).unwrap();
    let folder = site.path("sdk");
    std::fs::create_dir_all(&folder).unwrap();
    let copied = Command::new("cp").arg("-r").arg(installed.trim()).arg(&folder).status().unwrap();
    assert!(copied.success());
    let bundle = folder.join("facebook_business/fb_ca_chain_bundle.crt");
    let mut text = std::fs::read_to_string(&bundle).unwrap();
    text.push_str(site.authority.pem());
    std::fs::write(bundle, text).unwrap();
    folder
}

#[tokio::test(flavor = "multi_thread")]
async fn the_official_python_sdk_delivers_sync_and_async() {
    let standin = Standin::start().await;
    let site =
        Site::new(&standin.url).account(Account::new("shop", PIXEL).domain(NAME).ingest_key("backend", "key-of-shop"));
    let gateway = Gateway::start(&site).await;
    let sdk = sdk_that_trusts(&site);
    site.write("ca.pem", site.authority.pem());
    for (how, name) in [("sync", NAME), ("async", NAME), ("sync", HOST_DOMAIN)] {
        let base_url = format!("https://{name}:{}", gateway.https().port());
        let event_id = format!("{how}-{name}");
        let mut command = Command::new(tool("python/bin/python"));
        command.arg(repository("tests/sdk/send.py")).args([
            how,
            &base_url,
            &PIXEL.to_string(),
            "key-of-shop",
            &event_id,
        ]);
        command.env("PYTHONPATH", &sdk).env("REQUESTS_CA_BUNDLE", site.path("ca.pem"));
        let output = run(command).await;
        assert!(output.status.success(), "{output:?}");
        assert_eq!(String::from_utf8_lossy(&output.stdout).trim(), "1");
        let event = standin.event(PIXEL, &event_id).await;
        assert_eq!(event["user_data"]["em"][0], "62a14e44f765419d10fea99367361a727c12365e2520f32218d505ed9aa0f62f");
        assert_eq!(event["custom_data"]["value"], 12.5);
    }
    assert!(!gateway.log().contains("key-of-shop"), "the SDK's key in the URL reaches no log");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_real_browser_delivers_through_the_one_tag() {
    let standin = Standin::start().await;
    let site = Site::new(&standin.url).account(Account::new("shop", PIXEL).domain(NAME));
    let gateway = Gateway::start(&site).await;
    let chain = std::fs::read(site.path("certs").join(NAME).join("chain.pem")).unwrap();
    let mut command = Command::new("node");
    command.arg("--test").arg("gateway.test.js").current_dir(repository("tests/browser"));
    command.env("GATEWAY_HTTPS", gateway.https().to_string()).env("GATEWAY_NAME", NAME);
    command
        .env("GATEWAY_SPKI", spki_hash(&chain))
        .env("GRAPH_CONTROL", standin.control())
        .env("PIXEL_ID", PIXEL.to_string());
    let log = site.path("browser.log");
    let mut browser = Process::start(&mut command, &log);
    let status = browser.ended().await;
    assert!(status.success(), "{}", browser.log());
    assert_eq!(standin.violations().await, serde_json::json!([]));
}

async fn run(mut command: Command) -> Output {
    tokio::task::spawn_blocking(move || command.output()).await.unwrap().unwrap()
}

/// What Chromium wants for a certificate that it shall trust: the base64 of SHA-256 of the leaf's public key.
fn spki_hash(chain: &[u8]) -> String {
    let key = X509::from_pem(chain).unwrap().public_key().unwrap().public_key_to_der().unwrap();
    boring::base64::encode_block(&boring::sha::sha256(&key))
}
