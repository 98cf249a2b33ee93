//! Assigns the tensors of a file to those of the optimizer.

use std::collections::{HashMap, HashSet};
use std::fmt::Debug;

use std::path::PathBuf;

use crate::checkpoint::{Header, SavedTensor, Source, PARAMETER};
use crate::dtype::Dtype;
use crate::error::{shown, Error, Result};
use crate::layout::{self, TensorSpec, MASTER, POOLED};
use crate::options::{Options, Pooling};

/// How a file is opened, and where the state is kept afterwards.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum LoadMode {
    /// The file is read into memory, and every checksum is verified.
    #[default]
    Read,
    /// The file is mapped copy-on-write, which takes constant time for any size.
    /// A page is read when it is first needed, and copied when it is first
    /// written; the file is never changed. Its header and its sizes are checked,
    /// but not the checksums of the state; parameters that are loaded are read
    /// and verified. While the file is mapped, no program may write to it or
    /// truncate it; it may be removed or replaced by a new file.
    MapPrivate,
    /// The state stays in the file, which must be a live file: see
    /// [`Optimizer::make_live`]. It is locked. Its options and its tensors must
    /// be the optimizer's, but the tensors may be in another order.
    ///
    /// [`Optimizer::make_live`]: crate::Optimizer::make_live
    MapShared,
}

/// Which differences between file and optimizer a load accepts. By default none:
/// they must have the same hyperparameters and the same tensors.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LoadOptions {
    /// Keep the optimizer's hyperparameters, and its learning-rate scale and
    /// weight decay of every tensor, where the file has others. The band may
    /// then be smaller than the file's, and tensors may have another update, as
    /// long as the file has every plane that they need; its other planes are
    /// ignored. Master weights may be missing from the file, in which case the
    /// next step copies them from the parameters, or be in the file only.
    /// Dimensions, chains and element types must still agree.
    pub override_options: bool,
    /// The same for single settings, by their names: those of fields of [`Options`];
    /// `"weight_decay"` also stands for the weight decay of every tensor, `"lr_scale"` for
    /// their learning-rate scales, `"update"` and `"master"` for what their
    /// [`TensorSpec`]s say. What is not named must agree; numbers agree if float32 cannot
    /// tell them apart, so that 0.9 may also have been given as a float32. In any case the
    /// optimizer keeps its own. Default empty.
    pub overrides: Vec<String>,
    /// Load the tensors that are in both the file and the optimizer, at least
    /// one, and leave the optimizer's other tensors as they are. The step count of
    /// the optimizer becomes the file's.
    pub common_tensors_only: bool,
    /// Tensors whose names differ: (name in the file, name in the optimizer).
    /// All renames happen at once, so that two tensors can swap their names.
    /// Both names of every pair must exist.
    pub rename: Vec<(String, String)>,
    /// Convert state planes that have another type in the file, as a step of the
    /// optimizer would have stored them: rounded as its options say, and zero below the
    /// smallest normal number. A number that is too large for its type is refused. The
    /// random bits of stochastic rounding are those of the last step that the tensor took
    /// part in: a function of seed, step count, tensor, plane and index. Tensors that are
    /// converted are read into memory in every mode. Master weights and parameters are
    /// not converted.
    pub convert_state: bool,
    /// How the file is opened. [`LoadMode::MapShared`] cannot be combined with
    /// any of the fields above.
    pub mode: LoadMode,
    /// Load the older of the two copies in a live file: the state before its last step.
    /// For processes that train together: those that were killed may lie one step apart,
    /// and go on from the same one. With [`LoadMode::MapShared`] it becomes the current
    /// copy, and is synced.
    pub older_copy: bool,
    /// Further files that, together with the path, hold the tensors: those that several
    /// processes have saved, each with some of the tensors or some of their rows
    /// ([`TensorSpec::shard`]). Every file is of the same step. Of a tensor that lies in
    /// several files the settings must agree, and rows that several have must be the same
    /// bits. Tensors of the files that the optimizer does not have belong to others. Only
    /// with [`LoadMode::Read`]. Default empty.
    pub paths: Vec<PathBuf>,
}

