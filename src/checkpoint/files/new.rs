//! Files that replace other files.

use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use super::locks::{is_named, try_lock, Lock};
use super::{attempt, directory_of, Effect};
use crate::error::{Error, Result};
use crate::memory::reserve;

/// Small writes are collected in a buffer of this size; larger ones bypass it.
const BUFFER: usize = 1 << 20;

/// After this many bytes the system is asked to start writing them to disk, so
/// that the disk works while the checksums of the next bytes are computed.
const AHEAD: u64 = 16 << 20;

/// Added to the target's name to make the temporary file's name.
const TEMPORARY_SUFFIX: &str = ".sonew-tmp";

/// How often creating the temporary file is tried while other processes create
/// and remove files of the same name.
const TRIES: usize = 100;

/// A file that replaces another one completely, or not at all.
///
/// It is written under a temporary name in the directory of its target, and
/// locked, so that a second save to the same target is refused. Dropping it
/// before [`commit`](NewFile::commit) removes the temporary file. A process that
/// is killed leaves it, unlocked, and the next save or open of the same target
/// removes it.
pub(in super::super) struct NewFile {
    file: File,
    buffer: Vec<u8>,
    /// The offset in the file where the buffer is to be written.
    position: u64,
    /// The offset up to which the system has been asked to start writing to disk.
    begun: u64,
    temporary: PathBuf,
    target: PathBuf,
    committed: bool,
}

impl NewFile {
    /// Creates the temporary file of `target`.
    pub(in super::super) fn create(target: &Path) -> Result<NewFile> {
        let temporary = attempt("create", target, Effect::None, || {
            temporary_of(target).ok_or_else(|| {
                io::Error::new(ErrorKind::InvalidInput, "the path does not end in a name")
            })
        })?;
        Ok(NewFile {
            buffer: {
                let mut buffer = Vec::new();
                reserve(&mut buffer, BUFFER, || "writing a file".to_owned())?;
                buffer
            },
            file: create_locked(&temporary)?,
            position: 0,
            begun: 0,
            temporary,
            target: target.to_owned(),
            committed: false,
        })
    }

    /// Continues writing at this offset in the file.
    pub(in super::super) fn seek(&mut self, offset: u64) -> Result<()> {
        self.flush()?;
        let file = &mut self.file;
        let seek = || file.seek(SeekFrom::Start(offset));
        attempt("write", &self.temporary, Effect::None, seek)?;
        (self.position, self.begun) = (offset, offset);
        Ok(())
    }

    /// Writes `bytes` where the last write ended.
    pub(in super::super) fn write(&mut self, bytes: &[u8]) -> Result<()> {
        if self.buffer.len() + bytes.len() > BUFFER {
            self.flush()?;
        }
        if bytes.len() >= BUFFER {
            return self.pass(bytes);
        }
        self.buffer.extend_from_slice(bytes);
        Ok(())
    }

    fn flush(&mut self) -> Result<()> {
        if self.buffer.is_empty() {
            return Ok(());
        }
        let mut buffer = std::mem::take(&mut self.buffer);
        let passed = self.pass(&buffer);
        buffer.clear();
        self.buffer = buffer;
        passed
    }

    fn pass(&mut self, bytes: &[u8]) -> Result<()> {
        let offset = self.position;
        let effect = Effect::Write { offset, bytes };
        let file = &mut self.file;
        attempt("write", &self.temporary, effect, || file.write_all(bytes))?;
        self.position += bytes.len() as u64;
        self.begin_to_sync();
        Ok(())
    }

    /// Asks the system to start writing to disk. This is only a hint: nothing
    /// depends on it, and it may fail.
    fn begin_to_sync(&mut self) {
        if self.position < self.begun + AHEAD {
            return;
        }
        #[cfg(target_os = "linux")]
        {
            use rustix::fs::{fadvise, Advice};
            use std::num::NonZeroU64;
            // For pages that are "not needed", Linux starts to write them to
            // disk, and drops them from its cache if they are already there.
            let length = NonZeroU64::new(self.position - self.begun);
            let _ = fadvise(&self.file, self.begun, length, Advice::DontNeed);
        }
        self.begun = self.position;
    }

    /// Gives the file this length, and allocates all its space on disk.
    pub(in super::super) fn allocate(&mut self, length: u64) -> Result<()> {
        self.flush()?;
        super::live::allocate(&mut self.file, &self.temporary, length)?;
        let position = self.position;
        self.seek(position)
    }

    /// Replaces the target by this file. When this returns, the file is on disk.
    /// If it fails, the target is unchanged, except if only the last sync failed:
    /// then the new file is in place, and a power failure may bring back the old
    /// one.
    pub(in super::super) fn commit(self) -> Result<()> {
        self.put_in_place(true).map(drop)
    }

    /// Like [`commit`](NewFile::commit), for a file that is used afterwards: it
    /// stays locked.
    pub(in super::super) fn commit_locked(self) -> Result<File> {
        self.put_in_place(false)
    }

