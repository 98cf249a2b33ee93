//! All pooled correlations of a chain's positions.
//!
//! `R = L D L^T`, L unit lower triangular, and `R^-1 x` is two triangular solutions. A
//! position whose Schur complement, given those before it, is not above gamma loses its
//! correlations with these, as edges are removed elsewhere; so `R` is always positive definite.

// The number of a vector says more than an iterator over several arrays.
#![allow(clippy::needless_range_loop)]

use super::band::{filter, ALONE};
use super::chains::{PooledChains, MICRO_TILE};
use super::inverse::PooledEstimate;
use super::orthonormal::LessAll;
use crate::cache_lines::{cache_lines, CacheLine};
use crate::dtype::Elements;
use crate::isa::Scalar;
use crate::kernels::in_arithmetic;
use crate::simd::{Kernel, Vector, LANES};
use crate::Kernels;

/// The inverse of all correlations.
pub struct FullInverse {
    chains: PooledChains,
    /// Of the arithmetic: for each tile of positions, of each position the numbers of these in
    /// `L`, and right of the diagonal in `L^T`; then `1 / D` of each position.
    factors: Box<[CacheLine]>,
    /// In float64, rows of `D L^T`; then `1 / D` of each position, and the inverse roots of
    /// the products' diagonal.
    rows: Box<[CacheLine]>,
    /// Of a tile of positions, what rows before them are multiplied with.
    before: Box<[CacheLine]>,
}

/// `x` becomes `R^-1 x`, for some vectors of chains.
pub(super) struct Solve<'a, T> {
    factors: &'a [[T; MICRO_TILE]],
    inverse_pivots: &'a [T],
    x: &'a mut [[T; LANES]],
    /// From one of them to the next.
    pitch: usize,
}

impl FullInverse {
    pub(super) fn new(kernels: &Kernels, chains: &PooledChains) -> Result<Self, usize> {
        let padded = chains.padded();
        Ok(FullInverse {
            chains: *chains,
            factors: cache_lines((padded + 1) * padded * kernels.arithmetic().size())?,
            rows: cache_lines((padded + 2) * padded * size_of::<f64>())?,
            before: cache_lines(padded * MICRO_TILE * size_of::<f64>())?,
        })
    }

    /// Bytes held.
    pub(super) fn bytes(&self) -> usize {
        let all = [&self.factors, &self.rows, &self.before];
        all.iter().map(|memory| size_of_val(&***memory)).sum()
    }

    /// The vectors of chains are so far apart.
    pub(super) fn solve<'a, T: Scalar>(
        &'a self,
        x: &'a mut [[T; LANES]],
        pitch: usize,
    ) -> Solve<'a, T> {
        let all: &[T] = bytemuck::cast_slice(&self.factors);
        let padded = self.chains.padded();
        let (factors, inverse_pivots) = all.split_at(padded * padded);
        Solve {
            factors: factors.as_chunks().0,
            inverse_pivots: &inverse_pivots[..padded],
            x,
            pitch,
        }
    }

    pub(super) fn compute(
        &mut self,
        kernels: &Kernels,
        sums: Elements<'_>,
        estimate: PooledEstimate,
    ) {
        in_arithmetic!(kernels, T => {
            self.factorize::<T>(kernels, bytemuck::cast_slice(sums.bytes()), estimate);
            self.put::<T>();
        });
    }

    /// A tile of rows of `D L^T` at a time, from the first on.
    fn factorize<T: Scalar>(
        &mut self,
        kernels: &Kernels,
        products: &[T],
        estimate: PooledEstimate,
    ) {
        let (padded, length) = (self.chains.padded(), self.chains.length);
        let vectors = padded / LANES;
        let all: &mut [f64] = bytemuck::cast_slice_mut(&mut self.rows);
        let (rows, all) = all.split_at_mut(padded * padded);
        let (inverse_pivots, roots) = all.split_at_mut(padded);
        let before: &mut [f64] = bytemuck::cast_slice_mut(&mut self.before);
        let before: &mut [[f64; MICRO_TILE]] = before.as_chunks_mut().0;
        for (j, root) in roots[..length].iter_mut().enumerate() {
            let inverse = 1.0 / products[j * length + j].to_f64().sqrt();
            *root = if inverse.is_finite() { inverse } else { 0.0 };
        }
        // Those of a position with itself and with all behind it.
        let correlate = |j: usize, row: &mut [f64]| {
            row.fill(0.0);
            row[j] = 1.0;
            for i in j + 1..length {
                // One root after the other: their product may be beyond the range.
                let rho = products[j * length + i].to_f64() * roots[j] * roots[i];
                row[i] = match rho.abs() <= 1.0 {
                    true => (1.0 - estimate.shrink) * rho,
                    // Rounding, or what is not a number.
                    false if rho.is_finite() => (1.0 - estimate.shrink) * rho.signum(),
                    false => 0.0,
                };
            }
        };
        for first in (0..length).step_by(MICRO_TILE) {
            let count = MICRO_TILE.min(length - first);
            let (above, tile) = rows.split_at_mut(first * padded);
            let tile = &mut tile[..MICRO_TILE * padded];
            for (t, row) in tile.chunks_exact_mut(padded).take(count).enumerate() {
                correlate(first + t, row);
            }
            for (k, before) in before[..first].iter_mut().enumerate() {
                let row = &above[k * padded + first..][..MICRO_TILE];
                for t in 0..MICRO_TILE {
                    before[t] = row[t] * inverse_pivots[k];
                }
            }
            kernels.call(Eliminate {
                rows: above.as_chunks().0,
                by: &before[..first],
                vectors,
                start: first / LANES,
                tile: tile.as_chunks_mut().0,
            });
            for t in 0..count {
                let j = first + t;
                let (above_it, rest) = tile.split_at_mut(t * padded);
                let row = &mut rest[..padded];
                let by = |s: usize| above_it[s * padded + j] * inverse_pivots[first + s];
                kernels.call(LessAll {
                    rows: above_it.as_chunks().0,
                    by: &std::array::from_fn::<_, MICRO_TILE, _>(
                        |s| if s < t { by(s) } else { 0.0 },
                    )[..t],
                    from: row.as_chunks_mut().0,
                });
                // Written so that what is not a number is removed, too.
                let keeps = row[j] > estimate.gamma;
                if !keeps {
                    correlate(j, row);
                    let above = above.chunks_exact_mut(padded);
                    above
                        .chain(above_it.chunks_exact_mut(padded))
                        .for_each(|row| row[j] = 0.0);
                }
                inverse_pivots[j] = 1.0 / row[j];
            }
        }
        // Behind the last position there is nothing to solve for.
        inverse_pivots[length..].fill(1.0);
        for (j, row) in rows.chunks_exact_mut(padded).enumerate().skip(length) {
            row[j..].fill(0.0);
        }
    }

    /// Puts `L` and `L^T` in their places.
    fn put<T: Scalar>(&mut self) {
        let padded = self.chains.padded();
        let all: &[f64] = bytemuck::cast_slice(&self.rows);
        let (rows, all) = all.split_at(padded * padded);
        let factors: &mut [T] = bytemuck::cast_slice_mut(&mut self.factors);
        let (factors, pivots) = factors.split_at_mut(padded * padded);
        let factors: &mut [[T; MICRO_TILE]] = factors.as_chunks_mut().0;
        for (pivot, &inverse) in pivots.iter_mut().zip(&all[..padded]) {
            *pivot = T::from_f64(inverse);
        }
        for (k, (row, &inverse)) in rows.chunks_exact(padded).zip(all).enumerate() {
            for j in k + 1..padded {
                let l = T::from_f64(row[j] * inverse);
                factors[j / MICRO_TILE * padded + k][j % MICRO_TILE] = l;
                factors[k / MICRO_TILE * padded + j][k % MICRO_TILE] = l;
            }
        }
    }
}

