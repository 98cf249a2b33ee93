//! A step in stages of an optimizer.

use super::state::lend;
use super::Optimizer;
use crate::dtype::{Elements, ElementsMut};
use crate::error::{Error, Result};
use crate::memory::again;
use crate::options::StepOptions;
use crate::step::{Stage, UnderWay};

/// A step in stages that is under way.
pub(super) struct Staged {
    under_way: UnderWay,
    /// Tensors whose master weights were copied from the parameters for it.
    masters: Vec<usize>,
}

impl Staged {
    /// Whether the step has added up the products of pooled sums.
    pub(super) fn has_summed(&self) -> bool {
        self.under_way.has_summed()
    }
}

/// A step that stops where sums or maxima over whole tensors are needed, for
/// programs whose tensors are parts of larger ones, spread over several
/// machines. Created by [`Optimizer::stages`].
///
/// Dropping it before its end aborts the step, so that nothing has changed. That
/// is possible until the state has been updated with the gradients, which it has
/// been from [`Stage::LargestL1`] or [`Stage::Norms`] on, unless it is in a live
/// file. If the step is dropped later, the optimizer refuses, with
/// [`Error::InStages`], every call that needs a state between two steps.
pub struct StagedStep<'a, 'b> {
    optimizer: &'a mut Optimizer,
    params: &'a mut [ElementsMut<'b>],
    grads: &'a [Option<Elements<'b>>],
}

impl StagedStep<'_, '_> {
    /// Continues to the next stage that this step has; `None` when it is done.
    ///
    /// # Errors
    /// [`Error::NonFiniteGradient`] after [`Stage::GradientSquares`]: nothing
    /// has changed, and the step is over. The step stays at its stage after
    /// [`Error::OutOfRange`], for a reduced number that is negative;
    /// [`Error::Forked`]. [`Error::NoStages`] after the end.
    #[allow(clippy::should_implement_trait)] // It can fail.
    pub fn next(&mut self) -> Result<Option<Stage>> {
        let params = self.params.iter_mut().map(ElementsMut::reborrow);
        self.optimizer
            .next_stage(params, self.grads.iter().copied())
    }

    /// The numbers of the stage that was reached, two for each tensor. The
    /// caller may replace them by reduced ones. Tensors that take no part in the
    /// step have zeros. Empty after the end.
    pub fn numbers(&mut self) -> &mut [[f64; 2]] {
        self.optimizer.stage_numbers()
    }

    /// How many blocks each tensor has: those of the whole one, if it is a shard.
    ///
    /// # Errors
    /// [`Error::BlockCut`] if a shard is cut elsewhere than between
    /// [blocks](crate::layout::TensorSpec::block_rows). [`Error::NoStages`] after the end.
    pub fn blocks(&self) -> Result<Vec<usize>> {
        self.optimizer.stage_blocks()
    }

    /// The numbers of the stage that was reached, two for each block of all tensors, in their
    /// order; zeros for blocks of rows that are not here, of tensors that take no part, and
    /// before the first stage. [`numbers`](StagedStep::numbers) are what
    /// [`combine`](Stage::combine) makes of those of a tensor. Reduced over processes block by
    /// block, which adds zeros to one number, and combined afterwards, they have the same bits
    /// for any number of processes, and those of a single one that has the whole tensors.
    ///
    /// # Errors
    /// See [`blocks`](StagedStep::blocks).
    pub fn block_numbers(&self) -> Result<Vec<[f64; 2]>> {
        self.optimizer.stage_block_numbers()
    }

    /// See [`Optimizer::partial_sums`]: from [`Stage::Norms`] on.
    ///
    /// # Errors
    /// As there.
    pub fn partial_sums(&self, tensor: usize, to: ElementsMut<'_>) -> Result<()> {
        self.optimizer.partial_sums(tensor, to)
    }
}

impl Drop for StagedStep<'_, '_> {
    fn drop(&mut self) {
        // An error means that the step is over or cannot be aborted, which the
        // optimizer has recorded.
        let _ = self.optimizer.abort_stages();
    }
}

