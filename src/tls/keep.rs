//! Putting a certificate where the store reads those that are not the operator's own:
//! `<issued dir>/<name>/<serial>/`, and `live`, a link to the serial that is served, switched by one rename.

use std::collections::BTreeMap;
use std::ffi::{CStr, OsStr};
use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

use crate::tls::inside::Inside;

/// The link to what is served.
pub const LIVE: &str = "live";
/// Lies beside a certificate that was imported; ACME's has none.
pub const IMPORTED: &str = "imported";
/// A certificate, leaf first, and its key; `.rsa` for the twin of an ECDSA one.
pub const FILES: [[&str; 2]; 2] = [["chain.pem", "key.pem"], ["chain.rsa.pem", "key.rsa.pem"]];

/// What is live of a name: the contents of those of [`FILES`] that there are.
pub type Live = BTreeMap<&'static str, Vec<u8>>;

/// What the names of things begin with that are not complete.
const UNFINISHED: &str = ".";

/// Writes files (name and content) as `serial` of `name` and switches to them: the store reads the old ones or the new
/// ones, and never half of them, also after a power cut. What was live before stays beside them; older serials go. Others
/// who put something in place for the same name, in other processes too, wait until this is done.
///
/// Run by root, all that is made belongs to the owner of the folder above `issued_dir`, or if that is root to its own, so
/// that the gateway can read it, and no link is followed that somebody else can have put there, or on the way to there. Nobody
/// is given a folder in which root has something.
///
/// # Errors
/// What the operating system says, also if there is no folder above `issued_dir`; what was live still is.
pub fn keep(issued_dir: &Path, name: &str, serial: &str, files: &[(&str, &[u8])]) -> io::Result<()> {
    let all = open(issued_dir)?;
    switch(&all, &enter_alone(&all, name)?, serial, files)
}

/// The same, if what is live still is what [`live`] gave; says whether it is. Others may have put something in place since, and
/// whoever judged by what there was has to judge again.
///
/// # Errors
/// As of [`keep`].
pub fn keep_after(
    issued_dir: &Path,
    name: &str,
    serial: &str,
    files: &[(&str, &[u8])],
    before: &Live,
) -> io::Result<bool> {
    let all = open(issued_dir)?;
    let folder = enter_alone(&all, name)?;
    let is_same = live_in(&folder)? == *before;
    if is_same {
        switch(&all, &folder, serial, files)?;
    }
    Ok(is_same)
}

/// Writes files and switches to them, while nobody else puts something in place.
fn switch(all: &Inside, folder: &Inside, serial: &str, files: &[(&str, &[u8])]) -> io::Result<()> {
    for left in folder.names()?.iter().filter(|name| is_unfinished(name)) {
        // What cannot be removed now is removed next time.
        let _ = folder.remove(left);
    }
    let part = format!("{UNFINISHED}{serial}.{}", std::process::id());
    let made = folder.enter(Path::new(&part))?.ok_or(io::ErrorKind::NotFound)?;
    files.iter().try_for_each(|(file, content)| made.write(file, content))?;
    made.sync()?;
    let before = folder.link_of(LIVE);
    // The serial that is live may come again with other files: it must stay whole until the switch.
    let again = (1..).map(|n| format!("{serial}-{n}"));
    let serial = std::iter::once(serial.to_owned()).chain(again).find(|serial| !folder.has(serial)).unwrap_or_default();
    folder.rename(&part, &serial)?;
    let next = format!("{UNFINISHED}{LIVE}.{}", std::process::id());
    folder.link(&serial, &next)?;
    folder.rename(&next, LIVE)?;
    folder.sync()?;
    all.sync()?;
    let kept = [serial.as_bytes(), before.as_ref().map_or(b"", |before| before.to_bytes())];
    remove_older(folder, &kept);
    Ok(())
}

/// What is live of a name, by the files of [`FILES`] that there are, read while nobody puts something else in place.
///
/// # Errors
/// What the operating system says. No link is followed but the one to what is live, and that no further than beside itself.
pub fn live(issued_dir: &Path, name: &str) -> io::Result<Live> {
    let folder = match Inside::open(issued_dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        all => all?.find(Path::new(name))?,
    };
    let Some(folder) = folder else { return Ok(Live::new()) };
    folder.lock()?;
    live_in(&folder)
}

fn live_in(folder: &Inside) -> io::Result<Live> {
    let mut files = Live::new();
    let link = folder.link_of(LIVE);
    let serial = Path::new(link.as_ref().map_or(OsStr::new(LIVE), |link| OsStr::from_bytes(link.to_bytes())));
    if !matches!(serial.components().collect::<Vec<_>>().as_slice(), [Component::Normal(_)]) {
        return Err(io::Error::other(format!("{LIVE} is a link to elsewhere, {}", serial.display())));
    }
    let Some(serial) = folder.find(serial)? else { return Ok(files) };
    for file in FILES.into_iter().flatten() {
        files.extend(serial.read(file)?.map(|content| (file, content)));
    }
    Ok(files)
}

/// Makes a folder beside a name's certificates, also if all of the name is being removed: then once that is done.
///
/// # Errors
/// What the operating system says.
pub fn make_beside(issued_dir: &Path, name: &str, folder: &str) -> io::Result<PathBuf> {
    // Its lock ends with this.
    let of_name = enter_alone(&open(issued_dir)?, name)?;
    of_name.enter(Path::new(folder))?.ok_or(io::ErrorKind::NotFound)?;
    Ok(issued_dir.join(name).join(folder))
}

