//! Which loop computes directions.

use std::marker::PhantomData;
use std::ops::Range;

use crate::apply::Keep;
use crate::element::Stored;
use crate::kernels::in_arithmetic;
use crate::noise::Noise;
use crate::norms::AddSquares;
use crate::runs::slice_mut;
use crate::simd::{Scalar, LANES};
use crate::solve::{Outcome, Solve, UpdateAndSolve, Window, APPLY, MEASURE, STORE};
use crate::update::{Chunk, Update};
use crate::workspace::{Arrays, AtHand, New};
use crate::{
    Access, Apply, Directions, Dtype, Kernels, Norms, Rule, Squares, Taking, Wanted, Workspace,
    CHUNK, LAG, MAX_BAND,
};

impl Kernels {
    /// The directions of coordinates at hand, and what becomes of them, after the
    /// state has taken in a gradient, if there is one.
    #[allow(clippy::too_many_arguments)] // Each is one thing, borrowed.
    pub fn solve(
        &self,
        work: &mut Workspace,
        access: &mut Access<'_>,
        rule: &Rule,
        taking: Option<&Taking>,
        wanted: &Wanted,
        then: Directions,
        norms: &mut Norms,
    ) {
        in_arithmetic!(self, T => {
            self.solve_in::<T>(work, access, rule, taking, wanted, then, norms)
        })
    }

    #[allow(clippy::too_many_arguments)]
    fn solve_in<T: Scalar>(
        &self,
        work: &mut Workspace,
        access: &mut Access<'_>,
        rule: &Rule,
        taking: Option<&Taking>,
        wanted: &Wanted,
        then: Directions,
        norms: &mut Norms,
    ) {
        let (first, run) = (wanted.from / LANES, wanted.run);
        // Vectors that are done, and by how many the chunk has advanced meanwhile.
        let (mut done, mut advanced) = (0, 0);
        // The common kinds of steps have loops that finish whole vectors at once.
        let band = work.shape().band;
        let has_loop = const { is_single::<T>() } && self.is_fast() && !wanted.ends;
        let whole = run.len / LANES;
        if has_loop && matches!(band, 0 | 1 | 4) && whole > 0 && has_finish(access, rule, then) {
            advanced = match then {
                Directions::Measured => {
                    self.step::<T, MEASURE>(work, access, rule, taking, wanted, norms)
                }
                Directions::Applied => {
                    self.step::<T, APPLY>(work, access, rule, taking, wanted, norms)
                }
            };
            done = whole;
        } else if let Some(taking) = taking {
            self.update(work, access, rule, taking, &mut norms.reference);
        }
        let left = run.len - done * LANES;
        let next = first + done - advanced;
        let vectors = if done == 0 { 0 } else { next }..wanted.count / LANES - advanced;
        if !vectors.is_empty() {
            self.solve_any::<T>(work, vectors, next, rule.gamma, wanted.ends);
        }
        work.advance::<T>(wanted.count - advanced * LANES);
        if left == 0 {
            return;
        }
        let direction = work.arrays::<T>().at_hand.direction;
        // Behind the last is what is not looked at, but its squares are added up.
        direction[left..left.next_multiple_of(LANES)].fill(T::ZERO);
        let direction = &direction.as_chunks().0[..left.div_ceil(LANES)];
        match then {
            Directions::Measured => {
                let (of, sums) = (direction, &mut norms.direction.0);
                self.call(AddSquares { of, sums });
                // SAFETY: the access is borrowed exclusively.
                if let Some(keep) = unsafe { access.kept(wanted.kept, run.len) } {
                    let to = &mut slice_mut::<T>(keep)[done..];
                    self.call(Keep { direction, to });
                }
            }
            Directions::Applied => {
                // SAFETY: the access is borrowed exclusively.
                let target = unsafe { access.target(run) };
                self.deliver::<T>(direction, target.skip(done), rule.apply)
            }
        }
    }

    /// Whether steps go through any number of whole vectors at once, where chains run
    /// along memory and do not end, and the gradient is read where it lies: the common
    /// kinds of steps.
    pub fn is_unlimited(
        &self,
        band: usize,
        access: &Access<'_>,
        rule: &Rule,
        then: Directions,
    ) -> bool {
        let is_narrow = band <= 1 || band == 4 && access.state_dtype() == Dtype::F32;
        let is_common = match then {
            Directions::Measured => rule.take_in.is_adam(),
            Directions::Applied => rule.take_in.is_plain(),
        };
        self.is_fast() && is_narrow && is_common && has_finish(access, rule, then)
    }

