//! State as stored becomes state as the direction needs it.

use super::bytes;
use super::vector::{for_lanes, prefetch, Lanes, Scalar, Vector};
use super::workspace::{Array, Workspace};

/// Packs a run of a plane at position `at` of an array: `to = plane * factor +
/// add`, bias correction and damping.
///
/// # Safety
/// The processor has the instructions of `V`.
#[inline(always)]
pub(crate) unsafe fn pack<V, S>(
    work: &mut Workspace,
    array: Array,
    at: usize,
    plane: &[u8],
    factor: f64,
    add: f64,
) where
    V: Vector + Lanes<S>,
    S: bytemuck::Pod,
{
    let plane: &[S] = bytes(plane);
    let n = plane.len();
    let to = work.array::<V::Scalar>(array)[at..at + n].as_mut_ptr();
    let from = plane.as_ptr();
    // SAFETY: both have room for `n` elements, as sliced above, and the caller
    // has the instructions of `V`.
    unsafe {
        let factor = V::splat(V::Scalar::from_f64(factor));
        let add = V::splat(V::Scalar::from_f64(add));
        for_lanes!(V, n, |i, count| {
            prefetch::<V, S>(from.add(i));
            let x = <V as Lanes<S>>::read(from.add(i), count);
            Lanes::<V::Scalar>::write(x.mul_add(factor, add), to.add(i), count);
        });
    }
}

/// The largest `H_jj + |H_j,j-1|` of `count` packed positions from `at`: the
/// l1 norm of a row's lower part, as the authors' JAX code takes it for
/// relative damping. The block is packed without damping.
///
/// # Safety
/// The processor has the instructions of `V`.
#[inline(always)]
pub(crate) unsafe fn largest_l1<V: Vector>(work: &mut Workspace, at: usize, count: usize) -> f64 {
    let block = work.block();
    let diagonal = work.array::<V::Scalar>(Array::Diagonal)[at..at + count].as_ptr();
    // Without a sub-diagonal this is read and not used.
    let before = if block.band > 0 {
        work.array::<V::Scalar>(Array::Band(1))[at - block.stride..][..count].as_ptr()
    } else {
        diagonal
    };
    let mut lanes = [V::Scalar::ZERO; super::vector::MAX_LANES];
    // SAFETY: both pointers are good for `count` elements, as sliced above,
    // and the caller has the instructions of `V`.
    unsafe {
        let mut largest = V::splat(V::Scalar::ZERO);
        for_lanes!(V, count, |i, lanes| {
            let mut t = <V as Lanes<V::Scalar>>::read(diagonal.add(i), lanes);
            if block.band > 0 {
                t = t.add(<V as Lanes<V::Scalar>>::read(before.add(i), lanes).abs());
            }
            largest = V::select(largest.lt(t), t, largest);
        });
        largest.store(lanes.as_mut_ptr());
    }
    let larger = |a: f64, x: &V::Scalar| if a < x.to_f64() { x.to_f64() } else { a };
    lanes[..V::LANES].iter().fold(0.0, larger)
}
