//! Saving an optimizer to a checkpoint, and loading one.

use std::path::Path;

use super::load::{assign, LoadOptions};
use super::state::zeros;
use super::Optimizer;
use crate::checkpoint::{self, Array, Checkpoint, Header, SavedTensor, PARAMETER};
use crate::dtype::{Elements, ElementsMut};
#[allow(unused_imports)] // the documentation names it
use crate::error::Error;
use crate::error::Result;
use crate::memory::AlignedBytes;
use crate::step::fits;

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
    /// [`Error::TensorCount`], [`Error::WrongDtype`] and
    /// [`Error::WrongLength`] for parameters that do not fit; [`Error::Io`] if a file operation fails: what stood under
    /// `path` stands there still (unless only the last operation failed, which
    /// makes the new name durable: then the new file stands there).
    pub fn save(&self, path: impl AsRef<Path>, params: Option<&[Elements<'_>]>) -> Result<()> {
        if let Some(params) = params {
            self.check_params(params.iter().copied())?;
        }
        let mut tensors = Vec::with_capacity(self.specs.len());
        let mut arrays = Vec::new();
        for (tensor, (spec, state)) in self.specs.iter().zip(&self.state).enumerate() {
            tensors.push(SavedTensor {
                spec: spec.clone(),
                lr_scale: state.lr_scale,
                weight_decay: state.weight_decay,
            });
            let mut push = |plane, dtype, bytes| {
                arrays.push(Array {
                    tensor,
                    plane,
                    dtype,
                    bytes,
                })
            };
            for (plane, bytes) in state.planes.iter().zip(&state.elements) {
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
        mut params: Option<&mut [ElementsMut<'_>]>,
    ) -> Result<()> {
        if let Some(params) = &params {
            self.check_params(params.iter().map(|p| p.elements()))?;
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
            state.elements = planes;
            if !load.override_options {
                state.lr_scale = file.header().tensors[saved].lr_scale;
                state.weight_decay = file.header().tensors[saved].weight_decay;
            }
            if let (Some(params), Some(read)) = (&mut params, parameters) {
                params[tensor].bytes_mut().copy_from_slice(&read);
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
        let mut array = |name: &str, dtype| {
            let mut bytes = zeros(spec, name, dtype)?;
            file.read(saved, name, &mut bytes)?;
            Ok(bytes)
        };
        let planes = self.state[tensor].planes.iter();
        let planes = planes
            .map(|p| array(&p.name, p.dtype))
            .collect::<Result<_>>()?;
        let parameters = parameters
            .then(|| array(PARAMETER, spec.params))
            .transpose()?;
        Ok(Loaded {
            tensor,
            saved,
            planes,
            parameters,
        })
    }

    fn check_params<'a>(&self, params: impl ExactSizeIterator<Item = Elements<'a>>) -> Result<()> {
        self.check_count("params", params.len())?;
        let mut pairs = self.specs.iter().zip(params);
        pairs.try_for_each(|(spec, param)| fits(spec, "the parameter", param, spec.params))
    }
}
