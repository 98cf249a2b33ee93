//! Saving an optimizer to a checkpoint, and loading one.

use std::path::Path;

use super::load::{assign, LoadOptions};
use super::state::plane;
use super::Optimizer;
use crate::checkpoint::{self, Array, Checkpoint, Header, SavedTensor, PARAMETER};
use crate::dtype::Dtype;
use crate::error::{Error, Result};
use crate::memory::AlignedBytes;

/// What a load puts in place when everything has been read.
struct Loaded {
    tensor: usize,
    saved: usize,
    planes: Vec<AlignedBytes>,
    parameters: Option<AlignedBytes>,
}

impl Optimizer {
    /// Saves the state, the options and the step count to a safetensors file,
    /// together with the parameters if they are given. An existing file is
    /// replaced when the new one is complete and on disk, not before. Two saves
    /// to one path must not run at the same time.
    ///
    /// # Errors
    /// [`Error::TensorCount`] and [`Error::WrongLength`] for parameters that
    /// do not fit; [`Error::Io`] if a file operation fails: what stood under
    /// `path` stands there still (unless only the last operation failed, which
    /// makes the new name durable: then the new file stands there).
    pub fn save(&self, path: impl AsRef<Path>, params: Option<&[&[f32]]>) -> Result<()> {
        if let Some(params) = params {
            self.check_lengths(params.iter().map(|p| p.len()))?;
        }
        let mut tensors = Vec::with_capacity(self.specs.len());
        let mut arrays = Vec::new();
        for (tensor, (spec, state)) in self.specs.iter().zip(&self.state).enumerate() {
            tensors.push(SavedTensor {
                spec: spec.clone(),
                lr_scale: state.lr_scale,
                weight_decay: state.weight_decay,
            });
            let mut push = |plane, bytes| {
                arrays.push(Array {
                    tensor,
                    plane,
                    dtype: Dtype::F32,
                    bytes,
                })
            };
            for (name, bytes) in state.names.iter().zip(&state.planes) {
                push(name.as_str(), bytes);
            }
            if let Some(params) = params {
                push(PARAMETER, bytemuck::cast_slice(params[tensor]));
            }
        }
        let header = Header {
            options: self.options().clone(),
            tensors,
            step: self.step_count,
            parameters: params.is_some(),
        };
        checkpoint::write(path.as_ref(), &header, &arrays)
    }

    /// Loads state and step count from a file that [`Optimizer::save`] wrote,
    /// and the parameters if buffers for them are given. The file must have
    /// the optimizer's own options and tensors, but for what `load` allows.
    ///
    /// Everything is read and verified before anything is changed, so for the
    /// time of the call the state is held twice.
    ///
    /// # Errors
    /// Nothing has changed then. [`Error::NotACheckpoint`],
    /// [`Error::FileLength`], [`Error::Checksum`] and others for a file that
    /// is no (whole) checkpoint; [`Error::OptionDiffers`],
    /// [`Error::TensorDiffers`], [`Error::TensorMissing`] and
    /// [`Error::PlaneMissing`] for one of something else.
    pub fn load(
        &mut self,
        path: impl AsRef<Path>,
        load: &LoadOptions,
        mut params: Option<&mut [&mut [f32]]>,
    ) -> Result<()> {
        if let Some(params) = &params {
            self.check_lengths(params.iter().map(|p| p.len()))?;
        }
        let mut file = Checkpoint::open(path.as_ref())?;
        let header = file.header();
        let assigned = assign(header, self.options(), &self.specs, params.is_some(), load)?;
        let mut read = Vec::new();
        for (tensor, saved) in assigned.into_iter().enumerate() {
            if let Some(saved) = saved {
                read.push(self.read(&mut file, tensor, saved, params.is_some())?);
            }
        }
        for Loaded {
            tensor,
            saved,
            planes,
            parameters,
        } in read
        {
            let state = &mut self.state[tensor];
            state.planes = planes;
            if !load.override_options {
                state.lr_scale = file.header().tensors[saved].lr_scale;
                state.weight_decay = file.header().tensors[saved].weight_decay;
            }
            if let (Some(params), Some(read)) = (&mut params, parameters) {
                params[tensor].copy_from_slice(bytemuck::cast_slice(&read));
            }
        }
        self.step_count = file.header().step;
        Ok(())
    }

    /// Reads the arrays of one tensor.
    fn read(
        &self,
        file: &mut Checkpoint,
        tensor: usize,
        saved: usize,
        parameters: bool,
    ) -> Result<Loaded> {
        let spec = &self.specs[tensor];
        let mut array = |name: &str| {
            let mut bytes = plane(spec, name)?;
            file.read(saved, name, &mut bytes)?;
            Ok(bytes)
        };
        let names = &self.state[tensor].names;
        let planes = names.iter().map(|n| array(n)).collect::<Result<_>>()?;
        let parameters = parameters.then(|| array(PARAMETER)).transpose()?;
        Ok(Loaded {
            tensor,
            saved,
            planes,
            parameters,
        })
    }

    fn check_lengths(&self, lengths: impl ExactSizeIterator<Item = usize>) -> Result<()> {
        self.check_count("params", lengths.len())?;
        for (spec, length) in self.specs.iter().zip(lengths) {
            if length != spec.len() {
                return Err(Error::WrongLength {
                    tensor: spec.name.clone(),
                    argument: "the parameter".to_owned(),
                    length,
                    expected: spec.len(),
                });
            }
        }
        Ok(())
    }
}
