//! What a plan keeps for a tensor whose chains share their correlations, and what a step does
//! with it.

use std::sync::{Mutex, MutexGuard, PoisonError};

use sonew_kernel::{
    Average, Elements, Kernels, Memory, PooledChains, PooledEstimate, PooledInverse,
    PooledStructure, PooledSums,
};

use super::run::Run;
use super::stages::{Known, Progress};
use crate::error::{Error, Result};
use crate::memory::{try_list, AlignedBytes, OF_TENSORS};
use crate::parallel::{pooled_sums, Sweep};

/// So many multiply-adds for all tensors are worth waking other threads.
const WORTH_A_THREAD: usize = 1 << 18;

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

impl Run<'_> {
    /// Does something with the pooled sums of each tensor that has them and takes part, and
    /// with how its correlations are estimated.
    pub(super) fn each_pooled(
        &mut self,
        progress: &Progress,
        body: impl Fn(&mut Pooled, &mut PooledSums<'_>, &Known, Average, PooledEstimate) + Sync,
    ) {
        let (all, tensors, step) = (self.options, self.tensors, &self.step);
        let operations = self.pooled.iter().flatten().map(Pooled::operations);
        let Some(operations) = operations.reduce(|a, b| a + b) else {
            return;
        };
        let takes_little = operations < WORTH_A_THREAD;
        let each = |tensor: usize, pooled: &mut Option<Pooled>, memory: &mut Option<Memory<'_>>| {
            let (Some(pooled), Some(memory)) = (pooled, memory) else {
                return;
            };
            let (known, options) = (
                &progress.known[tensor],
                tensors[tensor].spec.options_or(all),
            );
            let mut sums = pooled_sums(memory, pooled.chains, options.is_lagged());
            let estimate = PooledEstimate {
                shrink: options.shrink,
                gamma: options.gamma,
            };
            let by = known.factors(options, step).pooled();
            body(pooled, &mut sums, known, by, estimate);
        };
        self.team
            .each(takes_little, self.pooled, &mut self.memory, &each);
    }

    /// Pooled correlations of the step before are ready for directions.
    pub(super) fn begin_pooled(&mut self, progress: &Progress) {
        self.each_pooled(progress, |pooled, sums, _, by, estimate| {
            pooled.begin(sums, by, estimate)
        });
    }

    /// The products of this step are added up; so are those of tensors whose damping came
    /// later, if that is known now.
    pub(super) fn end_pooled(&mut self, progress: &Progress, late: bool) {
        self.each_pooled(progress, |pooled, sums, known, by, estimate| {
            if known.damping_waits == late {
                pooled.end(sums, known.number, by, estimate);
            }
        });
    }

    /// Adds up the products of tensors whose damping has become known after the statistics.
    pub(super) fn products(&mut self, progress: &Progress) {
        let mut tensors = self.pooled.iter().zip(&progress.known);
        if tensors.any(|(pooled, known)| pooled.is_some() && known.damping_waits) {
            self.sweep(Sweep::Whole, progress, |job, visit| {
                if job.adds_later {
                    job.products(visit.block, visit.access, visit.work);
                }
            });
        }
    }
}