/// Finds every tensor of the optimizer in the files, or returns why these do not fit. One
/// without sources is in no file, which is possible only with `common_tensors_only`.
///
/// `parameters` says whether the parameters are to be loaded, too, and of each file
/// whether it is a live file.
pub(crate) fn assign(
    files: &[(&Header, bool)],
    options: &Options,
    tensors: &[TensorSpec],
    parameters: bool,
    load: &LoadOptions,
) -> Result<Vec<Vec<Source>>> {
    load.check_overrides()?;
    for (saved, _) in files {
        same_options(&saved.options, options, load)?;
    }
    let names = names_in_optimizer(files, tensors, &load.rename)?;
    let mut sources: HashMap<&str, Vec<Source>> = HashMap::new();
    for (file, names) in names.iter().enumerate() {
        for (tensor, name) in names.iter().enumerate() {
            let sources = sources.entry(name).or_default();
            sources.push(Source { file, tensor });
        }
    }
    let assigned = tensors
        .iter()
        .map(|tensor| sources.remove(tensor.name.as_str()));
    let assigned: Vec<Vec<Source>> = assigned.map(Option::unwrap_or_default).collect();

    let nothing_common = assigned.iter().all(Vec::is_empty);
    if !load.common_tensors_only || nothing_common {
        all_on_both_sides(&names, tensors, &assigned)?;
    }
    for (tensor, sources) in tensors.iter().zip(&assigned) {
        for &Source { file, tensor: at } in sources {
            let (saved, live) = files[file];
            let file = &saved.tensors[at];
            same_tensor(&file.spec, tensor, load)?;
            same_own_options(&saved.options, &file.spec, options, tensor, load)?;
            planes_there(saved, file, options, tensor, load.convert_state)?;
            // Before the first step the parameters are the caller's own.
            let unstepped = live && saved.step == 0 && file.spec.master;
            if parameters && !unstepped {
                parameters_there(saved, file, tensor)?;
            }
        }
    }
    Ok(assigned)
}

/// Compares every hyperparameter but those that the load overrides. Threads and
/// instruction set are not compared, because results do not depend on them.
fn same_options(file: &Options, optimizer: &Options, load: &LoadOptions) -> Result<()> {
    // Every field is named, so that a new option cannot be forgotten here.
    let Options {
        band,
        beta1,
        beta2,
        eps,
        gamma,
        statistics,
        damping,
        bias_correction,
        graft,
        lagged_norms: _,
        pooling,
        rank,
        shrink,
        nesterov,
        graft_eps,
        graft_bias_correction,
        weight_decay,
        rounding,
        seed,
        threads: _,
        instruction_set: _,
    } = file;
    let o = optimizer;
    load.same("band", band, &o.band)?;
    load.same_number("beta1", *beta1, o.beta1)?;
    load.same_number("beta2", *beta2, o.beta2)?;
    load.same_number("eps", *eps, o.eps)?;
    load.same_number("gamma", *gamma, o.gamma)?;
    load.same("statistics", statistics, &o.statistics)?;
    load.same("damping", damping, &o.damping)?;
    load.same("bias_correction", bias_correction, &o.bias_correction)?;
    load.same("graft", graft, &o.graft)?;
    load.same("pooling", pooling, &o.pooling)?;
    if *pooling == Pooling::Rank && o.pooling == Pooling::Rank {
        load.same("rank", rank, &o.rank)?;
    }
    load.same_number("shrink", *shrink, o.shrink)?;
    load.same("lagged_norms", &file.is_lagged(), &o.is_lagged())?;
    load.same("nesterov", nesterov, &o.nesterov)?;
    load.same_number("graft_eps", *graft_eps, o.graft_eps)?;
    load.same(
        "graft_bias_correction",
        graft_bias_correction,
        &o.graft_bias_correction,
    )?;
    load.same_number(WEIGHT_DECAY, *weight_decay, o.weight_decay)?;
    load.same("rounding", rounding, &o.rounding)?;
    load.same("seed", seed, &o.seed)
}

/// The same for a tensor that has options of its own, in the file or here.
fn same_own_options(
    file: &Options,
    saved: &TensorSpec,
    optimizer: &Options,
    tensor: &TensorSpec,
    load: &LoadOptions,
) -> Result<()> {
    if saved.options.is_none() && tensor.options.is_none() {
        return Ok(());
    }
    let same = same_options(saved.options_or(file), tensor.options_or(optimizer), load);
    same.map_err(|error| match error {
        Error::OptionDiffers {
            option,
            file,
            optimizer,
        } => Error::TensorDiffers {
            tensor: tensor.name.clone(),
            what: option,
            file,
            optimizer,
        },
        other => other,
    })
}