/// Removes all of a name if it is of no use, and nobody is putting something in place for it. Says whether it did.
///
/// # Errors
/// What the operating system says, or `is_of_no_use`, which is asked while nobody else can put something in place.
pub fn remove_if(
    issued_dir: &Path,
    name: &str,
    is_of_no_use: impl FnOnce(&Path) -> io::Result<bool>,
) -> io::Result<bool> {
    let path = issued_dir.join(name);
    // Ends with this.
    let folder = Inside::open(&path)?;
    let is_alone = folder.try_lock()? && Inside::open(issued_dir)?.leads_to(Path::new(name), &folder)?;
    if !is_alone || !is_of_no_use(&path)? {
        return Ok(false);
    }
    fs::remove_dir_all(&path)?;
    Ok(true)
}

/// The folder of all names, which is made if it is not there; the one above it is not: whose it must be only its owner knows.
fn open(issued_dir: &Path) -> io::Result<Inside> {
    let (Some(above), Some(own)) = (issued_dir.parent(), issued_dir.file_name()) else {
        return Err(io::ErrorKind::InvalidInput.into());
    };
    let above = Inside::open(if above.as_os_str().is_empty() { Path::new(".") } else { above })?;
    if above.is_others() {
        return Ok(above.enter(Path::new(own))?.ok_or(io::ErrorKind::NotFound)?);
    }
    Inside::make(issued_dir)
}

/// The folder of a name, once nobody else puts something in place there.
fn enter_alone(all: &Inside, name: &str) -> io::Result<Inside> {
    let name = Path::new(name);
    loop {
        // Who had it before may have removed it.
        let Some(folder) = all.enter(name)? else { continue };
        folder.lock()?;
        if all.leads_to(name, &folder)? {
            return Ok(folder);
        }
    }
}

/// Removes the folders of serials that are not kept. Others, such as that of an order under way, are left alone.
fn remove_older(folder: &Inside, kept: &[&[u8]]) {
    for name in folder.names().iter().flatten().filter(|name| is_serial(name) && !kept.contains(&name.to_bytes())) {
        let _ = folder.remove_folder(name);
    }
}

/// `<serial>` in hexadecimal digits, and `<serial>-<number>`.
fn is_serial(name: &CStr) -> bool {
    let Ok(name) = name.to_str() else { return false };
    let (serial, number) = name.split_once('-').unwrap_or((name, "1"));
    let all = |text: &str, digit: fn(&u8) -> bool| !text.is_empty() && text.bytes().all(|byte| digit(&byte));
    all(serial, u8::is_ascii_hexdigit) && all(number, u8::is_ascii_digit)
}

/// `.<serial or live>.<process id>`: what processes that were killed left, keys among it.
fn is_unfinished(name: &CStr) -> bool {
    let rest = name.to_str().ok().and_then(|name| name.strip_prefix(UNFINISHED)?.rsplit_once('.'));
    rest.is_some_and(|(_, process)| !process.is_empty() && process.bytes().all(|byte| byte.is_ascii_digit()))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]
    use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink};

    use super::*;

    #[test]
    fn the_new_one_is_live_the_one_before_stays_and_nobody_else_may_read() {
        let dir = tempfile::tempdir().unwrap();
        let issued = dir.path().join("certs");
        for (serial, content) in [("0a", "1"), ("0b", "2"), ("0c", "3"), ("0c", "4")] {
            keep(&issued, "a.example", serial, &[("chain.pem", content.as_bytes())]).unwrap();
            assert_eq!(fs::read_to_string(issued.join("a.example/live/chain.pem")).unwrap(), content);
        }
        fs::create_dir(issued.join("a.example/pending")).unwrap();
        keep(&issued, "a.example", "0d", &[]).unwrap();
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
        let put = |serial: &str, before: &Live| {
            keep_after(&issued, "a.example", serial, &[("key.pem", serial.as_bytes())], before)
        };
        let nothing = live(&issued, "a.example").unwrap();
        assert!(put("0a", &nothing).unwrap());
        assert!(!put("0b", &nothing).unwrap());
        let seen = live(&issued, "a.example").unwrap();
        assert_eq!(seen["key.pem"], b"0a");
        keep(&issued, "a.example", "0c", &[("key.pem", b"0c")]).unwrap();
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
        assert!(keep(&issued, "a.example", "0a", &[("chain.pem", b"1")]).is_err());
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
        let put = || keep(&issued, "a.example", "0a", &[("chain.pem", b"1")]);
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
        let put = || keep(&issued, "a.example", "0a", &[("chain.pem", b"1")]);
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
        keep(&issued, "a.example", "0a", &[("chain.pem", b"1"), ("key.pem", b"2")]).unwrap();
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
        let put = || keep(&issued, "a.example", "0a", &[("chain.pem", b"1")]);
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
        keep(&issued, "a.example", "0a", &[("chain.pem", b"1")]).unwrap();
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
                    keep(&issued, "a.example", &format!("{round:03}"), &[("chain.pem", b"1")]).unwrap();
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
        keep(&dir.path().join("certs"), "a.example", "0b", &[("chain.pem", b"1")]).unwrap();
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
                        keep(issued, "a.example", &content, &files).unwrap();
                    }
                });
            }
        });
        let read = |file: &str| fs::read_to_string(issued.join("a.example/live").join(file)).unwrap();
        assert_eq!(read("chain.pem"), read("key.pem"));
        assert_eq!(fs::read_dir(issued.join("a.example")).unwrap().count(), 3, "two serials and the link");
    }
}
