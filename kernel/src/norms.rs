//! Sums of squares, the largest entry of a diagonal, and the largest l1 norm of a row's lower
//! part.
//!
//! Squares are summed up in float64 over [`LANES`] virtual lanes, in the order of
//! the coordinates, and the lanes are added up pairwise at the end: the same bits
//! on every instruction set.

use super::element::Stored;
use super::factor::Times;
use super::isa::{prefetch, Scalar};
use super::simd::{Kernel, Vector, LANES};
use crate::Factor;

/// A sum of squares, lane by lane.
#[derive(Debug, Clone, Copy, Default)]
pub struct Squares(pub(crate) [f64; LANES]);

impl Squares {
    /// The lanes added up.
    pub fn total(self) -> f64 {
        sum_of_lanes(self.0)
    }
}

/// The sum of some lanes, pairwise.
pub(crate) fn sum_of_lanes(mut lanes: [f64; LANES]) -> f64 {
    let mut n = LANES;
    while n > 1 {
        n /= 2;
        for i in 0..n {
            lanes[i] += lanes[i + n];
        }
    }
    lanes[0]
}

/// The largest finite number so far, lane by lane: not negative, in the type of the
/// arithmetic, for which there is room.
#[derive(Debug, Clone, Copy, Default)]
pub struct Largest([f64; LANES]);

impl Largest {
    pub(crate) fn lanes<T: Scalar>(&mut self) -> &mut [T; LANES] {
        let lanes = bytemuck::cast_slice_mut(&mut self.0);
        lanes.first_chunk_mut().expect("there is room for as many")
    }
}

/// Adds up the squares of numbers.
#[inline(always)]
pub(crate) fn add_squares<V: Vector>(
    isa: V::Isa,
    of: &[[V::Scalar; LANES]],
    sums: &mut [f64; LANES],
) {
    let mut total = V::load_sums(isa, sums);
    for x in of {
        V::load(isa, x).add_squares(&mut total);
    }
    V::store_sums(total, sums);
}

/// Adds up the squares of numbers.
pub(crate) struct AddSquares<'a, T> {
    pub(crate) of: &'a [[T; LANES]],
    pub(crate) sums: &'a mut [f64; LANES],
}

impl<T: Scalar> Kernel<T> for AddSquares<'_, T> {
    type Output = ();

    #[inline(always)]
    fn run<V: Vector<Scalar = T>>(self, isa: V::Isa) {
        add_squares::<V>(isa, self.of, self.sums);
    }
}

/// How many bytes ahead gradients are asked for: a single stream waits for memory most of the
/// time if the processor looks ahead by itself.
const AHEAD: usize = 4096;

/// Adds up the squares of `scale * g`, and tells whether each is finite, in the
/// type of the arithmetic.
pub(crate) struct GradientSquares<'a, E> {
    pub(crate) gradient: &'a [[E; LANES]],
    pub(crate) scale: Factor,
    pub(crate) sums: &'a mut [f64; LANES],
}

impl<T: Scalar, E: Stored> Kernel<T> for GradientSquares<'_, E> {
    type Output = bool;

    #[inline(always)]
    fn run<V: Vector<Scalar = T>>(self, isa: V::Isa) -> bool {
        let scale = Times::new(isa, self.scale);
        let infinity = V::splat(isa, T::INFINITY);
        let (zero, one) = (V::number(isa, 0.0), V::number(isa, 1.0));
        let mut total = V::load_sums(isa, self.sums);
        let mut overflow = zero;
        for g in self.gradient {
            prefetch(g, AHEAD);
            let g = scale.of(E::load::<V>(isa, g));
            overflow = V::select((g * g).not_lt(infinity), one, overflow);
            g.add_squares(&mut total);
        }
        V::store_sums(total, self.sums);
        !V::any(zero.lt(overflow))
    }
}

/// The largest `H_jj + |H_j,j-1|` (see
/// [`Kernels::largest_l1`](crate::Kernels::largest_l1)), lane by lane.
pub(crate) struct LargestL1<'a, T> {
    pub(crate) diagonal: &'a [[T; LANES]],
    /// The entries of the coordinates before, if there are any.
    pub(crate) before: Option<&'a [[T; LANES]]>,
}

impl<T: Scalar> Kernel<T> for LargestL1<'_, T> {
    type Output = f64;

    #[inline(always)]
    fn run<V: Vector<Scalar = T>>(self, isa: V::Isa) -> f64 {
        let largest = self.largest::<V>(isa, 1.0);
        // The sum of two finite numbers may be beyond the range of the type.
        match largest < f64::INFINITY {
            true => largest,
            false => 2.0 * self.largest::<V>(isa, 0.5),
        }
    }
}

impl<T: Scalar> LargestL1<'_, T> {
    /// In this unit.
    #[inline(always)]
    fn largest<V: Vector<Scalar = T>>(&self, isa: V::Isa, unit: f64) -> f64 {
        let (unit, mut largest) = (V::number(isa, unit), V::number(isa, 0.0));
        for (i, diagonal) in self.diagonal.iter().enumerate() {
            let mut t = V::load(isa, diagonal) * unit;
            if let Some(before) = self.before {
                t = t + V::load(isa, &before[i]).abs() * unit;
            }
            largest = t.larger(largest);
        }
        let mut lanes = [T::ZERO; LANES];
        largest.store(&mut lanes);
        largest_lane(&lanes)
    }
}

/// The largest of some lanes, not less than 0.
pub(crate) fn largest_lane<T: Scalar>(lanes: &[T; LANES]) -> f64 {
    let larger = |a: f64, x: &T| if a < x.to_f64() { x.to_f64() } else { a };
    lanes.iter().fold(0.0, larger)
}
