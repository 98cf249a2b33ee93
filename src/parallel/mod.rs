//! The only room with threads: who works on which tile.

mod pool;
mod sweep;

pub(crate) use pool::Pool;
pub(crate) use sweep::{Sweep, Team, Tiles, Visit};
