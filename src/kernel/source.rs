//! Momentum, diagonal, sub-diagonals and the plane of normalized RMSProp take
//! in a gradient, and become what the direction needs.
//!
//! All are averages `x <- keep x + a b` of something with the gradient. What
//! is stored is the truth: all that follows is computed from the state as it
//! was rounded.

mod streams;

use std::marker::PhantomData;

pub(super) use streams::Streams;

use super::case::Case;
use super::element::{read, write, Noise, Stored, F32, F64};
use super::lines::{Cursor, Gradient, Lines, Place, Planes, State, MAX_PLANES};
use super::vector::{Scalar, Vector};
use super::window::Packed;
use super::workspace::{Arrays, Shape};
use super::MAX_BAND;
use crate::layout::plane;

/// How many elements ahead memory is asked for: further along a single line, or
/// in the next of several, `step` away. Processors do so by themselves, but stop
/// at the end of a page and of a line.
#[inline(always)]
pub(super) fn ahead(along: bool, step: usize) -> usize {
    match along {
        true => 512,
        false => step,
    }
}

/// An average: `keep` multiplies what is there, `weight` what comes in.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Average {
    pub keep: f64,
    pub weight: f64,
}

/// How the state takes in a gradient.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct TakeIn {
    /// Multiplies the gradient.
    pub scale: f64,
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
#[derive(Clone, Copy)]
pub(super) struct Source<'a, V, S> {
    planes: Planes,
    noise: &'a [Noise],
    gradient: Gradient<'a>,
    /// The position from which on the gradient is in the workspace.
    packed_from: usize,
    /// Elements from one line to the next.
    step: usize,
    rms: bool,
    updates: bool,
    refers: bool,
    reference: Option<Reference>,
    denominator: Denominator,
    by: Numbers<V>,
    band: usize,
    /// The position from which on chains may end.
    ends_from: usize,
    stride: usize,
    /// Where chains run along memory, the gradient of the vector that comes
    /// next.
    ahead: V,
    _stored: PhantomData<fn() -> S>,
}

