//! Files that are mapped.

use std::fs::{self, File};
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::locks::is_same;
use super::{attempt, space, Effect, Identity, SourceFile};
use crate::checkpoint::mapping::Mapping;
use crate::error::Result;

/// A locked file that is written through its mapping.
#[derive(Debug)]
pub(in super::super) struct LiveFile {
    path: PathBuf,
    mapping: Arc<Mapping>,
    identity: Identity,
}

impl LiveFile {
    /// Maps a locked file of `length` bytes, the length that its header says.
    /// Allocates all its space on disk first, so that no store can fail for lack
    /// of space.
    pub(in super::super) fn map(file: File, path: &Path, length: u64) -> Result<LiveFile> {
        space::allocate(&file, path, length)?;
        let identity = attempt("open", path, Effect::None, || Identity::of(&file))?;
        let map = attempt("map", path, Effect::None, || Mapping::shared(&file, length))?;
        Ok(LiveFile {
            path: path.to_owned(),
            mapping: Arc::new(Mapping::new(map, file)),
            identity,
        })
    }

    pub(in super::super) fn path(&self) -> &Path {
        &self.path
    }

    pub(in super::super) fn mapping(&self) -> &Arc<Mapping> {
        &self.mapping
    }

    pub(in super::super) fn identity(&self) -> Identity {
        self.identity
    }

    /// Writes these bytes of the mapping to disk.
    pub(in super::super) fn sync(&self, offset: u64, length: u64) -> Result<()> {
        let effect = Effect::SyncMapping { offset, length };
        attempt("sync", &self.path, effect, || {
            self.mapping.flush(offset as usize, length as usize)
        })
    }

    /// Refuses a file that has lost its last name, so that nobody can ever open it.
    pub(in super::super) fn check_name(&self) -> Result<()> {
        attempt("sync", &self.path, Effect::None, || {
            #[cfg(unix)]
            {
                use std::os::unix::fs::MetadataExt;
                if self.mapping.file().metadata()?.nlink() == 0 {
                    let reason = "it has been removed";
                    return Err(io::Error::new(ErrorKind::NotFound, reason));
                }
            }
            Ok(())
        })
    }

    /// Writes bytes that are in the mapping to the file once more. After a sync has
    /// failed, the system may take pages for written that are not.
    pub(in super::super) fn write_again(&self, bytes: &[u8]) -> Result<()> {
        #[cfg(unix)]
        if let Some(offset) = self.mapping.offset_of(bytes) {
            use std::os::unix::fs::FileExt;
            space::check_limit(&self.path, offset + bytes.len() as u64)?;
            let effect = Effect::Write { offset, bytes };
            attempt("write", &self.path, effect, || {
                self.mapping.file().write_all_at(bytes, offset)
            })?;
        }
        Ok(())
    }

    /// Whether a path leads to this file.
    pub(in super::super) fn is_at(&self, path: &Path) -> bool {
        let own = self.mapping.file().metadata();
        let same = |own| fs::metadata(path).is_ok_and(|named| is_same(&named, &own));
        own.is_ok_and(same)
    }
}

/// Maps a file copy-on-write.
pub(in super::super) fn map_private(file: SourceFile) -> Result<Mapping> {
    let length = file.length();
    let (file, path) = file.into_parts()?;
    let map = attempt("map", &path, Effect::None, || {
        Mapping::private(&file, length)
    })?;
    Ok(Mapping::new(map, file))
}
