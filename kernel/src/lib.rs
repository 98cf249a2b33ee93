//! The arithmetic of libsonew, on slices of memory. Knows no threads, files or C.
//!
//! A step goes through a tensor in **chunks** of up to [`CHUNK`] coordinates, in
//! arrays that stay in the nearest caches while small functions work on them:
//!
//! ```text
//! read, update   the state comes into the chunk, as it is or with the gradient that it
//!                takes in; the diagonal becomes what divides the momentum
//! solve          psi, the Schur complement and D L^T m; then u = L D L^T m
//! finish         |u|^2, and u is kept for a later pass; or p <- p + decay p + rate u
//! ```
//!
//! What is ragged (ends of lines, ends of chains, neighbours that do not exist)
//! is padded in the chunk, so that every loop runs over whole vectors; see
//! [`Workspace`]. Each loop stands once, over `simd::Vector`. It is compiled for
//! every instruction set ([`Isa`]), and for float32 and float64; types of memory,
//! strides and options are arguments. In the common kinds of steps, update and solve
//! alternate in one loop (`solve::UpdateAndSolve`), which goes through any number of
//! coordinates.
//!
//! Nothing that is exported is generic: programs that use this crate compile no
//! kernel.

mod apply;
mod dtype;
mod element;
mod float_mode;
mod isa;
mod noise;
mod norms;
mod simd;
mod sixteen;
mod solve;
mod update;
mod workspace;

pub use apply::Apply;
pub use dtype::Dtype;
pub use float_mode::FloatMode;
pub use isa::{fence, Isa};
pub use noise::Noise;
pub use norms::Squares;
pub use simd::LANES;
pub use update::{Average, Denominator, Reference, TakeIn};
pub use workspace::{Coordinates, Shape, Workspace, CHUNK, LAG};

use std::marker::PhantomData;
use std::ops::Range;

use arrayvec::ArrayVec;
use bytemuck::Zeroable;

use apply::{Deliver, Keep, Write};
use element::{with_element, with_state, Element};
use norms::{AddSquares, GradientSquares, LargestL1};
use simd::{Kernel, Scalar};
use solve::{Outcome, Solve, UpdateAndSolve, Window, APPLY, MEASURE, STORE};
use update::{Chunk, Read, Scale, Update};
use workspace::{Arrays, AtHand, New};

/// The widest band.
pub const MAX_BAND: usize = 16;

/// State planes without master weights: momentum, diagonal, sub-diagonals,
/// normalized RMSProp.
pub const MAX_PLANES: usize = MAX_BAND + 3;

/// The kernels of an instruction set for one type of arithmetic, float32 or
/// float64.
#[derive(Debug, Clone, Copy)]
pub struct Kernels {
    isa: Isa,
    arithmetic: Dtype,
}

/// A run of parameters or directions that is written.
pub struct TargetRun<'a> {
    /// Its bytes.
    pub to: &'a mut [u8],
    /// The type of its elements.
    pub dtype: Dtype,
    /// The float32 parameters behind those in few bits.
    pub master: Option<&'a mut [u8]>,
    /// With stochastic rounding: its random bits, and the index of its first
    /// element.
    pub noise: Option<(Noise, usize)>,
    /// How many bytes ahead memory is asked for.
    pub ahead: usize,
}

/// The state planes of a run: momentum, diagonal, sub-diagonals, and that of
/// normalized RMSProp.
pub struct PlaneRuns<'a> {
    /// Their bytes.
    pub planes: ArrayVec<&'a mut [u8], MAX_PLANES>,
    /// The type of their elements.
    pub dtype: Dtype,
    /// With stochastic rounding: each plane's random bits, or none.
    pub noise: &'a [Noise],
    /// The index of the run's first element.
    pub index: usize,
    /// How many bytes ahead memory is asked for.
    pub ahead: usize,
}

/// A run of state that takes in a gradient: whole vectors, or less than one.
pub struct Intake<'a> {
    /// The new coordinate with which it begins.
    pub from: usize,
    /// The state.
    pub state: PlaneRuns<'a>,
    /// The gradient; where it is not given, it is that of the chunk (see
    /// [`Kernels::gradient`]).
    pub gradient: Option<GradientRun<'a>>,
    /// How the state takes it in.
    pub by: &'a TakeIn,
    /// Entries that would lead beyond the end of a chain are zero (see
    /// [`Kernels::set_reach`]).
    pub ends: bool,
    /// The squares of the reference are added up here.
    pub sums: &'a mut Squares,
}

