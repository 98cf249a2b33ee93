//! The course of a step: which sweep does what, and what is made of the numbers of each stage.

use sonew_kernel::Directions;

use super::block::Job;
use super::known::Known;
use super::progress::{Next, Progress, Stage};
use super::range::Wide;
use super::run::Run;
use super::sums::{Slot, Sums};
use super::tensor::Tensor;
use crate::error::{Error, Result};
use crate::layout::check_count;
use crate::options::{Damping, Graft, NonFinite};
use crate::parallel::{Sweep, Visit};

/// The norm of an update by the norms of the step before may be so many times that by the norms
/// of its own.
const LARGEST_EXCESS: f64 = 2.0;

impl Run<'_> {
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
            self.begin_pooled(progress);
            self.statistics(progress);
            self.end_pooled(progress, false);
            progress.next = Next::Measure;
            // Stages follow from the options alone, so that machines with different
            // tensors stop at the same ones.
            if self.options.damping != Damping::Absolute {
                self.largest_l1(progress);
                return Ok(Some(Stage::LargestL1));
            }
        }
        if progress.next == Next::Measure {
            self.take_reached(progress)?;
            self.products(progress);
            self.end_pooled(progress, true);
            progress.next = Next::Apply;
            if self.options.graft != Graft::None {
                self.norms(progress);
                return Ok(Some(Stage::Norms));
            }
        }
        if progress.next == Next::Apply {
            self.take_reached(progress)?;
            let tensors = self.tensors.iter().zip(&mut self.memory);
            for ((tensor, memory), known) in tensors.zip(&progress.known) {
                if let Some(memory) = memory {
                    memory.is_written = tensor.is_applied(known);
                }
            }
            let defers = self.defers;
            self.left(progress, |tensor, known| {
                tensor.left_to_apply(known, defers)
            });
            for known in &mut progress.known {
                known.scalars.largest = known.next_largest;
            }
            progress.next = Next::Done;
        }
        Ok(None)
    }

    /// Puts a step where others have taken it: through these stages, in their
    /// order, with their reduced numbers.
    pub(super) fn replay(
        &mut self,
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
        if matches!(progress.next, Next::Measure | Next::Apply) {
            self.each_pooled(progress, |pooled, sums, _, _, estimate| {
                pooled.invert(sums.current(), estimate);
            });
        }
        Ok(())
    }

    /// Takes the numbers of the stage that was reached into what is known.
    fn take_reached(&self, progress: &mut Progress) -> Result<()> {
        self.check_reached(progress)?;
        match progress.next {
            Next::Statistics if self.looks_at_gradients() => {
                self.take_gradient_squares(progress)?;
            }
            Next::Measure => {
                let known = |t: &Tensor, known: &mut Known, [largest, _]: [f64; 2]| {
                    if known.largest == 0.0 {
                        known.largest = largest;
                    }
                    if t.damping == Damping::RelativeLagged {
                        known.next_largest = if largest.is_finite() { largest } else { 0.0 };
                    }
                };
                self.take(progress, Tensor::is_relative, known);
            }
            Next::Apply => {
                let known =
                    |t: &Tensor, known: &mut Known, numbers| self.take_norms(t, known, numbers);
                self.take(progress, Tensor::grafted, known);
            }
            _ => {}
        }
        Ok(())
    }

    /// The factor that gives a direction its norm; zero where that is not known.
    fn take_norms(&self, tensor: &Tensor, known: &mut Known, [direction, reference]: [f64; 2]) {
        let (direction, reference) = (known.exactly(direction), Wide::from(reference));
        let are_known = direction.is_positive() && direction.is_finite() && reference.is_finite();
        known.ratio = match are_known {
            true => (reference / direction).sqrt(),
            false => Wide::ZERO,
        };
        if self.options.is_lagged() {
            // Beyond float64 there is none.
            let ratio = Some(known.ratio.to_f64()).filter(|ratio| ratio.is_finite());
            known.scalars.norm_ratio = ratio.unwrap_or(0.0);
        }
        if let Some(lagged) = known.lagged.filter(|_| direction.is_positive()) {
            known.is_too_large = (lagged / known.ratio).to_f64() > LARGEST_EXCESS;
            if !known.is_too_large {
                known.ratio = lagged;
            }
        }
        if !self.keeps {
            // Directions are computed once more; as they were measured.
            known.lift = 0;
            while let Some(lift) = self.next_lift(tensor, direction, known) {
                known.lift = lift;
            }
        }
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
        let known = progress.known.iter().zip(&progress.numbers);
        let all = Wide::sum(known.map(|(known, [squares, _])| known.exactly(*squares)));
        let norm = all.sqrt();
        progress.gradient_norm = Some(norm.to_f64());
        let clip = match self.step.clip_norm {
            Some(most) if norm.to_f64() > most => Wide::from(most) / norm,
            _ => Wide::from(1.0),
        };
        progress.scale = (Wide::from(progress.scale) * clip).to_f64();
        let known = |_: &Tensor, known: &mut Known, [squares, _]: [f64; 2]| {
            known.gradient_norm = known.exactly(squares).sqrt() * clip;
        };
        self.take(progress, |_| true, known);
        Ok(())
    }

    /// Statistics of all blocks, together with their directions where nothing
    /// else has to come before.
    fn statistics(&mut self, progress: &Progress) {
        let (tensors, sums, defers) = (self.tensors, self.sums, self.defers);
        let known = &progress.known;
        self.sweep(Sweep::Tiles, progress, |job, visit| {
            let tensor = &tensors[visit.tensor];
            let block = tensor.blocks.start + visit.block;
            let known = &known[visit.tensor];
            let then = tensor.fused(known, defers).filter(|_| !visit.waits);
            let totals = job.statistics(visit.block, visit.access, visit.work, then);
            sums.set(block, Slot::Reference, totals.reference);
            sums.set(block, Slot::Largest, totals.largest);
            if then.is_some() {
                sums.set(block, Slot::First, totals.direction);
            }
        });
        self.sweep(Sweep::Waiting, progress, |job, visit| {
            let tensor = &tensors[visit.tensor];
            if let Some(then) = tensor.fused(&known[visit.tensor], defers) {
                directions(tensor, job, sums, then, visit);
            }
        });
    }

    /// What relative damping is relative to. The largest entries of diagonals are known from
    /// the statistics.
    fn largest_l1(&mut self, progress: &mut Progress) {
        let (tensors, sums) = (self.tensors, self.sums);
        let looks = |t: &Tensor| t.damping == Damping::Relative;
        if tensors.iter().any(looks) {
            self.sweep(Sweep::Whole, progress, |job, visit| {
                let tensor = &tensors[visit.tensor];
                if looks(tensor) {
                    let block = tensor.blocks.start + visit.block;
                    let l1 = job.largest_l1(visit.block, visit.access, visit.work);
                    sums.set(block, Slot::Largest, l1);
                }
            });
        }
        let fold = |t: &Tensor| sums.fold(t.blocks.clone(), Slot::Largest, f64::max);
        self.give(progress, Tensor::is_relative, |t, _| [fold(t), 0.0]);
    }

    fn norms(&mut self, progress: &mut Progress) {
        let (tensors, sums) = (self.tensors, self.sums);
        self.left(progress, Tensor::left_to_measure);
        let again = |run: &mut Self, progress: &Progress| {
            run.visit(Sweep::Whole, progress, |jobs, visit| {
                let tensor = &tensors[visit.tensor];
                if progress.known[visit.tensor].lift != 0 {
                    let job = jobs.job(visit.tensor);
                    directions(tensor, &job, sums, Directions::Measured, visit);
                }
            });
        };
        self.settle_squares(progress, Tensor::grafted, Self::lift_of_direction, again);
        let both =
            |t: &Tensor, known: &Known| [known.squares.to_f64(), self.fold(t, Slot::Reference)];
        self.give(progress, Tensor::grafted, both);
    }

    /// Measures or applies directions where no earlier sweep did.
    fn left(
        &mut self,
        progress: &Progress,
        left: impl Fn(&Tensor, &Known) -> Option<Directions> + Sync,
    ) {
        let (tensors, sums, known) = (self.tensors, self.sums, &progress.known);
        let keeps = self.keeps;
        if tensors
            .iter()
            .zip(known)
            .all(|(t, known)| left(t, known).is_none())
        {
            return;
        }
        self.visit(Sweep::Whole, progress, |jobs, visit| {
            let tensor = &tensors[visit.tensor];
            match left(tensor, &known[visit.tensor]) {
                None => {}
                Some(Directions::Applied) if keeps && tensor.grafted() => {
                    jobs.apply_kept(visit.tensor, visit.block, visit.access);
                }
                Some(then) => directions(tensor, &jobs.job(visit.tensor), sums, then, visit),
            }
        });
    }
}

/// Computes the directions of a block from its state.
fn directions(tensor: &Tensor, job: &Job<'_>, sums: &Sums, then: Directions, visit: Visit<'_, '_>) {
    let block = tensor.blocks.start + visit.block;
    let direction = job.directions(visit.block, visit.access, visit.work, then);
    sums.set(block, Slot::First, direction);
}
