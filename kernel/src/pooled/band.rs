//! The loops over a panel.

// The number of a vector says more than an iterator over several arrays.
#![allow(clippy::needless_range_loop)]

use super::inverse::{Factors, TILE};
use super::panel::INCOMING;
use crate::factor::{Factor, Times};
use crate::simd::{Kernel, Scalar, Vector, LANES};

/// `m / q`, `1 / q` and `g / q` of a run.
pub(crate) struct Prepare<'a, T> {
    pub(super) momentum: &'a [[T; LANES]],
    /// The damped one.
    pub(super) diagonal: &'a [[T; LANES]],
    /// If products are wanted, and what multiplies it.
    pub(super) gradient: Option<&'a [[T; LANES]]>,
    pub(super) scale: Factor,
    pub(super) to: [&'a mut [[T; LANES]]; INCOMING],
}

impl<T: Scalar> Kernel<T> for Prepare<'_, T> {
    type Output = ();

    #[inline(always)]
    fn run<V: Vector<Scalar = T>>(self, isa: V::Isa) {
        let (zero, one) = (V::number(isa, 0.0), V::number(isa, 1.0));
        let infinity = V::splat(isa, T::INFINITY);
        let scale = Times::new(isa, self.scale);
        let [x, inverse_root, z] = self.to;
        for i in 0..self.momentum.len() {
            let d = V::load(isa, &self.diagonal[i]);
            let usable = V::and(zero.lt(d), d.lt(infinity));
            let inverse = one / d.sqrt();
            let m = V::load(isa, &self.momentum[i]);
            (m * inverse).only(usable).store(&mut x[i]);
            inverse.only(usable).store(&mut inverse_root[i]);
            if let Some(gradient) = self.gradient {
                let g = scale.of(V::load(isa, &gradient[i]));
                let over_root = (g * inverse).only(usable);
                let finite = over_root.abs().lt(infinity);
                over_root.only(finite).store(&mut z[i]);
            }
        }
    }
}

/// Adds the products of positions at hand with those behind them, summed over the lanes.
pub(crate) struct Products<'a, T> {
    /// From the first position at hand on.
    pub(super) z: &'a [[T; LANES]],
    pub(super) vectors: usize,
    /// Those of each position with itself, from the first at hand on; with its next neighbour
    /// `pitch` later, and so on.
    pub(super) sums: &'a mut [T],
    pub(super) pitch: usize,
    pub(super) count: usize,
    pub(super) band: usize,
}

impl<T: Scalar> Kernel<T> for Products<'_, T> {
    type Output = ();

    #[inline(always)]
    fn run<V: Vector<Scalar = T>>(self, isa: V::Isa) {
        let vectors = self.vectors;
        let mut lanes = [[T::ZERO; LANES]; LANES];
        for first in (0..self.count).step_by(LANES) {
            for apart in 0..=self.band {
                for quarter in (0..LANES).step_by(4) {
                    let at = first + quarter;
                    let left = &self.z[at * vectors..][..4 * vectors];
                    let right = &self.z[(at + apart) * vectors..][..4 * vectors];
                    let mut sums = [V::number(isa, 0.0); 4];
                    for v in 0..vectors {
                        for t in 0..4 {
                            let (l, r) = (&left[t * vectors + v], &right[t * vectors + v]);
                            sums[t] = V::load(isa, l).mul_add(V::load(isa, r), sums[t]);
                        }
                    }
                    for t in 0..4 {
                        sums[t].store(&mut lanes[quarter + t]);
                    }
                }
                let sums = &mut self.sums[apart * self.pitch + first..].as_chunks_mut().0[0];
                (V::load(isa, sums) + across::<V>(isa, &mut lanes)).store(sums);
            }
        }
    }
}

/// The sums over the lanes of as many vectors as there are lanes, pairwise.
#[inline(always)]
fn across<V: Vector>(isa: V::Isa, lanes: &mut [[V::Scalar; LANES]; LANES]) -> V {
    V::transpose(isa, lanes);
    let mut n = LANES;
    while n > 1 {
        n /= 2;
        for i in 0..n {
            (V::load(isa, &lanes[i]) + V::load(isa, &lanes[i + n])).store(&mut lanes[i]);
        }
    }
    V::load(isa, &lanes[0])
}

/// `v = D L^T x`, and `u = q^-1 L v` in place of `x`.
pub(crate) struct Solve<'a, T> {
    pub(super) x: &'a mut [[T; LANES]],
    pub(super) solved: &'a mut [[T; LANES]],
    pub(super) inverse_root: &'a [[T; LANES]],
    pub(super) vectors: usize,
    pub(super) lag: usize,
    pub(super) count: usize,
    pub(super) factors: Factors<'a, T>,
}

impl<T: Scalar> Kernel<T> for Solve<'_, T> {
    type Output = ();

    #[inline(always)]
    fn run<V: Vector<Scalar = T>>(self, isa: V::Isa) {
        let Factors {
            band,
            ahead,
            behind,
            inverse_schur,
        } = self.factors;
        let (vectors, lag) = (self.vectors, self.lag);
        let rows = band + TILE - 1;
        for at in (0..self.count).step_by(TILE) {
            let here = lag + at;
            let scale = &inverse_schur[at..][..TILE];
            let numbers = &ahead[at / TILE * rows..][..rows];
            for v in 0..vectors {
                let from = &self.x[(here + 1) * vectors..];
                let own = &self.x[here * vectors..];
                let w = filter::<V>(isa, own, from, vectors, v, numbers);
                for t in 0..TILE {
                    let to = &mut self.solved[(here + t) * vectors + v];
                    (w[t] * V::splat(isa, scale[t])).store(to);
                }
            }
        }
        for at in (0..self.count).step_by(TILE) {
            let here = lag + at;
            let numbers = &behind[at / TILE * rows..][..rows];
            for v in 0..vectors {
                let from = &self.solved[(here - band) * vectors..];
                let own = &self.solved[here * vectors..];
                let u = filter::<V>(isa, own, from, vectors, v, numbers);
                for t in 0..TILE {
                    let at = (here + t) * vectors + v;
                    let root = V::load(isa, &self.inverse_root[at]);
                    (u[t] * root).store(&mut self.x[at]);
                }
            }
        }
    }
}

/// Some positions of their own, less those from `from` on times the numbers of each.
#[inline(always)]
pub(super) fn filter<V: Vector>(
    isa: V::Isa,
    own: &[[V::Scalar; LANES]],
    from: &[[V::Scalar; LANES]],
    vectors: usize,
    v: usize,
    numbers: &[[V::Scalar; TILE]],
) -> [V; TILE] {
    let mut sums = [V::number(isa, 0.0); TILE];
    for t in 0..TILE {
        sums[t] = V::load(isa, &own[t * vectors + v]);
    }
    for (row, numbers) in numbers.iter().enumerate() {
        let x = V::load(isa, &from[row * vectors + v]);
        for t in 0..TILE {
            sums[t] = V::splat(isa, numbers[t]).neg_mul_add(x, sums[t]);
        }
    }
    sums
}
