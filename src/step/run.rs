//! One step under way: which sweep does what.

use sonew_kernel::{Directions, Memory, TensorBuffers};

use super::block::Job;
use super::factors::Factors;
use super::stages::{Known, Next, Progress, Stage};
use super::sums::{Slot, Sums};
use super::tensor::Tensor;
use crate::error::{Error, Result};
use crate::layout::check_count;
use crate::memory::again;
use crate::options::{Graft, NonFinite, Options, StepOptions};
use crate::parallel::{Sweep, Team, Tiles, Visit};

/// Lists of tensors that a step needs, empty: between steps a plan keeps their
/// memory, so that the next one asks for none.
#[derive(Default)]
pub(super) struct Lists {
    pub(super) memory: Vec<Option<Memory<'static>>>,
    pub(super) numbers: Vec<[f64; 2]>,
    pub(super) known: Vec<Known>,
}

/// One step under way.
pub(super) struct Run<'a> {
    pub(super) options: &'a Options,
    pub(super) step: StepOptions,
    pub(super) tensors: &'a [Tensor],
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
    /// Goes on to the next stage whose numbers the step needs, which are then
    /// in the progress; `None` if there is none, and all is done.
    pub(super) fn advance(&mut self, progress: &mut Progress) -> Result<Option<Stage>> {
        if progress.next == Next::Gradient {
            progress.next = Next::Statistics;
            if self.looks_at_gradients() {
                self.gradient_squares(progress);
                return Ok(Some(Stage::GradientSquares));
            }
        }
        if progress.next == Next::Statistics {
            self.take_reached(progress)?;
            self.statistics(progress);
            progress.next = Next::Measure;
            if self.tensors.iter().any(|t| t.relative) {
                self.largest_l1(progress);
                return Ok(Some(Stage::LargestL1));
            }
        }
        if progress.next == Next::Measure {
            self.take_reached(progress)?;
            progress.next = Next::Apply;
            if self.tensors.iter().any(Tensor::grafted) {
                self.norms(progress);
                return Ok(Some(Stage::Norms));
            }
        }
        if progress.next == Next::Apply {
            self.take_reached(progress)?;
            self.left(Directions::Applied, progress);
            progress.next = Next::Done;
        }
        Ok(None)
    }

    /// Gives the lists back.
    pub(super) fn end(self) {
        self.lists.memory = again(self.memory);
    }

    /// Puts a step where others have taken it: through these stages, in their
    /// order, with their reduced numbers.
    pub(super) fn replay(
        &self,
        progress: &mut Progress,
        reached: &[(Stage, Vec<[f64; 2]>)],
    ) -> Result<()> {
        for (stage, numbers) in reached {
            self.take_reached(progress)?;
            check_count("numbers", numbers.len(), self.tensors.len())?;
            progress.numbers.clone_from(numbers);
            progress.next = match stage {
                Stage::GradientSquares => Next::Statistics,
                Stage::LargestL1 => Next::Measure,
                Stage::Norms => Next::Apply,
            };
        }
        Ok(())
    }

    /// Puts the writing of targets off to the last sweep, where there is a stage
    /// to stop at before.
    pub(super) fn defer(&mut self) {
        let waits = |t: &Tensor| t.relative || t.grafted();
        self.defers = self.tensors.iter().any(waits);
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

    /// Takes the numbers of the stage that was reached into what is known.
    fn take_reached(&self, progress: &mut Progress) -> Result<()> {
        self.check_reached(progress)?;
        match progress.next {
            Next::Statistics if self.looks_at_gradients() => {
                self.take_gradient_squares(progress)?;
            }
            Next::Measure => {
                let known = |known: &mut Known, [l1, _]: [f64; 2]| known.l1 = l1;
                self.take(progress, |t| t.relative, known);
            }
            Next::Apply => self.take(
                progress,
                Tensor::grafted,
                |known, [direction, reference]| {
                    known.ratio = if direction > 0.0 {
                        (reference / direction).sqrt()
                    } else {
                        0.0
                    };
                },
            ),
            _ => {}
        }
        Ok(())
    }

    /// Refuses negative numbers: all are squares or sums of sizes. NaN may
    /// come of gradients that nobody checks.
    fn check_reached(&self, progress: &Progress) -> Result<()> {
        let mut tensors = self.tensors.iter().zip(&progress.numbers);
        let negative = |numbers: &[f64; 2]| numbers.iter().any(|&number| number < 0.0);
        let Some((tensor, numbers)) = tensors.find(|(_, numbers)| negative(numbers)) else {
            return Ok(());
        };
        let what = match progress.next {
            Next::Gradient | Next::Statistics => "the squares of the gradient",
            Next::Measure => "the largest l1",
            Next::Apply | Next::Done => "the squares of the norms",
        };
        Err(Error::OutOfRange {
            argument: format!("{what} of tensor \"{}\"", tensor.spec.name),
            value: numbers[0].min(numbers[1]),
            allowed: "not negative",
        })
    }

    /// Whether the step begins with the norms of gradients.
    fn looks_at_gradients(&self) -> bool {
        self.refuses() || self.options.graft == Graft::NormalizedRmsprop
    }

    /// Whether it refuses gradients that are not finite.
    fn refuses(&self) -> bool {
        self.step.non_finite == NonFinite::Skip || self.step.clip_norm.is_some()
    }

    /// Takes a stage's numbers into what is known of the tensors concerned.
    fn take(
        &self,
        progress: &mut Progress,
        concerned: impl Fn(&Tensor) -> bool,
        take: impl Fn(&mut Known, [f64; 2]),
    ) {
        let numbers = progress.known.iter_mut().zip(&progress.numbers);
        for (tensor, (known, &numbers)) in self.tensors.iter().zip(numbers) {
            if concerned(tensor) {
                take(known, numbers);
            }
        }
    }

    /// Puts numbers of tensors that take part, and are concerned, in place.
    fn give(
        &self,
        progress: &mut Progress,
        concerned: impl Fn(&Tensor) -> bool,
        numbers: impl Fn(&Tensor) -> [f64; 2],
    ) {
        let tensors = self.tensors.iter().zip(&self.memory);
        for ((tensor, memory), place) in tensors.zip(&mut progress.numbers) {
            *place = match memory {
                Some(_) if concerned(tensor) => numbers(tensor),
                _ => [0.0; 2],
            };
        }
    }

    fn gradient_squares(&mut self, progress: &mut Progress) {
        let (tensors, sums) = (self.tensors, self.sums);
        self.sweep(Sweep::Whole, progress, |job, visit| {
            let squares = job.gradient_squares(visit.block, visit.access);
            let block = tensors[visit.tensor].blocks.start + visit.block;
            sums.set(block, Slot::First, squares);
        });
        self.give(progress, |_| true, |t| [self.fold(t, Slot::First), 0.0]);
    }

    /// Looks for gradients that are not finite; clips.
    fn take_gradient_squares(&self, progress: &mut Progress) -> Result<()> {
        if self.refuses() {
            let mut tensors = self.tensors.iter().zip(&progress.numbers);
            if let Some((tensor, _)) = tensors.find(|(_, [squares, _])| squares.is_nan()) {
                return Err(Error::NonFiniteGradient {
                    tensor: tensor.spec.name.clone(),
                });
            }
        }
        let all: f64 = progress.numbers.iter().map(|[squares, _]| squares).sum();
        let norm = all.sqrt();
        progress.gradient_norm = Some(norm);
        let clip = match self.step.clip_norm {
            Some(most) if norm > most => most / norm,
            _ => 1.0,
        };
        progress.scale *= clip;
        self.take(
            progress,
            |_| true,
            |known, [squares, _]| {
                known.gradient_norm = squares.sqrt() * clip;
            },
        );
        Ok(())
    }

    /// Statistics of all blocks, together with their directions where nothing
    /// else has to come before.
    fn statistics(&mut self, progress: &Progress) {
        let (tensors, sums, defers) = (self.tensors, self.sums, self.defers);
        self.sweep(Sweep::Tiles, progress, |job, visit| {
            let tensor = &tensors[visit.tensor];
            let block = tensor.blocks.start + visit.block;
            let then = tensor.fused(defers).filter(|_| !visit.waits);
            let [direction, reference] =
                job.statistics(visit.block, visit.access, visit.work, then);
            sums.set(block, Slot::Reference, reference);
            if then.is_some() {
                sums.set(block, Slot::First, direction);
            }
        });
        self.sweep(Sweep::Waiting, progress, |job, visit| {
            let tensor = &tensors[visit.tensor];
            if let Some(then) = tensor.fused(defers) {
                directions(tensor, job, sums, then, visit);
            }
        });
    }

    fn largest_l1(&mut self, progress: &mut Progress) {
        let (tensors, sums) = (self.tensors, self.sums);
        self.sweep(Sweep::Whole, progress, |job, visit| {
            let tensor = &tensors[visit.tensor];
            if tensor.relative {
                let block = tensor.blocks.start + visit.block;
                let l1 = job.largest_l1(visit.block, visit.access, visit.work);
                sums.set(block, Slot::First, l1);
            }
        });
        let fold = |t: &Tensor| sums.fold(t.blocks.clone(), Slot::First, f64::max);
        self.give(progress, |t| t.relative, |t| [fold(t), 0.0]);
    }

    fn norms(&mut self, progress: &mut Progress) {
        self.left(Directions::Measured, progress);
        let both = |t: &Tensor| [self.fold(t, Slot::First), self.fold(t, Slot::Reference)];
        self.give(progress, Tensor::grafted, both);
    }

    /// Measures or applies directions where no earlier sweep did.
    fn left(&mut self, then: Directions, progress: &Progress) {
        let (tensors, sums) = (self.tensors, self.sums);
        let (keeps, defers) = (self.keeps, self.defers);
        if !tensors.iter().any(|t| t.is_left(then, defers)) {
            return;
        }
        self.sweep(Sweep::Whole, progress, |job, visit| {
            let tensor = &tensors[visit.tensor];
            if !tensor.is_left(then, defers) {
            } else if then == Directions::Applied && keeps && tensor.grafted() {
                job.apply_kept(visit.block, visit.access);
            } else {
                directions(tensor, job, sums, then, visit);
            }
        });
    }

    /// The sum over a tensor's blocks.
    fn fold(&self, tensor: &Tensor, slot: Slot) -> f64 {
        self.sums.fold(tensor.blocks.clone(), slot, |a, b| a + b)
    }

    /// Visits the blocks of all tensors that take part, after what is known of them so
    /// far.
    fn sweep(
        &mut self,
        sweep: Sweep,
        progress: &Progress,
        visit: impl Fn(&Job<'_>, Visit<'_, '_>) + Sync,
    ) {
        let (tensors, buffers, memory) = (self.tensors, self.buffers, &self.memory);
        let (options, step) = (self.options, &self.step);
        let visit = |visited: Visit<'_, '_>| {
            let tensor = visited.tensor;
            let known = &progress.known[tensor];
            let factors = Factors {
                options,
                step,
                corrections: known.corrections,
            };
            let job = tensors[tensor].job(&factors, known, progress.scale, &buffers[tensor]);
            visit(&job, visited);
        };
        let grid = |tensor: usize| &tensors[tensor].grid;
        let memory = |tensor: usize| memory[tensor].as_ref();
        self.team.sweep(sweep, self.tiles, grid, memory, &visit);
    }
}

/// Computes the directions of a block from its state.
fn directions(tensor: &Tensor, job: &Job<'_>, sums: &Sums, then: Directions, visit: Visit<'_, '_>) {
    let block = tensor.blocks.start + visit.block;
    let [direction, _] = job.directions(visit.block, visit.access, visit.work, then);
    sums.set(block, Slot::First, direction);
}
