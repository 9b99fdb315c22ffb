use std::path::PathBuf;
use std::process::Output;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use boring::pkey::Id;
use boring::x509::X509;
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair, PKCS_ED25519, PKCS_RSA_SHA256, RsaKeySize,
    date_time_ymd,
};
use serde_json::{Value, json};

use crate::util::certificates::ShortKey;
use crate::util::gateway::pixelgate;
use crate::util::{Account, Gateway, Site};

const NAME: &str = "events.shoes.example";

/// A site with a name that has no certificate, and a folder to import from.
struct Import {
    site: Site,
    folder: tempfile::TempDir,
}

impl Import {
    fn new() -> Self {
        let site = Site::new("http://127.0.0.1:9").account(Account::new("shoes", 7001).bare_domain(NAME));
        std::fs::create_dir(site.path("data")).unwrap();
        Self { site, folder: tempfile::tempdir().unwrap() }
    }

    /// A file with a certificate for the name, valid for so many days, and its key.
    fn bundle(&self, key: &KeyPair, days: i64) -> String {
        self.file(&key.serialize_pem(), key, days)
    }

    fn file(&self, key_pem: &str, key: &KeyPair, days: i64) -> String {
        let file = self.folder.path().join(format!("{days}.pem"));
        std::fs::write(&file, self.site.authority.sign(&[NAME], key, 1, days) + key_pem).unwrap();
        file.to_str().unwrap().to_owned()
    }

    fn run(&self, arguments: &[&str]) -> (Option<i32>, Value) {
        let Output { status, stdout, .. } =
            pixelgate(self.site.dir(), &[&["cert", "import", "--json"], arguments].concat());
        (status.code(), serde_json::from_slice(&stdout).unwrap())
    }

    /// Imports one file; what came of it, and what was said.
    fn one(&self, file: &str, arguments: &[&str]) -> (Option<i32>, String, String) {
        let (code, report) = self.run(&[&[file], arguments].concat());
        let result = &report["results"][0];
        (code, result["result"].as_str().unwrap().to_owned(), result["notes"].to_string())
    }

    fn live(&self) -> PathBuf {
        self.site.path("data/certs").join(NAME).join("live")
    }

    /// The kinds of key that are live, the first pair's first.
    fn kinds(&self) -> Vec<Id> {
        let chains = ["chain.pem", "chain.rsa.pem"].map(|file| std::fs::read(self.live().join(file)).ok());
        let kind = |pem: Vec<u8>| X509::from_pem(&pem).unwrap().public_key().unwrap().id();
        chains.into_iter().flatten().map(kind).collect()
    }
}

fn ecdsa() -> KeyPair {
    KeyPair::generate().unwrap()
}

fn rsa() -> KeyPair {
    KeyPair::generate_rsa_for(&PKCS_RSA_SHA256, RsaKeySize::_2048).unwrap()
}

/// An Ed25519 key as OpenSSL writes it, without its public half (RFC 8410, 7).
fn openssls(key: &KeyPair) -> String {
    let mut der = vec![0x30, 0x2e, 2, 1, 0, 0x30, 5, 6, 3, 0x2b, 0x65, 0x70, 4, 0x22, 4, 0x20];
    der.extend_from_slice(&key.serialize_der()[16..48]);
    format!("-----BEGIN PRIVATE KEY-----\n{}\n-----END PRIVATE KEY-----\n", STANDARD.encode(der))
}

#[test]
fn what_cannot_be_served_takes_nothings_place() {
    let import = Import::new();
    let good = import.bundle(&ecdsa(), 60);
    assert_eq!(import.one(&good, &[]).0, Some(0));
    let before = std::fs::read(import.live().join("chain.pem")).unwrap();
    let key = KeyPair::generate_for(&PKCS_ED25519).unwrap();
    let other = import.file(&openssls(&key), &key, 80);
    for arguments in [&[][..], &["--force"], &["--dry-run"]] {
        let (code, result, notes) = import.one(&other, arguments);
        assert_eq!((code, result.as_str()), (Some(1), "refused"));
        assert!(notes.contains("of a kind that is not served") && notes.contains("Ed25519"), "{notes}");
    }
    assert_eq!(std::fs::read(import.live().join("chain.pem")).unwrap(), before);
    // Neither of what an operator put there himself is a reason against a good one.
    let wrong = ecdsa();
    std::fs::write(import.live().join("chain.pem"), import.site.authority.sign(&["b.example"], &wrong, 1, 90)).unwrap();
    std::fs::write(import.live().join("key.pem"), wrong.serialize_pem()).unwrap();
    assert_eq!(import.one(&good, &[]).1, "imported", "it is another name's");
    std::fs::copy(&other, import.live().join("chain.pem")).unwrap();
    std::fs::copy(&other, import.live().join("key.pem")).unwrap();
    assert_eq!(import.one(&good, &[]).1, "imported");
}

