//! Saving an optimizer to a checkpoint.

use std::path::Path;

use super::Optimizer;
use crate::checkpoint::{self, Array, Header, Master, SavedTensor, PARAMETER};
use crate::dtype::Elements;
use crate::error::{Error, Result, LIVE_FILE};
use crate::step::fits;

impl Optimizer {
    /// Saves the state, the options and the step count to a safetensors file,
    /// together with the parameters if they are given. An existing file is
    /// replaced only when the new one is complete and on disk. If the existing
    /// file is mapped privately, the mapping remains valid. A symbolic link is
    /// followed; what is not a regular file is refused.
    ///
    /// If `path` is the live file that holds the state, this does what
    /// [`sync`](Optimizer::sync) does. A live file holds no parameters except as
    /// master weights: the save is refused if parameters of a tensor without
    /// master weights are given.
    ///
    /// # Errors
    /// [`Error::TensorCount`], [`Error::WrongDtype`] and
    /// [`Error::WrongLength`] for parameters that do not fit; [`Error::PartialSums`] before
    /// [`set_reduced_sums`](Optimizer::set_reduced_sums);
    /// [`Error::FileLocked`] while another save to this path is under way, and
    /// if it is a live file in use; [`Error::Forked`] in a forked child of the
    /// process that works on a live file; [`Error::PlaneMissing`] for
    /// parameters that a live file cannot hold; [`Error::Io`] if a file
    /// operation fails: the previous file is still at `path` (unless only the
    /// last operation failed, which makes the new name durable: then the new
    /// file is there).
    pub fn save(&self, path: impl AsRef<Path>, params: Option<&[Elements<'_>]>) -> Result<()> {
        self.between_steps()?;
        self.check_saved(params)?;
        if self.is_live_at(path.as_ref())? {
            return self.sync_instead(params);
        }
        let (header, arrays) = self.contents(params);
        checkpoint::write(path.as_ref(), &header, &arrays)
    }

    /// Saves what [`save`](Optimizer::save) saves to memory, which is then what the file would
    /// be: [`load_from_memory`](Optimizer::load_from_memory) loads it, and written to a file
    /// it is a checkpoint. Returns its size, and leaves what is behind it as it was. If the
    /// state is in a live file, this does not change that.
    ///
    /// # Errors
    /// Those of [`save`](Optimizer::save) that do not concern a file; [`Error::TooSmall`] if
    /// there are fewer bytes than [`size_in_memory`](Optimizer::size_in_memory).
    pub fn save_to_memory(
        &self,
        bytes: &mut [u8],
        params: Option<&[Elements<'_>]>,
    ) -> Result<usize> {
        self.between_steps()?;
        self.check_saved(params)?;
        let (header, arrays) = self.contents(params);
        checkpoint::write_to_memory(bytes, &header, &arrays)
    }

    /// The size in bytes of what [`save_to_memory`](Optimizer::save_to_memory) saves now.
    ///
    /// # Errors
    /// As there.
    pub fn size_in_memory(&self, params: Option<&[Elements<'_>]>) -> Result<usize> {
        self.between_steps()?;
        self.check_saved(params)?;
        let (header, arrays) = self.contents(params);
        checkpoint::size_in_memory(&header, &arrays)
    }

    /// Syncs the live file, in place of a save to it.
    pub(super) fn sync_instead(&self, params: Option<&[Elements<'_>]>) -> Result<()> {
        let without = self.specs.iter().find(|spec| !spec.master);
        if let (Some(_), Some(spec)) = (params, without) {
            return Err(Error::PlaneMissing {
                tensor: spec.name.clone(),
                plane: PARAMETER.to_owned(),
                file: LIVE_FILE,
            });
        }
        self.sync()
    }

    /// Checks parameters that are to be saved.
    pub(super) fn check_saved(&self, params: Option<&[Elements<'_>]>) -> Result<()> {
        self.check_reduced()?;
        checkpoint::ask_for_texts(&self.texts)?;
        params.map_or(Ok(()), |params| self.check_params(params.iter().copied()))
    }

    pub(super) fn check_params<'a>(
        &self,
        params: impl ExactSizeIterator<Item = Elements<'a>>,
    ) -> Result<()> {
        self.check_count("params", params.len())?;
        let mut pairs = self.specs.iter().zip(params);
        pairs.try_for_each(|(spec, param)| {
            fits(spec, "the parameter", param, spec.params, spec.len())
        })
    }

    /// The header and the arrays of a file of this optimizer.
    pub(super) fn contents<'a>(
        &'a self,
        params: Option<&'a [Elements<'a>]>,
    ) -> (Header, Vec<Array<'a>>) {
        let mut tensors = Vec::with_capacity(self.specs.len());
        let mut arrays = Vec::new();
        for (tensor, (spec, state)) in self.specs.iter().zip(&self.state).enumerate() {
            tensors.push(SavedTensor {
                spec: spec.clone().simplified(),
                lr_scale: state.lr_scale,
                weight_decay: state.weight_decay,
                master_set: state.master == Master::Set,
                master_reset: false,
                step_count: state.step_count,
                scalars: state.scalars,
            });
            let mut push = |plane, dtype, bytes| {
                arrays.push(Array {
                    tensor,
                    plane,
                    dtype,
                    bytes,
                })
            };
            for (plane, bytes) in state.planes.iter().zip(state.held()) {
                push(plane.name.as_str(), plane.dtype, bytes);
            }
            if let Some(params) = params {
                push(PARAMETER, spec.params, params[tensor].bytes());
            }
        }
        let header = Header {
            options: self.options().clone(),
            tensors,
            step: self.step_count,
            parameters: params.is_some(),
            texts: self.texts.clone(),
        };
        (header, arrays)
    }
}
