//! Every file operation of this room, and nothing else: the one place to look
//! for what reaches the disk in which order.
//!
//! [`NewFile`] is a file that takes the place of another one, [`SourceFile`]
//! one that is read, [`LiveFile`] one that is mapped and written. Every
//! operation goes through [`attempt`], where tests let one fail, and note
//! what it does.

mod live;
mod locks;
mod new;
mod source;
#[cfg(test)]
pub(crate) mod test_double;

pub(super) use live::{map_private, LiveFile};
pub(super) use new::{refuse_in_use, NewFile};
pub(super) use source::{Access, SourceFile};

use std::io;
use std::path::Path;

use crate::error::{Error, Result};

/// What an operation does to what is on the disk, for the tests' record.
#[derive(Debug, Clone, Copy)]
#[cfg_attr(not(test), allow(dead_code))]
pub(super) enum Effect<'a> {
    /// Nothing.
    None,
    /// A new, empty file has this name.
    Create,
    /// Bytes are in the file, though perhaps not on the disk.
    Write { offset: u64, bytes: &'a [u8] },
    /// The file is so long, and has its space.
    Allocate { length: u64 },
    /// What was written to the file is on the disk.
    SyncFile,
    /// These bytes of a mapped file are.
    SyncMapping { offset: u64, length: u64 },
    /// Names that were given, changed and removed in the directory are.
    SyncDirectory,
    /// The file has another name, in the place of a file that had it.
    Rename { to: &'a Path },
    /// The name is gone.
    Remove,
}

/// Runs one file operation. Every one goes through here.
pub(super) fn attempt<T>(
    operation: &'static str,
    path: &Path,
    effect: Effect<'_>,
    run: impl FnOnce() -> io::Result<T>,
) -> Result<T> {
    let _ = effect;
    #[cfg(test)]
    let run = || match test_double::strike() {
        Some(error) => Err(error),
        None => run().inspect(|_| test_double::note(path, effect)),
    };
    run().map_err(|source| Error::Io {
        operation,
        path: path.to_owned(),
        source,
    })
}

/// The directory that a file's name is in.
fn directory_of(file: &Path) -> &Path {
    match file.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}
