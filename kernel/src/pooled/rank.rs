//! Pooled correlations along a few leading directions.
//!
//! For orthonormal directions `U` the state has `Y`, an average of `P U`, where `P` are the
//! products of positions, summed over chains, and the average of these products' diagonal.
//! `U' Y` tells how large `P` is along the directions (`lambda`), and the diagonal how large
//! it is along all others (`rest`):
//!
//! ```text
//! R^-1 = (I - U (1 - rest / lambda) U') / rest
//! ```
//!
//! A position without products has no part in directions.
//!
//! Whenever the products of a step have been added, `U` becomes the orthonormal factor of `Y`: a
//! step of subspace iteration, which turns it to the leading eigenvectors of `P`.

use super::added::stored;
use super::chains::{PooledChains, MICRO_TILE};
use super::inverse::PooledEstimate;
use super::orthonormal::{dot, orthonormalize, LessAll};
use super::sums::PooledSums;
use crate::cache_lines::{cache_lines, CacheLine};
use crate::dtype::{Dtype, Elements};
use crate::isa::Scalar;
use crate::kernels::in_arithmetic;
use crate::noise::{mix, GROWTH};
use crate::simd::LANES;
use crate::Kernels;

/// The inverse of correlations along a few directions.
pub struct RankInverse {
    chains: PooledChains,
    rank: usize,
    /// Of the arithmetic: see [`Along`].
    factors: Box<[CacheLine]>,
    /// `1 / rest`
    scale: f64,
    /// Rows of positions in float64, see [`Rows`].
    rows: Box<[CacheLine]>,
}

/// A rank's factors.
pub(super) struct Along<'a, T> {
    pub(super) rank: usize,
    /// `U`: for each tile of directions, of each position the numbers of these directions.
    pub(super) gather: &'a [[T; MICRO_TILE]],
    /// The same: for each tile of positions, of each direction the numbers of these positions.
    pub(super) spread: &'a [[T; MICRO_TILE]],
    /// What multiplies `-U' x` and `-U' z`: `-(1 - rest / lambda)`, and -1.
    pub(super) weights: [&'a [T]; 2],
    pub(super) scale: T,
}

/// Rows of positions, in whole tiles of rows: the directions that were, `Y`, and the
/// directions that are to be.
struct Rows<'a> {
    vectors: usize,
    old: &'a mut [[f64; LANES]],
    sums: &'a mut [[f64; LANES]],
    new: &'a mut [[f64; LANES]],
}

impl RankInverse {
    pub(super) fn new(
        kernels: &Kernels,
        chains: &PooledChains,
        rank: usize,
    ) -> Result<Self, usize> {
        let (padded, tiled) = (chains.padded(), rank.next_multiple_of(MICRO_TILE));
        let numbers = padded * (tiled + rank) + 2 * rank;
        Ok(RankInverse {
            chains: *chains,
            rank,
            factors: cache_lines(numbers * kernels.arithmetic().size())?,
            scale: 1.0,
            rows: cache_lines(3 * tiled * padded * size_of::<f64>())?,
        })
    }

    /// Bytes held.
    pub(super) fn bytes(&self) -> usize {
        size_of_val(&*self.factors) + size_of_val(&*self.rows)
    }

    /// Rows, in whole tiles of them.
    fn tiled(&self) -> usize {
        self.rank.next_multiple_of(MICRO_TILE)
    }

