//! `u = L D L^T m^`, the solution of the LogDet subproblem on a band
//! (SONew, arXiv 2311.10085, Theorem 3.1 and Algorithm 2), with edge removal.

// Numbers of rows and neighbours say more than iterators over them.
#![allow(clippy::needless_range_loop)]

use std::ops::Range;

use super::apply::{not_finite, or_else};
use super::element::Stored;
use super::isa::prefetch;
use super::simd::{Kernel, Scalar, Vector, LANES};
use super::update::Update;
use crate::{Apply, MAX_BAND};

/// Planes of a chunk's neighbourhood, seen from several neighbours.
pub(crate) struct Window<'a> {
    /// Elements of a plane.
    pub(crate) plane: usize,
    /// Where the `k`-th neighbours start in a plane.
    pub(crate) neighbours: &'a [usize; MAX_BAND + 1],
}

/// Planes of the state's window.
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
/// `BAND` is the band, or [`MAX_BAND`] for any; `ENDS` says that chains may end
/// among the coordinates, which `reach` tells; `FINISH` is what becomes of the
/// directions.
pub(crate) struct Solve<'a, T, const BAND: usize, const ENDS: bool, const FINISH: u8> {
    /// Where neighbours are in the planes of the state.
    pub(crate) window: Window<'a>,
    pub(crate) band: usize,
    pub(crate) gamma: f64,
    pub(crate) reach: &'a [[T; LANES]],
    /// Planes of `D L^T m`, and of each `psi`.
    pub(crate) solved: &'a mut [T],
    /// Where the coordinates at hand are in these, and where the `k`-th before
    /// them are.
    pub(crate) before: &'a [usize; MAX_BAND + 1],
    /// By how many elements directions lag behind in the chunk.
    pub(crate) lag: usize,
    /// The vector from which on directions are wanted.
    pub(crate) wanted: usize,
    pub(crate) outcome: Outcome<'a, T>,
}

/// What becomes of directions: one of the following. Vectors are counted from the
/// first that is wanted.
pub(crate) struct Outcome<'a, T> {
    /// With [`STORE`]: where they are stored.
    pub(crate) to: &'a mut [[T; LANES]],
    /// With [`MEASURE`]: the sums of their squares, and where they are kept; past the
    /// caches, if they are many.
    pub(crate) sums: &'a mut [f64; LANES],
    pub(crate) keep: &'a mut [[T; LANES]],
    pub(crate) many: bool,
    /// With [`APPLY`]: `p <- p + decay p + rate u`.
    pub(crate) params: &'a mut [[T; LANES]],
    pub(crate) rate: f64,
    pub(crate) decay: f64,
    pub(crate) ahead: usize,
}

impl<'a, T> Outcome<'a, T> {
    /// To be filled in.
    pub(crate) fn none(sums: &'a mut [f64; LANES]) -> Self {
        Outcome {
            to: &mut [],
            sums,
            keep: &mut [],
            many: false,
            params: &mut [],
            rate: 0.0,
            decay: 0.0,
            ahead: 0,
        }
    }

    /// Applied to parameters.
    pub(crate) fn applied(self, params: &'a mut [[T; LANES]], apply: Apply) -> Self {
        let (rate, decay) = match apply {
            Apply::Update { rate, decay } => (rate.number, decay),
            Apply::Write { .. } => unreachable!("there is no loop for it"),
        };
        Outcome {
            params,
            rate,
            decay,
            ..self
        }
    }
}

pub(crate) const STORE: u8 = 0;
pub(crate) const MEASURE: u8 = 1;
pub(crate) const APPLY: u8 = 2;

/// So many vectors are solved before their directions are computed: few enough
/// that the processor does both at the same time, and divides while it waits for
/// memory; enough that what was stored can be loaded again.
const VECTORS: usize = 16;

/// The factors of a window: `l` is the unit lower triangle, `c` is `l` times its
/// column's pivot; and `psi`. Written before they are read, for every vector anew;
/// made once.
struct Factors<V, const BAND: usize> {
    l: [[V; BAND]; BAND],
    c: [[V; BAND]; BAND],
    psi: [V; BAND],
}

