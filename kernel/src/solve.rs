//! `u = L D L^T m^`, the solution of the LogDet subproblem on a band
//! (SONew, arXiv 2311.10085, Theorem 3.1 and Algorithm 2), with edge removal.

// Numbers of rows and neighbours say more than iterators over them.
#![allow(clippy::needless_range_loop)]

use std::mem::MaybeUninit;
use std::ops::Range;

use super::element::Stored;
use super::elimination::{Elimination, ANY_BAND, COMMON_BAND, LOWER, PSI, TIMES_PIVOT};
use super::isa::Scalar;
use super::outcome::{Finishing, Outcome};
use super::planes::{copy_few, Next};
use super::simd::{Kernel, Vector, LANES};
use super::update::Update;
use crate::MAX_BAND;

/// Planes of the state.
const MOMENTUM: usize = 0;
const DIAGONAL: usize = 1;
/// Sub-diagonal `k`, from 1.
const fn sub_diagonal(k: usize) -> usize {
    1 + k
}

/// The directions of the coordinates at hand.
///
/// First, for each coordinate `j`: `psi_j`, the Schur complement `s_j`, and
/// `w_j = (D L^T m)_j`. The matrix `H_II`, `I = j+1 .. j+band`, is eliminated from
/// `j+1` upward (`L_w D_w L_w^T`, no pivoting), one coordinate per lane. Then,
/// where all before are solved, `u_j = w_j - sum_k psi_j-k,k w_j-k`.
///
/// `BAND` is the band, or [`ANY_BAND`]; `ENDS` says that chains may end
/// among the coordinates, which `reach` tells.
pub(crate) struct Solve<'a, T, const BAND: usize, const ENDS: bool> {
    /// Elements of a plane.
    pub(crate) plane: usize,
    /// Where the coordinates at hand are in the planes of the state, and where the
    /// `k`-th after them are.
    pub(crate) after: &'a [usize; MAX_BAND + 1],
    pub(crate) band: usize,
    pub(crate) gamma: f64,
    pub(crate) reach: &'a [[T; LANES]],
    /// Planes of `D L^T m`, and of each `psi`.
    pub(crate) solved: &'a mut [T],
    /// Where the coordinates at hand are in these, and where the `k`-th before
    /// them are.
    pub(crate) before: &'a [usize; MAX_BAND + 1],
    /// Room for an elimination, if its band is not known.
    pub(crate) elimination: &'a mut [T],
    /// By how many elements directions lag behind in the chunk.
    pub(crate) lag: usize,
    /// The vector from which on directions are wanted.
    pub(crate) wanted: usize,
    pub(crate) outcome: Outcome<'a, T>,
}

/// So many vectors are solved before their directions are computed: few enough
/// that the processor does both at the same time, and divides while it waits for
/// memory; enough that what was stored can be loaded again.
const VECTORS: usize = 16;

/// Directions under way: what the loops need, in registers as far as there are any.
pub(crate) struct Solving<'r, V: Vector, const BAND: usize, const ENDS: bool> {
    isa: V::Isa,
    band: usize,
    /// Where the planes of the state and of what is solved start, and where neighbours
    /// are in them.
    state: *const V::Scalar,
    solved: *mut V::Scalar,
    plane: usize,
    after: [usize; MAX_BAND + 1],
    before: [usize; MAX_BAND + 1],
    elimination: *mut [V::Scalar; LANES],
    reach: &'r [[V::Scalar; LANES]],
    /// Where the next vector is in the chunk.
    at: usize,
    /// By how many vectors directions lag behind in the chunk.
    lag: usize,
    wanted: usize,
    zero: V,
    one: V,
    infinity: V,
    gamma: V,
    finishing: Finishing<'r, V>,
}

impl<T: Scalar, const BAND: usize, const ENDS: bool> Solve<'_, T, BAND, ENDS> {
    /// Begins, for so many vectors. The planes of the state are those of `state`.
    ///
    /// # Safety
    /// As long as this lives, they are there, and nobody writes them while
    /// [`Solving::part`] reads.
    #[inline(always)]
    pub(crate) unsafe fn start<'r, V: Vector<Scalar = T>>(
        &'r mut self,
        isa: V::Isa,
        Range {
            start: first,
            end: vectors,
        }: Range<usize>,
        state: *const [T],
    ) -> Solving<'r, V, BAND, ENDS> {
        let band = if BAND == ANY_BAND { self.band } else { BAND };
        let plane = self.plane;
        // All that is read and written lies in these planes.
        let inside = |at: &usize| at + vectors * LANES <= plane;
        assert!(state.len() >= (band + 2) * plane && self.solved.len() >= (band + 1) * plane);
        assert!(self.after[..=band].iter().all(inside));
        assert!(self.before[..=band].iter().all(inside));
        assert!(self.elimination.len() >= super::elimination::vectors(band) * LANES);
        Solving {
            isa,
            band,
            state: state.cast(),
            solved: self.solved.as_mut_ptr(),
            plane,
            after: *self.after,
            before: *self.before,
            elimination: self.elimination.as_mut_ptr().cast(),
            reach: self.reach,
            at: first * LANES,
            lag: self.lag / LANES,
            wanted: self.wanted,
            zero: V::number(isa, 0.0),
            one: V::number(isa, 1.0),
            infinity: V::splat(isa, T::INFINITY),
            gamma: V::number(isa, self.gamma),
            finishing: self.outcome.start(isa),
        }
    }
}

