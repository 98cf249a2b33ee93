//! Every file operation of this room, and nothing else: the one place to look
//! for what reaches the disk in which order.

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufWriter, ErrorKind, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};

/// Small writes are gathered into one of this size; larger ones pass by.
const BUFFER: usize = 1 << 20;

/// What a temporary is called: the target's name and this.
const TEMPORARY_SUFFIX: &str = ".sonew-tmp";

/// Runs one file operation. Every one goes through here.
fn attempt<T>(
    operation: &'static str,
    path: &Path,
    run: impl FnOnce() -> io::Result<T>,
) -> Result<T> {
    #[cfg(test)]
    let run = || fault::strike().map_or_else(run, Err);
    run().map_err(|source| Error::Io {
        operation,
        path: path.to_owned(),
        source,
    })
}

/// A file that replaces another one whole, or not at all.
///
/// It is written under a temporary name beside its target. Dropped before
/// [`commit`](NewFile::commit), it removes the temporary again; a process
/// that is killed leaves it, and the next save onto the same target removes
/// it. Two savers must not have the same target at the same time.
pub(super) struct NewFile {
    out: BufWriter<File>,
    temporary: PathBuf,
    target: PathBuf,
    committed: bool,
}

impl NewFile {
    /// Creates the temporary of `target`.
    pub(super) fn create(target: &Path) -> Result<NewFile> {
        let temporary = temporary_of(target)?;
        attempt("remove", &temporary, || match fs::remove_file(&temporary) {
            Err(e) if e.kind() != ErrorKind::NotFound => Err(e),
            _ => Ok(()),
        })?;
        // A new file and never an existing one, so that nothing that a link
        // of this name points at is written over.
        let file = attempt("create", &temporary, || {
            OpenOptions::new()
                .write(true)
                .create_new(true)
                .open(&temporary)
        })?;
        Ok(NewFile {
            out: BufWriter::with_capacity(BUFFER, file),
            temporary,
            target: target.to_owned(),
            committed: false,
        })
    }

    /// Appends `bytes`.
    pub(super) fn write(&mut self, bytes: &[u8]) -> Result<()> {
        let out = &mut self.out;
        attempt("write", &self.temporary, || out.write_all(bytes))
    }

    /// Puts the file in its target's place. When this returns, it is on the
    /// disk; when it fails, the target is what it was, except where only the
    /// last sync failed: then the new file is in place, and a power failure
    /// may bring back the old one.
    pub(super) fn commit(mut self) -> Result<()> {
        let out = &mut self.out;
        attempt("write", &self.temporary, || out.flush())?;
        attempt("sync", &self.temporary, || out.get_ref().sync_all())?;
        attempt("rename", &self.temporary, || {
            fs::rename(&self.temporary, &self.target)
        })?;
        self.committed = true;
        // The name is durable only once its directory is. Only Unix opens
        // directories.
        if cfg!(unix) {
            let directory = directory_of(&self.target);
            attempt("sync", directory, || File::open(directory)?.sync_all())?;
        }
        Ok(())
    }
}

impl Drop for NewFile {
    fn drop(&mut self) {
        if !self.committed {
            // The error that led here is the one to report, not this one.
            let _ = fs::remove_file(&self.temporary);
        }
    }
}

fn temporary_of(target: &Path) -> Result<PathBuf> {
    let name = attempt("create", target, || {
        target.file_name().ok_or_else(|| {
            io::Error::new(ErrorKind::InvalidInput, "the path does not end in a name")
        })
    })?;
    let mut name = name.to_owned();
    name.push(TEMPORARY_SUFFIX);
    Ok(target.with_file_name(name))
}

fn directory_of(file: &Path) -> &Path {
    match file.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}

/// A file that is read.
#[derive(Debug)]
pub(super) struct SourceFile {
    file: File,
    path: PathBuf,
    length: u64,
}

impl SourceFile {
    /// Opens a regular file.
    pub(super) fn open(path: &Path) -> Result<SourceFile> {
        // Asked before opening: a pipe would block until somebody writes.
        let metadata = attempt("open", path, || fs::metadata(path))?;
        if !metadata.is_file() {
            return Err(Error::NotACheckpoint {
                path: path.to_owned(),
                reason: "it is not a regular file".to_owned(),
            });
        }
        let file = attempt("open", path, || File::open(path))?;
        let length = attempt("open", path, || file.metadata())?.len();
        Ok(SourceFile {
            file,
            path: path.to_owned(),
            length,
        })
    }

    /// The path that the file was opened by.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Its size when it was opened.
    pub(super) fn length(&self) -> u64 {
        self.length
    }

    /// Goes to a byte of the file.
    pub(super) fn seek(&mut self, offset: u64) -> Result<()> {
        let file = &mut self.file;
        attempt("read", &self.path, || file.seek(SeekFrom::Start(offset)))?;
        Ok(())
    }

    /// Fills `dst` from where the last read ended.
    pub(super) fn read(&mut self, dst: &mut [u8]) -> Result<()> {
        let file = &mut self.file;
        attempt("read", &self.path, || file.read_exact(dst))
    }
}

/// Lets a chosen file operation of the calling thread fail.
#[cfg(test)]
pub(super) mod fault {
    use std::cell::Cell;
    use std::io;

    thread_local! {
        static REMAINING: Cell<Option<usize>> = const { Cell::new(None) };
    }

    /// Lets the operation after the next `operations` ones fail, once.
    pub(crate) fn after(operations: usize) {
        REMAINING.set(Some(operations));
    }

    /// Calls off a failure that has not happened; says whether there was one.
    pub(crate) fn clear() -> bool {
        REMAINING.take().is_some()
    }

    pub(super) fn strike() -> Option<io::Error> {
        let remaining = REMAINING.get()?;
        REMAINING.set(remaining.checked_sub(1));
        (remaining == 0).then(|| io::Error::from(io::ErrorKind::StorageFull))
    }
}