/// Directions under way: what the loops need, in registers as far as there are any.
pub(crate) struct Solving<'r, V: Vector, const BAND: usize, const ENDS: bool, const FINISH: u8> {
    isa: V::Isa,
    band: usize,
    /// The planes of the state, from the coordinates at hand and each of their
    /// neighbours on.
    momentum: *const [V::Scalar; LANES],
    diagonal: *const [V::Scalar; LANES],
    later_momentum: [*const [V::Scalar; LANES]; BAND],
    later_diagonal: [*const [V::Scalar; LANES]; BAND],
    /// Of each sub-diagonal, that of a coordinate and those that follow.
    entries: [[*const [V::Scalar; LANES]; BAND]; BAND],
    reach: &'r [[V::Scalar; LANES]],
    /// `w` and each `psi` of the coordinates at hand, and of those before them.
    w: *mut [V::Scalar; LANES],
    psi: [*mut [V::Scalar; LANES]; BAND],
    w_before: [*const [V::Scalar; LANES]; BAND],
    psi_before: [*const [V::Scalar; LANES]; BAND],
    /// Where planes of what is solved start, and elements of a plane.
    solved: *mut V::Scalar,
    plane: usize,
    /// By how many vectors directions lag behind in the chunk.
    lag: usize,
    wanted: usize,
    zero: V,
    one: V,
    infinity: V,
    gamma: V,
    rate: V,
    decay: V,
    sums: V::Sums,
    to: &'r mut [[V::Scalar; LANES]],
    keep: &'r mut [[V::Scalar; LANES]],
    many: bool,
    params: &'r mut [[V::Scalar; LANES]],
    ahead: usize,
}

impl<T: Scalar, const BAND: usize, const ENDS: bool, const FINISH: u8>
    Solve<'_, T, BAND, ENDS, FINISH>
{
    /// Begins, for so many vectors. The planes of the state are those of `state`.
    ///
    /// # Safety
    /// As long as this lives, they are there, and nobody writes them while
    /// [`Solving::part`] reads.
    #[inline(always)]
    pub(crate) unsafe fn start<'r, V: Vector<Scalar = T>>(
        &'r mut self,
        isa: V::Isa,
        vectors: usize,
        state: *const [T],
    ) -> Solving<'r, V, BAND, ENDS, FINISH> {
        let band = if BAND == MAX_BAND { self.band } else { BAND };
        let (plane, first) = (self.window.plane, state.cast::<T>());
        // All that is read and written lies in these planes.
        let inside = |at: &usize| at + vectors * LANES <= plane;
        assert!(state.len() >= (band + 2) * plane && self.solved.len() >= (band + 1) * plane);
        assert!(self.window.neighbours[..=band].iter().all(inside));
        assert!(self.before[..=band].iter().all(inside));
        let solved = self.solved.as_mut_ptr();
        let row = |p: usize, k: usize| -> *const [T; LANES] {
            first
                .wrapping_add(p * plane + self.window.neighbours[k])
                .cast()
        };
        let solved = |p: usize, k: usize| -> *mut [T; LANES] {
            solved.wrapping_add(p * plane + self.before[k]).cast()
        };
        let (none, none_mut) = (std::ptr::null(), std::ptr::null_mut());
        let mut solving = Solving {
            isa,
            band,
            momentum: row(MOMENTUM, 0),
            diagonal: row(DIAGONAL, 0),
            later_momentum: [none; BAND],
            later_diagonal: [none; BAND],
            entries: [[none; BAND]; BAND],
            reach: self.reach,
            w: solved(0, 0),
            psi: [none_mut; BAND],
            w_before: [none; BAND],
            psi_before: [none; BAND],
            solved: self.solved.as_mut_ptr(),
            plane,
            lag: self.lag / LANES,
            wanted: self.wanted,
            zero: V::number(isa, 0.0),
            one: V::number(isa, 1.0),
            infinity: V::splat(isa, T::INFINITY),
            gamma: V::number(isa, self.gamma),
            rate: V::number(isa, self.outcome.rate),
            decay: V::number(isa, self.outcome.decay),
            sums: V::load_sums(isa, self.outcome.sums),
            to: &mut *self.outcome.to,
            keep: &mut *self.outcome.keep,
            many: self.outcome.many,
            params: &mut *self.outcome.params,
            ahead: self.outcome.ahead,
        };
        for k in 0..band {
            solving.later_momentum[k] = row(MOMENTUM, k + 1);
            solving.later_diagonal[k] = row(DIAGONAL, k + 1);
            for i in 0..band - k {
                solving.entries[k][i] = row(sub_diagonal(k + 1), i);
            }
            solving.psi[k] = solved(k + 1, 0);
            solving.w_before[k] = solved(0, k + 1);
            solving.psi_before[k] = solved(k + 1, k + 1);
        }
        solving
    }
}