/// The gradient of a run and its chain neighbours, where these are in memory as the
/// arithmetic's type.
pub struct GradientRun<'a> {
    /// Its bytes, from the run's first element to the last neighbour's at least.
    pub bytes: &'a [u8],
    /// Elements from one neighbour to the next.
    pub step: usize,
    /// Multiplies it.
    pub scale: f64,
}

impl TargetRun<'_> {
    /// What is left after so many vectors.
    fn skip(self, vectors: usize) -> Self {
        let count = vectors * LANES;
        let behind = |bytes, dtype: Dtype| split(bytes, count * dtype.size());
        TargetRun {
            to: behind(self.to, self.dtype),
            master: self.master.map(|master| behind(master, Dtype::F32)),
            noise: later(self.noise, vectors),
            ..self
        }
    }
}

fn split(bytes: &mut [u8], at: usize) -> &mut [u8] {
    &mut bytes[at..]
}

/// Which directions are wanted: of `count` coordinates at hand, `len` from the
/// `from`-th on. All are solved for; `count` and `from` are whole vectors.
#[derive(Debug, Clone, Copy)]
pub struct Wanted {
    /// How many coordinates are at hand.
    pub count: usize,
    /// The first whose direction is wanted.
    pub from: usize,
    /// How many are.
    pub len: usize,
}

/// What becomes of directions.
pub enum Finish<'a> {
    /// They reach their target.
    Deliver(TargetRun<'a>, Apply),
    /// Their squares are added up. They are kept, if there is room for it: memory
    /// that starts at a multiple of 64 bytes and holds whole vectors. Other threads
    /// may look at it after a [`fence`].
    Measure(&'a mut Squares, Option<&'a mut [u8]>),
}

/// Does something in the type of the arithmetic.
macro_rules! in_arithmetic {
    ($self:ident, $T:ident => $body:expr) => {
        match $self.arithmetic {
            Dtype::F64 => {
                type $T = f64;
                $body
            }
            _ => {
                type $T = f32;
                $body
            }
        }
    };
}

/// Numbers of the arithmetic's type, as whole vectors.
fn slice_mut<T: Scalar>(bytes: &mut [u8]) -> &mut [[T; LANES]] {
    bytemuck::cast_slice_mut(bytes).as_chunks_mut().0
}

/// The random bits so many vectors later.
fn later(noise: Option<(Noise, usize)>, vectors: usize) -> Option<(Noise, usize)> {
    noise.map(|(noise, index)| (noise, index + vectors * LANES))
}

/// Whether it is float32: for float64, nobody looks for speed.
const fn is_single<T>() -> bool {
    size_of::<T>() == size_of::<f32>()
}

