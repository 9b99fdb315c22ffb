//! A real ACME server: Pebble with its challenge test server as DNS, on a loopback address of the test's own.
//!
//! Pebble takes no port 0, so its ports are fixed and the address is not: 127.a.b.c, made of the process id. The gateway
//! under test listens at [`Pebble::http`] and [`Pebble::https`], where Pebble validates. Any name resolves to that
//! address until the test says otherwise.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};
use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

use rcgen::{KeyPair, PublicKeyData, SigningKey};
use serde_json::{Value, json};
use tempfile::TempDir;

use super::process::{Process, tool};
use super::{Authority, eventually};

const HTTP: u16 = 5002;
const TLS: u16 = 5001;
const DNS: u16 = 8053;
const DNS_CONTROL: u16 = 8055;
const ACME: u16 = 14000;
const MANAGEMENT: u16 = 15000;

/// How Pebble behaves; the default is as quick as it can be.
#[derive(Clone, Debug, Default)]
pub(crate) struct Manners {
    /// Percentage of good nonces that it refuses.
    pub(crate) nonces_refused: u32,
    /// It waits a random time of at most so many seconds before it validates.
    pub(crate) validation_delay_max: u32,
    /// Percentage of orders for which it takes an earlier validation as good.
    pub(crate) validations_reused: u32,
    /// Key id and base64url secret without which it makes no account (RFC 8555, 7.3.4).
    pub(crate) external_account: Option<(String, String)>,
    /// Names for which it refuses orders.
    pub(crate) blocked: Vec<String>,
}

/// Pebble, its DNS and what is needed to use both.
pub(crate) struct Pebble {
    pub(crate) server: Process,
    _dns: Process,
    dir: TempDir,
    address: Ipv4Addr,
    client: reqwest::Client,
    authority: Authority,
}

impl Pebble {
    /// Starts a quick one.
    pub(crate) async fn start() -> Self {
        Self::start_with(&Manners::default()).await
    }

    /// Starts one, strict as it always is here.
    pub(crate) async fn start_with(manners: &Manners) -> Self {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let address = own_address();
        let at = |port: u16| format!("{address}:{port}");
        let authority = Authority::new();
        let (chain, key) = authority.credential(&address.to_string(), 90);
        for (file, text) in [("ca.pem", authority.pem()), ("api.pem", &chain), ("api.key", &key)] {
            std::fs::write(dir.path().join(file), text).expect("a file");
        }
        let config = json!({ "pebble": {
            "listenAddress": at(ACME),
            "managementListenAddress": at(MANAGEMENT),
            "certificate": dir.path().join("api.pem"),
            "privateKey": dir.path().join("api.key"),
            "httpPort": HTTP,
            "tlsPort": TLS,
            "ocspResponderURL": "",
            "externalAccountBindingRequired": manners.external_account.is_some(),
            "externalAccountMACKeys": manners.external_account.iter().cloned().collect::<std::collections::BTreeMap<_, _>>(),
            "domainBlocklist": manners.blocked,
            "retryAfter": { "authz": 1, "order": 1 },
            "keyAlgorithm": "ecdsa",
            "profiles": {
                "default": { "description": "90 days", "validityPeriod": 90 * 86_400 },
                "shortlived": { "description": "6 days", "validityPeriod": 6 * 86_400 },
            },
        }});
        std::fs::write(dir.path().join("pebble.json"), config.to_string()).expect("a file");

        let mut dns = Command::new(tool("pebble/usr/bin/pebble-challtestsrv"));
        dns.args(["-dnsserver", &at(DNS), "-management", &at(DNS_CONTROL)]);
        dns.args(["-http01", "", "-https01", "", "-tlsalpn01", "", "-doh", ""]);
        dns.args(["-defaultIPv4", &address.to_string(), "-defaultIPv6", ""]);
        let dns = Process::start(&mut dns, &dir.path().join("dns.log"));
        let mut server = Command::new(tool("pebble/usr/bin/pebble"));
        server.arg("-strict").args(["-dnsserver", &at(DNS), "-config"]).arg(dir.path().join("pebble.json"));
        server.env("PEBBLE_WFE_NONCEREJECT", manners.nonces_refused.to_string());
        server.env("PEBBLE_AUTHZREUSE", manners.validations_reused.to_string());
        match manners.validation_delay_max {
            0 => server.env("PEBBLE_VA_NOSLEEP", "1"),
            seconds => server.env("PEBBLE_VA_SLEEPTIME", seconds.to_string()),
        };
        let server = Process::start(&mut server, &dir.path().join("pebble.log"));

        let root = reqwest::Certificate::from_pem(authority.pem().as_bytes()).expect("a CA");
        let client = reqwest::Client::builder()
            .tls_certs_only([root])
            .user_agent("Tester/0")
            // The Host of a request is what its signature is for.
            .http1_only()
            .no_proxy()
            .build()
            .expect("a client");
        let pebble = Self { server, _dns: dns, dir, address, client, authority };
        eventually("Pebble and its DNS answer", async || {
            let dns = pebble.client.post(pebble.dns_control("clear-request-history")).body("{}").send().await;
            let acme = pebble.client.get(pebble.directory()).send().await;
            (dns.is_ok() && acme.ok()?.status().is_success()).then_some(())
        })
        .await;
        pebble
    }

