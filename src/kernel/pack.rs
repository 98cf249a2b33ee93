//! State as stored becomes state as the direction needs it.

use super::vector::{for_lanes, prefetch, Lanes, Scalar, Vector};
use super::workspace::{Array, Workspace};
use super::{bytes, Planes};

/// Numbers of one step and tensor.
#[derive(Clone, Copy)]
pub(crate) struct PackFactors {
    /// Bias correction of the momentum.
    pub momentum: f64,
    /// Bias correction of the statistics.
    pub statistics: f64,
    /// What is added to the corrected diagonal.
    pub damping: f64,
}

/// Packs a run of coordinates at position `at` of the workspace.
///
/// # Safety
/// The processor has the instructions of `V`.
#[inline(always)]
pub(crate) unsafe fn pack<V, S>(
    work: &mut Workspace,
    at: usize,
    planes: &Planes<'_>,
    factors: &PackFactors,
) where
    V: Vector + Lanes<S>,
    S: bytemuck::Pod,
{
    let splat = |x| {
        // SAFETY: the caller has the instructions of `V`.
        unsafe { V::splat(V::Scalar::from_f64(x)) }
    };
    let (none, statistics) = (splat(0.0), splat(factors.statistics));
    // A loop over the planes, not a closure: what runs vector instructions
    // must be inlined into the entry point.
    let inputs = [
        (
            Array::Momentum,
            planes.momentum,
            splat(factors.momentum),
            none,
        ),
        (
            Array::Diagonal,
            planes.diagonal,
            statistics,
            splat(factors.damping),
        ),
    ];
    let bands = planes.bands[..planes.band].iter().enumerate();
    let bands = bands.map(|(k, &plane)| (Array::Band(k + 1), plane, statistics, none));
    for (array, plane, factor, add) in inputs.into_iter().chain(bands) {
        let to = &mut work.array(array)[at..];
        // SAFETY: the caller has the instructions of `V`.
        unsafe { scale_into::<V, S>(to, plane, factor, add) };
    }
}

/// `to = plane * factor + add`.
///
/// # Safety
/// The processor has the instructions of `V`.
#[inline(always)]
unsafe fn scale_into<V, S>(to: &mut [V::Scalar], plane: &[u8], factor: V, add: V)
where
    V: Vector + Lanes<S>,
    S: bytemuck::Pod,
{
    let plane: &[S] = bytes(plane);
    let n = plane.len();
    assert!(n <= to.len());
    let (from, to) = (plane.as_ptr(), to.as_mut_ptr());
    // SAFETY: both have room for `n` elements, as checked above.
    unsafe {
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