impl Optimizer {
    /// Begins the same step as [`step_any`](Optimizer::step_any), in stages: at
    /// each stage the caller may reduce the [`numbers`](StagedStep::numbers) of
    /// tensors over several machines. Stages that the options do not need are
    /// left out.
    ///
    /// ```
    /// # use sonew::dtype::{Elements, ElementsMut};
    /// # use sonew::{layout::TensorSpec, options::{Options, StepOptions}, Optimizer, Stage};
    /// # let mut optimizer = Optimizer::new(Options::default(), &[TensorSpec::new("w", &[3])])?;
    /// # let mut w = [1.0f32, 2.0, 3.0];
    /// # let mut params = [ElementsMut::new(&mut w)];
    /// # let grads = [Some(Elements::new(&[0.1f32, 0.0, -0.1]))];
    /// # fn sum_over_machines(_: &mut [[f64; 2]]) {}
    /// # fn largest_over_machines(_: &mut [[f64; 2]]) {}
    /// let mut stages = optimizer.stages(&StepOptions::default(), &mut params, &grads)?;
    /// while let Some(stage) = stages.next()? {
    ///     match stage {
    ///         Stage::LargestL1 => largest_over_machines(stages.numbers()),
    ///         _ => sum_over_machines(stages.numbers()),
    ///     }
    /// }
    /// # Ok::<(), sonew::Error>(())
    /// ```
    ///
    /// # Errors
    /// Those of [`step_any`](Optimizer::step_any) except
    /// [`Error::NonFiniteGradient`]; no step is under way then.
    pub fn stages<'a, 'b>(
        &'a mut self,
        step: &StepOptions,
        params: &'a mut [ElementsMut<'b>],
        grads: &'a [Option<Elements<'b>>],
    ) -> Result<StagedStep<'a, 'b>> {
        let lent = params.iter_mut().map(ElementsMut::reborrow);
        self.begin_stages(step, lent, grads.iter().copied())?;
        Ok(StagedStep {
            optimizer: self,
            params,
            grads,
        })
    }

    /// Refuses while a step in stages is under way.
    pub(super) fn between_steps(&self) -> Result<()> {
        match self.staged {
            None => Ok(()),
            Some(_) => Err(Error::InStages),
        }
    }

    /// Begins a step. Its stages must be passed the same buffers.
    pub(crate) fn begin_stages<'a>(
        &mut self,
        step: &StepOptions,
        params: impl ExactSizeIterator<Item = ElementsMut<'a>>,
        grads: impl ExactSizeIterator<Item = Option<Elements<'a>>>,
    ) -> Result<()> {
        self.between_steps()?;
        self.check_reduced()?;
        let buffers = self.lent(params, grads)?;
        let (under_way, masters) = self.begin(buffers, |optimizer, buffers| {
            let number = optimizer.next_step()?;
            optimizer.begin_live_step(number)?;
            let buffers = lend(&mut optimizer.state, buffers);
            let begun = optimizer.plan.begin(step, number, &buffers);
            optimizer.spare = again(buffers);
            begun
        })?;
        self.staged = Some(Staged { under_way, masters });
        Ok(())
    }

    /// Continues the step in stages to its next stage.
    pub(crate) fn next_stage<'a>(
        &mut self,
        params: impl ExactSizeIterator<Item = ElementsMut<'a>>,
        grads: impl ExactSizeIterator<Item = Option<Elements<'a>>>,
    ) -> Result<Option<Stage>> {
        let staged = self.staged.as_ref().ok_or(Error::NoStages)?;
        let number = staged.under_way.number();
        // Refuses a child that was forked since the last stage.
        self.begin_live_step(number)?;
        let buffers = self.lent(params, grads)?;
        let staged = self.staged.as_mut().ok_or(Error::NoStages)?;
        let mut buffers = lend(&mut self.state, buffers);
        let reached = self.plan.advance(&mut staged.under_way, &mut buffers);
        self.spare = again(buffers);
        match reached {
            Ok(None) => {
                self.staged = None;
                self.complete(number);
            }
            Err(Error::NonFiniteGradient { .. }) => {
                self.end_stages(false);
                self.plan.forget_norm();
            }
            _ => {}
        }
        reached
    }

    /// The numbers of the stage that was reached; none before the first stage.
    pub(crate) fn stage_numbers(&mut self) -> &mut [[f64; 2]] {
        match &mut self.staged {
            Some(staged) => staged.under_way.numbers(),
            None => &mut [],
        }
    }

    /// How many blocks the whole tensors of a step in stages have.
    pub(crate) fn stage_blocks(&self) -> Result<Vec<usize>> {
        self.staged.as_ref().ok_or(Error::NoStages)?;
        self.plan.blocks()
    }

    /// Their numbers of the stage that was reached.
    pub(crate) fn stage_block_numbers(&self) -> Result<Vec<[f64; 2]>> {
        let staged = self.staged.as_ref().ok_or(Error::NoStages)?;
        self.plan.block_numbers(&staged.under_way)
    }

    /// Whether a step in stages is under way, and has reached one.
    pub(crate) fn has_reached_stage(&self) -> bool {
        let staged = self.staged.as_ref();
        staged.is_some_and(|staged| staged.under_way.has_begun())
    }

    /// Aborts a step in stages, which leaves everything as it was before it.
    pub(crate) fn abort_stages(&mut self) -> Result<()> {
        let staged = self.staged.as_ref().ok_or(Error::NoStages)?;
        let written = staged.under_way.has_written();
        if written && self.live.is_none() {
            return Err(Error::StateWritten);
        }
        self.begin_live()?;
        if written {
            // The step has updated the other copy, so the two may differ now.
            self.state.iter_mut().for_each(|state| state.same = false);
        }
        self.end_stages(written);
        Ok(())
    }

    fn end_stages(&mut self, has_written: bool) {
        self.end_live_step(has_written);
        if let Some(staged) = self.staged.take() {
            self.forget_masters(staged.masters);
        }
    }

    pub(super) fn forget_masters(&mut self, taken: Vec<usize>) {
        taken
            .into_iter()
            .for_each(|tensor| self.forget_master(tensor));
    }
}

#[cfg(test)]
#[path = "staged_tests.rs"]
mod tests;
