//! Compiled code on disk, by the content it was made from. The one place that hands machine code to the engine, which
//! believes it, and the reason why that is sound.
//!
//! An entry is `<SHA-256 of the component>-<hash of the engine>.cwasm` with the SHA-256 of itself beside it. Both are
//! written by temporary file and rename. Whatever does not match counts as absent and is made again.

use std::collections::HashSet;
use std::fs::{self, DirBuilder, File};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::fs::{Timespec, Timestamps, UTIME_NOW, futimens};
use sha2::{Digest, Sha256};
use wasmtime::Engine;
use wasmtime::component::Component;

use super::StartError;

/// Bytes of code that are kept. What is in use counts and stays, be it more; of the rest the longest unused goes first.
const BYTES_MAX: u64 = 4 << 30;
/// Bytes of new code after which it is looked at again whether there is too much: to look at many files takes a while.
const GROWTH_MAX: u64 = 256 << 20;
/// Of a file of code.
const CODE_EXTENSION: &str = "cwasm";
/// Of the file beside the code that has its SHA-256.
const DIGEST_EXTENSION: &str = "sha256";

/// A folder of compiled code that only this user writes.
pub(super) struct Cache {
    dir: PathBuf,
    /// Of all settings of the engine that code depends on.
    engine_hash: u64,
    /// Bytes written since it was last looked at whether there is too much. Begins at `growth_max`: nobody knows what is there.
    grown: AtomicU64,
    pub(super) bytes_max: u64,
    pub(super) growth_max: u64,
}

/// SHA-256 of a component.
pub(super) type ContentHash = [u8; 32];

/// SHA-256 of a component.
pub(super) fn content_hash(bytes: &[u8]) -> ContentHash {
    Sha256::digest(bytes).into()
}

// === impl Cache ===

impl Cache {
    /// Opens or makes the folder; refuses one that others may write to.
    pub(super) fn open(dir: &Path, engine: &Engine) -> Result<Self, StartError> {
        let failed = |error| StartError::CacheDir { path: dir.to_owned(), error };
        DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(failed)?;
        let metadata = fs::symlink_metadata(dir).map_err(failed)?;
        let ours = metadata.uid() == rustix::process::geteuid().as_raw();
        if !ours || !metadata.is_dir() || metadata.mode() & 0o077 != 0 {
            return Err(StartError::CacheDirShared(dir.to_owned()));
        }
        let mut hasher = DefaultHasher::new();
        engine.precompile_compatibility_hash().hash(&mut hasher);
        Ok(Self {
            dir: dir.to_owned(),
            engine_hash: hasher.finish(),
            grown: AtomicU64::new(GROWTH_MAX),
            bytes_max: BYTES_MAX,
            growth_max: GROWTH_MAX,
        })
    }

    /// Whether so much was written since the last time that it is worth a look; who is told so looks.
    pub(super) fn has_grown(&self) -> bool {
        let is_much = |bytes: u64| bytes >= self.growth_max;
        is_much(self.grown.load(Ordering::Relaxed)) && is_much(self.grown.swap(0, Ordering::Relaxed))
    }

    /// Removes the longest unused code until the rest is not too much, but for `used`: what accounts use, and what is being
    /// compiled. Blocks while the folder is read.
    pub(super) fn prune(&self, used: &HashSet<ContentHash>) {
        if let Err(error) = self.remove_unused(used) {
            let dir = self.dir.display();
            tracing::warn!(target: "filter", %dir, %error, "old compiled filters could not be removed");
        }
    }

    /// The component compiled before, if it is here and unchanged.
    pub(super) fn load(&self, engine: &Engine, hash: &ContentHash) -> Option<Component> {
        let path = self.path(hash);
        let expected = fs::read(digest_path(&path)).ok()?;
        let mut file = File::open(&path).ok()?;
        let mut code = Vec::new();
        file.read_to_end(&mut code).ok()?;
        if expected != content_hash(&code) {
            tracing::warn!(target: "filter", file = %path.display(), "compiled code is damaged and is made again");
            return None;
        }
        let now = Timespec { tv_sec: 0, tv_nsec: UTIME_NOW };
        // The time of the last use, for `prune`.
        let _ = futimens(&file, &Timestamps { last_access: now, last_modification: now });
        // SAFETY: `deserialize_file` wants a file that this engine's compiler made and that nobody changes while it is
        // mapped. Only `store` writes here, with what the compiler answered, into a folder that belongs to our user and
        // that no other may even enter (checked in `open`); its digest, kept apart from it, has just been found right,
        // so it is complete and undamaged. It is replaced by rename and removed by unlink, never written in place. Who
        // could still change it is our own user, who may change this executable as well. Code of another version or
        // other settings has another name, and the engine compares both again itself.
        #[allow(unsafe_code)]
        let loaded = unsafe { Component::deserialize_file(engine, &path) };
        loaded
            .inspect_err(
                |error| tracing::warn!(target: "filter", %error, "compiled code does not load and is made again"),
            )
            .ok()
    }

