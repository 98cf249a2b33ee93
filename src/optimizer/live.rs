//! State that is in a live file.

use std::path::Path;

use super::state::Storage;
use super::Optimizer;
use crate::checkpoint::{self, Copies, Live, Master, Settings};
use crate::error::{Error, Result};
use crate::layout::Plane;

/// An open live file, and which of its tensors belongs to which of the
/// optimizer's.
pub(super) struct LiveState {
    file: Live,
    /// For every tensor of the optimizer, its position in the file.
    positions: Vec<usize>,
    /// For every tensor of the file, its position in the optimizer.
    tensors: Vec<usize>,
}

impl LiveState {
    /// `positions` contains every position exactly once.
    pub(super) fn new(file: Live, positions: Vec<usize>) -> Self {
        let mut tensors = vec![0; positions.len()];
        for (tensor, &position) in positions.iter().enumerate() {
            tensors[position] = tensor;
        }
        LiveState {
            file,
            positions,
            tensors,
        }
    }
}

impl Optimizer {
    /// Moves the state into a new live file, and works on it from then on. The
    /// file holds two copies of the state; each step reads one and writes the
    /// other, so that a process that is killed leaves a file that opens at a
    /// completed step, the last one or the one before. If every tensor has
    /// master weights, the file is a whole checkpoint.
    ///
    /// The new file replaces the one at `path`, as a saved file does. All its
    /// space is allocated now. It is locked while the optimizer works on it, and
    /// synced at the end. If the state is already in that file, this does what
    /// [`sync`](Optimizer::sync) does.
    ///
    /// # Errors
    /// Nothing has changed then. [`Error::Io`]; [`Error::FileLocked`] where the
    /// path is a live file in use; [`Error::Forked`]; [`Error::OutOfRange`] for
    /// a step count, of the optimizer or of a tensor, of 2^47 or more; [`Error::HeaderLength`];
    /// [`Error::LiveText`] if there are texts; [`Error::LiveShard`] if there is a shard with
    /// pooled correlations.
    pub fn make_live(&mut self, path: impl AsRef<Path>) -> Result<()> {
        self.between_steps()?;
        let path = path.as_ref();
        if self.is_live_at(path)? {
            return self.sync();
        }
        self.check_live()?;
        if let Some(key) = self.texts.keys().next().cloned() {
            return Err(Error::LiveText { key });
        }
        // What was discarded is not in the new file.
        let settings = self.state.iter().map(|state| Settings {
            master: match state.master {
                Master::Set => Master::Set,
                Master::Empty | Master::Reset => Master::Empty,
            },
            ..state.settings()
        });
        let (header, arrays) = self.contents(None);
        let (file, copies) = checkpoint::create_live(path, &header, &arrays, settings)?;
        let positions = (0..self.specs.len()).collect();
        self.live_in(LiveState::new(file, positions), copies);
        Ok(())
    }

    /// Writes the last step and the checksums of the state to disk. The synced
    /// state survives a power failure as long as at most one step has been begun
    /// since; settings that were changed since may be lost.
    ///
    /// # Errors
    /// [`Error::NotLive`]; [`Error::Forked`]; [`Error::Io`]: the state is
    /// unchanged, but may not be on disk, or the file was removed. What the sync
    /// before has written is still there.
    pub fn sync(&self) -> Result<()> {
        self.between_steps()?;
        let live = self.live.as_ref().ok_or(Error::NotLive)?;
        let states = live.tensors.iter().map(|&tensor| &self.state[tensor]);
        let planes = states.flat_map(|state| state.elements.iter().map(|bytes| &bytes[..]));
        live.file.sync(planes)
    }

    /// The path by which the live file that holds the state was opened.
    pub fn live_file(&self) -> Option<&Path> {
        self.live.as_ref().map(|live| live.file.path())
    }

    /// The planes of a tensor, each with its bytes, and those of the copy that the next
    /// step writes, if the state is in a live file.
    pub(crate) fn copies(
        &self,
        tensor: usize,
    ) -> Result<impl Iterator<Item = (&Plane, [Option<&[u8]>; 2])>> {
        let state = self.state_of(tensor)?;
        let planes = state.planes.iter().zip(state.held()).enumerate();
        Ok(planes.map(|(i, (plane, current))| {
            let other = state.other.get(i).map(|bytes| &bytes[..]);
            (plane, [Some(current), other])
        }))
    }

