//! Which loop computes directions.

use std::marker::PhantomData;
use std::ops::Range;

use crate::apply::Keep;
use crate::element::Element;
use crate::kernels::in_arithmetic;
use crate::norms::AddSquares;
use crate::runs::slice_mut;
use crate::simd::{Scalar, LANES};
use crate::solve::{Outcome, Solve, UpdateAndSolve, Window, APPLY, MEASURE, STORE};
use crate::update::{Chunk, Update};
use crate::workspace::{Arrays, AtHand, New};
use crate::{
    Apply, Dtype, Finish, Intake, Kernels, Squares, TakeIn, Wanted, Workspace, CHUNK, LAG, MAX_BAND,
};

impl Kernels {
    /// The directions of coordinates at hand, and what becomes of them, after the
    /// state has taken in a gradient, if there is one. With `ends`, chains may end
    /// among them (see [`Kernels::set_reach`]).
    pub fn solve(
        &self,
        work: &mut Workspace,
        intake: Option<Intake<'_>>,
        wanted: Wanted,
        gamma: f64,
        ends: bool,
        finish: Finish<'_>,
    ) {
        in_arithmetic!(self, T => {
            self.solve_in::<T>(work, intake, wanted, gamma, ends, finish)
        })
    }

    fn solve_in<T: Scalar>(
        &self,
        work: &mut Workspace,
        intake: Option<Intake<'_>>,
        wanted: Wanted,
        gamma: f64,
        ends: bool,
        mut finish: Finish<'_>,
    ) {
        let first = wanted.from / LANES;
        // Vectors that are done, and by how many the chunk has advanced meanwhile.
        let (mut done, mut advanced) = (0, 0);
        // The common kinds of steps have loops that finish whole vectors at once.
        let has_loop = self.is_fast() && matches!(work.shape().band, 0 | 1 | 4) && !ends;
        let whole = if has_loop { wanted.len / LANES } else { 0 };
        let no_sums = &mut Squares::default().0;
        let vectors = 0..first + whole;
        match &mut finish {
            Finish::Measure(squares, keep) if const { is_single::<T>() } && whole > 0 => {
                let keep = keep.as_deref_mut().map_or(&mut [][..], slice_mut::<T>);
                let sums = &mut squares.0;
                let outcome = Outcome {
                    sums,
                    keep,
                    ..Outcome::none(no_sums)
                };
                advanced = self.step::<T, MEASURE>(work, intake, vectors, first, gamma, outcome);
                done = whole;
            }
            Finish::Deliver(target, Apply::Update { rate, decay })
                if const { is_single::<T>() }
                    && whole > 0
                    && target.dtype.size() == size_of::<T>()
                    && target.master.is_none() =>
            {
                let outcome = Outcome {
                    params: slice_mut::<T>(target.to),
                    rate: *rate,
                    decay: *decay,
                    ahead: target.ahead,
                    ..Outcome::none(no_sums)
                };
                advanced = self.step::<T, APPLY>(work, intake, vectors, first, gamma, outcome);
                done = whole;
            }
            _ => {
                if let Some(intake) = intake {
                    self.update(work, intake);
                }
            }
        }
        let left = wanted.len - done * LANES;
        let next = first + done - advanced;
        let vectors = if done == 0 { 0 } else { next }..wanted.count / LANES - advanced;
        if !vectors.is_empty() {
            self.solve_any::<T>(work, vectors, next, gamma, ends);
        }
        work.advance::<T>(wanted.count - advanced * LANES);
        if left == 0 {
            return;
        }
        let direction = work.arrays::<T>().at_hand.direction;
        // Behind the last is what is not looked at, but its squares are added up.
        direction[left..left.next_multiple_of(LANES)].fill(T::ZERO);
        let direction = &direction.as_chunks().0[..left.div_ceil(LANES)];
        match finish {
            Finish::Measure(squares, keep) => {
                let (of, sums) = (direction, &mut squares.0);
                self.call(AddSquares { of, sums });
                if let Some(keep) = keep {
                    let to = &mut slice_mut::<T>(keep)[done..];
                    self.call(Keep { direction, to });
                }
            }
            Finish::Deliver(target, apply) => {
                self.deliver::<T>(direction, target.skip(done), apply)
            }
        }
    }

