//! The largest l1 norm of a row's lower part, `H_jj + |H_j,j-1|`, as the
//! authors' JAX code takes it for relative damping.

use super::vector::{Scalar, Vector, LANES};
use super::workspace::{Array, Workspace};

/// The largest over `count` positions from `at`. The block is packed without
/// damping.
///
/// # Safety
/// The processor has the instructions of `V`.
#[inline(always)]
pub(crate) unsafe fn largest_l1<V: Vector>(work: &mut Workspace, at: usize, count: usize) -> f64 {
    let shape = work.shape();
    let room = count.next_multiple_of(V::LANES);
    let diagonal = work.array::<V::Scalar>(Array::Diagonal)[at..at + room].as_ptr();
    // Without a sub-diagonal this is read and not used.
    let before = if shape.band > 0 {
        work.array::<V::Scalar>(Array::Band(1))[at - shape.stride..][..room].as_ptr()
    } else {
        diagonal
    };
    let mut lanes = [V::Scalar::ZERO; LANES];
    // SAFETY: both pointers are good for `room` elements, as sliced above,
    // and the caller has the instructions of `V`.
    unsafe {
        let mut largest = V::splat(V::Scalar::ZERO);
        let mut i = 0;
        while i < count {
            let mut t = V::load(diagonal.add(i));
            if shape.band > 0 {
                t = t.add(V::load(before.add(i)).abs());
            }
            if count - i < V::LANES {
                t = t.first(count - i, V::Scalar::ZERO);
            }
            largest = V::select(largest.lt(t), t, largest);
            i += V::LANES;
        }
        largest.store(lanes.as_mut_ptr());
    }
    let larger = |a: f64, x: &V::Scalar| if a < x.to_f64() { x.to_f64() } else { a };
    lanes.iter().fold(0.0, larger)
}
