//! Products of matrices with panels: a matrix is one for all lanes.

// The number of a vector says more than an iterator over several arrays.
#![allow(clippy::needless_range_loop)]

use super::band::filter;
use super::inverse::TILE;
use crate::simd::{Kernel, Scalar, Vector, LANES};

/// `to -= matrix x`.
pub(super) struct Less<'a, T> {
    /// For each tile of rows, of each of `columns` columns the numbers of these rows.
    pub(super) matrix: &'a [[T; TILE]],
    pub(super) columns: usize,
    /// The columns that are wanted: from this one on as many as `x` has rows.
    pub(super) first: usize,
    pub(super) x: &'a [[T; LANES]],
    /// For each row; whole tiles of them.
    pub(super) to: &'a mut [[T; LANES]],
    /// Of a row of `x`, and of `to`.
    pub(super) vectors: usize,
}

impl<T: Scalar> Kernel<T> for Less<'_, T> {
    type Output = ();

    #[inline(always)]
    fn run<V: Vector<Scalar = T>>(self, isa: V::Isa) {
        let vectors = self.vectors;
        let count = self.x.len() / vectors;
        let tiles = self.to.chunks_exact_mut(TILE * vectors);
        for (tile, to) in tiles.enumerate() {
            let numbers = &self.matrix[tile * self.columns + self.first..][..count];
            for v in 0..vectors {
                let sums = filter::<V>(isa, to, self.x, vectors, v, numbers);
                for t in 0..TILE {
                    sums[t].store(&mut to[t * vectors + v]);
                }
            }
        }
    }
}

/// `u = q^-1 (x - matrix along) scale`, in place of `x`.
pub(super) struct Combine<'a, T> {
    /// As in [`Less`], from the tile of the first positions on.
    pub(super) matrix: &'a [[T; TILE]],
    pub(super) columns: usize,
    /// Of each column.
    pub(super) along: &'a [[T; LANES]],
    pub(super) scale: T,
    pub(super) inverse_root: &'a [[T; LANES]],
    pub(super) x: &'a mut [[T; LANES]],
    pub(super) vectors: usize,
}

impl<T: Scalar> Kernel<T> for Combine<'_, T> {
    type Output = ();

    #[inline(always)]
    fn run<V: Vector<Scalar = T>>(self, isa: V::Isa) {
        let vectors = self.vectors;
        let scale = V::splat(isa, self.scale);
        let along = &self.along[..self.columns * vectors];
        let roots = self.inverse_root.chunks_exact(TILE * vectors);
        let tiles = self.x.chunks_exact_mut(TILE * vectors).zip(roots);
        for (tile, (x, roots)) in tiles.enumerate() {
            let numbers = &self.matrix[tile * self.columns..][..self.columns];
            for v in 0..vectors {
                let u = filter::<V>(isa, x, along, vectors, v, numbers);
                for t in 0..TILE {
                    let at = t * vectors + v;
                    (u[t] * scale * V::load(isa, &roots[at])).store(&mut x[at]);
                }
            }
        }
    }
}

/// `to[row] *= by[row]`
pub(super) struct Weigh<'a, T> {
    pub(super) by: &'a [T],
    pub(super) to: &'a mut [[T; LANES]],
    pub(super) vectors: usize,
}

impl<T: Scalar> Kernel<T> for Weigh<'_, T> {
    type Output = ();

    #[inline(always)]
    fn run<V: Vector<Scalar = T>>(self, isa: V::Isa) {
        for (row, &by) in self.to.chunks_exact_mut(self.vectors).zip(self.by) {
            for x in row {
                (V::load(isa, x) * V::splat(isa, by)).store(x);
            }
        }
    }
}

/// Adds the sum over chains of `left[position][chain] right[chain]` to the sums of each
/// position.
pub(super) struct Outer<'a, T> {
    /// For each position, in whole tiles of them, `vectors` vectors of chains.
    pub(super) left: &'a [[T; LANES]],
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
        let width = self.vectors * LANES;
        let right = &self.right[..width * self.pitch];
        let left = self.left.as_flattened().chunks_exact(TILE * width);
        let tiles = self.sums.chunks_exact_mut(TILE * self.columns);
        for (tile, (left, to)) in left.zip(tiles).enumerate() {
            let mut rows = [&left[..width]; TILE];
            for t in 1..TILE {
                rows[t] = &left[t * width..][..width];
            }
            let start = if self.upper { tile * TILE / LANES } else { 0 };
            for column in start..self.columns {
                let mut sums = [V::number(isa, 0.0); TILE];
                for t in 0..TILE {
                    sums[t] = V::load(isa, &to[t * self.columns + column]);
                }
                for c in 0..width {
                    let x = &right[c * self.pitch + column * LANES..].as_chunks().0[0];
                    let x = V::load(isa, x);
                    for t in 0..TILE {
                        sums[t] = V::splat(isa, rows[t][c]).mul_add(x, sums[t]);
                    }
                }
                for t in 0..TILE {
                    sums[t].store(&mut to[t * self.columns + column]);
                }
            }
        }
    }
}