    /// Whether steps go through any number of whole vectors at once, where chains run
    /// along memory and do not end, and the gradient is given: the common kinds of
    /// steps. The target is that of [`Finish::Deliver`], with its master weights.
    pub fn is_unlimited(
        &self,
        band: usize,
        by: &TakeIn,
        state: Dtype,
        target: Option<(Dtype, bool)>,
    ) -> bool {
        let is_narrow = band <= 1 || band == 4 && state == Dtype::F32;
        let is_common = match target {
            None => by.is_adam(),
            Some((dtype, master)) => by.is_plain() && dtype == Dtype::F32 && !master,
        };
        self.is_fast() && is_narrow && is_common
    }

    /// Updates, solves for a range of vectors, and finishes those from `wanted` on:
    /// for a common band, and chains that do not end here. Returns by how many
    /// vectors the chunk has advanced.
    fn step<T: Scalar, const FINISH: u8>(
        &self,
        work: &mut Workspace,
        intake: Option<Intake<'_>>,
        vectors: Range<usize>,
        wanted: usize,
        gamma: f64,
        outcome: Outcome<'_, T>,
    ) -> usize {
        let shape = work.shape();
        let Some(mut intake) = intake else {
            self.solve_only::<T, FINISH>(work, vectors, wanted, gamma, outcome);
            return 0;
        };
        let is_common = match FINISH {
            MEASURE => intake.by.is_adam(),
            _ => intake.by.is_plain(),
        };
        let bytes_of_vector = intake.state.dtype.size() * LANES;
        let is_whole = intake.state.planes[0].len().is_multiple_of(bytes_of_vector);
        let is_narrow = shape.band <= 1 || intake.state.dtype == Dtype::F32;
        let is_common = is_common && is_narrow;
        if !is_common || !is_whole || intake.ends {
            self.update(work, intake);
            self.solve_only::<T, FINISH>(work, vectors, wanted, gamma, outcome);
            return 0;
        }
        let Arrays {
            state,
            new,
            at_hand,
        } = work.arrays::<T>();
        // A line of the ring buffer is never left before it is done.
        let (from, room) = match shape.line {
            None => (new.at.new + intake.from, LAG + CHUNK),
            Some(_) => (intake.from, usize::MAX),
        };
        let (from, room) = (from / LANES, room / LANES);
        let lag = shape.lag() / LANES;
        let band = shape.band;
        macro_rules! step {
            ($E:ty, $BAND:literal, $ADAM:literal) => {{
                let update = &mut update::<T, $E, $BAND, $ADAM>(new, band, &mut intake);
                let solve =
                    &mut solve::<T, $BAND, false, FINISH>(at_hand, band, wanted, gamma, outcome);
                let vectors = vectors.end;
                self.call(UpdateAndSolve {
                    update,
                    solve,
                    vectors,
                    from,
                    room,
                    lag,
                    state,
                })
            }};
        }
        match (intake.state.dtype, band, FINISH) {
            (Dtype::F32, 0, MEASURE) => step!(f32, 0, true),
            (Dtype::F32, 0, _) => step!(f32, 0, false),
            (Dtype::F32, 1, MEASURE) => step!(f32, 1, true),
            (Dtype::F32, 1, _) => step!(f32, 1, false),
            (Dtype::F32, _, MEASURE) => step!(f32, 4, true),
            (Dtype::F32, _, _) => step!(f32, 4, false),
            (_, 0, MEASURE) => step!(half::bf16, 0, true),
            (_, 0, _) => step!(half::bf16, 0, false),
            (_, _, MEASURE) => step!(half::bf16, 1, true),
            (_, _, _) => step!(half::bf16, 1, false),
        }
    }

