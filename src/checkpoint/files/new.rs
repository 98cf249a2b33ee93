//! Files that replace other files.

use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use super::claims::Claim;
use super::locks::{is_named, must_lock, try_own, Lock};
use super::target::Target;
use super::{attempt, directory_of, space, Access, Effect, Identity};
use crate::error::{Error, Result};
use crate::memory::reserve;

/// Small writes are collected in a buffer of this size; larger ones bypass it.
const BUFFER: usize = 1 << 20;

/// After this many bytes the system is asked to start writing them to disk, so
/// that the disk works while the checksums of the next bytes are computed.
const AHEAD: u64 = 16 << 20;

/// Added to the target's name to make the temporary file's name.
const TEMPORARY_SUFFIX: &str = ".sonew-tmp";

/// The longest name in bytes that file systems take.
const LONGEST_NAME: usize = 255;

/// How often creating the temporary file is tried while other processes create
/// and remove files of the same name.
const TRIES: usize = 100;

/// A file that replaces another one completely, or not at all.
///
/// It is written under a temporary name in the directory of its target. Only the
/// process that holds the lock of the file of that name may remove or rename it, and
/// keeps the lock until it has done so. A process that is killed leaves the file,
/// unlocked, and the next save to the same target removes it. Dropping this
/// before [`commit`](NewFile::commit) removes it.
pub(in super::super) struct NewFile {
    file: File,
    buffer: Vec<u8>,
    /// The offset in the file where the buffer is to be written.
    position: u64,
    /// The offset up to which the system has been asked to start writing to disk.
    begun: u64,
    temporary: PathBuf,
    target: Target,
    committed: bool,
    _claim: Claim,
}

impl NewFile {
    /// Creates the temporary file of `target`, which will have this length. A live
    /// file is locked as such.
    pub(in super::super) fn create(target: &Path, length: u64, access: Access) -> Result<NewFile> {
        let nameless =
            || io::Error::new(ErrorKind::InvalidInput, "the path does not end in a name");
        let temporary_of = |target: &Path| {
            attempt("create", target, Effect::None, || {
                temporary_of(target).ok_or_else(nameless)
            })
        };
        temporary_of(target)?;
        let target = Target::find(target)?;
        // Early, before much has been written. It counts when the file is replaced.
        target.hold()?;
        let temporary = temporary_of(&target.path)?;
        space::check_limit(&temporary, length)?;
        let mut buffer = Vec::new();
        reserve(&mut buffer, BUFFER, || "writing a file".to_owned())?;
        let claim = Claim::take(&temporary)?;
        // What replaces a file that others may not read is not readable meanwhile.
        let mode = target.mode.map_or(0o666, |_| 0o600);
        let file = NewFile {
            file: create_locked(&temporary, mode)?,
            buffer,
            position: 0,
            begun: 0,
            temporary,
            target,
            committed: false,
            _claim: claim,
        };
        if access == Access::Live {
            must_lock(&file.file, &file.temporary, true)?;
        }
        Ok(file)
    }

