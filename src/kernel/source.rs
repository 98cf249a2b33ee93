//! Momentum, diagonal, sub-diagonals and the plane of normalized RMSProp take
//! in a gradient, and become what the direction needs.
//!
//! All are averages `x <- keep x + a b` of something with the gradient. What
//! is stored is the truth: all that follows is computed from the state as it
//! was rounded.

use std::marker::PhantomData;

use super::block::Entries;
use super::element::{read, write, Noise, Stored};
use super::lines::{NextGradient, Place, Planes, State, MAX_PLANES};
use super::prefetch;
use super::vector::{Scalar, Vector, LANES};
use super::workspace::{Arrays, Shape};
use super::MAX_BAND;
use crate::layout::plane;

/// An average: `keep` multiplies what is there, `weight` what comes in.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Average {
    pub keep: f64,
    pub weight: f64,
}

/// How the state takes in a gradient.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct TakeIn {
    pub momentum: Average,
    /// Diagonal and sub-diagonals.
    pub statistics: Average,
    /// The plane of normalized RMSProp, where there is one.
    pub rms: Option<Average>,
    /// Makes the gradient one of length 1.
    pub normalize: f64,
    /// The vector whose squares are summed up.
    pub reference: Option<Reference>,
}

/// Another method's direction, of which the length is wanted; of state without
/// bias correction, as everything here.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Reference {
    /// `g`.
    Sgd,
    /// `m`.
    Momentum,
    /// `m / (sqrt(H_jj) + eps)`.
    Adam { eps: f64 },
    /// `q / (sqrt(r) + eps)`, with `q = g / |g|`.
    NormalizedRmsprop { eps: f64 },
}

/// What divides the momentum where there are no edges.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Denominator {
    /// The diagonal and this damping.
    Damped(f64),
    /// The diagonal's square root and this eps: plain Adam.
    Adam(f64),
}

/// The first stage of a block: see the module. Numbers stand in every lane.
///
/// Its address stays in the loop: so the compiler knows that no store changes
/// it.
pub(super) struct Source<'a, V, S> {
    planes: Planes,
    noise: &'a [Noise],
    next_gradient: NextGradient,
    ahead: usize,
    rms: bool,
    refers: bool,
    reference: Option<Reference>,
    denominator: Denominator,
    by: Numbers<V>,
    band: usize,
    stride: usize,
    _stored: PhantomData<S>,
}

struct Numbers<V> {
    momentum: [V; 2],
    statistics: [V; 2],
    rms: [V; 2],
    normalize: V,
    /// The damping, or Adam's eps.
    add: V,
    /// Added to the root in the reference.
    eps: V,
    /// The smallest normal number; state below becomes zero.
    least: V,
    zero: V,
}

/// A number in every lane.
///
/// # Safety
/// The processor has the instructions of `V`.
#[inline(always)]
pub(super) unsafe fn splat<V: Vector>(x: f64) -> V {
    // SAFETY: passed on from the caller.
    unsafe { V::splat(V::Scalar::from_f64(x)) }
}

/// # Safety
/// The processor has the instructions of `V`.
#[inline(always)]
unsafe fn both<V: Vector>(by: Average) -> [V; 2] {
    // SAFETY: passed on from the caller.
    unsafe { [splat(by.keep), splat(by.weight)] }
}

/// A vector of coordinates while its planes are taken one after the other.
struct Taken<V> {
    place: Place,
    /// The sum of what is stored: NaN if anything is.
    poison: V,
}

impl<'a, V: Vector, S: Stored> Source<'a, V, S> {
    /// Without `take_in`, the state is only read.
    ///
    /// # Safety
    /// The processor has the instructions of `V`.
    #[inline(always)]
    pub(super) unsafe fn new(
        state: &State<'a>,
        denominator: Denominator,
        take_in: Option<&TakeIn>,
        shape: Shape,
    ) -> Self {
        let by = take_in.copied().unwrap_or_default();
        let (Denominator::Damped(add) | Denominator::Adam(add)) = denominator;
        let eps = match by.reference {
            Some(Reference::Adam { eps } | Reference::NormalizedRmsprop { eps }) => eps,
            _ => 0.0,
        };
        // SAFETY: the caller's promise.
        unsafe {
            Source {
                planes: state.planes,
                noise: state.noise,
                next_gradient: state.next_gradient,
                ahead: state.lines.ahead() * S::DTYPE.size(),
                rms: by.rms.is_some(),
                refers: by.rms.is_some() || by.reference.is_some(),
                reference: by.reference,
                denominator,
                by: Numbers {
                    momentum: both(by.momentum),
                    statistics: both(by.statistics),
                    rms: both(by.rms.unwrap_or_default()),
                    normalize: splat(by.normalize),
                    add: splat(add),
                    eps: splat(eps),
                    least: splat(S::DTYPE.least_normal()),
                    zero: splat(0.0),
                },
                band: shape.band,
                stride: shape.stride,
                _stored: PhantomData,
            }
        }
    }

    /// Whether the length of a vector is wanted.
    #[inline(always)]
    pub(super) fn refers(&self) -> bool {
        self.reference.is_some()
    }

