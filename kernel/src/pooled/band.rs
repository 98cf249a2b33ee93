//! The loops over a panel.

// The number of a position says more than an iterator over several arrays.
#![allow(clippy::needless_range_loop)]

use std::ops::Range;

use super::chains::MICRO_TILE;
use super::inverse::Factors;
use crate::isa::Scalar;
use crate::outcome::Outcome;
use crate::simd::{Kernel, Vector, LANES};

/// Where vectors lie in an array of a panel: one is so many behind that of the position before,
/// and of the chains before.
#[derive(Debug, Clone, Copy)]
pub(super) struct Order {
    pub(super) position: usize,
    pub(super) vector: usize,
}

/// Adds the products of positions at hand with those behind them, summed over the lanes.
pub(super) struct Products<'a, T> {
    pub(super) z: &'a [[T; LANES]],
    pub(super) order: Order,
    pub(super) vectors: usize,
    /// Those of each position with itself, from the first at hand on; with its next neighbour
    /// `padded` later, and so on.
    pub(super) sums: &'a mut [T],
    pub(super) padded: usize,
    pub(super) count: usize,
    pub(super) band: usize,
}

impl<T: Scalar> Kernel<T> for Products<'_, T> {
    type Output = ();

    #[inline(always)]
    fn run<V: Vector<Scalar = T>>(self, isa: V::Isa) {
        // Where it is a constant, offsets are known when this is compiled.
        match self.order.position {
            1 => self.add::<V>(isa, 1),
            position => self.add::<V>(isa, position),
        }
    }
}

impl<T: Scalar> Products<'_, T> {
    #[inline(always)]
    fn add<V: Vector<Scalar = T>>(self, isa: V::Isa, position: usize) {
        let mut lanes = [[T::ZERO; LANES]; LANES];
        for first in (0..self.count).step_by(LANES) {
            for apart in 0..=self.band {
                for quarter in (0..LANES).step_by(4) {
                    let mut sums = [V::number(isa, 0.0); 4];
                    for v in 0..self.vectors {
                        let at = v * self.order.vector + (first + quarter) * position;
                        let left = &self.z[at..];
                        let right = &left[apart * position..][..3 * position + 1];
                        let left = &left[..3 * position + 1];
                        for t in 0..4 {
                            let right = V::load(isa, &right[t * position]);
                            let left = V::load(isa, &left[t * position]);
                            sums[t] = left.mul_add(right, sums[t]);
                        }
                    }
                    for t in 0..4 {
                        sums[t].store(&mut lanes[quarter + t]);
                    }
                }
                let sums = &mut self.sums[apart * self.padded + first..].as_chunks_mut().0[0];
                (V::load(isa, sums) + V::sums_of_rows(isa, &lanes)).store(sums);
            }
        }
    }
}

/// `v = D L^T x`, and `L v` in place of `x`, for a vector of chains.
pub(super) struct Solve<'a, T> {
    /// Of the positions at hand, and those behind them.
    pub(super) x: &'a mut [[T; LANES]],
    /// `v`: as many positions as directions lag behind, then those at hand.
    pub(super) solved: &'a mut [[T; LANES]],
    /// In both, a position is so many vectors behind the one before.
    pub(super) position: usize,
    pub(super) lag: usize,
    pub(super) count: usize,
    pub(super) factors: Factors<'a, T>,
}

impl<T: Scalar> Kernel<T> for Solve<'_, T> {
    type Output = ();

    #[inline(always)]
    fn run<V: Vector<Scalar = T>>(self, isa: V::Isa) {
        // As for the products.
        match self.position {
            1 => self.solve::<V>(isa, 1),
            position => self.solve::<V>(isa, position),
        }
    }
}

impl<T: Scalar> Solve<'_, T> {
    #[inline(always)]
    fn solve<V: Vector<Scalar = T>>(self, isa: V::Isa, position: usize) {
        let Factors {
            band,
            ahead,
            behind,
            inverse_schur,
        } = self.factors;
        let (lag, rows) = (self.lag, band + MICRO_TILE - 1);
        for (tile, at) in (0..self.count).step_by(MICRO_TILE).enumerate() {
            let numbers = tile * rows..(tile + 1) * rows;
            let x = &mut self.x[at * position..][..rows * position + 1];
            let each = (position, 0);
            let v = filter::<V>(isa, x, &x[position..], each, &ahead[numbers.clone()]);
            let solved = &mut self.solved[(lag - band + at) * position..][..rows * position + 1];
            for t in 0..MICRO_TILE {
                let scale = V::splat(isa, inverse_schur[at + t]);
                (v[t] * scale).store(&mut solved[(band + t) * position]);
            }
            let (own, others) = (&solved[band * position..], &solved[..rows * position]);
            let u = filter::<V>(isa, own, others, each, &behind[numbers]);
            for t in 0..MICRO_TILE {
                u[t].store(&mut x[t * position]);
            }
        }
    }
}

/// A tile of rows less others times the numbers of each: of their `v`-th vector, where each has
/// so many.
#[inline(always)]
pub(super) fn filter<V: Vector>(
    isa: V::Isa,
    own: &[[V::Scalar; LANES]],
    others: &[[V::Scalar; LANES]],
    (vectors, v): (usize, usize),
    numbers: &[[V::Scalar; MICRO_TILE]],
) -> [V; MICRO_TILE] {
    let mut sums = [V::number(isa, 0.0); MICRO_TILE];
    for t in 0..MICRO_TILE {
        sums[t] = V::load(isa, &own[t * vectors + v]);
    }
    for (row, numbers) in others.chunks(vectors).zip(numbers) {
        let x = V::load(isa, &row[v]);
        for t in 0..MICRO_TILE {
            sums[t] = V::splat(isa, numbers[t]).neg_mul_add(x, sums[t]);
        }
    }
    sums
}

/// [`filter`] has rows of a vector.
pub(super) const ALONE: (usize, usize) = (1, 0);

/// What the correlations leave of directions.
pub(super) struct Solved<'a, T> {
    /// `R^-1 q^-1 m` and `1 / q`: vectors that are so many apart.
    pub(super) x: &'a [[T; LANES]],
    pub(super) inverse_root: &'a [[T; LANES]],
    pub(super) step: usize,
}

/// Directions of some vectors, and what becomes of them.
pub(super) struct Direct<'a, T> {
    pub(super) of: &'a Solved<'a, T>,
    pub(super) vectors: Range<usize>,
    pub(super) outcome: Outcome<'a, T>,
}

impl<T: Scalar> Kernel<T> for Direct<'_, T> {
    type Output = ();

    #[inline(always)]
    fn run<V: Vector<Scalar = T>>(mut self, isa: V::Isa) {
        let Solved {
            x,
            inverse_root,
            step,
        } = self.of;
        let mut finishing = self.outcome.start::<V>(isa);
        for (i, vector) in self.vectors.enumerate() {
            let at = vector * step;
            let u = V::load(isa, &x[at]) * V::load(isa, &inverse_root[at]);
            finishing.finish(i, u);
        }
        let sums = finishing.sums;
        V::store_sums(sums, self.outcome.sums);
    }
}
