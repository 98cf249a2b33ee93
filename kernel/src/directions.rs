//! Which loop computes directions.

use std::ops::Range;

use arrayvec::ArrayVec;

use crate::apply::Keep;
use crate::elimination::{ANY_BAND, COMMON_BAND};
use crate::isa::Scalar;
use crate::kernels::in_arithmetic;
use crate::norms::AddSquares;
use crate::outcome::Outcome;
use crate::runs::slice_mut;
use crate::simd::{is_single, LANES};
use crate::solve::{Solve, UpdateAndSolve};
use crate::update::Update;
use crate::workspace::{Arrays, AtHand};
use crate::{
    Access, Apply, Directions, Dtype, Gradient, Incoming, Kernels, Norms, Rule, Squares, TakenIn,
    Wanted, Workspace, CHUNK,
};

/// So many coordinates come into the chunk before its end becomes its history, in loops that
/// update and solve: fewer than there is room for, so that what memory delivers meanwhile does
/// not drive the chunk out of the nearest cache.
const AT_ONCE: usize = CHUNK / 2;

impl Kernels {
    /// The directions of coordinates at hand, and what becomes of them, after the
    /// state has taken in a gradient, if there is one. Returns by how many coordinates
    /// the chunk has yet to advance.
    #[allow(clippy::too_many_arguments)] // Each is one thing, borrowed.
    pub fn solve(
        &self,
        work: &mut Workspace,
        access: &mut Access<'_>,
        rule: &Rule,
        incoming: Option<&Incoming>,
        wanted: &Wanted,
        then: Directions,
        norms: &mut Norms,
    ) -> usize {
        in_arithmetic!(self, T => {
            self.solve_in::<T>(work, access, rule, incoming, wanted, then, norms)
        })
    }

    #[allow(clippy::too_many_arguments)]
    fn solve_in<T: Scalar>(
        &self,
        work: &mut Workspace,
        access: &mut Access<'_>,
        rule: &Rule,
        incoming: Option<&Incoming>,
        wanted: &Wanted,
        then: Directions,
        norms: &mut Norms,
    ) -> usize {
        let (first, run) = (wanted.from / LANES, wanted.run);
        // Vectors that are done, and by how many the chunk has advanced meanwhile.
        let (mut done, mut advanced) = (0, 0);
        // The common kinds of steps have loops that finish whole vectors at once.
        let band = work.shape().band;
        let has_loop = const { is_single::<T>() } && self.is_fast() && !wanted.ends;
        let whole = match incoming.is_some_and(has_rest) {
            true => run.len.div_ceil(LANES),
            false => run.len / LANES,
        };
        if has_loop
            && matches!(band, 0 | 1 | COMMON_BAND)
            && whole > 0
            && has_finish(access, rule, then)
        {
            let finished = first..first + whole;
            advanced = self.step::<T>(
                work,
                access,
                rule,
                incoming,
                (wanted, finished),
                then,
                norms,
            );
            done = whole;
        } else if let Some(incoming) = incoming {
            self.update(work, access, rule, incoming, &mut norms.taken_in);
        }
        let left = run.len.saturating_sub(done * LANES);
        let next = first + done - advanced;
        let vectors = if done == 0 { 0 } else { next }..wanted.count / LANES - advanced;
        if !vectors.is_empty() {
            // They are stored in the chunk.
            self.solve_only::<T>(work, vectors, next, rule.gamma, wanted.ends, None);
        }
        let to_advance = wanted.count - advanced * LANES;
        if left == 0 {
            return to_advance;
        }
        let direction = work.arrays::<T>().direction;
        // Behind the last is what is not looked at, but its squares are added up.
        direction[left..left.next_multiple_of(LANES)].fill(T::ZERO);
        let direction = &direction.as_chunks().0[..left.div_ceil(LANES)];
        if then.measures() {
            let (of, sums) = (direction, &mut norms.direction.0);
            self.call(AddSquares { of, sums });
        }
        match then {
            Directions::Measured => {
                // SAFETY: the access is borrowed exclusively.
                if let Some(keep) = unsafe { access.kept(wanted.kept, run.len) } {
                    let to = &mut slice_mut::<T>(keep)[done..];
                    let many = access.keeps_many();
                    self.call(Keep {
                        direction,
                        to,
                        many,
                    });
                }
            }
            Directions::Applied | Directions::AppliedAndMeasured => {
                // SAFETY: the access is borrowed exclusively.
                let target = unsafe { access.target(run) };
                self.deliver::<T>(direction, target.skip(done), rule.apply)
            }
        }
        to_advance
    }

