//! The chains whose correlations are pooled: how they lie in memory, and how many of them go
//! through a panel.

use std::ops::Range;

use super::structure::PooledStructure;
use crate::simd::LANES;

/// The widest band of pooled correlations.
pub const MAX_POOLED_BAND: usize = 64;

/// The most directions of pooled correlations.
pub const MAX_POOLED_RANK: usize = 64;

/// Positions of the longest chain all of whose correlations are pooled.
pub const MAX_POOLED_LENGTH: usize = 4096;

/// Coordinates of a panel, so that its arrays stay in the second-level cache.
const COORDINATES: usize = 16 * 1024;
/// Its chains at the most: few where a chain is a row, since each is a stream of memory of
/// its own; many where it is a column, since a run is as long as they are many, and memory
/// delivers long runs much faster.
const ROWS: usize = 64;
const COLUMNS: usize = 512;
/// The fewest of whole chains of a rank; if these are too long for that, they come in strips.
const FEWEST_COLUMNS: usize = 64;
/// Its positions at the most.
const POSITIONS: usize = 512;
/// Coordinates of a panel of whole chains: directions need all positions of a chain, and
/// these are better fetched from the next cache than from memory.
const WHOLE: usize = 64 * 1024;

/// Chains that take part in products together: of rows a whole number of panels; a panel of
/// columns is a whole number of groups.
const GROUP: usize = 256;
const _: () = assert!(GROUP.is_multiple_of(ROWS) && COLUMNS.is_multiple_of(GROUP));
/// Groups take part in at least one of so many steps.
const TURNS: usize = 4;

/// Positions whose sums are in registers at the same time.
pub(super) const MICRO_TILE: usize = 4;

/// How the chains of a tensor lie in memory, seen as a matrix, and how far their
/// correlations reach.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PooledChains {
    /// Each row is a chain; otherwise each column is.
    pub rows: bool,
    /// Coordinates of a chain.
    pub length: usize,
    /// How many there are.
    pub count: usize,
    /// The number of the first of them in the whole tensor, of which they may be a part, and how
    /// many there are in that.
    pub first: usize,
    /// See [`PooledChains::first`].
    pub whole: usize,
    /// The most chains of a block: a number that [`PooledChains::of_blocks`] returned.
    pub block: usize,
    /// What is estimated of their correlations.
    pub structure: PooledStructure,
    /// Of a band: positions up to so far apart are correlated. Otherwise 0.
    pub band: usize,
}

impl PooledChains {
    /// Positions by which directions lag behind the state: whole vectors of them, or whole
    /// tiles where a vector is of chains.
    pub(super) fn lag(&self) -> usize {
        let whole = if self.rows { LANES } else { MICRO_TILE };
        self.band.next_multiple_of(whole)
    }

    /// How many chains blocks are to have, of so many, that should have at least `wanted`:
    /// whole panels, of which a group has a whole number.
    pub fn of_blocks(rows: bool, count: usize, wanted: usize) -> usize {
        let panel = if rows { ROWS } else { COLUMNS };
        let block = match wanted < panel {
            true => wanted.next_multiple_of(LANES).next_power_of_two(),
            false => wanted.next_multiple_of(panel),
        };
        block.min(count)
    }

    /// Chains of a panel, as whole vectors.
    pub(super) fn width(&self) -> usize {
        let most = match (self.rows, self.structure) {
            (true, _) => ROWS,
            (false, PooledStructure::Band) => COLUMNS,
            (false, _) => GROUP,
        };
        let most = most.min(self.widest());
        self.block.next_multiple_of(LANES).min(most)
    }

    /// Those of these chains that take part in the products of a tensor's `step`-th step, each
    /// group by itself: groups are those of the whole tensor, so that it does not matter where
    /// it is cut.
    pub fn taking_part(
        &self,
        of: &Range<usize>,
        step: u64,
    ) -> impl Iterator<Item = Range<usize>> + use<> {
        let turns = self.whole.div_ceil(GROUP).min(TURNS);
        let turn = (step % turns as u64) as usize;
        let (first, start, end) = (self.first, self.first + of.start, self.first + of.end);
        let groups =
            (start / GROUP..end.div_ceil(GROUP)).filter(move |group| group % turns == turn);
        let within = move |at: usize| at.clamp(start, end) - first;
        groups.map(move |group| within(group * GROUP)..within((group + 1) * GROUP))
    }

    /// The first of these chains, as many as a panel holds, and of whole groups.
    pub(super) fn panel_of(&self, chains: &Range<usize>) -> Range<usize> {
        let (first, width) = (self.first + chains.start, self.width());
        // Several groups only where none of them begins within a vector.
        let groups = match first.is_multiple_of(LANES) {
            true => (width / GROUP).max(1),
            false => 1,
        };
        let left = groups * GROUP - first % GROUP;
        chains.start..chains.start + width.min(left).min(chains.len())
    }

    /// Positions of a chain, as whole vectors of them.
    pub(super) fn padded(&self) -> usize {
        self.length.next_multiple_of(LANES)
    }

    /// Positions of a panel whose directions are computed at once.
    pub(super) fn strip(&self) -> usize {
        let most = match self.structure {
            PooledStructure::Band => (COORDINATES / self.width()).min(POSITIONS),
            _ => self.longest(),
        };
        self.padded().min(most - most % LANES)
    }

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
    fn widest(&self) -> usize {
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
    fn longest(&self) -> usize {
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
