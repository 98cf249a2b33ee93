//! What becomes of directions as soon as they are computed.

use crate::apply::or_old;
use crate::isa::prefetch;
use crate::simd::{Vector, LANES};
use crate::{Apply, Directions};

/// Where a loop puts directions as soon as it has them, and whether it adds up their squares.
pub(crate) struct Outcome<'a, T> {
    /// The sums of their squares, if these are added up.
    pub(crate) sums: &'a mut [f64; LANES],
    pub(crate) measures: bool,
    /// The parameters that they are applied to, `p <- p + decay p + rate u`; or where they
    /// are stored, as far as there is room: past the caches, if they are many. From the
    /// first on that is wanted.
    pub(crate) to: &'a mut [[T; LANES]],
    /// The last parameters, less than a vector, where directions are applied to the rest of a
    /// line.
    pub(crate) last: &'a mut [T],
    pub(crate) update: Option<(f64, f64)>,
    pub(crate) many: bool,
    pub(crate) ahead: usize,
}

impl<'a, T> Outcome<'a, T> {
    /// `then` says whether `to` are parameters.
    pub(crate) fn new(
        then: Directions,
        to: &'a mut [[T; LANES]],
        apply: Apply,
        sums: &'a mut [f64; LANES],
    ) -> Self {
        let update = match (then, apply) {
            (Directions::Measured, _) => None,
            (_, Apply::Update { rate, decay }) => Some((rate.number, decay)),
            (_, Apply::Write { .. }) => unreachable!("there is no loop for it"),
        };
        Outcome {
            measures: then.measures(),
            update,
            ..Outcome::stored(to, sums)
        }
    }

    /// They are stored, and that is all.
    pub(crate) fn stored(to: &'a mut [[T; LANES]], sums: &'a mut [f64; LANES]) -> Self {
        Outcome {
            sums,
            measures: false,
            to,
            last: &mut [],
            update: None,
            many: false,
            ahead: 0,
        }
    }

    /// Begins.
    #[inline(always)]
    pub(crate) fn start<V: Vector<Scalar = T>>(&mut self, isa: V::Isa) -> Finishing<'_, V> {
        let (rate, decay) = self.update.unwrap_or_default();
        Finishing {
            isa,
            rate: V::number(isa, rate),
            decay: V::number(isa, decay),
            sums: V::load_sums(isa, self.sums),
            measures: self.measures,
            to: &mut *self.to,
            applies: self.update.is_some(),
            many: self.many,
            ahead: self.ahead,
        }
    }
}

/// What the loops need, in registers.
pub(crate) struct Finishing<'r, V: Vector> {
    isa: V::Isa,
    rate: V,
    decay: V,
    /// The sums of squares so far.
    pub(crate) sums: V::Sums,
    measures: bool,
    pub(crate) to: &'r mut [[V::Scalar; LANES]],
    pub(crate) applies: bool,
    many: bool,
    ahead: usize,
}

impl<V: Vector> Finishing<'_, V> {
    /// What becomes of a vector of directions.
    #[inline(always)]
    pub(crate) fn finish(&mut self, i: usize, u: V) {
        if self.measures {
            u.add_squares(&mut self.sums);
        }
        if self.applies {
            let params = &mut self.to[i];
            prefetch(params, self.ahead);
            let old = V::load(self.isa, params);
            let new = self.rate.mul_add(u, self.decay.mul_add(old, old));
            or_old(self.isa, new, old).store(params);
        } else if let Some(to) = self.to.get_mut(i) {
            match self.many {
                true => u.stream(to),
                false => u.store(to),
            }
        }
    }
}