#[test]
fn one_kind_of_key_leaves_the_other_in_place() {
    let import = Import::new();
    assert_eq!(import.one(&import.bundle(&rsa(), 60), &[]).0, Some(0));
    assert_eq!(import.kinds(), [Id::RSA]);
    let (code, result, notes) = import.one(&import.bundle(&ecdsa(), 50), &[]);
    assert_eq!((code, result.as_str()), (Some(0), "imported"), "of another kind the end does not matter");
    assert!(notes.contains("RSA 2048, stays beside it"), "{notes}");
    assert_eq!(import.kinds(), [Id::EC, Id::RSA]);
    // As certbot renews its two lineages, one after the other.
    let before = std::fs::read(import.live().join("chain.rsa.pem")).unwrap();
    assert_eq!(import.one(&import.bundle(&ecdsa(), 70), &[]).1, "imported");
    assert_eq!(std::fs::read(import.live().join("chain.rsa.pem")).unwrap(), before);
    let renewed = import.bundle(&rsa(), 80);
    assert_eq!(import.one(&renewed, &[]).1, "imported");
    assert_ne!(std::fs::read(import.live().join("chain.rsa.pem")).unwrap(), before);
    assert_eq!(import.kinds(), [Id::EC, Id::RSA]);
    assert_eq!(import.one(&renewed, &[]).1, "unchanged");
    let (code, result, notes) = import.one(&import.bundle(&ecdsa(), 65), &[]);
    assert_eq!((code, result.as_str()), (Some(0), "kept"), "an older one: nothing is wrong, and nothing to do");
    assert!(notes.contains("valid longer"), "{notes}");
    assert_eq!(import.one(&renewed, &["--force"]).1, "imported");
    assert_eq!(import.kinds(), [Id::RSA], "just what was given");
}