/// What [`LoadOptions::overrides`] can name: the options that are compared, and what is
/// compared of tensors.
const OVERRIDES: [&str; 22] = [
    "band",
    "beta1",
    "beta2",
    "eps",
    "gamma",
    "statistics",
    "damping",
    "bias_correction",
    "graft",
    "pooling",
    "rank",
    "shrink",
    "lagged_norms",
    "nesterov",
    "graft_eps",
    "graft_bias_correction",
    WEIGHT_DECAY,
    "rounding",
    "seed",
    LR_SCALE,
    UPDATE,
    MASTER,
];

pub(super) const WEIGHT_DECAY: &str = "weight_decay";
pub(super) const LR_SCALE: &str = "lr_scale";
const UPDATE: &str = "update";

impl LoadOptions {
    /// Whether what has this name stays as the optimizer has it.
    pub(super) fn keeps(&self, name: &str) -> bool {
        self.override_options || self.overrides.iter().any(|other| other == name)
    }

    /// Refuses names that nothing has.
    pub(super) fn check_overrides(&self) -> Result<()> {
        let mut names = self.overrides.iter();
        match names.find(|name| !OVERRIDES.contains(&name.as_str())) {
            None => Ok(()),
            Some(name) => Err(Error::UnknownName {
                owner: "a load".to_owned(),
                kind: "option to override",
                name: name.clone(),
            }),
        }
    }

    fn same<T: PartialEq + Debug>(
        &self,
        option: &'static str,
        file: &T,
        optimizer: &T,
    ) -> Result<()> {
        if file == optimizer || self.keeps(option) {
            return Ok(());
        }
        Err(Error::OptionDiffers {
            option,
            file: shown(file),
            optimizer: shown(optimizer),
        })
    }

    /// The same for numbers, which may have been given as float32 in one program, and as
    /// float64 in the other.
    fn same_number(&self, option: &'static str, file: f64, optimizer: f64) -> Result<()> {
        match file as f32 == optimizer as f32 {
            true => Ok(()),
            false => self.same(option, &file, &optimizer),
        }
    }
}

/// The names of the saved tensors after renaming, in the order of each file.
fn names_in_optimizer<'a>(
    files: &[(&'a Header, bool)],
    tensors: &[TensorSpec],
    rename: &'a [(String, String)],
) -> Result<Vec<Vec<&'a str>>> {
    let saved = || files.iter().flat_map(|(saved, _)| &saved.tensors);
    let in_file: HashSet<_> = saved().map(|t| t.spec.name.as_str()).collect();
    let in_optimizer: HashSet<_> = tensors.iter().map(|t| t.name.as_str()).collect();
    let mut renamed: HashMap<&str, &str> = HashMap::new();
    let mut targets = HashSet::new();
    for (from, to) in rename {
        let refuse = |reason| {
            Err(Error::Rename {
                from: from.clone(),
                to: to.clone(),
                reason,
            })
        };
        if !in_file.contains(from.as_str()) {
            return refuse("the file has no such tensor");
        }
        if !in_optimizer.contains(to.as_str()) {
            return refuse("the optimizer has no such tensor");
        }
        if renamed.insert(from, to).is_some() {
            return refuse("the tensor is renamed twice");
        }
        if !targets.insert(to.as_str()) {
            return refuse("two tensors get this name");
        }
    }
    for (from, to) in rename {
        if in_file.contains(to.as_str()) && !renamed.contains_key(to.as_str()) {
            return Err(Error::Rename {
                from: from.clone(),
                to: to.clone(),
                reason: "the file has another tensor of this name, which is not renamed",
            });
        }
    }
    let name = |name: &'a str| renamed.get(name).copied().unwrap_or(name);
    let names = |(saved, _): &(&'a Header, bool)| {
        let tensors = saved.tensors.iter();
        tensors.map(|t| name(&t.spec.name)).collect()
    };
    Ok(files.iter().map(names).collect())
}

