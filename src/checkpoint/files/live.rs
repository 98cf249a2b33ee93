//! Files that are mapped.

use std::fs::{self, File, Metadata};
use std::io::{self, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::locks::is_same;
use super::{attempt, Effect, SourceFile};
use crate::checkpoint::mapping::Mapping;
use crate::error::Result;

/// A locked file that is written through its mapping.
#[derive(Debug)]
pub(in super::super) struct LiveFile {
    path: PathBuf,
    metadata: Metadata,
    mapping: Arc<Mapping>,
}

impl LiveFile {
    /// Maps a locked file of `length` bytes, the length that its header says.
    /// Allocates all its space on disk first, so that no store can fail for lack
    /// of space.
    pub(in super::super) fn map(mut file: File, path: &Path, length: u64) -> Result<LiveFile> {
        allocate(&mut file, path, length)?;
        let metadata = attempt("open", path, Effect::None, || file.metadata())?;
        let mapping = attempt("map", path, Effect::None, || Mapping::shared(file, length))?;
        Ok(LiveFile {
            path: path.to_owned(),
            metadata,
            mapping: Arc::new(mapping),
        })
    }

    pub(in super::super) fn path(&self) -> &Path {
        &self.path
    }

    pub(in super::super) fn mapping(&self) -> &Arc<Mapping> {
        &self.mapping
    }

    /// Writes these bytes of the mapping to disk.
    pub(in super::super) fn sync(&self, offset: u64, length: u64) -> Result<()> {
        let effect = Effect::SyncMapping { offset, length };
        attempt("sync", &self.path, effect, || {
            self.mapping.flush(offset as usize, length as usize)
        })
    }

    /// Whether a path leads to this file.
    pub(in super::super) fn is_at(&self, path: &Path) -> bool {
        fs::metadata(path).is_ok_and(|named| is_same(&named, &self.metadata))
    }
}

/// Maps a file copy-on-write.
pub(in super::super) fn map_private(file: SourceFile) -> Result<Mapping> {
    let length = file.length();
    let (file, path) = file.into_parts();
    attempt("map", &path, Effect::None, || {
        Mapping::private(file, length)
    })
}

/// Gives a file this length and allocates all its space on disk. New bytes are
/// zero; the position in the file is unspecified afterwards.
pub(super) fn allocate(file: &mut File, path: &Path, length: u64) -> Result<()> {
    attempt("allocate", path, Effect::Allocate { length }, || {
        #[cfg(target_os = "linux")]
        {
            use rustix::fs::{fallocate, FallocateFlags};
            use rustix::io::Errno;
            match fallocate(&file, FallocateFlags::empty(), 0, length) {
                Err(Errno::OPNOTSUPP | Errno::NOSYS) => {}
                allocated => return allocated.map_err(io::Error::from),
            }
        }
        fill(file, length)
    })
}

/// Appends zeros up to this length, which allocates their space.
fn fill(file: &mut File, length: u64) -> io::Result<()> {
    let zeros = vec![0; 1 << 20];
    let mut position = file.seek(SeekFrom::End(0))?;
    while position < length {
        let piece = zeros.len().min((length - position) as usize);
        file.write_all(&zeros[..piece])?;
        position += piece as u64;
    }
    Ok(())
}