    /// Takes a vector of coordinates, packs it at position `at`, and returns
    /// the one whose length is wanted (or zeros). `BAND` is the band, or
    /// `MAX_BAND` for any; with `BROKEN`, entries that would lead beyond the
    /// end of a chain are zero; `WHOLE` vectors are the rule; without `UPDATES`
    /// the state stays as it is.
    ///
    /// # Safety
    /// The state is good for the elements at `place`; the arrays are good for a
    /// vector at `at`, that of the gradient also at its neighbours; and the
    /// processor has the instructions of `V`.
    #[inline(always)]
    pub(super) unsafe fn take<
        E: Entries,
        const BAND: usize,
        const BROKEN: bool,
        const WHOLE: bool,
        const UPDATES: bool,
    >(
        &self,
        arrays: &Arrays<V::Scalar>,
        at: usize,
        place: Place,
    ) -> V {
        let band = if BAND == MAX_BAND { self.band } else { BAND };
        let poison = self.by.zero;
        let mut taken = Taken { place, poison };
        // SAFETY: the caller's promise.
        unsafe {
            let mut g = V::load(arrays.gradient.add(at));
            if !WHOLE {
                g = g.first(place.count, V::Scalar::ZERO);
            }
            let [keep, weight] = self.by.statistics;
            let weighted = weight.mul(g);

            let [m_keep, m_weight] = self.by.momentum;
            let m = plane::MOMENTUM;
            let m = self.average::<WHOLE, UPDATES>(m, &mut taken, m_keep, m_weight, g, None);
            m.store(arrays.momentum.add(at));

            let h = plane::DIAGONAL;
            let h = self.average::<WHOLE, UPDATES>(h, &mut taken, keep, weighted, g, None);
            let mut d = match self.denominator {
                Denominator::Adam(_) if band == 0 => h.sqrt().add(self.by.add),
                _ => h.add(self.by.add),
            };
            if !WHOLE {
                d = d.first(place.count, V::Scalar::ONE);
            }
            d.store(arrays.diagonal.add(at));

            for k in 1..=band {
                let other = V::load(arrays.gradient.add(at + k * self.stride));
                let goes_on = if BROKEN {
                    Some(V::load(arrays.reach.add(at)).not_lt(splat(k as f64)))
                } else {
                    None
                };
                let e = plane::band(k);
                let e =
                    self.average::<WHOLE, UPDATES>(e, &mut taken, keep, weighted, other, goes_on);
                e.store(arrays.bands[k - 1].add(at));
            }
            let a = if self.refers {
                self.refer::<WHOLE, UPDATES>(&mut taken, g, m, h)
            } else {
                self.by.zero
            };
            if UPDATES {
                prefetch(self.next_gradient.at(place.index));
                if !S::ROUNDS && V::any(taken.poison.is_nan()) {
                    let planes = 2 + band + usize::from(self.rms);
                    E::mend::<V, S>(&self.planes.to, planes, place);
                }
            }
            a
        }
    }

    /// `x <- keep x + a b`, in a plane; zero where the chain does not go on.
    ///
    /// # Safety
    /// As for [`Source::take`].
    #[inline(always)]
    unsafe fn average<const WHOLE: bool, const UPDATES: bool>(
        &self,
        plane: usize,
        taken: &mut Taken<V>,
        keep: V,
        a: V,
        b: V,
        goes_on: Option<V::Mask>,
    ) -> V {
        let Place { index, count } = taken.place;
        let count = if WHOLE { LANES } else { count };
        let bytes = index * S::DTYPE.size();
        // SAFETY: the caller's promise; any address can be asked for.
        unsafe {
            let from = self.planes.from[plane].add(bytes);
            prefetch(from.wrapping_add(self.ahead));
            let old: V = read::<V, S>(from, count);
            if !UPDATES {
                return old;
            }
            let mut new = a.mul_add(b, keep.mul(old));
            if let Some(goes_on) = goes_on {
                new = new.only(goes_on);
            }
            let new = new.flush(self.by.least);
            taken.poison = taken.poison.add(new);
            let noise = self.noise.get(plane).copied();
            let to = self.planes.to[plane].add(bytes);
            write::<V, S>(new, to, index, count, noise)
        }
    }

    /// The vector whose length is wanted.
    ///
    /// # Safety
    /// As for [`Source::take`].
    #[inline(always)]
    unsafe fn refer<const WHOLE: bool, const UPDATES: bool>(
        &self,
        taken: &mut Taken<V>,
        g: V,
        m: V,
        h: V,
    ) -> V {
        // SAFETY: the caller's promise.
        unsafe {
            if let Some(Reference::Adam { .. }) = self.reference {
                return quotient(m, h.sqrt().add(self.by.eps));
            }
            let q = g.mul(self.by.normalize);
            let mut r = h;
            if self.rms {
                let [keep, weight] = self.by.rms;
                let rms = plane::rms(self.band);
                r = self.average::<WHOLE, UPDATES>(rms, taken, keep, weight.mul(q), q, None);
            }
            match self.reference {
                Some(Reference::Sgd) => g,
                Some(Reference::Momentum) => m,
                Some(Reference::NormalizedRmsprop { .. }) => quotient(q, r.sqrt().add(self.by.eps)),
                _ => self.by.zero,
            }
        }
    }
}

/// Makes every NaN of a vector of coordinates, in so many planes, the same.
///
/// # Safety
/// The planes are good for the elements at `place`, and the processor has the
/// instructions of `V`.
#[inline(always)]
pub(super) unsafe fn mend<V: Vector, S: Stored>(
    planes: &[*mut u8; MAX_PLANES],
    count: usize,
    place: Place,
) {
    for plane in &planes[..count] {
        // SAFETY: the caller's promise.
        unsafe {
            let at = plane.add(place.index * S::DTYPE.size());
            let x = read::<V, S>(at, place.count).canonical();
            write::<V, S>(x, at, place.index, place.count, None);
        }
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
        a.div(b).only(splat::<V>(0.0).lt(b))
    }
}
