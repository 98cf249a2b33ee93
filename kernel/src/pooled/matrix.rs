//! Products of matrices with panels: a matrix is one for all lanes.

// The number of a vector says more than an iterator over several arrays.
#![allow(clippy::needless_range_loop)]

use super::band::{filter, ALONE};
use super::chains::MICRO_TILE;
use crate::isa::Scalar;
use crate::simd::{Kernel, Vector, LANES};

/// `to -= matrix x`, for a vector of chains.
pub(super) struct Less<'a, T> {
    /// For each tile of rows, of each of `columns` columns the numbers of these rows.
    pub(super) matrix: &'a [[T; MICRO_TILE]],
    pub(super) columns: usize,
    /// The columns that are wanted: from this one on as many as there are of `x`.
    pub(super) first: usize,
    pub(super) x: &'a [[T; LANES]],
    /// For each row; whole tiles of them.
    pub(super) to: &'a mut [[T; LANES]],
}

impl<T: Scalar> Kernel<T> for Less<'_, T> {
    type Output = ();

    #[inline(always)]
    fn run<V: Vector<Scalar = T>>(self, isa: V::Isa) {
        for (tile, to) in self.to.chunks_exact_mut(MICRO_TILE).enumerate() {
            let numbers = &self.matrix[tile * self.columns + self.first..][..self.x.len()];
            let sums = filter::<V>(isa, to, self.x, ALONE, numbers);
            for t in 0..MICRO_TILE {
                sums[t].store(&mut to[t]);
            }
        }
    }
}

/// `x = (x - matrix along) scale`, for a vector of chains.
pub(super) struct Combine<'a, T> {
    /// As in [`Less`], from the tile of the first positions on.
    pub(super) matrix: &'a [[T; MICRO_TILE]],
    /// Of each column.
    pub(super) along: &'a [[T; LANES]],
    pub(super) scale: T,
    pub(super) x: &'a mut [[T; LANES]],
}

impl<T: Scalar> Kernel<T> for Combine<'_, T> {
    type Output = ();

    #[inline(always)]
    fn run<V: Vector<Scalar = T>>(self, isa: V::Isa) {
        let (scale, columns) = (V::splat(isa, self.scale), self.along.len());
        for (tile, x) in self.x.chunks_exact_mut(MICRO_TILE).enumerate() {
            let numbers = &self.matrix[tile * columns..][..columns];
            let rest = filter::<V>(isa, x, self.along, ALONE, numbers);
            for t in 0..MICRO_TILE {
                (rest[t] * scale).store(&mut x[t]);
            }
        }
    }
}

/// `to[i] *= by[i]`, for a vector of chains.
pub(super) struct Weigh<'a, T> {
    pub(super) by: &'a [T],
    pub(super) to: &'a mut [[T; LANES]],
}

impl<T: Scalar> Kernel<T> for Weigh<'_, T> {
    type Output = ();

    #[inline(always)]
    fn run<V: Vector<Scalar = T>>(self, isa: V::Isa) {
        for (x, &by) in self.to.iter_mut().zip(self.by) {
            (V::load(isa, x) * V::splat(isa, by)).store(x);
        }
    }
}

/// Adds the sum over chains of `left[position][chain] right[chain]` to the sums of each
/// position.
pub(super) struct Outer<'a, T> {
    /// For each vector of chains, the positions, in whole tiles of them; so far apart.
    pub(super) left: &'a [[T; LANES]],
    pub(super) left_pitch: usize,
    pub(super) vectors: usize,
    /// For each of these chains; so far apart.
    pub(super) right: &'a [T],
    pub(super) pitch: usize,
    /// For each position, so many vectors.
    pub(super) sums: &'a mut [[T; LANES]],
    pub(super) columns: usize,
    /// Of each position, only what is right of it, and of its vector.
    pub(super) upper: bool,
}

impl<T: Scalar> Kernel<T> for Outer<'_, T> {
    type Output = ();

    #[inline(always)]
    fn run<V: Vector<Scalar = T>>(self, isa: V::Isa) {
        for (tile, to) in self
            .sums
            .chunks_exact_mut(MICRO_TILE * self.columns)
            .enumerate()
        {
            let start = if self.upper {
                tile * MICRO_TILE / LANES
            } else {
                0
            };
            for column in start..self.columns {
                let mut sums = [V::number(isa, 0.0); MICRO_TILE];
                for t in 0..MICRO_TILE {
                    sums[t] = V::load(isa, &to[t * self.columns + column]);
                }
                for v in 0..self.vectors {
                    let left = &self.left[v * self.left_pitch + tile * MICRO_TILE..][..MICRO_TILE];
                    let right = &self.right[v * LANES * self.pitch..][..LANES * self.pitch];
                    for lane in 0..LANES {
                        let x = &right[lane * self.pitch + column * LANES..].as_chunks().0[0];
                        let x = V::load(isa, x);
                        for t in 0..MICRO_TILE {
                            sums[t] = V::splat(isa, left[t][lane]).mul_add(x, sums[t]);
                        }
                    }
                }
                for t in 0..MICRO_TILE {
                    sums[t].store(&mut to[t * self.columns + column]);
                }
            }
        }
    }
}
