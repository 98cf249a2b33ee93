//! State comes into the chunk as it is, and becomes what directions are computed from.

use crate::element::Stored;
use crate::factor::{Factor, Times};
use crate::isa::{prefetch, Scalar};
use crate::simd::{Kernel, Vector, LANES};
use crate::{Average, Denominator, Reading};

/// Copies `scale * x`, as the arithmetic's type.
pub(crate) struct Scale<'a, T, E> {
    pub(crate) from: &'a [[E; LANES]],
    pub(crate) to: &'a mut [[T; LANES]],
    pub(crate) scale: Factor,
}

impl<T: Scalar, E: Stored> Kernel<T> for Scale<'_, T, E> {
    type Output = ();

    #[inline(always)]
    fn run<V: Vector<Scalar = T>>(self, isa: V::Isa) {
        let scale = Times::new(isa, self.scale);
        for (from, to) in self.from.iter().zip(self.to) {
            scale.of(E::load::<V>(isa, from)).store(to);
        }
    }
}

/// A state plane of a run comes into the chunk.
pub(crate) struct Read<'a, T, E> {
    pub(crate) from: &'a [[E; LANES]],
    pub(crate) to: &'a mut [[T; LANES]],
    pub(crate) ahead: usize,
    pub(crate) reading: Reading,
}

impl<T: Scalar, E: Stored> Kernel<T> for Read<'_, T, E> {
    type Output = ();

    #[inline(always)]
    fn run<V: Vector<Scalar = T>>(self, isa: V::Isa) {
        let (damping, times) = match self.reading {
            Reading::Denominator(by) => (Some(damping::<V>(isa, by)), 1.0),
            Reading::Times(times) | Reading::Nesterov { times, .. } => (None, times),
        };
        let times = V::number(isa, times);
        for (from, to) in self.from.iter().zip(self.to) {
            prefetch(from, self.ahead);
            let x = E::load::<V>(isa, from);
            match damping {
                Some((roots, add)) => damp(x, roots, add).store(to),
                None => (x * times).store(to),
            }
        }
    }
}

/// Momentum that came into the chunk is averaged with the gradient once more.
pub(crate) struct Nesterov<'a, T, E> {
    pub(crate) gradient: &'a [[E; LANES]],
    pub(crate) momentum: &'a mut [[T; LANES]],
    pub(crate) by: Average,
    pub(crate) scale: Factor,
}

impl<T: Scalar, E: Stored> Kernel<T> for Nesterov<'_, T, E> {
    type Output = ();

    #[inline(always)]
    fn run<V: Vector<Scalar = T>>(self, isa: V::Isa) {
        let (scale, by) = (Times::new(isa, self.scale), both(isa, self.by));
        for (m, g) in self.momentum.iter_mut().zip(self.gradient) {
            let g = scale.of(E::load::<V>(isa, g));
            nesterov(V::load(isa, m), by, g).store(m);
        }
    }
}

/// Keep and weight, in every lane.
#[inline(always)]
pub(crate) fn both<V: Vector>(isa: V::Isa, by: Average) -> [V; 2] {
    [V::number(isa, by.keep), V::number(isa, by.weight)]
}

/// Nesterov momentum of momentum after a step.
#[inline(always)]
pub(crate) fn nesterov<V: Vector>(m: V, [keep, weight]: [V; 2], g: V) -> V {
    weight.mul_add(g, keep * m)
}

/// Whether the diagonal's root is taken, and what is added to it.
#[inline(always)]
pub(crate) fn damping<V: Vector>(isa: V::Isa, denominator: Denominator) -> (bool, V) {
    match denominator {
        Denominator::Damped(add) => (false, V::number(isa, add)),
        Denominator::Adam(add) => (true, V::number(isa, add)),
    }
}

/// What divides the momentum where there are no edges.
#[inline(always)]
pub(crate) fn damp<V: Vector>(diagonal: V, roots: bool, add: V) -> V {
    (if roots { diagonal.sqrt() } else { diagonal }) + add
}
