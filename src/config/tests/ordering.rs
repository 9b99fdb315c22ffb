//! What people write into `[acme]`, and what they hear.

use super::mistakes::of_gateway;
use super::*;

#[test]
fn ordering_certificates_needs_a_reader_of_terms_and_of_mail() {
    let told = |keys: &str| of_gateway(&format!("{GATEWAY}[acme]\n{keys}"));
    let good = "enabled = true\nterms_agreed = true\nemail = \"ops@agency.example\"\n";
    assert_eq!(told(good), [""; 0]);
    assert_eq!(told("email = \"ops@agency.example\"\n"), [""; 0], "nothing is asked of what is off");
    let terms = "error pixelgate.toml:3 acme.terms_agreed: certificates are ordered only from a CA whose terms of service were agreed to → read the CA's terms, then write terms_agreed = true";
    let email = "error pixelgate.toml:3 acme.email: the key is missing → write the address at which the CA reaches you, such as \"ops@agency.example\"";
    assert_eq!(told("enabled = true\n"), [email, terms]);
    let terms = terms.replace("toml:3", "toml:5");
    assert_eq!(told("enabled = true\nterms_agreed = false\nemail = \"ops@agency.example\"\n"), [terms]);
    for (keys, expected) in [
        (
            "email = \"ops\"",
            "error pixelgate.toml:4 acme.email: \"ops\" is no e-mail address → write one such as \"ops@agency.example\"",
        ),
        (
            "directory = \"http://ca.example/directory\"",
            "error pixelgate.toml:4 acme.directory: \"http://ca.example/directory\": plain http would let others change what the CA answers; it is for loopback only → write the URL of the CA's ACME directory, such as \"https://acme-v02.api.letsencrypt.org/directory\"",
        ),
        (
            "retry_min = \"10m\"\nretry_max = \"5m\"",
            "error pixelgate.toml:5 acme.retry_max: retry_max (5m) is shorter than retry_min (10m) → make retry_max at least as long as retry_min",
        ),
        (
            "key_type = \"dsa\"",
            "error pixelgate.toml:4 acme.key_type: \"dsa\" is none of the choices → did you mean \"rsa\"?",
        ),
        (
            "resolver = \"dns.example\"",
            "error pixelgate.toml:4 acme.resolver: \"dns.example\": invalid IP address syntax → write a DNS server's address, such as \"9.9.9.9\" or \"127.0.0.1:5353\"",
        ),
        (
            "profile = \"\"",
            "error pixelgate.toml:4 acme.profile: this is no profile's name → write what the CA calls it, such as \"shortlived\"",
        ),
        (
            "new_orders_max = 0",
            "error pixelgate.toml:4 acme.new_orders_max: 0 is out of range → write a number from 1 to 10000000",
        ),
        (
            "ca_file = \"none.pem\"",
            "warning pixelgate.toml:4 acme.ca_file: none.pem does not exist; nothing can be ordered at this CA → put the CA's certificates there, in PEM, readable for the gateway's user",
        ),
        (
            "[[acme.accounts]]\nname = \"second\"\nca_file = \"pixelgate.toml\"",
            "warning pixelgate.toml:6 acme.accounts[0].ca_file: pixelgate.toml holds no certificate; nothing can be ordered at this CA → put the CA's certificates there, in PEM, readable for the gateway's user",
        ),
        (
            "terms_agred = true",
            "error pixelgate.toml:4 acme.terms_agred: there is no such key → did you mean terms_agreed?",
        ),
    ] {
        assert_eq!(told(&format!("{keys}\n")), [expected], "{keys}");
    }
}

#[test]
fn accounts_at_cas_have_names_of_their_own() {
    let told = |accounts: &str| of_gateway(&format!("{GATEWAY}[acme]\n{accounts}"));
    let account = |name: &str| format!("[[acme.accounts]]\nname = \"{name}\"\n");
    assert_eq!(told(&(account("second") + &account("third"))), [""; 0]);
    for (accounts, expected) in [
        (
            account("Second CA"),
            "error pixelgate.toml:5 acme.accounts[0].name: \"Second CA\" is no name → write 1 to 32 of a-z, 0-9 and -",
        ),
        (
            account("default"),
            "error pixelgate.toml:5 acme.accounts[0].name: another account is called \"default\" → choose another; [acme]'s own account is called \"default\"",
        ),
        (
            account("second") + &account("second"),
            "error pixelgate.toml:7 acme.accounts[1].name: another account is called \"second\" → choose another; [acme]'s own account is called \"default\"",
        ),
        (
            "[[acme.accounts]]\nemail = \"ops@agency.example\"\n".to_owned(),
            "error pixelgate.toml:4 acme.accounts[0].name: the key is missing → give the account a name; its key lies in a folder of that name",
        ),
    ] {
        assert_eq!(told(&accounts), [expected], "{accounts}");
    }
}
