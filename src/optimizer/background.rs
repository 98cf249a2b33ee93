//! Saving in the background, while training continues.

use std::path::{Path, PathBuf};
use std::thread::JoinHandle;

use super::Optimizer;
use crate::checkpoint::{self, Array};
use crate::dtype::Elements;
use crate::error::{Error, Result};
use crate::memory::{ask_for_tensors, check, AlignedBytes, OF_FILES};
use crate::process::Process;
use crate::reserve::{self, Taken};
use crate::signals::Blocked;

/// A save that runs in a thread of its own. It holds a copy of everything that
/// it saves, so that the optimizer may step, change or be dropped meanwhile.
///
/// Dropping it without [`finish`](Saving::finish) waits for the save to end and
/// discards its outcome.
#[derive(Debug)]
pub struct Saving {
    /// `None` if there is nothing to wait for.
    thread: Option<JoinHandle<Result<()>>>,
    path: PathBuf,
    /// The process that the thread lives in.
    process: Process,
}

impl Optimizer {
    /// Begins to save what [`save`](Optimizer::save) would save now: copies it,
    /// and starts a thread that writes the copy to the file. Until it is
    /// written, the copy takes as much memory as the state and the parameters.
    ///
    /// If `path` is the live file that holds the state, this syncs the file
    /// before it returns, and starts no thread.
    ///
    /// # Errors
    /// No save is running then. The errors of [`save`](Optimizer::save) that do
    /// not concern the file; [`Error::OutOfMemory`] for the copy;
    /// [`Error::Threads`].
    pub fn save_begin(
        &self,
        path: impl AsRef<Path>,
        params: Option<&[Elements<'_>]>,
    ) -> Result<Saving> {
        self.between_steps()?;
        let path = path.as_ref();
        let mut saving = Saving {
            thread: None,
            path: path.to_owned(),
            process: Process::current(),
        };
        self.check_saved(params)?;
        if self.is_live_at(path)? {
            self.sync_instead(params)?;
            return Ok(saving);
        }
        let (header, arrays) = self.contents(params);
        let mut copies = Vec::with_capacity(arrays.len());
        for array in &arrays {
            let what = || format!("a copy of {} to be saved", array.plane);
            let mut copy = AlignedBytes::zeroed(array.bytes.len(), what)?;
            copy.copy_from_slice(array.bytes);
            copies.push((array.tensor, array.plane.to_owned(), array.dtype, copy));
        }
        // The process may go to another folder meanwhile.
        let path = std::path::absolute(path).map_err(|source| Error::Io {
            operation: "find",
            path: path.to_owned(),
            source,
        })?;
        let reserve = Taken::new().ok_or_else(|| Error::OutOfMemory {
            what: "a thread".to_owned(),
            bytes: reserve::SIZE as u128,
        })?;
        let save = move || {
            let _held = reserve.hold();
            let names = header.tensors.iter().map(|tensor| tensor.spec.name.len());
            ask_for_tensors(names, header.largest_band())?;
            checkpoint::ask_for_texts(&header.texts)?;
            let arrays: Vec<_> = copies
                .iter()
                .map(|(tensor, plane, dtype, bytes)| Array {
                    tensor: *tensor,
                    plane,
                    dtype: *dtype,
                    bytes,
                })
                .collect();
            check(OF_FILES)?;
            checkpoint::write(&path, &header, &arrays)
        };
        // The name distinguishes the library's own panics from the host's.
        let thread = std::thread::Builder::new().name("sonew-save".to_owned());
        let _blocked = Blocked::now();
        let thread = thread.spawn(save).map_err(|error| Error::Threads {
            threads: 1,
            reason: error.to_string(),
        })?;
        saving.thread = Some(thread);
        Ok(saving)
    }
}

impl Saving {
    /// Waits for the save and its thread to end.
    ///
    /// # Errors
    /// Those of [`save`](Optimizer::save); [`Error::Forked`] in a forked child of
    /// the process that began the save, because its thread runs in the parent.
    pub fn finish(mut self) -> Result<()> {
        self.wait()
    }

    /// Whether the save has ended, so that [`finish`](Saving::finish) does not
    /// wait.
    pub fn is_finished(&self) -> bool {
        self.thread.as_ref().is_none_or(JoinHandle::is_finished)
    }

    fn wait(&mut self) -> Result<()> {
        let Some(thread) = self.thread.take() else {
            return Ok(());
        };
        if !self.process.is_current() {
            // A forked child does not have the thread.
            std::mem::forget(thread);
            return Err(Error::Forked {
                path: self.path.clone(),
            });
        }
        match thread.join() {
            Ok(outcome) => outcome,
            Err(panic) => std::panic::resume_unwind(panic),
        }
    }
}

impl Drop for Saving {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            let _ = self.wait();
        }
    }
}
