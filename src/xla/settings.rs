//! The attributes of a call.

use super::frame::Frame;
use crate::capi::arguments::named;
use crate::capi::options::{options, sonew_options};
use crate::capi::step::{sonew_step_options, step_options};
use crate::capi::tensor::{CHAINS, UPDATES};
use crate::error::{Error, Result};
use crate::layout::{planes, Chains, TensorSpec, Update};
use crate::options::{Options, StepOptions};
use crate::Stage;

/// Length of the attribute "numbers".
const NUMBERS: usize = 11;
/// The same in programs made before there was pooling, which have no shrink.
const FORMER_NUMBERS: usize = 10;
/// Position of clip_norm, which decides whether a step has its first stage.
const CLIP_NORM: usize = 8;

/// Everything about a call except the tensors' shapes and types, which are those
/// of the operands.
pub(super) struct Settings<'a> {
    /// Positions in `numbers` of those that are passed as operands.
    pub traced: Vec<usize>,
    numbers: [f64; NUMBERS],
    options: sonew_options,
    non_finite: i32,
    pub direction: bool,
    pub staged: bool,
    pub reached: Vec<Stage>,
    /// Whether an operand says which chains of larger tensors there are.
    pub has_parts: bool,
    pub tensors: Vec<Tensor<'a>>,
}

/// What the attributes say of a tensor.
pub(super) struct Tensor<'a> {
    pub name: &'a str,
    pub chains: Chains,
    pub update: Update,
    pub master: bool,
    pub lr_scale: f64,
    pub weight_decay: f64,
}

impl Tensor<'_> {
    /// The number of its state planes.
    pub(super) fn planes(&self, options: &Options) -> usize {
        let spec = TensorSpec::new("", &[]).with_update(self.update);
        planes(options, &spec).len() + usize::from(self.master)
    }
}

impl<'a> Settings<'a> {
    pub(super) fn read(frame: &Frame<'a>) -> Result<Self> {
        let mut listed = frame.doubles("numbers")?;
        if listed.len() == FORMER_NUMBERS {
            listed.push(0.0);
        }
        let numbers = listed
            .try_into()
            .map_err(|listed: Vec<f64>| wrong_length("numbers", listed.len(), NUMBERS))?;
        let traced = frame.integer("traced")?;
        if !(0..1 << NUMBERS).contains(&traced) {
            return Err(Error::UnknownValue {
                argument: "attribute \"traced\"".to_owned(),
                value: traced,
                allowed: format!("0 to {}", (1 << NUMBERS) - 1),
            });
        }
        let stage = |&stage: &i32| {
            let stages = [
                (0, Stage::GradientSquares),
                (1, Stage::LargestL1),
                (2, Stage::Norms),
            ];
            named(stage, || "attribute \"reached\"".to_owned(), &stages)
        };
        let staged = frame.flag("staged")?;
        let reached = match staged {
            true => frame
                .ints("reached")?
                .iter()
                .map(stage)
                .collect::<Result<_>>()?,
            false => Vec::new(),
        };
        Ok(Settings {
            traced: (0..NUMBERS).filter(|i| traced >> i & 1 == 1).collect(),
            numbers,
            options: sonew_options {
                struct_size: size_of::<sonew_options>(),
                band: frame.int("band")?,
                threads: frame.int("threads")?,
                beta1: 0.0,
                beta2: 0.0,
                eps: 0.0,
                gamma: 0.0,
                graft_eps: 0.0,
                weight_decay: 0.0,
                seed: frame.integer("seed")?.cast_unsigned(),
                statistics: frame.int("statistics")?,
                damping: frame.int("damping")?,
                graft: frame.int("graft")?,
                bias_correction: frame.int("bias_correction")?,
                graft_bias_correction: frame.int("graft_bias_correction")?,
                rounding: frame.int("rounding")?,
                instruction_set: frame.int("instruction_set")?,
                lagged_norms: frame.later_flag("lagged_norms")?.into(),
                nesterov: frame.later_flag("nesterov")?.into(),
                pooling: frame.later_int("pooling")?,
                pool: std::ptr::null(),
                shrink: 0.0,
                rank: frame.later_int("rank")?,
                reserved: [0],
            },
            non_finite: frame.int("non_finite")?,
            direction: frame.flag("direction")?,
            staged,
            reached,
            has_parts: frame.later_flag("parts")?,
            tensors: tensors(frame)?,
        })
    }

    /// The options of a step with these traced numbers, whose ranges are not
    /// checked yet, and the factor on the weight decay of every tensor.
    pub(super) fn options(&self, traced: &[f64]) -> Result<(Options, StepOptions, f64)> {
        let mut numbers = self.numbers;
        for (i, &position) in self.traced.iter().enumerate() {
            // If it is not known yet, any allowed number will do.
            numbers[position] = traced.get(i).copied().unwrap_or(0.5);
        }
        if self.traced.contains(&CLIP_NORM) && numbers[CLIP_NORM] == 0.0 {
            // Whether a step clips decides which stages it has, and that must
            // follow from the attributes alone.
            return Err(Error::OutOfRange {
                argument: "step.clip_norm".to_owned(),
                value: 0.0,
                allowed: "finite and positive",
            });
        }
        let [beta1, beta2, eps, gamma, graft_eps, lr, grad_scale, statistics_weight, clip_norm, decay, shrink] =
            numbers;
        let c = sonew_options {
            beta1,
            beta2,
            eps,
            gamma,
            graft_eps,
            shrink,
            ..self.options
        };
        let step = sonew_step_options {
            struct_size: size_of::<sonew_step_options>(),
            lr,
            grad_scale,
            statistics_weight,
            clip_norm,
            beta1: -1.0,
            beta2: -1.0,
            non_finite: self.non_finite,
            reserved: [0],
        };
        // SAFETY: both structs have the size of this version.
        let (options, step) = unsafe { (options(&c, "options")?.0, step_options(&step)?) };
        Ok((options, step, decay))
    }
}

fn wrong_length(name: &'static str, length: usize, expected: usize) -> Error {
    Error::Attribute {
        name,
        problem: format!("has {length} entries, expected {expected}"),
    }
}

fn tensors<'a>(frame: &Frame<'a>) -> Result<Vec<Tensor<'a>>> {
    let names: Vec<&str> = frame.text("names")?.split('\n').collect();
    let count = names.len();
    let ints = |name| {
        let list = frame.ints(name)?;
        match list.len() == count {
            true => Ok(list),
            false => Err(wrong_length(name, list.len(), count)),
        }
    };
    let doubles = |name| {
        let list = frame.doubles(name)?;
        match list.len() == count {
            true => Ok(list),
            false => Err(wrong_length(name, list.len(), count)),
        }
    };
    let (chains, updates, master) = (ints("chains")?, ints("updates")?, ints("master")?);
    let (lr_scales, weight_decays) = (doubles("lr_scales")?, doubles("weight_decays")?);
    let tensor = |(i, name)| {
        let of = |what: &'static str| move || format!("{what} of tensor \"{name}\"");
        Ok(Tensor {
            name,
            chains: named(chains[i], of("chains"), CHAINS)?,
            update: named(updates[i], of("updates"), UPDATES)?,
            master: named(master[i], of("master"), &[(0, false), (1, true)])?,
            lr_scale: lr_scales[i],
            weight_decay: weight_decays[i],
        })
    };
    names.into_iter().enumerate().map(tensor).collect()
}
