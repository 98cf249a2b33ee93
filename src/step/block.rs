//! What is done to one block.

use super::factors::Factors;
use crate::kernel::{Apply, Array, Kernels, Reference, Shape, Statistics, Workspace};
use crate::layout::{Grid, Rect, Update};
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
        let scale = self.factors.statistics.grad_scale;
        self.grid.runs(&rect).fold(0.0, |sum, (_, run)| {
            sum + self.kernels.gradient_squares(access.gradient(run), scale)
        })
    }

    /// The block's state takes in its gradient.
    pub(super) fn statistics(&self, block: usize, access: &mut Access<'_>) {
        let rect = self.grid.statistics(block);
        self.grid.neighbours(&rect, |run, others| {
            self.kernels.statistics(&mut Statistics {
                gradient: access.gradient(run),
                neighbours: others.map(|other| other.map(|run| access.gradient(run))),
                planes: access.state_mut(run),
                factors: self.factors.statistics,
            });
        });
        self.clear_breaks(&rect, access);
        if self.rms {
            let scale = self.factors.normalize(self.gradient_length);
            for (_, run) in self.grid.runs(&rect) {
                let gradient = access.gradient(run);
                let plane = access.state_mut(run).rms;
                self.kernels
                    .rms(gradient, plane, scale, self.factors.beta2());
            }
        }
    }

    /// No edge leads from one chain to the next: where chains are broken along
    /// memory, the last `k` entries of each in sub-diagonal `k` are zero.
    fn clear_breaks(&self, rect: &Rect, access: &mut Access<'_>) {
        let (start, end) = (rect.cols.start, rect.cols.end);
        for stop in self.grid.breaks(start + 1, end + self.grid.band()) {
            for k in 1..=self.grid.band() {
                let (from, to) = (start.max(stop.saturating_sub(k)), end.min(stop));
                if from < to {
                    let run = crate::layout::Run {
                        row: 0,
                        col: from,
                        len: to - from,
                    };
                    // Zero bytes are the number zero in every element type.
                    access.state_mut(run).bands[k - 1].fill(0);
                }
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
        for (at, run) in self.grid.runs(&self.grid.directions(block)) {
            if let (_, Some(kept)) = access.target_mut(run) {
                kept.copy_from_slice(self.kernels.directions(work, at, run.len));
            }
        }
        let direction = self.kernels.block_squares(work, Array::Direction);
        let Some(reference) = self.factors.reference(self.update, self.gradient_length) else {
            return [direction, direction];
        };
        let rect = self.grid.directions(block);
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

    fn pack(&self, rect: &Rect, access: &Access<'_>, work: &mut Workspace, damping: f64) {
        let (stride, core) = self.grid.packed(rect);
        let broken = self.grid.looks_across_breaks();
        let shape = Shape::new(self.grid.band(), stride, core, broken);
        let (kernels, factors) = (self.kernels, self.factors.pack(damping));
        kernels.begin(work, shape);
        self.grid.pieces(rect, |piece| {
            let at = shape.front.wrapping_add_signed(piece.at);
            match piece.run {
                Some(run) => kernels.pack(work, at, &access.state(run), &factors),
                None => kernels.pad(work, at, piece.len),
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
            let (gradient, planes) = (access.gradient(run), access.state(run));
            self.kernels
                .reference(work, array, front + at, gradient, &planes, &reference);
        }
    }
}