#[test]
fn a_leaf_alone_keeps_the_issuers_of_the_chain_in_place() {
    let import = Import::new();
    let authority = || {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params
    };
    let root = CertifiedIssuer::self_signed(authority(), ecdsa()).unwrap();
    let mut params = authority();
    params.distinguished_name.push(rcgen::DnType::CommonName, "Intermediate");
    let intermediate = CertifiedIssuer::signed_by(params, ecdsa(), &root).unwrap();
    let file = |until: i32, issuers: &str| {
        let (key, mut params) = (ecdsa(), CertificateParams::new(vec![NAME.to_owned()]).unwrap());
        (params.not_before, params.not_after) = (date_time_ymd(2020, 1, 1), date_time_ymd(until, 1, 1));
        let leaf = params.signed_by(&key, &intermediate).unwrap();
        let path = import.folder.path().join(format!("{until}.pem"));
        std::fs::write(&path, leaf.pem() + issuers + &key.serialize_pem()).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let in_place = || {
        let chain = X509::stack_from_pem(&std::fs::read(import.live().join("chain.pem")).unwrap()).unwrap();
        chain.iter().map(|certificate| certificate.to_der().unwrap()).collect::<Vec<_>>()
    };
    assert_eq!(import.one(&file(2090, &intermediate.pem()), &[]).1, "imported");
    let before = in_place();
    let alone = file(2091, "");
    let (code, result, notes) = import.one(&alone, &[]);
    assert!(code == Some(0) && result == "imported" && notes.contains("are added from the chain in"), "{notes}");
    let now = in_place();
    assert!(now.len() == 2 && now[0] != before[0] && now[1] == before[1], "{}", now.len());
    assert_eq!(import.one(&alone, &[]).1, "unchanged");
}

#[test]
fn a_private_ca_that_is_named_is_trusted() {
    let import = Import::new();
    let (code, result, notes) = import.one(&import.bundle(&ecdsa(), 60), &["--dry-run"]);
    assert!(code == Some(0) && result == "would_import" && notes.contains("[acme] ca_file"), "{notes}");
    import.site.write("ca.pem", import.site.authority.pem());
    let file = std::fs::read_to_string(import.site.path("pixelgate.toml")).unwrap();
    import.site.write("pixelgate.toml", file + "\n[acme]\nca_file = \"ca.pem\"\n");
    let (_, result, notes) = import.one(&import.bundle(&ecdsa(), 60), &[]);
    assert_eq!((result.as_str(), notes.as_str()), ("imported", "[]"));
}

#[test]
fn a_file_that_is_too_long_is_told() {
    let import = Import::new();
    let good = import.bundle(&ecdsa(), 60);
    let mut long = std::fs::read(&good).unwrap();
    long.resize(300_000, b'\n');
    std::fs::remove_file(&good).unwrap();
    std::fs::write(import.folder.path().join("long.pem"), &long).unwrap();
    std::fs::write(import.folder.path().join("archive.tar"), vec![0; 300_000]).unwrap();
    let (code, report) = import.run(&[import.folder.path().to_str().unwrap()]);
    assert_eq!((code, &report["results"]), (Some(1), &json!([])));
    let notes: Vec<&str> = report["notes"].as_array().unwrap().iter().map(|note| note.as_str().unwrap()).collect();
    assert!(
        notes.len() == 2 && notes.iter().all(|note| note.contains(": left out: it is longer than 256 KiB")),
        "{notes:?}"
    );
    assert!(notes[0].contains("archive.tar") && notes[1].contains("long.pem"), "{notes:?}");
}

#[test]
fn a_file_that_cannot_be_read_is_a_failure_beside_what_is_imported() {
    let import = Import::new();
    import.bundle(&ecdsa(), 60);
    let (code, report) = import.run(&[import.folder.path().to_str().unwrap()]);
    assert_eq!((code, &report["failed"]), (Some(0), &json!([])), "{report}");
    std::os::unix::fs::symlink("nowhere.pem", import.folder.path().join("rsa.pem")).unwrap();
    let (code, report) = import.run(&[import.folder.path().to_str().unwrap()]);
    assert_eq!((code, &report["results"][0]["result"]), (Some(1), &json!("unchanged")), "{report}");
    let [failed] = report["failed"].as_array().unwrap().as_slice() else { panic!("{report}") };
    assert!(failed.as_str().unwrap().contains("rsa.pem: No such file"), "{failed}");
}

#[test]
fn an_rsa_key_that_clients_refuse_is_refused() {
    let import = Import::new();
    let short = ShortKey::new();
    let file = import.folder.path().join("short.pem");
    std::fs::write(&file, import.site.authority.sign(&[NAME], &short, 1, 90) + &short.pem).unwrap();
    let (code, result, notes) = import.one(file.to_str().unwrap(), &[]);
    assert_eq!((code, result.as_str()), (Some(1), "refused"), "{notes}");
    assert!(notes.contains("its key is RSA 1024, and clients refuse RSA keys of fewer than 2048 bits"), "{notes}");
    assert!(!import.live().exists());
    // Put there by hand it is served, and no reason against a good one that ends earlier.
    std::fs::create_dir_all(import.live().with_file_name("mine")).unwrap();
    std::os::unix::fs::symlink("mine", import.live()).unwrap();
    for name in ["chain.pem", "key.pem"] {
        std::fs::copy(&file, import.live().join(name)).unwrap();
    }
    assert_eq!(import.one(&import.bundle(&rsa(), 60), &[]).1, "imported");
}

#[test]
fn a_data_directory_that_is_not_there_is_not_made() {
    let import = Import::new();
    let data = import.site.path("data");
    std::fs::remove_dir(&data).unwrap();
    let Output { status, stderr, .. } = pixelgate(import.site.dir(), &["cert", "import", &import.bundle(&ecdsa(), 60)]);
    let told = String::from_utf8(stderr).unwrap();
    assert!(status.code() == Some(1) && told.contains("start the gateway once"), "{told}");
    assert!(!data.exists());
}

#[test]
fn each_that_is_left_out_is_told_with_its_reason() {
    let import = Import::new();
    let put = |file: &str, content: &[u8]| {
        let path = import.folder.path().join(file);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, content).unwrap();
    };
    let (key, other) = (ecdsa(), ecdsa());
    let sign = |name: &str, age, days| import.site.authority.sign(&[name], &key, age, days);
    let with_key = |chain: String| chain + &key.serialize_pem();
    put("best/all.pem", with_key(sign(NAME, 1, 60)).as_bytes());
    put("older/all.pem", with_key(sign(NAME, 1, 50)).as_bytes());
    put("expired/all.pem", with_key(sign(NAME, 9, -3)).as_bytes());
    put("stranger/all.pem", with_key(sign("strange.example", 1, 60)).as_bytes());
    put("keyless/cert.pem", sign("www.keyless.example", 1, 60).as_bytes());
    put("lone/key.pem", other.serialize_pem().as_bytes());
    put("ca/ca.pem", import.site.authority.pem().as_bytes());
    put("damaged/cert.pem", sign(NAME, 1, 60).replace("MII", "MIJ").as_bytes());
    let der = X509::from_pem(sign(NAME, 1, 60).as_bytes()).unwrap().to_der().unwrap();
    put("der/cert.cer", &der);
    put("der/key.der", &key.serialize_der());
    put("windows/shop.pfx", &[0x30, 0x82, 0x01, 0x00, 0x02, 0x01, 0x03, 0x30]);
    put("windows/shop.p7b", &[0x30, 0x80, 6, 9, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 7, 2, 0xa0]);
    put("reseller/shop.p7b", b"-----BEGIN PKCS7-----\nMIIB\n-----END PKCS7-----\n");
    put("README", b"0 certificates are in here");
    let (code, report) = import.run(&[import.folder.path().to_str().unwrap()]);
    assert_eq!((code, &report["results"][0]["result"]), (Some(0), &json!("imported")), "{report}");
    assert_eq!(report["unknown"], json!(["strange.example"]));
    let notes: Vec<&str> = report["notes"].as_array().unwrap().iter().map(|note| note.as_str().unwrap()).collect();
    let told = [
        ("older", "that ends"),
        ("expired", "has expired at"),
        ("keyless", "the key of the certificate for www.keyless.example is not there"),
        ("lone", "1 key without a certificate"),
        ("ca", "only certificates of CAs"),
        ("damaged", "is damaged"),
        ("der/cert.cer", "openssl x509 -inform der -in"),
        ("der/key.der", "openssl pkey -inform der -in"),
        ("windows/shop.p7b", "openssl pkcs7 -print_certs -inform der -in"),
        ("reseller/shop.p7b", "openssl pkcs7 -print_certs -in"),
        ("windows/shop.pfx", "openssl pkcs12 -nodes -in"),
    ];
    for (place, reason) in told {
        let place = format!("{}: ", import.folder.path().join(place).display());
        let of_place: Vec<_> = notes.iter().filter(|note| note.starts_with(&place)).collect();
        assert!(matches!(of_place.as_slice(), [note] if note.contains(reason)), "{place}{reason}: {notes:#?}");
    }
    assert_eq!(notes.len(), told.len(), "{notes:#?}");
    assert!(notes.iter().any(|note| note.contains("best ends no earlier")), "{notes:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_that_runs_with_another_data_directory_is_not_said_to_serve_what_was_imported() {
    for has_another in [true, false] {
        let import = Import::new();
        if has_another {
            assert_eq!(import.one(&import.bundle(&ecdsa(), 60), &[]).0, Some(0));
        }
        let _gateway = Gateway::start(&import.site).await;
        let file = std::fs::read_to_string(import.site.path("pixelgate.toml")).unwrap();
        import.site.write("pixelgate.toml", file.replace("data_dir = \"data\"", "data_dir = \"moved\""));
        std::fs::create_dir(import.site.path("moved")).unwrap();
        let socket = import.site.path("data/control.sock");
        let (_, report) = import.run(&[&import.bundle(&ecdsa(), 70), "--socket", socket.to_str().unwrap()]);
        let folder = |data: &str| import.site.path(data).join("certs").to_str().unwrap().to_owned();
        assert_eq!((&report["gateway"], &report["folder"]), (&json!(true), &json!(folder("moved"))), "{report}");
        let result = &report["results"][0];
        assert_eq!((&result["result"], &result["served"]), (&json!("imported"), &json!([])), "{report}");
        let notes = result["notes"].to_string();
        assert!(notes.contains("another data_dir than pixelgate.toml has: restart it"), "{report}");
        let served = format!("is served with what lies in {}", folder("data"));
        assert_eq!(notes.contains(&served), has_another, "{report}");
    }
}
