//! The inverse of pooled correlations, whatever is estimated of them.

use super::chains::PooledChains;
use super::full::FullInverse;
use super::inverse::{BandInverse, PooledEstimate};
use super::rank::RankInverse;
use super::structure::PooledStructure;
use super::sums::PooledSums;
use crate::dtype::Elements;
use crate::Kernels;

/// The inverse of the correlations, as what it is applied with.
pub enum PooledInverse {
    /// See [`PooledStructure`].
    Band(BandInverse),
    /// The same.
    Rank(RankInverse),
    /// The same.
    All(FullInverse),
}

impl PooledInverse {
    /// Room for one.
    ///
    /// # Errors
    /// The number of bytes, if they are not to be had.
    pub fn new(kernels: &Kernels, chains: &PooledChains) -> Result<Self, usize> {
        Ok(match chains.structure {
            PooledStructure::Band => Self::Band(BandInverse::new(kernels, chains)?),
            PooledStructure::Rank(rank) => Self::Rank(RankInverse::new(kernels, chains, rank)?),
            PooledStructure::All => Self::All(FullInverse::new(kernels, chains)?),
        })
    }

    /// Bytes held.
    pub fn bytes(&self) -> usize {
        match self {
            Self::Band(inverse) => inverse.bytes(),
            Self::Rank(inverse) => inverse.bytes(),
            Self::All(inverse) => inverse.bytes(),
        }
    }

    /// Whether sums of products are taken with what the inverse holds, which has to be
    /// computed before them.
    pub fn leads(&self) -> bool {
        matches!(self, Self::Rank(_))
    }

    /// Before a tensor's first step, its directions, if it has a rank, are fixed ones.
    pub fn start(&mut self, kernels: &Kernels, sums: &mut PooledSums<'_>) {
        if let Self::Rank(inverse) = self {
            inverse.start(kernels, sums);
        }
    }

    /// After sums have been added, the directions of a rank turn to those that the sums tell;
    /// otherwise nothing happens.
    pub fn turn(&mut self, kernels: &Kernels, sums: &mut PooledSums<'_>) {
        if let Self::Rank(inverse) = self {
            inverse.turn(kernels, sums);
        }
    }

    /// Computes it from what [`PooledSums::current`] gives, float32 or float64.
    pub fn compute(&mut self, kernels: &Kernels, sums: Elements<'_>, estimate: PooledEstimate) {
        match self {
            Self::Band(inverse) => inverse.compute(kernels, sums, estimate),
            Self::Rank(inverse) => inverse.compute(kernels, sums, estimate),
            Self::All(inverse) => inverse.compute(kernels, sums, estimate),
        }
    }
}
