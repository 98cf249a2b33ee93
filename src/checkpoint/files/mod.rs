//! All file operations of `checkpoint`, in one place, so that it is easy to see
//! what reaches the disk in which order.
//!
//! [`NewFile`] is a file that replaces another one, [`SourceFile`] one that is
//! read, [`LiveFile`] one that is written through a mapping. Every operation
//! calls [`attempt`], with which tests make operations fail and record them.

mod claims;
mod identity;
mod live;
mod locks;
#[cfg(test)]
pub(crate) mod machine;
mod new;
mod source;
mod space;
mod target;
#[cfg(test)]
pub(crate) mod test_double;

pub(super) use identity::{Boot, Identity};
pub(super) use live::{map_private, LiveFile};
pub(super) use new::NewFile;
pub(crate) use source::Access;
pub(super) use source::SourceFile;

use std::io;
use std::path::Path;

use crate::error::{Error, Result};

/// What an operation changes on the disk, for the tests' record.
#[derive(Debug, Clone, Copy)]
#[cfg_attr(not(test), allow(dead_code))]
pub(super) enum Effect<'a> {
    /// Nothing.
    None,
    /// A new, empty file has this name.
    Create,
    /// Bytes are in the file, but perhaps not on disk.
    Write { offset: u64, bytes: &'a [u8] },
    /// The file has this length, and its space is allocated.
    Allocate { length: u64 },
    /// Everything that was written to the file is on disk.
    SyncFile,
    /// These bytes of a mapped file are on disk.
    SyncMapping { offset: u64, length: u64 },
    /// All changes of names in the directory are on disk.
    SyncDirectory,
    /// The file has a new name, and replaces the file that had it.
    Rename { to: &'a Path },
    /// The name is removed.
    Remove,
}

/// Runs one file operation, again if a signal interrupts it.
pub(super) fn attempt<T>(
    operation: &'static str,
    path: &Path,
    effect: Effect<'_>,
    mut run: impl FnMut() -> io::Result<T>,
) -> Result<T> {
    let _ = effect;
    #[cfg(test)]
    test_double::before(path, effect);
    #[cfg(test)]
    let mut run = || match test_double::strike() {
        Some(error) => Err(error),
        None => run().inspect(|_| test_double::note(path, effect)),
    };
    loop {
        match run() {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Ok(done) => return Ok(done),
            Err(source) => {
                return Err(Error::Io {
                    operation,
                    path: path.to_owned(),
                    source,
                })
            }
        }
    }
}

/// The directory that contains a file's name.
fn directory_of(file: &Path) -> &Path {
    match file.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}
