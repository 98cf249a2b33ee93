//! The layout of a tensor: its chains, its state planes, and the tiles and
//! blocks that a step divides it into.

mod blocks;
mod columns;
mod grid;
mod shard;
mod tensor;
mod validate;

pub(crate) use blocks::WholeBlocks;
pub(crate) use grid::Grid;
pub(crate) use shard::sub_diagonal;
pub use tensor::{planes, Chains, Plane, Shard, TensorSpec, Update, MAX_DIMS};

pub use sonew_kernel::Scalars;
pub(crate) use tensor::{array_dims, array_len, largest_band, last_sums, DIAGONAL, MASTER, POOLED};
pub(crate) use validate::{check_count, check_scalars, validate, validate_options};