    /// Updates, solves, and finishes whole vectors: for a common band, and chains that
    /// do not end here. Returns by how many vectors the chunk has advanced.
    fn step<T: Scalar, const FINISH: u8>(
        &self,
        work: &mut Workspace,
        access: &mut Access<'_>,
        rule: &Rule,
        taking: Option<&Taking>,
        of: &Wanted,
        norms: &mut Norms,
    ) -> usize {
        let (shape, dtype, gamma) = (work.shape(), access.state_dtype(), rule.gamma);
        let wanted = of.from / LANES;
        let vectors = 0..wanted + of.run.len / LANES;
        let Norms {
            direction,
            reference,
        } = norms;
        let is_common = match FINISH {
            MEASURE => rule.take_in.is_adam(),
            _ => rule.take_in.is_plain(),
        };
        let is_common = is_common && (shape.band <= 1 || dtype == Dtype::F32);
        let is_fused =
            |taking: &&Taking| is_common && taking.run.len.is_multiple_of(LANES) && !taking.ends;
        let fused = taking.filter(is_fused);
        if let Some(taking) = taking.filter(|_| fused.is_none()) {
            self.update(work, access, rule, taking, reference);
        }
        let mut outcome = Outcome::none(&mut direction.0);
        // The access is borrowed exclusively, and of what it gives out, nothing is in use.
        match FINISH {
            MEASURE => {
                // SAFETY: as said.
                let kept = unsafe { access.kept(of.kept, of.run.len) };
                outcome.keep = kept.map_or(&mut [], slice_mut::<T>);
            }
            _ => {
                // SAFETY: as said.
                let target = unsafe { access.target(of.run) };
                outcome.params = slice_mut::<T>(target.to);
                outcome.ahead = target.ahead;
            }
        }
        if let Apply::Update { rate, decay } = rule.apply {
            (outcome.rate, outcome.decay) = (rate, decay);
        }
        let Some(taking) = fused else {
            self.solve_only::<T, FINISH>(work, vectors, wanted, gamma, outcome);
            return 0;
        };
        // SAFETY: as said; planes and targets are different buffers.
        let mut planes = unsafe { access.planes(taking.run) };
        let noise = access.noise();
        let Arrays {
            state,
            new,
            at_hand,
        } = work.arrays::<T>();
        // A line of the ring buffer is never left before it is done.
        let (from, room) = match shape.line {
            None => (new.at.new + taking.from, LAG + CHUNK),
            Some(_) => (taking.from, usize::MAX),
        };
        let (from, room) = (from / LANES, room / LANES);
        let lag = shape.lag() / LANES;
        let band = shape.band;
        macro_rules! step {
            ($E:ty, $BAND:literal, $ADAM:literal) => {{
                let update = &mut update::<T, $E, $BAND, $ADAM>(
                    new,
                    band,
                    access,
                    rule,
                    taking,
                    &mut planes,
                    &noise,
                    reference,
                );
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
        match (dtype, band, FINISH) {
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

/// Whether there is a loop for what becomes of directions.
fn has_finish(access: &Access<'_>, rule: &Rule, then: Directions) -> bool {
    match (then, rule.apply) {
        (Directions::Measured, _) => true,
        (_, Apply::Update { .. }) => access.target_type() == (Dtype::F32, false),
        (_, Apply::Write { .. }) => false,
    }
}

/// The kernel for a run that takes in the gradient.
pub(crate) fn update<'a, 'p, T: Scalar, E: Stored, const BAND: usize, const ADAM: bool>(
    new: New<'a, T>,
    band: usize,
    access: &'a Access<'_>,
    rule: &'a Rule,
    taking: &Taking,
    planes: &'a mut [&'p mut [u8]],
    noise: &'a [Noise],
    reference: &'a mut Squares,
) -> Update<'a, 'p, T, E, BAND, ADAM> {
    let (from, run) = (taking.from, taking.run);
    let (gradient, step, scale) = match taking.step {
        Some(step) => {
            let gradient = bytemuck::cast_slice(access.gradient_from(run));
            (gradient, step, rule.scale)
        }
        None => (&new.gradient[from..], new.at.gradient_step, 1.0),
    };
    Update {
        by: &rule.take_in,
        band,
        planes,
        noise: (noise, access.index(run)),
        gradient,
        step,
        scale,
        chunk: Chunk {
            plane: new.plane,
            at: new.at.new + from,
        },
        normalized: new.normalized.as_chunks_mut().0,
        rms: new.rms.as_chunks_mut().0,
        reach: taking.ends.then(|| new.reach[from..].as_chunks().0),
        sums: &mut reference.0,
        ahead: access.ahead() * access.state_dtype().size(),
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
