//! One step under way: which sweep does what.

use super::block::Job;
use super::sums::Sums;
use super::tensor::{Stage, Tensor};
use crate::error::{Error, Result};
use crate::kernel::Apply;
use crate::layout::Grid;
use crate::parallel::{Lent, Sweep, Team, Tiles, Visit};

/// One step under way.
pub(super) struct Run<'a> {
    pub(super) tensors: &'a [Tensor],
    pub(super) tiles: &'a Tiles,
    pub(super) grids: Vec<&'a Grid>,
    pub(super) sums: &'a Sums,
    pub(super) team: Team<'a>,
    pub(super) lent: Vec<Option<Lent<'a>>>,
}

impl Run<'_> {
    /// Visits the blocks of all tensors that take part.
    fn sweep(&mut self, sweep: Sweep, visit: impl Fn(Visit<'_, '_>) + Sync) {
        self.team
            .sweep(sweep, self.tiles, &self.grids, &mut self.lent, &visit);
    }

    /// The length of each gradient. With `check`, refuses one that is not
    /// finite.
    pub(super) fn gradient_lengths(&mut self, jobs: &mut [Job<'_>], check: bool) -> Result<()> {
        let (tensors, sums) = (self.tensors, self.sums);
        let visited: &[Job<'_>] = jobs;
        self.sweep(Sweep::Whole, |visit| {
            let squares = visited[visit.tensor].gradient_squares(visit.block, visit.access);
            let block = tensors[visit.tensor].blocks.start + visit.block;
            sums.set(block, [squares, 0.0]);
        });
        for ((tensor, job), lent) in tensors.iter().zip(jobs).zip(&self.lent) {
            if lent.is_none() {
                continue;
            }
            let [squares, _] = sums.fold(tensor.blocks.clone(), |a, b| a + b);
            if check && squares.is_nan() {
                return Err(Error::NonFiniteGradient {
                    tensor: tensor.spec.name.clone(),
                });
            }
            job.gradient_length = squares.sqrt();
        }
        Ok(())
    }

    /// Statistics of all blocks, together with the first stage after them of
    /// every tensor that needs nothing else before it.
    pub(super) fn statistics(&mut self, jobs: &mut [Job<'_>]) {
        let (tensors, sums) = (self.tensors, self.sums);
        let jobs: &[Job<'_>] = jobs;
        let next = |visit: Visit<'_, '_>| {
            let tensor = &tensors[visit.tensor];
            if let Some(stage) = tensor.fused() {
                perform(stage, tensor, &jobs[visit.tensor], sums, visit);
            }
        };
        self.sweep(Sweep::Tiles, |visit| {
            jobs[visit.tensor].statistics(visit.block, visit.access);
            if !visit.waits {
                next(visit);
            }
        });
        self.sweep(Sweep::Waiting, next);
    }

    /// The stages that are left, each over the tensors that need it.
    pub(super) fn rest(&mut self, jobs: &mut [Job<'_>]) {
        let (tensors, sums) = (self.tensors, self.sums);
        for stage in [Stage::LargestL1, Stage::Lengths, Stage::Apply] {
            let left = |tensor: &Tensor| {
                tensor.fused() != Some(stage) && tensor.stages().any(|s| s == stage)
            };
            if tensors.iter().any(left) {
                let jobs: &[Job<'_>] = jobs;
                self.sweep(Sweep::Whole, |visit| {
                    let tensor = &tensors[visit.tensor];
                    if left(tensor) {
                        perform(stage, tensor, &jobs[visit.tensor], sums, visit);
                    }
                });
            }
            for (tensor, job) in tensors.iter().zip(&mut *jobs) {
                if tensor.stages().any(|s| s == stage) {
                    take_in(stage, tensor, job, sums);
                }
            }
        }
    }
}

/// Performs a stage on a block and notes what it gives.
fn perform(stage: Stage, tensor: &Tensor, job: &Job<'_>, sums: &Sums, visit: Visit<'_, '_>) {
    let block = tensor.blocks.start + visit.block;
    match stage {
        Stage::LargestL1 => {
            let l1 = job.largest_l1(visit.block, visit.access, visit.work);
            sums.set(block, [l1, 0.0]);
        }
        Stage::Lengths => sums.set(block, job.lengths(visit.block, visit.access, visit.work)),
        Stage::Apply => job.apply(visit.block, visit.access, visit.work),
    }
}

/// Takes what a stage gave into the numbers of the next.
fn take_in(stage: Stage, tensor: &Tensor, job: &mut Job<'_>, sums: &Sums) {
    let blocks = tensor.blocks.clone();
    match stage {
        Stage::LargestL1 => {
            let [l1, _] = sums.fold(blocks, f64::max);
            job.damping = job.factors.damping(l1);
        }
        Stage::Lengths => {
            let [direction, reference] = sums.fold(blocks, |a, b| a + b);
            let ratio = if direction > 0.0 {
                (reference / direction).sqrt()
            } else {
                0.0
            };
            match &mut job.apply {
                Apply::Update { rate, .. } => *rate *= ratio,
                Apply::Write { scale } => *scale *= ratio,
            }
        }
        Stage::Apply => {}
    }
}
