//! The pooled sums in a tensor's state.

use super::{added, PooledChains, PooledStructure};
use crate::dtype::{Dtype, Elements, ElementsMut};
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

/// Numbers that are added up at once.
const CHUNK: usize = 256;

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
            if chains.structure != PooledStructure::Band {
                let keep = if is_lagged { 0.0 } else { by.keep };
                let by = Average { keep, ..by };
                return added::add_up::<T>(&chains, &mut to[..len], by, blocks);
            }
            for apart in 0..=chains.band {
                let to = &mut to[apart * chains.length..][..chains.length];
                for (chunk, to) in to.chunks_mut(CHUNK).enumerate() {
                    let first = apart * chains.padded() + chunk * CHUNK;
                    let mut sums = [0.0; CHUNK];
                    for block in blocks.clone() {
                        let block: &[T] = &bytemuck::cast_slice(block)[first..];
                        for (sum, x) in sums.iter_mut().zip(&block[..to.len()]) {
                            *sum += x.to_f64();
                        }
                    }
                    for (to, sum) in to.iter_mut().zip(sums) {
                        let before = if is_lagged { 0.0 } else { by.keep * to.to_f64() };
                        *to = stored(before + by.weight * sum);
                    }
                }
            }
        })
    }
}

/// Rounded; zero where that is below the normal numbers.
pub(super) fn stored<T: Scalar>(x: f64) -> T {
    match x.abs() < T::LEAST_NORMAL {
        true => T::ZERO,
        false => T::from_f64(x),
    }
}
