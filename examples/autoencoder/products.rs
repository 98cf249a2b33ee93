//! Matrix products on all threads. Every element is the same sum in the same order for any number
//! of threads.

use ndarray::{linalg::general_mat_mul, s, Array2, ArrayView2, Axis};
use rayon::prelude::*;

/// Rows of a square that are computed at a time: so many that what the product prepares for them
/// is little beside it, and so few that little above the diagonal is computed with them.
const STRIP: usize = 128;

/// `c = a b`, with the rows of `c` distributed over the threads.
pub fn multiply(a: ArrayView2<f32>, b: ArrayView2<f32>, c: &mut Array2<f32>) {
    add_product(1.0, a, b, 0.0, c);
}

/// `c = alpha a b + beta c`.
pub fn add_product(
    alpha: f32,
    a: ArrayView2<f32>,
    b: ArrayView2<f32>,
    beta: f32,
    c: &mut Array2<f32>,
) {
    let rows = a.nrows().div_ceil(rayon::current_num_threads());
    let mut parts: Vec<_> = a
        .axis_chunks_iter(Axis(0), rows)
        .zip(c.axis_chunks_iter_mut(Axis(0), rows))
        .collect();
    parts
        .par_iter_mut()
        .for_each(|(a, c)| general_mat_mul(alpha, a, &b, beta, c));
}

/// `c = alpha a a' + beta c` where `c` is symmetric, with little more than half of the arithmetic:
/// what is above the diagonal is copied.
pub fn add_square(alpha: f32, a: ArrayView2<f32>, beta: f32, c: &mut Array2<f32>) {
    let strips = c.axis_chunks_iter_mut(Axis(0), STRIP).enumerate();
    let strips: Vec<_> = strips.map(|(i, c)| (i * STRIP, c)).collect();
    strips.into_par_iter().for_each(|(start, mut c)| {
        let end = start + c.nrows();
        let rows = a.slice(s![start..end, ..]);
        let before = a.slice(s![..end, ..]);
        let mut c = c.slice_mut(s![.., ..end]);
        general_mat_mul(alpha, &rows, &before.t(), beta, &mut c);
    });
    for i in 0..c.nrows() {
        for j in 0..i {
            c[[j, i]] = c[[i, j]];
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::{Rng, SeedableRng};
    use rand_pcg::Pcg64;

    #[test]
    fn a_square_is_the_product_with_the_transpose() {
        let mut rng = Pcg64::seed_from_u64(3);
        let mut draw = |rows, columns| {
            Array2::from_shape_simple_fn((rows, columns), || rng.random_range(-1.0..1.0f32))
        };
        // Within a strip, and over the edges of two.
        for rows in [5, 300] {
            let a = draw(rows, 17);
            let b = draw(rows, rows);
            let mut square = &b + &b.t();
            let mut product = square.clone();
            add_square(0.3, a.view(), -2.0, &mut square);
            add_product(0.3, a.view(), a.t(), -2.0, &mut product);
            let off = (&square - &product).mapv(f32::abs);
            assert!(off.iter().all(|&x| x < 1e-5));
            assert_eq!(square, square.t());
        }
    }
}
