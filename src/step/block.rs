//! What is done to one block.

use super::factors::Factors;
use crate::kernel::{Apply, Array, Average, Kernels, Planes, Reference, Shape, Term, Workspace};
use crate::layout::{plane, Grid, Rect, Run, Update};
use crate::parallel::Access;

/// One tensor in one step.
pub(super) struct Job<'a> {
    pub grid: &'a Grid,
    pub kernels: &'a Kernels,
    pub factors: &'a Factors<'a>,
    pub update: Update,
    /// The tensor keeps the plane of normalized RMSProp.
    pub rms: bool,
    /// Directions are kept between the sweep that measures them and the one
    /// that applies them.
    pub kept: bool,
    /// Length of the gradient, where some part of the step needs it.
    pub gradient_length: f64,
    pub damping: f64,
    /// How the direction reaches the target.
    pub apply: Apply,
}

impl Job<'_> {
    /// The sum of squares of the block's gradient; NaN if it is not finite.
    pub(super) fn gradient_squares(&self, block: usize, access: &Access<'_>) -> f64 {
        let rect = self.grid.statistics(block);
        let scale = self.factors.grad_scale();
        self.grid.runs(&rect).fold(0.0, |sum, (_, run)| {
            sum + self.kernels.gradient_squares(access.gradient(run), scale)
        })
    }

    /// The block's state takes in its gradient.
    pub(super) fn statistics(&self, block: usize, access: &mut Access<'_>) {
        let rect = self.grid.statistics(block);
        let (momentum, statistics) = (self.factors.momentum(), self.factors.statistics());
        self.average(&rect, access, plane::MOMENTUM, Term::Gradient, momentum);
        self.average(&rect, access, plane::DIAGONAL, Term::Square, statistics);
        for k in 1..=self.grid.band() {
            self.grid.neighbours(&rect, k, |run, other| {
                let gradient = access.gradient(run);
                let term = other.map(|run| Term::Product(access.gradient(run)));
                let plane = access.plane_mut(plane::band(k), run);
                match term {
                    Some(term) => self.kernels.average(plane, gradient, term, statistics),
                    None => plane.fill(0),
                }
            });
            self.clear_breaks(&rect, k, access);
        }
        if self.rms {
            let rms = self.factors.rms(self.gradient_length);
            let plane = plane::rms(self.grid.band());
            self.average(&rect, access, plane, Term::Square, rms);
        }
    }

    /// Averages a term of each coordinate's own gradient into a plane.
    fn average(
        &self,
        rect: &Rect,
        access: &mut Access<'_>,
        plane: usize,
        term: Term<'_>,
        by: Average,
    ) {
        for (_, run) in self.grid.runs(rect) {
            let gradient = access.gradient(run);
            let plane = access.plane_mut(plane, run);
            self.kernels.average(plane, gradient, term, by);
        }
    }

    /// No edge leads from one chain to the next: where chains are broken along
    /// memory, the last `k` entries of each in sub-diagonal `k` are zero. Zero
    /// bytes are the number zero in every element type.
    fn clear_breaks(&self, rect: &Rect, k: usize, access: &mut Access<'_>) {
        let (start, end) = (rect.cols.start, rect.cols.end);
        for stop in self.grid.breaks(start + 1, end + k) {
            let (col, stop) = (start.max(stop.saturating_sub(k)), end.min(stop));
            if let Some(len) = stop.checked_sub(col).filter(|&len| len > 0) {
                let run = Run { row: 0, col, len };
                access.plane_mut(plane::band(k), run).fill(0);
            }
        }
    }

    /// The largest l1 of the block's statistics.
    pub(super) fn largest_l1(
        &self,
        block: usize,
        access: &Access<'_>,
        work: &mut Workspace,
    ) -> f64 {
        let rect = self.grid.directions(block);
        self.pack(&rect, access, work, 0.0);
        let front = work.block().front;
        // The first coordinate of a chain has no edge before it; with the one
        // after it instead, it can only be larger.
        let runs = self.grid.runs(&rect);
        let inner = runs.map(|(at, run)| self.kernels.largest_l1(work, front + at, run.len));
        let inner = inner.fold(0.0, f64::max);
        self.grid.firsts(&rect).fold(inner, |largest, at| {
            largest.max(self.kernels.l1_of_first(work, front + at))
        })
    }

    /// Computes the block's direction into the workspace.
    pub(super) fn direction(&self, block: usize, access: &Access<'_>, work: &mut Workspace) {
        let rect = self.grid.directions(block);
        match self.update {
            Update::Sonew => {
                self.pack(&rect, access, work, self.damping);
                self.kernels.direction(work, self.factors.gamma());
            }
            Update::Adam => {
                let (stride, core) = self.grid.packed(&rect);
                self.kernels.begin(work, Shape::new(0, stride, core, false));
                if let Some(adam) = self.factors.reference(self.update, self.gradient_length) {
                    self.reference(&rect, access, work, Array::Direction, adam);
                }
            }
        }
    }

    /// The squared lengths of the block's direction and of the vector whose
    /// length it takes. The direction is kept, where it can be.
    pub(super) fn lengths(
        &self,
        block: usize,
        access: &mut Access<'_>,
        work: &mut Workspace,
    ) -> [f64; 2] {
        self.direction(block, access, work);
        let rect = self.grid.directions(block);
        for (at, run) in self.grid.runs(&rect) {
            if let (_, Some(kept)) = access.target_mut(run) {
                kept.copy_from_slice(self.kernels.directions(work, at, run.len));
            }
        }
        let direction = self.kernels.block_squares(work, Array::Direction);
        let Some(reference) = self.factors.reference(self.update, self.gradient_length) else {
            return [direction, direction];
        };
        self.reference(&rect, access, work, Array::Graft, reference);
        [direction, self.kernels.block_squares(work, Array::Graft)]
    }

    /// Applies the block's direction: the one that was kept, or else computed.
    pub(super) fn apply(&self, block: usize, access: &mut Access<'_>, work: &mut Workspace) {
        if !self.kept {
            self.direction(block, access, work);
        }
        for (at, run) in self.grid.runs(&self.grid.directions(block)) {
            let (target, kept) = access.target_mut(run);
            let direction = match kept {
                Some(kept) => kept,
                None => self.kernels.directions(work, at, run.len),
            };
            self.kernels.apply(direction, target, self.apply);
        }
    }

    /// Packs the state of a rectangle, with what surrounds it.
    fn pack(&self, rect: &Rect, access: &Access<'_>, work: &mut Workspace, damping: f64) {
        let (stride, core) = self.grid.packed(rect);
        let (band, broken) = (self.grid.band(), self.grid.looks_across_breaks());
        let shape = Shape::new(band, stride, core, broken);
        let kernels = self.kernels;
        kernels.begin(work, shape);
        let momentum = self.factors.momentum_correction();
        let statistics = self.factors.statistics_correction();
        self.grid.pieces(rect, |piece| {
            let at = shape.front.wrapping_add_signed(piece.at);
            let Some(run) = piece.run else {
                return kernels.pad(work, at, piece.len);
            };
            let mut pack = |array, plane, factor, add| {
                kernels.pack(work, array, at, access.plane(plane, run), factor, add)
            };
            pack(Array::Momentum, plane::MOMENTUM, momentum, 0.0);
            pack(Array::Diagonal, plane::DIAGONAL, statistics, damping);
            for k in 1..=band {
                pack(Array::Band(k), plane::band(k), statistics, 0.0);
            }
        });
        if broken {
            self.grid.reach(rect, |at, count, rest| {
                let at = shape.front.wrapping_add_signed(at);
                kernels.set_reach(work, at, count, rest);
            });
        }
    }

    fn reference(
        &self,
        rect: &Rect,
        access: &Access<'_>,
        work: &mut Workspace,
        array: Array,
        reference: Reference,
    ) {
        let front = work.block().front;
        for (at, run) in self.grid.runs(rect) {
            let planes = Planes {
                momentum: access.plane(plane::MOMENTUM, run),
                diagonal: access.plane(plane::DIAGONAL, run),
                rms: access.plane(plane::rms(self.grid.band()), run),
            };
            let gradient = access.gradient(run);
            self.kernels
                .reference(work, array, front + at, gradient, planes, reference);
        }
    }
}
