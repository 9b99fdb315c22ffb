//! The data directory: a folder of our own that only we may enter, or a start that says why it cannot be.

use std::fs::{DirBuilder, File, Metadata, Permissions};
use std::io::ErrorKind;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use crate::outbox::OpenError;

/// What only a gateway makes there; others' folders have a `certs` or an `outbox` as well.
const OURS: [&str; 4] = ["outbox/lock", "last-good", "certificates.index", "ticket.keys"];

/// Whose a folder is by what lies in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Content {
    /// A gateway's, or nobody's: it is empty.
    Ours,
    /// It has things in it, and none that a gateway makes.
    Others,
    /// This user may not look.
    Hidden,
}

/// Why nothing can be kept in the data directory.
#[derive(Debug, thiserror::Error)]
pub enum DataDirError {
    /// It is somebody else's.
    #[error(
        "[host] data_dir {}: it belongs to user {owner}, and the gateway was started as user {user}\n  → {}",
        path.display(),
        remedy_for_others(path, *content, owner, user)
    )]
    Others {
        /// The data directory.
        path: PathBuf,
        /// Whose it is: a name, or a number that has none.
        owner: String,
        /// Who runs this process.
        user: String,
        /// Whose it is by what lies in it.
        content: Content,
    },
    /// Something else has its name.
    #[error(
        "[host] data_dir {}: it is no folder\n  → name a folder in pixelgate.toml, or move away what is there",
        path.display()
    )]
    NoFolder {
        /// The data directory.
        path: PathBuf,
    },
    /// It cannot be made, or not be closed to others.
    #[error("[host] data_dir {}: {error}\n  → {}", path.display(), remedy_for_folder(path, error))]
    Folder {
        /// The data directory.
        path: PathBuf,
        /// What the operating system says.
        error: std::io::Error,
    },
    /// The outbox in it cannot be opened.
    #[error("[host] data_dir {}: {error}\n  → {}", path.display(), remedy_for_outbox(path, error))]
    Outbox {
        /// The data directory.
        path: PathBuf,
        /// Why.
        error: OpenError,
    },
}

/// Makes the folder if it is not there, and lets nobody but us enter it, also where it was there already: tokens and people
/// are in it. Its name is durable, like what will be in it. A folder of somebody else is left as it is: one file that root
/// leaves in there would keep the service from starting.
///
/// # Errors
/// When it is another user's, no folder, or cannot be made; nothing was written then.
pub(super) fn take(path: &Path) -> Result<(), DataDirError> {
    let failed = |error| DataDirError::Folder { path: path.to_owned(), error };
    match std::fs::metadata(path) {
        Ok(found) => judge(path, &found)?,
        Err(error) if error.kind() == ErrorKind::NotFound => {}
        Err(error) => return Err(failed(error)),
    }
    make_private(path).map_err(failed)
}

fn judge(path: &Path, found: &Metadata) -> Result<(), DataDirError> {
    let path = path.to_owned();
    if !found.is_dir() {
        return Err(DataDirError::NoFolder { path });
    }
    let us = rustix::process::geteuid().as_raw();
    if found.uid() != us {
        let content = content(&path);
        return Err(DataDirError::Others { path, owner: user(found.uid()), user: user(us), content });
    }
    Ok(())
}

fn content(path: &Path) -> Content {
    let Ok(mut entries) = std::fs::read_dir(path) else { return Content::Hidden };
    if entries.next().is_none() || OURS.iter().any(|name| path.join(name).exists()) {
        Content::Ours
    } else {
        Content::Others
    }
}

fn make_private(path: &Path) -> std::io::Result<()> {
    let new: Vec<_> =
        path.ancestors().take_while(|folder| !folder.as_os_str().is_empty() && !folder.exists()).collect();
    DirBuilder::new().recursive(true).mode(0o700).create(path)?;
    std::fs::set_permissions(path, Permissions::from_mode(0o700))?;
    new.into_iter().filter_map(Path::parent).try_for_each(sync_folder)
}

/// Makes the names in a folder durable.
fn sync_folder(path: &Path) -> std::io::Result<()> {
    let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
    File::open(path)?.sync_all()
}

