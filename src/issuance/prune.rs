//! What is left of names that are not in the configuration any more: removed once it is of no use to anybody.

use std::fs::{self, DirEntry};
use std::io;
use std::path::Path;
use std::time::{Duration, UNIX_EPOCH};

use crate::account::ServerName;
use crate::tls::chain::Chain;
use crate::tls::keep::{FILES, LIVE, remove_if};

/// How long after its end a certificate is kept, and what was begun and never came to anything: a name may come back.
const KEPT: Duration = Duration::from_secs(7 * 24 * 60 * 60);

/// Removes the folders of names that nobody wants and whose certificate has ended. What is called otherwise than a server
/// name is not ours, nor are wildcards: they are left alone. Says how many. `is_wanted` is asked again of each name when it
/// is about to go.
///
/// # Errors
/// What was wrong first: a folder that cannot be read or removed keeps no other.
pub(super) fn prune(certs_dir: &Path, is_wanted: impl Fn(&ServerName) -> bool, now_ms: i64) -> io::Result<usize> {
    let entries = match fs::read_dir(certs_dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(0),
        entries => entries?,
    };
    let (mut pruned, mut wrong) = (0, Ok(()));
    for entry in entries {
        match entry.and_then(|entry| prune_one(certs_dir, &entry, &is_wanted, now_ms)) {
            Ok(is_gone) => pruned += usize::from(is_gone),
            Err(error) => wrong = wrong.and(Err(error)),
        }
    }
    wrong.map(|()| pruned)
}

fn prune_one(
    certs_dir: &Path,
    entry: &DirEntry,
    is_wanted: impl Fn(&ServerName) -> bool,
    now_ms: i64,
) -> io::Result<bool> {
    let folder = entry.file_name();
    let Some(name) = folder.to_str().and_then(own_name) else { return Ok(false) };
    if !entry.file_type()?.is_dir() || is_wanted(&name) {
        return Ok(false);
    }
    let is_gone = remove_if(certs_dir, name.as_str(), |folder| Ok(has_ended(folder, now_ms)? && !is_wanted(&name)))?;
    if is_gone {
        tracing::info!(%name, "the certificate and the key of a name that left the configuration were removed");
    }
    Ok(is_gone)
}

/// The server name that a folder is called by, in the one form in which we write it.
fn own_name(folder: &str) -> Option<ServerName> {
    folder.parse().ok().filter(|name: &ServerName| name.as_str() == folder)
}

