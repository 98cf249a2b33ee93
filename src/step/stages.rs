//! Steps whose stages are calls of their own.

use sonew_kernel::{FloatMode, Scalars, TensorBuffers};

use super::plan::Plan;
use super::progress::{Next, Progress, Stage};
use super::run::Run;
use crate::error::Result;
use crate::options::StepOptions;

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

    /// A step in stages, for callers who reduce norms over several
    /// machines in between. Arguments and errors are those of
    /// [`Plan::step`]; after this everything is checked but the gradients.
    ///
    /// # Errors
    /// See [`Plan::step`].
    pub fn stages<'a>(
        &'a mut self,
        step: &StepOptions,
        number: u64,
        buffers: &'a mut [TensorBuffers<'_>],
    ) -> Result<Stages<'a>> {
        let progress = self.progress(step, number, buffers, false)?;
        let mut run = self.run(step, number, buffers, true)?;
        run.defer();
        Ok(Stages::new(run, progress))
    }

    /// A step whose stages are taken by different plans that are made alike:
    /// `reached` are the stages so far, in their order, with their reduced
    /// numbers. Nothing is kept from one plan to the next but what the buffers
    /// hold, so that directions are computed again from the state as stored.
    pub(crate) fn resume<'a>(
        &'a mut self,
        step: &StepOptions,
        number: u64,
        buffers: &'a mut [TensorBuffers<'_>],
        reached: &[(Stage, Vec<[f64; 2]>)],
    ) -> Result<Stages<'a>> {
        let mut progress = self.progress(step, number, buffers, true)?;
        let mut run = self.run(step, number, buffers, false)?;
        run.replay(&mut progress, reached)?;
        Ok(Stages::new(run, progress))
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
