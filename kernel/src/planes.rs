//! Where an update reads and writes: the planes of a run, and what is no whole vector of it.

use std::array::from_fn;
use std::marker::PhantomData;

use crate::element::Stored;
use crate::isa::{prefetch, Scalar};
use crate::noise::Random;
use crate::simd::{Vector, LANES};

/// A plane that takes something in: `ELSEWHERE` says that it is not read where it is
/// written. Then it is written past the caches: lines that are stored into the caches would
/// have to be read before.
pub(crate) struct Plane<'r, E, const ELSEWHERE: bool> {
    /// The next vector, where it is written.
    next: *mut [E; LANES],
    source: usize,
    borrowed: PhantomData<&'r mut [E]>,
}

impl<'r, E: Stored, const ELSEWHERE: bool> Plane<'r, E, ELSEWHERE> {
    #[inline(always)]
    pub(crate) fn new(plane: &'r mut [[E; LANES]], source: usize) -> Self {
        Plane {
            next: plane.as_mut_ptr(),
            source,
            borrowed: PhantomData,
        }
    }

    /// `x <- keep x + a b`, for the next vector; one so many bytes ahead is asked for.
    ///
    /// # Safety
    /// The plane has another vector.
    #[inline(always)]
    #[allow(clippy::too_many_arguments)] // Each is a number.
    pub(crate) unsafe fn average<V: Vector>(
        &mut self,
        isa: V::Isa,
        keep: V,
        a: V,
        b: V,
        least: V,
        noise: Random,
        ahead: usize,
    ) -> V {
        let to = self.next;
        self.next = to.wrapping_add(1);
        let from = match ELSEWHERE {
            true => std::ptr::with_exposed_provenance(to.addr().wrapping_add(self.source)),
            false => to.cast_const(),
        };
        // SAFETY: the caller's promise; the plane is borrowed exclusively. Where it is
        // read in another place, that has as many vectors, and nobody writes it.
        let from: &[E; LANES] = unsafe { &*from };
        prefetch(from, ahead);
        let new = a.mul_add(b, keep * E::load::<V>(isa, from)).flush(least);
        // SAFETY: as above, and what was read is not used any more.
        let to = unsafe { &mut *to };
        match ELSEWHERE {
            true => E::stream(new, to),
            false => E::store(new, isa, to, noise),
        }
    }
}

/// The rest of a run, less than a vector: padded with zeros in a copy.
#[repr(C)] // The gradient is followed by that of the neighbours.
pub(crate) struct Rest<T, E, const BAND: usize> {
    pub(crate) gradient: [T; LANES],
    pub(crate) neighbours: [[T; LANES]; BAND],
    pub(crate) momentum: [E; LANES],
    pub(crate) diagonal: [E; LANES],
    pub(crate) bands: [[E; LANES]; BAND],
}

impl<T: Scalar, E: Stored, const BAND: usize> Rest<T, E, BAND> {
    pub(crate) fn planes(&mut self) -> impl Iterator<Item = &mut [E; LANES]> {
        let first = [&mut self.momentum, &mut self.diagonal];
        first.into_iter().chain(&mut self.bands)
    }
}

/// Where the next vector of an update is.
// One counter serves all of them, so that they stay in registers.
pub(crate) struct Next<'r, T, E, const BAND: usize, const ELSEWHERE: bool> {
    pub(crate) gradient: *const T,
    /// Elements from it to that of the next neighbours.
    pub(crate) step: usize,
    pub(crate) momentum: Plane<'r, E, ELSEWHERE>,
    pub(crate) diagonal: Plane<'r, E, ELSEWHERE>,
    pub(crate) bands: [Plane<'r, E, ELSEWHERE>; BAND],
}

impl<'r, T, E: Stored, const BAND: usize, const ELSEWHERE: bool> Next<'r, T, E, BAND, ELSEWHERE> {
    #[inline(always)]
    pub(crate) fn new(
        gradient: &'r [T],
        step: usize,
        source: usize,
        planes: impl IntoIterator<Item = &'r mut [[E; LANES]]>,
    ) -> Self {
        let mut planes = planes.into_iter();
        let mut next = || Plane::new(planes.next().unwrap_or_default(), source);
        Next {
            gradient: gradient.as_ptr(),
            step,
            momentum: next(),
            diagonal: next(),
            bands: from_fn(|_| next()),
        }
    }

    /// The places of the padded vector.
    #[inline(always)]
    pub(crate) fn of(rest: &'r mut Rest<T, E, BAND>) -> Self {
        let first = [&mut rest.momentum, &mut rest.diagonal];
        let planes = first.into_iter().chain(&mut rest.bands);
        Next::new(&rest.gradient, LANES, 0, planes.map(std::slice::from_mut))
    }
}

/// Copies less than a vector.
// A call of a function takes longer.
#[inline(always)]
pub(crate) fn copy_few<T: Copy>(from: &[T], to: &mut [T]) {
    let len = from.len().min(to.len()).min(LANES - 1);
    let mut at = 0;
    macro_rules! copy {
        ($($count:literal)*) => {$(
            if len & $count != 0 {
                to[at..][..$count].copy_from_slice(&from[at..][..$count]);
                at += $count;
            }
        )*};
    }
    copy!(8 4 2 1);
    debug_assert_eq!(at, len);
}
