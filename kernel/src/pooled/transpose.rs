//! Chains that are rows become columns of a panel, and rows again.

use crate::isa::Scalar;
use crate::simd::{Kernel, Vector, LANES};

/// Rows of a vector of chains become columns.
pub(super) struct ToColumns<'a, T> {
    pub(super) rows: &'a [T],
    pub(super) pitch: usize,
    pub(super) to: &'a mut [[T; LANES]],
}

impl<T: Scalar> Kernel<T> for ToColumns<'_, T> {
    type Output = ();

    #[inline(always)]
    fn run<V: Vector<Scalar = T>>(self, isa: V::Isa) {
        let blocks = self.to.as_chunks_mut::<LANES>().0;
        for (i, to) in blocks.iter_mut().enumerate() {
            let from = (&self.rows[i * LANES..], self.pitch);
            V::transpose(isa, from, (to.as_flattened_mut(), LANES));
        }
    }
}

/// Columns become rows of a vector of chains.
pub(super) struct ToRows<'a, T> {
    pub(super) from: &'a [[T; LANES]],
    pub(super) rows: &'a mut [T],
    pub(super) pitch: usize,
}

impl<T: Scalar> Kernel<T> for ToRows<'_, T> {
    type Output = ();

    #[inline(always)]
    fn run<V: Vector<Scalar = T>>(self, isa: V::Isa) {
        for (i, block) in self.from.as_chunks::<LANES>().0.iter().enumerate() {
            let to = (&mut self.rows[i * LANES..], self.pitch);
            V::transpose(isa, (block.as_flattened(), LANES), to);
        }
    }
}
