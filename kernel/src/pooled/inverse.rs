//! The inverse of pooled correlations on a band, in factors.

// The number of a vector says more than an iterator over several arrays.
#![allow(clippy::needless_range_loop)]

use super::chains::{PooledChains, MICRO_TILE};
use crate::cache_lines::{cache_lines, CacheLine};
use crate::dtype::{Dtype, Elements};
use crate::isa::Scalar;
use crate::kernels::in_arithmetic;
use crate::simd::{Kernel, Vector, LANES};
use crate::Kernels;

/// `R^-1 = L D L^T` for a chain of any of a tensor's units: `L` unit lower triangular with
/// `-psi_j` below the diagonal of column `j`, `D` the inverse Schur complements.
///
/// Where `R` is known within a band, this is the solution of
/// `argmin tr(X R) - log det X` over `X` with the sparsity of the band, as everywhere.
pub struct BandInverse {
    chains: PooledChains,
    /// Of the arithmetic: inverse Schur complements, then `psi` as it is needed where
    /// positions look ahead, and where they look behind.
    factors: Box<[CacheLine]>,
    /// `rho[i]` of positions `i` apart, with zeros behind the last.
    correlations: Box<[CacheLine]>,
    /// For the elimination of a window.
    elimination: Box<[CacheLine]>,
}

/// The factors from some position on.
pub(super) struct Factors<'a, T> {
    pub(super) band: usize,
    /// For each tile of positions the numbers that multiply the `band + MICRO_TILE - 1` positions
    /// from its second one on, one for each of its positions.
    pub(super) ahead: &'a [[T; MICRO_TILE]],
    /// The same for the positions from `band` before its first one on.
    pub(super) behind: &'a [[T; MICRO_TILE]],
    pub(super) inverse_schur: &'a [T],
}

/// Correlations that are estimated from sums of products.
#[derive(Debug, Clone, Copy)]
pub struct PooledEstimate {
    /// In `[0, 1)`: by so much all correlations are less than their estimates.
    pub shrink: f64,
    /// The tolerance of edge removal.
    pub gamma: f64,
}

impl BandInverse {
    /// Room for one.
    ///
    /// # Errors
    /// The number of bytes, if they are not to be had.
    pub(super) fn new(kernels: &Kernels, chains: &PooledChains) -> Result<Self, usize> {
        let (padded, band) = (chains.padded(), chains.band);
        let numbers = padded + 2 * (padded / MICRO_TILE) * (band + MICRO_TILE - 1) * MICRO_TILE;
        let window = (band + 1) + Eliminate::room(band);
        let correlations = (band + 1) * Self::pitch(chains);
        Ok(BandInverse {
            chains: *chains,
            factors: cache_lines(numbers * kernels.arithmetic().size())?,
            correlations: cache_lines(correlations * size_of::<f64>())?,
            elimination: cache_lines(window * LANES * size_of::<f64>())?,
        })
    }

    /// Bytes held.
    pub(super) fn bytes(&self) -> usize {
        let all = [&self.factors, &self.correlations, &self.elimination];
        all.iter().map(|memory| size_of_val(&***memory)).sum()
    }

    /// Elements from the correlations of positions `i` apart to those of `i + 1`.
    fn pitch(chains: &PooledChains) -> usize {
        chains.padded() + chains.band.next_multiple_of(LANES)
    }

    /// Elements of the factors for a tile of positions.
    fn rows(&self) -> usize {
        self.chains.band + MICRO_TILE - 1
    }