    /// Keeps fresh code and loads it from where it is kept; `None` if that cannot be.
    pub(super) fn store(&self, engine: &Engine, hash: &ContentHash, code: &[u8]) -> Option<Component> {
        if let Err(error) = self.write(hash, code) {
            tracing::warn!(target: "filter", dir = %self.dir.display(), %error, "compiled code is not kept");
            return None;
        }
        self.load(engine, hash)
    }

    fn path(&self, hash: &ContentHash) -> PathBuf {
        self.dir.join(format!("{}-{:016x}.{CODE_EXTENSION}", hex::encode(hash), self.engine_hash))
    }

    fn write(&self, hash: &ContentHash, code: &[u8]) -> io::Result<()> {
        let path = self.path(hash);
        // Not synced: what a power cut leaves is not what the digest says, as is a new digest beside the old code.
        self.replace(&path, code)?;
        self.grown.fetch_add(code.len() as u64, Ordering::Relaxed);
        self.replace(&digest_path(&path), &content_hash(code))
    }

    fn replace(&self, path: &Path, bytes: &[u8]) -> io::Result<()> {
        let temporary = path.with_added_extension(temporary_extension());
        let written = File::options()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&temporary)
            .and_then(|mut file| file.write_all(bytes))
            .and_then(|()| fs::rename(&temporary, path));
        if written.is_err() {
            let _ = fs::remove_file(&temporary);
        }
        written
    }

    fn remove_unused(&self, used: &HashSet<ContentHash>) -> io::Result<()> {
        let mut files = Vec::new();
        for entry in fs::read_dir(&self.dir)? {
            let entry = entry?;
            // Another thread's temporary file may have its name by now.
            let Some(metadata) = unless_gone(entry.metadata())? else { continue };
            let path = entry.path();
            if path.extension().is_none_or(|extension| extension != DIGEST_EXTENSION) {
                files.push((metadata.modified()?, metadata.len(), path));
            }
        }
        files.sort();
        let mut kept: u64 = files.iter().map(|(_, bytes, _)| bytes).sum();
        for (_, bytes, path) in files {
            if kept <= self.bytes_max {
                break;
            }
            if self.hash_of(&path).is_some_and(|hash| used.contains(&hash)) {
                continue;
            }
            let _ = fs::remove_file(digest_path(&path));
            if unless_gone(fs::remove_file(path))?.is_some() {
                kept -= bytes;
            }
        }
        Ok(())
    }

    /// Of which component a file is, if this engine loads it or this process is writing it.
    fn hash_of(&self, path: &Path) -> Option<ContentHash> {
        let (hash, rest) = path.file_name()?.to_str()?.split_once('-')?;
        let extension = rest.strip_prefix(&format!("{:016x}.", self.engine_hash))?;
        let is_alive = extension == CODE_EXTENSION || extension.ends_with(&format!(".{}", temporary_extension()));
        let mut bytes = ContentHash::default();
        hex::decode_to_slice(hash, &mut bytes).ok().filter(|()| is_alive)?;
        Some(bytes)
    }
}

/// Loads code that the compiler has just answered with.
pub(super) fn load_fresh(engine: &Engine, code: &[u8]) -> wasmtime::Result<Component> {
    // SAFETY: `deserialize` wants bytes that this engine's compiler made: `code` is its answer, which has not left this
    // process since. (The one caller is the library, right after compiling.)
    #[allow(unsafe_code)]
    unsafe {
        Component::deserialize(engine, code)
    }
}

/// What came of a file; `None` if it is there no more.
fn unless_gone<T>(done: io::Result<T>) -> io::Result<Option<T>> {
    match done {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        done => done.map(Some),
    }
}

/// Of a file that this process is writing, behind the name that it will have.
fn temporary_extension() -> String {
    format!("{}.tmp", std::process::id())
}

