#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink};

use super::*;

/// Whatever was live.
fn keep_whatever(issued_dir: &Path, name: &str, serial: &str, files: &[(&str, &[u8])]) -> io::Result<()> {
    while !keep(issued_dir, name, serial, files, &live(issued_dir, name)?)? {}
    Ok(())
}

#[test]
fn the_new_one_is_live_the_one_before_stays_and_nobody_else_may_read() {
    let dir = tempfile::tempdir().unwrap();
    let issued = dir.path().join("certs");
    for (serial, content) in [("0a", "1"), ("0b", "2"), ("0c", "3"), ("0c", "4")] {
        keep_whatever(&issued, "a.example", serial, &[("chain.pem", content.as_bytes())]).unwrap();
        assert_eq!(fs::read_to_string(issued.join("a.example/live/chain.pem")).unwrap(), content);
    }
    fs::create_dir(issued.join("a.example/pending")).unwrap();
    keep_whatever(&issued, "a.example", "0d", &[]).unwrap();
    let entries = fs::read_dir(issued.join("a.example")).unwrap();
    let mut left: Vec<_> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    left.sort();
    assert_eq!(left, ["0c-1", "0d", "live", "pending"]);
    let mode = |path: &str| fs::metadata(issued.join(path)).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode("a.example"), mode("a.example/0d"), mode("a.example/0c-1/chain.pem")), (0o700, 0o700, 0o600));
}

#[test]
fn what_others_put_in_place_meanwhile_is_not_replaced_unseen() {
    let dir = tempfile::tempdir().unwrap();
    let issued = dir.path().join("certs");
    let put =
        |serial: &str, before: &Live| keep(&issued, "a.example", serial, &[("key.pem", serial.as_bytes())], before);
    let nothing = live(&issued, "a.example").unwrap();
    assert!(put("0a", &nothing).unwrap());
    assert!(!put("0b", &nothing).unwrap());
    let seen = live(&issued, "a.example").unwrap();
    assert_eq!(seen["key.pem"], b"0a");
    keep_whatever(&issued, "a.example", "0c", &[("key.pem", b"0c")]).unwrap();
    assert!(!put("0b", &seen).unwrap());
    assert!(put("0b", &live(&issued, "a.example").unwrap()).unwrap());
    assert_eq!(live(&issued, "a.example").unwrap()["key.pem"], b"0b");
}

#[test]
fn a_link_in_the_folders_place_is_not_followed() {
    let dir = tempfile::tempdir().unwrap();
    let (issued, elsewhere) = (dir.path().join("certs"), dir.path().join("elsewhere"));
    fs::create_dir_all(&issued).unwrap();
    fs::create_dir(&elsewhere).unwrap();
    symlink(&elsewhere, issued.join("a.example")).unwrap();
    assert!(keep_whatever(&issued, "a.example", "0a", &[("chain.pem", b"1")]).is_err());
    assert_eq!(fs::read_dir(&elsewhere).unwrap().count(), 0);
}

/// As root only: nobody else can give files away.
#[test]
fn root_writes_for_the_owner_and_follows_no_link_of_his() {
    if !rustix::process::geteuid().is_root() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let (issued, elsewhere) = (dir.path().join("data/certs"), dir.path().join("elsewhere"));
    fs::create_dir_all(dir.path().join("data")).unwrap();
    fs::create_dir(&elsewhere).unwrap();
    chown(dir.path().join("data"), Some(65_534), Some(65_533)).unwrap();
    let put = || keep_whatever(&issued, "a.example", "0a", &[("chain.pem", b"1")]);
    symlink(&elsewhere, &issued).unwrap();
    assert!(put().is_err());
    assert_eq!(fs::read_dir(&elsewhere).unwrap().count(), 0);
    fs::remove_file(&issued).unwrap();
    put().unwrap();
    for made in ["", "a.example", "a.example/0a", "a.example/0a/chain.pem", "a.example/live"] {
        let made = fs::symlink_metadata(issued.join(made)).unwrap();
        assert_eq!((made.uid(), made.gid()), (65_534, 65_533));
    }
    // Where nobody else can write, a link is the operator's.
    chown(dir.path().join("data"), Some(0), Some(0)).unwrap();
    fs::rename(&issued, dir.path().join("disk")).unwrap();
    symlink(dir.path().join("disk"), &issued).unwrap();
    put().unwrap();
    assert!(dir.path().join("disk/a.example/0a-1").exists());
}