    /// The URL of the ACME directory.
    pub(crate) fn directory(&self) -> String {
        format!("https://{}:{ACME}/dir", self.address)
    }

    /// A chain and its key for another door of its API.
    pub(crate) fn credential(&self, name: &str) -> (String, String) {
        self.authority.credential(name, 90)
    }

    /// A client that trusts it.
    pub(crate) fn client(&self) -> reqwest::Client {
        self.client.clone()
    }

    /// The CA of the ACME API itself, as a file.
    pub(crate) fn ca_file(&self) -> PathBuf {
        self.dir.path().join("ca.pem")
    }

    /// The root that what it issues chains to, PEM. Another one after each start.
    pub(crate) async fn root(&self) -> String {
        self.management("roots/0").await
    }

    /// The address that all names resolve to.
    pub(crate) fn address(&self) -> IpAddr {
        self.address.into()
    }

    /// Where it asks for HTTP-01 answers.
    pub(crate) fn http(&self) -> SocketAddr {
        (self.address, HTTP).into()
    }

    /// Where it asks for TLS-ALPN-01 answers.
    pub(crate) fn https(&self) -> SocketAddr {
        (self.address, TLS).into()
    }

    /// Stops answering until [`Pebble::wake`], as a CA in trouble does: connections are taken, and nothing comes.
    pub(crate) fn sleep(&self) {
        self.server.signal(rustix::process::Signal::STOP);
    }

    /// Answers again.
    pub(crate) fn wake(&self) {
        self.server.signal(rustix::process::Signal::CONT);
    }

    /// Its DNS server, UDP and TCP.
    pub(crate) fn dns(&self) -> SocketAddr {
        (self.address, DNS).into()
    }

    /// The A records of a name from now on.
    pub(crate) async fn set_a(&self, name: &str, addresses: &[&str]) {
        self.set_dns("clear-a", json!({ "host": name })).await;
        self.set_dns("add-a", json!({ "host": name, "addresses": addresses })).await;
    }

    /// The AAAA records of a name from now on.
    pub(crate) async fn set_aaaa(&self, name: &str, addresses: &[&str]) {
        self.set_dns("clear-aaaa", json!({ "host": name })).await;
        self.set_dns("add-aaaa", json!({ "host": name, "addresses": addresses })).await;
    }

    /// Makes a name an alias.
    pub(crate) async fn set_cname(&self, name: &str, target: &str) {
        self.set_dns("set-cname", json!({ "host": name, "target": target })).await;
    }

    /// The CAA records of a name from now on, tag and value each; none with an empty list. Pebble obeys them: its own
    /// identity is `pebble.letsencrypt.org`.
    pub(crate) async fn set_caa(&self, name: &str, records: &[(&str, &str)]) {
        self.set_dns("clear-caa", json!({ "host": name })).await;
        let policies: Vec<_> = records.iter().map(|(tag, value)| json!({ "tag": tag, "value": value })).collect();
        if !policies.is_empty() {
            self.set_dns("add-caa", json!({ "host": name, "policies": policies })).await;
        }
    }

    /// Every question about a name is answered with SERVFAIL, or is not any more.
    pub(crate) async fn set_servfail(&self, name: &str, fails: bool) {
        self.set_dns(if fails { "set-servfail" } else { "clear-servfail" }, json!({ "host": name })).await;
    }

    /// `Valid` or `Revoked`, by the certificate's serial number in hexadecimal.
    pub(crate) async fn status(&self, serial: &str) -> String {
        let text = self.management(&format!("cert-status-by-serial/{serial}")).await;
        let status: Value = serde_json::from_str(&text).expect("JSON");
        status["Status"].as_str().expect("a status").to_owned()
    }

    /// What renewal information (RFC 9773) a certificate gets from now on, as in
    /// `{"suggestedWindow":{"start":"2026-01-01T00:00:00Z","end":"2026-01-02T00:00:00Z"}}`.
    pub(crate) async fn set_renewal_info(&self, chain_pem: &str, info: &Value) {
        let body = json!({ "certificate": first_block(chain_pem), "ariResponse": info.to_string() });
        let url = format!("https://{}:{MANAGEMENT}/set-renewal-info/", self.address);
        let answer = self.client.post(url).body(body.to_string()).send().await.expect("Pebble answers");
        assert!(answer.status().is_success(), "{}", answer.text().await.unwrap_or_default());
    }