    /// The same without an update.
    fn solve_only<T: Scalar, const FINISH: u8>(
        &self,
        work: &mut Workspace,
        vectors: Range<usize>,
        wanted: usize,
        gamma: f64,
        outcome: Outcome<'_, T>,
    ) {
        let band = work.shape().band;
        let Arrays { state, at_hand, .. } = work.arrays::<T>();
        macro_rules! solve {
            ($BAND:literal) => {{
                let solve = &mut self::solve::<T, $BAND, false, FINISH>(
                    at_hand, band, wanted, gamma, outcome,
                );
                self.call((solve, vectors, &*state))
            }};
        }
        match band {
            0 => solve!(0),
            1 => solve!(1),
            _ => solve!(4),
        }
    }

    /// Solves for a range of vectors, and stores the directions from `wanted` on.
    fn solve_any<T: Scalar>(
        &self,
        work: &mut Workspace,
        vectors: Range<usize>,
        wanted: usize,
        gamma: f64,
        ends: bool,
    ) {
        let mut no_sums = Squares::default();
        let band = work.shape().band;
        let Arrays { state, at_hand, .. } = work.arrays::<T>();
        let outcome = Outcome::none(&mut no_sums.0);
        macro_rules! solve {
            ($BAND:expr, $ENDS:literal) => {{
                let solve = &mut self::solve::<T, { $BAND }, $ENDS, STORE>(
                    at_hand, band, wanted, gamma, outcome,
                );
                self.call((solve, vectors, &*state))
            }};
        }
        // Common bands have loops of their own, where anybody looks for speed.
        match (band, ends) {
            (0, _) if const { is_single::<T>() } && self.is_fast() => solve!(0, false),
            (1, false) if const { is_single::<T>() } && self.is_fast() => solve!(1, false),
            (1, true) if const { is_single::<T>() } && self.is_fast() => solve!(1, true),
            (4, false) if const { is_single::<T>() } && self.is_fast() => solve!(4, false),
            (_, false) => solve!(MAX_BAND, false),
            (_, true) => solve!(MAX_BAND, true),
        }
    }
}

/// Whether it is float32: for float64, nobody looks for speed.
pub(crate) const fn is_single<T>() -> bool {
    size_of::<T>() == size_of::<f32>()
}

/// The kernel for an intake.
pub(crate) fn update<'a, 'p, T: Scalar, E: Element, const BAND: usize, const ADAM: bool>(
    new: New<'a, T>,
    band: usize,
    intake: &'a mut Intake<'p>,
) -> Update<'a, 'p, T, E, BAND, ADAM> {
    let from = intake.from;
    let (gradient, step, scale) = match &intake.gradient {
        Some(run) => (bytemuck::cast_slice(run.bytes), run.step, run.scale),
        None => (&new.gradient[from..], new.at.gradient_step, 1.0),
    };
    Update {
        by: intake.by,
        band,
        planes: &mut intake.state.planes,
        noise: (intake.state.noise, intake.state.index),
        gradient,
        step,
        scale,
        chunk: Chunk {
            plane: new.plane,
            at: new.at.new + from,
        },
        normalized: new.normalized.as_chunks_mut().0,
        rms: new.rms.as_chunks_mut().0,
        reach: intake.ends.then(|| new.reach[from..].as_chunks().0),
        sums: &mut intake.sums.0,
        ahead: intake.state.ahead,
        element: PhantomData,
    }
}

/// The kernel for coordinates at hand: the vector from which on directions are
/// wanted, gamma, and what becomes of them.
fn solve<'a, T: Scalar, const BAND: usize, const ENDS: bool, const FINISH: u8>(
    at_hand: AtHand<'a, T>,
    band: usize,
    wanted: usize,
    gamma: f64,
    mut outcome: Outcome<'a, T>,
) -> Solve<'a, T, BAND, ENDS, FINISH> {
    if FINISH == STORE {
        outcome.to = at_hand.direction.as_chunks_mut().0;
    }
    Solve {
        window: Window {
            plane: at_hand.plane,
            neighbours: &at_hand.at.after,
        },
        band,
        gamma,
        reach: at_hand.reach.as_chunks().0,
        solved: at_hand.solved,
        before: &at_hand.at.before,
        lags: at_hand.lags,
        wanted,
        outcome,
    }
}