impl<'r, V: Vector, const BAND: usize, const ENDS: bool> Solving<'r, V, BAND, ENDS> {
    /// The band, as a constant where it is known.
    #[inline(always)]
    fn band(&self) -> usize {
        if BAND == ANY_BAND {
            self.band
        } else {
            BAND
        }
    }

    /// The `i`-th vector of a plane of the state, from the `k`-th neighbours after those
    /// at hand on.
    ///
    /// # Safety
    /// It is one of those that [`Solve::start`] looked after.
    #[inline(always)]
    unsafe fn state(&self, plane: usize, k: usize) -> V {
        let at = plane * self.plane + self.after[k] + self.at;
        // SAFETY: the caller's promise.
        V::load(self.isa, unsafe { &*self.state.add(at).cast() })
    }

    /// The same of what is solved, for the `k`-th neighbours before.
    #[inline(always)]
    fn solved(&self, plane: usize, k: usize, at: usize) -> *mut [V::Scalar; LANES] {
        let place = plane * self.plane + self.before[k] + at;
        self.solved.wrapping_add(place).cast()
    }

    /// Solves for some vectors, and finishes them.
    ///
    /// # Safety
    /// They are among those that it was started for, since it advanced.
    #[inline(always)]
    unsafe fn part(&mut self, vectors: Range<usize>) {
        let (isa, band) = (self.isa, self.band());
        let mut elimination = Elimination {
            known: &mut MaybeUninit::uninit(),
            any: self.elimination,
            band,
            isa,
        };
        let mut first = vectors.start;
        while first < vectors.end {
            let end = vectors.end.min(first + VECTORS);
            let start = self.at;
            for _ in first..end {
                // SAFETY: the caller's promise.
                unsafe { self.solve(&mut elimination) };
                self.at += LANES;
            }
            let wanted = first.max(self.wanted);
            let mut at = start + (wanted - first) * LANES;
            for i in wanted..end {
                // SAFETY: the caller's promise.
                let load = |row: *mut [V::Scalar; LANES]| V::load(isa, unsafe { &*row });
                let mut u = load(self.solved(0, 0, at));
                for k in 1..=band {
                    let (psi, w) = (self.solved(k, k, at), self.solved(0, k, at));
                    u = load(psi).neg_mul_add(load(w), u);
                }
                self.finishing.finish(i - self.wanted, u);
                at += LANES;
            }
            first = end;
        }
    }