    pub(super) fn along<T: Scalar>(&self) -> Along<'_, T> {
        let all: &[T] = bytemuck::cast_slice(&self.factors);
        let padded = self.chains.padded();
        let (gather, all) = all.split_at(padded * self.tiled());
        let (spread, weights) = all.split_at(padded * self.rank);
        let (of_x, of_z) = weights.split_at(self.rank);
        Along {
            rank: self.rank,
            gather: gather.as_chunks().0,
            spread: spread.as_chunks().0,
            weights: [of_x, &of_z[..self.rank]],
            scale: T::from_f64(self.scale),
        }
    }

    fn rows(&mut self) -> Rows<'_> {
        let vectors = self.chains.padded() / LANES;
        let len = self.tiled() * vectors;
        let all: &mut [f64] = bytemuck::cast_slice_mut(&mut self.rows);
        let (old, all) = all.as_chunks_mut().0.split_at_mut(len);
        let (sums, new) = all.split_at_mut(len);
        Rows {
            vectors,
            old,
            sums,
            new: &mut new[..len],
        }
    }

    /// See [`PooledInverse::start`](super::PooledInverse::start).
    pub(super) fn start(&mut self, kernels: &Kernels, sums: &mut PooledSums<'_>) {
        in_arithmetic!(kernels, T => {
            let plane = bytemuck::cast_slice_mut::<u8, T>(sums.plane.bytes_mut());
            self.start_in(kernels, plane);
        });
    }

    /// Numbers that look like chance, made orthonormal.
    fn start_in<T: Scalar>(&mut self, kernels: &Kernels, plane: &mut [T]) {
        let (rank, length) = (self.rank, self.chains.length);
        let directions = behind(plane, rank * length);
        if directions.iter().any(|x| *x != T::ZERO) {
            return;
        }
        let Rows {
            vectors, old, new, ..
        } = self.rows();
        new.as_flattened_mut().fill(0.0);
        old.as_flattened_mut().fill(0.0);
        let rows = new
            .chunks_exact_mut(vectors)
            .zip(old.chunks_exact_mut(vectors));
        for (r, (new, unit)) in rows.take(rank).enumerate() {
            let first = (r * length) as u64;
            let new = new.as_flattened_mut()[..length].iter_mut();
            new.zip(first..).for_each(|(x, i)| *x = number(i));
            unit.as_flattened_mut()[r] = 1.0;
        }
        let rows = rank * vectors;
        let tolerance = tolerance(kernels);
        orthonormalize(kernels, &mut new[..rows], &old[..rows], vectors, tolerance);
        write(&new[..rows], vectors, directions, length);
    }

    /// See [`PooledInverse::turn`](super::PooledInverse::turn).
    pub(super) fn turn(&mut self, kernels: &Kernels, sums: &mut PooledSums<'_>) {
        in_arithmetic!(kernels, T => {
            let plane = bytemuck::cast_slice_mut::<u8, T>(sums.plane.bytes_mut());
            self.turn_in(kernels, plane);
        });
    }

    /// `U2 = Q of the QR factors of Y, Y <- Y U' U2`
    fn turn_in<T: Scalar>(&mut self, kernels: &Kernels, plane: &mut [T]) {
        let (rank, length) = (self.rank, self.chains.length);
        let Rows {
            vectors,
            old,
            sums,
            new,
        } = self.rows();
        let (state, directions) = plane.split_at_mut(plane.len() - rank * length);
        // The diagonal's average comes first, and the last step's may follow.
        let state = &mut state[..(1 + rank) * length];
        if !state.iter().all(|x| x.to_f64().is_finite()) {
            state.fill(T::ZERO);
        }
        let products = &mut state[length..];
        let rows = rank * vectors;
        read(directions, length, old, vectors);
        read(products, length, sums, vectors);
        new.copy_from_slice(sums);
        let tolerance = tolerance(kernels);
        orthonormalize(kernels, &mut new[..rows], &old[..rows], vectors, tolerance);
        write(&new[..rows], vectors, directions, length);
        // Y U' U2, with U' U2 less than nothing, since it is taken away.
        let mut by = [0.0; super::MAX_POOLED_RANK];
        for new in new.chunks_exact_mut(vectors).take(rank) {
            for (by, old) in by.iter_mut().zip(old.chunks_exact(vectors)) {
                *by = -dot(kernels, old, new);
            }
            new.as_flattened_mut().fill(0.0);
            kernels.call(LessAll {
                rows: &sums[..rows],
                by: &by[..rank],
                from: new,
            });
        }
        write(&new[..rows], vectors, products, length);
    }

    pub(super) fn compute(
        &mut self,
        kernels: &Kernels,
        sums: Elements<'_>,
        estimate: PooledEstimate,
    ) {
        in_arithmetic!(kernels, T => {
            self.compute_in::<T>(kernels, bytemuck::cast_slice(sums.bytes()), estimate);
        });
    }

    fn compute_in<T: Scalar>(&mut self, kernels: &Kernels, plane: &[T], estimate: PooledEstimate) {
        let (rank, length) = (self.rank, self.chains.length);
        let (padded, tiled) = (self.chains.padded(), self.tiled());
        let directions = &plane[plane.len() - rank * length..];
        let (squares, products) = plane[..(1 + rank) * length].split_at(length);
        let Rows {
            vectors, old, sums, ..
        } = self.rows();
        read(directions, length, old, vectors);
        read(products, length, sums, vectors);
        let mut lambda = [0.0; super::MAX_POOLED_RANK];
        let both = old.chunks_exact(vectors).zip(sums.chunks_exact(vectors));
        for (lambda, (u, y)) in lambda[..rank].iter_mut().zip(both) {
            *lambda = dot(kernels, u, y);
        }
        let trace: f64 = squares.iter().map(|square| square.to_f64()).sum();
        let eigenvalues = Eigenvalues::new(&mut lambda[..rank], trace, length, estimate);

        self.scale = eigenvalues.map_or(1.0, |e| 1.0 / e.rest);
        let all: &mut [T] = bytemuck::cast_slice_mut(&mut self.factors);
        let (gather, all) = all.split_at_mut(padded * tiled);
        let (spread, weights) = all.split_at_mut(padded * rank);
        let (of_x, of_z) = weights.split_at_mut(rank);
        for (weight, lambda) in of_x.iter_mut().zip(&lambda[..rank]) {
            let kept = eigenvalues.map_or(1.0, |e| e.rest / lambda);
            *weight = T::from_f64(kept - 1.0);
        }
        of_z[..rank].fill(T::from_f64(-1.0));
        let gather: &mut [[T; MICRO_TILE]] = gather.as_chunks_mut().0;
        let spread: &mut [[T; MICRO_TILE]] = spread.as_chunks_mut().0;
        for (r, row) in directions.chunks_exact(length).enumerate() {
            for (j, (&x, square)) in row.iter().zip(squares).enumerate() {
                gather[r / MICRO_TILE * padded + j][r % MICRO_TILE] = x;
                // What rounding leaves there would be multiplied with the largest `1 / q`.
                let x = if *square == T::ZERO { T::ZERO } else { x };
                spread[j / MICRO_TILE * rank + r][j % MICRO_TILE] = x;
            }
        }
    }
}

