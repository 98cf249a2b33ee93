//! The gradient, scaled: its length, and its way into the workspace.

use super::element::{read_any, Any};
use super::source::splat;
use super::total;
use super::vector::Vector;
use super::workspace::{Array, Workspace};
use crate::dtype::Dtype;

/// The sum of squares of `scale * g` over a run, in a fixed order; NaN if an
/// element, or its square in the type of the arithmetic, is not finite.
///
/// # Safety
/// The processor has the instructions of `V`.
#[inline(always)]
pub(crate) unsafe fn gradient_squares<V: Vector>(run: &[u8], dtype: Dtype, scale: f64) -> f64 {
    let len = run.len() / dtype.size();
    // SAFETY: the run has as many elements as are read, and the caller has the
    // instructions of `V`.
    unsafe {
        let scale: V = splat(scale);
        let infinity: V = splat(f64::INFINITY);
        let mut sums = V::no_sums();
        let mut finite = splat::<V>(0.0).lt(infinity);
        let mut at = 0;
        while at < len {
            let from = run.as_ptr().add(at * dtype.size());
            let g = read_any::<V>(Any(dtype), from, V::LANES.min(len - at)).mul(scale);
            finite = V::and(finite, g.mul(g).lt(infinity));
            g.add_squares(&mut sums, at);
            at += V::LANES;
        }
        if V::all(finite) {
            total::<V>(sums)
        } else {
            f64::NAN
        }
    }
}

/// Packs `scale * g` of a run at position `at`.
///
/// # Safety
/// The processor has the instructions of `V`.
#[inline(always)]
pub(crate) unsafe fn pack_gradient<V: Vector>(
    work: &mut Workspace,
    at: usize,
    run: &[u8],
    dtype: Dtype,
    scale: f64,
) {
    let len = run.len() / dtype.size();
    let room = len.next_multiple_of(V::LANES);
    let to = work.array::<V::Scalar>(Array::Gradient)[at..at + room].as_mut_ptr();
    // SAFETY: the run has as many elements as are read, the array room for
    // whole vectors of them, and the caller has the instructions of `V`.
    unsafe {
        let scale: V = splat(scale);
        let mut i = 0;
        while i < len {
            let from = run.as_ptr().add(i * dtype.size());
            let g = read_any::<V>(Any(dtype), from, V::LANES.min(len - i));
            g.mul(scale).store(to.add(i));
            i += V::LANES;
        }
    }
}