    /// `psi`, the Schur complement and `D L^T m` of a vector of coordinates.
    ///
    /// # Safety
    /// As for [`Solving::state`].
    #[inline(always)]
    unsafe fn solve(&mut self, elimination: &mut Elimination<V, BAND>) {
        let (isa, band) = (self.isa, self.band());
        let (zero, one, gamma) = (self.zero, self.one, self.gamma);
        let reach = match ENDS {
            true => V::load(isa, &self.reach[self.at / LANES]),
            false => zero,
        };
        macro_rules! load {
            ($plane:expr, $k:expr) => {
                // SAFETY: the caller's promise.
                unsafe { self.state($plane, $k) }
            };
        }
        macro_rules! get {
            ($table:ident, $row:expr, $column:expr) => {
                // SAFETY: it was set before; rows and columns are below the band.
                unsafe { elimination.get($table, $row, $column) }
            };
        }
        macro_rules! set {
            ($table:ident, $row:expr, $column:expr, $x:expr) => {
                // SAFETY: rows and columns are below the band.
                unsafe { elimination.set($table, $row, $column, $x) }
            };
        }
        // An entry of the window. Where the chain has ended before the needed
        // coordinate after j, it is as of one that does not exist.
        macro_rules! entry {
            ($plane:expr, $k:expr, $needed:expr, $fill:expr) => {{
                let entry = load!($plane, $k);
                match ENDS {
                    true => {
                        let needed = V::number(isa, $needed as f64);
                        V::select(reach.lt(needed), $fill, entry)
                    }
                    false => entry,
                }
            }};
        }
        let diagonal = load!(DIAGONAL, 0);
        let mut schur = diagonal;
        let mut keep = zero.lt(one);
        // Row q of the elimination: its pivot, the column below it, and what of
        // the right-hand side is solved.
        macro_rules! eliminate {
            ($q:expr) => {{
                let q = $q;
                let entry = entry!(DIAGONAL, q + 1, q + 1, one);
                let mut pivot = entry;
                let mut z = entry!(sub_diagonal(q + 1), 0, q + 1, zero);
                for t in 0..q {
                    pivot = get!(LOWER, q, t).neg_mul_add(get!(TIMES_PIVOT, q, t), pivot);
                    z = get!(TIMES_PIVOT, q, t).neg_mul_add(get!(PSI, 0, t), z);
                }
                keep = match band {
                    // The pivot is the entry itself, and gamma below 1; should it
                    // be infinite, psi is zero.
                    1 => zero.lt(pivot),
                    _ => V::and(keep, (gamma * entry).lt(pivot)),
                };
                let solution = if q + 1 == band {
                    z / pivot
                } else {
                    let inverse = one / pivot;
                    for r in q + 1..band {
                        let mut x = entry!(sub_diagonal(r - q), q + 1, r + 1, zero);
                        for t in 0..q {
                            x = get!(LOWER, r, t).neg_mul_add(get!(TIMES_PIVOT, q, t), x);
                        }
                        set!(TIMES_PIVOT, r, q, x);
                        set!(LOWER, r, q, x * inverse);
                    }
                    z * inverse
                };
                set!(PSI, 0, q, solution);
                schur = solution.neg_mul_add(z, schur);
            }};
        }
        // Rows of a known number are told apart when compiled, which keeps the
        // factors in registers. Each row of the widest such band is written down.
        const _: () = assert!(COMMON_BAND == 4);
        if BAND == ANY_BAND {
            for q in 0..band {
                eliminate!(q);
            }
        } else {
            if BAND > 0 {
                eliminate!(0);
            }
            if BAND > 1 {
                eliminate!(1);
            }
            if BAND > 2 {
                eliminate!(2);
            }
            if BAND > 3 {
                eliminate!(3);
            }
        }
        for q in (0..band).rev() {
            let mut solution = get!(PSI, 0, q);
            for r in q + 1..band {
                solution = get!(LOWER, r, q).neg_mul_add(get!(PSI, 0, r), solution);
            }
            set!(PSI, 0, q, solution);
        }
        let keep = V::and(keep, (gamma * diagonal).lt(schur));
        let schur = V::select(keep, schur, diagonal);
        let mut m = load!(MOMENTUM, 0);
        for q in 0..band {
            let psi = get!(PSI, 0, q).only(keep);
            m = psi.neg_mul_add(load!(MOMENTUM, q + 1), m);
            // SAFETY: the caller's promise.
            psi.store(unsafe { &mut *self.solved(q + 1, 0, self.at) });
        }
        let w = (m / schur).only(self.usable(diagonal));
        // SAFETY: the caller's promise.
        w.store(unsafe { &mut *self.solved(0, 0, self.at) });
    }

    /// Where the damped diagonal is finite and positive.
    #[inline(always)]
    fn usable(&self, diagonal: V) -> V::Mask {
        V::and(self.zero.lt(diagonal), diagonal.lt(self.infinity))
    }

    /// Moves the last vectors of the chunk to its beginning, where they are the history of the
    /// next ones, after `count` vectors are done. From now on vectors are `count` earlier in the
    /// chunk; their numbers stay as they are.
    ///
    /// # Safety
    /// The planes are those of `start`, and have so many vectors, and those that are
    /// to become the history.
    #[inline(always)]
    unsafe fn advance(&mut self, state: *mut [V::Scalar], count: usize) {
        let of_state = (state.cast::<V::Scalar>(), 2 + self.band());
        for (first, planes) in [of_state, (self.solved, 1 + self.band())] {
            for p in 0..planes {
                let plane = first
                    .wrapping_add(p * self.plane)
                    .cast::<[V::Scalar; LANES]>();
                for i in 0..self.lag {
                    // SAFETY: the caller's promise.
                    unsafe { *plane.add(i) = *plane.add(count + i) };
                }
            }
        }
        self.at -= count * LANES;
    }

    /// The next direction is that of the rest, after so many vectors; its parameters are here, if it
    /// is applied.
    #[inline(always)]
    fn go_to(&mut self, params: &'r mut [[V::Scalar; LANES]], whole: usize) {
        if self.finishing.applies {
            (self.finishing.to, self.wanted) = (params, whole);
        }
    }

    /// The sums of squares.
    #[inline(always)]
    fn sums(self) -> V::Sums {
        self.finishing.sums
    }
}