    /// Whether steps go through any number of whole vectors at once where chains
    /// do not end: the common kinds of steps, whose gradient is read where it lies.
    pub fn is_unlimited(
        &self,
        band: usize,
        access: &Access<'_>,
        rule: &Rule,
        then: Directions,
    ) -> bool {
        let has_loop = has_update(band, access, rule, then) && has_finish(access, rule, then);
        self.reads_in_place(access, rule) && self.is_fast() && has_loop
    }

    /// Updates, solves, and finishes vectors: for a common band, and chains that do not end
    /// here. Returns by how many vectors the chunk has advanced.
    #[allow(clippy::too_many_arguments)]
    fn step<T: Scalar>(
        &self,
        work: &mut Workspace,
        access: &mut Access<'_>,
        rule: &Rule,
        incoming: Option<&Incoming>,
        (of, vectors): (&Wanted, Range<usize>),
        then: Directions,
        norms: &mut Norms,
    ) -> usize {
        let (band, wanted, gamma) = (work.shape().band, vectors.start, rule.gamma);
        let Norms {
            direction,
            taken_in,
        } = norms;
        let has_update = has_update(band, access, rule, then);
        let is_fused = |incoming: &&Incoming| {
            let is_whole = incoming.run.len.is_multiple_of(LANES) || has_rest(incoming);
            has_update && is_whole && !incoming.ends && incoming.gradient != Gradient::None
        };
        let fused = incoming.filter(is_fused);
        // The access is borrowed exclusively, and of what it gives out, nothing else is in
        // use; planes and targets are different buffers.
        let (to, last, ahead) = if then == Directions::Measured {
            // SAFETY: as said.
            let kept = unsafe { access.kept(of.kept, of.run.len) };
            (kept.map_or(&mut [][..], slice_mut::<T>), &mut [][..], 0)
        } else {
            // SAFETY: as said.
            let target = unsafe { access.target(of.run) };
            let whole = target.to.len() - target.to.len() % size_of::<[T; LANES]>();
            let (to, last) = target.to.split_at_mut(whole);
            (slice_mut(to), bytemuck::cast_slice_mut(last), target.ahead)
        };
        let outcome = Outcome {
            many: access.keeps_many(),
            ahead,
            last,
            ..Outcome::new(then, to, rule.apply, &mut direction.0)
        };
        let Some(incoming) = fused else {
            if let Some(incoming) = incoming {
                self.update(work, access, rule, incoming, taken_in);
            }
            self.solve_only::<T>(work, 0..vectors.end, wanted, gamma, false, Some(outcome));
            return 0;
        };
        // The copy is read where it is written.
        let source = match has_rest(incoming) {
            true => 0,
            false => access.source(incoming.run, band),
        };
        let mut planes = ArrayVec::new();
        // SAFETY: as said.
        unsafe { access.planes(incoming.run, source, &mut planes) };
        self.fused::<T>(
            work,
            access,
            rule,
            incoming,
            (&mut planes, source),
            vectors,
            outcome,
            taken_in,
        )
    }

    /// Updates and solves for vectors up to the last in one loop, and finishes those of the
    /// range. Returns by how many vectors the chunk has advanced.
    #[allow(clippy::too_many_arguments)]
    pub(crate) fn fused<T: Scalar>(
        &self,
        work: &mut Workspace,
        access: &Access<'_>,
        rule: &Rule,
        incoming: &Incoming,
        (planes, source): (&mut [&mut [u8]], usize),
        finished: Range<usize>,
        outcome: Outcome<'_, T>,
        taken_in: &mut TakenIn,
    ) -> usize {
        let (shape, noise) = (work.shape(), &mut ArrayVec::new());
        access.noise(noise);
        let Arrays {
            state,
            new,
            at_hand,
            ..
        } = work.arrays::<T>();
        // A line of the ring buffer is never left before it is done.
        let (band, lag) = (shape.band, shape.lag());
        let (from, room) = match shape.line.is_some() && !shape.is_short() {
            false => (new.at.new + incoming.from, lag + AT_ONCE),
            true => (incoming.from, usize::MAX),
        };
        let (from, room, lag) = (from / LANES, room / LANES, lag / LANES);
        macro_rules! fused {
            ($E:ty, $BAND:expr, $ELSEWHERE:literal) => {{
                let update = &mut Update::<T, $E, { $BAND }, $ELSEWHERE>::new(
                    new, band, access, rule, incoming, planes, source, noise, taken_in,
                );
                let (wanted, gamma) = (finished.start, rule.gamma);
                let solve =
                    &mut solve::<T, { $BAND }, false>(at_hand, band, wanted, gamma, outcome);
                self.call(UpdateAndSolve {
                    update,
                    solve,
                    vectors: finished.end,
                    from,
                    room,
                    lag,
                    state,
                })
            }};
        }
        match (access.state_dtype(), band) {
            (Dtype::F32, 0) if source != 0 => fused!(f32, 0, true),
            (Dtype::F32, 1) if source != 0 => fused!(f32, 1, true),
            (Dtype::F32, 0) => fused!(f32, 0, false),
            (Dtype::F32, 1) => fused!(f32, 1, false),
            (Dtype::F32, _) => fused!(f32, COMMON_BAND, false),
            (_, 0) => fused!(half::bf16, 0, false),
            (_, _) => fused!(half::bf16, 1, false),
        }
    }

