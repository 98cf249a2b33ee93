//! The layout of a tensor: its chains, its state planes, and the tiles and
//! blocks that a step divides it into.

mod blocks;
mod columns;
mod grid;
mod shard;
mod tensor;

pub(crate) use blocks::WholeBlocks;
pub(crate) use grid::Grid;
pub(crate) use shard::sub_diagonal;
pub use shard::Shard;
pub use tensor::{planes, Chains, Plane, TensorSpec, Update, MAX_DIMS};

pub use sonew_kernel::Scalars;
pub(crate) use tensor::{
    array_dims, array_len, check_count, check_scalars, largest_band, last_sums, validate,
    validate_options, DIAGONAL, MASTER, POOLED,
};
