//! Files that are read.

use std::fs::{self, File, OpenOptions};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use super::super::MEMORY;
use super::locks::{is_same, must_lock};
use super::{attempt, Effect, Identity};
use crate::error::{Error, Result};

/// The purpose of an open file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Access {
    Read,
    /// To be mapped and written through the mapping.
    Live,
}

/// A file that is read.
#[derive(Debug)]
pub(in super::super) struct SourceFile<'a> {
    bytes: Bytes<'a>,
    path: PathBuf,
    length: u64,
}

/// Where the bytes of a file are.
#[derive(Debug)]
enum Bytes<'a> {
    File(File),
    Memory(&'a [u8]),
}

impl<'a> SourceFile<'a> {
    /// A file that is in memory. It is like a copy of one.
    pub(in super::super) fn in_memory(bytes: &'a [u8]) -> Self {
        SourceFile {
            bytes: Bytes::Memory(bytes),
            path: MEMORY.into(),
            length: bytes.len() as u64,
        }
    }

    /// Opens a regular file.
    pub(in super::super) fn open(path: &Path, access: Access) -> Result<SourceFile<'static>> {
        // This is checked before opening, because opening a pipe would block
        // until another process writes to it.
        let metadata = attempt("open", path, Effect::None, || fs::metadata(path))?;
        if !metadata.is_file() {
            return Err(Error::NotACheckpoint {
                path: path.to_owned(),
                reason: "it is not a regular file".to_owned(),
            });
        }
        let file = attempt("open", path, Effect::None, || {
            OpenOptions::new()
                .read(true)
                .write(access == Access::Live)
                .open(path)
        })?;
        let length = attempt("open", path, Effect::None, || file.metadata())?.len();
        Ok(SourceFile {
            bytes: Bytes::File(file),
            path: path.to_owned(),
            length,
        })
    }

    /// What tells this file from copies of it.
    pub(in super::super) fn identity(&self) -> Result<Identity> {
        match &self.bytes {
            Bytes::File(file) => attempt("open", &self.path, Effect::None, || Identity::of(file)),
            Bytes::Memory(_) => Ok(Identity::NONE),
        }
    }

    /// The path by which the file was opened.
    pub(in super::super) fn path(&self) -> &Path {
        &self.path
    }

    /// Its size when it was opened.
    pub(in super::super) fn length(&self) -> u64 {
        self.length
    }

    /// Fills `dst` with the bytes from this offset on. Several threads may read
    /// at the same time.
    pub(in super::super) fn read_at(&self, offset: u64, dst: &mut [u8]) -> Result<()> {
        attempt("read", &self.path, Effect::None, || {
            let file = match &self.bytes {
                Bytes::File(file) => file,
                Bytes::Memory(bytes) => {
                    let bytes = bytes
                        .get(offset as usize..)
                        .and_then(|b| b.get(..dst.len()));
                    dst.copy_from_slice(bytes.ok_or(ErrorKind::UnexpectedEof)?);
                    return Ok(());
                }
            };
            #[cfg(unix)]
            {
                use std::os::unix::fs::FileExt;
                file.read_exact_at(dst, offset)
            }
            #[cfg(not(unix))]
            {
                use std::io::{Read, Seek, SeekFrom};
                static POSITION: std::sync::Mutex<()> = std::sync::Mutex::new(());
                let _only = POSITION.lock();
                let mut file = file;
                file.seek(SeekFrom::Start(offset))?;
                file.read_exact(dst)
            }
        })
    }

    /// Locks a live file: exclusively to write it, shared with other readers to
    /// read it. Refused while any process, this one included, holds a
    /// conflicting lock.
    pub(in super::super) fn lock(&self, access: Access) -> Result<()> {
        let Bytes::File(file) = &self.bytes else {
            return Ok(());
        };
        must_lock(file, &self.path, access == Access::Live)?;
        // The lock is on the file, not on its name, and the name may now belong
        // to another file.
        let named = attempt("open", &self.path, Effect::None, || {
            fs::metadata(&self.path)
        })?;
        let own = attempt("open", &self.path, Effect::None, || file.metadata())?;
        if !is_same(&named, &own) {
            return Err(Error::FileLocked {
                path: self.path.clone(),
            });
        }
        Ok(())
    }

    /// The open file and its path. What is in memory cannot be mapped.
    pub(in super::super) fn into_parts(self) -> Result<(File, PathBuf)> {
        match self.bytes {
            Bytes::File(file) => Ok((file, self.path)),
            Bytes::Memory(_) => Err(Error::MappedMemory),
        }
    }
}
