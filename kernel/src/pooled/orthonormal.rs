//! Orthonormal directions, in float64.

// The number of a vector says more than an iterator over several arrays.
#![allow(clippy::needless_range_loop)]

use crate::norms::sum_of_lanes;
use crate::simd::{Kernel, Vector, LANES};
use crate::Kernels;

/// Rows of whole vectors become orthonormal, one after the other, from the first on: each is
/// what is left of it without those before it. Where that is no more than `tolerance` of its
/// norm, it was, to rounding, a combination of these, and the row of the same number of
/// `instead` takes its place; if too little is left of that, the first of the others of which
/// enough is. These are orthonormal, so that there is one. (If they are not, for state that no
/// step has left, a row may be zero.)
pub(super) fn orthonormalize(
    kernels: &Kernels,
    rows: &mut [[f64; LANES]],
    instead: &[[f64; LANES]],
    vectors: usize,
    tolerance: f64,
) {
    let count = rows.len() / vectors;
    // The squares of what is left of all of them add up to 1, or more.
    let enough = (0.5 / count as f64).sqrt();
    let mut coefficients = [0.0; super::MAX_POOLED_RANK];
    for r in 0..count {
        let (before, row) = rows.split_at_mut(r * vectors);
        let row = &mut row[..vectors];
        let mut left = |row: &mut [[f64; LANES]]| {
            // Twice is enough: what rounding has left the first time goes the second time.
            for _ in 0..2 {
                for (c, other) in coefficients.iter_mut().zip(before.chunks_exact(vectors)) {
                    *c = dot(kernels, other, row);
                }
                kernels.call(LessAll {
                    rows: before,
                    by: &coefficients[..r],
                    from: row,
                });
            }
            dot(kernels, row, row).sqrt()
        };
        let norm = dot(kernels, row, row).sqrt();
        let mut norm_left = left(row);
        // Written so that what is not a number is replaced, too.
        let is_new = norm > 0.0 && norm_left > tolerance * norm && norm_left.is_finite();
        if !is_new {
            let others = (0..count).filter(|&other| other != r);
            norm_left = 0.0;
            for other in std::iter::once(r).chain(others) {
                row.copy_from_slice(&instead[other * vectors..][..vectors]);
                norm_left = left(row);
                if norm_left >= enough && norm_left.is_finite() {
                    break;
                }
                norm_left = 0.0;
            }
        }
        let inverse = if norm_left > 0.0 {
            1.0 / norm_left
        } else {
            0.0
        };
        for x in row.as_flattened_mut() {
            *x = if inverse > 0.0 { *x * inverse } else { 0.0 };
        }
    }
}

/// The sum of products of two rows.
pub(super) fn dot(kernels: &Kernels, a: &[[f64; LANES]], b: &[[f64; LANES]]) -> f64 {
    kernels.call(Dot { a, b })
}

struct Dot<'a> {
    a: &'a [[f64; LANES]],
    b: &'a [[f64; LANES]],
}

impl Kernel<f64> for Dot<'_> {
    type Output = f64;

    #[inline(always)]
    fn run<V: Vector<Scalar = f64>>(self, isa: V::Isa) -> f64 {
        let mut sum = V::number(isa, 0.0);
        for (a, b) in self.a.iter().zip(self.b) {
            sum = V::load(isa, a).mul_add(V::load(isa, b), sum);
        }
        let mut lanes = [0.0; LANES];
        sum.store(&mut lanes);
        sum_of_lanes(lanes)
    }
}

/// `from -= by[0] rows[0] + by[1] rows[1] ..`
pub(super) struct LessAll<'a> {
    pub(super) rows: &'a [[f64; LANES]],
    pub(super) by: &'a [f64],
    pub(super) from: &'a mut [[f64; LANES]],
}

impl Kernel<f64> for LessAll<'_> {
    type Output = ();

    #[inline(always)]
    fn run<V: Vector<Scalar = f64>>(self, isa: V::Isa) {
        let vectors = self.from.len();
        for (v, from) in self.from.iter_mut().enumerate() {
            let mut x = V::load(isa, from);
            for (r, &by) in self.by.iter().enumerate() {
                let row = V::load(isa, &self.rows[r * vectors + v]);
                x = V::splat(isa, by).neg_mul_add(row, x);
            }
            x.store(from);
        }
    }
}
