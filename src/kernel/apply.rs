//! The direction reaches the parameters, or the caller.

use super::vector::{for_lanes, prefetch, Lanes, Scalar, Vector};
use super::{bytes, bytes_mut};

/// Where a run of the direction goes, with its factors.
#[derive(Clone, Copy)]
pub(crate) enum Apply {
    /// `p <- p + decay p + rate u`; both factors are negative or zero.
    Update { rate: f64, decay: f64 },
    /// `out = scale u`.
    Write { scale: f64 },
}

/// Applies a run of directions, in the type of the arithmetic, to a run of
/// parameters (or of the caller's output).
///
/// # Safety
/// The processor has the instructions of `V`.
#[inline(always)]
pub(crate) unsafe fn apply<V, P>(direction: &[u8], run: &mut [u8], apply: Apply)
where
    V: Vector + Lanes<P>,
    P: bytemuck::Pod,
{
    let run: &mut [P] = bytes_mut(run);
    let n = run.len();
    let direction: &[V::Scalar] = bytes(direction);
    assert_eq!(direction.len(), n);
    let direction = direction.as_ptr();
    let to = run.as_mut_ptr();
    let scalar = V::Scalar::from_f64;
    // SAFETY: both runs have `n` elements, and the caller has the instructions
    // of `V`.
    unsafe {
        match apply {
            Apply::Update { rate, decay } => {
                let (rate, decay) = (V::splat(scalar(rate)), V::splat(scalar(decay)));
                for_lanes!(V, n, |i, count| {
                    prefetch::<V, P>(to.add(i));
                    let p = <V as Lanes<P>>::read(to.add(i), count);
                    let u = <V as Lanes<V::Scalar>>::read(direction.add(i), count);
                    let p = rate.mul_add(u, decay.mul_add(p, p));
                    Lanes::<P>::write(p.canonical(), to.add(i), count);
                });
            }
            Apply::Write { scale } => {
                let scale = V::splat(scalar(scale));
                for_lanes!(V, n, |i, count| {
                    let u = <V as Lanes<V::Scalar>>::read(direction.add(i), count);
                    Lanes::<P>::write(scale.mul(u).canonical(), to.add(i), count);
                });
            }
        }
    }
}
