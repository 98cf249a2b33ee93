//! Lengths: of a gradient, of a direction, and of the vector that a direction
//! takes its length from.
//!
//! Squares are summed in float64, one accumulator per lane, and the lanes
//! combined in a fixed order. A block gives one sum, whoever computes it.

use super::bytes;
use super::vector::{for_lanes, Lanes, Scalar, Vector};
use super::workspace::{Array, Workspace};

/// Adds up the accumulators pairwise.
#[inline(always)]
unsafe fn total<V: Vector>(sums: V::Sums) -> f64 {
    let mut lanes = [0.0; super::vector::MAX_LANES];
    // SAFETY: the array is as long as the longest vector.
    unsafe { V::store_sums(sums, lanes.as_mut_ptr()) };
    let mut n = V::LANES;
    while n > 1 {
        n /= 2;
        for i in 0..n {
            lanes[i] += lanes[i + n];
        }
    }
    lanes[0]
}

/// The sum of squares of `scale * g` over a run, in a fixed order; NaN if an
/// element, or its square in the type of the arithmetic, is not finite.
///
/// # Safety
/// The processor has the instructions of `V`.
#[inline(always)]
pub(crate) unsafe fn gradient_squares<V, G>(gradient: &[u8], scale: f64) -> f64
where
    V: Vector + Lanes<G>,
    G: bytemuck::Pod,
{
    let gradient: &[G] = bytes(gradient);
    let from = gradient.as_ptr();
    // SAFETY: the run has as many elements as are read, and the caller has the
    // instructions of `V`.
    unsafe {
        let scale = V::splat(V::Scalar::from_f64(scale));
        let infinity = V::splat(V::Scalar::INFINITY);
        let mut sums = V::no_sums();
        let mut finite = V::splat(V::Scalar::ZERO).lt(infinity);
        for_lanes!(V, gradient.len(), |i, count| {
            let g = <V as Lanes<G>>::read(from.add(i), count).mul(scale);
            finite = V::and(finite, g.mul(g).lt(infinity));
            sums = g.add_squares(sums);
        });
        if V::all(finite) {
            total::<V>(sums)
        } else {
            f64::NAN
        }
    }
}

/// The sum of squares of one array over the block's own coordinates.
///
/// # Safety
/// The processor has the instructions of `V`.
#[inline(always)]
pub(crate) unsafe fn block_squares<V: Vector>(work: &mut Workspace, array: Array) -> f64 {
    let block = work.block();
    let values = &work.array::<V::Scalar>(array)[block.front..block.front + block.core];
    // SAFETY: the slice has as many elements as are read, and the caller has
    // the instructions of `V`.
    unsafe {
        let mut sums = V::no_sums();
        for_lanes!(V, values.len(), |i, count| {
            let x = <V as Lanes<V::Scalar>>::read(values.as_ptr().add(i), count);
            sums = x.add_squares(sums);
        });
        total::<V>(sums)
    }
}

/// A run of the planes that references are made from. Empty where the tensor
/// has no such plane.
#[derive(Clone, Copy)]
pub(crate) struct Planes<'a> {
    pub momentum: &'a [u8],
    pub diagonal: &'a [u8],
    pub rms: &'a [u8],
}

/// Another method's direction, for a run of coordinates.
#[derive(Clone, Copy)]
pub(crate) enum Reference {
    /// `g`, with the factor that scales the gradient.
    Sgd { scale: f64 },
    /// `m^`, with the bias correction.
    Momentum { correction: f64 },
    /// `m^ / (sqrt(v) + eps)`, with the bias corrections of both.
    Adam {
        correction: f64,
        diagonal: f64,
        eps: f64,
    },
    /// `q / (sqrt(r) + eps)`, with the factor that makes `q` from the
    /// gradient.
    NormalizedRmsprop { scale: f64, eps: f64 },
}

/// Writes the reference vector of a run to position `at` of `array`. The
/// gradient is looked at only where the reference needs it.
///
/// # Safety
/// The processor has the instructions of `V`.
#[inline(always)]
pub(crate) unsafe fn reference<V, G, S>(
    work: &mut Workspace,
    array: Array,
    at: usize,
    gradient: &[u8],
    planes: Planes<'_>,
    reference: Reference,
) where
    V: Vector + Lanes<G> + Lanes<S>,
    G: bytemuck::Pod,
    S: bytemuck::Pod,
{
    let gradient: &[G] = bytes(gradient);
    let momentum: &[S] = bytes(planes.momentum);
    let diagonal: &[S] = bytes(planes.diagonal);
    let rms: &[S] = bytes(planes.rms);
    let n = gradient.len();
    let needs_rms = matches!(reference, Reference::NormalizedRmsprop { .. });
    assert!(momentum.len() == n && diagonal.len() == n && (rms.len() == n || !needs_rms));
    let to = work.array::<V::Scalar>(array)[at..at + n].as_mut_ptr();
    // SAFETY: every run that is read has `n` elements, and `to` has room for
    // them; the caller has the instructions of `V`.
    unsafe {
        let splat = |x| V::splat(V::Scalar::from_f64(x));
        for_lanes!(V, n, |i, count| {
            let g = || <V as Lanes<G>>::read(gradient.as_ptr().add(i), count);
            let state = |plane: &[S]| <V as Lanes<S>>::read(plane.as_ptr().add(i), count);
            let a = match reference {
                Reference::Sgd { scale } => g().mul(splat(scale)),
                Reference::Momentum { correction } => state(momentum).mul(splat(correction)),
                Reference::Adam {
                    correction,
                    diagonal: corrected,
                    eps,
                } => {
                    let root = state(diagonal).mul(splat(corrected)).sqrt();
                    quotient(state(momentum).mul(splat(correction)), root.add(splat(eps)))
                }
                Reference::NormalizedRmsprop { scale, eps } => {
                    let root = state(rms).sqrt();
                    quotient(g().mul(splat(scale)), root.add(splat(eps)))
                }
            };
            Lanes::<V::Scalar>::write(a, to.add(i), count);
        });
    }
}

/// `a / b`, and zero where `b` is not positive: without an eps, a coordinate
/// that never had a gradient would be 0 / 0.
///
/// # Safety
/// The processor has the instructions of `V`.
#[inline(always)]
unsafe fn quotient<V: Vector>(a: V, b: V) -> V {
    // SAFETY: passed on from the caller.
    unsafe {
        let zero = V::splat(V::Scalar::ZERO);
        let some = zero.lt(b);
        V::select(some, a.div(b), zero)
    }
}
