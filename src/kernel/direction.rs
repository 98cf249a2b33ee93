//! `u = L D L^T m^`, the solution of the LogDet subproblem on a band
//! (SONew, arXiv 2311.10085, Theorem 3.1 and Algorithm 2), with edge removal.

// Numbers of lines, registers and neighbours say more than iterators over them.
#![allow(clippy::needless_range_loop)]

use super::source::splat;
use super::vector::Vector;
use super::window::Window;
use super::workspace::Shape;
use super::MAX_BAND;

/// The middle stage of a block. `BAND` is the band, or `MAX_BAND` for any;
/// with `BROKEN`, chains may end at any place.
#[derive(Clone, Copy)]
pub(super) struct Direction<V: Vector, const BAND: usize, const BROKEN: bool> {
    band: usize,
    broken: bool,
    zero: V,
    one: V,
    infinity: V,
    gamma: V,
    // The window's factors: l is the unit lower triangle, c is l times its
    // column's pivot. Written before they are read, for every vector of
    // coordinates anew; they are here to be made once.
    l: [[V; BAND]; BAND],
    c: [[V; BAND]; BAND],
    solution: [V; BAND],
    psi: [V; BAND],
}

impl<V: Vector, const BAND: usize, const BROKEN: bool> Direction<V, BAND, BROKEN> {
    /// # Safety
    /// The processor has the instructions of `V`.
    #[inline(always)]
    pub(super) unsafe fn new(shape: Shape, gamma: f64) -> Self {
        // SAFETY: passed on from the caller.
        unsafe {
            assert!(BAND == MAX_BAND || shape.band == BAND && (BROKEN || !shape.broken));
            let zero = splat(0.0);
            Direction {
                band: shape.band,
                broken: shape.broken,
                zero,
                one: splat(1.0),
                infinity: splat(f64::INFINITY),
                gamma: splat(gamma),
                l: [[zero; BAND]; BAND],
                c: [[zero; BAND]; BAND],
                solution: [zero; BAND],
                psi: [zero; BAND],
            }
        }
    }

    #[inline(always)]
    fn band(&self) -> usize {
        if BAND == MAX_BAND {
            self.band
        } else {
            BAND
        }
    }

    #[inline(always)]
    fn broken(&self) -> bool {
        if BAND == MAX_BAND {
            self.broken
        } else {
            BROKEN
        }
    }

    /// For the `i`-th vector of coordinates j of a group: `psi_j`, the Schur
    /// complement `s_j`, and `(D L^T m)_j`, which the window keeps. One
    /// coordinate per lane; `reach` says where chains end, if they do.
    ///
    /// The matrix `H_II`, `I = j+1 .. j+band`, is eliminated from j+1 upward
    /// (`L_w D_w L_w^T`, no pivoting).
    ///
    /// # Safety
    /// `reach` is good for a vector where it is needed, and the processor has
    /// the instructions of `V`.
    #[inline(always)]
    pub(super) unsafe fn solve<W: Window<V, BAND>>(
        &mut self,
        window: &mut W,
        i: usize,
        reach: *const V::Scalar,
    ) {
        // SAFETY: the caller's promise.
        unsafe {
            let diagonal = window.diagonal(i, 0);
            let mut at = Elimination {
                i,
                reach: if self.broken() {
                    V::load(reach)
                } else {
                    self.zero
                },
                schur: diagonal,
                keep: self.one.lt(self.zero),
            };
            // Rows of a known number are told apart when compiled, which keeps
            // the factors in registers.
            if BAND == MAX_BAND {
                for q in 0..self.band {
                    self.eliminate(window, &mut at, q);
                }
            } else {
                const { assert!(BAND == MAX_BAND || BAND <= 4) };
                if BAND > 0 {
                    self.eliminate(window, &mut at, 0);
                }
                if BAND > 1 {
                    self.eliminate(window, &mut at, 1);
                }
                if BAND > 2 {
                    self.eliminate(window, &mut at, 2);
                }
                if BAND > 3 {
                    self.eliminate(window, &mut at, 3);
                }
            }
            let band = self.band();
            for q in (0..band).rev() {
                for r in q + 1..band {
                    self.solution[q] = self.l[r][q].neg_mul_add(self.solution[r], self.solution[q]);
                }
            }

            let keep = V::and(at.keep, self.gamma.mul(diagonal).lt(at.schur));
            let schur = V::select(keep, at.schur, diagonal);
            let mut m = window.momentum(i, 0);
            for q in 0..band {
                let psi = self.solution[q].only(keep);
                m = psi.neg_mul_add(window.momentum(i, q + 1), m);
                self.psi[q] = psi;
            }
            let usable = V::and(self.zero.lt(diagonal), diagonal.lt(self.infinity));
            let scaled = m.div(schur).only(usable);
            window.keep(i, &self.psi, scaled);
        }
    }

