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
/// That is done only if what is live still is `before`, as [`live`] gave it; says whether it is. Others may have put something
/// in place since, and whoever judged by what there was has to judge again.
///
/// # Errors
/// What the operating system says, also if there is no folder above `issued_dir`; what was live still is.
pub fn keep(issued_dir: &Path, name: &str, serial: &str, files: &[(&str, &[u8])], before: &Live) -> io::Result<bool> {
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
mod tests;