impl<T: Scalar, const BAND: usize, const ENDS: bool> Kernel<T>
    for (&mut Solve<'_, T, BAND, ENDS>, Range<usize>, &[T])
{
    type Output = ();
    const FOR_SPEED: bool = BAND != ANY_BAND;

    #[inline(always)]
    fn run<V: Vector<Scalar = T>>(self, isa: V::Isa) {
        let (solve, vectors, state) = self;
        // SAFETY: `state` is borrowed.
        let mut solving = unsafe { solve.start::<V>(isa, vectors.clone(), state) };
        // SAFETY: these are the vectors that it was started for.
        unsafe { solving.part(vectors) };
        let sums = solving.sums();
        V::store_sums(sums, solve.outcome.sums);
    }
}

/// The state takes in the gradient, and as soon as it has, directions are computed:
/// the processor divides while it waits for memory.
pub(crate) struct UpdateAndSolve<'a, U, S, T> {
    pub(crate) update: &'a mut U,
    pub(crate) solve: &'a mut S,
    /// Vectors to be solved for.
    pub(crate) vectors: usize,
    /// Where the update begins in the chunk, and how many vectors this has room for.
    pub(crate) from: usize,
    pub(crate) room: usize,
    /// By how many vectors directions lag behind.
    pub(crate) lag: usize,
    pub(crate) state: &'a mut [T],
}

impl<T: Scalar, E: Stored, const BAND: usize, const ELSEWHERE: bool> Kernel<T>
    for UpdateAndSolve<'_, Update<'_, '_, T, E, BAND, ELSEWHERE>, Solve<'_, T, BAND, false>, T>
{
    /// How many vectors the chunk has advanced.
    type Output = usize;
    const FOR_SPEED: bool = true;

    #[inline(always)]
    fn run<V: Vector<Scalar = T>>(self, isa: V::Isa) -> usize {
        let (whole, state) = (self.update.vectors(), &raw mut *self.state);
        let all = whole + usize::from(self.update.rest() > 0);
        let is_adam = self.update.by.is_adam();
        // What comes after the last whole vector, and its parameters.
        let mut rest = (all > whole).then(|| {
            let mut params = [[T::ZERO; LANES]];
            copy_few(self.solve.outcome.last, &mut params[0]);
            (self.update.pad(), params)
        });
        let mut next = rest.as_mut().map(|(rest, params)| (Next::of(rest), params));
        // So many are at hand at the most, before the chunk advances.
        let most = self.room - self.lag;
        // SAFETY: `state` is borrowed, and one uses it after the other.
        let (mut updating, mut solving) = unsafe {
            (
                self.update.start::<V>(isa, state, self.room - self.from),
                self.solve.start::<V>(isa, 0..self.vectors.min(most), state),
            )
        };
        if BAND == 0 {
            // Without neighbours, nothing has to come into the chunk.
            assert!(self.vectors == all && solving.wanted == 0);
            for i in 0..all {
                if let Some((next, params)) = next.take_if(|_| i == whole) {
                    updating.go_to(next);
                    solving.go_to(params, whole);
                }
                // SAFETY: there are so many.
                let (m, d) = unsafe { updating.vector(is_adam, false) };
                let u = (m / d).only(solving.usable(d));
                solving.finishing.finish(i - solving.wanted, u);
            }
        }
        // Where the chunk begins among the vectors that are solved for.
        let mut first = 0;
        let (mut updated, mut solved) = (0, 0);
        while BAND > 0 && solved < self.vectors {
            if let Some((next, params)) = next.take_if(|_| updated == whole) {
                assert!(solved == whole, "a rest ends a line");
                updating.go_to(next);
                solving.go_to(params, whole);
            }
            let room = first + self.room - (self.from + updated);
            let last = if updated < whole { whole } else { all };
            let end = last.min(updated + room.min(VECTORS));
            for _ in updated..end {
                // SAFETY: `end` leaves out what there is no room for.
                unsafe { updating.vector(is_adam, true) };
            }
            updated = end;
            let ready = (self.from + end).saturating_sub(self.lag).max(solved);
            let ready = match end == all {
                true => self.vectors,
                false => ready.min(self.vectors),
            };
            assert!(ready - first <= most);
            // SAFETY: so many have been updated, or were there before.
            unsafe { solving.part(solved..ready) };
            solved = ready;
            if self.from + updated == first + self.room && solved < self.vectors {
                // The last of the chunk become its history.
                let count = solved - first;
                // SAFETY: both have that many vectors, and are not used meanwhile.
                unsafe { solving.advance(state, count) };
                updating.advance(count);
                first = solved;
            }
        }
        let sums = solving.sums();
        V::store_sums(sums, self.solve.outcome.sums);
        let totals = updating.totals();
        let (rest, params) = rest.unzip();
        self.update.end(isa, totals, rest);
        if let Some([params]) = params {
            copy_few(&params, self.solve.outcome.last);
        }
        first
    }
}
