//! Sums of squares, which may be beyond the range of the types that they are computed in: then they
//! are computed once more, of what is larger or smaller by a power of two.

use super::known::Known;
use super::progress::Progress;
use super::range::{next_lift, Wide};
use super::run::Run;
use super::sums::Slot;
use super::tensor::Tensor;
use crate::dtype::Dtype;
use crate::parallel::Sweep;

impl Run<'_> {
    pub(super) fn gradient_squares(&mut self, progress: &mut Progress) {
        let sum = |run: &mut Self, progress: &Progress, any: bool| {
            let (tensors, sums) = (run.tensors, run.sums);
            run.visit(Sweep::Whole, progress, |_, visit| {
                let (tensor, known) = (&tensors[visit.tensor], &progress.known[visit.tensor]);
                if any || known.lift != 0 {
                    let squares =
                        tensor.gradient_squares(known, progress.scale, visit.block, visit.access);
                    sums.set(tensor.blocks.start + visit.block, Slot::First, squares);
                }
            });
        };
        sum(self, progress, true);
        // In float64 the sum of finite squares may be beyond the range, or below it.
        let next = |_: &Self, t: &Tensor, known: &Known| {
            let (arithmetic, squares) = (t.kernels.arithmetic(), known.squares);
            let may_be = arithmetic == Dtype::F64 && !squares.is_nan();
            let as_summed = squares.shifted(2 * known.lift);
            may_be
                .then(|| next_lift(arithmetic, as_summed, known.lift))
                .flatten()
        };
        let again = |run: &mut Self, progress: &Progress| sum(run, progress, false);
        self.settle_squares(progress, |_| true, next, again);
        progress.known.iter_mut().for_each(|known| known.lift = 0);
        self.give(progress, |_| true, |_, known| [known.squares.to_f64(), 0.0]);
    }

    /// Sums of squares come to be known; where `next` finds a lift for a sum that is not of
    /// use, `again` computes it with that.
    pub(super) fn settle_squares(
        &mut self,
        progress: &mut Progress,
        concerned: impl Fn(&Tensor) -> bool,
        next: impl Fn(&Self, &Tensor, &Known) -> Option<i32>,
        again: impl Fn(&mut Self, &Progress),
    ) {
        self.know_squares(progress, |t, _| concerned(t));
        while self.lift(progress, |t, known| next(self, t, known)) {
            again(self, progress);
            self.know_squares(progress, |t, known| concerned(t) && known.lift != 0);
        }
    }

    /// Of tensors that take part, and are concerned: the sums of squares as they are,
    /// without what lifted them.
    fn know_squares(&self, progress: &mut Progress, concerned: impl Fn(&Tensor, &Known) -> bool) {
        let tensors = self.tensors.iter().zip(&self.memory);
        for ((tensor, memory), known) in tensors.zip(&mut progress.known) {
            if memory.is_some() && concerned(tensor, known) {
                let squares = Wide::from(self.fold(tensor, Slot::First));
                known.squares = squares.shifted(-2 * known.lift);
                known.summed = known.lift;
            }
        }
    }

    /// Sets the power of two with which sums of squares are computed again, where they
    /// are to be. Returns whether any are.
    fn lift(&self, progress: &mut Progress, next: impl Fn(&Tensor, &Known) -> Option<i32>) -> bool {
        let mut any = false;
        let tensors = self.tensors.iter().zip(&self.memory);
        for ((tensor, memory), known) in tensors.zip(&mut progress.known) {
            let lift = memory.as_ref().and_then(|_| next(tensor, known));
            any |= lift.is_some();
            known.lift = lift.unwrap_or(known.lift);
        }
        any
    }

    /// A direction that has left the range of its type, or nearly so, comes back into it
    /// from momentum that is larger or smaller.
    pub(super) fn lift_of_direction(&self, tensor: &Tensor, known: &Known) -> Option<i32> {
        let reference = self.fold(tensor, Slot::Reference);
        let has_norm = tensor.grafted() && reference > 0.0 && reference < f64::INFINITY;
        let next = || self.next_lift(tensor, known.squares, known);
        has_norm.then(next).flatten()
    }

    /// See [`next_lift`]; the squares are those of the direction.
    pub(super) fn next_lift(&self, tensor: &Tensor, squares: Wide, known: &Known) -> Option<i32> {
        let units = known
            .factors(tensor.spec.options_or(self.options), &self.step)
            .units(tensor.spec.update, tensor.graft);
        // As the kernels computed them.
        let unit = Wide::from(units.direction * units.direction);
        let squares = (squares / unit).shifted(2 * known.lift);
        next_lift(tensor.kernels.arithmetic(), squares, known.lift)
    }
}
