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
            let zero = splat(0.0);
            Direction {
                band: if BAND == MAX_BAND { shape.band } else { BAND },
                broken: if BAND == MAX_BAND {
                    shape.broken
                } else {
                    BROKEN
                },
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

    /// For a vector of coordinates j: `psi_j`, the Schur complement `s_j`, and
    /// `(D L^T m)_j`; then their direction. One coordinate per lane; `reach`
    /// says where chains end, if they do.
    ///
    /// # Safety
    /// `reach` is good for a vector where it is needed, and the processor has
    /// the instructions of `V`.
    #[inline(always)]
    pub(super) unsafe fn next<W: Window<V, BAND>>(
        &mut self,
        window: &mut W,
        reach: *const V::Scalar,
    ) -> V {
        // SAFETY: the caller's promise.
        unsafe {
            let scaled = self.solve(window, reach);
            window.keep(&self.psi, scaled);
            // `u = L (D L^T m)`: `u_j = w_j - sum_k psi_j-k,k w_j-k`.
            let mut u = scaled;
            for k in 1..=self.band {
                u = window.psi(k).neg_mul_add(window.scaled(k), u);
            }
            u
        }
    }

    /// The window `H_II`, `I = j+1 .. j+band`, is eliminated from j+1 upward
    /// (`L_w D_w L_w^T`, no pivoting).
    ///
    /// # Safety
    /// As for [`Direction::next`].
    #[inline(always)]
    unsafe fn solve<W: Window<V, BAND>>(&mut self, window: &W, reach: *const V::Scalar) -> V {
        let (band, broken) = (self.band, self.broken);
        let (zero, one, gamma) = (self.zero, self.one, self.gamma);
        let Direction { l, c, solution, .. } = self;
        // SAFETY: the caller's promise.
        unsafe {
            let reach = if broken { V::load(reach) } else { zero };
            let diagonal = window.diagonal(0);
            let mut schur = diagonal;
            let mut keep = one.lt(zero);

            for q in 0..band {
                let entry = inside(broken, window.diagonal(q + 1), reach, q + 1, one);
                let mut pivot = entry;
                let mut z = inside(broken, window.band(q, 0), reach, q + 1, zero);
                for t in 0..q {
                    pivot = l[q][t].neg_mul_add(c[q][t], pivot);
                    z = c[q][t].neg_mul_add(solution[t], z);
                }
                keep = if band == 1 {
                    // The pivot is the entry itself, and gamma below 1; should
                    // it be infinite, psi is zero.
                    zero.lt(pivot)
                } else if q == 0 {
                    gamma.mul(entry).lt(pivot)
                } else {
                    V::and(keep, gamma.mul(entry).lt(pivot))
                };
                if q + 1 == band {
                    solution[q] = z.div(pivot);
                    schur = solution[q].neg_mul_add(z, schur);
                    break;
                }
                let inverse = one.div(pivot);
                for r in q + 1..band {
                    let x = window.band(r - q - 1, q + 1);
                    let mut x = inside(broken, x, reach, r + 1, zero);
                    for t in 0..q {
                        x = l[r][t].neg_mul_add(c[q][t], x);
                    }
                    c[r][q] = x;
                    l[r][q] = x.mul(inverse);
                }
                solution[q] = z.mul(inverse);
                schur = solution[q].neg_mul_add(z, schur);
            }
            for q in (0..band).rev() {
                for r in q + 1..band {
                    solution[q] = l[r][q].neg_mul_add(solution[r], solution[q]);
                }
            }

            keep = V::and(keep, gamma.mul(diagonal).lt(schur));
            schur = V::select(keep, schur, diagonal);
            let mut m = window.momentum(0);
            for q in 0..band {
                let psi = solution[q].only(keep);
                m = psi.neg_mul_add(window.momentum(q + 1), m);
                self.psi[q] = psi;
            }
            let usable = V::and(zero.lt(diagonal), diagonal.lt(self.infinity));
            m.div(schur).only(usable)
        }
    }
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