/// As root only, like the one before.
#[test]
fn root_is_not_led_elsewhere_on_the_way_to_the_folder() {
    if !rustix::process::geteuid().is_root() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let (theirs, elsewhere) = (dir.path().join("theirs"), dir.path().join("elsewhere"));
    fs::create_dir(&theirs).unwrap();
    fs::create_dir(&elsewhere).unwrap();
    chown(&theirs, Some(65_534), Some(65_533)).unwrap();
    let issued = theirs.join("data/certs");
    let put = || keep_whatever(&issued, "a.example", "0a", &[("chain.pem", b"1")]);
    symlink(&elsewhere, theirs.join("data")).unwrap();
    let error = put().unwrap_err().to_string();
    assert!(error.contains("theirs/data is a link"), "{error}");
    assert!(live(&issued, "a.example").is_err());
    assert_eq!(fs::read_dir(&elsewhere).unwrap().count(), 0);
    fs::remove_file(theirs.join("data")).unwrap();
    assert_eq!(put().unwrap_err().kind(), io::ErrorKind::NotFound);
    assert!(!theirs.join("data").exists(), "whose it must be nobody said");
    fs::create_dir(theirs.join("data")).unwrap();
    chown(theirs.join("data"), Some(65_534), Some(65_533)).unwrap();
    put().unwrap();
    let made = fs::metadata(issued.join("a.example/0a/chain.pem")).unwrap();
    assert_eq!((made.uid(), made.gid()), (65_534, 65_533));
}

#[test]
fn what_is_live_is_read_and_no_link_of_others_followed() {
    let dir = tempfile::tempdir().unwrap();
    let issued = dir.path().join("certs");
    assert!(live(&issued, "a.example").unwrap().is_empty(), "there is nothing at all");
    keep_whatever(&issued, "a.example", "0a", &[("chain.pem", b"1"), ("key.pem", b"2")]).unwrap();
    let (chain, key) = (("chain.pem", b"1".to_vec()), ("key.pem", b"2".to_vec()));
    assert_eq!(live(&issued, "a.example").unwrap(), BTreeMap::from([chain.clone(), key]));
    assert!(live(&issued, "b.example").unwrap().is_empty());
    let at = |path: &str| issued.join(path);
    fs::remove_file(at("a.example/0a/key.pem")).unwrap();
    assert_eq!(live(&issued, "a.example").unwrap(), BTreeMap::from([chain]));

    symlink(at("a.example/0a/chain.pem"), at("a.example/0a/key.pem")).unwrap();
    assert!(live(&issued, "a.example").is_err(), "a file");
    symlink(at("a.example"), at("c.example")).unwrap();
    assert!(live(&issued, "c.example").is_err(), "the folder");
    for (name, to) in [("d.example", "../a.example/0a"), ("e.example", ".."), ("f.example", "beside")] {
        fs::create_dir(at(name)).unwrap();
        symlink(at("a.example"), at(name).join("beside")).unwrap();
        symlink(to, at(name).join("live")).unwrap();
        assert!(live(&issued, name).is_err(), "{to}");
    }
    fs::create_dir_all(at("g.example/live")).unwrap();
    let (here, pipe) = (rustix::fs::CWD, rustix::fs::FileType::Fifo);
    rustix::fs::mknodat(here, at("g.example/live/chain.pem"), pipe, rustix::fs::Mode::RWXU, 0).unwrap();
    assert_eq!(live(&issued, "g.example").unwrap()["chain.pem"], b"", "nobody waits for who writes into a pipe");
}

