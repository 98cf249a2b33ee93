//! The arithmetic of libsonew, on slices of memory. Knows no threads, files or C.
//!
//! A step goes through a tensor in **chunks** of up to [`CHUNK`] coordinates, in
//! arrays that stay in the nearest caches while small functions work on them:
//!
//! ```text
//! read, update   the state comes into the chunk, as it is or with the gradient that it
//!                takes in; the diagonal becomes what divides the momentum
//! solve          psi, the Schur complement and D L^T m; then u = L D L^T m
//! finish         |u|^2, and u is kept for a later pass; or p <- p + decay p + rate u
//! ```
//!
//! What is ragged (ends of lines, ends of chains, neighbours that do not exist)
//! is padded in the chunk, so that every loop runs over whole vectors; see
//! [`Workspace`]. Each loop stands once, over `simd::Vector`. It is compiled for
//! every instruction set ([`Isa`]), and for float32 and float64; types of memory,
//! strides and options are arguments. In the common kinds of steps, update and solve
//! alternate in one loop (`solve::UpdateAndSolve`), which goes through any number of
//! coordinates.
//!
//! Nothing that is exported is generic: programs that use this crate compile no
//! kernel.

mod access;
mod apply;
mod buffers;
mod cache_lines;
mod convert;
mod directions;
mod dtype;
mod element;
mod elimination;
mod factor;
mod float_mode;
mod isa;
mod kernels;
mod lines;
mod noise;
mod norms;
mod outcome;
mod planes;
mod pooled;
mod read;
mod root;
mod runs;
mod simd;
mod sixteen;
mod solve;
mod take_in;
mod update;
mod workspace;

pub use access::{Access, Rect, Run};
pub use apply::Apply;
pub use buffers::{Memory, Planes, Scalars, Target, TensorBuffers, MAX_BAND};
pub use convert::convert;
pub use dtype::{bf16, f16, Dtype, Element, Elements, ElementsMut};
pub use factor::{power_of_two, Factor};
pub use float_mode::FloatMode;
pub use isa::{fence, Isa};
pub use kernels::Kernels;
pub use lines::parts_of_line;
pub use noise::Stochastic;
pub use norms::{Largest, Squares};
pub use pooled::{
    PooledBlock, PooledChains, PooledEstimate, PooledInverse, PooledStructure, PooledSums,
    MAX_POOLED_BAND, MAX_POOLED_LENGTH, MAX_POOLED_RANK,
};
pub use runs::{Directions, Gradient, Incoming, Lines, Norms, Rule, TakenIn, Wanted};
pub use simd::LANES;
pub use take_in::{Average, Denominator, Reading, Reference, TakeIn};
pub use workspace::{Coordinates, Shape, Workspace, CHUNK, LAG};
