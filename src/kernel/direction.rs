//! `u = L D L^T m^`, the solution of the LogDet subproblem on a band
//! (SONew, arXiv 2311.10085, Theorem 3.1 and Algorithm 2), with edge removal.

use super::vector::{Scalar, Vector};
use super::workspace::{Array, Shape, Workspace};
use super::MAX_BAND;

/// Computes the direction of the packed block.
///
/// # Safety
/// The processor has the instructions of `V`.
#[inline(always)]
pub(crate) unsafe fn direction<V: Vector>(work: &mut Workspace, gamma: f64) {
    let block = work.block();
    let arrays = Arrays::<V::Scalar>::new(work);
    // SAFETY: `Workspace::begin` has checked that the arrays are long enough
    // for this block, and the caller has the instructions.
    unsafe {
        match (block.band, block.broken) {
            (0, _) => solve::<V, 0, false>(&arrays, block, gamma),
            (1, _) => solve::<V, 1, false>(&arrays, block, gamma),
            (2, false) => solve::<V, 2, false>(&arrays, block, gamma),
            (3, false) => solve::<V, 3, false>(&arrays, block, gamma),
            (4, false) => solve::<V, 4, false>(&arrays, block, gamma),
            (_, false) => solve::<V, MAX_BAND, false>(&arrays, block, gamma),
            (_, true) => solve::<V, MAX_BAND, true>(&arrays, block, gamma),
        }
        match block.band {
            0 => multiply::<V, 0>(&arrays, block),
            1 => multiply::<V, 1>(&arrays, block),
            _ => multiply::<V, MAX_BAND>(&arrays, block),
        }
    }
}

/// Where the arrays of a workspace start.
struct Arrays<T> {
    momentum: *const T,
    diagonal: *const T,
    bands: [*const T; MAX_BAND],
    reach: *const T,
    psi: [*mut T; MAX_BAND],
    scaled: *mut T,
    direction: *mut T,
}

impl<T: Scalar> Arrays<T> {
    fn new(work: &mut Workspace) -> Self {
        let band = work.block().band;
        let mut start = |array| work.array::<T>(array).as_mut_ptr();
        let mut bands = [std::ptr::null(); MAX_BAND];
        let mut psi = [std::ptr::null_mut(); MAX_BAND];
        for k in 0..band {
            bands[k] = start(Array::Band(k + 1)).cast_const();
            psi[k] = start(Array::Psi(k + 1));
        }
        Arrays {
            momentum: start(Array::Momentum),
            diagonal: start(Array::Diagonal),
            bands,
            reach: start(Array::Reach),
            psi,
            scaled: start(Array::Scaled),
            direction: start(Array::Direction),
        }
    }
}

/// For every coordinate j of the block and of the halo before it: `psi_j`,
/// the Schur complement `s_j`, and `(D L^T m^)_j`. One coordinate per lane.
///
/// The window `H_II`, `I = j+1 .. j+band`, is eliminated from j+1 upward
/// (`L_w D_w L_w^T`, no pivoting). `BAND` is the band, or `MAX_BAND` for any.
///
/// # Safety
/// The arrays hold the block, and the processor has the instructions of `V`.
#[inline(always)]
unsafe fn solve<V: Vector, const BAND: usize, const BROKEN: bool>(
    arrays: &Arrays<V::Scalar>,
    block: Shape,
    gamma: f64,
) {
    let band = if BAND == MAX_BAND { block.band } else { BAND };
    let stride = block.stride;
    // SAFETY: positions run up to `front + core` plus one vector at most, and
    // neighbours up to `band * stride` further: `Shape::extent`.
    unsafe {
        let zero = V::splat(V::Scalar::ZERO);
        let one = V::splat(V::Scalar::ONE);
        let infinity = V::splat(V::Scalar::INFINITY);
        let gamma = V::splat(V::Scalar::from_f64(gamma));
        // l: the unit lower triangle; c = l times its column's pivot. Written
        // before they are read, for every vector of coordinates anew.
        let mut l = [[zero; BAND]; BAND];
        let mut c = [[zero; BAND]; BAND];
        let mut solution = [zero; BAND];

        let mut j = 0;
        while j < block.front + block.core {
            let reach = arrays.reach.add(j);
            let diagonal = V::load(arrays.diagonal.add(j));
            let mut schur = diagonal;
            let mut keep = zero.lt(one);

            for q in 0..band {
                let row = j + (q + 1) * stride;
                let entry = window::<V, BROKEN>(arrays.diagonal.add(row), reach, q + 1, one);
                let mut pivot = entry;
                let mut z = window::<V, BROKEN>(arrays.bands[q].add(j), reach, q + 1, zero);
                for t in 0..q {
                    pivot = l[q][t].neg_mul_add(c[q][t], pivot);
                    z = c[q][t].neg_mul_add(solution[t], z);
                }
                keep = V::and(keep, gamma.mul(entry).lt(pivot));
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
            for (q, &x) in solution[..band].iter().enumerate() {
                let psi = V::select(keep, x, zero);
                psi.store(arrays.psi[q].add(j));
                m = psi.neg_mul_add(V::load(arrays.momentum.add(j + (q + 1) * stride)), m);
            }
            let usable = V::and(zero.lt(diagonal), diagonal.lt(infinity));
            V::select(usable, m.div(schur), zero).store(arrays.scaled.add(j));
            j += V::LANES;
        }
    }
}

/// Entries of a window. Where the chain is broken before the `needed`-th
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

/// `u = L (D L^T m^)`: `u_j = w_j - sum_k psi_j-k,k w_j-k`.
///
/// # Safety
/// The arrays hold the block, and the processor has the instructions of `V`.
#[inline(always)]
unsafe fn multiply<V: Vector, const BAND: usize>(arrays: &Arrays<V::Scalar>, block: Shape) {
    let band = if BAND == MAX_BAND { block.band } else { BAND };
    // SAFETY: `front` is at least `band * stride`, so no position is negative.
    unsafe {
        let mut j = block.front;
        while j < block.front + block.core {
            let mut u = V::load(arrays.scaled.add(j));
            for k in 0..band {
                let before = j - (k + 1) * block.stride;
                let psi = V::load(arrays.psi[k].add(before).cast_const());
                u = psi.neg_mul_add(V::load(arrays.scaled.add(before)), u);
            }
            u.store(arrays.direction.add(j));
            j += V::LANES;
        }
    }
}
