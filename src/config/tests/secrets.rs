//! Secrets: where they come from, and that they are never shown.

use super::mistakes::of_account;
use super::*;

#[test]
fn no_secret_is_ever_in_a_problem() {
    let token = format!("EAA{}", "Bsbcs1234".repeat(20));
    for line in [
        format!("access_token = \"{token}\""),
        format!("access_token = [\"{token}\"]"),
        format!("access_token = {{ file = \"{token}\" }}"),
        format!("access_token = {{ env = \"{token}\" }}"),
        format!("access_token = {{ credential = \"{token}\" }}"),
        format!("access_token = {{ value = \"{token}\" }}"),
        format!("access_token = {{ file = [\"{token}\"] }}"),
        format!("acces_token = \"{token}\""),
        format!("access_token = {token}"),
        format!("access_token = \"{token}"),
    ] {
        let told = of_account(format!("[[pixels]]\nid = \"1\"\n{line}\n"));
        assert!(!told.is_empty() && told.iter().any(|told| told.starts_with("error")), "{line}");
        assert!(!told.iter().any(|told| told.contains("Bsbcs1234")), "{told:#?}");
    }
}

#[test]
fn a_secret_comes_from_one_place() {
    for value in ["{}", "{ file = \"a\", env = \"B\" }", "{ fil = \"a\" }"] {
        let told = of_account(format!("[[pixels]]\nid = \"1\"\naccess_token = {value}\n"));
        assert!(told[0].contains("pixels[0].access_token: a secret comes from one place"), "{told:#?}");
    }
}

#[test]
fn a_secret_that_cannot_be_had_is_a_warning() {
    let mut folder = Folder::new();
    folder.surroundings.credentials_dir = Some(folder.path("credentials"));
    folder.surroundings.environment = environment(&[("EMPTY", "\n"), ("SPACED", "a b"), ("GOOD", "EAAgood")]);
    let origins = [
        ("{ file = \"../none\" }", "file none does not exist"),
        ("{ file = \"../accounts\" }", "file accounts is no file"),
        ("{ env = \"NONE\" }", "environment variable NONE is not set"),
        ("{ env = \"EMPTY\" }", "environment variable EMPTY is empty"),
        (
            "{ env = \"SPACED\" }",
            "environment variable SPACED holds spaces, line breaks or other characters that no secret has",
        ),
        ("{ credential = \"none\" }", "credential none does not exist"),
    ];
    for (origin, expected) in origins {
        folder.write("accounts/shoes.toml", format!("[[pixels]]\nid = \"1\"\naccess_token = {origin}\n"));
        let told = folder.problems();
        assert_eq!(told.len(), 1);
        let expected =
            format!("warning accounts/shoes.toml:3 pixels[0].access_token: {expected}; events of this pixel wait");
        assert!(told[0].starts_with(&expected), "{told:#?}");
        assert_eq!(folder.shoes().pixels[0].access_token, None);
    }
    folder.surroundings.credentials_dir = None;
    assert!(folder.problems()[0].contains("credential none was not passed"), "{:#?}", folder.problems());
    folder.write("accounts/shoes.toml", "[[pixels]]\nid = \"1\"\naccess_token = { env = \"GOOD\" }\n");
    assert_eq!(folder.shoes().pixels[0].access_token.as_ref().unwrap().reveal(), "EAAgood");
}

#[test]
fn an_ingest_key_that_cannot_be_had_is_left_out() {
    let folder = Folder::new();
    folder.write("key", "s3cret\r\n");
    folder.write(
        "accounts/shoes.toml",
        "[[ingest_keys]]\nname = \"a\"\nsecret = { file = \"../key\" }\n[[ingest_keys]]\nname = \"b\"\nsecret = { file = \"none\" }\n",
    );
    let shoes = folder.shoes();
    assert_eq!(shoes.ingest_keys.len(), 1);
    assert_eq!((shoes.ingest_keys[0].name.as_str(), shoes.ingest_keys[0].secret.reveal()), ("a", "s3cret"));
    assert!(folder.problems().iter().any(|told| {
        told.contains("ingest_keys[1].secret: file accounts/none does not exist; requests with this key are refused")
    }));
}
