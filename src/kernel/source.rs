//! Momentum, diagonal, sub-diagonals and the plane of normalized RMSProp take
//! in a gradient, and become what the direction needs.
//!
//! All are averages `x <- keep x + a b` of something with the gradient. What
//! is stored is the truth: all that follows is computed from the state as it
//! was rounded.

use std::marker::PhantomData;

use super::element::{read, write, Stored};
use super::lines::{Cursor, State};
use super::prefetch;
use super::vector::{Scalar, Vector};
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

/// Another method's direction, of which the length is wanted. `correction`
/// stands for bias corrections.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Reference {
    /// `g`.
    Sgd,
    /// `m^`.
    Momentum,
    /// `m^ / (sqrt(v) + eps)`, with `v` the corrected diagonal.
    Adam { correction: f64, eps: f64 },
    /// `q / (sqrt(r) + eps)`, with `q = g / |g|`.
    NormalizedRmsprop { eps: f64 },
}

/// How state becomes what the direction needs.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Correct {
    /// Multiplies the momentum.
    pub momentum: f64,
    /// Multiplies the statistics.
    pub statistics: f64,
    pub denominator: Denominator,
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
pub(super) struct Source<'a, V: Vector, S> {
    state: &'a State<'a>,
    ahead: usize,
    updates: bool,
    rms: bool,
    refers: bool,
    reference: Option<Reference>,
    denominator: Denominator,
    by: Numbers<V>,
    band: usize,
    stride: usize,
    /// The squares of the reference so far.
    pub(super) squares: V::Sums,
    _stored: PhantomData<S>,
}

struct Numbers<V> {
    momentum: [V; 2],
    statistics: [V; 2],
    rms: [V; 2],
    normalize: V,
    correct_momentum: V,
    correct_statistics: V,
    /// The damping, or Adam's eps.
    add: V,
    /// Corrects the diagonal of the reference.
    reference: V,
    /// Added to the root in the reference.
    eps: V,
    /// The smallest normal number; state below becomes zero.
    least: V,
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

impl<'a, V: Vector, S: Stored> Source<'a, V, S> {
    /// Without `take_in`, the state is only read.
    ///
    /// # Safety
    /// The processor has the instructions of `V`.
    #[inline(always)]
    pub(super) unsafe fn new(
        state: &'a State<'a>,
        correct: &Correct,
        take_in: Option<&TakeIn>,
        shape: Shape,
    ) -> Self {
        let by = take_in.copied().unwrap_or_default();
        let (Denominator::Damped(add) | Denominator::Adam(add)) = correct.denominator;
        let (correction, eps) = match by.reference {
            Some(Reference::Adam { correction, eps }) => (correction, eps),
            Some(Reference::NormalizedRmsprop { eps }) => (1.0, eps),
            _ => (1.0, 0.0),
        };
        // SAFETY: the caller's promise.
        unsafe {
            Source {
                state,
                ahead: state.lines.ahead() * S::DTYPE.size(),
                updates: take_in.is_some(),
                rms: by.rms.is_some(),
                refers: by.rms.is_some() || by.reference.is_some(),
                reference: by.reference,
                denominator: correct.denominator,
                by: Numbers {
                    momentum: both(by.momentum),
                    statistics: both(by.statistics),
                    rms: both(by.rms.unwrap_or_default()),
                    normalize: splat(by.normalize),
                    correct_momentum: splat(correct.momentum),
                    correct_statistics: splat(correct.statistics),
                    add: splat(add),
                    reference: splat(correction),
                    eps: splat(eps),
                    least: splat(S::DTYPE.least_normal()),
                },
                band: shape.band,
                stride: shape.stride,
                squares: V::no_sums(),
                _stored: PhantomData,
            }
        }
    }