/// Only what is a gateway's is given away with all that is in it.
fn remedy_for_others(path: &Path, content: Content, owner: &str, user: &str) -> String {
    const ELSE: &str = "name a folder of its own in pixelgate.toml, such as \"/var/lib/pixelgate\"";
    let path = path.display();
    if content == Content::Others {
        return format!("what lies in it is no gateway's: {ELSE}");
    }
    if user != "root" {
        let give = format!("give it to the user who runs the gateway, as root: `chown -R {user} {path}`");
        return match content {
            Content::Hidden => {
                format!("if `ls -A {path}` as root shows nothing that is not the gateway's, {give}; else {ELSE}")
            }
            Content::Ours | Content::Others => give,
        };
    }
    let sudo = if owner.starts_with(|c: char| c.is_ascii_digit()) { format!("'#{owner}'") } else { owner.to_owned() };
    format!(
        "start it as that user: `systemctl start pixelgate`, or `sudo -u {sudo} pixelgate run …`; or, if root is to run \
         it from now on, `chown -R root {path}`"
    )
}

fn remedy_for_folder(path: &Path, error: &std::io::Error) -> String {
    match error.kind() {
        ErrorKind::PermissionDenied => format!(
            "make it as root for the user who runs the gateway: `install -d -m 0700 -o {} {}`; that user must be let into \
             the folders above it",
            user(rustix::process::geteuid().as_raw()),
            path.display()
        ),
        ErrorKind::NotADirectory => "what is above it is no folder: name another path in pixelgate.toml".to_owned(),
        ErrorKind::AlreadyExists => "it is a link that leads nowhere: make the folder that it leads to".to_owned(),
        _ => remedy(error),
    }
}

fn remedy_for_outbox(path: &Path, error: &OpenError) -> String {
    match error {
        OpenError::InUse { .. } => {
            "`pixelgate status` shows the gateway that runs; stop that one first, or give this one a data_dir of its own"
                .to_owned()
        }
        OpenError::NewerFormat { .. } => "start the version that wrote it, or a newer one".to_owned(),
        OpenError::State { .. } => {
            "restore it from a backup, or move it away to start without pauses and counters; no event is in it".to_owned()
        }
        OpenError::Io { path: file, source } if source.kind() == ErrorKind::ResourceBusy => {
            format!("another program has it open, `fuser -v {}` as root says which: end that one", file.display())
        }
        OpenError::Io { source, .. } if matches!(source.kind(), ErrorKind::PermissionDenied | ErrorKind::Other) => format!(
            "all in there must belong to the user who runs the gateway, also what a start as another user left: `chown -R \
             {} {}`, as root; if it does, see what the kernel says of that disk: `dmesg`",
            user(rustix::process::geteuid().as_raw()),
            path.display()
        ),
        OpenError::Io { source, .. } => remedy(source),
    }
}

/// What to do about an error that has little to do with what it was met at.
fn remedy(error: &std::io::Error) -> String {
    let remedy = match error.kind() {
        ErrorKind::ReadOnlyFilesystem => {
            "its volume is read-only: mount it for writing; under ProtectSystem= of systemd it must be in StateDirectory= or \
             ReadWritePaths="
        }
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded => "free some space there",
        ErrorKind::OutOfMemory => "this machine, or the unit (MemoryMax=), has too little memory left: free some",
        ErrorKind::AlreadyExists | ErrorKind::NotADirectory | ErrorKind::IsADirectory => {
            "something of another kind has a name that is needed: move it away"
        }
        _ => "see what the kernel says of that disk: `journalctl -k`, or `dmesg`",
    };
    remedy.to_owned()
}