/// Refuses a tensor that is missing from the files or from the optimizer. What several
/// files have besides belongs to the optimizers of others.
fn all_on_both_sides(
    names: &[Vec<&str>],
    tensors: &[TensorSpec],
    assigned: &[Vec<Source>],
) -> Result<()> {
    if let Some(index) = assigned.iter().position(Vec::is_empty) {
        return Err(Error::TensorMissing {
            tensor: tensors[index].name.clone(),
            present: "optimizer",
            missing: if names.len() == 1 { "file" } else { "files" },
        });
    }
    let [file] = names else {
        return Ok(());
    };
    let used: HashSet<_> = assigned.iter().flatten().map(|s| s.tensor).collect();
    match (0..file.len()).find(|position| !used.contains(position)) {
        Some(position) => Err(Error::TensorMissing {
            tensor: file[position].to_owned(),
            present: "file",
            missing: "optimizer",
        }),
        None => Ok(()),
    }
}

/// Refuses a tensor whose saved state has another meaning, because its shape or
/// its chains differ.
fn same_tensor(file: &TensorSpec, tensor: &TensorSpec, load: &LoadOptions) -> Result<()> {
    let refuse = |what, file: &dyn Debug, optimizer: &dyn Debug| {
        Err(Error::TensorDiffers {
            tensor: tensor.name.clone(),
            what,
            file: shown(file),
            optimizer: shown(optimizer),
        })
    };
    let (dims, own) = (file.whole_dims(), tensor.whole_dims());
    if dims != own {
        let what = match (file.shard, tensor.shard) {
            (None, None) => "dims",
            _ => "dims of the whole tensor",
        };
        return refuse(what, &dims, &own);
    }
    if file.chains != tensor.chains {
        return refuse("chains", &file.chains, &tensor.chains);
    }
    if file.update != tensor.update && !load.keeps(UPDATE) {
        return refuse(UPDATE, &file.update, &tensor.update);
    }
    if file.master != tensor.master && !load.keeps(MASTER) {
        return refuse(MASTER, &file.master, &tensor.master);
    }
    Ok(())
}

/// Refuses a file that lacks a plane which the optimizer needs, or has it in
/// another type. Master weights may be missing, because a step can copy them
/// from the parameters.
fn planes_there(
    saved: &Header,
    file: &SavedTensor,
    options: &Options,
    tensor: &TensorSpec,
    convert: bool,
) -> Result<()> {
    let there = layout::planes(&saved.options, &file.spec);
    for needed in layout::planes(options, tensor) {
        match there.iter().find(|plane| plane.name == needed.name) {
            // Other planes may be of other rows.
            Some(plane) if plane.name == POOLED && plane.dims != needed.dims => {
                return Err(Error::TensorDiffers {
                    tensor: tensor.name.clone(),
                    what: "dims of the pooled sums",
                    file: shown(&plane.dims),
                    optimizer: shown(&needed.dims),
                })
            }
            Some(_) if convert => {}
            Some(plane) => same_dtype(tensor, &needed.name, plane.dtype, needed.dtype)?,
            None if needed.name == MASTER => {}
            None => return missing(tensor, needed.name),
        }
    }
    Ok(())
}

/// Refuses a file that has neither parameters of this type nor master weights to
/// compute them from.
fn parameters_there(saved: &Header, file: &SavedTensor, tensor: &TensorSpec) -> Result<()> {
    if !saved.parameters && !file.master_set && !file.master_reset {
        return missing(tensor, PARAMETER.to_owned());
    }
    same_dtype(tensor, PARAMETER, file.spec.params, tensor.params)
}

fn missing(tensor: &TensorSpec, plane: String) -> Result<()> {
    Err(Error::PlaneMissing {
        tensor: tensor.name.clone(),
        plane,
        file: "file",
    })
}

fn same_dtype(tensor: &TensorSpec, array: &str, file: Dtype, optimizer: Dtype) -> Result<()> {
    if file == optimizer {
        return Ok(());
    }
    Err(Error::DtypeDiffers {
        tensor: tensor.name.clone(),
        argument: array.to_owned(),
        file,
        optimizer,
    })
}

#[cfg(test)]
#[path = "load_tests.rs"]
mod tests;
