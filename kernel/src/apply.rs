//! Directions reach the parameters or the caller.
//!
//! Where what would be written is not finite, a parameter stays as it is, and a
//! direction is zero: no step makes a finite parameter infinite or NaN.

use super::element::Stored;
use super::factor::Times;
use super::isa::{prefetch, Scalar};
use super::noise::Random;
use super::simd::{Kernel, Number, Vector, LANES};
use crate::Factor;

/// How a direction changes its target.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Apply {
    /// `p <- p + decay p + rate u`. The rate is negative or zero, except where a part of
    /// an update is taken back.
    Update {
        /// Multiplies the direction.
        rate: Factor,
        /// Multiplies the parameter.
        decay: f64,
    },
    /// `out = scale u`.
    Write {
        /// Multiplies the direction.
        scale: Factor,
    },
}

/// Whether numbers are infinite or NaN.
#[inline(always)]
fn not_finite<V: Vector>(isa: V::Isa, x: V) -> V::Mask {
    x.abs().not_lt(V::splat(isa, V::Scalar::INFINITY))
}

/// What parameters become: each stays as it is where it would not be finite.
#[inline(always)]
pub(crate) fn or_old<V: Vector>(isa: V::Isa, new: V, old: V) -> V {
    // That is rare, and a choice in every lane takes long.
    match new.is_finite(isa) {
        true => new,
        false => V::select(not_finite(isa, new), old, new),
    }
}

/// Directions are applied to parameters.
pub(crate) struct Deliver<'a, T, E> {
    pub(crate) direction: &'a [[T; LANES]],
    pub(crate) params: &'a mut [[E; LANES]],
    pub(crate) rate: Factor,
    pub(crate) decay: f64,
    pub(crate) noise: Random,
    pub(crate) ahead: usize,
}

impl<T: Scalar, E: Stored> Kernel<T> for Deliver<'_, T, E> {
    type Output = ();

    #[inline(always)]
    fn run<V: Vector<Scalar = T>>(self, isa: V::Isa) {
        let rate = Times::new(isa, self.rate);
        let decay = V::number(isa, self.decay);
        let params = self.params.iter_mut().enumerate();
        for ((i, params), u) in params.zip(self.direction) {
            prefetch(params, self.ahead);
            let old = E::load::<V>(isa, params);
            let u = rate.lifted(V::load(isa, u));
            let new = or_old(isa, rate.number.mul_add(u, decay.mul_add(old, old)), old);
            let noise = self.noise.map(|(noise, index)| (noise, index + i * LANES));
            let stored = E::store(new, isa, params, noise);
            // In few bits it may have become infinite.
            if E::ROUNDS && !stored.is_finite(isa) {
                E::store(or_old(isa, stored, old), isa, params, None);
            }
        }
    }
}

/// Numbers are scaled, rounded and written: directions for the caller, or master
/// weights that have been updated to the parameters.
pub(crate) struct Write<'a, F, E> {
    pub(crate) from: &'a [[F; LANES]],
    pub(crate) to: &'a mut [[E; LANES]],
    pub(crate) scale: Factor,
    pub(crate) noise: Random,
    /// They are directions: zero where they are not finite.
    pub(crate) are_directions: bool,
}

impl<T: Scalar, F: Stored, E: Stored> Kernel<T> for Write<'_, F, E> {
    type Output = ();

    #[inline(always)]
    fn run<V: Vector<Scalar = T>>(self, isa: V::Isa) {
        let scale = Times::new(isa, self.scale);
        for ((i, to), from) in self.to.iter_mut().enumerate().zip(self.from) {
            let out = scale.of(F::load::<V>(isa, from)).canonical(isa);
            let noise = self.noise.map(|(noise, index)| (noise, index + i * LANES));
            let stored = E::store(out, isa, to, noise);
            if self.are_directions && !stored.is_finite(isa) {
                let zero = V::number(isa, 0.0);
                let finite = V::select(not_finite(isa, stored), zero, stored);
                E::store(finite, isa, to, None);
            }
        }
    }
}

/// Directions are kept for a later pass; past the caches, if they are many.
pub(crate) struct Keep<'a, T> {
    pub(crate) direction: &'a [[T; LANES]],
    pub(crate) to: &'a mut [[T; LANES]],
    pub(crate) many: bool,
}

impl<T: Scalar> Kernel<T> for Keep<'_, T> {
    type Output = ();

    #[inline(always)]
    fn run<V: Vector<Scalar = T>>(self, isa: V::Isa) {
        for (u, to) in self.direction.iter().zip(self.to) {
            match self.many {
                true => V::load(isa, u).stream(to),
                false => V::load(isa, u).store(to),
            }
        }
    }
}
