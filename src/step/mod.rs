//! One step over borrowed buffers.
//!
//! The step is a few sweeps over all tensors; those that the options do not
//! need are left out, and where nothing stands between two of them they are
//! one:
//!
//! ```text
//! gradient norms     non-finite check, normalized RMSProp
//! statistics         momentum, diagonal, sub-diagonals
//! largest l1         relative damping; lagged, it is found on the way
//! norms              |u| and |a|: grafting
//! apply              p <- p - lr (u |a| / |u| + weight_decay p)
//! ```
//!
//! Norms and their quotients may be beyond the range of the types that they are of; `range`
//! is what keeps them right.
//!
//! The direction is always computed from the state as stored, so it is the
//! same whether one sweep computes it or two.

mod advance;
mod block;
mod buffers;
mod by_block;
mod factors;
mod instruction_set;
mod known;
mod plan;
mod pooled;
mod progress;
mod range;
mod run;
mod run_pooled;
mod squares;
mod stages;
mod sums;
mod tensor;
mod units;

pub(crate) use buffers::fits;
pub use plan::Plan;
pub use progress::Stage;
pub use sonew_kernel::{Planes, Target, TensorBuffers};
pub use stages::Stages;
pub(crate) use stages::UnderWay;
