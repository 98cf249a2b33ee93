//! The pooled sums in a tensor's state.

use super::added::{add_up, stored};
use super::chains::PooledChains;
use super::structure::PooledStructure;
use crate::dtype::{Elements, ElementsMut};
use crate::isa::Scalar;
use crate::kernels::in_arithmetic;
use crate::simd::Number;
use crate::{Average, Kernels};

/// The plane of pooled sums in a step, numbers of the arithmetic's type, in rows of `length`.
/// Of a band, those of the products of positions `i` apart follow those of `i - 1`; of all,
/// row `j` are the products of position `j` with all from itself on, and zeros before; of a
/// rank, the squares of each position are first, and then the products along each direction.
/// If correlations are those of the step before, there are two of it: the sums up to that
/// step, and those of this step alone, which the next one adds to the others. Behind the
/// sums of a rank are the directions.
pub struct PooledSums<'a> {
    /// The chains that they belong to.
    pub chains: PooledChains,
    /// Correlations are those of the step before.
    pub is_lagged: bool,
    /// Where they are written.
    pub plane: ElementsMut<'a>,
    /// Where they are read, if elsewhere.
    pub before: Option<Elements<'a>>,
}

impl PooledSums<'_> {
    /// The sums that correlations come from; of a rank the whole plane.
    pub fn current(&self) -> Elements<'_> {
        let (dtype, plane) = (self.plane.dtype(), self.plane.elements());
        if matches!(self.chains.structure, PooledStructure::Rank(_)) {
            return plane;
        }
        Elements::from_bytes(dtype, &plane.bytes()[..self.len() * dtype.size()])
    }

    /// Numbers of the sums.
    fn len(&self) -> usize {
        self.chains.rows_of_sums() * self.chains.length
    }

    /// Where they are to be written, and a copy of what they are now.
    fn open<T: Scalar>(&mut self) -> &mut [T] {
        let plane = self.plane.bytes_mut();
        if let Some(before) = self.before {
            plane.copy_from_slice(before.bytes());
        }
        bytemuck::cast_slice_mut(plane)
    }

    /// Before the gradients: if correlations are those of the step before, its sums are added
    /// to those up to then.
    pub fn begin(&mut self, kernels: &Kernels, by: Average) {
        let len = self.len();
        let is_lagged = self.is_lagged;
        in_arithmetic!(kernels, T => {
            let (sums, last) = self.open::<T>().split_at_mut(len);
            if is_lagged {
                for (sum, last) in sums.iter_mut().zip(last) {
                    *sum = stored(by.keep * sum.to_f64() + last.to_f64());
                    *last = T::ZERO;
                }
            }
        })
    }

    /// After the gradients: the sums of all blocks (see
    /// [`PooledBlock::products`](crate::PooledBlock::products)) are this step's.
    pub fn end<'b>(
        &mut self,
        kernels: &Kernels,
        by: Average,
        blocks: impl Iterator<Item = &'b [u8]> + Clone,
    ) {
        let (chains, len) = (self.chains, self.len());
        let is_lagged = self.is_lagged;
        in_arithmetic!(kernels, T => {
            let all: &mut [T] = bytemuck::cast_slice_mut(self.plane.bytes_mut());
            let to = if is_lagged { &mut all[len..] } else { all };
            let keep = if is_lagged { 0.0 } else { by.keep };
            let by = Average { keep, ..by };
            add_up::<T>(&chains, &mut to[..len], by, blocks);
        })
    }
}
