//! State and gradient become what a panel works on: `m / q`, `1 / q` and `g / q`.

use crate::element::Stored;
use crate::factor::{Factor, Times};
use crate::isa::{prefetch, Scalar};
use crate::simd::{Kernel, Number, Vector, LANES};
use crate::update::Update;

/// Where what is prepared goes: vectors that are so many apart.
pub(super) struct Prepared<'a, T> {
    /// `m / q`.
    pub(super) x: &'a mut [[T; LANES]],
    /// `1 / q`.
    pub(super) inverse_root: &'a mut [[T; LANES]],
    /// `g / q`, if products are wanted.
    pub(super) z: Option<&'a mut [[T; LANES]]>,
    pub(super) step: usize,
}

impl<T> Prepared<'_, T> {
    /// The same from the `i`-th vector on.
    pub(super) fn from(&mut self, i: usize) -> Prepared<'_, T> {
        let at = i * self.step;
        Prepared {
            x: &mut self.x[at..],
            inverse_root: &mut self.inverse_root[at..],
            z: self.z.as_mut().map(|z| &mut z[at..]),
            step: self.step,
        }
    }
}

/// Bytes of a cache line.
const LINE: usize = 64;

/// What the loops need, in registers.
struct Preparing<'a, V: Vector> {
    isa: V::Isa,
    zero: V,
    infinity: V,
    /// The least number whose root is taken.
    normal: V,
    scale: Times<V>,
    to: Prepared<'a, V::Scalar>,
    /// The least of the diagonal, and NaN if any number was infinite or NaN.
    least: V,
    sum: V,
}

impl<'a, V: Vector<Scalar: Stored>> Preparing<'a, V> {
    #[inline(always)]
    fn new(isa: V::Isa, scale: Factor, to: Prepared<'a, V::Scalar>) -> Self {
        let infinity = V::splat(isa, V::Scalar::INFINITY);
        Preparing {
            isa,
            zero: V::number(isa, 0.0),
            infinity,
            normal: V::number(isa, V::Scalar::LEAST_NORMAL),
            scale: Times::new(isa, scale),
            to,
            least: infinity,
            sum: V::number(isa, 0.0),
        }
    }

    /// A vector of momentum, damped diagonal and gradient. With `selects`, all is zero where
    /// the diagonal is no normal number, and `g / q` where it is not finite; otherwise
    /// [`Preparing::is_usual`] tells whether all of them are what they should be.
    #[inline(always)]
    fn vector(&mut self, i: usize, m: V, d: V, gradient: &[V::Scalar; LANES], selects: bool) {
        let at = i * self.to.step;
        // Where vectors are apart, the next run is to be stored in the lines behind these.
        prefetch(&self.to.x[at], LINE);
        prefetch(&self.to.inverse_root[at], LINE);
        let (mut m, mut inverse) = (m, d.inverse_root(self.isa));
        if selects {
            let usable = V::and(d.not_lt(self.normal), d.lt(self.infinity));
            (m, inverse) = (m.only(usable), inverse.only(usable));
        } else {
            self.least = d.smaller(self.least);
            self.sum = d.mul_add(self.zero, self.sum);
        }
        (m * inverse).store(&mut self.to.x[at]);
        inverse.store(&mut self.to.inverse_root[at]);
        if let Some(to) = &mut self.to.z {
            let mut z = self.scale.of(V::load(self.isa, gradient)) * inverse;
            if selects {
                z = z.only(z.abs().lt(self.infinity));
            } else {
                self.sum = z.mul_add(self.zero, self.sum);
            }
            z.store(&mut to[at]);
        }
    }

    /// Whether every diagonal was a normal number, and all `g / q` were finite.
    #[inline(always)]
    fn is_usual(&self) -> bool {
        !V::any(self.least.lt(self.normal)) && !V::any(self.sum.is_nan())
    }
}

/// What is in the chunk is prepared.
pub(super) struct Prepare<'a, T> {
    pub(super) momentum: &'a [[T; LANES]],
    /// The damped one.
    pub(super) diagonal: &'a [[T; LANES]],
    pub(super) gradient: &'a [[T; LANES]],
    /// Multiplies the gradient.
    pub(super) scale: Factor,
    pub(super) to: Prepared<'a, T>,
}

impl<T: Scalar> Kernel<T> for Prepare<'_, T> {
    type Output = ();

    #[inline(always)]
    fn run<V: Vector<Scalar = T>>(self, isa: V::Isa) {
        let mut to = Preparing::<V>::new(isa, self.scale, self.to);
        for (i, m) in self.momentum.iter().enumerate() {
            let (m, d) = (V::load(isa, m), V::load(isa, &self.diagonal[i]));
            to.vector(i, m, d, &self.gradient[i], true);
        }
    }
}

/// State takes in the gradient and is prepared in one loop, without the chunk: for the common
/// kinds of steps. Returns whether all was usual; otherwise what is prepared is to be prepared
/// once more.
pub(super) struct UpdateAndPrepare<'a, U, T> {
    pub(super) update: &'a mut U,
    /// The planes of the chunk, which stay as they are.
    pub(super) state: &'a mut [T],
    /// Multiplies the gradient.
    pub(super) scale: Factor,
    pub(super) to: Prepared<'a, T>,
}

impl<T: Scalar, E: Stored> Kernel<T> for UpdateAndPrepare<'_, Update<'_, '_, T, E, 0, false>, T> {
    type Output = bool;
    const FOR_SPEED: bool = true;

    #[inline(always)]
    fn run<V: Vector<Scalar = T>>(self, isa: V::Isa) -> bool {
        let update = self.update;
        let (is_adam, vectors) = (update.by.is_adam(), update.vectors());
        let gradient = &update.gradient.as_chunks().0[..vectors];
        let mut to = Preparing::<V>::new(isa, self.scale, self.to);
        // SAFETY: nothing comes into the chunk, which so needs no room.
        let mut updating = unsafe { update.start::<V>(isa, self.state, 0) };
        for (i, gradient) in gradient.iter().enumerate() {
            // SAFETY: it is one of the update's vectors.
            let (m, d) = unsafe { updating.vector(is_adam, false) };
            to.vector(i, m, d, gradient, false);
        }
        let totals = updating.totals();
        update.end(isa, totals, None);
        to.is_usual()
    }
}