    /// Solves for a range of vectors without an update; directions are stored in the
    /// chunk, from that of the vector `wanted` on, if no outcome is given.
    pub(crate) fn solve_only<T: Scalar>(
        &self,
        work: &mut Workspace,
        vectors: Range<usize>,
        wanted: usize,
        gamma: f64,
        ends: bool,
        outcome: Option<Outcome<'_, T>>,
    ) {
        let mut no_sums = Squares::default();
        let band = work.shape().band;
        let arrays = work.arrays::<T>();
        let (state, at_hand) = (arrays.state, arrays.at_hand);
        let direction = arrays.direction.as_chunks_mut().0;
        let outcome = outcome.unwrap_or_else(|| Outcome::stored(direction, &mut no_sums.0));
        macro_rules! solve {
            ($BAND:expr, $ENDS:literal) => {{
                let solve =
                    &mut self::solve::<T, { $BAND }, $ENDS>(at_hand, band, wanted, gamma, outcome);
                self.call((solve, vectors, &*state))
            }};
        }
        // Common bands have loops of their own, where anybody looks for speed.
        match (band, ends) {
            (0, _) if const { is_single::<T>() } && self.is_fast() => solve!(0, false),
            (1, false) if const { is_single::<T>() } && self.is_fast() => solve!(1, false),
            (1, true) if const { is_single::<T>() } && self.is_fast() => solve!(1, true),
            (COMMON_BAND, false) if const { is_single::<T>() } && self.is_fast() => {
                solve!(COMMON_BAND, false)
            }
            (_, false) => solve!(ANY_BAND, false),
            (_, true) => solve!(ANY_BAND, true),
        }
    }
}

/// Whether there is a loop that updates and solves, if chains do not end and the
/// instruction set is a fast one.
fn has_update(band: usize, access: &Access<'_>, rule: &Rule, then: Directions) -> bool {
    let is_narrow = band <= 1 || band == COMMON_BAND && access.state_dtype() == Dtype::F32;
    let is_common = match then.measures() {
        true => rule.take_in.is_adam(),
        false => rule.take_in.is_plain(),
    };
    is_narrow && is_common
}

/// Whether the last vector of what comes in is not whole, and is padded in a copy: where lines
/// go through the loops at once.
fn has_rest(incoming: &Incoming) -> bool {
    let in_memory = matches!(incoming.gradient, Gradient::InMemory { .. });
    in_memory && !incoming.run.len.is_multiple_of(LANES)
}

/// Whether there is a loop for what becomes of directions.
pub(crate) fn has_finish(access: &Access<'_>, rule: &Rule, then: Directions) -> bool {
    match (then, rule.apply) {
        (Directions::Measured, _) => true,
        (_, Apply::Update { rate, .. }) => {
            rate.is_plain() && access.target_type() == (Dtype::F32, false)
        }
        (_, Apply::Write { .. }) => false,
    }
}

/// The kernel for coordinates at hand: the vector from which on directions are
/// wanted, gamma, and what becomes of them.
fn solve<'a, T: Scalar, const BAND: usize, const ENDS: bool>(
    at_hand: AtHand<'a, T>,
    band: usize,
    wanted: usize,
    gamma: f64,
    outcome: Outcome<'a, T>,
) -> Solve<'a, T, BAND, ENDS> {
    Solve {
        plane: at_hand.plane,
        after: &at_hand.at.after,
        band,
        gamma,
        reach: at_hand.reach.as_chunks().0,
        solved: at_hand.solved,
        before: &at_hand.at.before,
        elimination: at_hand.elimination,
        lag: at_hand.lag,
        wanted,
        outcome,
    }
}