fn digest_path(path: &Path) -> PathBuf {
    path.with_extension(DIGEST_EXTENSION)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::os::unix::fs::PermissionsExt;

    use super::*;
    use crate::filter::engine;

    struct Fixture {
        _dir: tempfile::TempDir,
        engine: Engine,
        cache: Cache,
        component: Vec<u8>,
    }

    impl Fixture {
        fn new() -> Self {
            let dir = tempfile::tempdir().unwrap();
            let engine = engine::compiling().unwrap();
            let cache = Cache::open(&dir.path().join("filters"), &engine).unwrap();
            Self { cache, engine, component: wat::parse_str("(component)").unwrap(), _dir: dir }
        }

        fn store(&self) -> PathBuf {
            let hash = content_hash(&self.component);
            let code = self.engine.precompile_component(&self.component).unwrap();
            let stored = self.cache.store(&self.engine, &hash, &code);
            assert_eq!(stored.is_some(), self.cache.dir.exists());
            self.cache.path(&hash)
        }

        fn loads(&self) -> bool {
            self.cache.load(&self.engine, &content_hash(&self.component)).is_some()
        }
    }

    #[test]
    fn what_was_stored_is_loaded() {
        let fixture = Fixture::new();
        assert!(!fixture.loads());
        let path = fixture.store();
        assert!(fixture.loads());
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
        assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), 2, "no temporary files");
    }

    #[test]
    fn one_flipped_bit_or_a_missing_digest_counts_as_absent() {
        let fixture = Fixture::new();
        let path = fixture.store();
        let mut bytes = fs::read(&path).unwrap();
        *bytes.last_mut().unwrap() ^= 1;
        fs::write(&path, &bytes).unwrap();
        assert!(!fixture.loads());
        fixture.store();
        assert!(fixture.loads());
        fs::remove_file(digest_path(&path)).unwrap();
        assert!(!fixture.loads());
    }

    #[test]
    fn a_folder_that_others_may_enter_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let engine = engine::compiling().unwrap();
        assert!(matches!(Cache::open(dir.path(), &engine), Err(StartError::CacheDirShared(_))));
    }

    #[test]
    fn the_longest_unused_code_goes_first() {
        let mut fixture = Fixture::new();
        let old = fixture.cache.dir.join("old.cwasm");
        fs::write(&old, vec![0; 1_000]).unwrap();
        File::open(&old).unwrap().set_modified(std::time::UNIX_EPOCH).unwrap();
        let path = fixture.store();
        fixture.cache.bytes_max = fs::metadata(&path).unwrap().len() + 100;
        fixture.cache.prune(&HashSet::new());
        assert!(!old.exists() && fixture.loads());
    }

    #[test]
    fn in_use_is_only_what_this_engine_loads_or_this_process_writes() {
        let mut fixture = Fixture::new();
        let path = fixture.store();
        let (folder, name) = (path.parent().unwrap(), path.file_name().unwrap().to_str().unwrap());
        let hash = hex::encode(content_hash(&fixture.component));
        let own = std::process::id();
        let stay = [name.to_owned(), format!("{name}.{own}.tmp")];
        let go = [format!("{hash}-0123456789abcdef.cwasm"), format!("{name}.{}.tmp", own + 1)];
        for file in stay.iter().skip(1).chain(&go) {
            fs::write(folder.join(file), [0; 9]).unwrap();
        }
        fixture.cache.bytes_max = 0;
        fixture.cache.prune(&HashSet::from([content_hash(&fixture.component)]));
        assert!(stay.iter().all(|file| folder.join(file).exists()));
        assert!(!go.iter().any(|file| folder.join(file).exists()), "another engine's, and what a killed process left");
    }

    #[test]
    fn files_that_others_finish_meanwhile_end_no_tidying() {
        let mut fixture = Fixture::new();
        fixture.cache.bytes_max = 0;
        let (cache, path) = (&fixture.cache, fixture.cache.dir.join("other.cwasm"));
        let done = std::sync::atomic::AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !done.load(Ordering::Relaxed) {
                    // What it wrote may be gone before it has its name.
                    let _ = cache.replace(&path, &[0]);
                }
            });
            let tidied: Vec<_> = (0..6_000).map(|_| cache.remove_unused(&HashSet::new())).collect();
            done.store(true, Ordering::Relaxed);
            assert!(tidied.iter().all(Result::is_ok), "{:?}", tidied.iter().find(|tidied| tidied.is_err()));
        });
    }

    #[test]
    fn a_folder_that_cannot_be_written_costs_only_the_cache() {
        let fixture = Fixture::new();
        fs::remove_dir_all(&fixture.cache.dir).unwrap();
        fixture.store();
        assert!(!fixture.loads());
    }
}
