//! Momentum, diagonal and sub-diagonals take in one gradient.

use super::vector::{for_lanes, prefetch, Lanes, Scalar, Vector};
use super::{bytes, bytes_mut, PlanesMut, MAX_BAND};

/// One contiguous run of coordinates, with the gradients of their neighbours.
pub(crate) struct Statistics<'a> {
    pub gradient: &'a [u8],
    /// Gradients at chain distance 1 to `band`; `None` where the chain has
    /// ended, whose band entries are zero.
    pub neighbours: [Option<&'a [u8]>; MAX_BAND],
    pub planes: PlanesMut<'a>,
    pub factors: StatisticsFactors,
}

/// Numbers of one step.
#[derive(Clone, Copy)]
pub(crate) struct StatisticsFactors {
    /// Multiplies the gradient first.
    pub grad_scale: f64,
    /// Decay of the momentum; the gradient gets the rest of 1.
    pub beta1: f64,
    /// What the statistics are multiplied by.
    pub decay: f64,
    /// What the products of gradients are multiplied by.
    pub weight: f64,
}

/// ```text
/// m <- beta1 m + (1 - beta1) g
/// H_jj <- decay H_jj + weight g_j^2
/// H_j+k,j <- decay H_j+k,j + weight g_j g_j+k
/// ```
/// Results below the smallest normal number become zero, every NaN the same.
///
/// # Safety
/// The processor has the instructions of `V`.
#[inline(always)]
pub(crate) unsafe fn statistics<V, G, S>(run: &mut Statistics<'_>)
where
    V: Vector + Lanes<G> + Lanes<S>,
    G: bytemuck::Pod,
    S: bytemuck::Pod,
{
    // The usual bands get loops of their own, without a count to test.
    match run.planes.band {
        // SAFETY: passed on from the caller.
        0 => unsafe { update::<V, G, S, 0>(run) },
        // SAFETY: passed on from the caller.
        1 => unsafe { update::<V, G, S, 1>(run) },
        // SAFETY: passed on from the caller.
        _ => unsafe { update::<V, G, S, MAX_BAND>(run) },
    }
}

/// `BAND` is the band, or `MAX_BAND` for any.
#[inline(always)]
unsafe fn update<V, G, S, const BAND: usize>(run: &mut Statistics<'_>)
where
    V: Vector + Lanes<G> + Lanes<S>,
    G: bytemuck::Pod,
    S: bytemuck::Pod,
{
    let PlanesMut {
        band,
        momentum,
        diagonal,
        bands,
        ..
    } = &mut run.planes;
    let band = if BAND == MAX_BAND { *band } else { BAND };
    let gradient: &[G] = bytes(run.gradient);
    let n = gradient.len();
    let momentum = checked(bytes_mut::<S>(momentum), n);
    let diagonal = checked(bytes_mut::<S>(diagonal), n);
    let mut entries = [std::ptr::null_mut::<S>(); MAX_BAND];
    let mut others = [gradient.as_ptr(); MAX_BAND];
    let mut present = [false; MAX_BAND];
    for (k, plane) in bands[..band].iter_mut().enumerate() {
        entries[k] = checked(bytes_mut::<S>(plane), n);
        if let Some(other) = run.neighbours[k] {
            let other: &[G] = bytes(other);
            assert_eq!(other.len(), n);
            others[k] = other.as_ptr();
            present[k] = true;
        }
    }
    let gradient = gradient.as_ptr();
    let scalar = V::Scalar::from_f64;

    // SAFETY: every pointer is good for `n` elements, as checked above, and
    // the caller has the instructions of `V`.
    unsafe {
        let scale = V::splat(scalar(run.factors.grad_scale));
        let beta1 = V::splat(scalar(run.factors.beta1));
        let rest1 = V::splat(scalar(1.0 - run.factors.beta1));
        let decay = V::splat(scalar(run.factors.decay));
        let weight = V::splat(scalar(run.factors.weight));
        for_lanes!(V, n, |i, count| {
            prefetch::<V, G>(gradient.add(i));
            let g = <V as Lanes<G>>::read(gradient.add(i), count).mul(scale);
            let weighted = weight.mul(g);
            average::<V, S>(momentum.add(i), rest1, g, beta1, count);
            average::<V, S>(diagonal.add(i), weighted, g, decay, count);
            for k in 0..band {
                let entry = entries[k].add(i);
                if present[k] {
                    let other = <V as Lanes<G>>::read(others[k].add(i), count).mul(scale);
                    average::<V, S>(entry, weighted, other, decay, count);
                } else {
                    Lanes::<S>::write(V::splat(V::Scalar::ZERO), entry, count);
                }
            }
        });
    }
}

/// `x <- keep x + a b` for `count` entries of a plane.
///
/// # Safety
/// `plane` is good for `count` elements, and the processor has the
/// instructions of `V`.
#[inline(always)]
unsafe fn average<V: Vector + Lanes<S>, S>(plane: *mut S, a: V, b: V, keep: V, count: usize) {
    // SAFETY: passed on from the caller.
    unsafe {
        prefetch::<V, S>(plane);
        let old = <V as Lanes<S>>::read(plane, count);
        let new = a.mul_add(b, keep.mul(old));
        Lanes::<S>::write(new.flush().canonical(), plane, count);
    }
}

/// The start of a plane's run, which must be `n` long.
#[inline(always)]
fn checked<S>(run: &mut [S], n: usize) -> *mut S {
    assert_eq!(run.len(), n);
    run.as_mut_ptr()
}

/// Normalized RMSProp: `r <- beta2 r + (1 - beta2) q^2`, where `q` is the
/// gradient times `scale`.
///
/// # Safety
/// The processor has the instructions of `V`.
#[inline(always)]
pub(crate) unsafe fn rms<V, G, S>(gradient: &[u8], plane: &mut [u8], scale: f64, beta2: f64)
where
    V: Vector + Lanes<G> + Lanes<S>,
    G: bytemuck::Pod,
    S: bytemuck::Pod,
{
    let gradient: &[G] = bytes(gradient);
    let n = gradient.len();
    let plane = checked(bytes_mut::<S>(plane), n);
    let gradient = gradient.as_ptr();
    // SAFETY: both runs have `n` elements, and the caller has the
    // instructions of `V`.
    unsafe {
        let scale = V::splat(V::Scalar::from_f64(scale));
        let beta = V::splat(V::Scalar::from_f64(beta2));
        let rest = V::splat(V::Scalar::from_f64(1.0 - beta2));
        for_lanes!(V, n, |i, count| {
            let q = <V as Lanes<G>>::read(gradient.add(i), count).mul(scale);
            average::<V, S>(plane.add(i), rest.mul(q), q, beta, count);
        });
    }
}