/// What a user is called; the number where no name is known on this machine.
fn user(uid: u32) -> String {
    let known = std::fs::read_to_string("/etc/passwd").unwrap_or_default();
    let number = uid.to_string();
    let name = known.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        (fields.nth(1)? == number).then(|| name.to_owned())
    });
    name.unwrap_or(number)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::os::unix::fs::{chown, symlink};

    use super::*;

    #[test]
    fn users_have_names() {
        assert_eq!(user(0), "root");
        assert_eq!(user(4_294_967_000), "4294967000");
    }

    #[test]
    fn who_is_told_to_do_what() {
        let others = |owner: &str, user: &str| DataDirError::Others {
            path: "/var/lib/pixelgate".into(),
            owner: owner.into(),
            user: user.into(),
            content: Content::Ours,
        };
        let told = others("pixelgate", "root").to_string();
        assert!(told.contains(
            "[host] data_dir /var/lib/pixelgate: it belongs to user pixelgate, and the gateway was started as user root"
        ));
        assert!(told.contains("`sudo -u pixelgate pixelgate run …`") && told.contains("`systemctl start pixelgate`"));
        assert!(told.contains("`chown -R root /var/lib/pixelgate`"), "{told}");
        assert!(others("998", "root").to_string().contains("sudo -u '#998' "));
        let told = others("root", "pixelgate").to_string();
        assert!(told.contains("`chown -R pixelgate /var/lib/pixelgate`") && !told.contains("sudo"), "{told}");
    }

    #[test]
    fn what_may_be_anothers_is_not_given_away() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(content(dir.path()), Content::Ours, "it is empty");
        std::fs::create_dir(dir.path().join("outbox")).unwrap();
        assert_eq!(content(dir.path()), Content::Others);
        std::fs::write(dir.path().join("outbox/lock"), "").unwrap();
        assert_eq!(content(dir.path()), Content::Ours);
        assert_eq!(content(&dir.path().join("none")), Content::Hidden);
        let remedy = |content, user| remedy_for_others(Path::new("/srv/shop"), content, "shop", user);
        for user in ["root", "pixelgate"] {
            let told = remedy(Content::Others, user);
            assert!(!told.contains("chown") && told.contains("a folder of its own"), "{told}");
        }
        let told = remedy(Content::Hidden, "pixelgate");
        assert!(told.starts_with("if `ls -A /srv/shop`") && told.ends_with("such as \"/var/lib/pixelgate\""), "{told}");
    }

    #[test]
    fn what_is_no_folder_of_ours_is_left_as_it_is() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        let told = |path: &Path| take(path).unwrap_err().to_string();
        std::fs::write(at("file"), "").unwrap();
        assert!(told(&at("file")).contains("it is no folder\n  → "));
        assert!(told(&at("file/data")).contains("what is above it is no folder"), "{}", told(&at("file/data")));
        symlink("nothing", at("link")).unwrap();
        assert!(told(&at("link")).contains("a link that leads nowhere"), "{}", told(&at("link")));
        take(&at("new/data")).unwrap();
        assert_eq!(std::fs::metadata(at("new/data")).unwrap().mode() & 0o777, 0o700);
        if !rustix::process::geteuid().is_root() {
            eprintln!("not root: nothing can be given to another user");
            return;
        }
        std::fs::set_permissions(at("new/data"), Permissions::from_mode(0o755)).unwrap();
        chown(at("new/data"), Some(65_534), Some(65_534)).unwrap();
        assert!(matches!(take(&at("new/data")), Err(DataDirError::Others { .. })));
        assert_eq!(std::fs::metadata(at("new/data")).unwrap().mode() & 0o777, 0o755);
    }

    #[test]
    fn remedies_fit_what_happened() {
        let of = |kind: ErrorKind| remedy_for_folder(Path::new("/data"), &kind.into());
        assert!(of(ErrorKind::PermissionDenied).contains("install -d -m 0700 -o "));
        assert!(of(ErrorKind::ReadOnlyFilesystem).contains("ReadWritePaths="));
        let inside = |kind: ErrorKind| {
            let error = OpenError::Io { path: "/data/outbox/lock".into(), source: kind.into() };
            DataDirError::Outbox { path: "/data".into(), error }.to_string()
        };
        let told = inside(ErrorKind::PermissionDenied);
        assert!(
            told.contains("[host] data_dir /data: /data/outbox/lock: permission denied\n") && told.contains("chown -R")
        );
        assert!(inside(ErrorKind::ResourceBusy).contains("`fuser -v /data/outbox/lock`"));
        assert!(inside(ErrorKind::OutOfMemory).contains("memory"));
    }
}
