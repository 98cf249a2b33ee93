//! Loading a checkpoint, and opening a live file.

use std::path::Path;

use super::live::LiveState;
use super::load::{assign, LoadMode, LoadOptions};
use super::master::narrow;
use super::state::{zeros, Storage};
use super::Optimizer;
use crate::checkpoint::{Checkpoint, Header, Part, PARAMETER};
use crate::dtype::{Dtype, ElementsMut};
use crate::error::{Error, Result};
use crate::layout::{TensorSpec, MASTER};
use crate::memory::AlignedBytes;

/// What a load puts in place when everything has been read.
struct Loaded {
    tensor: usize,
    saved: usize,
    planes: Vec<Storage>,
    master_set: bool,
    parameters: Option<AlignedBytes>,
}

impl Optimizer {
    /// Loads state and step count from a file that [`Optimizer::save`] wrote,
    /// or from a live file, and the parameters if buffers for them are given.
    /// The file must have the optimizer's own options and tensors, but for what
    /// `load` allows. Nothing is converted: state planes, and parameters that
    /// are loaded, must have the types in the file that they have here.
    ///
    /// Where a file has no parameters but master weights, the parameters are
    /// these, rounded to nearest, as after every step.
    ///
    /// [`LoadOptions::mode`] says where the state is from then on. A live file
    /// that it was in before is closed, at its last step.
    ///
    /// Everything is read before anything is changed; read into memory, the
    /// state is held twice for the time of the call.
    ///
    /// # Errors
    /// Nothing has changed then. [`Error::NotACheckpoint`],
    /// [`Error::FileLength`], [`Error::Checksum`] and others for a file that
    /// is no (whole) checkpoint; [`Error::OptionDiffers`],
    /// [`Error::TensorDiffers`], [`Error::DtypeDiffers`],
    /// [`Error::TensorMissing`] and [`Error::PlaneMissing`] for one of
    /// something else; [`Error::FileLocked`] for a live file in use,
    /// [`Error::Torn`] for one that a power failure has damaged;
    /// [`Error::NotALiveFile`] and [`Error::SharedOption`] for a shared mapping.
    pub fn load(
        &mut self,
        path: impl AsRef<Path>,
        load: &LoadOptions,
        params: Option<&mut [ElementsMut<'_>]>,
    ) -> Result<()> {
        if let Some(params) = &params {
            self.check_params(params.iter().map(|p| p.elements()))?;
        }
        match load.mode {
            LoadMode::MapShared => self.load_live(path.as_ref(), load, params),
            _ => self.load_copy(path.as_ref(), load, params),
        }
    }

    /// Loads what stays the file's own: reads it, or maps it privately.
    fn load_copy(
        &mut self,
        path: &Path,
        load: &LoadOptions,
        mut params: Option<&mut [ElementsMut<'_>]>,
    ) -> Result<()> {
        let mut file = Checkpoint::open(path)?;
        let header = file.header().clone();
        let assigned = assign(&header, self.options(), &self.specs, params.is_some(), load)?;
        let mut loaded = Vec::with_capacity(assigned.len());
        for (tensor, saved) in assigned.into_iter().enumerate() {
            if let Some(saved) = saved {
                let planes = load.mode == LoadMode::Read;
                loaded.push(self.read(&mut file, tensor, saved, planes, params.is_some())?);
            } else if self.live.is_some() {
                loaded.push(self.kept(tensor)?);
            }
        }
        if load.mode == LoadMode::MapPrivate {
            let mut mapped = file.map_private()?;
            for loaded in &mut loaded {
                if let Some(parts) = mapped.get_mut(loaded.saved) {
                    loaded.planes = self.mapped(&header, loaded, std::mem::take(parts))?;
                }
            }
        }
        self.close_live();
        for loaded in loaded {
            let state = &mut self.state[loaded.tensor];
            state.elements = loaded.planes;
            state.master_set = loaded.master_set;
            if let (Some(saved), false) = (header.tensors.get(loaded.saved), load.override_options)
            {
                state.lr_scale = saved.lr_scale;
                state.weight_decay = saved.weight_decay;
            }
            if let (Some(params), Some(read)) = (&mut params, loaded.parameters) {
                params[loaded.tensor].bytes_mut().copy_from_slice(&read);
            }
        }
        self.step_count = header.step;
        Ok(())
    }

    /// Opens a live file to work on.
    fn load_live(
        &mut self,
        path: &Path,
        load: &LoadOptions,
        mut params: Option<&mut [ElementsMut<'_>]>,
    ) -> Result<()> {
        let forbidden = [
            (load.override_options, "override_options"),
            (load.common_tensors_only, "common_tensors_only"),
            (!load.rename.is_empty(), "rename"),
        ];
        if let Some((_, option)) = forbidden.into_iter().find(|(given, _)| *given) {
            return Err(Error::SharedOption { option });
        }
        let file = Checkpoint::open_live(path)?;
        let header = file.header().clone();
        let assigned = assign(&header, self.options(), &self.specs, params.is_some(), load)?;
        let positions: Vec<usize> = assigned.into_iter().flatten().collect();
        let (live, copies) = file.into_live()?;
        let mut loaded = Vec::new();
        if params.is_some() {
            for (spec, &position) in self.specs.iter().zip(&positions) {
                // A live file's parameters are its master weights.
                let master = copies[0][position].last().expect("planes");
                loaded.push(rounded(spec, master)?);
            }
        }
        let unfinished = |&(_, &position): &(usize, &usize)| live.is_changing(position);
        let unfinished = positions.iter().enumerate().filter(unfinished);
        let unfinished: Vec<usize> = unfinished.map(|(tensor, _)| tensor).collect();

        let saved = positions.clone();
        self.live_in(LiveState::new(live, positions), copies);
        for (tensor, (state, saved)) in self.state.iter_mut().zip(saved).enumerate() {
            let saved = &header.tensors[saved];
            state.lr_scale = saved.lr_scale;
            state.weight_decay = saved.weight_decay;
            state.master_set = saved.master_set;
            if let (Some(params), Some(read)) = (&mut params, loaded.get(tensor)) {
                params[tensor].bytes_mut().copy_from_slice(read);
            }
        }
        self.step_count = header.step;
        // What a process left that died while it was taking master weights;
        // nothing has been synced since.
        unfinished
            .into_iter()
            .for_each(|tensor| self.forget_master(tensor));
        Ok(())
    }

    /// Reads the arrays of one tensor.
    fn read(
        &self,
        file: &mut Checkpoint,
        tensor: usize,
        saved: usize,
        planes: bool,
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
        let mut read = Vec::new();
        if planes {
            for plane in &self.state[tensor].planes {
                let bytes = match plane.name == MASTER && !master_set {
                    // What the file does not have, the next step takes.
                    true => zeros(spec, MASTER, Dtype::F32)?,
                    false => array(&plane.name, plane.dtype)?,
                };
                read.push(Storage::Memory(bytes));
            }
        }
        Ok(Loaded {
            tensor,
            saved,
            planes: read,
            master_set,
            parameters,
        })
    }

    /// The planes of one tensor out of the arrays that a mapped file has of it.
    fn mapped(&self, header: &Header, loaded: &Loaded, parts: Vec<Part>) -> Result<Vec<Storage>> {
        let mut arrays = header.arrays(&header.tensors[loaded.saved]);
        let mut parts: Vec<_> = parts.into_iter().map(Some).collect();
        arrays.truncate(parts.len());
        let planes = self.state[loaded.tensor].planes.iter().map(|plane| {
            let spec = &self.specs[loaded.tensor];
            if plane.name == MASTER && !loaded.master_set {
                return zeros(spec, MASTER, Dtype::F32).map(Storage::Memory);
            }
            let at = arrays.iter().position(|array| array.name == plane.name);
            let part = at.and_then(|at| parts[at].take());
            part.map(Storage::Mapped)
                .ok_or_else(|| Error::PlaneMissing {
                    tensor: spec.name.clone(),
                    plane: plane.name.clone(),
                })
        });
        planes.collect()
    }

    /// A copy in memory of the state of a tensor that stays as it is while the
    /// live file is left that it is in.
    fn kept(&self, tensor: usize) -> Result<Loaded> {
        let state = &self.state[tensor];
        let copy = |(plane, bytes): (&crate::layout::Plane, &Storage)| {
            let mut copy = zeros(&self.specs[tensor], &plane.name, plane.dtype)?;
            copy.copy_from_slice(bytes);
            Ok(Storage::Memory(copy))
        };
        let planes = state.planes.iter().zip(&state.elements);
        Ok(Loaded {
            tensor,
            saved: usize::MAX,
            planes: planes.map(copy).collect::<Result<_>>()?,
            master_set: state.master_set,
            parameters: None,
        })
    }
}

/// Parameters that are their master weights, rounded.
fn rounded(spec: &TensorSpec, master: &[u8]) -> Result<AlignedBytes> {
    let mut bytes = zeros(spec, PARAMETER, spec.params)?;
    let params = ElementsMut::from_bytes(spec.params, &mut bytes);
    narrow(bytemuck::cast_slice(master), params);
    Ok(bytes)
}
