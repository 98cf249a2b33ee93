//! The stages of a step, and what they hand to one another.

use std::iter::repeat_n;
use std::mem::take;

use sonew_kernel::{FloatMode, Scalars, TensorBuffers};

use super::factors::{bias_corrections, Corrections, Factors};
use super::plan::Plan;
use super::range::Wide;
use super::run::{Lists, Run};
use super::tensor::Tensor;
use crate::error::Result;
use crate::memory::fill;
use crate::options::{Damping, Options, StepOptions};

/// A point in a step at which numbers of whole tensors are known that the rest
/// of the step needs. Each has two numbers for every tensor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// The sum of squares of the gradient (times
    /// [`grad_scale`](crate::options::StepOptions::grad_scale)), NaN if one of
    /// its elements is not finite; and 0. Reduced by adding. Nothing has been
    /// written yet.
    GradientSquares,
    /// What relative damping is relative to, see
    /// [`Damping`](crate::options::Damping): the largest `H_jj + |H_j,j-1|` of the
    /// bias-corrected statistics or, lagged, the largest `H_jj`, which is for the next step;
    /// and 0. Reduced by taking the largest. State has been updated.
    LargestL1,
    /// The sum of squares of the direction, and that of the vector whose norm
    /// it takes. Reduced by adding. With lagged norms, parameters have been updated by
    /// those of the step before, and these are for the next.
    Norms,
}

/// How far a step is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Next {
    Gradient,
    Statistics,
    Measure,
    Apply,
    Done,
}

/// What is known of a tensor so far.
#[derive(Debug, Clone, Copy)]
pub(super) struct Known {
    /// It has a gradient and elements.
    pub(super) takes_part: bool,
    /// From the beginning: the number of the tensor's step, and what follows from it.
    pub(super) number: u64,
    pub(super) corrections: Corrections,
    pub(super) gradient_norm: Wide,
    /// What its damping is relative to; 0 if that is not known.
    pub(super) largest: f64,
    /// It will be known once the statistics are.
    pub(super) damping_waits: bool,
    /// The norm that the direction takes, over its own.
    pub(super) ratio: Wide,
    /// The same of the step before, if directions are applied with it.
    pub(super) lagged: Option<Wide>,
    /// That made the norm of the update too large.
    pub(super) is_too_large: bool,
    /// What the step leaves to the next, but for [`Known::next_largest`].
    pub(super) scalars: Scalars,
    /// What lagged damping is relative to in the next step. It becomes one of the scalars at
    /// the end, since until then those of a step that is taken by several plans are what they
    /// were before it.
    pub(super) next_largest: f64,
    /// The sum of squares of the stage that was reached: what its number stands for,
    /// where float64 does not hold that.
    pub(super) squares: Wide,
    /// The power of two that multiplies what the current sweeps square: gradients, or
    /// the momentum before directions are computed from it.
    pub(super) lift: i32,
    /// That with which the squares were summed.
    pub(super) summed: i32,
}

impl Known {
    /// The numbers of a step of the tensor.
    pub(super) fn factors<'a>(&self, options: &'a Options, step: &'a StepOptions) -> Factors<'a> {
        Factors {
            options,
            step,
            corrections: self.corrections,
        }
    }

    /// What a number of the stage that was reached stands for, if it is still the
    /// tensor's own.
    pub(super) fn exactly(&self, number: f64) -> Wide {
        match self.squares.to_f64() == number {
            true => self.squares,
            false => Wide::from(number),
        }
    }
}

/// A step under way, apart from its buffers.
pub(crate) struct Progress {
    pub(super) next: Next,
    /// The numbers of the stage that was reached, for each tensor.
    pub(crate) numbers: Vec<[f64; 2]>,
    pub(super) known: Vec<Known>,
    /// Multiplies every gradient.
    pub(super) scale: f64,
    /// The norm of all gradients, where it was computed.
    pub(crate) gradient_norm: Option<f64>,
}