#[derive(Clone, Copy)]
struct Numbers<V> {
    scale: V,
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

/// A vector of coordinates that was taken.
pub(super) struct Taken<V, const BAND: usize> {
    pub(super) packed: Packed<V, BAND>,
    /// The vector whose length is wanted, or zeros.
    pub(super) reference: V,
    /// NaN if anything is that was stored as it is.
    pub(super) poison: V,
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
        packed_from: usize,
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
                gradient: state.gradient,
                packed_from,
                step: state.lines.step,
                rms: by.rms.is_some(),
                updates: take_in.is_some(),
                refers: by.rms.is_some() || by.reference.is_some(),
                reference: by.reference,
                denominator,
                by: Numbers {
                    scale: splat(by.scale),
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
                ends_from: if shape.broken { 0 } else { shape.tail },
                stride: shape.stride,
                ahead: splat(0.0),
                _stored: PhantomData,
            }
        }
    }

    /// Whether the length of a vector is wanted.
    #[inline(always)]
    pub(super) fn refers<C: Case>(&self) -> bool {
        C::REFERS.unwrap_or(self.reference.is_some())
    }

    /// Whether chains may end at this position.
    #[inline(always)]
    pub(super) fn has_ends(&self, at: usize) -> bool {
        at >= self.ends_from
    }

    /// Gets the gradient of the first vector, where chains run along memory.
    ///
    /// # Safety
    /// As for [`Source::take`].
    #[inline(always)]
    pub(super) unsafe fn start(&mut self, arrays: &Arrays<V::Scalar>, at: usize, place: Place) {
        if self.updates && place.is_whole::<V>() {
            // SAFETY: passed on from the caller.
            self.ahead = unsafe { self.gradient(true, arrays, at, place) };
        }
    }

    /// Whether a gradient is taken in.
    #[inline(always)]
    fn updates<C: Case>(&self) -> bool {
        C::TAKES.unwrap_or(self.updates)
    }

    /// Takes the vector of coordinates at a position of the workspace. `BAND`
    /// is the band, or `MAX_BAND` for any; chains run `along` memory
    /// or across it; where they may have `ends`, entries that would lead beyond
    /// are zero; `WHOLE` vectors are the rule. Where it is known where gradients
    /// lie, the vector is so much `further` in their streams.
    ///
    /// # Safety
    /// The state is good for the elements at `place`; the arrays are good for a
    /// vector at `at`, that of the gradient also at its neighbours; and the
    /// processor has the instructions of `V`.
    #[inline(always)]
    pub(super) unsafe fn take<C: Case, const BAND: usize, const WHOLE: bool>(
        &mut self,
        along: bool,
        ends: bool,
        arrays: &Arrays<V::Scalar>,
        at: usize,
        place: Place,
        streams: Option<(&Streams<V, BAND>, usize)>,
    ) -> Taken<V, BAND> {
        let band = if BAND == MAX_BAND { self.band } else { BAND };
        let count = if WHOLE { V::LANES } else { place.count };
        let place = Place { count, ..place };
        // SAFETY: the caller's promise.
        unsafe {
            let mut packed = Packed::none();
            let (mut g, mut next) = (self.by.zero, self.by.zero);
            match streams {
                _ if !self.updates::<C>() => {}
                Some((streams, further)) => g = streams.own(further, place.asks),
                None => {
                    if along && band > 0 {
                        next = self.gradient(along, arrays, at + V::LANES, place.further(V::LANES));
                    }
                    g = match along && band > 0 && WHOLE {
                        true => self.ahead,
                        false => self.gradient(along, arrays, at, place),
                    };
                    self.ahead = next;
                    if !WHOLE {
                        g = g.first(count, V::Scalar::ZERO);
                    }
                }
            }
            let [keep, weight] = self.by.statistics;
            let weighted = weight.mul(g);

            let [m_keep, m_weight] = self.by.momentum;
            let m = self.average::<C>(along, plane::MOMENTUM, place, [m_keep, m_weight], g, None);
            packed.momentum = m;

            let h = self.average::<C>(along, plane::DIAGONAL, place, [keep, weighted], g, None);
            let mut d = match self.denominator {
                Denominator::Adam(_) if band == 0 => h.sqrt().add(self.by.add),
                _ => h.add(self.by.add),
            };
            if !WHOLE {
                d = d.first(count, V::Scalar::ONE);
            }
            packed.diagonal = d;
            let mut poison = m.add(h);

            for k in 1..=band {
                let other = match streams {
                    _ if !self.updates::<C>() => self.by.zero,
                    Some((streams, further)) => streams.other(further, k),
                    None if along => g.shift(next, k),
                    None => {
                        let further = place.further(k * self.step);
                        self.gradient(along, arrays, at + k * self.stride, further)
                    }
                };
                let goes_on = if ends {
                    Some(V::load(arrays.reach.add(at)).not_lt(splat(k as f64)))
                } else {
                    None
                };
                let e = self.average::<C>(
                    along,
                    plane::band(k),
                    place,
                    [keep, weighted],
                    other,
                    goes_on,
                );
                packed.bands[k - 1] = e;
                poison = poison.add(e);
            }
            let mut reference = self.by.zero;
            if C::REFERS.unwrap_or(self.refers) {
                let (a, r) = self.refer::<C>(along, place, g, m, h);
                reference = a;
                if let Some(r) = r {
                    poison = poison.add(r);
                }
            }
            Taken {
                packed,
                reference,
                poison: if S::ROUNDS { self.by.zero } else { poison },
            }
        }
    }

    /// The scaled gradient at a position of the workspace, which is `place` in
    /// the tensor. What is not packed is of the arithmetic's type.
    ///
    /// # Safety
    /// As for [`Source::take`].
    #[inline(always)]
    unsafe fn gradient(
        &self,
        along: bool,
        arrays: &Arrays<V::Scalar>,
        at: usize,
        place: Place,
    ) -> V {
        // SAFETY: what is not in the workspace is in the state's lines, which
        // the gradient has.
        unsafe {
            if at < self.packed_from {
                let from = self.gradient.first;
                let from = from.add(place.index * size_of::<V::Scalar>());
                if place.asks {
                    let ask = ahead(along, self.step) * size_of::<V::Scalar>();
                    V::prefetch(from.wrapping_add(ask));
                }
                let g: V = match size_of::<V::Scalar>() {
                    4 => read::<V, F32>(from, place.count),
                    _ => read::<V, F64>(from, place.count),
                };
                g.mul(self.by.scale)
            } else {
                V::load(arrays.gradient.add(at))
            }
        }
    }

    /// `x <- keep x + a b`, in a plane; zero where the chain does not go on.
    ///
    /// # Safety
    /// As for [`Source::take`].
    #[inline(always)]
    unsafe fn average<C: Case>(
        &self,
        along: bool,
        plane: usize,
        place: Place,
        [keep, a]: [V; 2],
        b: V,
        goes_on: Option<V::Mask>,
    ) -> V {
        let Place { index, count, asks } = place;
        let bytes = index * S::DTYPE.size();
        // SAFETY: the caller's promise.
        unsafe {
            let from = self.planes.from[plane].add(bytes);
            if asks {
                V::prefetch(from.wrapping_add(ahead(along, self.step) * S::DTYPE.size()));
            }
            let old: V = read::<V, S>(from, count);
            if !self.updates::<C>() {
                return old;
            }
            let mut new = a.mul_add(b, keep.mul(old));
            if let Some(goes_on) = goes_on {
                new = new.only(goes_on);
            }
            let new = new.flush(self.by.least);
            let noise = match C::TAKES {
                Some(true) => None,
                _ => self.noise.get(plane).copied(),
            };
            let to = self.planes.to[plane].add(bytes);
            write::<V, S>(new, to, index, count, noise)
        }
    }

    /// The vector whose length is wanted, and the plane of normalized RMSProp.
    ///
    /// # Safety
    /// As for [`Source::take`].
    #[inline(always)]
    unsafe fn refer<C: Case>(&self, along: bool, place: Place, g: V, m: V, h: V) -> (V, Option<V>) {
        // SAFETY: the caller's promise.
        unsafe {
            if C::REFERS == Some(true) || matches!(self.reference, Some(Reference::Adam { .. })) {
                return (quotient(m, h.sqrt().add(self.by.eps)), None);
            }
            let q = g.mul(self.by.normalize);
            let mut r = None;
            if self.rms {
                let [keep, weight] = self.by.rms;
                let rms = plane::rms(self.band);
                let by = [keep, weight.mul(q)];
                r = Some(self.average::<C>(along, rms, place, by, q, None));
            }
            let a = match (self.reference, r) {
                (Some(Reference::Sgd), _) => g,
                (Some(Reference::Momentum), _) => m,
                (Some(Reference::NormalizedRmsprop { .. }), Some(r)) => {
                    quotient(q, r.sqrt().add(self.by.eps))
                }
                _ => self.by.zero,
            };
            (a, r)
        }
    }
}

/// Makes every NaN of some lines, in so many planes, the same.
///
/// # Safety
/// The planes are good for the lines' elements, and the processor has the
/// instructions of `V`.
#[inline(always)]
pub(super) unsafe fn mend<V: Vector, S: Stored>(
    planes: &[*mut u8; MAX_PLANES],
    count: usize,
    lines: Lines,
) {
    for plane in &planes[..count] {
        let mut cursor = Cursor::new::<V>(lines);
        for _ in (0..lines.positions()).step_by(V::LANES) {
            let Place { index, count, .. } = cursor.place();
            // SAFETY: the caller's promise.
            unsafe {
                let at = plane.add(index * S::DTYPE.size());
                let x = read::<V, S>(at, count).canonical();
                write::<V, S>(x, at, index, count, None);
            }
            cursor.advance(V::LANES);
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
    unsafe { a.div(b).only(splat::<V>(0.0).lt(b)) }
}