    /// Takes a vector of coordinates, and packs it at position `at`. `BAND` is
    /// the band, or `MAX_BAND` for any; with `BROKEN`, entries that would lead
    /// beyond the end of a chain are zero; `WHOLE` vectors are the rule.
    ///
    /// # Safety
    /// The state is good for the cursor's elements; the arrays are good for a
    /// vector at `at`, that of the gradient also at its neighbours; and the
    /// processor has the instructions of `V`.
    #[inline(always)]
    pub(super) unsafe fn take<const BAND: usize, const BROKEN: bool, const WHOLE: bool>(
        &mut self,
        arrays: &Arrays<V::Scalar>,
        at: usize,
        cursor: &Cursor,
    ) {
        let band = if BAND == MAX_BAND { self.band } else { BAND };
        // SAFETY: the caller's promise.
        unsafe {
            let mut g = V::load(arrays.gradient.add(at));
            if !WHOLE {
                g = g.first(cursor.count::<false>(), V::Scalar::ZERO);
            }
            let [keep, weight] = self.by.statistics;
            let weighted = weight.mul(g);

            let by = self.by.momentum;
            let m = self.average::<WHOLE>(plane::MOMENTUM, cursor, by[0], by[1], g, None);
            m.mul(self.by.correct_momentum)
                .store(arrays.momentum.add(at));

            let h = self.average::<WHOLE>(plane::DIAGONAL, cursor, keep, weighted, g, None);
            let mut d = match self.denominator {
                Denominator::Damped(_) => h.mul_add(self.by.correct_statistics, self.by.add),
                Denominator::Adam(_) => h.mul(self.by.correct_statistics).sqrt().add(self.by.add),
            };
            if !WHOLE {
                d = d.first(cursor.count::<false>(), V::Scalar::ONE);
            }
            d.store(arrays.diagonal.add(at));

            for k in 1..=band {
                let other = V::load(arrays.gradient.add(at + k * self.stride));
                let ended = if BROKEN {
                    Some(V::load(arrays.reach.add(at)).lt(splat(k as f64)))
                } else {
                    None
                };
                let e = self.average::<WHOLE>(plane::band(k), cursor, keep, weighted, other, ended);
                e.mul(self.by.correct_statistics)
                    .store(arrays.bands[k - 1].add(at));
            }
            if self.refers {
                self.refer::<WHOLE>(cursor, g, m, h);
            }
            prefetch(self.state.next_gradient.at(cursor.index));
        }
    }

    /// `x <- keep x + a b`, in a plane; zero where the chain has `ended`.
    ///
    /// # Safety
    /// As for [`Source::take`].
    #[inline(always)]
    unsafe fn average<const WHOLE: bool>(
        &self,
        plane: usize,
        cursor: &Cursor,
        keep: V,
        a: V,
        b: V,
        ended: Option<V::Mask>,
    ) -> V {
        let size = S::DTYPE.size();
        let (index, count) = (cursor.index, cursor.count::<WHOLE>());
        // SAFETY: the caller's promise; any address can be asked for.
        unsafe {
            let from = self.state.planes.from[plane].add(index * size);
            prefetch(from.wrapping_add(self.ahead));
            let old: V = read::<V, S>(from, count);
            if !self.updates {
                return old;
            }
            let mut new = a.mul_add(b, keep.mul(old));
            if let Some(ended) = ended {
                new = V::select(ended, splat(0.0), new);
            }
            let new = new.flush(self.by.least).canonical();
            let noise = self.state.noise.get(plane).copied();
            let to = self.state.planes.to[plane].add(index * size);
            write::<V, S>(new, to, index, count, noise)
        }
    }

    /// Takes the reference's squares.
    ///
    /// # Safety
    /// As for [`Source::take`].
    #[inline(always)]
    unsafe fn refer<const WHOLE: bool>(&mut self, cursor: &Cursor, g: V, m: V, h: V) {
        // SAFETY: the caller's promise.
        unsafe {
            let q = g.mul(self.by.normalize);
            let mut r = h;
            if self.rms {
                let [keep, weight] = self.by.rms;
                let plane = plane::rms(self.band);
                r = self.average::<WHOLE>(plane, cursor, keep, weight.mul(q), q, None);
            }
            let a = match self.reference {
                None => return,
                Some(Reference::Sgd) => g,
                Some(Reference::Momentum) => m.mul(self.by.correct_momentum),
                Some(Reference::Adam { .. }) => {
                    let root = h.mul(self.by.reference).sqrt();
                    quotient(m.mul(self.by.correct_momentum), root.add(self.by.eps))
                }
                Some(Reference::NormalizedRmsprop { .. }) => quotient(q, r.sqrt().add(self.by.eps)),
            };
            self.squares = a.add_squares(self.squares);
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
        let zero: V = splat(0.0);
        V::select(zero.lt(b), a.div(b), zero)
    }
}
