//! What is done to one block.

use crate::dtype::Dtype;
use crate::kernel::{
    Apply, Denominator, Kernels, Output, Shape, Squares, TakeIn, Task, Workspace, LANES,
};
use crate::layout::{Ends, Grid, Rect, Run};
use crate::parallel::Access;

/// One tensor in one step.
pub(super) struct Job<'a> {
    pub grid: &'a Grid,
    pub arithmetic: Dtype,
    pub kernels: &'static Kernels,
    /// Multiplies the gradient.
    pub scale: f64,
    pub take_in: TakeIn,
    pub denominator: Denominator,
    pub gamma: f64,
    pub units: Units,
    /// How the direction reaches the target.
    pub apply: Apply,
}

/// Kernels leave bias correction out. What they compute, times these, is what
/// it stands for.
#[derive(Debug, Clone, Copy)]
pub(super) struct Units {
    pub statistics: f64,
    pub direction: f64,
    pub reference: f64,
}

/// What becomes of a block's directions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Directions {
    Measured,
    Applied,
}

impl Job<'_> {
    /// The sum of squares of the block's gradient; NaN if it is not finite.
    pub(super) fn gradient_squares(&self, block: usize, access: &Access<'_>) -> f64 {
        let rect = self.grid.statistics(block);
        let dtype = access.gradient_dtype();
        self.grid.runs(&rect).fold(0.0, |sum, (_, run)| {
            let run = access.gradient(run);
            sum + self.kernels.gradient_squares(run, dtype, self.scale)
        })
    }

    /// The block's state takes in its gradient; then its directions are
    /// computed, unless they have to wait.
    pub(super) fn statistics(
        &self,
        block: usize,
        access: &mut Access<'_>,
        work: &mut Workspace,
        then: Option<Directions>,
    ) -> Squares {
        let state = self.grid.statistics(block);
        let target = match then {
            Some(_) => self.grid.directions(block),
            None => state.clone(),
        };
        self.run(
            block,
            access,
            work,
            (&state, Some(&self.take_in)),
            (&target, then),
        )
    }

    /// The block's directions, from the state as it is.
    pub(super) fn directions(
        &self,
        block: usize,
        access: &mut Access<'_>,
        work: &mut Workspace,
        then: Directions,
    ) -> Squares {
        let rect = self.grid.directions(block);
        self.run(block, access, work, (&rect, None), (&rect, Some(then)))
    }

    /// Applies directions that were kept.
    pub(super) fn apply_kept(&self, block: usize, access: &mut Access<'_>) {
        let rect = self.grid.directions(block);
        let parts = access.parts(&rect, &rect, self.grid.kept(block));
        if let Some(kept) = parts.kept {
            self.kernels.deliver(kept, &parts.target, self.apply);
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
        let span = self.grid.span(&rect);
        let band = self.grid.band() as isize;
        let front = self.begin(&rect, &rect, work).front;
        let plain = Denominator::Damped(0.0);
        self.pack(
            &rect,
            span.start - band..span.end + band,
            plain,
            access,
            work,
        );
        // The first coordinate of a chain has no edge before it; with the one
        // after it instead, it can only be larger.
        let runs = self.grid.runs(&rect);
        let inner = runs.map(|(at, run)| self.kernels.largest_l1(work, front + at, run.len));
        let inner = inner.fold(0.0, f64::max);
        let largest = self.grid.firsts(&rect).fold(inner, |largest, at| {
            largest.max(self.kernels.l1_of_first(work, front + at))
        });
        largest * self.units.statistics
    }

    /// Packs what lies around the block's state, and runs its kernel.
    fn run(
        &self,
        block: usize,
        access: &mut Access<'_>,
        work: &mut Workspace,
        (state, take_in): (&Rect, Option<&TakeIn>),
        (target, then): (&Rect, Option<Directions>),
    ) -> Squares {
        let grid = self.grid;
        let band = grid.band() as isize;
        let (inner, outer) = (grid.span(state), grid.span(target));
        let shape = self.begin(target, state, work);
        if then.is_some() {
            let denominator = self.denominator;
            self.pack(
                target,
                outer.start - band..inner.start,
                denominator,
                access,
                work,
            );
            self.pack(
                target,
                inner.end..outer.end + band,
                denominator,
                access,
                work,
            );
        }
        let mut packed_from = shape.front;
        if take_in.is_some() {
            // Gradients of the arithmetic's type are read where they lie. What
            // is in another type or place, or along memory less than a vector,
            // is packed.
            let all = inner.end - inner.start;
            let packed = match (self.converts(access), shape.along()) {
                (true, _) => all,
                (false, true) => all % LANES as isize,
                (false, false) => 0,
            };
            let span = inner.end - packed..inner.end + band;
            packed_from += (span.start - outer.start) as usize * shape.stride;
            self.pack_gradient(target, span, access, work);
        }
        let ahead = (inner.start - outer.start) as usize;
        let parts = access.parts(state, target, grid.kept(block));
        let task = Task {
            state: parts.state,
            at: shape.front + ahead * shape.stride,
            packed_from,
            take_in: take_in.copied(),
            denominator: self.denominator,
            gamma: self.gamma,
            output: match then {
                None => Output::None,
                Some(Directions::Applied) => Output::Apply(parts.target, self.apply),
                Some(Directions::Measured) => Output::Measure(parts.kept),
            },
        };
        let squares = self.kernels.block(work, task);
        let unit = &self.units;
        Squares {
            direction: squares.direction * unit.direction * unit.direction,
            reference: squares.reference * unit.reference * unit.reference,
        }
    }

    /// Whether gradients are of another type than the arithmetic.
    fn converts(&self, access: &Access<'_>) -> bool {
        access.gradient_dtype() != self.arithmetic
    }

    /// Starts a block in the workspace, in which positions are counted from
    /// `target`, and state reaches up to the end of `state`.
    fn begin(&self, target: &Rect, state: &Rect, work: &mut Workspace) -> Shape {
        let grid = self.grid;
        let (stride, core) = grid.packed(target);
        let (inner, outer) = (grid.span(state), grid.span(target));
        let lead = (inner.end - outer.end).max(0) as usize * stride;
        let mut shape = Shape::new(grid.band(), stride, core, lead);
        let span = outer.start - grid.band() as isize..inner.end.max(outer.end);
        let mut ends = span.clone();
        match grid.ends(target, &span) {
            Ends::None => ends.end = ends.start,
            Ends::From(first) => {
                let at = (first.max(span.start) - outer.start) * stride as isize;
                let at = (shape.front as isize + at) as usize;
                shape.tail = at - at % LANES;
                ends.start = first.max(span.start) - (at % LANES) as isize;
            }
            Ends::Anywhere => shape.broken = true,
        }
        self.kernels.begin(work, shape);
        if !ends.is_empty() {
            grid.reach(target, &ends, |at, count, rest, step| {
                let at = shape.front.wrapping_add_signed(at);
                self.kernels.set_reach(work, at, count, rest, step);
            });
        }
        shape
    }

    /// Packs the state that chains visit at `span`.
    fn pack(
        &self,
        target: &Rect,
        span: std::ops::Range<isize>,
        denominator: Denominator,
        access: &Access<'_>,
        work: &mut Workspace,
    ) {
        let front = work.shape().front;
        self.grid.pieces(target, span, |piece| {
            let at = front.wrapping_add_signed(piece.at);
            match piece.run {
                None => self.kernels.pad(work, at, piece.len),
                Some(run) => {
                    let state = access.state(&rect(run));
                    self.kernels.pack(work, &state, at, denominator);
                }
            }
        });
    }

    /// Packs the gradient that chains visit at `span`.
    fn pack_gradient(
        &self,
        target: &Rect,
        span: std::ops::Range<isize>,
        access: &Access<'_>,
        work: &mut Workspace,
    ) {
        let front = work.shape().front;
        let dtype = access.gradient_dtype();
        self.grid.pieces(target, span, |piece| {
            let at = front.wrapping_add_signed(piece.at);
            match piece.run {
                None => self.kernels.pad_gradient(work, at, piece.len),
                Some(run) => {
                    let run = access.gradient(run);
                    self.kernels.pack_gradient(work, at, run, dtype, self.scale);
                }
            }
        });
    }
}

/// A run as a rectangle.
fn rect(run: Run) -> Rect {
    Rect {
        rows: run.row..run.row + 1,
        cols: run.col..run.col + run.len,
    }
}
