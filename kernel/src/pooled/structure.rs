//! What is estimated of the correlations that chains share.

/// What is estimated of the correlations that chains share.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PooledStructure {
    /// Those of positions that are not far apart, see [`PooledChains::band`](crate::PooledChains::band).
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
