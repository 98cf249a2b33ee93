//! The threads of steps, and which tile each of them takes.

mod crew;
mod pool;
mod processors;
mod sweep;

pub use pool::Pool;
pub(crate) use pool::Workers;
pub(crate) use sweep::{pooled_sums, Sweep, Team, Tiles, Visit};
