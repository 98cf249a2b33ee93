//! What is estimated of the correlations that chains share.

use super::full::FullInverse;
use super::inverse::BandInverse;
use super::rank::RankInverse;
use super::{PooledChains, PooledEstimate, PooledSums, COORDINATES, FEWEST_COLUMNS, GROUP, WHOLE};
use crate::dtype::Elements;
use crate::simd::LANES;
use crate::Kernels;

/// What is estimated of the correlations that chains share.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PooledStructure {
    /// Those of positions that are not far apart, see [`PooledChains::band`].
    Band,
    /// Those along so many directions: not more than a chain has positions.
    Rank(usize),
    /// All.
    All,
}

impl PooledStructure {
    /// Rows of the sums in a tensor's state, each as long as a chain; of a band of this width.
    pub fn rows_of_sums(self, band: usize, length: usize) -> usize {
        match self {
            PooledStructure::Band => band + 1,
            PooledStructure::Rank(rank) => 1 + rank,
            PooledStructure::All => length,
        }
    }
}

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

impl PooledChains {
    /// See [`PooledStructure::rows_of_sums`].
    pub fn rows_of_sums(&self) -> usize {
        self.structure.rows_of_sums(self.band, self.length)
    }

    /// Numbers of a block's sums of products. Of a band, those of positions `i` apart follow
    /// those of `i - 1`. Of a rank, `z[j]^2` of all positions, then for each of them the
    /// products with `z` along each direction, in whole vectors. Of all, the products of
    /// each position with all, in whole vectors, of which those before its own are not used.
    pub fn products(&self) -> usize {
        let padded = self.padded();
        match self.structure {
            PooledStructure::Band => (self.band + 1) * padded,
            PooledStructure::Rank(_) => padded + padded * self.products_of_position(),
            PooledStructure::All => padded * self.products_of_position(),
        }
    }

    /// The products of a position of whole chains, in whole vectors.
    pub(super) fn products_of_position(&self) -> usize {
        match self.structure {
            PooledStructure::Rank(rank) => rank.next_multiple_of(LANES),
            _ => self.padded(),
        }
    }

    /// The most chains of a panel for the sake of its positions.
    pub(super) fn widest(&self) -> usize {
        let most = match self.structure {
            PooledStructure::Band => return usize::MAX,
            PooledStructure::Rank(_) if self.rows => COORDINATES,
            _ => WHOLE,
        };
        let most = most / self.padded();
        // A run of a few columns takes memory so long that longer ones are brought twice.
        if !self.rows && most < FEWEST_COLUMNS && self.structure != PooledStructure::All {
            return GROUP;
        }
        // A power of two, so that groups of chains are whole panels.
        1 << most.max(LANES).ilog2()
    }

    /// The most positions of a panel of whole chains, if these are no longer: all of them,
    /// where every direction needs them.
    pub(super) fn longest(&self) -> usize {
        match self.structure {
            PooledStructure::All => self.padded(),
            _ => WHOLE / self.width(),
        }
    }

    /// Elements of what a panel of whole chains needs beside its arrays: `z` of each chain,
    /// along the directions or as it is; and of a rank, before that, momentum and gradient
    /// along each direction.
    pub(super) fn beside(&self) -> usize {
        let width = self.width();
        let (products, pitch) = (self.products_of_position(), self.pitch_of_chains());
        match self.structure {
            PooledStructure::Band => 0,
            PooledStructure::Rank(_) => width * (2 * products + pitch),
            PooledStructure::All => width * pitch,
        }
    }

    /// Elements from one chain to the next, of whole vectors: an odd number of these, so that
    /// chains do not drive each other out of the cache.
    pub(super) fn pitch_of_chains(&self) -> usize {
        ((self.products_of_position() / LANES) | 1) * LANES
    }
}