/// Takes from a tile of rows what rows before it are multiplied with, from the vector `start`
/// on.
struct Eliminate<'a> {
    rows: &'a [[f64; LANES]],
    by: &'a [[f64; MICRO_TILE]],
    vectors: usize,
    start: usize,
    tile: &'a mut [[f64; LANES]],
}

impl Kernel<f64> for Eliminate<'_> {
    type Output = ();

    #[inline(always)]
    fn run<V: Vector<Scalar = f64>>(self, isa: V::Isa) {
        for v in self.start..self.vectors {
            let sums = filter::<V>(isa, self.tile, self.rows, (self.vectors, v), self.by);
            for t in 0..MICRO_TILE {
                sums[t].store(&mut self.tile[t * self.vectors + v]);
            }
        }
    }
}

impl<T: Scalar> Kernel<T> for Solve<'_, T> {
    type Output = ();

    #[inline(always)]
    fn run<V: Vector<Scalar = T>>(self, isa: V::Isa) {
        let length = self.inverse_pivots.len();
        let tile = |first: usize| &self.factors[first / MICRO_TILE * length..][..length];
        // A tile of factors serves all vectors while it is in the nearest cache.
        for first in (0..length).step_by(MICRO_TILE) {
            let (numbers, own) = tile(first).split_at(first);
            for x in self.x.chunks_exact_mut(self.pitch) {
                let (before, x) = x.split_at_mut(first);
                let mut sums = filter::<V>(isa, x, before, ALONE, numbers);
                for t in 0..MICRO_TILE {
                    for s in 0..t {
                        sums[t] = V::splat(isa, own[s][t]).neg_mul_add(sums[s], sums[t]);
                    }
                    sums[t].store(&mut x[t]);
                }
            }
        }
        for first in (0..length).step_by(MICRO_TILE).rev() {
            let (own, numbers) = tile(first)[first..].split_at(MICRO_TILE);
            let pivots = &self.inverse_pivots[first..][..MICRO_TILE];
            for x in self.x.chunks_exact_mut(self.pitch) {
                let (x, behind) = x[first..length].split_at_mut(MICRO_TILE);
                for t in 0..MICRO_TILE {
                    (V::load(isa, &x[t]) * V::splat(isa, pivots[t])).store(&mut x[t]);
                }
                let mut sums = filter::<V>(isa, x, behind, ALONE, numbers);
                for t in (0..MICRO_TILE).rev() {
                    for s in t + 1..MICRO_TILE {
                        sums[t] = V::splat(isa, own[s][t]).neg_mul_add(sums[s], sums[t]);
                    }
                    sums[t].store(&mut x[t]);
                }
            }
        }
    }
}
