//! Saving while training goes on.

use std::path::{Path, PathBuf};
use std::thread::JoinHandle;

use super::Optimizer;
use crate::checkpoint::{self, Array};
use crate::dtype::Elements;
use crate::error::{Error, Result};
use crate::memory::AlignedBytes;
use crate::signals::Blocked;

/// A save under way in a thread of its own. It holds a copy of all that it
/// saves, so that the optimizer may step, change or go in the meantime.
///
/// Dropped without [`finish`](Saving::finish), it waits for the end, and the
/// outcome is lost.
#[derive(Debug)]
pub struct Saving {
    /// None when there is nothing to wait for.
    thread: Option<JoinHandle<Result<()>>>,
    path: PathBuf,
    /// The process that the thread lives in.
    process: u32,
}

impl Optimizer {
    /// Begins to save what [`save`](Optimizer::save) would save now. It is
    /// copied in memory first, which takes as much memory again as the state
    /// and the parameters have, until it is written; then a thread writes it.
    ///
    /// Onto the live file that the state is in, this syncs, at once.
    ///
    /// # Errors
    /// Nothing is under way then. Those of [`save`](Optimizer::save) that are
    /// not of the file; [`Error::OutOfMemory`] for the copy; [`Error::Threads`].
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
            process: std::process::id(),
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
        let path = path.to_owned();
        let save = move || {
            let arrays: Vec<_> = copies
                .iter()
                .map(|(tensor, plane, dtype, bytes)| Array {
                    tensor: *tensor,
                    plane,
                    dtype: *dtype,
                    bytes,
                })
                .collect();
            checkpoint::write(&path, &header, &arrays)
        };
        // The name tells the library's own panics from the host's.
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
    /// Waits for the end of the save, and of its thread.
    ///
    /// # Errors
    /// Those of [`save`](Optimizer::save); [`Error::Forked`] in a child of the
    /// process that began it: the save is the parent's.
    pub fn finish(mut self) -> Result<()> {
        self.wait()
    }

    /// Whether it has ended, so that [`finish`](Saving::finish) need not wait.
    pub fn is_finished(&self) -> bool {
        self.thread.as_ref().is_none_or(JoinHandle::is_finished)
    }

    fn wait(&mut self) -> Result<()> {
        let Some(thread) = self.thread.take() else {
            return Ok(());
        };
        if self.process != std::process::id() {
            // The thread did not come along.
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