/// Whether nothing in a name's folder is of use any more: what is live has ended long ago, or there is nothing live and
/// nobody has touched the folder for as long. Files beside `live` are the operator's, whose `certs_dir` may be this folder.
fn has_ended(folder: &Path, now_ms: i64) -> io::Result<bool> {
    for file in FILES.as_flattened() {
        if folder.join(file).try_exists()? {
            return Ok(false);
        }
    }
    let [[chain, _], _] = FILES;
    let ended = match fs::read(folder.join(LIVE).join(chain)) {
        Ok(pem) => Chain::from_pem(&pem).and_then(|chain| chain.leaf()).map(|leaf| leaf.not_after),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let touched = fs::metadata(folder)?.modified()?;
            // A time before 1970 is as good as 1970.
            let since = touched.duration_since(UNIX_EPOCH).unwrap_or_default();
            i64::try_from(since.as_secs()).ok()
        }
        Err(error) => return Err(error),
    };
    let kept = i64::try_from(KEPT.as_secs()).unwrap_or(i64::MAX);
    // What cannot be read may be worth something to a person.
    Ok(ended.is_some_and(|ended| ended.saturating_add(kept) < now_ms / 1_000))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::os::unix::fs::symlink;
    use std::time::SystemTime;

    use super::*;
    use crate::issuance::store::{KeyKind, Store};
    use crate::tls::testing::Issued;

    #[test]
    fn a_name_that_comes_back_meanwhile_stays() {
        let dir = tempfile::tempdir().unwrap();
        Issued::valid(&["a.example"], 2020, 2022).write(&dir.path().join("a.example"), "live");
        let asked = std::cell::Cell::new(0);
        let comes_back = |_: &ServerName| asked.replace(asked.get() + 1) > 0;
        assert_eq!(prune(dir.path(), comes_back, i64::MAX).unwrap(), 0);
        assert!(dir.path().join("a.example/live/chain.pem").exists());
    }

    #[test]
    fn what_is_begun_while_the_rest_is_removed_stays() {
        let dir = tempfile::tempdir().unwrap();
        let (store, name) = (Store::new(dir.path().to_owned()), "a.example".parse().unwrap());
        Issued::valid(&["a.example"], 2020, 2022).write(&dir.path().join("a.example"), "live");
        let begin = || {
            let stage = store.stage(&name).unwrap();
            stage.put_key(KeyKind::Ecdsa, "key").unwrap();
            stage
        };
        std::thread::scope(|scope| {
            let begun = std::cell::Cell::new(None);
            let asked = std::cell::Cell::new(0);
            // It comes back, and is begun, right after the last question.
            let is_wanted = |_: &ServerName| {
                if asked.replace(asked.get() + 1) > 0 {
                    let beginning = scope.spawn(begin);
                    for _ in 0..1_000 {
                        std::thread::yield_now();
                    }
                    begun.set(Some(beginning));
                }
                false
            };
            assert_eq!(prune(dir.path(), is_wanted, i64::MAX).unwrap(), 1);
            let stage = begun.take().unwrap().join().unwrap();
            assert_eq!(stage.key(KeyKind::Ecdsa).unwrap().as_deref(), Some("key"));
        });
    }

    #[test]
    fn a_folder_that_cannot_be_read_keeps_no_other() {
        let dir = tempfile::tempdir().unwrap();
        let gone = Issued::valid(&["a.example"], 2020, 2022);
        // The system lists them in an order of its own.
        for n in 0..12 {
            fs::create_dir_all(dir.path().join(format!("unreadable{n}.example/live/chain.pem"))).unwrap();
            gone.write(&dir.path().join(format!("gone{n}.example")), "live");
        }
        assert_eq!(prune(dir.path(), |_| false, i64::MAX).unwrap_err().kind(), io::ErrorKind::IsADirectory);
        let left = fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
        let left: Vec<_> = left.collect();
        assert!(left.len() == 12 && left.iter().all(|name| name.starts_with("unreadable")), "{left:?}");
    }

    #[test]
    fn only_what_is_of_no_use_goes() {
        let dir = tempfile::tempdir().unwrap();
        let put = |name: &str, until: i32| {
            Issued::valid(&["a.example"], 2020, until).write(&dir.path().join(name), "01");
            symlink("01", dir.path().join(name).join("live")).unwrap();
        };
        put("listed.example", 2022);
        put("gone.example", 2022);
        put("good.example", 2040);
        put("_.gone.example", 2022);
        // A person's own.
        put("backup", 2022);
        put("Old.example", 2022);
        put("both.example", 2022);
        fs::write(dir.path().join("both.example/key.rsa.pem"), "an operator's").unwrap();
        Issued::valid(&["operators.example"], 2020, 2022).write(dir.path(), "operators.example");
        fs::create_dir_all(dir.path().join("begun.example/pending")).unwrap();
        fs::create_dir_all(dir.path().join("broken.example/live")).unwrap();
        fs::write(dir.path().join("broken.example/live/chain.pem"), "x").unwrap();
        let left = || {
            let mut left: Vec<_> = fs::read_dir(dir.path())
                .unwrap()
                .map(|entry| entry.unwrap().file_name().into_string().unwrap())
                .collect();
            left.sort();
            left
        };
        let now_ms = i64::try_from(SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis()).unwrap();
        let is_wanted = |name: &ServerName| name.as_str() == "listed.example";
        assert_eq!(prune(dir.path(), is_wanted, now_ms).unwrap(), 1);
        let stays = ["Old.example", "_.gone.example", "backup", "begun.example", "both.example", "broken.example"];
        assert_eq!(left(), [&stays[..], &["good.example", "listed.example", "operators.example"]].concat());
        assert_eq!(prune(dir.path(), is_wanted, now_ms + 8 * 86_400_000).unwrap(), 1, "what was begun long ago");
        let stays = ["Old.example", "_.gone.example", "backup", "both.example", "broken.example"];
        assert_eq!(left(), [&stays[..], &["good.example", "listed.example", "operators.example"]].concat());
        assert_eq!(prune(&dir.path().join("none"), is_wanted, now_ms).unwrap(), 0);
    }
}
