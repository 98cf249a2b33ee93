//! Loading a checkpoint, and opening a live file.

use std::path::{Path, PathBuf};

use super::live::LiveState;
use super::load::{assign, LoadMode, LoadOptions, LR_SCALE, WEIGHT_DECAY};
use super::state::{zeros, Storage, TensorState};
use super::Optimizer;
use crate::checkpoint::{
    ask_for_texts, read_pieces, same_in_all, same_step, Access, Checkpoint, Master, Part, Pieces,
    SavedTensor, Source, Target, PARAMETER,
};
use crate::dtype::{narrow, Dtype, ElementsMut, Stochastic};
use crate::error::{Error, Result};
use crate::layout::{Plane, TensorSpec, MASTER};
use crate::memory::{ask_for_tensors, check, list, AlignedBytes, OF_TENSORS};
use crate::options::{Options, Rounding};

/// What has been read for one tensor. It is put in place when everything has
/// been read.
struct Loaded {
    tensor: usize,
    /// Where the files have it; empty if they do not.
    sources: Vec<Source>,
    /// What they say of it.
    saved: Option<SavedTensor>,
    /// New planes; `None` if they are read in place.
    planes: Option<Vec<Storage>>,
    in_place: bool,
    /// Whether the planes are to be mapped.
    mapped: bool,
    master: Master,
    /// Parameters, and the name of the array that they are read from: the
    /// parameter, or the master weights, which are then rounded.
    parameters: Option<(&'static str, AlignedBytes)>,
}

impl Optimizer {
    /// Loads state and step counts from a file that [`Optimizer::save`] wrote,
    /// or from a live file, and the parameters if buffers for them are given.
    /// The file must have the optimizer's own options and tensors, except for
    /// differences that `load` allows. Unless it asks for that, nothing is converted: state
    /// planes, and parameters that are loaded, must have the same types in the file as
    /// here.
    ///
    /// If a file has master weights but no parameters, the parameters become the
    /// master weights rounded to nearest, as after every step. A live file on which
    /// no step was taken yet, at step 0, has neither: the parameters then stay as
    /// they are, because the first step begins with them.
    ///
    /// Of a tensor that is a shard ([`TensorSpec::shard`]) its rows are loaded, wherever they
    /// are in the file and in those of [`LoadOptions::paths`]: in shards or in whole tensors.
    ///
    /// [`LoadOptions::mode`] says where the state is kept afterwards. If the
    /// state was in a live file before, that file is closed at its last step.
    ///
    /// Everything is read before anything is changed. With [`LoadMode::Read`],
    /// the state is therefore in memory twice during the call, unless the
    /// optimizer has not been used yet: then its state, which is zero, is
    /// overwritten, and is reset to zero if the load is refused.
    ///
    /// # Errors
    /// Nothing has changed then. [`Error::NotACheckpoint`],
    /// [`Error::FileLength`], [`Error::Checksum`] and others for a file that
    /// is not a checkpoint or is damaged; [`Error::OptionDiffers`],
    /// [`Error::TensorDiffers`], [`Error::DtypeDiffers`],
    /// [`Error::TensorMissing`] and [`Error::PlaneMissing`] for one of another
    /// optimizer; [`Error::FileLocked`] for a live file in use,
    /// [`Error::Torn`] for one that a power failure has damaged;
    /// [`Error::NoOlderCopy`] where that is asked for and not whole;
    /// [`Error::NotALiveFile`] and [`Error::SharedOption`] for a shared mapping;
    /// [`Error::StepsDiffer`], [`Error::FilesDiffer`], [`Error::RowsMissing`] and
    /// [`Error::RowsDiffer`] and [`Error::SumsDiffer`] for files that do not fit together; [`Error::MappedPaths`] and
    /// [`Error::MappedRows`] for a mapping of several files, or of other rows.
    pub fn load(
        &mut self,
        path: impl AsRef<Path>,
        load: &LoadOptions,
        params: Option<&mut [ElementsMut<'_>]>,
    ) -> Result<()> {
        self.check_loaded(params.as_deref())?;
        let access = match load.mode {
            LoadMode::MapShared => {
                shared_options(load)?;
                Access::Live
            }
            _ => Access::Read,
        };
        if load.mode != LoadMode::Read && !load.paths.is_empty() {
            return Err(Error::MappedPaths);
        }
        let first = Checkpoint::open_as(path.as_ref(), access, load.older_copy)?;
        self.load_from(with_further(first, load, access)?, load, params)
    }

    /// [`load`](Optimizer::load) from what [`save_to_memory`](Optimizer::save_to_memory), or
    /// any other save, has written. Nothing refers to it afterwards. A live file counts as a
    /// copy of one.
    ///
    /// # Errors
    /// Those of [`load`](Optimizer::load); [`Error::MappedMemory`] for a mode other than
    /// [`LoadMode::Read`].
    pub fn load_from_memory(
        &mut self,
        bytes: &[u8],
        load: &LoadOptions,
        params: Option<&mut [ElementsMut<'_>]>,
    ) -> Result<()> {
        self.check_loaded(params.as_deref())?;
        if load.mode != LoadMode::Read {
            return Err(Error::MappedMemory);
        }
        let first = Checkpoint::in_memory(bytes, load.older_copy)?;
        self.load_from(with_further(first, load, Access::Read)?, load, params)
    }

    fn check_loaded(&self, params: Option<&[ElementsMut<'_>]>) -> Result<()> {
        self.between_steps()?;
        params.map_or(Ok(()), |params| {
            self.check_params(params.iter().map(ElementsMut::elements))
        })
    }

    /// An optimizer made from a file alone: with its options, tensors, state and step
    /// counts. `threads` and `instruction_set` are in no file and have their defaults.
    /// From then on it gives the same bits as one that was created with these options and
    /// tensors and has loaded the file.
    ///
    /// For other threads, other types of state, or parameters that are to be loaded, too,
    /// take options and tensors from [`Checkpoint::header`], create an optimizer and
    /// [`load`](Optimizer::load) the file.
    ///
    /// # Errors
    /// Those of [`Optimizer::new`], and those of [`load`](Optimizer::load) for a file that
    /// is no checkpoint, is damaged or in use, or is no live file.
    pub fn open(path: impl AsRef<Path>, mode: LoadMode) -> Result<Self> {
        let path = path.as_ref();
        let file = match mode {
            LoadMode::MapShared => Checkpoint::open_as(path, Access::Live, false),
            _ => Checkpoint::open(path),
        }?;
        let header = file.header();
        let names = header.tensors.iter().map(|tensor| tensor.spec.name.len());
        ask_for_tensors(names, header.largest_band())?;
        let tensors = list(header.tensors.iter().map(|t| t.spec.clone()), OF_TENSORS)?;
        let options = header.options.clone();
        let mut optimizer = match mode {
            LoadMode::Read => Optimizer::new(options, &tensors),
            // No memory is needed for what is in the file.
            _ => Optimizer::with_state(options, &tensors, None, |spec, options| {
                Ok(TensorState::without_elements(spec, options))
            }),
        }?;
        let load = LoadOptions {
            mode,
            ..LoadOptions::default()
        };
        optimizer.load_from(vec![file], &load, None)?;
        Ok(optimizer)
    }

    fn load_from(
        &mut self,
        files: Vec<Checkpoint>,
        load: &LoadOptions,
        params: Option<&mut [ElementsMut<'_>]>,
    ) -> Result<()> {
        match load.mode {
            LoadMode::MapShared => self.load_live(files, load, params),
            _ => self.load_copy(files, load, params),
        }
    }

    /// Loads files that are not changed afterwards: reads them, or maps one privately.
    fn load_copy(
        &mut self,
        files: Vec<Checkpoint>,
        load: &LoadOptions,
        mut params: Option<&mut [ElementsMut<'_>]>,
    ) -> Result<()> {
        let header = files[0].header();
        ask_for_texts(&header.texts)?;
        let (step, texts) = (header.step, header.texts.clone());
        let assigned = self.assign(&files, params.is_some(), load)?;
        check(OF_TENSORS)?;
        let mut loaded = Vec::with_capacity(assigned.len());
        for (tensor, sources) in assigned.into_iter().enumerate() {
            if !sources.is_empty() {
                let sources = Pieces::without_empty(&files, sources);
                loaded.push(self.prepare(&files, tensor, sources, load, params.is_some())?);
            } else if self.live.is_some() {
                loaded.push(self.kept(tensor)?);
            }
        }
        self.read(&files, &mut loaded)?;
        if load.mode == LoadMode::MapPrivate {
            let [file] = <[_; 1]>::try_from(files).map_err(|_| Error::MappedPaths)?;
            let header = file.header().clone();
            let mut mapped = file.map_private()?;
            for loaded in loaded.iter_mut().filter(|loaded| loaded.mapped) {
                if let Some(&Source { tensor, .. }) = loaded.sources.first() {
                    let parts = std::mem::take(&mut mapped[tensor]);
                    let arrays = header.arrays(&header.tensors[tensor]);
                    loaded.planes = Some(self.mapped(&arrays, loaded, parts)?);
                }
            }
        }
        self.close_live();
        self.fresh = false;
        for loaded in loaded {
            let state = &mut self.state[loaded.tensor];
            if let Some(planes) = loaded.planes {
                state.elements = planes;
            }
            state.master = loaded.master;
            if let Some(saved) = loaded.saved {
                state.step_count = saved.step_count;
                state.scalars = saved.scalars;
                state.is_partial = false;
                if !load.keeps(LR_SCALE) {
                    state.lr_scale = saved.lr_scale;
                }
                if !load.keeps(WEIGHT_DECAY) {
                    state.weight_decay = saved.weight_decay;
                }
            }
            if let (Some(params), Some((_, read))) = (&mut params, loaded.parameters) {
                params[loaded.tensor].bytes_mut().copy_from_slice(&read);
            }
        }
        self.step_count = step;
        self.texts = texts;
        self.plan.forget_norm();
        Ok(())
    }

    /// Opens a live file to work on.
    fn load_live(
        &mut self,
        files: Vec<Checkpoint>,
        load: &LoadOptions,
        mut params: Option<&mut [ElementsMut<'_>]>,
    ) -> Result<()> {
        let assigned = self.assign(&files, params.is_some(), load)?;
        self.check_live()?;
        let [file] = <[_; 1]>::try_from(files).map_err(|_| Error::MappedPaths)?;
        let header = file.header().clone();
        let sources = assigned.into_iter().flatten();
        let positions: Vec<usize> = sources.map(|source| source.tensor).collect();
        check(OF_TENSORS)?;
        let (live, copies) = file.into_live()?;
        let mut loaded = Vec::new();
        if params.is_some() {
            for (spec, &position) in self.specs.iter().zip(&positions) {
                // The parameters in a live file are its master weights.
                let saved = &header.tensors[position];
                let there = has_master(saved);
                let master = copies[0][position].last().filter(|_| there);
                loaded.push(master.map(|master| rounded(spec, master)).transpose()?);
            }
        }

        let discarded = |&tensor: &usize| {
            let saved = &header.tensors[positions[tensor]];
            saved.master_reset && params.is_none()
        };
        let discarded: Vec<usize> = (0..positions.len()).filter(discarded).collect();
        let mut beside = self.beside(&discarded)?.into_iter();

        let saved = positions.clone();
        self.live_in(LiveState::new(live, positions), copies);
        for (tensor, (state, saved)) in self.state.iter_mut().zip(saved).enumerate() {
            let saved = &header.tensors[saved];
            state.lr_scale = saved.lr_scale;
            state.weight_decay = saved.weight_decay;
            state.step_count = saved.step_count;
            state.scalars = saved.scalars;
            state.master = match (saved.master_set, saved.master_reset) {
                (true, _) => Master::Set,
                // The parameters are those of the last step again.
                (_, true) if params.is_some() => Master::Set,
                (_, true) => {
                    state.beside = beside.next();
                    Master::Reset
                }
                _ => Master::Empty,
            };
            if let (Some(params), Some(Some(read))) = (&mut params, loaded.get(tensor)) {
                params[tensor].bytes_mut().copy_from_slice(read);
            }
        }
        self.step_count = header.step;
        self.texts = header.texts;
        self.plan.forget_norm();
        if load.older_copy {
            // The last sync was of the later copy, which the next step writes.
            self.sync()?;
        }
        Ok(())
    }

    /// Where the files have each tensor. Refuses files that do not fit the optimizer, or
    /// each other.
    fn assign(
        &self,
        files: &[Checkpoint],
        parameters: bool,
        load: &LoadOptions,
    ) -> Result<Vec<Vec<Source>>> {
        same_step(files)?;
        if parameters {
            let there = |file: &Checkpoint| file.header().parameters;
            same_in_all(files, "whether parameters are there", there)?;
        }
        let headers = files.iter().map(|file| (file.header(), file.is_live()));
        let headers: Vec<_> = headers.collect();
        let assigned = assign(&headers, self.options(), &self.specs, parameters, load)?;
        for (spec, sources) in self.specs.iter().zip(&assigned) {
            let Some(first) = sources.first() else {
                continue;
            };
            let file = files[first.file].header().tensors[first.tensor].spec.rows();
            let optimizer = spec.rows();
            if load.mode != LoadMode::Read && file != optimizer {
                let tensor = spec.name.clone();
                return Err(Error::MappedRows {
                    tensor,
                    file,
                    optimizer,
                });
            }
            let sources = &Pieces::without_empty(files, sources.clone());
            let pieces = Pieces { files, sources };
            pieces.cover(spec)?;
            pieces.same_steps()?;
            pieces.same_settings(|name| load.keeps(name))?;
        }
        Ok(assigned)
    }

    /// Allocates memory for the arrays of one tensor that are to be read.
    fn prepare(
        &self,
        files: &[Checkpoint],
        tensor: usize,
        sources: Vec<Source>,
        load: &LoadOptions,
        parameters: bool,
    ) -> Result<Loaded> {
        let spec = &self.specs[tensor];
        let state = &self.state[tensor];
        let header = files[sources[0].file].header();
        let saved = &header.tensors[sources[0].tensor];
        let from = match header.parameters {
            true => (PARAMETER, spec.params),
            false => (MASTER, Dtype::F32),
        };
        // Of a live file that has not been stepped on, the parameters are the
        // caller's own.
        let there = header.parameters || has_master(saved);
        let room = |(name, dtype)| Ok((name, zeros(spec, &Plane::of(spec, name, dtype))?));
        let new = |plane: &Plane| zeros(spec, plane).map(Storage::Memory);
        // What is converted cannot be mapped.
        let mapped = load.mode == LoadMode::MapPrivate && saved.spec.state == spec.state;
        // A state that is still zero is overwritten in place.
        let in_place = !mapped && self.fresh;
        let planes = !mapped && !in_place;
        let planes = planes.then(|| state.planes.iter().map(new).collect());
        Ok(Loaded {
            tensor,
            planes: planes.transpose()?,
            in_place,
            mapped,
            // If the parameters are loaded from them, they are in use again.
            master: match saved.master_set || parameters && saved.master_reset {
                true if spec.master => Master::Set,
                _ => Master::Empty,
            },
            parameters: (parameters && there).then(|| room(from)).transpose()?,
            saved: Some(saved.clone()),
            sources,
        })
    }

    /// Reads the arrays that memory was allocated for.
    fn read(&mut self, files: &[Checkpoint], loaded: &mut [Loaded]) -> Result<()> {
        let threads = self.plan.threads();
        let Options { rounding, seed, .. } = *self.plan.options();
        let mut wanted = Vec::new();
        let mut states = self.state.iter_mut();
        let mut position = 0;
        for loaded in &mut *loaded {
            let state = states.nth(loaded.tensor - position).expect("in order");
            position = loaded.tensor + 1;
            let (spec, sources) = (&self.specs[loaded.tensor], &loaded.sources[..]);
            let Some(saved) = &loaded.saved else {
                continue;
            };
            let in_place = loaded.in_place.then_some(&mut state.elements);
            let elements = loaded.planes.as_mut().or(in_place);
            // Of the tensor's last step, in which nothing was rounded to the new type.
            let stochastic = Stochastic {
                seed,
                step: saved.step_count,
                tensor: loaded.tensor,
            };
            let elements = elements.into_iter().flatten();
            for (position, (plane, dst)) in state.planes.iter().zip(elements).enumerate() {
                // Master weights that the file does not have stay zero, and the
                // next step copies them from the parameters.
                if plane.name != MASTER || loaded.master == Master::Set {
                    let target = Target {
                        spec,
                        plane: &plane.name,
                        dtype: plane.dtype,
                        rounding: match rounding {
                            Rounding::Nearest => None,
                            Rounding::Stochastic => Some((stochastic, position)),
                        },
                    };
                    wanted.push((sources, target, &mut dst[..]));
                }
            }
            if let Some((plane, dst)) = &mut loaded.parameters {
                let target = Target {
                    spec,
                    plane,
                    dtype: match *plane {
                        MASTER => Dtype::F32,
                        _ => spec.params,
                    },
                    rounding: None,
                };
                wanted.push((sources, target, &mut dst[..]));
            }
        }
        let read = read_pieces(files, wanted, threads);
        let outcome = read.and_then(|()| loaded.iter_mut().try_for_each(|l| self.round(l)));
        if outcome.is_err() {
            for loaded in loaded.iter().filter(|loaded| loaded.in_place) {
                let elements = &mut self.state[loaded.tensor].elements;
                elements.iter_mut().for_each(|bytes| bytes.fill(0));
            }
        }
        outcome
    }

    /// If master weights were read as parameters, rounds them.
    fn round(&self, loaded: &mut Loaded) -> Result<()> {
        if let Some((MASTER, bytes)) = &mut loaded.parameters {
            *bytes = rounded(&self.specs[loaded.tensor], bytes)?;
        }
        Ok(())
    }

    /// Selects the planes of one tensor from the arrays that a mapped file has
    /// of it.
    fn mapped(&self, arrays: &[Plane], loaded: &Loaded, parts: Vec<Part>) -> Result<Vec<Storage>> {
        let mut parts: Vec<_> = parts.into_iter().map(Some).collect();
        let planes = self.state[loaded.tensor].planes.iter().map(|plane| {
            let spec = &self.specs[loaded.tensor];
            if plane.name == MASTER && loaded.master != Master::Set {
                return zeros(spec, plane).map(Storage::Memory);
            }
            let at = arrays.iter().position(|array| array.name == plane.name);
            let part = at.and_then(|at| parts[at].take());
            part.map(Storage::Mapped)
                .ok_or_else(|| Error::PlaneMissing {
                    tensor: spec.name.clone(),
                    plane: plane.name.clone(),
                    file: "file",
                })
        });
        planes.collect()
    }

    /// A copy in memory of the state of a tensor that is not loaded, for when the
    /// live file that holds it is closed.
    fn kept(&self, tensor: usize) -> Result<Loaded> {
        let state = &self.state[tensor];
        let copy = |(plane, bytes): (&Plane, &[u8])| {
            let mut copy = zeros(&self.specs[tensor], plane)?;
            copy.copy_from_slice(bytes);
            Ok(Storage::Memory(copy))
        };
        let planes = state.planes.iter().zip(state.held());
        Ok(Loaded {
            tensor,
            sources: Vec::new(),
            saved: None,
            planes: Some(planes.map(copy).collect::<Result<_>>()?),
            in_place: false,
            mapped: false,
            master: match state.master {
                // What was discarded is not kept.
                Master::Reset => Master::Empty,
                master => master,
            },
            parameters: None,
        })
    }
}

/// A file and those of [`LoadOptions::paths`].
fn with_further<'a>(
    first: Checkpoint<'a>,
    load: &LoadOptions,
    access: Access,
) -> Result<Vec<Checkpoint<'a>>> {
    let open = |path: &PathBuf| Checkpoint::open_as(path, access, load.older_copy);
    std::iter::once(Ok(first))
        .chain(load.paths.iter().map(open))
        .collect()
}

/// Refuses what cannot be combined with a shared mapping.
fn shared_options(load: &LoadOptions) -> Result<()> {
    let forbidden = [
        (load.override_options, "override_options"),
        (!load.overrides.is_empty(), "overrides"),
        (load.common_tensors_only, "common_tensors_only"),
        (!load.rename.is_empty(), "rename"),
        (load.convert_state, "convert_state"),
    ];
    match forbidden.into_iter().find(|(given, _)| *given) {
        Some((_, option)) => Err(Error::SharedOption { option }),
        None => Ok(()),
    }
}

/// Whether a file has master weights of a tensor.
fn has_master(saved: &SavedTensor) -> bool {
    saved.master_set || saved.master_reset
}

/// Parameters computed from master weights by rounding.
fn rounded(spec: &TensorSpec, master: &[u8]) -> Result<AlignedBytes> {
    let mut bytes = zeros(spec, &Plane::of(spec, PARAMETER, spec.params))?;
    let params = ElementsMut::from_bytes(spec.params, &mut bytes);
    narrow(bytemuck::cast_slice(master), params);
    Ok(bytes)
}