/// As root only.
#[test]
fn root_gives_no_folder_away_in_which_it_has_something() {
    if !rustix::process::geteuid().is_root() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let issued = dir.path().join("data/certs");
    fs::create_dir_all(&issued).unwrap();
    chown(dir.path().join("data"), Some(65_534), Some(65_533)).unwrap();
    let owner = |folder: &Path| fs::metadata(folder).unwrap().uid();
    let put = || keep_whatever(&issued, "a.example", "0a", &[("chain.pem", b"1")]);
    for folder in [issued.clone(), issued.join("a.example")] {
        // As if its owner had renamed root's backup to it.
        fs::create_dir_all(&folder).unwrap();
        fs::write(folder.join("secret"), "root's").unwrap();
        let told = put().unwrap_err().to_string();
        assert!(told.contains(&format!("chown -R 65534:65533 {}", folder.display())), "{told}");
        assert_eq!(owner(&folder), 0);
        // An empty one, such as a process that was killed left, is of no use to root.
        fs::remove_file(folder.join("secret")).unwrap();
        put().unwrap();
        assert_eq!(owner(&folder), 65_534);
        fs::remove_dir_all(issued.join("a.example")).unwrap();
    }
}

#[test]
fn who_puts_something_in_place_is_waited_for_and_who_removes_takes_nothing_of_it() {
    let dir = tempfile::tempdir().unwrap();
    let issued = dir.path().join("certs");
    keep_whatever(&issued, "a.example", "0a", &[("chain.pem", b"1")]).unwrap();
    let folder = issued.join("a.example");
    let held = Inside::open(&folder).unwrap();
    held.lock().unwrap();
    assert!(!remove_if(&issued, "a.example", |_| Ok(true)).unwrap(), "somebody puts something in place");
    drop(held);
    assert!(!remove_if(&issued, "a.example", |_| Ok(false)).unwrap());
    assert!(remove_if(&issued, "a.example", |_| Ok(true)).unwrap() && !folder.exists());
    std::thread::scope(|scope| {
        let keeping = scope.spawn(|| {
            for round in 0..300 {
                keep_whatever(&issued, "a.example", &format!("{round:03}"), &[("chain.pem", b"1")]).unwrap();
            }
        });
        while !keeping.is_finished() {
            match remove_if(&issued, "a.example", |_| Ok(true)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => panic!("{error}"),
                _ => {}
            }
        }
    });
}

#[test]
fn what_killed_processes_left_goes_and_what_is_not_ours_stays() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("certs/a.example");
    let of_serials = ["0a", "0C2d-12"];
    let not_ours = [".0a.x", ".hidden", "-1", "0a-", "0a-b", "archive", "backup", "disabled-1", "pending"];
    for left in of_serials.iter().chain(&not_ours).chain(&[".0a.4000000"]) {
        fs::create_dir_all(folder.join(left)).unwrap();
        fs::write(folder.join(left).join("key.pem"), "secret").unwrap();
    }
    // One that cannot be removed keeps nothing from being put in place.
    fs::create_dir_all(folder.join(".0b.4000000/folder")).unwrap();
    symlink("0a", folder.join(".live.4000000")).unwrap();
    keep_whatever(&dir.path().join("certs"), "a.example", "0b", &[("chain.pem", b"1")]).unwrap();
    let mut left: Vec<_> =
        fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    left.sort();
    let mut expected = [&not_ours[..], &[".0b.4000000", "0b", "live"]].concat();
    expected.sort_unstable();
    assert_eq!(left, expected);
    assert!(not_ours.iter().all(|left| folder.join(left).join("key.pem").exists()));
}

#[test]
fn many_who_keep_for_one_name_leave_a_whole_certificate() {
    let dir = tempfile::tempdir().unwrap();
    let issued = dir.path().join("certs");
    // Each its own open file, as processes have: `flock` holds between them.
    std::thread::scope(|scope| {
        for writer in 0..4 {
            let issued = &issued;
            scope.spawn(move || {
                for round in 0..10 {
                    // Of one length, so that a mixture would not be told by it.
                    let content = format!("{writer}{round:02}");
                    let files = [("chain.pem", content.as_bytes()), ("key.pem", content.as_bytes())];
                    keep_whatever(issued, "a.example", &content, &files).unwrap();
                }
            });
        }
    });
    let read = |file: &str| fs::read_to_string(issued.join("a.example/live").join(file)).unwrap();
    assert_eq!(read("chain.pem"), read("key.pem"));
    assert_eq!(fs::read_dir(issued.join("a.example")).unwrap().count(), 3, "two serials and the link");
}
