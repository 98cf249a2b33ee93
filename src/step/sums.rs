//! What blocks report: each block its own numbers, whoever visits it.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::error::{Error, Result};

/// Two numbers for each block of all tensors.
pub(super) struct Sums {
    blocks: Box<[[AtomicU64; 2]]>,
}

impl Sums {
    pub(super) fn new(blocks: usize) -> Result<Self> {
        match bytemuck::allocation::try_zeroed_slice_box(blocks) {
            Ok(blocks) => Ok(Sums { blocks }),
            Err(()) => Err(Error::OutOfMemory {
                what: "the sums of blocks".to_owned(),
                bytes: blocks as u128 * 16,
            }),
        }
    }

    pub(super) fn bytes(&self) -> usize {
        size_of_val(&*self.blocks)
    }

    /// Notes the numbers of a block.
    pub(super) fn set(&self, block: usize, values: [f64; 2]) {
        for (cell, value) in self.blocks[block].iter().zip(values) {
            cell.store(value.to_bits(), Ordering::Relaxed);
        }
    }

    /// Combines the numbers of a range of blocks in their order.
    pub(super) fn fold(
        &self,
        blocks: std::ops::Range<usize>,
        combine: impl Fn(f64, f64) -> f64,
    ) -> [f64; 2] {
        let mut totals = [0.0; 2];
        for cells in &self.blocks[blocks] {
            for (total, cell) in totals.iter_mut().zip(cells) {
                *total = combine(*total, f64::from_bits(cell.load(Ordering::Relaxed)));
            }
        }
        totals
    }
}
