//! A file of the disk that can be crashed.

use std::io;

use super::{Change, FileState, Handle};
use crate::outbox::locked;
use crate::outbox::log::file::DiskFile;

// === impl Handle ===

impl Handle {
    fn with<T>(&self, act: impl FnOnce(&mut FileState) -> io::Result<T>) -> io::Result<T> {
        let mut world = locked(&self.disk.world);
        world.check(Some(self.life))?;
        act(world.files.get_mut(&self.file).ok_or(io::ErrorKind::NotFound)?)
    }
}

impl DiskFile for Handle {
    fn len(&self) -> io::Result<u64> {
        self.with(|file| Ok(file.content.len() as u64))
    }

    fn read_at(&self, buffer: &mut [u8], at: u64) -> io::Result<()> {
        let from = usize::try_from(at).unwrap_or(usize::MAX);
        let bad = locked(&self.disk.world).bad.clone().filter(|(file, _)| *file == self.file);
        if bad.is_some_and(|(_, bytes)| bytes.start < from + buffer.len() && from < bytes.end) {
            return Err(io::Error::from_raw_os_error(5));
        }
        self.with(|file| {
            let found = file.content.get(from..).and_then(|rest| rest.get(..buffer.len()));
            buffer.copy_from_slice(found.ok_or(io::ErrorKind::UnexpectedEof)?);
            Ok(())
        })
    }

    fn write_at(&self, bytes: &[u8], at: u64) -> io::Result<()> {
        self.disk.change(Some(self.life), |world| {
            let at = usize::try_from(at).unwrap_or(usize::MAX);
            let file = world.files.get_mut(&self.file).ok_or(io::ErrorKind::NotFound)?;
            let failure = if world.fail_writes || world.broken == Some(self.file) {
                Some(io::Error::from_raw_os_error(5))
            } else if world.full && at + bytes.len() > file.content.len() {
                Some(io::ErrorKind::StorageFull.into())
            } else {
                None
            };
            if let Some(failure) = failure {
                // Half of it may be there all the same.
                file.write(bytes.get(..bytes.len() / 2).unwrap_or_default(), at);
                return Err(failure);
            }
            file.write(bytes, at);
            Ok(())
        })
    }

    fn sync(&self) -> io::Result<()> {
        self.disk.change(Some(self.life), |world| {
            let (fails, crashed) = (world.fail_syncs, world.crashed);
            let file = world.files.get_mut(&self.file).ok_or(io::ErrorKind::NotFound)?;
            if fails {
                // As a kernel does it: the pages count as written from now on and can still be read, and no later sync
                // says that they never reached the disk.
                file.unsynced.clear();
                return Err(io::Error::from_raw_os_error(5));
            }
            if !crashed {
                file.sync();
            }
            Ok(())
        })
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.disk.change(Some(self.life), |world| {
            let len = usize::try_from(len).unwrap_or(usize::MAX);
            let file = world.files.get_mut(&self.file).ok_or(io::ErrorKind::NotFound)?;
            file.content.resize(len, 0);
            file.unsynced.push(Change::Len(len));
            Ok(())
        })
    }
}
