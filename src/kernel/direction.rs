//! `u = L D L^T m^`, the solution of the LogDet subproblem on a band
//! (SONew, arXiv 2311.10085, Theorem 3.1 and Algorithm 2), with edge removal.

use super::source::splat;
use super::vector::{Scalar, Vector};
use super::workspace::{Arrays, Shape};
use super::MAX_BAND;

/// The middle stages of a block. `BAND` is the band, or `MAX_BAND` for any;
/// with `BROKEN`, chains may end at any place.
pub(super) struct Direction<V: Vector, const BAND: usize, const BROKEN: bool> {
    band: usize,
    stride: usize,
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
                stride: shape.stride,
                zero,
                one: splat(1.0),
                infinity: splat(f64::INFINITY),
                gamma: splat(gamma),
                l: [[zero; BAND]; BAND],
                c: [[zero; BAND]; BAND],
                solution: [zero; BAND],
            }
        }
    }

    /// For a vector of coordinates j: `psi_j`, the Schur complement `s_j`, and
    /// `(D L^T m^)_j`. One coordinate per lane.
    ///
    /// The window `H_II`, `I = j+1 .. j+band`, is eliminated from j+1 upward
    /// (`L_w D_w L_w^T`, no pivoting).
    ///
    /// # Safety
    /// The arrays are good for a vector at `j` and its `band` neighbours
    /// further, and the processor has the instructions of `V`.
    #[inline(always)]
    pub(super) unsafe fn solve(&mut self, arrays: &Arrays<V::Scalar>, j: usize) {
        let (band, stride) = (self.band, self.stride);
        let (zero, one, gamma) = (self.zero, self.one, self.gamma);
        let Direction { l, c, solution, .. } = self;
        // SAFETY: the caller's promise.
        unsafe {
            let reach = arrays.reach.add(j);
            let diagonal = V::load(arrays.diagonal.add(j));
            let mut schur = diagonal;
            let mut keep = one.lt(zero);

            for q in 0..band {
                let row = j + (q + 1) * stride;
                let entry = window::<V, BROKEN>(arrays.diagonal.add(row), reach, q + 1, one);
                let mut pivot = entry;
                let mut z = window::<V, BROKEN>(arrays.bands[q].add(j), reach, q + 1, zero);
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
                    let x = arrays.bands[r - q - 1].add(row);
                    let mut x = window::<V, BROKEN>(x, reach, r + 1, zero);
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
            let mut m = V::load(arrays.momentum.add(j));
            for q in 0..band {
                let psi = solution[q].only(keep);
                psi.store(arrays.psi[q].add(j));
                m = psi.neg_mul_add(V::load(arrays.momentum.add(j + (q + 1) * stride)), m);
            }
            let usable = V::and(zero.lt(diagonal), diagonal.lt(self.infinity));
            m.div(schur).only(usable).store(arrays.scaled.add(j));
        }
    }

    /// `u = L (D L^T m^)`: `u_j = w_j - sum_k psi_j-k,k w_j-k`.
    ///
    /// # Safety
    /// The arrays are good for a vector at `j` and its `band` neighbours
    /// before, and the processor has the instructions of `V`.
    #[inline(always)]
    pub(super) unsafe fn multiply(&self, arrays: &Arrays<V::Scalar>, j: usize) -> V {
        // SAFETY: the caller's promise.
        unsafe {
            let mut u = V::load(arrays.scaled.add(j));
            for k in 0..self.band {
                let before = j - (k + 1) * self.stride;
                let psi = V::load(arrays.psi[k].add(before));
                u = psi.neg_mul_add(V::load(arrays.scaled.add(before)), u);
            }
            u
        }
    }
}

/// Entries of a window. Where the chain has ended before the `needed`-th
/// coordinate after j, they read as `fill`.
///
/// # Safety
/// Both pointers are good for a vector, and the processor has the
/// instructions of `V`.
#[inline(always)]
unsafe fn window<V: Vector, const BROKEN: bool>(
    entries: *const V::Scalar,
    reach: *const V::Scalar,
    needed: usize,
    fill: V,
) -> V {
    // SAFETY: passed on from the caller.
    unsafe {
        let x = V::load(entries);
        if !BROKEN {
            return x;
        }
        let ended = V::load(reach).lt(V::splat(V::Scalar::from_f64(needed as f64)));
        V::select(ended, fill, x)
    }
}
