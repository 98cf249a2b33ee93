//! What a plan keeps for a tensor whose chains share their correlations.

use std::sync::{Mutex, MutexGuard, PoisonError};

use sonew_kernel::{
    Average, Elements, Kernels, PooledChains, PooledEstimate, PooledInverse, PooledStructure,
    PooledSums,
};

use crate::error::{Error, Result};
use crate::memory::{try_list, AlignedBytes, OF_TENSORS};

/// The inverse correlations of a tensor, and the sums of its blocks.
pub(super) struct Pooled {
    kernels: Kernels,
    pub(super) chains: PooledChains,
    pub(super) inverse: PooledInverse,
    /// Each is visited by one thread at a time. Zero, but for what a sweep adds up.
    blocks: Vec<Mutex<AlignedBytes>>,
}

impl Pooled {
    pub(super) fn new(
        tensor: &str,
        kernels: Kernels,
        chains: PooledChains,
        blocks: usize,
    ) -> Result<Self> {
        let name = || format!("the pooled sums of tensor \"{tensor}\"");
        let bytes = chains.products() * kernels.arithmetic().size();
        let block = |_| AlignedBytes::zeroed(bytes, name).map(Mutex::new);
        let inverse =
            PooledInverse::new(&kernels, &chains).map_err(|bytes| Error::OutOfMemory {
                what: name(),
                bytes: bytes as u128,
            })?;
        Ok(Pooled {
            kernels,
            chains,
            inverse,
            blocks: try_list((0..blocks).map(block), OF_TENSORS)?,
        })
    }

    /// Bytes held.
    pub(super) fn bytes(&self) -> usize {
        let block = self.chains.products() * self.kernels.arithmetic().size();
        self.inverse.bytes() + self.blocks.len() * block
    }

    /// How many multiply-adds the inverse takes, about.
    pub(super) fn operations(&self) -> usize {
        let (length, chains) = (self.chains.length, &self.chains);
        match chains.structure {
            PooledStructure::Band => length * chains.band.pow(3) / 3,
            PooledStructure::Rank(rank) => length * rank.pow(2),
            PooledStructure::All => length.pow(3),
        }
    }

    /// The sums of a block.
    pub(super) fn block(&self, block: usize) -> MutexGuard<'_, AlignedBytes> {
        let block = self.blocks[block].lock();
        block.unwrap_or_else(PoisonError::into_inner)
    }

    /// Before the gradients.
    pub(super) fn begin(
        &mut self,
        sums: &mut PooledSums<'_>,
        by: Average,
        estimate: PooledEstimate,
    ) {
        sums.begin(&self.kernels, by);
        self.inverse.start(&self.kernels, sums);
        if sums.is_lagged {
            self.inverse.turn(&self.kernels, sums);
        }
        if sums.is_lagged || self.inverse.leads() {
            self.invert(sums.current(), estimate);
        }
    }

    /// After those of the tensor's `step`-th step.
    pub(super) fn end(
        &mut self,
        sums: &mut PooledSums<'_>,
        step: u64,
        by: Average,
        estimate: PooledEstimate,
    ) {
        let chains = &self.chains;
        let takes_part = |block: usize| {
            let first = block * chains.block;
            let of = first..chains.count.min(first + chains.block);
            chains.taking_part(&of, step).next().is_some()
        };
        let blocks = self.blocks.iter_mut().enumerate();
        let blocks = blocks.filter(|(number, _)| takes_part(*number));
        let blocks =
            blocks.map(|(_, block)| block.get_mut().unwrap_or_else(PoisonError::into_inner));
        let mut blocks: Vec<_> = blocks.collect();
        sums.end(&self.kernels, by, blocks.iter().map(|block| &block[..]));
        blocks.iter_mut().for_each(|block| block.fill(0));
        if !sums.is_lagged {
            self.inverse.turn(&self.kernels, sums);
            self.invert(sums.current(), estimate);
        }
    }

    /// The inverse of the correlations that come from these sums.
    pub(super) fn invert(&mut self, sums: Elements<'_>, estimate: PooledEstimate) {
        self.inverse.compute(&self.kernels, sums, estimate);
    }
}