    /// Where the planes of all tensors are, with both copies if the state is in a live file.
    pub(crate) fn state_addresses(&self) -> impl Iterator<Item = usize> + '_ {
        let states = self.state.iter();
        let planes = states.flat_map(|state| state.elements.iter().chain(&state.other));
        planes.map(|bytes| bytes.as_ptr().addr())
    }

    /// Makes the planes of a live file, which already hold the state, the
    /// optimizer's. Closes the live file used before, if there was one.
    pub(super) fn live_in(&mut self, live: LiveState, [current, other]: Copies) {
        self.close_live();
        self.fresh = false;
        let mapped = |parts: Vec<_>| parts.into_iter().map(Storage::Mapped).collect();
        let planes = current
            .into_iter()
            .zip(other)
            .map(|(a, b)| (mapped(a), mapped(b)));
        for (position, (current, other)) in planes.enumerate() {
            let state = &mut self.state[live.tensors[position]];
            state.elements = current;
            state.other = other;
            state.same = false;
            if state.master == Master::Reset {
                state.master = Master::Empty;
            }
        }
        self.live = Some(live);
    }

    /// Syncs and closes the live file. The caller must then replace the state.
    pub(super) fn close_live(&mut self) {
        if self.live.is_some() {
            // An error is ignored: a caller who wants to know it syncs first.
            let _ = self.sync();
            self.live = None;
            for state in &mut self.state {
                state.other = Vec::new();
                state.beside = None;
                state.copied = false;
            }
        }
    }

    /// Whether a path is the live file that holds the state. Refuses a forked
    /// child, which may neither read nor write that file.
    pub(super) fn is_live_at(&self, path: &Path) -> Result<bool> {
        let Some(live) = &self.live else {
            return Ok(false);
        };
        live.file.check_process()?;
        Ok(self.live_file_is(path))
    }

    /// The same, in a forked child, too.
    pub(crate) fn live_file_is(&self, path: &Path) -> bool {
        let live = self.live.as_ref();
        live.is_some_and(|live| live.file.is_at(path))
    }

    /// Must be called before anything in the state is written in place.
    pub(super) fn begin_live(&mut self) -> Result<()> {
        self.live.as_mut().map_or(Ok(()), |live| live.file.begin())
    }

    pub(super) fn begin_live_step(&mut self, number: u64) -> Result<()> {
        if self.live.is_some() {
            Live::check_step(number)?;
            for (spec, state) in self.specs.iter().zip(&self.state) {
                Live::check_tensor_step(&spec.name, state.step_count.saturating_add(1))?;
            }
        }
        let live = self.live.as_mut();
        live.map_or(Ok(()), |live| live.file.begin_step())
    }

    /// A step was refused or aborted.
    pub(super) fn end_live_step(&mut self, has_written: bool) {
        if let Some(live) = &mut self.live {
            live.file.end_step(has_written);
        }
    }

    /// Writes the settings of a tensor to the live file.
    pub(super) fn set_live(&mut self, tensor: usize, settings: Settings) {
        if let Some(live) = &mut self.live {
            live.file.set(live.positions[tensor], settings);
        }
    }

    /// Makes the copy that a step has written the current one, in all tensors
    /// at once.
    pub(super) fn commit_live_step(&mut self, number: u64) {
        let Some(live) = &mut self.live else {
            return;
        };
        for state in &mut self.state {
            match state.takes_part {
                true => state.same = false,
                // Both copies must have the same state of a tensor that took no
                // part. If they already do, nothing is copied.
                false => state.copy_to_other(),
            }
        }
        let states = live.tensors.iter().map(|&tensor| &self.state[tensor]);
        live.file
            .commit(number, states.map(|state| state.settings()));
        for state in &mut self.state {
            state.swap();
        }
    }
}

impl Drop for Optimizer {
    fn drop(&mut self) {
        // In memory, the state of an unfinished step is dropped with the
        // optimizer.
        let _ = self.abort_stages();
        self.close_live();
    }
}

#[cfg(test)]
#[path = "live_tests.rs"]
mod tests;

#[cfg(test)]
#[path = "power_tests.rs"]
mod power;