    fn put_in_place(mut self, unlock: bool) -> Result<File> {
        self.flush()?;
        let (file, temporary, target) = (&self.file, &self.temporary, &self.target);
        let sync = || file.sync_all();
        attempt("sync", temporary, Effect::SyncFile, sync)?;
        // The file that is returned, which the tests' record knows under its
        // final name.
        let used = attempt("open", temporary, Effect::None, || file.try_clone())?;
        attempt("rename", temporary, Effect::Rename { to: target }, || {
            fs::rename(temporary, target)
        })?;
        self.committed = true;
        if unlock {
            // A failure does not matter, because the file is about to be closed.
            let _ = self.file.unlock();
        }
        // The name is durable only after its directory is synced. Only Unix can
        // open directories.
        if cfg!(unix) {
            let directory = directory_of(target);
            attempt("sync", directory, Effect::SyncDirectory, || {
                File::open(directory)?.sync_all()
            })?;
        }
        Ok(used)
    }
}

impl Drop for NewFile {
    fn drop(&mut self) {
        if !self.committed {
            // The caller reports the first error, not one from this call.
            let _ = fs::remove_file(&self.temporary);
        }
    }
}

/// Refuses a target that is a live file in use: it would lose its name, and the
/// optimizer that works on it would lose all later steps. `start` is the number
/// of bytes at the start of the file that `is_live` needs.
pub(in super::super) fn refuse_in_use(
    target: &Path,
    start: usize,
    is_live: impl FnOnce(&[u8]) -> bool,
) -> Result<()> {
    let found = attempt("open", target, Effect::None, || {
        match fs::metadata(target) {
            Ok(metadata) if metadata.is_file() => match File::open(target) {
                // A file that may not be read cannot be recognized as live.
                Err(e) if e.kind() == ErrorKind::PermissionDenied => Ok(Found::Other),
                opened => opened.map(Found::File),
            },
            Err(e) if e.kind() != ErrorKind::NotFound => Err(e),
            _ => Ok(Found::Nothing),
        }
    })?;
    let Found::File(file) = found else {
        return Ok(());
    };
    let mut bytes = Vec::new();
    let mut first = (&file).take(start as u64);
    attempt("read", target, Effect::None, || {
        first.read_to_end(&mut bytes)
    })?;
    if is_live(&bytes) && try_lock(&file, target, false)? == Lock::Refused {
        return Err(Error::FileLocked {
            path: target.to_owned(),
        });
    }
    Ok(())
}

/// Creates a file with this name and locks it. A file that a killed process left
/// there is removed; a symbolic link is removed, too, and never followed.
fn create_locked(path: &Path) -> Result<File> {
    let locked = || Error::FileLocked {
        path: path.to_owned(),
    };
    for _ in 0..TRIES {
        let created = attempt("create", path, Effect::Create, || {
            let mut options = OpenOptions::new();
            options.read(true).write(true).create_new(true);
            options.open(path)
        });
        match created {
            Ok(file) => {
                // Before it was locked, another save may have taken it for a
                // leftover and removed it.
                let own = lock_own(&file, path).inspect_err(|_| {
                    let _ = fs::remove_file(path);
                })?;
                if own {
                    return Ok(file);
                }
            }
            Err(Error::Io { source, .. }) if source.kind() == ErrorKind::AlreadyExists => {
                if !remove_stale(path)? {
                    return Err(locked());
                }
            }
            Err(error) => return Err(error),
        }
    }
    Err(locked())
}

/// Locks a file that was just created. Returns whether it is still the file with
/// this name.
fn lock_own(file: &File, path: &Path) -> Result<bool> {
    let locked = try_lock(file, path, true)? != Lock::Refused;
    Ok(locked && attempt("create", path, Effect::None, || is_named(file, path))?)
}

/// Removes the file with a temporary's name. Returns false, and removes nothing,
/// if a save is writing it.
fn remove_stale(path: &Path) -> Result<bool> {
    let stale = match attempt("open", path, Effect::None, || look(path))? {
        Found::Nothing => return Ok(true),
        Found::Other => true,
        Found::File(file) => match try_lock(&file, path, true)? {
            Lock::Refused => return Ok(false),
            _ => attempt("open", path, Effect::None, || is_named(&file, path))?,
        },
    };
    if stale {
        attempt("remove", path, Effect::Remove, || {
            match fs::remove_file(path) {
                Err(e) if e.kind() == ErrorKind::NotFound => Ok(()),
                removed => removed,
            }
        })?;
    }
    Ok(true)
}

enum Found {
    Nothing,
    /// A regular file.
    File(File),
    /// A symbolic link, a directory, a pipe, or something else.
    Other,
}

fn look(path: &Path) -> io::Result<Found> {
    let not_found = |e: io::Error| match e.kind() {
        ErrorKind::NotFound => Ok(Found::Nothing),
        _ => Err(e),
    };
    match fs::symlink_metadata(path) {
        Err(e) => not_found(e),
        Ok(metadata) if !metadata.is_file() => Ok(Found::Other),
        Ok(_) => File::open(path).map(Found::File).or_else(not_found),
    }
}

/// Removes the temporary file that a killed save of `target` may have left, but
/// not that of a running save. Errors are ignored, because the next save will
/// report them.
pub(super) fn tidy(target: &Path) {
    if let Some(temporary) = temporary_of(target) {
        if fs::symlink_metadata(&temporary).is_ok_and(|m| m.is_file()) {
            let _ = remove_stale(&temporary);
        }
    }
}

fn temporary_of(target: &Path) -> Option<PathBuf> {
    let mut name = target.file_name()?.to_owned();
    name.push(TEMPORARY_SUFFIX);
    Some(target.with_file_name(name))
}