impl<V: Vector, const BAND: usize, const ENDS: bool, const FINISH: u8>
    Solving<'_, V, BAND, ENDS, FINISH>
{
    #[inline(always)]
    fn load(&self, row: *const [V::Scalar; LANES], i: usize) -> V {
        // SAFETY: rows have the vectors that `part` is asked for, which `start`
        // looked after.
        V::load(self.isa, unsafe { &*row.add(i) })
    }

    /// Solves for some vectors, and finishes them.
    ///
    /// # Safety
    /// They are among those that it was started for, since it advanced.
    #[inline(always)]
    unsafe fn part(&mut self, vectors: Range<usize>) {
        let row = [self.zero; BAND];
        let (l, c) = ([row; BAND], [row; BAND]);
        let mut factors = Factors { l, c, psi: row };
        let mut first = vectors.start;
        while first < vectors.end {
            let end = vectors.end.min(first + VECTORS);
            for i in first..end {
                self.solve(i, &mut factors);
            }
            // Without neighbours, directions have been finished.
            let finished = if BAND == 0 {
                end
            } else {
                first.max(self.wanted)
            };
            for i in finished..end {
                let mut u = self.load(self.w, i);
                let band = if BAND == MAX_BAND { self.band } else { BAND };
                for k in 0..band {
                    let psi = self.load(self.psi_before[k], i);
                    u = psi.neg_mul_add(self.load(self.w_before[k], i), u);
                }
                self.finish(i - self.wanted, u);
            }
            first = end;
        }
    }

    /// `psi`, the Schur complement and `D L^T m` of a vector of coordinates.
    #[inline(always)]
    fn solve(&mut self, i: usize, factors: &mut Factors<V, BAND>) {
        let band = if BAND == MAX_BAND { self.band } else { BAND };
        let (isa, zero, one, gamma) = (self.isa, self.zero, self.one, self.gamma);
        let Factors { l, c, psi } = factors;
        let reach = match ENDS {
            true => V::load(isa, &self.reach[i]),
            false => zero,
        };
        // An entry of the window. Where the chain has ended before the needed
        // coordinate after j, it is as of one that does not exist.
        macro_rules! entry {
            ($row:expr, $needed:expr, $fill:expr) => {{
                let entry = self.load($row, i);
                match ENDS {
                    true => {
                        let needed = V::number(isa, $needed as f64);
                        V::select(reach.lt(needed), $fill, entry)
                    }
                    false => entry,
                }
            }};
        }
        let diagonal = self.load(self.diagonal, i);
        let mut schur = diagonal;
        let mut keep = zero.lt(one);
        // Row q of the elimination: its pivot, the column below it, and what of
        // the right-hand side is solved.
        macro_rules! eliminate {
            ($q:expr) => {{
                let q = $q;
                let entry = entry!(self.later_diagonal[q], q + 1, one);
                let mut pivot = entry;
                let mut z = entry!(self.entries[q][0], q + 1, zero);
                for t in 0..q {
                    pivot = l[q][t].neg_mul_add(c[q][t], pivot);
                    z = c[q][t].neg_mul_add(psi[t], z);
                }
                keep = match band {
                    // The pivot is the entry itself, and gamma below 1; should it
                    // be infinite, psi is zero.
                    1 => zero.lt(pivot),
                    _ => V::and(keep, (gamma * entry).lt(pivot)),
                };
                if q + 1 == band {
                    psi[q] = z / pivot;
                } else {
                    let inverse = one / pivot;
                    for r in q + 1..band {
                        let mut x = entry!(self.entries[r - q - 1][q + 1], r + 1, zero);
                        for t in 0..q {
                            x = l[r][t].neg_mul_add(c[q][t], x);
                        }
                        c[r][q] = x;
                        l[r][q] = x * inverse;
                    }
                    psi[q] = z * inverse;
                }
                schur = psi[q].neg_mul_add(z, schur);
            }};
        }
        // Rows of a known number are told apart when compiled, which keeps the
        // factors in registers.
        if BAND == MAX_BAND {
            for q in 0..band {
                eliminate!(q);
            }
        } else {
            const { assert!(BAND == MAX_BAND || BAND <= 4) };
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
            for r in q + 1..band {
                psi[q] = l[r][q].neg_mul_add(psi[r], psi[q]);
            }
        }
        let keep = V::and(keep, (gamma * diagonal).lt(schur));
        let schur = V::select(keep, schur, diagonal);
        let mut m = self.load(self.momentum, i);
        for q in 0..band {
            let psi = psi[q].only(keep);
            m = psi.neg_mul_add(self.load(self.later_momentum[q], i), m);
            // SAFETY: as for `load`.
            psi.store(unsafe { &mut *self.psi[q].add(i) });
        }
        let usable = V::and(zero.lt(diagonal), diagonal.lt(self.infinity));
        let w = (m / schur).only(usable);
        if BAND == 0 {
            // Without neighbours, that is the direction.
            self.finish(i - self.wanted, w);
        } else {
            // SAFETY: as for `load`.
            w.store(unsafe { &mut *self.w.add(i) });
        }
    }

    /// What becomes of a vector of directions.
    #[inline(always)]
    fn finish(&mut self, i: usize, u: V) {
        match FINISH {
            STORE => u.store(&mut self.to[i]),
            MEASURE => {
                u.add_squares(&mut self.sums);
                if let Some(keep) = self.keep.get_mut(i) {
                    match self.many {
                        true => u.stream(keep),
                        false => u.store(keep),
                    }
                }
            }
            _ => {
                let params = &mut self.params[i];
                prefetch(params, self.ahead);
                let old = V::load(self.isa, params);
                let mut new = self.rate.mul_add(u, self.decay.mul_add(old, old));
                if V::any(not_finite(self.isa, new)) {
                    new = or_else(self.isa, new, old.canonical(self.isa));
                }
                new.store(params);
            }
        }
    }

    /// So many coordinates at hand are done; the last of the new ones become the
    /// history, where directions lag behind. From now on vectors are counted from
    /// the same as before, but are so many earlier in the chunk.
    ///
    /// # Safety
    /// The planes are those of `start`, and have so many vectors, and those that are
    /// to become the history.
    #[inline(always)]
    unsafe fn advance(&mut self, state: *mut [V::Scalar], count: usize) {
        let band = if BAND == MAX_BAND { self.band } else { BAND };
        let of_state = (state.cast::<V::Scalar>(), 2 + band);
        for (first, planes) in [of_state, (self.solved, 1 + band)] {
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
        let earlier = |row: &mut *const [V::Scalar; LANES]| *row = row.wrapping_sub(count);
        earlier(&mut self.momentum);
        earlier(&mut self.diagonal);
        self.w = self.w.wrapping_sub(count);
        for k in 0..band {
            earlier(&mut self.later_momentum[k]);
            earlier(&mut self.later_diagonal[k]);
            self.entries[k].iter_mut().for_each(earlier);
            earlier(&mut self.w_before[k]);
            earlier(&mut self.psi_before[k]);
            self.psi[k] = self.psi[k].wrapping_sub(count);
        }
    }

    /// The sums of squares.
    #[inline(always)]
    pub(crate) fn sums(self) -> V::Sums {
        self.sums
    }
}

impl<T: Scalar, const BAND: usize, const ENDS: bool, const FINISH: u8> Kernel<T>
    for (&mut Solve<'_, T, BAND, ENDS, FINISH>, Range<usize>, &[T])
{
    type Output = ();
    /// Only the loop for any band, and any kind of step.
    const FOR_SPEED: bool = BAND != MAX_BAND || FINISH != STORE;

    #[inline(always)]
    fn run<V: Vector<Scalar = T>>(self, isa: V::Isa) {
        let (solve, vectors, state) = self;
        // SAFETY: `state` is borrowed.
        let mut solving = unsafe { solve.start::<V>(isa, vectors.end, state) };
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

impl<T: Scalar, E: Stored, const BAND: usize, const FINISH: u8> Kernel<T>
    for UpdateAndSolve<'_, Update<'_, '_, T, E, BAND>, Solve<'_, T, BAND, false, FINISH>, T>
{
    /// How many vectors the chunk has advanced.
    type Output = usize;
    const FOR_SPEED: bool = true;

    #[inline(always)]
    fn run<V: Vector<Scalar = T>>(self, isa: V::Isa) -> usize {
        let (all, state) = (self.update.vectors(), &raw mut *self.state);
        // So many are at hand at the most, before the chunk advances.
        let most = self.room - self.lag;
        // SAFETY: `state` is borrowed, and one uses it after the other.
        let (mut updating, mut solving) = unsafe {
            (
                self.update.start::<V>(isa, state, self.room - self.from),
                self.solve.start::<V>(isa, self.vectors.min(most), state),
            )
        };
        // Where the chunk begins among the vectors that are solved for.
        let mut first = 0;
        let (mut updated, mut solved) = (0, 0);
        while solved < self.vectors {
            let room = first + self.room - (self.from + updated);
            let end = all.min(updated + room.min(VECTORS));
            for i in updated..end {
                // SAFETY: `end` leaves out what there is no room for.
                unsafe { updating.vector(i, FINISH == MEASURE) };
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
        let (sums, sum) = updating.totals();
        self.update.end(isa, sums, sum);
        first
    }
}
