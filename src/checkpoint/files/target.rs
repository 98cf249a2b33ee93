//! The file that a new one replaces.

use std::fs::{self, File};
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

use super::locks::{is_same, try_lock, Lock};
use super::{attempt, directory_of, Effect};
use crate::error::{Error, Result};

/// As many symbolic links as the system follows.
const LINKS: usize = 40;

/// Where a new file is put.
#[derive(Debug)]
pub(super) struct Target {
    /// The name, which is no symbolic link.
    pub(super) path: PathBuf,
    /// The mode of the file that is replaced, which the new one gets.
    pub(super) mode: Option<u32>,
}

impl Target {
    /// Follows symbolic links, also one that leads to no file yet. Refuses what is
    /// not a regular file, because it would be lost; and a file that something is
    /// mounted on, because it cannot be replaced.
    pub(super) fn find(path: &Path) -> Result<Target> {
        attempt("replace", path, Effect::None, || {
            let mut path = path.to_owned();
            for _ in 0..LINKS {
                let metadata = match fs::symlink_metadata(&path) {
                    Err(e) if e.kind() == ErrorKind::NotFound => {
                        return Ok(Target { path, mode: None });
                    }
                    Err(e) if e.kind() == ErrorKind::InvalidFilename => {
                        return Err(too_long(&path))
                    }
                    found => found?,
                };
                if metadata.is_symlink() {
                    path = directory_of(&path).join(fs::read_link(&path)?);
                    continue;
                }
                if !metadata.is_file() {
                    return Err(refusal("it is not a regular file"));
                }
                if is_mounted(&path) {
                    return Err(refusal(
                        "it is mounted by itself, and cannot be replaced: mount its folder",
                    ));
                }
                return Ok(Target {
                    path,
                    mode: mode(&metadata),
                });
            }
            Err(refusal("too many symbolic links"))
        })
    }

    /// Locks the file that is replaced, for as long as the result lives, so that
    /// no optimizer can begin to work on it. Refused if one does: it would lose all
    /// later steps.
    ///
    /// Checkpoints are locked, too, which does no harm: nobody else locks them.
    pub(super) fn hold(&self) -> Result<Option<File>> {
        let path = &self.path;
        let file = attempt("open", path, Effect::None, || match File::open(path) {
            // A file that may not be read cannot be one that is in use here.
            Err(e) if e.kind() == ErrorKind::PermissionDenied => Ok(None),
            Err(e) if e.kind() == ErrorKind::NotFound => Ok(None),
            opened => opened.map(Some),
        })?;
        let Some(file) = file else {
            return Ok(None);
        };
        let named = |file: &File| Ok(is_same(&file.metadata()?, &fs::symlink_metadata(path)?));
        // Without locks there are no live files in use.
        let refused = try_lock(&file, path, false)? == Lock::Refused;
        if refused || !attempt("open", path, Effect::None, || named(&file))? {
            return Err(Error::FileLocked { path: path.clone() });
        }
        Ok(Some(file))
    }
}

fn refusal(reason: &'static str) -> io::Error {
    io::Error::new(ErrorKind::InvalidInput, reason)
}

fn too_long(path: &Path) -> io::Error {
    let name = path.file_name().unwrap_or_default().len();
    let bytes = path.as_os_str().len();
    let reason = format!("the system takes no path of {bytes} bytes with a name of {name} bytes");
    io::Error::new(ErrorKind::InvalidFilename, reason)
}

/// Whether the file is a mount point, if the system says so.
fn is_mounted(path: &Path) -> bool {
    #[cfg(target_os = "linux")]
    {
        use rustix::fs::{statx, AtFlags, StatxAttributes, StatxFlags, CWD};
        let flags = AtFlags::SYMLINK_NOFOLLOW | AtFlags::NO_AUTOMOUNT;
        let found = statx(CWD, path, flags, StatxFlags::BASIC_STATS);
        found.is_ok_and(|found| found.stx_attributes.contains(StatxAttributes::MOUNT_ROOT))
    }
    #[cfg(not(target_os = "linux"))]
    {
        let _ = path;
        false
    }
}

#[cfg(unix)]
fn mode(metadata: &fs::Metadata) -> Option<u32> {
    use std::os::unix::fs::MetadataExt;
    Some(metadata.mode() & 0o7777)
}

#[cfg(not(unix))]
fn mode(_: &fs::Metadata) -> Option<u32> {
    None
}
