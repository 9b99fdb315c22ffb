//! What is told of a text that is no TOML.

use super::mistakes::{PIXEL, of_account};

#[test]
fn what_is_no_toml_is_one_clear_problem_a_line() {
    let syntax = "mend this line or the one before it (the rules: https://toml.io)";
    let utf8 = "write the file again as text in UTF-8";
    for (text, expected) in [
        (&b""[..], format!("error shoes : the file is empty → {utf8}")),
        (b" \n\t\n", format!("error shoes : the file is empty → {utf8}")),
        (b"name = \"x\"\n# caf\xe9\n", format!("error shoes:2 : the file is not UTF-8 → {utf8}")),
        (b"name = \"x\"\n\0\n", format!("error shoes:2 : the file holds a NUL byte, so it is no text → {utf8}")),
        (b"\xff\xfe[\0h\0", format!("error shoes : the file is not UTF-8 → {utf8}")),
        (
            b"name = \"x\"\n[pixels\n",
            format!("error shoes:2 : this is no TOML: unclosed table, expected `]` → {syntax}"),
        ),
        (b"name = \"x\n", format!("error shoes:1 : this is no TOML: invalid basic string, expected `\"` → {syntax}")),
        (
            b"name = \"a\"\nname = \"b\"",
            "error shoes:2 name: this is no TOML: the same stands in line 1 already → remove one of the two".to_owned(),
        ),
        (
            b"mode = \"managed\"\n[privacy]\nconsent_sources = []\n[privacy]\nconsent_sources = []\n",
            "error shoes:4 privacy: this is no TOML: the same stands in line 2 already → write all its keys below line 2, \
             and remove this one"
                .to_owned(),
        ),
        (
            b"[[pixels]]\nid = \"1\"\naccess_token = { file = \"a\", file = \"b\" }\n",
            "error shoes:3 : this is no TOML: the key \"file\" is there twice → remove one of the two".to_owned(),
        ),
        (
            b"name = \"x\"\ndomains = [\"a.example\"\n\n[[pixels]]\nid = \"1\"\naccess_token = { file = \"x\" }\nactive = true\n",
            "error shoes:2 domains: this is no TOML: the list that begins here is not closed → add the ] that is missing"
                .to_owned(),
        ),
        (
            b"domains = [\"a.example, \"b.example\"]\n[[pixels]]\nid = \"1\"\nactive = true\n",
            "error shoes:1 domains: this is no TOML: a text of this line is not closed → add the \" that is missing".to_owned(),
        ),
        (
            b"[[pixels]]\nid = \"1\"\naccess_token = { file = \"x\"\nactive = true\n[websites]\nallow = []\n",
            "error shoes:3 pixels[0].access_token: this is no TOML: the table that begins here is not closed → add the } that \
             is missing"
                .to_owned(),
        ),
        (
            b"name = \"\"\"\nx\nmode = \"managed\"\n",
            "error shoes:1 name: this is no TOML: the text that begins here is not closed → add the \"\"\" that is missing"
                .to_owned(),
        ),
    ] {
        assert_eq!(of_account(text), [expected], "{}", String::from_utf8_lossy(text));
    }
    assert_eq!(
        of_account(format!("#{}", "x".repeat(1 << 20))),
        ["error shoes : the file is larger than 1048576 bytes → write it again as text in UTF-8 of at most 1 MiB"]
    );
}

#[test]
fn what_is_wrong_before_a_list_without_end_is_told_too() {
    let told = of_account("name = x\ndomains = [\n  \"a.example\",\nactive = true\n");
    assert_eq!(told.len(), 2, "{told:#?}");
    assert!(told[0].starts_with("error shoes:1 : this is no TOML: string values must be quoted"), "{told:#?}");
    assert!(told[1].starts_with("error shoes:2 domains: this is no TOML: the list that begins here"), "{told:#?}");
}

#[test]
fn a_byte_order_mark_is_no_problem() {
    assert_eq!(of_account(format!("\u{feff}name = \"x\"\n{PIXEL}")), [""; 0]);
}

#[test]
fn what_nests_without_end_is_refused_and_breaks_nothing() {
    let deep = vec!["a"; 79].join(".");
    let opened: String = (0..78).map(|_| format!("{deep}={{")).collect();
    let text = format!("{}1{}", opened.trim_end_matches('{'), "}".repeat(77));
    let told = std::thread::Builder::new().stack_size(1 << 20).spawn(move || of_account(text)).unwrap().join().unwrap();
    assert_eq!(told, ["error shoes : tables and lists nest deeper than 32 levels → write it flatter"]);
    assert!(!of_account("x = [".repeat(100_000)).is_empty());
    assert!(!of_account(format!("[{}a]", "a.".repeat(100_000))).is_empty());
}