impl Progress {
    /// At its beginning. `apart` says that its stages are taken by different plans: what one
    /// measures, the next does not know, so that none measures before a stage.
    pub(super) fn new(
        all: &Options,
        tensors: &[Tensor],
        step: &StepOptions,
        number: u64,
        buffers: &[TensorBuffers<'_>],
        lists: &mut Lists,
        apart: bool,
    ) -> Result<Self> {
        let corrections = |number| (number, Corrections::new(all, number));
        // Most tensors have the same number, whose powers are computed once.
        let mut last = corrections(number);
        let known = tensors.iter().zip(buffers).map(|(tensor, buffers)| {
            let options = tensor.spec.options_or(all);
            let own = buffers.number(number);
            let mut scalars = buffers.scalars;
            if buffers.gradient.is_some() {
                let before = scalars.bias_corrections;
                scalars.bias_corrections = bias_corrections(options, step, before, own);
            }
            let corrections = match scalars.bias_corrections {
                [0.0, 0.0] if tensor.spec.options.is_some() => Corrections::new(options, own),
                [0.0, 0.0] => {
                    if own != last.0 {
                        last = corrections(own);
                    }
                    last.1
                }
                divisors => Corrections::of(options, divisors),
            };
            let lagged = Some(scalars.norm_ratio).filter(|&r| options.is_lagged() && r > 0.0);
            let is_lagged = tensor.damping == Damping::RelativeLagged;
            let largest = if is_lagged { scalars.largest } else { 0.0 };
            Known {
                takes_part: buffers.gradient.is_some() && !tensor.spec.is_empty(),
                number: own,
                corrections,
                gradient_norm: Wide::ZERO,
                largest,
                damping_waits: tensor.is_relative() && (largest == 0.0 || apart),
                ratio: Wide::from(lagged.unwrap_or(1.0)),
                lagged: lagged.map(Wide::from),
                is_too_large: false,
                scalars,
                next_largest: scalars.largest,
                squares: Wide::ZERO,
                lift: 0,
                summed: 0,
            }
        });
        fill(&mut lists.numbers, repeat_n([0.0; 2], buffers.len()))?;
        fill(&mut lists.known, known)?;
        Ok(Progress {
            next: Next::Gradient,
            numbers: take(&mut lists.numbers),
            known: take(&mut lists.known),
            scale: step.grad_scale,
            gradient_norm: None,
        })
    }

    /// Nothing more is done with its lists.
    pub(super) fn give_back(&mut self, lists: &mut Lists) {
        lists.numbers = take(&mut self.numbers);
        lists.known = take(&mut self.known);
    }
}

/// A step of which every stage is a call of its own, apart from the plan and
/// the buffers, which each call gets anew.
pub(crate) struct UnderWay {
    step: StepOptions,
    number: u64,
    pub(super) progress: Progress,
}

impl UnderWay {
    /// The step's number.
    pub(crate) fn number(&self) -> u64 {
        self.number
    }

    /// The numbers of the stage that was reached, two for each tensor.
    pub(crate) fn numbers(&mut self) -> &mut [[f64; 2]] {
        &mut self.progress.numbers
    }

    /// Whether a stage has been reached yet.
    pub(crate) fn has_begun(&self) -> bool {
        self.progress.next != Next::Gradient
    }

    /// Whether pooled sums have taken in the products of the gradients.
    pub(crate) fn has_summed(&self) -> bool {
        matches!(self.progress.next, Next::Apply | Next::Done)
    }

