//! An ECDSA and an RSA certificate for one name, of which one is faulty.

use super::*;

#[tokio::test]
async fn of_two_pairs_only_the_good_ones_are_served() {
    let rig = Rig::serving(&["a.example"]);
    let folder = rig.dir.path().join("certs/a.example");
    let put = |suffix: &str, issued: Issued| {
        std::fs::write(folder.join(format!("chain{suffix}.pem")), issued.chain).unwrap();
        std::fs::write(folder.join(format!("key{suffix}.pem")), issued.key).unwrap();
    };
    let rsa_until = |until| {
        let key = rcgen::KeyPair::generate_for(&rcgen::PKCS_RSA_SHA256).unwrap();
        Issued::with_key(&["a.example"], 2020, until, key)
    };
    let (good, expired) = (2030, 2025);
    for (ecdsa, rsa) in [(good, good), (good, expired), (expired, good)] {
        put("", Issued::valid(&["a.example"], 2020, ecdsa));
        put(".rsa", rsa_until(rsa));
        let refreshed = rig.store.load().refreshed(&["a.example".parse().unwrap()], NOW);
        rig.store.store(Arc::new(refreshed));
        for max_version in [SslVersion::TLS1_2, SslVersion::TLS1_3] {
            for (signatures, until) in
                [("ecdsa_secp256r1_sha256", ecdsa), ("rsa_pss_rsae_sha256:rsa_pkcs1_sha256", rsa)]
            {
                let client = Client { signatures: Some(signatures), max_version, ..CLIENT };
                let (stream, accepted) = rig.shake(client, TlsVersion::Tls12).await;
                assert_eq!(stream.is_some(), until == good, "{signatures}, ECDSA {ecdsa}, RSA {rsa}");
                assert_eq!(accepted.is_ok(), until == good);
                assert!(stream.is_none_or(|stream| self::until(&stream).contains("2030")));
            }
        }
    }
}