/// The eigenvalues of correlations, of which all have the mean 1; those along directions are
/// where their estimates were.
#[derive(Clone, Copy)]
struct Eigenvalues {
    /// The one of all that have no direction; none is smaller.
    rest: f64,
}

impl Eigenvalues {
    /// `None` if there is no correlation of use.
    fn new(
        lambda: &mut [f64],
        trace: f64,
        length: usize,
        estimate: PooledEstimate,
    ) -> Option<Self> {
        let mean = trace / length as f64;
        if !(mean > 0.0 && mean.is_finite()) {
            return None;
        }
        let shrunk = |x: f64| (1.0 - estimate.shrink) * (x / mean) + estimate.shrink;
        let others = length - lambda.len();
        let mut sum = 0.0;
        for lambda in &mut *lambda {
            *lambda = lambda.max(0.0);
            sum += *lambda;
            *lambda = shrunk(*lambda);
        }
        let rest = match others {
            // Whatever it is, nothing is along it.
            0 => lambda.iter().copied().fold(f64::INFINITY, f64::min),
            _ => shrunk((trace - sum).max(0.0) / others as f64),
        };
        lambda
            .iter_mut()
            .for_each(|lambda| *lambda = lambda.max(rest));
        (rest > estimate.gamma).then_some(Eigenvalues { rest })
    }
}

/// The last of some numbers.
fn behind<T>(all: &mut [T], count: usize) -> &mut [T] {
    let first = all.len() - count;
    &mut all[first..]
}

/// Below it, what is left of a column is rounding.
fn tolerance(kernels: &Kernels) -> f64 {
    match kernels.arithmetic() {
        Dtype::F64 => f64::EPSILON.sqrt(),
        _ => f64::from(f32::EPSILON).sqrt(),
    }
}

/// Rows of `length` numbers become rows of vectors, with zeros behind them.
fn read<T: Scalar>(from: &[T], length: usize, to: &mut [[f64; LANES]], vectors: usize) {
    for (from, to) in from.chunks_exact(length).zip(to.chunks_exact_mut(vectors)) {
        let (there, behind) = to.as_flattened_mut().split_at_mut(length);
        there
            .iter_mut()
            .zip(from)
            .for_each(|(to, x)| *to = x.to_f64());
        behind.fill(0.0);
    }
}

/// And these are rounded.
fn write<T: Scalar>(from: &[[f64; LANES]], vectors: usize, to: &mut [T], length: usize) {
    for (from, to) in from.chunks_exact(vectors).zip(to.chunks_exact_mut(length)) {
        to.iter_mut()
            .zip(from.as_flattened())
            .for_each(|(to, &x)| *to = stored(x));
    }
}

/// A number in `[-1, 1)` that looks like chance: from the `i + 1`-th number of SplitMix64 with
/// the seed 0.
fn number(i: u64) -> f64 {
    let random = mix(i.wrapping_mul(GROWTH));
    // 53 bits, of which the largest stands for 1.
    (random >> 11) as f64 * (1.0 / (1u64 << 52) as f64) - 1.0
}
