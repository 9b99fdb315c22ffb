//! Putting a certificate where the store reads those that are not the operator's own:
//! `<issued dir>/<name>/<serial>/`, and `live`, a link to the serial that is served, switched by one rename.

use std::ffi::OsStr;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, lchown, symlink};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, OFlags, flock};

/// The link to what is served.
pub const LIVE: &str = "live";
/// Lies beside a certificate that was imported; ACME's has none.
pub const IMPORTED: &str = "imported";
/// A certificate, leaf first, and its key; `.rsa` for the twin of an ECDSA one.
pub const FILES: [[&str; 2]; 2] = [["chain.pem", "key.pem"], ["chain.rsa.pem", "key.rsa.pem"]];

/// What the names of things begin with that are not complete.
const UNFINISHED: &str = ".";

/// Writes files (name and content) as `serial` of `name` and switches to them: the store reads the old ones or the new
/// ones, and never half of them, also after a power cut. What was live before stays beside them; older serials go. Others
/// who put something in place for the same name, in other processes too, wait until this is done.
///
/// Run by root, all that is made belongs to the owner of the folder above `issued_dir`, so that the gateway can read it.
///
/// # Errors
/// What the operating system says; what was live still is.
pub fn keep(issued_dir: &Path, name: &str, serial: &str, files: &[(&str, &[u8])]) -> io::Result<PathBuf> {
    let folder = issued_dir.join(name);
    DirBuilder::new().recursive(true).mode(0o700).create(&folder)?;
    // Ends with the file.
    let _alone = lock(&folder)?;
    remove_unfinished(&folder)?;
    let part = folder.join(format!("{UNFINISHED}{serial}.{}", std::process::id()));
    DirBuilder::new().mode(0o700).create(&part)?;
    for (file, content) in files {
        let mut open = OpenOptions::new().write(true).create_new(true).mode(0o600).open(part.join(file))?;
        open.write_all(content)?;
        open.sync_all()?;
    }
    sync(&part)?;
    let before = fs::read_link(folder.join(LIVE)).ok();
    // The serial that is live may come again with other files: it must stay whole until the switch.
    let taken = |serial: &String| folder.join(serial).exists();
    let again = (1..).map(|n| format!("{serial}-{n}"));
    let serial = std::iter::once(serial.to_owned()).chain(again).find(|serial| !taken(serial)).unwrap_or_default();
    fs::rename(&part, folder.join(&serial))?;
    let next = folder.join(format!("{UNFINISHED}{LIVE}.{}", std::process::id()));
    symlink(&serial, &next)?;
    give_to_owner(issued_dir, &folder, &serial, files)?;
    fs::rename(&next, folder.join(LIVE))?;
    sync(&folder)?;
    sync(issued_dir)?;
    // What cannot be removed now is removed next time.
    let _ = remove_older(&folder, &[Some(Path::new(&serial)), before.as_deref()]);
    Ok(folder.join(serial))
}

/// As root: what was made belongs to whom the folder above belongs to.
fn give_to_owner(issued_dir: &Path, folder: &Path, serial: &str, files: &[(&str, &[u8])]) -> io::Result<()> {
    let above = fs::metadata(issued_dir.parent().unwrap_or(issued_dir))?;
    if !rustix::process::geteuid().is_root() || above.uid() == 0 {
        return Ok(());
    }
    let made = folder.join(serial);
    let written = files.iter().map(|(file, _)| made.join(file));
    for path in [issued_dir.to_owned(), folder.to_owned(), made.clone()].into_iter().chain(written) {
        lchown(&path, Some(above.uid()), Some(above.gid()))?;
    }
    Ok(())
}

/// Removes the folders of serials that are not kept. Others, such as that of an order under way, are left alone.
fn remove_older(folder: &Path, kept: &[Option<&Path>]) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let name = entry.file_name();
        let is_serial = name.as_encoded_bytes().first().is_some_and(u8::is_ascii_hexdigit);
        let is_kept = kept.iter().flatten().any(|kept| kept.as_os_str() == name);
        if entry.file_type()?.is_dir() && is_serial && !is_kept {
            fs::remove_dir_all(entry.path())?;
        }
    }
    Ok(())
}

/// Waits until nobody else puts something in place here. A link in the folder's place is refused: root, who imports, would
/// write wherever the gateway's user, whose folder it is, makes it lead.
fn lock(folder: &Path) -> io::Result<File> {
    let flags = (OFlags::DIRECTORY | OFlags::NOFOLLOW).bits().cast_signed();
    let file = OpenOptions::new().read(true).custom_flags(flags).open(folder)?;
    rustix::io::retry_on_intr(|| flock(&file, FlockOperation::LockExclusive))?;
    Ok(file)
}

/// Removes what processes that were killed left, keys among it: who has the lock is the only one at work.
fn remove_unfinished(folder: &Path) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        if !is_unfinished(&entry.file_name()) {
            continue;
        }
        if entry.file_type()?.is_dir() {
            fs::remove_dir_all(entry.path())?;
        } else {
            fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

/// `.<serial or live>.<process id>`
fn is_unfinished(name: &OsStr) -> bool {
    let rest = name.to_str().and_then(|name| name.strip_prefix(UNFINISHED)?.rsplit_once('.'));
    rest.is_some_and(|(_, process)| !process.is_empty() && process.bytes().all(|byte| byte.is_ascii_digit()))
}

fn sync(folder: &Path) -> io::Result<()> {
    File::open(folder)?.sync_all()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::os::unix::fs::PermissionsExt;

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
    fn a_link_in_the_folders_place_is_not_followed() {
        let dir = tempfile::tempdir().unwrap();
        let (issued, elsewhere) = (dir.path().join("certs"), dir.path().join("elsewhere"));
        fs::create_dir_all(&issued).unwrap();
        fs::create_dir(&elsewhere).unwrap();
        symlink(&elsewhere, issued.join("a.example")).unwrap();
        assert!(keep(&issued, "a.example", "0a", &[("chain.pem", b"1")]).is_err());
        assert_eq!(fs::read_dir(&elsewhere).unwrap().count(), 0);
    }

    #[test]
    fn what_killed_processes_left_goes_and_what_is_not_ours_stays() {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("certs/a.example");
        for left in [".0a.4000000", "pending", ".hidden", ".0a.x"] {
            fs::create_dir_all(folder.join(left)).unwrap();
            fs::write(folder.join(left).join("key.pem"), "secret").unwrap();
        }
        symlink("0a", folder.join(".live.4000000")).unwrap();
        keep(&dir.path().join("certs"), "a.example", "0b", &[("chain.pem", b"1")]).unwrap();
        let mut left: Vec<_> = fs::read_dir(&folder).unwrap().map(|e| e.unwrap().file_name()).collect();
        left.sort();
        assert_eq!(left, [".0a.x", ".hidden", "0b", "live", "pending"]);
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