    pub(super) fn factors<T: Scalar>(&self, start: usize) -> Factors<'_, T> {
        let all: &[T] = bytemuck::cast_slice(&self.factors);
        let padded = self.chains.padded();
        let (inverse_schur, psi) = all.split_at(padded);
        let tiles = padded / MICRO_TILE * self.rows();
        let (ahead, behind) = psi.as_chunks().0[..2 * tiles].split_at(tiles);
        let from = start / MICRO_TILE * self.rows();
        Factors {
            band: self.chains.band,
            ahead: &ahead[from..],
            behind: &behind[from..],
            inverse_schur: &inverse_schur[start..],
        }
    }

    /// Computes it from sums of products, float32 or float64: those of positions `i` apart
    /// follow those of `i - 1`, `length` of each.
    pub(super) fn compute(
        &mut self,
        kernels: &Kernels,
        products: Elements<'_>,
        estimate: PooledEstimate,
    ) {
        match products.dtype() {
            Dtype::F64 => self.correlate::<f64>(products.bytes(), estimate.shrink),
            _ => self.correlate::<f32>(products.bytes(), estimate.shrink),
        }
        let pitch = Self::pitch(&self.chains);
        for first in (0..self.chains.padded()).step_by(LANES) {
            let correlations: &[f64] = bytemuck::cast_slice(&self.correlations);
            let window: &mut [f64] = bytemuck::cast_slice_mut(&mut self.elimination);
            kernels.call(Eliminate {
                band: self.chains.band,
                correlations: &correlations[first..],
                pitch,
                gamma: estimate.gamma,
                window: window.as_chunks_mut().0,
            });
            in_arithmetic!(kernels, T => self.put::<T>(first));
        }
    }

    /// `(1 - shrink) P_i[j] / sqrt(P_0[j] P_0[j + i])`, and zero where that is not a number
    /// of use.
    fn correlate<E: Scalar>(&mut self, products: &[u8], shrink: f64) {
        let products: &[E] = bytemuck::cast_slice(products);
        let (length, pitch) = (self.chains.length, Self::pitch(&self.chains));
        let all: &mut [f64] = bytemuck::cast_slice_mut(&mut self.correlations);
        let (roots, others) = all.split_at_mut(pitch);
        for (root, square) in roots.iter_mut().zip(&products[..length]) {
            let inverse = 1.0 / square.to_f64().sqrt();
            *root = if inverse.is_finite() { inverse } else { 0.0 };
        }
        for apart in 1..=self.chains.band {
            let products = &products[apart * length..][..length];
            let to = &mut others[(apart - 1) * pitch..][..pitch];
            for j in 0..length.saturating_sub(apart) {
                // One root after the other: their product may be beyond the range.
                let rho = products[j].to_f64() * roots[j] * roots[j + apart];
                to[j] = match rho.abs() <= 1.0 {
                    true => (1.0 - shrink) * rho,
                    // Rounding, or what is not a number.
                    false if rho.is_finite() => (1.0 - shrink) * rho.signum(),
                    false => 0.0,
                };
            }
        }
    }

    /// Puts `psi` and the Schur complements of a vector of positions in their places.
    fn put<T: Scalar>(&mut self, first: usize) {
        let (band, rows, padded) = (self.chains.band, self.rows(), self.chains.padded());
        let window: &[f64] = bytemuck::cast_slice(&self.elimination);
        let window: &[[f64; LANES]] = window.as_chunks().0;
        let all: &mut [T] = bytemuck::cast_slice_mut(&mut self.factors);
        let (inverse_schur, psi) = all.split_at_mut(padded);
        let tiles = padded / MICRO_TILE * rows;
        let (ahead, behind) = psi.as_chunks_mut::<MICRO_TILE>().0.split_at_mut(tiles);
        for lane in 0..LANES {
            let j = first + lane;
            inverse_schur[j] = T::from_f64(window[band][lane]);
            for k in 1..=band {
                let psi = T::from_f64(window[k - 1][lane]);
                let (tile, t) = (j / MICRO_TILE, j % MICRO_TILE);
                ahead[tile * rows + t + k - 1][t] = psi;
                let (tile, t) = ((j + k) / MICRO_TILE, (j + k) % MICRO_TILE);
                if j + k < padded {
                    behind[tile * rows + t + band - k][t] = psi;
                }
            }
        }
    }
}

/// `psi` and the inverse Schur complement of a vector of positions.
struct Eliminate<'a> {
    band: usize,
    /// From the first of the positions on: the place of their roots, then their correlations
    /// with the next ones, and so on, each `pitch` later.
    correlations: &'a [f64],
    pitch: usize,
    gamma: f64,
    /// `psi` and the inverse Schur complement; then [room](Eliminate::room) for the factors.
    window: &'a mut [[f64; LANES]],
}

