//! The only room with threads: who works on which tile, and which bytes a
//! tile may touch.

mod access;
mod pool;
mod sweep;

pub(crate) use access::{Access, Buffers, Lent, StateRun};
pub(crate) use pool::Pool;
pub(crate) use sweep::{Sweep, Team, Tiles, Visit};
