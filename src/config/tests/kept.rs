//! The accounts in force, after a restart.

use std::os::unix::fs::PermissionsExt;

use super::*;
use crate::account::AccountId;
use crate::config::{FilterProgram, KeepError, LastGood};

const SHOES: &str = "domains = [\"events.shoes.example\"]\n[[pixels]]\nid = \"1\"\naccess_token = { file = \"../token\" }\n\
                     [[filters]]\nname = \"f\"\nscript = \"../f.js\"\n[[filters]]\nname = \"g\"\ncomponent = \"../g.wasm\"\n";

fn site() -> Folder {
    let folder = Folder::new();
    folder.write("token", "EAAtoken");
    folder.write("f.js", "script");
    folder.write("g.wasm", "component");
    folder.write("accounts/shoes.toml", SHOES);
    folder
}

fn last_good(folder: &Folder) -> LastGood {
    LastGood::with(&folder.path("data"), folder.surroundings.clone())
}

/// Every file that is kept, with its inode: one that was written again has another.
fn files(folder: &Folder) -> BTreeMap<PathBuf, u64> {
    use std::os::unix::fs::MetadataExt;
    let dirs = ["data/last-good/accounts", "data/last-good/programs"].map(|dir| folder.path(dir));
    let entries = dirs.iter().flat_map(|dir| fs::read_dir(dir).unwrap()).map(Result::unwrap);
    entries.map(|entry| (entry.path(), entry.metadata().unwrap().ino())).collect()
}

/// Keeps these accounts, when no other has a file.
fn keep(kept: &LastGood, accounts: &[Arc<AccountConfig>]) -> Result<(), KeepError> {
    kept.keep(accounts, &accounts.iter().map(|account| account.id.clone()).collect())
}

/// What a new process finds of an account whose file is bad.
fn found(folder: &Folder, id: &AccountId) -> Option<Arc<AccountConfig>> {
    last_good(folder).owners(&BTreeMap::from([(id.clone(), Candidate::Bad)])).remove(id)
}

#[test]
fn what_is_kept_stays_as_long_as_the_account_has_a_file() {
    let folder = site();
    folder.write("accounts/bakery.toml", "name = \"Bakery\"\n");
    let reading = folder.read();
    let (shoes, bakery) = (good(&reading, "shoes"), good(&reading, "bakery"));
    let kept = last_good(&folder);
    keep(&kept, &[bakery.clone(), shoes.clone()]).unwrap();
    // As when a start cannot compile the shoes' filter: they are not in force, but not gone.
    let both = [bakery.id.clone(), shoes.id.clone()].into();
    kept.keep(std::slice::from_ref(&bakery), &both).unwrap();
    assert_eq!(found(&folder, &shoes.id), Some(shoes.clone()));
    keep(&kept, std::slice::from_ref(&bakery)).unwrap();
    assert_eq!(found(&folder, &shoes.id), None);
    assert_eq!(files(&folder).len(), 1);
}

#[test]
fn what_was_kept_is_the_same_account_though_its_files_are_gone() {
    let folder = site();
    let shoes = folder.shoes();
    keep(&last_good(&folder), std::slice::from_ref(&shoes)).unwrap();
    for file in ["accounts/shoes.toml", "f.js", "g.wasm"] {
        fs::remove_file(folder.path(file)).unwrap();
    }
    assert_eq!(*found(&folder, &shoes.id).unwrap(), *shoes);
    fs::remove_file(folder.path("token")).unwrap();
    let without_token = found(&folder, &shoes.id).unwrap();
    assert_eq!(without_token.pixels[0].access_token, None);
    let FilterProgram::Script(path, text) = &without_token.filters[0].program else { panic!("a script") };
    assert_eq!((path, &**text), (&folder.path("accounts/../f.js"), "script"));
}

#[test]
fn no_secret_is_kept_and_nobody_else_reads_it() {
    let folder = site();
    keep(&last_good(&folder), &[folder.shoes()]).unwrap();
    for dir in ["data/last-good", "data/last-good/accounts", "data/last-good/programs"] {
        assert_eq!(fs::metadata(folder.path(dir)).unwrap().permissions().mode() & 0o777, 0o700, "{dir}");
    }
    let kept = files(&folder);
    assert_eq!(kept.len(), 3);
    for file in kept.keys() {
        assert_eq!(fs::metadata(file).unwrap().permissions().mode() & 0o777, 0o600);
        assert!(!String::from_utf8_lossy(&fs::read(file).unwrap()).contains("EAAtoken"));
    }
}

