//! Momentum, diagonal, sub-diagonals and the plane of normalized RMSProp take
//! in a gradient.
//!
//! All are averages `x <- keep x + a b` of something with the gradient. A run
//! of one plane at a time: the gradient stays in the cache between them.

use super::vector::{for_lanes, prefetch, Lanes, Scalar, Vector};
use super::{bytes, bytes_mut};

/// What is averaged.
#[derive(Clone, Copy)]
pub(crate) enum Term<'a> {
    /// The gradient.
    Gradient,
    /// The square of the gradient.
    Square,
    /// The gradient times that of the neighbours.
    Product(&'a [u8]),
}

/// Numbers of one average: `keep` multiplies what is there, `weight` what
/// comes in, and `scale` every gradient before anything else.
#[derive(Clone, Copy)]
pub(crate) struct Average {
    pub keep: f64,
    pub weight: f64,
    pub scale: f64,
}

/// Averages a term into a run of a plane. Results below the smallest normal
/// number become zero, every NaN the same.
///
/// # Safety
/// The processor has the instructions of `V`.
#[inline(always)]
pub(crate) unsafe fn average<V, G, S>(
    plane: &mut [u8],
    gradient: &[u8],
    term: Term<'_>,
    by: Average,
) where
    V: Vector + Lanes<G> + Lanes<S>,
    G: bytemuck::Pod,
    S: bytemuck::Pod,
{
    let gradient: &[G] = bytes(gradient);
    let plane: &mut [S] = bytes_mut(plane);
    let n = gradient.len();
    let other: &[G] = match term {
        Term::Product(other) => bytes(other),
        _ => gradient,
    };
    assert!(plane.len() == n && other.len() == n);
    let (gradient, other, plane) = (gradient.as_ptr(), other.as_ptr(), plane.as_mut_ptr());
    let splat = |x| {
        // SAFETY: the caller has the instructions of `V`.
        unsafe { V::splat(V::Scalar::from_f64(x)) }
    };
    let (keep, weight, scale) = (splat(by.keep), splat(by.weight), splat(by.scale));
    // SAFETY: every pointer is good for `n` elements, as checked above, and
    // the caller has the instructions of `V`.
    unsafe {
        for_lanes!(V, n, |i, count| {
            prefetch::<V, G>(gradient.add(i));
            prefetch::<V, S>(plane.add(i));
            let a = <V as Lanes<G>>::read(gradient.add(i), count).mul(scale);
            let (x, y) = match term {
                Term::Gradient => (weight, a),
                Term::Square => (weight.mul(a), a),
                Term::Product(_) => {
                    let b = <V as Lanes<G>>::read(other.add(i), count).mul(scale);
                    (weight.mul(a), b)
                }
            };
            let old = <V as Lanes<S>>::read(plane.add(i), count);
            let new = x.mul_add(y, keep.mul(old));
            Lanes::<S>::write(new.flush().canonical(), plane.add(i), count);
        });
    }
}