impl Eliminate<'_> {
    /// Vectors of the factors: inverse pivots, two rows that are under way, and for each row of
    /// the window what is below the diagonal.
    const fn room(band: usize) -> usize {
        3 * band + Self::before(band + 1)
    }

    /// Vectors of the rows before this one.
    const fn before(row: usize) -> usize {
        row * row.saturating_sub(1) / 2
    }
}

impl Kernel<f64> for Eliminate<'_> {
    type Output = ();

    /// As for the bands of single chains, with ones for the diagonal: the window of the
    /// `band` positions behind each one is eliminated from the first of them on. The position
    /// itself is one more row, the last: what is left of its diagonal is the Schur complement.
    #[inline(always)]
    fn run<V: Vector<Scalar = f64>>(self, isa: V::Isa) {
        let band = self.band;
        let (solution, rest) = self.window.split_at_mut(band + 1);
        let (inverses, rest) = rest.split_at_mut(band);
        // Two rows at a time, since each reads all rows before it: divided by their columns'
        // pivots; and all rows as they are.
        let (divided, rows) = rest.split_at_mut(2 * band);
        let one = V::number(isa, 1.0);
        let gamma = V::number(isa, self.gamma);
        // Between rows of the window.
        let rho = |row: usize, column: usize| {
            let (apart, first) = match row < band {
                true => (row - column, column + 1),
                false => (column + 1, 0),
            };
            let from = &self.correlations[apart * self.pitch + first..];
            V::load(isa, &from.as_chunks().0[0])
        };
        let mut keep = V::number(isa, 0.0).lt(one);
        let mut schur = one;
        let (even, odd) = divided.split_at_mut(band);
        for first in (0..=band).step_by(2) {
            // The columns that both rows have. Behind the last row there is none, and what
            // stands for it goes nowhere.
            let is_pair = first < band;
            for q in 0..first {
                let row = &rows[Eliminate::before(q)..][..q];
                let mut x = rho(first, q);
                let mut y = rho(band.min(first + 1), q);
                for ((lp, a), b) in row.iter().zip(&*even).zip(&*odd) {
                    let lp = V::load(isa, lp);
                    x = V::load(isa, a).neg_mul_add(lp, x);
                    y = V::load(isa, b).neg_mul_add(lp, y);
                }
                let inverse = V::load(isa, &inverses[q]);
                x.store(&mut rows[Eliminate::before(first) + q]);
                (x * inverse).store(&mut even[q]);
                (y * inverse).store(&mut odd[q]);
                if is_pair {
                    y.store(&mut rows[Eliminate::before(first + 1) + q]);
                }
            }
            let row = &rows[Eliminate::before(first)..][..first];
            schur = less_products(isa, one, even, row);
            keep = V::and(keep, gamma.lt(schur));
            if !is_pair {
                break;
            }
            // The second row has one column more.
            let inverse = one / schur;
            inverse.store(&mut inverses[first]);
            let y = less_products(isa, rho(first + 1, first), odd, row);
            y.store(&mut rows[Eliminate::before(first + 1) + first]);
            (y * inverse).store(&mut odd[first]);
            let row = &rows[Eliminate::before(first + 1)..][..first + 1];
            schur = less_products(isa, one, odd, row);
            keep = V::and(keep, gamma.lt(schur));
            if first + 1 < band {
                (one / schur).store(&mut inverses[first + 1]);
            }
        }
        for q in (0..band).rev() {
            let inverse = V::load(isa, &inverses[q]);
            let mut psi = V::load(isa, &rows[Eliminate::before(band) + q]) * inverse;
            for r in q + 1..band {
                let l = V::load(isa, &rows[Eliminate::before(r) + q]) * inverse;
                psi = l.neg_mul_add(V::load(isa, &solution[r]), psi);
            }
            psi.store(&mut solution[q]);
        }
        for psi in &mut solution[..band] {
            V::load(isa, psi).only(keep).store(psi);
        }
        (one / V::select(keep, schur, one)).store(&mut solution[band]);
    }
}

/// `x` less the sum of products of two rows.
#[inline(always)]
fn less_products<V: Vector<Scalar = f64>>(
    isa: V::Isa,
    mut x: V,
    a: &[[f64; LANES]],
    b: &[[f64; LANES]],
) -> V {
    for (a, b) in a.iter().zip(b) {
        x = V::load(isa, a).neg_mul_add(V::load(isa, b), x);
    }
    x
}
