//! One step under way: what it works on, and how it visits the blocks of its tensors.

use sonew_kernel::{Access, Memory, TensorBuffers};

use super::block::Job;
use super::factors::Factors;
use super::known::Known;
use super::pooled::Pooled;
use super::progress::{Lists, Progress};
use super::sums::{Slot, Sums};
use super::tensor::Tensor;
use crate::memory::again;
use crate::options::{Options, StepOptions};
use crate::parallel::{Sweep, Team, Tiles, Visit};

/// One step under way.
pub(super) struct Run<'a> {
    pub(super) options: &'a Options,
    pub(super) step: StepOptions,
    pub(super) tensors: &'a [Tensor],
    pub(super) pooled: &'a mut [Option<Pooled>],
    pub(super) tiles: &'a Tiles,
    pub(super) sums: &'a Sums,
    pub(super) team: Team<'a>,
    /// Where the lists go when all is done.
    pub(super) lists: &'a mut Lists,
    pub(super) buffers: &'a [TensorBuffers<'a>],
    /// The memory of tensors that take part.
    pub(super) memory: Vec<Option<Memory<'a>>>,
    /// Directions may be kept from one sweep to another.
    pub(super) keeps: bool,
    /// No target is written before the last sweep, for callers who may stop at
    /// a stage.
    pub(super) defers: bool,
}

impl<'a> Run<'a> {
    /// Gives the lists back.
    pub(super) fn end(self) {
        self.lists.memory = again(self.memory);
    }

    /// Puts the writing of targets off to the last sweep, where there is a stage
    /// to stop at before. Lagged norms write them before in any case, so that callers need not
    /// wait for what is reduced.
    pub(super) fn defer(&mut self) {
        let waits = |t: &Tensor| t.is_relative() || t.grafted();
        self.defers = !self.options.is_lagged() && self.tensors.iter().any(waits);
    }

    /// The squares of the reference's norm, of each tensor: known once its
    /// statistics are.
    pub(super) fn references(&self) -> Vec<f64> {
        let fold = |(t, memory): (&Tensor, &Option<Memory<'_>>)| match memory {
            Some(_) => self.fold(t, Slot::Reference),
            None => 0.0,
        };
        self.tensors.iter().zip(&self.memory).map(fold).collect()
    }

    /// Takes a stage's numbers into what is known of the tensors that take part, and are
    /// concerned.
    pub(super) fn take(
        &self,
        progress: &mut Progress,
        concerned: impl Fn(&Tensor) -> bool,
        take: impl Fn(&Tensor, &mut Known, [f64; 2]),
    ) {
        let numbers = progress.known.iter_mut().zip(&progress.numbers);
        let tensors = self.tensors.iter().zip(&self.memory).zip(numbers);
        for ((tensor, memory), (known, &numbers)) in tensors {
            if memory.is_some() && concerned(tensor) {
                take(tensor, known, numbers);
            }
        }
    }

    /// Puts numbers of tensors that take part, and are concerned, in place.
    pub(super) fn give(
        &self,
        progress: &mut Progress,
        concerned: impl Fn(&Tensor) -> bool,
        numbers: impl Fn(&Tensor, &Known) -> [f64; 2],
    ) {
        let tensors = self.tensors.iter().zip(&self.memory).zip(&progress.known);
        for (((tensor, memory), known), place) in tensors.zip(&mut progress.numbers) {
            *place = match memory {
                Some(_) if concerned(tensor) => numbers(tensor, known),
                _ => [0.0; 2],
            };
        }
    }

    /// The sum over a tensor's blocks.
    pub(super) fn fold(&self, tensor: &Tensor, slot: Slot) -> f64 {
        self.sums.fold(tensor.blocks.clone(), slot, |a, b| a + b)
    }

    /// Visits the blocks of all tensors that take part, after what is known of them so
    /// far; each with how its tensor is treated.
    pub(super) fn sweep(
        &mut self,
        sweep: Sweep,
        progress: &Progress,
        visit: impl Fn(&Job<'_>, Visit<'_, '_>) + Sync,
    ) {
        self.visit(sweep, progress, |jobs, visited| {
            visit(&jobs.job(visited.tensor), visited)
        });
    }

    /// The same for visits that need only part of that, or none.
    pub(super) fn visit(
        &mut self,
        sweep: Sweep,
        progress: &Progress,
        visit: impl Fn(&Jobs<'_>, Visit<'_, '_>) + Sync,
    ) {
        let (tensors, memory) = (self.tensors, &self.memory);
        let jobs = Jobs {
            options: self.options,
            step: &self.step,
            tensors,
            buffers: self.buffers,
            pooled: self.pooled,
            progress,
        };
        let grid = |tensor: usize| &tensors[tensor].grid;
        let memory = |tensor: usize| memory[tensor].as_ref();
        let visit = |visited: Visit<'_, '_>| visit(&jobs, visited);
        self.team.sweep(sweep, self.tiles, grid, memory, &visit);
    }
}

/// What the jobs of a sweep follow from. For small tensors to compute one takes longer than
/// to do it.
pub(super) struct Jobs<'a> {
    options: &'a Options,
    step: &'a StepOptions,
    tensors: &'a [Tensor],
    buffers: &'a [TensorBuffers<'a>],
    pooled: &'a [Option<Pooled>],
    progress: &'a Progress,
}

impl Jobs<'_> {
    /// How a tensor is treated.
    pub(super) fn job(&self, tensor: usize) -> Job<'_> {
        let (known, buffers) = (&self.progress.known[tensor], &self.buffers[tensor]);
        let (factors, pooled) = (self.factors(tensor), self.pooled[tensor].as_ref());
        self.tensors[tensor].job(&factors, known, self.progress.scale, buffers, pooled)
    }

    /// Applies the directions of a block that were kept.
    pub(super) fn apply_kept(&self, tensor: usize, block: usize, access: &mut Access<'_>) {
        let (known, buffers) = (&self.progress.known[tensor], &self.buffers[tensor]);
        let factors = self.factors(tensor);
        self.tensors[tensor].apply_kept(&factors, known, buffers, block, access);
    }

    fn factors(&self, tensor: usize) -> Factors<'_> {
        let options = self.tensors[tensor].spec.options_or(self.options);
        self.progress.known[tensor].factors(options, self.step)
    }
}
