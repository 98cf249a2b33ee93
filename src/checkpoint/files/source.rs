//! Files that are read.

use std::fs::{self, File, OpenOptions};
use std::path::{Path, PathBuf};

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
pub(in super::super) struct SourceFile {
    file: File,
    path: PathBuf,
    length: u64,
}

impl SourceFile {
    /// Opens a regular file.
    pub(in super::super) fn open(path: &Path, access: Access) -> Result<SourceFile> {
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
            file,
            path: path.to_owned(),
            length,
        })
    }

    /// What tells this file from copies of it.
    pub(in super::super) fn identity(&self) -> Result<Identity> {
        attempt("open", &self.path, Effect::None, || {
            Identity::of(&self.file)
        })
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
            #[cfg(unix)]
            {
                use std::os::unix::fs::FileExt;
                self.file.read_exact_at(dst, offset)
            }
            #[cfg(not(unix))]
            {
                use std::io::{Read, Seek, SeekFrom};
                static POSITION: std::sync::Mutex<()> = std::sync::Mutex::new(());
                let _only = POSITION.lock();
                let mut file = &self.file;
                file.seek(SeekFrom::Start(offset))?;
                file.read_exact(dst)
            }
        })
    }

    /// Locks a live file: exclusively to write it, shared with other readers to
    /// read it. Refused while any process, this one included, holds a
    /// conflicting lock.
    pub(in super::super) fn lock(&self, access: Access) -> Result<()> {
        must_lock(&self.file, &self.path, access == Access::Live)?;
        // The lock is on the file, not on its name, and the name may now belong
        // to another file.
        let named = attempt("open", &self.path, Effect::None, || {
            fs::metadata(&self.path)
        })?;
        let own = attempt("open", &self.path, Effect::None, || self.file.metadata())?;
        if !is_same(&named, &own) {
            return Err(Error::FileLocked {
                path: self.path.clone(),
            });
        }
        Ok(())
    }

    /// The open file and its path.
    pub(in super::super) fn into_parts(self) -> (File, PathBuf) {
        (self.file, self.path)
    }
}