    /// What tells this file from copies of it.
    pub(in super::super) fn identity(&self) -> Result<Identity> {
        attempt("open", &self.temporary, Effect::None, || {
            Identity::of(&self.file)
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
        space::allocate(&self.file, &self.temporary, length)
    }

    /// Replaces the target by this file. When this returns, the file is on disk.
    /// If it fails, the target is unchanged, except if only the last sync failed:
    /// then the new file is in place, and a power failure may bring back the old
    /// one.
    ///
    /// Returns the file and its path. A live file stays locked.
    pub(in super::super) fn commit(mut self) -> Result<(File, PathBuf)> {
        self.flush()?;
        let (file, temporary, target) = (&self.file, &self.temporary, &self.target.path);
        // The file that is returned.
        let used = attempt("open", temporary, Effect::None, || file.try_clone())?;
        self.set_mode()?;
        let sync = || file.sync_all();
        attempt("sync", temporary, Effect::SyncFile, sync)?;
        // Nobody may begin to work on the file that is replaced.
        let held = self.target.hold()?;
        attempt("rename", temporary, Effect::Rename { to: target }, || {
            fs::rename(temporary, target)
        })?;
        self.committed = true;
        drop(held);
        // The name is durable only after its directory is synced. Only Unix can
        // open directories.
        if cfg!(unix) {
            let directory = directory_of(target);
            attempt("sync", directory, Effect::SyncDirectory, || {
                sync_directory(directory, &used)
            })?;
        }
        let path = std::mem::take(&mut self.target.path);
        Ok((used, path))
    }

    /// Gives the file the mode of the one that it replaces.
    fn set_mode(&self) -> Result<()> {
        #[cfg(unix)]
        if let Some(mode) = self.target.mode {
            use std::os::unix::fs::PermissionsExt;
            attempt("set the mode of", &self.temporary, Effect::None, || {
                self.file.set_permissions(fs::Permissions::from_mode(mode))
            })?;
        }
        Ok(())
    }
}

impl Drop for NewFile {
    fn drop(&mut self) {
        if !self.committed {
            // The caller reports the first error, not one from this call. The name
            // is this file's, because its lock is held.
            let _ = fs::remove_file(&self.temporary);
        }
    }
}

/// Makes a name durable. A folder that may be written but not read cannot be opened,
/// and some file systems cannot sync folders: there the whole file system is
/// synced.
fn sync_directory(directory: &Path, file: &File) -> io::Result<()> {
    let synced = File::open(directory).and_then(|directory| directory.sync_all());
    #[cfg(target_os = "linux")]
    {
        use rustix::io::Errno;
        let cannot = [Errno::ACCESS, Errno::PERM, Errno::INVAL, Errno::BADF]
            .into_iter()
            .chain([Errno::NOSYS, Errno::OPNOTSUPP, Errno::ISDIR])
            .map(|errno| Some(errno.raw_os_error()));
        if let Err(error) = &synced {
            if cannot
                .into_iter()
                .any(|errno| error.raw_os_error() == errno)
            {
                return rustix::fs::syncfs(file).map_err(io::Error::from);
            }
        }
    }
    let _ = file;
    synced
}

/// Creates a file with this name and locks it. A file that a killed process left
/// there is removed; a symbolic link is removed, too, and never followed.
fn create_locked(path: &Path, mode: u32) -> Result<File> {
    let locked = || Error::FileLocked {
        path: path.to_owned(),
    };
    for _ in 0..TRIES {
        let created = attempt("create", path, Effect::Create, || {
            let mut options = OpenOptions::new();
            options.read(true).write(true).create_new(true);
            #[cfg(unix)]
            std::os::unix::fs::OpenOptionsExt::mode(&mut options, mode);
            let _ = mode;
            options.open(path)
        });
        match created {
            Ok(file) => {
                if lock_own(&file, path)? {
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
/// this name: before it was locked, another save may have taken it for a leftover
/// and removed it. Without locks no save removes a leftover.
fn lock_own(file: &File, path: &Path) -> Result<bool> {
    let named = || attempt("create", path, Effect::None, || is_named(file, path));
    let own = match try_own(file, path) {
        Ok(Lock::Refused) => Ok(false),
        Ok(_) => named(),
        Err(error) => Err(error),
    };
    own.inspect_err(|_| {
        if is_named(file, path).unwrap_or(false) {
            let _ = fs::remove_file(path);
        }
    })
}

/// Removes the file with a temporary's name. Returns false, and removes nothing,
/// if a save is writing it, or if there are no locks that could tell.
fn remove_stale(path: &Path) -> Result<bool> {
    // Held until the file is removed, so that nobody else takes the name meanwhile.
    let file = match attempt("open", path, Effect::None, || look(path))? {
        Found::Nothing => return Ok(true),
        Found::Other => None,
        Found::File(file) => {
            if try_own(&file, path)? != Lock::Held {
                return Ok(false);
            }
            if !attempt("open", path, Effect::None, || is_named(&file, path))? {
                return Ok(true);
            }
            Some(file)
        }
    };
    attempt("remove", path, Effect::Remove, || {
        match fs::remove_file(path) {
            Err(e) if e.kind() == ErrorKind::NotFound => Ok(()),
            removed => removed,
        }
    })?;
    drop(file);
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
    let open = || OpenOptions::new().read(true).write(true).open(path);
    let opened = match fs::symlink_metadata(path) {
        Ok(metadata) if !metadata.is_file() => return Ok(Found::Other),
        Err(e) => Err(e),
        Ok(_) => open().or_else(|error| match error.kind() {
            // It has the mode of a file that its saver was about to replace, and
            // that may not be written. To be locked it must be opened for writing.
            ErrorKind::PermissionDenied => make_writable(path).and_then(|()| open()),
            _ => Err(error),
        }),
    };
    match opened {
        Ok(file) => Ok(Found::File(file)),
        Err(e) if e.kind() == ErrorKind::NotFound => Ok(Found::Nothing),
        Err(e) => Err(e),
    }
}

fn make_writable(path: &Path) -> io::Result<()> {
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        let file = File::open(path)?;
        file.set_permissions(fs::Permissions::from_mode(0o600))
    }
    #[cfg(not(unix))]
    Err(ErrorKind::PermissionDenied.into())
}

/// The name that a file has while it is written. It is the same for every save to the
/// target, so that savers exclude each other and find what a killed one has left.
fn temporary_of(target: &Path) -> Option<PathBuf> {
    let name = target.file_name()?;
    let mut temporary = name.to_owned();
    if name.len() + TEMPORARY_SUFFIX.len() > LONGEST_NAME {
        // Two long names with the same beginning and checksum would only exclude each
        // other.
        let text = name.to_string_lossy();
        let start: String = text.chars().take(LONGEST_NAME / 8).collect();
        let sum = crc32fast::hash(name.as_encoded_bytes());
        temporary = format!("{start}.{sum:08x}").into();
    }
    temporary.push(TEMPORARY_SUFFIX);
    Some(target.with_file_name(temporary))
}