    /// Revokes a certificate with its own key, which must be P-256 (RFC 8555, 7.6).
    pub(crate) async fn revoke(&self, chain_pem: &str, key_pem: &str) {
        let der = pem_to_der(chain_pem);
        let key = KeyPair::from_pem(key_pem).expect("a P-256 key in PKCS #8");
        let directory = self.client.get(self.directory()).send().await.expect("Pebble answers");
        let directory: Value = serde_json::from_slice(&directory.bytes().await.expect("a body")).expect("JSON");
        let url = |key: &str| directory[key].as_str().expect("a URL").to_owned();
        eventually("the certificate is revoked", async || {
            let nonce = self.client.head(url("newNonce")).send().await.ok()?;
            let nonce = nonce.headers().get("replay-nonce")?.to_str().ok()?.to_owned();
            let payload = json!({ "certificate": base64url(&der), "reason": 1 });
            let body = signed(&key, &url("revokeCert"), &nonce, &payload);
            let request = self.client.post(url("revokeCert")).header("content-type", "application/jose+json");
            let answer = request.body(body.to_string()).send().await.ok()?;
            let (status, text) = (answer.status(), answer.text().await.ok()?);
            assert!(status.is_success() || text.contains("badNonce"), "{text}");
            status.is_success().then_some(())
        })
        .await;
    }

    async fn management(&self, path: &str) -> String {
        let url = format!("https://{}:{MANAGEMENT}/{path}", self.address);
        let answer = self.client.get(url).send().await.expect("Pebble answers");
        assert!(answer.status().is_success(), "{path}: {}", answer.status());
        answer.text().await.expect("a body")
    }

    fn dns_control(&self, what: &str) -> String {
        format!("http://{}:{DNS_CONTROL}/{what}", self.address)
    }

    async fn set_dns(&self, what: &str, body: Value) {
        let request = self.client.post(self.dns_control(what)).body(body.to_string());
        let answer = request.send().await.expect("Pebble's DNS answers");
        assert!(answer.status().is_success(), "{what} {body}");
    }
}

/// A loopback address that no other test on this machine uses now.
fn own_address() -> Ipv4Addr {
    static STARTED: AtomicU32 = AtomicU32::new(0);
    loop {
        // Far from 127.0.0.0/16, where everything else is. Process ids have 22 bits; tests are processes each.
        let number = std::process::id() * 4 + STARTED.fetch_add(1, Ordering::Relaxed);
        let [_, a, b, c] = (number % 0xff_0000 + 0x1_0000).to_be_bytes();
        let address = Ipv4Addr::new(127, a, b, c);
        let free = |port: u16| TcpListener::bind((address, port)).is_ok();
        if c != 0 && c != 255 && [HTTP, TLS, DNS, DNS_CONTROL, ACME, MANAGEMENT].into_iter().all(free) {
            return address;
        }
    }
}

/// A request as ACME wants it, signed with a certificate's key (RFC 8555, 6.2; ES256 of RFC 7518).
fn signed(key: &KeyPair, url: &str, nonce: &str, payload: &Value) -> Value {
    let point = key.der_bytes();
    assert_eq!((point.len(), point[0]), (65, 4), "an uncompressed P-256 point");
    let jwk = json!({ "kty": "EC", "crv": "P-256", "x": base64url(&point[1..33]), "y": base64url(&point[33..]) });
    let protected = base64url(json!({ "alg": "ES256", "jwk": jwk, "nonce": nonce, "url": url }).to_string().as_bytes());
    let payload = base64url(payload.to_string().as_bytes());
    let signature = key.sign(format!("{protected}.{payload}").as_bytes()).expect("a signature");
    json!({ "protected": protected, "payload": payload, "signature": base64url(&raw_signature(&signature)) })
}

/// SEQUENCE { INTEGER r, INTEGER s } as r and s of 32 bytes each.
fn raw_signature(der: &[u8]) -> Vec<u8> {
    let mut rest = &der[2..];
    let mut raw = Vec::new();
    for _ in 0..2 {
        let (number, after) = rest[2..].split_at(usize::from(rest[1]));
        let digits: Vec<u8> = number.iter().copied().skip_while(|byte| *byte == 0).collect();
        raw.extend(std::iter::repeat_n(0, 32 - digits.len()));
        raw.extend(digits);
        rest = after;
    }
    raw
}

/// RFC 4648, 5, without padding.
fn base64url(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let mut text = String::new();
    for chunk in bytes.chunks(3) {
        let bits = chunk.iter().fold(0u32, |bits, byte| bits << 8 | u32::from(*byte)) << (8 * (3 - chunk.len()));
        for place in 0..=chunk.len() {
            text.push(char::from(ALPHABET[(bits >> (18 - 6 * place) & 63) as usize]));
        }
    }
    text
}

/// The leaf of a chain.
fn first_block(pem: &str) -> String {
    let end = "-----END CERTIFICATE-----\n";
    pem.split_inclusive(end).next().expect("a certificate").to_owned()
}

fn pem_to_der(pem: &str) -> Vec<u8> {
    boring::x509::X509::from_pem(pem.as_bytes()).expect("a certificate").to_der().expect("DER")
}
