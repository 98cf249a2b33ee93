//! Chains that are rows become columns of a panel, and rows again.

use crate::simd::{Kernel, Scalar, Vector, LANES};

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
        let mut block = [[T::ZERO; LANES]; LANES];
        for (i, to) in self.to.as_chunks_mut::<LANES>().0.iter_mut().enumerate() {
            for (lane, row) in block.iter_mut().enumerate() {
                row.copy_from_slice(&self.rows[lane * self.pitch + i * LANES..][..LANES]);
            }
            V::transpose(isa, &mut block);
            *to = block;
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
            let mut block = *block;
            V::transpose(isa, &mut block);
            for (lane, row) in block.iter().enumerate() {
                self.rows[lane * self.pitch + i * LANES..][..LANES].copy_from_slice(row);
            }
        }
    }
}
