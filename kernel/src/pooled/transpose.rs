//! Chains that are rows become columns of a panel, and rows again.

use crate::simd::{Kernel, Scalar, Vector, LANES};

/// Rows of a vector of chains become columns.
pub(super) struct ToColumns<'a, T> {
    pub(super) rows: &'a [T],
    pub(super) pitch: usize,
    pub(super) to: &'a mut [[T; LANES]],
    pub(super) vectors: usize,
    pub(super) count: usize,
}

impl<T: Scalar> Kernel<T> for ToColumns<'_, T> {
    type Output = ();

    #[inline(always)]
    fn run<V: Vector<Scalar = T>>(self, isa: V::Isa) {
        let mut block = [[T::ZERO; LANES]; LANES];
        for first in (0..self.count).step_by(LANES) {
            for (lane, row) in block.iter_mut().enumerate() {
                row.copy_from_slice(&self.rows[lane * self.pitch + first..][..LANES]);
            }
            V::transpose(isa, &mut block);
            for (position, column) in block.iter().enumerate() {
                self.to[(first + position) * self.vectors] = *column;
            }
        }
    }
}

/// Columns become rows of a vector of chains.
pub(super) struct ToRows<'a, T> {
    pub(super) from: &'a [[T; LANES]],
    pub(super) vectors: usize,
    pub(super) rows: &'a mut [T],
    pub(super) pitch: usize,
    pub(super) count: usize,
}

impl<T: Scalar> Kernel<T> for ToRows<'_, T> {
    type Output = ();

    #[inline(always)]
    fn run<V: Vector<Scalar = T>>(self, isa: V::Isa) {
        let mut block = [[T::ZERO; LANES]; LANES];
        for first in (0..self.count).step_by(LANES) {
            for (position, column) in block.iter_mut().enumerate() {
                *column = self.from[(first + position) * self.vectors];
            }
            V::transpose(isa, &mut block);
            for (lane, row) in block.iter().enumerate() {
                self.rows[lane * self.pitch + first..][..LANES].copy_from_slice(row);
            }
        }
    }
}
