//! Saving an optimizer to a checkpoint, and loading one.

use std::path::Path;

use super::load::{assign, LoadOptions};
use super::master::narrow;
use super::state::zeros;
use super::Optimizer;
use crate::checkpoint::{self, Array, Checkpoint, Header, SavedTensor, PARAMETER};
use crate::dtype::{Dtype, Elements, ElementsMut};
#[cfg(doc)]
use crate::error::Error;
use crate::error::Result;
use crate::layout::{TensorSpec, MASTER};
use crate::memory::AlignedBytes;
use crate::step::fits;

/// What a load puts in place when everything has been read.
struct Loaded {
    tensor: usize,
    saved: usize,
    planes: Vec<AlignedBytes>,
    master_set: bool,
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
                master_set: state.master_set,
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
    /// Nothing is converted: state planes, and parameters that are loaded, must
    /// have the types in the file that they have here.
    ///
    /// Where a file has no parameters but master weights, the parameters are
    /// these, rounded to nearest, as after every step.
    ///
    /// Everything is read and verified before anything is changed, so for the
    /// time of the call the state is held twice.
    ///
    /// # Errors
    /// Nothing has changed then. [`Error::NotACheckpoint`],
    /// [`Error::FileLength`], [`Error::Checksum`] and others for a file that
    /// is no (whole) checkpoint; [`Error::OptionDiffers`],
    /// [`Error::TensorDiffers`], [`Error::DtypeDiffers`],
    /// [`Error::TensorMissing`] and [`Error::PlaneMissing`] for one of
    /// something else.
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
            master_set,
            parameters,
        } in read
        {
            let state = &mut self.state[tensor];
            state.elements = planes;
            state.master_set = master_set;
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
        let master_set = spec.master && file.header().tensors[saved].master_set;
        let parameters_saved = file.header().parameters;
        let mut array = |name: &str, dtype| {
            let mut bytes = zeros(spec, name, dtype)?;
            file.read(saved, name, &mut bytes)?;
            Ok(bytes)
        };
        let parameters = match parameters {
            true if parameters_saved => Some(array(PARAMETER, spec.params)?),
            true => Some(rounded(spec, &array(MASTER, Dtype::F32)?)?),
            false => None,
        };
        let planes = self.state[tensor].planes.iter().map(|plane| {
            match plane.name == MASTER && !master_set {
                // What the file does not have, the next step takes.
                true => zeros(spec, MASTER, Dtype::F32),
                false => array(&plane.name, plane.dtype),
            }
        });
        Ok(Loaded {
            tensor,
            saved,
            planes: planes.collect::<Result<_>>()?,
            master_set,
            parameters,
        })
    }

    fn check_params<'a>(&self, params: impl ExactSizeIterator<Item = Elements<'a>>) -> Result<()> {
        self.check_count("params", params.len())?;
        let mut pairs = self.specs.iter().zip(params);
        pairs.try_for_each(|(spec, param)| fits(spec, "the parameter", param, spec.params))
    }
}

/// Parameters that are their master weights, rounded.
fn rounded(spec: &TensorSpec, master: &[u8]) -> Result<AlignedBytes> {
    let mut bytes = zeros(spec, PARAMETER, spec.params)?;
    let params = ElementsMut::from_bytes(spec.params, &mut bytes);
    narrow(bytemuck::cast_slice(master), params);
    Ok(bytes)
}