    /// Row `q` of the elimination: its pivot, the column below it, and what of
    /// the right-hand side is solved.
    ///
    /// # Safety
    /// As for [`Direction::solve`].
    #[inline(always)]
    unsafe fn eliminate<W: Window<V, BAND>>(
        &mut self,
        window: &W,
        at: &mut Elimination<V>,
        q: usize,
    ) {
        let (band, broken) = (self.band(), self.broken());
        let (zero, one, gamma) = (self.zero, self.one, self.gamma);
        let Elimination { i, reach, .. } = *at;
        let Direction { l, c, solution, .. } = self;
        // SAFETY: the caller's promise.
        unsafe {
            let entry = inside(broken, window.diagonal(i, q + 1), reach, q + 1, one);
            let mut pivot = entry;
            let mut z = inside(broken, window.band(i, q, 0), reach, q + 1, zero);
            for t in 0..q {
                pivot = l[q][t].neg_mul_add(c[q][t], pivot);
                z = c[q][t].neg_mul_add(solution[t], z);
            }
            at.keep = if band == 1 {
                // The pivot is the entry itself, and gamma below 1; should it
                // be infinite, psi is zero.
                zero.lt(pivot)
            } else if q == 0 {
                gamma.mul(entry).lt(pivot)
            } else {
                V::and(at.keep, gamma.mul(entry).lt(pivot))
            };
            if q + 1 == band {
                solution[q] = z.div(pivot);
            } else {
                let inverse = one.div(pivot);
                for r in q + 1..band {
                    let x = window.band(i, r - q - 1, q + 1);
                    let mut x = inside(broken, x, reach, r + 1, zero);
                    for t in 0..q {
                        x = l[r][t].neg_mul_add(c[q][t], x);
                    }
                    c[r][q] = x;
                    l[r][q] = x.mul(inverse);
                }
                solution[q] = z.mul(inverse);
            }
            at.schur = solution[q].neg_mul_add(z, at.schur);
        }
    }

    /// Their directions, once those before are solved:
    /// `u = L (D L^T m)`, `u_j = w_j - sum_k psi_j-k,k w_j-k`.
    ///
    /// # Safety
    /// The processor has the instructions of `V`.
    #[inline(always)]
    pub(super) unsafe fn combine<W: Window<V, BAND>>(&self, window: &W, i: usize) -> V {
        // SAFETY: the caller's promise.
        unsafe {
            let mut u = window.scaled(i, 0);
            for k in 1..=self.band() {
                u = window.psi(i, k).neg_mul_add(window.scaled(i, k), u);
            }
            u
        }
    }
}

/// A vector of coordinates whose windows are being eliminated.
#[derive(Clone, Copy)]
struct Elimination<V: Vector> {
    i: usize,
    reach: V,
    /// The Schur complement, so far.
    schur: V,
    /// Where all pivots are large enough, so far.
    keep: V::Mask,
}

/// Entries of a window. Where the chain has ended before the `needed`-th
/// coordinate after j, they are `fill`.
///
/// # Safety
/// The processor has the instructions of `V`.
#[inline(always)]
unsafe fn inside<V: Vector>(broken: bool, entries: V, reach: V, needed: usize, fill: V) -> V {
    if !broken {
        return entries;
    }
    // SAFETY: passed on from the caller.
    unsafe { V::select(reach.lt(splat(needed as f64)), fill, entries) }
}
