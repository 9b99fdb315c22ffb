//! What SQLite's errors say: whether a file is damaged, or only cannot be had now, and is to stay where it is.

use std::io;

use rusqlite::ErrorCode;

/// What keeps SQLite from a file that may be whole; `None` where the file is not what it should be.
pub(crate) fn refusal(error: &rusqlite::Error) -> Option<io::ErrorKind> {
    match error.sqlite_error_code()? {
        ErrorCode::CannotOpen | ErrorCode::ReadOnly | ErrorCode::PermissionDenied => {
            Some(io::ErrorKind::PermissionDenied)
        }
        ErrorCode::DiskFull => Some(io::ErrorKind::StorageFull),
        // A failing disk, or a file that may be read only.
        ErrorCode::SystemIoFailure => Some(io::ErrorKind::Other),
        // Another program has it open.
        ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked | ErrorCode::FileLockingProtocolFailed => {
            Some(io::ErrorKind::ResourceBusy)
        }
        ErrorCode::OutOfMemory => Some(io::ErrorKind::OutOfMemory),
        _ => None,
    }
}
