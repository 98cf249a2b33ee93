//! Advisory locks, and comparisons of files.
//!
//! There are two kinds. A lock of a live file belongs to the open file: it ends when
//! the file is closed, and excludes other optimizers of the same process, too. A
//! lock of a temporary file belongs to the process: a child that is forked during a
//! save does not share it, so that it ends when the saver is killed.

use std::fs::{self, File, Metadata, TryLockError};
use std::io::{self, ErrorKind};
use std::path::Path;

use super::{attempt, Effect};
use crate::error::{Error, Result};

/// The outcome of asking for a lock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Lock {
    Held,
    /// Another process, or another open file, holds it.
    Refused,
    /// The file system does not support locks.
    Unsupported,
}

/// Asks for the lock of an open file, without waiting for it.
pub(super) fn try_lock(file: &File, path: &Path, exclusive: bool) -> Result<Lock> {
    attempt("lock", path, Effect::None, || {
        let asked = match exclusive {
            true => file.try_lock(),
            false => file.try_lock_shared(),
        };
        match asked {
            Ok(()) => Ok(Lock::Held),
            Err(TryLockError::WouldBlock) => Ok(Lock::Refused),
            Err(TryLockError::Error(e)) if has_no_locks(&e) => Ok(Lock::Unsupported),
            Err(TryLockError::Error(e)) => Err(e),
        }
    })
}

/// Asks for the lock of a process, without waiting for it. It ends when the process
/// closes any descriptor of the file. It does not exclude the own process, so that
/// a [`Claim`](super::claims::Claim) must come before it.
pub(super) fn try_own(file: &File, path: &Path) -> Result<Lock> {
    #[cfg(target_os = "linux")]
    return attempt("lock", path, Effect::None, || {
        use rustix::fs::{fcntl_lock, FlockOperation};
        use rustix::io::Errno;
        match fcntl_lock(file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Lock::Held),
            Err(Errno::AGAIN | Errno::ACCESS) => Ok(Lock::Refused),
            Err(error) if has_no_locks(&error.into()) => Ok(Lock::Unsupported),
            Err(error) => Err(error.into()),
        }
    });
    #[cfg(not(target_os = "linux"))]
    try_lock(file, path, true)
}

fn has_no_locks(error: &io::Error) -> bool {
    #[cfg(target_os = "linux")]
    if error.raw_os_error() == Some(rustix::io::Errno::NOLCK.raw_os_error()) {
        return true;
    }
    error.kind() == ErrorKind::Unsupported
}

/// Locks a live file, which must be locked to be used at all.
pub(super) fn must_lock(file: &File, path: &Path, exclusive: bool) -> Result<()> {
    match try_lock(file, path, exclusive)? {
        Lock::Held => Ok(()),
        Lock::Refused => Err(Error::FileLocked {
            path: path.to_owned(),
        }),
        Lock::Unsupported => Err(Error::Io {
            operation: "lock",
            path: path.to_owned(),
            source: io::Error::new(ErrorKind::Unsupported, "the file system has no locks"),
        }),
    }
}

/// Whether both describe the same file.
pub(super) fn is_same(a: &Metadata, b: &Metadata) -> bool {
    #[cfg(unix)]
    {
        use std::os::unix::fs::MetadataExt;
        (a.dev(), a.ino()) == (b.dev(), b.ino())
    }
    #[cfg(not(unix))]
    {
        let _ = (a, b);
        true
    }
}

/// Whether `path` is a name of this open file. Symbolic links are not followed.
pub(super) fn is_named(file: &File, path: &Path) -> io::Result<bool> {
    match fs::symlink_metadata(path) {
        Ok(named) => Ok(is_same(&file.metadata()?, &named)),
        Err(e) if e.kind() == ErrorKind::NotFound => Ok(false),
        Err(e) => Err(e),
    }
}
