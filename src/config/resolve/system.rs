//! The folders of the operating system, which no program may close to others or fill with its own.

use std::ffi::OsStr;
use std::path::Path;

use crate::config::disk::tidy;

/// What is directly in `/` (Filesystem Hierarchy Standard 3.0, 3), and Linux's own (6), but for what volumes of one's own are
/// mounted at: `/media`, `/mnt`, `/opt` and `/srv`.
const IN_ROOT: &[&str] = &[
    "bin", "boot", "dev", "etc", "home", "lib", "lib32", "lib64", "libx32", "proc", "root", "run", "sbin", "sys",
    "tmp", "usr", "var",
];
/// What is directly in `/usr` (4) …
const IN_USR: &[&str] =
    &["bin", "games", "include", "lib", "lib32", "lib64", "libexec", "libx32", "local", "sbin", "share", "src"];
/// … and in `/var` (5), with Debian's `backups`.
const IN_VAR: &[&str] = &[
    "account", "backups", "cache", "crash", "games", "lib", "local", "lock", "log", "mail", "opt", "run", "spool",
    "tmp", "yp",
];

/// Whether an absolute path is that of one of the system's own folders, or leads to one: a link, or `..`.
pub(super) fn is_the_systems(path: &Path) -> bool {
    is_named(&tidy(path)) || path.canonicalize().is_ok_and(|path| is_named(&path))
}

fn is_named(path: &Path) -> bool {
    let Ok(below) = path.strip_prefix("/") else { return false };
    let is_in = |names: &[&str], name: &OsStr| names.iter().any(|own| name == *own);
    match below.iter().collect::<Vec<_>>().as_slice() {
        [] => true,
        [name] => is_in(IN_ROOT, name),
        [folder, name] if *folder == "usr" => is_in(IN_USR, name),
        [folder, name] if *folder == "var" => is_in(IN_VAR, name),
        _ => false,
    }
}