    /// Whether the state has taken in the gradients.
    pub(crate) fn has_written(&self) -> bool {
        matches!(self.progress.next, Next::Measure | Next::Apply | Next::Done)
    }
}

impl Plan {
    /// Begins such a step: checks everything but the gradients, and writes
    /// nothing.
    pub(crate) fn begin(
        &mut self,
        step: &StepOptions,
        number: u64,
        buffers: &[TensorBuffers<'_>],
    ) -> Result<UnderWay> {
        self.check(step, number, buffers)?;
        Ok(UnderWay {
            step: step.clone(),
            number,
            progress: self.progress(step, number, buffers, false)?,
        })
    }

    /// Takes it to its next stage; `None` when all is done. The buffers are
    /// those that it began with, and no other step comes in between: sums of
    /// blocks, and directions, are kept in the plan.
    pub(crate) fn advance(
        &mut self,
        under_way: &mut UnderWay,
        buffers: &mut [TensorBuffers<'_>],
    ) -> Result<Option<Stage>> {
        let _mode = FloatMode::set_default();
        let UnderWay {
            step,
            number,
            progress,
        } = under_way;
        self.check(step, *number, buffers)?;
        let mut run = self.run(step, *number, buffers, true)?;
        run.defer();
        let stage = run.advance(progress);
        run.end();
        let stage = stage?;
        if stage.is_none() {
            self.finish(progress, buffers);
        }
        Ok(stage)
    }
}

/// A step in stages, for callers whose tensors are parts of larger ones, spread
/// over several machines: between the stages they reduce the numbers of all
/// parts. From [`Plan::stages`](crate::Plan::stages).
///
/// ```
/// # use sonew::dtype::{Elements, ElementsMut};
/// # use sonew::{layout::TensorSpec, options::{Options, StepOptions}};
/// # use sonew::{Plan, Stage, Target, TensorBuffers};
/// # let mut plan = Plan::new(&Options::default(), &[TensorSpec::new("w", &[3])])?;
/// # let mut w = [1.0f32, 2.0, 3.0];
/// # let (mut m, mut h, mut e) = ([0.0f32; 3], [0.0f32; 3], [0.0f32; 3]);
/// # let mut buffers = [TensorBuffers::new(
/// #     Target::Parameters(ElementsMut::new(&mut w)),
/// #     Some(Elements::new(&[0.1f32, 0.0, -0.1])),
/// #     [&mut m, &mut h, &mut e].map(|plane| ElementsMut::new(plane)),
/// # )];
/// # fn sum_over_machines(_: &mut [[f64; 2]]) {}
/// # fn largest_over_machines(_: &mut [[f64; 2]]) {}
/// let mut stages = plan.stages(&StepOptions::default(), 1, &mut buffers)?;
/// while let Some(stage) = stages.next()? {
///     match stage {
///         Stage::LargestL1 => largest_over_machines(stages.numbers()),
///         _ => sum_over_machines(stages.numbers()),
///     }
/// }
/// # Ok::<(), sonew::Error>(())
/// ```
pub struct Stages<'a> {
    pub(super) run: Run<'a>,
    pub(super) progress: Progress,
}

impl<'a> Stages<'a> {
    pub(super) fn new(run: Run<'a>, progress: Progress) -> Self {
        Stages { run, progress }
    }

    /// Goes on to the next stage that this step has; `None` when all is done.
    ///
    /// # Errors
    /// [`Error::NonFiniteGradient`](crate::Error::NonFiniteGradient) after
    /// [`Stage::GradientSquares`], as for
    /// [`Plan::step`](crate::Plan::step): nothing has been
    /// written, and the step is over. [`Error::OutOfRange`](crate::Error) for a
    /// negative number in place of a reduced one; the step is where it was.
    /// Dropped after that but before the end,
    /// a step leaves state that has taken in the gradient, and parameters that
    /// have not moved.
    #[allow(clippy::should_implement_trait)] // It can fail.
    pub fn next(&mut self) -> Result<Option<Stage>> {
        let _mode = FloatMode::set_default();
        self.run.advance(&mut self.progress)
    }

    /// What each tensor's next step takes for [`TensorBuffers::scalars`]; known when all
    /// is done.
    pub fn scalars(&self) -> impl ExactSizeIterator<Item = Scalars> + '_ {
        self.progress.known.iter().map(|known| known.scalars)
    }

    /// The norm of all gradients together, before clipping; `None` where the
    /// step has no reason to look, or has not looked yet.
    pub fn gradient_norm(&self) -> Option<f64> {
        self.progress.gradient_norm
    }

    /// The squares of the norm that each tensor's direction takes, of this
    /// part alone: known from the stage after the statistics on.
    pub(crate) fn references(&self) -> Vec<f64> {
        self.run.references()
    }

    /// The numbers of the stage that was reached, two for each tensor; reduced
    /// ones may be put in their place. Tensors that take no part have zeros.
    pub fn numbers(&mut self) -> &mut [[f64; 2]] {
        &mut self.progress.numbers
    }
}
