//! How a tensor's coordinates are laid out: its chains, its state planes, and
//! the tiles and blocks that a step cuts it into.

mod columns;
mod grid;
mod tensor;

pub(crate) use grid::{Ends, Grid, Rect, Run};
pub use tensor::{planes, Chains, Plane, TensorSpec, Update, MAX_DIMS};

pub(crate) use tensor::{check_count, plane, validate, MASTER};
