//! The only room with threads: who works on which tile.

mod crew;
mod pool;
mod processors;
mod sweep;

pub use pool::Pool;
pub(crate) use pool::Workers;
pub(crate) use sweep::{pooled_sums, Sweep, Team, Tiles, Visit};