#[test]
fn only_what_changed_is_written_and_only_what_is_in_force_is_kept() {
    let folder = site();
    folder.write("accounts/bakery.toml", "name = \"Bakery\"\n");
    let reading = folder.read();
    let (shoes, bakery) = (good(&reading, "shoes"), good(&reading, "bakery"));
    let kept = last_good(&folder);
    keep(&kept, &[bakery.clone(), shoes.clone()]).unwrap();
    let first = files(&folder);
    keep(&kept, &[bakery.clone(), shoes.clone()]).unwrap();
    assert_eq!(files(&folder), first);
    // A new process finds it as it is.
    keep(&last_good(&folder), &[bakery.clone(), shoes.clone()]).unwrap();
    assert_eq!(files(&folder), first);
    // A new token is not kept, so there is nothing to write.
    folder.write("token", "EAAother");
    keep(&kept, &[bakery.clone(), folder.shoes()]).unwrap();
    assert_eq!(files(&folder), first);

    folder.write("f.js", "script 2");
    keep(&kept, &[bakery.clone(), folder.shoes()]).unwrap();
    let second = files(&folder);
    let bakery_file = folder.path("data/last-good/accounts/bakery.toml");
    assert_eq!((second.len(), first[&bakery_file]), (4, second[&bakery_file]));
    assert_ne!(first, second);
    keep(&kept, &[bakery]).unwrap();
    assert_eq!(files(&folder).into_keys().collect::<Vec<_>>(), [bakery_file]);
}

#[test]
fn what_is_torn_is_not_believed() {
    let folder = site();
    let shoes = folder.shoes();
    keep(&last_good(&folder), std::slice::from_ref(&shoes)).unwrap();
    let file = folder.path("data/last-good/accounts/shoes.toml");
    let whole = fs::read(&file).unwrap();
    for torn in [&b""[..], b"# last good 1: {", b"name = \"x\"\n", b"\xff\n", &whole[1..]] {
        fs::write(&file, torn).unwrap();
        assert!(found(&folder, &shoes.id).is_none());
    }
    fs::write(&file, whole).unwrap();
    assert!(found(&folder, &shoes.id).is_some());
    let programs = fs::read_dir(folder.path("data/last-good/programs")).unwrap();
    programs.for_each(|program| fs::write(program.unwrap().path(), "x").unwrap());
    assert!(found(&folder, &shoes.id).is_none());
    keep(&last_good(&folder), std::slice::from_ref(&shoes)).unwrap();
    assert!(found(&folder, &shoes.id).is_some());
}

#[test]
fn owners_are_taken_from_the_reading_where_nothing_changed() {
    let folder = site();
    folder.write("accounts/bakery.toml", "name = \"Bakery\"\n");
    folder.write("accounts/new.toml", "name = \"New\"\n");
    let reading = folder.read();
    keep(&last_good(&folder), &[good(&reading, "bakery"), good(&reading, "shoes")]).unwrap();
    folder.write("accounts/bakery.toml", "nonsense");
    let reading = folder.read();
    let owners = last_good(&folder).owners(&reading.accounts);
    assert_eq!(owners.len(), 2);
    assert!(Arc::ptr_eq(&owners[&"shoes".parse().unwrap()], &good(&reading, "shoes")));
    assert_eq!(owners[&"bakery".parse().unwrap()].name, "Bakery");
}

#[test]
fn many_accounts_are_kept_at_once() {
    let folder = site();
    for n in 0..100 {
        folder.write(&format!("accounts/shop-{n}.toml"), SHOES.replace("shoes", &format!("shop-{n}")));
    }
    let reading = folder.read();
    let accounts: Vec<_> = reading.accounts.keys().map(|id| good(&reading, id.as_str())).collect();
    keep(&last_good(&folder), &accounts).unwrap();
    assert_eq!(files(&folder).len(), 101 + 2);
    assert_eq!(last_good(&folder).owners(&reading.accounts).len(), 101);
}

#[test]
fn a_folder_that_cannot_be_written_is_an_error_with_its_path() {
    let folder = site();
    folder.write("data", "a file where a folder should be");
    let error = keep(&last_good(&folder), &[folder.shoes()]).unwrap_err().to_string();
    assert!(error.contains("data/last-good/accounts"), "{error}");
}
