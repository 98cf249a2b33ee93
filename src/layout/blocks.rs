//! Blocks of whole tensors, of which a shard may have some.

use super::grid::gcd;
use super::{Grid, TensorSpec};
use crate::error::{Error, Result};
use crate::options::Options;

/// Where a tensor's blocks are among those of the whole tensor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct WholeBlocks {
    /// The first of its own.
    pub(crate) first: usize,
    /// All of the whole tensor.
    pub(crate) count: usize,
}

impl TensorSpec {
    /// How many rows of the whole tensor belong together: cut between rows whose numbers are
    /// multiples of this, the shards of any number of processes have the blocks of the whole
    /// tensor, so that sums that are added up [by block](crate::StagedStep::block_numbers) have
    /// the same bits, however many processes there are. The number of all rows if there is no
    /// such cut, because it would go through chains, or because the tensor is one block. Chains
    /// may be [lines](crate::layout::Chains::ContiguousLines) of up to 2048 elements, or of up
    /// to 32768 if that is a multiple of 16; plain Adam and a band of 0 have no chains to cut.
    /// With pooled correlations there is no such cut.
    ///
    /// The tensor must be one that an optimizer of these options would take.
    pub fn block_rows(&self, options: &Options) -> usize {
        let (all, own) = (self.whole_rows(), self.options_or(options));
        let len = Grid::new(&self.of_rows(0..all), self.update.band(own)).block_len();
        match len.filter(|_| !self.update.is_pooled(own)) {
            Some(len) => (len / gcd(len, self.row_len().max(1))).min(all),
            None => all,
        }
    }

    /// Where its blocks are; its own are those of `grid`.
    ///
    /// # Errors
    /// [`Error::BlockCut`] if they are not blocks of the whole tensor.
    pub(crate) fn whole_blocks(&self, options: &Options, grid: &Grid) -> Result<WholeBlocks> {
        let (rows, all) = (self.rows(), self.whole_rows());
        if rows == (0..all) {
            let count = grid.blocks();
            return Ok(WholeBlocks { first: 0, count });
        }
        let block_rows = self.block_rows(options);
        let is_cut = |row: usize| row != all && !row.is_multiple_of(block_rows);
        if !rows.is_empty() && (is_cut(rows.start) || is_cut(rows.end)) {
            return Err(Error::BlockCut {
                tensor: self.name.clone(),
                first_row: rows.start,
                rows: rows.len(),
                whole_rows: all,
                block_rows,
            });
        }
        let band = self.update.band(self.options_or(options));
        let whole = Grid::new(&self.of_rows(0..all), band);
        let first = whole
            .block_len()
            .map_or(0, |len| rows.start * self.row_len() / len);
        Ok(WholeBlocks {
            first,
            count: whole.blocks(),
        })
    }
}
