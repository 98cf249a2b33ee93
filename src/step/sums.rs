//! What blocks report: each block its own numbers, whoever visits it.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::error::{Error, Result};
use crate::reserve::without;

/// Three numbers for each block of all tensors.
pub(super) struct Sums {
    blocks: Box<[[AtomicU64; 3]]>,
}

/// Which of a block's numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Slot {
    /// Squares of the gradient, then of the direction.
    First = 0,
    /// Squares of the reference, known before the direction's.
    Reference = 1,
    /// What relative damping is relative to: the largest entry of the diagonal, or the
    /// largest l1.
    Largest = 2,
}

impl Sums {
    pub(super) fn new(blocks: usize) -> Result<Self> {
        match without(|| bytemuck::allocation::try_zeroed_slice_box(blocks)) {
            Ok(blocks) => Ok(Sums { blocks }),
            Err(()) => Err(Error::OutOfMemory {
                what: "the sums of blocks".to_owned(),
                bytes: blocks as u128 * 24,
            }),
        }
    }

    pub(super) fn bytes(&self) -> usize {
        size_of_val(&*self.blocks)
    }

    /// Notes a number of a block.
    pub(super) fn set(&self, block: usize, slot: Slot, value: f64) {
        self.blocks[block][slot as usize].store(value.to_bits(), Ordering::Relaxed);
    }

    /// A number of a block.
    pub(super) fn get(&self, block: usize, slot: Slot) -> f64 {
        f64::from_bits(self.blocks[block][slot as usize].load(Ordering::Relaxed))
    }

    /// Combines the numbers of a range of blocks in their order.
    pub(super) fn fold(
        &self,
        blocks: std::ops::Range<usize>,
        slot: Slot,
        combine: impl Fn(f64, f64) -> f64,
    ) -> f64 {
        blocks.fold(0.0, |total, block| combine(total, self.get(block, slot)))
    }
}
