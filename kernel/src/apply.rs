//! Directions reach the parameters or the caller.

use super::element::Stored;
use super::isa::prefetch;
use super::noise::Noise;
use super::simd::{Kernel, Scalar, Vector, LANES};

/// What becomes of directions.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Apply {
    /// `p <- p + decay p + rate u`; both factors are negative or zero.
    Update {
        /// Multiplies the direction.
        rate: f64,
        /// Multiplies the parameter.
        decay: f64,
    },
    /// `out = scale u`.
    Write {
        /// Multiplies the direction.
        scale: f64,
    },
}

/// Directions are applied to parameters.
pub(crate) struct Deliver<'a, T, E> {
    pub(crate) direction: &'a [[T; LANES]],
    pub(crate) params: &'a mut [[E; LANES]],
    pub(crate) rate: f64,
    pub(crate) decay: f64,
    pub(crate) noise: Option<(Noise, usize)>,
    pub(crate) ahead: usize,
}

impl<T: Scalar, E: Stored> Kernel<T> for Deliver<'_, T, E> {
    type Output = ();

    #[inline(always)]
    fn run<V: Vector<Scalar = T>>(self, isa: V::Isa) {
        let rate = V::number(isa, self.rate);
        let decay = V::number(isa, self.decay);
        let params = self.params.iter_mut().enumerate();
        for ((i, params), u) in params.zip(self.direction) {
            prefetch(params, self.ahead);
            let p = E::load::<V>(isa, params);
            let p = rate.mul_add(V::load(isa, u), decay.mul_add(p, p));
            let noise = self.noise.map(|(noise, index)| (noise, index + i * LANES));
            E::store(p.canonical(isa), isa, params, noise);
        }
    }
}

/// Numbers are scaled, rounded and written: directions for the caller, or master
/// weights that have been updated to the parameters.
pub(crate) struct Write<'a, F, E> {
    pub(crate) from: &'a [[F; LANES]],
    pub(crate) to: &'a mut [[E; LANES]],
    pub(crate) scale: f64,
    pub(crate) noise: Option<(Noise, usize)>,
}

impl<T: Scalar, F: Stored, E: Stored> Kernel<T> for Write<'_, F, E> {
    type Output = ();

    #[inline(always)]
    fn run<V: Vector<Scalar = T>>(self, isa: V::Isa) {
        let scale = V::number(isa, self.scale);
        for ((i, to), from) in self.to.iter_mut().enumerate().zip(self.from) {
            let out = (scale * F::load::<V>(isa, from)).canonical(isa);
            let noise = self.noise.map(|(noise, index)| (noise, index + i * LANES));
            E::store(out, isa, to, noise);
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