/// The kernel for an intake.
fn update<'a, 'p, T: Scalar, E: Element, const BAND: usize, const ADAM: bool>(
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

/// Visits a run's whole vectors, and then the rest of it, padded with zeros in a
/// copy. `visit` is also given how many vectors come before.
fn padded<E: Element>(run: &[u8], mut visit: impl FnMut(usize, &[[E; LANES]])) {
    let (whole, rest) = bytemuck::cast_slice::<u8, E>(run).as_chunks();
    if !whole.is_empty() {
        visit(0, whole);
    }
    if !rest.is_empty() {
        let mut vector = [E::zeroed(); LANES];
        vector[..rest.len()].copy_from_slice(rest);
        visit(whole.len(), &[vector]);
    }
}

/// The same for a run that is written.
fn padded_mut<E: Element>(run: &mut [u8], mut visit: impl FnMut(usize, &mut [[E; LANES]])) {
    let (whole, rest) = bytemuck::cast_slice_mut::<u8, E>(run).as_chunks_mut();
    if !whole.is_empty() {
        visit(0, whole);
    }
    if !rest.is_empty() {
        let mut vectors = [[E::zeroed(); LANES]];
        vectors[0][..rest.len()].copy_from_slice(rest);
        visit(whole.len(), &mut vectors);
        rest.copy_from_slice(&vectors[0][..rest.len()]);
    }
}

impl Kernels {
    /// Kernels that compute in float64 if `arithmetic` is that, or in float32.
    pub fn new(isa: Isa, arithmetic: Dtype) -> Self {
        Kernels { isa, arithmetic }
    }

    /// The type that is computed in.
    pub fn arithmetic(&self) -> Dtype {
        self.arithmetic
    }

    fn call<T: Scalar, K: Kernel<T>>(&self, kernel: K) -> K::Output {
        self.isa.run(kernel)
    }

    /// Starts in a tensor of this shape.
    pub fn begin(&self, work: &mut Workspace, shape: Shape) {
        in_arithmetic!(self, T => work.begin::<T>(shape))
    }

    /// Ends a chunk of which so many directions were at hand.
    pub fn advance(&self, work: &mut Workspace, count: usize) {
        in_arithmetic!(self, T => work.advance::<T>(count))
    }

    /// Makes `count` new coordinates, from the `from`-th on, ones that do not
    /// exist.
    pub fn pad(&self, work: &mut Workspace, from: usize, count: usize) {
        in_arithmetic!(self, T => work.pad::<T>(from, count))
    }

    /// Makes the gradient of `count` neighbours that do not exist zero (see
    /// [`Kernels::gradient`]).
    pub fn pad_gradient(&self, work: &mut Workspace, at: (usize, usize), count: usize) {
        in_arithmetic!(self, T => work.pad_gradient::<T>(at, count))
    }

    /// Says of `count` coordinates how many of their chain follow: `rest` after
    /// the last of them, and `step` more after each before it.
    pub fn set_reach(
        &self,
        work: &mut Workspace,
        which: Coordinates,
        (from, count): (usize, usize),
        rest: usize,
        step: usize,
    ) {
        in_arithmetic!(self, T => work.set_reach::<T>(which, (from, count), rest, step))
    }

    /// Copies `scale * gradient` of a run: of the `neighbour`-th neighbours, from the
    /// `from`-th coordinate on.
    pub fn gradient(
        &self,
        work: &mut Workspace,
        (neighbour, from): (usize, usize),
        run: &[u8],
        dtype: Dtype,
        scale: f64,
    ) {
        in_arithmetic!(self, T => {
            let arrays = work.arrays::<T>();
            let to = &mut arrays.new.gradient[neighbour * arrays.new.at.gradient_step + from..];
            let to = to.as_chunks_mut().0;
            with_element!(dtype, E => padded::<E>(run, |first, from| {
                let to = &mut to[first..];
                self.call(Scale { from, to, scale });
            }))
        })
    }

    /// A run of a state plane comes into the chunk as it is, from the `from`-th new
    /// coordinate on. With a denominator, which is for the diagonal, it becomes
    /// what divides the momentum.
    pub fn read(
        &self,
        work: &mut Workspace,
        (plane, from): (usize, usize),
        run: &[u8],
        dtype: Dtype,
        denominator: Option<Denominator>,
        ahead: usize,
    ) {
        in_arithmetic!(self, T => {
            let arrays = work.arrays::<T>();
            let to = &mut arrays.state[plane * arrays.new.plane + arrays.new.at.new + from..];
            let to = to.as_chunks_mut().0;
            with_state!(T, dtype, E => padded::<E>(run, |first, from| {
                let to = &mut to[first..];
                self.call(Read { from, to, ahead, denominator });
            }))
        })
    }

    /// The state of a run takes in the gradient, and comes into the chunk; the
    /// diagonal there becomes what divides the momentum.
    pub fn update(&self, work: &mut Workspace, mut intake: Intake<'_>) {
        in_arithmetic!(self, T => with_state!(T, intake.state.dtype, E => {
            let planes = &mut intake.state.planes;
            let len = planes[0].len();
            if len.is_multiple_of(size_of::<[E; LANES]>()) {
                return self.update_whole::<T, E>(work, &mut intake);
            }
            // A part of a vector is padded with zeros in a copy.
            let mut vectors = [[E::zeroed(); LANES]; MAX_PLANES];
            let mut padded = ArrayVec::new();
            for (vector, plane) in vectors.iter_mut().zip(&*planes) {
                let vector = bytemuck::bytes_of_mut(vector);
                vector[..len].copy_from_slice(plane);
                padded.push(vector);
            }
            let state = PlaneRuns { planes: padded, ..intake.state };
            self.update_whole::<T, E>(work, &mut Intake { state, ..intake });
            for (vector, plane) in vectors.iter().zip(planes) {
                plane.copy_from_slice(&bytemuck::bytes_of(vector)[..len]);
            }
        }))
    }

    fn update_whole<T: Scalar, E: Element>(&self, work: &mut Workspace, intake: &mut Intake<'_>) {
        let band = work.shape().band;
        let Arrays { state, new, .. } = work.arrays::<T>();
        macro_rules! update {
            ($BAND:literal, $ADAM:literal) => {{
                let update = &mut update::<T, E, $BAND, $ADAM>(new, band, intake);
                self.call((update, state))
            }};
        }
        let is_adam = intake.by.is_adam();
        if const { is_single::<T>() } && self.is_fast() && band > 0 {
            match is_adam {
                true => update!(1, true),
                false => update!(1, false),
            }
        } else {
            match is_adam {
                true => update!(0, true),
                false => update!(0, false),
            }
        }
    }

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
        if !is_common || !is_whole || intake.ends || shape.line.is_some() {
            self.update(work, intake);
            self.solve_only::<T, FINISH>(work, vectors, wanted, gamma, outcome);
            return 0;
        }
        let Arrays {
            state,
            new,
            at_hand,
        } = work.arrays::<T>();
        let (from, room) = ((new.at.new + intake.from) / LANES, (LAG + CHUNK) / LANES);
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

    /// Whether anybody looks for speed: for float32, where there are instructions
    /// for it.
    fn is_fast(&self) -> bool {
        self.arithmetic != Dtype::F64 && self.isa.is_fast()
    }

    /// Directions that were kept reach their target.
    pub fn deliver_kept(&self, kept: &[u8], target: TargetRun<'_>, apply: Apply) {
        in_arithmetic!(self, T => {
            let direction = bytemuck::cast_slice::<u8, T>(kept).as_chunks().0;
            self.deliver::<T>(direction, target, apply)
        })
    }

    fn deliver<T: Scalar>(&self, direction: &[[T; LANES]], target: TargetRun<'_>, apply: Apply) {
        let TargetRun {
            to,
            dtype,
            master,
            noise,
            ahead,
        } = target;
        match (apply, master) {
            (Apply::Write { scale }, _) => with_element!(dtype, E => {
                padded_mut::<E>(to, |first, to| {
                    let (from, noise) = (&direction[first..], later(noise, first));
                    self.call::<T, _>(Write { from, to, scale, noise });
                })
            }),
            (Apply::Update { rate, decay }, None) => with_element!(dtype, E => {
                padded_mut::<E>(to, |first, params| {
                    let (direction, noise) = (&direction[first..], later(noise, first));
                    self.call(Deliver { direction, params, rate, decay, noise, ahead });
                })
            }),
            // The master is the parameter; what is in few bits is its copy.
            (Apply::Update { rate, decay }, Some(master)) => {
                padded_mut::<f32>(master, |first, params| {
                    let (direction, noise) = (&direction[first..], None);
                    self.call(Deliver {
                        direction,
                        params,
                        rate,
                        decay,
                        noise,
                        ahead,
                    });
                });
                let (scale, noise) = (1.0, None);
                with_element!(dtype, E => padded_mut::<E>(to, |first, to| {
                    padded::<f32>(&master[first * LANES * size_of::<f32>()..], |later, from| {
                        let to = &mut to[later..];
                        self.call::<T, _>(Write { from, to, scale, noise });
                    });
                }))
            }
        }
    }

    /// The sum of squares of `scale * gradient` over a run; NaN if one of them
    /// is not finite.
    pub fn gradient_squares(&self, run: &[u8], dtype: Dtype, scale: f64) -> f64 {
        let mut squares = Squares::default();
        let mut finite = true;
        in_arithmetic!(self, T => with_element!(dtype, E => {
            padded::<E>(run, |_, gradient| {
                let sums = &mut squares.0;
                finite &= self.call::<T, _>(GradientSquares { gradient, scale, sums });
            });
        }));
        if finite {
            squares.total()
        } else {
            f64::NAN
        }
    }

    /// The largest `H_jj + |H_j,j-1|` of `count` new coordinates, which are not
    /// damped: the l1 norm of a row's lower part, as the authors' JAX code takes
    /// it for relative damping.
    pub fn largest_l1(&self, work: &mut Workspace, count: usize) -> f64 {
        let band = work.shape().band;
        in_arithmetic!(self, T => {
            let arrays = work.arrays::<T>();
            let (plane, at) = (arrays.new.plane, arrays.new.at);
            let (diagonal, others) = arrays.state[plane..].split_at(plane);
            let diagonal = &diagonal[at.new..][..count];
            let before = (band > 0).then(|| &others[at.previous..][..count]);
            let (whole, rest) = diagonal.as_chunks();
            let largest = self.call(LargestL1 {
                diagonal: whole,
                before: before.map(|before| before.as_chunks().0),
            });
            let l1 = |i: usize| {
                let entry = before.map_or(0.0, |before| before[i].to_f64().abs());
                T::from_f64(diagonal[i].to_f64() + entry).to_f64()
            };
            let rest = (count - rest.len()..count).map(l1);
            rest.fold(largest, |a, b| if a < b { b } else { a })
        })
    }

    /// `H_jj + |H_j+1,j|` of the `i`-th new coordinate.
    pub fn l1_of_first(&self, work: &mut Workspace, i: usize) -> f64 {
        in_arithmetic!(self, T => work.l1_of_first::<T>(i))
    }
}
